"""How does the protocol's model use a real store?

``Verbs`` drives any store through its public verbs; ``SteppedMemory`` is the library's ``MemoryStore`` as it is, copied
between two steps, so that a search can try everything that may come next. ``InStep`` walks such a store beside the model's:
the world goes by the real answers, and an answer that the model would not have given is an error.

Never does: wait. The clock stands still until a tick moves it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Protocol, Self

from model_store import Lease, ModelStore, Rows, Seen, StepStore, StoreRules, Tags

from querycache._types import Tag, TagSet, Writer
from querycache.coherence.journal import Journal, Mark
from querycache.errors import StoreUnavailable
from querycache.stores._records import TagLease
from querycache.stores._registers import slot_key
from querycache.stores.base import Store
from querycache.stores.lmdb import LMDBStore
from querycache.stores.memory import MemoryStore

MARK_LIFE: Final = 2
"""Ticks that a mark lives: one that is set later is still there when an earlier one has come to its end."""

MARK_TTL_S: Final = 30.0
TICK_NS: Final = int(MARK_TTL_S * 1e9) // MARK_LIFE + 1_000_000
START_NS: Final = 10**12
ENTRY_TTL_S: Final = 3600.0
WRITERS: Final = tuple(bytes([number]) * 16 for number in range(1, 4))
SMALLEST_BYTES: Final = 65_536
"""The size of a memory store with so few slots that tags which share one are soon found."""


class Ticking(Protocol):
    """What moves a store's clock."""

    def tick(self) -> None: ...


class Verbs:
    """The verbs of a store, by number. ``names`` are those of the tags, ``run`` goes into those of the entries."""

    def __init__(self, store: Store, clock: Ticking, names: Sequence[bytes], run: bytes = b"") -> None:
        self.store = store
        self.clock = clock
        self.names = names
        self.run = run

    def lookup(self, statement: int, tags: Tags) -> Seen:
        found = self.store.lookup(self._key(statement), self._tag_set(tags))
        rows = None if found.payload is None else tuple(found.payload)
        return Seen(rows, found.lease, found.storable)

    def fill(self, statement: int, rows: Rows, lease: Lease) -> None:
        self.store.fill(self._key(statement), bytes(rows), lease, ENTRY_TTL_S)

    def mark(self, tags: Tags, writer: int) -> None:
        self.store.mark(self._tag_set(tags), WRITERS[writer], MARK_TTL_S)

    def release(self, tags: Tags, writer: int) -> None:
        self.store.release(self._tag_set(tags).tags, WRITERS[writer])

    def lose_release(self, tags: Tags, writer: int) -> None:
        pass

    def land_late(self, tags: Tags, writer: int) -> None:
        self.release(tags, writer)

    def clear(self) -> None:
        self.store.clear()

    def tick(self) -> None:
        self.clock.tick()

    def _key(self, statement: int) -> bytes:
        return b"%b/%d" % (self.run, statement)

    def _tag_set(self, tags: Tags) -> TagSet:
        return TagSet(tuple(self.names[tag] for tag in tags))


class NamingVerbs(Verbs):
    """The verbs of a store whose leases say which tags they are on: a world keeps their stamps alone."""

    def __init__(self, store: Store, clock: Ticking, names: Sequence[bytes], run: bytes = b"") -> None:
        super().__init__(store, clock, names, run)
        self._asked: dict[int, TagSet] = {}

    def lookup(self, statement: int, tags: Tags) -> Seen:
        self._asked[statement] = self._tag_set(tags)
        return super().lookup(statement, tags)

    def fill(self, statement: int, rows: Rows, lease: Lease) -> None:
        super().fill(statement, rows, TagLease.on(self._asked[statement], lease))


class TickingMemory(MemoryStore):
    """A memory store whose clock goes by ``tick`` alone."""

    def __init__(self, max_size_bytes: int = SMALLEST_BYTES) -> None:
        self._at = START_NS
        super().__init__(max_size_bytes)

    def _ticks(self) -> int:
        return self._at

    def tick(self) -> None:
        """Move the clock on by a part of a mark's life."""
        self._at += TICK_NS

    def copied(self) -> Self:
        """Return a store with the same registers and entries."""
        twin = type(self)(self.max_size_bytes)
        twin._at = self._at
        twin._cells.update(self._cells)
        twin._entries.update(self._entries)
        twin._size = self._size
        return twin

    def content(self) -> Hashable:
        """Return everything that is kept, byte by byte."""
        entries = tuple((key, entry.payload, entry.lease) for key, entry in sorted(self._entries.items()))
        return tuple(sorted(self._cells.items())), entries, self._at

    def lose_register(self, tag: bytes) -> None:
        """Forget a tag's slot, as a store that evicts them would."""
        self._cells.delete(slot_key(tag, self._bits))

    def lose_entry(self, key: bytes) -> None:
        """Evict one entry."""
        self._drop(key)


class TickingLMDB(LMDBStore):
    """An LMDB store whose clock goes by ``tick`` alone."""

    at_ns = START_NS

    def _ticks(self) -> int:
        return self.at_ns

    def tick(self) -> None:
        """Move the clock on by a part of a mark's life."""
        self.at_ns += TICK_NS


class Unanswering(TickingMemory):
    """A memory store that does not hear releases while it is told not to."""

    is_deaf = False

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        if self.is_deaf:
            raise StoreUnavailable("the release did not arrive")
        super().release(tags, writer)


class Journaled(Verbs):
    """The verbs as ``Journal`` calls them, ``journals`` has that of each writer's process."""

    store: Unanswering

    def __init__(self, store: Unanswering, names: Sequence[bytes], journals: Sequence[Journal]) -> None:
        super().__init__(store, store, names)
        self._journals = journals
        self._marks: dict[int, Mark] = {}
        self._unheard: set[int] = set()

    def mark(self, tags: Tags, writer: int) -> None:
        if writer in self._marks:
            # Marked again: its journal's round renews it.
            self._marks[writer].set_at -= MARK_TTL_S
            self._journals[writer].tend()
        else:
            self._marks[writer] = self._journals[writer].mark(self._tag_set(tags))

    def release(self, tags: Tags, writer: int) -> None:
        if writer in self._unheard:
            assert self._journals[writer].settle(), "the journal has not made good what it owes"
        else:
            self._journals[writer].release(self._marks[writer])

    def lose_release(self, tags: Tags, writer: int) -> None:
        self.store.is_deaf = True
        self._journals[writer].release(self._marks[writer])
        self.store.is_deaf = False
        self._unheard.add(writer)

    def land_late(self, tags: Tags, writer: int) -> None:
        self.store.release(self._marks[writer].marked, self._marks[writer].writer)


class SteppedMemory(Verbs):
    """A memory store for a world of the model to step through.

    What a state is, is asked of a copy through the verbs: who holds which tag and for how long, and what is served once the
    marks have come to their end.
    """

    store: TickingMemory

    def __init__(self, names: Sequence[bytes], writers: int, store: TickingMemory | None = None) -> None:
        store = store or TickingMemory()
        super().__init__(store, store, names)
        self._writers = writers

    def copy(self) -> Self:
        return type(self)(self.names, self._writers, self.store.copied())

    def shape(self, statements: Sequence[Tags]) -> Hashable:
        now = self.copy()
        served = now._served(statements)
        if all(now.lookup(statement, tags).is_storable for statement, tags in enumerate(statements)):
            return served
        holds = tuple(self._holds_of(writer) for writer in range(self._writers))
        for _ in range(MARK_LIFE):
            now.tick()
        return served, holds, now._served(statements)

    def _holds_of(self, writer: int) -> Hashable:
        alone = self.copy()
        everything = tuple(range(len(self.names)))
        for other in range(self._writers):
            if other != writer:
                alone.release(everything, other)
        held = []
        for _ in range(MARK_LIFE):
            held.append(tuple(alone.store.lookup(None, TagSet((name,))).storable for name in self.names))
            alone.tick()
        return tuple(held)

    def _served(self, statements: Sequence[Tags]) -> Hashable:
        return tuple(self.lookup(statement, tags).rows for statement, tags in enumerate(statements))

    def shape_of(self, tags: Tags, lease: Lease) -> Hashable:
        return self.store.copied().lookup(None, self._tag_set(tags)).lease == lease

    def evict_entry(self, statement: int) -> None:
        self.store.lose_entry(self._key(statement))

    def evict_register(self, tag: int) -> None:
        self.store.lose_register(self.names[tag])


class InStep(StepStore):
    """The model's store and a real one, asked the same.

    ``exact``: the real one must say neither less nor more. Else it may miss, or forbid to store, where the model would not
    have: that is what tags which share a slot do to one another.
    """

    def __init__(self, model: ModelStore, real: Verbs, *, exact: bool = True) -> None:
        self._model = model
        self._real = real
        self._exact = exact

    @property
    def _stepped(self) -> SteppedMemory:
        assert isinstance(self._real, SteppedMemory)
        return self._real

    def copy(self) -> Self:
        return type(self)(self._model.copy(), self._stepped.copy(), exact=self._exact)

    def shape(self, statements: Sequence[Tags]) -> Hashable:
        return self._model.shape(statements), self._stepped.shape(statements)

    def shape_of(self, tags: Tags, lease: Lease) -> Hashable:
        ours, theirs = _apart(lease)
        return self._model.shape_of(tags, ours), self._stepped.shape_of(tags, theirs)

    def lookup(self, statement: int, tags: Tags) -> Seen:
        ours, theirs = self._model.lookup(statement, tags), self._real.lookup(statement, tags)
        said, expected = (theirs.rows, theirs.is_storable), (ours.rows, ours.is_storable)
        if self._exact:
            assert said == expected, f"the real store answers {said}, the model's {expected}"
        else:
            assert theirs.rows in (None, ours.rows), f"the real store serves {theirs.rows}, the model's {ours.rows}"
            assert ours.is_storable or not theirs.is_storable, "the real store lets a reader fill, the model's does not"
        lease = tuple(mine << 64 | other for mine, other in zip(ours.lease, theirs.lease, strict=True))
        return Seen(theirs.rows, lease, theirs.is_storable)

    def fill(self, statement: int, rows: Rows, lease: Lease) -> None:
        ours, theirs = _apart(lease)
        self._model.fill(statement, rows, ours)
        self._real.fill(statement, rows, theirs)

    def mark(self, tags: Tags, writer: int) -> None:
        self._model.mark(tags, writer)
        self._real.mark(tags, writer)

    def release(self, tags: Tags, writer: int) -> None:
        self._model.release(tags, writer)
        self._real.release(tags, writer)

    def lose_release(self, tags: Tags, writer: int) -> None:
        self._real.lose_release(tags, writer)

    def land_late(self, tags: Tags, writer: int) -> None:
        self._model.land_late(tags, writer)
        self._real.land_late(tags, writer)

    def clear(self) -> None:
        self._model.clear()
        self._real.clear()

    def evict_entry(self, statement: int) -> None:
        self._model.evict_entry(statement)
        self._stepped.evict_entry(statement)

    def evict_register(self, tag: int) -> None:
        self._model.evict_register(tag)
        self._stepped.evict_register(tag)

    def has_entry(self, statement: int, tags: Tags) -> bool:
        return self._model.has_entry(statement, tags)

    def has_register(self, tag: int) -> bool:
        return self._model.has_register(tag)

    def is_marked(self, tag: int) -> bool:
        return self._model.is_marked(tag)

    def tick(self) -> None:
        self._model.tick()
        self._real.tick()


def model_store(tags: int, statements: int) -> ModelStore:
    """Return the model's store, with marks that live as long as the real ones do."""
    return ModelStore(tags, statements, StoreRules(mark_life=MARK_LIFE, forgets_dead=False))


def names_in_slots(store: MemoryStore, count: int, *, shared: bool) -> tuple[bytes, ...]:
    """Return names of ``count`` tags that all share a slot of the store, or none of which does."""
    by_slot: dict[bytes, list[bytes]] = {}
    for number in range(100_000):
        name = b"tag %d" % number
        names = by_slot.setdefault(slot_key(name, store._bits), [])
        names.append(name)
        if shared and len(names) == count:
            return tuple(names)
        if not shared and len(by_slot) == count:
            return tuple(first for first, *_ in by_slot.values())
    raise AssertionError(f"{count} tags were not to be found")


def _apart(lease: Lease) -> tuple[Lease, Lease]:
    """Take the two stamps apart that stand in each number of a lease."""
    return tuple(stamp >> 64 for stamp in lease), tuple(stamp & (1 << 64) - 1 for stamp in lease)
