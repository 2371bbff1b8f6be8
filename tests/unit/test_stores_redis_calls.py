"""A store's verbs are written as calls of scripts, and their answers read, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores._copies import Copies, Copy, Entry
from querycache.stores._redis_asking import Asking, Found
from querycache.stores._redis_calls import (
    MOST_TAGS,
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
from querycache.stores._redis_places import place_of
from querycache.stores._redis_scripts import CLEAR, FILL, LOOKUP, Script, packed
from querycache.stores._redis_url import target_of

ONE = Layout("shop")
MANY = Layout.over_a_cluster("shop")
TAGS = TagSet((b"a", b"b"), ((b"table!", b"mind"),))
STAMPS = (b"1000000000000001000", b"1000000000000002000", b"1000000000000003000")


def reply(rest: bytes = b"", now: int = 1_000_000_000_000_009, last: int = 1_000_000_000_000_003) -> bytes:
    return b"%016d%016d%016d%b" % (now, last, 1_000_000_000_000_000, rest)


def entry(stamps: tuple[bytes, ...], payload: bytes) -> bytes:
    return b"%016d%016d%06d" % (1_000_000_000_000_004, 1_000_000_060_000_000, len(stamps)) + b"".join(stamps) + payload


def words_in(command: bytes) -> list[bytes]:
    return command.split(b"\r\n")[2::2]


def test_commands_are_written_as_servers_read_them() -> None:
    assert packed("ECHO", b"\x00\r\n", 17) == b"*3\r\n$4\r\nECHO\r\n$3\r\n\x00\r\n\r\n$2\r\n17\r\n"


@pytest.mark.parametrize(("whole", "name"), [(False, [b"EVALSHA", FILL.sha]), (True, [b"EVAL", b"return 1"])])
def test_a_call_is_written_with_what_all_scripts_take_before_its_own(whole: bool, name: list[bytes]) -> None:
    script = Script(b"return 1", FILL.sha)
    command = Witness().command(ONE, Call(0, script, (b"key",), (7, "eight")), whole=whole)
    *front, salt, seven, eight = words_in(command)
    assert command.startswith(b"*9\r\n")
    assert front == [*name, b"2", ONE.state(0), b"key", b"0" * 16]
    assert len(salt) == 3
    assert (seven, eight) == (b"7", b"eight")


def test_on_one_server_any_number_of_questions_is_one_call_that_asks_for_each_tag_once() -> None:
    asking = Asking(ONE, [(b"k", TAGS), (None, TAGS), (b"l", TagSet((b"b", b"c")))])
    (call,) = asking.calls
    assert call.script is LOOKUP
    assert call.keys == tuple(map(ONE.stamp, (b"a", b"b", b"c", b"table!")))
    assert call.entries == (ONE.entry(b"k"), ONE.entry(b"l"))


def test_an_entry_is_read_before_its_stamps_are_looked_at() -> None:
    (call,) = Asking(ONE, [(b"k", TAGS)]).calls
    place = place_of(target_of("redis://nowhere?namespace=shop"), ONE)
    reading, running = map(words_in, place._commands(call))
    assert reading == [b"MGET", ONE.entry(b"k")]
    assert running[:2] == [b"EVALSHA", LOOKUP.sha]
    assert ONE.entry(b"k") not in running


def test_on_a_cluster_a_part_is_asked_for_what_it_has() -> None:
    calls = Asking(MANY, [(b"k", TAGS)]).calls
    assert {call.part for call in calls} == {MANY.part_of(name) for name in (b"k", b"a", b"b", b"table!")}
    for call in calls:
        assert all(b"{%b}" % MANY.parts[call.part] in key for key in call.keys)


def answered(asking: Asking, *replies: Any) -> list[Found]:
    """Read what one part answers to the commands of a look-up."""
    return asking.found([Witness().answer(asking.calls[0], replies)])


def held(head: bytes) -> dict[bytes, Copy]:
    return {b"k": Copies(10_000).new(b"k", Entry(head, b"rows", (), 0, 0.0))}


def test_a_hit_is_the_payload_and_its_lease() -> None:
    (found,) = answered(Asking(ONE, [(b"k", TAGS)]), [entry(STAMPS, b"rows")], reply(b"".join(STAMPS)))
    assert found.lookup.payload == b"rows"
    assert found.lookup.lease == tuple(map(int, STAMPS))
    assert found.age_us == 5
    assert found.lookup.expires - found.lookup.now == 59_999_991_000
    assert found.head == entry(STAMPS, b"")


def test_of_several_questions_each_is_answered_with_its_own_stamps() -> None:
    asking = Asking(ONE, [(b"k", TAGS), (b"l", TagSet((b"b",))), (None, TagSet((b"a",)))])
    kept = [entry(STAMPS, b"rows"), entry(STAMPS[1:2], b"others")]
    first, second, third = answered(asking, kept, reply(b"".join(STAMPS) + b"100"))
    assert first.lookup.payload is None
    assert second.lookup.payload == b"others"
    assert third.lookup.lease == (int(STAMPS[0]),)
    assert [one.lookup.storable for one in (first, second, third)] == [False, True, False]


def test_a_tag_that_is_named_twice_is_asked_for_once_and_stands_twice_in_the_lease() -> None:
    asking = Asking(ONE, [(b"k", TagSet((b"a", b"a")))])
    (found,) = answered(asking, [entry((STAMPS[0], STAMPS[0]), b"rows")], reply(STAMPS[0]))
    assert found.lookup.payload == b"rows"
    assert found.lookup.lease == (int(STAMPS[0]), int(STAMPS[0]))


@pytest.mark.parametrize(
    ("marks", "kept"),
    [
        (b"010", entry(STAMPS, b"rows")),
        (b"", entry((*STAMPS[:2], b"1000000000000003001"), b"rows")),
        (b"", entry(STAMPS[:2], b"rows")),
        (b"", entry((*STAMPS, STAMPS[0]), b"rows")),
        (b"", b"%016d" % 999_999_999_999_999 + entry(STAMPS, b"from another life")[16:]),
        (b"", entry(STAMPS, b"it ended")[:16] + b"%016d" % 1_000_000_000_000_009 + entry(STAMPS, b"it ended")[32:]),
        (b"", None),
        (b"", b""),
        (b"", b"nonsense"),
    ],
)
def test_anything_else_is_a_miss_with_the_same_lease(marks: bytes, kept: bytes | None) -> None:
    (found,) = answered(Asking(ONE, [(b"k", TAGS)]), [kept], reply(b"".join(STAMPS) + marks))
    assert found.lookup.payload is None
    assert found.lookup.lease == tuple(map(int, STAMPS))
    assert found.lookup.storable == (marks == b"")


def test_an_entry_that_depends_on_nothing_ends_with_the_life_in_which_it_was_filled() -> None:
    asking = Asking(ONE, [(b"k", TagSet())])
    (now,) = answered(asking, [entry((), b"rows")], reply())
    (later,) = answered(asking, [entry((), b"rows")], reply()[:32] + b"%016d" % 1_000_000_000_000_005)
    assert (now.lookup.payload, later.lookup.payload) == (b"rows", None)


def test_an_entry_that_is_held_is_asked_for_by_its_head_and_taken_from_there() -> None:
    head = entry(STAMPS, b"")
    asking = Asking(ONE, [(b"k", TAGS)], held(head))
    (call,) = asking.calls
    assert call.entries == ()
    assert call.keys[-1] == ONE.entry(b"k")
    assert call.arguments[-1] == head
    (same,) = answered(asking, [reply(b"".join(STAMPS)), 1])
    (other,) = answered(asking, [reply(b"".join(STAMPS)), entry(STAMPS, b"newer")])
    (outdated,) = answered(asking, [reply(b"".join(STAMPS[::-1])), 1])
    assert [one.lookup.payload for one in (same, other, outdated)] == [b"rows", b"newer", None]
    assert same.lookup.memo is not None
    assert other.lookup.memo is None


@pytest.mark.parametrize(
    "answer", [None, 1, b"OK", [], [b"x" * 48], [1, 2, 3], [None, None], [[b"1" * 48], 1], b"1" * 40]
)
def test_what_scripts_never_return_is_an_error_of_the_store(answer: Any) -> None:
    with pytest.raises(StoreUnavailable, match="never return"):
        Witness().answer(Call(0, CLEAR), [answer])


@pytest.mark.parametrize(
    ("kept", "rest"),
    [
        ([None], b""),
        ([None], b"".join(STAMPS[:2])),
        ([None], b"x" * 57),
        ([None], b"".join(STAMPS) + b"0"),
        ([], b"".join(STAMPS)),
        ([None, None], b"".join(STAMPS)),
        ([1], b"".join(STAMPS)),
        (None, b"".join(STAMPS)),
        ([b"not a number    " * 2 + lease_text(tuple(map(int, STAMPS)))], b"".join(STAMPS)),
    ],
)
def test_what_a_look_up_never_returns_is_an_error_of_the_store(kept: Any, rest: bytes) -> None:
    asking = Asking(ONE, [(b"k", TAGS)])
    with pytest.raises(StoreUnavailable, match="never return"):
        answered(asking, kept, reply(rest))


@pytest.mark.parametrize("rest", [b"", b"00", b"0" + b"1" * 18, b"0" + b"x" * 19, b"0" + b"1" * 20])
def test_what_a_mark_never_returns_is_an_error_of_the_store(rest: bytes) -> None:
    with pytest.raises(StoreUnavailable, match="never return"):
        told_of_marks(TAGS.guards, Witness().answer(Call(0, CLEAR), [reply(rest)]))


def test_a_process_tells_each_part_the_last_that_it_has_seen_there() -> None:
    witness, call, other = Witness(), Call(0, CLEAR), Call(1, CLEAR)
    witness.answer(call, [reply(last=1_000_000_000_000_007)])
    witness.answer(call, [reply(last=1_000_000_000_000_005)])
    assert words_in(witness.command(MANY, call))[4] == b"1000000000000007"
    assert words_in(witness.command(MANY, other))[4] == b"0000000000000000"


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
