"""Which marks are set, and which releases are owed?

A commit is heard by other processes because its tags were marked before and are released after it. The journal keeps every
mark of this process from the one to the other:

- it renews a mark while its commit runs, at a third of the mark's life;
- a release counts when the store acknowledged it; until then it is owed and tried again: at the next call, by the
  keeper's thread, at exit;
- a mark whose commit has an unknown outcome is kept and renewed for ten minutes, then released twice, a mark's life apart.

A forked child owes nothing: it never releases for its parent.
"""

from __future__ import annotations

import atexit
import os
import secrets
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Final

from querycache._types import MARK_TTL_S, Tag, TagSet, Writer
from querycache.errors import StoreError
from querycache.events import Events, logger
from querycache.stores.base import Store

MAX_DOUBT_S: Final = 600.0
EXIT_TRIES: Final = 3


@dataclass(slots=True)
class Mark:
    """A mark that this process has set: ``marked`` is what must be released."""

    journal: Journal
    writer: Writer
    tags: TagSet
    marked: tuple[Tag, ...]
    set_at: float


@dataclass(frozen=True, slots=True)
class _Owed:
    tags: tuple[Tag, ...]
    writer: Writer
    due: float


class Journal:
    """The marks of one process in one store. Safe to use from any thread."""

    def __init__(self, store: Store, events: Events, *, mark_ttl_s: float = MARK_TTL_S) -> None:
        self.store = store
        self._events = events
        self._mark_ttl_s = mark_ttl_s
        self._reset()
        _JOURNALS.add(self)

    def _reset(self) -> None:
        self._held: dict[Writer, Mark] = {}
        self._doubted: dict[Writer, float] = {}
        self._owed: list[_Owed] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._keeper: threading.Thread | None = None
        self._closed = False

    def mark(self, tags: TagSet) -> Mark:
        """Set a mark under a new writer's name; raise ``StoreError`` when the store cannot."""
        writer = secrets.token_bytes(16)
        set_at = time.monotonic()
        try:
            marked = self.store.mark(tags, writer, self._mark_ttl_s)
        except StoreError:
            # It may have been set all the same, and the guards may be among what was marked.
            self._owe(tuple(tags.tags) + tuple(tag for tag, _ in tags.guards), writer)
            raise
        mark = Mark(self, writer, tags, marked, set_at)
        self._held[writer] = mark
        self._keep()
        return mark

    def pretend(self, tags: TagSet) -> Mark:
        """Return a mark that could not be set: its release is due after the commit all the same.

        Until then the keeper tries to set it, as it renews others.
        """
        marked = tuple(tags.tags) + tuple(tag for tag, _ in tags.guards)
        mark = Mark(self, secrets.token_bytes(16), tags, marked, time.monotonic())
        self._held[mark.writer] = mark
        self._keep()
        return mark

    def release(self, mark: Mark) -> None:
        """Release a mark. Never raises: what the store does not acknowledge is owed."""
        self._doubted.pop(mark.writer, None)
        if self._held.pop(mark.writer, None) is None:
            return  # released before, or set by the process that this one was forked from
        self._settle_one(mark.marked, mark.writer)

    def touch(self, tags: tuple[Tag, ...]) -> None:
        """Change the stamps of tags that nobody marked. Never raises."""
        self._settle_one(tags, secrets.token_bytes(16))

    def doubt(self, mark: Mark) -> None:
        """Keep a mark whose commit has an unknown outcome."""
        self._held[mark.writer] = mark
        self._doubted[mark.writer] = time.monotonic() + MAX_DOUBT_S
        logger.warning("the outcome of a commit is unknown: what it changed stays uncached for up to %d s", MAX_DOUBT_S)
        self._keep()

    def settle(self) -> bool:
        """Try what is owed again; tell whether nothing is due any more. Cheap when nothing is owed."""
        return not self._owed or self._settle_due(time.monotonic())

    @property
    def owed(self) -> int:
        """How many releases the store has not acknowledged yet."""
        return len(self._owed)

    @property
    def held(self) -> int:
        """How many marks are set."""
        return len(self._held)

    def close(self) -> None:
        """Try for the last time what is owed, and end the keeper's thread. Says in the log what stays unacknowledged."""
        self._closed = True
        self._wake.set()
        for mark in list(self._held.values()):
            if mark.writer in self._doubted:
                self._owe(mark.marked, mark.writer)
        for _ in range(EXIT_TRIES):
            self._settle_due(float("inf"))
            if not self._owed:
                return
        logger.error(
            "%d releases were never acknowledged by %s: what those commits changed may be served stale until it expires",
            len(self._owed),
            self.store.url,
        )

    def _settle_one(self, tags: tuple[Tag, ...], writer: Writer) -> None:
        if self._owed:
            self._settle_due(time.monotonic())
        try:
            self.store.release(tags, writer)
        except StoreError as error:
            self._events.emit("store_error", reason=f"release: {type(error).__name__}")
            self._owe(tags, writer)

    def _owe(self, tags: tuple[Tag, ...], writer: Writer, *, in_s: float = 0.0) -> None:
        with self._lock:
            self._owed.append(_Owed(tags, writer, time.monotonic() + in_s))
        self._keep()

    def _settle_due(self, now: float) -> bool:
        with self._lock:
            due = [owed for owed in self._owed if owed.due <= now]
            self._owed = [owed for owed in self._owed if owed.due > now]
        for position, owed in enumerate(due):
            try:
                self.store.release(owed.tags, owed.writer)
            except StoreError:
                with self._lock:
                    self._owed[:0] = due[position:]
                return False
        return True

    def _keep(self) -> None:
        if self._keeper is None and not self._closed:
            with self._lock:
                if self._keeper is None:
                    self._keeper = threading.Thread(
                        target=_keep, args=(weakref.ref(self), self._wake), name="querycache-journal", daemon=True
                    )
                    self._keeper.start()

    def tend(self) -> None:
        """Renew what is held, give up what was doubted too long, try what is owed: the keeper's round."""
        now = time.monotonic()
        for mark in list(self._held.values()):
            until = self._doubted.get(mark.writer)
            if until is not None and now >= until:
                self._owe(mark.marked, mark.writer, in_s=self._mark_ttl_s)
                self.release(mark)
            elif now - mark.set_at >= self._mark_ttl_s / 3:
                self._renew(mark, now)
        self._settle_due(now)

    def _renew(self, mark: Mark, now: float) -> None:
        try:
            marked = self.store.mark(mark.tags, mark.writer, self._mark_ttl_s)
        except StoreError as error:
            self._events.emit("store_error", reason=f"renew: {type(error).__name__}")
            return
        mark.set_at = now
        mark.marked = tuple(dict.fromkeys(mark.marked + marked))
        if mark.writer not in self._held:
            # Released while it was being renewed: the renewal must not outlive that.
            self._settle_one(mark.marked, mark.writer)

    @property
    def round_s(self) -> float:
        """Seconds between two rounds of the keeper."""
        return self._mark_ttl_s / 6


_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()


def _keep(reference: weakref.ref[Journal], wake: threading.Event) -> None:
    """Tend a journal until it is closed or forgotten."""
    while True:
        journal = reference()
        if journal is None or wake.is_set():
            return
        journal.tend()
        round_s = journal.round_s
        del journal
        if wake.wait(round_s):
            return


def _forget_in_child() -> None:
    for journal in list(_JOURNALS):
        journal._reset()
        journal._events.forget_lock()


def _close_at_exit() -> None:
    for journal in list(_JOURNALS):
        journal.close()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_close_at_exit)
