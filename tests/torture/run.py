"""Torture a store: processes that read and write through the cache, and every second something terrible.

    python tests/torture/run.py --store lmdb --db postgresql|mariadb|sqlite --minutes 10 [--seed N] [--json FILE]

Each answer is judged by what was acknowledged and seen before (``torture_history``). Prints how far it is, then the figures;
each violation with what happened around it. Ends with 1 where there was a violation, or where nothing was tested: no hit,
no write, no fault.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from sqlalchemy import create_engine  # noqa: E402
from torture_crew import Job, crew_of  # noqa: E402
from torture_faults import OF_WORKERS, Fault, Stage, StoreUnderTest  # noqa: E402
from torture_history import History  # noqa: E402
from torture_lmdb import lmdb_under_test  # noqa: E402
from torture_scenes import SCENES  # noqa: E402
from torture_supervisor import Plan, Supervisor  # noqa: E402
from torture_tables import fill_tables  # noqa: E402
from torture_tally import Tally  # noqa: E402

from servers import MARIADB, POSTGRESQL, database, server  # noqa: E402

STORES: Final[dict[str, Callable[[], AbstractContextManager[StoreUnderTest]]]] = {"lmdb": lmdb_under_test}
DATABASES: Final = ("postgresql", "mariadb", "sqlite")


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tortured, by how many, how long. ``library``: a folder with another ``querycache`` for the workers.

    ``only``: names of faults; all where it is empty. ``scenes_share``: how often the forced interleavings come beside others.
    """

    store: str = "lmdb"
    db: str = "postgresql"
    seconds: float = 600.0
    seed: int = 0
    readers: int = 3
    threads: int = 2
    writers: int = 2
    groups: int = 60
    pause_s: float = 0.15
    entry_life_s: float = 60.0
    mark_ttl_s: float = 30.0
    every_s: float = 1.0
    only: Sequence[str] = ()
    once_each: bool = False
    until_violation: bool = False
    on_mark_failure: str | None = "raise"
    library: Path | None = None


@contextmanager
def database_on(kind: str) -> Iterator[str]:
    """Yield the URL of a database of a kind; it is gone afterwards."""
    if kind == "sqlite":
        memory = Path("/dev/shm")
        with TemporaryDirectory(prefix="querycache-torture-", dir=memory if memory.is_dir() else None) as folder:
            yield f"sqlite:///{folder}/database.sqlite"
        return
    with server(POSTGRESQL if kind == "postgresql" else MARIADB) as url, database(url, "torture") as own:
        yield own.render_as_string(hide_password=False)


def faults_for(setting: Setting, store: StoreUnderTest) -> list[Fault]:
    """Return the faults that a setting wants."""
    every = [*OF_WORKERS, *store.faults(), *SCENES]
    if setting.db == "sqlite":
        # Its transactions have no snapshot before they write.
        every = [fault for fault in every if fault.name != "a snapshot is overtaken"]
    unknown = set(setting.only) - {fault.name for fault in every}
    if unknown:
        raise SystemExit(f"no such fault: {', '.join(sorted(unknown))}. Known are: {', '.join(f.name for f in every)}")
    return [fault for fault in every if not setting.only or fault.name in setting.only]


def torture(setting: Setting, tell: Callable[[str], None] = print) -> Tally:
    """Run one setting; return what came of it."""
    with (
        STORES[setting.store]() as store,
        database_on(setting.db) as url,
        TemporaryDirectory(prefix="querycache-torture-logs-") as logs,
    ):
        engine = create_engine(url)
        fill_tables(engine, setting.groups)
        engine.dispose()
        faults = faults_for(setting, store)
        with crew_of(_jobs(setting, store, url, Path(logs)), Path(logs), setting.library) as crew:
            stage = Stage(crew, store, setting.groups, setting.mark_ttl_s)
            history = History(setting.groups, setting.entry_life_s)
            plan = Plan(
                setting.seconds, faults, setting.seed, setting.every_s, setting.once_each, setting.until_violation
            )
            return Supervisor(stage, history, plan, tell).run()


def _jobs(setting: Setting, store: StoreUnderTest, url: str, logs: Path) -> list[Job]:
    return [
        Job(
            "reader" if position < setting.readers else "writer",
            position,
            url,
            store.url_for(position),
            setting.groups,
            setting.seed,
            str(logs / "board"),
            threads=setting.threads,
            pause_s=setting.pause_s,
            ttl_s=setting.entry_life_s,
            mark_ttl_s=setting.mark_ttl_s,
            on_mark_failure=setting.on_mark_failure,
        )
        for position in range(setting.readers + setting.writers)
    ]


def why_untested(tally: Tally) -> str | None:
    """Say what did not happen, without which a run says nothing; None where all did."""
    counts = {"hit": tally.reads["hit"], "write": tally.writes, "fault": tally.all_faults}
    idle = [what for what, count in counts.items() if not count]
    return f"nothing was tested: there was no {', no '.join(idle)}" if idle else None


def main() -> int:
    """Read the command line and torture."""
    given = _options()
    seed = random.randrange(10**9) if given.seed is None else given.seed
    setting = Setting(
        store=given.store,
        db=given.db,
        seconds=given.minutes * 60,
        seed=seed,
        readers=given.readers,
        writers=given.writers,
        groups=given.groups,
        pause_s=given.pause,
        mark_ttl_s=given.mark_ttl,
        every_s=given.every,
        only=tuple(given.only or ()),
        library=given.library,
    )
    print(f"torture of {given.store} on {given.db}, seed {seed}", flush=True)
    tally = torture(setting, lambda line: print(line, flush=True))
    for violation in tally.violations[:20]:
        print(violation.told)
    print(tally.table())
    untested = why_untested(tally)
    if untested is not None:
        print(untested)
    if given.json:
        Path(given.json).write_text(json.dumps({"store": given.store, "db": given.db, "seed": seed, **tally.as_json()}))
    print(f"torture: {tally.progress()}")
    return 1 if tally.violations or untested is not None else 0


def _options() -> argparse.Namespace:
    usual = Setting()
    parser = argparse.ArgumentParser(description="read and write through a cache that terrible things happen to")
    parser.add_argument("--store", choices=list(STORES), default="lmdb")
    parser.add_argument("--db", choices=DATABASES, default="postgresql")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, help="the same faults in the same order")
    parser.add_argument("--readers", type=int, default=usual.readers, help="reading processes, of two threads")
    parser.add_argument("--writers", type=int, default=usual.writers, help="writing processes")
    parser.add_argument("--groups", type=int, default=usual.groups, help="groups of rows that are written together")
    parser.add_argument("--pause", type=float, default=usual.pause_s, help="seconds between two writes of a writer")
    parser.add_argument("--mark-ttl", type=float, default=usual.mark_ttl_s, help="seconds that a mark lives")
    parser.add_argument("--every", type=float, default=usual.every_s, help="seconds between two faults")
    parser.add_argument("--only", action="append", help="only this fault, by its name; may be repeated")
    parser.add_argument("--library", type=Path, help="a folder with the querycache that the workers use")
    parser.add_argument("--json", help="write the figures to a file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
