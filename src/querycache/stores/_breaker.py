"""Is a store that failed to be asked again, or spared for a while?

Promises: after some failures in a row calls are refused at once; when the pause is over one call at a time is let through,
and the first that succeeds ends it. The longer it lasts the rarer the calls, up to a bound. Never does: I/O, a lock, a
thread of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0


class Breaker:
    """Counts what fails in a row. Safe to use from any thread: a race costs one call more or less."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._pause_s = FIRST_PAUSE_S
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        """Tell whether calls are refused just now."""
        return self._until > self._clock()

    def lets_through(self) -> bool:
        """Tell whether to make a call. While it is not known that the store is back: one in each pause."""
        if not self._until:
            return True
        now = self._clock()
        if self._until > now:
            return False
        self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
        self._until = now + self._pause_s
        return True

    def note_success(self) -> bool:
        """Close; tell whether it was open."""
        if not self._failures:
            return False
        was_open, self._failures, self._until, self._pause_s = bool(self._until), 0, 0.0, FIRST_PAUSE_S
        return was_open

    def note_failure(self) -> bool:
        """Count, and open after so many; tell whether it was closed until now."""
        self._failures += 1
        if self._failures < FAILURES or self._until:
            return False
        self._until = self._clock() + self._pause_s
        return True
