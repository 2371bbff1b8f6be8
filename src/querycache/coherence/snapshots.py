"""May an entry be served, and may it be filled, given what this transaction's snapshot shows?

Pure rules. ``since`` is S: the store's clock, less the margin that its clock needs, seen before the transaction's first
statement of any kind; None where that is not known. A stamp before S was surely made before the snapshot was taken. While it
is still the tag's, and not marked, nothing that it names was committed since: the rows read under it are those that the
snapshot shows.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache

from querycache._types import Lease, Stamp


class Freshness(Enum):
    """What a statement sees of commits that came after the transaction's first statement."""

    STATEMENT = "each statement sees all that was committed before it"
    SNAPSHOT = "all statements see what was committed before the snapshot was taken"
    SERIAL = "the database orders whole transactions, and must see their reads to do so"
    DIRTY = "a statement may see what is not committed"
    UNKNOWN = "not known"


@lru_cache(256)
def freshness_of(isolation: str, dialect_name: str, *, in_transaction: bool) -> Freshness:
    """Tell what an isolation level, as SQLAlchemy names it, means on a database.

    SQLite's "SERIALIZABLE" is a snapshot while a transaction or a cursor is open, and per statement otherwise.
    """
    level = isolation.upper().replace("_", " ").replace("-", " ")
    if level == "READ UNCOMMITTED":
        # PostgreSQL reads committed rows under this name; SQLite and MySQL do not.
        return Freshness.STATEMENT if dialect_name == "postgresql" else Freshness.DIRTY
    if dialect_name == "sqlite":
        return Freshness.SNAPSHOT if in_transaction else Freshness.STATEMENT
    return {
        "AUTOCOMMIT": Freshness.STATEMENT,
        "READ COMMITTED": Freshness.STATEMENT,
        "REPEATABLE READ": Freshness.SNAPSHOT,
        "SERIALIZABLE": Freshness.SERIAL,
    }.get(level, Freshness.UNKNOWN)


def older_than(lease: Lease, since: Stamp | None) -> bool:
    """Tell whether every stamp of a lease was surely made before the snapshot was taken."""
    return since is not None and all(stamp < since for stamp in lease)


def may_serve(freshness: Freshness, lease: Lease, *, started: bool, since: Stamp | None) -> bool:
    """Tell whether a valid entry may be served. ``started``: the transaction has sent a statement of any kind.

    Before that it may freely. As long as the snapshot is not surely taken the caller remembers the lease, and looks at it
    again right after.
    """
    if freshness in (Freshness.STATEMENT, Freshness.DIRTY):
        return True
    if freshness is Freshness.SNAPSHOT:
        return not started or older_than(lease, since)
    return False


def may_fill(freshness: Freshness, lease: Lease, *, first: bool, since: Stamp | None) -> bool:
    """Tell whether rows read under a lease may be stored. ``first``: nothing was sent in this transaction before."""
    if freshness is Freshness.STATEMENT:
        return True
    if freshness in (Freshness.SNAPSHOT, Freshness.SERIAL):
        return first or older_than(lease, since)
    return False
