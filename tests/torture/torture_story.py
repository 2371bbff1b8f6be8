"""What is in the database at each version of a group of rows, and what does each question answer then?

Rows come in groups. Each transaction changes one group: it raises the group's version by one and changes two or three of its
rows, and which rows, and to what, follows from the group and the version alone. So whoever knows a version knows every row
of the group, and an answer from the database is that of a version or of no state at all.

Only the *token* of a row is drawn by lot, by each attempt to commit: it tells an attempt that was rolled back from the one
that made the version after it. Never does: I/O.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

ROWS: Final = 4
"""Rows of a group."""

SHELVES: Final = 2
"""Rows of a group lie on so many shelves, which only they have."""

Row: TypeAlias = tuple[int, int, int, int]
"""A row's id, shelf, amount and version: the last version of its group that changed it."""

State: TypeAlias = tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """What an answer says of one group: compared with what each version of it would say."""

    group: int
    answer: Any
    tokens: tuple[tuple[int, int], ...] = ()
    """Versions that rows were seen at, each with the token of the attempt that made it."""


def row_ids(group: int) -> range:
    """Return the ids of a group's rows."""
    return range(group * ROWS, (group + 1) * ROWS)


def shelves(group: int) -> range:
    """Return the shelves of a group."""
    return range(group * SHELVES, (group + 1) * SHELVES)


class Story:
    """The states of one group, version by version."""

    def __init__(self, group: int) -> None:
        self.group = group
        rows = tuple((key, shelves(group)[key % SHELVES], 100, 0) for key in row_ids(group))
        self._states: list[State] = [rows]

    def state(self, version: int) -> State:
        """Return the group's rows at a version, in the order of their ids."""
        while len(self._states) <= version:
            self._states.append(self._next())
        return self._states[version]

    def changed(self, version: int) -> list[Row]:
        """Return the rows that a version changed, as they are then."""
        return [row for row in self.state(version) if row[3] == version]

    def _next(self) -> State:
        version = len(self._states)
        dice = random.Random(f"{self.group}/{version}")
        rows = list(self._states[-1])
        for at in dice.sample(range(ROWS), dice.choice((2, 2, 3))):
            key, shelf, amount, _ = rows[at]
            if dice.random() < 0.3:
                shelf = next(other for other in shelves(self.group) if other != shelf)
            rows[at] = key, shelf, amount + dice.randint(1, 9), version
        return tuple(rows)

    def answer(self, kind: str, argument: int, version: int) -> Any:
        """Return what a question of one group says at a version: lists as nested tuples."""
        state = self.state(version)
        if kind == "board":
            return version
        if kind == "row":
            return tuple(row for row in state if row[0] == argument)
        if kind in ("group", "keyed"):
            return state
        if kind == "shelf":
            return tuple(row for row in state if row[1] == argument)
        if kind == "count":
            return sum(row[1] == argument for row in state)
        if kind == "sum":
            return sum(row[2] for row in state)
        raise ValueError(f"there is no kind of question {kind!r}")


KINDS: Final = ("row", "shelf", "group", "keyed", "count", "sum", "board")


def parts_of(kind: str, argument: int, group: int, answer: Any) -> list[Part]:
    """Take an answer, as it stands in a log, apart by groups."""
    if kind == "board":
        return [Part(key, version, ((version, token),)) for key, version, token in answer]
    if kind in ("count", "sum"):
        return [Part(group, answer)]
    rows = tuple((key, shelf, amount, version) for key, shelf, amount, version, _ in answer)
    return [Part(group, rows, tuple((row[3], row[4]) for row in answer))]


def argument_for(kind: str, group: int, dice: random.Random) -> int:
    """Choose which row or shelf of a group a question is about; 0 where it is about all."""
    if kind == "row":
        return dice.choice(row_ids(group))
    if kind in ("shelf", "count"):
        return dice.choice(shelves(group))
    return 0


def total_of(state: Sequence[Row]) -> int:
    """Return the sum of all amounts, which grows with every version."""
    return sum(row[2] for row in state)
