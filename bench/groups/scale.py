"""Does a hit, or the end of an entry, cost more as there are more entries, rows, tags or processes?

``hit-1k`` to ``hit-1m``: the same thousand gets, in a store that holds so many entries. ``invalidate-N``: a row is told to have
changed on which so many entries depend, time after time, against a row of the same store with one. ``touch-N``: a row with one,
in a store of so many. ``rows-N`` and ``tags-N``: a hit of so many rows, or of an entry with so many tags, against one with one.
``processes-N``: hits in a second of N processes together, against one.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final

from caches import Attached, attached, engine_of
from crowd import crowd_in
from places import Places, database_urls, places
from rounds import Row, Timed, compared, in_turns
from rows import CASES, PRODUCTS, Product, fill
from setting import Setting
from sqlalchemy import select
from sqlalchemy.orm import Session
from workers import HERE, talker

DATABASE: Final = "sqlite"
SHARED: Final = ("lmdb", "redis")
ENTRIES: Final = {"1k": 1_000, "10k": 10_000, "100k": 100_000, "1m": 1_000_000}
QUICK_ENTRIES: Final = {"1k": 1_000, "10k": 10_000}
ROWS: Final = (1, 10, 100, 1000)
TAGS: Final = (1, 4, 16, 64)
PROCESSES: Final = (1, 2, 4, 8, 16)
CROWDED: Final = 1
"""The row on which all the entries depend; on ``ALONE`` one does."""

ALONE: Final = 2
GETS: Final = 20
"""Reads in a row, of rows chosen at random: one alone would be told apart by luck."""

Read = Callable[[Session], object]


@dataclass(frozen=True, slots=True)
class Filled:
    """A cache whose store holds a crowd of entries."""

    there: Attached
    dice: random.Random

    def gets(self) -> float:
        """Time some gets, each in its own Session."""
        numbers = [self.dice.randint(1, PRODUCTS) for _ in range(GETS)]
        start = time.perf_counter()
        for number in numbers:
            with Session(self.there.engine) as session:
                session.get(Product, number)
        return time.perf_counter() - start

    def invalidate(self, number: int) -> float:
        """Time the telling of a change to a product's row."""
        with Session(self.there.engine) as session:
            product = session.get_one(Product, number)
            start = time.perf_counter()
            self.there.cache.invalidate(product)
            return time.perf_counter() - start


def measure(setting: Setting) -> Iterator[Row]:
    """Compare sizes, by store."""
    stores = tuple(store for store in setting.stores if store != "redis-near")
    sizes = QUICK_ENTRIES if setting.quick else ENTRIES
    names = [f"{what}, {store}" for store in stores for what in ("entries", "rows and tags", "processes")]
    with ExitStack() as stack:
        urls = stack.enter_context(database_urls((DATABASE,), setting.folder))
        where = stack.enter_context(places(stores, setting.folder))
        plain = engine_of(urls[DATABASE])
        fill(plain)
        plain.dispose()
        with setting.steps(names) as steps:
            for store in stores:
                next(steps)
                yield from _by_entries(setting, store, sizes, urls[DATABASE], where)
                next(steps)
                yield from _by_width(setting, store, urls[DATABASE], where)
                next(steps)
                if store in SHARED:
                    yield from _by_processes(setting, store, urls[DATABASE], where)


def _by_entries(setting: Setting, store: str, sizes: dict[str, int], url: str, where: Places) -> Iterator[Row]:
    with ExitStack() as stack:
        filled = {}
        for name, count in sizes.items():
            there = stack.enter_context(attached(url, where.store_url(store, room_for=count)))
            crowd_in(there, count)
            filled[name] = Filled(there, random.Random(7))
            for number in range(1, PRODUCTS + 1):
                with Session(there.engine) as session:
                    session.get(Product, number)
        gets: dict[str, Timed] = {name: one.gets for name, one in filled.items()}
        for name in gets:
            turns = GETS * setting.rounds
            stack.enter_context(filled[name].there.expecting("hit", turns, f"{name} entries in {store}"))
        times = in_turns(gets, setting.rounds)
        for name in itertools.islice(sizes, 1, None):
            yield compared("scale", f"hit-{name}", store, "hit-1k", times[name], times["1k"])
        ends: dict[tuple[str, int], Timed] = {
            (name, row): partial(one.invalidate, row) for name, one in filled.items() for row in (CROWDED, ALONE)
        }
        told = in_turns(ends, setting.rounds)
        for name in sizes:
            yield compared("scale", f"invalidate-{name}", store, "invalidate-1", told[name, CROWDED], told[name, ALONE])
        for name in itertools.islice(sizes, 1, None):
            yield compared("scale", f"touch-{name}", store, "touch-1k", told[name, ALONE], told["1k", ALONE])


def _by_width(setting: Setting, store: str, url: str, where: Places) -> Iterator[Row]:
    with attached(url, where.store_url(store)) as there:
        reads: dict[str, Read] = {f"rows-{count}": CASES[f"select-{count}"].read for count in ROWS}
        reads.update({f"tags-{count}": _with_tags(count) for count in TAGS})
        with there.expecting("hit", setting.rounds * len(reads), f"hits in {store}"):
            times = in_turns({name: partial(_timed, there, read) for name, read in reads.items()}, setting.rounds)
    for kind, counts in (("rows", ROWS), ("tags", TAGS)):
        for count in counts[1:]:
            yield compared("scale", f"{kind}-{count}", store, f"{kind}-1", times[f"{kind}-{count}"], times[f"{kind}-1"])


def _with_tags(count: int) -> Read:
    # One of them is there: the rows of an entry are to be the same, whatever it depends on.
    numbers = [1, *range(PRODUCTS + 1, PRODUCTS + count)]
    return lambda session: session.scalars(select(Product).where(Product.id.in_(numbers))).all()


def _timed(there: Attached, read: Read) -> float:
    start = time.perf_counter()
    with Session(there.engine) as session:
        read(session)
    return time.perf_counter() - start


def _by_processes(setting: Setting, store: str, url: str, where: Places) -> Iterator[Row]:
    counts = PROCESSES[:2] if setting.quick else PROCESSES
    turns, seconds = (1, 0.2) if setting.quick else (9, 0.5)
    store_url = where.store_url(store)
    with ExitStack() as stack:
        script = HERE / "scale_worker.py"
        workers = [stack.enter_context(talker(script, url, store_url)) for _ in range(counts[-1])]
        for worker in workers:
            worker.ask({"seconds": 0.1})
        hits: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(turns):
            for count in counts:
                for worker in workers[:count]:
                    worker.send({"seconds": seconds})
                hits[count].append(float(sum(worker.answer() for worker in workers[:count])))
    cores = os.cpu_count() or 1
    for count in counts[1:]:
        yield compared("scale", f"processes-{count}", store, "processes-1", hits[count], hits[1])
    setting.screen.say(f"processes in {store}: on {cores} cores, hits per second can grow to {cores} times at most")
