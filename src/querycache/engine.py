"""How does the cache hear what an engine's connections do?

``Attachment`` ties one engine to one cache and listens to every statement that its ``connections`` send. What ends a
transaction is in ``commits``; what a statement changes, in ``capture``.

Promises: every statement sent through SQLAlchemy on an attached engine is seen before it is sent; a transaction that
changed anything stores nothing. Never: a cached row read or built here.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from querycache import _sqlalchemy
from querycache._types import Stamp, TagSet
from querycache.capture import INTERNAL, inserts_unknown_keys, note_changes, note_inserted_keys
from querycache.coherence.binds import Bind, Binds
from querycache.coherence.journal import Mark
from querycache.coherence.moved import SnapshotMovedError
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness
from querycache.coherence.transactions import ConnectionState
from querycache.commits import abandon, hook_ends
from querycache.connections import Connections
from querycache.databases import in_transaction_of
from querycache.statements.writes import Effect, effect_of_compiled, effect_of_textual

CAPTURE: Final = "_querycache_capture"
OnSnapshotMoved = Literal["raise", "continue"]

_SQLITE_BEGINS: Final = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_RELEASES: Final = re.compile(r"\s*RELEASE\b", re.IGNORECASE)
_TEMPORARY: Final = re.compile(r"\b(TEMP|TEMPORARY)\b", re.IGNORECASE)
_READS: Final = ("read", "harmless", "savepoint")
_TRANSACTIONAL: Final = ("read", "harmless", "savepoint", "write")


@dataclass(slots=True)
class Capture:
    """Asks for the raw rows of one execution, and carries them back with what the snapshot rules need to know."""

    compiled: Any
    rows: list[Any] | None = None
    description: Any = None
    freshness: Freshness = Freshness.UNKNOWN
    first: bool = False
    since: Mapping[int, Stamp] | None = None
    dirty: bool = True
    bind: Bind | None = None


@dataclass(slots=True)
class _Sent:
    """The statement that a connection is sending: what it does, and what was marked because it may commit by itself."""

    effect: Effect
    marks: list[Mark]
    commits_itself: bool


class Attachment(Connections):
    """One engine, one cache: its connections, and every statement that they send."""

    def __init__(
        self,
        engine: Engine,
        coherence: Coherence,
        binds: Binds,
        *,
        name: str | None = None,
        old_images: bool = True,
        on_snapshot_moved: OnSnapshotMoved | None = None,
    ) -> None:
        super().__init__(engine, coherence, binds, name=name)
        self._old_images = old_images
        self._on_snapshot_moved = on_snapshot_moved
        self._effects: weakref.WeakKeyDictionary[Any, Effect | None] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Begin to listen. Statements compiled before are forgotten, as nobody recorded what they read."""
        _sqlalchemy.record_rendering(self.dialect)
        self.engine.clear_compiled_cache()
        hook_ends(self.dialect, self.coherence, self.state_of_proxy, self.binds.tag_set)
        self.listen_to_pool()
        for name, listener in (
            ("before_cursor_execute", self._before_cursor_execute),
            ("after_cursor_execute", self._after_cursor_execute),
            ("after_execute", self._after_execute),
            ("handle_error", self._handle_error),
        ):
            event.listen(self.engine, name, listener)

    def effect_of(self, context: Any, statement: str) -> Effect:
        """Tell what the statement being sent does; the driver's text counts where SQLAlchemy did not compile it."""
        compiled = None if context is None else context.compiled
        batched = context is not None and context.execute_style.name == "INSERTMANYVALUES"
        if compiled is None or not (batched or statement == context.statement):
            return effect_of_textual(statement, self.dialect.name)
        if compiled not in self._effects:
            self._effects[compiled] = effect_of_compiled(compiled)
        return self._effects[compiled] or effect_of_textual(statement, self.dialect.name)

    def _before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        options = {} if context is None else context.execution_options
        if INTERNAL in options:
            return
        state = self.state_of(connection)
        if state is None:
            return
        raw = connection.connection.dbapi_connection
        effect = self.effect_of(context, statement)
        self._doubt_unanswered(state)
        self._begin(state, raw)
        capture: Capture | None = options.get(CAPTURE)
        if capture is not None and capture.rows is None and capture.compiled is context.compiled:
            self._prepare_capture(capture, state, raw)
        state.statements += 1
        state.sent = _Sent(effect, [], self._commits_itself(state, effect, statement, raw))
        if effect.kind == "session":
            state.tainted = "a SET or PRAGMA changed what the connection's statements mean"
        elif effect.kind == "savepoint":
            state.images.clear()
            state.failed = False
        elif effect.kind == "unknown" and _TEMPORARY.search(statement):
            state.tainted = "the connection may have temporary tables"
            state.has_temporary_tables = True
        elif effect.kind == "unknown" and not effect.is_ddl:
            state.tainted = "a statement that is not understood may have changed what the connection's statements mean"
        self._before_change(state, effect, context, connection)

    def _begin(self, state: ConnectionState, raw: Any) -> None:
        freshness = self.freshness_of(state, raw)
        if state.began:
            return
        state.began = True
        if self._is_under_way(state, raw):
            # Begun past SQLAlchemy: its snapshot may be older than any clock we could look at now.
            state.statements = 1
        elif freshness is not Freshness.STATEMENT or state.dialect_name == "sqlite":
            state.since = self.coherence.clocks()

    def _is_under_way(self, state: ConnectionState, raw: Any) -> bool:
        """Tell whether a connection that sent nothing yet is in a transaction all the same."""
        if state.dialect_name == "sqlite" and getattr(raw, "autocommit", None) is False:
            return False  # Python 3.12's way: always in one, which takes its snapshot at the first statement
        return in_transaction_of(self.dialect, raw) is True

    def _prepare_capture(self, capture: Capture, state: ConnectionState, raw: Any) -> None:
        capture.bind = state.bind
        capture.freshness = self.freshness_of(state, raw)
        capture.first = state.statements == 0
        capture.since = state.since
        capture.dirty = state.dirty or state.failed or state.profile.is_replica

    def _commits_itself(self, state: ConnectionState, effect: Effect, statement: str, raw: Any) -> bool:
        """Tell whether a statement may end or commit a transaction without the driver's commit."""
        if effect.kind == "savepoint" and state.dialect_name == "sqlite":
            # Without a BEGIN before it, the outermost savepoint is the transaction, and its release the commit.
            return bool(_RELEASES.match(statement))
        if effect.kind in _READS:
            return state.autocommit and effect.kind == "read"
        if state.autocommit or effect.kind in ("commit", "unknown"):
            return True
        if state.dialect_name == "sqlite":
            return not getattr(raw, "in_transaction", False) and not _SQLITE_BEGINS.match(statement)
        return effect.kind not in (*_TRANSACTIONAL, "rollback") and state.dialect_name in ("mysql", "mariadb")

    def _before_change(self, state: ConnectionState, effect: Effect, context: Any, connection: Connection) -> None:
        """Note what a statement changes, and mark it now where it may commit by itself."""
        commits_itself = state.sent.commits_itself
        if effect.kind in ("write", "unknown") or state.bind.calls_user_function(effect.functions):
            state.dirty = True
            note_changes(state, effect, context, connection, old_images=self._old_images and not commits_itself)
            for write in effect.writes:
                if inserts_unknown_keys(write, context):
                    facts = state.bind.facts(write.table, context.execution_options.get("schema_translate_map"))
                    if commits_itself:
                        state.pending.add(facts.key_tags(None))
                    else:
                        state.inserts[id(context)] = facts
        if effect.is_ddl or effect.kind == "unknown":
            state.schema_changed = True
        if commits_itself and state.pending:
            state.sent.marks = self.coherence.mark(state.pending.tag_set(state.bind.tag))

    def _after_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        options = {} if context is None else context.execution_options
        if INTERNAL in options:
            return
        state = self.state_of(connection)
        if state is None or state.sent is None:
            return
        sent, state.sent = state.sent, None
        capture: Capture | None = options.get(CAPTURE)
        if (
            capture is not None
            and capture.rows is None
            and capture.compiled is context.compiled
            and statement == context.statement
        ):
            capture.description = cursor.description
            capture.rows = _sqlalchemy.buffer_cursor(context, cursor)
        elif state.dialect_name == "sqlite" and cursor.description is not None and context is not None:
            watch = _sqlalchemy.watch_cursor(context)
            if watch is not None:
                state.watch(watch)
        self._after_change(state, sent, connection.connection.dbapi_connection)
        if not state.pinned and self._pins(state, sent.effect):
            state.pinned = True
            self._look_again(state, connection.connection.dbapi_connection)

    def _after_change(self, state: ConnectionState, sent: _Sent, raw: Any) -> None:
        if state.schema_changed:
            # Before the release: who reads the new rows must not go by the old catalog.
            state.bind.forget_survey()
        self.coherence.release(sent.marks)
        if sent.effect.kind == "commit":
            state.end()
        elif sent.effect.kind == "begin":
            self._after_begin_by_text(state)
        elif sent.effect.kind == "rollback":
            abandon(state, self.coherence)
        elif (
            sent.commits_itself
            and sent.effect.kind in ("read", "write", "savepoint")
            # The driver may have begun a transaction all the same: then what is pending waits for its end.
            and (state.autocommit or in_transaction_of(self.dialect, raw) is False)
        ):
            state.end()

    def _after_begin_by_text(self, state: ConnectionState) -> None:
        if state.dialect_name in ("mysql", "mariadb"):
            # It committed what was before, and may have taken a snapshot that no clock was looked at for.
            state.end()
            state.began = True
            state.statements = 1
        state.begun_by_text = True

    def _pins(self, state: ConnectionState, effect: Effect) -> bool:
        """Tell whether a statement that was answered surely took the transaction's snapshot."""
        if state.dialect_name in ("mysql", "mariadb"):
            return effect.kind == "read" and effect.reads_tables and not effect.locks_rows
        return effect.reads_tables or effect.kind in ("write", "unknown")

    def _look_again(self, state: ConnectionState, raw: Any) -> None:
        """Compare what was served before the snapshot with what it shows."""
        if not state.served:
            return
        moved = False
        if self.freshness_of(state, raw) in (Freshness.SNAPSHOT, Freshness.SERIAL):
            moved = state.served.overflowed or any(
                not self._still(store, tags, lease) for (store, _), (tags, lease) in state.served.leases.items()
            )
        state.served.clear()
        if moved:
            policy = self._on_snapshot_moved or ("raise" if state.isolation_chosen else "continue")
            self.coherence.events.emit("moved", reason=policy)
            if policy == "raise":
                raise SnapshotMovedError

    def _still(self, store: int, tags: TagSet, lease: tuple[Stamp, ...]) -> bool:
        found = self.coherence.lookup(store, None, tags)
        return found is not None and found.storable and found.lease == lease

    def _after_execute(
        self, connection: Connection, element: Any, multiparams: Any, params: Any, options: Any, result: Any
    ) -> None:
        context = getattr(result, "context", None)
        state = None if context is None else self.state_of(connection)
        if state is not None:
            facts = state.inserts.pop(id(context), None)
            if facts is not None:
                note_inserted_keys(state, facts, context)

    def _handle_error(self, context: Any) -> None:
        """Release what was marked for a statement that failed, where the server said that it is over."""
        state = None if context.connection is None else self.state_of(context.connection)
        if state is None or state.sent is None:
            return
        sent, state.sent = state.sent, None
        state.failed = not state.autocommit
        answered = context.sqlalchemy_exception is not None and not context.is_disconnect
        if answered:
            self.coherence.release(sent.marks)
        else:
            self.coherence.doubt(sent.marks)
