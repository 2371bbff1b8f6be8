"""What a real MariaDB says about itself and its catalog."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from querycache.databases import Profile, Survey, autocommit_of, in_transaction_of, profile_of, survey_of


@pytest.fixture
def engine(mariadb_url: str) -> Iterator[Engine]:
    engine = create_engine(mariadb_url, poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def schema(mariadb_url: str) -> str:
    return str(make_url(mariadb_url).database)


@pytest.fixture
def surveyed(engine: Engine) -> Callable[..., Survey]:
    def survey(*statements: str) -> Survey:
        run(engine, *statements)
        with engine.connect() as connection:
            return survey_of(engine.dialect, raw(connection))

    return survey


def raw(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def profile(url: Any, **settings: Any) -> Profile:
    engine = create_engine(url, poolclass=NullPool, **settings)
    try:
        with engine.connect() as connection:
            return profile_of(engine.dialect, raw(connection), pool=engine.pool)
    finally:
        engine.dispose()


def without_database(url: URL) -> URL:
    return URL.create(url.drivername, url.username, url.password, url.host, url.port, query=url.query)


@contextmanager
def user_with(engine: Engine, url: str, *rights: str) -> Iterator[URL]:
    """Make a user with these rights and give the URL to log in with."""
    name = f"survey_{secrets.token_hex(4)}"
    run(
        engine,
        f"CREATE USER {name}@'%%' IDENTIFIED BY 'secret'",
        f"CREATE USER {name}@localhost IDENTIFIED BY 'secret'",
    )
    try:
        for host in ("'%%'", "localhost"):
            run(engine, *(f"GRANT {right} TO {name}@{host}" for right in rights))
        yield make_url(url).set(username=name, password="secret")
    finally:
        run(engine, f"DROP USER {name}@'%%', {name}@localhost")


def test_one_server_has_one_identity_by_any_url_database_and_user(
    engine: Engine, mariadb_url: str, schema: str
) -> None:
    url = make_url(mariadb_url)
    with engine.connect() as connection:
        socket = connection.exec_driver_sql("SELECT @@socket").scalar_one()
    with user_with(engine, mariadb_url, f"SELECT ON {schema}.*") as other_user:
        seen = {
            profile(url).identity,
            profile(other_user).identity,
            profile(without_database(url)).identity,
            profile(url.set(drivername="mysql+pymysql")).identity,
        }
        with suppress(OperationalError):  # a server elsewhere
            seen.add(profile(url.set(query={"unix_socket": socket})).identity)
    (identity,) = seen
    assert identity is not None


def test_a_dialect_that_has_not_connected_yet_takes_the_server_for_what_it_is(engine: Engine, mariadb_url: str) -> None:
    """The dialect learns that its MySQL is a MariaDB with the engine's first connection; a profile may come before."""
    fresh = create_engine(make_url(mariadb_url).set(drivername="mysql+pymysql"), poolclass=NullPool)
    with engine.connect() as connection:
        said = profile_of(fresh.dialect, raw(connection))
    assert said.identity == profile(mariadb_url).identity


def test_the_incarnation_is_exact_for_every_connection_whatever_its_clock_says(mariadb_url: str) -> None:
    first = profile(mariadb_url)
    assert first.incarnation
    for settings in ("SET time_zone = '+09:00'", "SET timestamp = 17", "SET timestamp = 1.5"):
        assert profile(mariadb_url, connect_args={"init_command": settings}).incarnation == first.incarnation


def test_the_profile_tells_level_schema_and_role(mariadb_url: str, schema: str) -> None:
    said = profile(mariadb_url)
    assert (said.isolation, said.default_schema, said.is_replica) == ("REPEATABLE READ", schema, False)
    assert (said.scope, said.why_not) == ("shared", "")


def test_isolation_is_that_of_the_connection(mariadb_url: str) -> None:
    command = {"init_command": "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"}
    assert profile(mariadb_url, connect_args=command).isolation == "READ COMMITTED"


def test_a_connection_without_a_database_has_an_empty_default_schema(mariadb_url: str) -> None:
    assert profile(without_database(make_url(mariadb_url))).default_schema == ""


def test_autocommit_is_the_drivers_whoever_set_it(mariadb_url: str) -> None:
    for settings in ({"connect_args": {"autocommit": True}}, {"isolation_level": "AUTOCOMMIT"}):
        engine = create_engine(mariadb_url, poolclass=NullPool, **settings)
        with engine.connect() as connection:
            assert autocommit_of(engine.dialect, raw(connection))
        engine.dispose()


def test_autocommit_set_by_text_is_seen(engine: Engine) -> None:
    with engine.connect() as connection:
        assert not autocommit_of(engine.dialect, raw(connection))
        assert in_transaction_of(engine.dialect, raw(connection)) is None
        connection.execute(text("SET autocommit = 1"))
        assert autocommit_of(engine.dialect, raw(connection))


def test_an_ordinary_table_is_plain_and_its_writes_are_known(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed(
        "CREATE TABLE Plain (id int PRIMARY KEY AUTO_INCREMENT, code varchar(9) UNIQUE) ENGINE=InnoDB",
        "CREATE TABLE parts (id int PRIMARY KEY) ENGINE=InnoDB PARTITION BY HASH (id) PARTITIONS 2",
    )
    for name in ("plain", "parts"):
        assert survey.why_not_plain((schema, name)) is None
        assert survey.writes_are_known((schema, name))


@pytest.mark.parametrize("name", [("mysql", "user"), ("information_schema", "tables")])
def test_a_table_of_the_system_is_not_plain(surveyed: Callable[..., Survey], name: tuple[str, str]) -> None:
    assert not surveyed().plain(name)


@pytest.mark.parametrize("kept_by", ["MyISAM", "Aria", "MEMORY"])
def test_a_table_without_transactions_is_not_plain(surveyed: Callable[..., Survey], schema: str, kept_by: str) -> None:
    survey = surveyed(f"CREATE TABLE t (id int) ENGINE={kept_by}")
    assert f"is kept by the {kept_by} engine" in str(survey.why_not_plain((schema, "t")))


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("CREATE VIEW x AS SELECT * FROM t", "is a view"),
        ("CREATE TABLE x (id int) WITH SYSTEM VERSIONING", "is a system-versioned table"),
        ("CREATE SEQUENCE x", "is not an ordinary table"),
    ],
)
def test_what_is_no_ordinary_table_is_not_plain_nor_are_its_writes_known(
    surveyed: Callable[..., Survey], schema: str, statement: str, kind: str
) -> None:
    survey = surveyed("CREATE TABLE t (id int)", statement)
    assert survey.why_not_plain((schema, "x")) == kind
    assert not survey.writes_are_known((schema, "x"))


def test_a_trigger_makes_writes_unknown(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed(
        "CREATE TABLE t (id int)",
        "CREATE TABLE other (id int)",
        "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW INSERT INTO other VALUES (1)",
    )
    assert survey.plain((schema, "t"))
    assert not survey.writes_are_known((schema, "t"))
    assert survey.writes_are_known((schema, "other"))


@pytest.mark.parametrize(
    ("rights", "known"),
    [
        (["SELECT, INSERT, UPDATE, DELETE ON {schema}.*"], False),
        (["SELECT ON {schema}.*", "TRIGGER ON {schema}.other"], False),
        (["SELECT ON {schema}.*", "TRIGGER ON {schema}.t"], True),
        (["ALL ON {schema}.*"], True),
        (["ALL ON `{pattern}`.*"], True),
        (["SELECT, TRIGGER ON *.*"], True),
    ],
    ids=["none", "another table", "this table", "the schema", "a pattern", "everywhere"],
)
def test_writes_are_known_only_to_a_user_who_would_be_shown_a_trigger(
    engine: Engine, mariadb_url: str, schema: str, rights: list[str], known: bool
) -> None:
    run(engine, "CREATE TABLE t (id int)", "CREATE TABLE other (id int)")
    pattern = schema[:-2].replace("_", "\\_") + "__"
    granted = [right.format(schema=schema, pattern=pattern) for right in rights]
    with user_with(engine, mariadb_url, *granted) as url:
        theirs = create_engine(url, poolclass=NullPool)
        with theirs.connect() as connection:
            survey = survey_of(theirs.dialect, raw(connection))
        theirs.dispose()
    assert survey.plain((schema, "t"))
    assert survey.writes_are_known((schema, "t")) is known


def test_cascades_are_followed_over_chain_self_reference_set_null_and_update(
    surveyed: Callable[..., Survey], schema: str
) -> None:
    survey = surveyed(
        "CREATE TABLE a (id int PRIMARY KEY, code int UNIQUE, up int,"
        " FOREIGN KEY (up) REFERENCES a (id) ON DELETE CASCADE)",
        "CREATE TABLE b (id int PRIMARY KEY, a_id int UNIQUE, FOREIGN KEY (a_id) REFERENCES a (id) ON DELETE SET NULL)",
        "CREATE TABLE c (a_id int, FOREIGN KEY (a_id) REFERENCES b (a_id) ON UPDATE CASCADE)",
        "CREATE TABLE d (a_code int, FOREIGN KEY (a_code) REFERENCES a (code) ON UPDATE SET NULL)",
        "CREATE TABLE e (a_id int, FOREIGN KEY (a_id) REFERENCES a (id))",
    )
    assert survey.reached_by_delete((schema, "a")) == {(schema, name) for name in "abc"}
    assert survey.reached_by_update((schema, "a"), ["code"]) == {(schema, "d")}
    assert survey.reached_by_update((schema, "a"), ["up"]) == frozenset()
    assert survey.writes_are_known((schema, "a"))


def test_a_cascade_crosses_databases(engine: Engine, surveyed: Callable[..., Survey], schema: str) -> None:
    other = f"survey_{secrets.token_hex(4)}"
    try:
        survey = surveyed(
            "CREATE TABLE a (id int PRIMARY KEY)",
            f"CREATE DATABASE {other}",
            f"CREATE TABLE {other}.b (a_id int, FOREIGN KEY (a_id) REFERENCES {schema}.a (id) ON DELETE CASCADE)",
        )
    finally:
        run(engine, f"DROP DATABASE {other}")
    assert survey.reached_by_delete((schema, "a")) == {(other, "b")}


def test_a_referenced_timestamp_that_the_server_renews_changes_with_any_update(
    surveyed: Callable[..., Survey], schema: str
) -> None:
    survey = surveyed(
        "CREATE TABLE a (x int, at timestamp UNIQUE DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP)",
        "CREATE TABLE b (at timestamp, FOREIGN KEY (at) REFERENCES a (at) ON UPDATE CASCADE)",
    )
    assert survey.reached_by_update((schema, "a"), ["x"]) == {(schema, "b")}


def test_functions_and_procedures_of_users_are_known(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed(
        "CREATE FUNCTION Pay() RETURNS int DETERMINISTIC RETURN 1",
        "CREATE PROCEDURE move_it() SELECT 1",
    )
    assert survey.is_user_function("pay")
    assert survey.is_user_function("MOVE_IT")
    assert not survey.is_user_function("lower")
