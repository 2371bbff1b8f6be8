"""Registers: what a writer holds on one tag is no hold on another, though they share a slot."""

from __future__ import annotations

import pytest

from querycache._types import Lease, Stamp, TagSet
from querycache.stores._registers import Writing, guard_key, is_marked, peek

ONE, TWO = b"product|pk=1", b"product|pk=2"
TABLE = b"product!"
MINE = (TABLE, b"mine")
A, B = b"writer-a", b"writer-b"
IN_ONE_SLOT = 0
MINUTE_NS = 60 * 10**9


class Registers(dict[bytes, bytes]):
    """Cells in a dictionary, of which all tags share one slot: every two of them collide."""

    def __init__(self, bits: int = IN_ONE_SLOT) -> None:
        super().__init__()
        self.bits = bits
        self.ticks = MINUTE_NS

    def put(self, key: bytes, value: bytes, /) -> None:
        self[key] = value

    def delete(self, key: bytes, /) -> None:
        self.pop(key, None)

    def writing(self) -> Writing:
        return Writing(self, self.ticks, self.bits)

    def lookup(self, *tags: bytes, guards: tuple[tuple[bytes, bytes], ...] = ()) -> tuple[Lease, bool, Stamp]:
        asked = TagSet(tags, guards)
        return peek(self, asked, self.ticks, self.bits) or self.writing().lease(asked)

    def is_storable(self, *tags: bytes, guards: tuple[tuple[bytes, bytes], ...] = ()) -> bool:
        return self.lookup(*tags, guards=guards)[1]


@pytest.fixture
def registers() -> Registers:
    return Registers()


def test_a_guard_made_while_another_tag_of_its_slot_is_marked_is_free_after_that_tags_release(
    registers: Registers,
) -> None:
    registers.writing().mark(TagSet((ONE,)), A, 30)
    registers.lookup(guards=(MINE,))
    registers.writing().release((ONE,), A)
    assert registers.is_storable(guards=(MINE,))


def test_a_guard_that_a_writer_makes_is_free_after_the_release_of_others_in_its_slot(registers: Registers) -> None:
    registers.writing().mark(TagSet((ONE,)), A, 30)
    marked = registers.writing().mark(TagSet((TWO,), (MINE,)), B, 30)
    registers.writing().release((ONE,), A)
    registers.writing().release(marked, B)
    assert registers.is_storable(guards=(MINE,))


def test_a_guard_made_while_its_own_tag_is_marked_starts_marked_by_that_writer(registers: Registers) -> None:
    registers.writing().mark(TagSet((ONE, TABLE)), A, 30)
    assert not registers.is_storable(guards=(MINE,))
    registers.writing().release((ONE,), A)
    assert is_marked(guard_key(TABLE), registers[guard_key(TABLE)], registers.ticks)
    registers.writing().release((TABLE,), A)
    assert registers.is_storable(guards=(MINE,))


def test_a_release_of_one_tag_leaves_the_same_writers_mark_on_another_of_its_slot(registers: Registers) -> None:
    registers.writing().mark(TagSet((ONE, TWO)), A, 30)
    registers.writing().release((ONE,), A)
    assert not registers.is_storable(TWO)
    registers.writing().release((TWO,), A)
    assert registers.is_storable(TWO)


def test_a_forgotten_guard_made_anew_finds_the_mark_on_its_tag_in_the_slot(registers: Registers) -> None:
    registers.lookup(guards=(MINE,))
    registers.writing().mark(TagSet((TABLE,)), A, 3600)
    registers.writing().forget_guards([guard_key(TABLE)])
    registers.ticks += MINUTE_NS
    assert not registers.is_storable(guards=(MINE,))
    registers.writing().release((TABLE,), A)
    assert registers.is_storable(guards=(MINE,))


def test_a_change_of_one_tag_leaves_the_stamps_of_others_in_its_slot(registers: Registers) -> None:
    before = registers.lookup(TWO)
    registers.writing().mark(TagSet((ONE,)), A, 30)
    assert registers.lookup(TWO)[:2] == before[:2]


def test_writers_whose_names_are_alike_to_the_last_byte_hold_apart(registers: Registers) -> None:
    registers.writing().mark(TagSet((ONE,)), (1).to_bytes(16), 30)
    registers.writing().mark(TagSet((ONE,)), (2).to_bytes(16), 30)
    registers.writing().release((ONE,), (1).to_bytes(16))
    assert not registers.is_storable(ONE)
