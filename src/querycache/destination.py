"""Which database would an engine's next connection be on?

A hit asks for no connection, so that no database says which one it would have been. What the engine's last connection said
is taken for an answer only as long as nothing speaks against it: a SQLite file that is no longer the one at its path, an
in-memory database that is closed, an engine that was seen to lead to one database, to another, and back.

Connections of one database that are set in different ways, and so show different rows, count as several.

Never: a file opened, a database asked. Where the answer is not known, whoever wants it makes a connection.
"""

from __future__ import annotations

import threading
from typing import Final

from sqlalchemy.engine import Engine
from sqlalchemy.pool import SingletonThreadPool

from querycache.coherence.binds import Bind
from querycache.databases import FileWatch, watched_file_of

_SEVERAL: Final = "the engine's connections were seen to lead to different databases: use one engine for each"
_REPLACED: Final = "its file is another one by now than the engine's pooled connections have open"


class Destination:
    """The database that an engine leads to. ``is_named``: the user says that it is one and the same, whatever it says.

    ``leads_to_several``: its connections were seen to take turns.
    """

    def __init__(self, engine: Engine, *, is_named: bool) -> None:
        self._by_thread = threading.local() if isinstance(engine.pool, SingletonThreadPool) else None
        self._bind: Bind | None = None
        self._left: set[str] = set()
        self.leads_to_several = False
        self._file: FileWatch | None = None if is_named else watched_file_of(engine.dialect, engine.pool)

    @property
    def bind(self) -> Bind | None:
        """The database that a connection made now would be on; None where that is not known."""
        bind: Bind | None = self._bind if self._by_thread is None else getattr(self._by_thread, "bind", None)
        if bind is None or bind.is_gone or self.leads_to_several or self._is_replaced(bind):
            return None
        return bind

    @property
    def why_not(self) -> str:
        """Why there is no bind although connections were made; empty where there is another reason."""
        if self.leads_to_several:
            return _SEVERAL
        return _REPLACED if self._bind is not None and self._is_replaced(self._bind) else ""

    def arrive(self, bind: Bind) -> Bind | None:
        """Hear which database a connection is on; return the one that it replaces for this engine, None for none."""
        bind.is_gone = False
        if self._by_thread is not None:
            self._by_thread.bind = bind
            return None
        before = self._bind
        if before is not None and self._is_replaced(bind):
            return None  # a pooled connection, which has the old file open still
        self._bind = bind
        if before is None or before.is_gone or before is bind:
            return None
        self._left.add(before.id)
        if bind.id == before.id or (bind.id in self._left and self._file is None):
            # Nothing took the other's place: they take turns, and whose turn is next nobody knows.
            self.leads_to_several = True
            return None
        return before

    def leave(self, bind: Bind) -> None:
        """Hear that a database is no more."""
        if self._by_thread is not None and getattr(self._by_thread, "bind", None) is bind:
            self._by_thread.bind = None
        if self._bind is bind:
            self._bind = None

    def _is_replaced(self, bind: Bind) -> bool:
        return self._file is not None and self._file.identity() != bind.profile.identity
