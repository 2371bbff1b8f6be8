"""How is a memcached, a Redis or a Valkey of our own started, killed and started again?

From the programs that are installed, on a free port, with nothing on disk but what a test wants there. Never: a server that
others use, or one that survives the run.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from subprocess import Popen

from own_servers import START_TIMEOUT_S, Folder, NoServerError, account_for, find_binary, folder_for, free_port
from redis_servers import program_of
from restartable import wait_for

_PLACES = ("/usr/bin/", "/usr/sbin/", "/usr/local/bin/", "/opt/homebrew/bin/")


@dataclass
class OwnCache:
    """A cache server of our own. ``ping``: what it is sent to see that it answers, and how that answer begins."""

    folder: Folder
    port: int
    command: list[str]
    ping: tuple[bytes, bytes]
    _process: Popen[bytes] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = self.folder.start(*self.command)
        wait_for(self._answers, f"{self.command[0]} does not answer", self.folder.log_tail)

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, and wait until it is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(timeout=START_TIMEOUT_S)

    def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it and start it again."""
        self.end(how)
        self.start()

    def say(self, command: str) -> bytes:
        """Send a line, and return the beginning of what is answered."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(f"{command}\r\n".encode())
            return connection.recv(4096)

    def _answers(self) -> bool:
        sent, begins = self.ping
        try:
            return self.say(sent.decode()).startswith(begins)
        except OSError:
            return False


@contextmanager
def own_memcached(*settings: str) -> Iterator[OwnCache]:
    """Start a memcached."""
    name = "memcached"
    try:
        program = find_binary(name, [place + name for place in _PLACES])
    except NoServerError as error:
        raise NoServerError(f"{error}: install it (Debian, Ubuntu: sudo apt-get install {name})") from error
    with _own(program, ["memcache"], lambda port, folder: _options_of_memcached(port, *settings)) as cache:
        cache.ping = (b"version", b"VERSION")
        cache.start()
        yield cache


@contextmanager
def own_redis(*settings: str, kind: str = "redis") -> Iterator[OwnCache]:
    """Start a Redis, or a Valkey, that saves nothing but what it is told to."""
    with _own(program_of(kind), ["redis"], lambda port, folder: _options_of_redis(port, folder, *settings)) as cache:
        cache.ping = (b"PING", b"+PONG")
        cache.start()
        yield cache


def _options_of_memcached(port: int, *settings: str) -> list[str]:
    return ["-l", "127.0.0.1", "-p", str(port), "-U", "0", *(settings or ("-m", "64"))]


def _options_of_redis(port: int, folder: Folder, *settings: str) -> list[str]:
    where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder.path)]
    return [*where, "--save", "", "--appendonly", "no", *settings]


@contextmanager
def _own(program: str, accounts: list[str], options: Callable[[int, Folder], list[str]]) -> Iterator[OwnCache]:
    port = free_port()
    with folder_for(account_for(accounts)) as folder:
        cache = OwnCache(folder, port, [program, *options(port, folder)], (b"", b""))
        try:
            yield cache
        finally:
            cache.end()
