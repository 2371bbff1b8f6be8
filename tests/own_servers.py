"""How is a PostgreSQL or a MariaDB of our own started, and stopped again?

From the binaries that are installed, in a temporary folder, on a free port, as another user where we are root.
Never: a server that survives the run, a file outside the folder, this machine's own configuration.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sqlalchemy import URL

PSYCOPG = "postgresql+psycopg"
PYMYSQL = "mariadb+pymysql"
START_TIMEOUT_S = 60.0

Refusal: TypeAlias = Callable[[URL], str | None]
"""Why the server at a URL does not suit; None where it does."""


class NoServerError(Exception):
    """No server could be found or started; the message says what to do."""


def free_port() -> int:
    """Return a TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find_binary(name: str, patterns: Iterable[str]) -> str:
    """Return the path of a server's program, the newest where there are several; raise ``NoServerError`` if none."""
    found = shutil.which(name)
    if found is not None:
        return found
    paths = sorted((path for pattern in patterns for path in glob.glob(pattern)), key=_version_in)
    if not paths:
        raise NoServerError(f"no {name} on this machine")
    return paths[-1]


def _version_in(path: str) -> tuple[int, ...]:
    return tuple(int(part) for part in Path(path).parts if part.isdecimal())


def account_for(names: Sequence[str]) -> pwd.struct_passwd | None:
    """Return whom to run a server as: None for ourselves; as root the first of these, since servers refuse root."""
    if os.geteuid() != 0:
        return None
    for name in (*names, "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoServerError(f"running as root, and none of the users {', '.join(names)}, nobody exists to start it as")


@dataclass(frozen=True, slots=True)
class Folder:
    """A temporary folder of the account that a server runs as, and how to run programs there."""

    path: Path
    account: pwd.struct_passwd | None

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start a program in the background, its output in the folder's ``log``."""
        with (self.path / "log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.path,
                env={**os.environ, "HOME": str(self.path), "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=None if self.account is None else self.account.pw_uid,
                group=None if self.account is None else self.account.pw_gid,
                extra_groups=None if self.account is None else [],
                # Ctrl-C is for pytest, which stops the server when the last test is over.
                start_new_session=True,
            )

    def run(self, *command: str) -> None:
        """Run a program to its end; raise ``NoServerError`` with what it said if it fails."""
        if self.start(*command).wait(timeout=START_TIMEOUT_S * 2) != 0:
            raise NoServerError(f"{command[0]} failed:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of what the programs said."""
        return "\n".join((self.path / "log").read_text(errors="replace").splitlines()[-15:])


@contextmanager
def folder_for(account: pwd.struct_passwd | None) -> Iterator[Folder]:
    """Make a folder, short enough in its path for a socket, and remove it at the end."""
    path = Path(tempfile.mkdtemp(prefix="qc-", dir="/tmp"))
    try:
        if account is not None:
            os.chown(path, account.pw_uid, account.pw_gid)
        yield Folder(path, account)
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(
    folder: Folder, process: subprocess.Popen[bytes], refusal: Callable[[], str | None], stop: signal.Signals
) -> Iterator[None]:
    """Wait until a server no longer refuses us; stop it at the end."""
    try:
        _wait_until_it_answers(folder, process, refusal)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_it_answers(folder: Folder, process: subprocess.Popen[bytes], refusal: Callable[[], str | None]) -> None:
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while (refused := refusal()) is not None:
        if process.poll() is not None:
            raise NoServerError(f"it ended at once:\n{folder.log_tail()}")
        if time.monotonic() > give_up_at:
            raise NoServerError(f"no answer in {START_TIMEOUT_S:.0f} s ({refused}):\n{folder.log_tail()}")
        time.sleep(0.05)


def _postgresql_program(name: str) -> str:
    initdb = find_binary("initdb", ["/usr/lib/postgresql/*/bin/initdb", "/opt/homebrew/opt/postgresql*/bin/initdb"])
    # initdb may be a link into the folder where the others live, and those need not be on the path.
    return str(Path(initdb).resolve().with_name(name))


@contextmanager
def start_postgresql(refusal: Refusal) -> Iterator[URL]:
    """Start a PostgreSQL of our own; its data may be lost in a power failure, which makes it quick."""
    with folder_for(account_for(["postgres"])) as folder:
        initdb = _postgresql_program("initdb")
        folder.run(initdb, "-D", "data", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        with _serving(folder, refusal) as url:
            yield url


@contextmanager
def start_standby(primary: URL, refusal: Refusal) -> Iterator[URL]:
    """Start a hot standby of a PostgreSQL of our own, which follows it until it is promoted."""
    with folder_for(account_for(["postgres"])) as folder:
        source = ("-h", str(primary.host), "-p", str(primary.port), "-U", str(primary.username))
        backup = _postgresql_program("pg_basebackup")
        folder.run(backup, *source, "-D", "data", "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        with _serving(folder, refusal) as url:
            yield url


@contextmanager
def _serving(folder: Folder, refusal: Refusal) -> Iterator[URL]:
    port = free_port()
    url = URL.create(PSYCOPG, "postgres", host="127.0.0.1", port=port, database="postgres")
    postgres, where = _postgresql_program("postgres"), ("-D", "data", "-p", str(port), "-k", str(folder.path))
    process = folder.start(postgres, *where, *_POSTGRESQL_SETTINGS)
    with running(folder, process, lambda: refusal(url), _FAST_SHUTDOWN):
        yield url


_FAST_SHUTDOWN = signal.SIGINT  # on SIGTERM PostgreSQL waits for its sessions to end
_POSTGRESQL_SETTINGS = (
    *("-c", "listen_addresses=127.0.0.1"),
    *("-c", "fsync=off"),
    *("-c", "max_connections=200"),
    *("-c", "max_prepared_transactions=20"),
)


@contextmanager
def start_mariadb(refusal: Refusal) -> Iterator[URL]:
    """Start a MariaDB of our own."""
    places = ["/usr/sbin/", "/usr/local/sbin/", "/usr/libexec/", "/opt/homebrew/bin/"]
    mariadbd = find_binary("mariadbd", [place + "mariadbd" for place in places])
    install = find_binary("mariadb-install-db", ["/opt/homebrew/bin/mariadb-install-db"])
    port = free_port()
    url = URL.create(PYMYSQL, "root", host="127.0.0.1", port=port, database="mysql")
    with folder_for(account_for(["mysql"])) as folder:
        # --no-defaults: this machine's own configuration names its own folders, ports and plugins.
        # A temporary folder of its own: at its start it deletes what other servers have in theirs.
        data = ("--no-defaults", f"--datadir={folder.path}/data", f"--tmpdir={folder.path}")
        folder.run(install, *data, "--auth-root-authentication-method=normal", "--skip-test-db")
        process = folder.start(
            mariadbd, *data, f"--port={port}", f"--socket={folder.path}/socket", f"--pid-file={folder.path}/pid",
            *_MARIADB_SETTINGS,
        )  # fmt: skip
        with running(folder, process, lambda: refusal(url), signal.SIGTERM):
            yield url


_MARIADB_SETTINGS = (
    "--bind-address=127.0.0.1",
    "--skip-name-resolve",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-buffer-pool-size=64M",
    "--max-connections=200",
)
