"""Let the oracle look for disagreements for as long as asked.

    python tests/oracle/run.py --minutes 5 --db sqlite|postgresql|mariadb [--seed N] [--store URL]

Prints how far it is; the last line gives examples, comparisons, hits and disagreements. Ends with 1 where there was one,
or where nothing was compared with a hit.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from oracle_machine import machine_on
from oracle_world import World

from servers import MARIADB, POSTGRESQL, database, server

ROUND: Final = 20
"""Examples between two looks at the clock."""

SETTINGS: Final = settings(
    max_examples=ROUND,
    stateful_step_count=30,
    database=None,
    deadline=None,
    print_blob=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def database_on(kind: str) -> Iterator[str]:
    """Yield the URL of an empty database of a kind; it is gone afterwards."""
    if kind == "sqlite":
        with TemporaryDirectory(prefix="querycache-oracle-") as folder:
            yield f"sqlite:///{folder}/database.sqlite"
        return
    with server(POSTGRESQL if kind == "postgresql" else MARIADB) as url, database(url, "oracle") as own:
        yield own.render_as_string(hide_password=False)


def play(world: World, first_seed: int, minutes: float) -> int:
    """Play rounds until the time is over; return how many of them ended in a disagreement."""
    end = time.monotonic() + minutes * 60
    failures = 0
    number = first_seed
    while time.monotonic() < end:
        try:
            run_state_machine_as_test(seed(number)(machine_on(world)), settings=SETTINGS)
        except Exception as error:
            # Whatever it is, a read or a write ended otherwise than without the cache, or the oracle itself is wrong.
            failures += 1
            print(f"\nseed {number}:", *traceback.format_exception(error), sep="\n", flush=True)
        number += 1
        print(f"  {max(0.0, end - time.monotonic()):5.0f} s left, {told(world, failures)}", flush=True)
    return failures


def told(world: World, failures: int) -> str:
    """Say what was done so far."""
    counts = world.counts()
    return (
        f"{world.examples} examples, {world.comparisons} comparisons, {counts.get('hit', 0)} hits, "
        f"{counts.get('defect', 0)} defects counted, {failures} disagreements"
    )


def main() -> int:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(description="compare a cached with an uncached Session at random")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--db", choices=["sqlite", "postgresql", "mariadb"], default="sqlite")
    parser.add_argument("--seed", type=int, help="begin here, to see again what an earlier run printed")
    parser.add_argument("--store", default="memory://")
    given = parser.parse_args()
    first_seed = random.randrange(10**9) if given.seed is None else given.seed
    # psycopg tells of pipelines that ended early: the oracle's writes are meant to fail.
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    print(f"oracle on {given.db}, {given.store}, first seed {first_seed}", flush=True)
    with database_on(given.db) as url:
        world = World(url, given.store)
        try:
            failures = play(world, first_seed, given.minutes)
        finally:
            world.close()
    print(f"oracle: {told(world, failures)}")
    return 1 if failures or not world.counts().get("hit") else 0


if __name__ == "__main__":
    sys.exit(main())
