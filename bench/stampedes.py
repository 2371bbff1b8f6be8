"""How often is one statement sent, and how long do its readers wait, when many processes want it at once?

Processes of several threads share an ``lmdb://`` store and read one entry: first all at once from an empty store (a cold
start), then for a while in which the entry expires again and again, with and without early refresh. The statement takes a
fixed time of sleep, so that the machine's speed has little part in the result; ``--serial`` lets the database do one at a
time, as one does whose cores are taken. Counted are the statements sent; a read is late when it took half of that time.

    python bench/stampedes.py [--processes 8] [--threads 4] [--takes-ms 100] [--ttl 2] [--seconds 20] [--serial]
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from querycache import QueryCache

PAUSE_S = 0.005


class Base(DeclarativeBase):
    """Of the one table."""


class Item(Base):
    """A row to count."""

    __tablename__ = "item"
    id: Mapped[int] = mapped_column(primary_key=True)


STATEMENT = select(func.count(Item.id))


@contextmanager
def _one_at_a_time(path: Path, *, serial: bool) -> Iterator[None]:
    with path.open("w") as file:
        if serial:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _serve(folder: str, options: argparse.Namespace, beta: float, ready: Any, told: Any) -> None:
    """Be one process: read in several threads, and tell how many statements were sent and how long each read took."""
    engine = create_engine(f"sqlite:///{folder}/database.sqlite")
    sent: list[float] = []

    @event.listens_for(engine, "before_cursor_execute")
    def take_time(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT count"):
            sent.append(time.monotonic())
            with _one_at_a_time(Path(folder, "busy"), serial=options.serial):
                time.sleep(options.takes_ms / 1000)

    with QueryCache(f"lmdb://{folder}/cache", models=[Item], ttl=options.ttl, early_refresh=beta) as cache:
        cache.attach(engine)
        with Session(engine) as session:
            session.get(Item, 1)
        cold: list[float] = []
        warm: list[float] = []

        def read(durations: list[float]) -> None:
            began = time.monotonic()
            with Session(engine) as session:
                session.scalar(STATEMENT)
            durations.append(time.monotonic() - began)

        def read_on() -> None:
            until = time.monotonic() + options.seconds
            while time.monotonic() < until:
                read(warm)
                time.sleep(PAUSE_S)

        ready.wait()
        _in_threads(options.threads, lambda: read(cold))
        cold_sent = len(sent)
        ready.wait()
        _in_threads(options.threads, read_on)
        told.put((cold_sent, cold, len(sent) - cold_sent, warm))
    engine.dispose()


def _in_threads(number: int, work: Any) -> None:
    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _measure(options: argparse.Namespace, beta: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{folder}/database.sqlite")
        Base.metadata.create_all(engine)
        engine.dispose()
        fork = multiprocessing.get_context("spawn")
        ready, told = fork.Barrier(options.processes), fork.Queue()
        processes = [
            fork.Process(target=_serve, args=(folder, options, beta, ready, told)) for _ in range(options.processes)
        ]
        for process in processes:
            process.start()
        results = [told.get() for _ in processes]
        for process in processes:
            process.join()
    cold = sorted(duration for _, durations, _, _ in results for duration in durations)
    warm = sorted(duration for *_, durations in results for duration in durations)
    late = sum(duration > options.takes_ms / 2000 for duration in warm)
    print(f"early_refresh={beta:g}")
    print(
        f"  cold start: {len(cold)} reads, {sum(sent for sent, *_ in results)} statements; "
        f"waited {cold[len(cold) // 2] * 1000:.0f} ms (median), {cold[-1] * 1000:.0f} ms (longest)"
    )
    print(
        f"  {options.seconds:g} s, {options.seconds / options.ttl:g} lives of the entry: {len(warm)} reads, "
        f"{sum(sent for _, _, sent, _ in results)} statements; {late} reads late, longest {warm[-1] * 1000:.0f} ms"
    )


def main() -> int:
    """Run and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8, help="processes that read (default 8)")
    parser.add_argument("--threads", type=int, default=4, help="threads of each (default 4)")
    parser.add_argument("--takes-ms", type=float, default=100, help="what the statement takes (default 100)")
    parser.add_argument("--ttl", type=float, default=2, help="seconds that the entry lives (default 2)")
    parser.add_argument("--seconds", type=float, default=20, help="how long to read (default 20)")
    parser.add_argument("--serial", action="store_true", help="the database does one statement at a time")
    options = parser.parse_args()
    for beta in (0.0, 1.0):
        _measure(options, beta)
    return 0


if __name__ == "__main__":
    sys.exit(main())
