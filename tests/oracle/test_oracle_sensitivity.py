"""Would the oracle see a mistake? ``make oracle-rules`` takes one rule after another out and searches; this tests its table."""

from __future__ import annotations

import pytest
from oracle_breaking import taken_out
from oracle_rules import RULES, rule_named, rules

from querycache import capture


@pytest.mark.parametrize("name", RULES)
def test_a_rule_can_be_taken_out_of_the_library_as_it_is(name: str) -> None:
    """Its text stands where the table says, and some function is another one without it."""
    with taken_out(rule_named(name)):
        pass


def test_a_rule_is_back_in_its_place_afterwards() -> None:
    whole = capture.note_changes.__code__

    with taken_out(rule_named("tables that a text names are changed")):
        assert capture.note_changes.__code__ != whole

    assert capture.note_changes.__code__ is whole


def test_each_rule_of_the_table_has_a_search() -> None:
    assert set(RULES) == {rule.name for rule in rules()}
