"""Are two answers the same?

An answer is turned into plain values: each with its type, each object with its class, key, what of it is loaded, and by
the place of its first appearance its identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracle_questions import Question
from sqlalchemy import Row, inspect
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session
from sqlalchemy.orm.state import InstanceState


class Disagreement(AssertionError):
    """The cache answered otherwise than the database."""


def answer_to(question: Question, session: Session) -> Any:
    """Return what a Session says to a question, as plain values, after walking what the question walks."""
    try:
        rows = question.ask(session)
        for name in question.walks:
            _walk(rows, name)
    except InvalidRequestError as error:
        # Where SQLAlchemy refuses (subqueryload beside load_only needs a column that is not loaded), so must the cache.
        return ("error", type(error).__name__)
    return picture_of(rows, ordered=question.ordered)


def picture_of(rows: Sequence[Any], *, ordered: bool) -> Any:
    """Return rows as nested tuples that are equal where the answers are the same."""
    picture = _Picture()
    if ordered:
        return tuple(picture.of(row) for row in rows)
    plain = []
    for row in rows:
        # The place of an object's first appearance says nothing where rows come in any order: number within each row.
        picture.seen.clear()
        plain.append(picture.of(row))
    return tuple(sorted(plain, key=repr))


def _walk(rows: Sequence[Any], name: str) -> None:
    for row in rows:
        for value in row if isinstance(row, Row) else (row,):
            if hasattr(type(value), "__mapper__"):
                getattr(value, name, None)


class _Picture:
    """Turns values into plain ones; every object with one identity must be one object."""

    def __init__(self) -> None:
        self.seen: dict[int, int] = {}
        self.objects: dict[Any, Any] = {}

    def of(self, value: Any) -> Any:
        if isinstance(value, Row):
            return ("row", tuple(value._fields), tuple(self.of(part) for part in value))
        if isinstance(value, list):
            return ("list", tuple(self.of(part) for part in value))
        if not hasattr(type(value), "__mapper__"):
            return (type(value).__name__, value)
        if id(value) in self.seen:
            return ("again", self.seen[id(value)])
        self.seen[id(value)] = len(self.seen)
        return self._of_instance(value, inspect(value))

    def _of_instance(self, value: Any, state: InstanceState[Any]) -> Any:
        if self.objects.setdefault(state.key, value) is not value:
            raise Disagreement(f"two objects for one row: {state.key}")
        loaded = {name: found for name, found in state.dict.items() if name in state.mapper.attrs}
        return (
            type(value).__name__,
            state.identity,
            tuple(sorted(state.unloaded)),
            tuple(sorted(state.expired_attributes)),
            tuple((name, self.of(loaded[name])) for name in sorted(loaded)),
        )
