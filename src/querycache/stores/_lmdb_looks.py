"""How does a process look up entries of an LMDB store, and when is its own copy of one enough?

An entry is read first and its stamps after it, so a hit was valid when it was checked. Of what this process holds a copy the
stamps alone are read, and compared as they lie. What is asked together is seen at one moment: the stamps of all of it are
read in one transaction, after the entries.

A first look-up writes nothing: its tags count by what they share with others of their slot. They are owed stamps of their
own, which those of several look-ups get in one transaction: while few are owed, few entries can be ended by other tags.

Never does: open files anew; serve a copy of which a register was written to.
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
from querycache.stores._records import TagLease, answer_of, is_under
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
_MANY: Final = 16

Peeked: TypeAlias = tuple[Lease, bool, Stamp]
Asked: TypeAlias = tuple[bytes | None, TagSet]


class Looks:
    """The look-ups of one process in the files of a handle. ``ticks`` is the store's clock."""

    def __init__(self, copies: Copies | None, ticks: Callable[[], Stamp]) -> None:
        self._copies = copies
        self._ticks = ticks
        self._owed: dict[TagSet, None] = {}

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
        glance = handle.stamps.read(_glance_at, (key, tags, record, self._ticks()))
        if glance is None:
            glance = Glance(handle.stamps.write(lambda txn: self._lease(txn, [tags])[0], grow=True))
        found = self._answer(key, tags, record, glance)
        self._give_owed(handle)
        return found

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
            if None in sight.glances:
                break
            found = iter(self._answers(handle, others, records, sight.glances))
            return [_answer_of_copy(held[at], sight.now) if at in held else next(found) for at in range(len(asked))]
        return self._at_files(handle, asked)

    def _at_files(self, handle: Handle, asked: Sequence[Asked]) -> list[Lookup]:
        """Answer several questions from the files."""
        records = _records(handle, asked)
        glances = handle.stamps.read(_glance_at_each, (asked, records, self._ticks()))
        if None in glances:
            leases = handle.stamps.write(lambda txn: self._lease(txn, [tags for _, tags in asked]), grow=True)
            glances = [Glance(lease) for lease in leases]
        return self._answers(handle, asked, records, glances)

    def _held(self, asked: Sequence[Asked]) -> dict[int, Copy]:
        """Return the copies that saw the tags that are asked about, by their position in the questions."""
        if self._copies is None:
            return {}
        copies = enumerate(self._copies.get_each([key for key, _ in asked]))
        return {at: copy for at, copy in copies if _is_of(copy, asked[at][1])}

    def _answers(
        self, handle: Handle, asked: Sequence[Asked], records: Sequence[bytes | None], glances: Sequence[Glance | None]
    ) -> list[Lookup]:
        found = [
            self._answer(*question, record, glance)
            for question, record, glance in zip(asked, records, glances, strict=True)
            if glance is not None
        ]
        self._give_owed(handle)
        return found

    def _answer(self, key: bytes | None, tags: TagSet, record: bytes | None, glance: Glance) -> Lookup:
        """Answer from the files, and hold a copy of an entry that was found."""
        found = answer_of(record, glance.seen)
        if glance.shares:
            self._owed[tags] = None
        if key is None or found.payload is None or self._copies is None:
            return found
        copy = self._copies.put(key, Entry(b"", found.payload, found.lease, found.expires, math.inf))
        if copy is not None:
            copy.seen = glance.noted
        return found._replace(memo=copy)

    def _give_owed(self, handle: Handle) -> None:
        """Give many tags the stamps of their own that they are owed, unless somebody writes just now: nobody waits for it."""
        if len(self._owed) < _MANY:
            return
        owed, self._owed = self._owed, {}

        def work(txn: Txn) -> None:
            Writing(txn, self._ticks(), forgets=False).own(tag for tags in list(owed) for tag in tags.tags)

        handle.stamps.write_if_free(work)

    def _lease(self, txn: Txn, wanted: Sequence[TagSet]) -> list[Peeked]:
        writing = Writing(txn, self._ticks(), forgets=False)
        seen = [_named(tags, writing.lease(tags)) for tags in wanted]
        if txn.stat()["entries"] > (1 << SLOT_BITS) + MAX_GUARDS:
            writing.forget_guards([key for key, _ in items(txn, GUARD_PREFIX)])
        return seen


class Glance(NamedTuple):
    """What a question finds in the registers, and what a copy has to note. ``shares``: other tags may end what is filled."""

    seen: Peeked
    noted: Seen | None = None
    shares: bool = False


class Sight(NamedTuple):
    """What several questions find at one moment, ``now`` on the store's clock.

    ``outdated``: where the copies stand that cannot be served. If there are none, the ``glances`` are of the questions without
    a copy: None where a register must be written first.
    """

    now: Stamp
    outdated: list[int]
    glances: list[Glance | None]


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


def _glance_at(txn: Txn, about: tuple[bytes | None, TagSet, bytes | None, Stamp]) -> Glance | None:
    key, tags, record, ticks = about
    return _glance(txn, key, tags, record, ticks, None)


def _glance_at_each(txn: Txn, about: tuple[Sequence[Asked], Sequence[bytes | None], Stamp]) -> list[Glance | None]:
    asked, records, ticks = about
    known: Known = {}
    return [_glance(txn, *question, record, ticks, known) for question, record in zip(asked, records, strict=True)]


def _look_at_all(txn: Txn, about: tuple[dict[int, Copy], Sequence[Asked], Sequence[bytes | None], Stamp]) -> Sight:
    held, others, records, ticks = about
    now, changed = changed_among(txn, {at: copy.seen for at, copy in held.items()}, ticks)
    outdated = [at for at, copy in held.items() if at in changed or copy.entry.expires <= now]
    return Sight(now, outdated, [] if outdated else _glance_at_each(txn, (others, records, ticks)))


def _glance(
    txn: Txn, key: bytes | None, tags: TagSet, record: bytes | None, ticks: Stamp, known: Known | None
) -> Glance | None:
    """Look at the registers of a question; None where they must be written first.

    That is so, too, where an entry is over and its tags share stamps with others: one of these may have ended it.
    """
    seen, shares = peek(txn, tags, ticks, known=known), False
    if seen is None and key is not None:
        seen, shares = peek(txn, tags, ticks, must_own=False, known=known), True
    if seen is None:
        return None
    lease, storable, now = seen
    named = TagLease.on(tags, lease)
    if shares and record is not None and not is_under(record, named):
        return None
    return Glance((named, storable, now), None if record is None else seen_of(txn, tags, lease), shares)


def _named(tags: TagSet, seen: Peeked) -> Peeked:
    lease, storable, now = seen
    return TagLease.on(tags, lease), storable, now
