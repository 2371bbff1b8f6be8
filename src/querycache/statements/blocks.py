"""Which FROM elements over tables does each SELECT of a statement have, and which conditions stand over each of them?

A SELECT that is rendered in one place is a block. A derived table, a LATERAL or a CTE that is used once is read as if its
FROM and WHERE stood where its name does, if each row of it is made of one row of each of its FROM elements, whatever
other rows there are. What has LIMIT, DISTINCT ON, GROUP BY, aggregates, windows or several SELECTs stays a block of its
own. Never guesses: a FROM element that is not understood has no leaves, and nothing is known of its columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table
from sqlalchemy.orm.util import _ORMJoin
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BooleanClauseList, ExpressionClauseList, Grouping, Label
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.operators import and_
from sqlalchemy.sql.selectable import (
    CTE,
    Alias,
    FromGrouping,
    Join,
    Lateral,
    ScalarSelect,
    Select,
    SelectStatementGrouping,
    Subquery,
)

from querycache._rendering import (
    Rendered,
    RenderedSelect,
    cuts_rows,
    expressions_of,
    groups_rows,
    name_of_cte,
    shown_columns,
)
from querycache._sqlalchemy import plain_table
from querycache.statements.elements import class_of, is_table_source
from querycache.statements.functions import qualified_name_of


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """A condition, and the block in which its names are to be looked up."""

    expression: Any
    block: RenderedSelect


class Scope:
    """Conditions that a row must meet to matter, those of the scope around included."""

    __slots__ = ("around", "own")

    def __init__(self, around: Scope | None = None) -> None:
        self.around = around
        self.own: list[Condition] = []

    def require(self, expression: Any, block: RenderedSelect) -> None:
        """Add a condition, each conjunct for itself."""
        if expression is not None:
            self.own.extend(Condition(conjunct, block) for conjunct in _conjuncts(expression))

    def conditions(self) -> Iterator[Condition]:
        """Yield all that must hold."""
        yield from self.own
        if self.around is not None:
            yield from self.around.conditions()


@dataclass(frozen=True, slots=True, eq=False)
class Leaf:
    """A FROM element over one table. ``top``: the block that it is in, derived tables that are read in place undone."""

    source: Any
    table: Table
    scope: Scope
    nullable: bool
    top: RenderedSelect


@dataclass(frozen=True, slots=True, eq=False)
class Derived:
    """A FROM element that shows the columns of another block, by their hash. ``in_place``: it is read where it stands."""

    block: RenderedSelect
    columns: Mapping[int, Any]
    nullable: bool
    in_place: bool


class Blocks:
    """The blocks of one statement. ``leaves``: all FROM elements over tables.

    ``is_of_one_row`` tells of a function by its name that it is surely no aggregate and no window function.
    """

    def __init__(self, rendered: Rendered, is_of_one_row: Callable[[str], bool]) -> None:
        self.leaves: list[Leaf] = []
        self.scopes: dict[RenderedSelect, Scope] = {}
        self._is_of_one_row = is_of_one_row
        self._rendered = rendered
        self._sources: dict[RenderedSelect, dict[int, Leaf | Derived]] = {}
        self._tops: dict[RenderedSelect, RenderedSelect] = {}
        self._written: dict[int, list[RenderedSelect]] = {}
        for select in rendered.selects:
            self._written.setdefault(id(select.written), []).append(select)
        derived = [source for select in rendered.selects for from_ in select.froms for source in _derived_in(from_)]
        shown = [(source, inner) for source in derived if (inner := self._shown_by(source)) is not None]
        self._in_place = {inner for source, inner in shown if self._may_stand_in_place(source, inner)}
        for select in rendered.selects:
            if select not in self._in_place:
                self.scopes[select] = Scope()
                self._plant_block(select, select, self.scopes[select], nullable=False)

    def source(self, block: RenderedSelect, name: int) -> Leaf | Derived | None:
        """Return which FROM element is meant by its hash in a block: one of its own, or of a block around it."""
        around: RenderedSelect | None = block
        while around is not None:
            found = self._sources.get(around, {}).get(name)
            if found is not None:
                return found
            around = around.around
        return None

    def is_around(self, leaf: Leaf, block: RenderedSelect) -> bool:
        """Tell whether a leaf is in a block around another."""
        around = block.around
        while around is not None:
            if self._tops.get(around) is leaf.top:
                return True
            around = around.around
        return False

    def only_block(self, element: Any) -> RenderedSelect | None:
        """Return the block that a SELECT was rendered as, None where it was more than one."""
        while class_of(element) in (Grouping, ScalarSelect, SelectStatementGrouping, *_DERIVED):
            element = element.element
        found = self._written.get(id(element), ()) if class_of(element) is Select else ()
        return found[0] if len(found) == 1 else None

    def has_a_row_for_each(self, block: RenderedSelect) -> bool:
        """Tell whether a block surely makes none of its rows out of several, or out of nothing."""
        if groups_rows(block.statement):
            return False
        elements = (each for root in expressions_of(block.statement) for each in visitors.iterate(root))
        functions = [element for element in elements if isinstance(element, FunctionElement)]
        return all(self._is_of_one_row(qualified_name_of(function)) for function in functions)

    # -- derived tables ----------------------------------------------------------------------------------------------

    def _shown_by(self, source: Any) -> RenderedSelect | None:
        if class_of(source) is CTE and name_of_cte(source) in self._rendered.recursive_ctes:
            return None
        return self.only_block(source.element)

    def _may_stand_in_place(self, source: Any, inner: RenderedSelect) -> bool:
        if class_of(source) is CTE and self._rendered.cte_uses[name_of_cte(source)] != 1:
            return False
        return not cuts_rows(inner.statement) and self.has_a_row_for_each(inner)

    # -- planting ----------------------------------------------------------------------------------------------------

    def _plant_block(self, block: RenderedSelect, top: RenderedSelect, scope: Scope, *, nullable: bool) -> None:
        self._sources[block], self._tops[block] = {}, top
        scope.require(block.statement.whereclause, block)
        for source in block.froms:
            self._plant(source, block, scope, nullable=nullable)

    def _plant(self, source: Any, block: RenderedSelect, scope: Scope, *, nullable: bool) -> None:
        """Note the leaves of a FROM element and what holds for each."""
        cls = class_of(source)
        if cls is FromGrouping:
            self._plant(source.element, block, scope, nullable=nullable)
        elif cls in (Join, _ORMJoin):
            self._plant_join(source, block, scope, nullable=nullable)
        elif is_table_source(source):
            self._plant_table(source, block, scope, nullable=nullable)
        elif cls in _DERIVED:
            self._plant_derived(source, block, scope, nullable=nullable)

    def _plant_join(self, join: Join, block: RenderedSelect, scope: Scope, *, nullable: bool) -> None:
        if join.full:
            # Its ON keeps no row of either side out; what a side requires of itself holds there alone.
            self._plant(join.left, block, Scope(scope), nullable=True)
            self._plant(join.right, block, Scope(scope), nullable=True)
        elif join.isouter:
            inner = Scope(scope)
            inner.require(join.onclause, block)
            self._plant(join.left, block, scope, nullable=nullable)
            self._plant(join.right, block, inner, nullable=True)
        else:
            scope.require(join.onclause, block)
            self._plant(join.left, block, scope, nullable=nullable)
            self._plant(join.right, block, scope, nullable=nullable)

    def _plant_table(self, source: Any, block: RenderedSelect, scope: Scope, *, nullable: bool) -> None:
        table = source
        while class_of(table) is Alias:
            table = table.element
        leaf = Leaf(source, plain_table(table), scope, nullable, self._tops[block])
        # Met twice in one FROM, the first is not found by its name any more: nothing narrows it.
        self._sources[block][hash(source)] = leaf
        self.leaves.append(leaf)

    def _plant_derived(self, source: Any, block: RenderedSelect, scope: Scope, *, nullable: bool) -> None:
        inner = self._shown_by(source)
        if inner is None:
            return
        in_place = inner in self._in_place
        if in_place:
            self._plant_block(inner, self._tops[block], scope, nullable=nullable)
        self._sources[block][hash(source)] = Derived(inner, _columns_shown(source, inner), nullable, in_place)


_DERIVED = (Alias, CTE, Lateral, Subquery)


def _derived_in(source: Any) -> Iterator[Any]:
    cls = class_of(source)
    if cls is FromGrouping:
        yield from _derived_in(source.element)
    elif cls in (Join, _ORMJoin):
        yield from _derived_in(source.left)
        yield from _derived_in(source.right)
    elif cls in _DERIVED and not is_table_source(source):
        yield source


def _columns_shown(source: Any, inner: RenderedSelect) -> Mapping[int, Any]:
    """Return what stands for each column of a derived table, where the ORM rendered what was written, column by column."""
    shown = shown_columns(source)
    while class_of(source.element) in _DERIVED:
        source = source.element
        of_source = shown_columns(source)
        shown = {name: of_source[hash(column)] for name, column in shown.items() if hash(column) in of_source}
    rendered: Sequence[Any] = list(inner.statement.selected_columns)
    if [hash(column) for column in rendered] != [hash(column) for column in shown.values()]:
        return {}
    return {name: column.element if class_of(column) is Label else column for name, column in shown.items()}


def _conjuncts(condition: Any) -> Iterator[Any]:
    while class_of(condition) is Grouping:
        condition = condition.element
    if class_of(condition) in (BooleanClauseList, ExpressionClauseList) and condition.operator is and_:
        for clause in condition.clauses:
            yield from _conjuncts(clause)
    else:
        yield condition
