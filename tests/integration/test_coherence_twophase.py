"""When is a transaction in two phases over, for readers?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from coherence_world import Process, Product, World, is_hit, name_of, read_in
from own_servers import start_postgresql
from servers import POSTGRESQL, database, why_not


@pytest.fixture(scope="module")
def prepared_url() -> Iterator[str]:
    """A PostgreSQL that allows prepared transactions; few are set so."""
    with start_postgresql(partial(why_not, POSTGRESQL)) as server_url, database(server_url, "prepared") as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def postgresql(prepared_url: str) -> Iterator[World]:
    world = World(prepared_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def mariadb(mariadb_url: str) -> Iterator[World]:
    world = World(mariadb_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture(params=["postgresql", "mariadb"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    rename_back(found)
    return found


def rename_back(world: World) -> None:
    process = world.process()
    with process.engine.begin() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="a"))


def _renamed(connection: Any, name: str) -> None:
    connection.execute(update(Product).where(Product.id == 1).values(name=name))


def test_a_commit_in_two_phases_is_seen(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        assert read_in(reader, name_of) == "a"
        transaction.commit()
    assert read_in(reader, name_of) == "b"
    assert world.store.stats().marks == 0


def test_between_the_phases_nothing_is_marked(world: World) -> None:
    writer, reader = world.process(), world.process()
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        assert world.store.stats().marks == 0
        read_in(reader, name_of)
        assert is_hit(reader)
        transaction.rollback()
    assert read_in(reader, name_of) == "a"


def test_a_reader_between_mark_and_the_second_phase_is_told_not_to_store(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    seen: list[Any] = []
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
        transaction.commit()
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"


def test_a_session_in_two_phases_is_seen(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    with Session(writer.engine, twophase=True) as session:
        session.get_one(Product, 1).name = "b"
        session.commit()
    assert read_in(reader, name_of) == "b"


def test_a_commit_in_one_phase_of_a_two_phase_transaction_is_seen(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.commit()
    assert read_in(reader, name_of) == "b"


def _prepare_elsewhere(engine: Engine) -> Any:
    with engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        xid = transaction.xid
        connection.detach()
        raw: Any = connection.connection.dbapi_connection
        raw.close()
        connection.invalidate()
    return xid


def test_what_another_process_prepared_is_seen_when_this_one_commits_it(postgresql: World) -> None:
    rename_back(postgresql)
    other, process, reader = postgresql.process(cached=False), postgresql.process(), postgresql.process()
    read_in(reader, name_of)
    xid = _prepare_elsewhere(other.engine)
    assert read_in(reader, name_of) == "a"
    with process.engine.connect() as connection:
        connection.commit_prepared(xid, recover=True)
    assert read_in(reader, name_of) == "b"


def test_a_prepared_transaction_committed_by_text_is_seen(postgresql: World) -> None:
    rename_back(postgresql)
    process: Process = postgresql.process(engine_isolation_level="AUTOCOMMIT")
    other, reader = postgresql.process(cached=False), postgresql.process()
    read_in(reader, name_of)
    xid = _prepare_elsewhere(other.engine)
    with process.engine.connect() as connection:
        connection.exec_driver_sql(f"COMMIT PREPARED '{xid}'")
        assert read_in(reader, name_of) == "b"
