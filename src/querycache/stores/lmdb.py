"""How do the processes of one machine share a cache?

Two LMDB environments in one directory: ``stamps``, small, where a mark always finds room, and ``entries``, bounded,
where what expires first is evicted first. An entry is read first and its stamps after it, so a hit was valid when it
was checked. What a process has read it holds a copy of: then the stamps alone are read, and compared as they lie.

Promises: what the contract says among all processes of a machine, whoever of them is killed. Never does: raise because
it is full; serve from a file that the path no longer names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import ClassVar, Final, TypeAlias, TypeVar

from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.events import logger
from querycache.stores._copies import Copies
from querycache.stores._lmdb_env import Closed, NoRoom, Txn
from querycache.stores._lmdb_handle import Handle, acquire, give_back
from querycache.stores._lmdb_lock import MARK, RELEASE
from querycache.stores._lmdb_looks import Looks, entry_name, items
from querycache.stores._lmdb_place import Place, default_path, filesystem_of
from querycache.stores._records import expiry_of, pack_entry
from querycache.stores._registers import (
    GUARD_PREFIX,
    SLOT_PREFIX,
    Writing,
    is_marked,
    latest_stamp,
)
from querycache.stores.base import Scope, Store, StoreStats

__all__ = ["DEFAULT_SIZE_BYTES", "MIN_SIZE_BYTES", "LMDBStore", "default_path"]

DEFAULT_SIZE_BYTES: Final = 256 * 1024 * 1024
MIN_SIZE_BYTES: Final = 1024 * 1024
DEFAULT_NEAR_BYTES: Final = 32 * 1024 * 1024
READER_CHECK_NS: Final = 30_000_000_000

_FULL: Final = 0.8
_EVICT_BATCH: Final = 256
_LARGEST: Final = 8
_PAGE: Final = 4096
_ENTRY: Final = b"e"
_LONG_ENTRY: Final = b"h"
_ORDER: Final = b"o"
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

T = TypeVar("T")
Peeked: TypeAlias = tuple[Lease, bool, Stamp]


class LMDBStore(Store):
    """Entries shared by the processes of a machine, in files under ``path``. Opened at once: errors come early."""

    scope: ClassVar[Scope] = "machine"
    guarantee: ClassVar[str] = (
        "All processes of this machine that use the same directory hear each other. "
        "Processes on other machines, or in other containers, that write to the database are not heard."
    )

    clock_margin_s: ClassVar[float] = 0.0
    sees_one_moment: ClassVar[bool] = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        max_size_bytes: int | None = None,
        *,
        is_default: bool = False,
        near_size_bytes: int = DEFAULT_NEAR_BYTES,
        filesystem: Callable[[Path], str] = filesystem_of,
    ) -> None:
        """Open or create the store. Without ``max_size_bytes``: 256 MiB, or half of the free space where that is less.

        ``near_size_bytes``: how much of it each process may hold a copy of, decoded; 0 for none.
        ``is_default`` says that the user did not choose the path: then it must belong to this user alone.
        """
        if max_size_bytes is not None and max_size_bytes < MIN_SIZE_BYTES:
            raise ConfigurationError(
                f"lmdb://{os.fspath(path)}?size={max_size_bytes} is too small: an lmdb:// store needs at least 1MiB."
            )
        self.path = Path(os.path.abspath(os.fspath(path)))
        self._wanted_bytes = max_size_bytes
        self._is_default = is_default
        self._copies = Copies(near_size_bytes) if near_size_bytes else None
        self._looks = Looks(self._copies, self._ticks)
        self._filesystem = filesystem
        self._evictions = 0
        self._checked_ns = 0
        self._handle: Handle | None = self._acquire()

    @property
    def url(self) -> str:
        return f"lmdb://{self.path}"

    def clock(self) -> Stamp:
        return self._with(lambda handle: max(handle.stamps.read(_latest_stamp, None), self._ticks()))

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        handle = self._handle
        if key is not None and handle is not None:
            found = self._looks.at_copy(handle, key, tags)
            if found is not None:
                return found
        return self._with(lambda handle: self._looks.at_one(handle, key, tags))

    def lookup_many(self, questions: Iterable[tuple[bytes | None, TagSet]]) -> list[Lookup]:
        asked = list(questions)
        return self._with(lambda handle: self._looks.at_several(handle, asked))

    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        return self.fill_many([(key, payload, lease, ttl_s)]) == 1

    def fill_many(self, entries: Iterable[tuple[bytes, bytes, Lease, float]]) -> int:
        given = list(entries)
        if self._copies is not None:
            for key, *_ in given:
                self._copies.drop(key)

        def work(handle: Handle) -> int:
            self._look_for_the_dead(handle)
            now, largest = self._ticks(), handle.size_bytes // _LARGEST
            ends = [now + int(ttl_s * 1e9) for *_, ttl_s in given]
            records = [
                (entry_name(key), pack_entry(payload, lease, expires), expires)
                for (key, payload, lease, _), expires in zip(given, ends, strict=True)
                if len(payload) <= largest
            ]
            fit_together = len(records) < 2 or sum(len(record) for _, record, _ in records) <= largest
            kept = self._fill(handle, records) if fit_together else 0
            return kept if kept or len(records) < 2 else sum(self._fill(handle, [record]) for record in records)

        return self._with(work)

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        def work(txn: Txn) -> tuple[Tag, ...]:
            return Writing(txn, self._ticks()).mark(tags, writer, ttl_s)

        return self._with(lambda handle: handle.stamps.write(work, grow=True, patience=MARK))

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        def work(txn: Txn) -> tuple[tuple[Tag, ...], Stamp | None]:
            writing = Writing(txn, self._ticks())
            return writing.mark(tags, writer, ttl_s), writing.stamp_of(guard)

        return self._with(lambda handle: handle.stamps.write(work, grow=True, patience=MARK))

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        def work(txn: Txn) -> None:
            Writing(txn, self._ticks()).release(tags, writer)

        self._with(lambda handle: handle.stamps.write(work, grow=True, patience=RELEASE))

    def clear(self) -> None:
        self._with(self._clear)
        if self._copies is not None:
            self._copies.clear()

    def stats(self) -> StoreStats:
        return self._with(self._stats)

    def close(self) -> None:
        """Leave the files. A verb called later opens them again: a release that is still owed must land."""
        if self._copies is not None:
            self._copies.clear()
        handle, self._handle = self._handle, None
        if handle is not None:
            give_back(handle)

    def _ticks(self) -> int:
        return time.clock_gettime_ns(_CLOCK)

    def _acquire(self) -> Handle:
        def new_place() -> Place:
            return Place(self.path, is_default=self._is_default, filesystem=self._filesystem)

        return acquire(new_place, self._wanted_bytes, _size_that_fits)

    def _with(self, work: Callable[[Handle], T]) -> T:
        """Do ``work`` with files that the path names now, reopened where they were replaced or closed for a fork."""
        while True:
            handle = self._handle
            if handle is None or not handle.is_open or not handle.is_current():
                handle = self._reopen(handle)
            try:
                return work(handle)
            except Closed:
                continue

    def _reopen(self, old: Handle | None) -> Handle:
        try:
            new = self._acquire()
        except ConfigurationError as error:  # it could be used when the store was opened
            raise StoreUnavailable(str(error)) from error
        if self._handle is old:
            self._handle = new
            if old is not None:
                give_back(old)
            return new
        give_back(new)  # another thread was faster
        return self._handle or new

    def _fill(self, handle: Handle, records: list[tuple[bytes, bytes, Stamp]]) -> int:
        """Store entries in one transaction, all or none."""
        need = sum(len(record) for _, record, _ in records)

        def work(txn: Txn) -> int:
            evicted = _make_room(txn, need, handle.size_bytes)
            for entry in records:
                _put(txn, *entry)
            return evicted

        for _ in range(2):
            try:
                self._evictions += handle.entries.write(work, grow=False)
                return len(records)
            except NoRoom:
                self._evict(handle, need)
        return 0

    def _evict(self, handle: Handle, need: int) -> None:
        """Make room in a transaction of its own: LMDB gives pages anew only to a later one than freed them."""
        handle.entries.reader_check()
        try:
            self._evictions += handle.entries.write(lambda txn: _drop_first(txn, need), grow=False)
        except NoRoom:
            return

    def _clear(self, handle: Handle) -> None:
        handle.stamps.write(lambda txn: Writing(txn, self._ticks()).raise_floor(), grow=True, patience=RELEASE)
        try:
            handle.entries.write(lambda txn: txn.drop(handle.entries.main, delete=False), grow=False)
        except NoRoom:
            return  # no entry is valid under the new floor; they go when room is needed

    def _stats(self, handle: Handle) -> StoreStats:
        now = self._ticks()

        def marks(txn: Txn, kinds: tuple[bytes, ...]) -> int:
            return sum(is_marked(key, cell, now) for kind in kinds for key, cell in items(txn, kind))

        entries, used = handle.entries.read(lambda txn, _: (txn.stat()["entries"] // 2, _used_bytes(txn)), None)
        held = handle.stamps.read(marks, (GUARD_PREFIX, SLOT_PREFIX))
        return StoreStats(entries, used, handle.size_bytes, self._evictions, held)

    def _look_for_the_dead(self, handle: Handle) -> None:
        """Free the slots of dead readers now and then: the pages that they pin are lost to everybody."""
        now = self._ticks()
        if now - self._checked_ns > READER_CHECK_NS:
            self._checked_ns = now
            handle.stamps.reader_check()
            handle.entries.reader_check()


def _size_that_fits(directory: Path, wanted: int | None) -> int:
    """Return what was asked for as far as the filesystem has room: one that fills up keeps LMDB even from evicting."""
    about = os.statvfs(directory)
    data = directory / "entries" / "data.mdb"
    taken = data.stat().st_blocks * 512 if data.exists() else 0
    room = about.f_bavail * about.f_frsize + taken
    most = int(room * _FULL) if wanted else room // 2
    size = max(MIN_SIZE_BYTES, min(wanted or DEFAULT_SIZE_BYTES, most))
    if wanted and size < wanted:
        logger.warning("lmdb://%s: size=%d does not fit the filesystem, using %d", directory.parent, wanted, size)
    return size // _PAGE * _PAGE


def _latest_stamp(txn: Txn, about: None) -> Stamp:
    return latest_stamp(txn)


def _order_key(name: bytes, expires: Stamp) -> bytes:
    return _ORDER + expires.to_bytes(8) + blake2b(name, digest_size=8).digest()


def _put(txn: Txn, name: bytes, record: bytes, expires: Stamp) -> None:
    old = txn.get(name)
    if old is not None:
        txn.delete(_order_key(name, expiry_of(old)))
    txn.put(name, record)
    txn.put(_order_key(name, expires), name)


def _used_bytes(txn: Txn) -> int:
    about = txn.stat()
    return about["psize"] * (about["branch_pages"] + about["leaf_pages"] + about["overflow_pages"])


def _make_room(txn: Txn, need: int, size_bytes: int) -> int:
    """Evict where the map is full but for a fifth, which LMDB needs to copy pages that it changes."""
    return _drop_first(txn, need) if _used_bytes(txn) + need >= _FULL * size_bytes else 0


def _drop_first(txn: Txn, need: int) -> int:
    """Drop what expires first, twice as much as is needed; return how many entries went."""
    freed, victims = 0, list(islice(items(txn, _ORDER), _EVICT_BATCH))
    for count, (order, name) in enumerate(victims):
        if freed > 2 * need + 4 * _PAGE:
            return count
        record = txn.pop(name)
        txn.delete(order)
        freed += 0 if record is None else len(record)
    return len(victims)
