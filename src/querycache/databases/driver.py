"""What does the driver object say: would a statement commit on its own, is a transaction open; and how is it asked?

The first two send nothing to the database: they may be asked before every statement. They never raise for a driver
that is not known: the answer is then the one that promises less.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect

Row: TypeAlias = tuple[Any, ...]

_LIBPQ_IDLE: Final = 0
_LIBPQ_UNKNOWN: Final = 4


def rows_of(dbapi_connection: DBAPIConnection, sql: str) -> list[Row]:
    """Run one question without parameters and fetch all of its rows.

    ``sql`` holds no percent sign, colon or question mark: drivers differ in what they take for a placeholder.
    """
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()]
    finally:
        cursor.close()


def row_of(dbapi_connection: DBAPIConnection, sql: str) -> Row:
    """Run a question that has one row for an answer."""
    (row,) = rows_of(dbapi_connection, sql)
    return row


def text_of(value: object) -> str:
    """Give a name or setting as text, from drivers that hand out bytes for some columns of the catalog too."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8", "surrogateescape")
    return "" if value is None else str(value)


def settings_of(said: Iterable[object]) -> str:
    """Make a short text of what a server said about a connection's settings; empty texts and NULL are the same."""
    texts = (text_of(value).encode("utf-8", "surrogateescape") for value in said)
    return blake2b(b"".join(len(text).to_bytes(4, "big") + text for text in texts), digest_size=8).hexdigest()


def in_transaction_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> bool | None:
    """Tell whether the connection is in a transaction; None where the driver does not know it for sure.

    sqlite3 with ``autocommit=False`` (Python 3.12) is in one all the time. MySQL drivers only repeat the server's last
    status, which an error does not carry: None.
    """
    driver = _driver_connection_of(dialect, dbapi_connection)
    if dialect.name == "sqlite":
        return _bool_or_none(getattr(driver, "in_transaction", None))
    if dialect.name != "postgresql":
        return None
    if callable(asked := getattr(driver, "is_in_transaction", None)):  # asyncpg
        return _bool_or_none(asked())
    status = getattr(getattr(driver, "info", None), "transaction_status", None)  # psycopg 3 and 2: libpq's numbers
    if not isinstance(status, int) or status == _LIBPQ_UNKNOWN:
        return None
    return status != _LIBPQ_IDLE


def may_have_work_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> bool:
    """Tell whether a connection that nobody listened to yet is in a transaction that may have done something.

    Python 3.12's ``autocommit=False`` leaves sqlite3 in one all the time; it did nothing while no row was ever changed.
    """
    if in_transaction_of(dialect, dbapi_connection) is not True:
        return False
    driver = _driver_connection_of(dialect, dbapi_connection)
    is_always_in_one = dialect.name == "sqlite" and getattr(driver, "autocommit", None) is False
    return not is_always_in_one or getattr(driver, "total_changes", None) != 0


def session_number_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> int | None:
    """Give the server's number for this session as the driver heard it when it connected; None where it does not tell."""
    driver = _driver_connection_of(dialect, dbapi_connection)
    if dialect.name == "postgresql":
        said = getattr(getattr(driver, "info", None), "backend_pid", None)  # psycopg 3 and 2
        said = said or getattr(driver, "get_server_pid", None)  # asyncpg
    else:
        said = getattr(driver, "thread_id", getattr(driver, "connection_id", None))  # PyMySQL, mysqlclient; others
    said = said() if callable(said) else said
    return said if isinstance(said, int) else None


def autocommit_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> bool:
    """Tell whether a statement sent now would commit on its own, as the driver object is set at this moment.

    A transaction that was begun by text on an autocommit connection counts as no autocommit, where the driver knows of
    it. A driver that cannot be asked: True.
    """
    setting = _autocommit_setting_of(dialect, dbapi_connection)
    return setting and in_transaction_of(dialect, dbapi_connection) is not True


def _autocommit_setting_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> bool:
    if dialect.name == "sqlite":
        return _sqlite_autocommit_of(_driver_connection_of(dialect, dbapi_connection))
    for name in ("autocommit", "get_autocommit"):
        said = getattr(dbapi_connection, name, None)
        if isinstance(said, bool):  # PyMySQL and mysqlclient have a method of the first name, which sets it
            return said
        if callable(said) and said.__name__ == "get_autocommit":
            return bool(said())
    return _dialect_autocommit_of(dialect, dbapi_connection)


def _sqlite_autocommit_of(driver: object) -> bool:
    said = getattr(driver, "autocommit", None)
    if isinstance(said, bool):  # Python 3.12 and above, unless it is LEGACY_TRANSACTION_CONTROL (-1)
        return said
    return getattr(driver, "isolation_level", None) is None


def _dialect_autocommit_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> bool:
    ask = getattr(dialect, "detect_autocommit_setting", None)  # since SQLAlchemy 2.0.43
    if ask is None:
        return True
    try:
        return bool(ask(dbapi_connection))
    except NotImplementedError:
        return True


def _driver_connection_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> object:
    return dialect.get_driver_connection(dbapi_connection)


def _bool_or_none(said: object) -> bool | None:
    return said if isinstance(said, bool) else None
