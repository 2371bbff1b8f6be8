"""A query cache for SQLAlchemy that you switch on for a model and forget.

Reads come from the cache, writes invalidate exactly what they touch, and a cached read is never older than the database.
"""

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
from querycache.options import FromCache, NoCache
from querycache.policy import Policy

__all__ = [
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
]
