"""How are the rows of some primary keys put together, of which each is cached on its own?

Every row has a question of its own; the rows that are missing are read in one query, and stored each under its question. A
list's rows are kept together besides, under what the list depends on: as long as nothing of it changes, one entry answers.

Promises: never a torn list. The stamps of the list, looked at before its keys were read, are looked at again after the last
row. Rows obey the same rules of transactions and snapshots as any read. Never: an instance built before that second look.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.engine import Result
from sqlalchemy.exc import NoSuchColumnError
from sqlalchemy.orm import Mapper, class_mapper

from querycache import _sqlalchemy
from querycache._types import Lease, Lookup, Tag, TagSet
from querycache.coherence.snapshots import Freshness
from querycache.engine import CAPTURE, Capture
from querycache.keyed import Key, parameters_of
from querycache.options import CacheRequest
from querycache.questions import OTHER_CATALOG, Bypass, Form, Question
from querycache.reader import NO_ANSWER, Reader
from querycache.readings import Reading, freshness_in
from querycache.rows.codec import encode_values
from querycache.statements import tags as naming

Row = Sequence[Any]

_TORN: Final = "the list changed while its rows were collected"
_MIXED: Final = "the rows could not be told apart"
_MAX_KNOWN: Final = 5000


@dataclass(slots=True)
class SeenList:
    """What the store said of a list before its keys were read; without a question: it was never asked.

    ``first``: nothing had been sent in the transaction by then. Holds nothing of the Session: SQLAlchemy keeps statements.
    """

    question: Question | None = None
    lease: Lease = ()
    storable: bool = False
    first: bool = False

    def note(self, reading: Reading, question: Question, found: Lookup) -> None:
        """Remember a lookup; the last one before the keys counts."""
        self.question, self.lease, self.storable = question, found.lease, found.storable
        self.first = reading.state is None or reading.state.statements == 0


@dataclass(frozen=True, slots=True)
class RowsByKey:
    """The rows wanted of a model: their keys in order, and the name under which each is cached.

    ``whole`` makes the statement to run where that fails. ``seen`` is the list that the keys are of; None where each row
    stands for itself, and may be absent. ``any_name`` names every list of the model at once.
    """

    model: type[Any]
    keys: Sequence[Key]
    region: str
    name_of: Callable[[Key], str]
    any_name: str
    whole: Callable[[], Select[Any]]
    seen: SeenList | None = None


def collect(reader: Reader, reading: Reading, wanted: RowsByKey) -> Result[Any] | Bypass:
    """Return the rows wanted, or say why they cannot be put together here."""
    mapper = class_mapper(wanted.model)
    parameters = parameters_of(mapper, wanted.keys[:1])
    request = CacheRequest(wanted.region, wanted.name_of(wanted.keys[0]), None)
    form = reader.questions.form_of(
        reading.orm.statement,
        parameters,
        reading.options,
        reading.attachment,
        reading.bind,
        reading.engine,
        request,
    )
    if isinstance(form, Bypass):
        return form
    one = reader.questions.about(form, parameters, request, reading.variation)
    if isinstance(one, Bypass):
        return one
    others = _other_values(form, parameters)
    why_not = reading.why_not_cached(one.tables)
    if why_not is not None:
        return Bypass(why_not)
    freshness = freshness_in(reading)
    if isinstance(freshness, Bypass):
        return freshness
    return _Collection(reader, reading, wanted, mapper, form, one, others, freshness).answer()


@dataclass(slots=True)
class _Collection:
    """The rows of one call, as they are put together: by position in ``wanted.keys``.

    ``one`` is any row's question; ``others`` stands for the values in the statement that are no keys. ``before``: the
    stamps of all that the rows of a list hold, before the first of them was looked up.
    """

    reader: Reader
    reading: Reading
    wanted: RowsByKey
    mapper: Mapper[Any]
    form: Form
    one: Question
    others: bytes
    freshness: Freshness
    questions: list[Question] = field(default_factory=list)
    found: list[Lookup] = field(default_factory=list)
    rows: dict[int, Sequence[Row]] = field(default_factory=dict)
    before: tuple[TagSet, Lease] | None = None
    description: Sequence[Sequence[Any]] | None = None
    may_not_keep: bool = False

    def answer(self) -> Result[Any] | Bypass:
        """Take the whole list where it is stored, else put it together and store it."""
        together = self._question_of_list()
        if together is None:
            return self._result_of_rows() if (why_not := self._put_together()) is None else Bypass(why_not)
        found = self._ask([(together.key, together.tags)])
        if found is None:
            return Bypass(NO_ANSWER)
        self.before = (together.tags, found[0].lease)
        if self._list_part_of(found[0].lease) != self._seen.lease:
            return Bypass(_TORN)
        entry = self.reader.take(self.reading, together, found[0], self.freshness)
        if entry is not None:
            return self._result_of(entry.description, entry.rows)
        why_not = self._put_together()
        if why_not is not None:
            return Bypass(why_not)
        self._keep_together(together, found[0])
        return self._result_of_rows()

    @property
    def _seen(self) -> SeenList:
        assert self.wanted.seen is not None
        return self.wanted.seen

    # -- the list as a whole -----------------------------------------------------------------------------------------

    def _question_of_list(self) -> Question | None:
        """Return under what the rows of a list are kept together; None where the list does not depend on all they read.

        That is more than the list depends on where its keys follow from some columns: the rows hold all of them.
        """
        seen = self.wanted.seen
        if seen is None or seen.question is None or not self.one.tables <= seen.question.tables:
            return None
        listed = seen.question
        rows = self.form.plan.shape.digest + self.others + self.reading.variation
        key = hashlib.blake2b(b"rows" + listed.key + rows, digest_size=16).digest()
        any_row = naming.named_tag(self.reading.bind.id, self.wanted.region, self.wanted.any_name)
        own = dict.fromkeys(listed.tags.tags)
        rows = [tag for tag in dict.fromkeys(map(naming.rows_of, own)) if tag not in own]
        return listed._replace(key=key, tags=TagSet((*own, *rows, any_row), listed.tags.guards))

    def _list_part_of(self, lease: Lease) -> Lease:
        """Return the stamps of the list's own tags."""
        assert self._seen.question is not None
        own, guards = len(self._seen.question.tags.tags), len(self._seen.question.tags.guards)
        return (*lease[:own], *lease[len(lease) - guards :])

    def _keep_together(self, together: Question, found: Lookup) -> None:
        rows = [row for position in range(len(self.questions)) for row in self.rows[position]]
        capture = Capture(None, description=self.description, freshness=self.freshness, first=self._seen.first)
        state = self.reading.state
        capture.since = None if state is None else state.since
        capture.dirty = self.may_not_keep or (state is not None and (state.dirty or state.profile.is_replica))
        self.reader.fill(self.reading, [(together, found, rows)], capture)

    def _result_of_rows(self) -> Result[Any]:
        assert self.description is not None
        return self._result_of(
            self.description, [row for position in range(len(self.questions)) for row in self.rows[position]]
        )

    def _result_of(self, description: Sequence[Any], rows: Sequence[Row]) -> Result[Any]:
        return self.reader.results.of(self.reading, self.form.compilation, description, rows)

    # -- row by row --------------------------------------------------------------------------------------------------

    def _put_together(self) -> str | None:
        """Take what is stored, run for the rest, and look at the list again; say why that failed."""
        return self._question_rows() or self._look_up() or self._find_missing() or self._look_again()

    def _question_rows(self) -> str | None:
        """Ask a question for each row."""
        known = _known_of(self.form, self.wanted, self.others, self.reading.variation)
        for key in self.wanted.keys:
            about = known.get(key)
            if about is None:
                request = CacheRequest(self.wanted.region, self.wanted.name_of(key), None)
                question = self.reader.questions.about(
                    self.form, parameters_of(self.mapper, [key]), request, self.reading.variation
                )
                if isinstance(question, Bypass):
                    return question.reason
                about = known[key] = (question.key, question.tags, question.name)
            self.questions.append(self.one._replace(key=about[0], tags=about[1], name=about[2]))
        return None

    def _look_up(self) -> str | None:
        found = self._ask([(question.key, question.tags) for question in self.questions])
        if found is None:
            return NO_ANSWER
        if found[0].storable and not self.questions[0].is_answered_by(found[0]):
            self.one.plan.bind.doubt_survey(self.one.plan.survey_stamps)
            return OTHER_CATALOG
        self.found, self.rows, self.description = found, {}, None
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

    def _run_for(self, missing: list[int]) -> str | None:
        """Read the missing rows in one query, and store each."""
        if not missing:
            return None
        keys = [self.wanted.keys[position] for position in missing]
        for position in missing:
            self.reading.attachment.coherence.events.emit("miss", key=self.questions[position].key)
        capture = Capture(self.form.compilation.compiled)
        parameters, options = parameters_of(self.mapper, keys), {CAPTURE: capture}
        self.reading.orm.invoke_statement(params=parameters, execution_options=options).close()
        if capture.rows is None or capture.bind is not self.reading.bind or not self._is_alike(capture.description):
            return _MIXED
        if not self.one.stands_for(capture.parameters):
            return _MIXED
        self.may_not_keep = self.may_not_keep or capture.dirty
        found = self._by_key(capture, keys)
        if found is None:
            return _MIXED
        for position, key in zip(missing, keys, strict=True):
            self.rows[position] = found[key]
        answers = [(self.questions[position], self.found[position], self.rows[position]) for position in missing]
        self.reader.fill(self.reading, answers, capture)
        return None

    def _by_key(self, capture: Capture, keys: Sequence[Key]) -> Mapping[Key, Sequence[Row]] | None:
        """Sort raw rows by the primary key that SQLAlchemy reads in them; None where one has another key."""
        assert capture.rows is not None
        if len(self.wanted.keys) == 1:
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
        if self.wanted.seen is None:
            return None
        if not all(self.rows.values()):
            return _TORN
        assert self._seen.question is not None
        before = [(self._seen.question.tags, self._seen.lease)]
        if self.before is not None:
            before.append(self.before)
        if not self.one.tables <= self._seen.question.tables:
            # What the rows read beside the list may have changed between them.
            before += [(question.tags, found.lease) for question, found in zip(self.questions, self.found, strict=True)]
        now = self._ask([(None, tags) for tags, _ in before])
        if now is None:
            return NO_ANSWER
        still = all(found.storable and found.lease == lease for found, (_, lease) in zip(now, before, strict=True))
        return None if still else _TORN

    def _ask(self, questions: list[tuple[bytes | None, TagSet]]) -> list[Lookup] | None:
        return self.reading.attachment.coherence.lookup_many(self.one.store, questions)


# What was found out about a row stays true for its statement: making key and tags costs more than looking them up.
_Known = dict[Key, tuple[bytes, TagSet, "Tag | None"]]
_KNOWN: weakref.WeakKeyDictionary[Any, dict[Any, _Known]] = weakref.WeakKeyDictionary()


def _other_values(form: Form, parameters: Mapping[str, Any]) -> bytes:
    """Return a digest of what a user's listener put into the statement: it decides on the rows like the keys do."""
    values = form.plan.shape.processed(_sqlalchemy.parameters_of(form.compilation, parameters))
    others = [values[name] for name in sorted(values) if name not in parameters]
    return hashlib.blake2b(encode_values(others), digest_size=16).digest()


def _known_of(form: Form, wanted: RowsByKey, others: bytes, variation: bytes) -> _Known:
    # A plan stands for the database, its catalog, and how names are mapped.
    by_place = _KNOWN.setdefault(form.plan, {})
    known = by_place.setdefault((wanted.region, wanted.model.__qualname__, others, variation), {})
    if sum(map(len, by_place.values())) > _MAX_KNOWN:
        by_place.clear()
    return known
