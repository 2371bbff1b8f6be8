"""Does a store keep the first promise under load? A database of one number, and threads that write and read it.

Never does: sleep, or count on how threads take turns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from querycache.stores.base import Store
from querycache.testing.sample import KEY, LONG_S, MINE, A, new_writer, tags_of


class Hammer:
    """A database of one number, its acknowledged value, and threads that write and read it through a store."""

    def __init__(self, store: Store, writers: int = 2, readers: int = 3, rounds: int = 60) -> None:
        self._store = store
        self._counts = (writers, readers, rounds)
        self._lock = threading.Lock()
        self._value = self._acknowledged = 0
        self._faults: list[str] = []
        self.hits = 0

    def run(self) -> None:
        """Raise AssertionError where a read returned less than had been acknowledged when it began."""
        writers, readers, rounds = self._counts
        work = [self._write] * writers + [self._read] * readers
        threads = [threading.Thread(target=self._repeat, args=(each, rounds)) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self._faults, self._faults[0]

    def _repeat(self, work: Callable[[], None], rounds: int) -> None:
        try:
            for _ in range(rounds):
                work()
        except Exception as error:  # a thread must hand its failure to the test, whatever it is
            self._faults.append(repr(error))

    def _write(self) -> None:
        writer = new_writer()
        marked = self._store.mark(tags_of(A, guards=(MINE,)), writer, LONG_S)
        with self._lock:
            self._value = value = self._value + 1
        self._store.release(marked, writer)
        with self._lock:
            self._acknowledged = max(self._acknowledged, value)

    def _read(self) -> None:
        with self._lock:
            expected = self._acknowledged
        seen = self._store.lookup(KEY, tags_of(A, guards=(MINE,)))
        if seen.payload is not None:
            self.hits += 1
            value = int(seen.payload)
        else:
            with self._lock:
                value = self._value
            if seen.storable:
                self._store.fill(KEY, b"%d" % value, seen.lease, LONG_S)
        if value < expected:
            self._faults.append(f"read {value} after {expected} was acknowledged")
