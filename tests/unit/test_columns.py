"""Which columns of its tables an answer can depend on: each place where a column may stand, each trap with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    case,
    cast,
    column,
    create_engine,
    desc,
    distinct,
    event,
    exists,
    func,
    lateral,
    literal,
    literal_column,
    null,
    select,
    true,
    tuple_,
    union,
    values,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    contains_eager,
    joinedload,
    load_only,
    mapped_column,
    relationship,
    with_loader_criteria,
    with_polymorphic,
)

from querycache import QueryCache, _rendering, _sqlalchemy
from querycache.statements.columns import ColumnWatch
from querycache.statements.dependencies import MAX_COLUMNS, MAX_NARROW_TAGS, TableRead, dependencies_of
from querycache.statements.reads import SelectReads, reads_of
from querycache.statements.tags import table_name_of

SQLITE: Dialect = sqlite.dialect()
POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
for dialect in (SQLITE, POSTGRESQL):
    _rendering.record_rendering(dialect)

metadata = MetaData()
u = Table("u", metadata, Column("id", Integer, primary_key=True), Column("grp", Integer), Column("nick", String))
p = Table(
    "p",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", ForeignKey("u.id")),
    Column("cat", Integer),
    Column("Hits", Integer, key="hits"),
    *(Column(f"x{number}", Integer) for number in range(MAX_COLUMNS + 2)),
)
p2 = p.alias("p2")
p3 = p2.alias("p3")

ALL = None
Used = dict[str, set[str] | None]


def reads(statement: Any, dialect: Dialect = SQLITE) -> SelectReads:
    """Return what a statement reads as it is asked in earnest: as rendered, with what the compiler noted."""
    compiled = statement.compile(dialect=dialect)
    rendered = _rendering.rendered_by(compiled)
    assert rendered is not None
    core = _sqlalchemy.core_statement_of(compiled)
    found = reads_of(core, dialect, rendered)
    assert isinstance(found, SelectReads), found
    return found


def used(statement: Any, dialect: Dialect = SQLITE) -> Used:
    """Return the columns used of each table. Nothing may have been rendered that was not found."""
    found = reads(statement, dialect)
    assert not found.missed_columns
    return {element.table.name: None if element.columns is None else set(element.columns) for element in found.elements}


SUB = select(p).where(p.c.cat == 3).subquery()
PAGE = select(p.c.id, p.c.cat).order_by(p.c.x1).limit(2).subquery()
TREE = select(p.c.id, p.c.uid).where(p.c.id == 1).cte("tree", recursive=True)
STEP = TREE.union_all(select(p2.c.id, p2.c.uid).join(TREE, p2.c.uid == TREE.c.id))

PLACES: dict[str, tuple[Any, Used]] = {
    "list": (select(p.c.uid, p.c.cat), {"p": {"uid", "cat"}}),
    "list, whole table": (select(p), {"p": ALL}),
    "list, every column by name": (select(*u.c), {"u": ALL}),
    "list, under a label": (select(p.c.cat.label("x")), {"p": {"cat"}}),
    "list, in an expression": (select(p.c.cat + p.c.x1), {"p": {"cat", "x1"}}),
    "list, DISTINCT": (select(p.c.cat).distinct(), {"p": {"cat"}}),
    "name in the database, not the key": (select(p.c.hits), {"p": {"Hits"}}),
    "alias of an alias": (select(p3.c.cat), {"p": {"cat"}}),
    "self-join: what either place uses": (select(p.c.cat).join(p2, p.c.x1 == p2.c.x2), {"p": {"cat", "x1", "x2"}}),
    "WHERE": (select(p.c.id).where(p.c.cat == 3), {"p": {"id", "cat"}}),
    "WHERE, the column alone": (select(p.c.id).where(cast(p.c.cat, Boolean)), {"p": {"id", "cat"}}),
    "list and WHERE": (select(p.c.cat).where(p.c.cat == 3), {"p": {"cat"}}),
    "ON": (select(u.c.nick).join(p, p.c.uid == u.c.id), {"u": {"id", "nick"}, "p": {"uid"}}),
    "ON that nobody wrote": (select(u.c.nick).join(p), {"u": {"id", "nick"}, "p": {"uid"}}),
    "ON of a join() object": (select(u.c.nick).select_from(u.join(p)), {"u": {"id", "nick"}, "p": {"uid"}}),
    "ON of an outer join": (
        select(u.c.nick).outerjoin(p, (p.c.uid == u.c.id) & (p.c.cat == 1)),
        {"u": {"id", "nick"}, "p": {"uid", "cat"}},
    ),
    "ORDER BY": (select(p.c.id).order_by(p.c.cat.desc().nulls_last()), {"p": {"id", "cat"}}),
    "ORDER BY a text that is a column": (select(p.c.id).order_by("cat"), {"p": {"id", "cat"}}),
    "ORDER BY a text that is a column's key": (select(p.c.id).order_by(desc("hits")), {"p": {"id", "Hits"}}),
    "ORDER BY a text that is a label": (select(p.c.cat.label("x")).order_by("x"), {"p": {"cat"}}),
    "ORDER BY a label's object": (select(x := p.c.cat.label("x")).order_by(x), {"p": {"cat"}}),
    "GROUP BY": (select(func.count()).group_by(p.c.cat), {"p": {"cat"}}),
    "GROUP BY a text": (select(func.count()).select_from(p).group_by("cat"), {"p": {"cat"}}),
    "HAVING": (select(p.c.cat).group_by(p.c.cat).having(func.max(p.c.x1) > 3), {"p": {"cat", "x1"}}),
    "LIMIT": (select(p.c.id).limit(select(func.max(u.c.grp)).scalar_subquery()), {"p": {"id"}, "u": {"grp"}}),
    "function": (select(func.coalesce(p.c.cat, func.abs(p.c.x1))), {"p": {"cat", "x1"}}),
    "count of a column": (select(func.count(p.c.cat)), {"p": {"cat"}}),
    "count of values": (select(func.count(distinct(p.c.cat))), {"p": {"cat"}}),
    "count(*)": (select(func.count()).select_from(p), {"p": set()}),
    "count(*) in an expression": (select(func.count() + 1).select_from(p).where(p.c.cat == 1), {"p": {"cat"}}),
    "count(*) FILTER": (select(func.count().filter(p.c.cat == 1)), {"p": {"cat"}}),
    "window": (
        select(func.sum(p.c.cat).over(partition_by=p.c.uid, order_by=p.c.x1)),
        {"p": {"cat", "uid", "x1"}},
    ),
    "window ordered by a text": (select(func.row_number().over(order_by="cat")).select_from(p), {"p": {"cat"}}),
    "CASE": (select(case((p.c.cat == 3, p.c.x1), else_=p.c.x2)), {"p": {"cat", "x1", "x2"}}),
    "tuple": (select(p.c.id).where(tuple_(p.c.cat, p.c.x1).in_([(1, 2)])), {"p": {"id", "cat", "x1"}}),
    "literal": (select(literal_column("1"), literal(2), null(), true()).select_from(p), {"p": set()}),
    "star": (select(literal_column("*")).select_from(u), {"u": ALL}),
    "star beside a column": (select(p.c.id, literal_column("*")).select_from(u.join(p)), {"u": ALL, "p": ALL}),
    "star in a subquery that is counted": (
        select(func.count()).select_from(select(literal_column("*")).select_from(u).subquery()),
        {"u": set()},
    ),
    "correlated scalar subquery": (
        select(u.c.nick, select(func.count()).where(p.c.uid == u.c.id).scalar_subquery()),
        {"u": {"nick", "id"}, "p": {"uid"}},
    ),
    "IN a subquery": (
        select(u.c.nick).where(u.c.id.in_(select(p.c.uid).where(p.c.cat == 1))),
        {"u": {"nick", "id"}, "p": {"uid", "cat"}},
    ),
    "scalar subquery in ORDER BY": (
        select(u.c.id).order_by(select(func.max(p.c.x1)).where(p.c.uid == u.c.id).scalar_subquery()),
        {"u": {"id"}, "p": {"x1", "uid"}},
    ),
    "derived table of which a column is used": (select(SUB.c.id), {"p": ALL}),
    "derived table, whole": (select(PAGE), {"p": {"id", "cat", "x1"}}),
    "union": (union(select(p.c.cat), select(u.c.grp)), {"p": {"cat"}, "u": {"grp"}}),
    "recursive CTE": (select(STEP), {"p": {"id", "uid"}}),
    "table-valued function": (select(func.json_each(u.c.nick).table_valued("value")), {"u": {"nick"}}),
    "VALUES": (
        select(values(column("n", Integer), name="v").data([(select(u.c.grp).scalar_subquery(),)])),
        {"u": {"grp"}},
    ),
}

# The list of a SELECT at which nothing looks, and the same where something does.
LISTS: dict[str, tuple[Any, Used]] = {
    "EXISTS of a star": (select(exists().where(p.c.cat == 3)), {"p": {"cat"}}),
    "EXISTS of a whole table": (select(select(p).where(p.c.cat == 3).exists()), {"p": {"cat"}}),
    "NOT EXISTS of a column": (
        select(u.c.nick).where(~exists(p.c.x1).where(p.c.uid == u.c.id)),
        {"u": {"nick", "id"}, "p": {"uid"}},
    ),
    "EXISTS of a page": (select(select(p).order_by(p.c.x1).limit(3).offset(2).exists()), {"p": {"x1"}}),
    "EXISTS, DISTINCT": (select(select(p.c.x1).distinct().offset(1).limit(1).exists()), {"p": {"x1"}}),
    "EXISTS of an expression": (select(select(p.c.x1 + 1).exists()), {"p": {"x1"}}),
    "EXISTS of a list that is grouped by": (
        select(select(p.c.x1).group_by(p.c.x1).having(func.count() > 1).exists()),
        {"p": {"x1"}},
    ),
    "EXISTS of a list that a text groups by": (
        select(select(p.c.x1.label("l")).group_by("l").having(func.count() > 1).exists()),
        {"p": {"x1"}},
    ),
    "EXISTS of a union": (select(union(select(p.c.x1), select(p.c.x2)).exists()), {"p": {"x1", "x2"}}),
    "count of rows": (select(func.count()).select_from(SUB), {"p": {"cat"}}),
    "count of a page": (select(func.count()).select_from(PAGE), {"p": {"x1"}}),
    "count of rows, one column used": (select(func.count(SUB.c.x1)), {"p": ALL}),
    "count of rows, one column in WHERE": (select(func.count()).select_from(SUB).where(SUB.c.x1 > 1), {"p": ALL}),
    "count of rows, joined by one column": (
        select(func.count()).select_from(u.join(SUB, SUB.c.uid == u.c.id)),
        {"u": {"id"}, "p": ALL},
    ),
    "count of rows, joined by none": (
        select(func.count()).select_from(u.join(SUB, true())),
        {"u": set(), "p": {"cat"}},
    ),
    "count of distinct rows": (
        select(func.count()).select_from(select(p.c.cat).distinct().subquery()),
        {"p": {"cat"}},
    ),
    "count of an alias of rows": (select(func.count()).select_from(SUB.alias()), {"p": {"cat"}}),
    "count of an alias of rows, one column used": (select(func.count()).where(SUB.alias().c.x1 == 1), {"p": ALL}),
    "an alias of rows, shown": (select(select(p.c.x1).subquery().alias()), {"p": {"x1"}}),
    "count of a CTE": (select(func.count()).select_from(select(p).cte()), {"p": ALL}),
    "count of a union": (
        select(func.count()).select_from(union(select(p.c.x1), select(p.c.x2)).subquery()),
        {"p": {"x1", "x2"}},
    ),
    "the same SELECT in EXISTS and in a list": (
        select(one := select(p.c.x1).limit(1).scalar_subquery(), exists(one)),
        {"p": {"x1"}},
    ),
    "the same SELECT in EXISTS and in IN": (
        select(u.c.id).where(exists(some := select(p.c.x1)), u.c.id.in_(some)),
        {"u": {"id"}, "p": {"x1"}},
    ),
    "derived table of which all is shown": (select(select(p.c.x1).subquery()), {"p": {"x1"}}),
    "derived table under a star": (select(literal_column("*")).select_from(PAGE), {"p": ALL}),
}


@pytest.mark.parametrize("case_name", PLACES)
def test_a_column_counts_wherever_it_stands(case_name: str) -> None:
    statement, expected = PLACES[case_name]
    assert used(statement) == expected


@pytest.mark.parametrize("case_name", LISTS)
def test_a_list_counts_where_something_looks_at_it(case_name: str) -> None:
    statement, expected = LISTS[case_name]
    assert used(statement) == expected


@pytest.mark.parametrize("case_name", [*PLACES, *LISTS])
def test_what_is_told_without_the_compilers_help_is_the_same(case_name: str) -> None:
    statement, expected = (PLACES | LISTS)[case_name]
    found = reads_of(statement, SQLITE)
    assert isinstance(found, SelectReads)
    assert {element.table.name: element.columns for element in found.elements} == expected


def distinct_on(statement: Any, *by: Any) -> Any:
    if hasattr(postgresql, "distinct_on"):  # 2.1 deprecates the other
        return statement.ext(postgresql.distinct_on(*by))
    return statement.distinct(*by)


def test_columns_of_distinct_on_count() -> None:
    ordered = distinct_on(select(p.c.id).order_by(p.c.cat, p.c.x1), p.c.cat)
    assert used(ordered, POSTGRESQL) == {"p": {"id", "cat", "x1"}}
    assert "cat" in (used(select(distinct_on(select(p.c.id), p.c.cat).exists()), POSTGRESQL)["p"] or ())


def test_columns_of_a_lateral_subquery_count() -> None:
    latest = lateral(select(p.c.x1).where(p.c.uid == u.c.id).order_by(p.c.x2).limit(1))
    assert used(select(u.c.nick, latest.c.x1).join(latest, true()), POSTGRESQL) == {
        "u": {"nick", "id"},
        "p": {"x1", "uid", "x2"},
    }


# -- what the compiler renders and the walk did not find -------------------------------------------------------------


def test_a_column_that_was_rendered_and_not_found_makes_all_of_its_table_count() -> None:
    found = reads_of(
        select(p.c.cat, u.c.id), SQLITE, _rendering.Rendered(columns=dict.fromkeys([p.c.cat, p2.c.x1, u.c.id]))
    )
    assert isinstance(found, SelectReads)
    assert {element.table.name: element.columns for element in found.elements} == {"p": None, "u": {"id"}}
    assert found.missed_columns == ("p.x1",)


def test_a_column_that_its_table_does_not_have_makes_all_count() -> None:
    strange = p.c.cat._annotate({})
    strange.name = "other"
    found = reads_of(select(u.c.id, strange), SQLITE)
    assert isinstance(found, SelectReads)
    assert all(element.columns is None for element in found.elements)


def test_a_column_that_was_not_found_is_a_counted_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: ColumnWatch, element: Any, children: Any) -> None:
        return None

    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    monkeypatch.setattr(ColumnWatch, "see", blind)
    with QueryCache("memory://", models=[Kid]) as cache, Session(engine) as session:
        cache.attach(engine)
        session.execute(select(Kid.title)).all()
        assert cache.explain(select(Kid.title)).tables[0].tags == ("main.kid*", "main.kid!")
        assert cache.stats()["reasons"]["defect: the compiler rendered columns not found: kid.name"] == 1


# -- mapped classes --------------------------------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = "parent"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    name: Mapped[str]
    kids: Mapped[list[Kid]] = relationship(back_populates="parent", order_by="Kid.rank")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "parent"}  # noqa: RUF012 - as the ORM declares it


class Child(Parent):
    __tablename__ = "child"
    id: Mapped[int] = mapped_column(ForeignKey("parent.id"), primary_key=True)
    age: Mapped[int]
    size: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "child"}  # noqa: RUF012 - as the ORM declares it


class Kid(Base):
    __tablename__ = "kid"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("parent.id"))
    title: Mapped[str] = mapped_column("name")
    rank: Mapped[int]
    notes: Mapped[str] = mapped_column(deferred=True)
    parent: Mapped[Parent | None] = relationship(back_populates="kids")


class Counted(Base):
    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True)
    kids: Mapped[int] = column_property(select(func.count(Kid.id)).where(Kid.parent_id == id).scalar_subquery())


KIDS = select(Kid).where(Kid.parent_id == 3).subquery()
OF_KIDS = aliased(Kid, KIDS)
WHOLE_KID: set[str] = {"id", "parent_id", "name", "rank"}

MAPPED: dict[str, tuple[Any, Used]] = {
    "entity": (select(Parent), {"parent": ALL}),
    "entity with a deferred column": (select(Kid), {"kid": WHOLE_KID}),
    "attribute under another name": (select(Kid.title), {"kid": {"name"}}),
    "bundle": (select(Bundle("b", Kid.title, Kid.rank)), {"kid": {"name", "rank"}}),
    "load_only": (select(Kid).options(load_only(Kid.rank)), {"kid": {"id", "rank"}}),
    "aliased": (select(aliased(Kid).rank), {"kid": {"rank"}}),
    "joined eager load and its order": (
        select(Parent).options(joinedload(Parent.kids).load_only(Kid.title)),
        {"parent": ALL, "kid": {"id", "parent_id", "name", "rank"}},
    ),
    "joined eager load of a page": (
        select(Parent).limit(2).options(joinedload(Parent.kids).load_only(Kid.title)),
        {"parent": ALL, "kid": {"id", "parent_id", "name", "rank"}},
    ),
    "contains_eager": (
        select(Kid).join(Kid.parent).options(load_only(Kid.id), contains_eager(Kid.parent).load_only(Parent.name)),
        {"kid": {"id", "parent_id"}, "parent": ALL},
    ),
    "joined inheritance: each table by itself": (
        select(Child.age).where(Child.name == "x"),
        {"parent": {"id", "name"}, "child": {"id", "age"}},
    ),
    "discriminator": (select(Parent.name).where(Parent.kind == "child"), {"parent": {"name", "kind"}}),
    "with_polymorphic": (select(with_polymorphic(Parent, [Child])), {"parent": ALL, "child": ALL}),
    "column property": (select(Counted), {"counted": ALL, "kid": {"id", "parent_id"}}),
    "any": (
        select(Parent.name).where(Parent.kids.any(Kid.rank == 1)),
        {"parent": {"id", "name"}, "kid": {"parent_id", "rank"}},
    ),
    "has": (
        select(Kid.title).where(Kid.parent.has(name="x")),
        {"kid": {"name", "parent_id"}, "parent": {"id", "name"}},
    ),
    "relationship join": (select(Parent.name).join(Parent.kids), {"parent": {"id", "name"}, "kid": {"parent_id"}}),
    "criteria that come with the class": (
        select(Kid.title).options(with_loader_criteria(Kid, Kid.rank == 3)),
        {"kid": {"name", "rank"}},
    ),
    "order by a text": (select(Kid.id).order_by("rank"), {"kid": {"id", "rank"}}),
    "EXISTS of an entity": (select(select(Kid).where(Kid.rank == 3).exists()), {"kid": {"rank"}}),
    "count of entities, as paginate() asks": (select(func.count()).select_from(KIDS), {"kid": {"parent_id"}}),
    "count of entities, as Query.count() asks": (
        select(func.count(literal_column("*"))).select_from(KIDS),
        {"kid": {"parent_id"}},
    ),
    "entity of a subquery": (select(OF_KIDS), {"kid": ALL}),
    "attribute of a subquery's entity": (select(func.count()).where(OF_KIDS.rank == 1), {"kid": ALL}),
    "entity in EXISTS and elsewhere": (
        select(Parent.name).where(exists(same := select(Kid.rank).limit(1).scalar_subquery()), Parent.id == same),
        {"parent": {"id", "name"}, "kid": {"rank"}},
    ),
}


@pytest.mark.parametrize("case_name", MAPPED)
def test_attributes_count_as_the_columns_that_are_rendered_for_them(case_name: str) -> None:
    statement, expected = MAPPED[case_name]
    assert used(statement) == expected


def test_criteria_in_nested_selects_count_where_they_are_rendered() -> None:
    statement = select(Parent.name).where(exists().where(Kid.parent_id == Parent.id))
    statement = statement.options(with_loader_criteria(Kid, Kid.rank == 3))
    # 2.0 does not apply criteria inside every kind of nested SELECT.
    assert ("rank" in (used(statement)["kid"] or ())) is ("rank" in str(statement.compile(dialect=SQLITE)))


def test_a_legacy_count_uses_what_its_filter_uses() -> None:
    session = Session(create_engine("sqlite://"))
    sent: list[Any] = []

    @event.listens_for(session, "do_orm_execute")
    def note(state: Any) -> Any:
        sent.append(state.statement)
        return state.session.connection().execute(select(literal(1)))

    session.query(Kid).filter(Kid.rank == 3).count()
    assert used(sent[0]) == {"kid": {"rank"}}


# -- tags ------------------------------------------------------------------------------------------------------------


def tags(statement: Any, untold: frozenset[str] = frozenset(), groups: Any = None) -> set[str]:
    made = dependencies_of(
        reads(statement),
        "x",
        lambda table: TableRead(table_name_of(table, "main"), groups, frozenset(), untold),
        SQLITE,
    ).tags(lambda bind: bind.effective_value)
    return {tag.decode().removeprefix("x/main.") for tag in made.tags[1:]}


def test_a_read_of_all_columns_depends_on_rows_alone() -> None:
    assert tags(select(p)) == {"p*"}
    assert tags(select(p).where(p.c.cat == 3)) == {"p|cat=?", "p|cat=3"}


def test_a_read_of_some_columns_depends_on_them_and_on_which_rows_there_are() -> None:
    assert tags(select(p.c.x1).where(p.c.cat > 3)) == {"p*#", "p*.x1", "p*.cat"}
    assert tags(select(func.count()).select_from(p)) == {"p*#"}


def test_the_column_that_narrows_is_the_same_in_all_its_rows() -> None:
    assert tags(select(p.c.x1).where(p.c.cat == 3)) == {"p|cat=?", "p|cat=3#", "p|cat=3.x1"}
    assert tags(select(p.c.x1, p.c.id).where(p.c.id.in_([3, 4]))) == {"p|pk=3#", "p|pk=3.x1", "p|pk=4#", "p|pk=4.x1"}


def test_a_row_that_changes_its_primary_key_is_another_row() -> None:
    assert tags(select(p.c.id, p.c.x1)) == {"p*#", "p*.x1"}


def test_names_of_columns_are_folded() -> None:
    assert tags(select(p.c.hits)) == {"p*#", "p*.hits"}


def test_a_read_that_uses_a_column_that_may_change_untold_depends_on_all() -> None:
    assert tags(select(p.c.x1, p.c.x2), frozenset({"x2"})) == {"p*"}
    assert tags(select(p.c.x1).where(p.c.cat == 1, p.c.x2 == 2), frozenset({"x2"})) == {"p|cat=?", "p|cat=1"}
    assert tags(select(p.c.x1), frozenset({"x2"})) == {"p*#", "p*.x1"}


def test_a_read_of_many_columns_depends_on_all() -> None:
    many = [p.c[f"x{number}"] for number in range(MAX_COLUMNS)]
    assert len(tags(select(*many))) == 1 + MAX_COLUMNS
    assert tags(select(*many, p.c.cat)) == {"p*"}
    assert tags(select(*many, p.c.x5).where(p.c.cat == 3)) == {"p|cat=?", "p|cat=3"}


def test_many_rows_by_their_values_are_not_told_by_column() -> None:
    few, many = range(MAX_NARROW_TAGS // 2), range(MAX_NARROW_TAGS // 2 + 1)
    assert "p|pk=1.x1" in tags(select(p.c.x1).where(p.c.id.in_(few)))
    assert tags(select(p.c.x1).where(p.c.id.in_(many))) == {f"p|pk={number}" for number in many}


def test_a_group_that_is_narrowed_whole_is_one_place() -> None:
    groups = [("cat", "uid"), "uid"]
    both = select(p.c.x1).where(p.c.uid == 1, p.c.cat == 2)
    assert tags(both, groups=groups) == {"p|cat,uid=?", "p|cat,uid=2,1#", "p|cat,uid=2,1.x1"}
    assert tags(select(p).where(p.c.uid == 1, p.c.cat.in_([2, 3])), groups=groups) == {
        "p|cat,uid=?",
        "p|cat,uid=2,1",
        "p|cat,uid=3,1",
    }


def test_a_group_of_which_a_column_is_free_does_not_narrow() -> None:
    groups = [("cat", "uid"), "uid"]
    assert tags(select(p).where(p.c.uid == 1), groups=groups) == {"p|uid=?", "p|uid=1"}
    assert tags(select(p).where(p.c.cat == 1), groups=groups) == {"p*"}


def test_the_first_group_that_fits_is_taken() -> None:
    both = select(p).where(p.c.uid == 1, p.c.cat == 2)
    assert tags(both, groups=["cat", ("cat", "uid")]) == {"p|cat=?", "p|cat=2"}


def test_null_stands_in_a_group_as_a_value() -> None:
    statement = select(p).where(p.c.uid.is_(None), p.c.cat == 2)
    assert tags(statement, groups=[("cat", "uid")]) == {"p|cat,uid=?", "p|cat,uid=2,!"}
