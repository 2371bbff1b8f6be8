"""How does a process spare itself what a fleet's store has already sent it?

``near=validate``: payloads, and what readers made of them, live in the process. Each read still asks the store, in the same
round trip and by the same script, which leaves the entry out where it is the very one that is held; it is judged by the same
stamps as one that was sent. So the store's answers are those that it would have given without: every promise of it holds.

Promises: one round trip; no payload travels twice while it is held. Never does: answer by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.stores._copies import Copies, Entry
from querycache.stores._redis_asking import Found, Question
from querycache.stores._redis_calls import end_in
from querycache.stores._vouched import boottime
from querycache.stores.base import Scope, Store, StoreStats
from querycache.stores.redis import RedisStore

__all__ = ["NearStore"]


class NearStore(Store):
    """A fleet's store with a near cache in front of it that asks each time."""

    scope: ClassVar[Scope] = RedisStore.scope
    commits_need_marks: ClassVar[bool] = RedisStore.commits_need_marks

    def __init__(self, beneath: RedisStore, copies: Copies) -> None:
        self.beneath = beneath
        self.copies = copies
        self.sees_one_moment = beneath.sees_one_moment  # type: ignore[misc]  # that of the store beneath

    @property
    def url(self) -> str:
        return self.beneath.url

    @property
    def is_resting(self) -> bool:
        return self.beneath.is_resting

    @property
    def guarantee(self) -> str:  # type: ignore[override]  # that of the store beneath
        """Whom coherence reaches: whoever the store beneath reaches."""
        return f"{self.beneath.guarantee} The near cache asks it at each read."

    @property
    def keeps_marks(self) -> bool:  # type: ignore[override]  # that of the store beneath
        """Whether a mark stays until its release."""
        return self.beneath.keeps_marks

    def clock(self) -> Stamp:
        return self.beneath.clock()

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        return self.look(((key, tags),))[0].lookup

    def lookup_many(self, questions: Iterable[Question]) -> list[Lookup]:
        return [one.lookup for one in self.look(list(questions))]

    def look(self, questions: Sequence[Question]) -> list[Found]:
        """Ask the store beneath, naming what is held; hold what it sends."""
        asked_at = boottime()
        held = {key: copy for key, _ in questions if key is not None and (copy := self.copies.get(key)) is not None}
        found = self.beneath.look(questions, held)
        for at, one in enumerate(found):
            if one.lookup.payload is not None and one.lookup.memo is None:
                found[at] = self._with_copy(questions[at][0], one, asked_at)
        return found

    def _with_copy(self, key: bytes | None, found: Found, asked_at: float) -> Found:
        payload, lease, storable, now, expires, _ = found.lookup
        assert key is not None
        assert payload is not None
        copy = self.copies.put(key, Entry(found.head, payload, lease, expires, asked_at + (expires - now) / 1e9))
        return found._replace(lookup=Lookup(payload, lease, storable, now, expires, copy))

    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        return self.fill_many([(key, payload, lease, ttl_s)]) == 1

    def fill_many(self, entries: Iterable[tuple[bytes, bytes, Lease, float]]) -> int:
        asked_at = boottime()
        kept = [(key, bytes(payload), tuple(lease), ttl_s) for key, payload, lease, ttl_s in entries]
        heads = self.beneath.keep(kept)
        for (key, payload, lease, ttl_s), head in zip(kept, heads, strict=True):
            self.copies.put(key, Entry(head, payload, lease, end_in(head), asked_at + ttl_s))
        return len(heads)

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        return self.beneath.mark(tags, writer, ttl_s)

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        return self.beneath.mark_and_look(tags, guard, writer, ttl_s)

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        self.beneath.release(tags, writer)

    def clear(self) -> None:
        self.beneath.clear()
        self.copies.clear()

    def stats(self) -> StoreStats:
        """Count what is held in this process, and the marks that the store beneath has."""
        copies = self.copies
        return StoreStats(
            len(copies), copies.size_bytes, copies.max_size_bytes, copies.evictions, self.beneath.stats().marks
        )

    def close(self) -> None:
        """Close the connections and hold nothing any more."""
        self.beneath.close()
        self.copies.clear()
