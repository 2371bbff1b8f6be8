"""A stamp is vouched for only where no change of it can have been missed, and only while the feed is known to be whole."""

from __future__ import annotations

import pytest

from querycache._types import Lookup, TagSet
from querycache.stores import _vouched
from querycache.stores._vouched import Vouched

T = TagSet((b"a", b"b"), ((b"table!", b"mind"),))
LEASE = (11, 12, 13)
FLOOR = 5


def key_of(tag: bytes) -> bytes:
    return b"t:" + tag


def seen(*lease: int, storable: bool = True) -> Lookup:
    return Lookup(None, lease, storable, 99)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def vouched(clock: Clock) -> Vouched:
    vouched = Vouched(key_of, 1.0)
    vouched.clock = clock
    vouched.beat(vouched.begin(FLOOR), clock.now, FLOOR)
    return vouched


def learn(vouched: Vouched, *lease: int, floor: int = FLOOR, storable: bool = True) -> bool:
    with vouched.asking() as asking:
        return vouched.learn(asking, [(T, seen(*lease, storable=storable))], floor)


def test_what_an_answer_shows_is_vouched_for_until_a_change_is_heard(vouched: Vouched) -> None:
    assert not vouched.covers(T, LEASE)
    assert learn(vouched, *LEASE)
    assert vouched.covers(T, LEASE)
    assert not vouched.covers(T, (11, 12, 14))
    assert not vouched.covers(T, LEASE[:2])
    vouched.hear([b"t:a", b"t:unknown"])
    assert not vouched.covers(T, LEASE)
    assert vouched.covers(TagSet((b"b",)), (12,))


def test_a_change_of_a_guards_stamp_ends_what_is_vouched_for_under_any_mind(vouched: Vouched) -> None:
    learn(vouched, *LEASE)
    other = TagSet((), ((b"table!", b"another"),))
    with vouched.asking() as asking:
        vouched.learn(asking, [(other, seen(13))], FLOOR)
    assert vouched.covers(other, (13,))
    vouched.hear([b"t:table!"])
    assert not vouched.covers(other, (13,))
    assert not vouched.covers(T, LEASE)


def test_an_entry_that_depends_on_nothing_is_never_vouched_for(vouched: Vouched) -> None:
    assert not vouched.covers(TagSet(), ())


def test_what_is_marked_is_not_vouched_for(vouched: Vouched) -> None:
    learn(vouched, *LEASE, storable=False)
    assert not vouched.covers(T, LEASE)


def test_an_answer_that_a_change_overtook_is_not_vouched_for(vouched: Vouched) -> None:
    with vouched.asking() as asking:
        vouched.hear([b"t:b"])
        vouched.learn(asking, [(T, seen(*LEASE))], FLOOR)
    assert not vouched.covers(T, LEASE)
    assert vouched.covers(TagSet((b"a",)), (11,))
    learn(vouched, *LEASE)
    assert vouched.covers(T, LEASE), "asked after the change was heard"


def test_an_answer_that_a_commit_of_this_process_overtook_is_not_vouched_for(vouched: Vouched) -> None:
    with vouched.asking() as asking:
        vouched.forget([b"b"])
        vouched.learn(asking, [(T, seen(*LEASE))], FLOOR)
    assert not vouched.covers(T, LEASE)


def test_of_two_answers_the_later_counts_whichever_came_first(vouched: Vouched) -> None:
    learn(vouched, 11, 12, 19)
    learn(vouched, *LEASE)
    assert vouched.covers(T, (11, 12, 19))


def test_an_interruption_ends_what_was_vouched_for_and_what_was_asked_before_it(vouched: Vouched) -> None:
    learn(vouched, *LEASE)
    with vouched.asking() as asking:
        vouched.interrupt()
        vouched.begin(FLOOR)
        assert not vouched.covers(T, LEASE)
        vouched.learn(asking, [(T, seen(*LEASE))], FLOOR)
    assert not vouched.covers(T, LEASE)


def test_what_was_asked_before_a_feed_began_is_not_vouched_for() -> None:
    vouched = Vouched(key_of, 1.0)
    with vouched.asking() as asking:
        vouched.begin(FLOOR)
        vouched.learn(asking, [(T, seen(*LEASE))], FLOOR)
    assert not vouched.covers(T, LEASE)


def test_a_flush_ends_what_was_vouched_for_and_what_is_under_way(vouched: Vouched) -> None:
    learn(vouched, *LEASE)
    with vouched.asking() as asking:
        vouched.forget_all()
        assert not vouched.covers(T, LEASE)
        vouched.learn(asking, [(T, seen(*LEASE))], FLOOR)
    assert not vouched.covers(T, LEASE)


def test_answers_of_another_life_are_not_vouched_for_and_a_later_one_is_told(vouched: Vouched) -> None:
    assert learn(vouched, *LEASE, floor=FLOOR - 1)
    assert not vouched.covers(T, LEASE)
    assert not learn(vouched, *LEASE, floor=FLOOR + 1)
    assert not vouched.covers(T, LEASE)


def test_a_beat_counts_from_the_moment_when_it_began_and_for_less_than_the_lag(vouched: Vouched, clock: Clock) -> None:
    began = clock.now
    clock.now += 0.7
    assert vouched.is_fresh
    vouched.beat(vouched.session, began + 0.5, FLOOR)
    clock.now = began + 1.4375
    assert vouched.is_fresh
    clock.now = began + 1.5
    assert not vouched.is_fresh


def test_a_beat_of_another_session_counts_for_nothing(vouched: Vouched, clock: Clock) -> None:
    clock.now += 5
    assert not vouched.beat(vouched.session - 1, clock.now, FLOOR)
    assert not vouched.is_fresh


def test_a_beat_in_another_life_ends_what_was_vouched_for_and_what_is_under_way(vouched: Vouched, clock: Clock) -> None:
    learn(vouched, *LEASE)
    with vouched.asking() as asking:
        assert vouched.beat(vouched.session, clock.now, FLOOR + 1)
        assert not vouched.covers(T, LEASE)
        vouched.learn(asking, [(T, seen(*LEASE))], FLOOR + 1)
    assert not vouched.covers(T, LEASE)
    learn(vouched, *LEASE, floor=FLOOR + 1)
    assert vouched.covers(T, LEASE)


def test_stamps_beyond_the_most_are_forgotten_all_at_once(vouched: Vouched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_vouched, "MOST_STAMPS", 10)
    for number in range(20):
        tags = TagSet((b"%d" % number,))
        with vouched.asking() as asking:
            vouched.learn(asking, [(tags, seen(number + 1))], FLOOR)
        assert len(vouched._stamps) <= 10
        assert len(vouched._names) <= 10
