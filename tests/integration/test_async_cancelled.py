"""A task that is cancelled at whichever of its waits leaves nothing behind: no mark, no claim, no connection of no use."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from cancelling import cancelled_at, cancelled_everywhere
from querycache import CacheableMixin, NoCache, QueryCache
from redis_servers import SLOW, RedisServer, own_redis
from redis_support import new_namespace

ONE = "pool=1"


class Base(DeclarativeBase):
    pass


class Item(CacheableMixin, Base):
    __tablename__ = "ac_item"
    id: Mapped[int] = mapped_column(primary_key=True)
    shelf: Mapped[int] = mapped_column(index=True)
    count: Mapped[int]


ON_SHELF = select(Item).where(Item.shelf == 1).order_by(Item.id)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def store_url(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if store == "lmdb":
        return f"lmdb://{tmp_path}/store"
    server: RedisServer = request.getfixturevalue("server")
    near = "&near=validate" if store == "redis-near" else ""
    return server.url(new_namespace(), options=f"{ONE}&{SLOW}{near}")


@pytest.fixture
def database(driver: str, request: pytest.FixtureRequest) -> str:
    name = {"postgresql": "postgresql", "sqlite": "sqlite", "mysql": "mariadb"}[driver.partition("+")[0]]
    url = make_url(request.getfixturevalue(f"{name}_url")).set(drivername=driver)
    return url.render_as_string(hide_password=False)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    pairs = [("postgresql+asyncpg", store) for store in ("redis", "redis-near", "lmdb")]
    pairs += [(driver, "redis") for driver in ("postgresql+psycopg", "sqlite+aiosqlite", "mysql+aiomysql")]
    if "database" in metafunc.fixturenames:
        is_commit = "commit" in metafunc.function.__name__
        # SQLite: a connection that was given up keeps its lock for a while, so each commit has a file of its own.
        pairs = [pair for pair in pairs if not (is_commit and pair[0].startswith("sqlite"))]
        metafunc.parametrize(("driver", "store"), pairs)


class Shop:
    """An engine of one connection, and a cache over a store of one connection: what is lost is missed at once."""

    def __init__(self, engine: AsyncEngine, cache: QueryCache) -> None:
        self.engine = engine
        self.cache = cache

    async def begin(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(self.engine) as session, session.begin():
            session.add_all([Item(id=number, shelf=1, count=0) for number in (1, 2, 3)])
        await self.read()

    async def read(self, *options: Any) -> list[tuple[int, int]]:
        async with AsyncSession(self.engine) as session:
            found = (await session.scalars(ON_SHELF.options(*options))).all()
            await session.get(Item, 1, options=options)
            return [(one.id, one.count) for one in found]

    async def write(self) -> None:
        async with AsyncSession(self.engine) as session, session.begin():
            (await session.get_one(Item, 1)).count += 1

    async def write_core(self) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(update(Item).values(count=Item.count + 1))

    async def nothing_left(self) -> None:
        """See that nobody is in flight, no mark is left that no commit explains, and reads are right."""
        assert not self.cache._reader.flights._under_way
        (journal,) = self.cache._coherence.journals
        assert set(journal._held) == set(journal._doubted)
        assert await self.read() == (truth := await self.read(NoCache()))
        for mark in list(journal._held.values()):  # its outcome is unknown to the library, not to this test
            journal.release(mark)
        while not journal.settle():  # the keeper is at it
            await asyncio.sleep(0.01)
        assert not journal.store.stats().marks
        assert await self.read() == await self.read() == truth
        assert self.engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # of every pool with connections


def in_shop(database: str, store_url: str, act: Callable[[Shop], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        engine = create_async_engine(database, pool_size=1, max_overflow=0, pool_timeout=20)
        cache = QueryCache(store_url)
        cache.attach(engine)
        shop = Shop(engine, cache)
        try:
            await shop.begin()
            return await act(shop)
        finally:
            await engine.dispose()
            cache.close()

    return asyncio.run(run())


@pytest.fixture(autouse=True)
def is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    # SQLAlchemy tells of each connection that it gives up.
    caplog.set_level(logging.CRITICAL, "sqlalchemy")
    caplog.set_level(logging.CRITICAL, "querycache")
    caplog.set_level(logging.CRITICAL, "aiosqlite")


def test_a_read_that_misses_leaves_nothing_behind(database: str, store_url: str) -> None:
    async def act(shop: Shop) -> int:
        async def check() -> None:
            await shop.nothing_left()
            shop.cache.invalidate(Item)

        shop.cache.invalidate(Item)
        return await cancelled_everywhere(shop.read, check)

    assert in_shop(database, store_url, act) > 1


def test_a_read_that_hits_leaves_nothing_behind(database: str, store_url: str) -> None:
    async def act(shop: Shop) -> int:
        await shop.read()
        return await cancelled_everywhere(shop.read, shop.nothing_left)

    assert in_shop(database, store_url, act) >= (0 if store_url.startswith("lmdb") else 2)


def test_a_commit_leaves_nothing_behind(database: str, store_url: str) -> None:
    assert in_shop(database, store_url, lambda shop: cancelled_everywhere(shop.write, shop.nothing_left)) > 2


def test_a_commit_of_core_leaves_nothing_behind(database: str, store_url: str) -> None:
    assert in_shop(database, store_url, lambda shop: cancelled_everywhere(shop.write_core, shop.nothing_left)) > 2


@pytest.mark.parametrize("way", ["write", "write_core"])
def test_a_commit_to_sqlite_leaves_nothing_behind(server: RedisServer, tmp_path: Path, way: str) -> None:
    for at in range(60):
        database = f"sqlite+aiosqlite:///{tmp_path}/{at}.sqlite"
        store_url = server.url(new_namespace(), options=f"{ONE}&{SLOW}")

        def act(shop: Shop, at: int = at) -> Coroutine[Any, Any, bool]:
            return cancelled_at(getattr(shop, way), shop.nothing_left, at)

        if not in_shop(database, store_url, act):
            break
    assert at > 2
