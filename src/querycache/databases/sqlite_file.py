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
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_STATX_INO: Final = 0x100
_STATX_BTIME: Final = 0x800
_STATX_SIZE: Final = 256  # struct statx, linux/stat.h
_INODE: Final = (struct.Struct("=Q"), 32)
_BIRTH: Final = (struct.Struct("=qI"), 80)
_DEVICE: Final = (struct.Struct("=II"), 136)

# Where other machines may write to the file too, so that no identity of this machine's making names it.
_NETWORK_FILESYSTEMS: Final = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "smbfs", "virtiofs"}
)


class NoIdentity(Exception):
    """The file cannot be told from others; the message says why."""


@dataclass(frozen=True, slots=True)
class _Birth:
    device: tuple[int, int]
    inode: int
    born: str


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
    return f"sqlite:{_boot_id()}:{device}:{birth.inode}:{birth.born}"


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _statx(path: str) -> _Birth:
    libc = _libc()
    if not hasattr(libc, "statx"):
        raise NoIdentity("this system's C library has no statx() to ask for the time the file was made")
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    wanted = _STATX_INO | _STATX_BTIME
    if libc.statx(_AT_FDCWD, os.fsencode(path), 0, wanted, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    (given,) = struct.unpack_from("=I", buffer)
    if given & wanted != wanted:
        raise NoIdentity("its filesystem does not keep the time a file was made")
    seconds, nanoseconds = _BIRTH[0].unpack_from(buffer, _BIRTH[1])
    major, minor = _DEVICE[0].unpack_from(buffer, _DEVICE[1])
    (inode,) = _INODE[0].unpack_from(buffer, _INODE[1])
    return _Birth((major, minor), inode, f"{seconds}.{nanoseconds:09d}")


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
