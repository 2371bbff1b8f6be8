"""Are the ways heard that only one driver has to change rows: COPY, blocks, scripts, blobs, procedures?"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]
import pytest
from pymysql.constants import CLIENT  # type: ignore[import-untyped]

from coherence_world import Process, World, is_hit, make_engine, name_of, names_in, read_in, rename

UPDATE = "UPDATE product SET name = 'b' WHERE id = 1"


class Side:
    """Two processes on one database: one reads, the other has a raw connection."""

    def __init__(self, url: str, **options: Any) -> None:
        self.world = World(url)
        self.world.fill()
        self.writer = self.world.process(**options)
        self.reader = self.world.process()
        read_in(self.reader, name_of)
        read_in(self.reader, lambda session: names_in(session, 9))
        self.fairy = self.writer.engine.raw_connection()
        self.raw: Any = self.fairy.driver_connection

    @property
    def name(self) -> Any:
        return read_in(self.reader, name_of)

    @property
    def new_names(self) -> list[str]:
        names: list[str] = read_in(self.reader, lambda session: names_in(session, 9))
        return names

    def close(self) -> None:
        self.fairy.close()
        self.world.close()


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[Side]:
    side = Side(postgresql_url)
    yield side
    side.close()


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[Side]:
    side = Side(sqlite_url)
    yield side
    side.close()


@pytest.fixture
def mariadb(mariadb_url: str) -> Iterator[Side]:
    side = Side(mariadb_url)
    yield side
    side.close()


# -- psycopg ---------------------------------------------------------------------------------------------------------


def test_rows_copied_in_are_seen_after_the_drivers_commit(postgresql: Side) -> None:
    with (
        postgresql.raw.cursor() as cursor,
        cursor.copy("COPY product (id, name, stock, category_id) FROM STDIN") as copy,
    ):
        copy.write_row((20, "new", 0, 9))
    assert postgresql.new_names == []
    postgresql.raw.commit()
    assert postgresql.new_names == ["new"]


def test_rows_copied_in_autocommit_are_seen_when_the_block_ends(postgresql: Side) -> None:
    postgresql.raw.autocommit = True
    with postgresql.raw.cursor() as cursor:
        with cursor.copy("COPY product (id, name, stock, category_id) FROM STDIN") as copy:
            copy.write_row((20, "new", 0, 9))
            assert postgresql.new_names == []
        assert postgresql.new_names == ["new"]
    postgresql.raw.autocommit = False


def test_a_stream_of_rows_that_a_change_returns_is_marked_until_it_ends(postgresql: Side) -> None:
    postgresql.raw.autocommit = True
    with postgresql.raw.cursor() as cursor:
        for _ in cursor.stream(UPDATE + " RETURNING id"):
            assert postgresql.world.store.stats().marks
    assert postgresql.name == "b"
    postgresql.raw.autocommit = False


def test_a_block_of_the_drivers_own_is_marked_until_it_ends(postgresql: Side) -> None:
    postgresql.raw.autocommit = True
    with postgresql.raw.transaction():
        postgresql.raw.execute(UPDATE)
        assert postgresql.name == "a"
    assert postgresql.name == "b"
    assert postgresql.world.store.stats().marks == 0
    postgresql.raw.autocommit = False


def test_a_block_within_a_transaction_is_seen_after_the_outer_commit(postgresql: Side) -> None:
    postgresql.raw.execute("SELECT 1")
    with postgresql.raw.transaction():
        postgresql.raw.execute(UPDATE)
    assert postgresql.name == "a"
    postgresql.raw.commit()
    assert postgresql.name == "b"


def test_a_pipeline_is_marked_until_it_ends(postgresql: Side) -> None:
    postgresql.raw.autocommit = True
    with postgresql.raw.pipeline():
        postgresql.raw.execute(UPDATE)
        assert postgresql.name in ("a", "b")
    assert postgresql.name == "b"
    postgresql.raw.autocommit = False


def test_a_transaction_of_the_drivers_in_two_phases_is_seen(postgresql: Side) -> None:
    """Few servers allow prepared transactions; one that is committed in one phase needs no such setting."""
    postgresql.raw.tpc_begin("one")
    postgresql.raw.execute(UPDATE)
    postgresql.raw.tpc_commit()
    assert postgresql.name == "b"


def test_a_composed_statement_may_be_anything(postgresql: Side) -> None:
    postgresql.raw.execute(psycopg.sql.SQL("UPDATE {} SET name = 'b'").format(psycopg.sql.Identifier("product")))
    postgresql.raw.commit()
    assert postgresql.name == "b"


def test_a_drivers_connection_lost_in_its_block_stays_marked(postgresql: Side) -> None:
    with pytest.raises(psycopg.OperationalError), postgresql.raw.transaction():  # noqa: PT012
        postgresql.raw.execute(UPDATE)
        with postgresql.writer.engine.connect() as other:
            other.exec_driver_sql(f"SELECT pg_terminate_backend({postgresql.raw.info.backend_pid})")
        postgresql.raw.execute("SELECT 1")
    assert postgresql.world.store.stats().marks


# -- sqlite3 ---------------------------------------------------------------------------------------------------------


def test_a_script_is_seen_and_what_it_commits(sqlite: Side) -> None:
    sqlite.raw.execute(UPDATE)
    assert sqlite.name == "a"
    sqlite.raw.executescript("INSERT INTO product (id, name, stock, category_id) VALUES (20, 'new', 0, 9);")
    assert (sqlite.name, sqlite.new_names) == ("b", ["new"])


def test_to_change_the_isolation_level_of_sqlite_commits_what_is_pending(sqlite: Side) -> None:
    sqlite.raw.execute(UPDATE)
    assert sqlite.name == "a"
    sqlite.raw.isolation_level = None
    assert sqlite.name == "b"
    sqlite.raw.isolation_level = ""


def test_a_change_of_sqlite_in_autocommit_that_returns_rows_stays_marked_until_they_are_fetched(sqlite: Side) -> None:
    sqlite.raw.isolation_level = None
    cursor = sqlite.raw.cursor()
    cursor.execute(UPDATE + " RETURNING id")
    assert sqlite.name == "a"
    cursor.fetchall()
    assert sqlite.name == "b"
    sqlite.raw.isolation_level = ""


def test_while_a_raw_cursor_of_sqlite_has_rows_to_fetch_nothing_is_stored(sqlite: Side) -> None:
    process = sqlite.world.process()
    with process.session() as session:
        cursor = session.connection().connection.cursor()
        cursor.execute("SELECT id FROM category")
        cursor.fetchone()
        rename(sqlite.writer, "b")
        assert name_of(session) == "a"
        cursor.close()
    assert read_in(process, name_of) == "b"


def test_once_a_raw_cursor_of_sqlite_has_no_more_rows_reads_are_stored(sqlite: Side) -> None:
    process = sqlite.world.process()
    rename(sqlite.writer, "b")
    with process.session() as session:
        cursor = session.connection().connection.cursor()
        cursor.execute("SELECT id FROM category")
        cursor.fetchall()
        assert name_of(session) == "b"
        cursor.close()
    assert is_hit(process)


def test_a_class_of_connections_that_the_application_gives_sqlite_is_kept(sqlite_url: str) -> None:
    class Own(sqlite3.Connection):
        def answer(self) -> int:
            return 42

    side = Side(sqlite_url, engine_connect_args={"factory": Own})
    assert side.raw.answer() == 42
    side.raw.execute(UPDATE)
    side.raw.commit()
    assert side.name == "b"
    side.close()


def test_a_class_of_cursors_that_the_application_asks_sqlite_for_is_kept(sqlite: Side) -> None:
    class Own(sqlite3.Cursor):
        def answer(self) -> int:
            return 42

    cursor = sqlite.raw.cursor(Own)
    assert cursor.answer() == 42
    cursor.execute(UPDATE)
    sqlite.raw.commit()
    assert sqlite.name == "b"


def test_a_blob_written_in_place_is_seen(sqlite: Side) -> None:
    if not hasattr(sqlite.raw, "blobopen"):
        return  # Python may be built without
    with sqlite.raw.blobopen("product", "name", 1) as blob:
        blob.write(b"b")
    sqlite.raw.commit()
    assert sqlite.name in ("b", b"b")


# -- PyMySQL ---------------------------------------------------------------------------------------------------------


def test_a_query_without_a_cursor_is_seen(mariadb: Side) -> None:
    mariadb.raw.query(UPDATE)
    mariadb.raw.commit()
    assert mariadb.name == "b"


@pytest.mark.parametrize("call", ["begin", "autocommit"])
def test_a_call_that_commits_implicitly_is_seen(mariadb: Side, call: str) -> None:
    send = mariadb.raw.cursor()
    send.execute(UPDATE)
    assert mariadb.name == "a"
    getattr(mariadb.raw, call)(*([True] if call == "autocommit" else []))
    assert mariadb.name == "b"
    mariadb.raw.autocommit(False)
    send.close()


def test_a_procedure_called_by_the_driver_is_seen(mariadb: Side) -> None:
    cursor = mariadb.raw.cursor()
    cursor.execute(f"CREATE PROCEDURE p() BEGIN {UPDATE}; COMMIT; END")
    cursor.callproc("p")
    assert mariadb.name == "b"


def test_a_cursor_that_streams_is_heard(mariadb: Side) -> None:
    cursor = mariadb.raw.cursor(pymysql.cursors.SSCursor)
    cursor.execute(UPDATE)
    mariadb.raw.commit()
    assert mariadb.name == "b"
    assert type(cursor).__name__ == "SSCursor"


# -- a statement that goes on after its first result -----------------------------------------------------------------


@contextmanager
def held(process: Process, lock: str) -> Iterator[None]:
    """Hold a lock of the server's, which what waits for it cannot pass."""
    with process.engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT GET_LOCK('{lock}', 10)").all()
        yield
        connection.exec_driver_sql(f"SELECT RELEASE_LOCK('{lock}')").all()


GOES_ON = f"CREATE PROCEDURE goes_on() BEGIN SELECT 1; DO GET_LOCK('querycache_goes_on', 30); {UPDATE}; COMMIT; END"


@pytest.mark.parametrize("is_raw", [False, True], ids=["sqlalchemy", "driver"])
def test_a_procedure_that_commits_after_its_first_result_stays_marked(mariadb: Side, is_raw: bool) -> None:
    plain = mariadb.world.process(cached=False)
    with mariadb.writer.engine.begin() as connection:
        connection.exec_driver_sql(GOES_ON)
    with mariadb.writer.engine.connect() as connection:
        with held(plain, "querycache_goes_on"):
            if is_raw:
                connection.connection.cursor().execute("CALL goes_on()")
            else:
                connection.exec_driver_sql("CALL goes_on()")
            assert mariadb.name == "a"
        _wait_until(lambda: read_in(plain, name_of) == "b")
        assert mariadb.name == "b"
        connection.rollback()
    assert mariadb.name == "b"
    assert mariadb.world.store.stats().marks == 0


def test_several_statements_in_one_text_stay_marked_until_the_transaction_ends(mariadb_url: str) -> None:
    side = Side(mariadb_url, engine_connect_args={"client_flag": CLIENT.MULTI_STATEMENTS})
    plain = side.world.process(cached=False)
    with side.writer.engine.connect() as connection:
        with held(plain, "querycache_several"):
            connection.exec_driver_sql(f"SELECT 1; DO GET_LOCK('querycache_several', 30); {UPDATE}; COMMIT")
            assert side.name == "a"
        _wait_until(lambda: read_in(plain, name_of) == "b")
        assert side.name == "b"
        connection.rollback()
    assert side.name == "b"
    side.close()


def _wait_until(condition: Any) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_the_class_of_a_connection_is_made_once(sqlite_url: str) -> None:
    engine = make_engine(sqlite_url)
    world = World(sqlite_url)
    world.fill()
    process = world.process(engine=engine)
    one, two = (process.engine.raw_connection() for _ in range(2))
    assert type(one.driver_connection) is type(two.driver_connection)
    for connection in (one, two):
        connection.close()
    world.close()
