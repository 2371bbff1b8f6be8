"""What does a SELECT read?

Analyses a construct once, for every call of it (``dependencies`` makes tags of it). Pure. Promises that what is not
understood is widened, to the whole table, or refused with a reason. Never looks at rendered SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, TypeAlias

from sqlalchemy import BindParameter, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.selectable import CompoundSelect, Select

from querycache._sqlalchemy import plain_table
from querycache.statements import tags as naming
from querycache.statements.columns import ColumnWatch
from querycache.statements.elements import Refused, inventory_of
from querycache.statements.narrowing import Narrowed, Through, narrowings_of

Rendered: TypeAlias = tuple[Select[Any], Sequence[Any]]
"""A SELECT as it was rendered, and its FROM elements."""


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
    """One table in one place of a FROM; without a narrowing any of its rows can matter there.

    ``columns``: the names of those columns of it, all places taken together, that can matter; None: all.
    """

    table: Table
    narrowing: Narrowing | None
    columns: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class SelectReads:
    """What a SELECT reads, whatever its parameters.

    ``clock_binds`` are those whose value may be a text that the database reads the present time out of (see
    ``reads_the_clock``). ``missed_columns`` were rendered and not found: all columns of their tables count.
    """

    elements: tuple[ElementRead, ...]
    functions: frozenset[str]
    clock_binds: tuple[BindParameter[Any], ...] = ()
    missed_columns: tuple[str, ...] = ()


def reads_of(
    statement: Any,
    dialect: Dialect,
    rendered: Iterable[Rendered] | None = None,
    *,
    originals: Mapping[int, Any] = MappingProxyType({}),
    rendered_columns: Iterable[Any] = (),
) -> SelectReads | NotCacheable:
    """Tell what a Core SELECT reads: a Core construct, or what the ORM made of its own.

    ``rendered`` are the SELECTs that the compiler rendered, as the ORM made them, each with the FROM elements that
    remained after correlation. Without them a nested SELECT of mapped classes is not cacheable: what the mappings add
    to it does not show in it. ``originals``: by the id of a rendered SELECT, the one that the ORM made it of.
    """
    if not isinstance(statement, Select | CompoundSelect):
        return NotCacheable(f"{type(statement).__name__} is not a SELECT")
    # The compiler finishes inner SELECTs first; whoever explains the statement begins with the outer one.
    known = sorted(rendered or (), key=lambda item: item[0] is not statement)
    watch = ColumnWatch(statement, originals)
    try:
        inventory = inventory_of(
            [statement, *(select for select, _ in known)],
            dialect,
            orm_selects_are_given=rendered is not None,
            watch=watch.see,
        )
        blocks = [narrowings_of(select, froms, dialect) for select, froms in _with_froms(inventory.selects, known)]
    except Refused as refusal:
        return NotCacheable(str(refusal))
    except SQLAlchemyError as error:
        return NotCacheable(f"SQLAlchemy cannot tell its FROM: {type(error).__name__}")
    found = [_element(*narrowed, dialect) for block in blocks for narrowed in block.values()]
    understood = {name for block in blocks for name in block}
    found.extend(ElementRead(_table_of(source), None) for source in inventory.sources if hash(source) not in understood)
    columns = watch.columns()
    missed = columns.missed(rendered_columns)
    return SelectReads(
        tuple(
            element if element.table in missed else replace(element, columns=columns.of(element.table))
            for element in found
        ),
        inventory.functions,
        inventory.clock_binds,
        tuple(sorted(f"{table.fullname}.{name}" for table, names in missed.items() for name in names)),
    )


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


def _table_of(source: Any) -> Table:
    while not isinstance(source, Table):
        source = source.element
    table: Table = plain_table(source)
    return table
