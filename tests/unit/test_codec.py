"""What goes into a payload comes out again, exactly; anything else is refused."""

from __future__ import annotations

import enum
import importlib
import ipaddress
import struct
import sys
import zlib
from collections import OrderedDict, namedtuple
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid1
from zoneinfo import TZPATH, ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from querycache.errors import QueryCacheError
from querycache.rows import tagged
from querycache.rows.codec import (
    DecodedRows,
    PayloadRejected,
    UnsupportedValue,
    decode_rows,
    encode_rows,
    encode_values,
)

KEY = b"0123456789abcdef"


def same(one: object, other: object) -> bool:
    """Tell whether two values are of the same type all the way down and cannot be told apart."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float) and isinstance(other, float):
        return struct.pack(">d", one) == struct.pack(">d", other)
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        return one.as_tuple() == other.as_tuple()
    if isinstance(one, datetime | time) and isinstance(other, datetime | time):
        return repr(one) == repr(other) and (one.tzinfo is other.tzinfo or same_zone(one, other))
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, set | frozenset) and isinstance(other, set | frozenset):
        return same(sorted(one, key=repr), sorted(other, key=repr))
    if isinstance(one, memoryview) and isinstance(other, memoryview):
        return one == other and one.readonly == other.readonly
    return one == other and repr(one) == repr(other)


def same_zone(one: datetime | time, other: datetime | time) -> bool:
    return type(one.tzinfo) is type(other.tzinfo) is timezone and one.tzinfo == other.tzinfo


def described(width: int) -> list[tuple[str, object]]:
    return [(f"column_{index}", 20 + index) for index in range(width)]


def round_trip(rows: Sequence[Sequence[object]]) -> list[tuple[Any, ...]]:
    description = described(len(rows[0]) if rows else 3)
    decoded = decode_rows(KEY, encode_rows(KEY, description, rows))
    assert decoded.description == tuple(description)
    return list(decoded.rows)


BERLIN = ZoneInfo("Europe/Berlin")
MOMENT = datetime(2024, 10, 27, 2, 30, 0, 123456)

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    2**63,
    2**64 - 1,
    2**64,
    -(2**63),
    -(2**63) - 1,
    10**300,
    -(10**300),
    0.0,
    -0.0,
    1.0,
    5e-324,
    float("inf"),
    float("-inf"),
    float("nan"),
    "",
    "snow ☃ 🐍 \0 end",
    "2024-01-01T00:00:00",
    b"",
    bytes(range(256)),
    bytearray(b"array"),
    memoryview(b"view"),
    memoryview(bytearray(b"writable view")),
    Decimal("1.00"),
    Decimal("1E+3"),
    Decimal("-0.000"),
    Decimal("NaN"),
    Decimal("-sNaN123"),
    Decimal("-Infinity"),
    Decimal("1E-6176"),
    date.min,
    date(2024, 2, 29),
    date.max,
    time.min,
    time.max,
    time(2, 30, fold=1),
    time(2, 30, tzinfo=UTC),
    time(2, 30, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
    time(2, 30, tzinfo=BERLIN),
    datetime.min,
    datetime.max,
    MOMENT,
    MOMENT.replace(fold=1),
    MOMENT.replace(tzinfo=UTC),
    MOMENT.replace(tzinfo=UTC, fold=1),
    MOMENT.replace(tzinfo=timezone(timedelta(hours=5, minutes=45))),
    MOMENT.replace(tzinfo=timezone(timedelta(seconds=1, microseconds=-1))),
    MOMENT.replace(tzinfo=BERLIN),
    MOMENT.replace(tzinfo=BERLIN, fold=1),
    MOMENT.replace(tzinfo=ZoneInfo("UTC")),
    timedelta.min,
    timedelta.max,
    timedelta(microseconds=-1),
    UUID("12345678-1234-5678-1234-567812345678"),
    [],
    [1, "a", None, [Decimal("1.0"), [datetime.min]]],
    (),
    (1, (2, [3])),
    {},
    {"b": Decimal("1"), "a": {"nested": [date.min, (1,)]}},
    {1: 2, "1": 3, (1, 2): 4, None: 5, Decimal("1.5"): 6},
    set(),
    {1, "a", (2, 3), None},
    frozenset({frozenset({1}), b"x"}),
    ipaddress.IPv4Address("192.0.2.1"),
    ipaddress.IPv4Interface("192.0.2.1/24"),
    ipaddress.IPv4Network("192.0.2.0/24"),
    ipaddress.IPv6Address("fe80::1%eth0"),
    ipaddress.IPv6Interface("2001:db8::1/64"),
    ipaddress.IPv6Network("2001:db8::/32"),
]


@pytest.mark.parametrize(
    "value", VALUES, ids=[f"{position} {type(value).__name__}" for position, value in enumerate(VALUES)]
)
def test_a_value_comes_back_with_exactly_its_type(value: Any) -> None:
    (row,) = round_trip([(value,)])
    assert same(row[0], value)


@pytest.mark.parametrize(
    "value", VALUES, ids=[f"{position} {type(value).__name__}" for position, value in enumerate(VALUES)]
)
def test_a_value_comes_back_from_a_column_of_many_types(value: Any) -> None:
    rows = [(value,), (None,), ("text",), (b"bytes",), (value,), (1,), (1.0,), (True,)]
    assert same(round_trip(rows), rows)


def test_all_values_at_once_come_back_in_their_order() -> None:
    rows = [tuple(VALUES), tuple(reversed(VALUES)), tuple(VALUES)]
    assert same(round_trip(rows), rows)


def test_rows_come_back_as_tuples_whatever_sequence_the_driver_gave() -> None:
    named = namedtuple("named", "a b")
    assert same(round_trip([[1, "a"], named(2, "b"), (3, "c")]), [(1, "a"), (2, "b"), (3, "c")])


@pytest.mark.parametrize(
    ("value", "is_immutable"),
    [
        ("text", True),
        (b"bytes", True),
        (Decimal(1), True),
        (None, True),
        ([1], False),
        ({"a": 1}, False),
        ((1,), False),
    ],
)
def test_rows_say_where_a_value_may_be_changed_by_who_is_given_it(value: object, is_immutable: bool) -> None:
    rows = [(1, value), (2, None)]
    assert decode_rows(KEY, encode_rows(KEY, described(2), rows)).is_immutable is is_immutable


def test_no_rows_keep_their_description() -> None:
    assert round_trip([]) == []


def test_rows_without_columns_are_counted() -> None:
    assert round_trip([(), ()]) == [(), ()]


def test_a_description_comes_back_with_names_and_type_codes() -> None:
    description: list[tuple[str, object]] = [("a", None), ("a", 1700), ("b", "text"), ("", b"\x01")]
    decoded = decode_rows(KEY, encode_rows(KEY, description, [(1, 2, 3, 4)]))
    assert decoded == DecodedRows(tuple(description), [(1, 2, 3, 4)], is_immutable=True)


ALIKE = [1, 1.0, True, 0.0, -0.0, Decimal("1"), Decimal("1.0"), Decimal("sNaN"), float("nan"), "1", b"1", None]


@pytest.mark.parametrize("one", ALIKE, ids=repr)
@pytest.mark.parametrize("other", ALIKE, ids=repr)
def test_what_only_seems_to_be_repeated_comes_back_as_it_was(one: Any, other: Any) -> None:
    rows = [(7, one, 1), (7, one, 2), (7, other, 3), (7, one, 4), (7, other, 5), (7, other, 6), (8, other, 7)]

    assert same(round_trip(rows), rows)


def test_a_parent_is_written_once_for_its_children() -> None:
    rows = [(parent, f"parent {parent} {'x' * 100}", child, child) for parent in range(5) for child in range(20)]

    payload = encode_rows(KEY, described(4), rows)

    assert same(decode_rows(KEY, payload).rows, rows)
    assert payload.count(b"x" * 100) == 5


def test_a_document_that_each_row_repeats_is_each_row_s_own() -> None:
    rows = [(1, [1, 2], child) for child in range(4)]

    found = decode_rows(KEY, encode_rows(KEY, described(3), rows)).rows

    assert len({id(document) for _, document, _ in found}) == 4


def test_types_that_psycopg_brings_come_back() -> None:
    ranges = importlib.import_module("psycopg.types.range")
    multiranges = importlib.import_module("psycopg.types.multirange")
    rows = [
        (ranges.Range(1, 5, "[)"),),
        (ranges.Range(None, Decimal("1.50"), "(]"),),
        (ranges.Range(MOMENT.replace(tzinfo=BERLIN), None, "[)"),),
        (ranges.Range(empty=True),),
        (multiranges.Multirange([ranges.Range(1, 2), ranges.Range(3, 4)]),),
        (multiranges.Multirange([]),),
    ]
    decoded = round_trip(rows)
    assert decoded == rows
    assert [repr(row) for row in decoded] == [repr(row) for row in rows]


def test_what_psycopg_wraps_parameters_in_has_a_form_of_its_own_for_each_kind_and_content() -> None:
    json = importlib.import_module("psycopg.types.json")
    binary = importlib.import_module("psycopg.dbapi20").Binary
    wrapped = [
        kind(content) for content in (b"1", 1, True, 1.0, None, {"a": [1]}) for kind in (json.Json, json.Jsonb, binary)
    ]
    assert [repr(row) for row in round_trip([(value,) for value in wrapped])] == [repr((value,)) for value in wrapped]
    assert len({tagged.pack_values([value]) for value in wrapped}) == len(wrapped)


def test_a_document_with_a_way_of_its_own_to_become_text_has_no_form() -> None:
    document = importlib.import_module("psycopg.types.json").Jsonb({"a": 1}, dumps=repr)
    with pytest.raises(UnsupportedValue, match="Jsonb has a way of its own to become text"):
        tagged.pack_values([document])


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int


def zone_of_a_file() -> ZoneInfo:
    """Return a zone that says it is Berlin and is Kathmandu."""
    for folder in TZPATH:
        path = Path(folder, "Asia", "Kathmandu")
        if path.exists():
            return ZoneInfo.from_file(BytesIO(path.read_bytes()), key="Europe/Berlin")
    raise RuntimeError("no zones are installed: apt-get install tzdata")


REFUSED: list[Any] = [
    object(),
    Colour.RED,
    Level.LOW,
    Text("a"),
    Point(1),
    OrderedDict(a=1),
    1j,
    range(3),
    "\ud800",
    ["\ud800"],
    {"\ud800": 1},
    {"a": object()},
    {Colour.RED},
    memoryview(b"12345678").cast("I"),
    memoryview(b"12345678").cast("B", (2, 4)),
    MOMENT.replace(tzinfo=timezone(timedelta(hours=1), "named")),
    MOMENT.replace(tzinfo=timezone(timedelta(0), "UTC or so")),
    MOMENT.replace(tzinfo=ZoneInfo.no_cache("Europe/Berlin")),
    type("Moment", (datetime,), {})(2024, 1, 1),
    uuid1() if uuid1().is_safe.value is not None else object(),
    msgspec.msgpack.Ext(1, b"1"),
    int,
]


@pytest.mark.parametrize(
    "value", REFUSED, ids=[f"{position} {type(value).__name__}" for position, value in enumerate(REFUSED)]
)
def test_a_value_that_would_not_come_back_exactly_is_refused(value: Any) -> None:
    with pytest.raises(UnsupportedValue):
        encode_rows(KEY, described(1), [(value,)])
    with pytest.raises(UnsupportedValue):
        encode_values([value])


def test_a_released_view_is_refused() -> None:
    view = memoryview(b"gone")
    view.release()
    with pytest.raises(UnsupportedValue, match="memoryview"):
        encode_rows(KEY, described(1), [(view,)])


def test_a_zone_that_lies_about_its_key_is_refused() -> None:
    with pytest.raises(UnsupportedValue, match="ZoneInfo"):
        encode_rows(KEY, described(1), [(MOMENT.replace(tzinfo=zone_of_a_file()),)])


def test_values_nested_without_end_are_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(UnsupportedValue, match="nested deeper than 32"):
        encode_rows(KEY, described(1), [(endless,)])


def test_values_nested_as_deep_as_allowed_come_back() -> None:
    nested: list[Any] = []
    for _ in range(tagged.MAX_DEPTH - 1):
        nested = [nested]
    assert round_trip([(nested,)]) == [(nested,)]


@pytest.mark.parametrize("value", ["secret-\ud800", Text("secret-text"), {"a": Text("secret-text")}])
def test_a_refusal_names_the_type_and_never_the_value(value: Any) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        encode_rows(KEY, described(1), [(value,)])
    assert isinstance(caught.value, QueryCacheError)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "secret" not in str(caught.value)
    assert "str" in str(caught.value) or "Text" in str(caught.value)


@pytest.mark.parametrize(
    "description", [[("a", object())], [("a", True)], [("a", Level.LOW)], [(Text("a"), 1)], [(1, 1)]]
)
def test_a_description_that_would_not_come_back_is_refused(description: Any) -> None:
    with pytest.raises(UnsupportedValue):
        encode_rows(KEY, description, [(1,)])


@pytest.mark.parametrize("rows", [[(1,), (1, 2)], [(1, 2)], [()]])
def test_rows_of_another_length_than_their_description_are_refused(rows: list[tuple[Any, ...]]) -> None:
    with pytest.raises(UnsupportedValue):
        encode_rows(KEY, described(1), rows)


# -- bytes that are no payload of ours ------------------------------------------------------------------------------

PAYLOAD = encode_rows(KEY, described(len(VALUES)), [tuple(VALUES)] * 2)
SMALL = encode_rows(KEY, described(2), [(1, "a"), (2, Decimal("1"))])


def test_a_payload_of_another_key_is_rejected() -> None:
    with pytest.raises(PayloadRejected, match="another key"):
        decode_rows(b"another key", SMALL)


def test_a_payload_of_another_version_is_rejected() -> None:
    with pytest.raises(PayloadRejected, match="another version"):
        decode_rows(KEY, b"qcr\x01" + SMALL[4:])


def test_every_flipped_bit_is_rejected() -> None:
    for position in range(len(SMALL) * 8):
        damaged = bytearray(SMALL)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(PayloadRejected):
            decode_rows(KEY, bytes(damaged))


def test_every_truncation_is_rejected() -> None:
    for size in range(len(SMALL)):
        with pytest.raises(PayloadRejected):
            decode_rows(KEY, SMALL[:size])


def test_trailing_bytes_are_rejected() -> None:
    with pytest.raises(PayloadRejected):
        decode_rows(KEY, SMALL + b"\0")


def forged(body: bytes) -> bytes:
    """Return a body under a header that fits."""
    return SMALL[:12] + struct.pack(">I", zlib.crc32(body)) + body


def forged_rows(rows: bytes, signature: str = "a", shared: int = 0) -> bytes:
    head = msgspec.msgpack.encode([[("column", 1)] * len(signature), signature, shared])
    return forged(struct.pack(">I", len(head)) + head + rows)


def ext(code: int, data: bytes) -> bytes:
    return msgspec.msgpack.encode([[msgspec.msgpack.Ext(code, data)]])


def test_trailing_bytes_are_rejected_under_a_checksum_that_fits() -> None:
    with pytest.raises(PayloadRejected):
        decode_rows(KEY, forged(SMALL[16:] + b"\0"))


@pytest.mark.parametrize(
    "payload",
    [
        forged(b""),
        forged(b"\0\0\0\0"),
        forged(b"\xff\xff\xff\xff"),
        forged_rows(b"\x90", "?"),
        forged(struct.pack(">I", 4) + msgspec.msgpack.encode([[], "s", 0]) + b"\x90"),
        forged(struct.pack(">I", 4) + msgspec.msgpack.encode([[], "s"]) + b"\x90"),
        forged_rows(b"\x90", "ss", -1),
        forged_rows(b"\x90", "ss", 2),
        forged_rows(b"\x90", "as", 1),
        forged_rows(msgspec.msgpack.encode([[[1], [[]]]]), "ss", 1),
        forged_rows(msgspec.msgpack.encode([[[1, 2], [[3]]]]), "ss", 1),
        forged_rows(b"\xdd\xff\xff\xff\xff"),
        forged_rows(b"\x91" * 100_000),
        forged_rows(msgspec.msgpack.encode([["text"]]), "t"),
        forged_rows(msgspec.msgpack.encode([[[]]]), "s"),
        forged_rows(msgspec.msgpack.encode([[1, 2]])),
        forged_rows(ext(99, b"")),
        forged_rows(ext(2, b"no number")),
        forged_rows(ext(2, b"\xff")),
        forged_rows(ext(3, b"")),
        forged_rows(ext(3, msgspec.msgpack.encode(["2024-01-01", 7, None]))),
        forged_rows(ext(3, msgspec.msgpack.encode(["2024-01-01", 0, "../../etc/passwd"]))),
        forged_rows(ext(3, msgspec.msgpack.encode(["2024-01-01", 0, "Europe"]))),
        forged_rows(ext(3, msgspec.msgpack.encode(["2024-01-01", 0, "\0"]))),
        forged_rows(ext(3, msgspec.msgpack.encode(["2024-01-01", 0, 10**18]))),
        forged_rows(ext(3, msgspec.msgpack.encode(["2024-01-01", 0, 1.5e300]))),
        forged_rows(ext(6, msgspec.msgpack.encode([10**12, 0, 0]))),
        forged_rows(ext(6, msgspec.msgpack.encode(["a"]))),
        forged_rows(ext(7, b"short")),
        forged_rows(ext(9, b"")),
        forged_rows(ext(12, msgspec.msgpack.encode([1]))),
        forged_rows(ext(12, msgspec.msgpack.encode([msgspec.msgpack.Ext(10, b"\x90"), 1]))),
        forged_rows(ext(13, msgspec.msgpack.encode([1]))),
        forged_rows(ext(20, b"1.2.3.4.5")),
        forged_rows(ext(30, msgspec.msgpack.encode(["??", 1, 2]))),
        forged_rows(ext(31, msgspec.msgpack.encode([1]))),
    ],
)
def test_a_forged_payload_of_impossible_content_is_rejected(payload: bytes) -> None:
    with pytest.raises(PayloadRejected):
        decode_rows(KEY, payload)


def test_a_forged_payload_nested_without_end_is_rejected() -> None:
    data = b"\x90"
    for _ in range(3000):
        data = msgspec.msgpack.encode([msgspec.msgpack.Ext(10, data)])
    with pytest.raises(PayloadRejected, match="UnknownCode"):
        decode_rows(KEY, forged_rows(ext(10, data)))


def test_a_range_is_rejected_where_psycopg_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges = importlib.import_module("psycopg.types.range")
    payload = encode_rows(KEY, described(1), [(ranges.Range(1, 2),)])
    monkeypatch.setitem(sys.modules, "psycopg.types.range", None)
    with pytest.raises(PayloadRejected):
        decode_rows(KEY, payload)


@given(st.binary(max_size=200))
def test_random_bytes_are_rejected(payload: bytes) -> None:
    with pytest.raises(PayloadRejected):
        decode_rows(KEY, payload)


@given(st.data())
def test_a_damaged_payload_is_rejected(data: st.DataObject) -> None:
    damaged = bytearray(PAYLOAD)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    if bytes(damaged) != PAYLOAD:
        with pytest.raises(PayloadRejected):
            decode_rows(KEY, bytes(damaged))


@given(st.data())
def test_a_damaged_payload_under_a_checksum_that_fits_is_rejected_or_read(data: st.DataObject) -> None:
    body = bytearray(PAYLOAD[16:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = decode_rows(KEY, forged(bytes(body)))
    except PayloadRejected:
        return
    assert isinstance(decoded, DecodedRows)


# -- whatever values there are ---------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(),
    st.binary(),
    st.decimals(),
    st.dates(),
    st.times(timezones=st.none() | st.just(UTC)),
    st.datetimes(timezones=st.none() | st.just(UTC) | st.just(BERLIN)),
    st.timedeltas(),
    st.uuids(),
)
HASHABLE = st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.binary(), st.dates(), st.uuids())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
    ),
    max_leaves=8,
)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[ANYTHING] * width), max_size=6)))
def test_any_rows_come_back(rows: list[tuple[Any, ...]]) -> None:
    assert same(round_trip(rows), rows)


# -- values in keys --------------------------------------------------------------------------------------------------

LOOK_ALIKES: list[list[Any]] = [
    [],
    [1],
    [True],
    [1.0],
    ["1"],
    [b"1"],
    [bytearray(b"1")],
    [memoryview(b"1")],
    [Decimal("1")],
    [Decimal("1.0")],
    [[1]],
    [(1,)],
    [{1}],
    [frozenset({1})],
    [{1: None}],
    [None],
    [1, None],
    [float("nan")],
    [Decimal("NaN")],
    [0],
    [0.0],
    [-0.0],
    [False],
    [""],
    ["", ""],
    [["", ""]],
    ["a", "b"],
    ["ab"],
    ["b", "a"],
    [["a"], ["b"]],
    [["a", "b"]],
    [[["a"], "b"]],
    [{"a": 1, "b": 2}],
    [{"b": 2, "a": 1}],
    [date(2024, 1, 1)],
    [datetime(2024, 1, 1)],
    [datetime(2024, 1, 1, fold=1)],
    [datetime(2024, 1, 1, tzinfo=UTC)],
    [datetime(2024, 1, 1, tzinfo=ZoneInfo("UTC"))],
    ["2024-01-01"],
    [2**64],
    [-(2**64)],
    [str(2**64)],
]


def test_no_two_lists_of_values_that_differ_give_the_same_bytes() -> None:
    encoded = [encode_values(values) for values in LOOK_ALIKES]
    assert len(set(encoded)) == len(encoded)


def test_equal_sets_give_the_same_bytes_in_whatever_order_they_were_made() -> None:
    one, other = set[int](), set[int]()
    for number in (0, 8, 16):
        one.add(number)
        other.add(16 - number)
    assert list(one) != list(other)
    assert encode_values([one]) == encode_values([other])


@given(st.lists(ANYTHING, max_size=4), st.lists(ANYTHING, max_size=4))
def test_values_give_equal_bytes_exactly_where_they_are_the_same(one: list[Any], other: list[Any]) -> None:
    assert (encode_values(one) == encode_values(other)) == same(one, other)
    assert encode_values(one) == encode_values(iter(one))
