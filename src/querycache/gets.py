"""How is ``Session.get`` answered from the cache without a statement being built?

A get of a class that was answered once in the ordinary way is known: its compiled statement, the names under which it takes
the key, the recipe for its rows. From then on the key of the entry follows from the primary key alone. Under the same rules
as any read; where anything is unusual, it is not answered here, and the statement is built and asked about as always.
"""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session

from querycache import _loading, _sqlalchemy, entries
from querycache.engine import Attachment
from querycache.questions import Bypass, Plan, Question
from querycache.reader import Reader
from querycache.readings import freshness_in
from querycache.results import KnownGet

NOT_ANSWERED: Final = object()
_PLAIN_KEYS: Final = frozenset({int, str, UUID})
_HARMLESS_OPTIONS: Final = frozenset({"isolation_level"})


def key_of(known: KnownGet, ident: Any) -> tuple[Any, ...] | None:
    """Return a primary key as its parts; None where it is given in another way than by plain values."""
    parts = ident if type(ident) is tuple else (ident,)
    return parts if len(parts) == len(known.names) and _PLAIN_KEYS.issuperset(map(type, parts)) else None


def get(
    reader: Reader,
    session: Session,
    attachment: Attachment,
    target: Engine | Connection,
    known: KnownGet,
    key: tuple[Any, ...],
) -> Any:
    """Return the instance of a primary key, None where there is no such row, or ``NOT_ANSWERED``."""
    recipe = known.recipe
    if _loading.holds(session, recipe.mapper, key) or not session.is_active:
        return NOT_ANSWERED
    _sqlalchemy.autoflush(session)
    situation = reader.situation_of(session, attachment, target, getattr(session, "execution_options", {}))
    if isinstance(situation, Bypass) or (situation.options and not situation.options.keys() <= _HARMLESS_OPTIONS):
        return NOT_ANSWERED
    plan = known.plan_on(situation.bind)
    if isinstance(plan, Bypass) or situation.why_not_cached(plan.tables) is not None:
        return NOT_ANSWERED
    freshness = freshness_in(situation)
    question = _question_of(reader, plan, known, key, situation.variation)
    if isinstance(freshness, Bypass) or isinstance(question, Bypass):
        return NOT_ANSWERED
    strict = situation.must_be_strict(freshness)
    found = attachment.coherence.lookup(question.store, question.key, question.tags, strict=strict)
    if found is None or not question.is_answered_by(found):
        return NOT_ANSWERED
    if reader.refreshing.may_be_due(question, found):
        return (
            NOT_ANSWERED  # whether it is, is drawn in the ordinary way, which looks for itself: a hit is of its moment
        )
    entry = entries.take(situation, question, found, freshness)
    if entry is None:
        if found.payload is None:
            situation.notes.found = (question.key, found)
        return NOT_ANSWERED
    if not entry.rows:
        return None
    instances = recipe.load(session, entry.rows) if len(entry.rows) == 1 else None
    return NOT_ANSWERED if instances is None else instances[0]


def _question_of(
    reader: Reader, plan: Plan, known: KnownGet, key: tuple[Any, ...], variation: bytes
) -> Question | Bypass:
    """Make key and tags of one get, or say why not."""
    questions = reader.questions
    values = key if len(key) == 1 else [key[at] for at in known.order]
    remembered = questions.remembered(plan, values, known.compilation, variation)
    if remembered is not None:
        return remembered
    return questions.question_of(plan, dict(zip(known.names, key, strict=True)), None, known.compilation, variation)
