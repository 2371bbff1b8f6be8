"""What the oracle found once, as tests with names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import Engine, ForeignKey, create_engine, func, inspect, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from querycache import QueryCache


class Base(DeclarativeBase):
    pass


class Region(Base):
    __tablename__ = "region"

    id: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int | None]


class Owner(Base):
    __tablename__ = "owner"

    id: Mapped[int] = mapped_column(primary_key=True)
    notes: Mapped[list[Note]] = relationship(back_populates="owner", lazy="immediate")


class Note(Base):
    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"))
    owner: Mapped[Owner] = relationship(back_populates="notes", lazy="joined")


@dataclass
class World:
    """A database that is cached on ``engine``, and of which ``outside`` is not."""

    engine: Engine
    outside: Engine

    def session(self) -> Session:
        return Session(self.engine)


@pytest.fixture
def world(sqlite_url: str, engine_of: Callable[..., Engine]) -> Iterator[World]:
    world = World(engine_of(sqlite_url), create_engine(sqlite_url))
    Base.metadata.create_all(world.outside)
    with Session(world.outside) as session:
        session.add_all([Region(id=1, rank=1), Region(id=2), Owner(id=1, notes=[Note(id=1), Note(id=2)])])
        session.commit()
    with QueryCache("memory://", models=[Region, Owner, Note]) as cache:
        cache.attach(world.engine)
        yield world
    world.outside.dispose()


def _ranks(world: World) -> list[int | None]:
    with world.session() as session:
        return list(session.scalars(select(Region.rank).where(Region.id == 1)))


def test_releasing_the_outermost_savepoint_invalidates_on_sqlite_where_it_is_the_commit(world: World) -> None:
    # Python's sqlite3 sends no BEGIN before a SAVEPOINT, so its RELEASE commits, and no commit follows that one hears of.
    assert _ranks(world) == _ranks(world) == [1]

    with world.session() as writer:
        with writer.begin_nested():
            writer.execute(update(Region).where(Region.id == 1).values(rank=7))
        with Session(world.outside) as observer:
            assert observer.scalar(select(Region.rank).where(Region.id == 1)) == 7

        assert _ranks(world) == [7]


def test_a_savepoint_inside_a_transaction_commits_nothing_when_released(world: World) -> None:
    with world.session() as writer:
        writer.execute(update(Region).where(Region.id == 2).values(rank=5))
        with writer.begin_nested():
            writer.execute(update(Region).where(Region.id == 1).values(rank=7))
        assert _ranks(world) == [1]
        # The transaction is still one that changed rows: it reads its own, and stores none.
        assert writer.scalar(select(Region.rank).where(Region.id == 1)) == 7
        assert _ranks(world) == [1]
        writer.commit()

    assert _ranks(world) == [7]
    with world.session() as session:
        assert session.scalar(select(func.count()).where(Region.rank == 7)) == 1


def test_what_refreshes_a_query_does_not_refresh_what_is_loaded_along(world: World) -> None:
    refreshing = select(Note).order_by(Note.id).execution_options(populate_existing=True)

    def unloaded(engine: Engine) -> list[set[str]]:
        with Session(engine) as session:
            return [inspect(note).unloaded for note in session.scalars(refreshing).unique()]

    # The owner's notes come by a load of their own, which leaves the owner of each to a later one.
    assert unloaded(world.engine) == unloaded(world.engine) == unloaded(world.outside) == [set(), set()]
