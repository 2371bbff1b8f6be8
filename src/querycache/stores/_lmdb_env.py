"""How does one process hold an LMDB environment open, whatever happens to its map, its file and the process itself?

Promises: a file is opened once per process, however many stores use it; nothing is running in an environment while it
is resized or closed; environments are closed before a fork, so neither side ever holds the other's. Every error of
LMDB comes out as ``StoreUnavailable``, but for ``NoRoom`` where the caller said that it makes room itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

import lmdb

from querycache.errors import StoreUnavailable
from querycache.stores._lmdb_place import Place

MAX_READERS: Final = 1024
STAMPS_SIZE: Final = 64 * 1024 * 1024
STAMPS_LIMIT: Final = 16 * 1024 * 1024 * 1024
STAMPS_RESERVE: Final = 16 * 1024 * 1024
FORK_PATIENCE_S: Final = 5.0
_TRIES: Final = 20

T = TypeVar("T")


Txn: TypeAlias = "lmdb.Transaction[bytes]"
ChooseSize: TypeAlias = Callable[[Path, int | None], int]
"""Says how large the entries may be in a directory, given what the user asked for."""


class NoRoom(Exception):
    """A write that may not grow the map did not fit: the map is full, or the filesystem is."""


class Closed(Exception):
    """The environment was closed by another thread, or for a fork: get a new handle."""


class Gate:
    """Many inside, or one who shut the gate."""

    def __init__(self) -> None:
        self._cond = threading.Condition(threading.Lock())
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._cond:
            while self._shut:
                self._cond.wait()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._cond:
            self._inside -= 1
            if self._shut and not self._inside:
                self._cond.notify_all()

    def shut(self, timeout_s: float | None = None) -> bool:
        """Let nobody in, and wait for those inside. Return whether they left in time; open again if not."""
        with self._cond:
            if not self._cond.wait_for(lambda: not self._shut, timeout_s):
                return False
            self._shut = True
            if self._cond.wait_for(lambda: not self._inside, timeout_s):
                return True
            self._shut = False
            self._cond.notify_all()
            return False

    def open(self) -> None:
        with self._cond:
            self._shut = False
            self._cond.notify_all()


class Env:
    """One LMDB environment: transactions that retry what can be retried."""

    def __init__(self, directory: Path, size_bytes: int, limit_bytes: int, mode: int, url: str) -> None:
        self.url = url
        self._limit_bytes = limit_bytes
        self._is_broken = False
        self._gate = Gate()
        self._env: lmdb.Environment | None = lmdb.open(
            str(directory),
            map_size=size_bytes,
            mode=mode,
            sync=False,  # a file of another boot is never opened, so nothing need reach a disk
            metasync=False,
            writemap=False,  # a write to a full tmpfs through a map is a SIGBUS, through the file an error
            readahead=False,
            max_readers=MAX_READERS,
            max_spare_txns=0,  # a cached reader would hold a slot across a fork
        )
        self.main = self._env.open_db(None)
        self._env.reader_check()
        about = os.stat(directory / "data.mdb")
        self.identity = (about.st_dev, about.st_ino)

    def read(self, work: Callable[[Txn], T]) -> T:
        return self._run(work, write=False, grow=False)

    def write(self, work: Callable[[Txn], T], *, grow: bool) -> T:
        """Do ``work`` in a write transaction, perhaps more than once. A full map grows, or is left to the caller."""
        return self._run(work, write=True, grow=grow)

    def reader_check(self) -> int:
        """Free the slots of readers that died."""
        with self._gate:
            return self._alive().reader_check()

    def map_size(self) -> int:
        with self._gate:
            return int(self._alive().info()["map_size"])

    @property
    def is_open(self) -> bool:
        return self._env is not None and not self._is_broken

    @property
    def env(self) -> lmdb.Environment | None:
        return self._env

    def shut(self, timeout_s: float | None) -> bool:
        """Wait until nobody is inside and let nobody in. Return whether that came in time."""
        return self._gate.shut(timeout_s)

    def open_gate(self) -> None:
        self._gate.open()

    def close(self) -> None:
        """Close the environment, which must be shut."""
        if self._env is not None:
            self._env.close()
            self._env = None

    def abandon(self) -> None:
        """Let go of the environment in a child whose parent did not close it."""
        self._env = None
        del self.main  # it keeps the environment alive, and LMDB's binding opens no file twice
        self._gate = Gate()

    def _alive(self) -> lmdb.Environment:
        if self._env is None:
            raise Closed
        return self._env

    def _run(self, work: Callable[[Txn], T], *, write: bool, grow: bool) -> T:
        for _ in range(_TRIES):
            try:
                with self._gate, self._alive().begin(write=write) as txn:
                    return work(txn)
            except lmdb.MapResizedError:
                self._resize(lambda env: env.set_mapsize(0))
            except (lmdb.ReadersFullError, lmdb.BadRslotError) as error:
                if not self.reader_check():
                    raise self._unavailable(error) from error
            except lmdb.PanicError as error:
                self._is_broken = True  # the next verb opens it anew
                raise self._unavailable(error) from error
            except lmdb.Error as error:
                if write and not grow:  # a full filesystem comes as "Input/output error"
                    raise NoRoom from error
                if not isinstance(error, lmdb.MapFullError):
                    raise self._unavailable(error) from error
                self._grow(error)
        raise StoreUnavailable(f"{self.url}: the file kept changing its size under {_TRIES} attempts; try again.")

    def _grow(self, error: lmdb.Error) -> None:
        """Make room: first what readers that died still pin, then a larger map (which costs addresses, not memory)."""
        if self.reader_check():
            return
        size = self.map_size()
        if size >= self._limit_bytes:
            raise self._unavailable(error) from error
        self._resize(lambda env: env.set_mapsize(2 * size) if env.info()["map_size"] == size else None)

    def _resize(self, change: Callable[[lmdb.Environment], None]) -> None:
        self._gate.shut()
        try:
            change(self._alive())
        except lmdb.Error as error:
            raise self._unavailable(error) from error
        finally:
            self._gate.open()

    def _unavailable(self, error: lmdb.Error) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url}: {error}. If it stays, check the free space of the filesystem, then stop the processes that "
            "use the directory and delete it: it holds nothing that the database does not."
        )


class Handle:
    """Both environments of one directory, open in this process."""

    def __init__(self, place: Place, size_bytes: int | None, choose_size: ChooseSize) -> None:
        self.place = place
        self.users = 0
        with place.opening() as (directory, alone):
            self._file = str(directory / "stamps" / "data.mdb")
            try:
                self._open(directory, size_bytes, choose_size)
            except lmdb.Error as error:
                if not alone:
                    raise StoreUnavailable(
                        f"{place.url} cannot be opened: {error}. Stop the processes that use it and delete the "
                        "directory."
                    ) from error
                self._start_anew(directory, size_bytes, choose_size)

    def is_current(self) -> bool:
        """Tell whether the path still names the file that is open: one stat."""
        try:
            about = os.stat(self._file)
        except OSError:
            return False
        return (about.st_dev, about.st_ino) == self.stamps.identity

    @property
    def is_open(self) -> bool:
        return self.stamps.is_open and self.entries.is_open

    def close(self, timeout_s: float | None = None) -> bool:
        """Close when nobody is inside. Return whether that came in time; nothing is closed if not."""
        if not self.stamps.shut(timeout_s):
            return False
        try:
            if not self.entries.shut(timeout_s):
                return False
            try:
                self.entries.close()
                self.stamps.close()
                self.place.leave()
            finally:
                self.entries.open_gate()
        finally:
            self.stamps.open_gate()
        return True

    def abandon(self) -> None:
        """Let go of what the parent did not close."""
        self.entries.abandon()
        self.stamps.abandon()
        self.place.leave()

    def _open(self, directory: Path, size_bytes: int | None, choose_size: ChooseSize) -> None:
        mode, url = self.place.file_mode(), self.place.url
        for name in ("stamps", "entries"):
            (directory / name).mkdir(mode=self.place.directory_mode(), exist_ok=True)
        self.stamps = Env(directory / "stamps", STAMPS_SIZE, STAMPS_LIMIT, mode, url)
        try:
            _reserve(self._file)
            self.size_bytes = choose_size(directory, size_bytes)
            self.entries = Env(directory / "entries", self.size_bytes, self.size_bytes, mode, url)
        except BaseException:
            self.stamps.close()
            raise

    def _start_anew(self, directory: Path, size_bytes: int | None, choose_size: ChooseSize) -> None:
        """Open once more without the files, which were damaged and are nobody else's."""
        for name in ("stamps", "entries"):
            for file in ("data.mdb", "lock.mdb"):
                (directory / name / file).unlink(missing_ok=True)
        try:
            self._open(directory, size_bytes, choose_size)
        except lmdb.Error as error:
            raise StoreUnavailable(
                f"{self.place.url} cannot be opened: {error}. Check that its filesystem has free space, or name "
                "another directory."
            ) from error


def _reserve(file: str) -> None:
    """Take the stamps' room now, so that entries that fill the filesystem cannot make a mark fail."""
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, STAMPS_RESERVE)
    finally:
        os.close(descriptor)


_HANDLES: dict[str, Handle] = {}
_LOCK = threading.RLock()
_IS_FORK_ANNOUNCED = False
_KEPT: list[object] = []


def acquire(new_place: Callable[[], Place], size_bytes: int | None, choose_size: ChooseSize) -> Handle:
    """Return the process's handle on a directory: opened now, or the one that another store uses."""
    place = new_place()
    key = os.path.realpath(place.path)
    with _LOCK:
        handle = _HANDLES.get(key)
        if handle is None or not handle.is_open or not handle.is_current():
            if handle is not None:
                del _HANDLES[key]
                handle.close()
            handle = _HANDLES[key] = Handle(place, size_bytes, choose_size)
        handle.users += 1
        return handle


def give_back(handle: Handle) -> None:
    """Close the handle when its last user leaves."""
    with _LOCK:
        handle.users -= 1
        if handle.users > 0:
            return
        for key in [key for key, held in _HANDLES.items() if held is handle]:
            del _HANDLES[key]
        handle.close()


def _before_fork() -> None:
    global _IS_FORK_ANNOUNCED
    _LOCK.acquire()
    _IS_FORK_ANNOUNCED = True
    for handle in _HANDLES.values():
        handle.close(FORK_PATIENCE_S)


def _after_fork_in_parent() -> None:
    global _IS_FORK_ANNOUNCED
    _IS_FORK_ANNOUNCED = False
    _LOCK.release()


def _after_fork_in_child() -> None:
    """Start without environments.

    One that is still open was not closed in time: a thread of the parent is in it. To let go of it here would free that
    thread's reader slot, so it is kept, and this child has to do without the store. Where the fork was not announced
    (some servers fork without telling Python before) nobody is known to be in it, and it is let go.
    """
    global _IS_FORK_ANNOUNCED, _LOCK
    for handle in _HANDLES.values():
        if _IS_FORK_ANNOUNCED:
            _KEPT.append((handle.stamps.env, handle.entries.env))
        handle.abandon()
    _HANDLES.clear()
    _IS_FORK_ANNOUNCED = False
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
