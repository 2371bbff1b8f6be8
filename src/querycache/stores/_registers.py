"""What does a store remember of a tag, and how do the verbs change it?

Each tag has a *register*: its stamp and the writers that hold a mark on it, each with its own deadline. The rules are
the same wherever registers are kept, so they are written once, here, over cells: bytes by key.

Tags share a fixed number of cells (slots), so what is remembered is bounded without ever forgetting: where more tags of
one slot are asked about than it has room for, some are touched together, which costs a miss. A guard has a cell of its
own, because its stamp covers a whole table; a mark on its tag is written to the slot and to the guard's cell, where there
is one. A writer holds each tag under another name, so that a slot tells whose holds are on which of its tags.

Promises: no stamp is given twice; a mark is lost to its deadline or release alone; stamps older than the *floor*
count as missing. Never does: I/O, locking. The caller sees to it that a ``Writing`` is alone, and that it is kept
whole or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from querycache._types import MARK_TTL_S, Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.stores._slot import (
    CHECK_SIZE,
    Slot,
    any_stamp,
    head_of,
    holds_in,
    is_held,
    lapsed_in,
    own_stamp,
    pack_holds,
)

SLOT_BITS: Final = 18
GUARD_PREFIX: Final = b"g"
SLOT_PREFIX: Final = b"s"
META_KEY: Final = b"m"
MAX_GUARDS: Final = 65_536

_STAMP: Final = struct.Struct("<Q")
_META: Final = struct.Struct("<QQQ")
_GUARD_HEAD: Final = 24
_MARK_TTL_NS: Final = int(MARK_TTL_S * 1e9)

_FOREIGNER: Final = bytes(16)
"""Holds the mark that a lookup sets on a guard of another mind. One name for all of them: it is never released, only
outlived, and a name drawn each time would let a cell grow while two minds take turns."""


class Cells(Protocol):
    """Bytes by key, as one transaction sees them."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def put(self, key: bytes, value: bytes, /) -> object: ...

    def delete(self, key: bytes, /) -> object: ...


@lru_cache(maxsize=16_384)
def slot_key(tag: Tag, bits: int) -> bytes:
    """Name the cell that ``tag`` shares with others."""
    return SLOT_PREFIX + (int.from_bytes(_digest_of(tag)[:4]) >> (32 - bits)).to_bytes(4)


@lru_cache(maxsize=16_384)
def _place_of(tag: Tag, bits: int) -> tuple[bytes, bytes]:
    """Return the cell that a tag shares with others, and what tells it apart there."""
    return slot_key(tag, bits), _check_of(tag)


@lru_cache(maxsize=4096)
def guard_key(tag: Tag) -> bytes:
    """Name the cell that ``tag`` has to itself, as a guard."""
    return GUARD_PREFIX + blake2b(tag, digest_size=16).digest()


@lru_cache(maxsize=16_384)
def _digest_of(tag: Tag) -> bytes:
    return blake2b(tag, digest_size=4 + CHECK_SIZE).digest()


@lru_cache(maxsize=16_384)
def _check_of(tag: Tag) -> bytes:
    """Tell a tag apart from others of its slot."""
    return _digest_of(tag)[4:]


@lru_cache(maxsize=64)
def _name_of(writer: Writer) -> bytes:
    return blake2b(writer, digest_size=12).digest()


def _hold_on(tag: Tag, writer: Writer) -> bytes:
    """Name one writer's hold on one tag: what it releases on this tag leaves its holds on others of the slot."""
    return _name_of(writer) + _check_of(tag)


@lru_cache(maxsize=4096)
def _short(fingerprint: bytes) -> bytes:
    return fingerprint if len(fingerprint) == 16 else blake2b(fingerprint, digest_size=16).digest()


def is_marked(key: bytes, cell: bytes, now: Stamp) -> bool:
    """Tell whether a register has a writer whose deadline is to come."""
    head = _GUARD_HEAD if key.startswith(GUARD_PREFIX) else head_of(cell)
    return len(cell) > head and bool(holds_in(cell, head, now))


def _meta(cells: Cells) -> tuple[Stamp, Stamp, Stamp] | None:
    cell = cells.get(META_KEY)
    return _META.unpack(cell) if cell is not None and len(cell) == _META.size else None


def latest_stamp(cells: Cells) -> Stamp:
    """Return the last stamp that was made, 0 where there is none."""
    meta = _meta(cells)
    return 0 if meta is None else meta[0]


def peek(
    cells: Cells,
    tags: TagSet,
    ticks: Stamp,
    bits: int = SLOT_BITS,
    *,
    must_own: bool = True,
    known: dict[Tag | Guard, tuple[Stamp, bool]] | None = None,
) -> tuple[Lease, bool, Stamp] | None:
    """Return lease, storable and now without writing, or None where a register must be written first.

    Without ``must_own`` a tag that has no stamp of its own counts by the one that it shares. ``known``: what was seen of
    tags in the same transaction, each with its stamp and whether it is held; what is seen now is added.
    """
    meta = _meta(cells)
    if meta is None:
        return None
    last, floor, _ = meta
    now = max(last, ticks)
    lease: list[Stamp] = []
    storable = True
    for tag in tags.tags:
        if known is not None and (seen := known.get(tag)) is not None:
            stamp, held = seen
        else:
            key, check = _place_of(tag, bits)
            cell = cells.get(key)
            if cell is None:
                return None
            own = own_stamp(cell, check) if must_own else any_stamp(cell, check)
            if own is None or own < floor:
                return None
            stamp, held, head = own, False, head_of(cell)
            if len(cell) > head:
                held = is_held(cell, check, now)
                if not held and check in lapsed_in(cell, head, now):
                    return None
            if known is not None:
                known[tag] = stamp, held
        lease.append(stamp)
        storable = storable and not held
    for guard in tags.guards:
        if known is not None and (seen := known.get(guard)) is not None:
            stamp, held = seen
        else:
            tag, fingerprint = guard
            cell = cells.get(guard_key(tag))
            if cell is None or cell[8:24] != _short(fingerprint):
                return None
            (stamp,) = _STAMP.unpack_from(cell)
            if stamp < floor:
                return None
            held = False
            if len(cell) > _GUARD_HEAD:
                if lapsed_in(cell, _GUARD_HEAD, now):
                    return None
                held = bool(holds_in(cell, _GUARD_HEAD, now))
            if known is not None:
                known[guard] = stamp, held
        lease.append(stamp)
        storable = storable and not held
    return tuple(lease), storable, now


class Seen(NamedTuple):
    """The registers of tags when their lease was found to be whole and unmarked: each cell by its key, the oldest stamp."""

    tags: TagSet
    cells: tuple[tuple[bytes, bytes], ...]
    oldest: Stamp


def seen_of(cells: Cells, tags: TagSet, lease: Lease, bits: int = SLOT_BITS) -> Seen | None:
    """Note the registers of tags on which no writer has a hold, lapsed or not; None where one has.

    ``lease``: what ``peek`` gave in the same transaction.
    """
    noted = []
    for tag in tags.tags:
        key = slot_key(tag, bits)
        cell = cells.get(key)
        if cell is None or len(cell) > head_of(cell):
            return None
        noted.append((key, cell))
    for tag, _ in tags.guards:
        key = guard_key(tag)
        cell = cells.get(key)
        if cell is None or len(cell) > _GUARD_HEAD:
            return None
        noted.append((key, cell))
    return Seen(tags, tuple(noted), min(lease)) if lease else None


def unchanged(cells: Cells, seen: Seen) -> Stamp | None:
    """Return the last stamp that was made, where nothing was written to registers since: the lease is whole and unmarked still.

    None where something was.
    """
    meta = cells.get(META_KEY)
    if meta is None or len(meta) != _META.size:
        return None
    last, floor, _ = _META.unpack(meta)
    if seen.oldest < floor:
        return None
    for key, cell in seen.cells:
        if cells.get(key) != cell:
            return None
    return int(last)


def peek_all(
    cells: Cells, asked: Sequence[TagSet], ticks: Stamp, bits: int = SLOT_BITS
) -> list[tuple[Lease, bool, Stamp] | None]:
    """``peek`` at each, at one moment: what several depend on is looked at once."""
    known: dict[Tag | Guard, tuple[Stamp, bool]] | None = {} if len(asked) > 1 else None
    return [peek(cells, tags, ticks, bits, known=known) for tags in asked]


class Writing:
    """One change to the registers. Call ``save`` last."""

    def __init__(self, cells: Cells, ticks: Stamp, bits: int = SLOT_BITS) -> None:
        self._cells = cells
        self._bits = bits
        # Without the floor it is not known what a clear made invalid: everything before now.
        self._last, self._floor, self._forgot = _meta(cells) or (ticks, ticks, 0)
        self._ticks = ticks
        self.now = max(self._last, ticks)

    def save(self) -> None:
        """Keep the clock, which every stamp made here has moved."""
        self._cells.put(META_KEY, _META.pack(self._last, self._floor, self._forgot))

    def lease(self, tags: TagSet) -> tuple[Lease, bool, Stamp]:
        """Do what ``peek`` does, and give every register that lacks one a stamp."""
        for tag in tags.tags:
            self._refresh_slot(tag)
        for tag, fingerprint in tags.guards:
            self._refresh_guard(tag, _short(fingerprint))
        self.save()
        # More tags of one slot than have room in it share a stamp after all.
        seen = peek(self._cells, tags, self._ticks, self._bits, must_own=False)
        if seen is None:
            raise AssertionError("a register that was just written is missing")
        return seen

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        """Add the writer to every register of ``tags.tags``, and to guards of another mind; return the tags marked."""
        deadline = self.now + int(ttl_s * 1e9)
        for tag in tags.tags:
            self._change(tag, writer, deadline)
        foreign = []
        for tag, fingerprint in tags.guards:
            if self._owns_guard(tag, _short(fingerprint)):
                continue
            self._change(tag, writer, deadline)
            foreign.append(tag)
        self.save()
        return tuple(dict.fromkeys((*tags.tags, *foreign)))

    def stamp_of(self, guard: Guard) -> Stamp | None:
        """Return a guard's stamp as it is; None where the guard is absent, marked, or of another mind."""
        seen = peek(self._cells, TagSet((), (guard,)), self._ticks, self._bits)
        return seen[0][0] if seen is not None and seen[1] else None

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        """Remove the writer; every register gets a new stamp, whether or not the writer was found."""
        for tag in tags:
            self._change(tag, writer, None)
        self.save()

    def raise_floor(self) -> None:
        """Make every stamp given so far count as missing; marks stay."""
        self._floor = self._stamp()
        self.save()

    def forget_guards(self, keys: Iterable[bytes]) -> None:
        """Drop guards. The marks of writers are in the slots too, where a guard made anew finds them.

        A writer of another mind may have relied on one for a commit that is under way: for the life of a mark, guards
        made anew start marked.
        """
        for key in keys:
            self._cells.delete(key)
        self._forgot = self.now
        self.save()

    def _stamp(self) -> Stamp:
        self._last = max(self._last + 1, self._ticks)
        return self._last

    def _slot(self, key: bytes) -> Slot:
        """Take a slot apart. A mark that ended by its deadline ends as one that is released does, with another stamp.

        Its writer may be dead since it committed: who has an older snapshot must not take its own rows for those of today.
        """
        cell = self._cells.get(key)
        slot = Slot(cell, self.now)
        if cell is not None:
            for check in sorted(lapsed_in(cell, head_of(cell), self.now)):
                slot.change(check, self._stamp())
        return slot

    def _refresh_slot(self, tag: Tag) -> None:
        """Give a tag that is asked about a stamp of its own: the one it had among others, where that still counts."""
        key, check = slot_key(tag, self._bits), _check_of(tag)
        slot = self._slot(key)
        if not slot.common or slot.common < self._floor:
            slot.common = self._stamp()
        stamp = slot.stamp_of(check)
        slot.give(check, stamp if stamp >= self._floor else self._stamp())
        self._cells.put(key, slot.pack())

    def _put_guard(self, key: bytes, holds: dict[bytes, Stamp], fingerprint: bytes) -> None:
        self._cells.put(key, _STAMP.pack(self._stamp()) + fingerprint + pack_holds(holds))

    def _refresh_guard(self, tag: Tag, fingerprint: bytes) -> None:
        key = guard_key(tag)
        cell = self._cells.get(key)
        if cell is None:
            self._make_guard(tag, fingerprint)
        elif cell[8:24] != fingerprint:
            holds = holds_in(cell, _GUARD_HEAD, self.now)
            holds[_FOREIGNER] = self.now + _MARK_TTL_NS
            self._put_guard(key, holds, fingerprint)
        elif _STAMP.unpack_from(cell)[0] < self._floor or lapsed_in(cell, _GUARD_HEAD, self.now):
            self._put_guard(key, holds_in(cell, _GUARD_HEAD, self.now), fingerprint)

    def _make_guard(self, tag: Tag, fingerprint: bytes) -> None:
        """Make the guard's cell. Until now marks on its tag went to the slot alone: take them over, and no others.

        A writer of another tag in that slot would never release what it does not know that it holds.
        """
        slot = Slot(self._cells.get(slot_key(tag, self._bits)), self.now)
        holds = {hold: deadline for hold, deadline in slot.holds.items() if hold.endswith(_check_of(tag))}
        if self._forgot and self._forgot + _MARK_TTL_NS > self.now:
            holds[_FOREIGNER] = self._forgot + _MARK_TTL_NS
        self._put_guard(guard_key(tag), holds, fingerprint)

    def _owns_guard(self, tag: Tag, fingerprint: bytes) -> bool:
        """Tell whether the guard is there and of the caller's mind; make it where it is absent.

        A foreign fingerprint stays: the writer marks the tag, so readers of that mind lose nothing but what it changed.
        """
        cell = self._cells.get(guard_key(tag))
        if cell is None:
            self._make_guard(tag, fingerprint)
            return False
        return cell[8:24] == fingerprint

    def _change(self, tag: Tag, writer: Writer, deadline: Stamp | None) -> None:
        hold = _hold_on(tag, writer)
        key = slot_key(tag, self._bits)
        slot = self._slot(key)
        slot.change(_check_of(tag), self._stamp())
        _hold(slot.holds, hold, deadline)
        self._cells.put(key, slot.pack())
        cell = self._cells.get(guard_key(tag))
        if cell is not None:
            holds = holds_in(cell, _GUARD_HEAD, self.now)
            _hold(holds, hold, deadline)
            self._put_guard(guard_key(tag), holds, cell[_STAMP.size : _GUARD_HEAD])


def _hold(holds: dict[bytes, Stamp], hold: bytes, deadline: Stamp | None) -> None:
    """Set a hold, or end it where there is no deadline."""
    if deadline is None:
        holds.pop(hold, None)
    else:
        holds[hold] = deadline


_ENTRY: Final = struct.Struct("<QI")


def pack_entry(payload: bytes, lease: Lease, expires: Stamp) -> bytes:
    """Write an entry as bytes: when it expires, its lease, its payload."""
    return _ENTRY.pack(expires, len(lease)) + _stamps(len(lease)).pack(*lease) + payload


@lru_cache(maxsize=256)
def _stamps(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


def answer_of(record: bytes | None, seen: tuple[Lease, bool, Stamp]) -> Lookup:
    """Return what a lookup found: an entry as bytes, if there is one, under what is seen of its tags now."""
    lease, storable, now = seen
    payload = unpack_entry(record, lease, now) if record is not None and storable else None
    if record is None or payload is None:
        return Lookup(None, lease, storable, now)
    return Lookup(payload, lease, storable, now, expiry_of(record))


def unpack_entry(record: bytes, lease: Lease, now: Stamp) -> bytes | None:
    """Return the payload where the entry was filled under exactly this lease and lives; None otherwise."""
    if len(record) < _ENTRY.size:
        return None
    expires, count = _ENTRY.unpack_from(record)
    start = _ENTRY.size + 8 * count
    if expires <= now or count != len(lease) or len(record) < start:
        return None
    if record[_ENTRY.size : start] != _stamps(count).pack(*lease):
        return None
    return record[start:]


def expiry_of(record: bytes) -> Stamp:
    """Return when an entry expires."""
    return int(_ENTRY.unpack_from(record)[0])
