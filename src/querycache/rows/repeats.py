"""What in a row is what stood in the row before it?

A joined load gives each parent once for each of its children. Such rows are written as groups: the parent's values once, and
what differs for each child. Values are shared only where they are exactly the same, in type and in every bit, and cannot be
changed by who is given them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from operator import ne
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from querycache.rows.tagged import pack

Row: TypeAlias = tuple[Any, ...]
Group: TypeAlias = tuple[Row, Sequence[Row]]
"""The first values of some rows, and the others of each."""

_FEWEST: Final = 3
_EXACT: Final = frozenset({int, str, bytes, bool, date, UUID})


class Repeats(NamedTuple):
    """How many of the first columns are written once for a group of rows, and where each group begins."""

    width: int = 0
    starts: Sequence[int] = ()


def repeats_in(rows: Sequence[Row], most: int) -> Repeats:
    """Find what is worth being written once. ``most``: the first columns that may be, fewer than there are."""
    found, saved, starts = Repeats(), 0, frozenset([0])
    for width in range(1, most + 1 if len(rows) >= _FEWEST else 0):
        starts |= _changes_in([row[width - 1] for row in rows])
        if len(starts) > len(rows) // 2:
            break
        saves = width * (len(rows) - len(starts))
        if saves > saved:
            found, saved = Repeats(width, sorted(starts)), saves
    return found


def grouped(rows: Sequence[Row], repeats: Repeats) -> list[Group]:
    """Put rows together whose first values are the same."""
    width, starts = repeats
    ends = (*starts[1:], len(rows))
    return [
        (rows[start][:width], [row[width:] for row in rows[start:end]]) for start, end in zip(starts, ends, strict=True)
    ]


def ungrouped(groups: Iterable[Group]) -> list[Row]:
    """Return the rows that were put together."""
    return [first + other for first, others in groups for other in others]


def _changes_in(column: list[Any]) -> set[int]:
    """Return the places of values that are not exactly those before them."""
    kinds = set(map(type, column))
    if len(kinds) > 1 or not kinds <= _EXACT:
        # Equal is not the same: 0.0 and -0.0, 1 and True, decimals of other lengths.
        column = list(map(pack, column))
    return {place for place, changes in enumerate(map(ne, column, column[1:]), 1) if changes}
