"""A query cache for SQLAlchemy that you switch on for a model and forget.

Reads come from the cache, writes invalidate exactly what they touch, and a cached read is never older than the database.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from querycache.adoption import regions
from querycache.cache import QueryCache, Region
from querycache.coherence.moved import SnapshotMovedError
from querycache.errors import (
    ConfigurationError,
    NotAttachedError,
    QueryCacheError,
    StoreError,
    StoreUnavailable,
)
from querycache.events import Event
from querycache.explain import Explanation
from querycache.models import CacheableMixin
from querycache.options import FromCache, NoCache
from querycache.policy import Policy

if _TYPE_CHECKING:
    from querycache.legacy import CachingQuery, query_callable

__all__ = [
    "CacheableMixin",
    "CachingQuery",
    "ConfigurationError",
    "Event",
    "Explanation",
    "FromCache",
    "NoCache",
    "NotAttachedError",
    "Policy",
    "QueryCache",
    "QueryCacheError",
    "Region",
    "SnapshotMovedError",
    "StoreError",
    "StoreUnavailable",
    "query_callable",
    "regions",
]


def __getattr__(name: str) -> _Any:
    """Import what rests on Flask-SQLAlchemy, where that is installed, only for those who ask for it."""
    if name in ("CachingQuery", "query_callable"):
        from querycache import legacy

        return getattr(legacy, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
