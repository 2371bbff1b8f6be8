"""Every engine of a process has a cache in front of it that nobody asked for, and nothing becomes an error by that."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import weakref
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy import Column, Engine, MetaData, Table, Text, create_engine, create_mock_engine, event, select, update
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from querycache import QueryCache
from querycache.everywhere import CacheOfEverything, VerifiedCacheOfEverything, attach_everywhere
from querycache.session import attachment_of
from querycache.verifying import IN_OTHER_ORDER, OVERTAKEN, REPLAYED, VERIFIED, StaleReadError


class Base(DeclarativeBase):
    pass


class Pet(Base):
    __tablename__ = "ev_pet"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


words = Table("ev_word", MetaData(), Column("word", Text))

NAMES = select(Pet.name).order_by(Pet.id)


def _running(cache: CacheOfEverything) -> Iterator[CacheOfEverything]:
    end = attach_everywhere(cache)
    yield cache
    end()
    cache.close()


@pytest.fixture
def everywhere() -> Iterator[CacheOfEverything]:
    yield from _running(CacheOfEverything())


@pytest.fixture
def verified() -> Iterator[CacheOfEverything]:
    yield from _running(VerifiedCacheOfEverything())


def stocked(url: str, engine_of: Any) -> Engine:
    engine: Engine = engine_of(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Pet(id=1, name="rex"), Pet(id=2, name="tom")])
        session.commit()
    return engine


def read(engine: Engine, statement: Any = NAMES) -> list[Any]:
    with Session(engine) as session:
        return list(session.scalars(statement))


def hits(cache: QueryCache) -> int:
    count: int = cache.stats()["counts"].get("hit", 0)
    return count


def change_behind_the_cache(url: str, *statements: str) -> None:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def test_a_model_of_which_nobody_said_anything_is_cached(
    everywhere: CacheOfEverything, sqlite_url: str, engine_of: Any
) -> None:
    engine = stocked(sqlite_url, engine_of)
    assert [read(engine), read(engine)] == [["rex", "tom"]] * 2
    assert (everywhere.attached, hits(everywhere)) == (1, 1)


def test_a_table_without_a_model_is_cached(everywhere: CacheOfEverything, sqlite_url: str, engine_of: Any) -> None:
    engine = engine_of(sqlite_url)
    words.create(engine)
    assert [read(engine, select(words.c.word)), read(engine, select(words.c.word))] == [[], []]
    assert hits(everywhere) == 1


def test_what_one_engine_writes_another_of_the_same_database_reads(
    everywhere: CacheOfEverything, sqlite_url: str, engine_of: Any
) -> None:
    engine, other = stocked(sqlite_url, engine_of), engine_of(sqlite_url)
    read(engine)
    with other.begin() as connection:
        connection.execute(update(Pet).where(Pet.id == 1).values(name="max"))
    assert read(engine) == ["max", "tom"]


def test_the_engine_behind_an_async_engine_is_attached(everywhere: CacheOfEverything, postgresql_url: str) -> None:
    async def use() -> list[str]:
        engine = create_async_engine(postgresql_url.replace("+psycopg", "+asyncpg"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        names: list[str] = []
        for _ in range(2):
            async with AsyncSession(engine) as session:
                names.extend(await session.scalars(NAMES))
        await engine.dispose()
        return names

    assert asyncio.run(use()) == []
    assert hits(everywhere) == 1


def test_an_engine_with_a_fake_driver_is_left_alone(everywhere: CacheOfEverything) -> None:
    driver = Mock(paramstyle="qmark", sqlite_version_info=(3, 40, 0), version_info=(9, 9, 9), Error=Exception)
    create_engine("sqlite://", module=driver, _initialize=False).raw_connection()
    assert everywhere.attached == 0
    assert dict(everywhere.left_alone) == {"its driver is not its dialect's own: a fake, perhaps": 1}


def test_an_engine_that_cannot_be_attached_is_left_alone(
    everywhere: CacheOfEverything, sqlite_url: str, engine_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*told: Any, **options: Any) -> None:
        raise RuntimeError("not this one")

    monkeypatch.setattr(everywhere, "attach", refuse)
    assert read(stocked(sqlite_url, engine_of)) == ["rex", "tom"]
    assert dict(everywhere.left_alone) == {"RuntimeError: not this one": 1}


def test_an_engine_that_another_cache_has_is_left_to_it(
    everywhere: CacheOfEverything, sqlite_url: str, engine_of: Any
) -> None:
    engine = engine_of(sqlite_url)
    with QueryCache("memory://", models=[Pet]) as cache:
        cache.attach(engine)
        Base.metadata.create_all(engine)
        assert [read(engine), read(engine)] == [[], []]
        assert (everywhere.attached, hits(cache)) == (0, 1)


def test_a_mock_engine_stays_one(everywhere: CacheOfEverything) -> None:
    sent: list[Any] = []
    Base.metadata.create_all(
        create_mock_engine("sqlite://", lambda statement, *rest: sent.append(statement)), checkfirst=False
    )
    assert (len(sent), everywhere.attached) == (1, 0)


def test_engines_and_their_databases_in_memory_are_not_kept_alive(everywhere: CacheOfEverything) -> None:
    def use() -> weakref.ref[Engine]:
        engine = stocked("sqlite://", create_engine)
        for _ in range(3):
            with Session(engine) as session:
                assert session.get_one(Pet, 1).name == "rex"
        engine.dispose()
        return weakref.ref(engine)

    engines = [use() for _ in range(3)]
    gc.collect()
    gc.collect()
    assert [engine() for engine in engines] == [None] * 3
    assert (everywhere.attached, everywhere.engines, everywhere.stats()["databases"]) == (3, [], [])


def test_models_are_not_kept_alive(everywhere: CacheOfEverything, sqlite_url: str, engine_of: Any) -> None:
    engine = stocked(sqlite_url, engine_of)

    def use() -> weakref.ref[Any]:
        class Other(DeclarativeBase):
            pass

        class Passing(Other):
            __tablename__ = "ev_pet"

            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        for _ in range(3):
            with Session(engine) as session:
                assert session.get_one(Passing, 1).name == "rex"
        return weakref.ref(Passing)

    model = use()
    engine.clear_compiled_cache()
    gc.collect()
    gc.collect()
    assert model() is None


def test_engines_are_left_alone_again_at_the_end(sqlite_url: str, engine_of: Any) -> None:
    cache = CacheOfEverything()
    attach_everywhere(cache)()
    assert attachment_of(stocked(sqlite_url, engine_of)) is None
    cache.close()


def test_a_verified_hit_sends_its_statement_and_is_the_database_s(
    verified: CacheOfEverything, sqlite_url: str, engine_of: Any
) -> None:
    engine = stocked(sqlite_url, engine_of)
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    for _ in range(3):
        with Session(engine) as session:
            assert (session.get_one(Pet, 1).name, len(session.scalars(select(Pet)).all())) == ("rex", 2)
    assert len(sent) == 6
    assert verified.verdicts == {REPLAYED: 2, VERIFIED: 4}


def test_a_stale_hit_is_an_error_where_hits_are_verified(
    verified: CacheOfEverything, sqlite_url: str, engine_of: Any
) -> None:
    engine = stocked(sqlite_url, engine_of)
    read(engine)
    change_behind_the_cache(sqlite_url, "UPDATE ev_pet SET name = 'max' WHERE id = 1")
    with pytest.raises(StaleReadError, match=r"SELECT ev_pet\.name"):
        read(engine)
    assert verified.stats()["counts"]["defect"] == 1


def test_a_hit_that_a_commit_overtakes_is_not_taken_for_stale(
    verified: CacheOfEverything, sqlite_url: str, engine_of: Any
) -> None:
    engine, other = stocked(sqlite_url, engine_of), engine_of(sqlite_url)
    read(engine)

    @event.listens_for(engine, "before_cursor_execute", once=True)
    def overtake(*told: Any) -> None:
        with other.begin() as connection:
            connection.execute(update(Pet).where(Pet.id == 1).values(name="max"))

    assert read(engine) == ["rex", "tom"]
    assert verified.verdicts == {REPLAYED: 1, OVERTAKEN: 1}


def test_rows_that_come_in_another_order_are_no_stale_ones(
    verified: CacheOfEverything, sqlite_url: str, engine_of: Any
) -> None:
    engine = engine_of(sqlite_url)
    words.create(engine)
    with engine.begin() as connection:
        connection.execute(words.insert(), [{"word": "one"}, {"word": "two"}])
    read(engine, select(words.c.word))
    change_behind_the_cache(
        sqlite_url, "DELETE FROM ev_word WHERE word = 'one'", "INSERT INTO ev_word (word) VALUES ('one')"
    )
    assert read(engine, select(words.c.word)) == ["one", "two"]
    assert verified.verdicts == {REPLAYED: 1, IN_OTHER_ORDER: 1}
