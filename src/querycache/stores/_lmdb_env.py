"""How is work done in an LMDB environment, whatever happens to its map and to the processes that share it?

Promises: nothing is running in an environment while it is resized or closed; nobody waits for another writer for good.
Every error of LMDB comes out as ``StoreUnavailable``, but for ``NoRoom`` where the caller said that it makes room itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias, TypeVar

import lmdb

from querycache import _bridge
from querycache.errors import StoreUnavailable
from querycache.stores._lmdb_lock import BRIEF, Patience, Taken, WriteLock

MAX_READERS: Final = 1024
DATA_FILE: Final = "data.mdb"
LOCK_FILE: Final = "writing"
_TRIES: Final = 20

T = TypeVar("T")
A = TypeVar("A")


Txn: TypeAlias = "lmdb.Transaction[bytes]"


class NoRoom(Exception):
    """A write that may not grow the map did not fit: the map is full, or the filesystem is."""


class Closed(Exception):
    """The environment was closed by another thread, or for a fork: get a new handle."""


class Gate:
    """Many inside, or one who shut the gate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # taken as it is on the way of a hit: a condition costs twice as much to enter
        self._cond = threading.Condition(self._lock)
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._lock:
            while self._shut:
                self._cond.wait()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
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
    """One LMDB environment: transactions that retry what can be retried.

    ``is_reserved``: its filesystem keeps room for all of the map, so that it may be written to through the map.
    """

    def __init__(
        self, directory: Path, size_bytes: int, limit_bytes: int, mode: int, url: str, *, is_reserved: bool = False
    ) -> None:
        self.url = url
        self._limit_bytes = limit_bytes
        self._is_reserved = is_reserved
        self._file = directory / DATA_FILE
        self._is_broken = False
        self._gate = Gate()
        self._lock = WriteLock(directory / LOCK_FILE, mode)
        try:
            env = _open(directory, size_bytes, mode, writemap=is_reserved)
            if is_reserved:
                reserve(self._file, env.info()["map_size"])
        except BaseException:
            self._lock.close()
            raise
        self._env: lmdb.Environment | None = env
        self.main = env.open_db(None)
        env.reader_check()
        about = os.stat(self._file)
        self.identity = (about.st_dev, about.st_ino)

    def read(self, work: Callable[[Txn, A], T], about: A) -> T:
        """Do ``work`` about something in a transaction that writes nothing, perhaps more than once."""
        try:
            return self._read_once(work, about)
        except lmdb.Error:
            # Once more, with what helps.
            return self._run(lambda: self._read_once(work, about), makes_room=False)

    def _read_once(self, work: Callable[[Txn, A], T], about: A) -> T:
        with self._gate:
            env = self._env
            if env is None:
                raise Closed
            txn: Txn = env.begin()
            try:
                return work(txn, about)
            finally:
                txn.abort()

    def write(self, work: Callable[[Txn], T], *, grow: bool, patience: Patience = BRIEF) -> T:
        """Do ``work`` in a write transaction, perhaps more than once. A full map grows, or is left to the caller."""
        if _bridge.loop_here() is None:
            try:
                return self._write_once(work, patience)
            except lmdb.Error:
                # Once more, with what helps.
                return self._run(lambda: self._write_once(work, patience), makes_room=not grow)
        try:
            # The wait is outside the gate: who shuts it may be on the same thread.
            return self._lock.on_loop(
                lambda: self._run(lambda: self._write_once(work, None), makes_room=not grow), patience
            )
        except Taken as taken:
            raise self._kept_from_writing() from taken

    def write_if_free(self, work: Callable[[Txn], object]) -> None:
        """Do ``work`` in a write transaction if nobody else writes just now, and if that succeeds at once."""
        with suppress(Taken, lmdb.Error):
            self._write_once(work, None)

    def _write_once(self, work: Callable[[Txn], T], patience: Patience | None) -> T:
        """Do ``work`` when the turn to write has come; without patience raise ``Taken`` where it does not come at once."""
        with self._gate:
            env = self._alive()
            if patience is None:
                self._lock.acquire_at_once()
            elif not self._lock.acquire(patience):
                raise self._kept_from_writing()
            try:
                with env.begin(write=True) as txn:
                    return work(txn)
            finally:
                self._lock.release()

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
            self._lock.close()

    def abandon(self) -> None:
        """Let go of the environment in a child, whether or not the parent closed it before the fork."""
        if self._env is not None:
            self._env = None
            self._lock.close()  # the parent keeps its own
            del self.main  # it keeps the environment alive, and LMDB's binding opens no file twice
        self._gate = Gate()

    def _alive(self) -> lmdb.Environment:
        if self._env is None:
            raise Closed
        return self._env

    def _run(self, turn: Callable[[], T], *, makes_room: bool) -> T:
        for _ in range(_TRIES):
            try:
                return turn()
            except lmdb.MapResizedError:
                self._resize(lambda env: env.set_mapsize(0))
            except (lmdb.ReadersFullError, lmdb.BadRslotError) as error:
                if not self.reader_check():
                    raise self._unavailable(error) from error
            except lmdb.PanicError as error:
                self._is_broken = True  # the next verb opens it anew
                raise self._unavailable(error) from error
            except lmdb.Error as error:
                if makes_room:  # a full filesystem comes as "Input/output error"
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
        self._resize(lambda env: self._double(env) if env.info()["map_size"] == size else None)

    def _double(self, env: lmdb.Environment) -> None:
        size = 2 * env.info()["map_size"]
        if self._is_reserved:
            try:
                reserve(self._file, size)
            except OSError as error:
                raise self._unavailable(error) from error
        env.set_mapsize(size)

    def _resize(self, change: Callable[[lmdb.Environment], None]) -> None:
        self._gate.shut()
        try:
            change(self._alive())
        except lmdb.Error as error:
            raise self._unavailable(error) from error
        finally:
            self._gate.open()

    def _kept_from_writing(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url}: another process keeps all others from writing. Is one of those that use the directory "
            "stopped (SIGSTOP, a debugger, a frozen container)? Continue it, or kill it: then it gives way at once."
        )

    def _unavailable(self, error: lmdb.Error | OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url}: {error}. If it stays, check the free space of the filesystem, then stop the processes that "
            "use the directory and delete it: it holds nothing that the database does not."
        )


def reserve(file: Path, size_bytes: int) -> None:
    """Take room for so much of a file now. Raises ``OSError`` where there is none."""
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
    finally:
        os.close(descriptor)


def _open(directory: Path, size_bytes: int, mode: int, *, writemap: bool) -> lmdb.Environment:
    return lmdb.open(
        str(directory),
        map_size=size_bytes,
        mode=mode,
        sync=False,  # a file of another boot is never opened, so nothing need reach a disk
        metasync=False,
        writemap=writemap,  # without room a write through the map is a SIGBUS, through the file an error
        readahead=False,
        max_readers=MAX_READERS,
        max_spare_txns=0,  # a cached reader would hold a slot across a fork
    )
