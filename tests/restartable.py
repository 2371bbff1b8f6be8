"""A database server of a test's own, to be killed, restarted, and given back the files that it had before.

Never: a server that survives its test, or another server touched.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from own_servers import (
    PSYCOPG,
    PYMYSQL,
    START_TIMEOUT_S,
    Folder,
    NoServerError,
    account_for,
    find_binary,
    folder_for,
    free_port,
)


@dataclass
class OwnServer:
    """A server in a folder of its own. ``command`` starts it; ``quick_stop`` is the signal for an orderly end."""

    folder: Folder
    url: URL
    socket_url: URL
    command: Sequence[str]
    quick_stop: signal.Signals
    process: subprocess.Popen[bytes] = field(init=False)
    _answered_at: float = field(default=0.0, init=False)

    @property
    def data(self) -> Path:
        """Where its files are."""
        return self.folder.path / "data"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = self.folder.start(*self.command)
        self.wait_until_it_answers()
        self._answered_at = time.time()

    def wait_until_it_answers(self) -> None:
        """Wait until connections can be made."""
        wait_for(lambda: _answers(self.url), "the server does not answer", self.folder.log_tail)

    def end(self, how: signal.Signals) -> None:
        """Send a signal, and wait until the server is gone. MariaDB tells its start to the second: let that one pass."""
        if "mariadb" in self.url.drivername:
            wait_for(lambda: int(time.time()) > int(self._answered_at), "the clock stands still")
        self.process.send_signal(how)
        self.process.wait(timeout=START_TIMEOUT_S)

    def stop(self) -> None:
        """Stop it in order."""
        if self.process.poll() is None:
            self.end(self.quick_stop)

    def keep_files(self) -> None:
        """Stop it, copy its files, and start it again."""
        self.stop()
        _copy(self.data, self.folder.path / "kept")
        self.start()

    def put_files_back(self) -> None:
        """Stop it, give it the files that were kept, and start it again."""
        self.stop()
        shutil.rmtree(self.data)
        _copy(self.folder.path / "kept", self.data)
        self.start()


def _answers(url: URL) -> bool:
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect():
            return True
    except DBAPIError:
        return False


def wait_for(holds: Callable[[], bool], what: str, more: Callable[[], str] = str) -> None:
    """Wait until something holds; fail with ``what`` if it takes too long."""
    give_up_at = time.monotonic() + START_TIMEOUT_S
    while not holds():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{what}\n{more()}")
        time.sleep(0.02)


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True)
    for path in (target, *target.rglob("*")):
        owner = (source / path.relative_to(target)).lstat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextmanager
def own_postgresql(*settings: str) -> Iterator[OwnServer]:
    """Start a PostgreSQL that listens on this machine, on IPv4, IPv6 where there is one, and a socket."""
    initdb = find_binary("initdb", ["/usr/lib/postgresql/*/bin/initdb", "/opt/homebrew/opt/postgresql*/bin/initdb"])
    postgres = str(Path(initdb).resolve().with_name("postgres"))
    port = free_port()
    url = URL.create(PSYCOPG, "postgres", host="127.0.0.1", port=port, database="postgres")
    with folder_for(account_for(["postgres"])) as folder:
        folder.run(initdb, "-D", "data", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        options = [part for setting in ("listen_addresses=127.0.0.1,::1", *settings) for part in ("-c", setting)]
        command = [postgres, "-D", "data", "-p", str(port), "-k", str(folder.path), *options]
        by_socket = url.set(host=None, port=None, query={"host": str(folder.path), "port": str(port)})
        yield from _running(OwnServer(folder, url, by_socket, command, signal.SIGINT))


@contextmanager
def own_mariadb(*settings: str) -> Iterator[OwnServer]:
    """Start a MariaDB that listens on this machine and a socket."""
    places = ["/usr/sbin/", "/usr/local/sbin/", "/usr/libexec/", "/opt/homebrew/bin/"]
    mariadbd = find_binary("mariadbd", [place + "mariadbd" for place in places])
    install = find_binary("mariadb-install-db", ["/opt/homebrew/bin/mariadb-install-db"])
    port = free_port()
    url = URL.create(PYMYSQL, "root", host="127.0.0.1", port=port, database="mysql")
    with folder_for(account_for(["mysql"])) as folder:
        data = ("--no-defaults", f"--datadir={folder.path}/data", f"--tmpdir={folder.path}")
        folder.run(install, *data, "--auth-root-authentication-method=normal", "--skip-test-db")
        command = [
            mariadbd, *data, f"--port={port}", f"--socket={folder.path}/socket", f"--pid-file={folder.path}/pid",
            "--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-buffer-pool-size=64M", *settings,
        ]  # fmt: skip
        by_socket = url.set(host=None, port=None, query={"unix_socket": f"{folder.path}/socket"})
        yield from _running(OwnServer(folder, url, by_socket, command, signal.SIGTERM))


def _running(server: OwnServer) -> Iterator[OwnServer]:
    server.start()
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.send_signal(server.quick_stop)
            try:
                server.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


@contextmanager
def own_pgbouncer(server: OwnServer) -> Iterator[URL]:
    """Start a pgbouncer in front of a PostgreSQL that gives each transaction whichever server session is free."""
    try:
        pgbouncer = find_binary("pgbouncer", ["/usr/sbin/pgbouncer", "/opt/homebrew/bin/pgbouncer"])
    except NoServerError as error:
        raise NoServerError(f"{error}: install it (Debian, Ubuntu: sudo apt-get install pgbouncer)") from error
    port = free_port()
    url = server.url.set(port=port)
    with folder_for(server.folder.account) as folder:
        (folder.path / "users").write_text('"postgres" ""\n')
        (folder.path / "ini").write_text(
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\nauth_file = {folder.path}/users\npool_mode = transaction\nlogfile = {folder.path}/pooler.log\n"
            "[databases]\n"
            f"* = host=127.0.0.1 port={server.url.port} user=postgres\n"
        )
        process = folder.start(pgbouncer, f"{folder.path}/ini")
        try:
            wait_for(lambda: _answers(url), "pgbouncer does not answer", folder.log_tail)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=20)


class Forwarder:
    """Passes TCP connections on to another address: a proxy that knows nothing of what it passes."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(one, other), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while part := source.recv(65536):
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
