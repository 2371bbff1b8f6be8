"""How does a single value become bytes such that it comes back with exactly its type?

What msgpack itself keeps apart (None, booleans, integers of 64 bits, floats, text, bytes) stays as it is. Every other
type that is known gets an extension code of its own; a container's content is packed inside of it in the same way.
Equal bytes mean equal values of equal types, which makes the form fit for keys too.

Types are compared exactly: a subclass may carry what this form does not, so it is refused like any unknown type.
Nothing here guesses, and no value ever stands in an error.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from types import MappingProxyType
from typing import Any, Final, TypeAlias
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

from msgspec.msgpack import Decoder, Encoder, Ext

from querycache.errors import QueryCacheError

MAX_DEPTH: Final = 32
MIN_PLAIN_INT: Final = -(2**63)
MAX_PLAIN_INT: Final = 2**64 - 1

PLAIN: Final = frozenset({type(None), bool, float, str, bytes})
"""The types that need no code. Integers need one beyond 64 bits only."""

_UNTAGGED: Final = PLAIN | {int}

_Writer: TypeAlias = Callable[[Any, int], bytes]
_Reader: TypeAlias = Callable[[bytes, int], object]

_RANGE_CODE: Final = 30
_MULTIRANGE_CODE: Final = 31
_RANGE_MODULE: Final = "psycopg.types.range"
_MULTIRANGE_MODULE: Final = "psycopg.types.multirange"
_WRAPPER_CODES: Final = MappingProxyType(
    {
        ("psycopg.dbapi20", "Binary"): 32,
        ("psycopg.types.json", "Json"): 33,
        ("psycopg.types.json", "Jsonb"): 34,
    }
)
"""What psycopg is given for bytes and documents: never in rows, but in keys."""

ENCODER: Final = Encoder(uuid_format="bytes")
_ITEMS: Final = Decoder(list[Any])
_MICROSECOND: Final = timedelta(microseconds=1)


class UnsupportedValue(QueryCacheError):
    """There is no exact form for a value; the message names its type, never the value."""

    def __init__(self, kind: type, why: str = "has no exact encoding") -> None:
        super().__init__(f"a value of type {kind.__module__}.{kind.__qualname__} {why}")


class UnknownCode(ValueError):
    """An extension code stands for no type, or its content is nested too deep."""


def tag_value(value: Any, depth: int = 0) -> object:
    """Return what msgpack is to write for ``value``: itself, or an ``Ext`` that tells its type.

    Raises ``UnsupportedValue``.
    """
    kind = type(value)
    if kind in PLAIN or (kind is int and MIN_PLAIN_INT <= value <= MAX_PLAIN_INT):
        return value
    code, write = _CODES.get(kind) or _code_of_optional(kind)
    if depth >= MAX_DEPTH:
        raise UnsupportedValue(kind, f"is nested deeper than {MAX_DEPTH} levels")
    return Ext(code, write(value, depth + 1))


def pack_values(values: Iterable[object], depth: int = 0) -> bytes:
    """Pack values one after the other, their order and number kept. Raises ``UnsupportedValue``."""
    given = list(values)
    if _UNTAGGED.issuperset(map(type, given)):
        try:
            return ENCODER.encode(given)
        except (ValueError, OverflowError):
            pass  # an integer beyond 64 bits, which has a code; or a text that cannot be written
    return pack([tag_value(value, depth) for value in given])


def pack(tagged: object) -> bytes:
    """Let msgpack write what consists of tagged values. Raises ``UnsupportedValue``."""
    try:
        return ENCODER.encode(tagged)
    except (ValueError, OverflowError):
        # Lone surrogates, or more bytes than msgpack counts. The error holds the value: it must not be chained.
        pass
    raise UnsupportedValue(str, "holds lone surrogates, or is too long")


def value_of_ext(code: int, data: bytes, depth: int = 0) -> object:
    """Make the value that ``tag_value`` wrote as an extension.

    Raises ``UnknownCode``, or whatever the type's constructor says about content that ``tag_value`` never wrote.
    """
    read = _READERS.get(code)
    if read is None or depth >= MAX_DEPTH:
        raise UnknownCode(code)
    return read(data, depth + 1)


def _unpack(data: bytes, depth: int) -> list[Any]:
    return [
        value_of_ext(item.code, bytes(item.data), depth) if type(item) is Ext else item for item in _ITEMS.decode(data)
    ]


# -- numbers, bytes, names -----------------------------------------------------------------------------------------


def _write_int(value: int, depth: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _read_int(data: bytes, depth: int) -> int:
    return int.from_bytes(data, "big", signed=True)


def _write_text(value: object, depth: int) -> bytes:
    return str(value).encode()


def _reader_of_text(kind: Callable[[str], object]) -> _Reader:
    return lambda data, depth: kind(data.decode())


def _write_bytes(value: bytearray, depth: int) -> bytes:
    return bytes(value)


def _write_memoryview(value: memoryview, depth: int) -> bytes:
    try:
        plain = value.format == "B" and value.ndim == 1
    except ValueError:
        # It was released.
        plain = False
    if not plain:
        raise UnsupportedValue(memoryview, "is not one of plain bytes")
    return bytes([value.readonly]) + value.tobytes()


def _read_memoryview(data: bytes, depth: int) -> memoryview:
    content = data[1:]
    return memoryview(content if data[0] else bytearray(content))


def _write_uuid(value: UUID, depth: int) -> bytes:
    if value.is_safe is not SafeUUID.unknown:
        raise UnsupportedValue(UUID, "says how it was made")
    return value.bytes


def _read_uuid(data: bytes, depth: int) -> UUID:
    return UUID(bytes=data)


# -- times ---------------------------------------------------------------------------------------------------------


def _write_datetime(value: datetime, depth: int) -> bytes:
    return pack([value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _name_of_zone(value.tzinfo)])


def _read_datetime(data: bytes, depth: int) -> datetime:
    text, fold, zone = _ITEMS.decode(data)
    return datetime.fromisoformat(text).replace(fold=fold, tzinfo=_zone_of_name(zone))


def _write_time(value: time, depth: int) -> bytes:
    return pack([value.replace(tzinfo=None, fold=0).isoformat(), value.fold, _name_of_zone(value.tzinfo)])


def _read_time(data: bytes, depth: int) -> time:
    text, fold, zone = _ITEMS.decode(data)
    return time.fromisoformat(text).replace(fold=fold, tzinfo=_zone_of_name(zone))


def _write_date(value: date, depth: int) -> bytes:
    return value.isoformat().encode()


def _write_timedelta(value: timedelta, depth: int) -> bytes:
    return pack([value.days, value.seconds, value.microseconds])


def _read_timedelta(data: bytes, depth: int) -> timedelta:
    return timedelta(*_ITEMS.decode(data))


def _name_of_zone(zone: tzinfo | None) -> int | str | None:
    """Return the offset in microseconds or the key of a zone that can be had again by it."""
    if zone is None:
        return None
    if type(zone) is timezone:
        offset = zone.utcoffset(None)
        if zone.tzname(None) == timezone(offset).tzname(None):
            return offset // _MICROSECOND
    elif type(zone) is ZoneInfo and zone.key is not None and _found_by_key(zone):
        return zone.key
    raise UnsupportedValue(type(zone), "is not found again by its offset or key alone")


def _found_by_key(zone: ZoneInfo) -> bool:
    # A zone read from a file may carry any key; one made with ``no_cache`` is not what the others get.
    try:
        return ZoneInfo(zone.key) is zone
    except (LookupError, ValueError, OSError):
        return False


def _zone_of_name(name: int | str | None) -> tzinfo | None:
    if name is None:
        return None
    return ZoneInfo(name) if isinstance(name, str) else timezone(timedelta(microseconds=name))


# -- containers ----------------------------------------------------------------------------------------------------


def _read_list(data: bytes, depth: int) -> list[Any]:
    return _unpack(data, depth)


def _read_tuple(data: bytes, depth: int) -> tuple[Any, ...]:
    return tuple(_unpack(data, depth))


def _write_dict(value: dict[object, object], depth: int) -> bytes:
    return pack_values((part for item in value.items() for part in item), depth)


def _read_dict(data: bytes, depth: int) -> dict[Any, Any]:
    items = iter(_unpack(data, depth))
    return dict(zip(items, items, strict=True))


def _write_set(value: set[object] | frozenset[object], depth: int) -> bytes:
    # A set has no order: the sorted bytes of its members give equal sets equal bytes.
    return pack(sorted(pack_values([member], depth) for member in value))


def _read_set(data: bytes, depth: int) -> set[Any]:
    return {member for packed in _ITEMS.decode(data) for member in _unpack(packed, depth)}


def _read_frozenset(data: bytes, depth: int) -> frozenset[Any]:
    return frozenset(_read_set(data, depth))


# -- psycopg's ranges ----------------------------------------------------------------------------------------------


def _write_range(value: Any, depth: int) -> bytes:
    return pack_values([value._bounds, value._lower, value._upper], depth)


def _read_range(data: bytes, depth: int) -> object:
    bounds, lower, upper = _unpack(data, depth)
    kind: Any = importlib.import_module(_RANGE_MODULE).Range
    return kind(lower, upper, bounds) if bounds else kind(empty=True)


def _write_multirange(value: Any, depth: int) -> bytes:
    return pack_values(value, depth)


def _read_multirange(data: bytes, depth: int) -> object:
    kind: Any = importlib.import_module(_MULTIRANGE_MODULE).Multirange
    return kind(_unpack(data, depth))


# -- what psycopg's parameters are wrapped in ----------------------------------------------------------------------


def _write_wrapped(value: Any, depth: int) -> bytes:
    if getattr(value, "dumps", None) is not None:
        raise UnsupportedValue(type(value), "has a way of its own to become text")
    return pack_values([value.obj], depth)


def _reader_of_wrapped(module: str, name: str) -> _Reader:
    return lambda data, depth: getattr(importlib.import_module(module), name)(*_unpack(data, depth))


def _code_of_optional(kind: type) -> tuple[int, _Writer]:
    """Find the code of a type from a library that this module does not import by itself."""
    if kind.__module__ in (_RANGE_MODULE, _MULTIRANGE_MODULE):
        module = sys.modules.get(kind.__module__)
        if kind is getattr(module, "Range", None):
            return _RANGE_CODE, _write_range
        if kind is getattr(module, "Multirange", None):
            return _MULTIRANGE_CODE, _write_multirange
    code = _WRAPPER_CODES.get((kind.__module__, kind.__qualname__))
    if code is not None and kind is getattr(sys.modules.get(kind.__module__), kind.__qualname__, None):
        return code, _write_wrapped
    raise UnsupportedValue(kind)


# The codes are part of the format: none is ever given another meaning under one version of it.
_CODES: Final = MappingProxyType[type, tuple[int, _Writer]](
    {
        int: (1, _write_int),
        Decimal: (2, _write_text),
        datetime: (3, _write_datetime),
        date: (4, _write_date),
        time: (5, _write_time),
        timedelta: (6, _write_timedelta),
        UUID: (7, _write_uuid),
        bytearray: (8, _write_bytes),
        memoryview: (9, _write_memoryview),
        list: (10, pack_values),
        tuple: (11, pack_values),
        dict: (12, _write_dict),
        set: (13, _write_set),
        frozenset: (14, _write_set),
        IPv4Address: (20, _write_text),
        IPv4Interface: (21, _write_text),
        IPv4Network: (22, _write_text),
        IPv6Address: (23, _write_text),
        IPv6Interface: (24, _write_text),
        IPv6Network: (25, _write_text),
    }
)

_READERS: Final = MappingProxyType[int, _Reader](
    {
        1: _read_int,
        2: _reader_of_text(Decimal),
        3: _read_datetime,
        4: _reader_of_text(date.fromisoformat),
        5: _read_time,
        6: _read_timedelta,
        7: _read_uuid,
        8: lambda data, depth: bytearray(data),
        9: _read_memoryview,
        10: _read_list,
        11: _read_tuple,
        12: _read_dict,
        13: _read_set,
        14: _read_frozenset,
        20: _reader_of_text(IPv4Address),
        21: _reader_of_text(IPv4Interface),
        22: _reader_of_text(IPv4Network),
        23: _reader_of_text(IPv6Address),
        24: _reader_of_text(IPv6Interface),
        25: _reader_of_text(IPv6Network),
        _RANGE_CODE: _read_range,
        _MULTIRANGE_CODE: _read_multirange,
        **{code: _reader_of_wrapped(*name) for name, code in _WRAPPER_CODES.items()},
    }
)
