"""A bounded look of the oracle at each database; ``make oracle MINUTES=60 DB=...`` looks longer."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from oracle_machine import machine_on
from oracle_world import World

BOUNDED = settings(
    max_examples=25,
    stateful_step_count=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def test_cached_and_uncached_sessions_agree_after_every_random_step(database_url: str) -> None:
    world = World(database_url)
    try:
        run_state_machine_as_test(machine_on(world), settings=BOUNDED)
    finally:
        world.close()

    assert world.comparisons > 300
    # A cache that never answers agrees with everybody.
    assert world.counts()["hit"] > 200
    assert world.counts()["fill"] > 100
    assert world.counts().get("defect", 0) == 0
