"""Under which questions are the rows of a list cached, each on its own?

A list's rows are those of one statement called with their keys (``keyed``); called with one, it is the question of that row.
Asks no store and runs nothing.

Promises: a row's question is the same whichever list it is in, as far as these lists load it alike. A list whose rows would
not be told apart by their keys, or not loaded as the list loads them, is refused with the reason.
"""

from __future__ import annotations

import hashlib
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Select
from sqlalchemy.engine import Engine
from sqlalchemy.exc import NoSuchColumnError, SQLAlchemyError
from sqlalchemy.orm import Mapper

from querycache import _cursors, _sqlalchemy
from querycache._types import Tag, TagSet
from querycache.coherence.binds import Bind
from querycache.engine import Attachment
from querycache.keyed import KEYS, Key, keys_of, mapper_of, parameters_of, rows_of, why_not_by_keys
from querycache.options import CacheRequest
from querycache.questions import OTHER_CATALOG, Bypass, Form, Plan, Question, Questions
from querycache.rows.codec import encode_values
from querycache.statements import tags as naming

RawRow: TypeAlias = Sequence[Any]
Description: TypeAlias = Sequence[Sequence[Any]]

_MAX_KNOWN: Final = 5000
_ANONYMOUS: Final = re.compile(r"anon_\d+")


class Row(NamedTuple):
    """The question of one row, as far as it differs from that of the others."""

    key: bytes
    tags: TagSet
    name: Tag | None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a statement, and where it goes."""

    statement: Any
    parameters: Mapping[str, Any] | None
    options: Mapping[str, Any]
    attachment: Attachment
    bind: Bind
    engine: Engine
    variation: bytes


@dataclass(frozen=True, slots=True)
class Rowwise:
    """How the keys and rows of one call of a list are asked for.

    ``statement`` reads the rows by their keys; ``others`` are the values in it that are no keys.
    """

    questions: Questions
    call: Call
    request: CacheRequest | None
    mapper: Mapper[Any]
    statement: Select[Any]
    form: Form
    listing: Question
    others: bytes

    def parameters_of(self, keys: Sequence[Key]) -> dict[str, Any]:
        """Return the parameters that have the statement read the rows of some keys."""
        return parameters_of(self.mapper, keys, self.call.parameters)

    def rows_of(self, keys: Sequence[Key]) -> list[Row] | None:
        """Return what tells each row's question from the others; None where a key cannot be asked about."""
        known = self._known()
        found = []
        for key in keys:
            row = known.get(key)
            if row is None:
                question = self.questions.about(
                    self.form, self.parameters_of([key]), self._request_of(key), self.call.variation
                )
                if isinstance(question, Bypass):
                    return None
                row = known[key] = Row(question.key, question.tags, question.name)
            found.append(row)
        return found

    def question_of(self, row: Row) -> Question:
        """Return the whole question of a row."""
        plan, compilation = self.form.plan, self.form.compilation
        ttl_s = None if self.request is None else self.request.ttl_s
        ttl_s = plan.ttl_s if ttl_s is None else min(plan.ttl_s, ttl_s)
        return Question(row.key, row.tags, row.name, plan.store, ttl_s, plan, compilation, {})

    def keys_of(self, description: Description, rows: Sequence[RawRow]) -> list[Key] | None:
        """Return the primary key that SQLAlchemy reads in each row as the driver gave it; None where it cannot tell."""
        places = self._places(description)
        if places is None:
            return None
        return [tuple(raw[at] if process is None else process(raw[at]) for at, process in places) for raw in rows]

    def by_key(self, description: Description, rows: Sequence[RawRow]) -> dict[Key, list[RawRow]] | None:
        """Sort rows by their primary key, in the order in which that comes first; None where it cannot be told."""
        keys = self.keys_of(description, rows)
        if keys is None:
            return None
        found: dict[Key, list[RawRow]] = {}
        for key, raw in zip(keys, rows, strict=True):
            found.setdefault(key, []).append(raw)
        return found

    @property
    def is_joined(self) -> bool:
        """Whether one row of the class may come as several, joined with others."""
        return _is_joined(self.form, self.mapper)

    def undescribed(self) -> list[tuple[str, None]]:
        """Return how columns are described of which the driver has said nothing."""
        return [(name, None) for name, _ in _sqlalchemy.result_types_of(self.form.compilation.compiled)]

    def keys_alone(self, description: Description, rows: Sequence[RawRow]) -> list[RawRow]:
        """Return rows with nothing in them but the primary key."""
        kept = {at for at, _ in self._places(description) or ()}
        return [tuple(value if at in kept else None for at, value in enumerate(row)) for row in rows]

    def _places(self, description: Description) -> list[tuple[int, Any]] | None:
        cursor = _cursors.replay_cursor(
            self.form.compilation,
            self.statement,
            self.call.engine,
            self.call.options,
            [tuple(c) for c in description],
            (),
        )
        try:
            return _cursors.places_of(cursor, self.mapper.primary_key)
        except (NoSuchColumnError, KeyError):
            return None

    def _request_of(self, key: Key) -> CacheRequest | None:
        """Return what is asked of one row: its name, where rows have names."""
        if self.request is None or self.request.names is None:
            return None
        return CacheRequest(self.request.region, self.request.names.name_of(key))

    def _known(self) -> dict[Key, Row]:
        # What was found out about a row stays true for its statement: making key and tags costs more than looking them up.
        by_place = _KNOWN.setdefault(self.form.plan, {})
        place = (self.others, self.call.variation, None if self.request is None else self.request.names)
        known = by_place.setdefault(place, {})
        if sum(map(len, by_place.values())) > _MAX_KNOWN:
            by_place.clear()
        return known


def rowwise_of(questions: Questions, whole: Question, call: Call, request: CacheRequest | None) -> Rowwise | str:
    """Return how the keys and rows of a list are asked for, or say why they are not."""
    if whole.called:
        return "a function of the application's gives one of its values"
    verdict = _VERDICTS.get(whole.plan)
    if verdict is None and (verdict := why_not_by_keys(call.statement)) is not None:
        _VERDICTS[whole.plan] = verdict
    if verdict:
        return verdict
    mapper = mapper_of(call.statement)
    assert mapper is not None
    statement = rows_of(call.statement, mapper)
    given = parameters_of(mapper, [], call.parameters)
    form = _form_of(questions, statement, given, call, whole)
    if isinstance(form, Bypass):
        return f"its rows cannot be cached one by one: {form.reason}"
    if verdict is None:
        verdict = _VERDICTS[whole.plan] = _why_not_told_apart(whole, form, call, mapper)
    if verdict:
        return verdict
    listing = _listing_of(questions, whole, call)
    if isinstance(listing, Bypass):
        return f"its keys cannot be cached alone: {listing.reason}"
    if not form.plan.survey_stamps == listing.plan.survey_stamps == whole.plan.survey_stamps:
        return OTHER_CATALOG
    others = _other_values(form, given)
    return Rowwise(questions, call, request, mapper, statement, form, listing, others)


_KNOWN: weakref.WeakKeyDictionary[Plan, dict[Any, dict[Key, Row]]] = weakref.WeakKeyDictionary()
_VERDICTS: weakref.WeakKeyDictionary[Plan, str] = weakref.WeakKeyDictionary()
"""Why a statement is not kept by keys, "" where it is: found out once."""


def _form_of(
    questions: Questions, statement: Any, parameters: Mapping[str, Any], call: Call, whole: Question
) -> Form | Bypass:
    # As if asked for in the whole's region: a policy that lets lists be cached says the same of their parts.
    request = CacheRequest(whole.plan.region, None)
    return questions.form_of(statement, parameters, call.options, call.attachment, call.bind, call.engine, request)


def _listing_of(questions: Questions, whole: Question, call: Call) -> Question | Bypass:
    """Return the question of a list's keys: they depend on less than its rows.

    The statement for them is never run: it is there to be asked what it reads.
    """
    try:
        form = _form_of(questions, keys_of(call.statement), call.parameters or {}, call, whole)
    except SQLAlchemyError as error:
        return Bypass(type(error).__name__)
    question = form if isinstance(form, Bypass) else questions.about(form, call.parameters, None, call.variation)
    if isinstance(question, Bypass):
        return question
    if question.store != whole.store or not question.tables <= whole.tables:
        return Bypass("they are kept elsewhere")
    # What a user named goes by that name in all its parts.
    names = () if whole.name is None else (whole.name,)
    tags = TagSet((*question.tags.tags, *names), question.tags.guards)
    key = hashlib.blake2b(b"keys" + whole.key, digest_size=16).digest()
    return question._replace(key=key, tags=tags, name=whole.name, ttl_s=whole.ttl_s)


def _why_not_told_apart(whole: Question, form: Form, call: Call, mapper: Mapper[Any]) -> str:
    """Say why rows by key are not those that the list gives; "" where they are."""
    plan, rows = whole.plan, form.plan
    if rows.store != plan.store or not rows.tables <= plan.tables:
        return "its rows are kept elsewhere"
    if _columns_of(whole.compilation) != _columns_of(form.compilation):
        return "its columns are not those of its rows alone"
    name = call.bind.name_of(mapper.primary_key[0].table, _schema_map_of(call))
    if not rows.dependencies.narrows(naming.rows_tag(call.bind.id, name)):
        return "its rows are not told apart by their primary key"
    if _is_joined(form, mapper) and _sqlalchemy.reads_more_than_one_from(call.statement):
        return "it joins, and its rows are joined with others"
    return ""


def _is_joined(form: Form, mapper: Mapper[Any]) -> bool:
    reads = form.plan.shape.reads
    own = {table for one in mapper.self_and_descendants for table in one.tables}
    return reads is None or len(reads.elements) > len({element.table for element in reads.elements} & own)


def _schema_map_of(call: Call) -> Mapping[str | None, str | None] | None:
    found: Mapping[str | None, str | None] | None = call.options.get("schema_translate_map")
    return found


def _columns_of(compilation: _sqlalchemy.Compilation) -> list[tuple[str, str]]:
    """Return what a statement returns: names, but for numbers that count what else has none, and types."""
    columns = _sqlalchemy.result_types_of(compilation.compiled)
    return [(_ANONYMOUS.sub("anon", name), repr(kind)) for name, kind in columns]


def _other_values(form: Form, parameters: Mapping[str, Any]) -> bytes:
    """Return a digest of what an option or a user's listener put into the statement: it decides on rows as keys do."""
    values = form.plan.shape.processed(_sqlalchemy.parameters_of(form.compilation, parameters))
    others = [values[name] for name in sorted(values) if not name.startswith(KEYS)]
    return hashlib.blake2b(encode_values(others), digest_size=16).digest() if others else b""
