"""A wire to a database server that breaks where a test says: a TCP proxy which knows a COMMIT when it passes.

The bytes go through as they are, for any number of connections. ``arm`` names a point; the next COMMIT of any connection (or
the next statement that is named instead) stops there (``reached``), and what then goes on is the test's decision. One point
at a time, and each only once: later connections pass untouched.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from enum import Enum
from types import TracebackType

from sqlalchemy import URL, make_url

TIMEOUT_S = 30.0
_COMMITS = (b"COMMIT\x00", b"\x03COMMIT")  # PostgreSQL's query messages; COM_QUERY of MySQL and MariaDB
_LONGEST_STATEMENT = 100
_PART_OF_AN_ANSWER = 3


class Point(Enum):
    """Where a connection breaks; the server has the COMMIT in all but the first."""

    BEFORE = "the COMMIT is lost, and both ends of the connection"
    LATE = "the client's end is lost; the COMMIT is under way until the wire goes on"
    AFTER = "the answer is lost, and both ends of the connection"
    STALL = "a part of the answer arrives, and no more until the wire goes on"


class Wire:
    """A way to the server of ``url``; ``url`` of this object leads through it."""

    def __init__(self, url: str) -> None:
        self._server = make_url(url)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._point: Point | None = None
        self._awaited: tuple[bytes, ...] = _COMMITS
        self._ends: list[socket.socket] = []
        self._resumed = threading.Event()
        self._stalled: tuple[socket.socket, socket.socket] | None = None
        self.reached = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._resumed.set()
        _close(self._listener, *self._ends)

    @property
    def url(self) -> str:
        port: int = self._listener.getsockname()[1]
        url: URL = self._server.set(host="127.0.0.1", port=port)
        return url.render_as_string(hide_password=False)

    def arm(self, point: Point, *statements: bytes) -> None:
        """Break the connection of the next COMMIT at a point, or of the next of these statements."""
        self._awaited = statements or _COMMITS
        self._resumed.clear()
        self.reached.clear()
        self._point = point

    def wait_until_reached(self) -> None:
        """Wait until a COMMIT is where ``arm`` said."""
        assert self.reached.wait(TIMEOUT_S), "no COMMIT came by"

    def resume(self) -> None:
        """Let what was held back go on."""
        self._resumed.set()

    def cut(self) -> None:
        """Cut both ends of the connection that stalls."""
        assert self._stalled is not None
        _close(*self._stalled)

    def cut_client(self) -> None:
        """Cut the client's end of the connection that stalls: the server does not hear of it."""
        assert self._stalled is not None
        _close(self._stalled[0])

    def cut_all(self) -> None:
        """Cut both ends of every connection there is; later ones pass."""
        _close(*self._ends)
        self._ends.clear()

    def _accept(self) -> None:
        default_port = 5432 if self._server.get_backend_name() == "postgresql" else 3306
        with suppress(OSError):  # closed at the end of the test
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection((self._server.host or "127.0.0.1", self._server.port or default_port))
                self._ends += [client, server]
                connection = _Connection(self, client, server)
                for pump in (connection.send, connection.answer):
                    threading.Thread(target=pump, daemon=True).start()

    def _take_point(self, said: bytes) -> Point | None:
        if not any(statement in said for statement in self._awaited):
            return None
        point, self._point = self._point, None
        return point


class _Connection:
    """One connection: two threads, one for each direction."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket) -> None:
        self._wire, self._client, self._server = wire, client, server
        self._point: Point | None = None

    def send(self) -> None:
        """Carry what the client says."""
        before = b""
        with suppress(OSError):
            while said := self._client.recv(65536):
                if self._point is None:
                    self._point = self._wire._take_point(before + said)
                    if self._point is not None and not self._passes(self._point):
                        return
                before = (before + said)[-_LONGEST_STATEMENT:]
                self._server.sendall(said)
                if self._point is Point.LATE:
                    return
        if self._point is not Point.STALL:
            _close(self._client, self._server)

    def _passes(self, point: Point) -> bool:
        """Do what is to be done before the server has the COMMIT; tell whether it gets it."""
        if point is Point.BEFORE:
            _close(self._client, self._server)
            self._wire.reached.set()
        elif point is Point.LATE:
            _close(self._client)
            self._wire.reached.set()
            return self._wire._resumed.wait(TIMEOUT_S)
        return point is not Point.BEFORE

    def answer(self) -> None:
        """Carry what the server says."""
        with suppress(OSError):
            while said := self._server.recv(65536):
                if self._point in (Point.AFTER, Point.LATE):
                    # The server has answered the COMMIT.
                    self._wire.reached.set()
                    break
                if self._point is Point.STALL and not self._wire.reached.is_set():
                    self._client.sendall(said[:_PART_OF_AN_ANSWER])
                    said = said[_PART_OF_AN_ANSWER:]
                    self._wire._stalled = self._client, self._server
                    self._wire.reached.set()
                    self._wire._resumed.wait(TIMEOUT_S)
                    self._point = None
                self._client.sendall(said)
        if self._point is not Point.STALL:
            _close(self._client, self._server)


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
