"""What does a commit of one row cost beyond the commit: what changes is noted, marked before it, released after it?

Each on rows that the Session has read before, against the same on an engine without a cache. ``update-1-by-key``: where the
table is told apart by its primary key alone, so that no old value need be asked for. ``statements-per-table`` and
``round-trips`` (to a Redis) are what a commit adds of either. ``bound``, where a store stands elsewhere: the least that a
commit by key takes (``least.py``), which is said beside the target.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from caches import Attached, attached, engine_of
from counting import Counted, added
from least import least_commit
from places import SERVED_BY_REDIS, Places, database_urls, places
from rounds import WARM_UP, Row, Timed, compared, in_turns
from rows import PRODUCTS, Product, fill, product
from setting import Setting
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from querycache import NoCache

DATABASE: Final = "postgresql"
BY_KEY: Final = "update-1-by-key"

Engines = dict[str, Attached]


class Writer:
    """Changes one row at a time through an engine, each time another one."""

    _new: Final = itertools.count(1_000_000)

    def __init__(self, engine: Engine, preparing: Engine) -> None:
        self.engine = engine
        self._preparing = preparing
        self._numbers = itertools.count()

    def update(self) -> float:
        """Time the change of an attribute and its commit."""
        with Session(self.engine) as session:
            found = session.get_one(Product, next(self._numbers) % PRODUCTS + 1, options=[NoCache()])
            start = time.perf_counter()
            found.stock += 1
            session.commit()
            return time.perf_counter() - start

    def update_by_core(self) -> float:
        """Time an UPDATE by primary key and its commit."""
        number = next(self._numbers) % PRODUCTS + 1
        with Session(self.engine) as session:
            session.connection()
            start = time.perf_counter()
            session.execute(update(Product).where(Product.id == number).values(stock=number))
            session.commit()
            return time.perf_counter() - start

    def insert(self) -> float:
        """Time a new row and its commit."""
        with Session(self.engine) as session:
            session.connection()
            start = time.perf_counter()
            session.add(product(next(self._new), 11))
            session.commit()
            return time.perf_counter() - start

    def delete(self) -> float:
        """Time the end of a row and its commit."""
        number = next(self._new)
        with Session(self._preparing) as session:
            session.add(product(number, 11))
            session.commit()
        with Session(self.engine) as session:
            found = session.get_one(Product, number, options=[NoCache()])
            start = time.perf_counter()
            session.delete(found)
            session.commit()
            return time.perf_counter() - start


WRITES: Final[dict[str, Callable[[Writer], float]]] = {
    "update-1": Writer.update,
    BY_KEY: Writer.update,
    "update-core-1": Writer.update_by_core,
    "insert-1": Writer.insert,
    "delete-1": Writer.delete,
}


def measure(setting: Setting) -> Iterator[Row]:
    """Compare commits with commits, on PostgreSQL."""
    stores = tuple(store for store in setting.stores if store != "redis-near")
    with ExitStack() as stack:
        urls = stack.enter_context(database_urls((DATABASE,), setting.folder))
        where = stack.enter_context(places(stores, setting.folder))
        plain, preparing = engine_of(urls[DATABASE]), engine_of(urls[DATABASE])
        stack.callback(plain.dispose)
        stack.callback(preparing.dispose)
        fill(plain)

        def engines(**options: Any) -> Engines:
            """Two minds about a table's tag columns do not share a store here: they would mark more for each other."""
            return {
                store: stack.enter_context(attached(urls[DATABASE], where.store_url(store), **options))
                for store in stores
            }

        ordinary, by_key = engines(), engines(tag_columns={Product.__tablename__: ["id"]})
        least = stack.enter_context(least_commit(urls[DATABASE], setting.folder))
        names = [name for name in WRITES if setting.wants(name)]
        with setting.steps(names) as steps:
            for name in steps:
                engines_of_case = by_key if name == BY_KEY else ordinary
                bound = least if name == BY_KEY else None
                yield from _measure(name, setting, plain, preparing, engines_of_case, where, bound)


def _measure(
    name: str,
    setting: Setting,
    plain: Engine,
    preparing: Engine,
    engines: Engines,
    where: Places,
    least: Engine | None,
) -> Iterator[Row]:
    write = WRITES[name]
    variants: dict[str, Timed] = {"commit": partial(write, Writer(plain, preparing))}
    if least is not None:
        variants["bound"] = partial(write, Writer(least, preparing))
    with ExitStack() as stack:
        for store, there in engines.items():
            variants[store] = partial(write, Writer(there.engine, preparing))
            turns = setting.rounds + WARM_UP
            stack.enter_context(there.expecting("mark", turns, f"{name} in {store}"))
        times = in_turns(variants, setting.rounds)
    if least is not None:
        bound = compared("write", name, "bound", DATABASE, times["bound"], times["commit"])
        for store in engines:
            setting.notes["write", name, store, DATABASE] = f"the least that such a commit takes: {bound.ratio:.2f}"
        yield bound
    for store, there in engines.items():
        yield compared("write", name, store, DATABASE, times[store], times["commit"])
        server = where.redis if store in SERVED_BY_REDIS else None
        counted = added(Counted(plain, variants["commit"]), Counted(there.engine, variants[store]), server)
        yield from counted.rows("write", name, store, "statements-per-table")
