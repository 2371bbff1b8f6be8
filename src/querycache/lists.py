"""How are a list and single rows read through the entries of their rows?

First the list's primary keys, cached like any statement; then the rows of those keys (``collection``). What cannot be put
together, as something changed meanwhile or a transaction reads past the cache, is asked of the database whole, by one
statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Select
from sqlalchemy.engine import IteratorResult, Result
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import ORMExecuteState, Session, class_mapper

from querycache.collection import RowsByKey, SeenList, collect
from querycache.keyed import Key, key_attributes_of, parameters_of, rows_by_key
from querycache.options import CacheRequest, NoCache
from querycache.questions import Bypass
from querycache.reader import OwnWay, Reader
from querycache.readings import Reading

MAX_KEYS: Final = 10_000
"""Longer lists are read whole: databases limit the number of parameters of a statement."""


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
        self.seen.question = None
        return no_rows()


class RowsEachOnItsOwn(OwnWay):
    """Reads the rows of given primary keys, each under a question of its own, the missing ones in one query."""

    def __init__(self, wanted: RowsByKey) -> None:
        self.wanted = wanted
        super().__init__()

    def answer(self, reader: Reader, reading: Reading) -> Result[Any] | Bypass:
        return collect(reader, reading, self.wanted)

    def otherwise(self, orm: ORMExecuteState) -> Result[Any]:
        return orm.session.execute(self.wanted.whole())


def read_list(
    session: Session,
    model: type[Any],
    whole: Select[Any],
    *,
    request: CacheRequest,
    name_of: Callable[[Key], str],
    any_name: str,
) -> list[Any]:
    """Return the instances that ``whole``, a plain select of ``model``, finds; ``request`` is for its keys."""
    seen = SeenList()
    keys = whole.with_only_columns(*key_attributes_of(model))
    listed = [tuple(key) for key in session.execute(keys.options(KeysOfList(request, seen)))]
    if seen.question is None or not seen.storable or len(listed) > MAX_KEYS:
        return _instances(session.execute(whole.options(NoCache())))

    def past() -> Select[Any]:
        return whole.options(NoCache())

    return read_rows(session, RowsByKey(model, listed, request.region, name_of, any_name, past, seen))


def read_rows(session: Session, wanted: RowsByKey) -> list[Any]:
    """Return the instances of rows in the order of their keys."""
    if not wanted.keys:
        return []
    mapper = class_mapper(wanted.model)
    statement = rows_by_key(mapper).options(RowsEachOnItsOwn(wanted))
    return _instances(session.execute(statement, parameters_of(mapper, wanted.keys)))


def past_the_cache(model: type[Any], keys: Sequence[Key]) -> Select[Any]:
    """Return the statement that asks the database for the rows of some keys."""
    mapper = class_mapper(model)
    return rows_by_key(mapper).params(parameters_of(mapper, keys)).options(NoCache())


def no_rows() -> Result[Any]:
    """Return a result without rows."""
    return IteratorResult(SimpleResultMetaData([]), iter([]))


def _instances(result: Result[Any]) -> list[Any]:
    return list(result.unique().scalars())
