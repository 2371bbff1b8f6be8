"""What do the Redis tests share? Tags, fills, stores that are closed, keys of a store."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from querycache._types import TagSet
from querycache.stores.base import Store
from querycache.stores.redis import RedisStore, open_redis
from redis_servers import RedisServer

TABLE = b"product!"
T = TagSet((b"product|id=1",), ((TABLE, b"mind"),))
OTHER_MIND = TagSet((b"product|shelf=2",), ((TABLE, b"another mind"),))
W = bytes(range(1, 17))


def new_namespace() -> str:
    return f"t{secrets.token_hex(6)}"


@contextmanager
def opened(url: str) -> Iterator[RedisStore]:
    store = open_redis(url)
    try:
        yield store
    finally:
        store.close()


def fill(store: Store, key: bytes = b"k", payload: bytes = b"rows", tags: TagSet = T, ttl_s: float = 60) -> None:
    assert store.fill(key, payload, store.lookup(key, tags).lease, ttl_s)


def found(store: Store, key: bytes = b"k", tags: TagSet = T) -> bytes | None:
    return store.lookup(key, tags).payload


def change(store: Store, tags: Sequence[bytes] = T.tags) -> None:
    """Say that a commit is over."""
    store.release(tags, secrets.token_bytes(16))


def keys_of(server: RedisServer, namespace: str) -> list[bytes]:
    keys: list[bytes] = server.do("KEYS", f"querycache:{namespace}:*")
    return sorted(keys)
