"""What can come between a process and its servers? A proxy that passes everything on, until it is told otherwise.

    python torture_proxy.py '[{"worker": 0, "listen": 41000, "target": 6379, "names": {"6379": 41000}}, ...]'

One line of standard input is one order, ``<worker> <mode> [milliseconds]``, answered by ``ok``:

- ``pass``: everything, and what was held back before;
- ``stall``: the next answer stops in its middle, and then nothing comes through. It is all delivered in the end, to the
  server also after the worker has given up: it does then what nobody waits for any more;
- ``drop``: nothing comes through, and what was sent is lost: the connections end with the drop;
- ``refuse``: connections end, and no new one is taken;
- ``lag``: everything, so much later; to the server also after the worker has given up.

``names``: what a server says of the ports of its fellows (Sentinel, Cluster) is replaced, so that nobody passes the proxy by.
Knows nothing of what it passes otherwise.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass, field
from typing import Any, Final

HOST: Final = "127.0.0.1"


@dataclass
class Gate:
    """One port that stands for one server, as one worker sees it."""

    listen: int
    target: int
    names: dict[bytes, bytes]
    mode: str = "pass"
    lag_s: float = 0.0
    links: set[Link] = field(default_factory=set)
    server: asyncio.Server | None = None

    async def open(self) -> None:
        """Take connections."""
        if self.server is None:
            loop = asyncio.get_running_loop()
            self.server = await loop.create_server(lambda: Near(self), HOST, self.listen, reuse_address=True)

    async def change(self, mode: str, milliseconds: float) -> None:
        """Go over to another mode."""
        before, self.mode, self.lag_s = self.mode, mode, milliseconds / 1000
        if mode == "refuse":
            if self.server is not None:
                self.server.close()
                self.server = None
        else:
            await self.open()
        for link in list(self.links):
            if mode == "refuse" or before == "drop":
                link.abort()
            elif mode in ("pass", "lag"):
                link.deliver()
            link.halves = 1 if mode == "stall" else 0

    def renamed(self, data: bytes) -> bytes:
        """Put the proxy's ports in the place of the servers'."""
        for theirs, ours in self.names.items():
            if theirs in data:
                for before in (b"\r\n", b":"):
                    data = data.replace(before + theirs + b"\r\n", before + ours + b"\r\n")
        return data


class Link:
    """A connection and its continuation on the other side."""

    def __init__(self, gate: Gate, near: asyncio.Transport) -> None:
        self.gate = gate
        self.near = near
        self.far: asyncio.Transport | None = None
        self.halves = 1 if gate.mode == "stall" else 0
        self.is_orphan = False
        self._held: list[tuple[bool, bytes]] = []
        gate.links.add(self)

    def came(self, data: bytes, *, from_server: bool) -> None:
        """Do with what came as the mode says."""
        if from_server and self.gate.names:
            data = self.gate.renamed(data)
        if self.gate.mode == "stall":
            if from_server and self.halves:
                self.halves = 0
                self._send(data[: len(data) // 2], from_server)
                data = data[len(data) // 2 :]
            elif self.halves:
                self._send(data, from_server)
                return
            self._held.append((from_server, data))
        elif self.gate.mode == "lag":
            asyncio.get_running_loop().call_later(self.gate.lag_s, self._send, data, from_server)
        elif self.gate.mode != "drop":
            self._send(data, from_server)

    def near_ended(self) -> None:
        """The worker is gone, or has given up: what it sent before may still be on its way."""
        if self.gate.mode == "lag":
            asyncio.get_running_loop().call_later(2 * self.gate.lag_s, self.abort)
        elif self.gate.mode == "stall":
            self.is_orphan = True
        else:
            self.abort()

    def deliver(self) -> None:
        """Send on what was held back."""
        held, self._held = self._held, []
        for from_server, data in held:
            self._send(data, from_server)
        if self.is_orphan and self.far is not None:
            self.far.close()
            self.gate.links.discard(self)

    def _send(self, data: bytes, from_server: bool) -> None:
        target = self.near if from_server else self.far
        if target is None:
            self._held.append((from_server, data))
        elif not target.is_closing():
            target.write(data)

    def is_joined(self, far: asyncio.Transport) -> None:
        """Go on to the server, which took the connection."""
        self.far = far
        if self.gate.mode != "drop":
            self.deliver()  # what came from the worker until now

    def abort(self) -> None:
        """End both sides at once."""
        self.gate.links.discard(self)
        for side in (self.near, self.far):
            if side is not None:
                side.abort()


class Near(asyncio.Protocol):
    """The side of a worker."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._link = Link(self._gate, transport)
        self._joining = asyncio.ensure_future(self._join())

    async def _join(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: Far(self._link), HOST, self._gate.target)
        except OSError:
            self._link.abort()

    def data_received(self, data: bytes) -> None:
        self._link.came(data, from_server=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._link.near_ended()


class Far(asyncio.Protocol):
    """The side of a server."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._link.is_joined(transport)

    def data_received(self, data: bytes) -> None:
        self._link.came(data, from_server=True)

    def connection_lost(self, error: Exception | None) -> None:
        # What is held back, or is late, is lost with it: so it is where a server dies.
        self._link.abort()


async def serve(described: list[dict[str, Any]]) -> None:
    """Open all gates, and do what standard input says until it ends."""
    gates: dict[int, list[Gate]] = {}
    for one in described:
        names = {theirs.encode(): str(ours).encode() for theirs, ours in one["names"].items()}
        gates.setdefault(one["worker"], []).append(Gate(one["listen"], one["target"], names))
    for of_worker in gates.values():
        for gate in of_worker:
            await gate.open()
    print("ok", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        worker, mode, *rest = line.split()
        for gate in gates[int(worker)]:
            await gate.change(mode, float(rest[0]) if rest else 0.0)
        print("ok", flush=True)


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
