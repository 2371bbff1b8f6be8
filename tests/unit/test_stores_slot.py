"""A slot: many tags in one cell, of which each is told apart as long as there is room, and none is ever misled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from querycache._types import Lease, TagSet
from querycache.stores import _slot
from querycache.stores._registers import SLOT_PREFIX, Writing, peek
from querycache.stores._slot import EMPTY, MAX_OWN

IN_ONE_SLOT = 0
CELL = SLOT_PREFIX + bytes(4)
TAGS = [b"product|id=%d" % number for number in range(3 * MAX_OWN)]
W = bytes(16)


class Cells(dict[bytes, bytes]):
    def put(self, key: bytes, value: bytes, /) -> None:
        self[key] = value

    def delete(self, key: bytes, /) -> None:
        self.pop(key, None)


def lease_on(cells: Cells, *tags: bytes, forgets: bool = True, must_own: bool = True) -> Lease:
    asked = TagSet(tags)
    seen = peek(cells, asked, 1, IN_ONE_SLOT, must_own=must_own)
    return (seen or Writing(cells, 1, IN_ONE_SLOT, forgets=forgets).lease(asked))[0]


def touch(cells: Cells, tag: bytes) -> None:
    Writing(cells, 1, IN_ONE_SLOT).release((tag,), W)


def test_as_many_tags_as_have_room_are_told_apart() -> None:
    cells = Cells()
    before = lease_on(cells, *TAGS[:MAX_OWN])
    for tag in TAGS[MAX_OWN:]:
        touch(cells, tag)
    assert lease_on(cells, *TAGS[:MAX_OWN]) == before


def test_a_slot_is_bounded_whatever_is_asked() -> None:
    cells = Cells()
    for tag in TAGS:
        lease_on(cells, tag)
        touch(cells, tag)
    full = len(EMPTY) + 12 * MAX_OWN
    assert len(cells[CELL]) == full


def test_tags_beyond_the_room_of_a_slot_keep_their_stamps_while_nothing_changes() -> None:
    cells = Cells()
    before = [lease_on(cells, tag) for tag in TAGS]
    assert [lease_on(cells, tag) for tag in TAGS] == before


def test_a_lease_on_more_tags_than_a_slot_has_room_for_ends_with_any_of_them() -> None:
    cells = Cells()
    before = lease_on(cells, *TAGS)
    for tag in TAGS:
        touch(cells, tag)
        after = lease_on(cells, *TAGS)
        assert after != before
        before = after


def test_a_tag_that_lost_its_own_stamp_never_gets_back_one_that_it_had() -> None:
    cells = Cells()
    first = lease_on(cells, TAGS[0])
    touch(cells, TAGS[0])
    for tag in TAGS[1:]:
        lease_on(cells, tag)
    assert lease_on(cells, TAGS[0]) > first


FEW = TAGS[:4]
STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "glance", "touch", "clear"]), st.sampled_from(FEW)),
    min_size=40,
    max_size=80,
)


@given(STEPS)
def test_a_stamp_that_is_seen_twice_had_no_change_between(steps: list[tuple[str, bytes]]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_slot, "MAX_OWN", 2)
        see_and_change(steps, forgets=True)
        see_and_change(steps, forgets=False)


def see_and_change(steps: list[tuple[str, bytes]], *, forgets: bool) -> None:
    cells = Cells()
    changes = dict.fromkeys(FEW, 0)
    seen: dict[tuple[bytes, Lease], int] = {}
    for verb, tag in steps:
        if verb == "ask" or (verb == "glance" and not forgets):
            lease = lease_on(cells, tag, forgets=forgets, must_own=verb == "ask")
            assert seen.setdefault((tag, lease), changes[tag]) == changes[tag]
        elif verb in ("touch", "glance"):
            touch(cells, tag)
            changes[tag] += 1
        else:
            Writing(cells, 1, IN_ONE_SLOT).raise_floor()
            changes = {each: count + 1 for each, count in changes.items()}
