"""Who fills an entry when many threads miss it at once?

One thread a key; the others wait for it, a bounded time, and then look up again. They get nothing from the filler but that
wish: handing over its rows would hand over what may be older than the waiter's own lookup.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

MAX_WAIT_S: Final = 1.0


class Flights:
    """The keys that this process is filling now."""

    def __init__(self) -> None:
        self._reset()
        _ALL.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[bytes, tuple[int, threading.Event]] = {}

    def begin(self, key: bytes) -> bool:
        """Become the filler of a key; False after waiting for another: look up again, and do not wait twice."""
        with self._lock:
            other = self._under_way.get(key)
            if other is None:
                self._under_way[key] = (threading.get_ident(), threading.Event())
                return True
        owner, landed = other
        if owner != threading.get_ident():
            landed.wait(MAX_WAIT_S)
        return False

    def end(self, key: bytes) -> None:
        """Let those who wait look up again."""
        with self._lock:
            landed = self._under_way.pop(key, None)
        if landed is not None:
            landed[1].set()


_ALL: weakref.WeakSet[Flights] = weakref.WeakSet()


def _forget_in_child() -> None:
    for flights in list(_ALL):
        flights._reset()


os.register_at_fork(after_in_child=_forget_in_child)
