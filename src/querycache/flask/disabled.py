"""What does an application hold whose cache is off?

Promises: everything that asks for invalidation still runs and does nothing, no engine is listened to, no read or write
is different from an application without the extension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from querycache import cache as caches
from querycache.adoption import leave_alone
from querycache.explain import Explanation


class DisabledCache(caches.QueryCache):
    """The cache of an application with ``QUERYCACHE_ENABLED = False``."""

    def attach(self, target: Any, *, name: str | None = None, core: bool = False) -> None:
        """Attach nothing, and have nobody else attach it."""
        for engine in caches.engines_of(target):
            leave_alone(engine)

    def invalidate(self, *targets: Any) -> None:
        """Drop nothing, as nothing is cached."""

    def invalidate_all(self) -> None:
        """Drop nothing, as nothing is cached."""

    def invalidate_named(self, region: str, cache_key: str) -> None:
        """Drop nothing, as nothing is cached."""

    def explain(
        self, statement: Any, parameters: Mapping[str, Any] | None = None, *, session: Session | None = None
    ) -> Explanation:
        """Say that the cache is off."""
        return Explanation(False, "QUERYCACHE_ENABLED is False")
