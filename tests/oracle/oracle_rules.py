"""Which rules of the library must the oracle find missing, and what is each about?

A rule is an entry of ``tests/rules/oracle.toml``. The search for it takes the kinds of questions and writes, and the parts
of a schema, that it is about: so it is found within few examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from broken_rules import Rule, read_rules
from oracle_breaking import taken_out
from oracle_design import Wishes
from oracle_rounds import Failure, Kinds, play_round
from oracle_tally import Tally
from oracle_values import BOOL, INT, TEXT, Kind

_FEW: Final = ("few columns", "one row's columns", "aggregate")
_PLAIN: Final[tuple[Kind, ...]] = (INT, TEXT, BOOL)


@dataclass(frozen=True, slots=True)
class Focus:
    """What to ask, to write and to wish for in a search. ``seed``: where to begin, so that it is short."""

    questions: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    kinds: tuple[Kind, ...] = _PLAIN
    seed: int = 0


_BY_ROW: Final = ("flush: update", "flush: delete", "flush: insert", "bulk update", "Core update", "Core insert")

RULES: Final[dict[str, Focus]] = {
    "the ON of an outer join narrows its nullable side only": Focus(("join by columns",), _BY_ROW),
    "an OR narrows what every branch of it narrows": Focus(_FEW, _BY_ROW),
    "IS NULL narrows no nullable side": Focus(("join over a relationship", "join by columns"), _BY_ROW),
    "the ON of a FULL join keeps no row of either side out": Focus(("join by columns",), _BY_ROW),
    "a table that is read in several places has the tags of all of them": Focus(
        ("join by columns", "derived table", "subquery in any clause", "set operation"), _BY_ROW
    ),
    "a read narrowed by a column depends on the values that a writer does not know": Focus(_FEW, _BY_ROW),
    "any change of a row ends what reads any row": Focus(_FEW, _BY_ROW),
    "a row that is changed was something before": Focus(_FEW, ("flush: update", "flush: delete", "Core update")),
    "a row that is changed becomes something": Focus(_FEW, ("flush: update", "flush: insert", "Core update")),
    "a row whose key changes is another one afterwards": Focus(("get", "one row's columns"), ("flush: key change",)),
    "the database's cascades from one row change other tables": Focus(_FEW, ("flush: delete", "Core delete")),
    "rows deleted by a condition take others with them": Focus(_FEW, ("Core delete", "ORM delete", "text()")),
    "an upsert changes other rows than the one that it names": Focus(_FEW, ("upsert",)),
    "what onupdate sets by SQL is not known": Focus(_FEW, ("flush: update", "Core update"), ("onupdate",)),
    "a value that the database computes is not known": Focus(_FEW, ("flush: update", "Core update")),
    "a transaction that changed rows reads past the cache and stores nothing": Focus(
        _FEW, ("Core update", "Core delete")
    ),
    "tables that a text names are changed": Focus(_FEW, ("text()", "exec_driver_sql")),
    "a table with triggers may change any other": Focus(_FEW, _BY_ROW, ("trigger",)),
}


def rule_named(name: str) -> Rule:
    """Return the rule of that name."""
    return next(rule for rule in read_rules() if rule.area == "oracle" and rule.name == name)


def examples_until_caught(url: str, name: str, focus: Focus, most: int, *, first_seed: int) -> int | None:
    """Return after how many examples the oracle found that a rule is missing; None for not within ``most``."""
    tally = Tally()
    with taken_out(rule_named(name)):
        seed = first_seed
        while tally.examples < most:
            failure = _play(url, seed, tally, focus)
            if failure is not None:
                if not failure.is_disagreement:
                    raise failure.error
                return tally.examples
            seed += 1
    return None


def play_for(url: str, focus: Focus) -> Failure | None:
    """Play the round at which the search for a rule begins, with the library as it is."""
    return _play(url, focus.seed, Tally(), focus)


def _play(url: str, seed: int, tally: Tally, focus: Focus) -> Failure | None:
    return play_round(
        url,
        seed,
        tally,
        kinds=Kinds(focus.questions, focus.writes),
        wishes=Wishes(focus.kinds, frozenset(focus.parts)),
        store="memory://",
    )
