"""The LMDB store stays within its size, and a mark always finds room."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from lmdb_support import MIB, PINNING, T, W, fill, run, running
from namespaces import on_small_filesystem
from querycache._types import TagSet
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores import _lmdb_handle
from querycache.stores.lmdb import LMDBStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB)
    yield store
    store.close()


def test_a_full_store_evicts_and_stays_within_its_size(store: LMDBStore) -> None:
    kept = sum(fill(store, b"%d" % number, bytes(3000)) for number in range(3000))
    stats = store.stats()
    assert kept == 3000
    assert stats.evictions > 1000
    assert stats.size_bytes is not None
    assert stats.size_bytes <= 4 * MIB
    assert store.lookup(b"2999", T).payload == bytes(3000)


def test_what_expires_first_is_evicted_first(store: LMDBStore) -> None:
    fill(store, b"late", bytes(3000), ttl_s=3600)
    for number in range(2000):
        fill(store, b"%d" % number, bytes(3000), ttl_s=600)
    assert store.lookup(b"late", T).payload == bytes(3000)


def test_replacing_an_entry_many_times_leaves_one(store: LMDBStore) -> None:
    for number in range(2000):
        fill(store, b"k", bytes(number))
    assert store.stats().entries == 1
    assert store.stats().evictions == 0


def test_payloads_of_all_sizes_never_raise(store: LMDBStore) -> None:
    for number in range(600):
        fill(store, b"%d" % number, bytes(number * 7919 % (600 * 1024)))
    assert fill(store, b"k")
    assert store.lookup(b"k", T).payload == b"rows"


def test_a_payload_that_is_too_large_is_declined(store: LMDBStore) -> None:
    assert not fill(store, b"k", bytes(MIB))


def test_a_fill_that_finds_no_room_is_declined_and_marks_go_on(store: LMDBStore, path: Path) -> None:
    with running(PINNING, path, "entries"):
        outcomes = [fill(store, b"%d" % number, bytes(100_000)) for number in range(200)]
        assert outcomes[0]
        assert not outcomes[-1]
        store.mark(T, W, 60)
        assert not store.lookup(None, T).storable
    kept = [fill(store, b"%d" % number, bytes(100_000)) for number in range(10)]
    assert kept[-1]


def test_a_mark_finds_room_however_long_an_old_reader_pins_the_stamps(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_handle, "STAMPS_SIZE", 256 * 1024)
    store = LMDBStore(path, 4 * MIB)
    with running(PINNING, path, "stamps"):
        for number in range(300):
            store.mark(TagSet(tuple(b"%d" % (number * 10 + i) for i in range(10))), W, 60)
        handle = store._handle
        assert handle is not None
        assert handle.stamps.map_size() > 256 * 1024
        assert not store.lookup(None, TagSet((b"2999",))).storable
    store.close()


def test_a_map_that_another_process_has_grown_is_taken_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lmdb_handle, "STAMPS_SIZE", 256 * 1024)
    store = LMDBStore(path, 4 * MIB)
    store.lookup(None, T)
    run("[store.mark(TagSet(tuple(b'%d' % (n * 9999 + i) for i in range(9999))), W, 60) for n in range(9)]", path)
    assert not store.lookup(None, TagSet((b"0",))).storable
    store.release((b"0",), W)
    assert store.lookup(None, T).storable
    store.close()


def test_a_mark_that_cannot_be_set_at_all_is_an_error_that_names_the_store(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_handle, "STAMPS_SIZE", 256 * 1024)
    monkeypatch.setattr(_lmdb_handle, "STAMPS_LIMIT", 256 * 1024)
    store = LMDBStore(path, 4 * MIB)
    tags = TagSet(tuple(b"%d" % number for number in range(20_000)))
    with pytest.raises(StoreUnavailable, match=f"lmdb://{path}.*MAP_FULL.*free space"):
        store.mark(tags, W, 60)
    store.close()


def test_thousands_of_guards_are_forgotten_in_time(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("querycache.stores._lmdb_looks.MAX_GUARDS", 100 - (1 << 18))
    store.lookup(None, TagSet(guards=tuple((b"table%d" % number, b"f") for number in range(200))))
    assert not store.lookup(None, TagSet(guards=((b"table1", b"f"),))).storable


def test_a_filesystem_that_fills_up_makes_fills_fail_and_no_error(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    monkeypatch.setattr("querycache.stores.lmdb._put", full)
    assert not fill(store, b"k")
    monkeypatch.undo()
    assert fill(store, b"k")


@pytest.mark.parametrize(("wanted", "size_bytes"), [(None, 50 * MIB), (64 * MIB, 64 * MIB), (200 * MIB, 80 * MIB)])
def test_the_size_leaves_room_on_the_filesystem(
    path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int | None, size_bytes: int
) -> None:
    real = os.statvfs

    def small(where: Path) -> os.statvfs_result:
        about = list(real(where))
        about[4] = 100 * MIB // about[1]
        return os.statvfs_result(about)

    monkeypatch.setattr(os, "statvfs", small)
    store = LMDBStore(path, wanted)
    assert store.stats().max_size_bytes == size_bytes
    store.close()


def test_a_size_without_room_for_anything_is_refused(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 1MiB"):
        LMDBStore(path, 1000)


FULL = """
ballast = os.open(sys.argv[1] + "-ballast", os.O_WRONLY | os.O_CREAT)
def fill(number):
    key = b"%d" % number
    return store.fill(key, bytes(50_000), store.lookup(key, T).lease, 60)
def grow(size):
    while True:
        try:
            os.write(ballast, bytes(size))
        except OSError:
            return
assert fill(0)
grow(1 << 20)
grow(4096)
kept = [fill(number) for number in range(1, 60)]
many = TagSet(tuple(b"%d" % number for number in range(20_000)))
store.mark(many, W, 60)
marked = not store.lookup(None, TagSet((b"19999",))).storable
store.release(many.tags, W)
os.ftruncate(ballast, 0)
print(all(kept), marked, fill(60), store.lookup(b"60", T).payload == bytes(50_000))
"""


def test_on_a_full_filesystem_fills_are_declined_and_marks_go_on(tmp_path: Path) -> None:
    assert run(FULL, tmp_path / "cache", inside=on_small_filesystem(tmp_path, 40)) == "False True True True"


GROWING = """
from querycache.errors import StoreUnavailable
from querycache.stores import _lmdb_handle
store.close()
_lmdb_handle.STAMPS_SIZE = 1 << 20
store = LMDBStore(sys.argv[1] + "-other", 4 << 20)
ballast = os.open(sys.argv[1] + "-ballast", os.O_WRONLY | os.O_CREAT)
try:
    while True:
        os.write(ballast, bytes(4096))
except OSError:
    pass
many = TagSet(tuple(b"%d" % number for number in range(20_000)))
try:
    store.mark(many, W, 60)
    told = "marked"
except StoreUnavailable as error:
    told = "No space left" in str(error) and "free space" in str(error)
os.ftruncate(ballast, 0)
store.mark(many, W, 60)
print(told, not store.lookup(None, TagSet((b"19999",))).storable)
"""


def test_a_map_that_finds_no_room_to_grow_on_a_full_filesystem_is_an_error_and_ends_nobody(tmp_path: Path) -> None:
    assert run(GROWING, tmp_path / "cache", inside=on_small_filesystem(tmp_path, 64)) == "True True"


@pytest.mark.parametrize(("kind", "through"), [("tmpfs", True), ("ext4", True), ("btrfs", False), ("overlay", False)])
def test_the_stamps_are_written_through_the_map_only_where_reserved_room_stays(
    path: Path, kind: str, through: bool
) -> None:
    store = LMDBStore(path, 4 * MIB, filesystem=lambda _: kind)
    handle = store._handle
    assert handle is not None
    assert handle.stamps.env is not None
    assert handle.entries.env is not None
    assert handle.stamps.env.flags()["writemap"] is through
    assert handle.entries.env.flags()["writemap"] is False
    store.close()
