"""What may be served a moment longer: valid no longer ago than was said, and not before anything that this process knows."""

from __future__ import annotations

import math

import pytest

from querycache import graces as module
from querycache.errors import ConfigurationError
from querycache.graces import Graces
from querycache.options import FromCache
from querycache.policy import Policy

K = (b"key", 1)
NEVER = -math.inf


class Kept(Graces):
    """On a clock of the test's own."""

    def __init__(self, max_size_bytes: int = 10_000) -> None:
        self.now = 100.0
        super().__init__(max_size_bytes, lambda: self.now)

    def at(self, now: float) -> Kept:
        self.now = now
        return self


def test_what_was_valid_is_given_for_its_grace_from_before_it_was_asked_for() -> None:
    kept = Kept()
    kept.keep(K, b"rows", after=99.0)
    assert kept.at(104.0).of(K, 5.0, NEVER) == b"rows"
    assert kept.at(104.1).of(K, 5.0, NEVER) is None


def test_nothing_from_before_this_process_wrote_is_given() -> None:
    kept = Kept()
    kept.keep(K, b"rows", after=99.0)
    assert kept.of(K, 60.0, changed_at=98.9) == b"rows"
    assert kept.of(K, 60.0, changed_at=99.0) is None
    assert kept.of(K, 60.0, changed_at=99.5) is None


def test_what_was_asked_for_later_takes_the_place_of_what_was_known() -> None:
    kept = Kept()
    kept.keep(K, b"old", after=99.0)
    kept.at(102.0).keep(K, b"new", after=101.0)
    assert kept.at(105.9).of(K, 5.0, NEVER) == b"new"
    assert kept.at(106.1).of(K, 5.0, NEVER) is None


@pytest.mark.parametrize("after", [98.0, 99.5, 100.0])
def test_of_two_answers_that_were_under_way_together_neither_is_known_to_be_the_later(after: float) -> None:
    kept = Kept()
    kept.keep(K, b"one", after=99.0)
    kept.at(102.0).keep(K, b"other", after=after)
    assert kept.of(K, 60.0, NEVER) is None


def test_two_answers_that_agree_are_as_young_as_the_younger() -> None:
    kept = Kept()
    kept.keep(K, b"rows", after=98.0)
    kept.at(102.0).keep(K, b"rows", after=99.5)
    assert kept.at(104.4).of(K, 5.0, NEVER) == b"rows"
    kept.at(104.4).keep(K, b"rows", after=98.0)
    assert kept.at(104.4).of(K, 5.0, NEVER) == b"rows"


def test_after_rows_that_are_not_at_hand_nothing_that_was_asked_for_before_is_given() -> None:
    """Some reader has got them, and another must not be shown less."""
    kept = Kept()
    kept.keep(K, b"rows", after=99.0)
    kept.at(102.0).keep(K, None, NEVER)
    assert kept.of(K, 60.0, NEVER) is None
    kept.at(103.0).keep(K, b"rows", after=101.0)
    assert kept.of(K, 60.0, NEVER) is None
    kept.at(105.0).keep(K, b"new", after=104.0)
    assert kept.of(K, 60.0, NEVER) == b"new"


def test_what_is_kept_is_bounded_in_bytes_and_what_was_read_least_recently_goes_first() -> None:
    kept = Kept(max_size_bytes=3_000)
    for number in range(3):
        kept.at(100.0 + number).keep((b"%d" % number, 1), b"x" * 600, after=99.5 + number)
    kept.at(110.0).keep((b"0", 1), b"x" * 600, after=109.0)
    kept.at(111.0).keep((b"3", 1), b"x" * 600, after=110.5)
    assert [kept.of((b"%d" % number, 1), 60.0, NEVER) is not None for number in range(4)] == [True, False, True, True]


def test_what_is_larger_than_all_room_is_not_kept_and_the_count_stays_right() -> None:
    kept = Kept(max_size_bytes=1_000)
    kept.keep(K, b"x" * 2_000, after=99.0)
    assert kept.of(K, 60.0, NEVER) is None
    kept.at(101.0).keep(K, b"rows", after=100.5)
    assert kept.of(K, 60.0, NEVER) == b"rows"


def test_what_was_read_by_another_catalog_is_not_given() -> None:
    kept = Kept()
    kept.keep(K, b"rows", after=99.0)
    assert kept.of((b"key", 2), 60.0, NEVER) is None


def test_after_a_clear_nothing_is_given() -> None:
    kept = Kept()
    kept.keep(K, b"rows", after=99.0)
    kept.clear()
    assert kept.of(K, 60.0, NEVER) is None


def test_a_forked_child_starts_with_nothing() -> None:
    kept = Kept()
    kept.keep(K, b"rows", after=99.0)
    module._forget_in_child()
    assert kept.of(K, 60.0, NEVER) is None


@pytest.mark.parametrize("grace", [-1.0, 86401.0, float("nan")])
def test_what_is_no_grace_is_refused(grace: float) -> None:
    for ask in (lambda: Policy(grace=grace), lambda: FromCache(grace=grace)):
        with pytest.raises(ConfigurationError, match=r"grace=.*give seconds, 0 or more and at most 86400"):
            ask()
