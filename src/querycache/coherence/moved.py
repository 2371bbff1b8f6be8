"""Does a transaction's snapshot show what was served before it was taken; and what does a user get to see when it does not?

A hit sends nothing, so it takes no snapshot: right after the statement that does, the stamps under which rows were served
are looked at again. All unchanged and unmarked: what was served is what the snapshot shows. Else it has *moved*. That is an
error that retry loops know, a serialization failure of the driver's kind, or it is counted.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from sqlalchemy.exc import OperationalError

from querycache._types import Lease, TagSet
from querycache.coherence.protocol import Coherence
from querycache.coherence.transactions import ConnectionState
from querycache.errors import QueryCacheError
from querycache.statements.writes import Effect

_MYSQL: Final = ("mysql", "mariadb")


class Pin(Enum):
    """Whether the snapshot is taken once a statement was answered."""

    NONE = "not by this statement"
    MAYBE = "not known: look now, and again after a statement that surely takes it"
    SURE = "taken now, if it was not before"


def pin_of(effect: Effect, dialect_name: str, *, found_rows: bool) -> Pin:
    """Tell whether an answered statement took the transaction's snapshot. ``found_rows``: it returned at least one.

    PostgreSQL takes it for any query, before it runs, SQLite for any statement on a table. MySQL and MariaDB take it when
    InnoDB is first read without locks: not for writes, locking reads and tables of other engines, and not where the optimizer
    sees that there is nothing to read. Only rows that cannot come from elsewhere prove it.
    """
    if dialect_name in _MYSQL:
        if effect.kind != "read" or not effect.reads_tables or effect.locks_rows:
            return Pin.NONE
        return Pin.SURE if found_rows and (effect.sources or effect.named_sources) else Pin.MAYBE
    if effect.variable is not None:
        return Pin.MAYBE  # a call of set_config() is a query, a SET is not
    if effect.kind == "write" or (effect.kind == "read" and (effect.reads_tables or dialect_name == "postgresql")):
        return Pin.SURE
    return Pin.NONE


def has_moved(state: ConnectionState, coherence: Coherence, *, in_transaction: bool | None) -> bool:
    """Tell whether what was served before the snapshot may not be what it shows.

    Nobody knows that of a replica's snapshot, which may be older than the stamps say.
    """
    served = state.served
    if not served or not state.shows_snapshot(in_transaction=in_transaction):
        return False
    if served.overflowed or state.profile.is_replica:
        return True
    return not all(_is_current(coherence, store, *seen) for (store, _), seen in served.leases.items())


def _is_current(coherence: Coherence, store: int, tags: TagSet, lease: Lease) -> bool:
    found = coherence.lookup(store, None, tags)
    return found is not None and found.storable and found.lease == lease


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
