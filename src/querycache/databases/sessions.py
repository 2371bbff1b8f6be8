"""Is a session of the server's over, of which this process heard no more?

A session is named by what the server said of it when it began, and believed only where the driver has the same idea of its
number: behind a proxy that gives each transaction another session, what was said at the beginning says nothing of the end.

Promises: GONE is said of a session that surely ended, IDLE of one that surely is in no transaction, BUSY of one that is at
work now. Whatever is seen less well is UNKNOWN. Needs no right beyond those of the session's own user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from querycache.databases.driver import rows_of, text_of

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect


@dataclass(frozen=True, slots=True)
class ServerSession:
    """One session. ``number`` is never given again while the server runs, or ``began`` is different then.

    ``user``: as whom its rights are looked at; who asks as somebody else may not be shown it.
    """

    number: int
    began: str = ""
    user: str = ""


class Activity(Enum):
    """What a session does, as far as its server tells."""

    GONE = "ended"
    IDLE = "in no transaction"
    BUSY = "at work"
    UNKNOWN = "not known"


PG_BEGAN: Final = "pg_catalog.to_char(pg_catalog.timezone('UTC', backend_start), 'YYYYMMDDHH24MISSUS')"
_PG_SQL: Final = f"SELECT pid, {PG_BEGAN}, state FROM pg_catalog.pg_stat_activity WHERE pid IN ({{}})"
_MYSQL_SQL: Final = "SELECT id, NULL, command FROM information_schema.processlist WHERE id IN ({})"

# "idle in transaction" is neither: its COMMIT has not come, and perhaps never will. Nor is "disabled" (track_activities).
_PG_STATES: Final[Mapping[str, Activity]] = {"idle": Activity.IDLE, "active": Activity.BUSY}
# A session that sleeps may be in a transaction; only who has the PROCESS privilege is shown that.
_MYSQL_COMMANDS: Final[Mapping[str, Activity]] = dict.fromkeys(("Query", "Execute", "Killed"), Activity.BUSY)


def session_of(user: object, number: object, began: object, driver_number: int | None) -> ServerSession | None:
    """Name a session as its server did; None where the driver does not know it by this number."""
    if not isinstance(number, int) or number != driver_number:
        return None
    return ServerSession(number, text_of(began), text_of(user))


def activities_of(
    dialect: Dialect, dbapi_connection: DBAPIConnection, sessions: Iterable[ServerSession]
) -> dict[ServerSession, Activity]:
    """Ask the server what these sessions do, all in one question. They are this server's and of one user, who asks."""
    asked = list(sessions)
    is_postgresql = dialect.name == "postgresql"
    sql = (_PG_SQL if is_postgresql else _MYSQL_SQL).format(", ".join(str(session.number) for session in asked))
    seen = {int(number): (text_of(began), text_of(doing)) for number, began, doing in rows_of(dbapi_connection, sql)}
    states = _PG_STATES if is_postgresql else _MYSQL_COMMANDS
    return {session: _activity_of(session, seen.get(session.number), states) for session in asked}


def _activity_of(session: ServerSession, seen: tuple[str, str] | None, states: Mapping[str, Activity]) -> Activity:
    if seen is None:
        return Activity.GONE
    began, doing = seen
    if session.began and began != session.began:
        # Not shown to us, or another session under the same number.
        return Activity.GONE if began else Activity.UNKNOWN
    return states.get(doing, Activity.UNKNOWN)
