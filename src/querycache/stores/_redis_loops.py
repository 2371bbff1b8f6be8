"""How are commands sent to one Redis server while an event loop goes on?

As ``_redis_server.Pool`` does it for threads: the caller is on the bridge (``_bridge``) and waits there. Each loop has
connections of its own, which are closed when it ends.

Promises: a call ends within its limits; who is cancelled, at whichever moment, leaves no connection with an answer still to
come. Never does: try twice; hold up the loop.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from querycache import _bridge
from querycache.errors import StoreUnavailable
from querycache.stores._redis_scripts import Command
from querycache.stores._redis_wires import (
    FAILURES,
    UNWATCHED_S,
    LoopWire,
    Reply,
    has_something_to_read,
    is_refusal,
    translated,
)

_WORDS_OF_GREETING: Final = 3
"""How many answers a connection waits for, one after the other, before it is of use."""


class Sent(NamedTuple):
    """A connection with answers to come, and which of the pool's lives it is of."""

    wire: LoopWire
    life: int


class LoopPool:
    """Connections of one event loop to one server. Who finds none free waits for one, within the time limit."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, make: Callable[[], LoopWire], size: int, wait_s: float, url: str
    ) -> None:
        self._loop = loop
        self._make = make
        self._size = size
        self._wait_s = wait_s
        self._url = url
        self._pid = os.getpid()
        self._life = 0
        self._idle: list[tuple[LoopWire, float]] = []
        self._room = asyncio.BoundedSemaphore(size)
        self._end_of_loop: AsyncGenerator[None, None] | None = None

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made here, not by the process that this one was forked from."""
        return self._pid == os.getpid()

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one go and return what is answered to each, in order."""
        return _bridge.wait_here(self._exchange(commands))

    def send(self, commands: Sequence[Command]) -> Sent:
        """Send commands on a connection that nobody else has; ``collect`` gives it back."""
        return _bridge.wait_here(self._send(commands))

    def collect(self, sent: Sent, count: int) -> list[Reply]:
        """Read the answers to what was sent."""
        return _bridge.wait_here(self._collect(sent, count))

    def abandon(self, sent: Sent) -> None:
        """Give a connection back whose answers nobody will read."""
        self._give_back(*sent, is_usable=False)

    def close(self) -> None:
        """Close what nobody uses, from whichever thread; what is in use is closed when it comes back."""
        self._life += 1
        if not self._idle or self._loop.is_closed() or not self.is_of_this_process:
            return
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_here = False
        if is_here:
            self._close_idle()
        else:
            with suppress(RuntimeError):  # it has ended meanwhile
                self._loop.call_soon_threadsafe(self._close_idle)

    async def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        return await self._collect(await self._send(commands), len(commands))

    async def _send(self, commands: Sequence[Command]) -> Sent:
        if self._end_of_loop is None:
            self._end_of_loop = self._until_the_loop_ends()
            await anext(self._end_of_loop)
        await self._take_room()
        wire, life = None, self._life
        try:
            wire = await self._idle_one() or await self._new_one()
            async with asyncio.timeout(self._wait_s):
                await wire.send_packed_command([b"".join(commands)], check_health=False)
        except FAILURES as error:
            self._give_back(wire, life, is_usable=False)
            raise translated(error, self._url) from error
        except BaseException:
            self._give_back(wire, life, is_usable=False)
            raise
        return Sent(wire, life)

    async def _take_room(self) -> None:
        if not self._room.locked():
            await self._room.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self._room.acquire()
        except TimeoutError as late:
            raise StoreUnavailable(
                f"{self._url}: all {self._size} connections of this event loop were busy for {self._wait_s:g} s. "
                "Raise ?pool= or start fewer tasks."
            ) from late

    async def _idle_one(self) -> LoopWire | None:
        """Return a connection that nobody uses and that the server has not closed."""
        while self._idle:
            wire, used_at = self._idle.pop()
            if time.monotonic() - used_at < UNWATCHED_S:
                return wire
            with suppress(*FAILURES):
                if not await has_something_to_read(wire):
                    return wire
            _hang_up(wire)
        return None

    async def _new_one(self) -> LoopWire:
        wire = self._make()
        try:
            async with asyncio.timeout(_WORDS_OF_GREETING * self._wait_s):
                await wire.connect()
        except BaseException:
            _hang_up(wire)
            raise
        return wire

    async def _collect(self, sent: Sent, count: int) -> list[Reply]:
        is_usable = False
        try:
            replies = [await self._answer(sent.wire) for _ in range(count)]
            is_usable = True
        except FAILURES as error:
            raise translated(error, self._url) from error
        finally:
            self._give_back(*sent, is_usable=is_usable)
        return replies

    async def _answer(self, wire: LoopWire) -> Reply:
        try:
            async with asyncio.timeout(self._wait_s):
                return await wire.read_response(disable_decoding=True)
        except FAILURES as error:
            if is_refusal(error):
                return translated(error, self._url)
            raise

    def _give_back(self, wire: LoopWire | None, life: int, *, is_usable: bool) -> None:
        if wire is not None:
            if is_usable and life == self._life:
                self._idle.append((wire, time.monotonic()))
            else:
                _hang_up(wire)
        self._room.release()

    def _close_idle(self) -> None:
        idle, self._idle = self._idle, []
        for wire, _ in idle:
            _hang_up(wire)

    async def _until_the_loop_ends(self) -> AsyncGenerator[None, None]:
        """Close the connections when the loop ends: it closes the asynchronous generators that have begun on it."""
        try:
            yield
        finally:
            self._life += 1
            self._close_idle()


def _hang_up(wire: LoopWire) -> None:
    """Close a connection at once. It waits for nothing, so it needs no ``await``, which might be cancelled."""
    closing = wire.disconnect(nowait=True)
    try:
        closing.send(None)
    except StopIteration:
        return
    except FAILURES:
        return
    finally:
        closing.close()
