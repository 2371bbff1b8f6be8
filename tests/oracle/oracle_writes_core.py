"""Writes by a Connection: constructs of every kind, several sets of parameters, upserts, text, the driver's own cursor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oracle_schema import ROLE
from oracle_stage import Stage
from oracle_values import kind_of
from oracle_writes import CoreWrite, settable_in, write
from sqlalchemy import (
    Column,
    Connection,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import DBAPIError

_SPELLED = frozenset(
    {"int", "number", "small int", "big int", "text", "plain text", "nocase text", "bool", "uuid", "numeric"}
)
"""Kinds whose values SQLAlchemy can write into a text."""


def key_condition(stage: Stage, table: Table) -> Any:
    """Return a condition on the whole primary key of a table."""
    return and_(*(column == stage.value(column, null=False) for column in table.primary_key.columns))


def table_condition(stage: Stage, table: Table) -> Any:
    """Return a condition on the columns of a table: its key, most often."""
    if stage.dice.happens(0.6):
        return key_condition(stage, table)
    columns = [column for column in table.columns if kind_of(column).compares and kind_of(column).name in _SPELLED]
    column = stage.dice.one_of(columns) if columns else next(iter(table.primary_key.columns))
    value, other = (stage.value(column, null=False) for _ in range(2))
    return stage.dice.one_of(
        [column == value, column == value, column.in_([value, other]), column.is_(None), column != value]
        + ([or_(column == value, column.is_(None))] if column.nullable else [])
    )


def _spelled(column: Column[Any]) -> bool:
    return kind_of(column).name in _SPELLED


def _new_value(stage: Stage, column: Column[Any]) -> Any:
    """Return what a column is set to: a value, or what the database computes."""
    value = stage.value(column)
    if kind_of(column).counts and not column.foreign_keys and stage.dice.happens(0.3):
        return stage.dice.one_of([column + 1, func.coalesce(column, 0) + 1, case((column == 1, 2), else_=1)])
    return value


@write("Core insert", 3, core=True)
def core_insert(stage: Stage) -> CoreWrite:
    table = stage.table()
    rows = [stage.row(list(table.columns), omit=0.2) for _ in range(stage.dice.weighted([(1, 3), (2, 1)]))]
    way = stage.dice.one_of(["one", "many", "values", "returning"])
    names = sorted(set.intersection(*(set(row) for row in rows)))
    alike = [{name: row[name] for name in names} for row in rows]

    def perform(connection: Connection) -> None:
        if way == "one":
            connection.execute(insert(table).values(rows[0]))
        elif way == "many":
            connection.execute(insert(table), alike)
        elif way == "values":
            connection.execute(insert(table).values(alike))
        else:
            connection.execute(insert(table).returning(*table.primary_key.columns), alike).all()

    return CoreWrite("Core insert", f"({way}) {table.name} {rows}", perform)


@write("Core update", 6, core=True)
def core_update(stage: Stage) -> CoreWrite | None:
    """Set one column or two of the rows that a condition finds."""
    table = stage.table()
    settable = settable_in(table)
    if not settable:
        return None
    chosen = stage.some_columns(settable, 1, 1 if stage.dice.happens(0.7) else 2)
    new = {column: _new_value(stage, column) for column in chosen}
    where = table_condition(stage, table)
    returning = stage.dialect != "mysql" and stage.dice.happens(0.2)

    def perform(connection: Connection) -> None:
        statement: Any = update(table).where(where).values(new)
        connection.execute(statement.returning(*table.primary_key.columns) if returning else statement)

    told = ", ".join(f"{column} = {value}" for column, value in new.items())
    return CoreWrite("Core update", f"{table.name} set {told} where {_told(where)}", perform)


@write("Core delete", 3, core=True)
def core_delete(stage: Stage) -> CoreWrite:
    table = stage.table()
    where = table_condition(stage, table)
    returning = stage.dice.happens(0.2)

    def perform(connection: Connection) -> None:
        statement: Any = delete(table).where(where)
        connection.execute(statement.returning(*table.primary_key.columns) if returning else statement)

    return CoreWrite("Core delete", f"{table.name} where {_told(where)}", perform)


@write("Core update, many", 2, core=True)
def core_update_many(stage: Stage) -> CoreWrite | None:
    """Update several rows by their keys with one statement and several sets of parameters."""
    table = stage.table()
    settable = settable_in(table)
    if not settable:
        return None
    column, keys = stage.dice.one_of(settable), list(table.primary_key.columns)
    rows = [
        {**{f"k{i}": stage.value(key, null=False) for i, key in enumerate(keys)}, "v": stage.value(column)}
        for _ in range(stage.dice.number(2, 3))
    ]  # fmt: skip

    def perform(connection: Connection) -> None:
        where = [key == bindparam(f"k{i}", type_=key.type) for i, key in enumerate(keys)]
        connection.execute(update(table).where(*where).values({column: bindparam("v", type_=column.type)}), rows)

    return CoreWrite("Core update, many", f"{table.name}.{column.name} {rows}", perform)


@write("upsert", 3, core=True)
def upsert(stage: Stage) -> CoreWrite | None:
    """Insert, or update, replace or ignore what is there, as each database spells it."""
    table = stage.table()
    settable = settable_in(table)
    row = stage.row(list(table.columns))
    way = stage.dice.one_of(["update", "ignore", "replace"])
    column = stage.dice.one_of(settable) if settable else None
    value = None if column is None else stage.value(column)

    def perform(connection: Connection) -> None:
        if stage.dialect == "mysql":
            statement: Any = mysql.insert(table).values(row)
            if way == "replace":
                statement = insert(table).values(row).prefix_with("IGNORE")
            elif way == "update" and column is not None:
                statement = statement.on_duplicate_key_update({column.name: value})
            else:
                statement = statement.prefix_with("IGNORE")
        else:
            statement = (sqlite.insert if stage.dialect == "sqlite" else postgresql.insert)(table).values(row)
            if way == "replace" and stage.dialect == "sqlite":
                statement = insert(table).values(row).prefix_with("OR REPLACE")
            elif way == "update" and column is not None:
                statement = statement.on_conflict_do_update(
                    index_elements=list(table.primary_key.columns), set_={column: value}
                )
            else:
                statement = statement.on_conflict_do_nothing()
        connection.execute(statement)

    return CoreWrite("upsert", f"({way}) {table.name} {row} {column} = {value!r}", perform)


@write("insert from select", 1, core=True)
def insert_from(stage: Stage) -> CoreWrite | None:
    """Copy a row of a table under another key."""
    table = stage.table()
    keys = list(table.primary_key.columns)
    others = [
        column for column in table.columns if not column.primary_key and column.computed is None and not column.unique
    ]
    values = [stage.value(key, null=False) for key in keys]
    where = table_condition(stage, table)

    def perform(connection: Connection) -> None:
        chosen = select(*(literal(value, key.type) for value, key in zip(values, keys, strict=True)), *others).where(
            where
        )
        connection.execute(insert(table).from_select([*keys, *others], chosen.limit(1)))

    return CoreWrite("insert from select", f"{table.name} {values} where {_told(where)}", perform)


def _pair_of_tables(stage: Stage) -> tuple[Table, Table, Column[Any], Column[Any]] | None:
    """Return two tables, and a column of each that can be compared."""
    table, other = stage.table(), stage.table()
    if table is other:
        return None
    pairs = [(a, b) for a in table.columns for b in other.columns if kind_of(a) is kind_of(b) and kind_of(a).compares]
    keyed = [(a, b) for a, b in pairs if a.references(b) or b.references(a)]
    if not pairs:
        return None
    return (table, other, *stage.dice.one_of(keyed or pairs))


@write("update or delete by another table", 2, core=True)
def multi_table(stage: Stage) -> CoreWrite | None:
    """UPDATE .. FROM, DELETE .. USING where there is one, and both by a subquery."""
    found = _pair_of_tables(stage)
    if found is None:
        return None
    table, other, here, there = found
    where, settable = table_condition(stage, other), settable_in(table)
    verb = stage.dice.one_of(["update", "update", "delete"]) if settable else "delete"
    joined = stage.dice.happens(0.6) and not (verb == "delete" and stage.dialect == "sqlite")
    column = stage.dice.one_of(settable) if settable else None
    value = None if column is None else stage.value(column)

    def perform(connection: Connection) -> None:
        statement: Any = delete(table) if column is None or verb == "delete" else update(table).values({column: value})
        which = [here == there, where] if joined else [here.in_(select(there).where(where))]
        connection.execute(statement.where(*which))

    told = f"{verb} {table.name} set {column} = {value!r} where {here} = {there} and {_told(where)}"
    return CoreWrite("update or delete by another table", told, perform)


@write("DML in a CTE", 1, core=True)
def dml_in_cte(stage: Stage) -> CoreWrite | None:
    """Write in a CTE of a SELECT, or of another write (PostgreSQL); a write over a CTE that only reads (the others)."""
    table = stage.table()
    settable = settable_in(table)
    if not settable:
        return None
    column, where = stage.dice.one_of(settable), table_condition(stage, table)
    value = stage.value(column)
    key = next(iter(table.primary_key.columns))
    verb = stage.dice.one_of(["update", "delete"])
    reads = stage.dice.happens(0.5)

    def perform(connection: Connection) -> None:
        if stage.dialect == "postgresql":
            changed: Any = update(table).values({column: value}) if verb == "update" else delete(table)
            cte = changed.where(where).returning(*table.primary_key.columns).cte("changed")
            connection.execute(select(cte) if reads else select(func.count()).select_from(table).add_cte(cte)).all()
            return
        chosen = select(key.label("chosen")).where(where).cte("chosen")
        statement: Any = update(table).values({column: value}) if verb == "update" else delete(table)
        connection.execute(statement.where(key.in_(select(chosen.c.chosen))))

    return CoreWrite("DML in a CTE", f"{verb} {table.name}.{column.name} = {value!r} where {_told(where)}", perform)


def _statement_of(stage: Stage) -> tuple[Any, str] | None:
    """Return a statement that can be written as text."""
    table = stage.table()
    settable = [column for column in settable_in(table) if _spelled(column)]
    verb = stage.dice.one_of(["update", "update", "delete", "insert"])
    where = table_condition(stage, table)
    if verb == "update":
        if not settable:
            return None
        column = stage.dice.one_of(settable)
        value = _new_value(stage, column)
        return update(table).where(where).values(
            {column: value}
        ), f"update {table.name} {column} = {value} {_told(where)}"
    if verb == "delete":
        return delete(table).where(where), f"delete {table.name} {_told(where)}"
    needed = [c for c in table.columns if _spelled(c) or c.info.get(ROLE) == "class"]
    row = stage.row(needed, omit=0.3)
    return insert(table).values(row), f"insert {table.name} {row}"


def _text_of(connection: Connection, statement: Any) -> str:
    compiled = statement.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    return " ".join(str(compiled).split())


def _by_text(kind: str, weight: int, send: Callable[[Connection, str], Any]) -> None:
    @write(kind, weight, core=True)
    def textual(stage: Stage) -> CoreWrite | None:
        found = _statement_of(stage)
        if found is None:
            return None
        statement, told = found
        return CoreWrite(kind, told, lambda connection: send(connection, _text_of(connection, statement)))


def _by_cursor(connection: Connection, sql: str) -> None:
    if connection.dialect.is_async:  # a cursor of an adapter's is not heard: CAVEATS.md
        connection.exec_driver_sql(sql)
        return
    cursor = connection.connection.cursor()
    try:
        cursor.execute(sql)
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError(sql, None, error) from error
    finally:
        cursor.close()


_by_text("text()", 3, lambda connection, sql: connection.execute(text(sql.replace(":", "\\:"))))
_by_text("exec_driver_sql", 2, lambda connection, sql: connection.exec_driver_sql(sql))
_by_text("driver cursor", 1, _by_cursor)


@write("text() with parameters", 2, core=True)
def bound_text(stage: Stage) -> CoreWrite | None:
    """Send a text with several sets of parameters, by SQLAlchemy's spelling of them or the driver's."""
    table = stage.table()
    settable = [
        column for column in settable_in(table) if kind_of(column).name in ("int", "text", "plain text", "nocase text")
    ]
    keys = list(table.primary_key.columns)
    if not settable or not all(kind_of(key).name in ("int", "number", "text", "nocase text") for key in keys):
        return None
    column = stage.dice.one_of(settable)
    rows = [
        {**{f"k{i}": stage.value(key, null=False) for i, key in enumerate(keys)}, "v": stage.value(column)}
        for _ in range(stage.dice.number(1, 2))
    ]  # fmt: skip

    def perform(connection: Connection) -> None:
        quote = connection.dialect.identifier_preparer.quote
        where = " AND ".join(f"{quote(key.name)} = :k{i}" for i, key in enumerate(keys))
        sql = f"UPDATE {quote(table.name)} SET {quote(column.name)} = :v WHERE {where}"
        connection.execute(text(sql), rows if len(rows) > 1 else rows[0])

    return CoreWrite("text() with parameters", f"{table.name}.{column.name} {rows}", perform)


@write("code in the database", 1, core=True)
def code(stage: Stage) -> CoreWrite | None:
    """Have the database run code that is not looked into (PostgreSQL)."""
    found = _statement_of(stage)
    if found is None or stage.dialect != "postgresql":
        return None
    statement, told = found

    def perform(connection: Connection) -> None:
        connection.exec_driver_sql(f"DO $oracle$ BEGIN {_text_of(connection, statement)}; END $oracle$")

    return CoreWrite("code in the database", told, perform)


def _told(where: Any) -> str:
    return f"{where} {where.compile().params}"
