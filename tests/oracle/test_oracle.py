"""A bounded look of the oracle at each database; ``make oracle MINUTES=60 DB=...`` looks longer."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import pytest
from oracle_questions import QUESTIONS
from oracle_rounds import Kinds, play_round
from oracle_schema import Trigger
from oracle_tally import Tally
from oracle_world import World
from oracle_writes import WRITES
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

ROUNDS: Final = {"sqlite": 8, "postgresql": 6, "mariadb": 5}
MOST_ROUNDS: Final = 60


def test_cached_and_uncached_sessions_agree_after_every_random_step(database_url: str) -> None:
    tally = Tally()

    for seed in range(ROUNDS[database_url.split("+")[0].split(":")[0]]):
        failure = play_round(database_url, seed, tally)
        assert failure is None, failure.told

    assert tally.comparisons > 400
    # A cache that never answers agrees with everybody.
    assert tally.all_hits > 150
    assert tally.counts["fill"] > 100
    assert tally.counts["defect"] == 0


def test_asynchronous_sessions_agree_as_well(database_url: str) -> None:
    tally = Tally()

    for seed in range(100, 102):
        failure = play_round(database_url, seed, tally, is_async=True)
        assert failure is None, failure.told

    assert tally.all_hits > 20
    assert tally.counts["defect"] == 0


def test_no_kind_of_question_or_write_sits_idle(sqlite_url: str) -> None:
    """A kind that is never answered from the cache, or never happens, finds nothing."""
    tally = Tally()

    for seed in range(1000, 1000 + MOST_ROUNDS):
        idle = tally.idle("sqlite")
        if not idle:
            break
        kinds = Kinds(
            tuple(kind for kind in idle if kind in QUESTIONS)[:6] or ("get",),
            tuple(kind for kind in idle if kind in WRITES)[:4] or ("Core update",),
        )
        failure = play_round(sqlite_url, seed, tally, kinds=kinds, examples=1)
        assert failure is None, failure.told

    assert not tally.idle("sqlite")


def test_the_same_seed_plays_the_same_round(sqlite_url: str) -> None:
    first, second = Tally(), Tally()

    for tally in (first, second):
        assert play_round(sqlite_url, 3, tally) is None

    # What is a hit may depend on the clock: a snapshot is not trusted with what was stored in the second before it.
    assert (first.asked, first.done, first.refused) == (second.asked, second.done, second.refused)
    assert first.comparisons == second.comparisons


def test_an_example_begins_without_what_a_trigger_does_to_the_rows_of_the_last_one(sqlite_url: str) -> None:
    world = World(sqlite_url, 3, Tally())
    table, rows = next((table, rows) for table, rows in world.rows if rows)
    refusing = f"CREATE TRIGGER refuses BEFORE DELETE ON \"{table.name}\" BEGIN SELECT RAISE(ABORT, 'no'); END"
    world.schema = replace(world.schema, triggers=(Trigger(refusing, "DROP TRIGGER refuses"),))
    with world.outside.begin() as connection:
        connection.exec_driver_sql(refusing)

    for _ in range(2):
        world.begin()

    with world.outside.begin() as connection:
        assert connection.scalar(select(func.count()).select_from(table)) == len(rows)
        with pytest.raises(IntegrityError):
            connection.execute(table.delete())
    world.close()
