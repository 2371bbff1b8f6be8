"""What does a user get to see when reads served before the snapshot do not agree with it?

An error that retry loops know: a serialization failure of the driver's kind.
"""

from __future__ import annotations

from sqlalchemy.exc import OperationalError

from querycache.errors import QueryCacheError


class _SerializationFailure(Exception):
    """Carries the codes by which PostgreSQL's and MySQL's users recognise "try again"."""

    sqlstate = pgcode = "40001"

    def __init__(self, message: str) -> None:
        super().__init__(1213, message)


class SnapshotMovedError(QueryCacheError, OperationalError):
    """What was served from the cache before the transaction's snapshot is not what the snapshot shows: retry.

    Raised where the isolation level was chosen (``on_snapshot_moved="raise"``); with "continue" it is only counted.
    """

    def __init__(self) -> None:
        message = (
            "rows served from the cache before this transaction's first statement were changed before its snapshot was "
            'taken; retry the transaction, or set on_snapshot_moved="continue"'
        )
        OperationalError.__init__(self, message, None, _SerializationFailure(message))
