"""Do readers hear of every way in which a text commits on SQLite, or a change commits by itself?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import insert, update
from sqlalchemy.exc import DBAPIError

from coherence_world import Product, World, name_of, read_in

UPDATE = "UPDATE product SET name = 'b' WHERE id = 1"


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url)
    world.fill()
    yield world
    world.close()


@pytest.mark.parametrize("commit", ["COMMIT", "commit ;", "COMMIT TRANSACTION", "END", "END TRANSACTION", "-- x\nEND"])
def test_a_commit_by_text_is_marked_around(world: World, commit: str) -> None:
    writer, reader, plain = world.process(), world.process(), world.process(cached=False)
    read_in(reader, name_of)
    during: list[Any] = []
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
        connection.exec_driver_sql(commit)
        assert during == ["a"]
        assert read_in(reader, name_of) == read_in(plain, name_of) == "b"
        connection.rollback()
    assert read_in(reader, name_of) == read_in(plain, name_of) == "b"
    assert world.store.stats().marks == 0


@pytest.mark.parametrize(
    "statement",
    [
        f"WITH one AS (SELECT 1) {UPDATE}",
        "WITH one AS (SELECT 1) REPLACE INTO product (id, name, stock, category_id) VALUES (1, 'b', 0, 3)",
        "REPLACE INTO product (id, name, stock, category_id) VALUES (1, 'b', 0, 3)",
        "INSERT OR REPLACE INTO product (id, name, stock, category_id) VALUES (1, 'b', 0, 3)",
        "INSERT INTO product VALUES (1, 'x', 0, 3) ON CONFLICT (id) DO UPDATE SET name = 'b'",
        "UPDATE OR IGNORE product SET name = 'b' WHERE id = 1",
        "/* a comment */ " + UPDATE,
        UPDATE + " RETURNING id",
        f"WITH one AS (SELECT 1) {UPDATE} RETURNING id",
    ],
)
@pytest.mark.parametrize("mode", ["legacy", "AUTOCOMMIT"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_change_of_sqlites_is_seen_when_the_database_shows_it(
    world: World, statement: str, mode: str, end: str
) -> None:
    options: dict[str, Any] = {"engine_isolation_level": mode} if mode == "AUTOCOMMIT" else {}
    writer, reader, plain = world.process(**options), world.process(), world.process(cached=False)
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        result = connection.exec_driver_sql(statement)
        assert read_in(reader, name_of) == read_in(plain, name_of)
        if result.returns_rows:
            assert result.all() == [(1,)]
        assert read_in(reader, name_of) == read_in(plain, name_of)
        getattr(connection, end)()
        assert read_in(reader, name_of) == read_in(plain, name_of)
    assert world.store.stats().marks == 0


@pytest.mark.parametrize("build", ["core", "orm"])
def test_a_change_that_returns_rows_in_autocommit_is_over_when_it_is_answered(world: World, build: str) -> None:
    """SQLite commits after the last row has been fetched: a release before that would be too early."""
    writer, reader = world.process(engine_isolation_level="AUTOCOMMIT"), world.process()
    read_in(reader, name_of)
    with writer.session() as session:
        statement: Any = update(Product).where(Product.id == 1).values(name="b").returning(Product.id)
        result = session.execute(statement) if build == "orm" else session.connection().execute(statement)
        assert read_in(reader, name_of) == "b"
        assert [tuple(row) for row in result] == [(1,)]
    assert read_in(reader, name_of) == "b"


def test_rows_inserted_in_batches_in_autocommit_are_seen(world: World) -> None:
    writer, reader = world.process(engine_isolation_level="AUTOCOMMIT"), world.process()
    assert read_in(reader, lambda session: session.get(Product, 20)) is None
    with writer.engine.connect() as connection:
        rows = [{"id": number, "name": "new", "category_id": 9} for number in range(20, 24)]
        found = connection.execute(insert(Product).returning(Product.id), rows)
        assert sorted(found.scalars()) == [20, 21, 22, 23]
        assert read_in(reader, lambda session: session.get_one(Product, 20).name) == "new"
    assert read_in(reader, lambda session: session.get_one(Product, 21).name) == "new"
    assert world.store.stats().marks == 0


@pytest.mark.parametrize(
    "pragma", ["user_version = 7", "application_id = 7", "incremental_vacuum", "wal_checkpoint", "optimize"]
)
def test_a_pragma_that_writes_is_marked_around_what_is_pending(world: World, pragma: str) -> None:
    writer, reader, plain = world.process(), world.process(), world.process(cached=False)
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        during: list[Any] = []
        world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
        with suppress(DBAPIError):  # a checkpoint is refused within a transaction
            connection.exec_driver_sql(f"PRAGMA {pragma}").close()
        assert during == ["a"]
        assert read_in(reader, name_of) == read_in(plain, name_of) == "a"
        connection.commit()
    assert read_in(reader, name_of) == read_in(plain, name_of) == "b"
