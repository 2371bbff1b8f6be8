"""What became of a transaction whose COMMIT raised."""

from __future__ import annotations

import sqlite3
from types import SimpleNamespace
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]
import pytest

from querycache.coherence.outcomes import Outcome, outcome_of


def dialect(name: str, dbapi: Any) -> Any:
    return SimpleNamespace(name=name, loaded_dbapi=dbapi, get_driver_connection=lambda raw: raw)


POSTGRESQL, MARIADB, SQLITE = dialect("postgresql", psycopg), dialect("mariadb", pymysql), dialect("sqlite", sqlite3)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (psycopg.errors.UniqueViolation(), Outcome.OVER),
        (psycopg.errors.ForeignKeyViolation(), Outcome.OVER),
        (psycopg.errors.SerializationFailure(), Outcome.OVER),
        (psycopg.errors.DeadlockDetected(), Outcome.OVER),
        (psycopg.errors.StatementCompletionUnknown(), Outcome.UNKNOWN),
        (psycopg.errors.AdminShutdown(), Outcome.UNKNOWN),
        (psycopg.errors.QueryCanceled(), Outcome.UNKNOWN),
        (psycopg.OperationalError("the connection is lost"), Outcome.UNKNOWN),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value.name,
)
def test_on_postgresql_a_violation_or_a_serialization_failure_is_a_failure_for_sure(
    error: Exception, expected: Outcome
) -> None:
    assert outcome_of(error, POSTGRESQL, object()) is expected


class Connection:
    """A driver connection of psycopg's: what the server said last of its transaction, in libpq's numbers."""

    def __init__(self, transaction_status: int) -> None:
        self.info = SimpleNamespace(transaction_status=transaction_status)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (psycopg.pq.TransactionStatus.IDLE, Outcome.OVER),
        (psycopg.pq.TransactionStatus.ACTIVE, Outcome.UNKNOWN),
        (psycopg.pq.TransactionStatus.INTRANS, Outcome.UNKNOWN),
        (psycopg.pq.TransactionStatus.UNKNOWN, Outcome.UNKNOWN),
    ],
    ids=lambda value: value.name,
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), psycopg.errors.RaiseException(), RuntimeError()])
def test_on_postgresql_it_is_over_when_the_server_said_that_the_session_is_idle(
    error: BaseException, status: int, expected: Outcome
) -> None:
    assert outcome_of(error, POSTGRESQL, Connection(status)) is expected


def test_a_connection_that_is_no_more_said_nothing() -> None:
    assert outcome_of(KeyboardInterrupt(), POSTGRESQL, None) is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1213, Outcome.OVER),
        (1205, Outcome.OPEN),
        (1317, Outcome.OPEN),
        (1053, Outcome.UNKNOWN),
        (1927, Outcome.UNKNOWN),
        (2013, Outcome.UNKNOWN),
        (2006, Outcome.UNKNOWN),
    ],
)
def test_on_mariadb_a_deadlock_ends_a_transaction_and_other_answers_only_the_statement(
    number: int, expected: Outcome
) -> None:
    assert outcome_of(pymysql.err.OperationalError(number, "x"), MARIADB, object()) is expected


def test_on_mariadb_an_error_without_a_number_is_unknown() -> None:
    assert outcome_of(pymysql.err.InternalError(), MARIADB, object()) is Outcome.UNKNOWN


def test_on_sqlite_a_busy_commit_is_not_over() -> None:
    raw = sqlite3.connect(":memory:")
    raw.execute("CREATE TABLE t (a)")
    raw.execute("INSERT INTO t VALUES (1)")
    assert outcome_of(sqlite3.OperationalError("database is locked"), SQLITE, raw) is Outcome.OPEN
    raw.rollback()
    assert outcome_of(sqlite3.OperationalError("disk I/O error"), SQLITE, raw) is Outcome.UNKNOWN
    raw.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), RuntimeError()])
def test_what_is_no_error_of_the_driver_is_unknown(error: BaseException) -> None:
    assert outcome_of(error, POSTGRESQL, object()) is Outcome.UNKNOWN
