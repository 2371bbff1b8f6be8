"""Do readers hear of a change wherever autocommit was switched on, and is it a transaction again where it was switched off?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select, text, update
from sqlalchemy.engine import Connection

from coherence_world import Category, Process, Product, World, name_of, read_in, rename


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def reader(world: World) -> Process:
    reader = world.process()
    read_in(reader, name_of)
    return reader


def in_connect_args(world: World) -> Process:
    kind = create_engine(world.url).dialect.name
    return world.process(engine_connect_args={"isolation_level": None} if kind == "sqlite" else {"autocommit": True})


def in_the_engine(world: World) -> Process:
    return world.process(engine_isolation_level="AUTOCOMMIT")


def in_the_engines_execution_options(world: World) -> Process:
    return world.process(engine_execution_options={"isolation_level": "AUTOCOMMIT"})


def by_a_listener_to_connect(world: World) -> Process:
    engine = create_engine(world.url)

    @event.listens_for(engine, "connect")
    def switch_on(raw: Any, record: Any) -> None:
        switch(engine.dialect.name, raw, True)

    return world.process(engine=engine)


def by_a_listener_to_checkout(world: World) -> Process:
    process = world.process()

    @event.listens_for(process.engine, "checkout")
    def switch_on(raw: Any, record: Any, proxy: Any) -> None:
        switch(process.engine.dialect.name, raw, True)

    return process


def switch(kind: str, raw: Any, value: bool) -> None:
    if kind == "sqlite":
        raw.isolation_level = None if value else ""
    elif kind == "postgresql":
        raw.autocommit = value
    else:
        raw.autocommit(value)


def by_execution_options(connection: Connection) -> Connection:
    return connection.execution_options(isolation_level="AUTOCOMMIT")


def on_the_driver_connection(connection: Connection) -> Connection:
    switch(connection.dialect.name, connection.connection.dbapi_connection, True)
    return connection


def by_text(connection: Connection) -> Connection:
    if connection.dialect.name == "mariadb":
        connection.exec_driver_sql("SET autocommit = 1")
        return connection
    return by_execution_options(connection)


Ways = Callable[[World], Process]


def assert_seen_at_once(world: World, reader: Process, connection: Connection) -> None:
    """Change the row; a reader while it is marked must not store what it still saw, and the next one sees the change."""
    during: list[Any] = []
    world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
    connection.execute(update(Product).where(Product.id == 1).values(name="b"))
    assert during == ["a"]
    assert read_in(reader, name_of) == "b"


@pytest.mark.parametrize(
    "way",
    [
        in_connect_args,
        in_the_engine,
        in_the_engines_execution_options,
        by_a_listener_to_connect,
        by_a_listener_to_checkout,
    ],
)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_change_in_autocommit_of_the_engines_is_seen_at_once(
    world: World, reader: Process, way: Ways, end: str
) -> None:
    writer = way(world)
    with writer.engine.connect() as connection:
        assert_seen_at_once(world, reader, connection)
        getattr(connection, end)()
    assert read_in(reader, name_of) == "b"
    assert world.store.stats().marks == 0


@pytest.mark.parametrize("way", [by_execution_options, on_the_driver_connection, by_text])
def test_a_change_in_autocommit_of_the_connections_is_seen_at_once(
    world: World, reader: Process, way: Callable[[Connection], Connection]
) -> None:
    writer = world.process()
    with writer.engine.connect() as connection:
        assert_seen_at_once(world, reader, way(connection))
    assert world.store.stats().marks == 0


def test_after_autocommit_was_switched_off_by_the_pool_changes_wait_for_their_commit(
    world: World, reader: Process
) -> None:
    writer = world.process(engine_pool_size=1, engine_max_overflow=0)
    with writer.engine.connect() as connection:
        assert_seen_at_once(world, reader, by_execution_options(connection))
    seen: list[Any] = []
    with writer.session() as session:
        session.get_one(Product, 1).name = "c"
        session.flush()
        assert read_in(reader, name_of) == "b"
        world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
        session.commit()
    assert seen == ["b"]
    assert read_in(reader, name_of) == "c"


def test_autocommit_switched_off_on_the_driver_connection_makes_changes_wait_for_their_commit(
    world: World, reader: Process
) -> None:
    writer = in_connect_args(world)
    with writer.engine.connect() as connection:
        switch(connection.dialect.name, connection.connection.dbapi_connection, False)
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        assert read_in(reader, name_of) == "a"
        connection.commit()
        assert read_in(reader, name_of) == "b"


def test_a_change_rolled_back_after_autocommit_was_switched_off_is_not_seen(world: World, reader: Process) -> None:
    writer = world.process()
    with writer.engine.connect() as connection:
        by_execution_options(connection).execute(select(Category.id)).all()
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.rollback()
    assert read_in(reader, name_of) == "a"


def test_in_autocommit_a_flush_is_seen_statement_by_statement(world: World, reader: Process) -> None:
    writer = in_the_engine(world)
    with writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        assert read_in(reader, name_of) == "b"
        session.get_one(Product, 1).name = "c"
        session.flush()
        assert read_in(reader, name_of) == "c"
        session.rollback()
    assert read_in(reader, name_of) == "c"


def test_a_raw_change_that_a_switch_to_autocommit_commits_is_seen(world: World, reader: Process) -> None:
    """SQLAlchemy refuses to change the isolation level in a transaction, but it knows of its own only."""
    writer = world.process()
    if writer.engine.dialect.name == "postgresql":
        return  # whose drivers refuse, too
    with writer.engine.connect() as connection:
        connection.connection.cursor().execute("UPDATE product SET name = 'b' WHERE id = 1")
        assert read_in(reader, name_of) == "a"
        during: list[Any] = []
        world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
        by_execution_options(connection)
        assert during == ["a"]
        assert read_in(reader, name_of) == "b"


def test_a_function_called_while_rows_are_streamed_in_autocommit_is_seen(mariadb_url: str) -> None:
    """The server commits a streamed SELECT when its last row was fetched."""
    world = World(mariadb_url)
    world.fill()
    reader, writer = world.process(), in_the_engine(world)
    rename(world.process(cached=False), "a")
    with world.process(cached=False).engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION bump(n INT) RETURNS INT MODIFIES SQL DATA BEGIN"
            " UPDATE product SET name = n WHERE id = 1; RETURN n; END"
        )
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        streaming = connection.execution_options(stream_results=True)
        rows = streaming.execute(text("SELECT bump(seq) FROM seq_1_to_20000"))
        rows.fetchone()
        assert world.store.stats().marks
        last = rows.all()[-1][0]
        assert read_in(reader, name_of) == str(last)
    assert world.store.stats().marks == 0
    world.close()
