"""What do applications of the Flask-SQLAlchemy-Caching recipe find under its names?

``CachingQuery`` and ``query_callable`` for a model's ``query_class``, ``md5_key_mangler`` for regions made with it. A query
with ``FromCache`` is cached like any statement; the methods here look at its entry by hand.

Promises: a row served here is never older than the database, whatever a region's own expiry says. A value set by hand is
dropped when what its query reads changes; that it was right when it was set is the word of who set it. Never: an instance
in a store.
Flask-SQLAlchemy's ``Query`` is the base where it is installed, SQLAlchemy's where not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, inspect
from sqlalchemy.engine import IteratorResult, Result
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import InstanceState, Mapper, ORMExecuteState

from querycache import adoption, entries
from querycache._types import Lookup
from querycache.adoption import Regions
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness, may_fill
from querycache.collection import Collection, call_of
from querycache.errors import ConfigurationError
from querycache.keyed import Key, mapper_of
from querycache.models import ModelCache
from querycache.options import CacheRequest, FromCache, NoCache, RowNames
from querycache.questions import Bypass, Question
from querycache.reader import NO_ANSWER, OwnWay, Reader
from querycache.readings import Reading, freshness_in
from querycache.rows.codec import UnsupportedValue, encode_rows
from querycache.rowwise import rowwise_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Query
else:
    try:
        from flask_sqlalchemy.query import Query
    except ImportError:
        from sqlalchemy.orm import Query

_CREATE_OR_IGNORE: Final = "get_value() takes createfunc or ignore_expiration, not both: nothing expired is kept"


def md5_key_mangler(key: str) -> str:
    """Return a SELECT's text as its MD5, any other key as it is: for a dogpile.cache region's ``key_mangler``."""
    if key.startswith("SELECT "):
        return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()
    return key


def query_callable(regions: Regions, query_cls: Callable[..., Any] | None = None) -> partial[Any]:
    """Return what a model's ``query_class`` may be: a ``CachingQuery``, or a subclass of it, that knows its regions."""
    if not event.contains(Mapper, "instrument_class", _declare_if_caching):
        event.listen(Mapper, "instrument_class", _declare_if_caching)
    return partial(query_cls or CachingQuery, regions)


class CachingQuery(Query[Any]):
    """A query that is cached with ``.options(FromCache(...))``, and whose entry can be looked at by hand.

    The methods raise ``ConfigurationError`` for a query without ``FromCache``.
    """

    def __init__(self, regions: Regions, entities: Any, *arguments: Any, **keywords: Any) -> None:
        self.cache_regions = regions
        super().__init__(entities, *arguments, **keywords)

    def invalidate(self) -> None:
        """Drop this query's entry, and all that have its ``cache_key``."""
        self.autoflush(False)._ask(_Invalidation(self._request()))

    def get_value(
        self,
        merge: bool = True,
        createfunc: Callable[[], Any] | None = None,
        expiration_time: float | None = None,
        ignore_expiration: bool = False,
    ) -> list[Any]:
        """Return what is cached: the value given to ``set_value``, else the query's result.

        Absent, ``createfunc()`` is called and its value set, ``expiration_time`` seconds at most; without it ``KeyError``
        is raised. What is returned belongs to the Session, whatever ``merge`` says; an entry past its time to live or
        outdated is absent, whatever ``ignore_expiration`` says.
        """
        if ignore_expiration and createfunc is not None:
            raise AssertionError(_CREATE_OR_IGNORE)
        own = _SetByHand(self._request())
        rows = self._ask(own)
        if own.keys is not None:
            # What is set may not go with the database as it is now: then the query is asked.
            return rows if own.put_together else list(self.options(NoCache()))
        stored = _Stored(own.request)
        rows = self._ask(stored)
        if stored.present:
            return rows
        if createfunc is None:
            raise KeyError(own.request.cache_key)
        value = list(createfunc())
        self._keep(own, value, expiration_time)
        return value

    def set_value(self, value: Iterable[Any]) -> None:
        """Keep instances as this query's value until what the query reads changes: ``get_value`` returns it.

        Their primary keys are kept; rows are read anew, or from their own entries. Raises ``TypeError`` for anything but
        persistent instances of the query's one entity.
        """
        own = _SetByHand(self._request())
        self._ask(own)
        self._keep(own, list(value), None)

    def _request(self) -> CacheRequest:
        for option in reversed(self._with_options):
            if isinstance(option, FromCache):
                assert isinstance(option.payload, CacheRequest)
                return option.payload
        raise ConfigurationError("the query has no FromCache: add .options(FromCache(...)) first")

    def _ask(self, way: OwnWay) -> list[Any]:
        return list(self.options(way))

    def _keep(self, own: _SetByHand, value: list[Any], ttl_s: float | None) -> None:
        mapper = self._entity()
        own.keep([_key_of(mapper, instance) for instance in value], ttl_s)

    def _entity(self) -> Mapper[Any]:
        described = self.column_descriptions
        mapper = inspect(described[0]["expr"], raiseerr=False) if len(described) == 1 else None
        if not isinstance(mapper, Mapper):
            raise TypeError("a value can be set by hand for a query of one entity")
        return mapper


def _key_of(mapper: Mapper[Any], instance: Any) -> Key:
    state = inspect(instance, raiseerr=False)
    if not isinstance(state, InstanceState) or not state.mapper.isa(mapper) or state.identity is None:
        raise TypeError(
            f"a value of this query is a list of persistent instances of {mapper.class_.__name__}, "
            f"not of {type(instance).__name__}"
        )
    return tuple(state.identity)


def no_rows() -> Result[Any]:
    """Return a result without rows."""
    return IteratorResult(SimpleResultMetaData([]), iter([]))


class _ByHand(OwnWay):
    """Looks at the entry of a query that is not run. Holds nothing of the Session: SQLAlchemy keeps statements."""

    def __init__(self, request: CacheRequest) -> None:
        self.request = request
        super().__init__()

    def otherwise(self, orm: ORMExecuteState) -> Result[Any]:
        return no_rows()


class _Invalidation(_ByHand):
    def answer(self, reader: Reader, reading: Reading) -> Result[Any] | Bypass:
        # Also in a transaction that reads past the cache: it is others who are served.
        question = reader.questions.of(
            reading.orm.statement,
            None,
            reading.options,
            reading.attachment,
            reading.bind,
            reading.engine,
            self.request,
            reading.variation,
        )
        if isinstance(question, Bypass):
            return question
        if question.name is not None:
            reading.attachment.coherence.touch([question.name])
        return no_rows()


class _Stored(_ByHand):
    """Takes the query's own entry, and says whether there is one."""

    present = False

    def answer(self, reader: Reader, reading: Reading) -> Result[Any] | Bypass:
        question, freshness = reader.question_in(reading, self.request), freshness_in(reading)
        if isinstance(question, Bypass):
            return question
        if isinstance(freshness, Bypass):
            return freshness
        strict = reading.must_be_strict(freshness)
        found = reading.attachment.coherence.lookup(question.store, question.key, question.tags, strict=strict)
        entry = None if found is None else entries.take(reading, question, found, freshness)
        if entry is None:
            return no_rows()
        self.present = True
        return reader.results.of(reading, question, entry.description, entry.rows)


class _SetByHand(_ByHand):
    """Takes the primary keys that were set by hand: an entry beside the query's own, with the same tags.

    ``keep`` stores others, under the lease that was looked up before they were collected.
    """

    keys: list[Key] | None = None
    put_together = False
    _question: Question | None = None
    _found: Lookup | None = None
    _coherence: Coherence | None = None

    def answer(self, reader: Reader, reading: Reading) -> Result[Any] | Bypass:
        whole, freshness = reader.question_in(reading, self.request), freshness_in(reading)
        if isinstance(whole, Bypass):
            return whole
        if isinstance(freshness, Bypass):
            return freshness
        rowwise = rowwise_of(reader.questions, whole, call_of(reading), self._with_names_of_rows(reading))
        if isinstance(rowwise, str):
            return Bypass(rowwise)
        question = whole._replace(key=hashlib.blake2b(b"by hand" + whole.key, digest_size=16).digest())
        coherence = reading.attachment.coherence
        found = coherence.lookup(question.store, question.key, question.tags, strict=reading.must_be_strict(freshness))
        if found is None:
            return Bypass(NO_ANSWER)
        if _may_keep(reading, question, found, freshness):
            self._question, self._found, self._coherence = question, found, coherence
        entry = entries.take(reading, question, found, freshness)
        if entry is None:
            return no_rows()
        self.keys = [tuple(row) for row in entry.rows]
        rows = Collection(reading, whole, found, rowwise).rows_by_hand(self.keys, question, found, freshness)
        if rows is None:
            return no_rows()
        self.put_together = True
        return reader.results.of(reading, whole, rows.description, rows.rows)

    def _with_names_of_rows(self, reading: Reading) -> CacheRequest:
        mapper = mapper_of(reading.orm.statement)
        if mapper is None:
            return self.request
        names = ModelCache(mapper.class_)
        return replace(self.request, names=RowNames(names.name_of, names.any_name))

    def keep(self, keys: list[Key], ttl_s: float | None) -> None:
        """Store keys, where the transaction allows and their types are known."""
        if self._question is None or self._coherence is None or self._found is None:
            return
        columns = [(str(position), None) for position in range(len(keys[0]) if keys else 1)]
        try:
            payload = encode_rows(self._question.key, columns, keys)
        except UnsupportedValue as error:
            self._coherence.events.emit("bypass", key=self._question.key, reason=str(error))
            return
        ttl_s = self._question.ttl_s if ttl_s is None else min(ttl_s, self._question.ttl_s)
        payload = self._coherence.envelopes[self._question.store].wrap(self._question.key, payload)
        self._coherence.fill(self._question.store, self._question.key, payload, self._found.lease, ttl_s)


def _may_keep(reading: Reading, question: Question, found: Lookup, freshness: Freshness) -> bool:
    state = reading.state
    if not found.storable or reading.attachment.met_replica or (state is not None and state.dirty):
        return False
    since = None if state is None or state.since is None else state.since.get(question.store)
    return may_fill(freshness, found.lease, first=state is None or state.statements == 0, since=since)


def _declare_if_caching(mapper: Mapper[Any], model: type[Any]) -> None:
    """Have the engine of a model attached whose ``query_class`` was made here."""
    made = model.__dict__.get("query_class")
    if isinstance(made, partial) and isinstance(made.func, type) and issubclass(made.func, CachingQuery):
        adoption.declare(model, made.args[0])
