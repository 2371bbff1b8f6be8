"""A COMMIT raised: is it over?

What matters is whether something may become visible yet. Over for sure is only what a closed list of servers' errors says,
or the server itself: it told the driver that the session is in no transaction. Everything else, and every
``BaseException``, is unknown. Nothing is sent here.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from querycache.databases import in_transaction_of

_POSTGRESQL_FAILED: Final = ("23", "40")
_POSTGRESQL_UNKNOWN: Final = frozenset({"40003"})
_MYSQL_DEADLOCK: Final = 1213
# Ends of the statement, told by the session itself: error during commit, lock wait, query interrupted, statement time.
_MYSQL_ANSWERED: Final = frozenset({1180, 1205, 1317, 1969})


class Outcome(Enum):
    """What became of a transaction whose COMMIT raised."""

    OVER = "nothing will become visible that is not now"
    OPEN = "not over: a second COMMIT may succeed, a ROLLBACK or the loss of the connection ends it"
    UNKNOWN = "not known"


def outcome_of(error: BaseException, dialect: Any, dbapi_connection: Any) -> Outcome:
    """Tell the outcome of a COMMIT from the driver's error, and from what the driver heard of its server."""
    if dialect.name == "postgresql" and _says_idle(dialect, dbapi_connection):
        return Outcome.OVER
    if not isinstance(error, dialect.loaded_dbapi.Error):
        return Outcome.UNKNOWN
    if dialect.name == "postgresql":
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        failed = code[:2] in _POSTGRESQL_FAILED and code not in _POSTGRESQL_UNKNOWN
        return Outcome.OVER if failed else Outcome.UNKNOWN
    if dialect.name in ("mysql", "mariadb"):
        return _mysql_outcome_of(error.args[0] if error.args else None)
    if dialect.name == "sqlite" and in_transaction_of(dialect, dbapi_connection):
        return Outcome.OPEN
    return Outcome.UNKNOWN


def _says_idle(dialect: Any, dbapi_connection: Any) -> bool:
    """Tell whether the server's last word was that this session is in no transaction.

    PostgreSQL says so with every answer. While an answer is awaited, and on a lost connection, drivers say something else.
    """
    return dbapi_connection is not None and in_transaction_of(dialect, dbapi_connection) is False


def _mysql_outcome_of(number: object) -> Outcome:
    """Tell by the error's number. What the session answered itself ends the statement, but perhaps not the transaction.

    Errors on the connection's end come from other threads of the server, while the COMMIT may still run.
    """
    if number == _MYSQL_DEADLOCK:
        return Outcome.OVER
    return Outcome.OPEN if number in _MYSQL_ANSWERED else Outcome.UNKNOWN
