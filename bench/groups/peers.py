"""How does a hit compare with that of other caches, on the same rows, the same PostgreSQL and the same Redis?

``redis`` and ``memory`` are this library, against each peer that runs on SQLAlchemy. Each peer also stands against its own
framework's read without a cache ("uncached"), with what it takes to get there: a Session, a repository, a query set.
``stale-flush`` and ``stale-bulk``: 1 where a get or a list is outdated after a row was changed as its users do that (an
attribute and a commit, ``save()``, the repository's ``update``), or by an UPDATE of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Final

from caches import Attached, attached, engine_of
from peers.dogpile_recipe import recipe
from peers.environments import DJANGO, python_of
from peers.peer import Peer, changes_through
from peers.repositories import repositories
from peers.ttl_dict import ttl_dict
from places import database_urls, places
from rounds import Row, Timed, compared, in_turns
from rows import CASES, Product, fill
from setting import Setting
from sqlalchemy import Engine, make_url, select
from sqlalchemy.orm import Session
from workers import HERE, Talker, talker

from groups.hit import with_session
from redis_servers import RedisServer

DATABASE: Final = "postgresql"
OURS: Final[tuple[str, ...]] = ("memory", "redis", "redis-near")
UNCACHED: Final = "uncached"

Make = Callable[[Engine, RedisServer, ExitStack], Peer]
PEERS: Final[dict[str, Make]] = {
    "dogpile-recipe": recipe,
    "advanced-alchemy": repositories,
    "ttl-dict": ttl_dict,
}
MEASURED: Final = ("get", "select-1", "select-10", "select-100", "select-1000", "count", "selectin-10x5", "joined-10x5")


def measure(setting: Setting) -> Iterator[Row]:
    """Compare hits with those of the peers."""
    stores = tuple(store for store in OURS if store in setting.stores)
    with ExitStack() as stack:
        urls = stack.enter_context(database_urls((DATABASE,), setting.folder))
        where = stack.enter_context(places(("redis",), setting.folder))
        assert where.redis is not None
        url = urls[DATABASE]
        plain = engine_of(url)
        stack.callback(plain.dispose)
        fill(plain)
        ours = {store: stack.enter_context(attached(url, where.store_url(store))) for store in stores}
        peers = {name: make(plain, where.redis, stack) for name, make in PEERS.items()}
        cases = [name for name in MEASURED if setting.wants(name)]
        programs = ("sqlacache", "cacheops", "cachalot")
        with setting.steps([*cases, "staleness", *programs]) as steps:
            for case in cases:
                next(steps)
                yield from _measure(case, setting, plain, ours, peers)
            next(steps)
            yield from _staleness(plain, ours, peers)
            for name in programs:
                next(steps)
                with _program(name, url, where.redis, stack) as program:
                    yield from _ask(name, program, cases, setting.rounds)


def _measure(
    case: str, setting: Setting, plain: Engine, ours: Mapping[str, Attached], peers: Mapping[str, Peer]
) -> Iterator[Row]:
    able = {name: peer for name, peer in peers.items() if case in peer.reads}
    variants: dict[str, Timed] = {UNCACHED: partial(with_session, plain, CASES[case])}
    variants.update((name, partial(peer.timed, case)) for name, peer in able.items())
    with ExitStack() as stack:
        for store, there in ours.items():
            variants[store] = partial(with_session, there.engine, CASES[case])
            stack.enter_context(there.expecting("hit", setting.rounds, f"{case} in {store}"))
        times = in_turns(variants, setting.rounds)
    for name in able:
        for store in ours:
            yield compared("peers", case, store, name, times[store], times[name])
    for name in (*ours, *able):
        yield compared("peers", case, name, UNCACHED, times[name], times[UNCACHED])


def _staleness(plain: Engine, ours: Mapping[str, Attached], peers: Mapping[str, Peer]) -> Iterator[Row]:
    judged = {**{name: _as_peer(there.engine) for name, there in ours.items()}, **peers}
    for name, peer in judged.items():
        for value, change in enumerate(peer.changes, 101):
            yield _stale(name, change, peer.stale_after(change, value))


def _stale(name: str, change: str, is_stale: bool) -> Row:
    return Row("peers", f"stale-{change}", name, "database", float(is_stale), float(is_stale), float(is_stale), 1)


def _as_peer(engine: Engine) -> Peer:
    def shown(read: Callable[[Session], Any]) -> Callable[[], Any]:
        def in_session() -> Any:
            with Session(engine) as session:
                return read(session).stock

        return in_session

    listed = select(Product).where(Product.id <= 10).order_by(Product.id)
    return Peer(
        reads={},
        changes=changes_through(engine),
        shows={
            "get": shown(lambda session: session.get_one(Product, 1)),
            "list": shown(lambda session: session.scalars(listed).all()[0]),
        },
    )


def _program(name: str, url: str, server: RedisServer, stack: ExitStack) -> Any:
    if name == "sqlacache":
        return talker(HERE / "peers" / "sqlacache_program.py", url, str(server.port))
    place = make_url(url)
    where = (
        place.query.get("host") or place.host or "",
        place.port or 5432,
        place.username or "",
        place.database or "",
    )
    script = HERE / "peers" / "django_program.py"
    python = python_of("django", DJANGO)
    return talker(script, name, *map(str, where), str(server.port), python=str(python))


def _ask(name: str, program: Talker, cases: list[str], rounds: int) -> Iterator[Row]:
    able = program.ask({"do": "cases"})
    for case in cases:
        if case in able:
            times = program.ask({"do": "time", "case": case, "rounds": rounds})
            yield compared("peers", case, name, UNCACHED, times["cached"], times["uncached"])
    for change, is_stale in program.ask({"do": "stale"}).items():
        yield _stale(name, change, is_stale)
