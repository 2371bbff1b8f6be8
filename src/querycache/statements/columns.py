"""Which columns of its tables can a SELECT's answer depend on?

Watches the walk over the statement (``elements``) and notes each column where it is used: edge by edge, for one object may
stand in several places. A column counts for its table, whichever alias it was taken from.

Promises: what is not positively understood uses every column. Left out is nothing but the list of a SELECT that only EXISTS
looks at, or a FROM of which no column is used: without DISTINCT, the list does not decide which rows there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Table
from sqlalchemy.sql import elements, functions, selectable

from querycache._sqlalchemy import plain_table
from querycache.statements.elements import class_of

_COLUMNS: Final = frozenset({Column, elements.ColumnClause})
_PLAIN: Final = _COLUMNS | {elements.BindParameter, elements.Null, elements.True_, elements.False_}
_WRAPPERS: Final = frozenset({selectable.ScalarSelect, selectable.SelectStatementGrouping})
_FROMS: Final = frozenset({selectable.Subquery, selectable.Alias})
_HELD: Final = _WRAPPERS | _FROMS | {selectable.Select}
_HOLDERS_OF_FROM: Final = frozenset({selectable.Select, selectable.Join, selectable.FromGrouping})


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """By table the names of the columns ``used``, and of those that are ``listed`` and that nothing looks at.

    ``texts`` are texts by which ORDER BY or GROUP BY find columns. ``is_known``: otherwise any column may be used.
    """

    used: Mapping[Table, frozenset[str]]
    listed: Mapping[Table, frozenset[str]]
    texts: frozenset[str]
    is_known: bool

    def of(self, table: Table) -> frozenset[str] | None:
        """Return the columns of a table on which the answer may depend; None: all."""
        by_text = frozenset(c.name for c in table.columns if not self.texts.isdisjoint((c.key, c.name)))
        used = self.used.get(table, frozenset()) | by_text
        return used if self.is_known and len(used) < len(table.columns) else None

    def missed(self, rendered: Iterable[Any]) -> Mapping[Table, frozenset[str]]:
        """Return the columns that were rendered and of which nothing was noted."""
        missed: dict[Table, frozenset[str]] = {}
        for column in rendered:
            table = _table_of(column)
            used = None if table is None else self.of(table)
            if table is None or used is None:
                continue
            if column.name not in used | self.listed.get(table, frozenset()):
                missed[table] = missed.get(table, frozenset()) | {column.name}
        return missed


class ColumnWatch:
    """Watches one walk. ``originals``: by the id of a SELECT that the ORM made, the one that it was made of."""

    def __init__(self, statement: Any, originals: Mapping[int, Any]) -> None:
        self._statement = statement
        self._originals = originals
        self._used: dict[Table, set[str]] = {}
        self._lists: list[tuple[selectable.Select[Any], Sequence[Any]]] = []
        self._texts: set[str] = set()
        self._holders: dict[int, list[Any]] = {}
        self._shown: set[int] = set()
        self._counting: set[int] = set()
        self._is_known = True

    def see(self, element: Any, children: Sequence[Any]) -> None:
        """Note what one element is made of. Called once for each, in the order of the walk."""
        cls = class_of(element)
        if cls is functions.count:
            self._counting.add(id(element.clauses))
        elif cls is elements._textual_label_reference:
            self._texts.add(element.element)
        elif cls is selectable.Select and children:
            children = self._beside_list(element, children)
        for child in children:
            if class_of(child) in _HELD:
                self._holders.setdefault(id(child), []).append(element)
            # A label is no use of its column: what holds the label is. Nor does count(*) use any.
            elif cls is not elements.Label and not (id(element) in self._counting and _is_star(child)):
                self._note(child, self._used)

    def columns(self) -> Columns:
        """Tell what was seen, once the walk is over."""
        listed: dict[Table, set[str]] = {}
        for select, items in self._lists:
            # A text may stand for an item of a list: then all lists count.
            noted = self._used if self._texts or self._is_looked_at(select) else listed
            for item in items:
                self._note(item, noted)
        return Columns(
            {table: frozenset(names) for table, names in self._used.items()},
            {table: frozenset(names) for table, names in listed.items()},
            frozenset(self._texts),
            self._is_known,
        )

    def _beside_list(self, select: selectable.Select[Any], children: Sequence[Any]) -> list[Any]:
        """Put the plain items of a SELECT's list aside, and return what else it is made of."""
        items: list[Any] = []
        aside: Counter[int] = Counter()
        for item in select._raw_columns:
            if isinstance(item, selectable.FromClause):
                self._shown.add(id(item))
                items.extend(item.c)
            elif class_of(_unlabelled(item)) in _PLAIN:
                items.append(item)
                aside[id(item)] += 1
        self._lists.append((select, items))
        others = []
        for child in children:
            if aside[id(child)]:
                # Once: the same object may stand in WHERE or ORDER BY, too.
                aside[id(child)] -= 1
            else:
                others.append(child)
        return others

    def _note(self, expression: Any, noted: dict[Table, set[str]]) -> None:
        column = _unlabelled(expression)
        if class_of(column) not in _COLUMNS:
            return
        table = _table_of(column)
        if table is not None:
            noted.setdefault(table, set()).add(column.name)
            self._is_known = self._is_known and any(one.name == column.name for one in table.columns)
        elif _is_star(column):
            self._is_known = self._is_known and noted is not self._used

    def _is_looked_at(self, select: selectable.Select[Any]) -> bool:
        """Tell whether anything may depend on the values in a SELECT's list."""
        original = self._originals.get(id(select), select)
        if select is self._statement or any(one._distinct or one._distinct_on for one in (select, original)):
            return True
        return self._any_looks([*self._holders.get(id(select), ()), *self._holders.get(id(original), ())])

    def _any_looks(self, holders: Sequence[Any]) -> bool:
        return not holders or any(map(self._looks, holders))

    def _looks(self, holder: Any) -> bool:
        cls, holders = class_of(holder), self._holders.get(id(holder), ())
        if cls in _WRAPPERS:
            return self._any_looks(holders)
        if cls in _FROMS:
            # A column of it that is used anywhere holds it, too.
            others = [one for one in holders if class_of(one) not in _HOLDERS_OF_FROM]
            return id(holder) in self._shown or not holders or any(map(self._looks, others))
        return cls is not selectable.Exists


def _is_star(expression: Any) -> bool:
    return class_of(expression) is elements.ColumnClause and expression.table is None and expression.name == "*"


def _unlabelled(expression: Any) -> Any:
    while class_of(expression) is elements.Label:
        expression = expression.element
    return expression


def _table_of(column: Any) -> Table | None:
    """Return the table of which a column is, through any alias; None for a column of anything else."""
    source = column.table
    while class_of(source) is selectable.Alias:
        source = source.element
    table: Table | None = plain_table(source) if class_of(source) is Table else None
    return table
