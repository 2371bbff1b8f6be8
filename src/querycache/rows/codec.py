"""How do rows as the driver gave them become a payload, and a payload rows again?

A payload carries a checksum, its format's version and a digest of the key it was made for: bytes that are damaged, of
another version or of another key are refused, never read as something else. Each value comes back with exactly its type
and value, each row as a tuple, in the order of the rows; a value of a type that is not known is refused at encoding.

Columns whose values need no tag go the fast way: one decoder for all rows of a signature, found while encoding. What a
joined load repeats for each child is written once (``repeats``).
Never executes what a payload says: it names no classes. Somebody who can write to the store can forge a whole payload;
what comes out then are still plain values of the known types.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, tzinfo
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID, SafeUUID
from zlib import crc32

from msgspec.msgpack import Decoder

from querycache.errors import QueryCacheError
from querycache.rows.repeats import grouped, repeats_in, ungrouped
from querycache.rows.tagged import (
    MAX_PLAIN_INT,
    MIN_PLAIN_INT,
    UnsupportedValue,
    pack,
    pack_values,
    tag_value,
    value_of_ext,
)

__all__ = ["MAGIC", "DecodedRows", "PayloadRejected", "UnsupportedValue", "decode_rows", "encode_rows", "encode_values"]

MAGIC: Final = b"qcr\x03"
"""What a payload is, and the version of the format: to be raised with any change to the layout, the letters or the codes."""

_HEADER: Final = struct.Struct(">4s8sI")
_HEAD_SIZE: Final = struct.Struct(">I")

_KNOWN_HEADS: Final = 512
_TAGGED: Final = "a"

# A column's letter says what its decoder expects. Bytes cannot share a letter with text: msgpack's typed decoders take
# one of the two.
_COLUMN_TYPES: Final = MappingProxyType[str, Any](
    {
        "s": None | bool | int | float | str,
        "b": None | bytes,
        "t": None | datetime,
        "d": None | date,
        "m": None | time,
        "c": None | Decimal,
        "u": None | UUID,
        _TAGGED: Any,
    }
)
_SCALARS: Final = frozenset({type(None), bool, int, float, str})
_LETTERS: Final = MappingProxyType[type, str](
    {bytes: "b", datetime: "t", date: "d", time: "m", Decimal: "c", UUID: "u"}
)
_TYPE_CODES: Final = frozenset({type(None), int, str, bytes})


class PayloadRejected(QueryCacheError):
    """Bytes are not a payload of this format's version that was made for this key, or are damaged."""


class DecodedRows(NamedTuple):
    """What a statement gave: name and type code of each column as the driver said them, and the rows.

    ``is_immutable``: no value can be changed by who is given it.
    """

    description: tuple[tuple[str, object], ...]
    rows: Sequence[tuple[Any, ...]]
    is_immutable: bool = False


def encode_rows(key: bytes, description: Sequence[tuple[str, object]], rows: Sequence[Sequence[object]]) -> bytes:
    """Make the payload of an entry under ``key``.

    Raises ``UnsupportedValue`` where a value, a type code or the shape of the rows would not come back exactly.
    """
    plain_rows = [row if type(row) is tuple else tuple(row) for row in rows]
    signature = _signature_of(plain_rows, len(description))
    repeats = repeats_in(plain_rows, _shareable(signature))
    head = pack([[_described(name, code) for name, code in description], signature, repeats.width])
    tagged = _tag_columns(plain_rows, signature)
    body = b"".join((_HEAD_SIZE.pack(len(head)), head, pack(grouped(tagged, repeats) if repeats.width else tagged)))
    return _HEADER.pack(MAGIC, _digest_of(key), crc32(body)) + body


def decode_rows(key: bytes, payload: bytes) -> DecodedRows:
    """Return what was encoded. Raises ``PayloadRejected``, and nothing else, whatever the bytes are."""
    body = _checked_body(key, payload)
    try:
        (size,) = _HEAD_SIZE.unpack_from(body)
        start = _HEAD_SIZE.size + size
        description, decoder, shared, is_immutable = _known_head(bytes(body[_HEAD_SIZE.size : start]))
        found = decoder.decode(body[start:])
        return DecodedRows(description, ungrouped(found) if shared else found, is_immutable)
    # What constructors of values say to content that no encoder wrote: the checksum lets forged bytes alone pass.
    except (
        ArithmeticError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RecursionError,
        TypeError,
        ValueError,
        struct.error,
    ) as error:
        raise PayloadRejected(f"the payload cannot be read: {type(error).__name__}") from error


def encode_values(values: Iterable[object]) -> bytes:
    """Return bytes that are equal only for equal lists of equally typed values, for use inside of a key.

    The order counts, also that of dicts, not that of sets. Raises ``UnsupportedValue``.
    """
    return pack_values(values)


def _checked_body(key: bytes, payload: bytes) -> memoryview:
    if len(payload) < _HEADER.size:
        raise PayloadRejected("the payload is too short to be one")
    magic, digest, checksum = _HEADER.unpack_from(payload)
    if magic != MAGIC:
        raise PayloadRejected("the payload is of another format, or another version of it")
    if digest != _digest_of(key):
        raise PayloadRejected("the payload was made for another key")
    body = memoryview(payload)[_HEADER.size :]
    if crc32(body) != checksum:
        raise PayloadRejected("the payload is damaged: its checksum does not fit")
    return body


def _digest_of(key: bytes) -> bytes:
    # A statement's key is a digest itself.
    return key[:8] if len(key) == 16 else blake2b(key, digest_size=8).digest()


@lru_cache(_KNOWN_HEADS)
def _known_head(head: bytes) -> tuple[tuple[tuple[str, object], ...], Decoder[Any], int, bool]:
    description, signature, shared = _HEADS.decode(head)
    if len(description) != len(signature):
        raise ValueError("as many letters as columns are needed")
    if not 0 <= shared <= _shareable(signature):
        raise ValueError("columns are shared that cannot be")
    # A tagged column may hold lists and dicts; the types of all others are immutable.
    return tuple(description), _decoder_of(signature, shared), shared, _TAGGED not in signature


def _shareable(signature: str) -> int:
    """Return how many of the first columns may have one value for several rows: not the last, nor any from a tagged one on."""
    return min(max(0, len(signature) - 1), len(signature.partition(_TAGGED)[0]))


@lru_cache(_KNOWN_HEADS)
def _decoder_of(signature: str, shared: int) -> Decoder[Any]:
    row: Any = _row_type(signature)
    if shared:
        row = tuple[_row_type(signature[:shared]), list[_row_type(signature[shared:])]]  # type: ignore[misc]  # as below
    return Decoder(list[row], ext_hook=_value_of_hook)


def _row_type(signature: str) -> Any:
    return tuple[tuple(_COLUMN_TYPES[letter] for letter in signature)]  # type: ignore[misc]  # made at run time


def _value_of_hook(code: int, data: memoryview) -> object:
    return value_of_ext(code, bytes(data))


_HEADS: Final = Decoder(tuple[list[tuple[str, Any]], str, int])


def _described(name: str, code: object) -> tuple[str, object]:
    for part, allowed in ((name, {str}), (code, _TYPE_CODES)):
        if type(part) not in allowed:
            raise UnsupportedValue(type(part), "stands in a cursor's description")
    return name, code


def _signature_of(rows: list[tuple[object, ...]], width: int) -> str:
    if any(len(row) != width for row in rows):
        raise UnsupportedValue(tuple, "is a row of another length than the cursor's description")
    if not rows:
        return "s" * width
    return "".join(map(_letter_of, zip(*rows, strict=True)))


def _letter_of(column: tuple[Any, ...]) -> str:
    types = set(map(type, column))
    if types <= _SCALARS:
        return "s" if int not in types or _are_plain_ints(column) else _TAGGED
    types.discard(type(None))
    letter = _LETTERS.get(types.pop(), _TAGGED) if len(types) == 1 else _TAGGED
    if letter == "t":
        fast = all(value is None or (_is_fast(value.tzinfo) and not value.fold) for value in column)
    elif letter == "m":
        fast = all(value is None or (value.tzinfo is None and not value.fold) for value in column)
    elif letter == "u":
        fast = all(value is None or value.is_safe is SafeUUID.unknown for value in column)
    else:
        fast = True
    return letter if fast else _TAGGED


def _are_plain_ints(column: tuple[Any, ...]) -> bool:
    integers = [value for value in column if type(value) is int]
    return min(integers) >= MIN_PLAIN_INT and max(integers) <= MAX_PLAIN_INT


def _is_fast(zone: tzinfo | None) -> bool:
    # By identity: a zone of another name that is as far from UTC would be equal.
    return zone is None or zone is UTC


def _tag_columns(rows: list[tuple[object, ...]], signature: str) -> list[tuple[object, ...]]:
    """Tag the values of the columns that need it."""
    if _TAGGED not in signature:
        return rows
    return [
        tuple(tag_value(value) if letter == _TAGGED else value for letter, value in zip(signature, row, strict=True))
        for row in rows
    ]
