"""How are two gunicorn workers run for as long as they are wanted, and how is one of them chosen?

Promises: no process and no file is left behind, however the caller ends (but for ``kill -9``).
"""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

HERE = Path(__file__).parent
HOST = "127.0.0.1"
WORKERS = 2
# Workers of class "gthread" keep connections, so that a caller can stay with one worker; "sync" ones never do.
KEEP_ALIVE_S = 60
START_S = 30


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    headers: dict[str, str]
    body: str

    def told(self, name: str) -> str:
        """Return one of the ``X-QueryCache-*`` headers."""
        return self.headers[f"x-querycache-{name.lower()}"]

    @property
    def body_without_bar(self) -> str:
        """The page without what it says about this very request."""
        return self.body.partition("<footer")[0]

    @property
    def worker(self) -> int:
        return int(self.told("Worker"))

    @property
    def selects(self) -> int:
        return int(self.told("Selects"))

    @property
    def time_ms(self) -> float:
        return float(self.told("Time-ms"))


class Line:
    """A connection that is kept, and with it the worker who answers on it."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=20)
        self.worker = 0
        self.worker = self.ask("GET", "/static/style.css").worker

    def ask(self, method: str, path: str) -> Answer:
        """Send one request. Raises ``OSError`` where another worker answers than before."""
        self._connection.request(method, path)
        with self._connection.getresponse() as response:
            headers = {name.lower(): value for name, value in response.getheaders()}
            answer = Answer(response.status, headers, response.read().decode())
        if self.worker not in (0, answer.worker):
            raise OSError(f"worker {answer.worker} answered on the line to worker {self.worker}")
        return answer

    def close(self) -> None:
        self._connection.close()


@contextmanager
def directory() -> Iterator[Path]:
    """Yield a new directory for a database and a cache, which is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="querycache-example-") as path:
        yield Path(path)


@contextmanager
def workers(place: Path, *, cached: bool, port: int = 0) -> Iterator[int]:
    """Run the application with two workers; yield its port. 0: any free one."""
    with closing(socket.create_server((HOST, port), backlog=64)) as listening:
        port = listening.getsockname()[1]
        command = [
            *(sys.executable, "-m", "gunicorn", "--bind", f"fd://{listening.fileno()}", "--workers", str(WORKERS)),
            *("--worker-class", "gthread", "--keep-alive", str(KEEP_ALIVE_S), "--graceful-timeout", "2"),
            *("--log-level", "warning", "--chdir", str(HERE), "app:create_app()"),
        ]
        environment = os.environ | {
            "FLASK_SQLALCHEMY_DATABASE_URI": f"sqlite:///{place}/users.db",
            "FLASK_QUERYCACHE_URL": f"lmdb://{place}/cache",
            "FLASK_QUERYCACHE_ENABLED": "true" if cached else "false",
        }
        # A session of its own: Ctrl-C reaches us alone, and we end the workers in order.
        server = subprocess.Popen(command, env=environment, pass_fds=[listening.fileno()], start_new_session=True)
    # Our own copy of the socket is closed: where the workers cannot start, a connection is refused instead of kept waiting.
    try:
        yield port
    finally:
        _end(server)


@contextmanager
def lines(port: int) -> Iterator[tuple[Line, Line]]:
    """Yield a line to each of the two workers."""
    give_up_s = time.monotonic() + START_S
    with closing(Line(port)) as first:
        while True:
            with closing(Line(port)) as second:
                if second.worker != first.worker:
                    yield first, second
                    return
            if time.monotonic() > give_up_s:
                raise OSError(f"only one worker answered for {START_S} seconds")


def end_on_sigterm() -> None:
    """Have SIGTERM end the process as Ctrl-C does, with everything cleaned up."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(timeout=5)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
