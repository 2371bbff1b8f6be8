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
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine

from querycache import _cursors
from querycache._rendering import record_rendering
from querycache._types import Stamp
from querycache.capture import note_changes, note_inserted_keys
from querycache.coherence.binds import Bind, Binds
from querycache.coherence.declared import READS, WRITES, declared_in, unknown_tables
from querycache.coherence.journal import Mark
from querycache.coherence.moved import Pin, SnapshotMovedError, has_moved, pin_of
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness
from querycache.coherence.transactions import ConnectionState, ours
from querycache.commits import abandon, hook_ends, set_marks, widen_after_ddl, widen_unreported
from querycache.connections import Connections
from querycache.databases import in_transaction_of
from querycache.databases.driver import row_of
from querycache.driver_calls import DriverCalls
from querycache.errors import ConfigurationError
from querycache.images import INTERNAL
from querycache.locked import Locked, images_told, tells_images
from querycache.statements.writes import Effect, declared_effect, effect_of_compiled, effect_of_textual
from querycache.unannounced import Unannounced

CAPTURE: Final = "_querycache_capture"
OnSnapshotMoved = Literal["raise", "continue"]

_SQLITE_BEGINS: Final = re.compile(r"\s*(INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE)
_RELEASES: Final = re.compile(r"\s*RELEASE\b", re.IGNORECASE)
# Settings under which everybody is shown the same rows as before.
_SHOWS_THE_SAME: Final = re.compile(
    r"\s*SET\s+(?:(?:SESSION|LOCAL)\s+)?(?:@@(?:SESSION\.)?)?(?:foreign_key_checks|unique_checks|\w*lock_wait_timeout"
    r"|lock_timeout|statement_timeout|max_statement_time|max_execution_time|work_mem|application_name)"
    r"\s*(?:=|\bTO\b)\s*[\w'.]+\s*;?\s*",
    re.IGNORECASE,
)
_ROLLS_BACK: Final = re.compile(r"\s*ROLLBACK\b", re.IGNORECASE)
_TEMPORARY: Final = re.compile(r"\b(TEMP|TEMPORARY)\b", re.IGNORECASE)
_SETS_LEVEL: Final = re.compile(r"ISOLATION|SNAPSHOT|SERIALIZABLE", re.IGNORECASE)
_ROWS_NOT_COUNTED: Final = 2**63
_NOT_ASKED: Final = Effect("not asked yet")
_READS: Final = ("read", "harmless", "savepoint")
_TRANSACTIONAL: Final = ("read", "harmless", "savepoint", "write")


@dataclass(slots=True)
class Capture:
    """Asks for the raw rows of one execution, and carries them back with what the snapshot rules need to know.

    ``description``: of each column its name and the driver's code for its type. ``parameters``: the values with which it was
    sent, by bind name, before bind processors.
    """

    compiled: Any
    rows: list[Any] | None = None
    description: Any = None
    freshness: Freshness = Freshness.UNKNOWN
    first: bool = False
    since: Mapping[int, Stamp] | None = None
    dirty: bool = True
    bind: Bind | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Sent:
    """The statement that a connection is sending: what it does, and what was marked because it may commit by itself.

    ``text`` and ``parameters`` are as they were when it was looked at: a listener that comes later may send others.
    """

    effect: Effect
    marks: list[Mark]
    commits_itself: bool
    may_go_on: bool = False
    found_rows: bool = False
    text: str = ""
    parameters: Any = None

    def note_rows(self, dialect_name: str) -> None:
        """Take it that the statement may commit later, when more of its rows or results have been fetched."""
        # MySQL's server goes on with a procedure, or with the next of several statements, after the first result.
        self.may_go_on = dialect_name == "sqlite" or (
            dialect_name in ("mysql", "mariadb") and self.effect.kind != "write"
        )


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
        varies: bool = False,
    ) -> None:
        super().__init__(engine, coherence, binds, name=name)
        self._varies = varies
        self._old_images = old_images
        self._on_snapshot_moved = on_snapshot_moved
        self.driver_calls = DriverCalls(self.dialect, Unannounced(self, self.state_of_raw))
        self._effects: weakref.WeakKeyDictionary[Any, Effect | None] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Begin to listen. Statements compiled before are forgotten, as nobody recorded what they read."""
        record_rendering(self.dialect)
        self.engine.clear_compiled_cache()
        hook_ends(self.dialect, self.coherence, self.state_of_proxy, self.binds.tag_set)
        self.listen_to_pool()
        self.listen_to_driver()
        for name, listener in (
            ("before_cursor_execute", self._before_cursor_execute),
            ("after_cursor_execute", self._after_cursor_execute),
            ("after_execute", self._after_execute),
            ("handle_error", self._handle_error),
        ):
            event.listen(self.engine, name, listener)

    def effect_of(self, context: Any, statement: str, parameters: Any, connection: Connection) -> Effect:
        """Tell what the statement being sent does; the driver's text counts where SQLAlchemy did not compile it."""
        compiled = None if context is None else context.compiled
        if compiled is None or not self._is_as_compiled(context, statement, parameters, connection):
            return effect_of_textual(statement, self.dialect.name)
        effect = self._effects.get(compiled, _NOT_ASKED)
        if effect is _NOT_ASKED:
            effect = self._effects[compiled] = effect_of_compiled(compiled)
        return effect or effect_of_textual(statement, self.dialect.name)

    def _is_as_compiled(self, context: Any, statement: str, parameters: Any, connection: Connection) -> bool:
        """Tell whether no listener has rewritten a statement or its values so far."""
        if context.execute_style.name == "INSERTMANYVALUES":
            return self.hooks.rewriter(connection) is None
        made = context.parameters if context.executemany else context.parameters[0]
        return statement == context.statement and parameters is made

    def _declared_effect(self, effect: Effect, statement: str, options: Mapping[str, Any], bind: Bind) -> Effect:
        """Take the user's word for what a statement does, where the execution options say it.

        Raises ``ConfigurationError`` for a table that the database does not have.
        """
        reads, writes = declared_in(options, READS), declared_in(options, WRITES)
        if reads is None and writes is None:
            return effect
        _, unknown = bind.names_of_declared(writes or (), options.get("schema_translate_map"))
        if unknown:
            if bind.survey is None or self.coherence.stamps_of(bind.schema_guard) != bind.survey_stamps:
                return effect  # the catalog changed since it was asked
            raise ConfigurationError(unknown_tables(WRITES, unknown))
        return declared_effect(effect, statement, reads is not None, writes)

    def _before_cursor_execute(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        options = {} if context is None else context.execution_options
        if INTERNAL in options:
            return
        state = self.state_of(connection)
        if state is None or state.in_phase:
            return
        raw = connection.connection.dbapi_connection
        effect = self.effect_of(context, statement, parameters, connection)
        effect = self._declared_effect(effect, statement, options, state.bind)
        self._doubt_unanswered(state)
        self.begin(state, raw)
        capture: Capture | None = options.get(CAPTURE)
        if capture is not None and capture.rows is None and capture.compiled is context.compiled:
            self._prepare_capture(capture, state, raw)
        if (
            (effect.kind == "unknown" or effect.may_commit)
            and state.served
            and not (state.pinned or _SETS_LEVEL.search(statement))
        ):
            self._make_up_for_hits(state, raw)
        state.sent = self.announce(state, effect, statement, raw)
        state.sent.text, state.sent.parameters = statement, parameters
        self.before_change(state, state.sent, context, connection)

    def announce(self, state: ConnectionState, effect: Effect, statement: str, raw: Any) -> Sent:
        """Note that a statement is about to be sent, and what it does to the connection."""
        state.statements += 1
        if effect.kind in ("session", "unknown") and _SETS_LEVEL.search(statement):
            state.isolation, state.isolation_chosen = "", True
        if effect.variable is not None:
            state.variables.note(effect.variable, for_good=not effect.is_local)
        if effect.kind == "session" and (effect.variable is None or not self._varies):
            state.tainted = "a SET or PRAGMA changed what the connection's statements mean"
            state.names_moved = state.names_moved or not effect.keeps_names
            # SQLite knows no users: what a PRAGMA sets is the same for all.
            self.was_set = self.was_set or not (state.dialect_name == "sqlite" or _SHOWS_THE_SAME.fullmatch(statement))
        elif effect.kind == "savepoint":
            state.images.clear()
            state.failed = False
            if _ROLLS_BACK.match(statement):
                state.variables.take_back()
        elif effect.kind == "unknown" and _TEMPORARY.search(statement):
            state.tainted = "the connection may have temporary tables"
            state.has_temporary_tables = True
        elif effect.kind == "unknown" and not effect.is_ddl:
            state.tainted = "a statement that is not understood may have changed what the connection's statements mean"
            state.names_moved = True
        return Sent(effect, [], self._commits_itself(state, effect, statement, raw))

    def begin(self, state: ConnectionState, raw: Any) -> None:
        self.note_autocommit(state, raw)
        if state.began:
            return
        state.began = True
        if self._is_under_way(state, raw) or (state.dialect_name == "sqlite" and state.has_open_cursor()):
            # Begun past SQLAlchemy, or pinned by rows not fetched yet: the snapshot is older than the clock now.
            state.statements = 1
        elif state.dialect_name == "sqlite" or self.freshness_noted(state, raw) is not Freshness.STATEMENT:
            state.since = self.coherence.clocks()

    def _is_under_way(self, state: ConnectionState, raw: Any) -> bool:
        """Tell whether a connection that sent nothing yet is in a transaction all the same."""
        if state.dialect_name == "sqlite" and getattr(raw, "autocommit", None) is False:
            return False  # Python 3.12's way: always in one, which takes its snapshot at the first statement
        return in_transaction_of(self.dialect, raw) is True

    def _prepare_capture(self, capture: Capture, state: ConnectionState, raw: Any) -> None:
        capture.bind = state.bind
        capture.freshness = self.freshness_noted(state, raw)
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
        if state.autocommit or effect.may_commit or effect.kind in ("commit", "unknown"):
            return True
        if state.dialect_name == "sqlite":
            return not getattr(raw, "in_transaction", False) and not _SQLITE_BEGINS.match(statement)
        return effect.kind not in (*_TRANSACTIONAL, "rollback") and state.dialect_name in ("mysql", "mariadb")

    def before_change(self, state: ConnectionState, sent: Sent, context: Any, connection: Connection | None) -> None:
        """Note what a statement changes, and mark it now where it may commit by itself."""
        effect, commits_itself = sent.effect, sent.commits_itself
        if effect.kind in ("write", "unknown") or state.bind.calls_user_function(effect.functions):
            state.dirty = True
            if state.survey_stamps is None:
                state.survey_stamps = state.bind.survey_stamps
            if state.names_moved and effect.kind == "write":
                # By the same name it may write a table that it does not write elsewhere.
                state.pending.add_bind(state.bind.tag)
            if commits_itself and self._may_be_rewritten(connection):
                # What it may become before it is sent would be known too late.
                state.pending.add_bind(state.bind.tag)

            def asked() -> Connection | None:
                may_ask = self._old_images and not commits_itself and not self._may_be_rewritten(connection)
                return connection if may_ask else None

            for facts in note_changes(state, effect, context, asked):
                if commits_itself:
                    state.pending.add(facts.key_tags(None))
                else:
                    state.inserts[id(context)] = facts
                    context.querycache_waits = True
        if effect.is_ddl or effect.kind == "unknown":
            state.schema_changed = True
        if commits_itself:
            widen_unreported(state)
        if commits_itself and state.pending:
            sent.marks = set_marks(state, self.coherence)

    def _may_be_rewritten(self, connection: Connection | None) -> bool:
        return connection is not None and self.hooks.rewriter(connection) is not None

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
        if statement != sent.text or parameters is not sent.parameters:
            self._note_rewritten(state, statement)
        # A driver that does not know yet how many there are says -1, or the largest number it has.
        sent.found_rows = 0 < cursor.rowcount < _ROWS_NOT_COUNTED
        capture: Capture | None = options.get(CAPTURE)
        if (
            capture is not None
            and capture.rows is None
            and capture.compiled is context.compiled
            and statement == context.statement
            and parameters is context.parameters[0]
        ):
            capture.parameters = context.compiled_parameters[0]
            capture.rows, description = _cursors.buffer_cursor(context, cursor)
            capture.description = [(column[0], column[1]) for column in description]
        elif self._tells_images(state, sent, statement, options, connection):
            state.locked = Locked(context, sent.effect, _cursors.buffer_cursor(context, cursor)[0])
            context.querycache_waits = True
        elif sent.marks and cursor.description is not None:
            self._see_its_end(state, sent, cursor, context)
        elif state.dialect_name == "sqlite" and cursor.description is not None and context is not None:
            watch = _cursors.watch_cursor(context)
            if watch is not None:
                state.watch(watch)
        self.answered(state, sent, connection.connection.dbapi_connection)

    def _tells_images(
        self, state: ConnectionState, sent: Sent, statement: str, options: Mapping[str, Any], connection: Connection
    ) -> bool:
        """Tell whether to keep what a statement told of rows that it locked: not of one that was rewritten on its way."""
        if sent.effect.locked is None or not self._old_images or sent.marks or statement != sent.text:
            return False
        return tells_images(state, options, self.dialect) and not self._may_be_rewritten(connection)

    def _note_rewritten(self, state: ConnectionState, statement: str) -> None:
        """Note what a statement changed that a later listener has rewritten; what was noted before it was sent stays."""
        effect = effect_of_textual(statement, self.dialect.name)
        if effect.kind not in _READS:
            state.dirty = True
            note_changes(state, effect, None, lambda: None)
            if state.names_moved:
                state.pending.add_bind(state.bind.tag)

    def _see_its_end(self, state: ConnectionState, sent: Sent, cursor: Any, context: Any) -> None:
        """Fetch the rows of a statement that commits by itself, as SQLite commits after the last of them."""
        if state.dialect_name == "sqlite" and context is not None and context.execute_style.name != "INSERTMANYVALUES":
            _cursors.buffer_cursor(context, cursor)
        else:
            sent.note_rows(state.dialect_name)

    def answered(self, state: ConnectionState, sent: Sent, raw: Any) -> None:
        """Release what was marked for a statement, unless it may go on; look again at what was served before its snapshot."""
        self._after_change(state, sent, raw)
        if not state.pinned:
            self._look_again(state, sent, raw)

    def _after_change(self, state: ConnectionState, sent: Sent, raw: Any) -> None:
        if state.schema_changed:
            # Before the release: who reads the new rows must not go by the old catalog.
            state.bind.forget_survey()
        elif sent.marks and widen_after_ddl(state, self.coherence):
            self.coherence.touch([state.bind.tag])
        if sent.may_go_on:
            state.marks.extend(sent.marks)
            return
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

    def _look_again(self, state: ConnectionState, sent: Sent, raw: Any) -> None:
        """Compare what was served before the snapshot with what it shows, where the statement may have taken it."""
        # Where the snapshot is taken by any query it does not matter which rows were found.
        asks_rows = sent.found_rows and state.dialect_name in ("mysql", "mariadb")
        pin = pin_of(sent.effect, state.dialect_name, found_rows=asks_rows and self._are_stored(state, sent.effect))
        if pin is not Pin.NONE:
            self._compare_served(state, raw, pinned=pin is Pin.SURE)

    def _make_up_for_hits(self, state: ConnectionState, raw: Any) -> None:
        """Let a statement that nobody knows find the snapshot that would be taken by now if hits were sent.

        It may wait for others before it takes one, as LOCK TABLE does; and what it may change, it marks itself.
        """
        in_snapshot = state.shows_snapshot(in_transaction=in_transaction_of(self.dialect, raw))
        if in_snapshot and state.dialect_name == "postgresql":
            with ours(state):
                row_of(raw, "SELECT 1")
        self._compare_served(state, raw, pinned=True)

    def _compare_served(self, state: ConnectionState, raw: Any, *, pinned: bool) -> None:
        """Look again at what was served before the snapshot; ``pinned``: it is surely taken by now."""
        moved = bool(state.served) and has_moved(
            state, self.coherence, in_transaction=in_transaction_of(self.dialect, raw)
        )
        state.pinned = pinned
        if pinned or moved:
            state.served.clear()
        if moved:
            policy = self._on_snapshot_moved or ("raise" if state.isolation_chosen else "continue")
            self.coherence.events.emit("moved", reason=policy)
            if policy == "raise":
                raise SnapshotMovedError

    def _are_stored(self, state: ConnectionState, effect: Effect) -> bool:
        """Tell whether every table of a SELECT is one whose rows have snapshots."""
        bind: Bind = state.bind
        names = {bind.facts(table).catalog_name for table in effect.sources}
        names.update(map(bind.name_of_text, effect.named_sources))
        return bind.survey is not None and all(bind.survey.why_not_plain(name) is None for name in names)

    def _after_execute(
        self, connection: Connection, element: Any, multiparams: Any, params: Any, options: Any, result: Any
    ) -> None:
        context = getattr(result, "context", None)
        # Only where something is told by the result that SQLAlchemy has made by now.
        state = self.state_of(connection) if getattr(context, "querycache_waits", False) else None
        if state is None:
            return
        facts = state.inserts.pop(id(context), None)
        if facts is not None:
            note_inserted_keys(state, facts, context)
        locked, state.locked = state.locked, None
        if locked is not None and locked.context is context:
            state.images.update(images_told(state, locked, result))

    def _handle_error(self, context: Any) -> None:
        state = None if context.connection is None else self.state_of(context.connection)
        if state is None or state.sent is None:
            return
        sent, state.sent = state.sent, None
        self.failed(state, sent, answered=context.sqlalchemy_exception is not None and not context.is_disconnect)

    def failed(self, state: ConnectionState, sent: Sent, *, answered: bool) -> None:
        """Release what was marked for a statement that failed, if the database said so."""
        state.failed = not state.autocommit
        # A deadlock or a lock wait that ended may have taken the transaction with it, and the locks on the old images.
        state.images.clear()
        if answered:
            self.coherence.release(sent.marks)
        else:
            self.coherence.doubt(sent.marks, state.open_case(began=False))
