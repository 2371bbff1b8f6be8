"""How is one read of a Session answered from the cache?

A statement gets a key and tags, is looked up, and is answered from the store where the rules allow: no connection is
checked out. Else it runs as always, its rows are caught as the driver gives them, and stored.

Promises: what is returned is what the database would have returned, in values, types, order, identity and loader state;
whatever is not surely so passes through, with its reason. Never: an error of the cache's own reaches a read.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy.engine import Connection, Engine, Result
from sqlalchemy.orm import ORMExecuteState, Session, UserDefinedOption

from querycache import _sqlalchemy
from querycache._types import Lease, Lookup
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness, may_fill, may_serve
from querycache.coherence.transactions import Served
from querycache.engine import CAPTURE, Attachment, Capture
from querycache.flights import Flights
from querycache.hooks import rewritten_by
from querycache.options import CacheRequest, FromCache, NoCache
from querycache.questions import OTHER_CATALOG, Bypass, Question, Questions
from querycache.readings import Reading, Situation, freshness_in, notes_of
from querycache.results import Results
from querycache.rows.codec import DecodedRows, PayloadRejected, UnsupportedValue, decode_rows, encode_rows
from querycache.variation import Variations

NO_ANSWER: Final = "the store did not answer"

Answer: TypeAlias = tuple[Question, Lookup, Sequence[Sequence[Any]]]
"""What was asked, what the store said before the database was, and the rows that the database gave."""


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

    def __init__(self, questions: Questions, variations: Variations) -> None:
        self.questions = questions
        self.variations = variations
        self.flights = Flights()
        self.results = Results()

    def read(self, orm: ORMExecuteState, attachment: Attachment, engine: Engine | Connection) -> Result[Any] | Bypass:
        """Answer from the cache, or run and store; or say why neither."""
        own = None if orm.is_relationship_load else _own_way_of(orm)
        outcome = self._outcome_of(orm, own, attachment, engine)
        if isinstance(outcome, Bypass) and outcome.reason == OTHER_CATALOG:
            # Asked anew, where that takes no connection out of the Session's hands.
            outcome = self._outcome_of(orm, own, attachment, engine)
        if own is None or not isinstance(outcome, Bypass):
            return outcome
        attachment.coherence.events.emit("bypass", reason=outcome.reason)
        return own.otherwise(orm)

    def _outcome_of(
        self, orm: ORMExecuteState, own: OwnWay | None, attachment: Attachment, engine: Engine | Connection
    ) -> Result[Any] | Bypass:
        reading = self._reading_of(orm, attachment, engine)
        if isinstance(reading, Bypass):
            return reading
        if own is not None:
            return own.answer(self, reading)
        question = self.question_in(reading, _request_of(orm))
        return question if isinstance(question, Bypass) else self.answer(reading, question)

    def _reading_of(
        self, orm: ORMExecuteState, attachment: Attachment, engine: Engine | Connection
    ) -> Reading | Bypass:
        declined = _declined(orm)
        if declined is not None:
            return Bypass(declined)
        if _sqlalchemy.reads_at_autoflush(orm):
            _sqlalchemy.autoflush(orm.session)
        found = self.situation_of(orm.session, attachment, engine, orm.execution_options)
        if isinstance(found, Bypass):
            return found
        return Reading(
            found.attachment,
            found.engine,
            found.bind,
            found.options,
            found.notes,
            found.connection,
            found.state,
            found.variation,
            orm,
        )

    def situation_of(
        self, session: Session, attachment: Attachment, engine: Engine | Connection, options: Mapping[str, Any]
    ) -> Situation | Bypass:
        """Find out where a read with these execution options would go; it begins the Session's transaction.

        It has a connection checked out where only the connection itself can say what it is set to.
        """
        variation = self.variations.of(session)
        if isinstance(variation, Bypass):
            return variation
        # Else a rollback after nothing but hits would expire nothing, and a second try would see what the first one saw.
        _sqlalchemy.autobegin(session)
        notes = notes_of(session)
        connection = _sqlalchemy.connection_of(session, engine)
        is_told = self.variations.are_told
        if connection is None and attachment.needs_connection(session, engine.engine, is_told=is_told):
            connection = session.connection({"bind": engine})
        rewriter = None if is_told else attachment.hooks.rewriter(engine if connection is None else connection)
        if rewriter is not None:
            return Bypass(rewritten_by(rewriter))
        state = None if connection is None else attachment.state_of(connection)
        if connection is not None and state is None:
            return Bypass(f"it is not known which database this is: {attachment.why_no_bind}")
        bind = state.bind if state is not None else attachment.ask()
        if bind is None:
            return Bypass(f"it is not known which database this is: {attachment.why_no_bind}")
        owner = engine if connection is None else connection
        options = {**owner.get_execution_options(), **options}
        return Situation(attachment, engine.engine, bind, options, notes, connection, state, variation)

    def question_in(self, reading: Reading, request: CacheRequest | None) -> Question | Bypass:
        """Make key and tags of a read, or say why not."""
        question = self.questions.of(
            reading.orm.statement,
            _one_set(reading.orm.parameters),
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

    def answer(
        self, reading: Reading, question: Question, on_lookup: Callable[[Reading, Question, Lookup], None] | None = None
    ) -> Result[Any] | Bypass:
        """Answer from the store, or run and store. ``on_lookup`` hears of what the store said before either."""
        freshness = freshness_in(reading)
        if isinstance(freshness, Bypass):
            return freshness
        coherence, state = reading.attachment.coherence, reading.state
        waited = False
        while True:
            found = reading.notes.take_found(question.key)
            found = found or coherence.lookup(question.store, question.key, question.tags)
            if found is None:
                return Bypass(NO_ANSWER)
            if found.storable and not question.is_answered_by(found):
                question.plan.bind.doubt_survey(question.plan.survey_stamps)
                return Bypass(OTHER_CATALOG)
            if on_lookup is not None:
                on_lookup(reading, question, found)
            entry = self.take(reading, question, found, freshness)
            if entry is not None:
                return self.serve(reading, question, entry)
            if not found.storable or (state is not None and state.dirty):
                coherence.events.emit(
                    "miss", key=question.key, reason=None if found.storable else "a commit is under way"
                )
                return _sqlalchemy.invoke(reading.orm)
            if not waited and not self.flights.begin(question.key):
                waited = True
                continue
            try:
                return self._run_and_fill(reading, question, found)
            finally:
                if not waited:
                    self.flights.end(question.key)

    def serve(self, reading: Reading, question: Question, entry: DecodedRows) -> Result[Any]:
        """Return what the Session would have returned for the rows of an entry."""
        return self.results.of(reading, question.compilation, entry.description, entry.rows)

    def take(self, reading: Situation, question: Question, found: Lookup, freshness: Freshness) -> DecodedRows | None:
        """Return the rows of an entry that this transaction may be served, and remember them where the snapshot asks."""
        state, attachment = reading.state, reading.attachment
        started = state is not None and state.statements > 0
        since = None if state is None or state.since is None else state.since.get(question.store)
        if found.payload is None or not may_serve(freshness, found.lease, started=started, since=since):
            return None
        try:
            decoded = decode_rows(question.key, found.payload)
        except PayloadRejected as error:
            attachment.coherence.events.emit("defect", key=question.key, reason=f"payload rejected: {error}")
            return None
        if state is None:
            served = reading.notes.served.setdefault(attachment.dialect, Served())
            served.remember(question.store, question.key, question.tags, found.lease)
        elif not state.pinned and freshness is Freshness.SNAPSHOT:
            state.served.remember(question.store, question.key, question.tags, found.lease)
        attachment.coherence.events.emit("hit", key=question.key)
        return decoded

    def _run_and_fill(self, reading: Reading, question: Question, found: Lookup) -> Result[Any]:
        reading.attachment.coherence.events.emit("miss", key=question.key)
        capture = Capture(question.compilation.compiled)
        result = _sqlalchemy.invoke(reading.orm, {CAPTURE: capture, "prebuffer_rows": True})
        # The connection that it got may be set otherwise than those before it, or be on another database.
        if capture.rows is not None and capture.bind is reading.bind and question.stands_for(capture.parameters):
            self.fill(reading, [(question, found, capture.rows)], capture)
        return result

    def fill(self, reading: Reading, answers: Sequence[Answer], capture: Capture) -> None:
        """Store what was captured after it was looked up, where the snapshot allows; all in one store."""
        coherence = reading.attachment.coherence
        if self.variations.of(reading.orm.session) != reading.variation:
            # What ran in between (a hook of its transaction's beginning, say) gave the Session to somebody else.
            coherence.events.emit("bypass", reason="vary said something else once the rows were read")
            return
        entries = [entry for answer in answers if (entry := self._entry_of(coherence, answer, capture)) is not None]
        if entries and coherence.fill_many(answers[0][0].store, entries) == len(entries):
            for entry in entries:
                coherence.events.emit("fill", key=entry[0])

    def _entry_of(
        self, coherence: Coherence, answer: Answer, capture: Capture
    ) -> tuple[bytes, bytes, Lease, float] | None:
        question, found, rows = answer
        since = None if capture.since is None else capture.since.get(question.store)
        if capture.dirty or not found.storable:
            return None
        if not may_fill(capture.freshness, found.lease, first=capture.first, since=since):
            reason = "the snapshot is older than the entry would be"
            coherence.events.emit("bypass", key=question.key, reason=reason)
            return None
        try:
            payload = encode_rows(question.key, [column[:2] for column in capture.description], rows)
        except UnsupportedValue as error:
            coherence.events.emit("bypass", key=question.key, reason=str(error))
            return None
        if len(payload) > question.plan.max_size_bytes:
            coherence.events.emit("bypass", key=question.key, reason="the result is larger than max_size_bytes")
            return None
        return question.key, payload, found.lease, question.ttl_s


def _declined(orm: ORMExecuteState) -> str | None:
    """Say what about the call itself sends it to the database."""
    options = orm.execution_options
    if not orm.session.is_active:
        return "the session's transaction must be rolled back first"
    if orm.is_column_load:
        return "it refreshes attributes of an instance"
    if orm._compile_state_cls is not None and _sqlalchemy.populates_existing(orm):
        return "it refreshes what the session holds"
    if options.get("yield_per") or options.get("stream_results"):
        return "its rows are streamed"
    if orm.is_executemany:
        return "it has several sets of parameters"
    if any(isinstance(option, NoCache) for option in orm.user_defined_options):
        return "NoCache"
    return None


def _request_of(orm: ORMExecuteState) -> CacheRequest | None:
    for option in reversed(orm.user_defined_options):
        if isinstance(option, FromCache):
            return option.payload
    return None


def _own_way_of(orm: ORMExecuteState) -> OwnWay | None:
    for option in orm.user_defined_options:
        if isinstance(option, OwnWay):
            return option
    return None


def _one_set(parameters: Any) -> Mapping[str, Any] | None:
    return parameters if isinstance(parameters, Mapping) else None
