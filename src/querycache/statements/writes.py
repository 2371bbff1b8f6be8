"""What does a statement that is about to be sent change?

Two answers, both pure. ``effect_of_compiled`` says once per compiled statement which tables it writes, how, and how the
rows are known. ``row_changes_of`` says per execution which rows, by the values sent along. What is not positively
understood is widened: to the table, to the whole bind.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import Alias, BindParameter, Column, FromClause, Join, Select, SelectBase, Table, TableClause, Update
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Delete, Insert, UpdateBase
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList, TextClause
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import AliasedReturnsRows

from querycache._sqlalchemy import plain_table
from querycache.statements.rawsql import TableName as WrittenName
from querycache.statements.rawsql import TextEffect, effect_of_text, is_mighty

How: TypeAlias = Literal["insert", "update", "delete", "any"]

_NOT_STORED: Final = frozenset({"information_schema", "performance_schema", "mysql", "sys"})
"""Schemas whose tables have no snapshot on MySQL and MariaDB: to read them takes none."""

_COMPARISONS: Final = frozenset({operators.eq, operators.ne, operators.lt, operators.le, operators.gt, operators.ge})

# What may be declared to read or write: anything else may change the catalog or what later statements mean.
_TELLABLE: Final = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*(?s:.*?)\*/)*"
    r"(?:SELECT|WITH|VALUES|TABLE|INSERT|UPDATE|DELETE|REPLACE|MERGE|CALL|DO|COPY|LOAD|TRUNCATE|EXECUTE)\b",
    re.IGNORECASE,
)

MAX_ROWS: Final = 1000
"""More rows than this in one execution are not followed one by one: the table is."""


class Sentinel(Enum):
    """What stands for a value that only the database knows."""

    UNKNOWN = auto()


UNKNOWN: Final = Sentinel.UNKNOWN


@dataclass(frozen=True, slots=True)
class Comparison:
    """A condition on a row beside its primary key: ``column operator value``; the column by its key.

    In a ``TableWrite`` ``value`` is the name under which it is bound, in a ``RowChange`` what is sent.
    """

    operator: Callable[[Any, Any], Any]
    column: str
    value: Any


@dataclass(frozen=True, slots=True)
class TableWrite:
    """One table that a statement writes.

    ``key_names`` are the bind names that pin the primary key, in its columns' order: empty where rows are not known one by
    one. ``set_by_value`` are keys of columns set to a bound value, ``set_by_database`` of those set in another way.
    ``conditions`` must hold too, such as a version's; None where they are not comparisons with a bound value.
    """

    table: Table
    how: How
    key_names: tuple[str, ...] = ()
    set_by_value: frozenset[str] = frozenset()
    set_by_database: frozenset[str] = frozenset()
    row_by_row: bool = False
    conditions: tuple[Comparison, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Effect:
    """What a statement does. ``kind`` as in ``rawsql.TextEffect``, "unknown" standing for DDL too.

    ``sources``: the tables of a SELECT each of whose rows was surely made of a row of one of them; empty where it is not.
    ``named_sources`` are those of a text. ``keeps_names``: the names of tables mean the same after it as before.
    ``is_declared``: it writes nothing but what ``named_writes`` and ``writes`` say and cascades reach, by a user's word.
    ``locked``: the table of which a SELECT returns rows, each locked against every change, where it reads no other.
    ``may_commit``: it may commit by itself. ``variable``: it does nothing but to set this one, which the database itself has
    no use for; ``is_local``: until the transaction ends.
    """

    kind: str
    writes: tuple[TableWrite, ...] = ()
    named_writes: frozenset[WrittenName] = frozenset()
    functions: frozenset[str] = frozenset()
    reads_tables: bool = False
    sources: frozenset[Table] = frozenset()
    named_sources: frozenset[WrittenName] = frozenset()
    locks_rows: bool = False
    locked: Table | None = None
    deletes: bool = False
    is_ddl: bool = False
    keeps_names: bool = True
    is_declared: bool = False
    may_commit: bool = False
    variable: str | None = None
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class RowChange:
    """One row that is inserted, or updated or deleted by its primary key.

    ``key``: the primary key's values, None where it is not known (yet). ``new``: values by column key, as sent to the
    driver before processing; ``UNKNOWN`` where the database makes them; a column that is not named keeps its old value.
    ``conditions``: it is changed only where they hold, as far as they are known.
    """

    table: Table
    how: How
    key: tuple[Any, ...] | None
    new: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[Comparison, ...] = ()


def effect_of_textual(text: str, dialect_name: str) -> Effect:
    """Tell what SQL that was given as text does."""
    return _of_text(effect_of_text(text, dialect_name))


def declared_effect(effect: Effect, text: str, reads: bool, writes: frozenset[WrittenName] | None) -> Effect:
    """Take a user's word for what a statement does beside what is known of it: that it reads only, or what it writes.

    DDL stays what it is, and a statement that surely writes is not made one that reads.
    """
    if effect.is_ddl or effect.kind not in ("read", "write", "unknown") or not _TELLABLE.match(text):
        return effect
    if writes is not None:
        return replace(
            effect,
            kind="write",
            named_writes=effect.named_writes | writes,
            functions=frozenset(),
            deletes=True,
            is_declared=True,
            may_commit=effect.kind == "unknown",
        )
    if reads and effect.kind != "write":
        return replace(effect, kind="read", functions=frozenset(), reads_tables=True)
    return effect


def effect_of_compiled(compiled: Any) -> Effect | None:
    """Tell what a compiled construct does; None where only the text that is sent can tell."""
    if not isinstance(compiled, SQLCompiler):
        return Effect("unknown", is_ddl=True)
    root: Any = compiled.statement
    core: Any = getattr(compiled.compile_state, "statement", None)
    core = root if core is None else core
    functions, written, opaque = _inspect(core)
    opaque = opaque or any(is_mighty(name, compiled.dialect.name) for name in functions)
    for cte in compiled.ctes or ():
        if isinstance(cte.element, UpdateBase):
            written.append(cte.element)
    if compiled.isinsert or compiled.isupdate or compiled.isdelete:
        main, *others = _writes_of_dml(compiled, core), *(_whole(dml) for dml in written if dml is not core)
        effect = Effect(
            "write",
            writes=tuple(write for writes in (main, *others) for write in writes),
            functions=functions,
            deletes=compiled.isdelete or _replaces(core),
        )
        return None if opaque or any(map(_is_bare, (core, *written))) else effect
    if getattr(core, "is_select", False) and not opaque and not any(map(_is_bare, written)):
        writes = tuple(write for dml in written for write in _whole(dml))
        return Effect(
            "write" if writes else "read",
            writes=writes,
            functions=functions,
            reads_tables=_reads_stored_rows(core),
            sources=frozenset() if functions else _sources_of(core),
            locks_rows=any(getattr(part, "_for_update_arg", None) is not None for part in visitors.iterate(core)),
            locked=None if writes else _locked_by(core),
            deletes=bool(writes),
        )
    return None


def _locked_by(core: Any) -> Table | None:
    """Return the table each of whose rows that a SELECT returns it locks as an update would, where that is all of its FROM."""
    how = getattr(core, "_for_update_arg", None)
    if not isinstance(core, Select) or how is None or how.read or how.of:
        return None
    sources = core.get_final_froms()
    is_plain = len(sources) == 1 and isinstance(sources[0], Table)
    is_row_by_row = not (core._group_by_clauses or core._having_criteria or core._distinct)
    return plain_table(sources[0]) if is_plain and is_row_by_row else None


def _reads_stored_rows(core: Any) -> bool:
    schemas = [element.schema for element in visitors.iterate(core) if isinstance(element, Table)]
    return not _NOT_STORED.issuperset(schemas)


def _sources_of(core: Any) -> frozenset[Table]:
    """Return the tables of a SELECT's FROM where nothing else stands there; an aggregate has a row for no row at all."""
    if not isinstance(core, Select):
        return frozenset()
    parts = [part for source in core.get_final_froms() for part in visitors.iterate(source)]
    if any(isinstance(part, (SelectBase, FromClause)) and not isinstance(part, (Table, Join, Alias)) for part in parts):
        return frozenset()
    return frozenset(part for part in parts if isinstance(part, Table))


def row_changes_of(write: TableWrite, parameters: Sequence[Mapping[str, Any]]) -> list[RowChange] | None:
    """Return the rows that one execution changes; None where they are not known one by one."""
    if not write.row_by_row or len(parameters) > MAX_ROWS:
        return None
    return [_row_change(write, row) for row in parameters]


def _row_change(write: TableWrite, row: Mapping[str, Any]) -> RowChange:
    new: dict[str, Any] = {key: row.get(key, UNKNOWN) for key in write.set_by_value}
    new.update(dict.fromkeys(write.set_by_database, UNKNOWN))
    if write.how == "insert":
        key_columns = list(write.table.primary_key.columns)
        values = tuple(new.get(column.key, UNKNOWN) for column in key_columns)
        return RowChange(
            write.table, "insert", None if not values or UNKNOWN in values or None in values else values, new
        )
    conditions = tuple(Comparison(one.operator, one.column, row[one.value]) for one in write.conditions or ())
    return RowChange(write.table, write.how, tuple(row[name] for name in write.key_names), new, conditions)


def _of_text(effect: TextEffect) -> Effect:
    return Effect(
        effect.kind,
        named_writes=effect.writes,
        functions=effect.functions,
        reads_tables=any(schema not in _NOT_STORED for schema, _ in effect.reads),
        named_sources=effect.reads if effect.is_plain else frozenset(),
        locks_rows=effect.locks,
        deletes=effect.deletes,
        keeps_names=effect.keeps_names,
        variable=effect.variable,
        is_local=effect.is_local,
    )


def _inspect(root: Any) -> tuple[frozenset[str], list[UpdateBase], bool]:
    """Return the functions called, the DML found inside, and whether there is text that nobody understands."""
    functions: set[str] = set()
    written: list[UpdateBase] = []
    opaque = False
    for element in visitors.iterate(root):
        if isinstance(element, FunctionElement):
            functions.add(str(getattr(element, "name", "") or type(element).__name__).lower())
        elif isinstance(element, UpdateBase):
            written.append(element)
        elif isinstance(element, TextClause) or (
            getattr(element, "is_literal", False) and not _harmless_literal(element)
        ):
            opaque = True
    for attribute in ("_prefixes", "_suffixes", "_statement_hints"):
        opaque = opaque or (bool(getattr(root, attribute, ())) and not isinstance(root, UpdateBase))
    return frozenset(functions), written, opaque


def _is_bare(dml: UpdateBase) -> bool:
    """Tell whether a change may be of a table() that is no Table of the metadata: only the text that is sent names it."""
    found = list(_tables_in(dml))
    return not found or not all(isinstance(table, Table) for table in found)


def _harmless_literal(element: Any) -> bool:
    name = str(getattr(element, "name", ""))
    return name == "*" or name.isalnum()


def _replaces(core: Any) -> bool:
    return isinstance(core, Insert) and (bool(core._prefixes) or core._post_values_clause is not None)


def _whole(dml: UpdateBase) -> tuple[TableWrite, ...]:
    return tuple(TableWrite(table, "any") for table in _tables_written(dml))


def _tables_written(dml: Any) -> Iterator[Table]:
    """Yield every table that a DML statement may write: all that stand in it, where it may name several."""
    target = dml.table
    if isinstance(dml, Insert) and isinstance(target, Table):
        yield target
        return
    yield from dict.fromkeys(table for table in _tables_in(dml) if isinstance(table, Table))


def _tables_in(dml: Any) -> Iterator[TableClause]:
    """Yield every table that stands in a DML statement, by itself, under an alias, or as that of a column."""
    for element in (dml.table, *visitors.iterate(dml)):
        for table in (element, getattr(element, "table", None)):
            while isinstance(table, AliasedReturnsRows):
                table = table.element
            if isinstance(table, TableClause):
                yield table


def _writes_of_dml(compiled: SQLCompiler, core: Any) -> tuple[TableWrite, ...]:
    target = core.table
    if not isinstance(target, Table):
        return _whole(core)
    if isinstance(core, Insert):
        return (_insert_of(compiled, core, target),)
    others = [table for table in _tables_written(core) if table is not target]
    # UPDATE OR REPLACE deletes the rows that are in its way.
    if getattr(compiled.compile_state, "is_multitable", False) or core._prefixes:
        return (TableWrite(target, "any"), *(TableWrite(table, "any") for table in others))
    if isinstance(core, Update):
        by_value, by_database = _assignments_of(compiled, target, onupdate=True)
        if not all(key in target.columns for key in (*by_value, *by_database)):
            # A part of a column, such as an array's element.
            return (TableWrite(target, "any"),)
        names = _key_names_of(compiled, core._where_criteria, target)
        conditions = _conditions_of(compiled, core._where_criteria, target, names)
        return (TableWrite(target, "update", names, by_value, by_database, bool(names), conditions),)
    if isinstance(core, Delete):
        names = _key_names_of(compiled, core._where_criteria, target)
        conditions = _conditions_of(compiled, core._where_criteria, target, names)
        return (TableWrite(target, "delete", names, row_by_row=bool(names), conditions=conditions),)
    return _whole(core)


def _insert_of(compiled: SQLCompiler, core: Insert, table: Table) -> TableWrite:
    plain = core._post_values_clause is None and not core._prefixes and core.select is None and not core._multi_values
    if not plain:
        return TableWrite(table, "any")
    by_value, by_database = _assignments_of(compiled, table, onupdate=False)
    unnamed = frozenset(column.key for column in table.columns) - by_value
    return TableWrite(table, "insert", (), by_value, by_database | unnamed, True)


def _assignments_of(compiled: SQLCompiler, table: Table, *, onupdate: bool) -> tuple[frozenset[str], frozenset[str]]:
    """Split the columns that a statement sets into those set to a bound value and those that the database computes."""
    by_value = {column.key for column in compiled.insert_prefetch or ()} | {
        column.key for column in compiled.update_prefetch or ()
    }
    by_database: set[str] = set()
    by_value.update(key for key in compiled.column_keys or () if key in table.columns)
    for name, value in (getattr(compiled.compile_state, "_dict_parameters", None) or {}).items():
        key = name if isinstance(name, str) else (name.key or "")
        plain = isinstance(value, BindParameter) and value.callable is None and (value.unique or value.key == key)
        is_expression = hasattr(value, "__clause_element__") or isinstance(value, visitors.Visitable)
        (by_value if plain or not is_expression else by_database).add(key)
    if onupdate:
        by_database.update(column.key for column in table.columns if _changes_by_itself(column))
    return frozenset(by_value - by_database), frozenset(by_database)


def _changes_by_itself(column: Column[Any]) -> bool:
    onupdate = column.onupdate
    computed_by_sql = onupdate is not None and bool(getattr(onupdate, "is_clause_element", False))
    return computed_by_sql or column.server_onupdate is not None or column.computed is not None


def _key_names_of(compiled: SQLCompiler, criteria: Sequence[Any], table: Table) -> tuple[str, ...]:
    """Return the bind names that pin the primary key in the top conjuncts of WHERE; empty where they don't."""
    pinned: dict[Column[Any], str] = {}
    for conjunct in _conjuncts(criteria):
        if isinstance(conjunct, BinaryExpression) and conjunct.operator is operators.eq:
            for column, value in ((conjunct.left, conjunct.right), (conjunct.right, conjunct.left)):
                if isinstance(value, BindParameter) and getattr(column, "table", None) == table:
                    name = compiled.bind_names.get(value)
                    original = table.columns.get(getattr(column, "key", ""))
                    if name is not None and original is not None and not value.expanding:
                        pinned.setdefault(original, name)
    names = [pinned.get(column) for column in table.primary_key.columns]
    return () if not names or None in names else tuple(name for name in names if name is not None)


def _conditions_of(
    compiled: SQLCompiler, criteria: Sequence[Any], table: Table, key_names: Sequence[str]
) -> tuple[Comparison, ...] | None:
    """Return the conditions of WHERE beside those that pin the primary key; None where one is of another kind."""
    found: list[Comparison] = []
    for conjunct in _conjuncts(criteria):
        column: Any = getattr(conjunct, "left", None)
        value: Any = getattr(conjunct, "right", None)
        operator = getattr(conjunct, "operator", None)
        if isinstance(column, BindParameter) and operator is operators.eq:
            column, value = value, column
        key: Any = getattr(column, "key", None)
        known = getattr(column, "table", None) == table and key in table.columns
        name = compiled.bind_names.get(value) if isinstance(value, BindParameter) and not value.expanding else None
        if not isinstance(conjunct, BinaryExpression) or operator not in _COMPARISONS or not known or name is None:
            return None
        if name not in key_names:
            found.append(Comparison(operator, key, name))
    return tuple(found)


def _conjuncts(criteria: Sequence[Any]) -> Iterator[Any]:
    for criterion in criteria:
        if isinstance(criterion, BooleanClauseList) and criterion.operator is operators.and_:
            yield from _conjuncts(tuple(criterion.clauses))
        else:
            yield criterion
