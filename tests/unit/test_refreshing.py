"""Which read refreshes an entry before it expires: probabilistic early expiration, with the lots in our hands."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import pytest

from querycache._types import Lookup
from querycache.errors import ConfigurationError
from querycache.questions import Question
from querycache.refreshing import EarlyRefresh

NOW = 10**15


@dataclass(eq=False)
class Asked:
    """A question, as far as it matters here."""

    ttl_s: float = 100.0
    plan: Any = None


class APlan:
    pass


def found(left_s: float) -> Lookup:
    return Lookup(b"rows", (), True, NOW, NOW + int(left_s * 1e9))


def is_due(left_s: float, *, lot: float, took_s: float | None = 1.0, beta: float = 1.0, ttl_s: float = 100.0) -> bool:
    plan: Any = APlan()
    refreshing = EarlyRefresh(beta, lambda: lot)
    if took_s is not None:
        refreshing.note(plan, took_s)
    return refreshing.is_due(cast(Question, Asked(ttl_s, plan)), found(left_s))


@pytest.mark.parametrize("left_s", [0.5, 2.0, 8.0])
def test_a_read_is_due_with_the_probability_that_xfetch_gives(left_s: float) -> None:
    probability = math.exp(-left_s / 1.0)
    assert is_due(left_s, lot=1 - 0.99 * probability)
    assert not is_due(left_s, lot=1 - 1.01 * probability)


def test_what_takes_longer_is_due_earlier() -> None:
    assert not is_due(4.0, lot=0.9, took_s=1.0)
    assert is_due(4.0, lot=0.9, took_s=2.0)


def test_a_larger_beta_is_due_earlier() -> None:
    assert not is_due(4.0, lot=0.9, beta=1.0)
    assert is_due(4.0, lot=0.9, beta=2.0)


def test_with_a_beta_of_0_nothing_is_ever_due() -> None:
    assert not is_due(1e-9, lot=1 - 1e-16, beta=0.0)


def test_nothing_is_due_in_the_first_half_of_its_life() -> None:
    """A statement that takes as long as its rows live would be sent all the time."""
    assert not is_due(50.1, lot=1 - 1e-16, took_s=100.0)
    assert is_due(49.9, lot=1 - 1e-16, took_s=100.0)


def test_what_this_process_never_sent_is_not_due() -> None:
    assert not is_due(0.001, lot=1 - 1e-16, took_s=None)


def test_a_lot_of_0_is_a_lot() -> None:
    assert not is_due(0.001, lot=0.0)


@pytest.mark.parametrize("expires", [0, NOW - 1, NOW])
def test_a_miss_or_an_entry_of_a_store_that_does_not_tell_its_end_is_not_due(expires: int) -> None:
    plan: Any = APlan()
    refreshing = EarlyRefresh(1.0, lambda: 1 - 1e-16)
    refreshing.note(plan, 1000.0)
    assert not refreshing.is_due(cast(Question, Asked(100.0, plan)), Lookup(b"rows", (), True, NOW, expires))


@pytest.mark.parametrize("beta", [-1, float("inf"), float("nan")])
def test_what_is_no_beta_is_refused(beta: float) -> None:
    with pytest.raises(ConfigurationError, match=r"early_refresh=.*0 never"):
        EarlyRefresh(beta)
