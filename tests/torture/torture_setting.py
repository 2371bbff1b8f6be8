"""What is tortured, with what, and how long? One setting, run from its servers' start to their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal, TypeAlias

from sqlalchemy import create_engine
from torture_crew import Job, crew_of
from torture_faults import OF_WORKERS, Fault, Stage, StoreUnderTest
from torture_fleet import cluster_under_test, sentinel_under_test
from torture_history import History
from torture_lmdb import lmdb_under_test
from torture_redis import near_under_test, redis_under_test
from torture_scenes import SCENES
from torture_supervisor import Plan, Supervisor
from torture_tables import fill_tables
from torture_tally import Tally

from servers import MARIADB, POSTGRESQL, database, server

STORES: Final[dict[str, Callable[[int], AbstractContextManager[StoreUnderTest]]]] = {
    "lmdb": lmdb_under_test,
    "redis": redis_under_test,
    "valkey": partial(redis_under_test, kind="valkey"),
    "redis-near-validate": partial(near_under_test, "validate"),
    "redis-near-push": partial(near_under_test, "push"),
    "redis-sentinel": sentinel_under_test,
    "redis-cluster": partial(cluster_under_test, kind="redis"),
    "valkey-cluster": cluster_under_test,
}
"""What can be tortured: made for so many workers."""

DATABASES: Final = ("postgresql", "mariadb", "sqlite")

Asynchronous: TypeAlias = Literal["none", "some", "all"]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tortured, by how many, how long. ``library``: a folder with another ``querycache`` for the workers.

    ``asynchronous``: who works in an event loop: nobody, every second worker, all.
    ``only``: names of faults; all where it is empty. ``scenes_share``: how often the forced interleavings come beside others.
    """

    store: str = "lmdb"
    db: str = "postgresql"
    seconds: float = 600.0
    seed: int = 0
    readers: int = 3
    threads: int = 2
    writers: int = 2
    groups: int = 50
    pause_s: float = 0.15
    entry_life_s: float = 60.0
    mark_ttl_s: float = 30.0
    every_s: float = 1.0
    only: Sequence[str] = ()
    once_each: bool = False
    until_violation: bool = False
    judged_after_s: float = 1.0
    on_mark_failure: str | None = "raise"
    library: Path | None = None
    asynchronous: Asynchronous = "none"


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
        STORES[setting.store](setting.readers + setting.writers) as store,
        database_on(setting.db) as url,
        TemporaryDirectory(prefix="querycache-torture-logs-") as logs,
    ):
        engine = create_engine(url)
        fill_tables(engine, setting.groups)
        engine.dispose()
        faults = faults_for(setting, store)
        with crew_of(_jobs(setting, store, url, Path(logs)), Path(logs), setting.library) as crew:
            stage = Stage(crew, store, setting.groups, setting.mark_ttl_s, setting.entry_life_s)
            history = History(setting.groups, setting.entry_life_s, store.lag_s)
            plan = Plan(
                setting.seconds,
                faults,
                setting.seed,
                setting.every_s,
                once_each=setting.once_each,
                until_violation=setting.until_violation,
                judged_after_s=setting.judged_after_s,
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
            reads_back=bool(store.lag_s),
            is_async=setting.asynchronous == "all" or (setting.asynchronous == "some" and position % 2 == 0),
        )
        for position in range(setting.readers + setting.writers)
    ]


def why_untested(tally: Tally) -> str | None:
    """Say what did not happen, without which a run says nothing; None where all did."""
    counts = {"hit": tally.reads["hit"], "write": tally.writes, "fault": tally.all_faults}
    idle = [what for what, count in counts.items() if not count]
    return f"nothing was tested: there was no {', no '.join(idle)}" if idle else None
