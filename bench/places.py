"""On which databases, and in which stores, are the benchmarks run?

On real servers: the PostgreSQL that the tests would use (CONTRIBUTING.md), in a database of the run's own, and a Redis of the
run's own. One that is missing is a ``BenchError`` that says what to do; nothing is left behind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from rounds import BenchError

from own_servers import NoServerError
from redis_servers import RedisServer, own_redis
from servers import POSTGRESQL, database, server

STORES: Final = ("memory", "lmdb", "redis", "redis-near")
DATABASES: Final = ("postgresql", "sqlite")
SERVED_BY_REDIS: Final = frozenset({"redis", "redis-near"})
LIMITS: Final = "timeout_ms=5000&connect_timeout_ms=5000"


@contextmanager
def database_urls(names: tuple[str, ...], folder: Path) -> Iterator[dict[str, str]]:
    """Yield the URL of an empty database for each name."""
    urls = {name: f"sqlite:///{folder}/bench.sqlite" for name in names if name == "sqlite"}
    if "postgresql" not in names:
        yield urls
        return
    with postgresql_url() as url:
        yield {"postgresql": url, **urls}


@contextmanager
def postgresql_url(label: str = "bench") -> Iterator[str]:
    """Yield the URL of an empty database on PostgreSQL."""
    try:
        with server(POSTGRESQL) as server_url:
            refusal = _why_refused(create_engine(server_url))
            if refusal is not None:
                where = server_url.render_as_string(hide_password=True)
                raise BenchError(
                    f"The benchmark cannot use PostgreSQL at {where}: {refusal}\n"
                    f"Start it, or name another one: {POSTGRESQL.variable}={POSTGRESQL.drivername}://user@host/database; "
                    "or measure without it: make bench GROUP=hit DATABASES=sqlite"
                )
            with database(server_url, label) as url:
                yield url.render_as_string(hide_password=False)
    except NoServerError as error:
        raise BenchError(str(error).replace("The tests need", "The benchmark needs")) from error


def _why_refused(engine: Engine) -> str | None:
    try:
        engine.connect().close()
    except DBAPIError as error:
        return str(error.orig).strip().splitlines()[0]
    finally:
        engine.dispose()
    return None


@contextmanager
def redis_server(*settings: str) -> Iterator[RedisServer]:
    """Start a Redis that the run has for itself."""
    try:
        with own_redis(*settings) as started:
            yield started
    except NoServerError as error:
        raise BenchError(
            f"The benchmark needs Redis: {error}\nOr measure without it: make bench GROUP=hit STORES=memory,lmdb"
        ) from error


@dataclass(slots=True)
class Places:
    """Where a run's stores are."""

    folder: Path
    redis: RedisServer | None
    _count: int = field(default=0)

    def store_url(self, store: str, room_for: int = 0) -> str:
        """Return the URL of a new, empty store of a kind, with room for so many entries of some hundred bytes."""
        self._count += 1
        if store == "memory":
            return f"memory://?size={room_for * 4 + 128_000}KB&entries={room_for + 100_000}"
        if store == "lmdb":
            return f"lmdb://{self.folder}/store{self._count}?size={room_for + 256_000}KB"
        if self.redis is None:
            raise BenchError(f"{store}: no Redis was started")
        near = "&near=validate" if store == "redis-near" else ""
        return self.redis.url(f"bench{self._count}", options=LIMITS + near)


@contextmanager
def places(stores: tuple[str, ...], folder: Path) -> Iterator[Places]:
    """Yield where these stores are, with a Redis where one of them needs it."""
    if SERVED_BY_REDIS.isdisjoint(stores):
        yield Places(folder, None)
        return
    with redis_server() as started:
        yield Places(folder, started)
