"""Which database is a driver connection on, and how is the connection set?

A value and nothing else: the files of the single databases fill it in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from querycache.databases.sessions import ServerSession

Scope: TypeAlias = Literal["shared", "connection"]


@dataclass(frozen=True, slots=True)
class Profile:
    """What the database said about one driver connection.

    ``identity`` is the same text for every connection to this database, from any process, by any URL and as any user,
    and for no other database. None where it could not be had: such a bind is cached only under a name of the user's,
    and ``why_not`` is the sentence that says so.

    ``scope`` is "connection" where the database lives and dies with this driver connection (SQLite in memory); its
    identity is then random.

    ``incarnation`` changes whenever the database may have gone back behind an acknowledged commit: crash, failover,
    restore. An empty text says nothing and is not to be compared with another one; so it is for replicas.

    ``isolation`` is the level in force, in SQLAlchemy's words and upper case. ``default_schema`` is where a table
    without a schema is looked for, as the database spells it; empty where there is none.
    ``settings`` is the same text for connections whose results are spelled and ordered alike: time zone, encoding,
    SQL mode, user and the like, as a digest.
    ``session`` is the server's own name for this connection's session; None where it has none that could be relied on.
    ``is_replica``: a commit acknowledged elsewhere may not be visible here yet.
    """

    identity: str | None
    why_not: str = ""
    scope: Scope = "shared"
    incarnation: str = ""
    isolation: str = ""
    default_schema: str = ""
    is_replica: bool = False
    settings: str = ""
    session: ServerSession | None = None
