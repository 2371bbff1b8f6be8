"""The protocol keeps its promises in every state that its models have, and each rule is needed for the promise it names.

The models have the same rules as ``querycache.coherence`` and the stores; ``test_models_stores.py`` holds them against the
real ones. The rules of snapshots are the library's own functions here.
"""

from __future__ import annotations

import pytest
from model_cases import Case, breaking, holding, snapshots, surviving
from protocol_model import Faults, ProtocolWorld, Rules, Setting
from state_search import all_schedules, retold, search

ABOVE_THE_STORE = [case for case in holding() if case.name not in {case.name for case in snapshots()}]


@pytest.mark.parametrize("case", ABOVE_THE_STORE, ids=str)
def test_a_promise_is_kept_in_every_state(case: Case) -> None:
    verdict = search(case.start())
    assert verdict.holds, retold(case.start(), verdict.schedule)
    assert verdict.states > case.at_least


@pytest.mark.parametrize("case", breaking(), ids=str)
def test_a_promise_is_broken_without_its_rule(case: Case) -> None:
    assert search(case.start()).broken


@pytest.mark.parametrize("case", surviving(), ids=str)
def test_a_promise_is_kept_without_the_rule_of_another(case: Case) -> None:
    verdict = search(case.start())
    assert verdict.holds, retold(case.start(), verdict.schedule)


@pytest.mark.parametrize("case", snapshots(), ids=str)
def test_a_snapshot_is_one_state_under_the_rules_of_the_library(case: Case) -> None:
    verdict = search(case.start())
    assert verdict.holds, retold(case.start(), verdict.schedule)
    assert verdict.states > case.at_least


def test_a_counterexample_is_told_step_by_step() -> None:
    setting = Setting("visible", rules=Rules(marks_before_commit=False))
    verdict = search(ProtocolWorld(setting))
    told = retold(ProtocolWorld(setting), verdict.schedule).splitlines()
    assert [line[5:] for line in told] == [
        "reader 0 misses",
        "reader 0 queries and gets [0, 0]",
        "the commit of writer 0 is visible: the database shows [1, 1]",
        "reader 0 fills",
        "reader 0 is served [0, 0]",
        "BROKEN: served [0, 0] where [1, 1] was promised: visible is seen",
    ]


def test_a_search_that_was_cut_short_proves_nothing() -> None:
    verdict = search(ProtocolWorld(Setting("visible")), max_states=50)
    assert not verdict.is_whole
    assert not verdict.holds


def test_a_search_finds_the_states_that_all_schedules_lead_to() -> None:
    setting = Setting("visible", reads=((0,),), faults=Faults(frozenset({"evict entry"}), 1))
    ends = set()
    schedules = all_schedules(ProtocolWorld(setting), lambda world: ends.add(world.key()))
    assert schedules > 100
    assert ends
    assert search(ProtocolWorld(setting)).states > len(ends)
