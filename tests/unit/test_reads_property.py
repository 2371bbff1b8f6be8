"""Whatever is asked and whatever row changes: if the answer changes, a tag is shared. Run on a real SQLite.

Statements and rows are drawn by a seeded generator, denser than Hypothesis draws them; to each, every change of one cell,
every deletion and some insertions are made in turn. ``QUERYCACHE_TEST_EXAMPLES`` asks for more than the usual number.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import pytest
from sqlalchemy import (
    Column,
    ColumnElement,
    FromClause,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    and_,
    case,
    exists,
    false,
    func,
    not_,
    or_,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from querycache.statements import tags as naming
from querycache.statements.dependencies import TableRead, dependencies_of
from querycache.statements.reads import SelectReads, reads_of

metadata = MetaData()
u = Table("u", metadata, Column("id", Integer, primary_key=True), Column("grp", Integer), Column("nick", String))
p = Table("p", metadata, Column("id", Integer, primary_key=True), Column("uid", Integer), Column("cat", Integer))
m = Table(
    "m",
    metadata,
    Column("a", Integer, primary_key=True),
    Column("b", Integer, primary_key=True),
    Column("n", Integer),
)
TABLES = (u, p, m)
DIALECT = sqlite.dialect()
EXAMPLES = int(os.environ.get("QUERYCACHE_TEST_EXAMPLES", "900"))
BATCHES = 6

Row = Mapping[str, Any]
Data = dict[Table, list[Row]]
Elements = list[FromClause]
Condition = ColumnElement[Any]


# -- rows and changes, and their tags with full knowledge ------------------------------------------------------------


def cells(column: Column[Any]) -> list[Any]:
    if column.primary_key:
        return [1, 2, 3]
    return ["1", "a", "A", None] if isinstance(column.type, String) else [1, 2, 3, None]


def identity(table: Table, row: Row) -> tuple[Any, ...]:
    return tuple(row[column.name] for column in table.primary_key.columns)


def draw_row(random: Random, table: Table) -> Row:
    return {column.name: random.choice(cells(column)) for column in table.columns}


def draw_data(random: Random) -> Data:
    rows = {table: [draw_row(random, table) for _ in range(random.randint(1, 4))] for table in TABLES}
    return {table: list({identity(table, row): row for row in found}.values()) for table, found in rows.items()}


@dataclass(frozen=True)
class Change:
    """One row's change: ``old`` is None for an insert, ``new`` for a delete."""

    table: Table
    old: Row | None
    new: Row | None
    old_is_known: bool = True


def changes_of(random: Random, data: Data) -> Iterator[Change]:
    for table, rows in data.items():
        taken = {identity(table, row) for row in rows}
        for row in rows:
            yield Change(table, row, None, random.random() < 0.7)
            for column in table.columns:
                for value in cells(column):
                    new = {**row, column.name: value}
                    if identity(table, new) == identity(table, row) or identity(table, new) not in taken:
                        yield Change(table, row, new, random.random() < 0.7)
        for _ in range(4):
            new = dict(draw_row(random, table))
            if identity(table, new) not in taken:
                yield Change(table, None, new)


def change_tags(change: Change) -> set[bytes]:
    """Return the tags of one row's change, by the table of changes."""
    table, bind = change.table, "x"
    name = naming.table_name_of(table, None)
    tags = {naming.rows_tag(bind, name)}
    images = [image for image in (change.old, change.new) if image is not None]
    for image in images:
        key = [canonical(column, image[column.name]) for column in naming.key_columns_of(table, DIALECT)]
        tags.add(naming.key_tag(bind, name, key))
    for column in naming.value_columns_of(table, DIALECT):
        for image in images:
            if image is change.old and not change.old_is_known and not column.primary_key:
                tags.add(naming.unknown_tag(bind, name, column.name))
            else:
                tags.add(naming.value_tag(bind, name, column.name, canonical(column, image[column.name])))
    return tags


def canonical(column: Column[Any], value: object) -> str:
    canonical_of = naming.canonical_value_of(column.type, DIALECT)
    assert canonical_of is not None
    text = naming.NULL_CANONICAL if value is None else canonical_of(value)
    assert text is not None
    return text


def apply(connection: sqlite3.Connection, change: Change) -> None:
    name = change.table.name
    if change.old is not None:
        where = " AND ".join(f"{column.name} = ?" for column in change.table.primary_key.columns)
        connection.execute(f"DELETE FROM {name} WHERE {where}", identity(change.table, change.old))
    if change.new is not None:
        insert(connection, change.table, change.new)


def insert(connection: sqlite3.Connection, table: Table, row: Row) -> None:
    places = ", ".join("?" for _ in row)
    connection.execute(f"INSERT INTO {table.name} ({', '.join(row)}) VALUES ({places})", tuple(row.values()))


# -- statements ------------------------------------------------------------------------------------------------------


def columns_of(elements: Elements) -> list[Condition]:
    return [column for element in elements for column in element.columns]


def draw_column(random: Random, elements: Elements) -> Condition:
    return random.choice(columns_of(elements))


def draw_condition(random: Random, elements: Elements, depth: int = 2) -> Condition:
    simple = ["eq"] * 6 + ["in", "in", "null", "null", "columns", "columns", "true", "greater", "not in"]
    kind = random.choice(simple + (["or"] * 4 + ["and", "not", "case", "exists", "in select"] if depth else []))
    if kind in ("or", "and"):
        parts = [draw_condition(random, elements, depth - 1) for _ in range(2)]
        return or_(*parts) if kind == "or" else and_(*parts)
    if kind == "not":
        return not_(and_(draw_condition(random, elements, depth - 1), true()))
    if kind == "case":
        return case((draw_condition(random, elements, depth - 1), 0), else_=1) == 1
    if kind in ("exists", "in select"):
        return draw_subquery(random, elements, depth - 1, as_list=kind == "in select")
    return draw_simple_condition(random, elements, kind)


def draw_simple_condition(random: Random, elements: Elements, kind: str) -> Condition:
    column = draw_column(random, elements)
    known = ["1", "a"] if isinstance(column.type, String) else [1, 2, 3]
    conditions: dict[str, Condition] = {
        "eq": column == random.choice(known),
        "in": column.in_(random.choices([*known, None], k=random.randint(0, 2))),
        "not in": column.not_in(random.choices(known, k=1)),
        "null": column.is_(None),
        "columns": column == draw_column(random, elements),
        "true": column == random.choice([true(), false()]),
        "greater": column > random.choice(known),
    }
    return conditions[kind]


def draw_subquery(random: Random, outer: Elements, depth: int, *, as_list: bool) -> Condition:
    inner = random.choice(TABLES).alias()
    where = [draw_condition(random, [inner], depth) for _ in range(random.randint(0, 1))]
    if as_list:
        column, chosen = draw_column(random, outer), select(draw_column(random, [inner])).where(*where)
        return cast(Condition, random.choice([column.in_, column.not_in])(chosen))
    there = exists().where(draw_column(random, [inner]) == draw_column(random, outer), *where)
    return random.choice([there, ~there])


def draw_source(random: Random) -> tuple[FromClause, Elements]:
    source: FromClause = random.choice(TABLES).alias()
    elements = [source]
    for _ in range(random.choice([0, 1, 1, 1, 2])):
        other: FromClause = random.choice(TABLES).alias()
        both = [*elements, other]
        extra = [draw_condition(random, both, 1) for _ in range(random.choice([0, 0, 1, 2]))]
        on = and_(draw_column(random, elements) == draw_column(random, [other]), *extra)
        kind = random.choice(["inner", "left", "left", "right", "full"])
        if kind == "right":
            source = other.outerjoin(source, on)
        else:
            source = source.join(other, on, isouter=kind == "left", full=kind == "full")
        elements = both
    return source, elements


def draw_block(random: Random) -> tuple[Select[Any], Elements]:
    source, elements = draw_source(random)
    where = [draw_condition(random, elements) for _ in range(random.choice([0, 1, 1, 1, 2]))]
    return select(*columns_of(elements)).select_from(source).where(*where), elements


def draw_statement(random: Random) -> Any:
    block, elements = draw_block(random)
    columns, one = columns_of(elements), draw_column(random, elements)
    kind = random.choice(["rows"] * 4 + ["count", "distinct", "page", "group", "derived", "union", "scalar", "cte"])
    if kind == "count":
        return block.with_only_columns(func.count(), func.sum(one), maintain_column_froms=True)
    if kind == "distinct":
        return block.with_only_columns(one, maintain_column_froms=True).distinct()
    if kind == "page":
        return block.order_by(*columns).limit(random.randint(1, 2)).offset(random.randint(0, 1))
    if kind == "group":
        return block.with_only_columns(one, func.count(), maintain_column_froms=True).group_by(one)
    if kind in ("derived", "cte"):
        page = block.order_by(*columns).limit(2)
        inner: FromClause = page.subquery() if kind == "derived" else page.cte()
        return select(inner).where(draw_condition(random, [inner], 0))
    if kind == "union":
        other, more = draw_block(random)
        return union_all(
            block.with_only_columns(one, maintain_column_froms=True),
            other.with_only_columns(draw_column(random, more), maintain_column_froms=True),
        )
    if kind == "scalar":
        table = random.choice(TABLES).alias()
        counted = select(func.count()).select_from(table).where(draw_condition(random, [table, *elements], 1))
        return block.add_columns(counted.correlate(*elements).scalar_subquery())
    return block


# -- the property ----------------------------------------------------------------------------------------------------


def rendered_by(statement: Any) -> tuple[str, list[tuple[Any, tuple[Any, ...]]]]:
    """Return a statement's SQL and the SELECTs that it was rendered from."""
    rendered: list[tuple[Any, tuple[Any, ...]]] = []
    base = DIALECT.statement_compiler

    class Recording(base):  # type: ignore[valid-type,misc]
        def _compose_select_body(self, text: Any, select: Any, state: Any, inner: Any, froms: Any, *more: Any) -> Any:
            rendered.append((select, tuple(froms)))
            return super()._compose_select_body(text, select, state, inner, froms, *more)

    compiled = Recording(DIALECT, statement, compile_kwargs={"literal_binds": True})
    return str(compiled), rendered


def read_tags(statement: Any, rendered: Any) -> set[bytes]:
    found = reads_of(statement, DIALECT, rendered)
    assert isinstance(found, SelectReads), found
    made = dependencies_of(found, "x", lambda table: TableRead(naming.table_name_of(table, None)), DIALECT).tags(
        lambda bind: bind.effective_value
    )
    return set(made.tags) | {tag for tag, _ in made.guards}


def answer(connection: sqlite3.Connection, sql: str) -> list[str]:
    # Without ORDER BY the order is the database's; where there is a LIMIT, every column is in the ORDER BY.
    return sorted(map(repr, connection.execute(sql).fetchall()))


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for table in TABLES:
        connection.execute(str(CreateTable(table).compile(dialect=DIALECT)))
    yield connection
    connection.close()


def unnoticed(connection: sqlite3.Connection, random: Random) -> tuple[list[str], int]:
    """Return what went wrong with one statement, and how many changes of its answer a narrowed tag told of."""
    data, statement = draw_data(random), draw_statement(random)
    sql, rendered = rendered_by(statement)
    tags = [read_tags(statement, rendered), read_tags(statement, None)]
    connection.execute("BEGIN")
    for table, rows in data.items():
        for row in rows:
            insert(connection, table, row)
    before = answer(connection, sql)
    wrong, told = [], 0
    for change in changes_of(random, data):
        connection.execute("SAVEPOINT one")
        apply(connection, change)
        if answer(connection, sql) != before:
            changed = change_tags(change)
            told += naming.rows_tag("x", naming.table_name_of(change.table, None)) not in tags[0]
            if not all(found & changed for found in tags):
                wrong.append(f"{change}\n{sql}\n{data}\n{sorted(tags[0])}\n{sorted(changed)}")
        connection.execute("ROLLBACK TO one")
    connection.execute("ROLLBACK")
    return wrong, told


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_change_of_the_answer_shares_a_tag(connection: sqlite3.Connection, batch: int) -> None:
    told_by_narrowed = 0
    for example in range(EXAMPLES // BATCHES):
        wrong, told = unnoticed(connection, Random(f"{batch}/{example}"))
        told_by_narrowed += told
        assert not wrong, wrong[0]
    # Else the generator has drifted to where nothing narrows, and the test says nothing.
    assert told_by_narrowed > EXAMPLES // BATCHES // 10


def test_a_change_that_does_not_concern_a_narrowed_read_shares_no_tag() -> None:
    change = Change(p, {"id": 1, "uid": 1, "cat": 1}, {"id": 1, "uid": 1, "cat": 2})
    assert not read_tags(select(p).where(p.c.cat == 3), None) & change_tags(change)
