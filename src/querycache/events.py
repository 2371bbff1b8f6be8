"""What happened? Counters that are always on, and events for whoever subscribes.

Promises: counting takes no lock longer than an addition, a defect is logged, once for each reason, a subscriber's error
is logged and never reaches a read or a commit, nothing here holds a value of a row or a parameter.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

logger = logging.getLogger("querycache")

Kind: TypeAlias = Literal[
    "hit", "miss", "fill", "bypass", "whole", "mark", "release", "touch", "moved", "store_error", "defect"
]
"""``whole``: a list that should be kept as keys and rows was kept as one entry."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    ``key`` is the entry's key in hex, where there is one. ``tags`` are names as ``QueryCache.explain`` prints them.
    ``reason`` says why a statement passed the cache by or was kept whole, or what failed.
    """

    kind: Kind
    key: str | None = None
    tags: tuple[str, ...] = ()
    reason: str | None = None


Subscriber: TypeAlias = Callable[[Event], None]


@dataclass(slots=True)
class Events:
    """The counters and subscribers of one ``QueryCache``."""

    _counts: Counter[str] = field(default_factory=Counter)
    _reasons: Counter[str] = field(default_factory=Counter)
    _subscribers: tuple[Subscriber, ...] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def emit(
        self, kind: Kind, *, key: bytes | None = None, tags: tuple[bytes, ...] = (), reason: str | None = None
    ) -> None:
        """Count, and tell the subscribers."""
        is_new = False
        with self._lock:
            self._counts[kind] += 1
            if reason is not None:
                self._reasons[named := f"{kind}: {reason}"] += 1
                is_new = self._reasons[named] == 1
        if kind == "defect" and is_new:
            logger.error("a defect of querycache, please report it: %s", reason)
        if self._subscribers:
            event = Event(kind, None if key is None else key.hex(), tuple(tag.decode() for tag in tags), reason)
            for subscriber in self._subscribers:
                _tell(subscriber, event)

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each ``Event``, in the thread where it happened; return a function that ends it."""
        with self._lock:
            self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = tuple(other for other in self._subscribers if other is not subscriber)

        return unsubscribe

    def counts(self) -> dict[str, int]:
        """Return how often each kind happened since the cache was made."""
        with self._lock:
            return dict(self._counts)

    def reasons(self) -> dict[str, int]:
        """Return how often each reason was given, as "kind: reason"."""
        with self._lock:
            return dict(self._reasons)

    def forget_lock(self) -> None:
        """Make the lock anew, in a forked child."""
        self._lock = threading.Lock()


def _tell(subscriber: Subscriber, event: Event) -> None:
    try:
        subscriber(event)
    except Exception:
        logger.exception("a subscriber to querycache events failed on %s", event.kind)
