"""What does a hit cost an asynchronous session, beside an ordinary one, and beside the query that it saves?

The same reads of one PostgreSQL database, each with a session that is opened and closed, by turns in one process and in
one event loop, round after round: an ordinary hit (psycopg), a hit of an ``AsyncSession`` (psycopg and asyncpg), and the
query of an ``AsyncSession`` that no cache answers (asyncpg). Prints the ratio of an asynchronous hit to each of the others
(medians, with 10th and 90th percentile). Redis is a server of the benchmark's own on this machine.

    python bench/async.py [--rounds 300] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from querycache import QueryCache

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from run import CASES, Category, Product, _fill, machine, versions

from redis_servers import own_redis
from servers import POSTGRESQL, database, server

Way: TypeAlias = Callable[[str], Awaitable[float]]
"""Answers a case; returns the seconds that it took."""

READS: Final = ("get", "select-1", "select-100", "selectin-10x5")
ASYNC_HIT: Final = "asyncpg hit"
LIMITS: Final = "timeout_ms=5000&connect_timeout_ms=5000"


def main() -> int:
    """Run, print, write; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=300, help="reads of each kind (default: 300)")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    logging.getLogger("querycache").setLevel(logging.ERROR)  # it warns of the engine that is not attached
    with server(POSTGRESQL) as server_url, database(server_url, "bench_async") as url, _stores() as stores:
        plain = create_engine(url)
        _fill(plain)
        plain.dispose()
        results = [
            row
            for store, store_url in stores.items()
            for row in asyncio.run(
                _compare(url.render_as_string(hide_password=False), store, store_url, options.rounds)
            )
        ]
    _print(results)
    if options.json:
        document = {"machine": machine(), "versions": versions(), "results": results}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


@contextmanager
def _stores() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory() as folder, own_redis() as redis:
        yield {
            "memory": "memory://",
            "lmdb": f"lmdb://{folder}/store",
            "redis": redis.url("plain", options=LIMITS),
            "redis-near": redis.url("near", options=f"{LIMITS}&near=push&near_lag_ms=60000"),
        }


async def _compare(url: str, store: str, store_url: str, rounds: int) -> list[dict[str, Any]]:
    """Time all ways in turns, in one event loop."""
    with QueryCache(store_url, models=[Category, Product]) as cache, ExitStack() as stack:
        ordinary = create_engine(url)
        stack.callback(ordinary.dispose)
        engines = {
            name: create_async_engine(make_url(url).set(drivername=f"postgresql+{name}"))
            for name in ("psycopg", "asyncpg")
        }
        past = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        for engine in (ordinary, *engines.values()):
            cache.attach(engine)
        ways: dict[str, Way] = {
            "ordinary hit": _ordinary(ordinary),
            **{f"{name} hit": _asynchronous(engine) for name, engine in engines.items()},
            "asyncpg query": _asynchronous(past),
        }
        try:
            return [row for case in READS for row in await _compare_ways(ways, store, case, rounds)]
        finally:
            for engine in (*engines.values(), past):
                await engine.dispose()


async def _compare_ways(ways: dict[str, Way], store: str, case: str, rounds: int) -> list[dict[str, Any]]:
    times: dict[str, list[float]] = {name: [] for name in ways}
    turns, dice = list(ways.items()), random.Random(5)
    for number in range(rounds + 20):
        dice.shuffle(turns)
        for name, way in turns:
            took = await way(case)
            if number >= 20:
                times[name].append(took)
    rows = []
    for against in ways:
        if against == ASYNC_HIT:
            continue
        ratios = sorted(mine / theirs for mine, theirs in zip(times[ASYNC_HIT], times[against], strict=True))
        rows.append(
            {
                "group": "async",
                "case": case,
                "store": store,
                "against": against.replace(" ", "-"),
                "ratio": round(statistics.median(ratios), 4),
                "p10": round(ratios[len(ratios) // 10], 4),
                "p90": round(ratios[len(ratios) * 9 // 10], 4),
                "n": rounds,
            }
        )
    return rows


def _ordinary(engine: Engine) -> Way:
    async def way(case: str) -> float:
        began = time.perf_counter()
        with Session(engine) as session:
            CASES[case](session, True)
        return time.perf_counter() - began

    return way


def _asynchronous(engine: AsyncEngine) -> Way:
    async def way(case: str) -> float:
        began = time.perf_counter()
        async with AsyncSession(engine) as session:
            await session.run_sync(CASES[case], True)
        return time.perf_counter() - began

    return way


def _print(results: list[dict[str, Any]]) -> None:
    print(f"asyncpg hit against\n{'case':<14} {'store':<11} {'against':<14} {'ratio':>7} {'p10':>7} {'p90':>7}")
    for row in results:
        print(
            f"{row['case']:<14} {row['store']:<11} {row['against']:<14} {row['ratio']:>7.3f} {row['p10']:>7.3f} "
            f"{row['p90']:>7.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
