"""What does a near cache save of a hit on a Redis server?

The same reads, answered by ``redis://`` alone, with ``near=validate`` and with ``near=push``, each on an engine of its own on
one SQLite database, by turns in one process, round after round, against a server of the benchmark's own on this machine: over
a real network a round trip costs more, and ``push`` saves it. Prints the ratio to ``redis://`` alone of the time and of the
processor's time of the reading thread (medians; for the time with the 10th and 90th percentile), and for each hit the
round trips and the bytes that the server sent.

    python bench/near.py [--rounds 500] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

from querycache import QueryCache
from querycache.stores import open_store
from querycache.stores.pushed import PushedStore

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from environment import machine, versions
from rows import CASES, Case, Category, Product, fill

from redis_servers import RedisServer, own_redis

STORES: Final = {"redis": "", "near=validate": "&near=validate", "near=push": "&near=push&near_lag_ms=60000"}
READS: Final = ("get", "select-1", "select-100")
LIMITS: Final = "timeout_ms=5000&connect_timeout_ms=5000"


def main() -> int:
    """Run, print, write; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=500, help="hits of each kind (default: 500)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    logging.getLogger("querycache").setLevel(logging.ERROR)  # it warns of the engine that fills the tables
    with own_redis() as server, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = f"sqlite:///{folder}/bench.db"
        plain = create_engine(url)
        fill(plain)
        plain.dispose()
        engines = {name: _attached(url, server, name, stack) for name in STORES}
        results = [row for case in READS for row in _compare(engines, server, case, options.rounds)]
    _print(results)
    if options.json:
        document = {"machine": machine(), "versions": versions(), "results": results}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


def _attached(url: str, server: RedisServer, name: str, stack: ExitStack) -> Engine:
    engine = create_engine(url)
    stack.callback(engine.dispose)
    store = open_store(server.url(name.replace("=", "-"), options=LIMITS + STORES[name]))
    cache = stack.enter_context(QueryCache(store, models=[Category, Product]))
    cache.attach(engine)
    for _ in range(3):  # stored, and with stamps whose making was heard
        for case in READS:
            _time(engine, CASES[case])
        if isinstance(store, PushedStore):
            store.settle()
    return engine


def _compare(engines: dict[str, Engine], server: RedisServer, case: str, rounds: int) -> list[dict[str, Any]]:
    """Time the hits of all stores in turns; then count what each sends and is sent, without the others."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    turns, dice = list(engines.items()), random.Random(5)
    for _ in range(rounds):
        dice.shuffle(turns)  # who comes after whom costs more than the difference
        for name, engine in turns:
            times[name].append(_time(engine, CASES[case]))
    results = []
    for name, engine in engines.items():
        ratios = sorted(mine[0] / theirs[0] for mine, theirs in zip(times[name], times["redis"], strict=True))
        processor = statistics.median(
            mine[1] / theirs[1] for mine, theirs in zip(times[name], times["redis"], strict=True)
        )
        trips, size = _traffic(engine, server, case)
        results.append(
            {
                "group": "near",
                "case": case,
                "store": name,
                "against": "redis",
                "ratio": round(statistics.median(ratios), 4),
                "p10": round(ratios[len(ratios) // 10], 4),
                "p90": round(ratios[len(ratios) * 9 // 10], 4),
                "cpu": round(processor, 4),
                "round_trips": trips,
                "bytes_sent": size,
                "n": rounds,
            }
        )
    return results


def _time(engine: Engine, case: Case) -> tuple[float, float]:
    """Return the seconds of one read with its session, by the clock and of the processor."""
    wall, processor = time.perf_counter(), time.thread_time()
    with Session(engine) as session:
        case.read(session)
    return time.perf_counter() - wall, time.thread_time() - processor


def _traffic(engine: Engine, server: RedisServer, case: str, hits: int = 100) -> tuple[float, float]:
    """Return for one hit how many scripts the server ran, and how many bytes it sent."""

    def counted() -> tuple[int, int]:
        told = server.info("all")
        return told["cmdstat_evalsha"]["calls"], told["total_net_output_bytes"]

    before, overhead = counted(), counted()
    start = counted()
    for _ in range(hits):
        _time(engine, CASES[case])
    end = counted()
    told_bytes = overhead[1] - before[1]  # what the question about the traffic itself costs
    return (end[0] - start[0]) / hits, max(0, round((end[1] - start[1] - told_bytes) / hits))


def _print(results: list[dict[str, Any]]) -> None:
    print(f"{'case':<12} {'store':<14} {'time':>7} {'p10':>7} {'p90':>7} {'cpu':>7} {'trips':>6} {'bytes':>7}")
    for row in results:
        print(
            f"{row['case']:<12} {row['store']:<14} {row['ratio']:>7.3f} {row['p10']:>7.3f} {row['p90']:>7.3f} "
            f"{row['cpu']:>7.3f} {row['round_trips']:>6.2f} {row['bytes_sent']:>7}"
        )


if __name__ == "__main__":
    sys.exit(main())
