"""What does a SELECT read?

Analyses a construct once, for every call of it (``dependencies`` makes tags of it). Pure. Promises that what is not
understood is widened, to the whole table, or refused with a reason. Never looks at rendered SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import BindParameter, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.selectable import CompoundSelect, Select

from querycache._rendering import Rendered, RenderedSelect
from querycache._sqlalchemy import plain_table
from querycache.statements import tags as naming
from querycache.statements.columns import ColumnWatch
from querycache.statements.elements import Refused, RefusedText, inventory_of
from querycache.statements.narrowing import Narrowed, NarrowedSource, Through, narrowings_of
from querycache.statements.rawsql import TableName as WrittenName


@dataclass(frozen=True, slots=True)
class NotCacheable:
    """Why a statement cannot be cached, for its author to read. ``holds_text``: as far as constructs tell."""

    reason: str
    holds_text: bool = False


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
    ``reads_the_clock``). ``missed_columns`` were rendered and not found: all columns of their tables count. ``named``: what
    a text reads, by the names in it; of a text it is not known yet whether its ``functions`` are built in, nor whether one of
    its ``attributes``, what stands behind a dot, is one.
    """

    elements: tuple[ElementRead, ...]
    functions: frozenset[str]
    clock_binds: tuple[BindParameter[Any], ...] = ()
    missed_columns: tuple[str, ...] = ()
    named: frozenset[WrittenName] = frozenset()
    attributes: frozenset[str] = frozenset()


def reads_of(
    statement: Any,
    dialect: Dialect,
    rendered: Rendered | None = None,
    declared_functions: Callable[[str], bool] = lambda name: False,
) -> SelectReads | NotCacheable:
    """Tell what a Core SELECT reads: a Core construct, or what the ORM made of its own.

    ``rendered`` is what the compiler made of it. Without it a nested SELECT of mapped classes is not cacheable (what the
    mappings add to it does not show in it), and nothing passes between one SELECT and another. ``declared_functions`` tells
    by their names those that a user vouches for.
    """
    if not isinstance(statement, Select | CompoundSelect):
        return NotCacheable(f"{type(statement).__name__} is not a SELECT")
    known = Rendered() if rendered is None else rendered
    watch = ColumnWatch(statement, {id(select.statement): select.written for select in known.selects})
    try:
        inventory = inventory_of(
            [statement, *(select.statement for select in known.selects)],
            dialect,
            orm_selects_are_given=rendered is not None,
            declared_functions=declared_functions,
            watch=watch.see,
        )
        narrowed = list(narrowings_of(_with_unrendered(known, inventory.selects), dialect, declared_functions))
    except RefusedText as refusal:
        return NotCacheable(f"it contains {refusal}: what that reads is not known", holds_text=True)
    except Refused as refusal:
        return NotCacheable(str(refusal))
    except SQLAlchemyError as error:
        return NotCacheable(f"SQLAlchemy cannot tell its FROM: {type(error).__name__}")
    found = [_element(each, dialect) for each in narrowed]
    understood = {hash(each.source) for each in narrowed}
    found.extend(ElementRead(_table_of(source), None) for source in inventory.sources if hash(source) not in understood)
    # A place of a table that was rendered and not understood may need any row.
    places = Counter(element.table for element in found)
    found.extend(
        ElementRead(plain_table(table), None)
        for table, times in known.tables.items()
        if 0 < places[plain_table(table)] < times
    )
    columns = watch.columns()
    missed = columns.missed(known.columns)
    return SelectReads(
        tuple(
            element if element.table in missed else replace(element, columns=columns.of(element.table))
            for element in found
        ),
        inventory.functions,
        inventory.clock_binds,
        tuple(sorted(f"{table.fullname}.{name}" for table, names in missed.items() for name in names)),
    )


def _with_unrendered(rendered: Rendered, selects: Iterable[Select[Any]]) -> Rendered:
    # What was not rendered stands nowhere: it is read by itself.
    known = {id(select.statement) for select in rendered.selects}
    others = [
        RenderedSelect(None, select, tuple(select.get_final_froms())) for select in selects if id(select) not in known
    ]
    return replace(rendered, selects=[*rendered.selects, *others])


def _element(narrowed: NarrowedSource, dialect: Dialect) -> ElementRead:
    table, columns = narrowed.table, narrowed.columns
    if not columns:
        return ElementRead(table, None)
    key = naming.key_columns_of(table, dialect)
    by_primary_key = bool(key) and all(column.name in columns for column in key)
    return ElementRead(table, Narrowing(columns, by_primary_key, narrowed.through))


def _table_of(source: Any) -> Table:
    while not isinstance(source, Table):
        source = source.element
    table: Table = plain_table(source)
    return table
