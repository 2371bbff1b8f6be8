"""Does this process write to an attached database through an engine that nobody attached?

What such an engine writes drops nothing: the cache never hears of it. It is told apart by where its connections are sent,
as ``create_engine`` was told: kind of database, host (names of this machine are one), port, database; for SQLite the file.

Promises: one warning for each such engine, when it makes a connection, without user or password; nothing is asked of a
database, and nothing is done for a statement. Never: a warning for Alembic's own engine, whose run ends before it matters.
A proxy at another address, and an engine with a ``creator``, are not recognised.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final, TypeAlias

from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

from querycache import _sqlalchemy
from querycache.events import logger

Address: TypeAlias = tuple[str, str, int, str]
"""Kind, host, port, database; for a file: kind, no host, no port, path."""

_PORTS: Final = {"postgresql": 5432, "mysql": 3306}
_LOCAL: Final = "this machine"
_LOCAL_NAMES: Final = frozenset({"", "localhost", "localhost.localdomain", "ip6-localhost", "::1"})
_MESSAGE: Final = (
    "an engine that is not attached connects to %s, which the cache keeps rows of for %s: what it writes is not seen, and "
    "cached rows go on being served. Call cache.attach(engine) with it"
)

_ATTACHED: weakref.WeakKeyDictionary[Any, tuple[Address | None, weakref.ref[Engine]]] = weakref.WeakKeyDictionary()
"""By dialect, which SQLAlchemy may keep for longer than its engine."""

_TOLD: weakref.WeakSet[Any] = weakref.WeakSet()


def note_attached(engine: Engine) -> None:
    """Warn, from now on, of engines that lead where this one does and are not attached."""
    _ATTACHED[engine.dialect] = _address_of(engine.dialect, engine.pool), weakref.ref(engine)
    if not event.contains(Pool, "connect", _connected):
        event.listen(Pool, "connect", _connected)


def _connected(dbapi_connection: Any, record: Any) -> None:
    pool = _sqlalchemy.pool_of_record(record)
    dialect = _sqlalchemy.dialect_of_pool(pool)
    if dialect in _ATTACHED or dialect in _TOLD:
        return
    address = _address_of(dialect, pool)
    if address is None:
        return
    engines = (attached() for known, attached in list(_ATTACHED.values()) if known == address)
    engine = next(filter(None, engines), None)
    if engine is not None and not _is_alembic(sys._getframe()):
        _TOLD.add(dialect)
        logger.warning(_MESSAGE, _text_of(address), engine.url.render_as_string())


def _address_of(dialect: Any, pool: Pool) -> Address | None:
    given = _sqlalchemy.connect_arguments_of(pool)
    if given is None:
        return None
    if dialect.name == "sqlite":
        return _file_address_of(given[0])
    kind = "mysql" if dialect.name == "mariadb" else dialect.name
    return _server_address_of(kind, given[1]) if kind in _PORTS else None


def _file_address_of(arguments: Sequence[Any]) -> Address | None:
    path = arguments[0] if arguments else None
    if not isinstance(path, str) or path in ("", ":memory:") or path.startswith("file:"):
        return None
    return "sqlite", "", 0, os.path.realpath(path)


def _server_address_of(kind: str, parameters: Mapping[str, Any]) -> Address | None:
    database = next((parameters[name] for name in ("dbname", "database", "db") if parameters.get(name)), None)
    if database is None:
        return None
    host = str(parameters.get("host") or "")
    is_local = host in _LOCAL_NAMES or host.startswith(("/", "127.")) or "unix_socket" in parameters
    port = str(parameters.get("port") or _PORTS[kind])
    return kind, _LOCAL if is_local else host.lower(), int(port) if port.isdecimal() else 0, str(database)


def _text_of(address: Address) -> str:
    kind, host, port, database = address
    return f"{kind} {database}" if kind == "sqlite" else f"{kind} {database} on {host}, port {port}"


def _is_alembic(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == "alembic":
            return True
        frame = frame.f_back
    return False
