"""Which private names of SQLAlchemy stand behind the listeners of an event? And are they still those that they were?

Asked at every read, where asking each event for its listeners would cost more than the look-up. tests/unit/test_hooks.py fails
when a release changes what stands behind this; what is not known by its type is never taken for unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import eq
from typing import Any, Final

from sqlalchemy.event.attr import _EmptyListener, _ListenerCollection

_OWN: Final = {_EmptyListener: ("parent_listeners",), _ListenerCollection: ("parent_listeners", "listeners")}


class Standing:
    """The listeners of some events as they stood at one moment."""

    __slots__ = ("_collections", "_empty", "_filled", "_were")

    def __init__(self, collections: tuple[Any, ...], held: list[Any]) -> None:
        stood = [(listeners, listeners.copy()) for listeners in held]
        self._collections = collections
        self._empty = tuple(listeners for listeners, was in stood if not was)
        self._filled = tuple(listeners for listeners, was in stood if was)
        self._were = tuple(was for _, was in stood if was)

    @classmethod
    def of(cls, collections: tuple[Any, ...]) -> Standing | None:
        """Note how they stand; None where that cannot be told for each."""
        if not all(type(collection) in _OWN for collection in collections):
            return None
        return cls(collections, list(_held_by(collections)))

    def is_that_of(self, collections: tuple[Any, ...]) -> bool:
        """Tell whether they stand as they did: the same collections, with the same listeners in the same order."""
        return collections == self._collections and not any(self._empty) and all(map(eq, self._filled, self._were))


def _held_by(collections: tuple[Any, ...]) -> Iterator[Any]:
    for collection in collections:
        for name in _OWN[type(collection)]:
            yield getattr(collection, name)
