"""How are a store's verbs written as calls of scripts, and what do their answers mean?

A *part* is what one script may touch: everything on a single server, one of ``PARTS`` groups of keys in a Cluster, each with a
hash tag of its own, spread evenly over all slots. Promises: the same for any client, blocking or not; bytes from a server
that are not ours count as absent. Never does: I/O.
"""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from binascii import crc_hqx
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from querycache._types import MARK_TTL_S, Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import StoreUnavailable
from querycache.stores._copies import Copy
from querycache.stores._redis_scripts import (
    CLEAR,
    FILL,
    LOOKUP,
    MARK,
    MARKS,
    RELEASE,
    Argument,
    Command,
    Script,
    packed,
    words,
)

PARTS: Final = 256
SLOTS: Final = 16_384
MOST_FIELDS: Final = 100_000
"""How many fields a part's state may have before what nobody needs any more is dropped."""

MOST_TAGS: Final = 1000
"""Tags of one call to mark or release: a server does nothing else meanwhile."""

Name: TypeAlias = Tag | Guard
Question: TypeAlias = tuple[bytes | None, TagSet]
Reply: TypeAlias = Any

NOTHING: Final[Mapping[bytes, Copy]] = MappingProxyType({})

_MARK_LIFE_US: Final = int(MARK_TTL_S * 1e6)
_NOT_OURS: Final = "the server answered what querycache's scripts never return"
_HEAD: Final = 32
_STAMP: Final = 19
_FREE: Final = ord("0")


def slot_of(name: bytes) -> int:
    """Return the slot of a Cluster that a hash tag is in."""
    return crc_hqx(name, 0) % SLOTS


def _even_names() -> tuple[bytes, ...]:
    """Return a hash tag for each part, one in each 1/256 of the slots."""
    names: dict[int, bytes] = {}
    number = 0
    while len(names) < PARTS:
        name = b"%d" % number
        names.setdefault(slot_of(name) * PARTS // SLOTS, name)
        number += 1
    return tuple(names[part] for part in range(PARTS))


@lru_cache(maxsize=16_384)
def _name_of(name: bytes) -> bytes:
    """Return 22 characters for the name of a tag, a fingerprint or the like, of any length."""
    return urlsafe_b64encode(blake2b(name, digest_size=16).digest())[:22]


@lru_cache(maxsize=16_384)
def _part_of(name: bytes) -> int:
    return blake2b(name, digest_size=1).digest()[0]


class Layout:
    """The names of keys. ``parts``: hash tags, a single empty one where a script may touch every key."""

    def __init__(self, namespace: str, parts: tuple[bytes, ...] = (b"",)) -> None:
        self.parts = parts
        head = b"querycache:%b:" % namespace.encode()
        self._prefixes = tuple(head + (b"{%b}:" % tag if tag else b"") for tag in parts)
        self._states = tuple(prefix + b"state" for prefix in self._prefixes)
        self._state_words = tuple(words([state]) for state in self._states)

    @classmethod
    def over_a_cluster(cls, namespace: str) -> Layout:
        """Return a layout that is spread over all slots."""
        return cls(namespace, _even_names())

    def slot(self, part: int) -> int:
        """Return the slot that a part is in."""
        return slot_of(self.parts[part])

    def part_of(self, name: bytes) -> int:
        """Return the part in which a tag or an entry is kept."""
        return _part_of(name) if len(self.parts) > 1 else 0

    def state(self, part: int) -> bytes:
        """Name what a part knows of its life, its marks and guards."""
        return self._states[part]

    def state_word(self, part: int) -> bytes:
        """Return the state's name as it goes over the wire."""
        return self._state_words[part]

    def stamps(self, part: int) -> bytes:
        """Return what the names of all stamps of a part begin with."""
        return self._prefixes[part] + b"t:"

    def stamp(self, tag: Tag) -> bytes:
        """Name a tag's stamp."""
        return self.stamps(self.part_of(tag)) + _name_of(tag)

    def entry(self, key: bytes) -> bytes:
        """Name an entry."""
        digest = blake2b(key, digest_size=24).hexdigest().encode()
        return self._prefixes[self.part_of(key)] + b"e:" + digest


@dataclass(frozen=True)
class Call:
    """One run of a script in one part. ``keys`` come after the part's state, ``arguments`` after what all scripts take.

    ``entries`` are read by a plain command just before it.
    """

    part: int
    script: Script
    keys: tuple[bytes, ...] = ()
    arguments: tuple[Argument, ...] = ()
    entries: tuple[bytes, ...] = ()

    def reading(self) -> list[Command]:
        """Write the command that reads the entries, if there are any."""
        return [self._reading] if self.entries else []

    def running(self, state_word: bytes, moment: bytes, *, whole: bool = False) -> Command:
        """Write the command that runs the script. What does not change from run to run is written once."""
        count, name, keys, arguments = self._running
        if whole:
            name = self.script.name(whole=True)
        return b"".join((count, name, keys[0], state_word, keys[1], moment, arguments))

    @cached_property
    def _reading(self) -> Command:
        return packed("MGET", *self.entries)

    @cached_property
    def _running(self) -> tuple[bytes, bytes, tuple[bytes, bytes], bytes]:
        keys = words([1 + len(self.keys)]), words(self.keys)
        count = b"*%d\r\n" % (6 + len(self.keys) + len(self.arguments))
        return count, self.script.name(), keys, words(self.arguments)


@dataclass(slots=True)
class Witness:
    """What this process has seen of each part: a server that shows less than that was given old data."""

    last: dict[int, int] = field(default_factory=dict)

    def command(self, layout: Layout, call: Call, *, whole: bool = False) -> Command:
        """Write a call's script as a command."""
        moment = b"$16\r\n%016d\r\n$3\r\n%03d\r\n" % (self.last.get(call.part, 0), secrets.randbelow(1000))
        return call.running(layout.state_word(call.part), moment, whole=whole)

    def answer(self, call: Call, replies: Sequence[Reply]) -> Answer:
        """Read what was answered to a call's commands, and remember how far the part is."""
        try:
            reply = replies[-1]
            text, kept = (reply, ()) if isinstance(reply, bytes) else (reply[0], reply[1:])
            now, last, floor = int(text[:16]), int(text[16:32]), int(text[32:48])
        except (IndexError, TypeError, ValueError) as error:
            raise StoreUnavailable(_NOT_OURS) from error
        if last > self.last.get(call.part, 0):
            self.last[call.part] = last
        return Answer(now, floor, text[48:], kept, replies[0] if call.entries else ())


class Answer(NamedTuple):
    """What was answered to a call: the part's clock and floor in microseconds, then the script's own.

    ``kept``: what it says of entries that the caller holds. ``entries``: what was read just before it.
    """

    now_us: int
    floor_us: int
    rest: bytes
    kept: Sequence[object] = ()
    entries: Sequence[object] = ()


def stamp_at(now_us: int) -> Stamp:
    """Return a moment of a part's clock, not earlier than any stamp made until then."""
    return now_us * 1000 + 999


# -- lookup --------------------------------------------------------------------------------------------------------------


def _names_in(tags: TagSet) -> tuple[Name, ...]:
    return (*tags.tags, *tags.guards)


class _Asked:
    """What one part is asked: tags, guards and entries, each once, in order. ``held``: heads of entries by their keys."""

    def __init__(self) -> None:
        self.tags: dict[Tag, None] = {}
        self.guards: dict[Guard, None] = {}
        self.entries: dict[bytes, None] = {}
        self.held: dict[bytes, bytes] = {}
        self.names: tuple[Name, ...] = ()

    def as_call(self, layout: Layout, part: int) -> Call:
        """Write it as a call. Nothing may be added any more."""
        self.names = (*self.tags, *self.guards)
        stamps = map(layout.stamp, (*self.tags, *(tag for tag, _ in self.guards)))
        minds = (_name_of(mind) for _, mind in self.guards)
        return Call(
            part,
            LOOKUP,
            (*stamps, *map(layout.entry, self.held)),
            (len(self.tags), len(self.guards), _MARK_LIFE_US, *minds, *self.held.values()),
            tuple(map(layout.entry, self.entries)),
        )

    def stamps_in(self, answer: Answer) -> tuple[bytes, bytes]:
        """Return the stamps of its tags and guards, written one after the other, and a digit for each; none: no marks."""
        count, rest = len(self.names), answer.rest
        size = _STAMP * count
        if len(rest) not in (size, size + count):
            raise ValueError(rest)
        return rest[:size], rest[size:]

    def entries_in(self, answer: Answer) -> list[tuple[bytes, object]]:
        """Return the entries that were asked for: bytes, or 1 for one that is what the caller holds, or None."""
        if not self.held:
            return list(zip(self.entries, answer.entries, strict=True))
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
    return _plan_of(layout, (question,), {} if question[0] is None or head is None else {question[0]: head})


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
            if len(self.questions) == 1 and len(self._plan) == 1:
                return [self._alone(answers[0])]
            return self._found(answers)
        except (TypeError, ValueError) as error:
            raise StoreUnavailable(_NOT_OURS) from error

    def _alone(self, answer: Answer) -> Found:
        """Read what one part answered to one question: just what was asked for, in the question's order."""
        asked, _ = self._plan[0]
        stamps, marks = asked.stamps_in(answer)
        kept = None
        for key, entry in asked.entries_in(answer):
            kept = self._kept(key, entry, answer)
        return _one(stamps, marks, kept, answer.now_us, answer.floor_us)

    def _found(self, answers: Sequence[Answer]) -> list[Found]:
        seen: dict[Name, tuple[bytes, bytes]] = {}
        entries: dict[bytes, _Kept | None] = {}
        for (asked, _), answer in zip(self._plan, answers, strict=True):
            stamps, marks = asked.stamps_in(answer)
            for at, name in enumerate(asked.names):
                seen[name] = stamps[at * _STAMP : (at + 1) * _STAMP], marks[at : at + 1] or b"0"
            for key, entry in asked.entries_in(answer):
                entries[key] = self._kept(key, entry, answer)
        now_us = max(answer.now_us for answer in answers)
        floor_us = max(answer.floor_us for answer in answers)
        found = []
        for key, tags in self.questions:
            mine = [seen[name] for name in _names_in(tags)]
            stamps, marks = b"".join([stamp for stamp, _ in mine]), b"".join([mark for _, mark in mine])
            kept = entries[key] if key is not None else None
            found.append(_one(stamps, marks, kept, now_us, floor_us))
        return found

    def _kept(self, key: bytes, entry: object, answer: Answer) -> _Kept | None:
        if isinstance(entry, bytes):
            return _Kept(entry, None, answer)
        if entry is None:
            return None
        copy = self._held.get(key) if entry == 1 else None
        if copy is None:
            raise TypeError(entry)
        return _Kept(copy.entry.head, copy, answer)


class _Kept(NamedTuple):
    """An entry, or the head of one that the caller holds, and what its part answered."""

    entry: bytes
    copy: Copy | None
    answer: Answer


def _one(stamps: bytes, marks: bytes, kept: _Kept | None, now_us: int, floor_us: int) -> Found:
    """Tell what a question is answered, given the stamps of its tags and what is kept under its key."""
    lease = _lease_in(stamps)
    is_storable = b"1" not in marks
    if kept is not None and is_storable:
        written = b"%06d%b" % (len(lease), stamps)
        entry, copy, part = kept
        if entry.startswith(written, _HEAD):
            filled_us, ends_us = int(entry[:16]), int(entry[16:32])
            if part.floor_us <= filled_us and part.now_us < ends_us:
                start = _HEAD + len(written)
                payload = entry[start:] if copy is None else copy.entry.payload
                ends = stamp_at(now_us + ends_us - part.now_us)
                lookup = Lookup(payload, lease, True, stamp_at(now_us), ends, copy)
                return Found(lookup, part.now_us - filled_us, floor_us, entry[:start])
    return Found(Lookup(None, lease, is_storable, stamp_at(now_us)), 0, floor_us)


@lru_cache(maxsize=4096)
def _lease_in(stamps: bytes) -> Lease:
    """Read stamps that are written one after the other."""
    return tuple([int(stamps[at : at + _STAMP]) for at in range(0, len(stamps), _STAMP)])


class Found(NamedTuple):
    """What a question is answered, how long ago an entry that was found was filled, by its part's clock, and its head.

    ``floor_us``: no stamp from before it counts.
    """

    lookup: Lookup
    age_us: int
    floor_us: int
    head: bytes = b""


def lease_text(lease: Lease) -> bytes:
    """Write a lease as it stands in an entry."""
    return b"%06d" % len(lease) + b"".join(b"%019d" % stamp for stamp in lease)


# -- the other verbs -----------------------------------------------------------------------------------------------------


def filling(layout: Layout, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> Call:
    """Write ``fill`` as a call."""
    return Call(layout.part_of(key), FILL, (layout.entry(key),), (_life_us(ttl_s), lease_text(lease), payload))


def head_of(answer: Answer, lease: Lease, ttl_s: float) -> bytes:
    """Return the head of the entry that ``fill`` has just stored."""
    return b"%016d%016d" % (answer.now_us, answer.now_us + _life_us(ttl_s)) + lease_text(lease)


def end_in(head: bytes) -> Stamp:
    """Return when an entry ends, from its head."""
    return stamp_at(int(head[16:32]))


def _life_us(ttl_s: float) -> int:
    return max(1, int(ttl_s * 1e6))


def marking(layout: Layout, tags: TagSet, writer: Writer, ttl_s: float) -> list[tuple[Call, tuple[Guard, ...]]]:
    """Write ``mark`` as calls, each with the guards that it looks at."""
    calls = []
    for part, (names, guards) in _by_part(layout, tags.tags, tags.guards).items():
        for chunk, some in _chunks(names, guards):
            arguments = (len(chunk), _writer_name(writer), int(ttl_s * 1e6), MOST_FIELDS)
            minds = tuple(_name_of(mind) for _, mind in some)
            keys = tuple(map(layout.stamp, (*chunk, *(tag for tag, _ in some))))
            calls.append((Call(part, MARK, keys, (*arguments, *minds)), some))
    return calls


def were_marked(guards: Sequence[Guard], answer: Answer) -> list[bool]:
    """Read which guards a call to mark has marked."""
    if len(answer.rest) != len(guards):
        raise StoreUnavailable(_NOT_OURS)
    return [digit != _FREE for digit in answer.rest]


def releasing(layout: Layout, tags: Sequence[Tag], writer: Writer, relied: Mapping[Guard, int]) -> list[Call]:
    """Write ``release`` as calls. ``relied``: guards that the writer relied on, and the floor of their part at that time."""
    calls = []
    for part, (names, guards) in _by_part(layout, tags, tuple(relied)).items():
        for chunk, some in _chunks(names, guards):
            keys = tuple(map(layout.stamp, (*chunk, *(tag for tag, _ in some))))
            floors = tuple(relied[guard] for guard in some)
            calls.append(Call(part, RELEASE, keys, (len(chunk), _writer_name(writer), *floors)))
    return calls


def telling_the_time(layout: Layout) -> Call:
    """Write ``clock`` as a call. In a Cluster any part will do, and each is asked in turn."""
    return Call(secrets.randbelow(len(layout.parts)), LOOKUP, (), (0, 0, _MARK_LIFE_US))


def clearing(layout: Layout) -> list[Call]:
    """Write ``clear`` as calls."""
    return [Call(part, CLEAR) for part in range(len(layout.parts))]


def counting_marks(layout: Layout) -> list[Call]:
    """Write the count of marked tags as calls."""
    return [Call(part, MARKS) for part in range(len(layout.parts))]


def _by_part(layout: Layout, tags: Sequence[Tag], guards: Sequence[Guard]) -> dict[int, tuple[list[Tag], list[Guard]]]:
    parts: dict[int, tuple[list[Tag], list[Guard]]] = {}
    for tag in dict.fromkeys(tags):
        parts.setdefault(layout.part_of(tag), ([], []))[0].append(tag)
    for guard in dict.fromkeys(guards):
        parts.setdefault(layout.part_of(guard[0]), ([], []))[1].append(guard)
    return parts


def _chunks(tags: Sequence[Tag], guards: Sequence[Guard]) -> Iterable[tuple[tuple[Tag, ...], tuple[Guard, ...]]]:
    yield tuple(tags[:MOST_TAGS]), tuple(guards)
    for start in range(MOST_TAGS, len(tags), MOST_TAGS):
        yield tuple(tags[start : start + MOST_TAGS]), ()


@lru_cache(maxsize=64)
def _writer_name(writer: Writer) -> bytes:
    return urlsafe_b64encode(blake2b(writer, digest_size=12).digest())
