"""Is what the library does not know taken for something that may commit and may change anything? On every database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from coherence_world import Category, Process, Product, World, is_hit, name_of, read_in
from querycache.statements.writes import effect_of_textual

UNKNOWN = (
    "FROBNICATE product",
    "COMMITTED",
    "COMMIT PREPARED",
    "COMMIT NOW",
    "END IF",
    "ENDE",
    "ROLLBACK NEVER",
    "BEGIN ISOLATION LEVEL SERIALIZABLE NOW",
    "SAVE POINT x",
    "SETTLE x = 1",
    "SHOWN",
    "SELECTED 1",
    "UPDATES product",
    "EXPLAINED",
    "WITHOUT x AS (SELECT 1) SELECT 1",
    "VACUUM NOW AND THEN",
    "/* */",
    "42",
    "; ;",
    "SELECT 1; FROBNICATE",
    "SELECT FROM WHERE",
)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    world.fill()
    yield world
    world.close()


def test_a_statement_that_is_on_no_list_is_marked_around_with_all_that_is_pending(world: World) -> None:
    writer, reader = world.process(), world.process()
    during: list[bool] = []
    for statement in UNKNOWN:
        during.clear()
        read_in(reader, name_of)
        assert is_hit(reader), statement
        with writer.engine.connect() as connection:
            connection.execute(update(Category).where(Category.id == 9).values(name="x"))
            world.store.after["mark"] = lambda: during.append(not is_hit(reader))
            try_to_send(connection, statement)
            assert during == [True], statement
            connection.rollback()
        assert world.store.stats().marks == 0, statement


def try_to_send(connection: Any, statement: str) -> None:
    """Send a statement of which it does not matter what the database says."""
    with suppress(DBAPIError):
        connection.exec_driver_sql(statement)


def test_a_connection_that_sent_what_is_on_no_list_stores_nothing_until_it_goes_back(world: World) -> None:
    process: Process = world.process()
    with process.engine.connect() as connection:
        try_to_send(connection, "FROBNICATE product")
        connection.rollback()
        with Session(connection) as session:
            assert name_of(session) == "a"
    assert not is_hit(process)


KNOWN_FIRST_WORDS = frozenset(
    {
        *("abort", "attach", "begin", "commit", "delete", "desc", "describe", "detach", "discard", "end", "explain"),
        *("insert", "listen", "merge", "notify", "pragma", "release", "replace", "reset", "rollback", "savepoint"),
        *("select", "set", "show", "start", "table", "unlisten", "update", "use", "values", "with"),
    }
)
REST = st.text(alphabet=" abcdefgxyz0123456789_(),.=*'\"`;", max_size=40)


@given(
    word=st.from_regex(r"[A-Za-z_]{1,14}", fullmatch=True).filter(lambda word: word.lower() not in KNOWN_FIRST_WORDS),
    rest=REST,
    dialect=st.sampled_from(["sqlite", "postgresql", "mysql", "mariadb"]),
)
def test_a_text_that_begins_with_any_other_word_may_do_anything(word: str, rest: str, dialect: str) -> None:
    assert effect_of_textual(f"{word} {rest}", dialect).kind == "unknown"


# fmt: off
COMMANDS = (
    "ALTER", "ANALYZE", "CACHE", "CALL", "CHANGE", "CHECK", "CLUSTER", "COMMENT", "COPY", "CREATE", "DEALLOCATE", "DECLARE",
    "DO", "DROP", "EXECUTE", "FETCH", "FLUSH", "GRANT", "HANDLER", "IMPORT", "INSTALL", "KILL", "LOAD", "LOCK", "MOVE",
    "OPTIMIZE", "PREPARE", "PURGE", "REASSIGN", "REFRESH", "REINDEX", "RENAME", "REPAIR", "REVOKE", "SECURITY", "SHUTDOWN",
    "SIGNAL", "STOP", "TRUNCATE", "UNINSTALL", "UNLOCK", "VACUUM", "XA",
)
# fmt: on


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql", "mariadb"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_may_commit_is_on_no_list(dialect: str, command: str) -> None:
    assert effect_of_textual(f"{command} product", dialect).kind == "unknown"


@pytest.mark.parametrize("dialect", ["oracle", "mssql", "duckdb"])
def test_of_a_database_that_is_not_known_no_text_is(dialect: str) -> None:
    assert effect_of_textual("SELECT 1", dialect).kind == "unknown"


def test_a_change_of_an_unlisted_statement_that_worked_is_seen(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    statement = {
        "sqlite": "ALTER TABLE category ADD COLUMN more INTEGER",
        "postgresql": "DO $$ BEGIN UPDATE product SET name = 'b' WHERE id = 1; END $$",
        "mariadb": "BEGIN NOT ATOMIC UPDATE product SET name = 'b' WHERE id = 1; END",
    }[writer.engine.dialect.name]
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.exec_driver_sql(statement)
        connection.commit()
    assert read_in(reader, name_of) == "b"
