"""Is an engine told of that writes to an attached database and that nobody attached?"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.pool import NullPool

from querycache import QueryCache

EngineOf = Callable[..., Engine]


@pytest.fixture
def cache() -> Iterator[QueryCache]:
    with QueryCache("memory://") as cache:
        yield cache


@pytest.fixture
def warnings_of(caplog: pytest.LogCaptureFixture) -> Callable[[Engine], list[str]]:
    def connect(engine: Engine) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="querycache"), engine.connect():
            pass
        return [record.getMessage() for record in caplog.records]

    return connect


def test_an_engine_that_is_not_attached_is_told_of_once(
    cache: QueryCache, database_url: str, engine_of: EngineOf, warnings_of: Callable[[Engine], list[str]]
) -> None:
    attached = engine_of(database_url)
    cache.attach(attached)
    other = engine_of(database_url, poolclass=NullPool)
    (told,) = warnings_of(other)
    assert f"/{attached.url.database}" in told
    assert "cache.attach(engine)" in told
    assert warnings_of(other) == []
    assert warnings_of(attached) == []


def test_an_attached_engine_is_never_told_of_however_often_it_connects(
    cache: QueryCache, database_url: str, engine_of: EngineOf, warnings_of: Callable[[Engine], list[str]]
) -> None:
    one, two = engine_of(database_url, poolclass=NullPool), engine_of(database_url, poolclass=NullPool)
    cache.attach(one)
    cache.attach(two)
    assert [warnings_of(engine) for engine in (one, two, one)] == [[], [], []]
    one.dispose()
    assert warnings_of(one.execution_options(isolation_level="AUTOCOMMIT")) == []


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_an_engine_of_another_database_is_not_told_of(
    cache: QueryCache, kind: str, request: pytest.FixtureRequest, engine_of: EngineOf,
    warnings_of: Callable[[Engine], list[str]],
) -> None:  # fmt: skip
    url = make_url(request.getfixturevalue(f"{kind}_url"))
    cache.attach(engine_of(url))
    assert warnings_of(engine_of(url.set(database="postgres" if kind == "postgresql" else "mysql"))) == []


def test_other_names_of_one_place_are_seen_through(
    cache: QueryCache, postgresql_url: str, engine_of: EngineOf, warnings_of: Callable[[Engine], list[str]]
) -> None:
    url = make_url(postgresql_url)
    alias = url.set(host="localhost" if url.host == "127.0.0.1" else url.host, port=url.port or 5432)
    cache.attach(engine_of(alias))
    assert len(warnings_of(engine_of(url))) == 1


def test_other_paths_of_one_file_are_seen_through(
    cache: QueryCache, tmp_path: Path, engine_of: EngineOf, warnings_of: Callable[[Engine], list[str]]
) -> None:
    cache.attach(engine_of(f"sqlite:///{tmp_path}/a.db"))
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    assert len(warnings_of(engine_of(f"sqlite:///{tmp_path}/link.db"))) == 1
    assert warnings_of(engine_of(f"sqlite:///{tmp_path}/b.db")) == []
    assert warnings_of(engine_of("sqlite://")) == []


def test_no_secret_is_told(
    cache: QueryCache, postgresql_url: str, engine_of: EngineOf, warnings_of: Callable[[Engine], list[str]]
) -> None:
    url = make_url(postgresql_url).set(password="a-secret")
    cache.attach(engine_of(url))
    (told,) = warnings_of(engine_of(url))
    assert "a-secret" not in told


def test_the_engine_of_a_migration_is_not_told_of(
    cache: QueryCache, tmp_path: Path, engine_of: EngineOf, warnings_of: Callable[[Engine], list[str]]
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    cache.attach(engine_of(url))
    migrations: Any = ModuleType("alembic.script")
    exec("def run(connect, engine):\n    return connect(engine)", migrations.__dict__)
    assert migrations.run(warnings_of, engine_of(url)) == []


def test_an_engine_that_connects_in_a_way_of_its_own_is_not_asked(
    cache: QueryCache, tmp_path: Path, warnings_of: Callable[[Engine], list[str]]
) -> None:
    path = tmp_path / "a.db"
    engine = create_engine(f"sqlite:///{path}")
    cache.attach(engine)
    own = create_engine("sqlite://", creator=lambda: sqlite3.connect(path), poolclass=NullPool)
    assert warnings_of(own) == []
    engine.dispose()
