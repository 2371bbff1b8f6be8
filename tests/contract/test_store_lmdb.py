"""The LMDB store keeps the contract, in one process and among several."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmdb_support import MIB, PRELUDE, ClockedStore, T, fill, run
from querycache.stores.base import Store
from querycache.stores.lmdb import LMDBStore
from querycache.testing import StoreConformance


class TestLMDBStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        store = ClockedStore(tmp_path / "cache", 32 * MIB)
        yield store
        store.close()

    def let_pass(self, store: Store, seconds: float) -> None:
        assert isinstance(store, ClockedStore)
        store.ahead_ns += int(seconds * 1e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB)
    yield store
    store.close()


def test_another_process_sees_the_entry(store: LMDBStore, path: Path) -> None:
    fill(store, b"k")
    assert run("print(store.lookup(b'k', T).payload)", path) == "b'rows'"


def test_a_mark_of_another_process_is_heard(store: LMDBStore, path: Path) -> None:
    fill(store, b"k")
    run("store.mark(T, W, 60)", path)
    seen = store.lookup(b"k", T)
    assert (seen.payload, seen.storable) == (None, False)


def test_a_release_by_another_process_is_heard(store: LMDBStore, path: Path) -> None:
    fill(store, b"k")
    run("store.release((b't',), W)", path)
    assert store.lookup(b"k", T).payload is None


def test_entries_and_marks_outlive_the_processes_that_made_them(path: Path) -> None:
    lines = (
        "store.fill(b'k', b'rows', store.lookup(b'k', T).lease, 60)",
        "store.mark(TagSet((b'u',)), W, 60)",
        "store.close()",
    )
    run("\n".join(lines), path)
    assert run("print(store.lookup(b'k', T).payload, store.lookup(None, TagSet((b'u',))).storable)", path) == (
        "b'rows' False"
    )


def test_two_stores_of_one_process_share_the_files(store: LMDBStore, path: Path) -> None:
    with_other_name = LMDBStore(path / ".." / "cache")
    fill(store, b"k")
    assert with_other_name.lookup(b"k", T).payload == b"rows"
    with_other_name.close()
    assert store.lookup(b"k", T).payload == b"rows"


def test_two_processes_never_read_less_than_was_acknowledged(store: LMDBStore, path: Path) -> None:
    """The database is a file that is replaced; another process commits to it while this one reads."""
    database = path.parent / "value"
    database.write_text("0")
    writer = subprocess.Popen([sys.executable, "-c", PRELUDE + COUNT, str(path), str(database)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    acknowledged = 0
    os.set_blocking(writer.stdout.fileno(), False)
    hits = reads = 0
    while writer.poll() is None or reads < 100:
        lines = writer.stdout.read() or b""
        acknowledged = int(lines.split()[-1]) if lines else acknowledged
        seen = store.lookup(b"k", T)
        value = int(database.read_text()) if seen.payload is None else int(seen.payload)
        assert value >= acknowledged
        if seen.payload is None and seen.storable:
            store.fill(b"k", b"%d" % value, seen.lease, 60)
        hits += seen.payload is not None
        reads += 1
    writer.stdout.close()
    assert writer.returncode == 0
    assert hits


COUNT = """
for value in range(1, 301):
    marked = store.mark(T, value.to_bytes(16), 60)
    with open(sys.argv[2] + ".new", "w") as file:
        file.write(str(value))
    os.replace(sys.argv[2] + ".new", sys.argv[2])
    store.release(marked, value.to_bytes(16))
    os.write(1, b"%012d\\n" % value)
"""


def test_a_store_can_be_opened_again_after_close(path: Path) -> None:
    store = LMDBStore(path, 4 * MIB)
    fill(store, b"k")
    store.close()
    assert store.lookup(b"k", T).payload == b"rows"
    store.close()
