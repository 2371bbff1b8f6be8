"""Tags that share a slot of an LMDB store, and stamps, until they have their own: nobody is misled, and few miss for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmdb_support import MIB, WRITING, W, fill, names_in_one_slot, running
from querycache._types import TagSet
from querycache.stores.lmdb import LMDBStore

KEY = b"key"
[(A, B), *OTHERS] = names_in_one_slot(40)
ON_A = TagSet((A,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture(params=[0, MIB], ids=["without copies", "with copies"])
def store(request: pytest.FixtureRequest, path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB, near_size_bytes=request.param)
    store.clear()
    yield store
    store.close()


def changes_of(store: LMDBStore) -> int:
    """Return how many transactions wrote to the registers."""
    assert store._handle is not None
    assert store._handle.stamps.env is not None
    return int(store._handle.stamps.env.info()["last_txnid"])


def ask_about_others(store: LMDBStore) -> None:
    for tag, _ in OTHERS:
        store.lookup(b"of " + tag, TagSet((tag,)))


def test_a_first_look_up_writes_nothing(store: LMDBStore) -> None:
    before = changes_of(store)
    store.lookup(KEY, ON_A)
    store.lookup_many([(b"one", TagSet((B,))), (b"two", TagSet((A, B)))])
    assert changes_of(store) == before


def test_many_look_ups_write_a_few_times(store: LMDBStore) -> None:
    before = changes_of(store)
    ask_about_others(store)
    assert 1 <= changes_of(store) - before <= len(OTHERS) // 10


def test_a_tag_that_many_were_asked_about_since_shares_its_stamp_no_more(store: LMDBStore) -> None:
    fill(store, KEY, tags=ON_A)
    ask_about_others(store)
    store.release((B,), W)
    assert store.lookup(KEY, ON_A).payload == b"rows"


def test_a_tag_that_is_asked_about_without_a_key_has_its_own_stamp_at_once(store: LMDBStore) -> None:
    before = store.lookup(None, ON_A).lease
    store.release((B,), W)
    assert store.lookup(None, ON_A).lease == before


def test_a_tag_that_gets_its_own_stamp_gets_the_one_that_it_shared(store: LMDBStore) -> None:
    store.release((B,), W)
    fill(store, KEY, tags=ON_A)
    shared = store.lookup(KEY, ON_A)
    assert store.lookup(None, ON_A).lease == shared.lease
    assert store.lookup(KEY, ON_A).payload == b"rows"


def test_a_tag_of_a_slot_where_nothing_was_written_keeps_its_stamp_too(store: LMDBStore) -> None:
    fill(store, KEY, tags=ON_A)
    shared = store.lookup(KEY, ON_A)
    assert store.lookup(None, ON_A).lease == shared.lease
    assert store.lookup(KEY, ON_A).payload == b"rows"


def test_another_tag_ends_an_entry_once_and_not_again(store: LMDBStore) -> None:
    fill(store, KEY, tags=ON_A)
    store.release((B,), W)
    assert store.lookup(KEY, ON_A).payload is None
    fill(store, KEY, b"anew", ON_A)
    store.release((B,), W)
    assert store.lookup(KEY, ON_A).payload == b"anew"


def test_an_entry_is_not_served_for_a_tag_that_has_the_same_stamp(store: LMDBStore) -> None:
    fill(store, KEY, tags=ON_A)
    assert store.lookup(KEY, TagSet((B,))).payload is None
    assert store.lookup(KEY, TagSet((OTHERS[0][0],))).payload is None


@pytest.mark.parametrize(
    ("tags", "alike"),
    [
        (TagSet((b"ab", b"c")), TagSet((b"a", b"bc"))),
        (TagSet((b"a", b"b")), TagSet((b"b", b"a"))),
    ],
)
def test_tags_are_told_apart_by_their_bounds_and_their_order(store: LMDBStore, tags: TagSet, alike: TagSet) -> None:
    fill(store, KEY, tags=tags)
    assert store.lookup(KEY, alike).payload is None
    fill(store, KEY, tags=tags)
    assert store.lookup(KEY, tags).payload == b"rows"


def test_a_change_ends_what_was_filled_under_a_shared_stamp(store: LMDBStore) -> None:
    early = store.lookup(KEY, ON_A)
    store.release((A,), W)
    store.fill(KEY, b"old", early.lease, 60)
    assert store.lookup(KEY, ON_A).payload is None


def test_clear_ends_what_was_filled_under_a_shared_stamp(store: LMDBStore) -> None:
    store.release((B,), W)
    early = store.lookup(KEY, ON_A)
    fill(store, KEY, tags=ON_A)
    store.clear()
    assert store.lookup(KEY, ON_A).payload is None
    store.fill(KEY, b"old", early.lease, 60)
    assert store.lookup(KEY, ON_A).payload is None


def test_a_shared_stamp_is_not_of_the_time_before_a_change(store: LMDBStore) -> None:
    store.release((A,), W)
    now = store.clock()
    store.release((A,), W)
    assert store.lookup(KEY, ON_A).lease[0] > now


def test_look_ups_go_on_while_another_process_keeps_all_others_from_writing(store: LMDBStore, path: Path) -> None:
    with running(WRITING, path, "stamps"):
        ask_about_others(store)
        assert store.lookup(KEY, ON_A).storable
    fill(store, KEY, tags=ON_A)
    assert store.lookup(KEY, ON_A).payload == b"rows"
