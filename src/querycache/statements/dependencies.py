"""Which tags stand for what a SELECT reads?

``dependencies_of`` resolves once what holds for every call on one database; ``Dependencies.tags`` adds the values of one
call. Both are pure. Promises that a change of rows which may alter the result shares a tag with it; a value that has no
canonical form widens its element to any row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, Final, TypeAlias

from sqlalchemy import BindParameter, Column, Table
from sqlalchemy.engine import Dialect

from querycache._types import Guard, Tag, TagSet
from querycache.statements import tags as naming
from querycache.statements.clocks import names_the_clock
from querycache.statements.narrowing import IS_NULL, Constant, Operand, Part
from querycache.statements.reads import ElementRead, SelectReads

VALUES_LIMIT: Final = 100
"""More values than this are not named one by one: the element reads any row."""

MAX_COLUMNS: Final = 4
"""A read that uses more columns of a table, beside those that narrow it, depends on all of them."""

MAX_NARROW_TAGS: Final = 24
"""Where an element's rows and columns, told one by one, come to more tags than this, it depends on its rows' alone."""

Values: TypeAlias = Callable[[BindParameter[Any]], object]
"""Gives a bind's value of this call after its bind processor, a sequence of them for an expanding one."""


@dataclass(frozen=True, slots=True)
class TableRead:
    """One table as a database knows it, for the tags of those who read it.

    ``value_columns``: its tag columns and groups of them, but for the primary key; None: those found by themselves.
    ``distrusted``: the names of columns that the database compares in another way than the mapping says. ``untold``: of
    those that may change without a writer's knowing.
    """

    name: str
    value_columns: naming.Named | None = None
    distrusted: Set[str] = frozenset()
    untold: Set[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Dependencies:
    """What a statement depends on, on one database.

    ``tables``: in the order of their names, the tags of any row, and how each element is narrowed; None: not at all.
    ``whole``: the tags of tables that it reads by their names alone, of any row and of the table.
    """

    bind_tag: Tag
    tables: tuple[tuple[tuple[Tag, ...], tuple[_NarrowedElement, ...] | None], ...]
    guards: tuple[Guard, ...]
    whole: tuple[Tag, ...] = ()

    def narrows(self, any_row: Tag) -> bool:
        """Tell whether the rows that matter of a table, by the tag of any of its rows, are told by values."""
        return any(tags[0].startswith(any_row) and elements is not None for tags, elements in self.tables)

    def tags(self, values: Values, limit: int = VALUES_LIMIT) -> TagSet:
        """Return the tags that one call depends on. Where ``values`` raises LookupError, any row is meant."""
        tags = [self.bind_tag, *self.whole]
        for any_row, elements in self.tables:
            narrowed = None if elements is None else _tags_of_elements(elements, values, limit)
            if narrowed is None:
                # Every change of a known row changes T*, too.
                tags.extend(any_row)
            else:
                tags.extend(narrowed)
        return TagSet(tuple(tags), self.guards)


def dependencies_of(
    reads: SelectReads,
    bind: str,
    table_read: Callable[[Table], TableRead],
    dialect: Dialect,
    whole: Iterable[naming.TableName] = (),
) -> Dependencies:
    """Resolve what a statement reads on one database. ``bind``: the name that begins its tags.

    ``whole``: further tables, of which any row counts; an element over one of them adds nothing.
    """
    named = sorted(set(whole))
    guards: dict[Guard, None] = {}
    by_name: dict[str, list[_NarrowedElement] | None] = {}
    any_row: dict[str, dict[Tag, None]] = {}
    for element in reads.elements:
        table = table_read(element.table)
        if table.name in named:
            continue
        fingerprint = naming.fingerprint_of(element.table, dialect, table.value_columns)
        guards[naming.table_tag(bind, table.name), fingerprint] = None
        narrowed = _narrowed_element(element, bind, table_read, dialect)
        rows = naming.rows_tag(bind, table.name)
        any_row.setdefault(table.name, {}).update(
            (rows + suffix, None) for suffix in _suffixes(element, table, dialect, ())
        )
        known = by_name.setdefault(table.name, [])
        if narrowed is None:
            by_name[table.name] = None
        elif known is not None:
            known.append(narrowed)
    tables = [
        (tuple(any_row[name]), None if elements is None else tuple(elements))
        for name, elements in sorted(by_name.items(), key=lambda item: item[0])
    ]
    tags = [tag for name in named for tag in (naming.table_tag(bind, name), naming.rows_tag(bind, name))]
    return Dependencies(naming.bind_tag(bind), tuple(tables), tuple(guards), tuple(tags))


def reads_the_clock(reads: SelectReads, values: Values) -> bool:
    """Tell whether a value of this call may stand for the present time: then the call is not cacheable."""
    return any(names_the_clock(value) for bind in reads.clock_binds for value in _values_of(bind, values) or ())


def narrowing_columns_of(
    element: ElementRead, dialect: Dialect, named: naming.Named | None = None
) -> tuple[Column[Any], ...]:
    """Return the columns by whose values an element's tags are narrowed: the primary key, one group, or none."""
    if element.narrowing is None:
        return ()
    if element.narrowing.by_primary_key:
        return naming.key_columns_of(element.table, dialect)
    for group in naming.value_groups_of(element.table, dialect, named):
        if all(column.name in element.narrowing.columns for column in group):
            return group
    return ()


def _suffixes(
    element: ElementRead, table: TableRead, dialect: Dialect, narrowing: Sequence[Column[Any]]
) -> tuple[bytes, ...]:
    """Return what makes tags of rows those of what an element uses of them; nothing is added where that is all.

    To change a column that narrows it is to move the row among others, and so it is taken of the primary key.
    """
    if element.columns is None or not table.untold.isdisjoint(element.columns):
        return (b"",)
    moving = (*narrowing, *naming.key_columns_of(element.table, dialect))
    others = element.columns - {column.name for column in moving}
    if len(others) > MAX_COLUMNS:
        return (b"",)
    return (naming.MEMBERS_SUFFIX, *sorted(set(map(naming.column_suffix_of, others))))


@dataclass(frozen=True, slots=True, eq=False)
class _NarrowedElement:
    """How the tags of one element follow from values: of each column what makes them canonical, and its operands.

    ``unknown``: the tag of values that a writer does not know; None for a primary key, which writers always know.
    ``suffixes``: what makes the tags of rows those of what is used of them. ``plain``: the columns with their binds, where
    each column has one value, as nearly always; None where there may be more.
    """

    columns: tuple[tuple[naming.Canonical, tuple[Operand, ...]], ...]
    tag_of: Callable[[Sequence[str]], Tag]
    unknown: Tag | None
    suffixes: tuple[bytes, ...] = (b"",)
    plain: tuple[tuple[naming.Canonical, BindParameter[Any]], ...] | None = None

    def tags(self, values: Values, limit: int) -> list[Tag] | None:
        """Return the tags of one call; None where any row is meant."""
        if self.plain is not None:
            return self._tags_of_one_row(self.plain, values)
        # Of each group of columns whose values belong together: their values, row by row.
        groups: list[list[tuple[str, ...]]] = []
        for group in self._groups():
            rows = _canonical_rows_of([self.columns[place] for place in group], values, limit)
            if rows is None:
                return None
            groups.append(rows)
        if prod(map(len, groups)) > limit:
            return None
        places = [place for group in self._groups() for place in group]
        order = sorted(range(len(places)), key=places.__getitem__)
        tags = []
        for rows_of_groups in product(*groups):
            given = [canonical for row in rows_of_groups for canonical in row]
            tags.append(self.tag_of([given[index] for index in order]))
        return self._with_unknown(tags)

    def _tags_of_one_row(
        self, plain: Sequence[tuple[naming.Canonical, BindParameter[Any]]], values: Values
    ) -> list[Tag] | None:
        canonicals = []
        is_empty = False
        for canonical_of, bind in plain:
            try:
                value = values(bind)
            except LookupError:
                return None
            if value is None:
                # ``= NULL`` matches no row.
                is_empty = True
            elif (canonical := canonical_of(value)) is not None:
                canonicals.append(canonical)
            elif not is_empty:
                return None
        return self._with_unknown([] if is_empty else [self.tag_of(canonicals)])

    def _with_unknown(self, rows: list[Tag]) -> list[Tag]:
        if len(rows) * len(self.suffixes) <= MAX_NARROW_TAGS:
            rows = [tag + suffix for tag in rows for suffix in self.suffixes]
        return rows if self.unknown is None else [self.unknown, *rows]

    def _groups(self) -> list[list[int]]:
        """Return the places of the columns, those together that are narrowed by parts of the same rows."""
        groups: dict[Any, list[int]] = {}
        for place, (_, operands) in enumerate(self.columns):
            rows = tuple(operand.rows if isinstance(operand, Part) else None for operand in operands)
            groups.setdefault(rows if rows and all(rows) else place, []).append(place)
        return list(groups.values())


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
    suffixes = _suffixes(element, table, dialect, columns)
    plain = _plain(parts)
    if narrowing.by_primary_key:
        return _NarrowedElement(tuple(parts), naming.key_tag_maker(bind, table.name), None, suffixes, plain)
    names = [column.name for column in columns]
    make_tag, unknown = naming.value_tag_maker(bind, table.name, names), naming.unknown_tag(bind, table.name, names)
    return _NarrowedElement(tuple(parts), make_tag, unknown, suffixes, plain)


def _plain(
    parts: Iterable[tuple[naming.Canonical, tuple[Operand, ...]]],
) -> tuple[tuple[naming.Canonical, BindParameter[Any]], ...] | None:
    plain = []
    for canonical_of, operands in parts:
        operand = operands[0] if len(operands) == 1 else None
        if not isinstance(operand, BindParameter) or operand.expanding:
            return None
        plain.append((canonical_of, operand))
    return tuple(plain)


def _tags_of_elements(elements: Sequence[_NarrowedElement], values: Values, limit: int) -> list[Tag] | None:
    """Return the tags of all elements of one table; None where any row of it is meant."""
    if len(elements) == 1:
        return elements[0].tags(values, limit)
    found: dict[Tag, None] = {}
    for element in elements:
        tags = element.tags(values, limit)
        if tags is None:
            return None
        found.update(dict.fromkeys(tags))
    return list(found)


def _canonical_rows_of(
    columns: Sequence[tuple[naming.Canonical, tuple[Operand, ...]]], values: Values, limit: int
) -> list[tuple[str, ...]] | None:
    """Return the canonical values of some columns that belong together, row by row; None where any row is meant."""
    found: dict[tuple[str, ...], None] = {}
    for operands in zip(*(operands for _, operands in columns), strict=True):
        given = [_values_of_operand(operand, values) for operand in operands]
        if any(each is None or len(each) > limit for each in given):
            return None
        for row in zip(*(each for each in given if each is not None), strict=True):
            # ``= NULL`` and NULL in a list match no row.
            if any(value is None for value in row):
                continue
            canonicals = [
                naming.NULL_CANONICAL if value is IS_NULL else canonical_of(value)
                for value, (canonical_of, _) in zip(row, columns, strict=True)
            ]
            known = tuple(canonical for canonical in canonicals if canonical is not None)
            if len(known) < len(canonicals):
                return None
            found[known] = None
    return list(found)


def _values_of_operand(operand: Operand | None, values: Values) -> Sequence[object] | None:
    if isinstance(operand, Part):
        rows = operand.rows.values
        if isinstance(rows, BindParameter):
            given = _values_of(rows, values)
            return None if given is None else [row[operand.position] for row in given]  # type: ignore[index]
        return _values_of_operand(rows[operand.position], values)
    if isinstance(operand, Constant):
        return (operand.value,)
    if isinstance(operand, BindParameter):
        return _values_of(operand, values)
    return None if operand is None else (operand,)


def _values_of(bind: BindParameter[Any], values: Values) -> Sequence[object] | None:
    try:
        value = values(bind)
    except LookupError:
        return None
    if not bind.expanding:
        return (value,)
    return value if isinstance(value, list | tuple) else None
