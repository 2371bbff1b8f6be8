"""How are workers wired to the servers of a store, so that one of them alone can be cut off?

Each worker reaches each server through a port of its own, all of one proxy process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

from own_servers import NoServerError
from redis_servers import free_ports

HERE: Final = Path(__file__).resolve().parent
Mode: TypeAlias = Literal["pass", "stall", "drop", "refuse", "lag"]


class Wires:
    """The ports of a proxy, by worker and server, and what it does with them."""

    def __init__(self, workers: int, servers: Sequence[int]) -> None:
        ports = iter(free_ports(workers * len(servers)))
        self._ports = {(worker, server): next(ports) for worker in range(workers) for server in servers}
        described = [
            {
                "worker": worker,
                "listen": port,
                "target": server,
                "names": {str(other): self._ports[worker, other] for other in servers} if len(servers) > 1 else {},
            }
            for (worker, server), port in self._ports.items()
        ]
        self._turn = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "torture_proxy.py"), json.dumps(described)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._hear()

    def port(self, worker: int, server: int) -> int:
        """Return where a worker finds a server."""
        return self._ports[worker, server]

    def set(self, worker: int, mode: Mode, milliseconds: int = 0) -> None:
        """Have a worker's connections treated so from now on."""
        with self._turn:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{worker} {mode} {milliseconds}\n")
            self._process.stdin.flush()
            self._hear()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ok\n":
            raise NoServerError("the proxy ended; what it said stands on standard error")

    def close(self) -> None:
        """End the proxy, and every connection through it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def wires_between(workers: int, servers: Sequence[int]) -> Iterator[Wires]:
    """Wire so many workers to servers, which are named by their ports."""
    wires = Wires(workers, servers)
    try:
        yield wires
    finally:
        wires.close()
