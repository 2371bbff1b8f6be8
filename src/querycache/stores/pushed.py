"""How does a process answer reads of what it holds without asking anybody, and how old may the answer be?

``near=push``: the server tells which stamps changed (``_redis_feed``), and what is held is served while its stamps are vouched
for (``_vouched``). What others committed is seen within ``lag_s`` of its acknowledgement; what was committed through this
cache, at once: its own marks and releases end what they change here before they return.

Promises: everything that is not answered here is asked of the server, whose answer is that of ``near=validate``; ``strict``
never answers by itself. Never does: serve past ``lag_s``, or after a gap in the feed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from querycache._types import Guard, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import StoreUnavailable
from querycache.stores._copies import Copies
from querycache.stores._redis_asking import Question
from querycache.stores._redis_feed import Feed
from querycache.stores._vouched import Vouched
from querycache.stores.base import Store
from querycache.stores.near import NearStore
from querycache.stores.redis import RedisStore

__all__ = ["PushedStore"]


class PushedStore(NearStore):
    """A fleet's store with a near cache in front of it that is told what changed."""

    def __init__(self, beneath: RedisStore, copies: Copies, lag_s: float) -> None:
        super().__init__(beneath, copies)
        self.lag_s = lag_s  # type: ignore[misc]  # the URL decides, not the class
        self.sees_one_moment = False  # type: ignore[misc]  # what is here and what is there are not of one moment
        self._strict = NearStore(beneath, copies)
        self._vouched = Vouched(beneath.layout.stamp, lag_s)
        self._feed = Feed(beneath.place, beneath.layout, self._vouched)

    @property
    def strict(self) -> Store:
        return self._strict

    @property
    def guarantee(self) -> str:  # type: ignore[override]  # that of the store beneath, and its own
        """Whom coherence reaches, and how late."""
        return (
            f"{self.beneath.guarantee} The near cache answers without asking: what another process committed is seen "
            f"{self.lag_s:g} s after it was acknowledged at the latest, what was committed through this QueryCache at once. "
            "A transaction whose snapshot is taken asks the server."
        )

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        return self._here(key, tags) or self.lookup_many([(key, tags)])[0]

    def lookup_many(self, questions: Iterable[Question]) -> list[Lookup]:
        asked = list(questions)
        here = [self._here(*question) for question in asked]
        there = iter(self._ask([question for question, found in zip(asked, here, strict=True) if found is None]))
        return [found or next(there) for found in here]

    def _here(self, key: bytes | None, tags: TagSet) -> Lookup | None:
        if key is None or not self._vouched.is_fresh:
            return None
        copy = self.copies.get(key)
        if copy is None:
            return None
        _, payload, lease, expires, ends_at = copy.entry
        left_s = ends_at - self._vouched.clock()
        if left_s <= 0 or not self._vouched.covers(tags, lease):
            return None
        return Lookup(payload, lease, True, expires - int(left_s * 1e9), expires, copy)

    def _ask(self, questions: Sequence[Question]) -> list[Lookup]:
        if not questions:
            return []
        self._feed.wake()
        with self._vouched.asking() as asking:
            found = self.look(questions)
            answers = [one.lookup for one in found]
            seen = [(tags, answer) for (_, tags), answer in zip(questions, answers, strict=True)]
            if not self._vouched.learn(asking, seen, found[0].floor_us):
                # A server in a later life than the one that is listened to: a failover, or everything was cleared.
                self._vouched.interrupt()
        return answers

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        try:
            return super().mark(tags, writer, ttl_s)
        finally:
            self._forget(tags)

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        try:
            return super().mark_and_look(tags, guard, writer, ttl_s)
        finally:
            self._forget(tags)

    def _forget(self, tags: TagSet) -> None:
        self._vouched.forget([*tags.tags, *(tag for tag, _ in tags.guards)])

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        try:
            super().release(tags, writer)
        finally:
            self._vouched.forget(tags)

    def clear(self) -> None:
        try:
            super().clear()
        finally:
            self._vouched.forget_all()

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait until this process has heard all that happened before. For tests: reads never need it.

        Raises ``StoreUnavailable`` where that takes too long.
        """
        if not self._feed.settle(timeout_s):
            raise StoreUnavailable(f"{self.url}: the near cache heard nothing for {timeout_s:g} s")

    def close(self) -> None:
        """Close all connections and hold nothing any more."""
        self._feed.close()
        super().close()
