"""The real stores answer as the model's store does, and keep the promises, under every schedule of the protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model_store import ModelStore
from protocol_model import ALL_KINDS, EVICTIONS, Faults, Plan, ProtocolWorld, Setting
from real_store import (
    InStep,
    Journaled,
    NamingVerbs,
    SteppedMemory,
    TickingLMDB,
    TickingMemory,
    Unanswering,
    Verbs,
    model_store,
    names_in_slots,
)
from state_search import Action, Verdict, all_schedules, retold, search, shortest_schedules
from two_minds import TwoMinds

from lmdb_support import names_in_one_slot
from querycache.coherence.journal import Journal
from querycache.events import Events
from querycache.stores import _slot

BOTH = (Plan((0,)), Plan((0, 1)))
KEPT = ALL_KINDS - {"evict register"}
"""The stores of this library lose no register."""


def in_step(setting: Setting, *, shared: bool = False) -> ProtocolWorld:
    """Return a world that goes by the real memory store, with the model's store beside it."""
    names = names_in_slots(TickingMemory(), setting.tags, shared=shared)
    real = SteppedMemory(names, len(setting.writers))
    return ProtocolWorld(setting, InStep(model_of(setting), real, exact=not shared))


def model_of(setting: Setting) -> ModelStore:
    return model_store(setting.tags, len(setting.statements))


def found(start: Callable[[], ProtocolWorld]) -> Verdict:
    """Search a world; fail with the schedule of what is broken."""
    verdict = search(start())
    assert verdict.holds, retold(start(), verdict.schedule)
    return verdict


def test_acknowledged_is_seen_through_the_memory_store_whatever_is_lost() -> None:
    setting = Setting("acknowledged", writers=BOTH, reads=((0, 0),), faults=Faults(KEPT, 2, loses_marks=True))
    assert found(lambda: in_step(setting)).states > 1_000


def test_visible_is_seen_through_the_memory_store_whoever_is_killed() -> None:
    setting = Setting("visible", writers=BOTH, reads=((0, 0),), faults=Faults(KEPT | {"clear"}, 1, 1))
    assert found(lambda: in_step(setting)).states > 500


def test_a_mark_in_the_memory_store_lives_until_its_own_deadline() -> None:
    setting = Setting("acknowledged", reads=((0, 0),), faults=Faults(frozenset({"tick"}), 3, loses_marks=True))
    assert found(lambda: in_step(setting)).states > 500


def test_a_stamp_of_the_memory_store_never_comes_back_when_registers_are_lost() -> None:
    setting = Setting("acknowledged", reads=((0, 0),), faults=Faults(EVICTIONS, 2, loses_marks=True))
    assert found(lambda: in_step(setting)).states > 1_000


def test_what_others_changed_is_seen_after_the_memory_store_was_cleared() -> None:
    setting = Setting("acknowledged", writers=(Plan((0, 1)), Plan((0,), "outsider")), faults=Faults(KEPT, 1))
    assert found(lambda: in_step(setting)).states > 1_000


@pytest.mark.parametrize("room", [8, 1])
def test_tags_that_share_a_slot_of_the_memory_store_are_never_stale(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_slot, "MAX_OWN", room)
    setting = Setting(
        "visible",
        writers=(Plan((0,)), Plan((1,))),
        statements=((0,), (1,)),
        reads=((0, 0), (1,)),
        faults=Faults(frozenset({"tick"}), 1),
    )
    assert found(lambda: in_step(setting, shared=True)).states > 1_000


def test_the_memory_store_keeps_its_promise_under_every_single_schedule() -> None:
    setting = Setting("visible", writers=BOTH, reads=((0, 0),))
    assert all_schedules(in_step(setting), lambda world: None) > 1_000


@pytest.mark.parametrize(("reads", "ticks"), [(((0, 0),), 2), (((0, 0), (1,)), 1)])
def test_processes_of_two_minds_never_serve_each_other_stale(reads: tuple[tuple[int, ...], ...], ticks: int) -> None:
    setting = Setting(
        "visible",
        writers=(Plan((0,)), Plan((0,))),
        statements=((0,), (0,)),
        reads=reads,
        faults=Faults(frozenset({"tick"}), ticks),
    )
    assert found(lambda: ProtocolWorld(setting, TwoMinds())).states > 5_000


# -- stores that cannot be copied: schedules played from the beginning -------------------------------------------------


def play(setting: Setting, real_of: Callable[[int], Verbs], *, exact: bool = True) -> int:
    """Play a shortest schedule for every step of the model; ``real_of`` makes the store for each."""
    played = 0

    def visit(schedule: tuple[Action, ...]) -> None:
        nonlocal played
        played += 1
        world = ProtocolWorld(setting, InStep(model_of(setting), real_of(played), exact=exact))
        for action in schedule:
            broken = world.apply(action)
            assert not broken, f"{broken}: {schedule}"

    return shortest_schedules(ProtocolWorld(setting, model_of(setting)), visit)


@pytest.fixture
def lmdb(tmp_path: Path) -> Iterator[TickingLMDB]:
    store = TickingLMDB(tmp_path / "store", 16 * 1024 * 1024)
    yield store
    store.close()


def test_the_lmdb_store_answers_as_the_model_does(lmdb: TickingLMDB) -> None:
    setting = Setting("visible", writers=BOTH, reads=((0, 0),), faults=Faults(frozenset({"tick"}), 1, 1))

    def real_of(run: int) -> Verbs:
        return NamingVerbs(lmdb, lmdb, (b"%d/0" % run, b"%d/1" % run), b"%d" % run)

    assert play(setting, real_of) > 1_000


@pytest.mark.parametrize("room", [8, 1])
def test_tags_that_share_a_slot_of_the_lmdb_store_are_never_stale(
    room: int, lmdb: TickingLMDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_slot, "MAX_OWN", room)
    setting = Setting(
        "visible",
        writers=(Plan((0,)), Plan((1,))),
        statements=((0,), (1,)),
        reads=((0, 0), (1,)),
        faults=Faults(frozenset({"tick"}), 1),
    )
    names = names_in_one_slot(8_000)

    def real_of(run: int) -> Verbs:
        return NamingVerbs(lmdb, lmdb, names[run - 1], b"%d" % run)

    assert play(setting, real_of, exact=False) > 1_000


@pytest.fixture
def no_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a journal's rounds to the schedule."""
    monkeypatch.setattr(Journal, "_keep", lambda self: None)


@pytest.mark.usefixtures("no_keeper")
def test_a_journal_makes_good_what_is_lost_or_late() -> None:
    setting = Setting(
        "acknowledged", writers=BOTH, reads=((0, 0),), faults=Faults(frozenset({"release fails", "tick"}), 2)
    )

    def real_of(run: int) -> Verbs:
        store = Unanswering()
        journals = [Journal(store, Events()) for _ in setting.writers]
        return Journaled(store, (b"one", b"two"), journals)

    assert play(setting, real_of) > 1_000


@pytest.mark.usefixtures("no_keeper")
def test_two_commits_of_one_process_hold_marks_of_their_own() -> None:
    setting = Setting("acknowledged", writers=BOTH, reads=((0, 0),))

    def real_of(run: int) -> Verbs:
        store = Unanswering()
        journal = Journal(store, Events())
        return Journaled(store, (b"one", b"two"), [journal, journal])

    assert play(setting, real_of) > 200
