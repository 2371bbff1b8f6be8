"""What do tests of asynchronous sessions share? A shop of authors and books, on each driver, in an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import pytest
from sqlalchemy import ForeignKey, String, event, make_url, select
from sqlalchemy.ext.asyncio import AsyncAttrs, AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from querycache import CacheableMixin, NoCache, QueryCache

Did = TypeVar("Did")

DRIVERS: Final = {
    "postgresql+asyncpg": "postgresql_url",
    "postgresql+psycopg": "postgresql_url",
    "sqlite+aiosqlite": "sqlite_url",
    "mysql+aiomysql": "mariadb_url",
    "mysql+asyncmy": "mariadb_url",
}


class Base(AsyncAttrs, DeclarativeBase):
    pass


class Author(CacheableMixin, Base):
    __tablename__ = "as_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    books: Mapped[list[Book]] = relationship(back_populates="author", order_by="Book.id")


class Book(CacheableMixin, Base):
    __tablename__ = "as_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    sold: Mapped[int] = mapped_column(default=0)
    author_id: Mapped[int] = mapped_column(ForeignKey("as_author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


class Shop:
    """An engine, its cache and its sessions. ``sent``: what went to the database."""

    def __init__(self, engine: AsyncEngine, cache: QueryCache) -> None:
        self.engine = engine
        self.cache = cache
        self.sessions = async_sessionmaker(engine)
        self.sent: list[str] = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: self.sent.append(told[2]))

    async def fill(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with self.sessions() as session, session.begin():
            session.add_all([Author(id=number, name=f"author {number}") for number in (1, 2)])
            await session.flush()
            session.add_all(
                [Book(id=number, title=f"book {number}", author_id=1 + number % 2) for number in range(1, 7)]
            )

    async def in_session(self, act: Callable[[AsyncSession], Awaitable[Did]]) -> Did:
        async with self.sessions() as session:
            return await act(session)

    async def cost_of(self, act: Callable[[AsyncSession], Awaitable[Did]]) -> tuple[Did, int]:
        """Do something in a new session; return what came of it, and how many statements it sent."""
        self.sent.clear()
        done = await self.in_session(act)
        return done, len(self.sent)

    async def title(self, number: int = 1, *options: Any) -> str | None:
        asked = select(Book.title).where(Book.id == number).options(*options)
        return await self.in_session(lambda session: session.scalar(asked))

    async def is_right(self, number: int = 1) -> bool:
        return await self.title(number) == await self.title(number, NoCache())


class Database:
    """A database that can be asked by one driver. ``run``: do something with a shop on it, in a new event loop."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, act: Callable[[Shop], Awaitable[Did]], store: str = "memory://", *, attach: bool = True) -> Did:
        async def in_loop() -> Did:
            # MySQL's own default is REPEATABLE READ, where a transaction's second statement is not stored.
            options = {} if self.url.startswith("sqlite") else {"isolation_level": "READ COMMITTED"}
            engine = create_async_engine(self.url, **options)
            async with QueryCache(store) as cache:
                if attach:
                    cache.attach(engine)
                shop = Shop(engine, cache)
                try:
                    await shop.fill()
                    return await act(shop)
                finally:
                    await engine.dispose()

        return asyncio.run(in_loop())


@contextmanager
def on(driver: str, request: pytest.FixtureRequest) -> Iterator[Database]:
    url = make_url(request.getfixturevalue(DRIVERS[driver])).set(drivername=driver)
    yield Database(url.render_as_string(hide_password=False))
