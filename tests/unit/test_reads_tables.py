"""Is every table that a SELECT reads named, whatever the shape? SQLite itself says what it reads; for MySQL sqlglot does."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
import sqlglot
from sqlalchemy import Connection, Engine, create_engine, select
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Session
from sqlalchemy.pool import StaticPool
from sqlglot import exp

from querycache import FromCache, QueryCache
from querycache._rendering import record_rendering
from querycache._sqlalchemy import compile_statement
from querycache.statements import elements, fingerprint, narrowing, reads
from querycache.statements.fingerprint import Shape, shape_of
from read_shapes import SHAPES, SQLITE, Author, Base, Book, ReadShape

ALL = {**SHAPES, **SQLITE}
ONLY_NAMED = {"a CTE that nothing refers to": {"tag"}}
"""What is in the text of a statement and read by nobody."""


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    record_rendering(engine.dialect)
    with engine.connect() as connection:
        Base.metadata.create_all(connection)
        yield connection
    engine.dispose()


def shape_on(engine: Engine, statement: Any) -> Shape:
    return shape_of(compile_statement(statement, engine, engine.dialect, {}, []).compiled, engine.dialect)


def tables_of(shape: Shape) -> set[str]:
    assert shape.reads is not None, shape.why_not
    return {element.table.name for element in shape.reads.elements} | {name for _, name in shape.reads.named}


def read_by_sqlite(connection: Connection, statement: Any) -> set[str]:
    """Return the tables that SQLite reads for a statement, as its authorizer hears."""
    found: set[str] = set()

    def hear(action: int, name: str | None, *rest: object) -> int:
        if action == sqlite3.SQLITE_READ and name is not None:
            found.add(name)
        return sqlite3.SQLITE_OK

    driver: Any = connection.connection.dbapi_connection
    driver.set_authorizer(hear)
    try:
        connection.execute(statement)
    finally:
        driver.set_authorizer(None)
    return found & set(Base.metadata.tables)


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
@pytest.mark.parametrize("name", [name for name, shape in ALL.items() if shape.refused is None])
def test_what_sqlite_reads_is_named(connection: Connection, name: str) -> None:
    statement = ALL[name].build()
    named = tables_of(shape_on(connection.engine, statement))
    assert named == read_by_sqlite(connection, statement) | ONLY_NAMED.get(name, set())


@pytest.mark.parametrize("shape", [shape for shape in ALL.values() if shape.refused is not None])
def test_what_is_not_understood_is_refused_with_the_reason(connection: Connection, shape: ReadShape) -> None:
    assert shape.refused is not None
    assert shape.refused in (shape_on(connection.engine, shape.build()).why_not or "")


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.refused is None])
def test_what_stands_in_the_text_for_mysql_is_named(name: str) -> None:
    dialect = mysql.dialect()
    record_rendering(dialect)
    compiled = SHAPES[name].build().compile(dialect=dialect)
    text = sqlglot.parse_one(str(compiled).replace("%s", "1"), dialect="mysql")
    ctes = {cte.alias for cte in text.find_all(exp.CTE)}
    assert tables_of(shape_of(compiled, dialect)) == {table.name for table in text.find_all(exp.Table)} - ctes


# -- what if a table is lost? ----------------------------------------------------------------------------------------


@pytest.fixture
def cache() -> Iterator[tuple[QueryCache, Engine]]:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    cache = QueryCache("memory://")
    cache.attach(engine)
    yield cache, engine
    cache.close()
    engine.dispose()


def lose_books(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the extractor overlook one table, wherever it stands."""
    found, narrowed = elements.inventory_of, narrowing.narrowings_of

    def inventory_of(*arguments: Any, **options: Any) -> Any:
        inventory = found(*arguments, **options)
        kept = tuple(source for source in inventory.sources if source.name != "book")
        return elements.Inventory(inventory.selects, kept, inventory.functions, inventory.clock_binds)

    monkeypatch.setattr(reads, "inventory_of", inventory_of)
    monkeypatch.setattr(
        reads, "narrowings_of", lambda *given: [each for each in narrowed(*given) if each.table.name != "book"]
    )


def test_a_statement_of_which_a_table_was_lost_is_not_cached_and_told_of(
    cache: tuple[QueryCache, Engine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    querycache, engine = cache
    lose_books(monkeypatch)
    statement = select(Author.name).where(Author.books.any()).options(FromCache())
    with caplog.at_level(logging.ERROR, "querycache"):
        for _ in range(2):
            with Session(engine) as session:
                session.execute(statement)
    counts = querycache.stats()["counts"]
    assert (counts["defect"], counts.get("fill", 0)) == (2, 0)
    (told,) = caplog.messages
    assert "the compiler rendered what the extractor did not name: book" in told


def test_without_the_final_check_it_would_have_been_cached(
    cache: tuple[QueryCache, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    querycache, engine = cache
    lose_books(monkeypatch)
    monkeypatch.setattr(fingerprint, "_missed_tables", lambda *given: [])
    with Session(engine) as session:
        session.execute(select(Author.name).where(Author.books.any()).options(FromCache()))
    assert querycache.stats()["counts"].get("defect", 0) == 0


def test_a_place_of_a_table_that_was_lost_widens_the_table(
    monkeypatch: pytest.MonkeyPatch, connection: Connection
) -> None:
    narrowed = narrowing.narrowings_of
    statement = select(Book.id).where(Book.id == 1, Book.author_id.in_(select(Author.id).where(Author.boss_id == 2)))
    twice = statement.where(Book.author_id.in_(select(Author.id).where(Author.id == 3)))
    monkeypatch.setattr(
        reads, "narrowings_of", lambda *given: [each for each in narrowed(*given) if "boss_id" not in each.columns]
    )
    connection.engine.clear_compiled_cache()
    found = shape_on(connection.engine, twice).reads
    assert found is not None
    assert [element.narrowing is None for element in found.elements if element.table.name == "author"] == [False, True]
