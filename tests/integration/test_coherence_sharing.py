"""Whose transaction is it, where Sessions, Connections and engines share a connection or a database?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import pytest
from sqlalchemy import create_engine, event, make_url, text, update
from sqlalchemy.orm import Session

from coherence_world import Process, Product, World, is_hit, name_of, names_in, read_in, rename

Mode = Literal["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
MODES: tuple[Mode, ...] = ("conditional_savepoint", "rollback_only", "control_fully", "create_savepoint")


@pytest.fixture
def world(postgresql_url: str) -> Iterator[World]:
    world = World(postgresql_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def writer(world: World) -> Process:
    return world.process()


@pytest.fixture
def reader(world: World, writer: Process) -> Process:
    return world.process()


@pytest.mark.parametrize("mode", MODES)
def test_the_commit_of_a_joined_session_counts_when_the_database_commits(
    writer: Process, reader: Process, mode: Mode
) -> None:
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.get_one(Product, 1).name = "b"
            session.commit()
        committed = not transaction.is_active
        if not committed:
            assert read_in(reader, name_of) == "a"
            assert is_hit(reader)
            transaction.commit()
    assert committed == (mode == "control_fully")
    assert read_in(reader, name_of) == "b"


@pytest.mark.parametrize("mode", MODES)
def test_a_joined_sessions_write_that_is_rolled_back_outside_is_never_stored(
    writer: Process, reader: Process, mode: Mode
) -> None:
    with writer.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.get_one(Product, 1).name = "dirty"
            session.flush()
            assert name_of(session) == "dirty"
        with Session(connection, join_transaction_mode="rollback_only") as other:
            names_in(other, 3)
        if transaction.is_active:
            transaction.rollback()
    assert read_in(reader, name_of) == "a"
    assert read_in(reader, lambda session: names_in(session, 3)) == ["a"]


def test_after_commit_of_a_joined_session_does_not_release(writer: Process, reader: Process, world: World) -> None:
    seen: list[bool] = []
    read_in(reader, name_of)
    with writer.engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            event.listen(session, "after_commit", lambda session: seen.append(is_hit(reader)))
            session.get_one(Product, 1).name = "b"
            session.commit()
        world.store.calls.clear()
        transaction.rollback()
    assert seen == [True]
    assert "release" in world.store.calls
    assert read_in(reader, name_of) == "a"


def test_two_sessions_on_one_connection_share_its_uncommitted_writes(writer: Process, reader: Process) -> None:
    with writer.engine.connect() as connection:
        one, two = Session(connection), Session(connection)
        one.get_one(Product, 1).name = "dirty"
        one.flush()
        before = writer.counts().get("fill", 0)
        assert name_of(two) == "dirty"
        assert name_of(two, 2) == "z"
        assert writer.counts().get("fill", 0) == before
        two.close()
        one.close()
        connection.rollback()
    assert read_in(reader, name_of) == "a"


def test_a_session_and_core_on_its_connection_share_one_transaction(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.session() as session:
        session.connection().execute(update(Product).where(Product.id == 1).values(name="core"))
        assert name_of(session) == "core"
        session.commit()
    assert read_in(reader, name_of) == "core"


def test_a_detached_connection_is_still_heard(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        connection.detach()
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.commit()
    assert read_in(reader, name_of) == "b"


def test_an_invalidated_connection_is_asked_anew(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.invalidate()
        connection.rollback()
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.commit()
    assert read_in(reader, name_of) == "b"


def test_engines_of_two_urls_of_one_database_are_one_bind(world: World) -> None:
    url = make_url(world.url)
    other_url = url.set(host="localhost" if url.host == "127.0.0.1" else url.host, query={"application_name": "other"})
    one = world.process()
    two = world.process(engine=create_engine(other_url))
    read_in(one, name_of)
    assert is_hit(two)
    rename(two, "b")
    assert read_in(one, name_of) == "b"


def test_two_engines_of_one_cache_hear_each_other(world: World) -> None:
    one = world.process()
    two = world.process(cached=False)
    assert one.cache is not None
    one.cache.attach(two.engine)
    read_in(one, name_of)
    rename(two, "b")
    assert read_in(one, name_of) == "b"


def test_two_databases_of_one_server_share_nothing(world: World) -> None:
    other_url = make_url(world.url).set(database=f"{make_url(world.url).database}_x")
    admin = create_engine(make_url(world.url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {other_url.database}")
    other = World(other_url.render_as_string(hide_password=False), world.store)
    try:
        other.fill()
        rename(other.process(cached=False), "other")
        assert read_in(world.process(), name_of) == "a"
        assert read_in(other.process(), name_of) == "other"
    finally:
        other.close()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {other_url.database} WITH (FORCE)")
        admin.dispose()
