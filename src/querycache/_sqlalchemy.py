"""Which private names of SQLAlchemy does this library lean on?  These, and no others but those of the
compiler (``_rendering``) and of the ORM's loader (``_loading``).

Each function has a test that fails when a release changes what stands behind it (tests/unit/test_sqlalchemy_seams.py).
Tried on 2.0.41 to 2.0.58 and 2.1.0 to 2.1.9.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Executable
from sqlalchemy.engine import Connection, CursorResult, Dialect, Engine, ExecutionContext, Result
from sqlalchemy.engine.cursor import (
    _DEFAULT_FETCH,
    BufferedRowCursorFetchStrategy,
    CursorFetchStrategy,
    FullyBufferedCursorFetchStrategy,
)
from sqlalchemy.engine.util import TransactionalContext
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.pool import Pool
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import BindParameter

Description = Sequence[tuple[Any, ...]]
"""A cursor's ``description``: per column its name, the driver's type code, and five fields that SQLAlchemy ignores."""

_CONNECT: Final = ("sqlalchemy.engine.create", "connect")


@dataclass(frozen=True, slots=True)
class Compilation:
    """A compiled statement and the parameters of one call of it."""

    compiled: SQLCompiler
    extracted: Sequence[BindParameter[Any]] | None
    collected: Mapping[str, Any] | None
    from_cache: Any


def cache_key_of(statement: Any) -> Any | None:
    """Return SQLAlchemy's cache key of a statement, None where it has none."""
    return statement._generate_cache_key()


def compile_statement(
    statement: Any, engine: Engine, dialect: Dialect, options: Mapping[str, Any], parameter_names: Sequence[str]
) -> Compilation:
    """Compile as ``Connection.execute`` does, through the engine's own cache of compiled statements."""
    answer: Any = statement._compile_w_cache(
        dialect=dialect,
        compiled_cache=options.get("compiled_cache", engine._compiled_cache),
        column_keys=sorted(parameter_names),
        for_executemany=False,
        schema_translate_map=options.get("schema_translate_map"),
        linting=dialect.compiler_linting,
    )
    # 2.0: (compiled, extracted, hit); 2.1: (compiled, extracted, collected, hit)
    return Compilation(answer[0], answer[1], answer[2] if len(answer) == 4 else None, answer[-1])


def parameters_of(compilation: Compilation, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the value of each bind name of this call, before bind processors."""
    more: dict[str, Any] = {} if compilation.collected is None else {"_collected_params": compilation.collected}
    return dict(
        compilation.compiled.construct_params(
            dict(parameters) if parameters else None,
            extracted_parameters=compilation.extracted,
            escape_names=False,
            **more,
        )
    )


def bind_processors_of(compiled: SQLCompiler) -> Mapping[str, Any]:
    """Return bind processors by bind name; a tuple of them for a bound tuple."""
    return compiled._bind_processors


def result_types_of(compiled: SQLCompiler) -> list[tuple[str, Any]]:
    """Return (name, type) of each column that the statement returns."""
    return [(entry.keyname, entry.type) for entry in compiled._result_columns]


class _NoConnection:
    """Stands where a replayed result would hold its connection: there is nothing to close and nothing to log."""

    _echo = False

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.dialect = engine.dialect

    def _safe_close_cursor(self, cursor: object) -> None:
        return None


def replay_cursor(
    compilation: Compilation,
    statement: Executable,
    engine: Engine,
    options: Mapping[str, Any],
    description: Description,
    rows: Iterable[Sequence[Any]],
) -> CursorResult[Any]:
    """Build the result that ``Connection.execute`` would have returned, from rows as the driver gave them."""
    compiled = compilation.compiled
    context = engine.dialect.execution_ctx_cls.__new__(engine.dialect.execution_ctx_cls)
    context.__dict__.update(
        root_connection=_NoConnection(engine),
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
        cursor=None,
        executemany=False,
    )
    buffered = FullyBufferedCursorFetchStrategy(None, alternate_description=description, initial_buffer=rows)
    return CursorResult(context, buffered, description)  # type: ignore[arg-type]


def load_result(
    state: ORMExecuteState, session: Session, cursor: CursorResult[Any], options: Mapping[str, Any]
) -> Result[Any]:
    """Hand a cursor result to the ORM's own loader, as ``Session.execute`` does after the database answered."""
    compile_state: Any = state._compile_state_cls
    if compile_state is None:
        return cursor
    result: Result[Any] = compile_state.orm_setup_cursor_result(
        session, state.statement, state.parameters or {}, options, state.bind_arguments, cursor
    )
    return result


def core_statement_of(compiled: SQLCompiler) -> Any:
    """Return the Core construct that was rendered: what the ORM made of its select, eager joins and criteria included."""
    compile_state = compiled.compile_state
    return getattr(compile_state, "statement", None) if compile_state is not None else compiled.statement


def buffer_cursor(context: ExecutionContext, cursor: Any) -> list[Sequence[Any]]:
    """Fetch all rows as the driver gives them, and leave them in the context for SQLAlchemy to process."""
    rows = list(cursor.fetchall())
    context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(  # type: ignore[attr-defined]
        cursor, alternate_description=cursor.description, initial_buffer=rows
    )
    return rows


def run_listeners_after_us(state: ORMExecuteState) -> Result[Any] | None:
    """Run the ``do_orm_execute`` listeners registered after the one now running, once; return a result if one gives it.

    A listener that comes later may still change the statement (a tenant's criteria): it must have done so before a key is
    made. Afterwards ``invoke_statement`` runs none of them again.
    """
    remaining: list[Any] = list(state._remaining_events())
    state._starting_event_idx += len(remaining)
    for listener in remaining:
        result: Result[Any] | None = listener(state)
        if result is not None:
            return result
    return None


def autoflush(session: Session) -> None:
    """Flush as the session does before a query; errors say that a query caused it."""
    session._autoflush()


def autobegin(session: Session) -> None:
    """Begin the session's transaction as its first statement does; no connection is checked out for that.

    Raises as a statement does within ``with session.begin_nested():`` after that savepoint has ended.
    """
    TransactionalContext._trans_ctx_check(session)
    if session._transaction is None:
        session._autobegin_t()


def reads_at_autoflush(state: ORMExecuteState) -> bool:
    """Tell whether the session would flush before this statement."""
    if state._compile_state_cls is None:
        return True
    return bool(getattr(state.load_options, "_autoflush", True))


def populates_existing(state: ORMExecuteState) -> bool:
    """Tell whether the statement refreshes what the session already holds."""
    options = state.load_options
    return bool(getattr(options, "_populate_existing", False) or getattr(options, "_refresh_state", None) is not None)


def connection_info_of(connection: Connection) -> dict[Any, Any]:
    """Return the mutable notes that live as long as the driver connection."""
    return connection.connection.info


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


def isolation_is_set_on_connect(dialect: Dialect) -> bool:
    """Tell whether ``create_engine(isolation_level=)`` was given: the level is then the user's choice."""
    return getattr(dialect, "_on_connect_isolation_level", None) is not None


def pool_of_record(record: Any) -> Pool:
    """Return the pool that a connection's record belongs to."""
    pool: Pool = record._ConnectionRecord__pool
    return pool


def dialect_of_pool(pool: Pool) -> Any:
    """Return the dialect of the engine that a pool was made for; a stand-in that is no ``Dialect`` where none was."""
    return pool._dialect


def connect_arguments_of(pool: Pool | None) -> tuple[Sequence[Any], Mapping[str, Any]] | None:
    """Return what ``create_engine`` has its pool pass to the driver's ``connect``; None where a ``creator`` connects.

    SQLAlchemy keeps them in a closure only. Anything unexpected about it counts as not known.
    """
    creator: Any = getattr(pool, "_creator", None)
    if (getattr(creator, "__module__", ""), getattr(creator, "__name__", "")) != _CONNECT:
        return None
    kept = inspect.getclosurevars(creator).nonlocals
    if "cargs_tup" not in kept or "cparams" not in kept:
        return None
    return kept["cargs_tup"], kept["cparams"]


def root_engine_of(engine: Engine) -> Engine:
    """Return the engine whose pool and dialect ``Engine.execution_options()`` shares; others are their own."""
    while (proxied := getattr(engine, "_proxied", None)) is not None:
        engine = proxied
    return engine


def plain_table(table: Any) -> Any:
    """Return the table behind an annotated one."""
    return table._deannotate()


def has_listeners_after_us(state: ORMExecuteState) -> bool:
    """Tell whether ``do_orm_execute`` listeners were registered after the one now running."""
    return bool(state._remaining_events())


def connection_of(session: Session, bind: Engine | Connection) -> Connection | None:
    """Return the connection on which the session's transaction is, or would go on, with a bind; None where it has none."""
    if isinstance(bind, Connection):
        return bind
    transaction = session._transaction
    while transaction is not None:
        found = transaction._connections.get(bind)
        if found is not None:
            return found[0]
        transaction = transaction._parent
    return None
