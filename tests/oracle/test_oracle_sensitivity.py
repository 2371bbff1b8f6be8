"""Would the oracle see a mistake? Rules are taken out of the library one after another, and the oracle must find each missing.

With seeds that are known to find them, noted in ``oracle_rules``; ``make oracle-rules`` searches from random ones.
"""

from __future__ import annotations

import pytest
from oracle_breaking import taken_out
from oracle_rules import RULES, catch, play_for, rule_named, rules

from querycache import capture

FOUND = [name for name, focus in RULES.items() if focus.seed]


@pytest.mark.parametrize("name", FOUND)
def test_a_rule_that_is_missing_is_found(name: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue(f"{RULES[name].db}_url")
    assert play_for(url, name) is None, "the library as it is gives no other answers than the database"
    assert catch(url, name, first_seed=RULES[name].seed, most=1) is not None


def test_at_least_ten_rules_are_found() -> None:
    assert len(FOUND) >= 10


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
