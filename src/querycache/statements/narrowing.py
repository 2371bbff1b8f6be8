"""To which values of a column does one block of a SELECT confine the rows of a table that can matter to it?

Per FROM element, of one SELECT by itself: nothing passes from one block into another. Used are the top-level conjuncts
of WHERE and of inner ON, and for the nullable side of an outer join those of its ON. Equalities between columns pass
values on within what holds for the element; never out of the ON of an outer join to its preserved side, never through
FULL.
Each rule has a counterexample among the tests. What is not understood narrows nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, TypeAlias

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.orm.util import _ORMJoin
from sqlalchemy.schema import Column as SchemaColumn
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ClauseList,
    ColumnElement,
    ExpressionClauseList,
    False_,
    Grouping,
    Null,
    True_,
)
from sqlalchemy.sql.selectable import Alias, FromGrouping, Join, Select

from querycache._sqlalchemy import plain_table
from querycache.statements.elements import class_of, is_table_source
from querycache.statements.tags import kind_of


class _Marker(Enum):
    NULL = auto()


IS_NULL: Final = _Marker.NULL
"""The operand of IS NULL."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that stands in the statement itself."""

    value: int


Operand: TypeAlias = BindParameter[Any] | Constant | _Marker
Narrowed: TypeAlias = Mapping[str, tuple[Operand, ...]]
"""By column name: only rows that have one of these values there can matter."""

Through: TypeAlias = frozenset[tuple[Table, str]]
"""The columns, by table and name, over which equalities passed values on to others."""

_ColumnOf: TypeAlias = tuple[int, str]
_Alternatives: TypeAlias = dict[_ColumnOf, tuple[Operand, ...]]


class _Scope:
    """Conditions that a row must meet to matter, those of the scope around included."""

    __slots__ = ("_around", "_conditions")

    def __init__(self, around: _Scope | None = None) -> None:
        self._around = around
        self._conditions: list[ColumnElement[Any]] = []

    def require(self, condition: ColumnElement[Any] | None) -> None:
        if condition is not None:
            self._conditions.extend(_conjuncts(condition))

    def conditions(self) -> Iterator[ColumnElement[Any]]:
        yield from self._conditions
        if self._around is not None:
            yield from self._around.conditions()


@dataclass(frozen=True, slots=True, eq=False)
class _Leaf:
    """A FROM element over one table."""

    table: Table
    scope: _Scope
    nullable: bool


def narrowings_of(
    select: Select[Any], froms: Iterable[Any], dialect: Dialect
) -> dict[int, tuple[Table, Narrowed, Through]]:
    """Return the FROM elements over tables of one SELECT, by their hash, each with the columns that are narrowed."""
    block = _Block(dialect)
    top = _Scope()
    top.require(select.whereclause)
    for source in froms:
        block.plant(source, top, nullable=False)
    return {name: (leaf.table, *block.narrowed(name, leaf)) for name, leaf in block.leaves.items()}


class _Block:
    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.leaves: dict[int, _Leaf] = {}

    def plant(self, source: Any, scope: _Scope, *, nullable: bool) -> None:
        """Note the leaves of a FROM element and what holds for each."""
        cls = class_of(source)
        if cls is FromGrouping:
            self.plant(source.element, scope, nullable=nullable)
        elif cls in (Join, _ORMJoin):
            self._plant_join(source, scope, nullable=nullable)
        elif is_table_source(source):
            self._plant_table(source, scope, nullable=nullable)

    def _plant_join(self, join: Join, scope: _Scope, *, nullable: bool) -> None:
        if join.full:
            # Its ON keeps no row of either side out; what a side requires of itself holds there alone.
            self.plant(join.left, _Scope(scope), nullable=True)
            self.plant(join.right, _Scope(scope), nullable=True)
        elif join.isouter:
            inner = _Scope(scope)
            inner.require(join.onclause)
            self.plant(join.left, scope, nullable=nullable)
            self.plant(join.right, inner, nullable=True)
        else:
            scope.require(join.onclause)
            self.plant(join.left, scope, nullable=nullable)
            self.plant(join.right, scope, nullable=nullable)

    def _plant_table(self, source: Any, scope: _Scope, *, nullable: bool) -> None:
        name, table = hash(source), source
        while class_of(table) is Alias:
            table = table.element
        # Met twice: neither place's conditions hold for both.
        twice = name in self.leaves
        self.leaves[name] = _Leaf(plain_table(table), _Scope() if twice else scope, twice or nullable)

    def narrowed(self, name: int, leaf: _Leaf) -> tuple[Narrowed, Through]:
        """Return what each column of a leaf with a safe type is narrowed to, as far as it is, and by way of what."""
        given: _Alternatives = {}
        equal: dict[_ColumnOf, list[_ColumnOf]] = {}
        for condition in leaf.scope.conditions():
            for column, operands in self._alternatives(condition).items():
                given.setdefault(column, operands)
            pair = self._equality(condition)
            if pair is not None:
                equal.setdefault(pair[0], []).append(pair[1])
                equal.setdefault(pair[1], []).append(pair[0])
        narrowed: dict[str, tuple[Operand, ...]] = {}
        through: set[_ColumnOf] = set()
        for of_table in leaf.table.columns:
            found = _reach((name, of_table.key), given, equal)
            if found is not None:
                narrowed[of_table.name] = found[0]
                through |= found[1]
        return narrowed, frozenset(map(self._named, through))

    def _named(self, name: _ColumnOf) -> tuple[Table, str]:
        table = self.leaves[name[0]].table
        return table, table.columns[name[1]].name

    def _alternatives(self, condition: Any) -> _Alternatives:
        """Return the columns that a condition confines, each to its operands."""
        condition = _ungrouped(condition)
        cls = class_of(condition)
        if cls in (BooleanClauseList, ExpressionClauseList):
            branches = [self._alternatives(clause) for clause in condition.clauses]
            if condition.operator is operators.and_:
                return {column: operands for branch in reversed(branches) for column, operands in branch.items()}
            return _in_every(branches) if condition.operator is operators.or_ else {}
        return self._comparison(condition) if cls is BinaryExpression else {}

    def _comparison(self, condition: BinaryExpression[Any]) -> _Alternatives:
        if condition.operator is operators.eq:
            for column, value in ((condition.left, condition.right), (condition.right, condition.left)):
                name = self._column(column)
                operands = None if name is None else self._operands(name, value)
                if name is not None and operands is not None and not _is_list(value):
                    return {name: operands}
        elif condition.operator is operators.in_op:
            name = self._column(condition.left)
            operands = None if name is None else self._operands(name, condition.right)
            if name is not None and operands is not None:
                return {name: operands}
        elif condition.operator is operators.is_ and class_of(condition.right) is Null:
            name = self._column(condition.left)
            # On a nullable side a row is NULL that does not exist.
            if name is not None and not self.leaves[name[0]].nullable:
                return {name: (IS_NULL,)}
        return {}

    def _operands(self, name: _ColumnOf, value: Any) -> tuple[Operand, ...] | None:
        """Return the values that a column is compared with; None where they are not all values of its own kind."""
        value = _ungrouped(value)
        cls = class_of(value)
        if cls in (ClauseList, ExpressionClauseList):
            parts = [self._operands(name, part) for part in value.clauses]
            return None if None in parts else tuple(operand for part in parts if part is not None for operand in part)
        kind = kind_of(self.leaves[name[0]].table.columns[name[1]].type, self.dialect)
        if cls in (True_, False_):
            return (Constant(int(cls is True_)),) if kind == "int" else None
        if cls is BindParameter and kind is not None and kind_of(value.type, self.dialect) == kind:
            return (value,)
        return None

    def _equality(self, condition: Any) -> tuple[_ColumnOf, _ColumnOf] | None:
        condition = _ungrouped(condition)
        if class_of(condition) is not BinaryExpression or condition.operator is not operators.eq:
            return None
        left, right = self._column(condition.left), self._column(condition.right)
        if left is None or right is None or self._kind(left) != self._kind(right):
            return None
        return left, right

    def _kind(self, name: _ColumnOf) -> str | None:
        return kind_of(self.leaves[name[0]].table.columns[name[1]].type, self.dialect)

    def _column(self, expression: Any) -> _ColumnOf | None:
        """Return which column of which leaf an expression is; None where it is not one, or its type is not safe."""
        expression = _ungrouped(expression)
        if class_of(expression) is not SchemaColumn or expression.table is None:
            return None
        leaf = self.leaves.get(hash(expression.table))
        column: Column[Any] | None = None if leaf is None else leaf.table.columns.get(expression.key)
        if column is None or column.name != expression.name:
            return None
        kind = kind_of(column.type, self.dialect)
        same = kind is not None and kind_of(expression.type, self.dialect) == kind
        return (hash(expression.table), column.key) if same else None


def _reach(
    start: _ColumnOf, given: _Alternatives, equal: Mapping[_ColumnOf, list[_ColumnOf]]
) -> tuple[tuple[Operand, ...], set[_ColumnOf]] | None:
    """Return what a column is narrowed to, by itself or through columns that equal it, and those columns."""
    if start in given:
        return given[start], set()
    reached, waiting = {start}, [start]
    while waiting:
        for column in equal.get(waiting.pop(), ()):
            # NULL equals nothing, so it does not pass on.
            if column in given and IS_NULL not in given[column]:
                return given[column], (reached | {column}) - {start}
            if column not in reached:
                reached.add(column)
                waiting.append(column)
    return None


def _in_every(branches: list[_Alternatives]) -> _Alternatives:
    first, *others = branches
    return {
        column: (*operands, *(operand for branch in others for operand in branch[column]))
        for column, operands in first.items()
        if all(column in branch for branch in others)
    }


def _conjuncts(condition: Any) -> Iterator[ColumnElement[Any]]:
    condition = _ungrouped(condition)
    if class_of(condition) in (BooleanClauseList, ExpressionClauseList) and condition.operator is operators.and_:
        for clause in condition.clauses:
            yield from _conjuncts(clause)
    else:
        yield condition


def _ungrouped(expression: Any) -> Any:
    while class_of(expression) is Grouping:
        expression = expression.element
    return expression


def _is_list(value: Any) -> bool:
    value = _ungrouped(value)
    return class_of(value) in (ClauseList, ExpressionClauseList) or bool(getattr(value, "expanding", False))
