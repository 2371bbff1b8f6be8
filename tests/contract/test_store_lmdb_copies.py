"""What a process holds of an LMDB store's entries is served only where the store would serve it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from lmdb_support import MIB, ClockedStore, T, W, fill
from querycache._types import Lookup, TagSet
from querycache.stores import open_store
from querycache.stores.lmdb import LMDBStore

GUARDED = TagSet((b"t", b"u"), ((b"g", b"fingerprint"),))
KEY = b"key of an entry."
LATER = b"key of one more."

Ask: TypeAlias = Callable[[LMDBStore, bytes, TagSet], Lookup]


def ask_alone(store: LMDBStore, key: bytes, tags: TagSet) -> Lookup:
    return store.lookup(key, tags)


def ask_among_others(store: LMDBStore, key: bytes, tags: TagSet) -> Lookup:
    return store.lookup_many([(None, T), (key, tags), (LATER, GUARDED)])[1]


def ask_among_what_is_known(store: LMDBStore, key: bytes, tags: TagSet) -> Lookup:
    return store.lookup_many([(key, tags), (key, tags)])[1]


@pytest.fixture(params=[ask_alone, ask_among_others, ask_among_what_is_known])
def ask(request: pytest.FixtureRequest) -> Ask:
    """How a question is put to the store: one at a time, or several at once."""
    way: Ask = request.param
    return way


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


def test_a_copy_answers_as_the_store_does(ask: Ask, store: ClockedStore, other: LMDBStore) -> None:
    held, asked = ask(store, KEY, GUARDED), other.lookup(KEY, GUARDED)
    assert held.memo is not None
    assert asked.memo is None
    assert held.now <= asked.now
    assert held._replace(memo=None, now=0) == asked._replace(now=0)


def test_what_a_reader_made_of_a_payload_is_there_for_the_next(ask: Ask, store: ClockedStore) -> None:
    memo = ask(store, KEY, GUARDED).memo
    assert memo is not None
    memo.keep("decoded", 10)
    again = ask(store, KEY, GUARDED).memo
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
    ask: Ask, store: ClockedStore, other: LMDBStore, change: Callable[[LMDBStore], object]
) -> None:
    change(other)
    assert ask(store, KEY, GUARDED).payload is None


def test_a_mark_that_ran_out_ends_it(ask: Ask, store: ClockedStore, other: LMDBStore) -> None:
    other.mark(TagSet((b"t",)), W, 1)
    store.ahead_ns = 2_000_000_000
    assert ask(store, KEY, GUARDED).payload is None


def test_a_change_of_another_tag_leaves_it(ask: Ask, store: ClockedStore, other: LMDBStore) -> None:
    other.release((b"another",), W)
    assert ask(store, KEY, GUARDED).memo is not None


def test_it_ends_with_its_time_to_live(ask: Ask, store: ClockedStore) -> None:
    store.ahead_ns = 61_000_000_000
    assert ask(store, KEY, GUARDED).payload is None


@pytest.mark.parametrize(
    "tags", [T, TagSet((b"t", b"u", b"v"), GUARDED.guards), TagSet(GUARDED.tags, ((b"g", b"another"),))]
)
def test_who_asks_about_other_tags_is_not_given_it(ask: Ask, store: ClockedStore, tags: TagSet) -> None:
    assert ask(store, KEY, tags).payload is None


def test_an_entry_that_this_process_stores_takes_its_place(ask: Ask, store: ClockedStore) -> None:
    fill(store, KEY, b"others", GUARDED)
    assert ask(store, KEY, GUARDED).payload == b"others"


def test_it_is_not_served_of_files_that_are_gone(ask: Ask, store: ClockedStore, path: Path) -> None:
    shutil.rmtree(path)
    assert ask(store, KEY, GUARDED).payload is None


def test_a_store_that_was_closed_holds_none(ask: Ask, store: ClockedStore) -> None:
    store.close()
    answer = ask(store, KEY, GUARDED)
    assert answer.payload == b"rows"
    assert answer.memo is not None
    assert answer.memo.value is None


def test_an_entry_that_others_evicted_may_be_served_as_long_as_nothing_changed(
    ask: Ask, store: ClockedStore, other: LMDBStore
) -> None:
    handle = other._acquire()
    handle.entries.write(lambda txn: txn.drop(handle.entries.main, delete=False), grow=False)
    assert other.lookup(KEY, GUARDED).payload is None
    assert ask(store, KEY, GUARDED).payload == b"rows"


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


def test_rows_of_a_list_come_with_what_a_reader_made_of_each(store: ClockedStore) -> None:
    fill(store, LATER, b"more", GUARDED)
    asked = [(KEY, GUARDED), (LATER, GUARDED), (None, T)]
    for found, value in zip(store.lookup_many(asked), ("one", "two"), strict=False):
        assert found.memo is not None
        found.memo.keep(value, 10)
    again = store.lookup_many(asked)
    assert [found.payload for found in again] == [b"rows", b"more", None]
    assert [found.memo and found.memo.value for found in again] == ["one", "two", None]


def test_of_several_that_are_held_only_those_that_changed_are_read_again(store: ClockedStore, other: LMDBStore) -> None:
    fill(store, LATER, b"more", T)
    store.lookup_many([(KEY, GUARDED), (LATER, T)])
    other.release((b"u",), W)
    fill(other, KEY, b"anew", GUARDED)
    found = store.lookup_many([(KEY, GUARDED), (LATER, T), (b"none", T)])
    assert [each.payload for each in found] == [b"anew", b"more", None]
    assert found[0].lease == other.lookup(KEY, GUARDED).lease


def test_several_are_answered_where_a_register_must_be_written_first(store: ClockedStore) -> None:
    fresh = TagSet((b"never asked about",), ((b"never guarded", b"fingerprint"),))
    found = store.lookup_many([(KEY, GUARDED), (b"none", fresh), (None, GUARDED)])
    assert [each.payload for each in found] == [b"rows", None, None]
    assert [each.lease for each in found] == [store.lookup(None, tags).lease for tags in (GUARDED, fresh, GUARDED)]
