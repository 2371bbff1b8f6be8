"""How are a store's verbs written as calls of scripts, and what do their answers mean?

Those of ``lookup`` are in ``_redis_asking``.

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
from typing import Any, Final, NamedTuple, TypeAlias

from querycache._types import Guard, Lease, Stamp, Tag, TagSet, Writer
from querycache.errors import StoreUnavailable
from querycache.stores._redis_scripts import (
    CLEAR,
    FILL,
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

Reply: TypeAlias = Any

STAMP_SIZE: Final = 19
"""Digits of a stamp as scripts write it."""

NOT_OURS: Final = "the server answered what querycache's scripts never return"
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
def name_of(name: bytes) -> bytes:
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
        return self.stamps(self.part_of(tag)) + name_of(tag)

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

    def running(self, state_word: bytes, moment: bytes, *, whole: bool = False) -> Command:
        """Write the command that runs the script. What does not change from run to run is written once."""
        count, name, keys, arguments = self._running
        if whole:
            name = self.script.name(whole=True)
        return b"".join((count, name, keys[0], state_word, keys[1], moment, arguments))

    @cached_property
    def reading(self) -> tuple[Command, ...]:
        """The command that reads the entries, if there are any."""
        return (packed("MGET", *self.entries),) if self.entries else ()

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
        moment = b"$16\r\n%016d\r\n$3\r\n%03d\r\n" % (self.last.get(call.part, 0), secrets.randbits(16) % 1000)
        return call.running(layout.state_word(call.part), moment, whole=whole)

    def answer(self, call: Call, replies: Sequence[Reply]) -> Answer:
        """Read what was answered to a call's commands, and remember how far the part is."""
        try:
            reply = replies[-1]
            text, kept = (reply, ()) if isinstance(reply, bytes) else (reply[0], reply[1:])
            if len(text) < 48:
                raise ValueError(text)
            now, last, floor = int(text[:16]), int(text[16:32]), int(text[32:48])
        except (IndexError, TypeError, ValueError) as error:
            raise StoreUnavailable(NOT_OURS) from error
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


def lease_text(lease: Lease) -> bytes:
    """Write a lease as it stands in an entry."""
    return b"%06d" % len(lease) + b"".join(b"%019d" % stamp for stamp in lease)


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
            minds = tuple(name_of(mind) for _, mind in named)
            keys = tuple(map(layout.stamp, (*chunk, *(tag for tag, _ in named))))
            calls.append((Call(part, MARK, keys, (*arguments, *minds)), some))
    return calls


def told_of_marks(guards: Sequence[Guard], answer: Answer) -> tuple[list[bool], Stamp | None]:
    """Read which guards a call to mark has marked, and the stamp of the one that was watched, if there is one."""
    digits, stamp = answer.rest[: len(guards)], answer.rest[len(guards) :]
    if len(digits) < len(guards) or len(stamp) not in (0, STAMP_SIZE):
        raise StoreUnavailable(NOT_OURS)
    try:
        return [digit != _FREE for digit in digits], int(stamp) if stamp else None
    except ValueError as error:
        raise StoreUnavailable(NOT_OURS) from error


def releasing(layout: Layout, tags: Sequence[Tag], writer: Writer, relied: Mapping[Guard, int]) -> list[Call]:
    """Write ``release`` as calls. ``relied``: guards that the writer relied on, and the floor of their part at that time."""
    calls = []
    for part, (names, guards) in _by_part(layout, tags, tuple(relied)).items():
        for chunk, some in _chunks(names, guards):
            keys = tuple(map(layout.stamp, (*chunk, *(tag for tag, _ in some))))
            floors = tuple(relied[guard] for guard in some)
            calls.append(Call(part, RELEASE, keys, (len(chunk), _writer_name(writer), *floors)))
    return calls


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
