"""What a driver object says about autocommit and transactions, and what is answered for one that cannot be asked."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import Dialect
from sqlalchemy.engine.default import DefaultDialect

from querycache.databases import autocommit_of, in_transaction_of, profile_of, survey_of

SQLITE: Dialect = create_engine("sqlite://").dialect
MYSQL: Dialect = create_engine("mysql+pymysql://").dialect
POSTGRESQL: Dialect = create_engine("postgresql+psycopg://").dialect


def connect(**settings: Any) -> Any:
    return sqlite3.connect(":memory:", **settings)


class Unknown(DefaultDialect):
    name = "unknown"


class Silent(DefaultDialect):
    name = "silent"

    def detect_autocommit_setting(self, dbapi_conn: object) -> bool:
        raise NotImplementedError


class Talking(DefaultDialect):
    name = "talking"

    def detect_autocommit_setting(self, dbapi_conn: object) -> bool:
        return False


class MySQLConnection:
    """Has, like PyMySQL's and mysqlclient's, an ``autocommit`` that sets and a ``get_autocommit`` that tells."""

    def __init__(self, setting: bool) -> None:
        self.setting = setting

    def autocommit(self, value: bool) -> None:
        raise AssertionError("a question must not change the setting")

    def get_autocommit(self) -> bool:
        return self.setting


def test_sqlite_in_its_legacy_mode_has_no_autocommit() -> None:
    assert not autocommit_of(SQLITE, connect())


def test_sqlite_without_an_isolation_level_has_autocommit() -> None:
    assert autocommit_of(SQLITE, connect(isolation_level=None))


def test_sqlite_without_an_isolation_level_has_no_autocommit_after_begin() -> None:
    connection = connect(isolation_level=None)
    connection.execute("BEGIN")
    assert not autocommit_of(SQLITE, connection)
    assert in_transaction_of(SQLITE, connection)


@pytest.mark.parametrize("setting", [True, False])
def test_sqlite_is_asked_for_the_autocommit_attribute_of_new_pythons(setting: bool) -> None:
    assert autocommit_of(SQLITE, _sqlite_connection(autocommit=setting, isolation_level="")) is setting


def test_sqlites_legacy_value_of_the_autocommit_attribute_leaves_it_to_the_isolation_level() -> None:
    assert autocommit_of(SQLITE, _sqlite_connection(autocommit=-1, isolation_level=None))
    assert not autocommit_of(SQLITE, _sqlite_connection(autocommit=-1, isolation_level="DEFERRED"))


@pytest.mark.parametrize("setting", [True, False])
def test_a_real_sqlite_connection_with_the_autocommit_attribute_says_the_same(setting: bool) -> None:
    if not hasattr(sqlite3, "LEGACY_TRANSACTION_CONTROL"):  # Python 3.11
        assert not hasattr(connect(), "autocommit")
        return
    assert autocommit_of(SQLITE, connect(autocommit=setting)) is setting


def test_sqlite_knows_when_it_is_in_a_transaction() -> None:
    connection = connect()
    connection.execute("CREATE TABLE t (a)")
    assert in_transaction_of(SQLITE, connection) is False
    connection.execute("INSERT INTO t VALUES (1)")
    assert in_transaction_of(SQLITE, connection) is True


@pytest.mark.parametrize("setting", [True, False])
def test_a_mysql_driver_is_asked_and_not_told(setting: bool) -> None:
    connection: Any = MySQLConnection(setting)
    assert autocommit_of(MYSQL, connection) is setting


def test_a_mysql_driver_does_not_know_for_sure_whether_it_is_in_a_transaction() -> None:
    connection: Any = MySQLConnection(False)
    assert in_transaction_of(MYSQL, connection) is None


@pytest.mark.parametrize(("status", "answer"), [(0, False), (1, True), (2, True), (3, True), (4, None)])
def test_libpqs_transaction_status_is_read_from_the_driver(status: int, answer: bool | None) -> None:
    connection: Any = SimpleNamespace(autocommit=False, info=SimpleNamespace(transaction_status=status))
    assert in_transaction_of(POSTGRESQL, connection) is answer


def test_a_transaction_begun_by_text_is_no_autocommit() -> None:
    connection: Any = SimpleNamespace(autocommit=True, info=SimpleNamespace(transaction_status=2))
    assert not autocommit_of(POSTGRESQL, connection)


@pytest.mark.parametrize("dialect", [Unknown(), Silent()], ids=["unknown", "silent"])
def test_a_driver_that_cannot_be_asked_counts_as_autocommit(dialect: DefaultDialect) -> None:
    connection: Any = SimpleNamespace()
    assert autocommit_of(dialect, connection)
    assert in_transaction_of(dialect, connection) is None


def test_a_dialect_that_can_ask_its_driver_is_believed() -> None:
    connection: Any = SimpleNamespace()
    assert not autocommit_of(Talking(), connection) or not hasattr(DefaultDialect, "detect_autocommit_setting")


def test_a_dialect_that_is_not_known_has_no_identity_and_no_tables() -> None:
    connection: Any = SimpleNamespace()
    profile = profile_of(Unknown(), connection)
    assert profile.identity is None
    assert '"unknown"' in profile.why_not
    assert not survey_of(Unknown(), connection).tables


def test_questions_about_the_driver_send_nothing(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'x.db'}")
    with engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        sent: list[str] = []
        raw.set_trace_callback(sent.append)
        autocommit_of(engine.dialect, raw)
        in_transaction_of(engine.dialect, raw)
        raw.set_trace_callback(None)
    engine.dispose()
    assert sent == []


def _sqlite_connection(autocommit: object, isolation_level: str | None) -> Any:
    return SimpleNamespace(autocommit=autocommit, isolation_level=isolation_level, in_transaction=False)
