"""What do the tests of a store have in common? Some tags and guards, and what a subclass may say of its store."""

from __future__ import annotations

import secrets
import time
from typing import Final

from querycache._types import Guard, Lookup, TagSet
from querycache.stores.base import Store

KEY: Final = b"key"
A: Final = b"product|id=1"
B: Final = b"product*"
TABLE: Final = b"product!"
MINE: Final[Guard] = (TABLE, b"fingerprint-1")
THEIRS: Final[Guard] = (TABLE, b"fingerprint-2")
SCHEMA: Final[Guard] = (b"product/schema", b"schema")
LONG_S: Final = 60.0


def new_writer() -> bytes:
    """Return a writer's name that was never used."""
    return secrets.token_bytes(16)


def tags_of(*tags: bytes, guards: tuple[Guard, ...] = ()) -> TagSet:
    """Return tags and guards as a store is given them."""
    return TagSet(tags, guards)


def filled(store: Store, tags: TagSet, payload: bytes = b"rows", key: bytes = KEY) -> Lookup:
    """Fill an entry under the lease that a lookup gave; return that lookup."""
    seen = store.lookup(key, tags)
    assert store.fill(key, payload, seen.lease, LONG_S)
    return seen


class Promises:
    """What a store is, as far as tests must know. Subclasses give the fixture ``store``, open and empty."""

    largest_payload_bytes = 1_000_000
    most_tags = 3000

    def let_pass(self, store: Store, seconds: float) -> None:
        """Let time pass on the store's clock. A store whose clock a test can move overrides this."""
        time.sleep(seconds)
