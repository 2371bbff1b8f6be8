"""What do commits cost on an attached engine, and what do old images buy?

Two tables. The first: the time of a transaction, against the same on an engine that is not attached; the engines take
turns in one process, round after round. "old images" and "without" are ``QueryCache(old_images=True)`` and ``False``.
The second: the part of reads that are answered without a query, of lists by category, rows by primary key and counts by
category, while one transaction in twenty changes one row; with old images and without.

    python bench/writes.py [--rounds 200] [--reads 4000] [--against sqlite,postgresql,mariadb] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, func, select, update
from sqlalchemy.orm import Session

from querycache import QueryCache

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from environment import machine, versions
from rows import Base, Category, Product

from servers import MARIADB, POSTGRESQL, database, server

STORES = ("memory", "lmdb")
CATEGORIES = 20
PRODUCTS = 1000
WRITE_PART = 0.05
ROWS_OF_A_FLUSH = 20

Case = Callable[[Session, int], object]


def _update(session: Session, turn: int) -> None:
    session.get_one(Product, turn % PRODUCTS + 1).stock = turn


def _insert(session: Session, turn: int) -> None:
    session.add(_product(PRODUCTS + 1 + turn, turn))


def _delete(session: Session, turn: int) -> None:
    session.delete(session.get_one(Product, PRODUCTS + 1 + turn))


def _flush(session: Session, turn: int) -> None:
    first = turn * ROWS_OF_A_FLUSH % (PRODUCTS - ROWS_OF_A_FLUSH) + 1
    rows = session.scalars(select(Product).where(Product.id.between(first, first + ROWS_OF_A_FLUSH - 1))).all()
    for row in rows:
        row.stock = turn


CASES: dict[str, Case] = {
    "insert 1 row": _insert,
    "update 1 row": _update,
    f"update {ROWS_OF_A_FLUSH} rows": _flush,
    "delete 1 row": _delete,
}


def main() -> int:
    """Run, print, write; return the exit code."""
    options = _options()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for against, url in _databases(Path(folder), options.against.split(",")):
            for store in STORES:
                print(f"{against}, {store}".ljust(40), end="\r", file=sys.stderr, flush=True)
                store_url = "memory://" if store == "memory" else f"lmdb://{folder}/{against}"
                results.extend(_costs(against, url, store, store_url, options.rounds))
                results.extend(_hit_rates(against, url, store, store_url, options.reads))
    _print(results)
    if options.json:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), "versions": versions(), "results": results}, indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="transactions of each kind (default 200)")
    parser.add_argument("--reads", type=int, default=4000, help="reads of the mix (default 4000)")
    parser.add_argument("--against", default="sqlite,postgresql,mariadb", help="the databases (default all three)")
    parser.add_argument("--json", help="where to write the results")
    return parser.parse_args()


def _databases(folder: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    if "sqlite" in names:
        yield "sqlite", f"sqlite:///{folder}/bench.db"
    for name, kind in (("postgresql", POSTGRESQL), ("mariadb", MARIADB)):
        if name in names:
            with server(kind) as server_url, database(server_url, "bench") as url:
                yield name, url.render_as_string(hide_password=False)


def _product(number: int, stock: int) -> Product:
    return Product(
        id=number,
        category_id=number % CATEGORIES + 1,
        name=f"product {number}",
        description="x" * 60,
        price=1.5,
        stock=stock,
        active=True,
        position=number,
    )


def _fill(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Category(id=number, name=f"category {number}") for number in range(1, CATEGORIES + 1))
        session.flush()
        session.add_all(_product(number, 0) for number in range(1, PRODUCTS + 1))
        session.commit()


def _engine_of(url: str) -> Engine:
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def set_journal_mode(raw: Any, record: Any) -> None:
            raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("PRAGMA synchronous=NORMAL")

    return engine


def _costs(against: str, url: str, store: str, store_url: str, rounds: int) -> list[dict[str, Any]]:
    results = []
    with ExitStack() as stack:
        plain = _engine_of(url)
        _fill(plain)
        engines = {"not attached": plain}
        for label, old_images in (("old images", True), ("without", False)):
            # A process has one cache for a database: the two do not hear of each other, and need not here.
            cache = stack.enter_context(QueryCache(store_url, old_images=old_images))
            engines[label] = _engine_of(url)
            cache.attach(engines[label])
        seconds: dict[tuple[str, str], list[float]] = {}
        for case, change in CASES.items():
            for turn in range(rounds + 5):
                for position, (label, engine) in enumerate(engines.items()):
                    took = _time(engine, change, turn * len(engines) + position)
                    if turn >= 5:
                        seconds.setdefault((case, label), []).append(took)
        for engine in engines.values():
            engine.dispose()
    for case in CASES:
        for label in ("old images", "without"):
            pairs = zip(seconds[case, label], seconds[case, "not attached"], strict=True)
            results.append(_result("write", f"{case}, {label}", store, against, [one / other for one, other in pairs]))
    return results


def _time(engine: Engine, change: Case, turn: int) -> float:
    start = time.perf_counter()
    with Session(engine) as session:
        change(session, turn)
        session.commit()
    return time.perf_counter() - start


def _hit_rates(against: str, url: str, store: str, store_url: str, reads: int) -> list[dict[str, Any]]:
    results = []
    for label, old_images in (("old images", True), ("without", False)):
        engine = _engine_of(url)
        _fill(engine)
        place = f"{store_url}-{label.replace(' ', '-')}" if store == "lmdb" else store_url
        with QueryCache(place, models=[Category, Product], old_images=old_images) as cache:
            cache.attach(engine)
            rates = [_hit_rate(engine, cache, name, reads) for name in ("list", "get", "count")]
        engine.dispose()
        for name, rate in zip(("lists", "rows", "counts"), rates, strict=True):
            results.append(_result("hit rate", f"{name}, {label}", store, against, [rate]))
    return results


def _hit_rate(engine: Engine, cache: QueryCache, name: str, reads: int) -> float:
    """Return the part of reads that were hits, once everything that can be cached was read."""
    chance = random.Random(7)
    _read_and_write(engine, name, chance, reads)
    before = cache.stats()["counts"].get("hit", 0)
    _read_and_write(engine, name, chance, reads)
    return float(cache.stats()["counts"].get("hit", 0) - before) / reads


def _read_and_write(engine: Engine, name: str, chance: random.Random, reads: int) -> None:
    for turn in range(reads):
        if chance.random() < WRITE_PART:
            with Session(engine) as session:
                session.execute(update(Product).where(Product.id == chance.randint(1, PRODUCTS)).values(stock=turn))
                session.commit()
        with Session(engine) as session:
            _read(session, name, chance)


def _read(session: Session, name: str, chance: random.Random) -> object:
    if name == "list":
        return session.scalars(select(Product).where(Product.category_id == chance.randint(1, CATEGORIES))).all()
    if name == "get":
        return session.get(Product, chance.randint(1, PRODUCTS))
    category = chance.randint(1, CATEGORIES)
    return session.scalar(select(func.count()).select_from(Product).where(Product.category_id == category))


def _result(group: str, case: str, store: str, against: str, ratios: list[float]) -> dict[str, Any]:
    ratios = sorted(ratios)
    return {
        "group": group,
        "case": case,
        "store": store,
        "against": against,
        "ratio": round(statistics.median(ratios), 4),
        "p10": round(ratios[len(ratios) // 10], 4),
        "p90": round(ratios[len(ratios) * 9 // 10], 4),
        "n": len(ratios),
    }


def _print(results: list[dict[str, Any]]) -> None:
    print(f"{'group':<9} {'case':<28} {'store':<7} {'against':<11} {'ratio':>7} {'p10':>7} {'p90':>7}")
    for row in results:
        print(
            f"{row['group']:<9} {row['case']:<28} {row['store']:<7} {row['against']:<11} "
            f"{row['ratio']:>7.3f} {row['p10']:>7.3f} {row['p90']:>7.3f}"
        )


if __name__ == "__main__":
    sys.exit(main())
