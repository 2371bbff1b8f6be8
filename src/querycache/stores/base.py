"""What must every store be able to do? Four verbs, their many-key forms, ``clear`` and ``stats``.

A store keeps two kinds of things: *entries* (a payload under a key, with the lease it was filled under) and, for each tag,
a *stamp* and the *writers* that hold a mark on it. It never interprets a payload and never searches entries by tag.

Every store promises:

- An entry is served only while each stamp of its lease is the tag's current stamp and no tag of it is marked.
- Stamps are taken from a clock that never goes back and never repeats, over all processes that share the store and over
  all its lives: a store that was emptied, evicted from or recreated never gives a stamp that anybody held before.
- A tag whose stamp was lost (evicted, cleared) gets a new one at the next lookup: a needless miss, never a stale hit.
- A mark is never evicted before its deadline or its release.
- Tags are independent registers: no verb needs atomicity across tags.

Every store raises ``StoreUnavailable`` when it cannot do a verb, and nothing else. Who may ignore that is decided in one
place (``querycache.coherence``), never here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import StoreUnavailable

Scope = Literal["threads", "machine", "fleet"]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds and has done since this process opened it. Sizes in bytes; None where a store cannot tell."""

    entries: int | None
    size_bytes: int | None
    max_size_bytes: int | None
    evictions: int
    marks: int | None


class Store(ABC):
    """Entries and stamps by key. Safe to use from any thread; remade by itself after a fork."""

    scope: ClassVar[Scope]
    """How far coherence reaches: the threads of a process, the processes of a machine, the hosts of a fleet."""

    guarantee: ClassVar[str]
    """Whom coherence reaches and whom it does not, for a user; the promises themselves follow from the settings."""

    keeps_marks: ClassVar[bool] = True
    """Whether a mark stays until its release or its deadline, as the contract says: False where a backend may lose it."""

    commits_need_marks: ClassVar[bool] = True
    """Whether a commit should fail (by default) when its mark cannot be set: True for stores that have no network between."""

    clock_margin_s: ClassVar[float] = 1.0
    """How far, in seconds, a stamp may lie before what ``clock`` said before the stamp was made. 0 where all processes read
    one clock that never goes back, and a stamp is made under the lock under which it is kept: then a stamp made later is
    either above the last one that ``clock`` saw or not before the time that it read. Else the margin covers clocks that tie,
    step back, or differ between hosts by less."""

    sees_one_moment: ClassVar[bool] = False
    """Whether ``lookup_many`` looks at the stamps of all its questions at one moment; else at one after the other, in any
    order, and who needs them together asks once more."""

    lag_s: ClassVar[float] = 0.0
    """How far, in seconds, a look-up may lag behind what other processes committed; 0 where it does not. What this process
    committed is always seen."""

    @property
    def strict(self) -> Store:
        """This store, or where it may lag behind, one like it that does not."""
        return self

    @property
    def is_resting(self) -> bool:
        """Whether the store did not answer lately and is spared just now: whoever can do without need not ask."""
        return False

    @property
    @abstractmethod
    def url(self) -> str:
        """Where this store is, without secrets."""

    @abstractmethod
    def clock(self) -> Stamp:
        """Return the store's clock: not earlier than any stamp made before this call."""

    @abstractmethod
    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        """Look for an entry, and take a lease on its tags.

        A tag without a stamp gets one: of this moment, where it may have been lost. Tags that did not change may have one
        together; an entry is found by the very tags that it was filled for. A guard whose record carries another
        fingerprint is replaced by a fresh stamp with the caller's fingerprint, marked for the life of a mark: a process of
        another mind about the table's tag columns may have a commit under way. ``key=None`` asks for the lease only.
        """

    @abstractmethod
    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        """Store an entry with its lease, unchecked: outdated stamps make an entry that is never served.

        Return whether it was kept: a store may decline for want of room. ``ttl_s`` is at most ``MAX_TTL_S``. ``lease`` is one
        that ``lookup`` gave for the entry's tags, itself and not its stamps alone: it may say which tags these are.
        """

    @abstractmethod
    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        """Say that ``writer`` is about to commit a change to ``tags.tags``; every stamp of them is replaced.

        The mark ends at ``release`` or ``ttl_s`` seconds from now on the store's clock, for this writer alone. A guard
        whose record is absent or carries another fingerprint is marked like a tag. Marking again renews.
        Return everything that was marked, which is what must be released.
        """

    @abstractmethod
    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        """Say that the commit is over. Without a mark of another writer the tag ends with a stamp that nobody held before.

        Holds also where ``writer`` has no mark (expired, lost, never set): ``release`` alone is a *touch*.
        """

    @abstractmethod
    def clear(self) -> None:
        """Make every entry invalid, also one whose fill is under way. Marks stay."""

    @abstractmethod
    def stats(self) -> StoreStats:
        """Count what is held. May cost time in proportion to the number of entries."""

    @abstractmethod
    def close(self) -> None:
        """Give back what this process holds; entries stay for the others. Closing twice is harmless."""

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        """``mark``, and look at a guard that is not among those of ``tags``; return what was marked, and its stamp.

        The guard is left as it is. None for a stamp where it is absent, marked, or carries another fingerprint, or where the
        store cannot tell. Stores with a round trip to save override this.
        """
        marked = self.mark(tags, writer, ttl_s)
        try:
            found = self.lookup(None, TagSet((), (guard,)))
        except StoreUnavailable:
            return marked, None
        return marked, found.lease[0] if found.storable else None

    def lookup_many(self, questions: Iterable[tuple[bytes | None, TagSet]]) -> list[Lookup]:
        """``lookup`` each, answers in the order of the questions. Stores with a round trip to save override this."""
        return [self.lookup(key, tags) for key, tags in questions]

    def fill_many(self, entries: Iterable[tuple[bytes, bytes, Lease, float]]) -> int:
        """``fill`` each; return how many were kept."""
        return sum(self.fill(key, payload, lease, ttl_s) for key, payload, lease, ttl_s in entries)
