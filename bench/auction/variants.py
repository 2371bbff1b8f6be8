"""How does the auction site get what a page shows: from the database each time, or from a cache of one kind or another?

``no-cache``; ``ttl``: what a page shows is kept for 5 seconds in each worker; ``table-level``: this library, and each write
drops whatever depends on its tables; ``lmdb``: this library. Two are no way to run a site, and show what the application's own
work allows: ``bound`` has no database at all, pages are made of what was kept, for whatever they are asked; ``bound-reads``
makes pages so, but writes as ``no-cache`` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session

from auction.models import Bid, Category, Comment, Item, User
from auction.reads import READS
from auction.writes import CHANGES, WRITES
from querycache import QueryCache

TTL_S: Final = 5.0
MODELS: Final = (User, Category, Item, Bid, Comment)


class Site:
    """The data of the site, asked anew for each page. Counts what was asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.statements = 0
        self.reads = 0
        self.hits = 0
        event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, *told: Any) -> None:
        self.statements += 1

    def read(self, name: str, *args: Any) -> dict[str, Any]:
        """Return what a page shows."""
        self.reads += 1
        return self._ask(name, *args)

    def write(self, name: str, *args: Any) -> dict[str, int]:
        """Change something."""
        with Session(self.engine) as session:
            return WRITES[name](session, *args)

    def counted(self) -> tuple[int, int, int]:
        """Return how many statements were sent, how many reads asked for, how many of these were answered without."""
        return self.statements, self.reads, self.hits

    def _ask(self, name: str, *args: Any) -> dict[str, Any]:
        with Session(self.engine) as session:
            return READS[name](session, *args)


class KeptForSeconds(Site):
    """Keeps what a page shows for some seconds."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._kept: dict[Any, tuple[float, dict[str, Any]]] = {}

    def read(self, name: str, *args: Any) -> dict[str, Any]:
        self.reads += 1
        kept = self._kept.get((name, args))
        if kept is not None and kept[0] > time.monotonic():
            self.hits += 1
            return kept[1]
        found = self._ask(name, *args)
        self._kept[name, args] = time.monotonic() + TTL_S, found
        return found


class Cached(Site):
    """Has a cache in front of the database."""

    def __init__(self, engine: Engine, store: str) -> None:
        super().__init__(engine)
        self.cache = QueryCache(store, models=MODELS)
        self.cache.attach(engine)

    def counted(self) -> tuple[int, int, int]:
        counts = self.cache.events.counts()
        hits = counts.get("hit", 0)
        return self.statements, hits + counts.get("miss", 0) + counts.get("bypass", 0), hits


class CachedByTable(Cached):
    """Drops whatever depends on a table with each write to it."""

    def write(self, name: str, *args: Any) -> dict[str, int]:
        found = super().write(name, *args)
        self.cache.invalidate(*CHANGES[name])
        return found


class BoundOfReads(Site):
    """Serves pages that it kept, whatever was asked for."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._kept: dict[Any, dict[str, Any]] = {}

    def read(self, name: str, *args: Any) -> dict[str, Any]:
        self.reads += 1
        place = name, hash(args) % 32
        if place not in self._kept:
            self._kept[place] = self._ask(name, *args)
        return self._kept[place]


class Bound(BoundOfReads):
    """Writes nothing, either."""

    def write(self, name: str, *args: Any) -> dict[str, int]:
        return {}


VARIANTS: Final[dict[str, Callable[[Engine, str], Site]]] = {
    "no-cache": lambda engine, store: Site(engine),
    "ttl": lambda engine, store: KeptForSeconds(engine),
    "table-level": CachedByTable,
    "lmdb": Cached,
    "bound-reads": lambda engine, store: BoundOfReads(engine),
    "bound": lambda engine, store: Bound(engine),
}


def site_of(variant: str, database: str, store: str) -> Site:
    """Make the data of a site in one of its variants."""
    return VARIANTS[variant](create_engine(database, pool_size=4), store)
