"""What passes between the blocks of a statement: each rule beside a near miss, the same statement with one thing changed.

``test_reads_property`` asks the database whether these rules are right; here is what they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest
from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    and_,
    bindparam,
    cast,
    exists,
    func,
    lateral,
    literal,
    or_,
    orm,
    select,
    true,
    tuple_,
    union,
    union_all,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect

from querycache._rendering import record_rendering, rendered_by
from querycache._sqlalchemy import core_statement_of
from querycache.statements.dependencies import TableRead, dependencies_of
from querycache.statements.reads import SelectReads, reads_of
from querycache.statements.tags import rows_of, table_name_of

SQLITE: Final[Dialect] = sqlite.dialect()
POSTGRESQL: Final[Dialect] = postgresql.dialect()  # type: ignore[no-untyped-call]
for each in (SQLITE, POSTGRESQL):
    record_rendering(each)

metadata = MetaData()
u = Table(
    "u",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("grp", Integer),
    Column("nick", String),
    Column("score", Numeric),
)
p = Table("p", metadata, Column("id", Integer, primary_key=True), Column("uid", Integer), Column("cat", Integer))
q = Table("q", metadata, Column("id", Integer, primary_key=True), Column("pid", Integer), Column("n", Integer))
m = Table(
    "m",
    metadata,
    Column("a", Integer, primary_key=True),
    Column("b", Integer, primary_key=True),
    Column("n", Integer),
)


def tags(statement: Any, dialect: Dialect, distrusted: dict[str, set[str]] | None = None) -> set[str]:
    """Return what a statement depends on, the bind's own tag and "main." left out, "?" of each column as well."""
    compiled = statement.compile(dialect=dialect)
    found = reads_of(core_statement_of(compiled), dialect, rendered_by(compiled))
    assert isinstance(found, SelectReads), found

    def table_read(table: Table) -> TableRead:
        return TableRead(table_name_of(table, "main"), None, frozenset((distrusted or {}).get(table.name, ())))

    made = dependencies_of(found, "x", table_read, dialect).tags(
        lambda bind: compiled.params[compiled.bind_names[bind]]
    )
    # Which of their columns count is told in test_columns.
    told = {rows_of(tag).decode().removeprefix("x/main.") for tag in made.tags[1:]}
    return {tag for tag in told if not tag.endswith("=?")}


@dataclass(frozen=True)
class Pair:
    """A statement that is narrowed, and one that looks like it and must not be, each with its tags."""

    narrow: Callable[[], Any]
    tags: str
    near_miss: Callable[[], Any]
    wide_tags: str


def count_of_p(*where: Any) -> Any:
    return select(func.count(p.c.id)).where(p.c.uid == u.c.id, *where).scalar_subquery()


def has_p(*where: Any, **shape: Any) -> Any:
    return exists(select(literal(1)).select_from(p).where(p.c.uid == u.c.id, *where))


def derived(statement: Any) -> Any:
    return statement.subquery("d")


def from_derived(block: Any, value: int = 3) -> Any:
    return select(block).where(block.c.uid == value)


PLAIN: Final = select(p.c.id, p.c.uid, p.c.cat)
P2, U2 = p.alias("p2"), u.alias("u2")
SAME: Final[Any] = bindparam("same", [(1, 2), (3, 4)], expanding=True)

PAIRS: Final[dict[str, Pair]] = {
    # into a correlated subquery: what its outer row is narrowed to
    "a count in the list": Pair(
        lambda: select(u.c.nick, count_of_p()).where(u.c.id == 3),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.nick, count_of_p()).where(u.c.id >= 3),
        "u* p*",
    ),
    "EXISTS that stands as a conjunct": Pair(
        lambda: select(u.c.nick).where(u.c.id == 3, has_p()),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.nick).where(or_(u.c.id == 3, has_p())),
        "u* p*",
    ),
    "NOT EXISTS": Pair(
        lambda: select(u.c.nick).where(u.c.id == 3, ~has_p()),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.nick).where(~and_(u.c.id == 3, has_p())),
        "u* p*",
    ),
    "a comparison with a scalar subquery": Pair(
        lambda: select(u.c.nick).where(u.c.id == 3, count_of_p() > 1),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.nick).where(u.c.id == 3, select(func.count(p.c.id)).scalar_subquery() > 1),
        "u|pk=3 p*",
    ),
    "a list of values": Pair(
        lambda: select(u.c.nick, count_of_p()).where(u.c.id.in_([3, 4])),
        "u|pk=3 u|pk=4 p|uid=3 p|uid=4",
        lambda: select(u.c.nick, count_of_p()).where(u.c.id.not_in([3, 4])),
        "u* p*",
    ),
    "an equality, not an inequality, with the row around": Pair(
        lambda: select(u.c.nick, select(func.count(p.c.id)).where(p.c.uid == u.c.id).scalar_subquery()).where(
            u.c.id == 3
        ),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.nick, select(func.count(p.c.id)).where(p.c.uid > u.c.id).scalar_subquery()).where(
            u.c.id == 3
        ),
        "u|pk=3 p*",
    ),
    "the first row of each": Pair(
        # The equality is inside, before LIMIT.
        lambda: select(
            u.c.nick,
            select(p.c.cat).where(p.c.uid == u.c.id).order_by(p.c.id).limit(1).scalar_subquery(),
        ).where(u.c.id == 3),
        "u|pk=3 p|uid=3",
        lambda: select(
            u.c.nick,
            select((page := PLAIN.order_by(p.c.id).limit(1).subquery()).c.cat)
            .where(page.c.uid == u.c.id)
            .scalar_subquery(),
        ).where(u.c.id == 3),
        "u|pk=3 p*",
    ),
    "two levels down": Pair(
        lambda: select(u.c.nick).where(u.c.id == 3, has_p(exists().where(q.c.pid == p.c.uid))),
        "u|pk=3 p|uid=3 q|pid=3",
        lambda: select(u.c.nick).where(u.c.id == 3, has_p(exists().where(q.c.pid == p.c.cat))),
        "u|pk=3 p|uid=3 q*",
    ),
    "past the level between": Pair(
        lambda: select(u.c.nick).where(
            u.c.id == 3, exists(select(literal(1)).select_from(p).where(exists().where(q.c.pid == u.c.id).correlate(u)))
        ),
        "u|pk=3 p* q|pid=3",
        lambda: select(u.c.nick).where(
            u.c.grp == 3,
            exists(select(literal(1)).select_from(p).where(exists().where(q.c.pid == u.c.id).correlate(u))),
        ),
        "u|grp=3 p* q*",
    ),
    "NULL does not pass in": Pair(
        lambda: select(u.c.nick, select(func.count(p.c.id)).where(p.c.cat == u.c.grp).scalar_subquery()).where(
            u.c.grp == 3
        ),
        "u|grp=3 p|cat=3",
        lambda: select(u.c.nick, select(func.count(p.c.id)).where(p.c.cat == u.c.grp).scalar_subquery()).where(
            u.c.grp.is_(None)
        ),
        "u|grp=! p*",
    ),
    "a table of the same name inside is another one": Pair(
        lambda: select(u.c.nick).where(u.c.id == 3, exists(select(U2.c.id).where(U2.c.grp == u.c.id))),
        "u|pk=3 u|grp=3",
        lambda: select(u.c.nick).where(u.c.id == 3, exists(select(u.c.id).where(u.c.grp == 4).correlate(None))),
        "u|pk=3 u|grp=4",
    ),
    "in the ON of an outer join": Pair(
        lambda: (
            select(u.c.nick)
            .select_from(
                u.outerjoin(q, exists(select(literal(1)).select_from(p).where(p.c.uid == u.c.id, p.c.cat == q.c.n)))
            )
            .where(u.c.id == 3)
        ),
        "u|pk=3 p|uid=3 q*",
        # What the ON says of the preserved side is not said of its rows.
        lambda: select(u.c.nick).select_from(
            u.outerjoin(
                q,
                and_(u.c.id == 3, exists(select(literal(1)).select_from(p).where(p.c.uid == u.c.id, p.c.cat == q.c.n))),
            )
        ),
        "u* p* q*",
    ),
    "a branch of a union inside": Pair(
        lambda: select(u.c.nick).where(
            u.c.id == 3,
            union(select(p.c.id).where(p.c.uid == u.c.id), select(q.c.id).where(q.c.pid == u.c.id)).exists(),
        ),
        "u|pk=3 p|uid=3 q|pid=3",
        lambda: select(u.c.nick).where(
            u.c.id == 3,
            union(select(p.c.id).where(p.c.uid == u.c.id), select(q.c.id).where(q.c.pid >= u.c.id)).exists(),
        ),
        "u|pk=3 p|uid=3 q*",
    ),
    "of the same kind only": Pair(
        lambda: select(u.c.nick, select(func.count(p.c.id)).where(p.c.uid == u.c.grp).scalar_subquery()).where(
            u.c.grp == 3
        ),
        "u|grp=3 p|uid=3",
        lambda: select(u.c.id, select(func.count(p.c.id)).where(p.c.uid == u.c.nick).scalar_subquery()).where(
            u.c.nick == "3"
        ),
        "p* u|nick=~9e251905a6d98e01",
    ),
    # out of EXISTS and IN: what its row must be
    "has": Pair(
        lambda: select(p.c.cat).where(exists().where(u.c.id == p.c.uid, u.c.id == 3)),
        "p|uid=3 u|pk=3",
        lambda: select(p.c.cat).where(~exists().where(u.c.id == p.c.uid, u.c.id == 3)),
        "p* u|pk=3",
    ),
    "EXISTS as a conjunct only": Pair(
        lambda: select(p.c.cat).where(p.c.cat > 1, exists().where(u.c.id == p.c.uid, u.c.id == 3)),
        "p|uid=3 u|pk=3",
        lambda: select(p.c.cat).where(or_(p.c.cat > 1, exists().where(u.c.id == p.c.uid, u.c.id == 3))),
        "p* u|pk=3",
    ),
    "EXISTS over a row, not over an aggregate": Pair(
        lambda: select(p.c.cat).where(select(u.c.id).where(u.c.id == p.c.uid, u.c.id == 3).exists()),
        "p|uid=3 u|pk=3",
        # One row is there always.
        lambda: select(p.c.cat).where(select(func.count()).where(u.c.id == p.c.uid, u.c.id == 3).exists()),
        "p* u|pk=3",
    ),
    "EXISTS without HAVING": Pair(
        lambda: select(p.c.cat).where(select(u.c.id).where(u.c.id == p.c.uid, u.c.id == 3).limit(1).exists()),
        "p|uid=3 u|pk=3",
        lambda: select(p.c.cat).where(
            select(literal(1)).where(u.c.id == p.c.uid, u.c.id == 3).having(func.count() == 0).exists()
        ),
        "p* u|pk=3",
    ),
    "EXISTS without an aggregate in ORDER BY": Pair(
        lambda: select(p.c.cat).where(select(u.c.id).where(u.c.id == p.c.uid, u.c.id == 3).order_by(u.c.grp).exists()),
        "p|uid=3 u|pk=3",
        lambda: select(p.c.cat).where(
            select(literal(1)).where(u.c.id == p.c.uid, u.c.id == 3).order_by(func.count()).exists()
        ),
        "p* u|pk=3",
    ),
    "IN, of what the subquery shows": Pair(
        lambda: select(p.c.cat).where(p.c.uid.in_(select(u.c.id).where(u.c.id == 3))),
        "p|uid=3 u|pk=3",
        lambda: select(p.c.cat).where(p.c.uid.in_(select(u.c.grp).where(u.c.id == 3))),
        "p* u|pk=3",
    ),
    "IN, not NOT IN": Pair(
        lambda: select(p.c.cat).where(p.c.uid.in_(select(u.c.id).where(u.c.id == 3))),
        "p|uid=3 u|pk=3",
        lambda: select(p.c.cat).where(p.c.uid.not_in(select(u.c.id).where(u.c.id == 3))),
        "p* u|pk=3",
    ),
    "IN a block, not a union of blocks": Pair(
        lambda: select(p.c.cat).where(p.c.uid.in_(select(u.c.id).where(u.c.id == 3))),
        "p|uid=3 u|pk=3",
        lambda: select(p.c.cat).where(p.c.uid.in_(union(select(u.c.id).where(u.c.id == 3), select(q.c.pid)))),
        "p* u|pk=3 q*",
    ),
    "each EXISTS by a row of its own": Pair(
        lambda: select(p.c.cat).where(exists().where(u.c.id == p.c.uid, u.c.id == 3)),
        "p|uid=3 u|pk=3",
        # Two rows of one table: what one of them is does not say what the other is.
        lambda: select(p.c.cat).where(exists().where(u.c.id == p.c.uid), exists().where(u.c.id == 3)),
        "p* u*",
    ),
    "a condition on the row around, inside": Pair(
        lambda: select(p.c.cat).where(exists().where(u.c.id == p.c.uid, p.c.cat == 3)),
        "p|cat=3 u*",
        lambda: select(p.c.cat).where(~exists().where(u.c.id == p.c.uid, p.c.cat == 3)),
        "p* u*",
    ),
    "IS NULL inside, of a row that is surely there": Pair(
        lambda: select(p.c.cat).where(exists(select(literal(1)).select_from(u).where(p.c.cat.is_(None)))),
        "p|cat=! u*",
        lambda: (
            select(p.c.cat)
            .select_from(q.outerjoin(p, p.c.id == q.c.pid))
            .where(exists(select(literal(1)).select_from(u).where(p.c.cat.is_(None))))
        ),
        "p* q* u*",
    ),
    "out of the EXISTS in the ON of an outer join, for its nullable side": Pair(
        lambda: select(u.c.nick).select_from(
            u.outerjoin(p, exists(select(literal(1)).select_from(q).where(q.c.pid == p.c.id, q.c.pid == 3)))
        ),
        "u* p|pk=3 q|pid=3",
        lambda: select(u.c.nick).select_from(
            u.outerjoin(p, exists(select(literal(1)).select_from(q).where(q.c.pid == u.c.id, q.c.pid == 3)))
        ),
        "u* p* q|pid=3",
    ),
    "out of one EXISTS and into another": Pair(
        lambda: select(p.c.cat).where(
            exists().where(u.c.id == p.c.uid, u.c.id == 3), ~exists().where(q.c.pid == p.c.uid)
        ),
        "p|uid=3 u|pk=3 q|pid=3",
        lambda: select(p.c.cat).where(
            exists().where(u.c.id == p.c.uid, u.c.grp == 3), ~exists().where(q.c.pid == p.c.uid)
        ),
        "p* u|grp=3 q*",
    ),
    # derived tables and CTEs
    "a derived table": Pair(
        lambda: from_derived(PLAIN.subquery()),
        "p|uid=3",
        lambda: from_derived(PLAIN.order_by(p.c.id).limit(2).subquery()),
        "p*",
    ),
    "a derived table without OFFSET": Pair(
        lambda: from_derived(PLAIN.distinct().subquery()),
        "p|uid=3",
        lambda: from_derived(PLAIN.order_by(p.c.id).offset(2).subquery()),
        "p*",
    ),
    "a derived table without a window": Pair(
        lambda: from_derived(PLAIN.add_columns(func.coalesce(p.c.cat, 0).label("n")).subquery()),
        "p|uid=3",
        lambda: from_derived(PLAIN.add_columns(func.row_number().over(order_by=p.c.id).label("n")).subquery()),
        "p*",
    ),
    "a derived table without an aggregate as a window": Pair(
        lambda: from_derived(PLAIN.add_columns(func.abs(p.c.cat).label("n")).subquery()),
        "p|uid=3",
        lambda: from_derived(PLAIN.add_columns(func.sum(p.c.cat).over().label("n")).subquery()),
        "p*",
    ),
    "a derived table without GROUP BY": Pair(
        lambda: from_derived(select(p.c.uid).subquery()),
        "p|uid=3",
        lambda: from_derived(select(p.c.uid).group_by(p.c.uid).subquery()),
        "p*",
    ),
    "a derived table that is no union": Pair(
        lambda: from_derived(PLAIN.subquery()),
        "p|uid=3",
        lambda: from_derived(union_all(PLAIN, PLAIN).subquery()),
        "p*",
    ),
    "a plain column of it": Pair(
        lambda: from_derived(select(p.c.uid.label("uid")).subquery()),
        "p|uid=3",
        lambda: from_derived(select((p.c.uid + 0).label("uid")).subquery()),
        "p*",
    ),
    "the column that it shows under the name": Pair(
        lambda: from_derived(select(p.c.cat.label("uid"), p.c.uid.label("cat")).subquery()),
        "p|cat=3",
        lambda: from_derived(select(cast(p.c.uid, Integer).label("uid")).subquery()),
        "p*",
    ),
    "a CTE that is used once": Pair(
        lambda: from_derived(PLAIN.cte()),
        "p|uid=3",
        lambda: select(c := PLAIN.cte(), again := c.alias()).where(c.c.uid == 3, again.c.cat == 1),
        "p*",
    ),
    "a CTE that is used once, in one place of the statement": Pair(
        lambda: from_derived(PLAIN.cte("c")),
        "p|uid=3",
        lambda: from_derived(c := PLAIN.cte("c")).where(exists(select(literal(1)).select_from(c).where(c.c.cat == 1))),
        "p*",
    ),
    "a CTE that does not refer to itself": Pair(
        lambda: from_derived(PLAIN.cte("c")),
        "p|uid=3",
        lambda: from_derived(
            (c := PLAIN.cte("c", recursive=True)).union_all(
                select(P2.c.id, P2.c.uid, P2.c.cat).join(c, P2.c.uid == c.c.id)
            )
        ),
        "p*",
    ),
    "a derived table in another": Pair(
        lambda: from_derived(select(PLAIN.subquery("inner_one")).subquery("outer_one")),
        "p|uid=3",
        lambda: from_derived(select(PLAIN.limit(3).subquery("inner_one")).subquery("outer_one")),
        "p*",
    ),
    "a derived table that is joined": Pair(
        lambda: select(u.c.id).join(d := PLAIN.subquery("d"), d.c.uid == u.c.id).where(u.c.id == 3),
        "u|pk=3 p|uid=3",
        lambda: (
            select(u.c.id)
            .join(d := PLAIN.order_by(p.c.id).limit(3).subquery("d"), d.c.uid == u.c.id)
            .where(u.c.id == 3)
        ),
        "u|pk=3 p*",
    ),
    "out of a derived table": Pair(
        lambda: select(u.c.id).join(d := PLAIN.where(p.c.uid == 3).subquery("d"), d.c.uid == u.c.id),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.id).outerjoin(d := PLAIN.where(p.c.uid == 3).subquery("d"), d.c.uid == u.c.id),
        "u* p|uid=3",
    ),
    "out of a page, whose rows are what they were": Pair(
        lambda: select(u.c.id).join(
            d := PLAIN.where(p.c.uid == 3).order_by(p.c.id).limit(2).subquery("d"), d.c.uid == u.c.id
        ),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.id).join(
            d := PLAIN.where(p.c.uid >= 3).order_by(p.c.id).limit(2).subquery("d"), d.c.uid == u.c.id
        ),
        "u* p*",
    ),
    "out of a page, by what it shows": Pair(
        lambda: select(u.c.id).join(d := select(p.c.uid).where(p.c.uid == 3).limit(2).subquery("d"), d.c.uid == u.c.id),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.id).join(
            d := select((p.c.uid + 1).label("uid")).where(p.c.uid == 3).limit(2).subquery("d"), d.c.uid == u.c.id
        ),
        "u* p|uid=3",
    ),
    "each use of a CTE by a row of its own": Pair(
        lambda: select(u.c.id).join(c := PLAIN.where(p.c.uid == 3).cte("c"), c.c.uid == u.c.id),
        "u|pk=3 p|uid=3",
        # What holds for the row of one use is not said of the row of the other.
        lambda: (
            select(u.c.id)
            .join(c := PLAIN.cte("c"), c.c.uid == u.c.id)
            .join(again := c.alias("again"), again.c.uid == 3)
        ),
        "u* p*",
    ),
    "a derived table on the nullable side": Pair(
        lambda: select(u.c.id).outerjoin(d := PLAIN.subquery("d"), d.c.uid == u.c.id).where(u.c.id == 3),
        "u|pk=3 p|uid=3",
        lambda: select(u.c.id).outerjoin(d := PLAIN.subquery("d"), d.c.uid == u.c.id).where(d.c.uid.is_(None)),
        "u* p*",
    ),
    "IS NULL in a derived table": Pair(
        lambda: select(d := PLAIN.subquery("d")).where(d.c.cat.is_(None)),
        "p|cat=!",
        lambda: select(d := select(q.c.id, p.c.cat).select_from(q.outerjoin(p, p.c.id == q.c.pid)).subquery("d")).where(
            d.c.cat.is_(None)
        ),
        "p* q*",
    ),
    "a subquery in a derived table": Pair(
        lambda: select(
            d := select(
                u.c.id, select(func.abs(p.c.cat)).where(p.c.uid == u.c.id).scalar_subquery().label("n")
            ).subquery("d")
        ).where(d.c.id == 3),
        "u|pk=3 p|uid=3",
        lambda: select(
            d := select(u.c.id, select(func.abs(p.c.cat)).where(p.c.uid == u.c.id).scalar_subquery().label("n"))
            .limit(2)
            .subquery("d")
        ).where(d.c.id == 3),
        "u* p*",
    ),
    # tuples
    "a tuple IN a list": Pair(
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_([(1, 2), (3, 4)])),
        "m|pk=1,2 m|pk=3,4",
        lambda: select(m).where(tuple_(m.c.a, m.c.b).not_in([(1, 2), (3, 4)])),
        "m*",
    ),
    "a tuple the other way around": Pair(
        lambda: select(m).where(tuple_(m.c.b, m.c.a).in_([(1, 2), (3, 4)])),
        "m|pk=2,1 m|pk=4,3",
        lambda: select(m).where(tuple_(m.c.b, m.c.a + 0).in_([(1, 2), (3, 4)])),
        "m|b=1 m|b=3",
    ),
    "more than the key in a tuple": Pair(
        lambda: select(m).where(tuple_(m.c.n, m.c.b, m.c.a).in_([(7, 1, 2), (8, 3, 4)])),
        "m|pk=2,1 m|pk=4,3",
        lambda: select(m).where(tuple_(m.c.n, m.c.b).in_([(7, 1), (8, 3)])),
        "m|b=1 m|b=3",
    ),
    "tuples with NULL in them match no row": Pair(
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_([(1, 2), (3, None)])),
        "m|pk=1,2",
        lambda: select(m).where(or_(m.c.a == 1, m.c.b.is_(None))),
        "m*",
    ),
    "tuples that stand there": Pair(
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_([tuple_(1, 2), tuple_(literal(3), literal(4))])),
        "m|pk=1,2 m|pk=3,4",
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_([tuple_(1, 2), tuple_(m.c.n, m.c.b)])),
        "m*",
    ),
    "a tuple that equals another": Pair(
        lambda: select(m).where(tuple_(m.c.a, m.c.b) == tuple_(1, 2)),
        "m|pk=1,2",
        lambda: select(m).where(tuple_(m.c.a, m.c.b) > tuple_(1, 2)),
        "m*",
    ),
    "a tuple that expands": Pair(
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_(bindparam("k", [(1, 2), (3, 4)], expanding=True))),
        "m|pk=1,2 m|pk=3,4",
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_(bindparam("k", [(1, 2), (3, 4.5)], expanding=True))),
        "m*",
    ),
    "two tuples, either of them": Pair(
        lambda: select(m).where(or_(tuple_(m.c.a, m.c.b).in_([(1, 2)]), tuple_(m.c.a, m.c.b).in_([(3, 4)]))),
        "m|pk=1,2 m|pk=3,4",
        lambda: select(m).where(or_(tuple_(m.c.a, m.c.b).in_([(1, 2)]), m.c.n == 4)),
        "m*",
    ),
    "values of one tuple belong together, of two they do not": Pair(
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_([(1, 2), (3, 4)])),
        "m|pk=1,2 m|pk=3,4",
        lambda: select(m).where(tuple_(m.c.a, m.c.n).in_(SAME), tuple_(m.c.n, m.c.b).in_(SAME)),
        "m|pk=1,2 m|pk=1,4 m|pk=3,2 m|pk=3,4",
    ),
    "a tuple passes through equalities": Pair(
        lambda: select(m, p).where(tuple_(p.c.uid, p.c.cat).in_([(1, 2), (3, 4)]), m.c.a == p.c.uid, m.c.b == p.c.cat),
        "m|pk=1,2 m|pk=3,4 p|uid=1 p|uid=3",
        lambda: select(m, p).where(tuple_(p.c.uid, p.c.cat).in_([(1, 2), (3, 4)]), m.c.a == p.c.uid, m.c.b > p.c.cat),
        "m|a=1 m|a=3 p|uid=1 p|uid=3",
    ),
    "a tuple IN a subquery": Pair(
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_(select(p.c.uid, p.c.cat).where(p.c.uid == 1, p.c.cat == 2))),
        "m|pk=1,2 p|uid=1",
        lambda: select(m).where(tuple_(m.c.a, m.c.b).in_(select(p.c.uid, p.c.cat).where(p.c.uid == 1))),
        "m|a=1 p|uid=1",
    ),
}

ON_POSTGRESQL: Final[dict[str, Pair]] = {
    "LATERAL": Pair(
        lambda: (
            select(u.c.id, (each := lateral(select(p.c.id).where(p.c.uid == u.c.id).limit(2))).c.id)
            .join(each, true())
            .where(u.c.id == 3)
        ),
        "u|pk=3 p|uid=3",
        lambda: (
            select(u.c.id, (each := lateral(select(p.c.id).where(p.c.uid >= u.c.id).limit(2))).c.id)
            .join(each, true())
            .where(u.c.id == 3)
        ),
        "u|pk=3 p*",
    ),
    "an outer LATERAL": Pair(
        lambda: (
            select(u.c.id, (each := lateral(select(p.c.id).where(p.c.uid == u.c.id))).c.id)
            .outerjoin(each, true())
            .where(u.c.id == 3)
        ),
        "u|pk=3 p|uid=3",
        lambda: (
            select(u.c.id, (each := lateral(select(p.c.id, p.c.cat).where(p.c.uid == u.c.id))).c.id)
            .outerjoin(each, true())
            .where(each.c.cat.is_(None))
        ),
        "u* p*",
    ),
    "NULL of an outer LATERAL is not NULL of what it shows": Pair(
        lambda: (
            select(u.c.id)
            .join(each := lateral(select(u.c.grp.label("g"), p.c.id).where(p.c.uid == u.c.id)), true())
            .where(each.c.g.is_(None))
        ),
        "u|grp=! p*",
        lambda: (
            select(u.c.id)
            .outerjoin(each := lateral(select(u.c.grp.label("g"), p.c.id).where(p.c.uid == u.c.id)), true())
            .where(each.c.g.is_(None))
        ),
        "u* p*",
    ),
    "DISTINCT ON in a derived table": Pair(
        lambda: from_derived(PLAIN.distinct().subquery()),
        "p|uid=3",
        lambda: from_derived(_distinct_on(PLAIN, p.c.cat).subquery()),
        "p*",
    ),
    "FETCH FIRST in a derived table": Pair(
        lambda: from_derived(PLAIN.order_by(p.c.id).subquery()),
        "p|uid=3",
        lambda: from_derived(PLAIN.order_by(p.c.id).fetch(1, with_ties=True).subquery()),
        "p*",
    ),
}


def _distinct_on(statement: Any, column: Any) -> Any:
    extension: Any = getattr(postgresql, "distinct_on", None)
    return statement.distinct(column) if extension is None else statement.ext(extension(column))


CASES: Final = [(pair, SQLITE, name) for name, pair in PAIRS.items()] + [
    (pair, POSTGRESQL, name) for name, pair in ON_POSTGRESQL.items()
]
parametrized = pytest.mark.parametrize(
    ("pair", "dialect"), [(pair, dialect) for pair, dialect, _ in CASES], ids=[name for *_, name in CASES]
)


@parametrized
def test_it_narrows(pair: Pair, dialect: Dialect) -> None:
    assert tags(pair.narrow(), dialect) == set(pair.tags.split())


@parametrized
def test_the_near_miss_does_not(pair: Pair, dialect: Dialect) -> None:
    assert tags(pair.near_miss(), dialect) == set(pair.wide_tags.split())


THROUGH: Final[dict[str, tuple[Any, str]]] = {
    "a correlated subquery": (select(u.c.nick, count_of_p()).where(u.c.id == 3), "u"),
    "EXISTS": (select(p.c.cat).where(exists().where(u.c.id == p.c.uid, u.c.id == 3)), "u"),
    "a page": (
        select(p.c.id).join(d := select(u.c.id).where(u.c.id == 3).limit(2).subquery(), d.c.id == p.c.uid),
        "u",
    ),
}


@pytest.mark.parametrize("name", THROUGH)
def test_nothing_passes_through_a_column_that_the_database_compares_in_another_way(name: str) -> None:
    statement, through = THROUGH[name]
    assert "p|uid=3" in tags(statement, SQLITE)
    assert "p*" in tags(statement, SQLITE, {through: {"id"}})


def test_a_table_met_twice_in_one_from_is_narrowed_nowhere() -> None:
    # No database takes it.
    source = p.outerjoin(q, q.c.pid == p.c.id).outerjoin(p, and_(q.c.n == p.c.cat, p.c.uid == 3))
    assert tags(select(q.c.id).select_from(source), SQLITE) == {"p*", "q*"}


def test_parts_of_a_row_around_are_taken_apart() -> None:
    # The row around may be made of a group of rows.
    inner = m.alias()
    count = select(func.count(inner.c.n)).where(inner.c.a == m.c.a, inner.c.b == m.c.b).scalar_subquery()
    statement = select(count).where(tuple_(m.c.a, m.c.b).in_([(1, 2), (3, 4)]))
    assert tags(statement, SQLITE) == {"m|pk=1,2", "m|pk=1,4", "m|pk=3,2", "m|pk=3,4"}


def test_what_the_orm_adapted_is_not_taken_for_what_was_written() -> None:
    registry: Any = orm.registry()
    thing = Table("thing", registry.metadata, Column("id", Integer, primary_key=True), Column("other", Integer))

    class Thing:
        id: Any

    some = select(thing.c.id, thing.c.other).where(thing.c.other == 5).subquery("some")
    registry.map_imperatively(Thing, thing, with_polymorphic=("*", some))
    # ``Thing.id`` is rendered as a column of what its class is read from, and table thing stands there for itself.
    joined = select(Thing.id).join(thing, Thing.id == thing.c.other).subquery("d")
    statement = select(joined).where(joined.c.id == 3)
    assert 'SELECT "some".id' in str(statement)
    assert tags(statement, SQLITE) == {"thing*"}


def test_a_cte_that_is_used_twice_is_narrowed_by_what_it_says_itself() -> None:
    c = PLAIN.where(p.c.uid == 3).cte()
    again = c.alias()
    assert tags(select(c, again).where(c.c.cat == 1, again.c.cat == 2), SQLITE) == {"p|uid=3"}


@pytest.mark.parametrize("function", [func.app.lower, func.lower])
def test_a_function_of_the_users_own_may_be_an_aggregate(function: Any) -> None:
    statement = select(p.c.cat).where(select(function(u.c.nick)).where(u.c.id == p.c.uid, u.c.id == 3).exists())
    compiled = statement.compile(dialect=SQLITE)
    found = reads_of(core_statement_of(compiled), SQLITE, rendered_by(compiled), lambda name: True)
    assert isinstance(found, SelectReads)
    assert [each.narrowing for each in found.elements if each.table is p] == [None]
