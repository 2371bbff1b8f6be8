"""How does code that knows no ``await`` wait where an event loop has to go on meanwhile?

SQLAlchemy runs what an ``AsyncSession`` does in a greenlet beside its task: on that bridge, and nowhere else, code like this
can wait for what the loop does. Who knows the bridge (``_sqlalchemy``) says so here; stores ask here, and know no SQLAlchemy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Bridge(Protocol):
    """Between code that runs on an event loop's thread, and its loop."""

    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Return the loop that may go on while the caller waits; None where the caller may only block."""

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        """Wait, while the loop runs others; return or raise what comes of it."""


class _NoBridge:
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return None

    def wait(self, awaitable: Awaitable[Any]) -> Any:
        raise RuntimeError("there is no bridge")


_bridge: Bridge = _NoBridge()


def cross_by(bridge: Bridge) -> None:
    """Say which bridge there is."""
    global _bridge
    _bridge = bridge


def loop_here() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of whoever calls this on the bridge; None for a thread, which may block."""
    return _bridge.loop()


def wait_here(awaitable: Awaitable[T]) -> T:
    """Wait on the bridge while the loop runs others."""
    result: T = _bridge.wait(awaitable)
    return result
