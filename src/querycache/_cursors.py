"""Which private names of SQLAlchemy stand behind a result's rows: kept aside, played back, watched until they are read?

What every execution asks of SQLAlchemy is in ``_sqlalchemy``. Each function has a test that fails when a release changes
what stands behind it (tests/unit/test_sqlalchemy_seams.py). Tried on 2.0.41 to 2.0.58 and 2.1.0 to 2.1.9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Executable
from sqlalchemy.engine import Connection, CursorResult, Engine, ExecutionContext
from sqlalchemy.engine.cursor import (
    _DEFAULT_FETCH,
    BufferedRowCursorFetchStrategy,
    CursorFetchStrategy,
    FullyBufferedCursorFetchStrategy,
)
from sqlalchemy.sql.compiler import _CompileLabel

from querycache._sqlalchemy import Compilation

Description = Sequence[tuple[Any, ...]]
"""A cursor's ``description``: per column its name, the driver's type code, and five fields that SQLAlchemy ignores."""


class _NoConnection:
    """Stands where a replayed result would hold its connection: there is nothing to close and nothing to log."""

    _echo = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect = engine.dialect

    def _safe_close_cursor(self, cursor: object) -> None:
        return None


class _NoCursor:
    """Stands where a replayed result would hold the driver's cursor, and says what that said."""

    lastrowid = None

    def __init__(self, rowcount: int, description: Description) -> None:
        self.rowcount = rowcount
        self.description = description

    def close(self) -> None:
        return None

    async def _async_soft_close(self) -> None:
        return None


def replay_cursor(
    compilation: Compilation,
    statement: Executable,
    engine: Engine,
    options: Mapping[str, Any],
    description: Description,
    rows: Sequence[Sequence[Any]],
    connection: Connection | None = None,
) -> CursorResult[Any]:
    """Build the result that ``Connection.execute`` would have returned, from rows as the driver gave them.

    ``connection``: the one that was asked, where there is one.
    """
    compiled = compilation.compiled
    context = engine.dialect.execution_ctx_cls.__new__(engine.dialect.execution_ctx_cls)
    context.__dict__.update(
        root_connection=connection or _NoConnection(engine),
        dialect=engine.dialect,
        compiled=compiled,
        invoked_statement=statement,
        extracted_parameters=compilation.extracted,
        cache_hit=compilation.from_cache,
        execution_options=options,
        result_column_struct=(
            compiled._result_columns,
            compiled._ordered_columns,
            compiled._textual_ordered_columns,
            compiled._ad_hoc_textual,
            compiled._loose_column_name_matching,
        ),
        isinsert=False,
        isupdate=False,
        isdelete=False,
        is_text=False,
        # SQLite's driver does not count the rows of a SELECT, the others do.
        cursor=_NoCursor(-1 if engine.dialect.name == "sqlite" else len(rows), description),
        executemany=False,
    )
    buffered = FullyBufferedCursorFetchStrategy(None, alternate_description=description, initial_buffer=rows)
    return CursorResult(context, buffered, description)  # type: ignore[arg-type]


def buffer_cursor(context: ExecutionContext, cursor: Any) -> tuple[list[Sequence[Any]], Description]:
    """Fetch all rows as the driver gives them, and leave them in the context for SQLAlchemy to process.

    Return them, and the cursor's description, which some drivers make anew whenever it is asked for.
    """
    description = cursor.description
    rows = list(cursor.fetchall())
    context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(  # type: ignore[attr-defined]
        cursor, alternate_description=description, initial_buffer=rows
    )
    return rows, description


def places_of(cursor: CursorResult[Any], columns: Sequence[Any]) -> list[tuple[int, Any]]:
    """Return where in a raw row some columns stand, each with what makes the driver's value the application's, or None.

    Raises ``NoSuchColumnError`` for one that is not there.
    """
    metadata: Any = cursor._metadata
    positions = metadata._indexes_for_keys(columns)
    processors = metadata._processors or ()
    return [(position, processors[position] if processors else None) for position in positions]


def bare_places_of(cursor: CursorResult[Any], columns: Sequence[Any]) -> list[tuple[int, Any]] | None:
    """Do the same; None where something is done to one of them on the way: ``-column`` goes by its column's name, too."""
    context: Any = cursor.context
    entries = context.compiled._result_columns
    places = places_of(cursor, columns)
    names = [name for position, _ in places for name in entries[position].objects]
    are_bare = context.compiled._ordered_columns and all(map(_is_bare, names))
    return places if are_bare else None


def _is_bare(name: Any) -> bool:
    """Tell whether a name of a result's column is a text or a column, or the compiler's label of a column."""
    return isinstance(name.element if isinstance(name, _CompileLabel) else name, str | Column)


class OpenCursor:
    """Whether a result still has rows to fetch from its cursor: on SQLite such a cursor pins the snapshot."""

    __slots__ = ("__weakref__", "is_open")

    def __init__(self) -> None:
        self.is_open = True


class _Watched(CursorFetchStrategy):
    __slots__ = ("watch",)

    def __init__(self, watch: OpenCursor) -> None:
        self.watch = watch

    def soft_close(self, result: CursorResult[Any], dbapi_cursor: Any) -> None:
        self.watch.is_open = False
        super().soft_close(result, dbapi_cursor)

    def hard_close(self, result: CursorResult[Any], dbapi_cursor: Any) -> None:
        self.watch.is_open = False
        super().hard_close(result, dbapi_cursor)

    def yield_per(self, result: CursorResult[Any], dbapi_cursor: Any, num: int) -> None:
        super().yield_per(result, dbapi_cursor, num)
        buffered = result.cursor_strategy
        if type(buffered) is BufferedRowCursorFetchStrategy:
            result.cursor_strategy = _WatchedRows.taking_over(buffered, self.watch)


class _WatchedRows(BufferedRowCursorFetchStrategy):
    __slots__ = ("watch",)

    watch: OpenCursor

    @classmethod
    def taking_over(cls, buffered: BufferedRowCursorFetchStrategy, watch: OpenCursor) -> _WatchedRows:
        self = cls.__new__(cls)
        for name in BufferedRowCursorFetchStrategy.__slots__:
            setattr(self, name, getattr(buffered, name))
        self.watch = watch
        return self

    def soft_close(self, result: CursorResult[Any], dbapi_cursor: Any) -> None:
        self.watch.is_open = False
        super().soft_close(result, dbapi_cursor)

    def hard_close(self, result: CursorResult[Any], dbapi_cursor: Any) -> None:
        self.watch.is_open = False
        super().hard_close(result, dbapi_cursor)


def watch_cursor(context: ExecutionContext) -> OpenCursor | None:
    """Watch the cursor of a statement that was just sent; None where its rows are already in memory.

    Keep the watch weakly: it dies with the result when the application forgets to close it.
    """
    strategy = context.cursor_fetch_strategy  # type: ignore[attr-defined]
    if isinstance(strategy, FullyBufferedCursorFetchStrategy):
        return None
    watch = OpenCursor()
    if strategy is _DEFAULT_FETCH:
        context.cursor_fetch_strategy = _Watched(watch)  # type: ignore[attr-defined]
    return watch
