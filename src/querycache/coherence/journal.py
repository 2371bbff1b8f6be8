"""Which marks are set, and which releases are owed?

A commit is heard by other processes because its tags were marked before and are released after it. The journal keeps every
mark of this process from the one to the other:

- it renews a mark while its commit runs, at a third of the mark's life;
- a release counts when the store acknowledged it; until then it is owed and tried again: at the next call, by the
  keeper's thread, at exit;
- a mark whose commit has an unknown outcome is kept and renewed until the database says that the commit is over, or for ten
  minutes from the last sign of life; then it is released twice, a mark's life apart. At exit it is left to run out: the
  commit may land after us.

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

from querycache._types import MARK_TTL_S, Guard, Stamp, Tag, TagSet, Writer
from querycache.coherence.inquiry import Case
from querycache.errors import StoreError
from querycache.events import Events, logger
from querycache.statements.tags import bind_tag_of
from querycache.stores.base import Store

MAX_DOUBT_S: Final = 600.0
EXIT_TRIES: Final = 3
LAST_WAIT_S: Final = 5.0
"""How long ``close`` waits for another one who is at it: a task of the same thread cannot go on meanwhile."""

NUDGE_S: Final = 0.1
"""How often reads have the keeper try what is owed, at most."""

ROUNDS: Final = 6
"""How often the keeper comes round in the life of a mark."""

MAX_OWED_TAGS: Final = 10_000
"""Owed releases of more tags become one of everything in their databases."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the changes of a commit are named by: the guard of its database's schema, and the stamp that this had in a store.

    ``bind_tag``: what the commit changed where it has another one.
    """

    guard: Guard
    stamp: Stamp
    bind_tag: Tag


@dataclass(slots=True)
class Mark:
    """A mark that this process has set, or tries to (``is_set``): ``marked`` is what must be released.

    ``catalog``: what the store could not be asked about; it decides at the release, when the store answers again.
    ``schema_stamp``: that of the catalog's guard as the store said it with the mark; None where it is not known.
    """

    journal: Journal
    writer: Writer
    tags: TagSet
    marked: tuple[Tag, ...]
    set_at: float
    is_set: bool = True
    catalog: Catalog | None = None
    schema_stamp: Stamp | None = None


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Since when the outcome of a mark's commit is unknown, and what the database says of it; None: it cannot be asked."""

    since: float
    case: Case | None

    @property
    def is_over(self) -> bool:
        return self.case is not None and self.case.is_over

    @property
    def until(self) -> float:
        return max(self.since, self.case.busy_at if self.case is not None else self.since) + MAX_DOUBT_S


@dataclass(frozen=True, slots=True)
class _Owed:
    tags: tuple[Tag, ...]
    writer: Writer
    due: float
    catalog: Catalog | None = None


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
        self._doubted: dict[Writer, _Doubt] = {}
        self._owed: list[_Owed] = []
        self._lock = threading.Lock()
        self._settling = threading.Lock()
        self._nudged_at = float("-inf")
        self._wake = threading.Event()
        self._keeper: threading.Thread | None = None
        self._closed = False

    def mark(self, tags: TagSet, schema_guard: Guard | None = None) -> Mark:
        """Set a mark under a new writer's name, and have the store tell the stamp of ``schema_guard`` in the same step.

        Raises ``StoreError`` when the store cannot set it.
        """
        writer = secrets.token_bytes(16)
        set_at = time.monotonic()
        stamp = None
        try:
            if schema_guard is None:
                marked = self.store.mark(tags, writer, self._mark_ttl_s)
            else:
                marked, stamp = self.store.mark_and_look(tags, schema_guard, writer, self._mark_ttl_s)
        except BaseException:
            # It may have been set all the same, and the guards may be among what was marked.
            self._owe(tuple(tags.tags) + tuple(tag for tag, _ in tags.guards), writer)
            raise
        mark = Mark(self, writer, tags, marked, set_at, schema_stamp=stamp)
        self._held[writer] = mark
        self._keep()
        return mark

    def pretend(self, tags: TagSet, catalog: Catalog | None = None) -> Mark:
        """Return a mark that could not be set: its release is due after the commit all the same.

        Until then the keeper tries to set it, as it renews others. Its catalog counts as the one that is there.
        """
        marked = tuple(tags.tags) + tuple(tag for tag, _ in tags.guards)
        stamp = None if catalog is None else catalog.stamp
        mark = Mark(self, secrets.token_bytes(16), tags, marked, time.monotonic(), False, catalog, stamp)
        self._held[mark.writer] = mark
        self._keep()
        return mark

    def release(self, mark: Mark) -> None:
        """Release a mark. What the store does not acknowledge is owed: raises nothing but what ends the caller."""
        self._doubted.pop(mark.writer, None)
        if self._held.pop(mark.writer, None) is None:
            return  # released before, or set by the process that this one was forked from
        self._settle_one(mark.marked, mark.writer, mark.catalog)

    def touch(self, tags: tuple[Tag, ...]) -> None:
        """Change the stamps of tags that nobody marked. Raises as ``release`` does."""
        self._settle_one(tags, secrets.token_bytes(16))

    def doubt(self, mark: Mark, case: Case | None = None) -> None:
        """Keep a mark whose commit has an unknown outcome; ``case`` asks the database, where it can be asked."""
        self._doubted[mark.writer] = _Doubt(time.monotonic(), case)
        self._held[mark.writer] = mark
        if case is None:
            logger.warning("the outcome of a commit is unknown: what it changed stays uncached for %d s", MAX_DOUBT_S)
        else:
            logger.warning(
                "the outcome of a commit is unknown: what it changed stays uncached until the database tells that it is over"
            )
            case.look()
        self._keep()

    def settle(self) -> bool:
        """Try what is owed again; tell whether nothing is due any more. Cheap when nothing is owed."""
        return not self._owed or self._settle_due(time.monotonic())

    def settle_soon(self) -> bool:
        """Have the keeper try what is owed, without waiting for the store; tell whether nothing is due."""
        now = time.monotonic()
        if not any(owed.due <= now for owed in self._owed):
            return True
        if now >= self._nudged_at + NUDGE_S:
            self._nudged_at = now
            self._wake.set()
        return False

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
            if mark.writer in self._doubted and not mark.is_set:
                self._owe(mark.marked, mark.writer, mark.catalog)
        for _ in range(EXIT_TRIES):
            self._settle_due(float("inf"), wait=True)
            if not self._owed:
                return
        logger.error(
            "%d releases were never acknowledged by %s: what those commits changed may be served stale until it expires",
            len(self._owed),
            self.store.url,
        )

    def _settle_one(self, tags: tuple[Tag, ...], writer: Writer, catalog: Catalog | None = None) -> None:
        try:
            if self._owed:
                self._settle_due(time.monotonic())
            self._send_release(tags, writer, catalog)
        except StoreError as error:
            self._events.emit("store_error", reason=f"release: {type(error).__name__}")
            self._owe(tags, writer, catalog)
        except BaseException:
            # A task that is cancelled, say: whether it was released is not known.
            self._owe(tags, writer, catalog)
            raise

    def _send_release(self, tags: tuple[Tag, ...], writer: Writer, catalog: Catalog | None) -> None:
        """Release, the whole bind where the catalog may be another one than the changes were named by."""
        if catalog is not None:
            found = self.store.strict.lookup(None, TagSet((), (catalog.guard,)))
            if not found.storable or found.lease[0] != catalog.stamp:
                tags = (*tags, catalog.bind_tag)
        self.store.release(tags, writer)

    def _owe(self, tags: tuple[Tag, ...], writer: Writer, catalog: Catalog | None = None, *, in_s: float = 0.0) -> None:
        now = time.monotonic()
        with self._lock:
            self._owed.append(_Owed(tags, writer, now + in_s, catalog))
            if sum(len(owed.tags) for owed in self._owed) > MAX_OWED_TAGS:
                self._owed = _widened(self._owed, now)
        self._keep()

    def _settle_due(self, now: float, *, wait: bool = False) -> bool:
        """Release what is due, in its order; tell whether the store has acknowledged it all.

        One thread at a time, and what it is at stays owed until it is done: for the others nothing is settled yet.
        """
        if not self._settling.acquire(timeout=LAST_WAIT_S if wait else 0):
            return False
        try:
            with self._lock:
                due = [owed for owed in self._owed if owed.due <= now]
            for owed in due:
                try:
                    self._send_release(owed.tags, owed.writer, owed.catalog)
                except StoreError:
                    return False
                with self._lock:
                    self._owed = [other for other in self._owed if other is not owed]
            return True
        finally:
            self._settling.release()

    def _keep(self) -> None:
        if self._keeper is None and not self._closed:
            with self._lock:
                if self._keeper is None:
                    self._keeper = threading.Thread(
                        target=_keep, args=(weakref.ref(self), self._wake), name="querycache-journal", daemon=True
                    )
                    self._keeper.start()

    def tend(self) -> None:
        """Renew what is held, end doubts that can be ended, try what is owed: the keeper's round. Waits for no database."""
        now = time.monotonic()
        for mark in list(self._held.values()):
            doubt = self._doubted.get(mark.writer)
            if doubt is not None and self._end_doubt(mark, doubt, now):
                continue
            if now - mark.set_at >= self._mark_ttl_s / 3:
                self._renew(mark, now)
        self._settle_due(now)

    def _end_doubt(self, mark: Mark, doubt: _Doubt, now: float) -> bool:
        """Release a mark whose commit is over, or was doubted too long; tell whether so."""
        if not doubt.is_over and now < doubt.until:
            if doubt.case is not None:
                doubt.case.look()
            return False
        if not doubt.is_over:
            self._owe(mark.marked, mark.writer, mark.catalog, in_s=self._mark_ttl_s)
        self.release(mark)
        return True

    def _renew(self, mark: Mark, now: float) -> None:
        try:
            marked = self.store.mark(mark.tags, mark.writer, self._mark_ttl_s)
        except StoreError as error:
            self._events.emit("store_error", reason=f"renew: {type(error).__name__}")
            return
        mark.set_at, mark.is_set = now, True
        mark.marked = tuple(dict.fromkeys(mark.marked + marked))
        if mark.writer not in self._held:
            # Released while it was being renewed: the renewal must not outlive that.
            self._settle_one(mark.marked, mark.writer, mark.catalog)

    @property
    def round_s(self) -> float:
        """Seconds between two rounds of the keeper."""
        return self._mark_ttl_s / ROUNDS


def _widened(owed: list[_Owed], now: float) -> list[_Owed]:
    """Owe whole databases instead of their tags. The marks that nobody releases by name then run out by themselves."""
    wide = [_Owed(tuple(dict.fromkeys(map(bind_tag_of, one.tags))), one.writer, one.due) for one in owed]
    due = tuple(dict.fromkeys(tag for one in wide if one.due <= now for tag in one.tags))
    return [_Owed(due, secrets.token_bytes(16), now), *(one for one in wide if one.due > now)]


_JOURNALS: weakref.WeakSet[Journal] = weakref.WeakSet()


def _keep(reference: weakref.ref[Journal], wake: threading.Event) -> None:
    """Tend a journal until it is closed or forgotten."""
    while True:
        journal = reference()
        if journal is None or journal._closed:
            return
        journal.tend()
        round_s = journal.round_s
        del journal
        wake.wait(round_s)
        wake.clear()


def _forget_in_child() -> None:
    for journal in list(_JOURNALS):
        journal._reset()
        journal._events.forget_lock()


def _close_at_exit() -> None:
    for journal in list(_JOURNALS):
        journal.close()


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_close_at_exit)
