"""What is the least that a hit can cost? One GET of the same bytes from the same store, and their decoding.

Without a lease, a key to be made, instances, or a Session. ``memory`` is a dict; ``redis-near`` keeps its rows decoded, and
asks the server for a few bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import lmdb
from places import Places
from rounds import BenchError, Timed
from rows import Case
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from querycache.rows.codec import decode_rows, encode_rows

Get = Callable[[], bytes | None]

_KEY: Final = b"0123456789abcdef"
_MAP_SIZE: Final = 64 * 1024 * 1024


def payloads_of(engine: Engine, case: Case) -> list[bytes]:
    """Return what an entry holds for each statement of a case, as its driver gives the rows."""
    sent: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        sent.append((statement, parameters))

    with Session(engine) as session:
        case.before(session)
        event.listen(engine, "before_cursor_execute", note)
        try:
            case.read(session)
        finally:
            event.remove(engine, "before_cursor_execute", note)
        return [_payload(session, *one) for one in sent]


def _payload(session: Session, statement: str, parameters: Any) -> bytes:
    cursor = session.connection().connection.cursor()
    try:
        cursor.execute(statement, parameters)
        description = [(column[0], column[1]) for column in cursor.description]
        return encode_rows(_KEY, description, cursor.fetchall())
    finally:
        cursor.close()


def floor_of(store: str, payloads: list[bytes], places: Places, stack: ExitStack) -> Timed:
    """Return what takes the least that a hit in a store can cost; what it opens is closed by ``stack``."""
    if not payloads:
        raise BenchError("a case that sends no statement has no floor")
    blob, spans = b"".join(payloads), _spans_of(payloads)
    if store == "redis-near":
        return _timed(_get_from_redis(b"12345678", places, stack), [])
    makers = {"memory": _get_from_memory, "lmdb": _get_from_lmdb, "redis": _get_from_redis}
    return _timed(makers[store](blob, places, stack), spans)


def _spans_of(payloads: list[bytes]) -> list[slice]:
    ends = [sum(map(len, payloads[: count + 1])) for count in range(len(payloads))]
    return [slice(end - len(payload), end) for end, payload in zip(ends, payloads, strict=True)]


def _timed(get: Get, spans: list[slice]) -> Timed:
    def timed() -> float:
        start = time.perf_counter()
        found = get()
        assert found is not None
        for span in spans:
            decode_rows(_KEY, found if len(spans) == 1 else found[span])
        return time.perf_counter() - start

    return timed


def _get_from_memory(blob: bytes, places: Places, stack: ExitStack) -> Get:
    kept = {_KEY: blob}
    return lambda: kept.get(_KEY)


def _get_from_lmdb(blob: bytes, places: Places, stack: ExitStack) -> Get:
    path = _new_folder(places.folder)
    environment = lmdb.open(str(path), map_size=_MAP_SIZE, sync=False)
    stack.callback(environment.close)
    with environment.begin(write=True) as writing:
        writing.put(_KEY, blob)

    def get() -> bytes | None:
        with environment.begin() as reading:
            found: bytes | None = reading.get(_KEY)
            return found

    return get


def _new_folder(folder: Path) -> Path:
    return folder / f"floor{sum(1 for _ in folder.glob('floor*'))}"


def _get_from_redis(blob: bytes, places: Places, stack: ExitStack) -> Get:
    if places.redis is None:
        raise BenchError("no Redis was started")
    client = places.redis.client()
    stack.callback(client.close)
    key = b"floor:%d" % len(blob)
    client.set(key, blob)
    return lambda: client.get(key)  # type: ignore[return-value]  # a client that answers at once
