"""What is written in a slot, the cell that many tags share?

A tag that was asked about has a stamp of its own, under a short check of its name, so that a change of another tag of the
slot ends nothing that depends on it. All other tags have the *common* stamp: a change of one of them moves that alone,
and hardly anybody holds it. (Measured with one stamp for all: 1000 changed rows a second cost 1 to 8 of 100 hits of rows that
nobody changed; bench/false_sharing.py.) Holds are kept one by one, each with its deadline, under writer and check.

Promises: bounded, whatever is asked; a tag's stamp never goes back: one that has to give up its own finds the common
stamp raised to it. Never does: make a stamp.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from querycache._types import Stamp

MAX_OWN: Final = 8
CHECK_SIZE: Final = 4

_HEAD: Final = struct.Struct("<QB")
_OWN: Final = struct.Struct(f"<{CHECK_SIZE}sQ")
_STAMP: Final = struct.Struct("<Q")
_HOLD: Final = struct.Struct("<16sQ")

SMALLEST: Final = _HEAD.size
_OWN_SIZE: Final = _OWN.size


def own_stamp(cell: bytes, check: bytes) -> Stamp | None:
    """Return the stamp that a tag has for itself; None where it has the common one."""
    for at in range(SMALLEST, SMALLEST + cell[SMALLEST - 1] * _OWN_SIZE, _OWN_SIZE):
        if cell.startswith(check, at):
            stamp: Stamp = _STAMP.unpack_from(cell, at + CHECK_SIZE)[0]
            return stamp
    return None


def any_stamp(cell: bytes, check: bytes) -> Stamp:
    """Return a tag's stamp, its own or the common one."""
    own = own_stamp(cell, check)
    return int(_STAMP.unpack_from(cell)[0]) if own is None else own


def head_of(cell: bytes) -> int:
    """Return where the holds begin."""
    return SMALLEST + cell[SMALLEST - 1] * _OWN_SIZE


def holds_in(cell: bytes, head: int, now: Stamp) -> dict[bytes, Stamp]:
    """Return the holds in a cell that are not over, each with its deadline. They begin at ``head``."""
    return {hold: deadline for hold, deadline in _holds(cell, head) if deadline > now}


def is_held(cell: bytes, check: bytes, now: Stamp) -> bool:
    """Tell whether a writer holds the tag."""
    head = head_of(cell)
    return len(cell) > head and any(hold.endswith(check) for hold in holds_in(cell, head, now))


def lapsed_in(cell: bytes, head: int, now: Stamp) -> set[bytes]:
    """Return the checks of the tags of which a hold ended by its deadline, without a release."""
    if len(cell) <= head:
        return set()
    return {hold[-CHECK_SIZE:] for hold, deadline in _holds(cell, head) if deadline <= now}


def _holds(cell: bytes, head: int) -> Iterator[tuple[bytes, Stamp]]:
    whole = head + (len(cell) - head) // _HOLD.size * _HOLD.size
    return _HOLD.iter_unpack(cell[head:whole])


def pack_holds(holds: dict[bytes, Stamp]) -> bytes:
    """Write holds as bytes."""
    return b"".join(_HOLD.pack(hold, deadline) for hold, deadline in holds.items())


class Slot:
    """A slot, taken apart to be changed."""

    __slots__ = ("_own", "common", "holds")

    def __init__(self, cell: bytes | None, now: Stamp) -> None:
        """Take a cell apart; without one, every stamp is 0."""
        self.common: Stamp = 0
        self.holds: dict[bytes, Stamp] = {}
        self._own: dict[bytes, Stamp] = {}
        if cell is not None:
            head = head_of(cell)
            self.common = _HEAD.unpack_from(cell)[0]
            self._own = dict(_OWN.iter_unpack(cell[_HEAD.size : head]))
            self.holds = holds_in(cell, head, now)

    def stamp_of(self, check: bytes) -> Stamp:
        """Return a tag's stamp, its own or the common one."""
        return self._own.get(check, self.common)

    def give(self, check: bytes, stamp: Stamp) -> None:
        """Let a tag have a stamp of its own. Where there is no room, the tag that has had its own longest gives it up."""
        while check not in self._own and len(self._own) >= MAX_OWN:
            self.common = max(self.common, self._own.pop(next(iter(self._own))))
        self._own[check] = stamp

    def change(self, check: bytes, stamp: Stamp) -> None:
        """Replace a tag's stamp."""
        if check in self._own:
            self._own[check] = stamp
        else:
            self.common = stamp

    def pack(self) -> bytes:
        """Put the slot together again."""
        own = b"".join(_OWN.pack(check, stamp) for check, stamp in self._own.items())
        return _HEAD.pack(self.common, len(self._own)) + own + pack_holds(self.holds)
