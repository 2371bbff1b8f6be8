"""What the oracle found once, as tests with names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from oracle_schema import Region
from oracle_world import World
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    made = World(sqlite_url)
    made.begin()
    yield made
    made.close()


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
