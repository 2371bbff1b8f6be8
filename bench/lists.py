"""What does a list kept by keys cost, against one kept whole, and against its query?

Each case is timed in one process, all variants in turn, round after round. A hit; and the first read after one row of the
list has changed, in a column that the list neither filters nor orders by: by keys it costs a query for that row, kept whole
the list's own. Prints ratios to the uncached query (median over rounds); absolute times are not comparable.

    python bench/lists.py [--rounds 100] [--stores memory lmdb] [--rows 1 10 100]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from places import DATABASES, database_urls
from rows import Category, Product, fill
from sqlalchemy import Engine, create_engine, select, update
from sqlalchemy.orm import Session

from querycache import FromCache, NoCache, QueryCache

READ = Callable[[Session, int], Any]


def _list(rows: int, option: Any) -> Callable[[Session], Any]:
    statement = select(Product).where(Product.stock < 100, Product.id <= rows).order_by(Product.id).options(option)
    return lambda session: session.scalars(statement).all()


def main() -> None:
    """Run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--stores", nargs="+", default=["memory", "lmdb"], choices=("memory", "lmdb"))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 10, 100])
    options = parser.parse_args()
    logging.getLogger("querycache").setLevel(logging.ERROR)
    print(f"{'database':<12}{'store':<8}{'rows':>5}  {'':<18}{'by keys':>9}{'whole':>9}   (query = 1)")
    with tempfile.TemporaryDirectory() as folder, database_urls(DATABASES, Path(folder)) as urls:
        for name, url in urls.items():
            for store in options.stores:
                where = "memory://" if store == "memory" else f"lmdb://{folder}/{name}"
                for rows in options.rows:
                    _measure(name, url, where, store, rows, options.rounds)


def _measure(name: str, url: str, where: str, store: str, rows: int, rounds: int) -> None:
    engine, plain = create_engine(url), create_engine(url)
    fill(plain)
    ways = {"keys": _list(rows, FromCache(shape="keys")), "whole": _list(rows, FromCache(shape="whole"))}
    query = _list(rows, NoCache())
    with QueryCache(where, models=[Category, Product]) as cache:
        cache.attach(engine)
        for kind in ("hit", "one row changed"):
            taken: dict[str, list[float]] = {"keys": [], "whole": [], "query": []}
            for round_ in range(rounds):
                for way, read in ways.items():
                    if kind == "one row changed":
                        with Session(engine) as session:
                            session.execute(
                                update(Product).where(Product.id == round_ % rows + 1).values(position=round_)
                            )
                            session.commit()
                    else:
                        _seconds(engine, read)
                    taken[way].append(_seconds(engine, read))
                taken["query"].append(_seconds(plain, query))
            middle = {way: statistics.median(values) for way, values in taken.items()}
            ratios = [middle[way] / middle["query"] for way in ("keys", "whole")]
            print(f"{name:<12}{store:<8}{rows:>5}  {kind:<18}{ratios[0]:>9.2f}{ratios[1]:>9.2f}", flush=True)
    engine.dispose()
    plain.dispose()


def _seconds(engine: Engine, read: Callable[[Session], Any]) -> float:
    start = time.perf_counter()
    with Session(engine) as session:
        read(session)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
