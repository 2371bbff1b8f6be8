"""How are commands sent to one Redis server, and within which time?

From a thread by connections that block, from an event loop by its own (``_redis_loops``); which of the two is decided here,
once. Promises: a call ends within its limits; a connection is never shared, never used after a failure, never taken over by a
forked child; a server's refusal comes back as a value in its command's place. Never does: try twice.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from querycache import _bridge
from querycache.errors import StoreUnavailable
from querycache.stores._redis_loops import LoopPool
from querycache.stores._redis_scripts import Command
from querycache.stores._redis_url import Address, Target
from querycache.stores._redis_wires import (
    FAILURES,
    UNWATCHED_S,
    Refusal,
    Reply,
    Unreachable,
    Wire,
    answer_on,
    is_refusal,
    maker_of_loop_wires,
    maker_of_wires,
    translated,
)


class _Held:
    """The connections of one process: those that nobody uses, with the moment of their last use, and who waits for one.

    None stands for one that may still be made. Taken from the end, where what was used last is.
    """

    def __init__(self, size: int) -> None:
        self.pid = os.getpid()
        self.free: list[tuple[Wire, float] | None] = [None] * size
        self.waiting = 0
        self.changed = threading.Condition()

    def take(self, wait_s: float) -> tuple[Wire, float] | None:
        """Return what nobody uses. Raises ``IndexError`` where there is nothing within that time."""
        try:
            return self.free.pop()
        except IndexError:
            return self._wait(wait_s)

    def give(self, wire: Wire | None) -> None:
        """Put a connection back; None for one that is closed."""
        if wire is None:
            self.free.insert(0, None)
        else:
            self.free.append((wire, time.monotonic()))
        if self.waiting:
            with self.changed:
                self.changed.notify()

    def close(self) -> None:
        """Close what nobody uses."""
        for _ in range(len(self.free)):
            with suppress(IndexError):  # somebody took it
                free = self.free.pop()
                if free is not None:
                    free[0].disconnect()
                self.give(None)

    def _wait(self, wait_s: float) -> tuple[Wire, float] | None:
        until = time.monotonic() + wait_s
        with self.changed:
            self.waiting += 1  # whoever gives from here on tells
            try:
                while (left_s := until - time.monotonic()) > 0:
                    with suppress(IndexError):
                        return self.free.pop()
                    self.changed.wait(left_s)
                return self.free.pop()
            finally:
                self.waiting -= 1


class Pool:
    """Connections to one server with one time limit. Who finds none free waits for one, within that limit."""

    def __init__(self, make: Callable[[], Wire], size: int, wait_s: float, url: str) -> None:
        self._make = make
        self._size = size
        self._wait_s = wait_s
        self._url = url
        self._held = _Held(size)

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one go and return what is answered to each, in order."""
        return self.collect(self.send(commands), len(commands))

    def send(self, commands: Sequence[Command]) -> tuple[_Held, Wire]:
        """Send commands on a connection that nobody else has; ``collect`` gives it back."""
        held = self._held
        if held.pid != os.getpid():
            held = self._held = _Held(self._size)  # what the parent has open stays the parent's
        try:
            free = held.take(self._wait_s)
        except IndexError:
            raise StoreUnavailable(
                f"{self._url}: all {self._size} connections of this process were busy for {self._wait_s:g} s. "
                "Raise ?pool= or start fewer threads."
            ) from None
        wire: Wire | None = None
        try:
            wire = None if free is None else _still_open(*free)
            if wire is None:
                wire = self._make()
                wire.connect()
            wire.send_packed_command([b"".join(commands)], check_health=False)
        except FAILURES as error:
            self._give_back(held, wire, is_usable=False)
            raise translated(error, self._url) from error
        except BaseException:
            self._give_back(held, wire, is_usable=False)
            raise
        return held, wire

    def collect(self, sent: tuple[_Held, Wire], count: int) -> list[Reply]:
        """Read the answers to what was sent."""
        held, wire = sent
        is_usable = False
        try:
            replies = [answer_on(wire) for _ in range(count)]
            is_usable = True
        except FAILURES as error:
            raise translated(error, self._url) from error
        finally:
            self._give_back(held, wire, is_usable=is_usable)
        return [translated(reply, self._url) if is_refusal(reply) else reply for reply in replies]

    def abandon(self, sent: tuple[_Held, Wire]) -> None:
        """Give a connection back whose answers nobody will read."""
        self._give_back(*sent, is_usable=False)

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when it comes back."""
        held, self._held = self._held, _Held(self._size)
        held.close()

    def _give_back(self, held: _Held, wire: Wire | None, *, is_usable: bool) -> None:
        if held.pid != os.getpid():
            return
        if wire is not None and not (is_usable and held is self._held):
            wire.disconnect()
            wire = None
        held.give(wire)


def _still_open(wire: Wire, used_at: float) -> Wire | None:
    """Return a connection that nobody uses if the server has not closed it: servers close what is idle, and end."""
    if time.monotonic() - used_at < UNWATCHED_S:
        return wire
    with suppress(*FAILURES):
        if not wire.can_read(0):
            return wire
    wire.disconnect()
    return None


class Line:
    """A connection that stays: what is sent is answered in order, and the server may speak by itself. For one thread.

    After a failure it fails for good, for redis-py would connect anew and say nothing.
    """

    def __init__(self, wire: Wire, url: str) -> None:
        self.url = url
        self._wire = wire
        self._is_over = False
        self._try(lambda: wire.connect())

    def ask(self, command: Command) -> list[Reply]:
        """Send a command and return what is answered, as a list of one. Raises ``Refusal`` where it is refused."""
        self.send(command)
        return [self.read()]

    def send(self, command: Command) -> None:
        """Send a command."""
        self._try(lambda: self._wire.send_packed_command([command], check_health=False))

    def read(self) -> Reply:
        """Return what the server says next. Raises ``Refusal`` where that is an error."""
        return self._try(lambda: self._wire.read_response(disable_decoding=True))

    def waits(self, timeout_s: float) -> bool:
        """Tell whether there is something to read, or the connection is over, within a time."""
        return bool(self._try(lambda: self._wire.can_read(timeout_s)))

    def close(self) -> None:
        """Close it."""
        self._is_over = True
        self._wire.disconnect()

    def _try(self, act: Callable[[], Any]) -> Any:
        if self._is_over:
            raise Unreachable(f"{self.url}: the connection is over")
        try:
            return act()
        except FAILURES as error:
            raised = translated(error, self.url)
            self._is_over = not isinstance(raised, Refusal)
            raise raised from error


class AnyPool(Protocol):
    """Connections to one server: for threads, or for one event loop."""

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one go and return what is answered to each, in order."""

    def send(self, commands: Sequence[Command]) -> Any:
        """Send commands on a connection that nobody else has; ``collect`` takes what is returned, and gives it back."""

    def collect(self, sent: Any, count: int) -> list[Reply]:
        """Read the answers to what was sent."""

    def abandon(self, sent: Any) -> None:
        """Give a connection back whose answers nobody will read."""


class Pools:
    """The connections to one server with one time limit: those for threads, and some for each event loop."""

    def __init__(self, blocking: Pool, pool_for: Callable[[asyncio.AbstractEventLoop], LoopPool]) -> None:
        self._blocking = blocking
        self._pool_for = pool_for
        self._of_loops: dict[asyncio.AbstractEventLoop, LoopPool] = {}

    def here(self) -> AnyPool:
        """Return those for whoever calls this: on the bridge to an event loop, those of the loop."""
        loop = _bridge.loop_here()
        if loop is None:
            return self._blocking
        pool = self._of_loops.get(loop)
        if pool is None or not pool.is_of_this_process:
            for other in [other for other in list(self._of_loops) if other.is_closed()]:
                self._of_loops.pop(other, None)
            pool = self._of_loops[loop] = self._pool_for(loop)
        return pool

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when it comes back."""
        self._blocking.close()
        for pool in list(self._of_loops.values()):
            pool.close()


class Server:
    """One server: a pool for reads, and one for marks and releases, which may take longer."""

    def __init__(self, address: Address, target: Target, *, is_sentinel: bool = False) -> None:
        self.address = address
        host, port = address
        self.url = f"{target.url.partition('://')[0]}://{host}{f':{port}' if port else ''}"
        self._make = maker_of_wires(address, target, is_sentinel=is_sentinel)
        self._make_for_loops = maker_of_loop_wires(address, target, is_sentinel=is_sentinel)
        self._size = target.pool
        self._limits = target.limits
        self._reads = self._pools(target.limits.read_s)
        self._marks = self._pools(target.limits.mark_s)

    def _pools(self, wait_s: float) -> Pools:
        return Pools(
            Pool(lambda: self._make(wait_s), self._size, wait_s, self.url),
            lambda loop: LoopPool(loop, self._make_for_loops, self._size, wait_s, self.url),
        )

    @property
    def reads(self) -> AnyPool:
        """The connections for reads, for whoever asks."""
        return self._reads.here()

    @property
    def marks(self) -> AnyPool:
        """Those for marks and releases."""
        return self._marks.here()

    def line(self) -> Line:
        """Make a connection that is none of the pools'."""
        return Line(self._make(self._limits.read_s), self.url)

    def close(self) -> None:
        """Close the connections."""
        self._reads.close()
        self._marks.close()
