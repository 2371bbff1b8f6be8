"""Which verbs of a cache may wait for its store or a database, and how are they called from a coroutine?

Each is awaited under its own name with an "a" before it. Promises: the event loop goes on meanwhile. Never does: anything that
the verb itself does not do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, TypeVar

from querycache import _sqlalchemy

Self = TypeVar("Self", bound="AsyncVerbs")


class AsyncVerbs(ABC):
    """The verbs that wait, and the same to be awaited."""

    @abstractmethod
    def invalidate(self, *targets: Any) -> None:
        """Drop what depends on models, instances or tables."""

    @abstractmethod
    def invalidate_all(self) -> None:
        """Drop everything that depends on the attached databases."""

    @abstractmethod
    def clear(self) -> None:
        """Empty the stores."""

    @abstractmethod
    def stats(self) -> dict[str, Any]:
        """Return what happened in this process, and what the stores hold."""

    @abstractmethod
    def close(self) -> None:
        """Settle what is owed and give back what this process holds of the stores."""

    async def ainvalidate(self, *targets: Any) -> None:
        """Await ``invalidate``."""
        await _sqlalchemy.run_on_bridge(self.invalidate, *targets)

    async def ainvalidate_all(self) -> None:
        """Await ``invalidate_all``."""
        await _sqlalchemy.run_on_bridge(self.invalidate_all)

    async def aclear(self) -> None:
        """Await ``clear``."""
        await _sqlalchemy.run_on_bridge(self.clear)

    async def astats(self) -> dict[str, Any]:
        """Await ``stats``."""
        return await _sqlalchemy.run_on_bridge(self.stats)

    async def aclose(self) -> None:
        """Await ``close``."""
        await _sqlalchemy.run_on_bridge(self.close)

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()
