"""The LMDB store goes on among processes that are killed or stopped, wherever they stood."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmdb_support import BUSY, MIB, PINNING, PRELUDE, WRITING, ClockedStore, T, W, fill, running
from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores import _lmdb_lock
from querycache.stores.lmdb import LMDBStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(path: Path) -> Iterator[LMDBStore]:
    store = LMDBStore(path, 4 * MIB)
    yield store
    store.close()


def test_killed_readers_and_writers_leave_a_store_that_works(store: LMDBStore, path: Path) -> None:
    for round_ in range(8):
        with running(BUSY, path), running(BUSY, path):
            for number in range(40 * round_):
                store.lookup(b"k%d" % number, T)
        store.release((b"t",), W)
        assert fill(store, b"k", b"%d" % round_)
        assert store.lookup(b"k", T).payload == b"%d" % round_


def test_the_mark_of_a_killed_writer_holds_until_its_deadline(path: Path) -> None:
    store = ClockedStore(path, 4 * MIB)
    fill(store, b"k")
    script = PRELUDE + "store.mark(T, W, 60); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    assert not store.lookup(b"k", T).storable
    store.ahead_ns += 61 * 10**9
    assert store.lookup(b"k", T).storable
    store.close()


def test_what_a_killed_reader_pinned_is_freed(store: LMDBStore, path: Path) -> None:
    with running(PINNING, path, "entries"):
        pass
    store._checked_ns = 0
    fill(store, b"k")
    handle = store._handle
    assert handle is not None
    assert handle.entries.reader_check() == 0


@pytest.fixture
def stopped(store: LMDBStore, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that was stopped while it was its turn to write stamps."""
    fill(store, b"k")
    with running(WRITING, path, "stamps") as writer:
        writer.send_signal(signal.SIGSTOP)
        yield writer


def test_a_mark_gives_up_where_a_stopped_process_keeps_all_others_from_writing(
    store: LMDBStore, stopped: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(StoreUnavailable, match="Is one of those that use the directory stopped"):
        store.mark(T, W, 60)


def test_hits_go_on_where_a_stopped_process_keeps_all_others_from_writing(
    store: LMDBStore, stopped: subprocess.Popen[bytes]
) -> None:
    assert store.lookup(b"k", T).payload == b"rows"


def test_a_lookup_that_must_write_gives_up_where_a_stopped_process_keeps_all_others_from_it(
    store: LMDBStore, stopped: subprocess.Popen[bytes]
) -> None:
    with pytest.raises(StoreUnavailable, match="keeps all others from writing"):
        store.lookup(None, TagSet((b"never asked about",)))


def test_marks_are_set_again_when_a_stopped_process_goes_on(store: LMDBStore, stopped: subprocess.Popen[bytes]) -> None:
    with pytest.raises(StoreUnavailable):
        store.mark(T, W, 60)
    stopped.send_signal(signal.SIGCONT)
    stopped.communicate(b"x")
    store.mark(T, W, 60)
    assert not store.lookup(b"k", T).storable


def test_a_stopped_process_that_is_killed_gives_way_at_once(store: LMDBStore, stopped: subprocess.Popen[bytes]) -> None:
    stopped.kill()
    stopped.wait()
    store.mark(T, W, 60)
    assert not store.lookup(b"k", T).storable


def test_after_a_wait_in_vain_only_marks_wait_again(
    store: LMDBStore, stopped: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    def lock_within(attempt: Callable[[], None], patience_s: float) -> bool:
        waits.append(patience_s)
        return False

    monkeypatch.setattr(_lmdb_lock, "lock_within", lock_within)
    with pytest.raises(StoreUnavailable):
        store.release((b"t",), W)
    assert waits.pop() > 1
    for again in (lambda: store.release((b"t",), W), lambda: store.lookup(None, TagSet((b"never asked about",)))):
        with pytest.raises(StoreUnavailable):
            again()
        assert waits.pop() <= 0
    with pytest.raises(StoreUnavailable):
        store.mark(T, W, 60)
    assert waits.pop() > 1


def test_a_turn_ends_with_its_process_whatever_its_children_inherited(store: LMDBStore, path: Path) -> None:
    script = """
import ctypes
store._handle.stamps._lock.acquire_at_once()
if not ctypes.PyDLL(None).fork():  # a fork that Python is not told of
    os.read(0, 1)
    os._exit(0)
os.write(1, b"ready")
os.kill(os.getpid(), 9)
"""
    with running(script, path):
        store.mark(T, W, 60)
