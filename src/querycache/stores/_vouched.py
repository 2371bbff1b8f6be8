"""Which stamps does a feed vouch for in this process, and until when?

A server tells over a feed which stamps changed. A stamp that an answer of the server showed is vouched for from then on, unless
a change of it was heard since the question was sent: then the answer may be older than what was heard. An entry whose lease is
vouched for may be served without asking, but only while the feed is known to be whole up to a moment that is not longer ago
than ``lag_s``.

Promises: nothing heard before an interruption, or asked across it, is vouched for after it; what this process says that it
changed is vouched for no more when ``forget`` returns. Never does: I/O, a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet

Name: TypeAlias = Tag | Guard

MOST_STAMPS: Final = 200_000
"""More than that are not vouched for: then all are asked for anew. Some 60 MB."""

_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boottime() -> float:
    """Return seconds that go on while the machine sleeps, where it can tell."""
    return time.clock_gettime(_CLOCK)


class Asking:
    """A question that is under way, and the stamps of which a change was heard meanwhile. ``is_void``: after a break."""

    __slots__ = ("is_void", "missed")

    def __init__(self) -> None:
        self.is_void = False
        self.missed: set[bytes] = set()


class Vouched:
    """The stamps of one process that are vouched for. ``stamp_key`` names a tag's stamp as the feed does."""

    def __init__(self, stamp_key: Callable[[Tag], bytes], lag_s: float) -> None:
        self.clock = boottime
        self.lag_s = lag_s
        self._stamp_key = stamp_key
        self.reset()

    def reset(self) -> None:
        """Begin anew, with a lock that nobody holds."""
        self._lock = threading.Lock()
        self._stamps: dict[Name, Stamp] = {}
        self._names: dict[bytes, set[Name]] = {}
        self._under_way: set[Asking] = set()
        self._floor_us: int | None = None
        self._as_of = float("-inf")
        self.session = 0

    @property
    def is_fresh(self) -> bool:
        """Whether the feed is known to be whole up to a moment that is not too long ago."""
        return self.clock() - self._as_of < self.lag_s

    def covers(self, tags: TagSet, lease: Lease) -> bool:
        """Tell whether every stamp of a lease is vouched for as the one that its tag has."""
        # Nothing is ever heard of an entry that depends on nothing.
        return bool(lease) and tuple(map(self._stamps.get, _names_in(tags))) == lease

    @contextmanager
    def asking(self) -> Iterator[Asking]:
        """Note that a question is under way: what is heard from here on counts more than its answer."""
        with self._lock:
            asking = Asking()
            self._under_way.add(asking)
        try:
            yield asking
        finally:
            with self._lock:
                self._under_way.discard(asking)

    def learn(self, asking: Asking, answers: Iterable[tuple[TagSet, Lookup]], floor_us: int) -> bool:
        """Vouch for the stamps that answers show; False where they are of a later life of the server than the feed."""
        with self._lock:
            if asking.is_void or self._floor_us is None:
                return True
            if floor_us != self._floor_us:
                return floor_us < self._floor_us
            for tags, found in answers:
                for name, stamp in zip(_names_in(tags), found.lease, strict=True):
                    self._learn(asking, name, stamp, may_vouch=found.storable)
            if len(self._stamps) > MOST_STAMPS:
                self._forget_all()
        return True

    def _learn(self, asking: Asking, name: Name, stamp: Stamp, *, may_vouch: bool) -> None:
        key = self._stamp_key(name if isinstance(name, bytes) else name[0])
        # Stamps only grow: of two answers the one that was given later counts, whichever came first.
        names = self._names.setdefault(key, set())
        for other in [other for other in names if self._stamps[other] < stamp]:
            names.discard(other)
            del self._stamps[other]
        if may_vouch and key not in asking.missed and all(self._stamps[other] == stamp for other in names):
            names.add(name)
            self._stamps[name] = stamp
        if not names:
            del self._names[key]

    def forget(self, tags: Iterable[Tag]) -> None:
        """Vouch no more for the stamps of tags, nor for what answers to questions under way say of them."""
        self.hear([self._stamp_key(tag) for tag in tags])

    def hear(self, keys: Iterable[bytes]) -> None:
        """Note that stamps changed."""
        with self._lock:
            for key in keys:
                for name in self._names.pop(key, ()):
                    self._stamps.pop(name, None)
                for asking in self._under_way:
                    asking.missed.add(key)

    def begin(self, floor_us: int) -> int:
        """Note that a feed began at a server in the life with this floor; return the number of its session."""
        with self._lock:
            self._interrupt()
            self._floor_us = floor_us
            return self.session

    def beat(self, session: int, as_of: float, floor_us: int) -> bool:
        """Note that all was heard that happened before a moment; False where the session is over.

        In another life of the server, or after a ``clear``, nothing counts that was learnt before.
        """
        with self._lock:
            if session != self.session:
                return False
            if floor_us != self._floor_us:
                self._forget_all()
                self._floor_us = floor_us
            self._as_of = as_of
            return True

    def interrupt(self) -> None:
        """Vouch for nothing any more, until a feed begins."""
        with self._lock:
            self._interrupt()

    def forget_all(self) -> None:
        """Vouch for nothing that was learnt until now."""
        with self._lock:
            self._forget_all()

    def _interrupt(self) -> None:
        self.session += 1
        self._floor_us = None
        self._as_of = float("-inf")
        self._forget_all()

    def _forget_all(self) -> None:
        self._stamps.clear()
        self._names.clear()
        for asking in self._under_way:
            asking.is_void = True


def _names_in(tags: TagSet) -> tuple[Name, ...]:
    return (*tags.tags, *tags.guards)
