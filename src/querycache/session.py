"""How does a Session's read come from the cache?

One ``do_orm_execute`` listener on every Session. A statement on an attached engine gets a key and tags, is looked up, and
is answered from the store where the rules allow: no connection is checked out. Else it runs as always, its rows are
caught as the driver gives them, and stored.

Promises: what is returned is what the database would have returned, in values, types, order, identity and loader state;
whatever is not surely so passes through, counted with its reason. Never: an error of the cache's own reaches a read.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import BindParameter, Table, event
from sqlalchemy.engine import Connection, Dialect, Engine, Result
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from querycache import _sqlalchemy
from querycache._types import Lookup, TagSet
from querycache.coherence.binds import Bind
from querycache.coherence.snapshots import Freshness, freshness_of, may_fill, may_serve
from querycache.coherence.transactions import ConnectionState, Served
from querycache.engine import CAPTURE, Attachment, Capture
from querycache.flights import Flights
from querycache.options import CacheRequest, FromCache, NoCache
from querycache.policy import Policies, Policy
from querycache.rows.codec import PayloadRejected, UnsupportedValue, decode_rows, encode_rows
from querycache.statements import tags as naming
from querycache.statements.fingerprint import Shape, key_of, shape_of
from querycache.statements.reads import reads_the_clock, tags_of

NOTES: Final = "querycache"


@dataclass(frozen=True, slots=True)
class Bypass:
    """Why a statement goes to the database and is not stored."""

    reason: str
    defect: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A statement that may be cached: its key, what it depends on, where and how long it is kept."""

    key: bytes
    tags: TagSet
    tables: frozenset[str]
    store: int
    ttl_s: float
    max_size_bytes: int
    engine: Engine
    bind: Bind
    options: Mapping[str, Any]
    compilation: _sqlalchemy.Compilation


@dataclass(slots=True)
class SessionNotes:
    """What the cache keeps with one Session: what was served before it had a connection."""

    identity_map: Any
    served: dict[Dialect, Served] = field(default_factory=dict)


class Reader:
    """Answers the reads of Sessions for one cache."""

    def __init__(self, policies: Policies, regions: Mapping[str, tuple[int, float]]) -> None:
        self.policies = policies
        self.regions = regions
        self._flights = Flights()
        self._shapes: weakref.WeakKeyDictionary[Any, Shape] = weakref.WeakKeyDictionary()

    # -- may it be cached, and under what? ---------------------------------------------------------------------------

    def question_of(
        self,
        statement: Any,
        parameters: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        attachment: Attachment,
        bind: Bind,
        engine: Engine,
        request: CacheRequest | None,
    ) -> Question | Bypass:
        """Make key and tags, or say why not."""
        if options.get("compiled_cache", engine) is None:
            return Bypass("the compiled cache is turned off")
        compilation = _sqlalchemy.compile_statement(
            statement, engine, attachment.dialect, options, list(parameters or ())
        )
        if compilation.extracted is None:
            return Bypass("SQLAlchemy gives the statement no cache key")
        shape = self._shapes.get(compilation.compiled)
        if shape is None:
            shape = self._shapes[compilation.compiled] = shape_of(compilation.compiled, attachment.dialect)
        if shape.reads is None:
            return Bypass(shape.why_not or "not cacheable", shape.defect)
        schema_map = options.get("schema_translate_map")
        refusal = self._refusal(shape, bind, schema_map, request, statement)
        if isinstance(refusal, Bypass):
            return refusal
        try:
            values = shape.processed(_sqlalchemy.parameters_of(compilation, parameters))
            key = key_of(
                shape, bind.id, values, schema_map, () if request is None else (request.region, request.cache_key or "")
            )
        except UnsupportedValue as error:
            return Bypass(str(error))

        def value_of(parameter: BindParameter[Any]) -> Any:
            return values[shape.names[parameter]]

        if reads_the_clock(shape.reads, value_of):
            return Bypass("a value may stand for the present time")
        tags = tags_of(
            shape.reads,
            bind.id,
            value_of,
            lambda table: bind.facts(table, schema_map).name,
            attachment.dialect,
            bind.tag_columns,
        )
        return self._question(refusal, request, key, tags, shape, engine, bind, options, compilation)

    def _refusal(
        self,
        shape: Shape,
        bind: Bind,
        schema_map: Mapping[str | None, str | None] | None,
        request: CacheRequest | None,
        statement: Any,
    ) -> Bypass | list[Policy]:
        """Say why the tables of a statement may not be cached, or give their policies."""
        assert shape.reads is not None
        policies: list[Policy] = []
        operation = _operation_of(statement, shape)
        for element in shape.reads.elements:
            table: Table = element.table
            policy = self.policies.of(_sqlalchemy.plain_table(table))
            if policy is None and request is None:
                return Bypass(f"table {table.fullname} belongs to no cacheable model")
            if policy is not None:
                if request is None and operation not in policy.operations:
                    return Bypass(f'operation "{operation}" is not cached for table {table.fullname}')
                policies.append(policy)
            why_not = bind.why_not_plain(bind.facts(table, schema_map))
            if why_not is not None:
                return Bypass(f"table {table.fullname} {why_not}")
        if any(bind.calls_user_function([name]) for name in shape.reads.functions):
            return Bypass("it calls a function of the database's users")
        return policies

    def _question(
        self,
        policies: list[Policy],
        request: CacheRequest | None,
        key: bytes,
        tags: TagSet,
        shape: Shape,
        engine: Engine,
        bind: Bind,
        options: Mapping[str, Any],
        compilation: _sqlalchemy.Compilation,
    ) -> Question | Bypass:
        assert shape.reads is not None
        region = request.region if request is not None else policies[0].region if policies else "default"
        found = self.regions.get(region)
        if found is None:
            return Bypass(f'no region is named "{region}": known are {", ".join(sorted(self.regions))}')
        store, ttl_s = found
        ttl_s = min([ttl_s, *(policy.ttl for policy in policies)])
        if request is not None:
            ttl_s = min(ttl_s, request.ttl_s) if request.ttl_s is not None else ttl_s
            name = request.cache_key if request.cache_key is not None else key.hex()
            tags = TagSet((*tags.tags, naming.named_tag(bind.id, region, name)), tags.guards)
        schema_map = options.get("schema_translate_map")
        return Question(
            key=key,
            tags=tags,
            tables=frozenset(bind.facts(element.table, schema_map).name for element in shape.reads.elements),
            store=store,
            ttl_s=ttl_s,
            max_size_bytes=min([1_000_000, *(policy.max_size_bytes for policy in policies)]),
            engine=engine,
            bind=bind,
            options=options,
            compilation=compilation,
        )

    # -- a read ------------------------------------------------------------------------------------------------------

    def read(self, orm: ORMExecuteState, attachment: Attachment, engine: Engine | Connection) -> Result[Any] | Bypass:
        """Answer from the cache, or run and store; or say why neither."""
        declined = _declined(orm)
        if declined is not None:
            return Bypass(declined)
        request = _request_of(orm)
        if _sqlalchemy.reads_at_autoflush(orm):
            _sqlalchemy.autoflush(orm.session)
        notes = notes_of(orm.session)
        connection = _sqlalchemy.connection_of(orm.session, engine)
        state = None if connection is None else attachment.state_of(connection)
        if connection is not None and state is None:
            return Bypass(f"it is not known which database this is: {attachment.why_no_bind}")
        bind = state.bind if state is not None else attachment.ask()
        if bind is None:
            return Bypass(f"it is not known which database this is: {attachment.why_no_bind}")
        owner = engine if connection is None else connection
        options = {**owner.get_execution_options(), **orm.execution_options}
        question = self.question_of(
            orm.statement, _one_set(orm.parameters), options, attachment, bind, engine.engine, request
        )
        if isinstance(question, Bypass):
            return question
        if state is not None and state.may_have_changed(question.tables):
            return Bypass("this transaction may have changed what it reads")
        return self._look_up(orm, attachment, question, notes, connection, state)

    def _look_up(
        self,
        orm: ORMExecuteState,
        attachment: Attachment,
        question: Question,
        notes: SessionNotes,
        connection: Connection | None,
        state: ConnectionState | None,
    ) -> Result[Any] | Bypass:
        freshness = _freshness(attachment, question, connection, state)
        if freshness is Freshness.UNKNOWN:
            return Bypass(
                "it is not known what this connection's statements see" if state is None or not state.tainted else state.tainted
            )
        waited = False
        while True:
            found = attachment.coherence.lookup(question.store, question.key, question.tags)
            if found is None:
                return Bypass("the store did not answer")
            if found.payload is not None:
                result = self._serve(orm, attachment, question, found, freshness, notes, state)
                if result is not None:
                    attachment.coherence.events.emit("hit", key=question.key)
                    return result
            if not found.storable or (state is not None and state.dirty):
                attachment.coherence.events.emit(
                    "miss", key=question.key, reason=None if found.storable else "a commit is under way"
                )
                return orm.invoke_statement()
            if not waited and not self._flights.begin(question.key):
                waited = True
                continue
            try:
                return self._run_and_fill(orm, attachment, question, found)
            finally:
                if not waited:
                    self._flights.end(question.key)

    def _serve(
        self,
        orm: ORMExecuteState,
        attachment: Attachment,
        question: Question,
        found: Lookup,
        freshness: Freshness,
        notes: SessionNotes,
        state: ConnectionState | None,
    ) -> Result[Any] | None:
        started = state is not None and state.statements > 0
        since = None if state is None or state.since is None else state.since.get(question.store)
        if not may_serve(freshness, found.lease, started=started, since=since):
            return None
        assert found.payload is not None
        try:
            decoded = decode_rows(question.key, found.payload)
        except PayloadRejected as error:
            attachment.coherence.events.emit("defect", key=question.key, reason=f"payload rejected: {error}")
            return None
        if state is None:
            served = notes.served.setdefault(attachment.dialect, Served())
            served.remember(question.store, question.key, question.tags, found.lease)
        elif not state.pinned and freshness is Freshness.SNAPSHOT:
            state.served.remember(question.store, question.key, question.tags, found.lease)
        options = {**question.options, "prebuffer_rows": True}
        cursor = _sqlalchemy.replay_cursor(
            question.compilation, orm.statement, question.engine, options, decoded.description, decoded.rows
        )
        return _sqlalchemy.load_result(orm, cursor, options)

    def _run_and_fill(
        self, orm: ORMExecuteState, attachment: Attachment, question: Question, found: Lookup
    ) -> Result[Any]:
        attachment.coherence.events.emit("miss", key=question.key)
        capture = Capture(question.compilation.compiled)
        result = orm.invoke_statement(execution_options={CAPTURE: capture, "prebuffer_rows": True})
        self._fill(attachment, question, found, capture)
        return result

    def _fill(self, attachment: Attachment, question: Question, found: Lookup, capture: Capture) -> None:
        events = attachment.coherence.events
        since = None if capture.since is None else capture.since.get(question.store)
        if capture.rows is None or capture.dirty:
            return
        if not may_fill(capture.freshness, found.lease, first=capture.first, since=since):
            events.emit("bypass", key=question.key, reason="the snapshot is older than the entry would be")
            return
        try:
            payload = encode_rows(question.key, [column[:2] for column in capture.description], capture.rows)
        except UnsupportedValue as error:
            events.emit("bypass", key=question.key, reason=str(error))
            return
        if len(payload) > question.max_size_bytes:
            events.emit("bypass", key=question.key, reason="the result is larger than max_size_bytes")
            return
        if attachment.coherence.fill(question.store, question.key, payload, found.lease, question.ttl_s):
            events.emit("fill", key=question.key)


def _declined(orm: ORMExecuteState) -> str | None:
    """Say what about the call itself sends it to the database."""
    options = orm.execution_options
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


def _one_set(parameters: Any) -> Mapping[str, Any] | None:
    return parameters if isinstance(parameters, Mapping) else None


def _operation_of(statement: Any, shape: Shape) -> str:
    entities = [column.get("entity") for column in getattr(statement, "column_descriptions", ())]
    columns = [column.get("expr") for column in getattr(statement, "column_descriptions", ())]
    if not entities or any(entity is None or entity is not expr for entity, expr in zip(entities, columns, strict=True)):
        return "columns"
    assert shape.reads is not None
    narrowing = shape.reads.elements[0].narrowing
    return "get" if narrowing is not None and narrowing.by_primary_key else "list"


def _freshness(
    attachment: Attachment, question: Question, connection: Connection | None, state: ConnectionState | None
) -> Freshness:
    if state is not None and connection is not None:
        return attachment.freshness_of(state, connection.connection.dbapi_connection)
    isolation = question.options.get("isolation_level") or question.bind.profile.isolation
    if attachment.dialect.name == "sqlite":
        return Freshness.STATEMENT
    return freshness_of(str(isolation), attachment.dialect.name, in_transaction=True)


# -- the one listener on every Session -------------------------------------------------------------------------------

_READERS: weakref.WeakKeyDictionary[Dialect, tuple[Reader, Attachment]] = weakref.WeakKeyDictionary()


def register(attachment: Attachment, reader: Reader) -> None:
    """Have the reads on an attached engine answered by ``reader``."""
    _READERS[attachment.dialect] = (reader, attachment)
    if not event.contains(Session, "do_orm_execute", _do_orm_execute):
        event.listen(Session, "do_orm_execute", _do_orm_execute)
        event.listen(Session, "after_begin", _after_begin)
        event.listen(Session, "after_transaction_end", _after_transaction_end)


def attachment_of(engine: Engine) -> tuple[Reader, Attachment] | None:
    """Return who caches an engine, None where nobody does."""
    return _READERS.get(engine.dialect)


def notes_of(session: Session) -> SessionNotes:
    """Return what is kept with a Session; anew after it was closed."""
    notes: SessionNotes | None = session.info.get(NOTES)
    if notes is None or notes.identity_map is not session.identity_map:
        notes = session.info[NOTES] = SessionNotes(session.identity_map)
    return notes


def _do_orm_execute(orm: ORMExecuteState) -> Result[Any] | None:
    if not orm.is_select:
        return None
    try:
        bind = orm.session.get_bind(**orm.bind_arguments)
    except SQLAlchemyError:
        return None
    found = _READERS.get(bind.engine.dialect)
    if found is None:
        return None
    reader, attachment = found
    listeners = _sqlalchemy.has_listeners_after_us(orm)
    if listeners:
        answered = _sqlalchemy.run_listeners_after_us(orm)
        if answered is not None:
            return answered
    outcome = reader.read(orm, attachment, bind)
    if not isinstance(outcome, Bypass):
        return outcome
    attachment.coherence.events.emit("defect" if outcome.defect else "bypass", reason=outcome.reason)
    return orm.invoke_statement() if listeners else None


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    found = _READERS.get(connection.dialect)
    if found is None:
        return
    notes = notes_of(session)
    state = found[1].state_of(connection)
    served = notes.served.pop(connection.dialect, None)
    if state is not None and served:
        state.served.take(served)


def _after_transaction_end(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session.info.pop(NOTES, None)
