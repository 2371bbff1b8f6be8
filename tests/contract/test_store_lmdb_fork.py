"""A fork leaves the LMDB store whole, in the parent and in the child."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmdb_support import MIB, T, W, fill, in_child
from querycache.errors import StoreUnavailable
from querycache.stores import _lmdb_handle
from querycache.stores.lmdb import LMDBStore
from querycache.testing.hammer import Hammer

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks with threads


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB)
    yield store
    store.close()


def test_a_forked_child_and_its_parent_hear_each_other(store: LMDBStore) -> None:
    fill(store, b"k")

    def child() -> bool:
        seen = store.lookup(b"k", T).payload
        store.mark(T, W, 60)
        return seen == b"rows"

    assert in_child(child) == 0
    assert not store.lookup(b"k", T).storable
    store.release((b"t",), W)
    assert in_child(lambda: store.lookup(None, T).storable) == 0


def test_a_grandchild_can_use_the_store(store: LMDBStore) -> None:
    fill(store, b"k")
    assert in_child(lambda: in_child(lambda: store.lookup(b"k", T).payload == b"rows") == 0) == 0


def test_a_child_that_closes_the_store_leaves_the_parent_as_it_was(store: LMDBStore) -> None:
    fill(store, b"k")

    def child() -> bool:
        seen = store.lookup(b"k", T).payload
        store.close()
        return seen == b"rows"

    assert in_child(child) == 0
    assert fill(store, b"other")
    assert store.lookup(b"k", T).payload == b"rows"


def test_forks_while_other_threads_read_and_write_disturb_nobody(store: LMDBStore) -> None:
    hammer = Hammer(store, rounds=300)
    others = threading.Thread(target=hammer.run)
    others.start()
    codes = [in_child(lambda: fill(store, b"mine")) for _ in range(10)]
    others.join()
    assert codes == [0] * 10


def test_a_child_of_a_parent_that_could_not_close_in_time_does_without_the_store_and_harms_nobody(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_handle, "FORK_PATIENCE_S", 0.01)
    fill(store, b"k")
    handle = store._handle
    assert handle is not None

    def child() -> bool:
        with pytest.raises(StoreUnavailable, match="already open in this process"):
            store.lookup(b"k", T)
        return True

    with handle.entries._gate:  # as a thread that is inside
        assert in_child(child) == 0
    assert store.lookup(b"k", T).payload == b"rows"


def test_a_child_can_use_the_store_that_its_parent_closed_in_time_beside_one_that_it_could_not(
    store: LMDBStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_handle, "FORK_PATIENCE_S", 0.01)
    other = LMDBStore(tmp_path / "other")
    fill(store, b"k")
    fill(other, b"k")
    assert other._handle is not None

    def child() -> bool:
        with pytest.raises(StoreUnavailable, match="already open in this process"):
            other.lookup(b"k", T)
        return store.lookup(b"k", T).payload == b"rows"

    with other._handle.entries._gate:
        assert in_child(child) == 0
    other.close()


def test_a_child_of_a_fork_that_was_not_announced_can_use_the_store(store: LMDBStore) -> None:
    fill(store, b"k")
    child = ctypes.PyDLL(None).fork()
    if not child:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        os._exit(0 if store.lookup(b"k", T).payload == b"rows" and fill(store, b"mine") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.lookup(b"k", T).payload == b"rows"
    assert store.lookup(b"mine", T).payload == b"rows"
