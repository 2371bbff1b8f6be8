"""What does a SELECT read, and which tags stand for it?

``reads_of`` analyses a construct once; ``tags_of`` resolves it with the values of one call. Both are pure.
Promises that a change of rows which may alter the result shares a tag with it; what is not understood is widened, to
the whole table, or refused with a reason. Never looks at rendered SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any, Final, TypeAlias

from sqlalchemy import BindParameter, Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.selectable import CompoundSelect, Select

from querycache._sqlalchemy import plain_table
from querycache._types import Guard, Tag, TagSet
from querycache.statements import tags as naming
from querycache.statements.elements import Refused, inventory_of, names_the_clock
from querycache.statements.narrowing import IS_NULL, Constant, Narrowed, Operand, Through, narrowings_of

VALUES_LIMIT: Final = 100
"""More values than this are not named one by one: the element reads any row."""

Rendered: TypeAlias = tuple[Select[Any], Sequence[Any]]
"""A SELECT as it was rendered, and its FROM elements."""

Values: TypeAlias = Callable[[BindParameter[Any]], object]
"""Gives a bind's value of this call after its bind processor, a sequence of them for an expanding one."""


@dataclass(frozen=True, slots=True)
class NotCacheable:
    """Why a statement cannot be cached, for its author to read."""

    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Narrowing:
    """The only rows that can matter: those that have, in each column named here, one of its operands' values.

    ``through``: so it is as far as these columns, too, compare as their mapped types say.
    """

    columns: Narrowed
    by_primary_key: bool
    through: Through = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class ElementRead:
    """One table in one place of a FROM; without a narrowing any of its rows can matter there."""

    table: Table
    narrowing: Narrowing | None


@dataclass(frozen=True, slots=True, eq=False)
class SelectReads:
    """What a SELECT reads, whatever its parameters.

    ``clock_binds`` are those whose value may be a text that the database reads the present time out of (see
    ``reads_the_clock``).
    """

    elements: tuple[ElementRead, ...]
    functions: frozenset[str]
    clock_binds: tuple[BindParameter[Any], ...] = ()


def reads_of(
    statement: Any, dialect: Dialect, rendered: Iterable[Rendered] | None = None
) -> SelectReads | NotCacheable:
    """Tell what a Core SELECT reads: a Core construct, or what the ORM made of its own.

    ``rendered`` are the SELECTs that the compiler rendered, as the ORM made them, each with the FROM elements that
    remained after correlation. Without them a nested SELECT of mapped classes is not cacheable: what the mappings add
    to it does not show in it.
    """
    if not isinstance(statement, Select | CompoundSelect):
        return NotCacheable(f"{type(statement).__name__} is not a SELECT")
    # The compiler finishes inner SELECTs first; whoever explains the statement begins with the outer one.
    known = sorted(rendered or (), key=lambda item: item[0] is not statement)
    try:
        inventory = inventory_of(
            [statement, *(select for select, _ in known)], dialect, orm_selects_are_given=rendered is not None
        )
        blocks = [narrowings_of(select, froms, dialect) for select, froms in _with_froms(inventory.selects, known)]
    except Refused as refusal:
        return NotCacheable(str(refusal))
    except SQLAlchemyError as error:
        return NotCacheable(f"SQLAlchemy cannot tell its FROM: {type(error).__name__}")
    found = [_element(*narrowed, dialect) for block in blocks for narrowed in block.values()]
    understood = {name for block in blocks for name in block}
    found.extend(ElementRead(_table_of(source), None) for source in inventory.sources if hash(source) not in understood)
    return SelectReads(tuple(found), inventory.functions, inventory.clock_binds)


def reads_the_clock(reads: SelectReads, values: Values) -> bool:
    """Tell whether a value of this call may stand for the present time: then the call is not cacheable."""
    return any(names_the_clock(value) for bind in reads.clock_binds for value in _values_of(bind, values) or ())


def tags_of(
    reads: SelectReads,
    bind: str,
    values: Values,
    table_name: Callable[[Table], str],
    dialect: Dialect,
    overrides: Callable[[Table], Sequence[str] | None],
    limit: int = VALUES_LIMIT,
) -> TagSet:
    """Return the tags that one call depends on; ``overrides`` gives the names of a table's tag columns.

    A value that has no canonical form, or that ``values`` raises LookupError for, widens its element to ``T*``.
    """
    tags: dict[Tag, None] = {naming.bind_tag(bind): None}
    guards: dict[Guard, None] = {}
    whole: set[str] = set()
    narrow: dict[str, dict[Tag, None]] = {}
    for element in reads.elements:
        name, override = table_name(element.table), overrides(element.table)
        guards[naming.table_tag(bind, name), naming.fingerprint_of(element.table, dialect, override)] = None
        found = _ElementTags(bind, name, values, dialect, limit).of(element, override)
        if found is None:
            whole.add(name)
        else:
            narrow.setdefault(name, {}).update(dict.fromkeys(found))
    for name in whole:
        # Every change of a known row changes T*, too.
        narrow[name] = {naming.rows_tag(bind, name): None}
    for name in sorted(narrow):
        tags.update(narrow[name])
    return TagSet(tuple(tags), tuple(guards))


def trusted_reads(reads: SelectReads, distrusted: Callable[[Table], Collection[str]]) -> SelectReads:
    """Return the reads without what was narrowed by way of columns that the database compares in another way."""
    elements = tuple(
        ElementRead(element.table, None)
        if element.narrowing is not None and any(name in distrusted(table) for table, name in element.narrowing.through)
        else element
        for element in reads.elements
    )
    return reads if elements == reads.elements else replace(reads, elements=elements)


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


def _with_froms(selects: Iterable[Select[Any]], known: Sequence[Rendered]) -> Iterator[Rendered]:
    # One SELECT may be rendered in several places, each with its own correlation.
    yield from known
    rendered = {id(select) for select, _ in known}
    yield from ((select, select.get_final_froms()) for select in selects if id(select) not in rendered)


def _element(table: Table, narrowed: Narrowed, through: Through, dialect: Dialect) -> ElementRead:
    if not narrowed:
        return ElementRead(table, None)
    key = naming.key_columns_of(table, dialect)
    by_primary_key = bool(key) and all(column.name in narrowed for column in key)
    return ElementRead(table, Narrowing(narrowed, by_primary_key, through))


@dataclass(frozen=True, slots=True)
class _ElementTags:
    """The tags of one element in one call; None where it reads any row."""

    bind: str
    name: str
    values: Values
    dialect: Dialect
    limit: int

    def of(self, element: ElementRead, override: Sequence[str] | None) -> list[Tag] | None:
        columns = narrowing_columns_of(element, self.dialect, override)
        if element.narrowing is None or not columns:
            return None
        operands = element.narrowing.columns
        canonicals = [self._canonicals(column, operands[column.name]) for column in columns]
        known = [found for found in canonicals if found is not None]
        if len(known) < len(columns) or prod(map(len, known)) > self.limit:
            return None
        if element.narrowing.by_primary_key:
            return [naming.key_tag(self.bind, self.name, values) for values in product(*known)]
        column = columns[0].name
        return [
            naming.unknown_tag(self.bind, self.name, column),
            *(naming.value_tag(self.bind, self.name, column, canonical) for canonical in known[0]),
        ]

    def _canonicals(self, column: Column[Any], operands: tuple[Operand, ...]) -> list[str] | None:
        canonical_of = naming.canonical_value_of(column.type, self.dialect)
        if canonical_of is None:
            return None
        found: dict[str, None] = {}
        for operand in operands:
            if operand is IS_NULL:
                found[naming.NULL_CANONICAL] = None
                continue
            values = self._values(operand)
            if values is None or len(values) > self.limit:
                return None
            for value in values:
                # ``= NULL`` and NULL in a list match no row.
                canonical = canonical_of(value) if value is not None else None
                if value is not None and canonical is None:
                    return None
                if canonical is not None:
                    found[canonical] = None
        return list(found)

    def _values(self, operand: Operand) -> Sequence[object] | None:
        if isinstance(operand, Constant):
            return (operand.value,)
        return _values_of(operand, self.values) if isinstance(operand, BindParameter) else None


def _values_of(bind: BindParameter[Any], values: Values) -> Sequence[object] | None:
    try:
        value = values(bind)
    except LookupError:
        return None
    if not bind.expanding:
        return (value,)
    return value if isinstance(value, list | tuple) else None


def _table_of(source: Any) -> Table:
    while not isinstance(source, Table):
        source = source.element
    table: Table = plain_table(source)
    return table
