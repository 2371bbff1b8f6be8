"""How much does a hit cost, against the query that it replaces?

Each case is timed in one process, all variants in turn, round after round, so that the machine's drift hits them alike; the
query is sent by an engine without a cache. Prints the ratio hit / query (median over rounds, with the 10th and 90th
percentile) and writes them as JSON. Absolute times are not comparable between machines and are not printed.

    python bench/run.py [--rounds 200] [--store lmdb|memory] [--json bench/results/latest.json]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy
from sqlalchemy import Engine, ForeignKey, String, create_engine, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

from querycache import NoCache, QueryCache

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers import POSTGRESQL, database, server


class Base(DeclarativeBase):
    """The benchmark's own tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {str: String(200)}  # MariaDB wants a length


class Category(Base):
    """A parent of products."""

    __tablename__ = "bench_category"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    products: Mapped[list[Product]] = relationship()


class Product(Base):
    """A row of eight columns."""

    __tablename__ = "bench_product"
    id: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("bench_category.id"))
    name: Mapped[str]
    description: Mapped[str]
    price: Mapped[float]
    stock: Mapped[int]
    active: Mapped[bool]
    position: Mapped[int]


Case = Callable[[Session, bool], object]


def _select(rows: int) -> Case:
    def case(session: Session, cached: bool) -> object:
        statement = select(Product).where(Product.id <= rows).order_by(Product.id)
        return session.scalars(statement if cached else statement.options(NoCache())).all()

    return case


def _get(session: Session, cached: bool) -> object:
    return session.get(Product, 1, options=() if cached else (NoCache(),))


def _count(session: Session, cached: bool) -> object:
    statement = select(func.count()).select_from(Product)
    return session.scalar(statement if cached else statement.options(NoCache()))


def _selectin(session: Session, cached: bool) -> object:
    statement = select(Category).options(selectinload(Category.products)).where(Category.id <= 10)
    return session.scalars(statement if cached else statement.options(NoCache())).all()


CASES: dict[str, Case] = {
    "get": _get,
    "select-1": _select(1),
    "select-10": _select(10),
    "select-100": _select(100),
    "count": _count,
    "selectin-10x5": _selectin,
}


def main() -> int:
    """Run, print, write; return the exit code."""
    options = _options()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name, url in _databases(Path(folder)):
            results.extend(_measure(name, url, options.store, options.rounds, Path(folder)))
    _print(results)
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "versions": versions(), "results": results}, indent=2) + "\n")
    print(f"\nwritten to {path}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="rounds per case (default 200)")
    parser.add_argument("--store", choices=("lmdb", "memory"), default="lmdb", help="the store (default lmdb)")
    parser.add_argument("--json", default="bench/results/latest.json", help="where to write the results")
    return parser.parse_args()


def _databases(folder: Path) -> Iterator[tuple[str, str]]:
    yield "sqlite", f"sqlite:///{folder}/bench.db"
    with server(POSTGRESQL) as server_url, database(server_url, "bench") as url:
        yield "postgresql", url.render_as_string(hide_password=False)


def _measure(against: str, url: str, store: str, rounds: int, folder: Path) -> list[dict[str, Any]]:
    engine, plain = create_engine(url), create_engine(url)
    _fill(plain)
    logging.getLogger("querycache").setLevel(logging.ERROR)  # it warns of the engine that is not attached
    with QueryCache(
        "memory://" if store == "memory" else f"lmdb://{folder}/{against}", models=[Category, Product]
    ) as cache:
        cache.attach(engine)
        results = []
        for position, (name, case) in enumerate(CASES.items(), 1):
            print(f"\r{against}: {name} ({position} of {len(CASES)})".ljust(60), end="", file=sys.stderr, flush=True)
            before = cache.stats()["counts"]
            for label, keep_open in ((against, False), (f"{against}-open", True)):
                results.append(_compare(engine, plain, name, case, store, label, keep_open, rounds))
            hits = cache.stats()["counts"].get("hit", 0) - before.get("hit", 0)
            if hits < 2 * rounds:  # a benchmark of misses would look like one of hits
                raise SystemExit(f"{name} on {against}: only {hits} hits in {2 * rounds} rounds: nothing was measured")
    print("\r".ljust(62), end="\r", file=sys.stderr)
    engine.dispose()
    plain.dispose()
    return results


def _fill(engine: Engine) -> None:
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Category(id=n, name=f"category {n}") for n in range(1, 12))
        session.flush()
        session.add_all(
            Product(
                id=n,
                category_id=(n - 1) // 5 % 10 + 1 if n <= 50 else 11,
                name=f"product {n}",
                description="x" * 60,
                price=n * 1.5,
                stock=n % 7,
                active=bool(n % 2),
                position=n,
            )
            for n in range(1, 1001)
        )
        session.commit()


def _compare(
    engine: Engine, plain: Engine, name: str, case: Case, store: str, against: str, keep_open: bool, rounds: int
) -> dict[str, Any]:
    """Time hit and query in turn; ``keep_open``: the query finds its transaction already begun."""
    ratios = []
    for _ in range(5):
        _time(engine, case, True, False)
    for _ in range(rounds):
        hit = _time(engine, case, True, keep_open)
        query = _time(plain, case, False, keep_open)
        ratios.append(hit / query)
    ratios.sort()
    return {
        "group": "hit",
        "case": name,
        "store": store,
        "against": against,
        "ratio": round(statistics.median(ratios), 4),
        "p10": round(ratios[len(ratios) // 10], 4),
        "p90": round(ratios[len(ratios) * 9 // 10], 4),
        "n": rounds,
    }


def _time(engine: Engine, case: Case, cached: bool, keep_open: bool) -> float:
    """Return the seconds of one read: with its session's opening and closing, or alone where ``keep_open``."""
    if keep_open:
        with Session(engine) as session:
            if not cached:
                session.connection()
            start = time.perf_counter()
            case(session, cached)
            return time.perf_counter() - start
    start = time.perf_counter()
    with Session(engine) as session:
        case(session, cached)
    return time.perf_counter() - start


def _print(results: list[dict[str, Any]]) -> None:
    print(f"{'case':<12} {'store':<8} {'against':<18} {'hit / query':>12} {'p10':>8} {'p90':>8}")
    for row in results:
        print(
            f"{row['case']:<12} {row['store']:<8} {row['against']:<18} "
            f"{row['ratio']:>12.3f} {row['p10']:>8.3f} {row['p90']:>8.3f}"
        )


def machine() -> dict[str, Any]:
    """Say what it was measured on."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}


def versions() -> dict[str, str]:
    """Say what was measured."""
    return {"python": platform.python_version(), "sqlalchemy": sqlalchemy.__version__}


if __name__ == "__main__":
    sys.exit(main())
