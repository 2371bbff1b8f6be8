"""The values that travel between the rooms: tags, stamps, leases. No behaviour, no I/O.

The words are those of ARCHITECTURE.md, "Words".
"""

from __future__ import annotations

from typing import Final, NamedTuple, Protocol, TypeAlias

Tag: TypeAlias = bytes
"""The name of something an entry depends on, as the store sees it.

Unique across binds; holds no row values in the clear but integers and UUIDs.
"""

Guard: TypeAlias = tuple[Tag, bytes]
"""A table's ``T!`` tag and the fingerprint of the tag columns this process knows for that table."""

Stamp: TypeAlias = int
"""A moment of the store's clock, in nanoseconds, since which a tag did not change; after a change it never has that one again.

Tags may have one together as long as none of them changes."""

Lease: TypeAlias = tuple[Stamp, ...]
"""The stamps of a ``TagSet``: those of ``tags`` in their order, then those of ``guards``."""

Writer: TypeAlias = bytes
"""A name drawn at random for one attempt to commit (16 bytes), never used again."""

DEFAULT_TTL_S: Final = 3600.0
MAX_TTL_S: Final = 86400.0
MARK_TTL_S: Final = 30.0


class TagSet(NamedTuple):
    """The tags that one entry depends on, or that one commit changes."""

    tags: tuple[Tag, ...] = ()
    guards: tuple[Guard, ...] = ()


class Memo(Protocol):
    """A place beside a payload that a process holds, for what its first reader made of it. Who reads ``value`` shares it."""

    value: object | None

    def keep(self, value: object, size_bytes: int) -> None:
        """Have it stand there as long as the payload is held, and count towards what may be."""


class Lookup(NamedTuple):
    """What a store answers to a question about one key.

    ``payload`` is None on a miss. ``lease`` covers every tag and guard asked about, on a hit too. ``storable`` is False
    where a tag is marked: then nothing that is read now may be filled. ``now`` is the store's clock in nanoseconds,
    ``expires`` when an entry that was found ends on it. ``memo`` where the payload is one that stays in this process.
    """

    payload: bytes | None
    lease: Lease
    storable: bool
    now: Stamp
    expires: Stamp = 0
    memo: Memo | None = None
