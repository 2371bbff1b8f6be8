"""A store's verbs are written as calls of scripts, and their answers read, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores._redis_calls import (
    MOST_TAGS,
    Asking,
    Call,
    Layout,
    Witness,
    clearing,
    filling,
    lease_text,
    marking,
    releasing,
    told_of_marks,
)
from querycache.stores._redis_scripts import CLEAR, LOOKUP, packed

ONE = Layout("shop")
MANY = Layout.over_a_cluster("shop")
TAGS = TagSet((b"a", b"b"), ((b"table!", b"mind"),))
STAMPS = (b"1000000000000001000", b"1000000000000002000", b"1000000000000003000")


def reply(rest: Any, now: int = 1_000_000_000_000_009, last: int = 1_000_000_000_000_003) -> list[Any]:
    return [b"%016d" % now, b"%016d" % last, b"%016d" % 1_000_000_000_000_000, rest]


def entry(stamps: tuple[bytes, ...], payload: bytes) -> bytes:
    return b"%016d%016d%06d" % (1_000_000_000_000_004, 1_000_000_060_000_000, len(stamps)) + b"".join(stamps) + payload


def test_commands_are_written_as_servers_read_them() -> None:
    assert packed([("ECHO", b"\x00\r\n", 17)]) == b"*3\r\n$4\r\nECHO\r\n$3\r\n\x00\r\n\r\n$2\r\n17\r\n"


def test_on_one_server_any_number_of_questions_is_one_call_that_asks_for_each_tag_once() -> None:
    asking = Asking(ONE, [(b"k", TAGS), (None, TAGS), (b"l", TagSet((b"b", b"c")))])
    (call,) = asking.calls
    assert call.script is LOOKUP
    assert len(call.keys) == 4 + 2
    assert call.arguments[-2:] == ("1,2,4", "2,3")


def test_on_a_cluster_a_part_is_asked_for_what_it_has() -> None:
    calls = Asking(MANY, [(b"k", TAGS)]).calls
    assert {call.part for call in calls} == {MANY.part_of(name) for name in (b"k", b"a", b"b", b"table!")}
    for call in calls:
        assert all(b"{%b}" % MANY.parts[call.part] in key for key in call.keys)


def test_a_hit_is_the_payload_and_its_lease() -> None:
    asking = Asking(ONE, [(b"k", TAGS)])
    answer = Witness().answer(asking.calls[0], reply([[*STAMPS], b"000", [entry(STAMPS, b"rows")]]))
    (found,) = asking.found([answer])
    assert found.lookup.payload == b"rows"
    assert found.lookup.lease == tuple(map(int, STAMPS))
    assert found.age_us == 5
    assert found.lookup.expires - found.lookup.now == 59_999_991_000


@pytest.mark.parametrize(
    ("held", "kept"),
    [
        (b"010", entry(STAMPS, b"rows")),
        (b"000", entry((*STAMPS[:2], b"1000000000000003001"), b"rows")),
        (b"000", entry(STAMPS[:2], b"rows")),
        (b"000", entry((*STAMPS, STAMPS[0]), b"rows")),
        (b"000", None),
        (b"000", b""),
        (b"000", b"nonsense"),
    ],
)
def test_anything_else_is_a_miss_with_the_same_lease(held: bytes, kept: bytes | None) -> None:
    asking = Asking(ONE, [(b"k", TAGS)])
    (found,) = asking.found([Witness().answer(asking.calls[0], reply([[*STAMPS], held, [kept]]))])
    assert found.lookup.payload is None
    assert found.lookup.lease == tuple(map(int, STAMPS))
    assert found.lookup.storable == (held == b"000")


@pytest.mark.parametrize("answer", [None, b"OK", [], [b"x", b"y", b"z", 1], [1, 2, 3], [None, None, None, None]])
def test_what_scripts_never_return_is_an_error_of_the_store(answer: Any) -> None:
    with pytest.raises(StoreUnavailable, match="never return"):
        Witness().answer(Call(0, CLEAR), answer)


@pytest.mark.parametrize(
    "rest",
    [
        None,
        b"OK",
        [],
        [[*STAMPS], b"000"],
        [[*STAMPS[:2]], b"00", [None]],
        [[b"x", b"y", b"z"], b"000", [None]],
        [[*STAMPS], b"000", [b"not a number    " * 2 + lease_text(tuple(map(int, STAMPS)))]],
    ],
)
def test_what_a_look_up_never_returns_is_an_error_of_the_store(rest: Any) -> None:
    asking = Asking(ONE, [(b"k", TAGS)])
    with pytest.raises(StoreUnavailable, match="never return"):
        asking.found([Witness().answer(asking.calls[0], reply(rest))])


@pytest.mark.parametrize(
    "rest", [None, 1, b"0", [b"0"], [b"", b""], [b"00", b""], [b"0", None], [b"0", b"x"], [b"0", b"", b""]]
)
def test_what_a_mark_never_returns_is_an_error_of_the_store(rest: Any) -> None:
    with pytest.raises(StoreUnavailable, match="never return"):
        told_of_marks(TAGS.guards, Witness().answer(Call(0, CLEAR), reply(rest)))


def test_a_process_tells_each_part_the_last_that_it_has_seen_there() -> None:
    witness, call, other = Witness(), Call(0, CLEAR), Call(1, CLEAR)
    witness.answer(call, reply(1, last=1_000_000_000_000_007))
    witness.answer(call, reply(1, last=1_000_000_000_000_005))
    assert witness.command(MANY, call)[4] == 1_000_000_000_000_007
    assert witness.command(MANY, other)[4] == 0


def test_what_is_said_of_very_many_tags_is_said_in_several_calls() -> None:
    tags = tuple(b"row|%d" % number for number in range(2 * MOST_TAGS + 1))
    marks = marking(ONE, TagSet(tags, TAGS.guards), bytes(16), 30)
    assert [len(call.keys) for call, _ in marks] == [MOST_TAGS + 1, MOST_TAGS, 1]
    assert [guards for _, guards in marks] == [TAGS.guards, (), ()]
    assert sum(len(call.keys) for call in releasing(ONE, tags, bytes(16), {})) == len(tags)


def test_a_release_looks_at_guards_that_its_writer_relied_on() -> None:
    (call,) = releasing(ONE, (b"a",), bytes(16), {TAGS.guards[0]: 17})
    assert call.keys == (ONE.stamp(b"a"), ONE.stamp(b"table!"))
    assert call.arguments[-1] == 17


def test_a_clear_is_told_to_every_part() -> None:
    assert [call.part for call in clearing(MANY)] == list(range(256))
    assert [call.part for call in clearing(ONE)] == [0]


def test_a_fill_carries_its_lease_and_its_life_in_microseconds() -> None:
    call = filling(ONE, b"k", b"rows", (1, 2), 0.5)
    assert call.arguments == (500_000, lease_text((1, 2)), b"rows")
    assert lease_text((1, 2)) == b"000002" + b"%019d%019d" % (1, 2)


def test_keys_begin_with_the_namespace_and_tell_long_names_apart() -> None:
    long = b"x" * 5000
    for layout in (ONE, MANY):
        names = [layout.state(0), layout.stamp(long), layout.stamp(long + b"1"), layout.entry(long)]
        assert all(name.startswith(b"querycache:shop:") for name in names)
        assert len(set(names)) == 4
        assert max(map(len, names)) < 90
