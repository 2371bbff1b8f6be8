"""What a SELECT reads: each rule of narrowing with its counterexample, each refusal with its reason."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    Select,
    Sequence,
    String,
    Table,
    TypeDecorator,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    exists,
    false,
    func,
    insert,
    lateral,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    table,
    tablesample,
    text,
    true,
    union,
    values,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    aliased,
    column_property,
    joinedload,
    mapped_column,
    relationship,
    with_loader_criteria,
    with_polymorphic,
)
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.sql.functions import FunctionElement, GenericFunction
from sqlalchemy.types import UserDefinedType

from querycache._rendering import Rendered, RenderedSelect, record_rendering, rendered_by
from querycache._sqlalchemy import core_statement_of
from querycache.statements.dependencies import TableRead, dependencies_of, reads_the_clock
from querycache.statements.reads import NotCacheable, SelectReads, reads_of
from querycache.statements.tags import rows_of, table_name_of

SQLITE: Dialect = sqlite.dialect()
POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
MYSQL: Dialect = mysql.dialect()

metadata = MetaData()
u = Table(
    "u",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("grp", Integer),
    Column("nick", String),
    Column("score", Numeric),
    Column("on", Boolean),
)
p = Table(
    "p",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", ForeignKey("u.id")),
    Column("cat", Integer),
    Column("big", BigInteger),
    Column("day", Date),
    Column("at", DateTime),
)
m = Table("m", metadata, Column("a", Integer, primary_key=True), Column("b", Integer, primary_key=True))
g = Table("g", metadata, Column("id", Uuid, primary_key=True))


for each in (SQLITE, POSTGRESQL, MYSQL):
    record_rendering(each)


def found_by(statement: Any, dialect: Dialect = SQLITE) -> SelectReads | NotCacheable:
    """Ask as the library does, with what the compiler made of a statement."""
    compiled = statement.compile(dialect=dialect)
    return reads_of(core_statement_of(compiled), dialect, rendered_by(compiled))


def reads(statement: Any, dialect: Dialect = SQLITE) -> SelectReads:
    found = found_by(statement, dialect)
    assert isinstance(found, SelectReads), found
    return found


def tags(statement: Any, dialect: Dialect = SQLITE, overrides: dict[str, list[str]] | None = None) -> set[str]:
    """Return the tags of a statement with the values that stand in it, the bind's own tag and "main." left out."""
    compiled = statement.compile(dialect=dialect)
    found = reads_of(core_statement_of(compiled), dialect, rendered_by(compiled))
    assert isinstance(found, SelectReads), found
    values = lambda bind: compiled.params[compiled.bind_names[bind]]  # noqa: E731
    return _tags(found, values, dialect, overrides or {})


def _tags(found: SelectReads, value: Callable[[Any], object], dialect: Dialect, overrides: Any) -> set[str]:
    made = dependencies_of(
        found, "x", lambda table: TableRead(table_name_of(table, "main"), overrides.get(table.fullname)), dialect
    ).tags(value)
    assert made.tags[0] == b"x/"
    # Which of their columns count is told in test_columns.
    return {rows_of(tag).decode().removeprefix("x/main.") for tag in made.tags[1:]}


def why_not(statement: Any, dialect: Dialect = SQLITE) -> str:
    found = reads_of(statement, dialect)
    assert isinstance(found, NotCacheable), found
    return found.reason


# -- one block -------------------------------------------------------------------------------------------------------

ALIAS = p.alias("p2")

NARROWED = {
    "primary key": (select(p).where(p.c.id == 3), {"p|pk=3"}),
    "value on the left": (select(p).where(literal(3) == p.c.id), {"p|pk=3"}),
    "keys in a list": (select(p).where(p.c.id.in_([3, 4, 3])), {"p|pk=3", "p|pk=4"}),
    "list of expressions": (select(p).where(p.c.id.in_([literal(3), literal(4)])), {"p|pk=3", "p|pk=4"}),
    "empty list": (select(p).where(p.c.id.in_([])), set()),
    "equals NULL": (select(p).where(p.c.id == bindparam("x", None, Integer)), set()),
    "NULL in a list": (select(p).where(p.c.id.in_(bindparam("x", [3, None], Integer, expanding=True))), {"p|pk=3"}),
    "other column": (select(p).where(p.c.cat == 3), {"p|cat=?", "p|cat=3"}),
    "primary key first": (select(p).where(p.c.cat == 3, p.c.id == 4), {"p|pk=4"}),
    "first tag column": (select(p).where(p.c.cat == 3, p.c.uid == 4), {"p|uid=?", "p|uid=4"}),
    "IS NULL": (select(p).where(p.c.cat.is_(None)), {"p|cat=?", "p|cat=!"}),
    "true": (select(u).where(u.c.on == true()), {"u|on=?", "u|on=1"}),
    "false": (select(u).where(u.c.on == false()), {"u|on=?", "u|on=0"}),
    "whole composite key": (select(m).where(m.c.a == 1, m.c.b.in_([2, 3])), {"m|pk=1,2", "m|pk=1,3"}),
    "part of a composite key": (select(m).where(m.c.b == 2), {"m|b=?", "m|b=2"}),
    "alias": (select(ALIAS).where(ALIAS.c.id == 3), {"p|pk=3"}),
    "same column in each branch": (
        select(p).where(or_(p.c.id == 3, and_(p.c.id == 4, p.c.cat == 5))),
        {"p|pk=3", "p|pk=4"},
    ),
    "value or NULL": (
        select(p).where(or_(p.c.cat == 3, p.c.cat.is_(None))),
        {"p|cat=?", "p|cat=3", "p|cat=!"},
    ),
    "nested conjunction": (select(p).where(and_(p.c.day.is_not(None), and_(p.c.id == 3, true()))), {"p|pk=3"}),
    "count": (select(func.count()).select_from(p).where(p.c.cat == 3), {"p|cat=?", "p|cat=3"}),
    "limit on the same level": (
        select(p).where(p.c.cat == 3).order_by(p.c.day).limit(2).distinct(),
        {"p|cat=?", "p|cat=3"},
    ),
    "wider integer": (select(p).where(p.c.big == 3), {"p|big=?", "p|big=3"}),
    "inner ON": (
        select(p).join(u, and_(p.c.uid == u.c.id, u.c.grp == 3)),
        {"p*", "u|grp=?", "u|grp=3"},
    ),
    "through an inner join": (
        select(p).join(u, p.c.uid == u.c.id).where(u.c.id == 3),
        {"p|uid=?", "p|uid=3", "u|pk=3"},
    ),
    "through WHERE": (select(p, u).where(p.c.uid == u.c.id, p.c.uid == 3), {"p|uid=?", "p|uid=3", "u|pk=3"}),
    "through two equalities": (
        select(p, u, m).where(p.c.uid == u.c.id, u.c.id == m.c.a, m.c.a == 3),
        {"p|uid=?", "p|uid=3", "u|pk=3", "m|a=?", "m|a=3"},
    ),
    "preserved to nullable": (
        select(u).outerjoin(p, p.c.uid == u.c.id).where(u.c.id == 3),
        {"u|pk=3", "p|uid=?", "p|uid=3"},
    ),
    "ON of an outer join, nullable side": (
        select(u).outerjoin(p, and_(p.c.uid == u.c.id, p.c.cat == 3)),
        {"u*", "p|cat=?", "p|cat=3"},
    ),
    "WHERE on a nullable side": (select(u).outerjoin(p, p.c.uid == u.c.id).where(p.c.id == 3), {"u*", "p|pk=3"}),
    "inner join on the nullable side": (
        select(u).outerjoin(p.join(m, and_(p.c.id == m.c.a, m.c.b == 3)), p.c.uid == u.c.id),
        {"u*", "p*", "m|b=?", "m|b=3"},
    ),
}

WIDE = {
    "no condition": (select(p), {"p*"}),
    "range": (select(p).where(p.c.id > 3), {"p*"}),
    "unequal": (select(p).where(p.c.id != 3), {"p*"}),
    "NOT": (select(p).where(not_(and_(p.c.id == 3, p.c.cat == 4))), {"p*"}),
    "NOT IN": (select(p).where(p.c.id.not_in([3])), {"p*"}),
    "comparison compared": (select(p).where((p.c.cat == 3).self_group() == literal(0)), {"p*"}),
    "CASE": (select(p).where(case((p.c.cat == 3, 0), else_=1) == 1), {"p*"}),
    "OR over two columns": (select(p).where(or_(p.c.id == 3, p.c.cat == 4)), {"p*"}),
    "OR over two elements": (
        select(p, u).where(p.c.uid == u.c.id, or_(p.c.cat == 3, u.c.grp == 1)),
        {"p*", "u*"},
    ),
    "expression": (select(p).where(p.c.id + 0 == 3), {"p*"}),
    "cast": (select(p).where(cast(p.c.id, Integer) == 3), {"p*"}),
    "unsafe type": (select(u).where(u.c.score == 3), {"u*"}),
    "value of another type": (select(p).where(p.c.id == literal("3", String)), {"p*"}),
    "value of an unsafe type": (select(p).where(p.c.id == literal(3, Numeric)), {"p*"}),
    "text for an integer": (select(p).where(p.c.id == bindparam("x", "3", Integer)), {"p*"}),
    "one bad value in a list": (select(p).where(p.c.id.in_([1, 1.5])), {"p*"}),
    "more than a hundred values": (select(p).where(p.c.id.in_(range(101))), {"p*"}),
    "more than a hundred combinations": (select(m).where(m.c.a.in_(range(11)), m.c.b.in_(range(10))), {"m*"}),
    "self-join narrowed in one place": (
        select(p, ALIAS).where(p.c.id == 3, ALIAS.c.cat == p.c.cat),
        {"p*"},
    ),
    "preserved side in ON": (
        select(u).outerjoin(p, and_(p.c.uid == u.c.id, u.c.id == 3)),
        {"u*", "p|uid=?", "p|uid=3"},
    ),
    "back to the preserved side": (
        select(u).outerjoin(p, and_(p.c.uid == u.c.id, p.c.uid == 3)),
        {"u*", "p|uid=?", "p|uid=3"},
    ),
    "anti-join": (select(u).outerjoin(p, p.c.uid == u.c.id).where(p.c.uid.is_(None)), {"u*", "p*"}),
    "NULL on a nullable side in OR": (
        select(u).outerjoin(p, p.c.uid == u.c.id).where(or_(p.c.cat == 3, p.c.cat.is_(None))),
        {"u*", "p*"},
    ),
    "NULL does not pass through an equality": (
        select(u, p).where(u.c.grp == p.c.cat, u.c.grp.is_(None)),
        {"u|grp=?", "u|grp=!", "p*"},
    ),
    "ON of a full join": (select(u).outerjoin(p, and_(p.c.uid == u.c.id, p.c.cat == 3), full=True), {"u*", "p*"}),
    "through a full join": (
        select(u).outerjoin(p, p.c.uid == u.c.id, full=True).where(u.c.id == 3),
        {"u|pk=3", "p*"},
    ),
    "out of one side of a full join": (
        select(u, p)
        .select_from(u.join(m, and_(u.c.id == m.c.a, u.c.grp == 3)).outerjoin(p, p.c.uid == u.c.id, full=True))
        .where(p.c.cat == u.c.grp),
        {"u|grp=?", "u|grp=3", "m*", "p*"},
    ),
    "equality of a text and a UUID": (
        select(u, g).where(u.c.nick == g.c.id, g.c.id == bindparam("x", "0" * 32, Uuid)),
        {"u*", "g|pk=" + "0" * 32},
    ),
    "equality of two types": (select(p, u).where(u.c.nick == p.c.cat, p.c.cat == 3), {"p|cat=?", "p|cat=3", "u*"}),
}


@pytest.mark.parametrize("case_name", NARROWED)
def test_it_narrows(case_name: str) -> None:
    statement, expected = NARROWED[case_name]
    assert tags(statement) == expected


@pytest.mark.parametrize("case_name", WIDE)
def test_it_does_not_narrow(case_name: str) -> None:
    statement, expected = WIDE[case_name]
    assert tags(statement) == expected


def test_a_value_that_is_not_known_widens() -> None:
    def unknown(bind: Any) -> object:
        raise KeyError(bind.key)

    assert _tags(reads(select(p).where(p.c.id == 3)), unknown, SQLITE, {}) == {"p*"}


def test_the_bind_and_each_table_are_always_named() -> None:
    both = reads(select(p, u))
    made = dependencies_of(both, "x", lambda table: TableRead(table_name_of(table, None)), SQLITE).tags(
        lambda bind: None
    )
    assert made.tags[0] == b"x/"
    assert [tag for tag, _ in made.guards] == [b"x/main.p!", b"x/main.u!"]


def test_named_tag_columns_decide_what_narrows() -> None:
    assert tags(select(p).where(p.c.cat == 3, p.c.uid == 4), overrides={"p": ["cat"]}) == {"p|cat=?", "p|cat=3"}


def test_named_tag_columns_leave_the_others_wide() -> None:
    assert tags(select(p).where(p.c.uid == 4), overrides={"p": ["cat"]}) == {"p*"}


def test_text_narrows_where_it_is_compared_by_bytes() -> None:
    statement = select(u).where(u.c.nick == "a")
    assert "u*" not in tags(statement)
    assert tags(statement, MYSQL) == {"u*"}


# -- several blocks --------------------------------------------------------------------------------------------------

INNER = select(p).where(p.c.cat == 3).subquery()
LIMITED = select(p).order_by(p.c.id).limit(2).subquery()
ANCHOR = select(p.c.id, p.c.uid).where(p.c.id == 3).cte("tree", recursive=True)
STEP = p.alias("step")
TREE = ANCHOR.union_all(select(STEP.c.id, STEP.c.uid).join(ANCHOR, STEP.c.uid == ANCHOR.c.id))

BLOCKS = {
    "derived table": (select(INNER), {"p|cat=?", "p|cat=3"}),
    "nothing passes into a block with LIMIT": (select(LIMITED).where(LIMITED.c.id == 3), {"p*"}),
    "recursive CTE": (select(TREE), {"p*"}),
    "union of narrowed blocks": (
        union(select(p.c.id).where(p.c.id == 1), select(p.c.id).where(p.c.id == 2)),
        {"p|pk=1", "p|pk=2"},
    ),
    "EXISTS": (select(u).where(exists().where(p.c.uid == u.c.id, p.c.cat == 3)), {"u*", "p|cat=?", "p|cat=3"}),
    "NOT EXISTS": (select(u).where(~exists().where(p.c.uid == u.c.id, p.c.cat == 3)), {"u*", "p|cat=?", "p|cat=3"}),
    "IN a subquery": (
        select(u).where(u.c.id == 1, u.c.id.in_(select(p.c.uid).where(p.c.cat == 3))),
        {"u|pk=1", "p|cat=?", "p|cat=3"},
    ),
    "a correlated subquery under OR": (
        select(u).where(or_(u.c.id == 1, exists().where(p.c.uid == u.c.id))),
        {"u*", "p*"},
    ),
    "scalar subquery in the select list": (
        select(u.c.id, select(func.count(p.c.id)).where(p.c.cat == 3).scalar_subquery()),
        {"u*", "p|cat=?", "p|cat=3"},
    ),
    "scalar subquery in ORDER BY": (select(u).order_by(select(func.max(p.c.id)).scalar_subquery()), {"u*", "p*"}),
    "subquery in HAVING": (
        select(u.c.grp).group_by(u.c.grp).having(func.count() > select(func.count(p.c.id)).scalar_subquery()),
        {"u*", "p*"},
    ),
    "subquery in LIMIT": (select(u).limit(select(func.count(p.c.id)).scalar_subquery()), {"u*", "p*"}),
    "subquery in a window": (
        select(func.row_number().over(order_by=select(func.max(p.c.id)).scalar_subquery())).select_from(u),
        {"u*", "p*"},
    ),
    "CTE that nothing refers to": (select(u).add_cte(select(p).cte("c")), {"u*", "p*"}),
    "subquery in a function's argument": (
        select(func.coalesce(select(p.c.id).limit(1).scalar_subquery(), u.c.id)),
        {"u*", "p*"},
    ),
}


@pytest.mark.parametrize("case_name", BLOCKS)
def test_each_block_counts_by_itself(case_name: str) -> None:
    statement, expected = BLOCKS[case_name]
    assert tags(statement) == expected


def test_a_subquery_in_a_values_list_is_read() -> None:
    rows = values(column("n", Integer), name="v").data([(select(func.max(p.c.id)).scalar_subquery(),)])
    assert tags(select(rows), POSTGRESQL) == {"p*"}


def test_a_table_in_no_known_from_is_read_whole() -> None:
    statement = select(p).where(p.c.id == 3)
    found = reads_of(statement, SQLITE, Rendered(selects=[RenderedSelect(statement, statement, ())]))
    assert isinstance(found, SelectReads)
    assert [(element.table, element.narrowing) for element in found.elements] == [(p, None)]


def test_a_lateral_subquery_is_read() -> None:
    inner = lateral(select(p.c.id).where(p.c.uid == u.c.id, p.c.cat == 3))
    assert tags(select(u, inner).join(inner, true()), POSTGRESQL) == {"u*", "p|cat=?", "p|cat=3"}


# -- refusals --------------------------------------------------------------------------------------------------------


class Upper(ColumnElement[str]):
    inherit_cache = True
    type = String()


class Lower(FunctionElement[str]):
    name = "lower"
    inherit_cache = True


class Compiled(GenericFunction[str]):
    name = "lower"
    inherit_cache = True
    identifier = "querycache_test_lower"


@compiles(Compiled)
def _compile(element: Compiled, compiler: Any, **options: Any) -> str:
    return "random()"


class Point(UserDefinedType[str]):
    cache_ok = True

    def get_col_spec(self, **options: Any) -> str:
        return "POINT"

    def column_expression(self, colexpr: ColumnElement[Any]) -> ColumnElement[Any]:
        return func.random()


TEMPORARY = Table("scratch", MetaData(), Column("id", Integer, primary_key=True), prefixes=["GLOBAL TEMPORARY"])
PLACES = Table("places", MetaData(), Column("id", Integer, primary_key=True), Column("at", Point))

REFUSED = {
    "text condition": (select(p).where(text("1=1")), "text()"),
    "text column": (select(text("now()")).select_from(p), "text()"),
    "textual select": (text("SELECT 1").columns(p.c.id), "TextualSelect is not a SELECT"),
    "textual subquery": (select(text("SELECT 1").columns(p.c.id).subquery()), "text()"),
    "literal column": (select(literal_column("random()")), "literal_column()"),
    "column without a table": (select(column("x")), "'x'"),
    "table without metadata": (select(table("x", column("y"))), "no Table"),
    "now": (select(p).where(p.c.at < func.now()), "function now()"),
    "current_timestamp": (select(func.current_timestamp()), "function current_timestamp()"),
    "random": (select(p).order_by(func.random()), "function random()"),
    "unknown function": (select(func.my_function(p.c.id)), "function my_function()"),
    "function of a schema": (select(func.app.lower(u.c.nick)), "app.lower()"),
    "function class of the application's": (select(Lower()), "class of its own"),
    "function with a compiler of its own": (select(Compiled(u.c.nick)), "@compiles"),
    "sequence": (select(Sequence("s").next_value()), "next_value()"),
    "date functions of SQLite": (select(func.date("now")), "function date()"),
    "element of the application's": (select(Upper()), "Upper"),
    "type that renders SQL": (select(PLACES), "Point"),
    "operator of the application's": (select(p).where(p.c.id.op("~~~")(3)), "~~~"),
    "FOR UPDATE": (select(p).with_for_update(), "locks rows"),
    "FOR UPDATE inside": (select(select(p).with_for_update().subquery()), "locks rows"),
    "prefix": (select(p).prefix_with("SQL_CALC_FOUND_ROWS"), "prefix"),
    "suffix": (select(p).suffix_with("INTO OUTFILE 'x'"), "suffix"),
    "statement hint": (select(p).with_statement_hint("x"), "hint"),
    "table hint": (select(p).with_hint(p, "x"), "hint"),
    "prefixed CTE": (select(select(p).cte("c").suffix_with("x")), "prefix or suffix"),
    "INSERT in a CTE": (select(insert(p).returning(p.c.id).cte("c")), "INSERT"),
    "INSERT in a CTE that nothing refers to": (select(u).add_cte(insert(p).cte("c")), "INSERT"),
    "INSERT in a CTE of a union": (union(select(u.c.id), select(p.c.id)).add_cte(insert(p).cte("c")), "INSERT"),
    "sample": (select(tablesample(p, func.bernoulli(1))), "sample"),
    "temporary table": (select(TEMPORARY), "temporary"),
    "alias of a temporary table": (select(TEMPORARY.alias()), "temporary"),
    "insert": (insert(p), "Insert is not a SELECT"),
    "text search": (select(u).where(u.c.nick.match("x")), "match"),
    "row function over a table": (select(func.coalesce(p.table_valued())), "a row of table"),
}


@pytest.mark.parametrize("case_name", REFUSED)
def test_it_refuses_with_a_reason(case_name: str) -> None:
    statement, reason = REFUSED[case_name]
    assert reason in why_not(statement)


ACCEPTED = {
    "count of everything": select(func.count()).select_from(p),
    "literal number": select(literal_column("1"), literal_column("'manager'"), null()).select_from(p),
    "window": select(func.sum(p.c.cat).over(partition_by=p.c.uid, order_by=p.c.id, rows=(None, 0))),
    "filtered aggregate": select(func.count(p.c.id).filter(p.c.cat == 3)),
    "text functions": select(func.lower(u.c.nick) + func.upper(u.c.nick)).where(u.c.nick.ilike("a%")),
    "collation": select(u.c.nick.collate("NOCASE").label("x")).order_by("x"),
    "extract and cast": select(func.coalesce(cast(u.c.nick, Integer), 0)),
    "values": select(values(column("n", Integer), name="v").data([(1,), (2,)])),
    "table-valued function": select(func.json_each(u.c.nick).table_valued("value")),
    "grouping": select(p.c.cat, func.count().label("n")).group_by(p.c.cat).having(func.count() > 1).order_by("n"),
}


@pytest.mark.parametrize("case_name", ACCEPTED)
def test_it_accepts(case_name: str) -> None:
    assert isinstance(reads_of(ACCEPTED[case_name], SQLITE), SelectReads)


def test_functions_are_named_for_the_catalog_to_look_at() -> None:
    assert reads(select(func.Lower(u.c.nick), func.count(u.c.id))).functions == {"lower", "count"}


def test_operators_of_sqlalchemys_own_are_known() -> None:
    tagged = Table("tagged", MetaData(), Column("names", postgresql.ARRAY(String)))
    assert tags(select(tagged).where(tagged.c.names.contains(["a"])), POSTGRESQL) == {"tagged*"}


class Moment(TypeDecorator[Any]):
    impl = DateTime
    cache_ok = True


@pytest.mark.parametrize("column_type", [Date(), Moment()], ids=["Date", "TypeDecorator"])
def test_a_cast_of_text_to_a_date_may_read_the_clock_on_postgresql(column_type: Any) -> None:
    assert "present time" in why_not(select(cast(u.c.nick, column_type)), POSTGRESQL)


@pytest.mark.parametrize(
    ("value", "reads_it"), [("today", True), ("Now ", True), ("2026-01-01", False), (date(2026, 1, 1), False)]
)
def test_a_text_given_for_a_date_may_be_the_clock_on_postgresql(value: object, reads_it: bool) -> None:
    found = reads(select(p).where(p.c.day == bindparam("x", value, Date)), POSTGRESQL)
    assert reads_the_clock(found, lambda bind: bind.effective_value) is reads_it


@pytest.mark.parametrize(
    "statement",
    [select(p).where(p.c.day == literal("today", String)), select(cast(literal("today", String), Date))],
    ids=["comparison", "cast"],
)
def test_a_text_bind_that_becomes_a_date_may_be_the_clock_on_postgresql(statement: Any) -> None:
    assert reads_the_clock(reads(statement, POSTGRESQL), lambda bind: bind.effective_value)


def test_the_word_today_in_a_text_column_is_only_a_word() -> None:
    found = reads(select(u).where(u.c.nick == "today"), POSTGRESQL)
    assert not reads_the_clock(found, lambda bind: bind.effective_value)


# -- mapped classes --------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = "parent"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    kids: Mapped[list[Kid]] = relationship(back_populates="parent")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "parent"}  # noqa: RUF012 - as the ORM declares it


class Child(Parent):
    __tablename__ = "child"
    id: Mapped[int] = mapped_column(ForeignKey("parent.id"), primary_key=True)
    age: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "child"}  # noqa: RUF012 - as the ORM declares it


class Kid(Base):
    __tablename__ = "kid"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("parent.id"))
    parent: Mapped[Parent | None] = relationship(back_populates="kids")


class Counted(Base):
    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    kids: Mapped[int] = column_property(select(func.count(Kid.id)).where(Kid.parent_id == id).scalar_subquery())


COUNTED_SUBQUERY = aliased(Counted, select(Counted).where(Counted.id == 3).subquery())
OTHER = aliased(Kid)

MAPPED = {
    "entity by key": (select(Kid).where(Kid.id == 3), {"kid|pk=3"}),
    "aliased entity": (select(OTHER).where(OTHER.parent_id == 3), {"kid|parent_id=?", "kid|parent_id=3"}),
    "joined eager load": (
        select(Parent).where(Parent.id == 3).options(joinedload(Parent.kids)),
        {"parent|pk=3", "kid|parent_id=?", "kid|parent_id=3"},
    ),
    "joined eager load of a page": (
        select(Parent).where(Parent.id == 3).limit(1).options(joinedload(Parent.kids)),
        {"parent|pk=3", "kid|parent_id=?", "kid|parent_id=3"},
    ),
    "joined inheritance": (select(Child).where(Child.id == 3), {"parent|pk=3", "child|pk=3"}),
    "with_polymorphic": (
        select(with_polymorphic(Parent, [Child])).where(Parent.id == 3),
        {"parent|pk=3", "child|pk=3"},
    ),
    "column property": (
        select(Counted).where(Counted.id == 3),
        {"counted|pk=3", "kid|parent_id=?", "kid|parent_id=3"},
    ),
    "column property of a subquery's entity": (
        select(COUNTED_SUBQUERY),
        {"counted|pk=3", "kid|parent_id=?", "kid|parent_id=3"},
    ),
    "column property in a nested SELECT": (
        select(Parent.id).where(Parent.id == 1, exists().where(Counted.kids > 2, Counted.id == Parent.id)),
        {"parent|pk=1", "counted|pk=1", "kid|parent_id=?", "kid|parent_id=1"},
    ),
    "any": (select(Parent.kind).where(Parent.kids.any(Kid.id == 3)), {"parent*", "kid|pk=3"}),
    "relationship join": (
        select(Kid).join(Kid.parent).where(Parent.id == 3),
        {"kid|parent_id=?", "kid|parent_id=3", "parent|pk=3"},
    ),
    "loader criteria": (
        select(Parent).join(Parent.kids).options(with_loader_criteria(Kid, Kid.parent_id == 3)),
        {"parent|pk=3", "kid|parent_id=?", "kid|parent_id=3"},
    ),
}


@pytest.mark.parametrize("case_name", MAPPED)
def test_mapped_classes_are_read_as_they_are_rendered(case_name: str) -> None:
    statement, expected = MAPPED[case_name]
    assert tags(statement) == expected


def test_tables_in_loader_criteria_of_nested_selects_are_read() -> None:
    criteria = with_loader_criteria(Kid, Kid.id.in_(select(Child.__table__.c.age)))
    statement = select(Parent.kind).where(Parent.id.in_(select(Kid.parent_id).where(Kid.id == 3))).options(criteria)
    rendered = str(statement.compile(dialect=SQLITE))
    # 2.0 does not apply criteria inside every kind of nested SELECT: what counts is what is rendered.
    assert ("child*" in tags(statement)) is ("FROM child" in rendered)


def test_a_nested_select_of_mapped_classes_needs_its_rendered_form() -> None:
    nested: Select[Any] = select(Kid.id).where(Kid.parent_id.in_(select(Parent.id)))
    core = nested.compile(dialect=SQLITE).compile_state.statement  # type: ignore[union-attr]
    assert "rendered form" in why_not(core)
