"""What do tests share that put a near cache in front of a Redis server? One that answers when it has heard everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from querycache._types import Lookup, TagSet
from querycache.stores import open_store
from querycache.stores._redis_calls import Question
from querycache.stores.base import Store
from querycache.stores.pushed import PushedStore

PATIENCE_S: Final = 60.0
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
