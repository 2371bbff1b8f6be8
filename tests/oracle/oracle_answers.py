"""Are two answers the same?

An answer is turned into plain values: each with its type, each object by its class and key, with what of it is loaded and
what is not. Two objects for one row are an answer that no Session gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from oracle_questions import Question
from oracle_schema import mapper_of
from sqlalchemy import Row, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

ERROR: Final = "error"
"""Begins an answer that is none."""


class Disagreement(AssertionError):
    """The cache answered otherwise than the database."""


def answer_to(question: Question, session: Session) -> Any:
    """Return what a Session says to a question, as plain values, after walking what the question walks.

    Where SQLAlchemy refuses or fails, so must the cache. Errors of the database are the caller's.
    """
    try:
        rows = question.ask(session)
        for name in question.walks:
            _walk(rows, name)
    except DBAPIError:
        raise
    except Exception as error:
        return (ERROR, type(error).__name__)
    return picture_of(rows, ordered=question.ordered)


def picture_of(rows: Sequence[Any], *, ordered: bool) -> Any:
    """Return rows as nested tuples that are equal where the answers are the same."""
    picture = _Picture()
    plain = [picture.of(row) for row in rows]
    objects = tuple(sorted(picture.pictures.items(), key=repr))
    return (tuple(plain) if ordered else tuple(sorted(plain, key=repr))), objects


def told(answer: Any, other: Any) -> str:
    """Return an answer, of its objects those that are not in the other."""
    if ERROR in (answer[0], other[0]):
        return str(answer)
    objects = [each for each in answer[1] if each not in other[1]]
    return f"{answer[0] if answer[0] != other[0] else '(the same rows)'} {objects or ''}"


def _walk(rows: Sequence[Any], name: str) -> None:
    for row in rows:
        for value in row if isinstance(row, Row) else (row,):
            if hasattr(type(value), "__mapper__"):
                getattr(value, name, None)


class _Picture:
    """Turns values into plain ones, objects into references to their pictures."""

    def __init__(self) -> None:
        self.objects: dict[Any, Any] = {}
        self.pictures: dict[str, Any] = {}

    def of(self, value: Any, *, ordered: bool = True) -> Any:
        if isinstance(value, Row):
            return ("row", tuple(value._fields), tuple(self.of(part) for part in value))
        if isinstance(value, list):
            parts = [self.of(part) for part in value]
            return ("list", tuple(parts if ordered else sorted(parts, key=repr)))
        if not hasattr(type(value), "__mapper__"):
            return (type(value).__name__, repr(value))
        return ("object", self._reference(value))

    def _reference(self, value: Any) -> str:
        state: Any = inspect(value)
        reference = f"{type(value).__name__} {state.identity!r}"
        known = self.objects.setdefault(state.key, value)
        if known is not value:
            raise Disagreement(f"two objects for one row: {state.key}")
        if reference not in self.pictures:
            self.pictures[reference] = ()
            relationships = mapper_of(type(value)).relationships
            loaded = [
                (name, self.of(found, ordered=name not in relationships or bool(relationships[name].order_by)))
                for name, found in sorted(state.dict.items())
                if name in state.mapper.attrs
            ]
            self.pictures[reference] = (
                tuple(sorted(state.unloaded)),
                tuple(sorted(state.expired_attributes)),
                tuple(loaded),
            )
        return reference
