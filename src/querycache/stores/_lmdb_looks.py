"""How does a process look up entries of an LMDB store, and when is its own copy of one enough?

An entry is read first and its stamps after it, so a hit was valid when it was checked. Of what this process holds a copy the
stamps alone are read, and compared as they lie. What is asked together is seen at one moment: the stamps of all of it are
read in one transaction, after the entries. Never does: open files anew; serve a copy of which a register was written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from querycache._types import Lease, Lookup, Stamp, TagSet
from querycache.stores._copies import Copies, Copy, Entry
from querycache.stores._lmdb_env import Closed, Txn
from querycache.stores._lmdb_handle import Handle
from querycache.stores._records import NamedLease, answer_of, is_under
from querycache.stores._registers import (
    GUARD_PREFIX,
    MAX_GUARDS,
    SLOT_BITS,
    Known,
    Seen,
    Writing,
    changed_among,
    peek,
    seen_of,
    unchanged,
)

_ENTRY: Final = b"e"
_LONG_ENTRY: Final = b"h"

Peeked: TypeAlias = tuple[Lease, bool, Stamp]
Asked: TypeAlias = tuple[bytes | None, TagSet]


class Looks:
    """The look-ups of one process in the files of a handle. ``ticks`` is the store's clock."""

    def __init__(self, copies: Copies | None, ticks: Callable[[], Stamp]) -> None:
        self._copies = copies
        self._ticks = ticks

    def at_copy(self, handle: Handle, key: bytes, tags: TagSet) -> Lookup | None:
        """Answer from the copy of an entry; None where there is none, or not one that saw these stamps."""
        copy = None if self._copies is None else self._copies.get(key)
        if not _is_of(copy, tags):
            return None
        if not handle.is_open or not handle.is_current():
            return None
        ticks = self._ticks()
        try:
            last = handle.stamps.read(unchanged, copy.seen)
        except Closed:
            return None
        if last is None or copy.entry.expires <= (now := max(last, ticks)):
            return None
        return _answer_of_copy(copy, now)

    def at_one(self, handle: Handle, key: bytes | None, tags: TagSet) -> Lookup:
        """Answer from the files."""
        record = None if key is None else handle.entries.read(_get, entry_name(key))
        seen, noted = handle.stamps.read(_peek_and_note, (key, tags, record, self._ticks()))
        if seen is None:
            seen = handle.stamps.write(lambda txn: self._lease(txn, [tags])[0], grow=True)
        return self._answer(key, record, seen, noted)

    def at_several(self, handle: Handle, asked: Sequence[Asked]) -> list[Lookup]:
        """Answer several questions as of one moment, from copies as far as these are what the files hold."""
        held = self._held(asked)
        while held:
            others = [question for at, question in enumerate(asked) if at not in held]
            records = _records(handle, others)
            sight = handle.stamps.read(_look_at_all, (held, others, records, self._ticks()))
            if sight.outdated:
                for at in sight.outdated:
                    del held[at]
                continue
            if None in sight.peeked:
                break
            found = iter(self._answers(others, records, sight.peeked, sight.noted))
            return [_answer_of_copy(held[at], sight.now) if at in held else next(found) for at in range(len(asked))]
        return self._at_files(handle, asked)

    def _at_files(self, handle: Handle, asked: Sequence[Asked]) -> list[Lookup]:
        """Answer several questions from the files."""
        records = _records(handle, asked)
        peeked, noted = handle.stamps.read(_peek_and_note_each, (asked, records, self._ticks()))
        if None in peeked:
            peeked = list(handle.stamps.write(lambda txn: self._lease(txn, [tags for _, tags in asked]), grow=True))
            noted = [None] * len(asked)
        return self._answers(asked, records, peeked, noted)

    def _held(self, asked: Sequence[Asked]) -> dict[int, Copy]:
        """Return the copies that saw the tags that are asked about, by their position in the questions."""
        if self._copies is None:
            return {}
        copies = enumerate(self._copies.get_each([key for key, _ in asked]))
        return {at: copy for at, copy in copies if _is_of(copy, asked[at][1])}

    def _answers(
        self,
        asked: Sequence[Asked],
        records: Sequence[bytes | None],
        peeked: Sequence[Peeked | None],
        noted: Sequence[Seen | None],
    ) -> list[Lookup]:
        return [
            self._answer(key, record, seen, note)
            for (key, _), record, seen, note in zip(asked, records, peeked, noted, strict=True)
            if seen is not None
        ]

    def _answer(self, key: bytes | None, record: bytes | None, seen: Peeked, noted: Seen | None) -> Lookup:
        """Answer from the files, and hold a copy of an entry that was found: it stays while nothing is written to ``noted``."""
        found = answer_of(record, seen)
        if key is None or found.payload is None or self._copies is None:
            return found
        copy = self._copies.put(key, Entry(b"", found.payload, found.lease, found.expires, math.inf))
        if copy is not None:
            copy.seen = noted
        return found._replace(memo=copy)

    def _lease(self, txn: Txn, wanted: Sequence[TagSet]) -> list[Peeked]:
        writing = Writing(txn, self._ticks(), forgets=False)
        seen = [_named(tags, writing.lease(tags)) for tags in wanted]
        if txn.stat()["entries"] > (1 << SLOT_BITS) + MAX_GUARDS:
            writing.forget_guards([key for key, _ in items(txn, GUARD_PREFIX)])
        return seen


class Sight(NamedTuple):
    """What several questions find in the registers at one moment, ``now`` on the store's clock.

    ``outdated``: where the copies stand that cannot be served. If there are none, the rest is of the questions without a copy:
    what ``peek`` says, None where a register must be written first, and what a copy has to note.
    """

    now: Stamp
    outdated: list[int]
    peeked: list[Peeked | None]
    noted: list[Seen | None]


def entry_name(key: bytes) -> bytes:
    """Name an entry. LMDB takes keys of up to 511 bytes."""
    return _ENTRY + key if len(key) <= 255 else _LONG_ENTRY + blake2b(key, digest_size=32).digest()


def items(txn: Txn, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield what is stored under names that begin alike, in order."""
    with txn.cursor() as cursor:
        if cursor.set_range(prefix):
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value


def _is_of(copy: Copy | None, tags: TagSet) -> TypeGuard[Copy]:
    """Tell whether this is a copy that was judged by these tags."""
    return copy is not None and copy.seen is not None and bool(copy.seen.tags == tags)


def _answer_of_copy(copy: Copy, now: Stamp) -> Lookup:
    entry = copy.entry
    return Lookup(entry.payload, entry.lease, True, now, entry.expires, copy)


def _get(txn: Txn, name: bytes) -> bytes | None:
    return txn.get(name)


def _records(handle: Handle, asked: Sequence[Asked]) -> Sequence[bytes | None]:
    if all(key is None for key, _ in asked):
        return [None] * len(asked)
    return handle.entries.read(_get_each, asked)


def _get_each(txn: Txn, asked: Sequence[Asked]) -> list[bytes | None]:
    return [None if key is None else txn.get(entry_name(key)) for key, _ in asked]


def _peek_and_note(
    txn: Txn, about: tuple[bytes | None, TagSet, bytes | None, Stamp]
) -> tuple[Peeked | None, Seen | None]:
    key, tags, record, ticks = about
    seen = _peek(txn, key, tags, record, ticks, None)
    return seen, None if seen is None or record is None else seen_of(txn, tags, seen[0])


def _peek_and_note_each(
    txn: Txn, about: tuple[Sequence[Asked], Sequence[bytes | None], Stamp]
) -> tuple[list[Peeked | None], list[Seen | None]]:
    asked, records, ticks = about
    known: Known = {}
    peeked = [_peek(txn, *question, record, ticks, known) for question, record in zip(asked, records, strict=True)]
    return peeked, [
        None if seen is None or record is None else seen_of(txn, tags, seen[0])
        for (_, tags), record, seen in zip(asked, records, peeked, strict=True)
    ]


def _peek(
    txn: Txn, key: bytes | None, tags: TagSet, record: bytes | None, ticks: Stamp, known: Known | None
) -> Peeked | None:
    """Look at the registers of a question; None where they must be written first.

    Tags of an entry that is not there need no stamps of their own: a change of others that share theirs may end the entry
    that is filled then, once. For then there is one that is over, and they get their own.
    """
    seen = peek(txn, tags, ticks, must_own=record is not None or key is None, known=known)
    if seen is not None:
        return _named(tags, seen)
    if record is None:
        return None
    shared = peek(txn, tags, ticks, must_own=False, known=known)
    if shared is None:
        return None
    named = _named(tags, shared)
    return named if is_under(record, named[0]) else None


def _named(tags: TagSet, seen: Peeked) -> Peeked:
    lease, storable, now = seen
    return NamedLease.on(tags, lease), storable, now


def _look_at_all(txn: Txn, about: tuple[dict[int, Copy], Sequence[Asked], Sequence[bytes | None], Stamp]) -> Sight:
    held, others, records, ticks = about
    now, changed = changed_among(txn, {at: copy.seen for at, copy in held.items()}, ticks)
    outdated = [at for at, copy in held.items() if at in changed or copy.entry.expires <= now]
    if outdated:
        return Sight(now, outdated, [], [])
    return Sight(now, [], *_peek_and_note_each(txn, (others, records, ticks)))
