"""Which rows may be served a moment longer than they are valid, while one read asks the database?

Those of statements and models that say for how long (``grace``), of nobody else. Kept in this process is what a statement last
gave, and the moment before it was asked: no store is asked for what is outdated, or has to keep it.

Promises: what is given out was valid at most so many seconds ago; after the last commit, rollback or invalidation of this
process's own, so that none of its readers un-sees what it wrote; and not before what any of its readers has got from the same
statement meanwhile, whichever way. Bounded in bytes: what was read least recently goes first. Never: a wait.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from querycache._types import Stamp

Key: TypeAlias = tuple[bytes, Stamp | None]
"""The key of an entry, and the stamp of the catalog by which it was made."""

MAX_SIZE_BYTES: Final = 32 * 1024 * 1024
_COST: Final = 400


@dataclass(frozen=True, slots=True)
class _Kept:
    """What was valid at some moment from ``after`` to ``known``; ``payload``: None where it is not known what was."""

    payload: bytes | None
    after: float
    known: float
    cost: int


class Graces:
    """What this process may serve for a moment longer, by key."""

    def __init__(self, max_size_bytes: int = MAX_SIZE_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_size_bytes = max_size_bytes
        self.clock = clock
        self._reset()
        _ALL.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._size = 0

    def keep(self, key: Key, payload: bytes | None, after: float) -> None:
        """Note what was read under a key, and when it was asked for at the latest; None where the rows are not at hand.

        What was asked for while another answer was on its way may be older than that, or younger: then only what both say
        is kept.
        """
        with self._lock:
            known = self.clock()
            old = self._kept.pop(key, None)
            if old is not None:
                self._size -= old.cost
                if after <= old.known:
                    payload, after = (payload if payload == old.payload else None), max(after, old.after)
            cost = _COST + len(payload or b"")
            self._kept[key] = _Kept(payload, after, known, cost)
            self._size += cost
            while self._size > self._max_size_bytes:
                self._size -= self._kept.popitem(last=False)[1].cost

    def of(self, key: Key, grace_s: float, changed_at: float) -> bytes | None:
        """Return what may still be served, None where there is nothing. ``changed_at``: when this process last wrote."""
        kept = self._kept.get(key)
        if kept is None or kept.after <= changed_at or self.clock() - kept.after > grace_s:
            return None
        return kept.payload

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._size = 0


_ALL: weakref.WeakSet[Graces] = weakref.WeakSet()


def _forget_in_child() -> None:
    for graces in list(_ALL):
        graces._reset()


os.register_at_fork(after_in_child=_forget_in_child)
