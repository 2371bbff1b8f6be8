"""What stands in a SELECT, and is all of it known to depend on nothing but rows?

Walks the whole construct. Every element's class must be on a closed list of SQLAlchemy's own: what is not positively
known to be harmless (text, custom constructs, volatile functions, locks, hints, DML) refuses the statement, with a
reason.
Never guesses what SQL an unknown class renders.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy import schema, types
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import operators as postgresql_operators
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import util as orm_util
from sqlalchemy.sql import elements, functions, operators, selectable
from sqlalchemy.sql.annotation import Annotated
from sqlalchemy.sql.dml import UpdateBase

from querycache.statements.clocks import ClockWatch, names_the_clock
from querycache.statements.functions import qualified_name_of, why_not_cacheable


class Refused(Exception):
    """The statement cannot be cached; the message says why."""


class RefusedText(Refused):
    """It cannot as far as constructs tell: a part of it is text."""


@dataclass(frozen=True, slots=True, eq=False)
class Inventory:
    """What was found. ``sources`` are the FROM elements over one table each: tables and aliases of tables."""

    selects: tuple[selectable.Select[Any], ...]
    sources: tuple[Any, ...]
    functions: frozenset[str]
    clock_binds: tuple[elements.BindParameter[Any], ...]


Watch: TypeAlias = Callable[[Any, Sequence[Any]], None]
"""Is told of each element that is walked over, and what it is made of."""


def inventory_of(
    roots: Iterable[Any],
    dialect: Dialect,
    *,
    orm_selects_are_given: bool,
    declared_functions: Callable[[str], bool] = lambda name: False,
    watch: Watch | None = None,
) -> Inventory:
    """Walk everything that ``roots`` hold; raise ``Refused``.

    A nested SELECT of ORM entities shows only what the user wrote, not what the mappers add when it is rendered. It is
    left out where the caller says that its rendered form is among the roots, else refused.
    """
    walk = _Walk(dialect, orm_selects_are_given, declared_functions, watch)
    walk.visit_all(roots)
    return Inventory(
        tuple(walk.selects), tuple(walk.sources.values()), frozenset(walk.functions), tuple(walk.clocks.binds)
    )


def class_of(element: Any) -> type[Any]:
    """Return an element's class as it was before SQLAlchemy annotated it."""
    cls: type[Any] = type(element)
    return cls.__bases__[1] if issubclass(cls, Annotated) and len(cls.__bases__) > 1 else cls


def is_table_source(element: Any) -> bool:
    """Tell whether a FROM element is a table or an alias (of an alias) of one."""
    while class_of(element) is selectable.Alias:
        element = element.element
    return class_of(element) is schema.Table


def _present(module: Any, names: str) -> frozenset[type[Any]]:
    # Some of these classes came with 2.1.
    return frozenset(getattr(module, name) for name in names.split() if hasattr(module, name))


_KNOWN: Final = (
    _present(
        elements,
        """AggregateOrderBy AsBoolean BinaryExpression BindParameter BooleanClauseList Case Cast ClauseList
        CollationClause CollectionAggregate ColumnClause ElementList ExpressionClauseList Extract False_ FrameClause
        FunctionFilter Grouping Label Null OrderByList Over Slice TableValuedColumn True_ TryCast Tuple TypeClause TypeCoerce
        UnaryExpression WithinGroup _label_reference _textual_label_reference""",
    )
    | _present(
        selectable,
        """Alias CTE CompoundSelect Exists FromGrouping Join Lateral ScalarSelect ScalarValues Select
        SelectStatementGrouping Subquery TableValuedAlias Values _MemoizedSelectEntities _OffsetLimitParam""",
    )
    | _present(postgresql.ext, "DistinctOnClause")
    | {schema.Column, schema.Table, orm_util._ORMJoin, postgresql.array, postgresql.aggregate_order_by}
)

_WHY_NOT: Final[tuple[tuple[type[Any], str], ...]] = (
    (UpdateBase, "it contains INSERT, UPDATE or DELETE"),
    (schema.Sequence, "it draws from a sequence"),
    (selectable.TableSample, "it reads a random sample of a table"),
    (selectable.TableClause, "it reads a table() that is no Table of the metadata"),
)

# Renders a text search by the server's or session's settings.
_BY_SETTINGS: Final = frozenset({operators.match_op, operators.not_match_op})
_OWN_CUSTOM_OPERATORS: Final = tuple(
    operator for operator in vars(postgresql_operators).values() if isinstance(operator, operators.custom_op)
)
_OPERATOR_MODULES: Final = frozenset({"sqlalchemy.sql.operators", "_operator", "operator"})
_LITERAL: Final = re.compile(r"\*|-?\d+(\.\d+)?|'[A-Za-z0-9_ .-]*'|(?i:null|true|false)", re.ASCII)


class _Walk:
    """One walk over one statement; each element once."""

    def __init__(
        self,
        dialect: Dialect,
        orm_selects_are_given: bool,
        declared_functions: Callable[[str], bool],
        watch: Watch | None,
    ) -> None:
        self.dialect = dialect
        self.orm_selects_are_given = orm_selects_are_given
        self.declared_functions = declared_functions
        self.watch = watch
        self.selects: list[selectable.Select[Any]] = []
        self.sources: dict[int, Any] = {}
        self.functions: set[str] = set()
        self.clocks = ClockWatch(dialect)

    def visit_all(self, roots: Iterable[Any]) -> None:
        # Elements stay referenced here, so that an id names one of them only.
        seen: dict[int, Any] = {}
        queue = deque(roots)
        top = frozenset(map(id, queue))
        while queue:
            element = queue.popleft()
            if id(element) in seen:
                continue
            seen[id(element)] = element
            children = list(self._visit(element, is_root=id(element) in top))
            why_not = self.clocks.why_not(element, children)
            if why_not is not None:
                raise Refused(why_not)
            if self.watch is not None:
                self.watch(element, children)
            queue.extend(children)

    def _visit(self, element: Any, *, is_root: bool) -> Iterable[Any]:
        cls = class_of(element)
        if cls.__dict__.get("_compiler_dispatcher") or getattr(cls, "_compiler_dispatcher", None) is not None:
            raise Refused(f"{cls.__qualname__} is compiled by a function of the application's (@compiles)")
        if isinstance(element, functions.FunctionElement):
            self._check_function(element, cls)
        elif isinstance(element, elements.TextClause | selectable.TextualSelect):
            raise RefusedText("text()")
        elif cls not in _KNOWN:
            raise Refused(_why_unknown(element, cls))
        self._check_type(element)
        if cls is selectable.Select and not is_root and _is_orm(element):
            if not self.orm_selects_are_given:
                raise Refused("it contains a SELECT of mapped classes whose rendered form is not known")
            return ()
        visit: Callable[[Any], Iterable[Any]] | None = getattr(self, f"_visit_{cls.__name__.strip('_').lower()}", None)
        return element.get_children() if visit is None else visit(element)

    # -- what needs more than a known class --------------------------------------------------------------------------

    def _visit_select(self, select: selectable.Select[Any]) -> Iterable[Any]:
        self._check_select(select)
        if select._prefixes or select._suffixes:
            raise Refused("it has a prefix or suffix: what that text does is not known")
        if select._hints:
            raise Refused("it has a hint: what that text does is not known")
        self.selects.append(select)
        # A table stands for its columns in the list without their being children.
        for column in select.selected_columns:
            self._check_type(column)
        # The ON of a join() that names none is made when it is rendered.
        joined = select.get_final_froms() if select._setup_joins else ()
        return (*select.get_children(), *joined)

    def _visit_compoundselect(self, compound: selectable.CompoundSelect[Any]) -> Iterable[Any]:
        self._check_select(compound)
        return compound.get_children()

    def _check_select(self, select: selectable.GenerativeSelect) -> None:
        if select._for_update_arg is not None:
            raise Refused("it locks rows (FOR UPDATE or FOR SHARE)")
        if getattr(select, "_statement_hints", ()):
            raise Refused("it has a hint: what that text does is not known")

    def _visit_cte(self, cte: selectable.CTE) -> Iterable[Any]:
        prefixes = {str(getattr(prefix, "text", "")).upper() for prefix, _ in cte._prefixes}
        if not prefixes <= {"MATERIALIZED", "NOT MATERIALIZED"} or cte._suffixes:
            raise Refused("a CTE has a prefix or suffix: what that text does is not known")
        return cte.get_children()

    def _visit_lateral(self, lateral: selectable.Lateral) -> Iterable[Any]:
        if is_table_source(lateral.element):
            raise Refused("it has a LATERAL table")
        return lateral.get_children()

    def _visit_tablevaluedcolumn(self, column: elements.TableValuedColumn[Any]) -> Iterable[Any]:
        if class_of(column.scalar_alias) is not selectable.TableValuedAlias:
            raise Refused("it has a row of table as a value")
        return (column.scalar_alias,)

    def _visit_values(self, values: selectable.Values) -> Iterable[Any]:
        # Its children are the columns that it has, not what it is made of.
        cells = (cell for rows in values._data for row in rows for cell in row)
        return [cell for cell in cells if isinstance(cell, elements.ClauseElement)]

    _visit_scalarvalues = _visit_values

    def _visit_table(self, table: schema.Table) -> Iterable[Any]:
        if any("TEMP" in str(prefix).upper() for prefix in table._prefixes):
            raise Refused(f"table {table.fullname} is a temporary one")
        self.sources[hash(table)] = table
        return ()

    def _visit_alias(self, alias: selectable.Alias) -> Iterable[Any]:
        if not is_table_source(alias):
            return alias.get_children()
        table: Any = alias
        while class_of(table) is selectable.Alias:
            table = table.element
        if any("TEMP" in str(prefix).upper() for prefix in table._prefixes):
            raise Refused(f"table {table.fullname} is a temporary one")
        self.sources[hash(alias)] = alias
        return ()

    def _visit_column(self, column: elements.ColumnClause[Any]) -> Iterable[Any]:
        if column.table is None:
            raise Refused(f"column {column.name!r} belongs to no table")
        return (column.table,)

    def _visit_columnclause(self, column: elements.ColumnClause[Any]) -> Iterable[Any]:
        if column.table is not None:
            return (column.table,)
        if not column.is_literal:
            raise Refused(f"column({column.name!r}) belongs to no table")
        if _LITERAL.fullmatch(column.name) is None or names_the_clock(column.name):
            raise RefusedText("literal_column()")
        return ()

    def _visit_binaryexpression(self, expression: elements.BinaryExpression[Any]) -> Iterable[Any]:
        _check_operators(expression.operator, expression.negate)
        return expression.get_children()

    def _visit_unaryexpression(self, expression: elements.UnaryExpression[Any]) -> Iterable[Any]:
        _check_operators(expression.operator, expression.modifier)
        return expression.get_children()

    _visit_exists = _visit_collectionaggregate = _visit_asboolean = _visit_unaryexpression

    def _visit_clauselist(self, clauses: elements.ClauseList) -> Iterable[Any]:
        _check_operators(clauses.operator)
        return clauses.get_children()

    _visit_expressionclauselist = _visit_booleanclauselist = _visit_clauselist

    def _check_function(self, element: functions.FunctionElement[Any], cls: type[Any]) -> None:
        name = qualified_name_of(element)
        why_not = why_not_cacheable(element, cls, self.dialect.name, is_declared=self.declared_functions(name))
        if why_not is not None:
            raise Refused(why_not)
        self.functions.add(name)

    def _check_type(self, element: Any) -> None:
        column_type = getattr(element, "type", None)
        if not isinstance(column_type, types.TypeEngine):
            return
        rendered = column_type.dialect_impl(self.dialect)
        if rendered._has_bind_expression or rendered._has_column_expression:
            raise Refused(f"type {type(column_type).__qualname__} renders SQL of its own")


def _is_orm(select: selectable.Select[Any]) -> bool:
    return select._propagate_attrs.get("compile_state_plugin") == "orm"


def _why_unknown(element: Any, cls: type[Any]) -> str:
    for known, why_not in _WHY_NOT:
        if isinstance(element, known):
            return why_not
    return f"{cls.__module__}.{cls.__qualname__} is not known to depend on rows only"


def _check_operators(*found: Any) -> None:
    for operator in _without_none(found):
        if isinstance(operator, operators.custom_op):
            if not any(operator is own for own in _OWN_CUSTOM_OPERATORS):
                raise Refused(f"operator {operator.opstring} is not one of SQLAlchemy's")
        elif operator in _BY_SETTINGS:
            raise Refused("it searches text by the server's settings (match)")
        elif getattr(operator, "__module__", None) not in _OPERATOR_MODULES:
            raise Refused("it has an operator that is not one of SQLAlchemy's")


def _without_none(found: Iterable[Any]) -> Iterator[Any]:
    return (operator for operator in found if operator is not None)
