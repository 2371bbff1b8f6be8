"""Which private names of SQLAlchemy does this library lean on? These, and no others but
those of results (``_cursors``), of listeners (``_listeners``), of the compiler (``_rendering``) and of the ORM's loader
(``_loading``).

Each function has a test that fails when a release changes what stands behind it (tests/unit/test_sqlalchemy_seams.py).
Tried on 2.0.41 to 2.0.58 and 2.1.0 to 2.1.9.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from sqlalchemy import Select, TextClause, TextualSelect
from sqlalchemy.engine import Connection, CursorResult, Dialect, Engine, Result
from sqlalchemy.engine.util import TransactionalContext
from sqlalchemy.orm import Load, ORMExecuteState, Session
from sqlalchemy.orm.context import LABEL_STYLE_LEGACY_ORM, QueryContext
from sqlalchemy.orm.strategy_options import _WildcardLoad
from sqlalchemy.orm.util import LoaderCriteriaOption
from sqlalchemy.pool import Pool
from sqlalchemy.sql.compiler import WARN_LINTING, SQLCompiler
from sqlalchemy.sql.elements import BindParameter
from sqlalchemy.util import concurrency, immutabledict

from querycache import _bridge

T = TypeVar("T")

_CONNECT: Final = ("sqlalchemy.engine.create", "connect")
_LOOKING_ON: Final = frozenset(
    ("sqlalchemy.engine.events", name) for name in ("wrap_before_execute", "wrap_before_cursor_execute")
)
_LOADING: Final = frozenset({"autoflush", "identity_token", "populate_existing", "yield_per"})
_WRAPPING: Final = ("sqlalchemy.event.", "sqlalchemy.util.")


class Compilation(NamedTuple):
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
        column_keys=sorted(parameter_names) if parameter_names else [],
        for_executemany=False,
        schema_translate_map=options.get("schema_translate_map"),
        linting=dialect.compiler_linting | WARN_LINTING,  # once, and then not when the statement is sent
    )
    # 2.0: (compiled, extracted, hit); 2.1: (compiled, extracted, collected, hit)
    return Compilation(answer[0], answer[1], answer[2] if len(answer) == 4 else None, answer[-1])


def schema_map_of(options: Mapping[str, Any]) -> Mapping[str | None, str | None] | None:
    """Return the ``schema_translate_map`` of execution options as it was given: compilers add to it."""
    given: Mapping[str | None, str | None] | None = options.get("schema_translate_map")
    if given is None or None not in given or given.get("_none") != given[None]:
        return given
    return {schema: target for schema, target in given.items() if schema != "_none"}


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


def places_of_binds(compiled: SQLCompiler) -> tuple[int, ...] | None:
    """Return where each bind name's value stands, in the order of the names, in what is extracted from a call.

    None where not each name has a place, one alone: what ``parameters_of`` gives then is made of more than that.
    """
    extracted: Any = compiled.cache_key[1] if compiled.cache_key is not None else ()
    matches: Any = (compiled._cache_key_bind_match or ({}, {}))[0]
    places: dict[str, set[int]] = {}
    for place, original in enumerate(extracted):
        for bind in matches.get(original, ()):
            if bind in compiled.bind_names:
                places.setdefault(compiled.bind_names[bind], set()).add(place)
    names = sorted(set(compiled.bind_names.values()))
    is_plain = all(len(places.get(name, ())) == 1 for name in names) and len(names) == len(compiled.bind_names)
    if not is_plain or any(bind.callable or bind.required for bind in compiled.bind_names):
        return None
    return tuple(place for name in names for place in places[name])


def values_at(places: Sequence[int], compilation: Compilation) -> list[Any] | None:
    """Return the values that stand at some places of a call; None where a function or another way gives one of them."""
    if compilation.collected or compilation.extracted is None:
        return None
    values = []
    for place in places:
        bind = compilation.extracted[place]
        if bind.callable is not None:
            return None
        values.append(bind.value)
    return values


def called_names(compilation: Compilation) -> list[str]:
    """Return the names of the binds whose values functions give (``bindparam(callable_=)``), anew with each execution."""
    given = compilation.extracted or ()
    if not any(bind.callable for bind in given):
        return []
    compiled: Any = compilation.compiled
    matches = compiled._cache_key_bind_match[0]
    called = [original for original, bind in zip(compiled.cache_key[1], given, strict=True) if bind.callable]
    return sorted({compiled.bind_names[bind] for one in called for bind in matches[one] if bind in compiled.bind_names})


def bind_processors_of(compiled: SQLCompiler) -> Mapping[str, Any]:
    """Return bind processors by bind name; a tuple of them for a bound tuple."""
    return compiled._bind_processors


def result_types_of(compiled: SQLCompiler) -> list[tuple[str, Any]]:
    """Return (name, type) of each column that the statement returns."""
    return [(entry.keyname, entry.type) for entry in compiled._result_columns]


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


def has_other_listeners(state: ORMExecuteState) -> bool:
    """Tell whether ``do_orm_execute`` listeners that are none of this library's are told of the statement, too."""
    for listener in state._events_todo:  # noqa: SIM110  (asked at every read)
        if not getattr(listener, "__module__", "").startswith("querycache."):
            return True
    return False


def listen_last(state: ORMExecuteState, listener: Callable[[ORMExecuteState], Result[Any] | None]) -> Result[Any]:
    """Run the listeners after the one now running, and then ``listener``, told of what all others made of the statement.

    They may change it (a tenant's criteria), its parameters and its options, which the Session looks at again only after
    the last of them. Each is told once; a result that one gives is returned.
    """
    for later in list(state._remaining_events()):
        # One by one: a listener that invokes the statement itself leaves those after it their turn.
        state._starting_event_idx += 1
        result: Result[Any] | None = later(state)  # type: ignore[func-returns-value]
        if result is not None:
            return result
    state._events_todo = [*state._events_todo, listener]
    return invoke(state)


def invoke(
    state: ORMExecuteState,
    options: Mapping[str, Any] | None = None,
    another: tuple[Any, Mapping[str, Any]] | None = None,
) -> Result[Any]:
    """Run the statement that a listener was told of, past the listeners that were told already.

    ``another``: a statement with its parameters to run in its place.

    As ``invoke_statement`` does, which has a Session's ``get_bind`` called with one more argument: an application's own
    ``get_bind`` may not take it.
    """
    internal: Any = state.session._execute_internal
    given = state.local_execution_options
    if "sa_top_level_orm_context" in given:
        # An eager or lazy load. The options of the statement that it belongs to are among its own by now: taken for them
        # another time, they would decide on what it loads. What it loads by is settled, but for what a listener changed.
        settled = _LOADING.difference(_changed_by_listeners(state))
        given = immutabledict({name: value for name, value in given.items() if name not in settled})
    result: Result[Any] = internal(
        *(another or (state.statement, state.parameters)),
        execution_options=given.union(options or {}),
        bind_arguments=dict(state.bind_arguments),
        _parent_execute_state=state,
    )
    return result


def _changed_by_listeners(state: ORMExecuteState) -> Iterable[str]:
    """Name the options by which a statement is loaded that listeners have changed, with others that they changed."""
    told: Mapping[str, Any] | None = getattr(state, "_update_execution_options", None)
    if told is not None:
        return told
    # Older releases keep no note of them.
    now, before = state.local_execution_options, state.execution_options
    return [name for name in _LOADING if now.get(name) != before.get(name)]


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


def autobegin_connection(connection: Connection) -> None:
    """Begin a Connection's transaction as its next statement does, which sends nothing but what listeners to that send.

    Raises as a statement does within ``with connection.begin():`` after that transaction has ended.
    """
    TransactionalContext._trans_ctx_check(connection)
    if not connection.in_transaction():
        connection._autobegin()


def reads_at_autoflush(state: ORMExecuteState) -> bool:
    """Tell whether the session would flush before this statement."""
    if state._compile_state_cls is None:
        return True
    return bool(getattr(load_options_of(state), "_autoflush", True))


def load_options_of(state: ORMExecuteState) -> Any:
    """Return ``ORMExecuteState.load_options``, which refuses entities that are loaded from a text."""
    return state.execution_options.get("_sa_orm_load_options", QueryContext.default_load_options)


def user_options_of(state: ORMExecuteState) -> Sequence[Any]:
    """Return ``ORMExecuteState.user_defined_options``; it asks where there is something to ask."""
    statement: Any = state.statement
    if not statement._with_options and not getattr(statement, "_memoized_select_entities", ()):
        return ()
    return state.user_defined_options


def written_select_of(statement: Any) -> Any | None:
    """Return the text that a statement is, bare, with columns, or as that of entities; None for any other."""
    if type(statement) is Select:
        return None
    if getattr(statement, "is_from_statement", False):
        statement = statement.element
    if isinstance(statement, TextualSelect):
        statement = statement.element
    return statement if isinstance(statement, TextClause) else None


def loads_otherwise(state: ORMExecuteState) -> bool:
    """Tell whether a listener changed options that ``load_options`` no longer says: they count when the statement runs."""
    if len(state._events_todo) == 1:
        return False  # there is no other listener
    effective = {**state.statement.get_execution_options(), **state.local_execution_options}
    return any(effective.get(name) != state.execution_options.get(name) for name in _LOADING)


def why_refreshing(state: ORMExecuteState) -> str | None:
    """Say what a statement refreshes of that which the session already holds; None where it refreshes nothing."""
    if state._compile_state_cls is None:
        return None
    if getattr(getattr(state.statement, "_compile_options", None), "_for_refresh_state", False):
        return "it refreshes attributes of an instance"
    options = load_options_of(state)
    if options is QueryContext.default_load_options:
        return None
    if getattr(options, "_populate_existing", False) or getattr(options, "_refresh_state", None) is not None:
        return "it refreshes what the session holds"
    return None


def connection_info_of(connection: Connection) -> dict[Any, Any]:
    """Return the mutable notes that live as long as the driver connection."""
    return connection.connection.info


STYLE_OF_QUERY: Final = LABEL_STYLE_LEGACY_ORM
"""How a legacy ``Query`` has its columns labelled."""

_ROW_STRATEGIES: Final = frozenset({"lazy", "deferred", "instrument", "raiseload", "selectinload_polymorphic"})


def peculiarities_of(select: Any) -> Iterator[str]:
    """Yield what makes a SELECT return something else than rows of its FROM, one by one, in words."""
    if select._distinct:
        yield "it has DISTINCT"
    if select._group_by_clauses or select._having_criteria:
        yield "it has GROUP BY or HAVING"
    if select._prefixes or select._suffixes or select._hints or select._statement_hints:
        yield "it has prefixes or hints"
    if select._independent_ctes:
        yield "it has a CTE of its own"


def looks_at_the_row_alone(option: Any) -> bool:
    """Tell whether an ORM option means the same for a row in whichever SELECT it is read: it names no FROM of one."""
    if isinstance(option, LoaderCriteriaOption):
        return True
    elements = option.context if type(option) is Load else [option] if type(option) is _WildcardLoad else None
    return elements is not None and all(
        "eager_from_alias" not in element.local_opts
        and _ROW_STRATEGIES.issuperset(name for name, _ in element.strategy or ())
        for element in elements
    )


def criteria_in(options: Sequence[Any]) -> tuple[Any, ...]:
    """Return those ORM options that limit which rows are read."""
    return tuple(option for option in options if isinstance(option, LoaderCriteriaOption))


def with_options_alone(select: Any, options: Sequence[Any]) -> Any:
    """Return a SELECT with these ORM options and no others."""
    select = select._generate()
    select._with_options = tuple(options)
    return select


def keep_with_class(model: type[Any], name: str, value: Any) -> None:
    """Keep something with a mapped class, for as long as that lives.

    Not by ``setattr``, which has a declarative class's mapper forget what it worked out: statements that are built from then on
    would mix its new FROM with the one that others hold.
    """
    type.__setattr__(model, name, value)


def keep_with_compiled(compiled: SQLCompiler, name: str, value: Any) -> None:
    """Keep something with a compiled statement, for as long as that lives; it may refer to that."""
    setattr(compiled, name, value)


def reads_more_than_one_from(select: Any) -> bool:
    """Tell whether a SELECT of an entity names more to read from than that."""
    return bool(select._setup_joins or select._from_obj) or len(select.get_final_froms()) > 1


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
    if not _is_connect_of_engine(creator):
        return None
    kept = inspect.getclosurevars(creator).nonlocals
    given = kept.get("cargs_tup", kept.get("cargs"))  # older releases have them in a list
    return None if given is None or "cparams" not in kept else (given, kept["cparams"])


def creator_of(pool: Pool) -> Any | None:
    """Return the function of the user's that makes a pool's connections; None where SQLAlchemy connects."""
    creator: Any = getattr(pool, "_creator", None)
    return None if _is_connect_of_engine(creator) else creator


def _is_connect_of_engine(creator: Any) -> bool:
    return (getattr(creator, "__module__", ""), getattr(creator, "__name__", "")) == _CONNECT


def may_rewrite(listener: Any) -> bool:
    """Tell whether a ``before_execute`` or ``before_cursor_execute`` listener was registered with ``retval=True``."""
    return (getattr(listener, "__module__", ""), getattr(listener, "__name__", "")) not in _LOOKING_ON


def registered(listener: Any) -> Any:
    """Return a listener as it was registered, without what SQLAlchemy puts around it (``once``, ``named``, old signatures).

    None where a release wraps it in another way.
    """
    while str(getattr(listener, "__module__", "")).startswith(_WRAPPING):
        names = listener.__code__.co_freevars
        if "fn" not in names:
            return None
        listener = listener.__closure__[names.index("fn")].cell_contents
    return listener


def root_engine_of(engine: Engine) -> Engine:
    """Return the engine whose pool and dialect ``Engine.execution_options()`` shares; others are their own."""
    while (proxied := getattr(engine, "_proxied", None)) is not None:
        engine = proxied
    return engine


def task_of_bridge() -> asyncio.Task[Any] | None:
    """Return the task on whose behalf an ``AsyncSession`` runs this; None where a thread runs it for itself."""
    # Without the library there is no bridge, and the question is an error.
    if "greenlet" not in sys.modules or not concurrency.in_greenlet():
        return None
    try:
        return asyncio.current_task()
    except RuntimeError:  # somebody else's loop drives it
        return None


def await_on_bridge(awaitable: Awaitable[Any]) -> Any:
    """Wait as the task of ``task_of_bridge`` does, while its loop runs others; return what comes of it."""
    return concurrency.await_only(awaitable)


async def run_on_bridge(act: Callable[..., T], *arguments: Any) -> T:
    """Run what knows no ``await`` as an ``AsyncSession`` does: what it waits for on the bridge holds up nobody else."""
    return await concurrency.greenlet_spawn(act, *arguments)


class _OverGreenlets:
    """The bridge as SQLAlchemy builds it."""

    def loop(self) -> asyncio.AbstractEventLoop | None:
        # Without the library there is no bridge, and the question is an error.
        if "greenlet" not in sys.modules or not concurrency.in_greenlet():
            return None
        try:
            return asyncio.get_running_loop()
        except RuntimeError:  # somebody else's loop drives it
            return None

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        return await_on_bridge(awaitable)


_bridge.cross_by(_OverGreenlets())


def plain_table(table: Any) -> Any:
    """Return the table behind an annotated one."""
    return table._deannotate()


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


def send_without_loading(state: ORMExecuteState, options: Mapping[str, Any]) -> None:
    """Send a Session's statement on the Session's connection, as the Session would, and make no objects of its rows."""
    connection = state.session.connection(bind_arguments=dict(state.bind_arguments))
    sent = connection.execute(
        state.statement, state.parameters or {}, execution_options={**state.execution_options, **options}
    )
    sent.close()
