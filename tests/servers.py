"""Where do the tests find a real PostgreSQL and a real MariaDB?

In this order: the server that an environment variable names; one that listens on this machine and lets us do
everything; one started here from installed binaries, in a temporary folder, and stopped at the end.

Promises: a test that needs a server gets one or fails with the remedy. Never a skip, never a server that somebody else
uses differently afterwards: only databases that this run created are written to.
"""

from __future__ import annotations

import getpass
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError, OperationalError

from own_servers import PSYCOPG, PYMYSQL, NoServerError, Refusal, start_mariadb, start_postgresql


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between PostgreSQL and MariaDB when looking for a server."""

    name: str
    variable: str
    drivername: str
    backends: tuple[str, ...]
    candidates: tuple[URL, ...]
    suits_query: str
    package: str
    start: Callable[[Refusal], AbstractContextManager[URL]]


def named_url_of(kind: Kind, environ: Mapping[str, str]) -> URL | None:
    """Return the server that the user named, None where none is named."""
    text = environ.get(kind.variable, "").strip()
    if not text:
        return None
    url = make_url(text)
    if url.get_backend_name() not in kind.backends:
        raise NoServerError(
            f"{kind.variable} names a {url.get_backend_name()} server; give {kind.drivername}://user@host/database"
        )
    return url.set(drivername=kind.drivername)


def why_not(kind: Kind, url: URL) -> str | None:
    """Return None where the server lets us do everything, else why it does not suit."""
    engine = create_engine(url, poolclass=NullPool)
    try:
        with engine.connect() as connection:
            suits = connection.exec_driver_sql(kind.suits_query).scalar()
    except DBAPIError as error:
        return str(error.orig).strip().splitlines()[0]
    except RuntimeError as error:  # PyMySQL, where a server wants a way to log in that needs another package
        return str(error)
    return None if suits else "this user may not do everything that the tests need"


@contextmanager
def server(kind: Kind, environ: Mapping[str, str] = os.environ) -> Iterator[URL]:
    """Yield the URL of a server's maintenance database."""
    named = named_url_of(kind, environ)
    if named is not None:
        # Whoever names a server wants that one: a failure to connect is told, not repaired by another server.
        yield named
        return
    refusals: list[str] = []
    for url in kind.candidates:
        refusal = why_not(kind, url)
        if refusal is None:
            yield url
            return
        refusals.append(f"  {url.render_as_string()}: {refusal}")
    with ExitStack() as stack:
        try:
            started = stack.enter_context(kind.start(partial(why_not, kind)))
        except NoServerError as error:
            raise NoServerError(explain_absence(kind, refusals, str(error))) from error
        yield started


def explain_absence(kind: Kind, refusals: Sequence[str], why_not_started: str) -> str:
    """Say what was tried, and the two remedies."""
    return "\n".join(
        [
            f"The tests need {kind.name} and found none.",
            "Looked for one that listens here:",
            *refusals,
            f"Tried to start one: {why_not_started}",
            f"Install it (Debian, Ubuntu: sudo apt-get install {kind.package}) and the tests start it themselves;",
            f"or name one whose user may create databases: {kind.variable}={kind.drivername}://user@host/database",
        ]
    )


@contextmanager
def database(server_url: URL, label: str) -> Iterator[URL]:
    """Create an empty database with a name that no other run has, and drop it at the end."""
    name = f"querycache_{label}_{os.getpid()}_{secrets.token_hex(3)}"
    engine = create_engine(server_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    options = " CHARACTER SET utf8mb4" if engine.dialect.name in ("mysql", "mariadb") else ""
    # FORCE: a test that was cut short must not keep its database alive.
    force = " WITH (FORCE)" if engine.dialect.name == "postgresql" else ""
    _run(engine, f"CREATE DATABASE {name}{options}")
    try:
        yield server_url.set(database=name)
    finally:
        _run(engine, f"DROP DATABASE IF EXISTS {name}{force}")


def empty_database(engine: Engine) -> None:
    """Drop everything that a test made in its database, other sessions on it included."""
    if engine.dialect.name == "postgresql":
        _empty_postgresql(engine)
    elif engine.dialect.name in ("mysql", "mariadb"):
        _empty_mariadb(engine)
    else:
        raise ValueError(f"no way known to empty a {engine.dialect.name} database; use a new file for each test")


def _run(engine: Engine, *statements: str) -> None:
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def _empty_postgresql(engine: Engine) -> None:
    with engine.connect() as connection:
        # A session that a test forgot would hold its locks against us for ever.
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
        schemas = connection.exec_driver_sql(
            "SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
        names = ", ".join(schemas.scalars())
        if names:
            connection.exec_driver_sql(f"DROP SCHEMA {names} CASCADE")
        connection.exec_driver_sql("CREATE SCHEMA public")


_MARIADB_OBJECTS = """
    SELECT CASE TABLE_TYPE WHEN 'VIEW' THEN 'VIEW' WHEN 'SEQUENCE' THEN 'SEQUENCE' ELSE 'TABLE' END, TABLE_NAME
    FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()
    UNION ALL SELECT ROUTINE_TYPE, ROUTINE_NAME FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE()
    UNION ALL SELECT 'EVENT', EVENT_NAME FROM information_schema.EVENTS WHERE EVENT_SCHEMA = DATABASE()
"""


def _empty_mariadb(engine: Engine) -> None:
    with engine.connect() as connection:
        forgotten = connection.exec_driver_sql(
            "SELECT ID FROM information_schema.PROCESSLIST WHERE DB = DATABASE() AND ID <> CONNECTION_ID()"
        )
        for session in forgotten.scalars().all():
            with suppress(OperationalError):  # it may end by itself in the meantime
                connection.exec_driver_sql(f"KILL {session}")
        connection.exec_driver_sql("SET SESSION foreign_key_checks = 0")
        for what, name in connection.exec_driver_sql(_MARIADB_OBJECTS).all():
            quoted = name.replace("`", "``").replace("%", "%%")
            connection.exec_driver_sql(f"DROP {what} IF EXISTS `{quoted}`")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        return "postgres"


def _url(drivername: str, username: str, database: str, host: str | None = None, **query: str) -> URL:
    return URL.create(drivername, username, host=host, database=database, query=query)


POSTGRESQL = Kind(
    name="PostgreSQL",
    variable="QUERYCACHE_TEST_POSTGRESQL_URL",
    drivername=PSYCOPG,
    backends=("postgresql",),
    candidates=(
        _url(PSYCOPG, "postgres", "postgres", "127.0.0.1"),
        _url(PSYCOPG, _user(), "postgres", "127.0.0.1"),
        _url(PSYCOPG, _user(), "postgres", host="/var/run/postgresql"),
    ),
    suits_query="SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
    package="postgresql",
    start=start_postgresql,
)

MARIADB = Kind(
    name="MariaDB",
    variable="QUERYCACHE_TEST_MARIADB_URL",
    drivername=PYMYSQL,
    backends=("mariadb", "mysql"),
    candidates=(
        _url(PYMYSQL, "root", "mysql", "127.0.0.1"),
        _url(PYMYSQL, "root", "mysql", unix_socket="/run/mysqld/mysqld.sock"),
    ),
    suits_query="SELECT VERSION() LIKE '%%MariaDB%%' AND COUNT(*) > 0 FROM mysql.user",
    package="mariadb-server",
    start=start_mariadb,
)
