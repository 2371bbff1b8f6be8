"""A proxy between a store and its server that passes everything on, stands still, or breaks off, as a test says.

Never: a decision by time.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TypeAlias

What: TypeAlias = Literal["pass", "swallow", "cut", "half"]
"""Pass a request on; take it and say nothing; close the connection; pass it on and only half of the answer back."""


class TroubledProxy:
    """``what`` says what becomes of a request; ``requests`` counts them, ``connections`` how often somebody connected."""

    def __init__(self, port: int) -> None:
        self.target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.what: What = "pass"
        self.before: Callable[[], object] = lambda: None
        self.requests = 0
        self.connections = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lead_to(self, port: int) -> None:
        """Lead to another server from now on; whoever is connected has to connect anew."""
        self.target = ("127.0.0.1", port)
        self._close(self._open)
        self._open = []

    def close(self) -> None:
        """End, for everybody."""
        self._close([self._listener, *self._open])

    def _close(self, sockets: list[socket.socket]) -> None:
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self.connections += 1
                try:
                    server = socket.create_connection(self.target)
                except OSError:
                    client.close()
                    continue
                self._open += [client, server]
                halved = threading.Event()
                threading.Thread(target=self._requests, args=(client, server, halved), daemon=True).start()
                threading.Thread(target=self._answers, args=(client, server, halved), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket, halved: threading.Event) -> None:
        with suppress(OSError):
            while part := client.recv(1 << 20):
                if b"SETINFO" not in part:
                    self.requests += 1
                    self.before()
                    if self.what == "swallow":
                        continue
                    if self.what == "cut":
                        break
                    if self.what == "half":
                        halved.set()
                server.sendall(part)
        for one in (client, server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _answers(self, client: socket.socket, server: socket.socket, halved: threading.Event) -> None:
        with suppress(OSError):
            while part := server.recv(1 << 20):
                client.sendall(part[: len(part) // 2] if halved.is_set() else part)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def troubled_proxy(port: int) -> Iterator[TroubledProxy]:
    proxy = TroubledProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def black_hole() -> Iterator[int]:
    """Yield a port to which nobody can connect and that refuses nobody, as behind a firewall that drops packets."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port: int = listener.getsockname()[1]
        waiting = []
        try:
            for _ in range(8):
                one = socket.socket()
                one.setblocking(False)
                waiting.append(one)
                one.connect_ex(("127.0.0.1", port))
            yield port
        finally:
            for one in waiting:
                one.close()
