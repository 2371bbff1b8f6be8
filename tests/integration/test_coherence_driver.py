"""Do readers hear of what is sent past SQLAlchemy, on the driver's own connection? On every database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, select, text, update
from sqlalchemy.orm import Session

from coherence_world import Category, Process, Product, World, is_hit, name_of, names_in, read_in, rename

UPDATE = "UPDATE product SET name = 'b' WHERE id = 1"


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def writer(world: World) -> Process:
    return world.process()


@pytest.fixture
def reader(world: World, writer: Process) -> Process:
    """A process that has read the row."""
    reader = world.process()
    read_in(reader, name_of)
    return reader


def send(raw: Any, statement: str, *parameters: Any) -> None:
    cursor = raw.cursor()
    cursor.execute(statement, *parameters)
    cursor.close()


def set_autocommit(process: Process, raw: Any, value: bool) -> None:
    """Switch autocommit on a driver connection, in the way of its driver."""
    if process.engine.dialect.name == "sqlite":
        raw.isolation_level = None if value else ""
    elif process.engine.dialect.name == "postgresql":
        raw.autocommit = value
    else:
        raw.autocommit(value)


@pytest.fixture
def raw(writer: Process) -> Iterator[Any]:
    """A connection of the writer's as the pool hands it out, and no SQLAlchemy around it."""
    connection = writer.engine.raw_connection()
    yield connection
    connection.close()


# -- commits ---------------------------------------------------------------------------------------------------------


def test_a_commit_of_the_driver_connection_is_seen_at_once(writer: Process, reader: Process) -> None:
    with writer.engine.connect() as connection:
        connection.exec_driver_sql(UPDATE)
        assert read_in(reader, name_of) == "a"
        connection.connection.commit()
        assert read_in(reader, name_of) == "b"


def test_a_reader_while_the_driver_commits_is_told_not_to_store(world: World, reader: Process, raw: Any) -> None:
    seen: list[Any] = []
    send(raw, UPDATE)
    world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
    raw.commit()
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"


def test_what_a_raw_cursor_changed_is_seen_after_the_drivers_commit(reader: Process, raw: Any) -> None:
    send(raw, UPDATE)
    assert read_in(reader, name_of) == "a"
    raw.commit()
    assert read_in(reader, name_of) == "b"


def test_a_commit_of_the_driver_that_changed_nothing_anybody_heard_of_drops_everything(
    world: World, reader: Process, raw: Any
) -> None:
    if raw.driver_connection.__class__.__module__.startswith("psycopg"):
        raw.driver_connection.pgconn.exec_(b"BEGIN; " + UPDATE.encode())
    elif hasattr(raw.driver_connection, "in_transaction"):
        raw.driver_connection.__class__.__mro__[1].execute(raw.driver_connection, "BEGIN")
        raw.driver_connection.__class__.__mro__[1].cursor(raw.driver_connection).execute(UPDATE)
    else:
        raw.driver_connection._execute_command(3, UPDATE)
        raw.driver_connection._read_query_result()
    assert read_in(reader, name_of) == "a"
    raw.commit()
    assert read_in(reader, name_of) == "b"


def test_what_a_raw_cursor_changed_is_marked_at_sqlalchemys_commit(writer: Process, reader: Process) -> None:
    with writer.engine.connect() as connection:
        connection.execute(select(Category.id)).all()
        send(connection.connection, UPDATE)
        assert read_in(reader, name_of) == "a"
        connection.commit()
        assert read_in(reader, name_of) == "b"


def test_a_commit_sent_on_a_raw_cursor_is_seen_at_once(reader: Process, raw: Any) -> None:
    send(raw, UPDATE)
    send(raw, "COMMIT")
    assert read_in(reader, name_of) == "b"


def test_a_statement_on_a_raw_cursor_in_autocommit_is_seen_at_once(
    world: World, writer: Process, reader: Process, raw: Any
) -> None:
    seen: list[Any] = []
    set_autocommit(writer, raw.driver_connection, True)
    world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
    send(raw, UPDATE)
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"
    set_autocommit(writer, raw.driver_connection, False)


def test_many_rows_sent_on_a_raw_cursor_are_seen(reader: Process, raw: Any) -> None:
    mark = "?" if raw.driver_connection.__class__.__module__.startswith("sqlite3") else "%s"
    cursor = raw.cursor()
    cursor.executemany(f"UPDATE product SET name = {mark} WHERE id = {mark}", [("b", 1), ("y", 2)])
    raw.commit()
    assert read_in(reader, name_of) == "b"
    cursor.close()


def test_a_statement_that_is_not_a_text_is_taken_for_anything(writer: Process, reader: Process, raw: Any) -> None:
    cursor = raw.cursor()
    cursor.execute(UPDATE.encode() if writer.engine.dialect.name == "postgresql" else UPDATE)
    raw.commit()
    assert read_in(reader, name_of) == "b"


def test_to_read_on_a_raw_cursor_drops_nothing(writer: Process, reader: Process, raw: Any) -> None:
    send(raw, "SELECT name FROM product")
    raw.rollback()
    assert is_hit(reader)


def test_a_commit_of_the_driver_where_no_transaction_is_open_drops_nothing(
    writer: Process, reader: Process, raw: Any
) -> None:
    raw.commit()
    assert is_hit(reader) == (writer.engine.dialect.name != "mariadb")  # whose driver does not know


def test_a_rollback_of_the_driver_touches_what_was_pending(world: World, raw: Any) -> None:
    send(raw, UPDATE)
    world.store.calls.clear()
    raw.rollback()
    assert world.store.calls == ["release"]


@pytest.mark.parametrize("end", ["rollback", "commit"])
def test_what_was_read_under_the_locks_of_a_transaction_is_forgotten_when_the_driver_ends_it(
    writer: Process, reader: Process, end: str
) -> None:
    def lists(session: Session) -> list[list[str]]:
        return [names_in(session, number) for number in (3, 7, 9)]

    with writer.session() as session:
        session.get_one(Product, 1).stock = 5
        session.flush()
        getattr(session.connection().connection, end)()
        with reader.session() as other:
            other.get_one(Product, 1).category_id = 7
            other.commit()
        assert read_in(reader, lists) == [[], ["a", "z"], []]
        session.connection().execute(update(Product).where(Product.id == 1).values(category_id=9))
        session.commit()
    assert read_in(reader, lists) == [[], ["z"], ["a"]]


def test_the_driver_connection_as_a_context_commits_at_its_end(writer: Process, reader: Process, raw: Any) -> None:
    if writer.engine.dialect.name == "mariadb":
        return  # PyMySQL's closes the connection
    if writer.engine.dialect.name == "postgresql":
        with raw.driver_connection.transaction():
            raw.driver_connection.execute(UPDATE)
            assert read_in(reader, name_of) == "a"
    else:
        with raw.driver_connection:
            raw.driver_connection.execute(UPDATE)
            assert read_in(reader, name_of) == "a"
    assert read_in(reader, name_of) == "b"


def test_a_commit_of_the_driver_that_fails_leaves_no_mark_once_it_is_rolled_back(world: World, writer: Process) -> None:
    if writer.engine.dialect.name != "postgresql":
        return  # elsewhere no constraint waits for the COMMIT of a plain transaction
    raw = writer.engine.raw_connection()
    send(raw, "ALTER TABLE product ADD CONSTRAINT late UNIQUE (name) DEFERRABLE INITIALLY DEFERRED")
    raw.commit()
    send(raw, "UPDATE product SET name = 'same'")
    with pytest.raises(writer.engine.dialect.loaded_dbapi.IntegrityError):
        raw.commit()
    raw.rollback()
    raw.close()
    assert world.store.stats().marks == 0


def test_a_statement_on_a_raw_cursor_that_fails_leaves_no_mark(world: World, writer: Process, raw: Any) -> None:
    set_autocommit(writer, raw.driver_connection, True)
    with pytest.raises(writer.engine.dialect.loaded_dbapi.Error):
        send(raw, "UPDATE product SET name = 'b' WHERE no_such_column = 1")
    assert world.store.stats().marks == 0
    set_autocommit(writer, raw.driver_connection, False)


# -- what SQLAlchemy itself does ----------------------------------------------------------------------------------------


def test_what_sqlalchemy_does_on_the_driver_connection_drops_nothing(world: World, reader: Process) -> None:
    process = world.process(engine_pool_pre_ping=True)
    world.store.calls.clear()
    for _ in range(2):
        with process.session() as session:
            session.execute(text("SELECT 1")).all()
            session.commit()
        with process.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(select(Product.id)).all()
    assert "mark" not in world.store.calls
    assert is_hit(reader)


def test_what_listeners_to_the_pool_set_on_a_connection_drops_nothing(world: World, reader: Process) -> None:
    process = world.process()
    setting = {"sqlite": "PRAGMA cache_size = 100", "postgresql": "SET work_mem = '4MB'"}

    @event.listens_for(process.engine, "checkout")
    def set_it(raw: Any, record: Any, proxy: Any) -> None:
        send(raw, setting.get(process.engine.dialect.name, "SET @tenant = 1"))

    for _ in range(2):
        rename(process, "c", 2)
        assert is_hit(reader)


def test_a_setting_made_on_a_raw_cursor_keeps_the_connections_reads_out_of_the_cache(world: World) -> None:
    process = world.process()
    with process.engine.connect() as connection:
        setting = {"sqlite": "PRAGMA cache_size = 100", "postgresql": "SET work_mem = '4MB'"}
        send(connection.connection, setting.get(process.engine.dialect.name, "SET @tenant = 1"))
        with Session(connection) as session:
            assert name_of(session) == "a"
    assert not is_hit(process)


def test_a_driver_connection_and_its_cursors_are_still_of_the_drivers_classes(world: World, writer: Process) -> None:
    plain = world.process(cached=False).engine.raw_connection()
    raw = writer.engine.raw_connection()
    assert isinstance(raw.driver_connection, type(plain.driver_connection))
    assert isinstance(raw.cursor(), type(plain.cursor()))
    assert repr(type(raw.driver_connection)) == repr(type(plain.driver_connection))
    for connection in (raw, plain):
        connection.close()


def test_a_driver_connection_is_heard_after_the_engine_was_disposed_of(writer: Process, reader: Process) -> None:
    writer.engine.dispose()
    raw = writer.engine.raw_connection()
    send(raw, UPDATE)
    raw.commit()
    assert read_in(reader, name_of) == "b"
    raw.close()
