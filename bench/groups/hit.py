"""How much does a hit cost, against the query that it replaces, and against the least that it could cost?

``postgresql`` and ``sqlite``: both with their Session's opening and closing. ``postgresql-open``: the read alone, in a Session
that is open, the query in a transaction that is already begun. ``floor``: the hit with its Session, against a GET and a
decoding. ``bound``, where a store stands elsewhere: what a read takes whose answer is ready (``bounds.py``).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from operator import truediv
from typing import Final

from bounds import ready_session
from caches import Attached, attached, engine_of
from floors import floor_of, payloads_of
from places import Places, database_urls, places
from rounds import WARM_UP, Row, Timed, compared, in_turns
from rows import CASES, Case, fill
from setting import Setting
from sqlalchemy import Engine
from sqlalchemy.orm import Session

Name = tuple[str, str, str]
"""A variant: a store, "query" or "bound", the database, and "" or "-open"; the floor of a store has no database."""

UNBOUNDED: Final = ("lazy-m2o",)
"""Cases of which nobody is told before they are answered."""


def measure(setting: Setting) -> Iterator[Row]:
    """Compare hits with queries and floors."""
    with ExitStack() as stack:
        urls = stack.enter_context(database_urls(setting.databases, setting.folder))
        where = stack.enter_context(places(setting.stores, setting.folder))
        plain = {name: engine_of(url) for name, url in urls.items()}
        for engine in plain.values():
            stack.callback(engine.dispose)
            fill(engine)
        engines = {
            (store, name): stack.enter_context(attached(url, where.store_url(store)))
            for name, url in urls.items()
            for store in setting.stores
        }
        names = [name for name in CASES if setting.wants(name)]
        with setting.steps(names) as steps:
            for name in steps:
                yield from _measure(name, setting, plain, engines, where)


def _measure(
    name: str,
    setting: Setting,
    plain: dict[str, Engine],
    engines: dict[tuple[str, str], Attached],
    where: Places,
) -> Iterator[Row]:
    case = CASES[name]
    with ExitStack() as stack:
        variants: dict[Name, Timed] = {}
        for database, engine in plain.items():
            variants["query", database, ""] = partial(with_session, engine, case)
            variants["query", database, "-open"] = partial(in_session, engine, case, begun=True)
            if name not in UNBOUNDED:
                ready = ready_session(engine, case)
                variants["bound", database, ""] = partial(with_session, engine, case, ready)
                variants["bound", database, "-open"] = partial(in_session, engine, case, ready)
        for (store, database), there in engines.items():
            variants[store, database, ""] = partial(with_session, there.engine, case)
            variants[store, database, "-open"] = partial(in_session, there.engine, case)
            turns = setting.rounds + WARM_UP
            # The first two may be misses: another look at the catalog, and the rows.
            stack.enter_context(there.expecting("hit", 2 * turns - 2, f"{name} in {store} on {database}"))
        first = next(iter(plain))
        payloads = payloads_of(plain[first], case)
        for store in setting.stores:
            variants[store, "floor", ""] = floor_of(store, payloads, where, stack)
        times = in_turns(variants, setting.rounds)
    for database in plain:
        for how in ("", "-open"):
            query = times["query", database, how]
            for store in setting.stores:
                yield compared("hit", name, store, database + how, times[store, database, how], query)
            if name not in UNBOUNDED:
                bound = compared("hit", name, "bound", database + how, times["bound", database, how], query)
                for store in setting.stores:
                    _note(setting, store, bound, times[store, "floor", ""], query)
                yield bound
    for store in setting.stores:
        yield compared("hit", name, store, "floor", times[store, first, ""], times[store, "floor", ""])


def _note(setting: Setting, store: str, bound: Row, floor: list[float], query: list[float]) -> None:
    """Say beside the target what no cache behind this API and on this store can go below."""
    least = statistics.median(map(truediv, floor, query))
    setting.notes[bound.group, bound.case, store, bound.against] = (
        f"with the answer ready, SQLAlchemy and the instances take {bound.ratio:.3f}; "
        f"a GET of the bytes from the store, and their decoding, {least:.3f}"
    )


def with_session(engine: Engine, case: Case, session_class: type[Session] = Session) -> float:
    """Time a read with the opening and closing of its Session."""
    start = time.perf_counter()
    with session_class(engine) as session:
        case.before(session)
        case.read(session)
    return time.perf_counter() - start


def in_session(engine: Engine, case: Case, session_class: type[Session] = Session, *, begun: bool = False) -> float:
    """Time a read alone, in a Session that is open; ``begun``: in a transaction that the database knows of."""
    with session_class(engine) as session:
        case.before(session)
        if begun:
            session.connection()
        start = time.perf_counter()
        case.read(session)
        return time.perf_counter() - start
