"""What if processes of one fleet make tags of different columns, as in every deploy that adds one?

Each process is of one mind: it names its own narrow tag for the row, and a guard for the table. A writer of one mind never
names the tag that a reader of the other depends on; only the guard lies between. The registers are the memory store's own.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Final, Self

from model_store import Lease, Rows, Seen, Tags
from real_store import ENTRY_TTL_S, MARK_TTL_S, WRITERS, TickingMemory

from querycache._types import Tag, TagSet

TABLE: Final = b"the table"
FINGERPRINTS: Final = (b"mind of 0", b"mind of 1")


def tags_of(mind: int) -> TagSet:
    """Return what a process of a mind names for the row."""
    return TagSet((b"row as seen by %d" % mind,), ((TABLE, FINGERPRINTS[mind]),))


class TwoMinds:
    """The memory store, where statement and writer number n are of mind n. States are told apart byte by byte."""

    def __init__(self, store: TickingMemory | None = None) -> None:
        self.store = store or TickingMemory()
        self._marked: dict[int, tuple[Tag, ...]] = {}

    def copy(self) -> Self:
        twin = type(self)(self.store.copied())
        twin._marked = dict(self._marked)
        return twin

    def shape(self, statements: Sequence[Tags]) -> Hashable:
        return self.store.content()

    def shape_of(self, tags: Tags, lease: Lease) -> Hashable:
        return lease

    def lookup(self, statement: int, tags: Tags) -> Seen:
        found = self.store.lookup(_key(statement), tags_of(statement))
        return Seen(None if found.payload is None else tuple(found.payload), found.lease, found.storable)

    def fill(self, statement: int, rows: Rows, lease: Lease) -> None:
        self.store.fill(_key(statement), bytes(rows), lease, ENTRY_TTL_S)

    def mark(self, tags: Tags, writer: int) -> None:
        self._marked[writer] = self.store.mark(tags_of(writer), WRITERS[writer], MARK_TTL_S)

    def release(self, tags: Tags, writer: int) -> None:
        self.store.release(self._marked[writer], WRITERS[writer])

    def lose_release(self, tags: Tags, writer: int) -> None:
        pass

    def land_late(self, tags: Tags, writer: int) -> None:
        self.release(tags, writer)

    def clear(self) -> None:
        self.store.clear()

    def evict_entry(self, statement: int) -> None:
        self.store.lose_entry(_key(statement))

    def evict_register(self, tag: int) -> None:
        raise AssertionError("the memory store evicts no register")

    def has_entry(self, statement: int, tags: Tags) -> bool:
        return self.store.copied().lookup(_key(statement), tags_of(statement)).payload is not None

    def has_register(self, tag: int) -> bool:
        return False

    def is_marked(self, tag: int) -> bool:
        return self.store.stats().marks != 0

    def tick(self) -> None:
        self.store.tick()


def _key(statement: int) -> bytes:
    return b"entry %d" % statement
