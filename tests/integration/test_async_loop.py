"""Nothing that the cache does holds up an event loop, whatever its store does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from async_shop import Book, Database, Shop, on
from heartbeat import LONGEST_LOOKS, Heartbeat
from lmdb_support import WRITING, running
from querycache.errors import StoreError
from redis_servers import SLOW, RedisServer, own_redis
from redis_support import new_namespace

STALLED = "connect_timeout_ms=150&timeout_ms=150&mark_timeout_ms=150"


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with on("postgresql+asyncpg", request) as database:
        yield database


@pytest.fixture
def own() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


async def use(shop: Shop, number: int) -> None:
    """Read, change, read again."""
    await shop.title(number)
    async with shop.sessions() as session:
        try:
            async with session.begin():
                (await session.get_one(Book, number)).sold += 1
        except (StoreError, SQLAlchemyError):
            await session.rollback()
    async with shop.engine.begin() as connection:
        await connection.execute(update(Book).where(Book.id == number).values(title=f"again {number}"))
    await shop.title(number)


async def uses(shop: Shop, heart: Heartbeat) -> None:
    """Have some tasks use the shop, while the heart beats."""
    await use(shop, 1)  # what is done once is not what this is about
    async with heart:
        await asyncio.gather(*(use(shop, number) for number in range(1, 7)))


def test_what_holds_up_the_loop_is_seen() -> None:
    async def act() -> None:
        async with Heartbeat() as heart:
            time.sleep(0.4)
        assert heart.longest > LONGEST_LOOKS

    asyncio.run(act())


@pytest.mark.parametrize("near", ["", "&near=validate", "&near=push"])
def test_reads_and_commits_leave_the_loop_alone_with_redis(database: Database, own: RedisServer, near: str) -> None:
    async def act(shop: Shop) -> None:
        heart = Heartbeat()
        await uses(shop, heart)
        heart.assert_steady()
        assert shop.cache.stats()["counts"]["hit"]

    database.run(act, own.url(new_namespace(), options=SLOW) + near)


def test_reads_and_commits_leave_the_loop_alone_with_lmdb(database: Database, tmp_path: Path) -> None:
    async def act(shop: Shop) -> None:
        heart = Heartbeat()
        await uses(shop, heart)
        heart.assert_steady()

    database.run(act, f"lmdb://{tmp_path}/store")


def test_a_redis_server_that_stands_still_does_not_hold_up_the_loop(database: Database, own: RedisServer) -> None:
    async def act(shop: Shop) -> None:
        await use(shop, 1)
        own.stop()
        try:
            async with Heartbeat() as heart:
                await asyncio.gather(*(use(shop, number) for number in (1, 2)))
        finally:
            own.go_on()
        heart.assert_steady()
        assert shop.cache.stats()["counts"]["store_error"]

    database.run(act, own.url(new_namespace(), options=STALLED))


def test_a_process_that_keeps_all_others_from_writing_does_not_hold_up_the_loop(
    database: Database, tmp_path: Path
) -> None:
    async def act(shop: Shop) -> None:
        await use(shop, 1)
        with running(WRITING, tmp_path / "store", "stamps") as other:
            async with Heartbeat() as heart:
                using = asyncio.ensure_future(use(shop, 1))
                await asyncio.sleep(0.3)
                assert not using.done()
                other.kill()  # then it gives way
                await using
            heart.assert_steady()
        assert await shop.is_right()

    database.run(act, f"lmdb://{tmp_path}/store?size=4MiB")


def test_a_commit_gives_up_where_it_can_tell_nobody_of_it_and_the_loop_goes_on(
    database: Database, tmp_path: Path
) -> None:
    async def act(shop: Shop) -> None:
        await shop.title()
        with running(WRITING, tmp_path / "store", "stamps"):
            async with Heartbeat() as heart:
                with pytest.raises(StoreError, match="keeps all others from writing"):
                    async with shop.engine.begin() as connection:
                        await connection.execute(update(Book).where(Book.id == 1).values(title="never"))
            heart.assert_steady()
        assert await shop.title() == "book 1"

    database.run(act, f"lmdb://{tmp_path}/store?size=4MiB")
