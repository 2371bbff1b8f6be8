"""Whose turn is it to write, and how long does one wait for it?

LMDB's own lock for writers cannot be waited for with a limit: a process that is stopped while it holds it (SIGSTOP, a
debugger) would stop every commit of the machine. So who writes takes this lock first, and finds LMDB's free.

Promises: given back when its process dies, whatever its children inherited (a POSIX record lock belongs to a process);
nobody waits longer than they said, and no event loop stands still for it. Never does: decide what a wait in vain means.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from querycache import _bridge

if sys.platform != "win32":
    import fcntl

_FIRST_PAUSE_S: Final = 0.00002
_LONGEST_PAUSE_S: Final = 0.001

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long somebody waits for the turn, and whether also after a wait in vain, as long as nobody had it since."""

    wait_s: float
    always: bool = False


MARK: Final = Patience(2.0, always=True)
RELEASE: Final = Patience(2.0)
"""What is not released is owed, and every read of this process asks for it first: one wait is enough."""
BRIEF: Final = Patience(0.25)


class Taken(Exception):
    """The turn is another's, and whoever asked for it said not to wait."""


def lock_within(attempt: Callable[[], None], patience_s: float) -> bool:
    """Try until ``attempt``, a lock that does not wait, raises no ``OSError``; return False where time is up."""
    deadline, pause_s = time.monotonic() + patience_s, _FIRST_PAUSE_S
    while True:
        try:
            attempt()
            return True
        except (BlockingIOError, PermissionError):  # POSIX leaves it to the system which of the two says "taken"
            if time.monotonic() >= deadline:
                return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class WriteLock:
    """The turn to write in one directory, among the threads of this process and all other processes."""

    def __init__(self, file: Path, mode: int) -> None:
        self._threads = threading.Lock()
        self._in_vain = False
        self._descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)

    def on_loop(self, attempt: Callable[[], T], patience: Patience) -> T:
        """Attempt what raises ``Taken`` until the turn comes, on the bridge: the event loop goes on in between.

        Raises ``Taken`` where time is up.
        """
        deadline, pause_s = time.monotonic() + self._wait_s(patience), _FIRST_PAUSE_S
        while True:
            try:
                return attempt()
            except Taken:
                if time.monotonic() >= deadline:
                    self._in_vain = True
                    raise
            # With nothing held: who has the turn may be on the same thread.
            _bridge.wait_here(asyncio.sleep(pause_s))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def acquire_at_once(self) -> None:
        """Take the turn; raise ``Taken`` where it is another's."""
        if not self._threads.acquire(blocking=False):
            raise Taken
        try:
            self._lock_file()
        except (BlockingIOError, PermissionError) as error:
            self._threads.release()
            raise Taken from error
        except BaseException:
            self._threads.release()
            raise
        self._in_vain = False

    def _lock_file(self) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _wait_s(self, patience: Patience) -> float:
        return patience.wait_s if patience.always or not self._in_vain else 0.0

    def acquire(self, patience: Patience) -> bool:
        """Take the turn, or wait for it. Return whether it came."""
        try:
            self.acquire_at_once()
        except Taken:
            return self._wait(patience)
        return True

    def _wait(self, patience: Patience) -> bool:
        wait_s = self._wait_s(patience)
        began = time.monotonic()
        if not self._threads.acquire(timeout=wait_s):
            return False
        left_s = wait_s - (time.monotonic() - began)
        try:
            self._in_vain = not lock_within(self._lock_file, left_s)
        except BaseException:
            self._threads.release()
            raise
        if self._in_vain:
            self._threads.release()
        return not self._in_vain

    def release(self) -> None:
        """End the turn."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        finally:
            self._threads.release()

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)
