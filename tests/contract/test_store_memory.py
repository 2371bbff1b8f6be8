"""The memory store keeps the contract, its bounds, and nothing across a fork."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest

from querycache._types import Lookup, Tag, TagSet, Writer
from querycache.errors import ConfigurationError
from querycache.stores.base import Store
from querycache.stores.memory import MemoryStore
from querycache.testing import StoreConformance

KIB = 1024
W = bytes(range(16))


class ClockedStore(MemoryStore):
    """A memory store whose clock a test can move."""

    ahead_ns = 0

    def _ticks(self) -> int:
        return super()._ticks() + self.ahead_ns


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = ClockedStore()
        yield store
        store.close()

    def let_pass(self, store: Store, seconds: float) -> None:
        assert isinstance(store, ClockedStore)
        store.ahead_ns += int(seconds * 1e9)


class TestSmallMemoryStore(TestMemoryStore):
    """With few slots, tags share them."""

    largest_payload_bytes = 20 * KIB

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = ClockedStore(64 * KIB, 100)
        yield store
        store.close()


def fill(store: Store, key: bytes, payload: bytes = b"rows", tags: TagSet | None = None) -> bool:
    return store.fill(key, payload, store.lookup(key, tags or TagSet((b"t",))).lease, 60)


def held(store: Store, keys: Sequence[bytes]) -> list[bytes]:
    return [key for key in keys if store.lookup(key, TagSet((b"t",))).payload is not None]


def test_entries_stay_within_the_number_allowed_and_the_least_recently_used_goes_first() -> None:
    store = MemoryStore(max_entries=2)
    fill(store, b"a")
    fill(store, b"b")
    store.lookup(b"a", TagSet((b"t",)))
    fill(store, b"c")
    assert held(store, [b"a", b"b", b"c"]) == [b"a", b"c"]
    assert store.stats().evictions == 1


def test_size_stays_within_the_bytes_allowed_whatever_is_filled_and_marked() -> None:
    store = MemoryStore(max_size_bytes=256 * KIB)
    for number in range(2000):
        key = b"%d" % number
        fill(store, key, key * 100, TagSet((b"tag%d" % number,)))
        store.mark(TagSet((b"other%d" % number,)), W, 0.001)
        store.release((b"other%d" % number,), W)
    stats = store.stats()
    assert stats.size_bytes is not None
    assert stats.size_bytes <= 256 * KIB
    assert stats.entries


def test_a_payload_of_more_than_half_the_store_is_declined_and_evicts_nothing() -> None:
    store = MemoryStore(max_size_bytes=64 * KIB)
    fill(store, b"a")
    assert not fill(store, b"b", bytes(40 * KIB))
    assert held(store, [b"a", b"b"]) == [b"a"]


def test_marks_outlive_any_number_of_other_tags() -> None:
    store = MemoryStore(max_size_bytes=64 * KIB)
    store.mark(TagSet((b"t",)), W, 60)
    for number in range(5000):
        store.lookup(None, TagSet((b"tag%d" % number,)))
    assert not store.lookup(None, TagSet((b"t",))).storable


def test_guards_of_binds_that_are_gone_are_forgotten_and_those_made_next_start_marked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("querycache.stores.memory.MAX_GUARDS", 100)
    store = MemoryStore(max_size_bytes=64 * KIB)
    for number in range(1000):
        store.lookup(None, TagSet(guards=((b"table%d" % number, b"f"),)))
    stats = store.stats()
    assert stats.size_bytes is not None
    assert stats.size_bytes < 100 * KIB
    assert not store.lookup(None, TagSet(guards=((b"new", b"f"),))).storable


def test_a_mark_on_a_guard_outlives_the_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("querycache.stores.memory.MAX_GUARDS", 100)
    store = ClockedStore(max_size_bytes=64 * KIB)
    store.mark(TagSet(guards=((b"mine", b"f"),)), W, 3600)
    for number in range(1000):
        store.lookup(None, TagSet(guards=((b"table%d" % number, b"f"),)))
    store.ahead_ns += 60 * 10**9
    assert not store.lookup(None, TagSet(guards=((b"mine", b"f"),))).storable


@pytest.mark.parametrize(("size", "entries"), [(1000, 10), (10**6, 0)])
def test_bounds_that_leave_no_room_are_refused(size: int, entries: int) -> None:
    with pytest.raises(ConfigurationError, match="cannot work"):
        MemoryStore(size, entries)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_starts_empty_and_its_parent_keeps_what_it_has() -> None:
    store = MemoryStore()
    fill(store, b"a")
    child = os.fork()
    if not child:
        os._exit(0 if not held(store, [b"a"]) and fill(store, b"b") and held(store, [b"b"]) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held(store, [b"a", b"b"]) == [b"a"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_the_store_is_locked_is_not_stuck() -> None:
    store = MemoryStore()
    with store._lock:
        child = os.fork()
        if not child:
            os._exit(0 if fill(store, b"b") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class ForgetsOtherWriters(MemoryStore):
    """One writer per mark: the last one wins."""

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        for other in getattr(self, "others", ()):
            super().release(tags.tags, other)
        self.others = (writer,)
        return super().mark(tags, writer, ttl_s)


class ReleasesOnlyItsOwn(MemoryStore):
    """Release only where the mark is found."""

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        mine = [tag for tag in tags if not self.lookup(None, TagSet((tag,))).storable]
        super().release(mine, writer)


class RepeatsStamps(MemoryStore):
    """A clock that stands still, kept in no place: stamps come again."""

    def clear(self) -> None:
        self._reset()

    def _ticks(self) -> int:
        return 1


class ServesWhileMarked(MemoryStore):
    """Marks that nobody heeds."""

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        seen = super().lookup(key, tags)
        return Lookup(seen.payload, seen.lease, True, seen.now)


class ChecksNoLease(MemoryStore):
    """Entries are served whatever stamps they were filled under."""

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        seen = super().lookup(None, tags)
        entry = None if key is None else self._entries.get(key)
        return Lookup(None if entry is None else entry.payload, seen.lease, seen.storable, seen.now)


class ClearsEntriesOnly(MemoryStore):
    """Clear without a floor: a fill under way comes back."""

    def clear(self) -> None:
        self._entries.clear()


class ClearsMarksToo(MemoryStore):
    """Clear that starts anew."""

    def clear(self) -> None:
        ahead = self.clock()
        self._reset()
        while self.clock() <= ahead:
            pass


class ReleasesEverybody(MemoryStore):
    """A release that unmarks whoever holds the tag."""

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        for other in (*getattr(self, "known", ()), writer):
            super().release(tags, other)

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        self.known = (*getattr(self, "known", ()), writer)
        return super().mark(tags, writer, ttl_s)


class IgnoresFingerprints(MemoryStore):
    """Guards that take every process to be of one mind."""

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        return super().lookup(key, TagSet(tags.tags, tuple((tag, b"") for tag, _ in tags.guards)))

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        return super().mark(TagSet(tags.tags, tuple((tag, b"") for tag, _ in tags.guards)), writer, ttl_s)


BROKEN = [
    ChecksNoLease,
    ClearsEntriesOnly,
    ClearsMarksToo,
    ForgetsOtherWriters,
    IgnoresFingerprints,
    ReleasesEverybody,
    ReleasesOnlyItsOwn,
    RepeatsStamps,
    ServesWhileMarked,
]


@pytest.mark.parametrize("broken", BROKEN)
def test_the_conformance_suite_finds_a_store_that_breaks_a_rule(broken: type[MemoryStore]) -> None:
    """Each rule of the contract is broken by one store; the suite must say so."""
    suite = StoreConformance()
    names = [name for name in dir(suite) if name.startswith("test_") and "threads" not in name]
    failed = []
    for name in names:
        try:
            getattr(suite, name)(broken())
        except AssertionError:
            failed.append(name)
    assert failed
