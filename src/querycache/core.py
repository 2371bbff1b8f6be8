"""How does the cache answer the reads of a Core ``Connection``?

As it answers those of a Session, with the same keys, entries and rules: what is asked is what the connection's transaction
may be shown. A connection is checked out already, so a hit saves the statement and its round trip. Only who asks is answered:
engines that were attached with ``core=True``, and statements with ``FromCache``.

Promises: the result is the one that the connection would have returned; the connection's transaction begins as it would.
Never: a statement of a Session's answered here, whether or not the Session's own reader declined it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Final, cast

from sqlalchemy import event
from sqlalchemy.engine import Connection, CursorResult, Result
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from querycache import _cursors, _sqlalchemy
from querycache._types import Lookup
from querycache.coherence.declared import READS
from querycache.coherence.snapshots import Freshness
from querycache.engine import CAPTURE, Attachment
from querycache.hooks import rewritten_by
from querycache.images import INTERNAL
from querycache.options import CacheRequest, FromCache, NoCache
from querycache.questions import OTHER_CATALOG, Bypass, Question
from querycache.reader import STREAMED, Reader
from querycache.readings import Reading, SessionNotes
from querycache.rows.codec import DecodedRows
from querycache.statements.reads import NotCacheable
from querycache.statements.textreads import text_reads_of, why_not_declared
from querycache.variation import NOTHING

_CORE: Final = "_querycache_core"
_OF_SESSION: Final = "_querycache_of_session"
_OURS: Final = (CAPTURE, INTERNAL)


@dataclass(slots=True)
class Call:
    """One call of ``Connection.execute``: what a read of Core has where one of a Session has its ``ORMExecuteState``."""

    connection: Connection
    statement: Any
    parameters: Mapping[str, Any] | None
    given: Any
    options: Mapping[str, Any]
    is_relationship_load: bool = False


@dataclass(slots=True)
class CoreReading(Reading):
    """One read of a Connection that may be answered from the cache."""

    def is_still_the_same(self) -> bool:
        """Tell whether what decides on the rows beside all that is what it was: nothing does."""
        return True


@dataclass(slots=True)
class CoreReads:
    """The reads of Core on one engine. ``answers_all``: not only of statements that ask for it."""

    reader: CoreReader
    attachment: Attachment
    answers_all: bool

    def answer(
        self, connection: Connection, statement: Any, given: Any, call_options: Mapping[str, Any] | None
    ) -> CursorResult[Any] | None:
        """Answer from the cache, or run and store; None where the connection is to run it as always."""
        wishes: Sequence[Any] = getattr(statement, "_with_options", ())
        if not self.answers_all and not any(isinstance(wish, FromCache) for wish in wishes):
            return None
        if not _is_read(statement) or (call_options and any(name in call_options for name in _OURS)):
            return None
        outcome = self._outcome_of(connection, statement, given, call_options or {}, wishes)
        if isinstance(outcome, Bypass) and outcome.reason == OTHER_CATALOG:
            outcome = self._outcome_of(connection, statement, given, call_options or {}, wishes)
        if isinstance(outcome, Bypass):
            self.attachment.coherence.events.emit("defect" if outcome.defect else "bypass", reason=outcome.reason)
            return None
        return cast("CursorResult[Any]", outcome)

    def _outcome_of(
        self,
        connection: Connection,
        statement: Any,
        given: Any,
        call_options: Mapping[str, Any],
        wishes: Sequence[Any],
    ) -> Result[Any] | Bypass:
        options = {**statement.get_execution_options(), **connection.get_execution_options(), **call_options}
        why_not = self._why_declined(connection, statement, given, options, wishes)
        if why_not is not None:
            return Bypass(why_not)
        # Not where SQLAlchemy asks a new engine's first connection: nobody knows that one yet.
        is_usable = not (connection.closed or connection.invalidated)
        state = self.attachment.state_of_proxy(connection.connection) if is_usable else None
        if state is None:
            return Bypass(f"it is not known which database this is: {self.attachment.why_no_bind}")
        call = Call(connection, statement, _only_set_in(given), given, call_options)
        reading = CoreReading(
            self.attachment,
            connection.engine,
            state.bind,
            options,
            SessionNotes(),
            connection,
            state,
            NOTHING,
            self.reader.variations,
            cast(ORMExecuteState, call),
        )
        request = _request_in(wishes)
        question = self.reader.question_in(reading, request)
        if isinstance(question, Bypass):
            return question
        # As its statement would: a listener to that may send a BEGIN of its own, or set the connection.
        _sqlalchemy.autobegin_connection(connection)
        why_not = reading.why_not_cached(question.tables)
        return self.reader.answer(reading, question, request) if why_not is None else Bypass(why_not)

    def _why_declined(
        self,
        connection: Connection,
        statement: Any,
        given: Any,
        options: Mapping[str, Any],
        wishes: Sequence[Any],
    ) -> str | None:
        """Say what about the call itself sends it to the database."""
        if options.get("yield_per") or options.get("stream_results"):
            return STREAMED
        if any(isinstance(wish, NoCache) for wish in wishes):
            return "NoCache"
        if not (given is None or isinstance(given, Mapping) or (isinstance(given, list | tuple) and len(given) < 2)):
            return "it has several sets of parameters"
        if self.reader.variations.are_told:
            return "vary is asked of a Session, and this is a Connection"
        transactions = connection.get_transaction(), connection.get_nested_transaction()
        if any(transaction is not None and not transaction.is_active for transaction in transactions):
            return "the connection's transaction must be rolled back first"
        rewriter = self.attachment.hooks.rewriter(connection)
        if rewriter is not None:
            return rewritten_by(rewriter)
        return _why_no_read(statement, options, self.attachment.dialect.name)


class CoreReader(Reader):
    """Answers the reads of Connections. A list is one entry, whatever shape is asked for: there are no objects of rows."""

    @classmethod
    def beside(cls, reader: Reader) -> CoreReader:
        """Return one that shares keys, flights and graces with the reader of Sessions."""
        core = cls(reader.questions, reader.variations, reader.flights, reader.refreshing)
        core.graces = reader.graces
        return core

    def send(self, reading: Reading, options: Mapping[str, Any] | None = None) -> Result[Any]:
        """Run the statement on its connection."""
        call = _call_of(reading)
        result: Result[Any] = _ordinary_execute(
            call.connection, call.statement, call.given, execution_options={**call.options, **(options or {})}
        )
        return result

    def serve(self, reading: Reading, question: Question, entry: DecodedRows) -> Result[Any]:
        """Return what the connection would have returned for the rows of an entry."""
        call = _call_of(reading)
        if _sqlalchemy.task_of_bridge() is not None:
            # An AsyncConnection takes it for an error that nothing was awaited.
            _sqlalchemy.await_on_bridge(_nothing())
        return _cursors.replay_cursor(
            question.compilation,
            call.statement,
            reading.engine,
            reading.options,
            entry.description,
            entry.rows,
            call.connection,
        )

    def _answer_miss(
        self,
        reading: Reading,
        question: Question,
        found: Lookup,
        request: CacheRequest | None,
        freshness: Freshness,
    ) -> Result[Any]:
        return (
            self._run_and_fill(reading, question, found, None)
            if found.storable
            else self._run(reading, question, found)
        )


def serve_core(attachment: Attachment, reader: Reader, *, answers_all: bool) -> None:
    """Have the reads of Core on an attached engine answered: all of them, or those that ask for it.

    Of an engine that is known already, all from now on.
    """
    kept = attachment.dialect.__dict__
    known: CoreReads | None = kept.get(_CORE)
    if known is None:
        kept[_CORE] = CoreReads(CoreReader.beside(reader), attachment, answers_all)
    elif answers_all:
        kept[_CORE] = replace(known, answers_all=True)
    if not event.contains(Session, "after_begin", _leave_to_session):
        event.listen(Session, "after_begin", _leave_to_session)
        Connection.execute = _execute  # type: ignore[method-assign]
        Connection.scalar = _scalar  # type: ignore[method-assign]


def _leave_to_session(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    connection.__dict__[_OF_SESSION] = True


_ordinary_execute: Final[Any] = Connection.execute
_ordinary_scalar: Final[Any] = Connection.scalar


@wraps(_ordinary_execute)
def _execute(self: Connection, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
    reads = self.dialect.__dict__.get(_CORE)
    if reads is not None and _OF_SESSION not in self.__dict__:
        found = reads.answer(self, statement, parameters, execution_options)
        if found is not None:
            return found
    return _ordinary_execute(self, statement, parameters, execution_options=execution_options)


@wraps(_ordinary_scalar)
def _scalar(self: Connection, statement: Any, parameters: Any = None, *, execution_options: Any = None) -> Any:
    reads = self.dialect.__dict__.get(_CORE)
    if reads is not None and _OF_SESSION not in self.__dict__:
        found = reads.answer(self, statement, parameters, execution_options)
        if found is not None:
            return found.scalar()
    return _ordinary_scalar(self, statement, parameters, execution_options=execution_options)


async def _nothing() -> None:
    """Be awaited."""


def _call_of(reading: Reading) -> Call:
    return cast("Call", reading.orm)


def _is_read(statement: Any) -> bool:
    if getattr(statement, "is_from_statement", False):
        return False
    return bool(getattr(statement, "is_select", False)) or _sqlalchemy.written_select_of(statement) is not None


def _why_no_read(statement: Any, options: Mapping[str, Any], dialect_name: str) -> str | None:
    """Say why a text is left alone; None for what is none, or surely only reads."""
    written = _sqlalchemy.written_select_of(statement)
    if written is None:
        return None
    if READS in options:
        return why_not_declared(written.text, dialect_name)
    found = text_reads_of(written.text, dialect_name)
    return found.reason if isinstance(found, NotCacheable) else None


def _only_set_in(given: Any) -> Mapping[str, Any] | None:
    """Return the only set of parameters; None where there is none."""
    if not given:
        return None
    only = given if isinstance(given, Mapping) else given[0]
    return only if isinstance(only, Mapping) else None


def _request_in(wishes: Sequence[Any]) -> CacheRequest | None:
    return next((wish.payload for wish in reversed(wishes) if isinstance(wish, FromCache)), None)
