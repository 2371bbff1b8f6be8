"""Who fills an entry when many miss it at once?

One thread or asyncio task a key; the others wait for it and then look up again. They get nothing from the filler but that
wish: handing over its rows would hand over what may be older than the waiter's own lookup.

Promises: a wait is for one key, and over after ``max_wait_s``, whatever became of the filler: who waited for nothing goes to
the database. A task waits without holding up its event loop. Never: a lock held while anybody waits, or reads.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, Final

from querycache import _sqlalchemy
from querycache.errors import ConfigurationError

MAX_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Flight:
    """One filler under way: its thread, its task where it has one, and what those wait for who come after it."""

    thread: int = field(default_factory=threading.get_ident)
    task: asyncio.Task[Any] | None = field(default_factory=_sqlalchemy.task_of_bridge)
    landed: Future[None] = field(default_factory=Future)


class Flights:
    """The keys that this process is filling now. ``max_wait_s``: how long somebody waits for a filler; 0: not at all."""

    def __init__(self, max_wait_s: float = MAX_WAIT_S) -> None:
        if not 0 <= max_wait_s <= threading.TIMEOUT_MAX:
            raise ConfigurationError(f"max_wait={max_wait_s!r}: give seconds, 0 or more; 0 never waits")
        self._max_wait_s = max_wait_s
        self._reset()
        _ALL.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[bytes, _Flight] = {}

    def begin(self, key: bytes) -> bool:
        """Become the filler of a key; False where there is one. Never waits."""
        flight = _Flight()
        with self._lock:
            return self._under_way.setdefault(key, flight) is flight

    def wait(self, key: bytes) -> None:
        """Wait for the filler of a key. Then look up again, and do not wait twice."""
        flight = self._under_way.get(key)
        if flight is None or self._max_wait_s == 0:
            return
        task = _sqlalchemy.task_of_bridge()
        if flight.thread == threading.get_ident() and (task is None or flight.task in (None, task)):
            return  # it is the caller itself, or cannot go on before the caller does
        if task is None:
            wait([flight.landed], self._max_wait_s)
        else:
            landed = asyncio.wrap_future(flight.landed)
            _sqlalchemy.await_on_bridge(asyncio.wait([landed], timeout=self._max_wait_s))

    def end(self, key: bytes) -> None:
        """Let those who wait look up again."""
        with self._lock:
            flight = self._under_way.pop(key, None)
        if flight is not None:
            flight.landed.set_result(None)


_ALL: weakref.WeakSet[Flights] = weakref.WeakSet()


def _forget_in_child() -> None:
    for flights in list(_ALL):
        flights._reset()


os.register_at_fork(after_in_child=_forget_in_child)
