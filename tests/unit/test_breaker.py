"""A store that failed is spared, for longer the longer it lasts, and found again by one call at a time."""

from __future__ import annotations

import pytest

from querycache.stores._breaker import FAILURES, FIRST_PAUSE_S, LONGEST_PAUSE_S, Breaker


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(clock)
    assert [breaker.note_failure() for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    return breaker


def test_fewer_failures_refuse_nobody(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(FAILURES - 1):
        breaker.note_failure()
    assert breaker.lets_through()
    assert not breaker.is_open


def test_a_success_between_failures_begins_the_count_anew(clock: Clock) -> None:
    breaker = Breaker(clock)
    for _ in range(10):
        breaker.note_failure()
        breaker.note_success()
    assert not breaker.is_open


def test_calls_are_refused_until_the_pause_is_over(breaker: Breaker, clock: Clock) -> None:
    assert (breaker.is_open, breaker.lets_through()) == (True, False)
    clock.now += FIRST_PAUSE_S
    assert (breaker.is_open, breaker.lets_through()) == (False, True)


def test_one_call_at_a_time_finds_out_whether_the_store_is_back(breaker: Breaker, clock: Clock) -> None:
    clock.now += FIRST_PAUSE_S
    assert [breaker.lets_through() for _ in range(3)] == [True, False, False]


def test_failures_of_many_threads_at_once_do_not_lengthen_the_pause(breaker: Breaker, clock: Clock) -> None:
    for _ in range(50):
        breaker.note_failure()
    clock.now += FIRST_PAUSE_S
    assert breaker.lets_through()


def test_the_pause_grows_with_each_call_in_vain_up_to_a_bound(breaker: Breaker, clock: Clock) -> None:
    pauses = []
    for _ in range(8):
        began = clock.now
        while not breaker.lets_through():
            clock.now += 0.125
        breaker.note_failure()
        pauses.append(clock.now - began)
    assert pauses == [FIRST_PAUSE_S, 1, 2, 4, *[LONGEST_PAUSE_S] * 4]


def test_the_first_success_lets_everybody_through_again(breaker: Breaker, clock: Clock) -> None:
    assert breaker.note_success()
    assert breaker.lets_through()
    assert breaker.lets_through()
    assert not breaker.note_success()


def test_after_a_success_the_pause_is_short_again(breaker: Breaker, clock: Clock) -> None:
    for _ in range(5):
        clock.now += LONGEST_PAUSE_S
        breaker.lets_through()
    breaker.note_success()
    for _ in range(FAILURES):
        breaker.note_failure()
    clock.now += FIRST_PAUSE_S
    assert breaker.lets_through()
