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
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from querycache._types import MARK_TTL_S, Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import StoreUnavailable
from querycache.stores._copies import Copy
from querycache.stores._redis_scripts import CLEAR, FILL, LOOKUP, MARK, MARKS, RELEASE, Argument, Command, Script

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


@dataclass(frozen=True, slots=True)
class Call:
    """One run of a script in one part. ``keys`` come after the part's state, ``arguments`` after what all scripts take."""

    part: int
    script: Script
    keys: tuple[bytes, ...] = ()
    arguments: tuple[Argument, ...] = ()


@dataclass(slots=True)
class Witness:
    """What this process has seen of each part: a server that shows less than that was given old data."""

    last: dict[int, int] = field(default_factory=dict)

    def command(self, layout: Layout, call: Call, *, whole: bool = False) -> Command:
        """Write a call as a command."""
        keys = (layout.state(call.part), *call.keys)
        salt = b"%03d" % secrets.randbelow(1000)
        return call.script.call(keys, (self.last.get(call.part, 0), salt, *call.arguments), whole=whole)

    def answer(self, call: Call, reply: Reply) -> Answer:
        """Read what a script returned, and remember how far the part is."""
        try:
            now, last, floor, rest = reply
            answer = Answer(int(now), int(floor), rest)
            self.last[call.part] = max(self.last.get(call.part, 0), int(last))
        except (TypeError, ValueError) as error:
            raise StoreUnavailable(_NOT_OURS) from error
        return answer


@dataclass(frozen=True, slots=True)
class Answer:
    """What a script returned: the part's clock and floor in microseconds, and the script's own."""

    now_us: int
    floor_us: int
    rest: Any


def stamp_at(now_us: int) -> Stamp:
    """Return a moment of a part's clock, not earlier than any stamp made until then."""
    return now_us * 1000 + 999


# -- lookup --------------------------------------------------------------------------------------------------------------


def _names_in(tags: TagSet) -> tuple[Name, ...]:
    return (*tags.tags, *tags.guards)


class _Asked:
    """What one part is asked: tags, guards and entries, each once, in order."""

    def __init__(self) -> None:
        self.tags: dict[Tag, None] = {}
        self.guards: dict[Guard, None] = {}
        self.entries: dict[bytes, TagSet] = {}
        self.names: tuple[Name, ...] = ()

    def as_call(self, layout: Layout, part: int) -> Call:
        """Write it as a call. Nothing may be added any more."""
        self.names = (*self.tags, *self.guards)
        stamps = [layout.stamp(tag) for tag in (*self.tags, *(tag for tag, _ in self.guards))]
        position: dict[Name, int] = {name: at for at, name in enumerate(self.names, 1)}
        positions = [",".join(str(position.get(name, 0)) for name in _names_in(tags)) for tags in self.entries.values()]
        return Call(
            part,
            LOOKUP,
            (*stamps, *map(layout.entry, self.entries)),
            (
                len(self.tags),
                len(self.guards),
                _MARK_LIFE_US,
                *(_name_of(mind) for _, mind in self.guards),
                *positions,
            ),
        )


_Plan: TypeAlias = tuple[tuple[_Asked, Call], ...]


def _plan_of(layout: Layout, questions: Iterable[Question]) -> _Plan:
    """Tell which part is asked what, and by which call."""
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
        if key is not None:
            at(key).entries[key] = tags
    if not parts:
        parts[0] = _Asked()
    return tuple((asked, asked.as_call(layout, part)) for part, asked in parts.items())


@lru_cache(maxsize=4096)
def _plan_of_one(layout: Layout, question: Question) -> _Plan:
    """Do so for one question, which is asked again and again."""
    return _plan_of(layout, (question,))


class Asking:
    """Several questions, as one call for each part that knows something of them.

    ``held``: entries by key that the caller has and that need not be sent again if they are still what the server has.
    """

    def __init__(self, layout: Layout, questions: Iterable[Question], held: Mapping[bytes, Copy] = NOTHING) -> None:
        self.questions = list(questions)
        self._held = held
        one = self.questions[0] if len(self.questions) == 1 else None
        self._plan = _plan_of(layout, self.questions) if one is None else _plan_of_one(layout, one)
        self.calls = [self._call(asked, call) for asked, call in self._plan]

    def _call(self, asked: _Asked, call: Call) -> Call:
        heads = self._heads(asked.entries)
        return replace(call, arguments=(*call.arguments, *heads)) if heads else call

    def _heads(self, keys: Iterable[bytes]) -> list[bytes]:
        if not self._held:
            return []
        heads = [copy.entry.head if (copy := self._held.get(key)) is not None else b"" for key in keys]
        return heads if any(heads) else []

    def found(self, answers: Sequence[Answer]) -> list[Found]:
        """Put together what the parts answered, in the order of the questions."""
        try:
            return self._found(answers)
        except (TypeError, ValueError) as error:
            raise StoreUnavailable(_NOT_OURS) from error

    def _found(self, answers: Sequence[Answer]) -> list[Found]:
        stamps: dict[Name, tuple[bytes, bool]] = {}
        entries: dict[bytes, tuple[bytes, Copy | None, int]] = {}
        for (asked, _), answer in zip(self._plan, answers, strict=True):
            made, held, kept = answer.rest
            for name, stamp, mark in zip(asked.names, made, held, strict=True):
                stamps[name] = stamp, mark != _FREE
            for key, entry in zip(asked.entries, kept, strict=True):
                if isinstance(entry, bytes):
                    entries[key] = entry, None, answer.now_us
                elif entry == 1 and (copy := self._held.get(key)) is not None:
                    entries[key] = copy.entry.head, copy, answer.now_us
                elif entry is not None:
                    raise TypeError(entry)
        now_us = max(answer.now_us for answer in answers)
        floor_us = max(answer.floor_us for answer in answers)
        return [self._one(question, stamps, entries, now_us, floor_us) for question in self.questions]

    def _one(
        self,
        question: Question,
        stamps: Mapping[Name, tuple[bytes, bool]],
        entries: Mapping[bytes, tuple[bytes, Copy | None, int]],
        now_us: int,
        floor_us: int,
    ) -> Found:
        key, tags = question
        seen = [stamps[name] for name in _names_in(tags)]
        written = b"%06d" % len(seen) + b"".join([stamp for stamp, _ in seen])
        lease = tuple([int(stamp) for stamp, _ in seen])
        is_storable = not any(is_held for _, is_held in seen)
        kept = entries.get(key) if key is not None and is_storable else None
        if kept is not None:
            entry, copy, its_now_us = kept
            start = _HEAD + len(written)
            if entry[_HEAD:start] == written:
                payload = entry[start:] if copy is None else copy.entry.payload
                age_us, rest_us = its_now_us - int(entry[:16]), int(entry[16:32]) - its_now_us
                lookup = Lookup(payload, lease, True, stamp_at(now_us), stamp_at(now_us + rest_us), copy)
                return Found(lookup, age_us, floor_us, entry[:start])
        return Found(Lookup(None, lease, is_storable, stamp_at(now_us)), 0, floor_us)


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


def marking(
    layout: Layout, tags: TagSet, writer: Writer, ttl_s: float, watched: Guard | None = None
) -> list[tuple[Call, tuple[Guard, ...]]]:
    """Write ``mark`` as calls, each with the guards that it marks where they are others; one tells of ``watched`` besides."""
    parts, calls = _by_part(layout, tags.tags, tags.guards), []
    there = None if watched is None else layout.part_of(watched[0])
    if there is not None:
        parts.setdefault(there, ([], []))
    for part, (names, guards) in parts.items():
        for number, (chunk, some) in enumerate(_chunks(names, guards)):
            named = some if watched is None or part != there or number else (*some, watched)
            arguments = (len(chunk), _writer_name(writer), int(ttl_s * 1e6), MOST_FIELDS, len(some))
            minds = tuple(_name_of(mind) for _, mind in named)
            keys = tuple(map(layout.stamp, (*chunk, *(tag for tag, _ in named))))
            calls.append((Call(part, MARK, keys, (*arguments, *minds)), some))
    return calls


def told_of_marks(guards: Sequence[Guard], answer: Answer) -> tuple[list[bool], Stamp | None]:
    """Read which guards a call to mark has marked, and the stamp of the one that was watched, if there is one."""
    digits, stamp = answer.rest if isinstance(answer.rest, list) and len(answer.rest) == 2 else (None, None)
    if not isinstance(digits, bytes) or not isinstance(stamp, bytes) or len(digits) != len(guards):
        raise StoreUnavailable(_NOT_OURS)
    try:
        return [digit != _FREE for digit in digits], int(stamp) if stamp else None
    except ValueError as error:
        raise StoreUnavailable(_NOT_OURS) from error


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
