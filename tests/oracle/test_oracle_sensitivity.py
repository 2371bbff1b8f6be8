"""Would the oracle see a mistake?

Each rule of ``tests/rules/oracle.toml`` is taken out of the library, and the oracle finds rows that are not the database's.
Where the oracle itself was changed, its seeds find other examples: ``make oracle-rules TUNE=yes`` finds new ones.
"""

from __future__ import annotations

from typing import Final

import pytest
from broken_rules import read_rules
from oracle_rules import RULES, catch, play_for

MOST: Final = 40
"""Examples; the first one does, unless something was changed since its seed was found."""


@pytest.fixture
def url(name: str, request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{RULES[name].db}_url")
    return found


@pytest.mark.parametrize("name", RULES)
def test_the_oracle_finds_that_a_rule_is_missing(name: str, url: str) -> None:
    assert catch(url, name, first_seed=RULES[name].seed, most=MOST) is not None


@pytest.mark.parametrize("name", RULES)
def test_the_oracle_agrees_where_it_finds_a_rule_missing(name: str, url: str) -> None:
    """With the rule in its place; ``make rules AREA=oracle`` takes it out of a copy and sees this fail."""
    failure = play_for(url, name)

    assert failure is None, failure.told


def test_each_rule_of_the_table_has_a_search() -> None:
    assert set(RULES) == {rule.name for rule in read_rules() if rule.area == "oracle"}
