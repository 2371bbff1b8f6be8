"""The LMDB store notices files that were replaced, removed, damaged, or left by another boot."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest

from lmdb_support import HOLDING, MIB, T, W, fill, run, running
from querycache.errors import StoreUnavailable
from querycache.stores import _lmdb_place
from querycache.stores.lmdb import LMDBStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB)
    yield store
    store.close()


def test_a_directory_replaced_under_a_running_process_is_noticed(store: LMDBStore, path: Path) -> None:
    fill(store, b"k")
    shutil.rmtree(path)
    run("store.mark(T, W, 60)", path)
    seen = store.lookup(b"k", T)
    assert (seen.payload, seen.storable) == (None, False)


def test_a_directory_removed_under_a_running_process_is_made_again(store: LMDBStore, path: Path) -> None:
    fill(store, b"k")
    shutil.rmtree(path)
    assert store.lookup(b"k", T).payload is None
    assert fill(store, b"k")
    assert run("print(store.lookup(b'k', T).payload)", path) == "b'rows'"


def test_a_stamp_is_not_given_again_by_a_new_file(store: LMDBStore, path: Path) -> None:
    before = store.lookup(None, T).lease
    shutil.rmtree(path)
    assert store.lookup(None, T).lease > before


def test_a_directory_that_can_no_longer_be_used_makes_the_store_unavailable(store: LMDBStore, path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("a file")
    with pytest.raises(StoreUnavailable, match="is a file"):
        store.mark(T, W, 60)
    path.unlink()
    store.mark(T, W, 60)


def test_files_of_another_boot_are_deleted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lmdb_place, "boot_id", lambda: "00000000-0000-4000-8000-000000000000")
    before = LMDBStore(path, 4 * MIB)
    fill(before, b"k")
    before.close()
    monkeypatch.undo()
    after = LMDBStore(path, 4 * MIB)
    assert after.lookup(b"k", T).payload is None
    assert not (path / "00000000-0000-4000-8000-000000000000").exists()
    after.close()


def test_damaged_files_that_nobody_uses_are_made_anew(path: Path) -> None:
    LMDBStore(path, 4 * MIB).close()
    for data in path.glob("*/*/data.mdb"):
        data.write_bytes(b"nonsense" * 4096)
    store = LMDBStore(path, 4 * MIB)
    assert fill(store, b"k")
    store.close()


def test_an_environment_that_broke_is_opened_anew(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object) -> int:
        raise lmdb.PanicError("MDB_PANIC: Update of meta page failed or environment had fatal error")

    monkeypatch.setattr("querycache.stores.lmdb._put", panic)
    with pytest.raises(StoreUnavailable, match="MDB_PANIC"):
        fill(store, b"k")
    monkeypatch.undo()
    assert fill(store, b"k")


@pytest.mark.parametrize("name", ["stamps", "entries"])
@pytest.mark.parametrize("file", ["data.mdb", "lock.mdb", "writing"])
def test_files_of_which_one_is_missing_are_made_anew_and_who_has_them_open_follows(
    store: LMDBStore, path: Path, name: str, file: str
) -> None:
    fill(store, b"k")
    (removed,) = path.glob(f"*/{name}/{file}")
    removed.unlink()
    with running(HOLDING, path):
        assert store.lookup(b"k", T).payload is None
        store.mark(T, W, 60)
        assert run("print(store.lookup(None, T).storable)", path) == "False"
