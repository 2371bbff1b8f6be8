"""What do calls mean that an application sends on the driver's own connection, past SQLAlchemy?

The same as those that SQLAlchemy announces: a statement on a raw cursor is told by its text, and counts as one that may do
anything where there is none; a commit is marked before and released after. As nobody can tell what else a driver was told,
a commit of the driver's own counts as a change of the whole database.

Never: a call of SQLAlchemy's or of the cache's own, which are heard elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from sqlalchemy.engine import Connection, Dialect

from querycache._cursors import OpenCursor
from querycache._types import TagSet
from querycache.coherence.protocol import Coherence
from querycache.coherence.transactions import ConnectionState, ours
from querycache.commits import abandon, commit
from querycache.databases import in_transaction_of
from querycache.statements.writes import Effect, effect_of_textual


class Sender(Protocol):
    """What is done about a statement, whoever sends it."""

    coherence: Coherence
    dialect: Dialect

    def state_of_proxy(self, proxied: Any) -> ConnectionState | None: ...
    def begin(self, state: ConnectionState, raw: Any) -> None: ...
    def announce(self, state: ConnectionState, effect: Effect, statement: str, raw: Any) -> Any: ...
    def before_change(self, state: ConnectionState, sent: Any, context: Any, connection: Connection | None) -> None: ...
    def answered(self, state: ConnectionState, sent: Any, raw: Any) -> None: ...
    def failed(self, state: ConnectionState, sent: Any, *, answered: bool) -> None: ...


class Unannounced:
    """The listener of one engine's driver connections."""

    def __init__(self, sender: Sender, state_of: Callable[[Any], ConnectionState | None]) -> None:
        self._sender = sender
        self._coherence = sender.coherence
        self._dialect = sender.dialect
        self._state_of = state_of

    def is_deaf_to(self, raw: Any) -> bool:
        """Tell whether nothing is known of a connection, or SQLAlchemy or the cache itself is at work on it."""
        state = self._state_of(raw)
        return state is None or state.is_ours

    def is_sending(self, raw: Any) -> bool:
        """Tell whether a statement that is heard already is under way."""
        state = self._state_of(raw)
        return state is None or state.is_ours or state.sent is not None

    def commit_of(self, raw: Any, send: Callable[[], Any]) -> Any:
        """Send a commit of everything; nothing is done about it where no transaction is open that changed anything."""
        state = self._state_of(raw)
        if state is None or state.is_ours:
            return send()
        if not state.pending and in_transaction_of(self._dialect, raw) is False:
            return send()
        state.suspect_everything()
        answers: list[Any] = []
        with ours(state):
            commit(state, self._coherence, self._dialect, raw, lambda: answers.append(send()))
        return answers[0]

    def rollback_of(self, raw: Any, send: Callable[[], Any]) -> Any:
        """Send a rollback: what was pending is dropped, and what was known under the transaction's locks forgotten."""
        state = self._state_of(raw)
        if state is None or state.is_ours:
            return send()
        try:
            with ours(state):
                return send()
        finally:
            abandon(state, self._coherence)

    @contextmanager
    def statement_of(self, raw: Any, cursor: Any, text: object) -> Iterator[None]:
        """Surround the sending of a statement, as engine events do; ``text`` that is no string may be anything."""
        state = self._state_of(raw)
        if state is None or state.is_ours:
            yield
            return
        known = isinstance(text, str)
        effect = effect_of_textual(str(text), self._dialect.name) if known else Effect("unknown")
        self._sender.begin(state, raw)
        sent = self._sender.announce(state, effect, str(text) if known else "", raw)
        self._sender.before_change(state, sent, None, None)
        try:
            with ours(state):
                yield
        except BaseException as error:
            self._sender.failed(state, sent, answered=self._is_answer(error, raw, cursor))
            raise
        if getattr(cursor, "description", None) is not None:
            sent.note_rows(self._dialect.name)
            if self._dialect.name == "sqlite":
                # An open cursor pins the snapshot; nobody says when the last row was fetched.
                cursor.querycache_watch = OpenCursor()
                state.watch(cursor.querycache_watch)
        self._sender.answered(state, sent, raw)

    @contextmanager
    def block_of(self, raw: Any) -> Iterator[None]:
        """Keep everything marked while the driver has a block of its own, which it may commit at the end."""
        state = self._state_of(raw)
        if state is None or state.is_ours:
            yield
            return
        state.suspect_everything()
        marks = self._coherence.mark(TagSet((state.bind.tag,)))
        try:
            yield
        finally:
            if in_transaction_of(self._dialect, raw) is None:
                self._coherence.doubt(marks, state.open_case(began=False))
            else:
                self._coherence.release(marks)

    def _is_answer(self, error: BaseException, raw: Any, cursor: Any) -> bool:
        """Tell whether an error came from the database, on a connection that is still there."""
        known: Any = self._dialect.loaded_dbapi.Error
        return isinstance(error, known) and not self._dialect.is_disconnect(error, raw, cursor)
