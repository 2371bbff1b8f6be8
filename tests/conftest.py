"""What every test may ask for: databases on real servers, engines that are closed, a steady Hypothesis."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import pytest
from hypothesis import settings
from sqlalchemy import Engine, NullPool, create_engine

from own_servers import start_postgresql
from servers import MARIADB, POSTGRESQL, Kind, database, empty_database, server, why_not

pytest_plugins = ["coherence_fixtures", "scenario_fixtures"]

# The same examples every time on the build server; no deadlines anywhere, the machine may be slow.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


class EngineFactory(Protocol):
    """``sqlalchemy.create_engine``, with the engine's connections closed when the test ends."""

    def __call__(self, url: str, **options: Any) -> Engine: ...


def _database_on(kind: Kind) -> Iterator[str]:
    with server(kind) as server_url, database(server_url, os.environ.get("PYTEST_XDIST_WORKER", "gw")) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgresql_session_url() -> Iterator[str]:
    """A database on a real PostgreSQL for the whole run: what a test leaves in it stays."""
    yield from _database_on(POSTGRESQL)


@pytest.fixture(scope="session")
def prepared_postgresql_url() -> Iterator[str]:
    """A database on a PostgreSQL that allows prepared transactions; few are set so. What a test leaves in it stays."""
    with start_postgresql(partial(why_not, POSTGRESQL)) as server_url, database(server_url, "prepared") as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def mariadb_session_url() -> Iterator[str]:
    """A database on a real MariaDB for the whole run: what a test leaves in it stays."""
    yield from _database_on(MARIADB)


@pytest.fixture
def postgresql_url(postgresql_session_url: str) -> Iterator[str]:
    """A database on a real PostgreSQL, empty at the start of each test."""
    yield postgresql_session_url
    _empty(postgresql_session_url)


@pytest.fixture
def mariadb_url(mariadb_session_url: str) -> Iterator[str]:
    """A database on a real MariaDB, empty at the start of each test."""
    yield mariadb_session_url
    _empty(mariadb_session_url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A SQLite file of this test's own."""
    return f"sqlite:///{tmp_path}/database.sqlite"


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, once on each kind that is supported."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine_of() -> Iterator[EngineFactory]:
    """Make engines whose connections are closed when the test ends."""
    made: list[Engine] = []

    def make(url: str, **options: Any) -> Engine:
        made.append(create_engine(url, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


def _empty(url: str) -> None:
    empty_database(_maintenance_engine_of(url))


@cache
def _maintenance_engine_of(url: str) -> Engine:
    # Kept, because the first connection of an engine asks the server several questions.
    return create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
