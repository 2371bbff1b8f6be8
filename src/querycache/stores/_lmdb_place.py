"""May this directory hold the store, and is it held by processes that can share it?

Promises: what cannot work is refused at start, with the URL, the cause and the remedy: a network filesystem, a
directory of somebody else, processes of another PID namespace (LMDB knows its readers and writers by pid) or of another
time namespace (their clock is another one). Files of another boot are deleted, never opened: nothing was synced, their
pages may be torn. Never deletes what querycache did not make.

Two lock files: ``opening`` is held while a process opens, ``lock`` (shared) as long as it has the store open. Who gets
``lock`` exclusively is alone.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores._lmdb_lock import lock_within

if sys.platform != "win32":
    import fcntl

FORMAT: Final = "querycache-lmdb 3"
OURS: Final = ("lock", "opening")
OPENING_S: Final = 10.0
_BOOT: Final = re.compile(r"[0-9a-fA-F-]{32,40}")
_NETWORK: Final = "nfs nfs4 cifs smb smb2 smb3 smbfs 9p virtiofs afs ceph glusterfs lustre gpfs beegfs ocfs2 gfs2"
_DESKTOP: Final = "orangefs ncpfs vboxsf prl_fs webdav afpfs osxfs acfs"
_KEEPS_ROOM: Final = frozenset({"tmpfs", "ext4", "xfs"})
_REFUSED: Final = frozenset(f"{_NETWORK} {_DESKTOP}".split(" "))


def default_path() -> Path:
    """Return the machine's runtime directory: the same for every process, whoever starts it and wherever."""
    named = os.environ.get("QUERYCACHE_RUNTIME_DIR")
    if named:
        return Path(named)
    shared = Path("/dev/shm")
    return (shared if sys.platform == "linux" and shared.is_dir() else Path(tempfile.gettempdir())) / "querycache"


def boot_id() -> str:
    """Return what the system drew at random when it booted.

    Never a computed boot time: it drifts with the clock, and processes would stop hearing each other.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError as missing:
        if sys.platform == "darwin":
            command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        raise ConfigurationError(
            "This system has no boot id (/proc/sys/kernel/random/boot_id cannot be read), which an lmdb:// store "
            "needs: mount /proc, or use memory:// with one process."
        ) from missing


def namespace(kind: str) -> str:
    """Return the name of this process's namespace of a kind ("pid", "time"); empty where the system has none."""
    try:
        return os.readlink(f"/proc/self/ns/{kind}")
    except OSError:
        return ""


def filesystem_of(path: Path) -> str:
    """Return the type of the filesystem that holds ``path``, as the mount table names it; empty where there is none."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return ""
    best, kind = -1, ""
    real = os.path.realpath(path)
    for line in mounts.splitlines():
        fields, _, tail = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split(" ")[4])
        covers = real == point or real.startswith(point.rstrip("/") + "/")
        if covers and len(point) >= best:  # of two mounts on one point the later one hides the earlier
            best, kind = len(point), tail.split(" ")[0]
    return kind


class Place:
    """A directory that this process may use, and the lock that says it does."""

    def __init__(self, path: Path, *, is_default: bool, filesystem: Callable[[Path], str] = filesystem_of) -> None:
        self.path = path
        self.url = f"lmdb://{path}"
        self.is_default = is_default
        self._filesystem = filesystem
        self._lock: int | None = None

    @contextmanager
    def opening(self) -> Iterator[tuple[Path, bool]]:
        """Yield the directory of this boot and whether nobody else has the store open. One process at a time."""
        self._prepare()
        boot = boot_id()
        try:
            gate = self._open_lock_file("opening")
            try:
                if not lock_within(lambda: fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB), OPENING_S):
                    raise StoreUnavailable(
                        f"{self.url} is being opened by another process, for more than {OPENING_S:.0f} seconds by now. "
                        "Is it stopped (SIGSTOP, a debugger)? Continue it or kill it."
                    )
                alone = self._join(f"{FORMAT}\n{namespace('pid')}\n{boot}\n{namespace('time')}\n", boot)
                directory = self.path / boot
                directory.mkdir(mode=self.directory_mode(), exist_ok=True)
                yield directory, alone
            finally:
                os.close(gate)
        except OSError as error:
            self.leave()
            raise self._unusable(error) from error
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def keeps_room(self) -> bool:
        """Whether what is reserved here can be written whatever else fills the filesystem: not where writing copies."""
        return hasattr(os, "posix_fallocate") and self._filesystem(self.path) in _KEEPS_ROOM

    def file_mode(self) -> int:
        """Return the mode for files: a directory shared with a group gets files that the group can write."""
        return 0o600 | (self._mode() & 0o060)

    def directory_mode(self) -> int:
        return 0o700 | (self._mode() & 0o070)

    def _mode(self) -> int:
        return stat.S_IMODE(os.stat(self.path).st_mode)

    def _prepare(self) -> None:
        if sys.platform == "win32":
            raise ConfigurationError(f"{self.url}: an lmdb:// store needs Linux or macOS; use memory:// on Windows.")
        try:
            self._refuse_network()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.path.mkdir(mode=0o700)
            except FileExistsError:
                self._refuse_foreign()
        except OSError as error:
            raise self._unusable(error) from error

    def _refuse_network(self) -> None:
        kind = self._filesystem(self.path)
        if kind in _REFUSED or kind.startswith("fuse"):
            raise ConfigurationError(
                f"{self.url} lies on a filesystem of type {kind!r}. Shared memory and locks of LMDB do not work there: "
                "name a directory on a local filesystem, for example lmdb:///dev/shm/querycache."
            )

    def _refuse_foreign(self) -> None:
        about = os.lstat(self.path)
        if not self.path.is_dir():
            raise ConfigurationError(f"{self.url} is a file: name a directory that querycache may create.")
        if self.is_default and (about.st_uid != os.geteuid() or about.st_mode & 0o022 or stat.S_ISLNK(about.st_mode)):
            raise ConfigurationError(
                f"{self.url}, the default directory, belongs to user {about.st_uid} with mode "
                f"{stat.S_IMODE(about.st_mode):o}; this process runs as user {os.geteuid()}. Anybody who can write "
                "there could forge cached rows: set QUERYCACHE_URL to lmdb:///a/directory/of/your/own, the same "
                "for all processes that use one database."
            )
        if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"{self.url} cannot be written by user {os.geteuid()}: give that user the directory, "
                "or name another one that all processes of the application can write."
            )
        strangers = [name for name in os.listdir(self.path) if name not in OURS and not _BOOT.fullmatch(name)]
        if strangers:
            raise ConfigurationError(
                f"{self.url} holds files that are not querycache's ({sorted(strangers)[0]!r}): "
                "name a directory of its own, which querycache may create."
            )

    def _open_lock_file(self, name: str) -> int:
        return os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, self.file_mode())

    def _join(self, mine: str, boot: str) -> bool:
        """Take the lock. Return whether we are alone; then what others left behind is gone."""
        self._lock = self._open_lock_file("lock")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._refuse_others(os.pread(self._lock, 4096, 0).decode(errors="replace"), mine)
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return False
        theirs = os.pread(self._lock, 4096, 0).decode(errors="replace")
        for name in os.listdir(self.path):
            if _BOOT.fullmatch(name) and (name != boot or theirs != mine):
                shutil.rmtree(self.path / name)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, mine.encode(), 0)
        # Not atomic, but whoever could step in between waits for ``opening``.
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return True

    def _refuse_others(self, theirs: str, mine: str) -> None:
        if theirs == mine:
            return
        if theirs.partition("\n")[0] != FORMAT:
            raise ConfigurationError(
                f"{self.url} is in use by processes with another version of querycache, whose files differ: "
                "stop them first, or give the new version a directory of its own and stop the old one soon."
            )
        if theirs.split("\n")[:3] == mine.split("\n")[:3]:
            raise ConfigurationError(
                f"{self.url} is in use by processes of another time namespace (unshare --time), whose clock is another "
                "one: run all of them in one, or give each a directory and a database of its own."
            )
        raise ConfigurationError(
            f"{self.url} is in use by processes of another PID namespace (another container). LMDB tells processes "
            "apart by their pid, so it cannot be shared between containers: run them with one PID namespace, or "
            "give each container a directory and a database of its own."
        )

    def _unusable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(
            f"{self.url} cannot be used: {error.strerror or error} ({error.filename or self.path}). Check that the "
            f"directory can be created and written by user {os.geteuid()} and that its filesystem has free space, "
            f"or name another one."
        )
