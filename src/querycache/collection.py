"""How is a list kept and read as its primary keys, and rows of which each is cached on its own?

What a SELECT gives is one entry like any other, the *whole*. Where that is outdated, the list's keys may not be: then the rows
that are stored are taken, those that are not are read in one query, and the whole is put together of both. Where the keys
are outdated, too, the SELECT itself runs, once, and what it gave is stored in all three forms.

Promises: never a torn list. All parts are looked at again after the last row was read, and must be as they were when they
were taken; else the SELECT runs. Nothing lives longer put together than its parts would. Never: an instance built before
that second look; a row stored that may have changed since it was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from querycache import _sqlalchemy, entries
from querycache._types import Guard, Lookup, Stamp, Tag, TagSet
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness, may_fill
from querycache.engine import CAPTURE, Capture
from querycache.entries import Answer
from querycache.keyed import Key
from querycache.options import CacheRequest
from querycache.questions import Question, Questions
from querycache.readings import Reading
from querycache.rows.codec import DecodedRows
from querycache.rowwise import Call, RawRow, Row, Rowwise, rowwise_of

MAX_KEYS: Final = 2_000
"""Longer lists are kept whole: to put so many rows together takes longer than to read them anew."""

MAX_MISSING: Final = 500
"""Where more rows are missing the SELECT runs: databases limit the number of parameters of a statement."""


def collection_of(
    questions: Questions, reading: Reading, whole: Question, found: Lookup, request: CacheRequest | None
) -> Collection | None:
    """Return how a list is to be put together, whose whole is not in the store; None where it is kept whole."""
    rowwise = rowwise_of(questions, whole, call_of(reading), request)
    if isinstance(rowwise, str):
        reading.attachment.coherence.events.emit("whole", key=whole.key, reason=rowwise)
        return None
    return Collection(reading, whole, found, rowwise)


def call_of(reading: Reading) -> Call:
    """Return what is called, and where it goes."""
    return Call(
        reading.orm.statement,
        reading.parameters,
        reading.options,
        reading.attachment,
        reading.bind,
        reading.engine,
        reading.variation,
    )


@dataclass(slots=True)
class _Seen:
    """The stamps under which parts were taken. ``torn``: two parts saw another stamp of one tag."""

    stamps: dict[Tag | Guard, Stamp] = field(default_factory=dict)
    torn: bool = False

    def add(self, tags: TagSet, found: Lookup) -> None:
        names: tuple[Tag | Guard, ...] = (*tags.tags, *tags.guards)
        for name, stamp in zip(names, found.lease, strict=True):
            self.torn = self.torn or self.stamps.setdefault(name, stamp) != stamp

    def as_one(self) -> tuple[TagSet, tuple[Stamp, ...]]:
        """Return all tags together, and their lease."""
        tags = TagSet(
            tuple(name for name in self.stamps if isinstance(name, bytes)),
            tuple(name for name in self.stamps if not isinstance(name, bytes)),
        )
        names: tuple[Tag | Guard, ...] = (*tags.tags, *tags.guards)
        return tags, tuple(self.stamps[name] for name in names)


@dataclass(slots=True)
class Collection:
    """One read of a list. ``found``: what the store said of the whole before anything else was asked."""

    reading: Reading
    whole: Question
    found: Lookup
    rowwise: Rowwise
    _listed: Lookup | None = None

    # -- reading -----------------------------------------------------------------------------------------------------

    def put_together(self, freshness: Freshness) -> DecodedRows | None:
        """Return the rows of the list as they are, and store the whole; None where the SELECT has to run."""
        listing = self.rowwise.listing
        strict = self.reading.must_be_strict(freshness)
        listed = self._coherence.lookup(listing.store, listing.key, listing.tags, strict=strict)
        if listed is None or not listing.is_answered_by(listed):
            return None
        self._listed = listed
        entry = entries.peek(self.reading, listing.store, listing.key, listed, freshness)
        if entry is None:
            return None
        self._coherence.events.emit("hit", key=listing.key)
        keys = self.rowwise.keys_of(entry.description, entry.rows)
        parts = None if keys is None else self._parts_of(keys, listing, listed, freshness)
        # To run for all rows is to run the SELECT, but for its promises.
        if parts is None or (parts.missing and not parts.raw):
            return None
        rows = self._complete(parts, entry.description, freshness)
        if rows is not None:
            self._keep_whole(rows, parts)
        return rows

    def rows_by_hand(
        self, keys: Sequence[Key], listing: Question, listed: Lookup, freshness: Freshness
    ) -> DecodedRows | None:
        """Return the rows of given keys, which are those of another listing; None where they cannot be had."""
        parts = self._parts_of(keys, listing, listed, freshness)
        return None if parts is None else self._complete(parts, self.rowwise.undescribed(), freshness)

    def _parts_of(self, keys: Sequence[Key], listing: Question, listed: Lookup, freshness: Freshness) -> _Parts | None:
        """Take what is stored of the rows of some keys."""
        rows = self.rowwise.rows_of(keys)
        if rows is None:
            return None
        # The list comes last: what is said of it then holds for all the rows before.
        asked = [*((row.key, row.tags) for row in rows), (None, listing.tags)]
        found = self._coherence.lookup_many(listing.store, asked, strict=self.reading.must_be_strict(freshness))
        if found is None or not found[-1].storable or found[-1].lease != listed.lease:
            return None
        parts = _Parts(self, keys, rows, found[:-1], found[-1].now)
        parts.take(listing, listed, freshness)
        return parts

    def _complete(
        self, parts: _Parts, description: Sequence[Sequence[Any]], freshness: Freshness
    ) -> DecodedRows | None:
        """Run for the rows that are missing, look at everything again, and store what is new.

        ``description``: of the columns, where there is no row.
        """
        missing = parts.missing
        if len(missing) > MAX_MISSING or (missing and not parts.run_for(missing)):
            return None
        if not parts.are_one_state(look_again=bool(missing) or not self._coherence.sees_one_moment(self.whole.store)):
            return None
        if parts.capture is None:
            tags, lease = parts.seen.as_one()
            entries.remember(self.reading, self.whole, tags, lease, freshness)
        else:
            entries.fill(self.reading, parts.new, parts.capture)
        described = tuple((name, code) for name, code, *_ in parts.description or description)
        return DecodedRows(described, parts.in_order())

    def _nothing_run(self) -> Capture:
        """Return what is known of rows that the store alone gave: they are as the database had them when it was asked."""
        state = self.reading.state
        dirty = state is not None and (state.dirty or state.profile.is_replica)
        return Capture(None, freshness=Freshness.STATEMENT, dirty=dirty)

    def _keep_whole(self, rows: DecodedRows, parts: _Parts) -> None:
        """Store the list as one entry, to live as long as each of its parts."""
        ttl_s = min(self.whole.ttl_s, (min(parts.ends) - parts.now) / 1e9)
        if ttl_s > 0:
            capture = replace(parts.capture or self._nothing_run(), description=rows.description)
            entries.fill(self.reading, [(self.whole._replace(ttl_s=ttl_s), self.found, rows.rows)], capture)

    @property
    def _coherence(self) -> Coherence:
        return self.reading.attachment.coherence

    # -- keeping -----------------------------------------------------------------------------------------------------

    def keep_apart(self, capture: Capture) -> None:
        """Store the keys and each row of what the SELECT gave; it ran after everything here was looked up."""
        events, listed = self._coherence.events, self._listed
        if listed is None or capture.dirty or capture.rows is None or not self._may_fill(capture):
            return
        by_key = self._by_key(capture)
        if isinstance(by_key, str):
            events.emit("whole", key=self.whole.key, reason=by_key)
            return
        rows = self.rowwise.rows_of(list(by_key))
        if rows is None:
            return
        found = self._coherence.lookup_many(self.whole.store, [(row.key, row.tags) for row in rows])
        # A row is as it was read if nothing of the list changed up to a moment after its own stamps were seen.
        again = self._coherence.lookup(self.whole.store, None, self.whole.tags)
        if found is None or again is None or not again.storable or again.lease != self.found.lease:
            return
        answers = [
            (self.rowwise.question_of(row), seen, raw)
            for row, seen, raw in zip(rows, found, by_key.values(), strict=True)
        ]
        now = replace(capture, freshness=Freshness.STATEMENT)
        if entries.fill(self.reading, answers, now) == len(answers):
            alone = self.rowwise.keys_alone(capture.description, [raw[0] for raw in by_key.values()])
            entries.fill(self.reading, [(self.rowwise.listing, listed, alone)], capture)

    def _may_fill(self, capture: Capture) -> bool:
        since = None if capture.since is None else capture.since.get(self.whole.store)
        return self.found.storable and may_fill(capture.freshness, self.found.lease, first=capture.first, since=since)

    def _by_key(self, capture: Capture) -> dict[Key, list[RawRow]] | str:
        """Sort what the SELECT gave by primary key, in the order of the list; or say why that cannot be done."""
        assert capture.rows is not None
        by_key = self.rowwise.by_key(capture.description, capture.rows)
        if by_key is None or any(None in key for key in by_key):
            return "it gives rows without a primary key"
        if len(by_key) != len(capture.rows) and not self.rowwise.is_joined:
            return "it gives a row more than once"
        return by_key if len(by_key) <= MAX_KEYS else "it has too many rows"


@dataclass(slots=True)
class _Parts:
    """The rows of one list as they come together, by position. ``found``: what the store said of each, at ``now``.

    ``capture`` is that of the query for those that were missing, ``new`` what it gave; ``ends``: when each part ends.
    """

    collection: Collection
    keys: Sequence[Key]
    rows: Sequence[Row]
    found: Sequence[Lookup]
    now: Stamp
    raw: dict[int, Sequence[RawRow]] = field(default_factory=dict)
    description: Sequence[Sequence[Any]] | None = None
    seen: _Seen = field(default_factory=_Seen)
    ends: list[Stamp] = field(default_factory=list)
    capture: Capture | None = None
    new: list[Answer] = field(default_factory=list)

    def take(self, listing: Question, listed: Lookup, freshness: Freshness) -> None:
        """Take the rows that are stored and that this transaction may be served."""
        reading = self.collection.reading
        self.seen.add(listing.tags, listed)
        self.ends.append(listed.expires)
        for position, (row, answer) in enumerate(zip(self.rows, self.found, strict=True)):
            entry = entries.peek(reading, listing.store, row.key, answer, freshness)
            if entry is not None and self._is_alike(entry.description):
                self.raw[position] = entry.rows
                self.seen.add(row.tags, answer)
                self.ends.append(answer.expires)

    def _is_alike(self, description: Sequence[Sequence[Any]]) -> bool:
        """Tell whether columns have the types of those before them: rows are loaded together only then."""
        if self.description is None:
            self.description = description
        return [column[1] for column in self.description] == [column[1] for column in description]

    @property
    def missing(self) -> list[int]:
        return [position for position in range(len(self.rows)) if position not in self.raw]

    def run_for(self, missing: Sequence[int]) -> bool:
        """Read the missing rows in one query; False where it does not give just these."""
        reading, rowwise = self.collection.reading, self.collection.rowwise
        keys = [self.keys[position] for position in missing]
        for position in missing:
            reading.attachment.coherence.events.emit("miss", key=self.rows[position].key)
        capture = Capture(rowwise.form.compilation.compiled)
        # Rows that are not asked for load no instance.
        parameters, options = rowwise.parameters_of(keys), {CAPTURE: capture, "prebuffer_rows": False}
        _sqlalchemy.invoke(reading.orm, options, (rowwise.statement, parameters)).close()
        if capture.rows is None or capture.bind is not reading.bind or capture.dirty:
            # A replica's rows may be older than those that are stored.
            return False
        if not self._is_alike(capture.description):
            return False
        by_key = rowwise.by_key(capture.description, capture.rows)
        if by_key is None or by_key.keys() != set(keys):
            return False
        for position, key in zip(missing, keys, strict=True):
            self.raw[position] = by_key[key]
            self.new.append((rowwise.question_of(self.rows[position]), self.found[position], by_key[key]))
        self.capture = capture
        return True

    def are_one_state(self, *, look_again: bool) -> bool:
        """Tell whether what was taken are parts of one state of the database, no older than this read."""
        if self.seen.torn or not all(self.raw.values()):
            return False
        if not look_again:
            return True
        tags, lease = self.seen.as_one()
        now = self.collection.reading.attachment.coherence.lookup(self.collection.whole.store, None, tags)
        return now is not None and now.storable and now.lease == lease

    def in_order(self) -> list[tuple[Any, ...]]:
        return [tuple(raw) for position in range(len(self.rows)) for raw in self.raw[position]]
