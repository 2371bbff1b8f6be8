"""The databases that the coherence tests play on: the two tables of ``coherence_world``, filled, on each server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from sqlalchemy import make_url

from coherence_world import World
from own_servers import start_mariadb
from servers import MARIADB, database, why_not


@contextmanager
def world_on(url: str) -> Iterator[World]:
    """Fill a database, and close what is open on it at the end."""
    world = World(url)
    try:
        world.fill()
        yield world
    finally:
        world.close()


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[World]:
    with world_on(postgresql_url) as world:
        yield world


@pytest.fixture
def mariadb(mariadb_url: str) -> Iterator[World]:
    with world_on(mariadb_url) as world:
        yield world


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[World]:
    with world_on(sqlite_url) as world:
        yield world


@pytest.fixture(scope="session")
def own_mariadb_server() -> Iterator[str]:
    """A MariaDB whose settings may be changed, as nobody else uses it."""
    with start_mariadb(partial(why_not, MARIADB)) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def own_mariadb(own_mariadb_server: str) -> Iterator[World]:
    with (
        database(make_url(own_mariadb_server), "own") as url,
        world_on(url.render_as_string(hide_password=False)) as world,
    ):
        yield world


@pytest.fixture(params=["postgresql", "mariadb"])
def server_world(request: pytest.FixtureRequest) -> World:
    """A world on each of the servers."""
    found: World = request.getfixturevalue(request.param)
    return found
