"""How does a test use a store from an event loop? As an ``AsyncSession`` does: on SQLAlchemy's bridge."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from querycache._sqlalchemy import run_on_bridge
from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.stores.base import Store, StoreStats

Did = TypeVar("Did")


class Loop:
    """An event loop that runs in a thread of its own. ``do``: call something on the bridge of a new task, and wait."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, act: Callable[..., Did], *arguments: Any) -> Did:
        return asyncio.run_coroutine_threadsafe(run_on_bridge(act, *arguments), self.loop).result()

    def end(self) -> None:
        """End it as ``asyncio.run`` does."""
        asyncio.run_coroutine_threadsafe(self.loop.shutdown_asyncgens(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


@contextmanager
def running_loop() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        loop.end()


class StoreOnLoop(Store):
    """A store of which each verb is called from an event loop."""

    def __init__(self, beneath: Store, loop: Loop) -> None:
        self.beneath = beneath
        self._loop = loop
        for name in ("scope", "guarantee", "keeps_marks", "commits_need_marks", "clock_margin_s", "sees_one_moment"):
            setattr(self, name, getattr(beneath, name))

    @property
    def url(self) -> str:
        return self.beneath.url

    def clock(self) -> Stamp:
        return self._loop.do(self.beneath.clock)

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        return self._loop.do(self.beneath.lookup, key, tags)

    def lookup_many(self, questions: Iterable[tuple[bytes | None, TagSet]]) -> list[Lookup]:
        return self._loop.do(self.beneath.lookup_many, list(questions))

    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        return self._loop.do(self.beneath.fill, key, payload, lease, ttl_s)

    def fill_many(self, entries: Iterable[tuple[bytes, bytes, Lease, float]]) -> int:
        return self._loop.do(self.beneath.fill_many, list(entries))

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        return self._loop.do(self.beneath.mark, tags, writer, ttl_s)

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        return self._loop.do(self.beneath.mark_and_look, tags, guard, writer, ttl_s)

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        return self._loop.do(self.beneath.release, tags, writer)

    def clear(self) -> None:
        return self._loop.do(self.beneath.clear)

    def stats(self) -> StoreStats:
        return self._loop.do(self.beneath.stats)

    def close(self) -> None:
        self._loop.do(self.beneath.close)


def in_loop(act: Callable[..., Did], *arguments: Any) -> Did:
    """Do something on the bridge of a loop that ends then."""

    async def main() -> Did:
        return await run_on_bridge(act, *arguments)

    return asyncio.run(main())
