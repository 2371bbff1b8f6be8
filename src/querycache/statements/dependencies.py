"""Which tags stand for what a SELECT reads?

``dependencies_of`` resolves once what holds for every call on one database; ``Dependencies.tags`` adds the values of one
call. Both are pure. Promises that a change of rows which may alter the result shares a tag with it; a value that has no
canonical form widens its element to any row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final, TypeAlias

from sqlalchemy import BindParameter, Column, Table
from sqlalchemy.engine import Dialect

from querycache._types import Guard, Tag, TagSet
from querycache.statements import tags as naming
from querycache.statements.elements import names_the_clock
from querycache.statements.narrowing import IS_NULL, Constant, Operand
from querycache.statements.reads import ElementRead, SelectReads

VALUES_LIMIT: Final = 100
"""More values than this are not named one by one: the element reads any row."""

Values: TypeAlias = Callable[[BindParameter[Any]], object]
"""Gives a bind's value of this call after its bind processor, a sequence of them for an expanding one."""


@dataclass(frozen=True, slots=True)
class TableRead:
    """One table as a database knows it, for the tags of those who read it.

    ``value_columns``: the names of its tag columns, but for a primary key of one column; None: those found by themselves.
    ``distrusted``: the names of columns that the database compares in another way than the mapping says.
    """

    name: str
    value_columns: Sequence[str] | None = None
    distrusted: Set[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Dependencies:
    """What a statement depends on, on one database.

    ``tables``: in the order of their names, the tag of any row, and how each element is narrowed; None: not at all.
    """

    bind_tag: Tag
    tables: tuple[tuple[Tag, tuple[_NarrowedElement, ...] | None], ...]
    guards: tuple[Guard, ...]

    def narrows(self, any_row: Tag) -> bool:
        """Tell whether the rows that matter of a table, by the tag of any of its rows, are told by values."""
        return any(tag == any_row and elements is not None for tag, elements in self.tables)

    def tags(self, values: Values, limit: int = VALUES_LIMIT) -> TagSet:
        """Return the tags that one call depends on. Where ``values`` raises LookupError, any row is meant."""
        tags = [self.bind_tag]
        for any_row, elements in self.tables:
            narrowed = None if elements is None else _tags_of_elements(elements, values, limit)
            if narrowed is None:
                # Every change of a known row changes T*, too.
                tags.append(any_row)
            else:
                tags.extend(narrowed)
        return TagSet(tuple(tags), self.guards)


def dependencies_of(
    reads: SelectReads, bind: str, table_read: Callable[[Table], TableRead], dialect: Dialect
) -> Dependencies:
    """Resolve what a statement reads on one database. ``bind``: the name that begins its tags."""
    guards: dict[Guard, None] = {}
    by_name: dict[str, list[_NarrowedElement] | None] = {}
    for element in reads.elements:
        table = table_read(element.table)
        fingerprint = naming.fingerprint_of(element.table, dialect, table.value_columns)
        guards[naming.table_tag(bind, table.name), fingerprint] = None
        narrowed = _narrowed_element(element, bind, table_read, dialect)
        known = by_name.setdefault(table.name, [])
        if narrowed is None:
            by_name[table.name] = None
        elif known is not None:
            known.append(narrowed)
    tables = [
        (naming.rows_tag(bind, name), None if elements is None else tuple(elements))
        for name, elements in sorted(by_name.items(), key=lambda item: item[0])
    ]
    return Dependencies(naming.bind_tag(bind), tuple(tables), tuple(guards))


def reads_the_clock(reads: SelectReads, values: Values) -> bool:
    """Tell whether a value of this call may stand for the present time: then the call is not cacheable."""
    return any(names_the_clock(value) for bind in reads.clock_binds for value in _values_of(bind, values) or ())


def narrowing_columns_of(
    element: ElementRead, dialect: Dialect, override: Sequence[str] | None = None
) -> tuple[Column[Any], ...]:
    """Return the columns by whose values an element's tags are narrowed: the primary key, one column, or none."""
    if element.narrowing is None:
        return ()
    if element.narrowing.by_primary_key:
        return naming.key_columns_of(element.table, dialect)
    for column in naming.value_columns_of(element.table, dialect, override):
        if column.name in element.narrowing.columns:
            return (column,)
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class _NarrowedElement:
    """How the tags of one element follow from values: of each column what makes them canonical, and its operands.

    ``unknown``: the tag of values that a writer does not know; None for a primary key, which writers always know.
    """

    columns: tuple[tuple[naming.Canonical, tuple[Operand, ...]], ...]
    tag_of: Callable[[Sequence[str]], Tag]
    unknown: Tag | None

    def tags(self, values: Values, limit: int) -> list[Tag] | None:
        """Return the tags of one call; None where any row is meant."""
        known = []
        for canonical_of, operands in self.columns:
            canonicals = _canonicals_of(canonical_of, operands, values, limit)
            if canonicals is None:
                return None
            known.append(canonicals)
        if prod(map(len, known)) > limit:
            return None
        tags = [self.tag_of(canonicals) for canonicals in product(*known)]
        return tags if self.unknown is None else [self.unknown, *tags]


def _narrowed_element(
    element: ElementRead, bind: str, table_read: Callable[[Table], TableRead], dialect: Dialect
) -> _NarrowedElement | None:
    table = table_read(element.table)
    columns = narrowing_columns_of(element, dialect, table.value_columns)
    narrowing = element.narrowing
    if narrowing is None or not columns or any(name in table_read(t).distrusted for t, name in narrowing.through):
        return None
    parts = []
    for column in columns:
        canonical_of = naming.canonical_value_of(column.type, dialect)
        if canonical_of is None:
            return None
        parts.append((canonical_of, narrowing.columns[column.name]))
    if narrowing.by_primary_key:
        return _NarrowedElement(tuple(parts), naming.key_tag_maker(bind, table.name), None)
    name = columns[0].name
    make_tag, unknown = naming.value_tag_maker(bind, table.name, name), naming.unknown_tag(bind, table.name, name)
    return _NarrowedElement(tuple(parts), make_tag, unknown)


def _tags_of_elements(elements: Sequence[_NarrowedElement], values: Values, limit: int) -> list[Tag] | None:
    """Return the tags of all elements of one table; None where any row of it is meant."""
    found: dict[Tag, None] = {}
    for element in elements:
        tags = element.tags(values, limit)
        if tags is None:
            return None
        found.update(dict.fromkeys(tags))
    return list(found)


def _canonicals_of(
    canonical_of: naming.Canonical, operands: Sequence[Operand], values: Values, limit: int
) -> list[str] | None:
    found: dict[str, None] = {}
    for operand in operands:
        if operand is IS_NULL:
            found[naming.NULL_CANONICAL] = None
            continue
        given = _values_of_operand(operand, values)
        if given is None or len(given) > limit:
            return None
        for value in given:
            # ``= NULL`` and NULL in a list match no row.
            if value is None:
                continue
            canonical = canonical_of(value)
            if canonical is None:
                return None
            found[canonical] = None
    return list(found)


def _values_of_operand(operand: Operand, values: Values) -> Sequence[object] | None:
    if isinstance(operand, Constant):
        return (operand.value,)
    return _values_of(operand, values) if isinstance(operand, BindParameter) else None


def _values_of(bind: BindParameter[Any], values: Values) -> Sequence[object] | None:
    try:
        value = values(bind)
    except LookupError:
        return None
    if not bind.expanding:
        return (value,)
    return value if isinstance(value, list | tuple) else None
