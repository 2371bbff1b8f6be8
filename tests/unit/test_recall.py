"""What was made of values is remembered for these very values, and bounded."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from querycache._types import TagSet
from querycache.recall import Named, Recall, exactly

NAMED = Named(b"key", TagSet((b"tag",)))


@pytest.mark.parametrize(
    ("one", "other"),
    [([1], [True]), ([0], [False]), ([[1]], [[True]]), ([1, "a"], ["a", 1]), ([b"a"], ["a"]), ([None], [0])],
)
def test_values_that_are_only_equal_are_told_apart(one: list[Any], other: list[Any]) -> None:
    assert exactly(b"", one) != exactly(b"", other)


@pytest.mark.parametrize("values", [[1, "a", None], [[1, 2, 3]], [UUID(int=1), b"x"], [[]]])
def test_the_same_values_are_known_again(values: list[Any]) -> None:
    assert exactly(b"", values) == exactly(b"", list(values)) is not None


def test_what_rows_vary_by_counts() -> None:
    assert exactly(b"tenant", [1]) != exactly(b"another", [1])


def test_a_list_is_not_its_values_one_by_one() -> None:
    assert exactly(b"", [[1, 2]]) != exactly(b"", [1, 2])


@pytest.mark.parametrize("value", [0.0, Decimal("1.0"), dt.datetime(2020, 1, 1), [0.0], (1,), {"a": 1}, object()])
def test_values_of_types_in_which_different_ones_are_equal_are_not_remembered(value: object) -> None:
    assert exactly(b"", [value]) is None


def test_everything_is_forgotten_where_it_becomes_too_much() -> None:
    recall = Recall(most=3)
    one, other = recall.memory(), recall.memory()
    for number in range(3):
        one.keep(number, NAMED)
    other.keep(0, NAMED)
    assert (one.named, other.named) == ({}, {0: NAMED})
    other.keep(1, NAMED)
    assert other.named == {0: NAMED, 1: NAMED}


def test_a_statement_that_is_gone_takes_what_was_remembered_with_it() -> None:
    recall = Recall(most=1)
    recall.memory().keep(1, NAMED)
    kept = recall.memory()
    kept.keep(1, NAMED)
    assert kept.named == {1: NAMED}
