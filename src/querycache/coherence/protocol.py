"""When a store fails, who hears of it?

The one place with a failure policy. A read never does: it goes to the database. A commit does where its mark cannot be set
and ``on_mark_failure`` is "raise"; a release that fails is owed by the journal. Everything above asks stores through here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Literal

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet
from querycache.coherence.inquiry import Case
from querycache.coherence.journal import Catalog, Journal, Mark
from querycache.errors import StoreError
from querycache.events import Events, logger
from querycache.rows.envelope import Envelope
from querycache.stores.base import Store

OnMarkFailure = Literal["raise", "continue"]


class Coherence:
    """The protocol over every store that a ``QueryCache`` uses; a store is named by its position."""

    def __init__(
        self,
        stores: Sequence[Store],
        events: Events,
        *,
        on_mark_failure: OnMarkFailure | None = None,
        envelopes: Sequence[Envelope] | None = None,
    ) -> None:
        self.events = events
        self.envelopes = tuple(envelopes or (Envelope() for _ in stores))
        """What is put around the payloads of each store."""

        self.changed_at = -math.inf
        """When this process last told the stores, or tried to, of a change that is over; by its own monotonic clock."""

        self.journals = tuple(Journal(store, events) for store in stores)
        self._on_mark_failure = on_mark_failure

    def lookup(self, store: int, key: bytes | None, tags: TagSet, *, strict: bool = False) -> Lookup | None:
        """Ask a store; None where it cannot answer. ``strict``: where it may lag behind, by the way that does not."""
        journal = self.journals[store]
        if not self._may_ask(journal):
            return None
        try:
            return (journal.store.strict if strict else journal.store).lookup(key, tags)
        except StoreError as error:
            self.events.emit("store_error", reason=f"lookup: {error}")
            return None

    def lookup_many(
        self, store: int, questions: Sequence[tuple[bytes | None, TagSet]], *, strict: bool = False
    ) -> list[Lookup] | None:
        """Ask a store several things at once; None where it cannot answer."""
        journal = self.journals[store]
        if not self._may_ask(journal):
            return None
        try:
            return (journal.store.strict if strict else journal.store).lookup_many(questions)
        except StoreError as error:
            self.events.emit("store_error", reason=f"lookup: {error}")
            return None

    def _may_ask(self, journal: Journal) -> bool:
        """Tell whether a read may ask a store: not one that is spared, nor one that was not told what was committed here.

        A release over a network may take seconds: reads leave that to the keeper, and go to the database until it is done.
        """
        if journal.store.is_resting:
            self.events.emit("store_error", reason="lookup: the store did not answer lately and is spared")
            return False
        if not journal.owed:
            return True
        return journal.settle_soon() if journal.store.scope == "fleet" else journal.settle()

    def lag_s(self, store: int) -> float:
        """Return for how many seconds a store's answers may be outdated: 0, but for a near cache that is told of changes."""
        return self.journals[store].store.lag_s

    def sees_one_moment(self, store: int) -> bool:
        """Tell whether a store looks at several things at once as they are at one moment."""
        return self.journals[store].store.sees_one_moment

    def fill(self, store: int, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        """Store an entry; False where the store declined or cannot."""
        try:
            return self.journals[store].store.fill(key, payload, lease, ttl_s)
        except StoreError as error:
            self.events.emit("store_error", reason=f"fill: {error}")
            return False

    def fill_many(self, store: int, entries: Sequence[tuple[bytes, bytes, Lease, float]]) -> int:
        """Store several entries; return how many were kept."""
        try:
            return self.journals[store].store.fill_many(entries) if entries else 0
        except StoreError as error:
            self.events.emit("store_error", reason=f"fill: {error}")
            return 0

    def clocks(self) -> Mapping[int, Stamp]:
        """Return each store's clock, less the margin that it needs; a store that cannot tell is left out.

        Every stamp that the store makes from now on is that time or later.
        """
        clocks = {}
        for position, journal in enumerate(self.journals):
            try:
                clocks[position] = journal.store.clock() - int(journal.store.clock_margin_s * 1e9)
            except StoreError as error:
                self.events.emit("store_error", reason=f"clock: {error}")
        return clocks

    def stamps_of(self, guard: Guard) -> Mapping[int, Stamp]:
        """Return a guard's stamp in each store; one that cannot tell, or where it is marked, is left out."""
        stamps = {}
        for position, journal in enumerate(self.journals):
            try:
                found = journal.store.lookup(None, TagSet((), (guard,)))
            except StoreError as error:
                self.events.emit("store_error", reason=f"lookup: {error}")
                continue
            if found.storable:
                stamps[position] = found.lease[0]
        return stamps

    def mark(self, tags: TagSet, catalogs: Mapping[int, Catalog] | None = None) -> list[Mark]:
        """Mark in every store, before a commit; return the marks in the order of the stores.

        ``catalogs``: by store, what the changes are named by. Each store says with the mark whether it is still that; where it
        cannot be marked, that decides at the release.

        Raises ``StoreError`` where a store cannot and the policy is "raise"; what was marked until then is released.
        """
        marks: list[Mark] = []
        for position, journal in enumerate(self.journals):
            catalog = None if catalogs is None else catalogs.get(position)
            try:
                marks.append(journal.mark(tags, None if catalog is None else catalog.guard))
            except StoreError as error:
                self.events.emit("store_error", reason=f"mark: {error}")
                if self.must_mark(journal.store):
                    self.release(marks)
                    raise
                marks.append(journal.pretend(tags, catalog))
                logger.error("a commit goes on unmarked: %s. Others may read stale rows until its release lands", error)
            except BaseException:
                self.release(marks)
                raise
        self.events.emit("mark", tags=tags.tags)
        return marks

    def release(self, marks: Sequence[Mark]) -> None:
        """Release after a commit that ended one way or the other."""
        if not marks:
            return
        try:
            _release_each(marks)
        finally:
            self.changed_at = time.monotonic()
        self.events.emit("release", tags=marks[0].tags.tags)

    def doubt(self, marks: Sequence[Mark], case: Case | None = None) -> None:
        """Keep the marks of a commit whose outcome is unknown; ``case`` asks the database, where it can be asked."""
        for mark in marks:
            mark.journal.doubt(mark, case)

    def touch(self, tags: Sequence[Tag]) -> None:
        """Drop what depends on tags, now, in every store."""
        try:
            with ExitStack() as all_of_them:
                for journal in reversed(self.journals):
                    all_of_them.callback(journal.touch, tuple(tags))
        finally:
            self.changed_at = time.monotonic()  # of what was dropped
        self.events.emit("touch", tags=tuple(tags))

    def close(self) -> None:
        """Settle what is owed and close the stores."""
        for journal in self.journals:
            journal.close()
            journal.store.close()

    def must_mark(self, store: Store) -> bool:
        """Tell whether a commit that a store cannot be told of must fail."""
        if self._on_mark_failure is not None:
            return self._on_mark_failure == "raise"
        return store.commits_need_marks


def _release_each(marks: Sequence[Mark]) -> None:
    if len(marks) == 1:
        marks[0].journal.release(marks[0])
        return
    with ExitStack() as all_of_them:  # also where one of them is cancelled
        for mark in reversed(marks):
            all_of_them.callback(mark.journal.release, mark)
