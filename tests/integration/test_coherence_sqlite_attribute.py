"""Python 3.12 gave sqlite3 the attribute ``autocommit``: is what it commits heard? There are no tests below 3.12."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text, update
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from coherence_world import Process, Product, World, is_hit, make_engine, name_of, read_in, rename

UPDATE = "UPDATE product SET name = 'b' WHERE id = 1"


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def reader(world: World) -> Process:
    reader = world.process()
    read_in(reader, name_of)
    return reader


def with_attribute(world: World, value: object) -> Process:
    return world.process(engine_connect_args={"autocommit": value})


def pin(session: Session) -> None:
    session.execute(text("SELECT name FROM category WHERE id = 9")).all()


if sys.version_info >= (3, 12):
    LEGACY = sqlite3.LEGACY_TRANSACTION_CONTROL

    def test_with_false_reads_are_stored_and_a_snapshot_is_not(world: World) -> None:
        process, writer = with_attribute(world, False), with_attribute(world, False)
        read_in(process, name_of)
        assert is_hit(process)
        with process.session() as session:
            pin(session)
            rename(writer, "b")
            assert name_of(session) == "a"
        assert read_in(process, name_of) == "b"

    @pytest.mark.parametrize("value", [True, False, LEGACY])
    @pytest.mark.parametrize("statement", [UPDATE, f"WITH one AS (SELECT 1) {UPDATE}", UPDATE + " RETURNING id"])
    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_a_change_is_seen_when_the_database_shows_it(
        world: World, reader: Process, value: object, statement: str, end: str
    ) -> None:
        writer, plain = with_attribute(world, value), world.process(cached=False)
        with writer.engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            assert read_in(reader, name_of) == read_in(plain, name_of)
            if result.returns_rows:
                result.all()
            assert read_in(reader, name_of) == read_in(plain, name_of)
            getattr(connection, end)()
            assert read_in(reader, name_of) == read_in(plain, name_of)
        assert world.store.stats().marks == 0

    @pytest.mark.parametrize("value", [True, False, LEGACY])
    def test_a_session_commits_under_a_mark(world: World, reader: Process, value: object) -> None:
        seen: list[Any] = []
        writer = with_attribute(world, value)
        world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
        rename(writer, "b")
        assert seen == ["a"]
        assert read_in(reader, name_of) == "b"

    @pytest.mark.parametrize("value", [False, LEGACY])
    def test_to_switch_it_on_commits_what_is_pending_and_is_heard(world: World, reader: Process, value: object) -> None:
        seen: list[Any] = []
        writer = with_attribute(world, value)
        with writer.engine.connect() as connection:
            connection.execute(update(Product).where(Product.id == 1).values(name="b"))
            assert read_in(reader, name_of) == "a"
            raw: Any = connection.connection.dbapi_connection
            world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
            raw.autocommit = True
            assert seen == ["a"]
            assert read_in(reader, name_of) == "b"
            connection.rollback()
        assert read_in(reader, name_of) == "b"

    @pytest.mark.parametrize("value", [False, LEGACY])
    def test_a_commit_of_the_driver_is_seen_at_once(world: World, reader: Process, value: object) -> None:
        raw = with_attribute(world, value).engine.raw_connection()
        raw.cursor().execute(UPDATE)
        assert read_in(reader, name_of) == "a"
        raw.commit()
        assert read_in(reader, name_of) == "b"
        raw.close()

    def test_switched_off_again_changes_wait_for_their_commit(world: World, reader: Process) -> None:
        writer = with_attribute(world, True)
        with writer.engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.autocommit = False
            connection.execute(update(Product).where(Product.id == 1).values(name="b"))
            assert read_in(reader, name_of) == "a"
            connection.commit()
            assert read_in(reader, name_of) == "b"
            raw.autocommit = True

    def test_what_was_written_where_a_connection_is_made_is_neither_lost_nor_missed(
        world: World, reader: Process
    ) -> None:
        engine = make_engine(world.url, connect_args={"autocommit": False}, poolclass=NullPool)
        begun = event.listens_for(engine, "connect")(lambda raw, record: raw.execute(UPDATE))
        writer = world.process(engine=engine)
        with writer.engine.connect() as connection:
            assert read_in(reader, name_of) == "a"
            event.remove(engine, "connect", begun)
            connection.begin().commit()
        assert read_in(reader, name_of) == "b"
