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
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol, TypeAlias

from querycache._types import MARK_TTL_S, Guard, Lease, Stamp, Tag, TagSet, Writer
from querycache.stores._slot import (
    CHECK_SIZE,
    EMPTY,
    any_stamp,
    changed,
    common_stamp,
    has_hold,
    has_lapsed,
    head_of,
    holds_left,
    holds_on,
    is_held,
    lapsed_in,
    own_stamp,
    with_common,
    with_hold,
    with_own,
    with_stamp,
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


Known: TypeAlias = dict[tuple[Tag, bytes | bool], tuple[Stamp, bool]]
"""What was seen in one transaction: of guards, and of tags, each with whether it must own its stamp: the stamp, and whether
a writer holds it."""


class Cells(Protocol):
    """Bytes by key, as one transaction sees them."""

    def get(self, key: bytes, /) -> bytes | None: ...

    def put(self, key: bytes, value: bytes, /) -> object: ...

    def delete(self, key: bytes, /) -> object: ...


class Place(NamedTuple):
    """Where a tag is remembered: the cell that it shares, its check there, the cell that it has to itself as a guard."""

    slot: bytes
    check: bytes
    guard: bytes


@lru_cache(maxsize=16_384)
def place_of(tag: Tag, bits: int) -> Place:
    """Name the cells of a tag."""
    digest = blake2b(tag, digest_size=20 + CHECK_SIZE).digest()
    slot = SLOT_PREFIX + (int.from_bytes(digest[:4]) >> (32 - bits)).to_bytes(4)
    return Place(slot, digest[4 : 4 + CHECK_SIZE], GUARD_PREFIX + digest[4 + CHECK_SIZE :])


def slot_key(tag: Tag, bits: int) -> bytes:
    """Name the cell that ``tag`` shares with others."""
    return place_of(tag, bits).slot


def guard_key(tag: Tag) -> bytes:
    """Name the cell that ``tag`` has to itself, as a guard: the same, however many slots there are."""
    return place_of(tag, SLOT_BITS).guard


def _name_of(writer: Writer) -> bytes:
    """Name a writer in its holds. The check of a tag follows: what it releases leaves its holds on others of the slot."""
    return blake2b(writer, digest_size=16 - CHECK_SIZE).digest()


@lru_cache(maxsize=4096)
def _short(fingerprint: bytes) -> bytes:
    return fingerprint if len(fingerprint) == 16 else blake2b(fingerprint, digest_size=16).digest()


def is_marked(key: bytes, cell: bytes, now: Stamp) -> bool:
    """Tell whether a register has a writer whose deadline is to come."""
    head = _GUARD_HEAD if key.startswith(GUARD_PREFIX) else head_of(cell)
    return has_hold(cell, head, now)


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
    known: Known | None = None,
) -> tuple[Lease, bool, Stamp] | None:
    """Return lease, storable and now without writing, or None where a register must be written first.

    Without ``must_own`` a tag that has no stamp of its own counts by the one that it shares, at least by the floor: where no
    register is ever lost, it did not change since. ``known``: what was seen in the same transaction; what is seen now is added.
    """
    meta = _meta(cells)
    if meta is None:
        return None
    last, floor, _ = meta
    now = max(last, ticks)
    lease: list[Stamp] = []
    storable = True
    for tag in tags.tags:
        seen = None if known is None else known.get((tag, must_own))
        if seen is None:
            key, check, _ = place_of(tag, bits)
            cell = cells.get(key) or EMPTY
            stamp = own_stamp(cell, check) if must_own else max(any_stamp(cell, check), floor)
            if stamp < floor:
                return None
            held, head = False, head_of(cell)
            if len(cell) > head:
                held = is_held(cell, check, now)
                if not held and check in lapsed_in(cell, head, now):
                    return None
            seen = stamp, held
            if known is not None:
                known[tag, must_own] = seen
        lease.append(seen[0])
        storable = storable and not seen[1]
    for guard in tags.guards:
        seen = None if known is None else known.get(guard)
        if seen is None:
            tag, fingerprint = guard
            guarded = cells.get(guard_key(tag))
            if guarded is None or guarded[8:24] != _short(fingerprint):
                return None
            (stamp,) = _STAMP.unpack_from(guarded)
            if stamp < floor:
                return None
            held = False
            if len(guarded) > _GUARD_HEAD:
                if has_lapsed(guarded, _GUARD_HEAD, now):
                    return None
                held = has_hold(guarded, _GUARD_HEAD, now)
            seen = stamp, held
            if known is not None:
                known[guard] = seen
        lease.append(seen[0])
        storable = storable and not seen[1]
    return tuple(lease), storable, now


class Seen(NamedTuple):
    """The registers of tags when their lease was found to be whole and unmarked: each cell by its key, the oldest stamp."""

    tags: TagSet
    cells: tuple[tuple[bytes, bytes | None], ...]
    oldest: Stamp


def seen_of(cells: Cells, tags: TagSet, lease: Lease, bits: int = SLOT_BITS) -> Seen | None:
    """Note the registers of tags on which no writer has a hold, lapsed or not; None where one has.

    ``lease``: what ``peek`` gave in the same transaction.
    """
    noted: list[tuple[bytes, bytes | None]] = []
    for tag in tags.tags:
        key = slot_key(tag, bits)
        cell = cells.get(key)
        if cell is not None and len(cell) > head_of(cell):
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


def changed_among(cells: Cells, several: Mapping[int, Seen], ticks: Stamp) -> tuple[Stamp, set[int]]:
    """Return now, and which are not ``unchanged``. All are looked at in one transaction, each cell once."""
    meta = _meta(cells)
    if meta is None:
        return ticks, set(several)
    last, floor, _ = meta
    known: dict[bytes, bytes | None] = {}
    changed = set()
    for number, seen in several.items():
        if seen.oldest < floor:
            changed.add(number)
        for key, cell in seen.cells:
            if key not in known:
                known[key] = cells.get(key)
            if known[key] != cell:
                changed.add(number)
                break
    return max(last, ticks), changed


def peek_all(
    cells: Cells, asked: Sequence[TagSet], ticks: Stamp, bits: int = SLOT_BITS
) -> list[tuple[Lease, bool, Stamp] | None]:
    """``peek`` at each, at one moment: what several depend on is looked at once."""
    known: Known | None = {} if len(asked) > 1 else None
    return [peek(cells, tags, ticks, bits, known=known) for tags in asked]


class Writing:
    """One change to the registers. Call ``save`` last.

    ``forgets``: registers may have been lost, so that what has none may have changed.
    """

    def __init__(self, cells: Cells, ticks: Stamp, bits: int = SLOT_BITS, *, forgets: bool = True) -> None:
        self._cells = cells
        self._bits = bits
        self._forgets = forgets
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

    def own(self, tags: Iterable[Tag]) -> None:
        """Give each tag a stamp of its own."""
        for tag in tags:
            self._refresh_slot(tag)
        self.save()

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        """Add the writer to every register of ``tags.tags``, and to guards of another mind; return the tags marked."""
        deadline = self.now + int(ttl_s * 1e9)
        self._change(tags.tags, writer, deadline)
        foreign = [tag for tag, fingerprint in tags.guards if not self._owns_guard(tag, _short(fingerprint))]
        if foreign:
            self._change(foreign, writer, deadline)
        self.save()
        return tuple(dict.fromkeys((*tags.tags, *foreign)))

    def stamp_of(self, guard: Guard) -> Stamp | None:
        """Return a guard's stamp as it is; None where the guard is absent, marked, or of another mind."""
        seen = peek(self._cells, TagSet((), (guard,)), self._ticks, self._bits)
        return seen[0][0] if seen is not None and seen[1] else None

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        """Remove the writer; every register gets a new stamp, whether or not the writer was found."""
        self._change(tags, writer, None)
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

    def _settled(self, cell: bytes) -> bytes:
        """Return a slot without marks that ended by their deadline. They end as those that are released, with another stamp.

        Its writer may be dead since it committed: who has an older snapshot must not take its own rows for those of today.
        """
        head = head_of(cell)
        for check in sorted(lapsed_in(cell, head, self.now)):
            cell = with_stamp(cell, check, self._stamp())
        return cell[:head] + holds_left(cell, head, self.now)

    def _refresh_slot(self, tag: Tag) -> None:
        """Give a tag that is asked about a stamp of its own: the one it had among others, where that still counts."""
        key, check, _ = place_of(tag, self._bits)
        old = self._cells.get(key)
        cell = old or EMPTY
        if has_lapsed(cell, head_of(cell), self.now):
            cell = self._settled(cell)
        if common_stamp(cell) < self._floor:
            cell = with_common(cell, self._stamp_of_unknown())
        if own_stamp(cell, check) < self._floor:
            stamp = any_stamp(cell, check)
            cell = with_own(cell, check, stamp if stamp >= self._floor else self._stamp_of_unknown())
        if cell != old:
            self._cells.put(key, cell)

    def _stamp_of_unknown(self) -> Stamp:
        """Return a stamp for what has none that counts: by the floor it was valid already, where no register is ever lost."""
        return self._stamp() if self._forgets else self._floor

    def _put_guard(self, key: bytes, holds: bytes, fingerprint: bytes) -> None:
        self._cells.put(key, _STAMP.pack(self._stamp()) + fingerprint + holds)

    def _refresh_guard(self, tag: Tag, fingerprint: bytes) -> None:
        key = guard_key(tag)
        cell = self._cells.get(key)
        if cell is None:
            self._make_guard(tag, fingerprint)
        elif cell[8:24] != fingerprint:
            holds = holds_left(cell, _GUARD_HEAD, self.now)
            self._put_guard(key, with_hold(holds, _FOREIGNER, _STAMP.pack(self.now + _MARK_TTL_NS)), fingerprint)
        elif _STAMP.unpack_from(cell)[0] < self._floor or has_lapsed(cell, _GUARD_HEAD, self.now):
            self._put_guard(key, holds_left(cell, _GUARD_HEAD, self.now), fingerprint)

    def _make_guard(self, tag: Tag, fingerprint: bytes) -> None:
        """Make the guard's cell. Until now marks on its tag went to the slot alone: take them over, and no others.

        A writer of another tag in that slot would never release what it does not know that it holds.
        """
        key, check, guard = place_of(tag, self._bits)
        holds = holds_on(self._cells.get(key) or EMPTY, check, self.now)
        if self._forgot and self._forgot + _MARK_TTL_NS > self.now:
            holds = with_hold(holds, _FOREIGNER, _STAMP.pack(self._forgot + _MARK_TTL_NS))
        self._put_guard(guard, holds, fingerprint)

    def _owns_guard(self, tag: Tag, fingerprint: bytes) -> bool:
        """Tell whether the guard is there and of the caller's mind; make it where it is absent.

        A foreign fingerprint stays: the writer marks the tag, so readers of that mind lose nothing but what it changed.
        """
        cell = self._cells.get(guard_key(tag))
        if cell is None:
            self._make_guard(tag, fingerprint)
            return False
        return cell[8:24] == fingerprint

    def _change(self, tags: Iterable[Tag], writer: Writer, deadline: Stamp | None) -> None:
        """Give tags other stamps, and set the writer's holds on them; without a deadline end its holds."""
        cells, now, name = self._cells, self.now, _name_of(writer)
        until = b"" if deadline is None else _STAMP.pack(deadline)
        for tag in tags:
            key, check, guard = place_of(tag, self._bits)
            hold, cell = name + check, cells.get(key) or EMPTY
            if has_lapsed(cell, head_of(cell), now):
                cell = self._settled(cell)
            cells.put(key, changed(cell, check, _STAMP.pack(self._stamp()), hold, until))
            guarded = cells.get(guard)
            if guarded is not None:
                self._put_guard(guard, with_hold(holds_left(guarded, _GUARD_HEAD, now), hold, until), guarded[8:24])
