"""What a process holds of an LMDB store's entries is served only where the store would serve it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmdb_support import MIB, ClockedStore, T, W, fill
from querycache._types import TagSet
from querycache.stores import open_store
from querycache.stores.lmdb import LMDBStore

GUARDED = TagSet((b"t", b"u"), ((b"g", b"fingerprint"),))
KEY = b"key of an entry."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def other(path: Path) -> Iterator[LMDBStore]:
    """Another process's store, as far as copies go."""
    store = LMDBStore(path, 4 * MIB, near_size_bytes=0)
    yield store
    store.close()


@pytest.fixture
def store(path: Path) -> Iterator[ClockedStore]:
    """A store that holds a copy of the entry."""
    store = ClockedStore(path, 4 * MIB)
    fill(store, KEY, tags=GUARDED)
    assert store.lookup(KEY, GUARDED).payload == b"rows"
    yield store
    store.close()


def test_a_copy_answers_as_the_store_does(store: ClockedStore, other: LMDBStore) -> None:
    held, asked = store.lookup(KEY, GUARDED), other.lookup(KEY, GUARDED)
    assert held.memo is not None
    assert asked.memo is None
    assert held.now <= asked.now
    assert held._replace(memo=None, now=0) == asked._replace(now=0)


def test_what_a_reader_made_of_a_payload_is_there_for_the_next(store: ClockedStore) -> None:
    memo = store.lookup(KEY, GUARDED).memo
    assert memo is not None
    memo.keep("decoded", 10)
    again = store.lookup(KEY, GUARDED).memo
    assert again is not None
    assert again.value == "decoded"


CHANGES: dict[str, Callable[[LMDBStore], object]] = {
    "a mark": lambda other: other.mark(TagSet((b"u",)), W, 30),
    "a touch": lambda other: other.release((b"t",), W),
    "a mark and its release": lambda other: other.release(other.mark(TagSet((b"t",)), W, 30), W),
    "a change of the guard": lambda other: other.release((b"g",), W),
    "a reader of another mind": lambda other: other.lookup(None, TagSet((), ((b"g", b"another"),))),
    "clear": lambda other: other.clear(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_another_process_does_to_its_tags_ends_it(
    store: ClockedStore, other: LMDBStore, change: Callable[[LMDBStore], object]
) -> None:
    change(other)
    assert store.lookup(KEY, GUARDED).payload is None


def test_a_mark_that_ran_out_ends_it(store: ClockedStore, other: LMDBStore) -> None:
    other.mark(TagSet((b"t",)), W, 1)
    store.ahead_ns = 2_000_000_000
    assert store.lookup(KEY, GUARDED).payload is None


def test_a_change_of_another_tag_leaves_it(store: ClockedStore, other: LMDBStore) -> None:
    other.release((b"another",), W)
    assert store.lookup(KEY, GUARDED).memo is not None


def test_it_ends_with_its_time_to_live(store: ClockedStore) -> None:
    store.ahead_ns = 61_000_000_000
    assert store.lookup(KEY, GUARDED).payload is None


@pytest.mark.parametrize(
    "tags", [T, TagSet((b"t", b"u", b"v"), GUARDED.guards), TagSet(GUARDED.tags, ((b"g", b"another"),))]
)
def test_who_asks_about_other_tags_is_not_given_it(store: ClockedStore, tags: TagSet) -> None:
    assert store.lookup(KEY, tags).payload is None


def test_an_entry_that_this_process_stores_takes_its_place(store: ClockedStore) -> None:
    fill(store, KEY, b"others", GUARDED)
    assert store.lookup(KEY, GUARDED).payload == b"others"


def test_it_is_not_served_of_files_that_are_gone(store: ClockedStore, path: Path) -> None:
    shutil.rmtree(path)
    assert store.lookup(KEY, GUARDED).payload is None


def test_a_store_that_was_closed_holds_none(store: ClockedStore) -> None:
    store.close()
    answer = store.lookup(KEY, GUARDED)
    assert answer.payload == b"rows"
    assert answer.memo is not None
    assert answer.memo.value is None


def test_an_entry_that_others_evicted_may_be_served_as_long_as_nothing_changed(
    store: ClockedStore, other: LMDBStore
) -> None:
    handle = other._acquire()
    handle.entries.write(lambda txn: txn.drop(handle.entries.main, delete=False), grow=False)
    assert other.lookup(KEY, GUARDED).payload is None
    assert store.lookup(KEY, GUARDED).payload == b"rows"


def test_an_entry_without_tags_is_read_each_time(store: ClockedStore) -> None:
    nothing = TagSet()
    fill(store, b"untagged", tags=nothing)
    store.lookup(b"untagged", nothing)
    store.clear()
    assert store.lookup(b"untagged", nothing).payload is None


def test_the_size_of_what_is_held_is_chosen_by_the_url(path: Path) -> None:
    store = open_store(f"lmdb://{path}?size=4MiB&near_size=0")
    fill(store, KEY)
    assert store.lookup(KEY, T).memo is None
    store.close()
