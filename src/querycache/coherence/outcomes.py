"""A COMMIT raised: is the transaction over, and did it commit?

Failed for sure only by a closed list of what servers say; everything else, and every ``BaseException``, is unknown.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from querycache.databases import in_transaction_of

_POSTGRESQL_FAILED: Final = ("23", "40")
_POSTGRESQL_UNKNOWN: Final = frozenset({"40003"})
_MYSQL_DEADLOCK: Final = 1213


class Outcome(Enum):
    """What became of a transaction whose COMMIT raised."""

    FAILED = "rolled back, for sure"
    OPEN = "not over: a second COMMIT may succeed"
    UNKNOWN = "not known"


def outcome_of(error: BaseException, dialect: Any, dbapi_connection: Any) -> Outcome:
    """Tell the outcome of a COMMIT from the driver's error."""
    if not isinstance(error, dialect.loaded_dbapi.Error):
        return Outcome.UNKNOWN
    if dialect.name == "postgresql":
        code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or ""
        failed = code[:2] in _POSTGRESQL_FAILED and code not in _POSTGRESQL_UNKNOWN
        return Outcome.FAILED if failed else Outcome.UNKNOWN
    if dialect.name in ("mysql", "mariadb"):
        return Outcome.FAILED if error.args[:1] == (_MYSQL_DEADLOCK,) else Outcome.UNKNOWN
    if dialect.name == "sqlite" and in_transaction_of(dialect, dbapi_connection):
        return Outcome.OPEN
    return Outcome.UNKNOWN
