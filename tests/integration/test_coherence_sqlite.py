"""When is a connection to SQLite a snapshot, and whose transaction is it?"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import StaticPool, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from coherence_world import (
    Base,
    Category,
    Process,
    Product,
    StagedStore,
    World,
    begin_for_real,
    is_hit,
    make_engine,
    name_of,
    names_in,
    read_in,
    rename,
)
from querycache import SnapshotMovedError


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url)
    world.fill()
    yield world
    world.close()


def transactional(world: World, **options: Any) -> Process:
    """Start a process whose transactions begin when SQLAlchemy's do."""
    engine = make_engine(world.url)
    begin_for_real(engine)
    return world.process(engine=engine, **options)


def pin(session: Session) -> None:
    session.execute(text("SELECT name FROM category WHERE id = 9")).all()


# -- the driver's own way: reads are in no transaction ---------------------------------------------------------------


def test_without_a_transaction_each_read_is_served_and_stored(world: World) -> None:
    process, writer = world.process(), world.process()
    with process.session() as session:
        pin(session)
        assert name_of(session) == "a"
        rename(writer, "b")
        assert name_of(session) == "b"
    assert is_hit(process)


def test_while_a_cursor_is_open_nothing_is_stored(world: World) -> None:
    process, writer = world.process(), world.process()
    with process.session() as session:
        rows = session.execute(select(Category.id).execution_options(yield_per=1))
        next(rows)
        rename(writer, "b")
        assert name_of(session) == "a"
        rows.close()
    assert read_in(process, name_of) == "b"


def test_once_the_cursor_is_closed_reads_are_stored_again(world: World) -> None:
    process, writer = world.process(), world.process()
    with process.session() as session:
        rows = session.execute(select(Category.id).execution_options(yield_per=1))
        next(rows)
        rows.close()
        rename(writer, "b")
        assert name_of(session) == "b"
    assert is_hit(process)


def test_a_result_of_core_that_nobody_fetched_keeps_its_cursor_open(world: World) -> None:
    process, writer = world.process(), world.process()
    with process.session() as session:
        rows = session.connection().execute(text("SELECT id FROM category"))
        rows.fetchone()
        rename(writer, "b")
        assert name_of(session) == "a"
        rows.close()
    assert read_in(process, name_of) == "b"


def test_dml_that_begins_with_with_commits_by_itself_and_is_seen(world: World) -> None:
    process, writer = world.process(), world.process()
    read_in(process, name_of)
    with writer.engine.connect() as connection:
        connection.exec_driver_sql("WITH one AS (SELECT 1) UPDATE product SET name = 'b' WHERE id = 1")
        connection.rollback()
    assert read_in(process, name_of) == "b"


def test_a_savepoint_that_no_transaction_is_around_commits_at_its_release(world: World) -> None:
    process, writer = world.process(), world.process()
    read_in(process, name_of)
    with writer.session() as session:
        with session.begin_nested():
            session.get_one(Product, 1).name = "b"
        assert read_in(process, name_of) == read_in(world.process(cached=False), name_of)
        session.rollback()
    assert read_in(process, name_of) == read_in(world.process(cached=False), name_of)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[World]:
    """A file in rollback-journal mode: there a reader keeps a writer from committing."""
    world = World(f"sqlite:///{tmp_path}/journal.sqlite?timeout=0", use_wal=False)
    world.fill()
    yield world
    world.close()


def test_while_sqlite_is_too_busy_to_commit_the_marks_stay(busy: World) -> None:
    writer, reader = busy.process(), busy.process(cached=False)
    with reader.engine.connect() as blocker, writer.session() as session:
        rows = blocker.execute(text("SELECT id FROM product"))
        rows.fetchone()
        session.get_one(Product, 1).name = "b"
        with pytest.raises(OperationalError, match="locked"):
            session.commit()
        assert busy.store.stats().marks
        rows.close()
        session.rollback()
    assert busy.store.stats().marks == 0


def test_a_connection_given_back_after_sqlite_was_busy_still_owes_its_changes(busy: World) -> None:
    writer, blocking, reader = busy.process(), busy.process(cached=False), busy.process()
    read_in(reader, name_of)
    with blocking.engine.connect() as blocker:
        rows = blocker.execute(text("SELECT id FROM product"))
        rows.fetchone()
        with writer.session() as session:
            session.get_one(Product, 1).name = "b"
            with pytest.raises(OperationalError, match="locked"):
                session.commit()
        rows.close()
    assert read_in(writer, name_of) in ("a", "b")
    assert read_in(reader, name_of) == "a"
    with writer.session() as session:
        session.get_one(Category, 3).name = "more"
        session.commit()
    found = read_in(busy.process(cached=False), name_of)
    assert (read_in(reader, name_of), read_in(writer, name_of)) == (found, found)
    assert busy.store.stats().marks == 0


def test_a_pool_that_does_not_reset_still_owes_a_transactions_changes(world: World) -> None:
    writer, reader = world.process(engine_pool_reset_on_return=None), world.process()
    read_in(reader, name_of)
    raw = writer.engine.raw_connection()
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection._transaction = None
    raw.close()
    assert read_in(reader, name_of) == "a"
    with writer.engine.connect() as one, writer.engine.connect() as two:
        for left in (one, two):
            left.exec_driver_sql("SELECT 1")
            left.commit()
    assert read_in(reader, name_of) == "b"


def test_a_second_commit_after_sqlite_was_busy_marks_what_came_in_between(busy: World) -> None:
    writer, blocking = busy.process(), busy.process(cached=False)
    seen: list[int | None] = []
    with blocking.engine.connect() as blocker, writer.engine.connect() as connection:
        rows = blocker.execute(text("SELECT id FROM product"))
        rows.fetchone()
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        proxied = connection.connection
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            writer.engine.dialect.do_commit(proxied)
        rows.close()
        connection.execute(update(Category).where(Category.id == 3).values(name="more"))
        before = busy.store.stats().marks or 0
        busy.store.after["mark"] = lambda: seen.append(busy.store.stats().marks)
        connection.commit()
    assert seen
    assert (seen[0] or 0) > before
    assert busy.store.stats().marks == 0


# -- real transactions -----------------------------------------------------------------------------------------------


def test_in_a_transaction_a_commit_is_seen_by_others_and_not_before(world: World) -> None:
    process, writer = world.process(), transactional(world)
    read_in(process, name_of)
    with writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        assert read_in(process, name_of) == "a"
        session.commit()
    assert read_in(process, name_of) == "b"


def test_in_a_transaction_an_old_snapshot_never_fills(world: World) -> None:
    process, writer = transactional(world), world.process()
    with process.session() as session:
        pin(session)
        rename(writer, "b")
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


def test_in_a_transaction_the_snapshot_is_not_served_what_came_later(world: World) -> None:
    process, writer = transactional(world), world.process()
    read_in(process, name_of)
    world.store.advance(5)
    with process.session() as session:
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"


def test_in_a_transaction_reads_are_stored_and_served(world: World) -> None:
    process = transactional(world)
    read_in(process, name_of)
    world.store.advance(5)
    read_in(process, name_of)
    assert is_hit(process)


def test_a_hit_before_the_snapshot_is_looked_at_again(world: World) -> None:
    process, writer = transactional(world, on_snapshot_moved="raise"), world.process()
    world.store.advance(5)
    read_in(writer, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            pin(session)


def test_rollback_in_a_real_transaction_stores_nothing(world: World) -> None:
    process = transactional(world)
    with process.session() as session:
        session.get_one(Product, 1).name = "dirty"
        session.flush()
        assert name_of(session) == "dirty"
        session.rollback()
    assert read_in(process, name_of) == "a"


@pytest.mark.parametrize("mode", ["AUTOCOMMIT"])
def test_in_autocommit_a_write_is_seen(world: World, mode: str) -> None:
    process, writer = world.process(), world.process(engine_isolation_level=mode)
    read_in(process, name_of)
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        assert read_in(process, name_of) == "b"


if sys.version_info >= (3, 12):

    def test_with_the_drivers_own_autocommit_false_reads_are_stored_and_writes_seen(world: World) -> None:
        process = world.process(engine_connect_args={"autocommit": False})
        writer = world.process(engine_connect_args={"autocommit": False})
        read_in(process, name_of)
        assert is_hit(process)
        with process.session() as session:
            pin(session)
            rename(writer, "b")
            assert name_of(session) == "a"
        assert read_in(process, name_of) == "b"

    def test_with_the_drivers_own_autocommit_true_a_write_is_seen(world: World) -> None:
        process, writer = world.process(), world.process(engine_connect_args={"autocommit": True})
        read_in(process, name_of)
        with writer.engine.connect() as connection:
            connection.execute(update(Product).where(Product.id == 1).values(name="b"))
            assert read_in(process, name_of) == "b"


# -- databases in memory ---------------------------------------------------------------------------------------------


def in_memory(store: StagedStore, **options: Any) -> Process:
    world = World("sqlite://", store)
    process = world.process(**{f"engine_{name}": value for name, value in options.items()})
    Base.metadata.create_all(process.engine)
    with process.session() as session:
        session.add_all([Category(id=3, name="c3"), Product(id=1, name="a", category_id=3)])
        session.commit()
    return process


@pytest.mark.parametrize(
    "options", [{}, {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}], ids=["default", "static"]
)
def test_what_another_session_on_the_one_connection_has_not_committed_is_never_stored(
    options: dict[str, Any],
) -> None:
    process = in_memory(StagedStore(), **options)
    with process.session() as one:
        one.get_one(Product, 1).name = "dirty"
        one.flush()
        with process.session() as two:
            assert name_of(two) == "dirty"
            assert names_in(two, 3) == ["dirty"]
            two.connection()
        one.rollback()
    assert read_in(process, name_of) == "a"
    assert read_in(process, lambda session: names_in(session, 3)) == ["a"]
    process.engine.dispose()


def test_two_databases_in_memory_share_nothing() -> None:
    store = StagedStore()
    one, two = in_memory(store), in_memory(store)
    rename(two, "other")
    assert read_in(one, name_of) == "a"
    assert read_in(two, name_of) == "other"
    assert read_in(one, name_of) == "a"
    for process in (one, two):
        process.engine.dispose()


def test_a_new_database_in_memory_does_not_find_what_the_old_one_had() -> None:
    process = in_memory(StagedStore(), poolclass=StaticPool, connect_args={"check_same_thread": False})
    read_in(process, name_of)
    process.engine.dispose()
    Base.metadata.create_all(process.engine)
    assert read_in(process, name_of) is None
    process.engine.dispose()


def test_an_engine_attached_while_a_transaction_is_under_way_stores_none_of_it() -> None:
    world = World("sqlite://")
    engine = make_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Category(id=3, name="c3"), Product(id=1, name="a", category_id=3)])
        session.commit()
    with Session(engine) as early:
        early.get_one(Product, 1).name = "dirty"
        early.flush()
        process = world.process(engine=engine)
        with process.session() as session:
            session.connection()
            assert name_of(session) == "dirty"
            early.rollback()
    assert read_in(process, name_of) == "a"
    world.close()


def test_the_commit_of_a_transaction_that_was_under_way_when_the_engine_was_attached_is_heard(world: World) -> None:
    engine = make_engine(world.url, poolclass=StaticPool)
    reader = world.process()
    read_in(reader, name_of)
    with Session(engine) as early:
        early.get_one(Product, 1).name = "b"
        early.flush()
        process = world.process(engine=engine)
        other = process.engine.connect()
        early.commit()
        other.close()
    assert read_in(reader, name_of) == "b"


# -- which database --------------------------------------------------------------------------------------------------


def test_two_urls_of_one_file_are_one_database(world: World) -> None:
    process = world.process()
    path = world.url.removeprefix("sqlite:///")
    other = world.process(engine=make_engine(f"sqlite:///file:{path}?uri=true"))
    read_in(process, name_of)
    assert is_hit(other)
    rename(other, "b")
    assert read_in(process, name_of) == "b"
