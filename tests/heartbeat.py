"""How does a test see that something holds up an event loop?

A task of the loop beats; a thread looks, every few milliseconds, whether it has since. A machine that is busy holds up both
alike, so that only what holds up the loop alone counts.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

LOOK_S: Final = 0.002
LONGEST_LOOKS: Final = 25
"""How often in a row nobody may have seen a beat: 50 ms, and more where the machine is busy."""


class Heartbeat:
    """Around what must not hold up the loop: ``await`` in it. ``longest``: how many looks in a row saw no beat."""

    def __init__(self) -> None:
        self.beats = 0
        self.longest = 0
        self._ended = threading.Event()

    async def __aenter__(self) -> Heartbeat:
        self._beating = asyncio.ensure_future(self._beat())
        self._looking = threading.Thread(target=self._look, daemon=True)
        await asyncio.sleep(0.01)
        self._looking.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._ended.set()
        self._beating.cancel()
        await asyncio.to_thread(self._looking.join)

    def assert_steady(self) -> None:
        assert self.longest <= LONGEST_LOOKS, f"the loop stood still for {self.longest} looks of {LOOK_S:g} s"

    async def _beat(self) -> None:
        while True:
            self.beats += 1
            await asyncio.sleep(LOOK_S / 2)

    def _look(self) -> None:
        seen, in_row = self.beats, 0
        while not self._ended.wait(LOOK_S):
            in_row = 0 if self.beats != seen else in_row + 1
            seen = self.beats
            self.longest = max(self.longest, in_row)
