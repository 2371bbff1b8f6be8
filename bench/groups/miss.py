"""What does a miss cost beyond the query: a key, a look-up in vain, and the storing of the rows?

Each read is of rows that were not asked for before, against the same read on an engine without a cache. ``statements`` and
``round-trips`` (to a Redis) are what a miss adds of either. ``bound``, where a store stands elsewhere: the least that a miss
takes (``least.py``), which is said beside the target.
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
from least import least_miss
from places import SERVED_BY_REDIS, database_urls, places
from rounds import WARM_UP, Row, Timed, compared, in_turns
from rows import PRODUCTS, Product, fill
from setting import Setting
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

DATABASE: Final = "postgresql"
WIDTH: Final = 100

Read = Callable[[Session, int], object]

READS: Final[dict[str, Read]] = {
    "get": lambda session, number: session.get(Product, number),
    "select-1": lambda session, number: session.scalars(select(Product).where(Product.id == number)).all(),
    "select-100": lambda session, number: session.scalars(
        select(Product).where(Product.id.between(number, number + WIDTH - 1))
    ).all(),
}


class Once:
    """Reads through an engine what was not read before."""

    def __init__(
        self,
        engine: Engine,
        read: Read,
        forget: Callable[[], Any] = lambda: None,
        session_class: type[Session] = Session,
    ) -> None:
        self._engine = engine
        self._session_class = session_class
        self._read = read
        self._forget = forget
        self._numbers = itertools.count()

    def with_session(self) -> float:
        """Time a read with the opening and closing of its Session."""
        number = self._next()
        start = time.perf_counter()
        with self._session_class(self._engine) as session:
            self._read(session, number)
        return time.perf_counter() - start

    def in_session(self) -> float:
        """Time a read alone, in a transaction that is begun."""
        number = self._next()
        with self._session_class(self._engine) as session:
            session.connection()
            start = time.perf_counter()
            self._read(session, number)
            return time.perf_counter() - start

    def _next(self) -> int:
        number = next(self._numbers) % (PRODUCTS - WIDTH)
        if number == 0:
            self._forget()
        return number + 1


def measure(setting: Setting) -> Iterator[Row]:
    """Compare misses with queries, on PostgreSQL."""
    stores = tuple(store for store in setting.stores if store != "redis-near")
    with ExitStack() as stack:
        urls = stack.enter_context(database_urls((DATABASE,), setting.folder))
        where = stack.enter_context(places(stores, setting.folder))
        plain = engine_of(urls[DATABASE])
        stack.callback(plain.dispose)
        fill(plain)
        engines = {store: stack.enter_context(attached(urls[DATABASE], where.store_url(store))) for store in stores}
        least = stack.enter_context(least_miss(urls[DATABASE], setting.folder))
        names = [name for name in READS if setting.wants(name)]
        with setting.steps(names) as steps:
            for name in steps:
                yield from _measure(name, setting, plain, engines, least)
                for store, there in engines.items():
                    server = where.redis if store in SERVED_BY_REDIS else None
                    counted = added(
                        Counted(plain, Once(plain, READS[name]).with_session),
                        Counted(there.engine, Once(there.engine, READS[name], there.cache.clear).with_session),
                        server,
                    )
                    yield from counted.rows("miss", name, store)


def _measure(
    name: str,
    setting: Setting,
    plain: Engine,
    engines: dict[str, Attached],
    least: tuple[Engine, type[Session]],
) -> Iterator[Row]:
    query, bound = Once(plain, READS[name]), Once(least[0], READS[name], session_class=least[1])
    variants: dict[tuple[str, str], Timed] = {
        ("query", ""): query.with_session,
        ("query", "-open"): query.in_session,
        ("bound", ""): bound.with_session,
        ("bound", "-open"): bound.in_session,
    }
    with ExitStack() as stack:
        for store, there in engines.items():
            once = Once(there.engine, READS[name], there.cache.clear)
            variants[store, ""] = once.with_session
            variants[store, "-open"] = once.in_session
            turns = 2 * (setting.rounds + WARM_UP)
            # One has to look at the catalog again, after all was forgotten.
            expecting = partial(there.expecting, times=turns - 2, what=f"a miss of {name} in {store}")
            stack.enter_context(expecting("fill"))
        times = in_turns(variants, setting.rounds)
    for how in ("", "-open"):
        rows = {
            store: compared("miss", name, store, DATABASE + how, times[store, how], times["query", how])
            for store in (*engines, "bound")
        }
        yield from rows.values()
        for store in engines:
            said = f"the least that a miss takes: {rows['bound'].ratio:.2f}"
            setting.notes["miss", name, store, DATABASE + how] = said
