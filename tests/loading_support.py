"""One database read with a cache and without, and what recipes make of the rows meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from equality_support import observed
from querycache import QueryCache, _loading, posts


def nothing(session: Session) -> None:
    """Leave a session as it is."""


@dataclass
class Library:
    """``made`` counts what recipes make of rows in sessions; -1: nothing, so that the ordinary loader did."""

    plain: Engine
    cached: Engine
    cache: QueryCache
    made: list[int] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def check(
        self, take: Callable[[Session], Any], *, before: Callable[[Session], Any] = nothing, times: int = 4
    ) -> None:
        """Compare what ``take`` gives in a session in which ``before`` was done, cached and not; the last time by a hit."""
        expected = self._seen(self.plain, before, take)
        for _ in range(times):
            self.made.clear()
            assert self._seen(self.cached, before, take) == expected

    def _seen(self, engine: Engine, before: Callable[[Session], Any], take: Callable[[Session], Any]) -> Any:
        with Session(engine) as session:
            kept = before(session)
            self.sent.clear()
            seen = observed(session, take)
            del kept
            session.rollback()
        return seen


@contextmanager
def library_of(
    url: str, base: Any, models: Sequence[type[Any]], rows: Callable[[Session], None], patch: pytest.MonkeyPatch
) -> Iterator[Library]:
    """Make the tables of a base, fill them, and read them from then on with a cache and without."""
    plain, cached = create_engine(url), create_engine(url)
    base.metadata.create_all(plain)
    with Session(plain) as session:
        rows(session)
        session.commit()
    cache = QueryCache("memory://", models=models)
    cache.attach(cached)
    library = Library(plain, cached, cache)
    event.listen(cached, "before_cursor_execute", lambda *arguments: library.sent.append(arguments[2]))
    for module, name in ((_loading.Recipe, "load"), (posts, "load")):
        _count(patch, module, name, library)
    yield library
    cache.close()
    plain.dispose()
    cached.dispose()


def _count(patch: pytest.MonkeyPatch, owner: Any, name: str, library: Library) -> None:
    original = getattr(owner, name)

    def counted(*arguments: Any) -> Any:
        made = original(*arguments)
        if not any(isinstance(argument, Session) and argument.bind is None for argument in arguments):
            library.made.append(-1 if made is None else len(made))
        return made

    patch.setattr(owner, name, counted)
