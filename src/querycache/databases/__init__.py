"""What does the database itself say: which one is it, how are its connections set, what is in its catalog?

Nothing here is taken from a URL or from mapped metadata. Each question goes through a raw DBAPI cursor of a driver
connection that is idle and not yet in the application's hands; the caller rolls back afterwards. Nothing is written,
nothing is remembered: a :class:`Profile` is worth keeping for the life of one driver connection, a :class:`Survey`
for the life of one bind, until its next DDL. A dialect that is not known here gets no identity: it is not cached.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from querycache.databases import mysql, postgresql, sqlite
from querycache.databases.driver import autocommit_of, in_transaction_of, may_have_work_of
from querycache.databases.profile import Profile
from querycache.databases.sessions import Activity, ServerSession, activities_of
from querycache.databases.sqlite_file import FileWatch
from querycache.databases.survey import (
    Action,
    Column,
    ColumnKind,
    ForeignKey,
    Kind,
    Survey,
    Table,
    TableName,
    View,
    build_survey,
)

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.pool import Pool

__all__ = [
    "Action",
    "Activity",
    "Column",
    "ColumnKind",
    "FileWatch",
    "ForeignKey",
    "Kind",
    "Profile",
    "ServerSession",
    "Survey",
    "Table",
    "TableName",
    "View",
    "activities_of",
    "autocommit_of",
    "build_survey",
    "in_transaction_of",
    "may_have_work_of",
    "profile_of",
    "survey_of",
    "watched_file_of",
]


class _Database(Protocol):
    def profile_of(self, dialect: Dialect, dbapi_connection: DBAPIConnection, pool: Pool | None) -> Profile: ...

    def survey_of(self, dialect: Dialect, dbapi_connection: DBAPIConnection) -> Survey: ...


_DATABASES: dict[str, _Database] = {"mariadb": mysql, "mysql": mysql, "postgresql": postgresql, "sqlite": sqlite}


def profile_of(dialect: Dialect, dbapi_connection: DBAPIConnection, *, pool: Pool | None = None) -> Profile:
    """Ask which database this connection is on and how the connection is set.

    ``pool`` is the one that the connection came from: it tells whether an in-memory SQLite database can have further
    connections. May begin a transaction on the connection, and roll it back where a question was refused.
    """
    database = _DATABASES.get(dialect.name)
    if database is None:
        return Profile(
            identity=None,
            why_not=f'the dialect "{dialect.name}" is not one that this release can cache '
            f"({', '.join(sorted(_DATABASES))} are)",
        )
    return database.profile_of(dialect, dbapi_connection, pool)


def survey_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> Survey:
    """Read the catalog of the whole database; for an unknown dialect, a survey that knows no table."""
    database = _DATABASES.get(dialect.name)
    if database is None:
        return build_survey(tables=())
    return database.survey_of(dialect, dbapi_connection)


def watched_file_of(dialect: Dialect, pool: Pool) -> FileWatch | None:
    """Watch the path of an engine's SQLite file; None for other databases, and where no single path is known."""
    return sqlite.watched_file_of(dialect, pool) if dialect.name == "sqlite" else None
