"""Which database is a driver connection on, and what becomes of its state?

``Connections`` asks each new driver connection of an engine which database it is on and how it is set, before the
application has it; keeps its transaction's state for as long as the driver connection lives; and hears when it goes back to
the pool, is lost, or is given another isolation level.

Never: a statement of the application's seen or sent here.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from querycache import _sqlalchemy
from querycache._types import MAX_TTL_S, TagSet
from querycache.coherence.binds import Bind, Binds
from querycache.coherence.inquiry import Inquiry
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness, freshness_of
from querycache.coherence.transactions import ConnectionState, ours
from querycache.coherence.variables import Variables
from querycache.commits import abandon
from querycache.databases import Profile, autocommit_of, in_transaction_of, may_have_work_of, profile_of, survey_of
from querycache.destination import Destination
from querycache.driver_calls import DriverCalls
from querycache.events import logger
from querycache.hooks import Hooks

STATE: Final = "querycache"
VARIABLES: Final = "querycache_variables"
ASK_AGAIN_AFTER_S: Final = 60.0
"""How long a connection through a pooler is taken to be on the server that answered when it was asked."""

# What SQLAlchemy's dialects do on a driver connection with cursors of their own.
_OWN_CALLS: Final = (
    *("do_ping", "get_isolation_level", "reset_isolation_level", "set_isolation_level"),
    *("do_begin_twophase", "do_commit_twophase", "do_prepare_twophase", "do_recover_twophase", "do_rollback_twophase"),
)


class Connections:
    """The driver connections of one engine. ``name``: the user's own name for the database, instead of asking it.

    ``isolation``: the level at which its last new connection began; ``met_replica``: one of them was to a replica.
    ``was_set``: a text set one of them in a way that no key tells, and may set others so.
    """

    driver_calls: DriverCalls

    def __init__(self, engine: Engine, coherence: Coherence, binds: Binds, *, name: str | None = None) -> None:
        # Weakly: SQLAlchemy's mappers remember dialects, which the attachment hangs on, and no pool should live for that.
        self._engine = weakref.ref(engine)
        self.dialect: Dialect = engine.dialect
        self.coherence = coherence
        self.binds = binds
        self._why_no_bind = "no connection was made yet"
        self.name: Final = name
        # Whatever it led to once may have entries in a store, which others can read and whoever invalidates must reach.
        self._led_to: set[Bind] = set()
        self._destination = Destination(engine, is_named=name is not None)
        self._inquiry = Inquiry(engine.dialect, self._connect_aside)
        self._states: weakref.WeakValueDictionary[int, ConnectionState] = weakref.WeakValueDictionary()
        # PostgreSQL's own default is READ COMMITTED: another one was chosen, for a role, a database or the server.
        self._isolation_chosen = (
            _sqlalchemy.isolation_is_set_on_connect(engine.dialect) or engine.dialect.name == "postgresql"
        )
        self.isolation = ""
        self._at_first = "", self._freshness_at_first("")
        self.met_replica = False
        self.was_set = False
        self.hooks: Final = Hooks(engine)
        self._told_setter: str | None = None
        self._is_shared = isinstance(engine.pool, SingletonThreadPool | StaticPool)

    @property
    def engine(self) -> Engine:
        """The engine itself: alive for whoever reads or writes through it."""
        engine = self._engine()
        assert engine is not None, "whoever asks has a Session or a connection of it"
        return engine

    def listen_to_pool(self) -> None:
        """Begin to hear of the engine's connections."""
        self._hook_isolation()
        for name, listener in (
            ("checkout", self._checkout),
            ("checkin", self._checkin),
            ("invalidate", self._lost),
            ("close", self._lost),
            ("close_detached", self._lost_detached),
        ):
            # First, to know a connection before the application's own listeners do anything with it.
            event.listen(self.engine, name, listener, insert=name == "checkout")

    def listen_to_driver(self) -> None:
        """Begin to hear what is sent past SQLAlchemy, on connections that are made from now on."""
        self.driver_calls.know_contexts(self.dialect)
        event.listen(self.engine, "do_connect", self.driver_calls.listener_of_connect())
        for name in _OWN_CALLS:
            setattr(self.dialect, name, self._as_ours(getattr(self.dialect, name), may_commit="isolation" in name))

    def _as_ours(self, method: Callable[..., Any], *, may_commit: bool) -> Callable[..., Any]:
        """Have what SQLAlchemy does on a driver connection not be taken for the application's own doing."""

        def call(connection: Any, *arguments: Any, **options: Any) -> Any:
            proxied = connection.connection if isinstance(connection, Connection) else connection
            state = self.state_of_proxy(proxied)
            raw = getattr(proxied, "dbapi_connection", proxied)
            if may_commit and state is not None and state.pending:
                with self.driver_calls.listener.statement_of(raw, None, None):
                    return method(connection, *arguments, **options)
            with ours(state):
                return method(connection, *arguments, **options)

        return call

    def _hook_isolation(self) -> None:
        """Hear which isolation level a connection is given, and when it goes back to the default."""
        send_set, send_reset = self.dialect.set_isolation_level, self.dialect.reset_isolation_level

        def set_isolation_level(dbapi_connection: Any, level: Any) -> None:
            send_set(dbapi_connection, level)
            state = self._states.get(id(dbapi_connection))
            if state is not None:
                state.isolation = str(level)
                state.isolation_chosen = True
            else:
                self._isolation_chosen = True

        def reset_isolation_level(dbapi_connection: Any) -> None:
            send_reset(dbapi_connection)
            state = self._states.get(id(dbapi_connection))
            if state is not None:
                state.isolation = state.profile.isolation
                state.isolation_chosen = self._isolation_chosen

        self.dialect.set_isolation_level = set_isolation_level  # type: ignore[method-assign]
        self.dialect.reset_isolation_level = reset_isolation_level  # type: ignore[method-assign]

    @property
    def bind(self) -> Bind | None:
        """The database that a connection of the engine's would be on; None where it is not known."""
        return self._destination.bind

    @property
    def why_no_bind(self) -> str:
        """Why ``bind`` is not known."""
        return self._destination.why_not or self._why_no_bind

    def needs_connection(self, session: Session, engine: Engine, *, is_quiet: bool) -> bool:
        """Tell whether only a connection can say what it shows a Session: nothing may be served before there is one.

        ``is_quiet``: there are no hooks that may set one, or the application says in every key what they set.
        """
        if self.was_set or self._destination.leads_to_several:
            return True
        setter = None if is_quiet else self.hooks.setter(session, engine)
        if setter is not None and setter != self._told_setter:
            self._told_setter = setter
            url = self.engine.url.render_as_string()
            logger.info("%s: as %s may set connections, a read has one before it is served; see vary=", url, setter)
        return setter is not None

    def ask(self) -> Bind | None:
        """Return the bind; where no connection was made yet, make one."""
        bind = self._destination.bind
        if bind is None or bind.survey is None:
            with self.engine.connect():
                bind = self.bind
        return bind

    def freshness_at_first(self, isolation: Any | None) -> Freshness:
        """Tell what the statements of a connection that nobody has yet would see. ``isolation``: a level that is asked for."""
        level = str(isolation or self.isolation)
        known, freshness = self._at_first
        if level != known:
            freshness = self._freshness_at_first(level)
            self._at_first = level, freshness
        return freshness

    def _freshness_at_first(self, isolation: str) -> Freshness:
        if self.dialect.name == "sqlite":
            return Freshness.STATEMENT
        return freshness_of(isolation, self.dialect.name, in_transaction=True)

    def state_of(self, connection: Connection) -> ConnectionState | None:
        """Return what is known of a connection's driver connection; None where it is closed or was never asked."""
        if connection.closed or connection.invalidated:
            return None
        return _sqlalchemy.connection_info_of(connection).get(STATE)

    def state_of_proxy(self, proxied: Any) -> ConnectionState | None:
        """Return the same for what the pool hands out, or a driver connection."""
        try:
            info = getattr(proxied, "info", None)
        except NotImplementedError:  # SQLAlchemy's stand-in while it asks a new engine's first connection
            return None
        if isinstance(info, dict):
            return info.get(STATE)
        return self._states.get(id(proxied))

    def state_of_raw(self, raw: Any) -> ConnectionState | None:
        """Return the same for a driver connection, fast."""
        return self._states.get(id(raw))

    def _checkout(self, dbapi_connection: Any, record: Any, proxy: Any) -> None:
        """Ask a connection that nobody asked yet, or read the catalog again after DDL: before the application has it."""
        state: ConnectionState | None = record.info.get(STATE)
        if state is not None and self._may_outlive_its_server(state):
            state = None
        if state is not None and (state.bind.survey is not None or state.began):
            self._remember(state.bind)
            return
        # A connection can be in use already: in-memory SQLite hands one out many times, and a listener may be before us.
        in_use = may_have_work_of(self.dialect, dbapi_connection)
        if state is not None:
            state.is_ours = True
        try:
            if state is None:
                state = self._ask_connection(dbapi_connection, record)
                if in_use and state is not None:
                    # Nobody heard what the transaction that is under way did, or how it set the connection.
                    state.suspect_everything()
                    if not self._is_shared:
                        state.tainted, state.names_moved = "its transaction began before it was known", True
                if state is not None:
                    # Before the catalog is asked: it may have gone back, too.
                    self._check_incarnation(state)
            if state is not None and state.bind.survey is None:
                version, stamps = state.bind.survey_version, self.coherence.stamps_of(state.bind.schema_guard)
                began = time.perf_counter()
                survey = survey_of(self.dialect, dbapi_connection)
                state.bind.learn(survey, version, stamps, time.perf_counter() - began)
        finally:
            if not in_use:
                dbapi_connection.rollback()
            if state is not None:
                state.is_ours = False
        if state is not None:
            self._remember(state.bind)

    def _may_outlive_its_server(self, state: ConnectionState) -> bool:
        """Tell whether to ask a connection again because a pooler, which goes on when the server starts anew, may answer."""
        if state.profile.session is not None or not state.profile.incarnation or state.began or state.tainted:
            return False
        return time.monotonic() - state.asked_at >= ASK_AGAIN_AFTER_S

    def _ask_connection(self, dbapi_connection: Any, record: Any) -> ConnectionState | None:
        profile = profile_of(self.dialect, dbapi_connection, pool=self.engine.pool)
        # Two engines of one database may be set differently, and lead to different servers that have it.
        self.isolation = profile.isolation
        self.met_replica = self.met_replica or profile.is_replica
        identity = self.name or profile.identity
        if identity is None:
            if self._why_no_bind != profile.why_not:
                self._why_no_bind = profile.why_not
                logger.warning("%s is not cached: %s", self.engine.url.render_as_string(), profile.why_not)
            return None
        bind = self.binds.bind_of(identity, profile, self.dialect)
        if profile.scope == "shared":
            self._led_to.add(bind)
        state = ConnectionState(
            self.dialect.name,
            profile,
            bind,
            profile.isolation,
            isolation_chosen=self._isolation_chosen,
            is_ours=True,
            inquiry=self._inquiry,
            variables=record.info.setdefault(VARIABLES, Variables()),
        )
        state.asked_at = time.monotonic()
        record.info[STATE] = state
        self._states[id(dbapi_connection)] = state
        self.driver_calls.listen_to(dbapi_connection)
        return state

    def _check_incarnation(self, state: ConnectionState) -> None:
        """Drop what the bind holds when the database has started anew: it may have lost what it had acknowledged."""
        incarnation = state.profile.incarnation.encode()
        if not incarnation:
            return
        key = f"{state.bind.id}/incarnation".encode()
        tags = TagSet((key,))
        for store in range(len(self.coherence.journals)):
            found = self.coherence.lookup(store, key, tags, strict=True)
            if found is not None and found.payload != incarnation:
                self.coherence.touch([state.bind.tag, state.bind.schema_guard[0]])
                self.coherence.fill(store, key, incarnation, found.lease, MAX_TTL_S)

    def _remember(self, bind: Bind) -> None:
        """Note where the engine leads. What is cached of a database in whose place another is now, nobody should be given."""
        replaced = self._destination.arrive(bind)
        if replaced is not None:
            url = self.engine.url.render_as_string()
            logger.warning("%s leads to another database now: what is cached of the one before is dropped", url)
            self.coherence.touch([replaced.tag])

    @contextmanager
    def _connect_aside(self) -> Iterator[tuple[Any, Profile | None]]:
        """Make a connection that is none of the pool's; yield it and what it said of itself, and close it."""
        pool = self.engine.pool.recreate()
        try:
            proxied = pool.connect()
            try:
                state: ConnectionState | None = proxied.info.get(STATE)
                yield proxied.dbapi_connection, None if state is None else state.profile
            finally:
                proxied.close()
        finally:
            pool.dispose()

    def _checkin(self, dbapi_connection: Any, record: Any) -> None:
        state: ConnectionState | None = record.info.get(STATE)
        if state is not None:
            self._doubt_unanswered(state)
            if (state.dirty or state.marks) and in_transaction_of(self.dialect, dbapi_connection) is not False:
                # Nobody ended it: its COMMIT failed, or the pool does not reset. Whoever has the connection next goes on.
                return
            abandon(state, self.coherence)
            if state.tainted is not None and not state.has_temporary_tables:
                # What was set may stay set: ask the connection again before it is used again.
                del record.info[STATE]

    def _lost(self, dbapi_connection: Any, record: Any, *exception: BaseException | None) -> None:
        state: ConnectionState | None = record.info.get(STATE)
        if state is not None:
            self._doubt_unanswered(state)
            abandon(state, self.coherence)
            self._leave_if_gone(state)

    def _lost_detached(self, dbapi_connection: Any) -> None:
        state = self._states.get(id(dbapi_connection))
        if state is not None:
            self._doubt_unanswered(state)
            abandon(state, self.coherence)
            self._leave_if_gone(state)

    def _leave_if_gone(self, state: ConnectionState) -> None:
        state.bind.is_gone = state.profile.scope == "connection"
        if state.bind.is_gone:
            self._destination.leave(state.bind)

    def _doubt_unanswered(self, state: ConnectionState) -> None:
        """Keep what was marked for a statement of which neither answer nor error was heard."""
        sent, state.sent = state.sent, None
        if sent is not None:
            self.coherence.doubt(sent.marks, state.open_case(began=False))

    def freshness_of(self, state: ConnectionState, raw: Any) -> Freshness:
        """Tell what the connection's next statement will see."""
        self.note_autocommit(state, raw)
        return self.freshness_noted(state, raw)

    def freshness_noted(self, state: ConnectionState, raw: Any) -> Freshness:
        """Tell the same where it was noted just now whether the connection is in autocommit."""
        inside = in_transaction_of(self.dialect, raw) if state.goes_by_transaction else None
        return state.freshness(in_transaction=inside)

    def note_autocommit(self, state: ConnectionState, raw: Any) -> None:
        """Note whether the connection's next statement commits by itself."""
        # Asked each time: a BEGIN given as text ends autocommit for one transaction.
        state.autocommit = not state.begun_by_text and autocommit_of(self.dialect, raw)
