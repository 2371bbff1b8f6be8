"""C. Asynchronous sessions read through the cache and are heard, beside sessions of the ordinary kind, in any event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Final, TypeVar

import pytest
from sqlalchemy import event, insert, make_url, select, text, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload

from scenario_support import Category, Product, Tag, World, count_of, get, in_category, names

Did = TypeVar("Did")
APPLE = names(Product.id == 1)
DRIVERS: Final = {
    "sqlite-aiosqlite": ("sqlite-lmdb", "sqlite+aiosqlite"),
    "postgresql-asyncpg": ("postgresql-lmdb", "postgresql+asyncpg"),
    "postgresql-psycopg": ("postgresql-lmdb", "postgresql+psycopg"),
    "mariadb-aiomysql": ("mariadb-memory", "mysql+aiomysql"),
}
each_driver = pytest.mark.parametrize(
    ("worlds", "drivername"), [pytest.param(*pair, id=name) for name, pair in DRIVERS.items()], indirect=["worlds"]
)


class Async:
    """An asynchronous engine on the shop's database, attached to the shop's cache, for one event loop."""

    def __init__(self, shop: World, url: str, drivername: str) -> None:
        self.shop = shop
        self._url = make_url(url).set(drivername=drivername)
        self.sent: list[str] = []

    def run(self, act: Callable[[AsyncEngine], Awaitable[Did]]) -> Did:
        """Do something in an event loop of its own."""

        async def with_engine() -> Did:
            options = {} if self.shop.dialect == "sqlite" else {"isolation_level": "READ COMMITTED"}
            engine = create_async_engine(self._url, **options)
            self.shop.cache.attach(engine)
            event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: self.sent.append(told[2]))
            try:
                return await act(engine)
            finally:
                await engine.dispose()

        return asyncio.run(with_engine())

    def write(self, change: Callable[[AsyncSession], Awaitable[Any]]) -> None:
        """Change something in a session, and commit."""

        async def act(engine: AsyncEngine) -> None:
            async with AsyncSession(engine) as session, session.begin():
                await change(session)

        self.run(act)


@pytest.fixture
def of_async(worlds: Any, drivername: str) -> Async:
    return Async(worlds.shop(), worlds.url, drivername)


async def rename(session: AsyncSession) -> None:
    (await session.get_one(Product, 1)).name = "quince"


async def move(session: AsyncSession) -> None:
    await session.execute(update(Product).where(Product.id == 1).values(category_id=2, name="quince"))


WAYS: Final[dict[str, Callable[[AsyncSession], Awaitable[Any]]]] = {
    "a flush": rename,
    "an update": move,
    "text": lambda session: session.execute(text("UPDATE sc_product SET name = 'quince' WHERE id = 1")),
    "what is run in a greenlet": lambda session: session.run_sync(
        lambda ordinary: ordinary.execute(update(Product).where(Product.id == 1).values(name="quince"))
    ),
}


@each_driver
@pytest.mark.parametrize("way", WAYS)
def test_s42_what_an_asynchronous_session_commits_is_seen_by_ordinary_ones(of_async: Async, way: str) -> None:
    others = [get(Category, 2), names(Product.id == 2)] if way in ("a flush", "an update") else [get(Category, 2)]
    with of_async.shop.expecting(changed=[APPLE, get(Product, 1)], kept=others, true=[in_category(1), in_category(2)]):
        of_async.write(WAYS[way])


@each_driver
def test_s42_many_rows_inserted_asynchronously_are_seen(of_async: Async) -> None:
    plums = [{"name": f"plum {number}", "category_id": 1, "price": Decimal(1)} for number in range(3)]
    with of_async.shop.expecting(changed=[in_category(1), count_of(Product)], kept=[get(Tag, 1)]):
        of_async.write(lambda session: session.scalars(insert(Product).returning(Product.id), plums))


@each_driver
def test_s42_what_an_asynchronous_session_rolls_back_is_shared_with_nobody(of_async: Async) -> None:
    shop = of_async.shop
    shop.prime(APPLE, get(Category, 2))

    async def act(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session:
            await move(session)
            assert await session.scalar(select(Product.name).where(Product.id == 1)) == "quince"
            assert shop.read(APPLE) == [("apple",)]
            await session.rollback()

    of_async.run(act)
    shop.assert_true(APPLE)
    shop.assert_hit(APPLE)
    shop.assert_hit(get(Category, 2))


@each_driver
def test_s42_an_asynchronous_session_is_served_and_sees_what_ordinary_ones_commit(of_async: Async) -> None:
    shop = of_async.shop
    tree = select(Category).order_by(Category.id).options(selectinload(Category.products))

    async def look(engine: AsyncEngine) -> tuple[Any, int]:
        of_async.sent.clear()
        async with AsyncSession(engine) as session:
            product = await session.get_one(Product, 1)
            found = (await session.scalars(tree)).all()
            return (product.name, [[one.name for one in each.products] for each in found]), len(of_async.sent)

    async def act(engine: AsyncEngine) -> None:
        await look(engine)
        before, cost = await look(engine)
        assert (before, cost) == (("apple", [["apple", "pear"], ["carrot", "leek"]]), 0)
        with shop.write() as session:
            session.get_one(Product, 1).name = "quince"
        after, _ = await look(engine)
        assert after == ("quince", [["quince", "pear"], ["carrot", "leek"]])
        assert (await look(engine)) == (after, 0)

    of_async.run(act)
    # Another event loop, another engine: the entries are the database's.
    assert of_async.run(look) == (("quince", [["quince", "pear"], ["carrot", "leek"]]), 0)


@each_driver
def test_s42_a_stream_of_an_asynchronous_session_is_not_stored(of_async: Async) -> None:
    async def act(engine: AsyncEngine) -> list[int]:
        async with AsyncSession(engine) as session:
            streamed = await session.stream_scalars(select(Product.id).order_by(Product.id))
            return [number async for number in streamed]

    stored = of_async.shop.cache.stats()["counts"].get("fill", 0)
    assert of_async.run(act) == of_async.run(act) == [1, 2, 3, 4]
    assert of_async.shop.cache.stats()["counts"].get("fill", 0) == stored


@each_driver
def test_s42_ordinary_sessions_in_threads_and_asynchronous_ones_side_by_side_see_each_other(of_async: Async) -> None:
    shop = of_async.shop

    def add_views(number: int) -> None:
        with shop.write() as session:
            session.execute(update(Product).where(Product.id == number).values(views=Product.views + 1))

    async def act(engine: AsyncEngine) -> None:
        async def read_and_add(number: int) -> None:
            async with AsyncSession(engine) as session:
                await session.get_one(Product, number)
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(update(Product).where(Product.id == number).values(views=Product.views + 1))

        for _ in range(2):
            await asyncio.gather(*(read_and_add(number) for number in (1, 2)))
            await asyncio.gather(*(asyncio.to_thread(add_views, number) for number in (1, 2)))
            async with AsyncSession(engine) as session:
                views = [(await session.get_one(Product, number)).views for number in (1, 2)]
            assert views == [shop.truth(get(Product, number))[4] for number in (1, 2)]

    of_async.run(act)
    for number in (1, 2):
        shop.assert_true(get(Product, number))
    assert shop.read(get(Product, 1))[4] == 14
