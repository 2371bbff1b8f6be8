"""How does a dogpile.cache region serve as a store?

Stamps and marks are values in the region, next to the entries, so it works with every backend, and promises no more
than the backend can keep: see ``guarantee``. Entries follow the region's own expiry and invalidation; stamps and
marks do not. Values are text (base64): no backend needs more than strings, and no serializer of the region can
misread them.
"""

from __future__ import annotations

import binascii
import os
import random
import threading
import time
import weakref
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import ClassVar, Final

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores._dogpile_backends import keeping_of, why_unfit
from querycache.stores._records import answer_of, pack_entry
from querycache.stores._registers import (
    META_KEY,
    Writing,
    guard_key,
    latest_stamp,
    peek_all,
    slot_key,
)
from querycache.stores._slot import SMALLEST
from querycache.stores.base import Scope, Store, StoreStats

try:
    from dogpile.cache.api import CacheMutex
    from dogpile.cache.region import CacheRegion
except ImportError as missing:
    raise ConfigurationError(
        'A dogpile.cache region as a store needs dogpile.cache: pip install "querycache[dogpile]"'
    ) from missing

SLOT_BITS: Final = 16
_PREFIX: Final = "querycache:"
_MUTEX: Final = "querycache:registers"
PATIENCE_S: Final = 2.0
"""How long a mark or a release waits for the turns of others to change registers."""

READ_PATIENCE_S: Final = 0.5
"""How long a lookup does; then the database is asked."""

_POLL_S: Final = 0.005
_SMALLEST: Final = {b"s": SMALLEST, b"g": 24, b"m": 24}


class _Cells:
    """Registers in a region: loaded in one call, and written in one call by ``flush``."""

    def __init__(self, region: CacheRegion, keys: Sequence[bytes], *, tells_failures: bool = True) -> None:
        self._region = region
        self._tells_failures = tells_failures
        self._cells: dict[bytes, bytes | None] = {}
        self._changed: dict[str, str] = {}
        if keys:
            names = [_name(key) for key in keys]
            values = region.get_multi(names, ignore_expiration=True)  # type: ignore[no-untyped-call]  # has no types
            self._cells = {key: _cell_of(key, value) for key, value in zip(keys, values, strict=True)}

    def get(self, key: bytes, /) -> bytes | None:
        if key not in self._cells:
            self._cells[key] = _cell_of(key, self._region.get(_name(key), ignore_expiration=True))
        return self._cells[key]

    def put(self, key: bytes, value: bytes, /) -> None:
        self._cells[key] = value
        self._changed[_name(key)] = b64encode(value).decode()

    def delete(self, key: bytes, /) -> None:
        self._cells[key] = None
        self._changed.pop(_name(key), None)
        self._region.delete(_name(key))

    def flush(self) -> None:
        """Write what was changed; raise where it is not there then."""
        if not self._changed:
            return
        self._region.set_multi(self._changed)
        if not self._tells_failures:
            names = list(self._changed)
            written = self._region.get_multi(names, ignore_expiration=True)  # type: ignore[no-untyped-call]  # has no types
            if written != list(self._changed.values()):
                raise ConnectionError("it did not keep what it was given, and did not say so")


class DogpileStore(Store):
    """A configured region as a store. ``scope`` is how far the backend reaches; the region cannot tell.

    Raises ``ConfigurationError`` for a backend that cannot keep what a store must as it is set.
    """

    scope: ClassVar[Scope] = "threads"
    guarantee: ClassVar[str] = (
        "Weaker than the other stores, which lose nothing. {} The system's clock must not be set back; among hosts, clocks "
        "have to agree within a second."
    )
    keeps_marks: ClassVar[bool] = False
    commits_need_marks: ClassVar[bool] = False

    def __init__(self, region: CacheRegion, scope: Scope = "threads") -> None:
        if not region.is_configured:
            raise ConfigurationError(
                f"The dogpile.cache region {region.name!r} has no backend yet: call region.configure(...) before "
                "querycache is given the region."
            )
        backend = region.actual_backend
        longest, shared = _entry_name(b""), scope != "threads"
        why_not = why_unfit(backend, region.key_mangler or str, longest_key=longest, shared=shared)
        if why_not is not None:
            raise ConfigurationError(f"The dogpile.cache region {region.name!r} cannot be a store: {why_not}.")
        self._region = region
        self._keeping = keeping_of(backend)
        # The backend decides, not the class.
        self.scope = scope  # type: ignore[misc]
        self.guarantee = self.guarantee.format(self._keeping.sentence)  # type: ignore[misc]

    @property
    def url(self) -> str:
        return f"dogpile://{self._region.name or type(self._region.backend).__name__}"

    def clock(self) -> Stamp:
        with self._errors():
            return max(latest_stamp(_Cells(self._region, ())), self._ticks())

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        return self.lookup_many([(key, tags)])[0]

    def lookup_many(self, questions: Iterable[tuple[bytes | None, TagSet]]) -> list[Lookup]:
        asked = list(questions)
        cells = list(dict.fromkeys(cell for _, tags in asked for cell in _keys_of(tags)))
        with self._errors():
            # Stamps last: an entry counts by what they are when the answer is given.
            records = self._records([key for key, _ in asked if key is not None])
            ticks = self._ticks()
            stamps = _Cells(self._region, cells)
            seen = peek_all(stamps, [tags for _, tags in asked], ticks, SLOT_BITS)
        if None in seen:
            with self._writing(cells, READ_PATIENCE_S) as writing:
                seen = [writing.lease(tags) for _, tags in asked]
        return [
            answer_of(None if key is None else records[key], found)
            for (key, _), found in zip(asked, seen, strict=True)
            if found is not None
        ]

    def _records(self, keys: Sequence[bytes]) -> dict[bytes, bytes | None]:
        if not keys:
            return {}
        values = self._region.get_multi([_entry_name(key) for key in keys])  # type: ignore[no-untyped-call]  # has no types
        return {key: _decoded(value) for key, value in zip(keys, values, strict=True)}

    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        return self.fill_many([(key, payload, lease, ttl_s)]) == 1

    def fill_many(self, entries: Iterable[tuple[bytes, bytes, Lease, float]]) -> int:
        ticks = self._ticks()
        records = {
            _entry_name(key): b64encode(pack_entry(payload, lease, ticks + int(ttl_s * 1e9))).decode()
            for key, payload, lease, ttl_s in entries
        }
        largest = self._keeping.largest_value_bytes
        fitting = {name: record for name, record in records.items() if largest is None or len(record) <= largest}
        with self._errors():
            self._region.set_multi(fitting)
        return len(fitting)

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        with self._writing(_keys_of(tags)) as writing:
            return writing.mark(tags, writer, ttl_s)

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        with self._writing([*_keys_of(tags), guard_key(guard[0])]) as writing:
            return writing.mark(tags, writer, ttl_s), writing.stamp_of(guard)

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        with self._writing(_keys_of(TagSet(tuple(tags)))) as writing:
            writing.release(tags, writer)

    def clear(self) -> None:
        with self._writing((META_KEY,)) as writing:
            writing.raise_floor()

    def stats(self) -> StoreStats:
        return StoreStats(None, None, None, 0, None)

    def close(self) -> None:
        """Leave the region: it is the user's."""

    def _ticks(self) -> int:
        return time.time_ns()

    @contextmanager
    def _writing(self, keys: Sequence[bytes], patience_s: float | None = None) -> Iterator[Writing]:
        """Change registers alone: in this process by a lock, among processes by the backend's mutex, if it has one."""
        until = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        with self._alone_in_process(until), self._errors():
            mutex = self._region.backend.get_mutex(_MUTEX)
            if mutex is not None:
                self._acquire(mutex, until)
            try:
                cells = _Cells(self._region, keys, tells_failures=self._keeping.tells_failures)
                yield Writing(cells, self._ticks(), SLOT_BITS)
                cells.flush()
            finally:
                if mutex is not None:
                    mutex.release()

    @contextmanager
    def _alone_in_process(self, until: float) -> Iterator[None]:
        lock = _lock_of(self._region)
        if not lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise StoreUnavailable(f"{self.url}: the region's backend keeps other threads waiting. Check its servers.")
        try:
            yield
        finally:
            lock.release()

    def _acquire(self, mutex: CacheMutex, until: float) -> None:
        """Take the backend's mutex, in a bounded time: some wait without an end, and longer each time."""
        while not mutex.acquire(False):
            if time.monotonic() > until:
                raise StoreUnavailable(
                    f"{self.url}: the backend's lock could not be had: another process has it, or the backend does not "
                    "answer. A process that was killed with it keeps it for the region's lock_timeout."
                )
            time.sleep(random.uniform(0, _POLL_S))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what the backend raises into what a store may raise: any driver may be behind it."""
        try:
            yield
        except StoreUnavailable:
            raise
        except Exception as error:
            raise StoreUnavailable(
                f"{self.url}: the region's backend failed ({type(error).__name__}: {error}). Check the backend's "
                "settings."
            ) from error


def _name(key: bytes) -> str:
    return _PREFIX + key.hex()


def _entry_name(key: bytes) -> str:
    return f"{_PREFIX}e{blake2b(key, digest_size=20).hexdigest()}"


def _keys_of(tags: TagSet) -> list[bytes]:
    """Name every cell that a change to ``tags`` can look at."""
    keys = [META_KEY, *(slot_key(tag, SLOT_BITS) for tag in tags.tags), *(guard_key(tag) for tag in tags.tags)]
    for tag, _ in tags.guards:
        keys += (slot_key(tag, SLOT_BITS), guard_key(tag))
    return list(dict.fromkeys(keys))


def _decoded(value: object) -> bytes | None:
    """Read a value of the region; whatever is not ours counts as absent."""
    if not isinstance(value, str):
        return None
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None


def _cell_of(key: bytes, value: object) -> bytes | None:
    cell = _decoded(value)
    return None if cell is None or len(cell) < _SMALLEST[key[:1]] else cell


_LOCKS: weakref.WeakKeyDictionary[CacheRegion, threading.Lock] = weakref.WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


def _lock_of(region: CacheRegion) -> threading.Lock:
    """Return the one lock that every store on this region shares."""
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(region, threading.Lock())


def _renew_locks() -> None:
    global _LOCKS_LOCK
    _LOCKS_LOCK = threading.Lock()
    _LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
