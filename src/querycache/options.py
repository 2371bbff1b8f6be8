"""How does one statement say that it wants to be cached, or not?

As ORM options, on ``select()`` and on legacy ``Query`` alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import UserDefinedOption

from querycache.errors import ConfigurationError
from querycache.keyed import Key
from querycache.policy import GRACE_EXPECTED, SHAPES, EntryShape, is_grace


@dataclass(frozen=True, slots=True)
class RowNames:
    """The names of a list's rows, by which each can be dropped; ``any_name`` is that of every list that holds rows."""

    name_of: Callable[[Key], str]
    any_name: str


@dataclass(frozen=True, slots=True)
class CacheRequest:
    """What ``FromCache`` asks for. ``shape``, ``grace_s``: None leaves that to the policy."""

    region: str
    cache_key: str | None
    ttl_s: float | None = None
    shape: EntryShape | None = None
    names: RowNames | None = None
    grace_s: float | None = None


class FromCache(UserDefinedOption):
    """Serve a statement from the cache, also where its models are not cacheable.

    ``region`` names the region (policy and store) to use. ``cache_key`` is a name by which the entry can be dropped
    later, ``Model.cache.flush(cache_key)``; it never stands for the statement: two statements under one name are two
    entries. ``ttl`` is in seconds, at most a day; None leaves the region's. ``shape`` is that of ``Policy``, for this
    statement; None leaves the policy's. ``grace`` is that of ``Policy``, in seconds: how much older than the database a
    read may be while another one asks it; None leaves the policies'.

    Statements that cannot be cached safely go to the database all the same; ``QueryCache.explain`` says why.
    """

    propagate_to_loaders = False

    def __init__(
        self,
        region: str = "default",
        cache_key: str | None = None,
        ttl: float | None = None,
        shape: EntryShape | None = None,
        grace: float | None = None,
    ) -> None:
        if ttl is not None and not 0 < ttl <= 86400:
            raise ConfigurationError(f"FromCache(ttl={ttl!r}): give seconds, more than 0 and at most 86400 (a day)")
        if shape is not None and shape not in SHAPES:
            raise ConfigurationError(f"FromCache(shape={shape!r}): known are {', '.join(SHAPES)}")
        if grace is not None and not is_grace(grace):
            raise ConfigurationError(f"FromCache(grace={grace!r}): {GRACE_EXPECTED}")
        self.region = region
        self.cache_key = cache_key
        self.ttl = ttl
        super().__init__(payload=CacheRequest(region, cache_key, ttl, shape, grace_s=grace))

    @classmethod
    def of(cls, request: CacheRequest) -> FromCache:
        """Return the option that asks for just this."""
        option = cls(request.region, request.cache_key, request.ttl_s, request.shape, request.grace_s)
        option.payload = request
        return option


class NoCache(UserDefinedOption):
    """Send a statement to the database, and store nothing of it."""

    propagate_to_loaders = False

    def __init__(self) -> None:
        super().__init__(payload=None)
