"""What is put around a payload for a store: is it small, and is it one of ours?

Large payloads are compressed. With a signing key, each carries a code that only who knows the key can make, over the entry's
key and the bytes as they are stored: what others wrote to the store, or moved to another key, is refused before any of it is
read. Without one a payload stays as it is.

Never does: interpret a payload; show a signing key.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Final

from querycache.errors import ConfigurationError
from querycache.rows.codec import PayloadRejected

COMPRESSED: Final = b"qcz\x01"
SIGNED: Final = b"qcs\x01"
MIN_SIGNING_KEY: Final = 16
"""Bytes. A key is no password: take it from ``secrets.token_bytes(32)``."""

COMPRESS_ABOVE: Final = 65_536
"""Bytes. Below that a network of today takes less time than zlib."""

_CODE_SIZE: Final = 16
_SIGNED_HEAD: Final = len(SIGNED) + _CODE_SIZE
_SIZE: Final = struct.Struct(">I")
_COMPRESSED_HEAD: Final = len(COMPRESSED) + _SIZE.size
_LEVEL: Final = 1


class Envelope:
    """Wraps and unwraps the payloads of one store.

    ``compress_above``: of how many bytes on a payload is compressed, None for never. ``signing_keys``: the first signs, each is
    known; none for no signatures.
    """

    __slots__ = ("_compress_above", "_keys")

    def __init__(self, compress_above: int | None = None, signing_keys: Sequence[bytes] = ()) -> None:
        self._compress_above = compress_above
        self._keys = tuple(signing_keys)

    def wrap(self, key: bytes, payload: bytes) -> bytes:
        """Return what to store under a key; equal payloads give equal bytes."""
        if self._compress_above is not None and len(payload) > self._compress_above:
            small = zlib.compress(payload, _LEVEL)
            if len(small) + _COMPRESSED_HEAD < len(payload):
                payload = b"".join((COMPRESSED, _SIZE.pack(len(payload)), small))
        if self._keys:
            payload = b"".join((SIGNED, _code_of(self._keys[0], key, payload), payload))
        return payload

    def unwrap(self, key: bytes, stored: bytes) -> bytes:
        """Return the payload. Raises ``PayloadRejected``, and nothing else, whatever the bytes are."""
        if self._keys:
            stored = self._verified(key, stored)
        elif stored.startswith(SIGNED):
            raise PayloadRejected("the payload is signed, and there is no signing key here")
        return _decompressed(stored) if stored.startswith(COMPRESSED) else stored

    def _verified(self, key: bytes, stored: bytes) -> bytes:
        if not stored.startswith(SIGNED):
            raise PayloadRejected("the payload is not signed")
        code, rest = stored[len(SIGNED) : _SIGNED_HEAD], stored[_SIGNED_HEAD:]
        if not any(compare_digest(code, _code_of(known, key, rest)) for known in self._keys):
            raise PayloadRejected("the payload's signature was not made with a key that is known here")
        return rest


def signing_keys_of(given: bytes | str | Sequence[bytes | str] | None) -> tuple[bytes, ...]:
    """Return signing keys as bytes, from one or several of them, each as bytes or text.

    Raises ``ConfigurationError`` for one that is too short or no key at all; it is not shown.
    """
    if given is None:
        return ()
    keys = []
    for each in given if isinstance(given, list | tuple) else [given]:
        key = each.encode() if isinstance(each, str) else each
        if not isinstance(key, bytes) or len(key) < MIN_SIGNING_KEY:
            raise ConfigurationError(
                f"signing_key: give {MIN_SIGNING_KEY} bytes or more, secrets.token_bytes(32) for example, or a list of such "
                "keys: the first signs, all are known."
            )
        keys.append(key)
    return tuple(keys)


def checked_size(compress_above: int | None) -> int | None:
    """Return the size above which to compress. Raises ``ConfigurationError`` for what is none."""
    if compress_above is not None and (type(compress_above) is not int or compress_above < 0):
        raise ConfigurationError(f"compress_above={compress_above!r}: give bytes, 0 or more; None never compresses")
    return compress_above


def _code_of(signing_key: bytes, key: bytes, rest: bytes) -> bytes:
    code = blake2b(
        len(key).to_bytes(4), digest_size=_CODE_SIZE, key=blake2b(signing_key).digest(), person=b"querycache"
    )
    code.update(key)
    code.update(rest)
    return code.digest()


def _decompressed(stored: bytes) -> bytes:
    if len(stored) < _COMPRESSED_HEAD:
        raise PayloadRejected("the payload is too short to be one")
    (size,) = _SIZE.unpack_from(stored, len(COMPRESSED))
    reader = zlib.decompressobj()
    try:
        # No more than was said, whatever the rest would become.
        payload = reader.decompress(stored[_COMPRESSED_HEAD:], max(size, 1))
    except zlib.error as error:
        raise PayloadRejected("the payload cannot be decompressed") from error
    if len(payload) != size or not reader.eof:
        raise PayloadRejected("the payload is not as large as it says")
    return payload
