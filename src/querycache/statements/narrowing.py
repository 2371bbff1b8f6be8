"""To which values of a column do the conditions of a statement confine the rows of a table that can matter to it?

For each FROM element by itself. Used are the top-level conjuncts of WHERE and of inner ON, and for the nullable side of an
outer join those of its ON. Equalities between columns pass values on within what holds for the element; never out of the
ON of an outer join to its preserved side, never through FULL. A column of a block around, or of a derived table, has the
values that its own rows are narrowed to, or is NULL, which equals nothing. What EXISTS or IN (SELECT) demands of the row
that makes it true holds as well, where it stands as a conjunct and has no row but for one of its FROM.
Each rule has a counterexample among the tests. What is not understood narrows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import Column as SchemaColumn
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    ClauseList,
    ExpressionClauseList,
    False_,
    Grouping,
    Label,
    Null,
    True_,
    Tuple,
)
from sqlalchemy.sql.selectable import Exists
from sqlalchemy.types import TupleType

from querycache._rendering import Rendered, RenderedSelect
from querycache.statements.blocks import Blocks, Condition, Derived, Leaf, Scope
from querycache.statements.elements import class_of
from querycache.statements.functions import is_function_of_one_row
from querycache.statements.tags import kind_of


class _Marker(Enum):
    NULL = auto()


IS_NULL: Final = _Marker.NULL
"""The operand of IS NULL."""


@dataclass(frozen=True, slots=True)
class Constant:
    """A value that stands in the statement itself."""

    value: int


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What a tuple is compared with: a bind that expands to tuples, or one tuple, with None for what is no known value."""

    values: BindParameter[Any] | tuple[BindParameter[Any] | Constant | None, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One place of each tuple of a tuple IN. Parts of the same ``rows`` belong together, tuple by tuple."""

    rows: Rows
    position: int


Operand: TypeAlias = BindParameter[Any] | Constant | _Marker | Part
Narrowed: TypeAlias = Mapping[str, tuple[Operand, ...]]
"""By column name: only rows that have one of these values there can matter."""

Through: TypeAlias = frozenset[tuple[Table, str]]
"""The columns, by table and name, over which equalities passed values on to others."""


class _Name(NamedTuple):
    """A column as it is seen: through a FROM element, of a leaf, by its key in the table."""

    seen_through: Leaf | Derived
    leaf: Leaf
    key: str

    @property
    def column(self) -> Column[Any]:
        return self.leaf.table.columns[self.key]

    @property
    def told(self) -> tuple[Table, str]:
        return self.leaf.table, self.column.name


_Alternatives: TypeAlias = dict[_Name, tuple[Operand, ...]]


class _Found(NamedTuple):
    operands: tuple[Operand, ...]
    through: Through


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the conditions of a scope say: to what a column is confined, and which columns are equal."""

    given: _Alternatives = field(default_factory=dict)
    equal: dict[_Name, list[_Name]] = field(default_factory=dict)

    def note_equal(self, one: _Name, other: _Name) -> None:
        self.equal.setdefault(one, []).append(other)
        self.equal.setdefault(other, []).append(one)


@dataclass(frozen=True, slots=True, eq=False)
class NarrowedSource:
    """A FROM element over a table, and its columns that are narrowed, by way of which others."""

    source: Any
    table: Table
    columns: Narrowed
    through: Through


def narrowings_of(
    rendered: Rendered, dialect: Dialect, is_user_function: Callable[[str], bool]
) -> Iterator[NarrowedSource]:
    """Yield all FROM elements over tables. ``is_user_function``: whether a user vouches for a function of that name."""
    blocks = Blocks(rendered, lambda name: is_function_of_one_row(name, dialect.name) and not is_user_function(name))
    narrowing = _Narrowing(blocks, dialect)
    for leaf in blocks.leaves:
        yield NarrowedSource(leaf.source, leaf.table, *narrowing.of(leaf))


class _Narrowing:
    def __init__(self, blocks: Blocks, dialect: Dialect) -> None:
        self.blocks = blocks
        self.dialect = dialect
        self._facts: dict[Scope, _Facts] = {}
        self._known: dict[tuple[Leaf, str], _Found | None] = {}

    def of(self, leaf: Leaf) -> tuple[Narrowed, Through]:
        """Return what each column of a leaf with a safe type is narrowed to, as far as it is, and by way of what."""
        narrowed: dict[str, tuple[Operand, ...]] = {}
        through: Through = frozenset()
        for column in leaf.table.columns:
            found = self._column_of(leaf, column.key)
            if found is not None:
                narrowed[column.name] = found.operands
                through |= found.through
        return narrowed, through

    # -- from conditions to a column ---------------------------------------------------------------------------------

    def _column_of(self, leaf: Leaf, key: str) -> _Found | None:
        if (leaf, key) not in self._known:
            # Whoever asks for it meanwhile, in a circle, must not conclude from what he is asked for himself.
            self._known[leaf, key] = None
            self._known[leaf, key] = self._reach(_Name(leaf, leaf, key), self._facts_of(leaf.scope))
        return self._known[leaf, key]

    def _reach(self, start: _Name, facts: _Facts) -> _Found | None:
        """Return what a column is narrowed to, by itself or through columns that equal it, and those columns."""
        if start in facts.given:
            return _Found(facts.given[start], frozenset())
        reached, waiting = {start}, [start]
        while waiting:
            for name in facts.equal.get(waiting.pop(), ()):
                found = self._passed_on(name, start, facts)
                if found is not None:
                    return _Found(found.operands, found.through | {each.told for each in (reached | {name}) - {start}})
                if name not in reached:
                    reached.add(name)
                    waiting.append(name)
        return None

    def _passed_on(self, name: _Name, start: _Name, facts: _Facts) -> _Found | None:
        """Return what a column passes on to those that equal it."""
        if name in facts.given:
            found: _Found | None = _Found(facts.given[name], frozenset())
        elif isinstance(name.seen_through, Derived) or self.blocks.is_around(name.leaf, start.leaf.top):
            found = self._column_of(name.leaf, name.key)
            found = None if found is None else _Found(_apart(found.operands), found.through)
        else:
            found = None
        # NULL equals nothing, so it does not pass on.
        return None if found is None or IS_NULL in found.operands else found

    def _facts_of(self, scope: Scope) -> _Facts:
        facts = self._facts.get(scope)
        if facts is None:
            facts = self._facts[scope] = _Facts()
            for condition in scope.conditions():
                self._note(condition, facts)
        return facts

    def _note(self, condition: Condition, facts: _Facts) -> None:
        expression, block = _ungrouped(condition.expression), condition.block
        for name, operands in self._alternatives(expression, block).items():
            facts.given.setdefault(name, operands)
        cls = class_of(expression)
        if cls is BinaryExpression and expression.operator is operators.eq:
            self._note_equal(expression.left, block, expression.right, block, facts)
        elif cls is BinaryExpression and expression.operator is operators.in_op:
            self._note_witness(self.blocks.only_block(expression.right), facts, expression.left, block)
        elif cls is Exists and expression.operator is operators.exists:
            self._note_witness(self.blocks.only_block(expression.element), facts)

    def _note_equal(
        self, one: Any, one_block: RenderedSelect, other: Any, other_block: RenderedSelect, facts: _Facts
    ) -> None:
        for left, right in _pairs(one, other):
            names = self._name(left, one_block), self._name(right, other_block)
            if names[0] is not None and names[1] is not None and self._kind(names[0]) == self._kind(names[1]):
                facts.note_equal(names[0], names[1])

    def _note_witness(
        self, witness: RenderedSelect | None, facts: _Facts, left: Any = None, block: RenderedSelect | None = None
    ) -> None:
        """Note what holds for the row of a subquery that makes EXISTS, or IN with its left side, true."""
        if witness is None or not self.blocks.has_a_row_for_each(witness) or witness not in self.blocks.scopes:
            return
        for condition in self.blocks.scopes[witness].own:
            self._note(condition, facts)
        if block is not None:
            lefts, columns = _parts_of(left), list(witness.statement.selected_columns)
            if len(lefts) == len(columns):
                for part, column in zip(lefts, columns, strict=True):
                    shown = column.element if class_of(column) is Label else column
                    self._note_equal(part, block, shown, witness, facts)

    # -- from one condition to operands ------------------------------------------------------------------------------

    def _alternatives(self, condition: Any, block: RenderedSelect) -> _Alternatives:
        """Return the columns that a condition confines, each to its operands."""
        condition = _ungrouped(condition)
        cls = class_of(condition)
        if cls in (BooleanClauseList, ExpressionClauseList):
            branches = [self._alternatives(clause, block) for clause in condition.clauses]
            if condition.operator is operators.and_:
                return {name: operands for branch in reversed(branches) for name, operands in branch.items()}
            return _in_every(branches) if condition.operator is operators.or_ else {}
        if cls is not BinaryExpression:
            return {}
        if condition.operator is operators.eq:
            return self._equals(condition, block)
        if condition.operator is operators.in_op:
            return self._is_in(condition, block)
        if condition.operator is operators.is_ and class_of(condition.right) is Null:
            seen = self._seen(condition.left, block)
            # On a nullable side a row is NULL that does not exist.
            return {} if seen is None or seen[1] else {seen[0]: (IS_NULL,)}
        return {}

    def _equals(self, condition: BinaryExpression[Any], block: RenderedSelect) -> _Alternatives:
        found: _Alternatives = {}
        for left, right in _pairs(condition.left, condition.right):
            for column, value in ((left, right), (right, left)):
                name = self._name(column, block)
                operand = None if name is None or _is_list(value) else self._operand(name, value)
                if name is not None and operand is not None:
                    found.setdefault(name, (operand,))
                    break
        return found

    def _is_in(self, condition: BinaryExpression[Any], block: RenderedSelect) -> _Alternatives:
        names = [self._name(part, block) for part in _parts_of(condition.left)]
        value = _ungrouped(condition.right)
        if class_of(_ungrouped(condition.left)) is Tuple:
            return self._tuple_is_in(names, value)
        (name,) = names
        if name is None:
            return {}
        operands = [self._operand(name, each) for each in (value.clauses if _is_clauses(value) else [value])]
        known = tuple(operand for operand in operands if operand is not None)
        return {name: known} if len(known) == len(operands) else {}

    def _tuple_is_in(self, names: Sequence[_Name | None], value: Any) -> _Alternatives:
        if class_of(value) is BindParameter and isinstance(value.type, TupleType):
            rows = Rows(value)
            return {
                name: (Part(rows, position),)
                for position, (name, its_type) in enumerate(zip(names, value.type.types, strict=False))
                if name is not None and value.expanding and self._kind(name) == kind_of(its_type, self.dialect)
            }
        tuples = [_parts_of(each) for each in value.clauses] if _is_clauses(value) else [[]]
        if any(len(each) != len(names) for each in tuples):
            return {}
        known = [tuple(map(self._operand, names, each)) for each in tuples]
        places = [Rows(operands) for operands in known]
        return {
            name: tuple(Part(rows, position) for rows in places)
            for position, name in enumerate(names)
            if name is not None and all(operands[position] is not None for operands in known)
        }

    def _operand(self, name: _Name | None, value: Any) -> BindParameter[Any] | Constant | None:
        """Return the value that a column is compared with; None where it is not one of its own kind."""
        value = _ungrouped(value)
        cls, kind = class_of(value), None if name is None else self._kind(name)
        if cls in (True_, False_):
            return Constant(int(cls is True_)) if kind == "int" else None
        if cls is BindParameter and kind is not None and kind_of(value.type, self.dialect) == kind:
            return value  # type: ignore[no-any-return]
        return None

    # -- names -------------------------------------------------------------------------------------------------------

    def _kind(self, name: _Name) -> str | None:
        return kind_of(name.column.type, self.dialect)

    def _name(self, expression: Any, block: RenderedSelect) -> _Name | None:
        seen = self._seen(expression, block)
        return None if seen is None else seen[0]

    def _seen(self, expression: Any, block: RenderedSelect) -> tuple[_Name, bool] | None:
        """Return which column an expression is, and whether it may be NULL because there is no row.

        None where it is not one, or its type is not safe.
        """
        expression = _ungrouped(expression)
        if class_of(expression) is not SchemaColumn or expression.table is None:
            return None
        source = self.blocks.source(block, hash(expression.table))
        if isinstance(source, Leaf):
            column: Column[Any] | None = source.table.columns.get(expression.key)
            if column is None or column.name != expression.name or not self._same_kind(column, expression):
                return None
            return _Name(source, source, column.key), source.nullable
        shown = None if source is None else source.columns.get(hash(expression))
        seen = None if source is None or shown is None else self._seen(shown, source.block)
        if source is None or seen is None or not self._same_kind(seen[0].column, expression):
            return None
        name, nullable = seen
        return (name if source.in_place else _Name(source, name.leaf, name.key)), nullable or source.nullable

    def _same_kind(self, column: Any, other: Any) -> bool:
        kind = kind_of(column.type, self.dialect)
        return kind is not None and kind_of(other.type, self.dialect) == kind


def _apart(operands: Iterable[Operand]) -> tuple[Operand, ...]:
    # Two columns of a row that is seen from another block need not be of one row: it may be one of a group.
    return tuple(
        Part(Rows(operand.rows.values), operand.position) if isinstance(operand, Part) else operand
        for operand in operands
    )


def _in_every(branches: list[_Alternatives]) -> _Alternatives:
    first, *others = branches
    return {
        name: (*operands, *(operand for branch in others for operand in branch[name]))
        for name, operands in first.items()
        if all(name in branch for branch in others)
    }


def _pairs(one: Any, other: Any) -> list[tuple[Any, Any]]:
    """Return what is compared with what: of tuples each part."""
    ones, others = _parts_of(one), _parts_of(other)
    both = class_of(_ungrouped(one)) is Tuple and class_of(_ungrouped(other)) is Tuple
    if not both:
        return [(one, other)]
    return list(zip(ones, others, strict=True)) if len(ones) == len(others) else []


def _parts_of(expression: Any) -> list[Any]:
    expression = _ungrouped(expression)
    return list(expression.clauses) if class_of(expression) is Tuple else [expression]


def _ungrouped(expression: Any) -> Any:
    while class_of(expression) is Grouping:
        expression = expression.element
    return expression


def _is_clauses(value: Any) -> bool:
    return class_of(value) in (ClauseList, ExpressionClauseList)


def _is_list(value: Any) -> bool:
    return bool(getattr(_ungrouped(value), "expanding", False))
