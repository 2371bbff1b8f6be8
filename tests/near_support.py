"""What do tests share that put a near cache in front of a Redis server? Caches that are told of changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from querycache._types import Lookup, TagSet
from querycache.stores import open_store
from querycache.stores._redis_asking import Question
from querycache.stores.base import Store
from querycache.stores.pushed import PushedStore
from redis_servers import SLOW
from redis_support import T, fill, found

LAG_S: Final = 600.0
"""Far longer than any test: what is not served is not served for another reason."""

NEAR: Final = f"{SLOW}&near=push&near_lag_ms={LAG_S * 1000:.0f}"
PATIENCE_S: Final = 60.0
OTHER_ROW: Final = TagSet((b"product|id=2",), T.guards)
MODES: Final = ("", "&near=validate", "&near=push&near_lag_ms=600000")
"""What makes of the URL of a server that of a store: without a near cache, and with each kind."""


class Hearing(PushedStore):
    """Answers when it has heard all that happened before: then it must be as right as the store beneath."""

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        self.settle(PATIENCE_S)
        return super().lookup(key, tags)

    def lookup_many(self, questions: Iterable[Question]) -> list[Lookup]:
        asked = list(questions)
        self.settle(PATIENCE_S)
        return super().lookup_many(asked)


def hearing(url: str) -> Store:
    """Open a store; one that may lag answers when it has heard everything."""
    store = open_store(url)
    return Hearing(store.beneath, store.copies, store.lag_s) if isinstance(store, PushedStore) else store


def opened_near(url: str) -> PushedStore:
    store = open_store(url)
    assert isinstance(store, PushedStore)
    store.settle(PATIENCE_S)
    return store


def is_served_here(near: PushedStore) -> bool:
    """Tell whether an entry is served without anybody being asked."""
    return near._here(b"k", T) is not None


def hold(near: PushedStore, key: bytes = b"k", payload: bytes = b"rows", tags: TagSet = T, ttl_s: float = 3600) -> None:
    """Have an entry served here. That its stamps were made is heard too, and they are asked for once more."""
    fill(near, key, payload, tags, ttl_s)
    near.settle(PATIENCE_S)
    assert found(near, key, tags) == payload
    assert near._here(key, tags) is not None


def deafen(near: PushedStore) -> None:
    """Have the near cache understand nothing of what it is told."""
    near._feed._hear = lambda message: None  # type: ignore[method-assign]
