"""How are entries kept in the memory of one process?

Promises: bounded in bytes and in number, the least recently used entry goes first; no mark is ever evicted; a forked
child starts empty. Never does: I/O, threads of its own.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import ClassVar, Final, TypeAlias

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import ConfigurationError
from querycache.stores._registers import (
    GUARD_PREFIX,
    META_KEY,
    SLOT_BITS,
    Seen,
    Writing,
    is_marked,
    latest_stamp,
    peek,
    peek_all,
    seen_of,
    unchanged,
)
from querycache.stores.base import Scope, Store, StoreStats

DEFAULT_SIZE_BYTES: Final = 128 * 1024 * 1024
DEFAULT_ENTRIES: Final = 100_000
MAX_GUARDS: Final = 16_384
_CELL_COST: Final = 288
_ENTRY_COST: Final = 320

Peeked: TypeAlias = tuple[Lease, bool, Stamp]


class _Entry:
    """An entry, what its first reader made of its payload, and the registers of its tags as they were judged last."""

    __slots__ = ("_store", "cost", "expires", "key", "lease", "payload", "seen", "value")

    def __init__(self, store: MemoryStore, key: bytes, payload: bytes, lease: Lease, expires: Stamp, cost: int) -> None:
        self._store = store
        self.key = key
        self.payload = payload
        self.lease = lease
        self.expires = expires
        self.cost = cost
        self.seen: Seen | None = None
        self.value: object | None = None

    def keep(self, value: object, size_bytes: int) -> None:
        """Keep what a reader made of the payload, for the next one, as long as there is room for both."""
        self._store.charge(self, value, size_bytes)


class _Cells(dict[bytes, bytes]):
    """Registers in a dictionary, with the names that ``Writing`` knows."""

    def put(self, key: bytes, value: bytes, /) -> None:
        self[key] = value

    def delete(self, key: bytes, /) -> None:
        self.pop(key, None)


class MemoryStore(Store):
    """Entries in this process. ``max_size_bytes`` covers keys, payloads and stamps, with what Python adds estimated."""

    scope: ClassVar[Scope] = "threads"
    guarantee: ClassVar[str] = (
        "Other processes that write to the database are not heard: use lmdb:// where there is more than one."
    )

    clock_margin_s: ClassVar[float] = 0.0
    sees_one_moment: ClassVar[bool] = True

    def __init__(self, max_size_bytes: int = DEFAULT_SIZE_BYTES, max_entries: int = DEFAULT_ENTRIES) -> None:
        if max_size_bytes < 65_536 or max_entries < 1:
            raise ConfigurationError(
                f"A memory store of {max_size_bytes} bytes and {max_entries} entries cannot work: "
                "give it a size of at least 64KiB and at least 1 entry."
            )
        self.max_size_bytes = max_size_bytes
        self.max_entries = max_entries
        # Slots take a quarter of the size at most, so that stamps are bounded without ever being evicted.
        self._bits = min(SLOT_BITS, (max_size_bytes // 4 // _CELL_COST).bit_length() - 1)
        self._reset()
        _STORES.add(self)

    @property
    def url(self) -> str:
        return "memory://"

    def clock(self) -> Stamp:
        with self._lock:
            return max(latest_stamp(self._cells), self._ticks())

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        with self._lock:
            ticks = self._ticks()
            return self._answer_again(key, tags, ticks) or self._answer(
                key, tags, peek(self._cells, tags, ticks, self._bits), ticks
            )

    def lookup_many(self, questions: Iterable[tuple[bytes | None, TagSet]]) -> list[Lookup]:
        asked = list(questions)
        with self._lock:
            ticks = self._ticks()
            again = [self._answer_again(key, tags, ticks) for key, tags in asked]
            others = [tags for (_, tags), found in zip(asked, again, strict=True) if found is None]
            seen = iter(peek_all(self._cells, others, ticks, self._bits))
            return [
                found or self._answer(*question, next(seen), ticks)
                for question, found in zip(asked, again, strict=True)
            ]

    def _answer_again(self, key: bytes | None, tags: TagSet, ticks: Stamp) -> Lookup | None:
        """Answer with an entry of whose tags no register was written to since it was judged last; None where there is none."""
        entry = None if key is None else self._entries.get(key)
        if entry is None or entry.seen is None or entry.seen.tags != tags:
            return None
        last = unchanged(self._cells, entry.seen)
        if last is None or entry.expires <= (now := max(last, ticks)):
            return None
        self._entries.move_to_end(entry.key)
        return Lookup(entry.payload, entry.lease, True, now, entry.expires, entry)

    def _answer(self, key: bytes | None, tags: TagSet, seen: Peeked | None, ticks: Stamp) -> Lookup:
        if seen is None:
            seen = self._writing(ticks).lease(tags)
            self._tidy(ticks)
        lease, storable, now = seen
        entry = None if key is None else self._entry_of(key, lease, storable, now)
        if entry is None:
            return Lookup(None, lease, storable, now)
        entry.seen = seen_of(self._cells, tags, lease, self._bits)
        return Lookup(entry.payload, lease, storable, now, entry.expires, entry)

    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        cost = _ENTRY_COST + len(key) + len(payload) + 40 * len(lease)
        if cost > self.max_size_bytes // 2:
            return False
        with self._lock:
            now = max(latest_stamp(self._cells), self._ticks())
            self._drop(key)
            self._entries[key] = _Entry(self, key, bytes(payload), tuple(lease), now + int(ttl_s * 1e9), cost)
            self._size += cost
            self._evict()
            return True

    def charge(self, entry: _Entry, value: object, size_bytes: int) -> None:
        """Have a value stand beside an entry that is still held, if the two are not too large."""
        with self._lock:
            is_held = self._entries.get(entry.key) is entry
            if not is_held or entry.value is not None or entry.cost + size_bytes > self.max_size_bytes // 2:
                return
            entry.value = value
            entry.cost += size_bytes
            self._size += size_bytes
            self._evict()

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        with self._lock:
            ticks = self._ticks()
            marked = self._writing(ticks).mark(tags, writer, ttl_s)
            self._tidy(ticks)
            return marked

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        with self._lock:
            ticks = self._ticks()
            writing = self._writing(ticks)
            marked, stamp = writing.mark(tags, writer, ttl_s), writing.stamp_of(guard)
            self._tidy(ticks)
            return marked, stamp

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        with self._lock:
            self._writing(self._ticks()).release(tags, writer)

    def clear(self) -> None:
        with self._lock:
            self._writing(self._ticks()).raise_floor()
            self._entries.clear()
            self._size = 0

    def stats(self) -> StoreStats:
        with self._lock:
            now = max(latest_stamp(self._cells), self._ticks())
            marks = sum(is_marked(key, cell, now) for key, cell in self._cells.items() if key != META_KEY)
            size = self._size + _CELL_COST * len(self._cells)
            return StoreStats(len(self._entries), size, self.max_size_bytes, self._evictions, marks)

    def close(self) -> None:
        with self._lock:
            self._entries.clear()
            self._size = 0

    def _ticks(self) -> int:
        return time.monotonic_ns()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._cells = _Cells()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._size = 0
        self._evictions = 0

    def _writing(self, ticks: Stamp) -> Writing:
        return Writing(self._cells, ticks, self._bits)

    def _entry_of(self, key: bytes, lease: Lease, storable: bool, now: Stamp) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None or not storable:
            return None
        if entry.lease != lease or entry.expires <= now:
            self._drop(key)  # a stamp never comes back, so neither does what was filled under it
            return None
        self._entries.move_to_end(key)
        return entry

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= entry.cost

    def _evict(self) -> None:
        room = self.max_size_bytes - _CELL_COST * len(self._cells)
        while self._entries and (self._size > room or len(self._entries) > self.max_entries):
            _, entry = self._entries.popitem(last=False)
            self._size -= entry.cost
            self._evictions += 1

    def _tidy(self, ticks: Stamp) -> None:
        """Forget guards where binds come and go: slots are bounded by themselves, tables are not."""
        if len(self._cells) > (1 << self._bits) + MAX_GUARDS:
            guards = [key for key in self._cells if key.startswith(GUARD_PREFIX)]
            self._writing(ticks).forget_guards(guards)


_STORES: weakref.WeakSet[MemoryStore] = weakref.WeakSet()


def _empty_stores() -> None:
    for store in list(_STORES):
        store._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_stores)
