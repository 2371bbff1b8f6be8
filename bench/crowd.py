"""How does a store come to hold a million entries within a minute? By its own verbs, with tags such as the library makes.

Each depends on the first product's row and on one of its own: its table's guards, and two tags. Keys and payloads are made up,
so that nobody reads them: what is measured is what they cost others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Final

from caches import Attached
from rounds import BenchError
from rows import Product
from sqlalchemy.orm import Session

from querycache._types import Lookup, TagSet
from querycache.stores.base import Store

BATCH: Final = 500
PAYLOAD: Final = b"x" * 200
TTL_S: Final = 3600.0


def crowd_in(there: Attached, count: int) -> None:
    """Have the store of a cache hold so many entries."""
    store, tags = _store_of(there), _tags_of_the_first_row(there)
    numbers = iter(range(count))
    while batch := list(itertools.islice(numbers, BATCH)):
        asked = [(_key(number), _tags_for(tags, number)) for number in batch]
        store.fill_many(_entries(asked, store.lookup_many(asked)))
    kept = store.stats().entries
    if kept is not None and kept < count:
        raise BenchError(f"{store.url} kept {kept} of {count} entries: it needs more room")


def _entries(asked: list[tuple[bytes, TagSet]], found: list[Lookup]) -> Iterator[tuple[bytes, bytes, Any, float]]:
    for (key, _), answer in zip(asked, found, strict=True):
        yield key, PAYLOAD, answer.lease, TTL_S


def _key(number: int) -> bytes:
    # As evenly spread as digests are.
    return (number * 0x9E3779B97F4A7C15 % (1 << 64)).to_bytes(8) + number.to_bytes(8)


def _tags_for(first: TagSet, number: int) -> TagSet:
    return TagSet((*first.tags, b"crowd|%d" % number), first.guards)


def _store_of(there: Attached) -> Store:
    return there.cache._coherence.journals[0].store


def _tags_of_the_first_row(there: Attached) -> TagSet:
    """See by which tags the library knows a get of the first row."""
    seen: list[TagSet] = []
    store = _store_of(there)
    look = store.lookup

    def looking(key: bytes | None, tags: TagSet) -> Lookup:
        if key is not None:
            seen.append(tags)
        return look(key, tags)

    store.lookup = looking  # type: ignore[method-assign]
    try:
        with Session(there.engine) as session:
            session.get(Product, 1)
    finally:
        del store.lookup
    if not seen:
        raise BenchError("a get asked the store nothing: its tags are not known")
    return seen[-1]
