"""How is a list of rows answered when each of its rows is cached on its own?

First the list's primary keys, an entry of their own; then each row under its key; the rows that are missing, in one query.

Promises: never a torn list. The stamps of the list are looked at before the keys are read and again after the last row: what
changed or is marked, or has a row that is gone, is asked of the database, whole, by one statement. Rows obey the same rules
of transactions and snapshots as any read. Never: an instance built from a row before that second look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import Select, bindparam, select, tuple_
from sqlalchemy.engine import IteratorResult, Result
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.exc import NoSuchColumnError
from sqlalchemy.orm import InstrumentedAttribute, Mapper, ORMExecuteState, Session, class_mapper

from querycache import _sqlalchemy
from querycache._types import Lease, Lookup, TagSet
from querycache.coherence.snapshots import Freshness
from querycache.engine import CAPTURE, Capture
from querycache.options import CacheRequest, NoCache
from querycache.questions import Bypass, Form, Question
from querycache.reader import NO_ANSWER, OwnWay, Reader, Reading, freshness_in

MAX_KEYS: Final = 10_000
"""Longer lists are read whole: databases limit the number of parameters of a statement."""

Key: TypeAlias = tuple[Any, ...]
Row: TypeAlias = Sequence[Any]

_KEYS: Final = "querycache_keys"
_TORN: Final = "the list changed while its rows were collected"


@dataclass(slots=True)
class SeenList:
    """What the store said of a list before its keys were read; without tags: it was never asked."""

    tags: TagSet | None = None
    lease: Lease = ()
    storable: bool = False
    tables: frozenset[str] = field(default_factory=frozenset)

    def note(self, question: Question, found: Lookup) -> None:
        """Remember a lookup; the last one before the keys counts."""
        self.tags, self.lease, self.storable, self.tables = question.tags, found.lease, found.storable, question.tables


class KeysOfList(OwnWay):
    """Reads a list's primary keys, from the cache or into it; no keys where the list is to be read whole."""

    def __init__(self, request: CacheRequest, seen: SeenList) -> None:
        self.request = request
        self.seen = seen
        super().__init__()

    def answer(self, reader: Reader, reading: Reading) -> Result[Any] | Bypass:
        question = reader.question_in(reading, self.request)
        if isinstance(question, Bypass):
            return question
        return reader.answer(reading, question, self.seen.note)

    def otherwise(self, orm: ORMExecuteState) -> Result[Any]:
        self.seen.tags = None
        return no_rows()


@dataclass(frozen=True, slots=True)
class RowsByKey:
    """The rows wanted of a model: their keys in order, the name under which each is cached, and what to run where that fails.

    ``seen`` is the list that the keys are of; None where each row stands for itself, and may be absent.
    """

    model: type[Any]
    keys: Sequence[Key]
    region: str
    name_of: Callable[[Key], str]
    whole: Select[Any]
    seen: SeenList | None = None


class RowsEachOnItsOwn(OwnWay):
    """Reads the rows of given primary keys, each under a question of its own, the missing ones in one query."""

    def __init__(self, wanted: RowsByKey) -> None:
        self.wanted = wanted
        super().__init__()

    def answer(self, reader: Reader, reading: Reading) -> Result[Any] | Bypass:
        collected = _collection_of(reader, reading, self.wanted)
        return collected if isinstance(collected, Bypass) else collected.collect()

    def otherwise(self, orm: ORMExecuteState) -> Result[Any]:
        return orm.session.execute(self.wanted.whole)


def read_list(
    session: Session,
    model: type[Any],
    whole: Select[Any],
    *,
    region: str,
    name: str,
    name_of: Callable[[Key], str],
) -> list[Any]:
    """Return the instances that ``whole``, a plain select of ``model``, finds; its keys are cached under ``name``."""
    seen = SeenList()
    keys = whole.with_only_columns(*key_attributes_of(model))
    past = whole.options(NoCache())
    found = session.execute(keys.options(KeysOfList(CacheRequest(region, name, None), seen)))
    listed = [tuple(key) for key in found]
    if seen.tags is None or not seen.storable or len(listed) > MAX_KEYS:
        return _instances(session.execute(past))
    if not listed:
        return []
    return read_rows(session, RowsByKey(model, listed, region, name_of, past, seen))


def read_rows(session: Session, wanted: RowsByKey) -> list[Any]:
    """Return the instances of rows in the order of their keys."""
    mapper = class_mapper(wanted.model)
    statement = rows_by_key(mapper).options(RowsEachOnItsOwn(wanted))
    return _instances(session.execute(statement, _parameters(mapper, wanted.keys)))


def past_the_cache(model: type[Any], keys: Sequence[Key]) -> Select[Any]:
    """Return the statement that asks the database for the rows of some keys."""
    mapper = class_mapper(model)
    return rows_by_key(mapper).params(_parameters(mapper, keys)).options(NoCache())


def key_attributes_of(model: type[Any]) -> list[InstrumentedAttribute[Any]]:
    """Return a model's primary key as attributes."""
    mapper = class_mapper(model)
    return [getattr(model, mapper.get_property_by_column(column).key) for column in mapper.primary_key]


def rows_by_key(mapper: Mapper[Any]) -> Select[Any]:
    """Return the statement for the rows of any number of keys.

    A composite key is pinned part by part, so that a call with one key depends on that row alone, and as a whole, so that a
    call with many finds no other rows.
    """
    key = key_attributes_of(mapper.class_)
    statement = select(mapper.class_)
    for position, part in enumerate(key):
        statement = statement.where(part.in_(bindparam(f"{_KEYS}_{position}", expanding=True)))
    if len(key) > 1:
        statement = statement.where(tuple_(*key).in_(bindparam(_KEYS, expanding=True)))
    return statement


def no_rows() -> Result[Any]:
    """Return a result without rows."""
    return IteratorResult(SimpleResultMetaData([]), iter([]))


def _parameters(mapper: Mapper[Any], keys: Sequence[Key]) -> dict[str, Any]:
    width = len(mapper.primary_key)
    parameters: dict[str, Any] = {
        f"{_KEYS}_{position}": list(dict.fromkeys(key[position] for key in keys)) for position in range(width)
    }
    if width > 1:
        parameters[_KEYS] = list(keys)
    return parameters


def _instances(result: Result[Any]) -> list[Any]:
    return list(result.unique().scalars())


def _collection_of(reader: Reader, reading: Reading, wanted: RowsByKey) -> _Collection | Bypass:
    """Ask a question for each row, or say why that cannot be done here."""
    mapper = class_mapper(wanted.model)
    named = [
        (_parameters(mapper, [key]), CacheRequest(wanted.region, wanted.name_of(key), None)) for key in wanted.keys
    ]
    form = reader.questions.form_of(
        reading.orm.statement,
        named[0][0],
        reading.options,
        reading.attachment,
        reading.bind,
        reading.engine,
        named[0][1],
    )
    if isinstance(form, Bypass):
        return form
    questions = []
    for parameters, request in named:
        question = reader.questions.about(form, parameters, request)
        if isinstance(question, Bypass):
            return question
        questions.append(question)
    why_not = reading.why_not_cached(questions[0].tables)
    if why_not is not None:
        return Bypass(why_not)
    freshness = freshness_in(reading)
    if isinstance(freshness, Bypass):
        return freshness
    return _Collection(reader, reading, wanted, mapper, form, questions, freshness)


@dataclass(slots=True)
class _Collection:
    """The rows of one call, as they are collected: by position in ``wanted.keys``."""

    reader: Reader
    reading: Reading
    wanted: RowsByKey
    mapper: Mapper[Any]
    form: Form
    questions: list[Question]
    freshness: Freshness
    leases: list[Lookup] = field(default_factory=list)
    rows: dict[int, Sequence[Row]] = field(default_factory=dict)
    description: tuple[tuple[Any, Any], ...] | None = None

    def collect(self) -> Result[Any] | Bypass:
        """Take what is stored, run for the rest, and look at the list again."""
        why_not = self._look_up() or self._find_missing() or self._look_again()
        if why_not is not None:
            return Bypass(why_not)
        rows = [row for position in range(len(self.questions)) for row in self.rows[position]]
        assert self.description is not None
        return self.reader.result_of(self.reading, self.form.compilation, self.description, rows)

    def _missing(self) -> list[int]:
        return [position for position in range(len(self.questions)) if position not in self.rows]

    def _find_missing(self) -> str | None:
        """Run for what is not stored; where another thread is filling the first of it, wait and look once more."""
        missing = self._missing()
        if not missing:
            return None
        flights, key = self.reader.flights, self.questions[missing[0]].key
        if not flights.begin(key):
            return self._look_up() or self._run_for(self._missing())
        try:
            return self._run_for(missing)
        finally:
            flights.end(key)

    def _look_up(self) -> str | None:
        found = self._ask([(question.key, question.tags) for question in self.questions])
        if found is None:
            return NO_ANSWER
        self.leases, self.rows = found, {}
        for position, (question, lookup) in enumerate(zip(self.questions, found, strict=True)):
            entry = self.reader.take(self.reading, question, lookup, self.freshness)
            if entry is not None and self._is_alike(entry.description):
                self.rows[position] = entry.rows
        return None

    def _is_alike(self, description: Sequence[Sequence[Any]]) -> bool:
        """Tell whether columns are described as those before them: rows are loaded together only then."""
        described = tuple((column[0], column[1]) for column in description)
        if self.description is None:
            self.description = described
        return self.description == described

    def _run_for(self, missing: list[int]) -> str | None:
        if not missing:
            return None
        capture = Capture(self.form.compilation.compiled)
        keys = [self.wanted.keys[position] for position in missing]
        for position in missing:
            self.reading.attachment.coherence.events.emit("miss", key=self.questions[position].key)
        self.reading.orm.invoke_statement(
            params=_parameters(self.mapper, keys), execution_options={CAPTURE: capture}
        ).close()
        if capture.rows is None or not self._is_alike(capture.description):
            return "the rows could not be told apart"
        return self._sort(capture, missing)

    def _sort(self, capture: Capture, missing: list[int]) -> str | None:
        """Give each missing key its rows, and store them."""
        found = self._by_key(capture, [self.wanted.keys[position] for position in missing])
        if found is None:
            return "the rows could not be told apart"
        for position in missing:
            rows = self.rows[position] = found.get(self.wanted.keys[position], [])
            self.reader.fill(self.reading, self.questions[position], self.leases[position], capture, rows)
        return None

    def _by_key(self, capture: Capture, keys: Sequence[Key]) -> Mapping[Key, list[Row]] | None:
        """Sort raw rows by the primary key that SQLAlchemy reads in them; None where one has another key."""
        assert capture.rows is not None
        if len(keys) == 1:
            # The database may know the row under another spelling of the key.
            return {keys[0]: capture.rows}
        cursor = _sqlalchemy.replay_cursor(
            self.form.compilation,
            self.reading.orm.statement,
            self.reading.engine,
            self.reading.options,
            capture.description,
            capture.rows,
        )
        found: dict[Key, list[Row]] = {key: [] for key in keys}
        try:
            for raw, row in zip(capture.rows, cursor, strict=True):
                found[tuple(row._mapping[column] for column in self.mapper.primary_key)].append(raw)
        except (NoSuchColumnError, KeyError):
            return None
        return found

    def _look_again(self) -> str | None:
        """Say why the rows do not make up the list that the keys were read of."""
        seen = self.wanted.seen
        if seen is None:
            return None
        if not all(self.rows.values()):
            return _TORN
        assert seen.tags is not None
        before = [(seen.tags, seen.lease)]
        if not self.questions[0].tables <= seen.tables:
            before += [
                (question.tags, found.lease) for question, found in zip(self.questions, self.leases, strict=True)
            ]
        now = self._ask([(None, tags) for tags, _ in before])
        if now is None:
            return NO_ANSWER
        still = all(found.storable and found.lease == lease for found, (_, lease) in zip(now, before, strict=True))
        return None if still else _TORN

    def _ask(self, questions: list[tuple[bytes | None, TagSet]]) -> list[Lookup] | None:
        return self.reading.attachment.coherence.lookup_many(self.questions[0].store, questions)
