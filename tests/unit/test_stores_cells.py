"""What is written in a cell, byte by byte, is what a plain account of its stamps and holds would write."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from querycache._types import TagSet
from querycache.stores import _slot
from querycache.stores._registers import Writing, guard_key, place_of, slot_key

BITS = 1
ROOM = 3
TAGS = [b"product|id=%d" % number for number in range(8)]
GUARDS = [(tag, mind * 16) for tag in TAGS[:2] for mind in (b"a", b"b")]
WRITERS = [b"writer-%d" % number for number in range(3)]
FOREIGNER = bytes(16)
MARK_TTL_NS = 30 * 10**9


@dataclass
class Account:
    """A slot or a guard taken apart."""

    stamp: int = 0
    own: dict[bytes, int] = field(default_factory=dict)
    holds: dict[bytes, int] = field(default_factory=dict)
    fingerprint: bytes = b""

    def change(self, check: bytes, stamp: int) -> None:
        if check in self.own:
            self.own[check] = stamp
        else:
            self.stamp = stamp

    def give(self, check: bytes, stamp: int) -> None:
        while check not in self.own and len(self.own) >= ROOM:
            self.stamp = max(self.stamp, self.own.pop(next(iter(self.own))))
        self.own[check] = stamp

    def hold(self, hold: bytes, deadline: int | None) -> None:
        if deadline is None:
            self.holds.pop(hold, None)
        else:
            self.holds[hold] = deadline

    def packed(self) -> bytes:
        own = b"".join(check + struct.pack("<Q", stamp) for check, stamp in self.own.items())
        holds = b"".join(hold + struct.pack("<Q", deadline) for hold, deadline in self.holds.items())
        head = self.fingerprint or bytes([len(self.own)]) + own
        return struct.pack("<Q", self.stamp) + head + holds


class Book:
    """Registers by the rules, in no hurry."""

    def __init__(self, *, forgets: bool) -> None:
        self.forgets = forgets
        self.slots: dict[bytes, Account] = {}
        self.guards: dict[bytes, Account] = {}
        self.last = self.floor = 0

    def begin(self, ticks: int) -> None:
        self.ticks = ticks
        if not self.last:
            self.last = self.floor = ticks
        self.now = max(self.last, ticks)

    def stamp(self) -> int:
        self.last = max(self.last + 1, self.ticks)
        return self.last

    def slot(self, tag: bytes) -> Account:
        slot = self.slots.setdefault(slot_key(tag, BITS), Account())
        lapsed = {hold for hold, deadline in slot.holds.items() if deadline <= self.now}
        for check in sorted({hold[-4:] for hold in lapsed}):
            slot.change(check, self.stamp())
        for hold in lapsed:
            del slot.holds[hold]
        return slot

    def lease(self, tags: TagSet) -> None:
        for tag in tags.tags:
            slot, check = self.slot(tag), place_of(tag, BITS).check
            if slot.stamp < self.floor:
                slot.stamp = self.stamp() if self.forgets else self.floor
            stamp = slot.own.get(check, slot.stamp)
            if stamp < self.floor:
                stamp = self.stamp() if self.forgets else self.floor
            slot.give(check, stamp)
        for tag, fingerprint in tags.guards:
            guard = self.guards.get(guard_key(tag))
            if guard is None:
                self.make_guard(tag, fingerprint)
            elif guard.fingerprint != fingerprint:
                self.end_lapsed(guard)
                guard.holds[FOREIGNER] = self.now + MARK_TTL_NS
                guard.fingerprint, guard.stamp = fingerprint, self.stamp()
            elif self.end_lapsed(guard) or guard.stamp < self.floor:
                guard.stamp = self.stamp()

    def end_lapsed(self, guard: Account) -> bool:
        lapsed = [hold for hold, deadline in guard.holds.items() if deadline <= self.now]
        for hold in lapsed:
            del guard.holds[hold]
        return bool(lapsed)

    def make_guard(self, tag: bytes, fingerprint: bytes) -> None:
        check = place_of(tag, BITS).check
        slot = self.slots.get(slot_key(tag, BITS), Account())
        holds = {hold: until for hold, until in slot.holds.items() if until > self.now and hold.endswith(check)}
        self.guards[guard_key(tag)] = Account(self.stamp(), {}, holds, fingerprint)

    def mark(self, tags: TagSet, writer: bytes, deadline: int) -> None:
        for tag in tags.tags:
            self.change(tag, writer, deadline)
        foreign = []
        for tag, fingerprint in tags.guards:
            guard = self.guards.get(guard_key(tag))
            if guard is None:
                self.make_guard(tag, fingerprint)
            if guard is None or guard.fingerprint != fingerprint:
                foreign.append(tag)
        for tag in foreign:
            self.change(tag, writer, deadline)

    def change(self, tag: bytes, writer: bytes, deadline: int | None) -> None:
        slot, check = self.slot(tag), place_of(tag, BITS).check
        hold = blake2b(writer, digest_size=12).digest() + check
        slot.change(check, self.stamp())
        slot.hold(hold, deadline)
        guard = self.guards.get(guard_key(tag))
        if guard is not None:
            self.end_lapsed(guard)
            guard.hold(hold, deadline)
            guard.stamp = self.stamp()

    def cells(self) -> dict[bytes, bytes]:
        meta = {b"m": struct.pack("<QQQ", self.last, self.floor, 0)}
        return meta | {key: account.packed() for key, account in (self.slots | self.guards).items()}


class Cells(dict[bytes, bytes]):
    def put(self, key: bytes, value: bytes, /) -> None:
        self[key] = value

    def delete(self, key: bytes, /) -> None:
        self.pop(key, None)


TAG_SETS = st.builds(
    lambda tags, guards: TagSet(tuple(tags), tuple(guards)),
    st.lists(st.sampled_from(TAGS), max_size=4, unique=True),
    st.lists(st.sampled_from(GUARDS), max_size=1),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["lease", "mark", "mark", "release", "clear"]),
        TAG_SETS,
        st.sampled_from(WRITERS),
        st.integers(0, 20),
        st.integers(1, 30),
    ),
    min_size=5,
    max_size=60,
)


@given(STEPS, st.booleans())
def test_each_verb_writes_what_the_account_of_stamps_and_holds_says(
    steps: list[tuple[str, TagSet, bytes, int, int]], forgets: bool
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_slot, "MAX_OWN", ROOM)
        cells, book, ticks = Cells(), Book(forgets=forgets), 10**12
        for verb, tags, writer, pause_s, ttl_s in steps:
            ticks += pause_s * 10**9
            book.begin(ticks)
            writing = Writing(cells, ticks, BITS, forgets=forgets)
            if verb == "lease":
                writing.lease(tags)
                book.lease(tags)
            elif verb == "mark":
                writing.mark(tags, writer, ttl_s)
                book.mark(tags, writer, book.now + ttl_s * 10**9)
            elif verb == "release":
                writing.release(tags.tags, writer)
                for tag in tags.tags:
                    book.change(tag, writer, None)
            else:
                writing.raise_floor()
                book.floor = book.stamp()
            assert cells == book.cells()
