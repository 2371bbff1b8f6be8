"""Which key and which tags were made of these values lately?

What is asked again and again is asked with the same values: then both are remembered, and neither digested nor rendered
anew. Bounded over all statements of a cache; what is forgotten is made again.

Never: an answer for values that are only equal (1 and True, 0.0 and -0.0): types that have such values are not remembered.
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Iterable
from typing import Any, Final, NamedTuple
from uuid import UUID

from querycache._types import TagSet

MAX_NAMED: Final = 20_000
"""Some 15 MB."""

_EXACT: Final = frozenset({int, str, bytes, bool, type(None), UUID})


class Named(NamedTuple):
    """The key of one call of a statement, and what it depends on."""

    key: bytes
    tags: TagSet


class Memory:
    """What was made of the values of one statement. ``after``: by its key, what was asked after it last."""

    __slots__ = ("__weakref__", "_recall", "after", "named")

    def __init__(self, recall: Recall) -> None:
        self._recall = recall
        self.named: dict[Hashable, Named] = {}
        self.after: dict[bytes, tuple[Named, ...]] = {}

    def keep(self, values: Hashable, named: Named) -> None:
        """Remember what was made of values."""
        self._recall.make_room(self)
        self.named[values] = named

    def keep_after(self, key: bytes, asked: tuple[Named, ...]) -> None:
        """Remember what is asked after a statement, which will most likely be asked after it again."""
        if self.after.get(key) != asked:
            self._recall.make_room(self)
            self.after[key] = asked


class Recall:
    """What is remembered of all statements. Everything is forgotten where it becomes too much: made again, it is the same."""

    def __init__(self, most: int = MAX_NAMED) -> None:
        self._most = most
        self._left = most
        self._memories: weakref.WeakSet[Memory] = weakref.WeakSet()

    def memory(self) -> Memory:
        """Begin to remember for a statement."""
        return Memory(self)

    def make_room(self, memory: Memory) -> None:
        """Count one more."""
        self._left -= 1
        if self._left < 0:
            self._left = self._most
            for other in list(self._memories):
                other.named.clear()
                other.after.clear()
        self._memories.add(memory)


def exactly(variation: bytes, values: Iterable[Any]) -> Hashable | None:
    """Return what equals for these values alone, in this order; None where that is not sure."""
    given = list(values)
    types = list(map(type, given))
    if _EXACT.issuperset(types):
        return (variation, *types, *given)
    for at, value in enumerate(given):
        if types[at] is list and _EXACT.issuperset(inner := tuple(map(type, value))):
            given[at] = (inner, tuple(value))
        elif types[at] not in _EXACT:
            return None
    return (variation, *types, *given)
