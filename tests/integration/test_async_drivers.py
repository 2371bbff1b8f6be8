"""Asynchronous engines of every driver are attached, served and heard, in each way in which they can be asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import pytest
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import joinedload, selectinload

from async_shop import DRIVERS, Author, Book, Database, Shop, on
from cancelling import CancelledAt
from querycache import ConfigurationError, NotAttachedError, QueryCache

BOOKS = select(Book).where(Book.author_id == 1).order_by(Book.id)


@pytest.fixture(params=DRIVERS)
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with on(request.param, request) as database:
        yield database


@pytest.fixture
def sqlite(request: pytest.FixtureRequest) -> Iterator[Database]:
    with on("sqlite+aiosqlite", request) as database:
        yield database


# -- attaching ---------------------------------------------------------------------------------------------------------


async def attach_engine(shop: Shop) -> None:
    shop.cache.attach(shop.engine)


async def attach_sessionmaker(shop: Shop) -> None:
    shop.cache.attach(async_sessionmaker(shop.engine))


async def attach_sessionmaker_by_model(shop: Shop) -> None:
    shop.cache.attach(async_sessionmaker(binds={Book: shop.engine, Author: shop.engine}))


async def attach_scoped(shop: Shop) -> None:
    shop.cache.attach(async_scoped_session(shop.sessions, asyncio.current_task))


async def attach_connection(shop: Shop) -> None:
    async with shop.engine.connect() as connection:
        shop.cache.attach(connection)


@pytest.mark.parametrize(
    "attach", [attach_engine, attach_sessionmaker, attach_sessionmaker_by_model, attach_scoped, attach_connection]
)
def test_what_leads_to_an_asynchronous_engine_attaches_it(
    sqlite: Database, attach: Callable[[Shop], Awaitable[None]]
) -> None:
    async def act(shop: Shop) -> None:
        await attach(shop)
        await shop.title()
        assert await shop.cost_of(lambda session: session.scalar(select(Book.title).where(Book.id == 1))) == (
            "book 1",
            0,
        )

    sqlite.run(act, attach=False)


def test_a_factory_without_a_bind_is_an_error_that_says_so() -> None:
    with QueryCache("memory://") as cache, pytest.raises(ConfigurationError, match="has no bind yet"):
        cache.attach(async_sessionmaker())


# -- reading -----------------------------------------------------------------------------------------------------------


async def by_get(session: AsyncSession) -> Any:
    return (await session.get_one(Book, 1)).title


async def by_scalars(session: AsyncSession) -> Any:
    return [book.title for book in await session.scalars(BOOKS)]


async def by_execute(session: AsyncSession) -> Any:
    return [tuple(row) for row in await session.execute(select(Book.id, Book.title).order_by(Book.id))]


async def by_scalar(session: AsyncSession) -> Any:
    return await session.scalar(select(func.count()).select_from(Book).where(Book.author_id == 1))


async def by_eager_loads(session: AsyncSession) -> Any:
    authors = (await session.scalars(select(Author).order_by(Author.id).options(selectinload(Author.books)))).all()
    books = (await session.scalars(BOOKS.options(joinedload(Book.author)))).all()
    return [[book.id for book in author.books] for author in authors], [book.author.name for book in books]


async def by_awaitable_attributes(session: AsyncSession) -> Any:
    book = await session.get_one(Book, 1)
    author = await book.awaitable_attrs.author
    return author.name, [book.id for book in await author.awaitable_attrs.books]


async def by_run_sync(session: AsyncSession) -> Any:
    return await session.run_sync(lambda ordinary: [book.author.name for book in ordinary.scalars(BOOKS)])


READS: Final = [
    by_get,
    by_scalars,
    by_execute,
    by_scalar,
    by_eager_loads,
    by_awaitable_attributes,
    by_run_sync,
]


def test_every_way_of_reading_is_served_and_gives_what_the_database_gives(database: Database) -> None:
    async def act(shop: Shop) -> None:
        for read in READS:
            first, sent = await shop.cost_of(read)
            assert sent or read in (by_awaitable_attributes, by_run_sync), read.__name__
            assert await shop.cost_of(read) == (first, 0), read.__name__

    database.run(act)


def test_streams_give_what_the_database_gives_and_are_not_stored(database: Database) -> None:
    async def streamed(session: AsyncSession) -> list[int]:
        scalars = await session.stream_scalars(select(Book.id).order_by(Book.id))
        numbers = [number async for number in scalars]
        rows = await session.stream(select(Book.id).order_by(Book.id))
        return numbers + [number async for (number,) in rows]

    async def act(shop: Shop) -> None:
        for _ in range(2):
            assert await shop.cost_of(streamed) == ([*range(1, 7), *range(1, 7)], 2)
        assert "fill" not in shop.cache.stats()["counts"]

    database.run(act)


def test_one_task_of_a_loop_asks_the_database_for_what_many_miss(database: Database) -> None:
    async def act(shop: Shop) -> None:
        await shop.title(2)
        shop.sent.clear()
        assert await asyncio.gather(*(shop.title() for _ in range(5))) == ["book 1"] * 5
        assert len(shop.sent) == 1

    database.run(act)


# -- writing -----------------------------------------------------------------------------------------------------------

WRITES: Final[dict[str, Callable[[AsyncConnection], Awaitable[Any]]]] = {
    "update": lambda connection: connection.execute(update(Book).where(Book.id == 1).values(title="new")),
    "insert": lambda connection: connection.execute(
        insert(Book), [{"id": number, "title": "new", "sold": 0, "author_id": 1} for number in (7, 8)]
    ),
    "delete": lambda connection: connection.execute(delete(Book).where(Book.id == 1)),
    "text": lambda connection: connection.execute(text("UPDATE as_book SET title = 'new' WHERE id = 1")),
    "driver sql": lambda connection: connection.exec_driver_sql("UPDATE as_book SET title = 'new' WHERE id = 1"),
}


def test_what_core_writes_through_an_asynchronous_connection_is_seen(database: Database) -> None:
    async def act(shop: Shop) -> None:
        for write in WRITES.values():
            await shop.in_session(by_scalars)
            async with shop.engine.begin() as connection:
                await write(connection)
            served = await shop.in_session(by_scalars)
            async with shop.engine.connect() as connection:
                titles = select(Book.title).where(Book.author_id == 1).order_by(Book.id)
                assert served == list(await connection.scalars(titles))
            assert await shop.is_right()

    database.run(act)


def test_what_an_autocommit_connection_writes_is_seen(database: Database) -> None:
    async def act(shop: Shop) -> None:
        await shop.title()
        async with shop.engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            await connection.execute(update(Book).where(Book.id == 1).values(title="new"))
            assert await shop.title() == "new"

    database.run(act)


def be_over(case: Any) -> None:
    for _ in range(100):
        case.look()
        if case.is_over:
            return
        time.sleep(0.1)
    pytest.fail("the database never says so")


@pytest.mark.parametrize("database", ["postgresql+asyncpg", "mysql+aiomysql", "mysql+asyncmy"], indirect=True)
def test_a_commit_that_was_cancelled_is_over_by_the_word_of_the_database(database: Database) -> None:
    # psycopg waits for the answer all the same; SQLite cannot be asked.
    async def act(shop: Shop) -> None:
        cases: list[Any] = []
        for at in range(20):
            async with shop.sessions() as session:
                (await session.get_one(Book, 1)).sold += 1
                await session.flush()
                one = CancelledAt(session.commit(), at)

                async def run(one: CancelledAt[None] = one) -> None:
                    await one

                await asyncio.gather(asyncio.ensure_future(run()), return_exceptions=True)
            (journal,) = shop.cache._coherence.journals
            for writer, doubt in list(journal._doubted.items()):
                cases.append(doubt.case)
                journal.release(journal._held[writer])
            if not one.was_cancelled:
                break
        assert cases
        for case in cases:
            assert case is not None
            await asyncio.to_thread(be_over, case)

    database.run(act)


# -- Model.cache -------------------------------------------------------------------------------------------------------


def test_model_cache_is_awaited_in_the_session_that_is_given(database: Database) -> None:
    async def act(shop: Shop) -> None:
        async def read(session: AsyncSession) -> Any:
            book = await Book.cache.aget(1, session=session)
            assert book is not None
            assert book in session
            found = await Book.cache.afilter(author_id=1, order_by="title", limit=2, session=session)
            return book.title, [one.id for one in found], await Book.cache.aget(99, session=session)

        first, _ = await shop.cost_of(read)
        assert first == ("book 1", [2, 4], None)
        assert await shop.cost_of(read) == (first, 0)
        await shop.in_session(lambda session: Book.cache.aflush("as_book.id[1]", session=session))
        assert (await shop.cost_of(read))[0] == first
        assert shop.sent

    database.run(act)


def test_model_cache_finds_the_session_of_the_task_by_itself(sqlite: Database) -> None:
    async def act(shop: Shop) -> None:
        scoped = async_scoped_session(shop.sessions, asyncio.current_task)
        shop.cache.attach(scoped)
        try:
            book = await Book.cache.aget(1)
            assert book is not None
            assert book in scoped
            assert [one.id for one in await Book.cache.afilter(author_id=1)] == [2, 4, 6]
        finally:
            await scoped.remove()

    sqlite.run(act)


def test_model_cache_says_what_to_await_and_what_to_call(sqlite: Database) -> None:
    async def act(shop: Shop) -> None:
        async with shop.sessions() as session:
            wrong: Any = session
            with pytest.raises(TypeError, match="await aget or afilter"):
                Book.cache.get(1, session=wrong)
            wrong = session.sync_session
            with pytest.raises(TypeError, match="call get or filter"):
                await Book.cache.aget(1, session=wrong)
        with pytest.raises(NotAttachedError, match=r"no AsyncSession is known.*bind_session\(async_scoped_session\)"):
            await Book.cache.aget(1)

    sqlite.run(act)


# -- the cache's own verbs ---------------------------------------------------------------------------------------------


def test_the_verbs_of_a_cache_can_be_awaited(database: Database) -> None:
    async def act(shop: Shop) -> None:
        async with shop.engine.connect() as connection:
            await connection.run_sync(lambda _: None)
        verbs: list[tuple[Callable[..., Awaitable[None]], Any]] = [
            (shop.cache.ainvalidate, (Book,)),
            (shop.cache.ainvalidate_all, ()),
            (shop.cache.aclear, ()),
        ]
        for verb, arguments in verbs:
            await shop.title()
            await verb(*arguments)
            _, sent = await shop.cost_of(by_get)
            assert sent
        assert (await shop.cache.astats())["counts"]["fill"]

    database.run(act)


def test_what_nobody_asked_yet_can_be_invalidated_from_a_coroutine(sqlite: Database) -> None:
    async def act(shop: Shop) -> None:
        cache = QueryCache("memory://")
        other = Shop(shop.engine.execution_options(), cache)
        await shop.engine.dispose()
        await shop.cache.ainvalidate(Author)
        assert await other.title() == "book 1"
        await cache.aclose()

    sqlite.run(act)
