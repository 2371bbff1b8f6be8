"""The proxy between a worker and its server passes everything on, and treats one worker as it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
from torture_wires import Wires, wires_between

PATIENCE_S = 20.0
BRIEFLY_S = 0.2


class Echo:
    """A server that answers each message with its name and the message."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._news = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def hears(self, message: bytes) -> bool:
        """Wait for a message."""
        with self._news:
            return self._news.wait_for(lambda: message in self.heard, PATIENCE_S)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            while message := client.recv(4096):
                with self._news:
                    self.heard.append(message)
                    self._news.notify_all()
                client.sendall(b"12345678:%b" % message if message != b"port" else b":%d\r\n" % self.port)


@pytest.fixture
def servers() -> Iterator[list[Echo]]:
    servers = [Echo(), Echo()]
    yield servers
    for server in servers:
        server.close()


@pytest.fixture
def wires(servers: list[Echo]) -> Iterator[Wires]:
    with wires_between(2, [server.port for server in servers]) as wires:
        yield wires


@pytest.fixture
def link(wires: Wires, servers: list[Echo]) -> Iterator[socket.socket]:
    """A connection of worker 0 to the first server."""
    with socket.create_connection(("127.0.0.1", wires.port(0, servers[0].port)), PATIENCE_S) as link:
        yield link


def said(link: socket.socket, size: int) -> bytes:
    """Return so many bytes."""
    found = b""
    while len(found) < size:
        part = link.recv(size - len(found))
        if not part:
            raise ConnectionError("the connection ended")
        found += part
    return found


def is_silent(link: socket.socket) -> bool:
    link.settimeout(BRIEFLY_S)
    try:
        link.recv(1)
    except TimeoutError:
        return True
    finally:
        link.settimeout(PATIENCE_S)
    return False


def test_what_is_sent_arrives_and_is_answered(link: socket.socket) -> None:
    link.sendall(b"hello")

    assert said(link, 14) == b"12345678:hello"


def test_a_stalled_answer_stops_in_its_middle_and_is_delivered_in_the_end(link: socket.socket, wires: Wires) -> None:
    wires.set(0, "stall")
    link.sendall(b"hello")
    assert said(link, 7) == b"1234567"
    link.sendall(b"again!")
    assert is_silent(link)
    wires.set(0, "pass")

    assert said(link, 7 + 15) == b"8:hello12345678:again!"


def test_what_was_sent_into_a_stall_arrives_though_nobody_waits_any_more(
    link: socket.socket, wires: Wires, servers: list[Echo]
) -> None:
    wires.set(0, "stall")
    link.sendall(b"hello")
    assert said(link, 7) == b"1234567"
    link.sendall(b"late")
    link.close()
    assert servers[0].heard == [b"hello"]
    wires.set(0, "pass")

    assert servers[0].hears(b"late")


def test_what_is_dropped_is_lost_with_its_connection(link: socket.socket, wires: Wires) -> None:
    wires.set(0, "drop")
    link.sendall(b"hello")
    assert is_silent(link)
    wires.set(0, "pass")

    with pytest.raises(OSError, match=r"reset|ended"):
        said(link, 1)


def test_who_is_refused_gets_no_connection(link: socket.socket, wires: Wires, servers: list[Echo]) -> None:
    wires.set(0, "refuse")
    port = wires.port(0, servers[0].port)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    wires.set(0, "pass")

    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as again:
        again.sendall(b"hello")
        assert said(again, 14) == b"12345678:hello"


def test_what_lags_arrives(link: socket.socket, wires: Wires) -> None:
    wires.set(0, "lag", 20)
    link.sendall(b"hello")

    assert said(link, 14) == b"12345678:hello"


def test_one_worker_alone_is_cut_off(link: socket.socket, wires: Wires, servers: list[Echo]) -> None:
    wires.set(1, "drop")
    link.sendall(b"hello")

    assert said(link, 14) == b"12345678:hello"


def test_servers_are_known_by_the_workers_own_ports(link: socket.socket, wires: Wires, servers: list[Echo]) -> None:
    """A Cluster tells where its nodes are: who went there directly could not be cut off."""
    link.sendall(b"port")
    told = b":%d\r\n" % wires.port(0, servers[0].port)

    assert said(link, len(told)) == told
