"""How does a benchmark get an engine with a cache on it, and how does it know that the cache was asked?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rounds import BenchError
from rows import Category, Product
from sqlalchemy import Engine, create_engine, event

from querycache import QueryCache


@dataclass(frozen=True, slots=True)
class Attached:
    """An engine, and the cache that it is attached to."""

    engine: Engine
    cache: QueryCache

    def count(self, kind: str) -> int:
        """Return how often something happened: "hit", "miss"."""
        return self.cache.events.counts().get(kind, 0)

    @contextmanager
    def expecting(self, kind: str, times: int, what: str) -> Iterator[None]:
        """Raise ``BenchError`` where something did not happen so often: misses in the name of hits tell nothing."""
        before = self.count(kind)
        yield
        got = self.count(kind) - before
        if got < times:
            reasons = {name: n for name, n in self.cache.events.reasons().items() if name.startswith("bypass")}
            raise BenchError(f"{what}: {kind} counted {got} times instead of {times}: nothing was measured. {reasons}")


@contextmanager
def attached(database_url: str, store_url: str, **options: Any) -> Iterator[Attached]:
    """Yield an engine of its own with a cache on it."""
    engine = engine_of(database_url)
    try:
        with QueryCache(store_url, models=[Category, Product], **options) as cache:
            cache.attach(engine)
            yield Attached(engine, cache)
    finally:
        engine.dispose()


def engine_of(url: str) -> Engine:
    """Make an engine; SQLite as applications with more than one process have it."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def set_journal_mode(raw: Any, record: Any) -> None:
            raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("PRAGMA synchronous=NORMAL")

    return engine
