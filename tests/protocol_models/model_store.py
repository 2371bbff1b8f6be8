"""What would a store be, if it were nothing but its contract?

Registers and entries by number, the four verbs, and what may befall them: eviction, and time that ends marks. Each rule of
the contract can be left out, to see what depends on it.

A stamp is either a tag's current one or dead for good, so worlds that differ only in what is dead are one state. Where the
rule "stamps never repeat" is left out a dead stamp may come back, and every number counts. Beside a real store, which may
not know, what is dead counts too: ``forgets_dead`` is False.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeAlias

Tags: TypeAlias = tuple[int, ...]
Lease: TypeAlias = tuple[int, ...]
Rows: TypeAlias = tuple[int, ...]
"""The version of each tag's row that a query saw."""


class Seen(NamedTuple):
    """The answer to a lookup: ``rows`` is None on a miss."""

    rows: Rows | None
    lease: Lease
    is_storable: bool


class StepStore(Protocol):
    """The verbs that a world of the protocol uses, on a store that can be copied between two steps."""

    def copy(self) -> Self:
        """Return a store that goes its own way from here."""

    def shape(self, statements: Sequence[Tags]) -> Hashable:
        """Return all that the answers to come depend on; entries are those of ``statements``."""

    def shape_of(self, tags: Tags, lease: Lease) -> Hashable:
        """Return what matters of a lease that somebody holds."""

    def lookup(self, statement: int, tags: Tags) -> Seen:
        """Look for an entry and take a lease."""

    def fill(self, statement: int, rows: Rows, lease: Lease) -> None:
        """Store an entry."""

    def mark(self, tags: Tags, writer: int) -> None:
        """Say that a commit is about to change the tags."""

    def release(self, tags: Tags, writer: int) -> None:
        """Say that it is over."""

    def lose_release(self, tags: Tags, writer: int) -> None:
        """Release, but get no answer: the store has not heard of it, or not yet."""

    def land_late(self, tags: Tags, writer: int) -> None:
        """Hear now of a release that had no answer."""

    def clear(self) -> None:
        """Make every entry invalid, also one whose fill is under way."""

    def evict_entry(self, statement: int) -> None:
        """Forget an entry."""

    def evict_register(self, tag: int) -> None:
        """Forget a tag's stamp, and its marks with it."""

    def has_entry(self, statement: int, tags: Tags) -> bool:
        """Tell whether there is an entry to forget under its tags' stamps."""

    def has_register(self, tag: int) -> bool:
        """Tell whether a tag has a stamp."""

    def is_marked(self, tag: int) -> bool:
        """Tell whether somebody's mark on a tag lives."""

    def tick(self) -> None:
        """Let time pass: of the life of a mark, a part."""


@dataclass(frozen=True, slots=True)
class StoreRules:
    """The rules of the contract; each one False is a store without it. ``mark_life``: ticks that a mark lives."""

    keeps_every_writer: bool = True
    release_always_stamps: bool = True
    stamps_never_repeat: bool = True
    clear_changes_stamps: bool = True
    deadlines_are_the_writers: bool = True
    mark_life: int = 1
    forgets_dead: bool = True


class ModelStore:
    """A store of ``tags`` registers and ``statements`` entries."""

    __slots__ = ("_entries", "_last", "_marks", "_mine", "_rules", "_stamps")

    def __init__(self, tags: int, statements: int, rules: StoreRules) -> None:
        self._rules = rules
        self._last = 0
        self._stamps: list[int] = [0] * tags  # 0: none
        self._marks: list[dict[int, int]] = [{} for _ in range(tags)]
        self._entries: list[tuple[Rows, Lease] | None] = [None] * statements
        # The stamp that a writer's mark made, for the broken release that looks at it.
        self._mine: dict[tuple[int, int], int] = {}

    def copy(self) -> Self:
        twin = object.__new__(type(self))
        twin._rules = self._rules
        twin._last = self._last
        twin._stamps = self._stamps[:]
        twin._marks = self._marks[:]  # replaced, never changed
        twin._entries = self._entries[:]
        twin._mine = self._mine if self._rules.release_always_stamps else dict(self._mine)
        return twin

    def shape(self, statements: Sequence[Tags]) -> Hashable:
        marks = tuple(tuple(sorted(marks.items())) for marks in self._marks)
        if not self._rules.stamps_never_repeat:
            return tuple(self._stamps), marks, tuple(self._entries)
        entries = tuple(self._entry_shape(entry, tags) for entry, tags in zip(self._entries, statements, strict=True))
        mine: tuple[tuple[int, int], ...] = ()
        if not self._rules.release_always_stamps:
            mine = tuple(sorted(name for name, stamp in self._mine.items() if stamp == self._stamps[name[0]]))
        return tuple(map(bool, self._stamps)), marks, entries, mine

    def shape_of(self, tags: Tags, lease: Lease) -> Hashable:
        if not self._rules.stamps_never_repeat:
            return lease
        is_current = self._is_current(tags, lease)
        return is_current if self._rules.forgets_dead else ("held", is_current)

    def _entry_shape(self, entry: tuple[Rows, Lease] | None, tags: Tags) -> Hashable:
        if entry is None or (self._rules.forgets_dead and not self._is_current(tags, entry[1])):
            return None
        return entry[0], self._is_current(tags, entry[1])

    def _is_current(self, tags: Tags, lease: Lease) -> bool:
        return all(self._stamps[tag] == stamp for tag, stamp in zip(tags, lease, strict=True))

    def lookup(self, statement: int, tags: Tags) -> Seen:
        lease = tuple(self.stamp_of(tag) for tag in tags)
        is_storable = not any(self._marks[tag] for tag in tags)
        entry = self._entries[statement]
        rows = entry[0] if entry is not None and is_storable and entry[1] == lease else None
        return Seen(rows, lease, is_storable)

    def stamp_of(self, tag: int) -> int:
        """Return a tag's stamp, a fresh one where it was lost."""
        if not self._stamps[tag]:
            self._stamp(tag)
        return self._stamps[tag]

    def entry_of(self, statement: int) -> tuple[Rows, Lease] | None:
        """Return an entry as it was filled: for lookups that are not one step."""
        return self._entries[statement]

    def fill(self, statement: int, rows: Rows, lease: Lease) -> None:
        self._entries[statement] = (rows, lease)

    def mark(self, tags: Tags, writer: int) -> None:
        life = self._rules.mark_life
        for tag in tags:
            others = self._marks[tag] if self._rules.keeps_every_writer else {}
            if not self._rules.deadlines_are_the_writers:
                others = dict.fromkeys(others, life)
            self._marks[tag] = {**others, writer: life}
            self._stamp(tag)
            if not self._rules.release_always_stamps:
                self._mine[tag, writer] = self._stamps[tag]

    def release(self, tags: Tags, writer: int) -> None:
        for tag in tags:
            if not self._rules.release_always_stamps and self._mine.pop((tag, writer), None) != self._stamps[tag]:
                self._marks[tag] = _without(self._marks[tag], writer)
                continue
            self._marks[tag] = _without(self._marks[tag], writer) if self._rules.keeps_every_writer else {}
            self._stamp(tag)

    def lose_release(self, tags: Tags, writer: int) -> None:
        pass

    def land_late(self, tags: Tags, writer: int) -> None:
        self.release(tags, writer)

    def clear(self) -> None:
        self._entries = [None] * len(self._entries)
        if self._rules.clear_changes_stamps:
            for tag in range(len(self._stamps)):
                self._stamp(tag)

    def evict_entry(self, statement: int) -> None:
        self._entries[statement] = None

    def evict_register(self, tag: int) -> None:
        self._stamps[tag] = 0
        self._marks[tag] = {}

    def has_entry(self, statement: int, tags: Tags) -> bool:
        entry = self._entries[statement]
        return entry is not None and self._is_current(tags, entry[1])

    def has_register(self, tag: int) -> bool:
        return bool(self._stamps[tag])

    def is_marked(self, tag: int) -> bool:
        return bool(self._marks[tag])

    def tick(self) -> None:
        self._marks = [{writer: life - 1 for writer, life in marks.items() if life > 1} for marks in self._marks]

    def _stamp(self, tag: int) -> None:
        if self._rules.stamps_never_repeat:
            self._last += 1
            self._stamps[tag] = self._last
        else:
            # A counter in the register, which an eviction resets.
            self._stamps[tag] += 1


def _without(marks: dict[int, int], writer: int) -> dict[int, int]:
    return {name: life for name, life in marks.items() if name != writer}
