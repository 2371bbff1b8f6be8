"""What did a compiler make of a statement: which SELECTs did it render, over which FROM elements, and where?

The private names of SQLAlchemy's compiler and SELECT that are leaned on, each with a test that fails when a release changes
what stands behind it (tests/unit/test_rendering.py). Only notes what is rendered, never changes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

_RENDERED: Final = "_querycache_rendered"
# How 2.1 lets dialects add clauses.
_SYNTAX_EXTENSIONS: Final = ("_pre_columns_clause", "_post_select_clause", "_post_criteria_clause", "_post_body_clause")


@dataclass(frozen=True, slots=True, eq=False)
class RenderedSelect:
    """A SELECT as it was rendered, in one place of a statement.

    ``written``: the element that stands there; ``statement``: what the ORM made of it; ``froms``: the FROM elements that
    remained after correlation; ``around``: the SELECT that it stands in, None at the top and in a CTE.
    """

    written: Any
    statement: Any
    froms: tuple[Any, ...]
    around: RenderedSelect | None = None


@dataclass(slots=True)
class Rendered:
    """What a compiler rendered: tables, each with the times it was a FROM element, and every SELECT, outer ones first.

    ``columns``: every one that was rendered. ``cte_uses``: how often each name of a CTE was a FROM element;
    ``recursive_ctes``: names that may mean themselves.
    """

    tables: Counter[Any] = field(default_factory=Counter)
    columns: dict[Any, None] = field(default_factory=dict)
    selects: list[RenderedSelect] = field(default_factory=list)
    cte_uses: Counter[str] = field(default_factory=Counter)
    recursive_ctes: set[str] = field(default_factory=set)
    open: list[Any] = field(default_factory=list)


def record_rendering(dialect: Dialect) -> None:
    """Have every later compilation of this dialect object remember what it rendered."""
    base: type[SQLCompiler] = dialect.statement_compiler
    if getattr(base, "querycache_records", False):
        return

    class RecordingCompiler(base):  # type: ignore[valid-type,misc]
        querycache_records = True

        def visit_table(self, table: Any, asfrom: bool = False, *arguments: Any, **options: Any) -> Any:
            _record_of(self).tables[table] += asfrom
            return super().visit_table(table, asfrom, *arguments, **options)

        def visit_cte(self, cte: Any, asfrom: bool = False, **options: Any) -> Any:
            record = _record_of(self)
            name = name_of_cte(cte)
            record.cte_uses[name] += asfrom
            if cte.recursive or cte._restates is not None:
                record.recursive_ctes.add(name)
            record.open.append(None)
            try:
                return super().visit_cte(cte, asfrom=asfrom, **options)
            finally:
                record.open.pop()

        def visit_select(self, select_stmt: Any, *arguments: Any, **options: Any) -> Any:
            record = _record_of(self)
            record.open.append(select_stmt)
            try:
                return super().visit_select(select_stmt, *arguments, **options)
            finally:
                record.open.pop()

        def visit_column(self, column: Any, *arguments: Any, **options: Any) -> Any:
            _record_of(self).columns[column] = None
            return super().visit_column(column, *arguments, **options)

        def _setup_select_stack(self, select: Any, *arguments: Any, **options: Any) -> Any:
            froms = super()._setup_select_stack(select, *arguments, **options)
            record = _record_of(self)
            around = next((each for each in record.open[-2:-1] if isinstance(each, RenderedSelect)), None)
            record.selects.append(RenderedSelect(record.open[-1], select, tuple(froms), around))
            record.open[-1] = record.selects[-1]
            return froms

    RecordingCompiler.__name__ = RecordingCompiler.__qualname__ = base.__name__
    dialect.statement_compiler = RecordingCompiler


def _record_of(compiler: SQLCompiler) -> Rendered:
    record: Rendered | None = compiler.__dict__.get(_RENDERED)
    if record is None:
        record = compiler.__dict__[_RENDERED] = Rendered()
    return record


def name_of_cte(cte: Any) -> str:
    """Return the name under which a CTE is defined, where it is one under an alias."""
    while cte._cte_alias is not None:
        cte = cte._cte_alias
    return str(cte.name)


def shown_columns(element: Any) -> Mapping[int, Any]:
    """Return what each column of a derived table shows, by the column's hash: an expression of its SELECT."""
    return {hash(column): column._proxies[-1] for column in element.c if column._proxies}


def cuts_rows(select: Any) -> bool:
    """Tell whether which rows a SELECT returns depends on other rows: LIMIT, DISTINCT ON, extensions of its syntax."""
    clauses = ("_limit_clause", "_offset_clause", "_fetch_clause", *_SYNTAX_EXTENSIONS)
    return bool(select._distinct_on) or any(getattr(select, clause, None) is not None for clause in clauses)


def groups_rows(select: Any) -> bool:
    """Tell whether a SELECT has GROUP BY or HAVING."""
    return bool(select._group_by_clauses or select._having_criteria)


def expressions_of(select: Any) -> list[Any]:
    """Return what stands in the list and in ORDER BY of a SELECT."""
    return [*select._raw_columns, *select._order_by_clauses]


def rendered_by(compiled: SQLCompiler) -> Rendered | None:
    """Return what a compiler rendered; None where nobody recorded it."""
    if not getattr(type(compiled), "querycache_records", False):
        return None
    return _record_of(compiled)
