"""What is written in a slot, the cell that many tags share?

A tag that was asked about has a stamp of its own, under a short check of its name, so that a change of another tag of the
slot ends nothing that depends on it. All other tags have the *common* stamp: a change of one of them moves that alone,
and hardly anybody holds it. (Measured with one stamp for all: 1000 changed rows a second cost 1 to 8 of 100 hits of rows that
nobody changed; bench/false_sharing.py.) Holds are kept one by one, each with its deadline, under writer and check.

Promises: bounded, whatever is asked; a tag's stamp never goes back: one that has to give up its own finds the common
stamp raised to it. A slot is never taken apart: a change is a few bytes put between those that stay. Never does: make a stamp.
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
EMPTY: Final = bytes(SMALLEST)
"""A slot of which nothing was written: every stamp is 0."""

_OWN_SIZE: Final = _OWN.size
_HOLD_SIZE: Final = _HOLD.size
_NAME_SIZE: Final = 16


def own_stamp(cell: bytes, check: bytes) -> Stamp:
    """Return the stamp that a tag has for itself; -1 where it has the common one."""
    at = _stamp_at(cell, check)
    return int(_STAMP.unpack_from(cell, at)[0]) if at else -1


def any_stamp(cell: bytes, check: bytes) -> Stamp:
    """Return a tag's stamp, its own or the common one."""
    return int(_STAMP.unpack_from(cell, _stamp_at(cell, check))[0])


def common_stamp(cell: bytes) -> Stamp:
    """Return the stamp of all tags that have none for themselves."""
    return int(_STAMP.unpack_from(cell)[0])


def with_common(cell: bytes, stamp: Stamp) -> bytes:
    """Return the slot with another stamp of all tags that have none for themselves."""
    return _STAMP.pack(stamp) + cell[_STAMP.size :]


def _stamp_at(cell: bytes, check: bytes) -> int:
    """Return where a tag's stamp stands: 0 where it has the common one, which stands first."""
    at, head = SMALLEST, SMALLEST + cell[SMALLEST - 1] * _OWN_SIZE
    while at < head:
        if cell[at : at + CHECK_SIZE] == check:
            return at + CHECK_SIZE
        at += _OWN_SIZE
    return 0


def head_of(cell: bytes) -> int:
    """Return where the holds begin."""
    return SMALLEST + cell[SMALLEST - 1] * _OWN_SIZE


def with_stamp(cell: bytes, check: bytes, stamp: Stamp) -> bytes:
    """Return the slot with another stamp of a tag, be it its own or the common one."""
    at = _stamp_at(cell, check)
    return cell[:at] + _STAMP.pack(stamp) + cell[at + _STAMP.size :]


def with_own(cell: bytes, check: bytes, stamp: Stamp) -> bytes:
    """Return the slot where a tag has a stamp of its own. Without room, that which has had its own longest gives it up."""
    if _stamp_at(cell, check):
        return with_stamp(cell, check, stamp)
    head = head_of(cell)
    (common, count), own = _HEAD.unpack_from(cell), cell[SMALLEST:head]
    while count >= MAX_OWN:
        common = max(common, _OWN.unpack_from(own)[1])
        own, count = own[_OWN_SIZE:], count - 1
    return _HEAD.pack(common, count + 1) + own + _OWN.pack(check, stamp) + cell[head:]


def changed(cell: bytes, check: bytes, stamp: bytes, hold: bytes, until: bytes) -> bytes:
    """Return the slot with another stamp of a tag, and a hold on it set or ended: see ``with_hold``."""
    head = SMALLEST + cell[SMALLEST - 1] * _OWN_SIZE
    at = _stamp_at(cell, check) if head > SMALLEST else 0
    if len(cell) > head:
        return cell[:at] + stamp + cell[at + 8 : head] + with_hold(cell[head:], hold, until)
    return cell[:at] + stamp + cell[at + 8 :] + (hold + until if until else b"")


def with_hold(holds: bytes, hold: bytes, until: bytes) -> bytes:
    """Return holds of which one lasts until then, or is ended where ``until`` is empty."""
    new, at, whole = hold + until if until else b"", 0, len(holds) // _HOLD_SIZE * _HOLD_SIZE
    while at < whole:
        if holds[at : at + _NAME_SIZE] == hold:
            return holds[:at] + new + holds[at + _HOLD_SIZE : whole]
        at += _HOLD_SIZE
    return holds[:whole] + new


def holds_left(cell: bytes, head: int, now: Stamp) -> bytes:
    """Return the holds in a cell that are not over, as they are written. They begin at ``head``."""
    if len(cell) == head:
        return b""
    return b"".join(_HOLD.pack(hold, deadline) for hold, deadline in _holds(cell, head) if deadline > now)


def holds_on(cell: bytes, check: bytes, now: Stamp) -> bytes:
    """Return the holds on one tag that are not over, as they are written."""
    holds = _holds(cell, head_of(cell))
    return b"".join(_HOLD.pack(hold, until) for hold, until in holds if until > now and hold.endswith(check))


def has_hold(cell: bytes, head: int, now: Stamp) -> bool:
    """Tell whether a cell has a hold that is not over."""
    return len(cell) > head and any(deadline > now for _, deadline in _holds(cell, head))


def is_held(cell: bytes, check: bytes, now: Stamp) -> bool:
    """Tell whether a writer holds the tag."""
    head = head_of(cell)
    return len(cell) > head and any(hold.endswith(check) and until > now for hold, until in _holds(cell, head))


def has_lapsed(cell: bytes, head: int, now: Stamp) -> bool:
    """Tell whether a hold in a cell ended by its deadline, without a release."""
    at = head + _NAME_SIZE
    while at < len(cell) - 7:
        if _STAMP.unpack_from(cell, at)[0] <= now:
            return True
        at += _HOLD_SIZE
    return False


def lapsed_in(cell: bytes, head: int, now: Stamp) -> set[bytes]:
    """Return the checks of the tags of which a hold ended by its deadline, without a release."""
    return {hold[-CHECK_SIZE:] for hold, deadline in _holds(cell, head) if deadline <= now}


def _holds(cell: bytes, head: int) -> Iterator[tuple[bytes, Stamp]]:
    whole = head + (len(cell) - head) // _HOLD_SIZE * _HOLD_SIZE
    return _HOLD.iter_unpack(cell[head:whole])
