"""Do the lists of others hear of a row, of whatever shape, that was changed by somebody who knew an older one?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from conftest import EngineFactory
from image_shapes import CHANGES, GROUPED, KINDS, Base, fill
from querycache import NoCache, QueryCache
from querycache.stores.memory import MemoryStore

MODELS = [*{*GROUPED, *KINDS}]
Lists = dict[str, list[Any]]


@pytest.fixture(params=["postgresql", "mariadb", "sqlite", "sqlite without old images"])
def engines(request: pytest.FixtureRequest, engine_of: EngineFactory) -> Iterator[list[Engine]]:
    """Three processes on one store: one that changes, one that moves rows meanwhile, one that reads."""
    kind, _, without = request.param.partition(" ")
    url = request.getfixturevalue(f"{kind}_url")
    options: dict[str, Any] = {} if kind == "sqlite" else {"isolation_level": "READ COMMITTED"}
    store = MemoryStore()
    caches = [QueryCache(store, models=MODELS, old_images=not without) for _ in range(3)]
    engines = [engine_of(url, **options) for _ in caches]
    Base.metadata.create_all(engines[0])
    with Session(engines[0]) as session:
        fill(session)
    for cache, engine in zip(caches, engines, strict=True):
        cache.attach(engine)
    yield engines
    for cache in caches:
        cache.close()


def lists_of(engine: Engine, *options: Any) -> Lists:
    """Read every list by group and by kind."""
    found: Lists = {}
    with Session(engine) as session:
        for name, models, values in (("grp", GROUPED, (None, 3, 7, 9)), ("kind", KINDS, (1, 2, 4, 5, 6))):
            for model in models:
                for value in values:
                    statement = select(model).where(getattr(model, name) == value).options(*options)
                    rows = session.scalars(statement).all()
                    found[f"{model.__name__} {name} {value}"] = sorted(
                        tuple(getattr(row, column) for column in _columns_of(row)) for row in rows
                    )
    return found


def _columns_of(row: Any) -> list[str]:
    return [column for column in ("id", "a", "b", "kind", "version", "friend_id") if _has(row, column)]


def _has(row: Any, column: str) -> bool:
    return getattr(row, column, None) is not None


@pytest.mark.parametrize("name", CHANGES)
def test_lists_are_true_after_a_change_of_rows_that_were_moved_meanwhile(engines: list[Engine], name: str) -> None:
    changing, moving, reading = engines

    def move_all() -> None:
        with moving.begin() as connection:
            for table in sorted({model.__tablename__ for model in GROUPED}):
                connection.execute(text(f"UPDATE {table} SET grp = 7 WHERE grp = 3"))
        assert lists_of(reading) == lists_of(reading, NoCache())

    with Session(changing) as session:
        CHANGES[name](session, move_all)
        session.commit()
    assert lists_of(reading) == lists_of(reading, NoCache())
