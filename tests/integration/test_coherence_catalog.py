"""Does a process hear of DDL that another one sent, in what it writes and in what it reads?

A trigger that one process makes has to widen what every process marks from then on, and a table that is no longer plain has
to be cached by nobody: though none of them was restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import make_url, select, update
from sqlalchemy.orm import Session

from coherence_world import Category, Process, Product, World, is_hit, name_of, read_in, rename
from servers import database

TRIGGER = "CREATE TRIGGER copied AFTER UPDATE ON product FOR EACH ROW"
COPY = "UPDATE category SET name = NEW.name WHERE id = 9"


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def writer(world: World) -> Process:
    """A process that wrote, and knows the catalog of that time."""
    return acquainted(world.process())


@pytest.fixture
def migration(world: World, writer: Process) -> Process:
    return acquainted(world.process())


@pytest.fixture
def reader(world: World, migration: Process) -> Process:
    return acquainted(world.process())


def acquainted(process: Process) -> Process:
    rename(process, "a0")
    read_in(process, copied)
    return process


def copied(session: Session) -> str | None:
    """Read what the trigger writes."""
    return session.scalars(select(Category.name).where(Category.id == 9)).one()


def make_trigger(process: Process) -> None:
    """Have the database copy each product's new name to category 9."""
    kind = process.engine.dialect.name
    with process.engine.begin() as connection:
        if kind == "postgresql":
            connection.exec_driver_sql(
                f"CREATE FUNCTION copy_name() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {COPY}; RETURN NEW; END $$"
            )
            connection.exec_driver_sql(f"{TRIGGER} EXECUTE FUNCTION copy_name()")
        else:
            connection.exec_driver_sql(f"{TRIGGER} BEGIN {COPY}; END" if kind == "sqlite" else f"{TRIGGER} {COPY}")


def write_by_flush(process: Process) -> None:
    with process.session() as session:
        session.add(Product(id=3, name="c", category_id=3))
        session.flush()
        session.execute(update(Product).where(Product.id == 1).values(name="b"))
        session.commit()


def write_by_core(process: Process) -> None:
    with process.engine.begin() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))


def write_in_autocommit(process: Process) -> None:
    with process.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))


@pytest.mark.parametrize("write", [write_by_flush, write_by_core, write_in_autocommit])
def test_a_write_reaches_what_a_trigger_made_by_another_process_changes(
    writer: Process, migration: Process, reader: Process, write: Callable[[Process], None]
) -> None:
    make_trigger(migration)
    assert read_in(reader, copied) == "c9"
    assert is_hit(reader, copied)
    write(writer)
    assert read_in(reader, copied) == "b"


def test_a_write_before_a_process_knows_of_ddl_drops_everything_and_the_next_does_not(
    writer: Process, migration: Process, reader: Process
) -> None:
    with migration.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE unrelated (id INTEGER PRIMARY KEY)")
    read_in(reader, copied)
    write_by_core(writer)
    assert not is_hit(reader, copied)
    write_by_core(writer)
    assert is_hit(reader, copied)


def test_a_trigger_made_inside_of_an_autocommit_writes_own_mark_is_heard_before_its_release(
    world: World, writer: Process, migration: Process, reader: Process
) -> None:
    """The DDL lands between the mark and the statement: no lock was held that it would have waited for."""
    read_in(reader, copied)

    def make_trigger_now() -> None:
        make_trigger(migration)
        assert read_in(reader, copied) == "c9"
        assert is_hit(reader, copied)

    world.store.after["mark"] = make_trigger_now
    write_in_autocommit(writer)
    assert read_in(reader, copied) == "b"


def test_a_write_of_a_process_that_cannot_ask_the_store_about_ddl_drops_everything(
    world: World, migration: Process, reader: Process
) -> None:
    """Neither when it asked the catalog nor when it commits does the store say what it asks (it is spared, after it failed):
    that both times nothing is known does not mean that nothing happened in between. Marks are tried all the same."""
    world.store.failing.add("lookup")
    writer = acquainted(world.process())
    world.store.failing.clear()
    make_trigger(migration)
    assert read_in(reader, copied) == "c9"
    assert is_hit(reader, copied)
    world.store.failing.add("lookup")
    write_by_core(writer)
    world.store.failing.clear()
    assert read_in(reader, copied) == "b"


def test_a_transaction_goes_by_the_catalog_of_its_first_change(
    writer: Process, migration: Process, reader: Process
) -> None:
    """Another thread of its process has asked the catalog anew by the time it commits."""
    make_trigger(migration)
    read_in(reader, copied)
    with writer.engine.begin() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        ask_again(writer)
    assert read_in(reader, copied) == "b"


def ask_again(process: Process) -> None:
    """Have a process notice DDL, as a read of its would."""
    assert process.cache is not None
    (bind,) = process.cache._binds.known()
    bind.forget_survey()
    process.cache._attachments[0].ask()


@pytest.fixture
def prepared(prepared_postgresql_url: str) -> Iterator[World]:
    with database(make_url(prepared_postgresql_url), "catalog") as url:
        world = World(url.render_as_string(hide_password=False))
        world.fill()
        yield world
        world.close()


def test_a_transaction_prepared_by_a_process_that_does_not_know_of_a_trigger_is_seen_when_it_is_committed(
    prepared: World,
) -> None:
    writer, migration, reader = (acquainted(prepared.process()) for _ in range(3))
    make_trigger(migration)
    read_in(reader, copied)
    with Session(writer.engine, twophase=True) as session:
        session.execute(update(Product).where(Product.id == 1).values(name="b"))
        session.commit()
    assert read_in(reader, copied) == "b"


def test_a_table_that_another_process_made_a_view_is_no_longer_cached(migration: Process, reader: Process) -> None:
    """Writes to what the view shows are marked by another name."""
    with migration.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE category RENAME TO kind")
        connection.exec_driver_sql("CREATE VIEW category AS SELECT * FROM kind")
    for name in ("one", "two"):
        with migration.engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE kind SET name = '{name}' WHERE id = 9")
        assert read_in(reader, copied) == name


def test_a_session_that_holds_a_connection_reads_past_the_cache_after_ddl_elsewhere(
    migration: Process, reader: Process
) -> None:
    with reader.session() as session:
        session.connection()
        assert name_of(session) == "a0"
        with migration.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE unrelated (id INTEGER PRIMARY KEY)")
        session.rollback()
        session.connection()
        assert name_of(session) == "a0"
    read_in(reader, name_of)
    assert is_hit(reader)


def test_while_ddl_is_being_committed_nothing_is_stored_and_the_catalog_is_not_asked_again_and_again(
    world: World, migration: Process, reader: Process
) -> None:
    asked: list[Any] = []

    def read_in_between() -> None:
        read_in(reader, copied)
        assert reader.cache is not None
        (bind,) = reader.cache._binds.known()
        asked.extend(bind.picture_number for _ in range(3) if read_in(reader, copied))
        assert not is_hit(reader, copied)

    world.store.after["mark"] = read_in_between
    with migration.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE unrelated (id INTEGER PRIMARY KEY)")
    assert len(asked) == 3
    assert len(set(asked)) == 1


def test_a_store_that_was_emptied_has_the_catalog_asked_once_and_reads_are_stored_at_once(
    world: World, reader: Process
) -> None:
    world.store.clear()
    read_in(reader, copied)
    assert is_hit(reader, copied)
