"""The LMDB store keeps the contract, among processes, whoever is killed, and says clearly where it cannot."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lmdb
import pytest

from querycache._types import TagSet
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores import _lmdb_env, _lmdb_place
from querycache.stores.base import Store
from querycache.stores.lmdb import LMDBStore
from querycache.testing import Hammer, StoreConformance

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks with threads

MIB = 1024 * 1024
T = TagSet((b"t",))
W = bytes(range(1, 17))


class ClockedStore(LMDBStore):
    """A store whose clock a test can move."""

    ahead_ns = 0

    def _ticks(self) -> int:
        return super()._ticks() + self.ahead_ns


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


def fill(store: Store, key: bytes, payload: bytes = b"rows", tags: TagSet = T, ttl_s: float = 60) -> bool:
    return store.fill(key, payload, store.lookup(key, tags).lease, ttl_s)


def run(script: str, *arguments: object) -> str:
    """Run Python in a process of its own and return what it printed."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def in_child(work: Callable[[], bool]) -> int:
    """Fork, do ``work`` in the child and return its exit code: 0 where it returned True."""
    child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


PRELUDE = """
import os, sys
from querycache._types import TagSet
from querycache.stores.lmdb import LMDBStore
T, W = TagSet((b"t",)), bytes(range(1, 17))
store = LMDBStore(sys.argv[1], 4 << 20)
"""


# Processes


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


# Killed processes


BUSY = """
number = 0
os.write(1, b"ready")
while True:
    number += 1
    tags = TagSet((b"t%d" % (number % 50),), ((b"table!", b"f"),))
    seen = store.lookup(b"%d" % number, tags)
    store.fill(b"%d" % number, bytes(number % 5000), seen.lease, 60)
    store.release(store.mark(tags, number.to_bytes(16), 60), number.to_bytes(16))
"""


def test_killed_readers_and_writers_leave_a_store_that_works(store: LMDBStore, path: Path) -> None:
    for round_ in range(12):
        workers = [busy(path), busy(path)]
        for number in range(40 * round_):
            store.lookup(b"k%d" % number, T)
        for worker in workers:
            kill(worker)
        store.release((b"t",), W)
        assert fill(store, b"k", b"%d" % round_)
        assert store.lookup(b"k", T).payload == b"%d" % round_


def busy(path: Path) -> subprocess.Popen[bytes]:
    """Start a process that uses the store without pause."""
    worker = subprocess.Popen([sys.executable, "-c", PRELUDE + BUSY, str(path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.read(5) == b"ready"
    return worker


PINNED = """
handle = store._handle
env = handle.stamps._env if sys.argv[2] == "stamps" else handle.entries._env
txn = env.begin()
txn.get(b"x")
os.write(1, b"ready")
os.read(0, 1)
"""


def pinning(path: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a process that holds a read transaction open, which pins every page there is."""
    command = [sys.executable, "-c", PRELUDE + PINNED, str(path), name]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    assert reader.stdout is not None
    assert reader.stdout.read(5) == b"ready"
    return reader


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


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
    kill(pinning(path, "entries"))
    store._checked_ns = 0
    fill(store, b"k")
    handle = store._handle
    assert handle is not None
    assert handle.entries.reader_check() == 0


# Room


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
    reader = pinning(path, "entries")
    outcomes = [fill(store, b"%d" % number, bytes(100_000)) for number in range(200)]
    assert outcomes[0]
    assert not outcomes[-1]
    store.mark(T, W, 60)
    assert not store.lookup(None, T).storable
    kill(reader)
    kept = [fill(store, b"%d" % number, bytes(100_000)) for number in range(10)]
    assert kept[-1]


def test_a_mark_finds_room_however_long_an_old_reader_pins_the_stamps(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_env, "STAMPS_SIZE", 256 * 1024)
    store = LMDBStore(path, 4 * MIB)
    reader = pinning(path, "stamps")
    for number in range(300):
        store.mark(TagSet(tuple(b"%d" % (number * 10 + i) for i in range(10))), W, 60)
    handle = store._handle
    assert handle is not None
    assert handle.stamps.map_size() > 256 * 1024
    assert not store.lookup(None, TagSet((b"2999",))).storable
    kill(reader)
    store.close()


def test_a_map_that_another_process_has_grown_is_taken_over(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lmdb_env, "STAMPS_SIZE", 256 * 1024)
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
    monkeypatch.setattr(_lmdb_env, "STAMPS_SIZE", 256 * 1024)
    monkeypatch.setattr(_lmdb_env, "STAMPS_LIMIT", 256 * 1024)
    store = LMDBStore(path, 4 * MIB)
    tags = TagSet(tuple(b"%d" % number for number in range(20_000)))
    with pytest.raises(StoreUnavailable, match=f"lmdb://{path}.*MAP_FULL.*free space"):
        store.mark(tags, W, 60)
    store.close()


def test_thousands_of_guards_are_forgotten_in_time(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("querycache.stores.lmdb.MAX_GUARDS", 100 - (1 << 18))
    store.lookup(None, TagSet(guards=tuple((b"table%d" % number, b"f") for number in range(200))))
    assert not store.lookup(None, TagSet(guards=((b"table1", b"f"),))).storable


# Fork


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
    monkeypatch.setattr(_lmdb_env, "FORK_PATIENCE_S", 0.01)
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


def test_a_child_of_a_fork_that_was_not_announced_can_use_the_store(store: LMDBStore) -> None:
    fill(store, b"k")
    child = ctypes.PyDLL(None).fork()
    if not child:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        os._exit(0 if store.lookup(b"k", T).payload == b"rows" and fill(store, b"mine") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.lookup(b"k", T).payload == b"rows"
    assert store.lookup(b"mine", T).payload == b"rows"


# Files replaced


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


# Paths that cannot be used


def refused(path: Path, kind: type[Exception] = ConfigurationError, **options: object) -> str:
    with pytest.raises(kind) as caught:
        LMDBStore(path, 4 * MIB, **options)  # type: ignore[arg-type]  # options of several types
    assert f"lmdb://{path}" in str(caught.value)
    return str(caught.value)


def test_a_path_that_is_a_file_is_refused(path: Path) -> None:
    path.write_text("mine")
    assert "is a file" in refused(path)


def test_a_path_below_a_file_is_refused(path: Path) -> None:
    path.write_text("mine")
    refused(path / "below", StoreUnavailable)


def test_a_directory_with_files_of_others_is_refused_and_left_alone(path: Path) -> None:
    path.mkdir()
    (path / "letters.txt").write_text("mine")
    assert "letters.txt" in refused(path)
    assert os.listdir(path) == ["letters.txt"]


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "fuseblk"])
def test_a_network_filesystem_is_refused_by_its_type(path: Path, kind: str) -> None:
    assert repr(kind) in refused(path, filesystem=lambda _: kind)
    assert not path.exists()


def test_the_type_of_a_filesystem_is_found_for_a_path_that_does_not_exist_yet(path: Path) -> None:
    assert _lmdb_place.filesystem_of(path) == _lmdb_place.filesystem_of(path.parent) != ""
    assert _lmdb_place.filesystem_of(Path("/proc/self/x")) == "proc"


def test_a_directory_in_use_by_another_pid_namespace_is_refused(
    store: LMDBStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_place, "pid_namespace", lambda: "pid:[1]")
    with pytest.raises(ConfigurationError, match="another PID namespace"), _place(path).opening():
        pass


def test_a_directory_that_another_pid_namespace_left_is_taken_over_empty(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_place, "pid_namespace", lambda: "pid:[1]")
    theirs = LMDBStore(path, 4 * MIB)
    fill(theirs, b"k")
    theirs.close()
    monkeypatch.undo()
    ours = LMDBStore(path, 4 * MIB)
    assert ours.lookup(b"k", T).payload is None
    ours.close()


def test_a_directory_in_use_by_another_version_is_refused(
    store: LMDBStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lmdb_place, "FORMAT", "querycache-lmdb 2")
    with pytest.raises(ConfigurationError, match="another version of querycache"), _place(path).opening():
        pass


def _place(path: Path) -> _lmdb_place.Place:
    return _lmdb_place.Place(path, is_default=False)


def test_a_default_directory_that_others_can_write_is_refused_with_the_remedy(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)
    assert "QUERYCACHE_URL" in refused(path, is_default=True)


def test_a_default_directory_that_is_a_link_is_refused(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")
    assert "QUERYCACHE_URL" in refused(path, is_default=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


@needs_root
def test_a_default_directory_of_another_user_is_refused_with_the_remedy(path: Path) -> None:
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)
    assert "belongs to user 12345" in refused(path, is_default=True)


AS_NOBODY = """
import os, sys
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores.lmdb import LMDBStore
os.setgid(65534), os.setuid(65534)
try:
    LMDBStore(sys.argv[1], 4 << 20)
except (ConfigurationError, StoreUnavailable) as error:
    print(type(error).__name__, error)
"""


@needs_root
@pytest.mark.parametrize(("name", "kind"), [("cache", "ConfigurationError"), ("new/cache", "StoreUnavailable")])
def test_a_directory_without_permission_is_an_error_at_the_start(tmp_path: Path, name: str, kind: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "cache").mkdir(mode=0o755)
    for directory in (home, *list(home.parents)[:4]):
        directory.chmod(directory.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, str(home / name)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{kind} lmdb://{home / name} cannot be")
    assert "65534" in done.stdout


def test_a_new_directory_belongs_to_its_user_alone(store: LMDBStore, path: Path) -> None:
    files = [path, *path.rglob("*")]
    assert all(stat.S_IMODE(file.stat().st_mode) & 0o077 == 0 for file in files)


def test_a_directory_that_its_owner_shares_with_a_group_has_files_that_the_group_can_write(path: Path) -> None:
    before = os.umask(0o002)
    try:
        path.mkdir()
        path.chmod(0o770)
        LMDBStore(path, 4 * MIB).close()
    finally:
        os.umask(before)
    files = list(path.rglob("*"))
    assert files
    assert all(file.stat().st_mode & 0o060 == 0o060 for file in files)


def test_a_filesystem_without_space_is_an_error_that_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert "No space left" in refused(path, StoreUnavailable)
    monkeypatch.undo()
    LMDBStore(path, 4 * MIB).close()


def test_a_filesystem_that_fills_up_makes_fills_fail_and_no_error(
    store: LMDBStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise lmdb.Error("mdb_txn_commit: Input/output error")

    monkeypatch.setattr("querycache.stores.lmdb._put", full)
    assert not fill(store, b"k")
    monkeypatch.undo()
    assert fill(store, b"k")


def test_an_environment_that_broke_is_opened_anew(store: LMDBStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(*_: object) -> int:
        raise lmdb.PanicError("MDB_PANIC: Update of meta page failed or environment had fatal error")

    monkeypatch.setattr("querycache.stores.lmdb._put", panic)
    with pytest.raises(StoreUnavailable, match="MDB_PANIC"):
        fill(store, b"k")
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


def test_a_store_can_be_opened_again_after_close(path: Path) -> None:
    store = LMDBStore(path, 4 * MIB)
    fill(store, b"k")
    store.close()
    assert store.lookup(b"k", T).payload == b"rows"
    store.close()
