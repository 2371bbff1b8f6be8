"""SQLModel's models and sessions are cached like any, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import Field, Session, SQLModel, create_engine, select
from sqlmodel.ext.asyncio.session import AsyncSession

from querycache import CacheableMixin, Policy, QueryCache


class Hero(CacheableMixin, SQLModel, table=True):
    __tablename__ = "sm_hero"
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(index=True, max_length=50)
    age: int = 0


class Team(SQLModel, table=True):
    __tablename__ = "sm_team"
    id: int | None = Field(default=None, primary_key=True)
    name: str = ""


NAMED = select(Hero).where(Hero.name == "Deadpond")


@pytest.fixture
def cache() -> Iterator[QueryCache]:
    with QueryCache("memory://", models={Team: Policy()}) as cache:
        yield cache


def test_models_are_cached_and_their_changes_seen(cache: QueryCache, sqlite_url: str) -> None:
    engine = create_engine(sqlite_url)
    cache.attach(engine)
    SQLModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Hero(name="Deadpond"), Team(name="preventers")])
        session.commit()
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *told: sent.append(told[2]))

    def read() -> tuple[list[Hero], Hero | None, Hero | None, Team | None]:
        sent.clear()
        with Session(engine) as session:
            heroes = list(session.exec(NAMED).all())
            session.expunge_all()
            return heroes, session.get(Hero, 1), Hero.cache.get(1, session=session), session.get(Team, 1)

    first = read()
    assert read() == first
    assert sent == []
    with Session(engine) as session:
        session.get_one(Hero, 1).age = 30
        session.commit()
    heroes, hero, *_ = read()
    assert heroes[0].age == 30
    assert hero is not None
    assert hero.age == 30
    engine.dispose()


def test_models_are_cached_and_their_changes_seen_in_an_event_loop(cache: QueryCache, sqlite_url: str) -> None:
    async def main() -> None:
        engine = create_async_engine(sqlite_url.replace("sqlite://", "sqlite+aiosqlite://"))
        cache.attach(engine)
        async with engine.begin() as connection:
            await connection.run_sync(SQLModel.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Hero(name="Deadpond"))
            await session.commit()
        sent: list[str] = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: sent.append(told[2]))

        async def read() -> tuple[list[Hero], Hero | None]:
            sent.clear()
            async with AsyncSession(engine) as session:
                heroes = list((await session.exec(NAMED)).all())
                return heroes, await Hero.cache.aget(1, session=session)

        first = await read()
        assert await read() == first
        assert sent == []
        async with AsyncSession(engine) as session:
            (await session.get_one(Hero, 1)).age = 30
            await session.commit()
        heroes, _ = await read()
        assert heroes[0].age == 30
        await engine.dispose()

    asyncio.run(main())
