"""Which database is a driver connection on, and what becomes of its state?

``Connections`` asks each new driver connection of an engine which database it is on and how it is set, before the
application has it; keeps its transaction's state for as long as the driver connection lives; and hears when it goes back to
the pool, is lost, or is given another isolation level.

Never: a statement of the application's seen or sent here.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.pool import SingletonThreadPool, StaticPool

from querycache import _sqlalchemy
from querycache._types import MAX_TTL_S, TagSet
from querycache.coherence.binds import Bind, Binds
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness
from querycache.coherence.transactions import ConnectionState
from querycache.commits import abandon
from querycache.databases import autocommit_of, in_transaction_of, profile_of, survey_of
from querycache.events import logger

STATE: Final = "querycache"


class Connections:
    """The driver connections of one engine. ``name``: the user's own name for the database, instead of asking it."""

    def __init__(self, engine: Engine, coherence: Coherence, binds: Binds, *, name: str | None = None) -> None:
        self.engine = engine
        self.dialect: Dialect = engine.dialect
        self.coherence = coherence
        self.binds = binds
        self.why_no_bind = "no connection was made yet"
        self._name = name
        self._by_thread = threading.local() if isinstance(engine.pool, SingletonThreadPool) else None
        self._bind: Bind | None = None
        self._states: weakref.WeakValueDictionary[int, ConnectionState] = weakref.WeakValueDictionary()
        self._isolation_chosen = _sqlalchemy.isolation_is_set_on_connect(engine.dialect)
        self._is_shared = isinstance(engine.pool, SingletonThreadPool | StaticPool)

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
            event.listen(self.engine, name, listener)

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
        """The database that the engine's connections were last seen on; None where it is not known."""
        if self._by_thread is not None:
            return getattr(self._by_thread, "bind", None)
        return self._bind

    def ask(self) -> Bind | None:
        """Return the bind; where no connection was made yet, make one."""
        bind = self.bind
        if bind is None or bind.survey is None:
            with self.engine.connect():
                bind = self.bind
        return bind

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

    def _checkout(self, dbapi_connection: Any, record: Any, proxy: Any) -> None:
        """Ask a connection that nobody asked yet, or read the catalog again after DDL: before the application has it."""
        state: ConnectionState | None = record.info.get(STATE)
        if state is not None and (state.bind.survey is not None or state.began):
            self._remember(state.bind)
            return
        # A connection can be in use already: in-memory SQLite hands one out many times.
        in_use = state is None and self._is_shared and in_transaction_of(self.dialect, dbapi_connection) is True
        try:
            if state is None:
                state = self._ask_connection(dbapi_connection, record)
                if in_use and state is not None:
                    # Nobody heard what the transaction that is under way did.
                    state.suspect_everything()
            if state is not None and state.bind.survey is None:
                version = state.bind.survey_version
                state.bind.learn(survey_of(self.dialect, dbapi_connection), version)
        finally:
            if not in_use:
                dbapi_connection.rollback()
        if state is not None:
            self._check_incarnation(state)
            self._remember(state.bind)

    def _ask_connection(self, dbapi_connection: Any, record: Any) -> ConnectionState | None:
        profile = profile_of(self.dialect, dbapi_connection, pool=self.engine.pool)
        identity = self._name or profile.identity
        if identity is None:
            if self.why_no_bind != profile.why_not:
                self.why_no_bind = profile.why_not
                logger.warning("%s is not cached: %s", self.engine.url.render_as_string(), profile.why_not)
            return None
        bind = self.binds.bind_of(identity, profile, self.dialect)
        state = ConnectionState(
            self.dialect.name, profile, bind, profile.isolation, isolation_chosen=self._isolation_chosen
        )
        record.info[STATE] = state
        self._states[id(dbapi_connection)] = state
        return state

    def _check_incarnation(self, state: ConnectionState) -> None:
        """Drop what the bind holds when the database has started anew: it may have lost what it had acknowledged."""
        incarnation = state.profile.incarnation.encode()
        if not incarnation:
            return
        key = f"{state.bind.id}/incarnation".encode()
        tags = TagSet((key,))
        for store in range(len(self.coherence.journals)):
            found = self.coherence.lookup(store, key, tags)
            if found is not None and found.payload != incarnation:
                self.coherence.touch([state.bind.tag])
                self.coherence.fill(store, key, incarnation, found.lease, MAX_TTL_S)

    def _remember(self, bind: Bind) -> None:
        if self._by_thread is not None:
            self._by_thread.bind = bind
        else:
            self._bind = bind

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

    def _lost_detached(self, dbapi_connection: Any) -> None:
        state = self._states.get(id(dbapi_connection))
        if state is not None:
            self._doubt_unanswered(state)
            abandon(state, self.coherence)

    def _doubt_unanswered(self, state: ConnectionState) -> None:
        """Keep what was marked for a statement of which neither answer nor error was heard."""
        sent, state.sent = state.sent, None
        if sent is not None:
            self.coherence.doubt(sent.marks)

    def freshness_of(self, state: ConnectionState, raw: Any) -> Freshness:
        """Tell what the connection's next statement will see."""
        # Asked each time: a BEGIN given as text ends autocommit for one transaction.
        state.autocommit = not state.begun_by_text and autocommit_of(self.dialect, raw)
        return state.freshness(in_transaction=in_transaction_of(self.dialect, raw))
