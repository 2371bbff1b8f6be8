"""How is a look-up written as calls of its script, and what do their answers mean?

Any number of questions is one call for each part that knows something of them: first a plain command that reads the entries,
then the script that says the stamps of their tags; here is judged what was found. Promises: an entry counts only where it was
filled in this life of the server, has not ended, and has just the stamps that its tags have, none of them marked; bytes from a
server that are not ours count as absent. Never does: I/O.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from querycache._types import MARK_TTL_S, Guard, Lease, Lookup, Tag, TagSet
from querycache.errors import StoreUnavailable
from querycache.stores._copies import Copy
from querycache.stores._redis_calls import NOT_OURS, STAMP_SIZE, Answer, Call, Layout, lease_text, name_of, stamp_at
from querycache.stores._redis_scripts import LOOKUP

Name: TypeAlias = Tag | Guard
Question: TypeAlias = tuple[bytes | None, TagSet]

NOTHING: Final[Mapping[bytes, Copy]] = MappingProxyType({})

_MARK_LIFE_US: Final = int(MARK_TTL_S * 1e6)
_HEAD: Final = 32


def _names_in(tags: TagSet) -> tuple[Name, ...]:
    return (*tags.tags, *tags.guards)


class _Asked:
    """What one part is asked: tags, guards and entries, each once, in order. ``held``: heads of entries by their keys.

    ``is_all``: of a single question, that this is all of it, and in its order.
    """

    def __init__(self) -> None:
        self.tags: dict[Tag, None] = {}
        self.guards: dict[Guard, None] = {}
        self.entries: dict[bytes, None] = {}
        self.held: dict[bytes, bytes] = {}
        self.names: tuple[Name, ...] = ()
        self.is_all = False

    def as_call(self, layout: Layout, part: int) -> Call:
        """Write it as a call. Nothing may be added any more."""
        self.names = (*self.tags, *self.guards)
        tables = [tag for tag, _ in self.guards]
        tags = [*self.tags, *tables]
        minds = (name_of(mind) for _, mind in self.guards)
        fields = (*(b"m" + name_of(tag) for tag in tags), *(b"g" + name_of(tag) for tag in tables))
        return Call(
            part,
            LOOKUP,
            (*map(layout.stamp, tags), *map(layout.entry, self.held)),
            (len(self.tags), len(self.guards), _MARK_LIFE_US, *minds, *fields, *self.held.values()),
            tuple(map(layout.entry, self.entries)),
        )

    def stamps_in(self, answer: Answer) -> tuple[bytes, bytes]:
        """Return the stamps of its tags and guards, written one after the other, and a digit for each; none: no marks."""
        count, rest = len(self.names), answer.rest
        size = STAMP_SIZE * count
        if len(rest) not in (size, size + count):
            raise ValueError(rest)
        return rest[:size], rest[size:]

    def entries_in(self, answer: Answer) -> list[tuple[bytes, object]]:
        """Return the entries that were asked for: bytes, or 1 for one that is what the caller holds, or None."""
        return [*zip(self.entries, answer.entries, strict=True), *zip(self.held, answer.kept, strict=True)]


_Plan: TypeAlias = tuple[tuple[_Asked, Call], ...]


def _plan_of(layout: Layout, questions: Iterable[Question], heads: Mapping[bytes, bytes]) -> _Plan:
    """Tell which part is asked what, and by which call. ``heads``: those of entries that the caller holds."""
    parts: dict[int, _Asked] = {}

    def at(name: bytes) -> _Asked:
        part = layout.part_of(name)
        asked = parts.get(part)
        if asked is None:
            asked = parts[part] = _Asked()
        return asked

    for key, tags in questions:
        for tag in tags.tags:
            at(tag).tags[tag] = None
        for guard in tags.guards:
            at(guard[0]).guards[guard] = None
        if key is not None and key in heads:
            at(key).held[key] = heads[key]
        elif key is not None:
            at(key).entries[key] = None
    if not parts:
        parts[0] = _Asked()
    return tuple((asked, asked.as_call(layout, part)) for part, asked in parts.items())


@lru_cache(maxsize=4096)
def _plan_of_one(layout: Layout, question: Question, head: bytes | None) -> _Plan:
    """Do so for one question, which is asked again and again."""
    key, tags = question
    plan = _plan_of(layout, (question,), {} if key is None or head is None else {key: head})
    asked, _ = plan[0]
    asked.is_all = len(plan) == 1 and asked.names == _names_in(tags)
    return plan


class Asking:
    """Several questions, as one call for each part that knows something of them.

    ``held``: entries by key that the caller has and that need not be sent again if they are still what the server has.
    """

    def __init__(self, layout: Layout, questions: Sequence[Question], held: Mapping[bytes, Copy] = NOTHING) -> None:
        self.questions = questions
        self._held = held
        if len(questions) == 1:
            (question,) = questions
            copy = held.get(question[0]) if held and question[0] is not None else None
            self._plan = _plan_of_one(layout, question, None if copy is None else copy.entry.head)
        else:
            self._plan = _plan_of(layout, questions, {key: copy.entry.head for key, copy in held.items()})
        self.calls = [call for _, call in self._plan]

    def found(self, answers: Sequence[Answer]) -> list[Found]:
        """Put together what the parts answered, in the order of the questions."""
        try:
            return [self._alone(answers[0])] if self._plan[0][0].is_all else self._found(answers)
        except (TypeError, ValueError) as error:
            raise StoreUnavailable(NOT_OURS) from error

    def _alone(self, answer: Answer) -> Found:
        """Read what one part answered to one question: just what was asked for, in the question's order."""
        stamps, marks = self._plan[0][0].stamps_in(answer)
        key, entries = self.questions[0][0], (*answer.entries, *answer.kept)
        if len(entries) != (key is not None):
            raise ValueError(entries)
        kept = None if key is None else self._kept(key, entries[0], answer)
        return _one(stamps, marks, kept, answer.now_us, answer.floor_us)

    def _found(self, answers: Sequence[Answer]) -> list[Found]:
        seen: dict[Name, tuple[bytes, bytes]] = {}
        entries: dict[bytes, _Kept | None] = {}
        for (asked, _), answer in zip(self._plan, answers, strict=True):
            stamps, marks = asked.stamps_in(answer)
            for at, name in enumerate(asked.names):
                seen[name] = stamps[at * STAMP_SIZE : (at + 1) * STAMP_SIZE], marks[at : at + 1] or b"0"
            for its_key, entry in asked.entries_in(answer):
                entries[its_key] = self._kept(its_key, entry, answer)
        now_us = max(answer.now_us for answer in answers)
        floor_us = max(answer.floor_us for answer in answers)
        found = []
        for key, tags in self.questions:
            mine = [seen[name] for name in _names_in(tags)]
            stamps, marks = b"".join([stamp for stamp, _ in mine]), b"".join([mark for _, mark in mine])
            found.append(_one(stamps, marks, entries[key] if key is not None else None, now_us, floor_us))
        return found

    def _kept(self, key: bytes, entry: object, answer: Answer) -> _Kept | None:
        if isinstance(entry, bytes):
            return entry, None, answer
        if entry is None:
            return None
        copy = self._held.get(key) if entry == 1 else None
        if copy is None:
            raise TypeError(entry)
        return copy.entry.head, copy, answer


_Kept: TypeAlias = tuple[bytes, Copy | None, Answer]
"""An entry, or the head of one that the caller holds, and what its part answered."""


def _one(stamps: bytes, marks: bytes, kept: _Kept | None, now_us: int, floor_us: int) -> Found:
    """Tell what a question is answered, given the stamps of its tags and what is kept under its key."""
    written, lease = _lease_in(stamps)
    if b"1" in marks:
        return Found(Lookup(None, lease, False, stamp_at(now_us)), 0, floor_us)
    if kept is not None and kept[0].startswith(written, _HEAD):
        entry, copy, part = kept
        filled_us, ends_us = int(entry[:16]), int(entry[16:32])
        if part.floor_us <= filled_us and part.now_us < ends_us:
            start = _HEAD + len(written)
            payload = entry[start:] if copy is None else copy.entry.payload
            ends = stamp_at(now_us + ends_us - part.now_us)
            lookup = Lookup(payload, lease, True, stamp_at(now_us), ends, copy)
            return Found(lookup, part.now_us - filled_us, floor_us, entry[:start])
    return Found(Lookup(None, lease, True, stamp_at(now_us)), 0, floor_us)


@lru_cache(maxsize=4096)
def _lease_in(stamps: bytes) -> tuple[bytes, Lease]:
    """Read stamps that are written one after the other; return the lease as it stands in an entry, and as it is."""
    lease = tuple([int(stamps[at : at + STAMP_SIZE]) for at in range(0, len(stamps), STAMP_SIZE)])
    return lease_text(lease), lease


class Found(NamedTuple):
    """What a question is answered, how long ago an entry that was found was filled, by its part's clock, and its head.

    ``floor_us``: no stamp from before it counts.
    """

    lookup: Lookup
    age_us: int
    floor_us: int
    head: bytes = b""


def telling_the_time(layout: Layout) -> Call:
    """Write ``clock`` as a call. In a Cluster any part will do, and each is asked in turn."""
    return Call(secrets.randbelow(len(layout.parts)), LOOKUP, (), (0, 0, _MARK_LIFE_US))
