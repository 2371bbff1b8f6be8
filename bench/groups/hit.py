"""How much does a hit cost, against the query that it replaces, and against the least that it could cost?

``postgresql`` and ``sqlite``: both with their Session's opening and closing. ``postgresql-open``: the read alone, in a Session
that is open, the query in a transaction that is already begun. ``floor``: the hit with its Session, against a GET and a
decoding.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from caches import Attached, attached, engine_of
from floors import floor_of, payloads_of
from places import Places, database_urls, places
from rounds import WARM_UP, Row, Timed, compared, in_turns
from rows import CASES, Case, fill
from setting import Setting
from sqlalchemy import Engine
from sqlalchemy.orm import Session

Name = tuple[str, str, str]
"""A variant: a store or "query", the database, and "" or "-open"; the floor of a store has no database."""


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
    for store in setting.stores:
        for database in plain:
            for how in ("", "-open"):
                mine, theirs = times[store, database, how], times["query", database, how]
                yield compared("hit", name, store, database + how, mine, theirs)
        yield compared("hit", name, store, "floor", times[store, first, ""], times[store, "floor", ""])


def with_session(engine: Engine, case: Case) -> float:
    """Time a read with the opening and closing of its Session."""
    start = time.perf_counter()
    with Session(engine) as session:
        case.before(session)
        case.read(session)
    return time.perf_counter() - start


def in_session(engine: Engine, case: Case, *, begun: bool = False) -> float:
    """Time a read alone, in a Session that is open; ``begun``: in a transaction that the database knows of."""
    with Session(engine) as session:
        case.before(session)
        if begun:
            session.connection()
        start = time.perf_counter()
        case.read(session)
        return time.perf_counter() - start
