"""Where does a hit's time go? A table of parts that adds up, for a get and for selects of 1 and 100 rows.

The functions at the library's seams (``seams.py``) are wrapped and timed, on blocks of hits that take turns with blocks of hits
as they are; of each kind the fastest block counts, which nothing else on the machine came in between. Shares are of the hit as
it is; what it takes beyond the sum of the parts (or short of it) is told.

    make profile [STORE=lmdb] [CASES=get,select-1,select-100]
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parent))
from caches import Attached, attached, engine_of
from places import STORES, places
from rich.console import Console
from rich.table import Table
from rounds import BenchError
from rows import Product, fill
from seams import patches_for
from sqlalchemy import select
from sqlalchemy.orm import Session
from stopwatch import Stopwatch, cost_of_a_wrapper, patched

BLOCKS: Final = 300
HITS: Final = 10
STATEMENT: Final = "the application's own: its statement"
OTHER: Final = "SQLAlchemy's own, and the rest"

Build = Callable[[], Any]
Run = Callable[[Session, Any], object]


def _select(rows: int) -> tuple[Build, Run]:
    def build() -> Any:
        return select(Product).where(Product.id <= rows).order_by(Product.id)

    return build, lambda session, statement: session.scalars(statement).all()


CASES: Final[dict[str, tuple[Build, Run]]] = {
    "get": (lambda: 1, lambda session, key: session.get(Product, key)),
    "select-1": _select(1),
    "select-10": _select(10),
    "select-100": _select(100),
    "select-1000": _select(1000),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """What a hit took, in nanoseconds: as it is, and by parts."""

    whole_ns: float
    parts_ns: dict[str, float]
    calls: dict[str, float]


def main() -> int:
    """Measure, print; return the exit code."""
    options = _options()
    logging.getLogger("querycache").setLevel(logging.ERROR)
    console = Console() if Console().is_terminal else Console(width=110)
    try:
        with tempfile.TemporaryDirectory(prefix="querycache-bench-") as folder, ExitStack() as stack:
            where = stack.enter_context(places((options.store,), Path(folder)))
            url = f"sqlite:///{folder}/bench.sqlite"
            plain = engine_of(url)
            fill(plain)
            plain.dispose()
            watch = Stopwatch()
            patches = patches_for(watch)
            as_it_is = stack.enter_context(attached(url, where.store_url(options.store)))
            with patched(patches):
                timed = stack.enter_context(attached(url, where.store_url(options.store)))
            for name in options.cases.split(","):
                profile = _profile(name, as_it_is, timed, watch, patches, options.blocks)
                console.print(_table(f"{name}, {options.store}", profile))
                console.print()
    except BenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=STORES, default="lmdb", help="the store (default lmdb)")
    parser.add_argument("--cases", default="get,select-1,select-100", help=f"some of {', '.join(CASES)}")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help=f"blocks of {HITS} hits (default {BLOCKS})")
    options = parser.parse_args()
    unknown = [name for name in options.cases.split(",") if name not in CASES]
    if unknown:
        parser.error(f"{', '.join(unknown)} is not known. Known are: {', '.join(CASES)}")
    return options


def _profile(
    name: str, as_it_is: Attached, timed: Attached, watch: Stopwatch, patches: list[tuple[Any, str, Any]], blocks: int
) -> Profile:
    """Time blocks of hits in turn, with wrappers and without."""
    build, run = CASES[name]
    cost = cost_of_a_wrapper()
    timed_build = watch.wrapped(STATEMENT, build)
    wholes: list[float] = []
    parted: list[dict[str, float]] = []
    calls: dict[str, float] = {}
    for _ in range(blocks):
        _hits(as_it_is, build, run, HITS)
        with as_it_is.expecting("hit", HITS, name):
            wholes.append(_hits(as_it_is, build, run, HITS) / HITS)
        with patched(patches):
            _hits(timed, timed_build, run, HITS)
            watch.forget()
            read = watch.wrapped(OTHER, _one_hit)
            with timed.expecting("hit", HITS, name):
                for _ in range(HITS):
                    read(timed, timed_build, run)
        parted.append({part: took / HITS for part, took in watch.taken(cost).items()})
        calls = {name: part.calls / HITS for name, part in watch.parts.items()}
    return Profile(min(wholes), min(parted, key=lambda block: sum(block.values())), calls)


def _hits(there: Attached, build: Build, run: Run, count: int) -> float:
    start = time.perf_counter_ns()
    for _ in range(count):
        _one_hit(there, build, run)
    return float(time.perf_counter_ns() - start)


def _one_hit(there: Attached, build: Build, run: Run) -> None:
    statement = build()
    with Session(there.engine) as session:
        run(session, statement)


def _table(title: str, profile: Profile) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    table.add_column("part")
    for name in ("share", "calls"):
        table.add_column(name, justify="right")
    for part, share, calls in _lines(profile):
        table.add_row(part, f"{share:.1%}", calls)
    return table


def _lines(profile: Profile) -> Iterator[tuple[str, float, str]]:
    """Yield each part's share of the hit as it is, and what is left, so that they add up to the whole."""
    told = 0.0
    for part, took in sorted(profile.parts_ns.items(), key=lambda one: (one[0] == OTHER, -one[1])):
        if profile.calls[part]:
            share = took / profile.whole_ns
            told += share
            yield part, share, "" if part == OTHER else f"{profile.calls[part]:g}"
    yield "not told apart (what the timing of parts adds or hides)", 1 - told, ""
    yield "the hit", 1.0, ""


if __name__ == "__main__":
    sys.exit(main())
