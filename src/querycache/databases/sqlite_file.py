"""Which file is this, for every process of this machine and for no other file that ever had its name?

Device and inode are not enough: a file system gives the inode of a removed file to the next one at once. The time of
birth tells them apart, to the tick of the kernel's clock. It never opens the file: closing any handle of it would drop
the locks that SQLite holds on it for this process. A ``FileWatch`` costs a few microseconds: it is asked before each hit.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

_AT_FDCWD: Final = -100
_WANTED: Final = 0x100 | 0x800
"""STATX_INO and STATX_BTIME."""

# struct statx, linux/stat.h: what is given, the inode, the time of birth, the device.
_STATX: Final = struct.Struct("=I28xQ40xqI44xII")
_Buffer: Final = ctypes.c_char * 256

# Where other machines may write to the file too, so that no identity of this machine's making names it.
_NETWORK_FILESYSTEMS: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
)


class NoIdentity(Exception):
    """The file cannot be told from others; the message says why."""


class _Birth(NamedTuple):
    device: tuple[int, int]
    inode: int
    born: tuple[int, int] | str
    """In seconds and nanoseconds, or as the system says it."""


class FileWatch:
    """Names the file that is at a path now, again and again."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._last: tuple[_Birth, str] | None = None

    def identity(self) -> str | None:
        """Return the same as ``file_identity_of``; None where that raises."""
        try:
            birth = _birth_of(self.path)
        except NoIdentity:
            return None
        last = self._last
        if last is None or last[0] != birth:
            try:
                last = self._last = birth, _identity_of(birth)
            except NoIdentity:
                return None
        return last[1]


def file_identity_of(path: str) -> str:
    """Name the file at ``path``; raises NoIdentity."""
    return _identity_of(_birth_of(path))


def _birth_of(path: str) -> _Birth:
    try:
        return _statx(path) if sys.platform == "linux" else _stat(path)
    except OSError as error:
        raise NoIdentity(f"its file cannot be looked at ({error.strerror})") from error


def _identity_of(birth: _Birth) -> str:
    if (filesystem := _network_filesystem_of(birth.device)) is not None:
        raise NoIdentity(f"its file is on a network filesystem ({filesystem}), where other machines may write to it")
    device = f"{birth.device[0]}.{birth.device[1]}"
    born = birth.born if isinstance(birth.born, str) else "{}.{:09d}".format(*birth.born)
    return f"sqlite:{_boot_id()}:{device}:{birth.inode}:{born}"


@cache
def _statx_of_libc() -> Any | None:
    return getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def _statx(path: str) -> _Birth:
    statx = _statx_of_libc()
    if statx is None:
        raise NoIdentity("this system's C library has no statx() to ask for the time the file was made")
    buffer = _Buffer()
    if statx(_AT_FDCWD, os.fsencode(path), 0, _WANTED, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    given, inode, seconds, nanoseconds, major, minor = _STATX.unpack_from(buffer)
    if given & _WANTED != _WANTED:
        raise NoIdentity("its filesystem does not keep the time a file was made")
    return _Birth((major, minor), inode, (seconds, nanoseconds))


def _stat(path: str) -> _Birth:
    found = os.stat(path)
    born = getattr(found, "st_birthtime_ns", None) or getattr(found, "st_birthtime", None)
    if not born or not found.st_ino:
        raise NoIdentity("this system does not tell the time a file was made")
    return _Birth((0, found.st_dev), found.st_ino, repr(born))


def _network_filesystem_of(device: tuple[int, int]) -> str | None:
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    wanted = f"{device[0]}:{device[1]}"
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        filesystem = after.split(" ", 1)[0]
        if before.split()[2] == wanted and (filesystem in _NETWORK_FILESYSTEMS or filesystem.startswith("fuse.")):
            return filesystem
    return None


def _boot_id() -> str:
    """Tell machines, and copies of one virtual machine, apart; empty where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
