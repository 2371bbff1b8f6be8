"""What would a miss and a commit take if only what no cache of rows can do without took time?

On an engine that is listened to before and after each statement. A miss: SQLAlchemy makes the statement's key, the values are
digested, one GET finds nothing, the rows are taken from the cursor as the driver gave them and encoded, one PUT stores them. A
commit: each of its tags is written in one transaction of LMDB before it, and in another after it. No way to cache: nothing is
judged, no tag is told from what changed, and nobody else's reads and writes are thought of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

import lmdb
from caches import engine_of
from msgspec import msgpack
from sqlalchemy import Engine, event
from sqlalchemy.engine.cursor import FullyBufferedCursorFetchStrategy
from sqlalchemy.orm import ORMExecuteState, Session

from querycache.rows.codec import encode_rows

TAGS: Final = 4
"""Those of one row that is known by its key, and of one column: the table's, the row's, and of each the column's."""

_CELL: Final = bytes(42)
_MAP_SIZE: Final = 64 * 1024 * 1024


@contextmanager
def least_miss(url: str, folder: Path) -> Iterator[tuple[Engine, type[Session]]]:
    """Yield an engine, and a class of Sessions whose reads through it take the least that a miss takes."""
    engine, asked = engine_of(url), deque[bytes]()
    with lmdb.open(str(_new_folder(folder)), map_size=_MAP_SIZE, sync=False, metasync=False) as store:

        class Missing(Session):
            """Asks in vain."""

        @event.listens_for(Missing, "do_orm_execute")
        def look_up(orm: ORMExecuteState) -> None:
            key = orm.statement._generate_cache_key()
            given = orm.parameters or {}
            values = [given.get(bind.key, bind.effective_value) for bind in key.bindparams]  # type: ignore[union-attr]
            name = blake2b(msgpack.encode(values), digest_size=16).digest()
            with store.begin() as reading:
                reading.get(name)
            asked.append(name)

        @event.listens_for(engine, "before_cursor_execute")
        def before(*told: Any) -> None:
            """Is there because a cache has to see each statement before it is sent."""

        @event.listens_for(engine, "after_cursor_execute")
        def keep(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            if not asked:
                return
            rows, name = cursor.fetchall(), asked.pop()
            context.cursor_fetch_strategy = FullyBufferedCursorFetchStrategy(cursor, initial_buffer=deque(rows))
            payload = encode_rows(name, [(column[0], column[1]) for column in cursor.description], rows)
            with store.begin(write=True) as writing:
                writing.put(name, payload)

        yield engine, Missing
    engine.dispose()


@contextmanager
def least_commit(url: str, folder: Path) -> Iterator[Engine]:
    """Yield an engine whose commits take the least that those of one row known by its key take."""
    engine = engine_of(url)
    with lmdb.open(str(_new_folder(folder)), map_size=_MAP_SIZE, sync=False, metasync=False, writemap=True) as store:
        commit = engine.dialect.do_commit

        def mark() -> None:
            with store.begin(write=True) as writing:
                for tag in range(TAGS):
                    writing.put(b"tag %d" % tag, _CELL)

        def do_commit(connection: Any) -> None:
            mark()
            commit(connection)
            mark()

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign]
        for moment in ("before_cursor_execute", "after_cursor_execute"):
            event.listen(engine, moment, lambda *told: None)
        yield engine
    engine.dispose()


def _new_folder(folder: Path) -> Path:
    return folder / f"least{sum(1 for _ in folder.glob('least*'))}"
