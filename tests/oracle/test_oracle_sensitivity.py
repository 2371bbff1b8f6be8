"""Would the oracle see a mistake?

Each rule of ``tests/rules/oracle.toml`` is taken out of the library, and the oracle finds rows that are not the database's.
"""

from __future__ import annotations

from typing import Final

import pytest
from broken_rules import read_rules
from oracle_rules import RULES, examples_until_caught, play_for

MOST: Final = 30
"""Examples; far fewer are needed from the seed at which a search begins."""


@pytest.mark.parametrize("name", RULES)
def test_the_oracle_finds_that_a_rule_is_missing(name: str, sqlite_url: str) -> None:
    focus = RULES[name]

    assert examples_until_caught(sqlite_url, name, focus, MOST, first_seed=focus.seed) is not None


@pytest.mark.parametrize("name", RULES)
def test_the_oracle_agrees_where_it_finds_a_rule_missing(name: str, sqlite_url: str) -> None:
    """With the rule in its place; ``make rules AREA=oracle`` takes it out of a copy and sees this fail."""
    assert play_for(sqlite_url, RULES[name]) is None


def test_each_rule_of_the_table_has_a_search() -> None:
    assert set(RULES) == {rule.name for rule in read_rules() if rule.area == "oracle"}
