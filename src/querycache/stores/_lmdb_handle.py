"""How does one process hold the files of a store open, whatever happens to them and to the process itself?

Promises: a file is opened once per process, however many stores use it; files that the path no longer names are noticed
at the next verb; everything is closed before a fork, so that neither side ever holds what is the other's.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

import lmdb

from querycache.errors import StoreUnavailable
from querycache.stores._lmdb_env import DATA_FILE, LOCK_FILE, Env, reserve
from querycache.stores._lmdb_place import Place

STAMPS_SIZE: Final = 16 * 1024 * 1024
STAMPS_LIMIT: Final = 16 * 1024 * 1024 * 1024
FORK_PATIENCE_S: Final = 5.0
ENVIRONMENTS: Final = ("stamps", "entries")

ChooseSize: TypeAlias = Callable[[Path, int | None], int]
"""Says how large the entries may be in a directory, given what the user asked for."""


class Handle:
    """Both environments of one directory, open in this process."""

    def __init__(self, place: Place, size_bytes: int | None, choose_size: ChooseSize) -> None:
        self.place = place
        self.users = 0
        with place.opening() as (directory, alone):
            self._file = str(directory / "stamps" / DATA_FILE)
            _remove_if_incomplete(directory)
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
        for name in ENVIRONMENTS:
            (directory / name).mkdir(mode=self.place.directory_mode(), exist_ok=True)
        # The stamps' room is taken now, so that entries that fill the filesystem cannot make a mark fail.
        is_reserved = self.place.keeps_room
        self.stamps = Env(directory / "stamps", STAMPS_SIZE, STAMPS_LIMIT, mode, url, is_reserved=is_reserved)
        try:
            if not is_reserved and hasattr(os, "posix_fallocate"):
                reserve(Path(self._file), STAMPS_SIZE)
            self.size_bytes = choose_size(directory, size_bytes)
            self.entries = Env(directory / "entries", self.size_bytes, self.size_bytes, mode, url)
        except BaseException:
            self.stamps.close()
            raise

    def _start_anew(self, directory: Path, size_bytes: int | None, choose_size: ChooseSize) -> None:
        """Open once more without the files, which were damaged and are nobody else's."""
        _remove(directory)
        try:
            self._open(directory, size_bytes, choose_size)
        except lmdb.Error as error:
            raise StoreUnavailable(
                f"{self.place.url} cannot be opened: {error}. Check that its filesystem has free space, or name "
                "another directory."
            ) from error


def _remove_if_incomplete(directory: Path) -> None:
    """Begin anew where somebody has removed some of the files: whoever has them open notices, and follows.

    LMDB would make a new lock beside data that others write to under the old one. (Cleaners of temporary files go by the
    time of change, which ``lock.mdb`` does not get: it is only mapped.)
    """
    there = [(directory / name / file).exists() for name in ENVIRONMENTS for file in (DATA_FILE, "lock.mdb", LOCK_FILE)]
    if not all(there):
        _remove(directory)


def _remove(directory: Path) -> None:
    for name in ENVIRONMENTS:
        shutil.rmtree(directory / name, ignore_errors=True)


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
