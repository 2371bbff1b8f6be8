"""Which rules of the library must the oracle find missing, and what is each about?

A rule is an entry of ``rules.toml``. The search for it takes the kinds of questions and writes, and the parts
of a schema, that it is about: so it is found within few examples.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from broken_rules import Rule
from oracle_breaking import taken_out
from oracle_draft import Wishes
from oracle_rounds import Failure, Kinds, play_round
from oracle_tally import Tally
from oracle_values import BOOL, INT, TEXT, Kind

_PLAIN: Final[tuple[Kind, ...]] = (INT, TEXT, BOOL)
_FEW: Final = ("few columns", "one row's columns", "aggregate")
_BLOCKS: Final = ("derived table", "entities from a block")
_BY_ROW: Final = ("flush: update", "flush: delete", "flush: insert", "bulk update", "Core update", "Core insert")


@dataclass(frozen=True, slots=True)
class Focus:
    """What to ask, to write and to wish for in a search; ``seed``: where to begin with ``make oracle-rules TUNE=yes``."""

    questions: tuple[str, ...]
    writes: tuple[str, ...] = _BY_ROW
    parts: tuple[str, ...] = ()
    seed: int = 0
    db: str = "sqlite"


RULES: Final[dict[str, Focus]] = {
    "the ON of an outer join narrows its nullable side only": Focus(("join by columns",)),
    "the ON of a FULL join keeps no row of either side out": Focus(("join by columns",)),
    "an OR narrows what every branch of it narrows": Focus(_FEW, seed=347384863),
    "IS NULL narrows no nullable side": Focus(
        ("join by columns",), ("flush: insert", "flush: delete", "Core insert"), seed=850267796
    ),
    "a derived table with LIMIT or DISTINCT ON is a block of its own": Focus(_BLOCKS),
    "a derived table that groups rows is a block of its own": Focus(_BLOCKS),
    "a subquery demands something of a row where it has none but for one of its FROM": Focus(("subquery in WHERE",)),
    "a column of a subquery passes nothing on to a block around it": Focus(("subquery in WHERE", "derived table")),
    "a table that is read in several places has the tags of all of them": Focus(
        ("join by columns", "subquery in any clause", "set operation")
    ),
    "a read narrowed by a column depends on the values that a writer does not know": Focus(_FEW, seed=176552585),
    "a column that the database computes may change without being set": Focus(_FEW, parts=("computed",)),
    "an update that sets a column ends what uses it": Focus(_FEW, seed=727671669),
    "rows that come and go end what reads any row": Focus(_FEW, seed=84712638),
    "a row that is changed was something before": Focus(
        _FEW, ("flush: update", "flush: delete", "Core update"), seed=904813254
    ),
    "a row that is changed becomes something": Focus(
        _FEW, ("flush: update", "flush: insert", "Core update"), seed=115330279
    ),
    "a row whose key changes is another one afterwards": Focus(
        ("get", "one row's columns"), ("flush: key change",), seed=712737978
    ),
    "the database's cascades from one row change other tables": Focus(
        _FEW, ("flush: delete", "Core delete"), seed=214186059
    ),
    "rows deleted by a condition take others with them": Focus(
        _FEW, ("Core delete", "ORM delete", "text()"), seed=402680060
    ),
    "a table with triggers may change any other": Focus(_FEW, parts=("trigger",)),
    "an upsert changes other rows than the one that it names": Focus(_FEW, ("upsert",), seed=107290264),
    "what onupdate sets by SQL is not known": Focus(
        _FEW, ("flush: update", "Core update"), ("onupdate",), seed=249639041
    ),
    "a value that the database computes is not known": Focus(_FEW, ("flush: update", "Core update"), seed=156918695),
    "a SELECT writes what the DML in its CTEs writes": Focus(_FEW, ("DML in a CTE",), db="postgresql", seed=809657086),
    "tables that a text names are changed": Focus(_FEW, ("text()", "exec_driver_sql"), seed=503359620),
    "a transaction that changed rows reads past the cache and stores nothing": Focus(
        _FEW, ("Core update", "Core delete"), seed=550041031
    ),
}


@dataclass(frozen=True, slots=True)
class Catch:
    """Which example, counted from one, found that a rule is missing, and its seed."""

    examples: int
    seed: int


def catch(url: str, name: str, *, first_seed: int, most: int) -> Catch | None:
    """Look for a disagreement of a library that lacks a rule; return None where there is none in ``most`` examples."""
    with taken_out(rule_named(name)):
        for number in range(most):
            failure = play_for(url, name, seed=first_seed + number)
            if failure is not None and not failure.is_disagreement:
                raise failure.error
            if failure is not None:
                return Catch(number + 1, failure.seed)
    return None


def play_for(url: str, name: str, *, seed: int | None = None) -> Failure | None:
    """Play one example of the search for a rule, the first one unless told; with the library as it is."""
    focus = RULES[name]
    return play_round(
        url,
        focus.seed if seed is None else seed,
        Tally(),
        kinds=Kinds(focus.questions, focus.writes),
        wishes=Wishes(_PLAIN, frozenset(focus.parts)),
        examples=1,
        store="memory://",
    )


def rules() -> list[Rule]:
    """Return the rules of the table."""
    entries = tomllib.loads((Path(__file__).parent / "rules.toml").read_text(encoding="utf-8"))["rule"]
    return [Rule("oracle", one["name"], one["module"], one["old"], one["new"], ()) for one in entries]


def rule_named(name: str) -> Rule:
    """Return the rule of that name."""
    return next(rule for rule in rules() if rule.name == name)
