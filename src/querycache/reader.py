"""How is one read of a Session answered from the cache?

A statement gets a key and tags, is looked up, and is answered from the store where the rules allow: no connection is
checked out. Else it runs as always, its rows are caught as the driver gives them, and stored.

Promises: what is returned is what the database would have returned, in values, types, order, identity and loader state;
whatever is not surely so passes through, with its reason. Never: an error of the cache's own reaches a read.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy.engine import Connection, Engine, Result
from sqlalchemy.orm import ORMExecuteState, Session, UserDefinedOption

from querycache import _loading, _sqlalchemy, entries
from querycache._types import Lookup
from querycache.coherence.binds import Bind
from querycache.coherence.snapshots import Freshness
from querycache.coherence.transactions import ConnectionState
from querycache.collection import Collection, collection_of
from querycache.engine import CAPTURE, Attachment, Capture
from querycache.flights import Flights
from querycache.graces import Graces
from querycache.graces import Key as GraceKey
from querycache.hooks import rewritten_by
from querycache.options import CacheRequest, FromCache, NoCache
from querycache.questions import OTHER_CATALOG, Bypass, Question, Questions
from querycache.readings import Reading, SessionNotes, Situation, freshness_in, notes_of
from querycache.refreshing import EarlyRefresh
from querycache.results import Results
from querycache.rows.codec import DecodedRows
from querycache.variation import Variations

_Parts: TypeAlias = tuple[
    Attachment,
    Engine,
    Bind,
    Mapping[str, Any],
    SessionNotes,
    Connection | None,
    ConnectionState | None,
    bytes,
    Variations,
]
"""The fields of a ``Situation``."""

STREAMED: Final = "its rows are streamed"
NO_ANSWER: Final = "the store did not answer"


class OwnWay(UserDefinedOption):
    """A statement of this library's own, answered in another way than a user's. Applies to that statement alone."""

    propagate_to_loaders = False

    @abstractmethod
    def answer(self, reader: Reader, reading: Reading) -> Result[Any] | Bypass:
        """Answer the statement, or say why it cannot be answered in this way."""

    @abstractmethod
    def otherwise(self, orm: ORMExecuteState) -> Result[Any]:
        """Answer after a ``Bypass``."""


class Reader:
    """Answers the reads of Sessions for one cache."""

    def __init__(
        self, questions: Questions, variations: Variations, flights: Flights, refreshing: EarlyRefresh
    ) -> None:
        self.questions = questions
        self.variations = variations
        self.flights = flights
        self.refreshing = refreshing
        self.graces = Graces()
        self.results = Results(questions)

    def read(self, orm: ORMExecuteState, attachment: Attachment, engine: Engine | Connection) -> Result[Any] | Bypass:
        """Answer from the cache, or run and store; or say why neither."""
        options = _sqlalchemy.user_options_of(orm)
        own = _own_way_in(options) if options and not orm.is_relationship_load else None
        outcome = self._outcome_of(orm, options, own, attachment, engine)
        if isinstance(outcome, Bypass) and outcome.reason == OTHER_CATALOG:
            # Asked anew, where that takes no connection out of the Session's hands.
            outcome = self._outcome_of(orm, options, own, attachment, engine)
        if own is None or not isinstance(outcome, Bypass):
            return outcome
        attachment.coherence.events.emit("bypass", reason=outcome.reason)
        return own.otherwise(orm)

    def _outcome_of(
        self,
        orm: ORMExecuteState,
        options: Sequence[Any],
        own: OwnWay | None,
        attachment: Attachment,
        engine: Engine | Connection,
    ) -> Result[Any] | Bypass:
        declined = _declined(orm, options)
        if declined is not None:
            return Bypass(declined)
        reading = self._reading_of(orm, attachment, engine)
        if isinstance(reading, Bypass):
            return reading
        if own is not None:
            return own.answer(self, reading)
        request = _request_in(options) if options else None
        question = self.question_in(reading, request)
        return question if isinstance(question, Bypass) else self.answer(reading, question, request)

    def _reading_of(
        self, orm: ORMExecuteState, attachment: Attachment, engine: Engine | Connection
    ) -> Reading | Bypass:
        if _sqlalchemy.reads_at_autoflush(orm):
            _sqlalchemy.autoflush(orm.session)
        options = orm.statement.get_execution_options(), orm.local_execution_options
        found = self._situation_of(orm.session, attachment, engine, *options)
        if isinstance(found, Bypass):
            return found
        reading = Reading(*found, orm)
        return Bypass(STREAMED) if _is_streamed(reading.options) else reading

    def situation_of(
        self, session: Session, attachment: Attachment, engine: Engine | Connection, options: Mapping[str, Any]
    ) -> Situation | Bypass:
        """Find out where a read with these execution options would go.

        It begins the Session's transaction, and has a connection checked out where only that can say what it is set to.
        """
        found = self._situation_of(session, attachment, engine, {}, options)
        return found if isinstance(found, Bypass) else Situation(*found)

    def _situation_of(
        self,
        session: Session,
        attachment: Attachment,
        engine: Engine | Connection,
        statement_options: Mapping[str, Any],
        call_options: Mapping[str, Any],
    ) -> _Parts | Bypass:
        variation = self.variations.of(session)
        if isinstance(variation, Bypass):
            return variation
        # Else a rollback after nothing but hits would expire nothing, and a second try would see what the first one saw.
        _sqlalchemy.autobegin(session)
        notes = notes_of(session)
        connection = _sqlalchemy.connection_of(session, engine)
        # Where the application says in every key what its hooks go by, they may do what they like.
        is_quiet = self.variations.are_told
        if connection is None:
            is_quiet = is_quiet or attachment.hooks.are_quiet(session, engine.engine)
            if attachment.needs_connection(session, engine.engine, is_quiet=is_quiet):
                is_quiet = self.variations.are_told
                connection = session.connection({"bind": engine})
        rewriter = None if is_quiet else attachment.hooks.rewriter(engine if connection is None else connection)
        if rewriter is not None:
            return Bypass(rewritten_by(rewriter))
        state = None if connection is None else attachment.state_of(connection)
        if connection is not None and state is None:
            return Bypass(f"it is not known which database this is: {attachment.why_no_bind}")
        bind = state.bind if state is not None else attachment.ask()
        if bind is None:
            return Bypass(f"it is not known which database this is: {attachment.why_no_bind}")
        of_owner = (engine if connection is None else connection).get_execution_options()
        # In this order, as the connection does when it executes: its own come before a statement's.
        options = {**statement_options, **of_owner, **call_options} if statement_options or of_owner else call_options
        return attachment, engine.engine, bind, options, notes, connection, state, variation, self.variations

    def question_in(self, reading: Reading, request: CacheRequest | None) -> Question | Bypass:
        """Make key and tags of a read, or say why not."""
        question = self.questions.of(
            reading.orm.statement,
            reading.parameters,
            reading.options,
            reading.attachment,
            reading.bind,
            reading.engine,
            request,
            reading.variation,
        )
        if isinstance(question, Bypass):
            return question
        why_not = reading.why_not_cached(question.tables)
        return question if why_not is None else Bypass(why_not)

    def answer(self, reading: Reading, question: Question, request: CacheRequest | None) -> Result[Any] | Bypass:
        """Answer from the store, or run and store."""
        freshness = freshness_in(reading)
        if isinstance(freshness, Bypass):
            return freshness
        coherence, state = reading.attachment.coherence, reading.state
        waited = False
        while True:
            asked_at = time.monotonic() if question.plan.grace_s else 0.0
            found = None if reading.notes.found is None else reading.notes.take_found(question.key)
            found = found or self._look_up(reading, question, freshness)
            if found is None:
                return Bypass(NO_ANSWER)
            if found.storable and not question.is_answered_by(found):
                question.plan.bind.doubt_survey(question.plan.survey_stamps)
                return Bypass(OTHER_CATALOG)
            is_due = self.refreshing.may_be_due(question, found) and not waited
            is_due = is_due and self.refreshing.is_due(question, found) and _could_store(reading, freshness)
            if is_due and self.flights.begin(question.key):
                return self._refresh(reading, question, found)
            entry = entries.take(reading, question, found, freshness)
            if entry is not None:
                if question.plan.grace_s:
                    # A near cache may answer what was valid so long ago.
                    asked_at -= coherence.lag_s(question.store)
                    self.graces.keep(_grace_key_of(question), found.payload, asked_at)
                return self.serve(reading, question, entry)
            if state is not None and state.dirty:
                return self._run(reading, question, found)
            stale = self._within_grace(reading, question, found, freshness)
            is_filler = (found.storable or stale is not None) and self.flights.begin(question.key)
            if not is_filler and stale is not None:
                coherence.events.emit("stale", key=question.key)
                return self.serve(reading, question, entries.rows_in(coherence, question.store, question.key, stale))
            if not is_filler and found.storable and not waited:
                self.flights.wait(question.key)
                waited = True
                continue
            try:
                return self._answer_miss(reading, question, found, request, freshness)
            finally:
                if is_filler:
                    self.flights.end(question.key)

    def _look_up(self, reading: Reading, question: Question, freshness: Freshness) -> Lookup | None:
        """Ask the store, at the same moment of what followed the statement last time; None where it does not answer.

        Never before that moment: what follows a statement shows no less than it.
        """
        coherence, strict = reading.attachment.coherence, reading.must_be_strict(freshness)
        reading.ahead = None
        following = question.plan.memory.after.get(question.key)
        if following is None or not coherence.sees_one_moment(question.store):
            return coherence.lookup(question.store, question.key, question.tags, strict=strict)
        found = coherence.lookup_many(question.store, [(question.key, question.tags), *following], strict=strict)
        if found is None:
            return None
        reading.ahead = {key: (tags, said) for (key, tags), said in zip(following, found[1:], strict=True)}
        return found[0]

    def _within_grace(self, reading: Reading, question: Question, found: Lookup, freshness: Freshness) -> bytes | None:
        """Return what was valid until a moment ago, where such may be served while another read asks the database.

        Never in a snapshot, whose reads must be of one moment, nor where the catalog is another one.
        """
        grace_s = question.plan.grace_s
        if not grace_s or freshness is not Freshness.STATEMENT or not question.is_answered_by(found):
            return None
        return self.graces.of(_grace_key_of(question), grace_s, reading.attachment.coherence.changed_at)

    def _refresh(self, reading: Reading, question: Question, found: Lookup) -> Result[Any]:
        """Run and store before the entry expires: a miss, of this reader alone."""
        try:
            missed = Lookup(None, found.lease, found.storable, found.now)
            return self._run_and_fill(reading, question, missed, None, "its entry was about to expire")
        finally:
            self.flights.end(question.key)

    def _answer_miss(
        self,
        reading: Reading,
        question: Question,
        found: Lookup,
        request: CacheRequest | None,
        freshness: Freshness,
    ) -> Result[Any]:
        # What is read from here on is of a later moment than what was looked up.
        reading.ahead = None
        collection = None
        if question.plan.by_keys and not reading.orm.is_relationship_load:
            collection = collection_of(self.questions, reading, question, found, request)
        entry = None if collection is None else collection.put_together(freshness)
        if entry is not None:
            if question.plan.grace_s:
                self.graces.keep(_grace_key_of(question), None, -math.inf)
            return self.serve(reading, question, entry)
        if not found.storable:
            return self._run(reading, question, found)
        return self._run_and_fill(reading, question, found, collection)

    def _run_and_fill(
        self,
        reading: Reading,
        question: Question,
        found: Lookup,
        collection: Collection | None,
        reason: str | None = None,
    ) -> Result[Any]:
        reading.attachment.coherence.events.emit("miss", key=question.key, reason=reason)
        capture = Capture(question.compilation.compiled)
        began = time.monotonic()
        result = self.send(reading, {CAPTURE: capture, "prebuffer_rows": True})
        self.refreshing.note(question.plan, time.monotonic() - began)
        if question.plan.grace_s:
            self.graces.keep(_grace_key_of(question), entries.payload_of_now(reading, question, capture), began)
        self._fill(reading, question, found, collection, capture)
        return _loading.hand_over(result, reading.orm)

    def _fill(
        self, reading: Reading, question: Question, found: Lookup, collection: Collection | None, capture: Capture
    ) -> None:
        # The connection that it got may be set otherwise than those before it, or be on another database.
        if capture.rows is not None and capture.bind is reading.bind and question.stands_for(capture.parameters):
            entries.fill(reading, [(question, found, capture.rows)], capture)
            if collection is not None:
                collection.keep_apart(capture)

    def _run(self, reading: Reading, question: Question, found: Lookup) -> Result[Any]:
        """Run a statement of which nothing is stored."""
        reason = None if found.storable else "a commit is under way"
        reading.attachment.coherence.events.emit("miss", key=question.key, reason=reason)
        result = self.send(reading)
        if question.plan.grace_s:
            self.graces.keep(_grace_key_of(question), None, -math.inf)
        return result

    def send(self, reading: Reading, options: Mapping[str, Any] | None = None) -> Result[Any]:
        """Run the statement as it would be run without a cache, with these execution options besides."""
        return _sqlalchemy.invoke(reading.orm, options)

    def serve(self, reading: Reading, question: Question, entry: DecodedRows) -> Result[Any]:
        """Return what the Session would have returned for the rows of an entry."""
        return self.results.of(reading, question, entry.description, entry.rows)


def _grace_key_of(question: Question) -> GraceKey:
    return question.key, question.plan.survey_stamps.get(question.store)


def _could_store(reading: Reading, freshness: Freshness) -> bool:
    """Tell whether what this transaction read of an entry that it may be served could be stored."""
    state = reading.state
    if freshness is Freshness.DIRTY:
        return False
    return not reading.attachment.met_replica if state is None else not (state.dirty or state.profile.is_replica)


def declined_at_once(orm: ORMExecuteState) -> str | None:
    """Say what about the call itself sends it to the database, whatever others that are told of it make of it."""
    options = _sqlalchemy.user_options_of(orm)
    return _declined(orm, options) if _own_way_in(options) is None else None


def _is_streamed(options: Mapping[str, Any]) -> bool:
    return bool(options.get("yield_per") or options.get("stream_results"))


def _declined(orm: ORMExecuteState, options: Sequence[Any]) -> str | None:
    """Say what about the call itself sends it to the database."""
    if not orm.session.is_active:
        return "the session's transaction must be rolled back first"
    if _is_streamed(orm.execution_options):
        return STREAMED
    why_refreshing = _sqlalchemy.why_refreshing(orm)
    if why_refreshing is not None:
        return why_refreshing
    if _sqlalchemy.loads_otherwise(orm):
        return "a listener changed how it is loaded"
    if orm.is_executemany:
        return "it has several sets of parameters"
    if options and any(isinstance(option, NoCache) for option in options):
        return "NoCache"
    return None


def _request_in(options: Sequence[Any]) -> CacheRequest | None:
    for option in reversed(options):
        if isinstance(option, FromCache):
            return option.payload
    return None


def _own_way_in(options: Sequence[Any]) -> OwnWay | None:
    for option in options:
        if isinstance(option, OwnWay):
            return option
    return None
