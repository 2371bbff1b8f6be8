"""What does a store remember of a tag, and how do the verbs change it?

Each tag has a *register*: its stamp and the writers that hold a mark on it, each with its own deadline. The rules are
the same wherever registers are kept, so they are written once, here, over cells: bytes by key.

Tags share a fixed number of cells (slots), so what is remembered is bounded without ever forgetting: two tags in one
slot are touched together, which costs a miss. A guard has a cell of its own, because its stamp covers a whole table;
a mark on its tag is written to the slot and to the guard's cell, where there is one.

Promises: no stamp is given twice; a mark is lost to its deadline or release alone; stamps older than the *floor*
count as missing. Never does: I/O, locking. The caller sees to it that a ``Writing`` is alone, and that it is kept
whole or not at all.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final, Protocol

from querycache._types import MARK_TTL_S, Lease, Stamp, Tag, TagSet, Writer

SLOT_BITS: Final = 18
GUARD_PREFIX: Final = b"g"
SLOT_PREFIX: Final = b"s"
META_KEY: Final = b"m"
MAX_GUARDS: Final = 65_536

_STAMP: Final = struct.Struct("<Q")
_META: Final = struct.Struct("<QQQ")
_HOLDER: Final = struct.Struct("<16sQ")
_SLOT_HEAD: Final = 8
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
    digest = blake2b(tag, digest_size=4).digest()
    return SLOT_PREFIX + (int.from_bytes(digest) >> (32 - bits)).to_bytes(4)


@lru_cache(maxsize=4096)
def guard_key(tag: Tag) -> bytes:
    """Name the cell that ``tag`` has to itself, as a guard."""
    return GUARD_PREFIX + blake2b(tag, digest_size=16).digest()


@lru_cache(maxsize=4096)
def _short(name: bytes) -> bytes:
    return name if len(name) == 16 else blake2b(name, digest_size=16).digest()


def is_marked(key: bytes, cell: bytes, now: Stamp) -> bool:
    """Tell whether a register has a writer whose deadline is to come."""
    head = _GUARD_HEAD if key.startswith(GUARD_PREFIX) else _SLOT_HEAD
    return len(cell) > head and bool(_living(cell, head, now))


def _living(cell: bytes, head: int, now: Stamp) -> dict[Writer, Stamp]:
    whole = head + (len(cell) - head) // _HOLDER.size * _HOLDER.size
    return {writer: deadline for writer, deadline in _HOLDER.iter_unpack(cell[head:whole]) if deadline > now}


def _meta(cells: Cells) -> tuple[Stamp, Stamp, Stamp] | None:
    cell = cells.get(META_KEY)
    return _META.unpack(cell) if cell is not None and len(cell) == _META.size else None


def latest_stamp(cells: Cells) -> Stamp:
    """Return the last stamp that was made, 0 where there is none."""
    meta = _meta(cells)
    return 0 if meta is None else meta[0]


def peek(cells: Cells, tags: TagSet, ticks: Stamp, bits: int = SLOT_BITS) -> tuple[Lease, bool, Stamp] | None:
    """Return lease, storable and now without writing, or None where a register must be written first."""
    meta = _meta(cells)
    if meta is None:
        return None
    last, floor, _ = meta
    now = max(last, ticks)
    lease: list[Stamp] = []
    storable = True
    for tag in tags.tags:
        cell = cells.get(slot_key(tag, bits))
        if cell is None or (stamp := _STAMP.unpack_from(cell)[0]) < floor:
            return None
        lease.append(stamp)
        if len(cell) > _SLOT_HEAD and _living(cell, _SLOT_HEAD, now):
            storable = False
    for tag, fingerprint in tags.guards:
        cell = cells.get(guard_key(tag))
        if cell is None or cell[8:24] != _short(fingerprint) or (stamp := _STAMP.unpack_from(cell)[0]) < floor:
            return None
        lease.append(stamp)
        if len(cell) > _GUARD_HEAD and _living(cell, _GUARD_HEAD, now):
            storable = False
    return tuple(lease), storable, now


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
            self._refresh_slot(slot_key(tag, self._bits))
        for tag, fingerprint in tags.guards:
            self._refresh_guard(tag, _short(fingerprint))
        self.save()
        seen = peek(self._cells, tags, self._ticks, self._bits)
        if seen is None:
            raise AssertionError("a register that was just written is missing")
        return seen

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        """Add the writer to every register of ``tags.tags``, and to guards of another mind; return the tags marked."""
        deadline = self.now + int(ttl_s * 1e9)
        for tag in tags.tags:
            self._change(tag, _short(writer), deadline)
        foreign = []
        for tag, fingerprint in tags.guards:
            if self._owns_guard(tag, _short(fingerprint)):
                continue
            self._change(tag, _short(writer), deadline)
            foreign.append(tag)
        self.save()
        return tuple(dict.fromkeys((*tags.tags, *foreign)))

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        """Remove the writer; every register gets a new stamp, whether or not the writer was found."""
        for tag in tags:
            self._change(tag, _short(writer), None)
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

    def _put(self, key: bytes, writers: dict[Writer, Stamp], fingerprint: bytes = b"") -> None:
        holders = b"".join(_HOLDER.pack(writer, deadline) for writer, deadline in writers.items())
        self._cells.put(key, _STAMP.pack(self._stamp()) + fingerprint + holders)

    def _refresh_slot(self, key: bytes) -> None:
        cell = self._cells.get(key)
        if cell is None:
            self._put(key, {})
        elif _STAMP.unpack_from(cell)[0] < self._floor:
            self._put(key, _living(cell, _SLOT_HEAD, self.now))

    def _refresh_guard(self, tag: Tag, fingerprint: bytes) -> None:
        key = guard_key(tag)
        cell = self._cells.get(key)
        if cell is None:
            self._make_guard(tag, fingerprint)
        elif cell[8:24] != fingerprint:
            writers = _living(cell, _GUARD_HEAD, self.now)
            writers[_FOREIGNER] = self.now + _MARK_TTL_NS
            self._put(key, writers, fingerprint)
        elif _STAMP.unpack_from(cell)[0] < self._floor:
            self._put(key, _living(cell, _GUARD_HEAD, self.now), fingerprint)

    def _make_guard(self, tag: Tag, fingerprint: bytes) -> None:
        """Make the guard's cell. Until now marks on its tag went to the slot alone: take them over."""
        slot = self._cells.get(slot_key(tag, self._bits))
        writers = {} if slot is None else _living(slot, _SLOT_HEAD, self.now)
        if self._forgot and self._forgot + _MARK_TTL_NS > self.now:
            writers[_FOREIGNER] = self._forgot + _MARK_TTL_NS
        self._put(guard_key(tag), writers, fingerprint)

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
        for key, head in ((slot_key(tag, self._bits), _SLOT_HEAD), (guard_key(tag), _GUARD_HEAD)):
            cell = self._cells.get(key)
            if cell is None and head == _GUARD_HEAD:
                continue
            writers = {} if cell is None else _living(cell, head, self.now)
            writers.pop(writer, None)
            if deadline is not None:
                writers[writer] = deadline
            self._put(key, writers, b"" if cell is None else cell[_SLOT_HEAD:head])


_ENTRY: Final = struct.Struct("<QI")


def pack_entry(payload: bytes, lease: Lease, expires: Stamp) -> bytes:
    """Write an entry as bytes: when it expires, its lease, its payload."""
    return _ENTRY.pack(expires, len(lease)) + struct.pack(f"<{len(lease)}Q", *lease) + payload


def unpack_entry(record: bytes, lease: Lease, now: Stamp) -> bytes | None:
    """Return the payload where the entry was filled under exactly this lease and lives; None otherwise."""
    if len(record) < _ENTRY.size:
        return None
    expires, count = _ENTRY.unpack_from(record)
    start = _ENTRY.size + 8 * count
    if expires <= now or count != len(lease) or len(record) < start:
        return None
    if record[_ENTRY.size : start] != struct.pack(f"<{count}Q", *lease):
        return None
    return record[start:]


def expiry_of(record: bytes) -> Stamp:
    """Return when an entry expires."""
    return int(_ENTRY.unpack_from(record)[0])
