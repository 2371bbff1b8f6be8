"""Let the oracle look for disagreements for as long as asked.

    python tests/oracle/run.py --minutes 5 --db sqlite|postgresql|mariadb [--seed N] [--store memory://|lmdb|URL] [--async]

Prints how far it is; what became of each kind of question and write; the last line gives examples, comparisons, hits and
disagreements. Ends with 1 where there was a disagreement, where nothing was a hit, or where a kind sat idle for all of
five minutes. ``--seed N`` plays that one round again, exactly as it was.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "rules")]

from oracle_rounds import play_round  # noqa: E402
from oracle_tally import Tally  # noqa: E402

from servers import MARIADB, POSTGRESQL, database, server  # noqa: E402

IDLE_MINUTES: Final = 5.0
"""A run of so many minutes asks and writes in every way."""

SHRINK_SECONDS: Final = 60.0

HANG_SECONDS: Final = 900.0
"""A round that takes longer waits for something: the run ends with what it was doing."""


@contextmanager
def database_on(kind: str) -> Iterator[str]:
    """Yield the URL of a database of a kind for the rounds; it is gone afterwards."""
    if kind == "sqlite":
        memory = Path("/dev/shm")
        with TemporaryDirectory(prefix="querycache-oracle-", dir=memory if memory.is_dir() else None) as folder:
            yield f"sqlite:///{folder}/database.sqlite"
        return
    with server(POSTGRESQL if kind == "postgresql" else MARIADB) as url, database(url, "oracle") as own:
        yield own.render_as_string(hide_password=False)


def be_quiet() -> None:
    """Silence what is said of writes that are meant to fail, and of the engine that no cache may hear of."""
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    logging.getLogger("querycache").setLevel(logging.ERROR)


def play(
    url: str, first_seed: int, minutes: float, tally: Tally, *, db: str, store: str | None, is_async: bool
) -> None:
    """Play rounds until the time is over."""
    end = time.monotonic() + minutes * 60
    told = 0.0
    seed = first_seed
    while time.monotonic() < end:
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        failure = play_round(url, seed, tally, store=store, shrink_seconds=SHRINK_SECONDS, is_async=is_async)
        if failure is not None:
            again = f"make oracle DB={db} SEED={seed}{' ASYNC=1' if is_async else ''}"
            print(f"\n{failure.told}\nagain: {again}\n", flush=True)
        faulthandler.cancel_dump_traceback_later()
        seed += 1
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"  {max(0.0, end - told):5.0f} s left, at seed {seed}: {tally.told()}", flush=True)


def main() -> int:
    """Read the command line and play."""
    parser = argparse.ArgumentParser(description="compare a cached with an uncached Session at random")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--db", choices=["sqlite", "postgresql", "mariadb"], default="sqlite")
    parser.add_argument("--seed", type=int, help="play this one round, to see again what an earlier run printed")
    parser.add_argument("--from", dest="first", type=int, help="begin with this round")
    parser.add_argument("--store", help="memory://, lmdb or a URL; in all rounds, not at random")
    parser.add_argument("--async", dest="is_async", action="store_true", help="through asynchronous drivers")
    given = parser.parse_args()
    be_quiet()
    tally = Tally()
    with database_on(given.db) as url:
        if given.seed is not None:
            failure = play_round(
                url, given.seed, tally, store=given.store, shrink_seconds=SHRINK_SECONDS, is_async=given.is_async
            )
            print("" if failure is None else failure.told)
            print(f"oracle: {tally.told()}")
            return 1 if failure else 0
        first = random.randrange(10**9) if given.first is None else given.first
        print(f"oracle on {given.db}, first seed {first}", flush=True)
        play(url, first, given.minutes, tally, db=given.db, store=given.store, is_async=given.is_async)
    print(tally.table())
    idle = tally.idle(given.db) if given.minutes >= IDLE_MINUTES else []
    if idle:
        print(f"idle: {', '.join(idle)}")
    print(f"oracle: {tally.told()}")
    return 1 if tally.disagreements or not tally.all_hits or idle else 0


if __name__ == "__main__":
    sys.exit(main())
