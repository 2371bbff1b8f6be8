"""Which entries of a store does this process hold a copy of?

Bounded in bytes, the least recently used goes first; what readers make of a payload stands beside it and counts. A copy says
nothing about whether its entry is still valid: its ``head`` names one entry among all that were ever stored under its key, and
who holds the stamps decides. Never does: I/O; change a payload; take anything over a fork.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from querycache._types import Lease, Stamp

_COPY_COST: Final = 600


class Entry(NamedTuple):
    """An entry as the store has it. It ends at ``expires`` on the store's clock, at ``ends_at`` or later on this process's."""

    head: bytes
    payload: bytes
    lease: Lease
    expires: Stamp
    ends_at: float


class Copy:
    """An entry that is held, and what its first reader made of its payload.

    ``seen`` is the store's own: what it saw of the entry's tags when it judged it last.
    """

    __slots__ = ("_copies", "cost", "entry", "key", "seen", "value")

    def __init__(self, copies: Copies, key: bytes, entry: Entry) -> None:
        self._copies = copies
        self.key = key
        self.entry = entry
        self.value: object | None = None
        self.seen: Any = None
        self.cost = _COPY_COST + len(key) + len(entry.head) + len(entry.payload) + 40 * len(entry.lease)

    def keep(self, value: object, size_bytes: int) -> None:
        """Keep what a reader made of the payload, for the next one, as long as there is room for both."""
        self._copies.charge(self, value, size_bytes)


class Copies:
    """The copies of one process. Safe to use from any thread; empty after a fork."""

    def __init__(self, max_size_bytes: int) -> None:
        self.max_size_bytes = max_size_bytes
        self.reset()
        _ALL.add(self)

    def reset(self) -> None:
        """Begin anew, with a lock that nobody holds."""
        self._lock = threading.Lock()
        self._copies: OrderedDict[bytes, Copy] = OrderedDict()
        self.size_bytes = 0
        self.evictions = 0

    def __len__(self) -> int:
        return len(self._copies)

    def get(self, key: bytes) -> Copy | None:
        """Return the copy under a key, which was used last then."""
        with self._lock:
            copy = self._copies.get(key)
            if copy is not None:
                self._copies.move_to_end(key)
            return copy

    def get_each(self, keys: Iterable[bytes | None]) -> list[Copy | None]:
        """``get`` each; None for what has no key."""
        with self._lock:
            held = [None if key is None else self._copies.get(key) for key in keys]
            for copy in held:
                if copy is not None:
                    self._copies.move_to_end(copy.key)
            return held

    def put(self, key: bytes, entry: Entry) -> Copy | None:
        """Hold an entry in the place of the one before; None where it is too large."""
        copy = self.new(key, entry)
        with self._lock:
            self._drop(key)
            if copy.cost > self.max_size_bytes // 2:
                return None
            self._copies[key] = copy
            self.size_bytes += copy.cost
            self._evict()
        return copy

    def new(self, key: bytes, entry: Entry) -> Copy:
        """Make a copy that is not held."""
        return Copy(self, key, entry)

    def drop(self, key: bytes) -> None:
        """Hold the entry under a key no more."""
        with self._lock:
            self._drop(key)

    def charge(self, copy: Copy, value: object, size_bytes: int) -> None:
        """Have a value stand beside a copy that is still held, if the two are not too large."""
        with self._lock:
            is_held = self._copies.get(copy.key) is copy
            if not is_held or copy.value is not None or copy.cost + size_bytes > self.max_size_bytes // 2:
                return
            copy.value = value
            copy.cost += size_bytes
            self.size_bytes += size_bytes
            self._evict()

    def clear(self) -> None:
        """Hold nothing any more."""
        with self._lock:
            self._copies.clear()
            self.size_bytes = 0

    def _drop(self, key: bytes) -> None:
        copy = self._copies.pop(key, None)
        if copy is not None:
            self.size_bytes -= copy.cost

    def _evict(self) -> None:
        while self.size_bytes > self.max_size_bytes:
            _, copy = self._copies.popitem(last=False)
            self.size_bytes -= copy.cost
            self.evictions += 1


_ALL: weakref.WeakSet[Copies] = weakref.WeakSet()


def _empty_all() -> None:
    for copies in list(_ALL):
        copies.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_all)
