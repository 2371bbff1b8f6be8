"""How is an entry written, and for whom is it served?

Promises: an entry is served under the very stamps that it was filled under, and for the very tags: tags may have one stamp
together, so the stamps alone do not tell. Never does: I/O; look into a payload.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from querycache._types import Lease, Lookup, Stamp, TagSet

_HEAD: Final = struct.Struct("<QI8s")
_NAME_SIZE: Final = 8
_NAMELESS: Final = bytes(_NAME_SIZE)


class TagLease(tuple[Stamp, ...]):
    """A lease that says which tags it is on: needed where several tags may have one stamp."""

    tags: TagSet

    @classmethod
    def on(cls, tags: TagSet, stamps: Lease) -> TagLease:
        """Return the lease on some tags."""
        lease = cls(stamps)
        lease.tags = tags
        return lease


def _name_on(lease: Lease) -> bytes:
    return _name_of(lease.tags) if isinstance(lease, TagLease) else _NAMELESS


@lru_cache(maxsize=16_384)
def _name_of(tags: TagSet) -> bytes:
    """Tell a set of tags apart from others: their names in order, those of guards with what they are guarded for."""
    pieces = [len(tags.tags).to_bytes(4)]
    for name in (*tags.tags, *(name for guard in tags.guards for name in guard)):
        pieces += len(name).to_bytes(4), name
    return blake2b(b"".join(pieces), digest_size=_NAME_SIZE).digest()


def pack_entry(payload: bytes, lease: Lease, expires: Stamp) -> bytes:
    """Write an entry as bytes: when it expires, its lease and its tags, its payload."""
    return _HEAD.pack(expires, len(lease), _name_on(lease)) + _stamps(len(lease)).pack(*lease) + payload


@lru_cache(maxsize=256)
def _stamps(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


def answer_of(record: bytes | None, seen: tuple[Lease, bool, Stamp]) -> Lookup:
    """Return what a lookup found: an entry as bytes, if there is one, under what is seen of its tags now."""
    lease, storable, now = seen
    if record is None or not storable or not is_under(record, lease) or (expires := expiry_of(record)) <= now:
        return Lookup(None, lease, storable, now)
    return Lookup(record[_HEAD.size + 8 * len(lease) :], lease, storable, now, expires)


def is_under(record: bytes, lease: Lease) -> bool:
    """Tell whether an entry was filled under exactly this lease."""
    if len(record) < _HEAD.size:
        return False
    _, count, name = _HEAD.unpack_from(record)
    if count != len(lease) or record[_HEAD.size : _HEAD.size + 8 * count] != _stamps(count).pack(*lease):
        return False
    return bool(name == _name_on(lease))


def expiry_of(record: bytes) -> Stamp:
    """Return when an entry expires."""
    return int(_HEAD.unpack_from(record)[0])
