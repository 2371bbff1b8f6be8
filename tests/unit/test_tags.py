"""Tags: names without ambiguity, values only where equality is known."""

from __future__ import annotations

from decimal import Decimal
from enum import IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Numeric,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from querycache.errors import ConfigurationError
from querycache.statements import tags
from querycache.statements.tags import (
    NULL_CANONICAL,
    bind_tag,
    canonical_value_of,
    column_tag,
    fingerprint_of,
    key_columns_of,
    key_tag,
    kind_of,
    members_tag,
    named_tag,
    rows_of,
    rows_tag,
    schema_tag,
    table_name_of,
    table_tag,
    tag_columns_of,
    unknown_tag,
    value_groups_of,
    value_tag,
    why_not_named,
)

SQLITE: Dialect = sqlite.dialect()
POSTGRESQL: Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
MYSQL: Dialect = mysql.dialect()
ALL = (SQLITE, POSTGRESQL, MYSQL)


class Shout(TypeDecorator[str]):
    impl = String
    cache_ok = True


class OwnInteger(Integer):
    pass


class Level(IntEnum):
    LOW = 3


def canonical(column_type: TypeEngine[Any], value: object, dialect: Dialect = SQLITE) -> str | None:
    made = canonical_value_of(column_type, dialect)
    assert made is not None
    return made(value)


# -- names -----------------------------------------------------------------------------------------------------------


def test_a_table_goes_by_schema_and_name_in_folded_case() -> None:
    table = Table("Product", MetaData(), schema="Shop")
    assert table_name_of(table, "public") == "shop.product"


@pytest.mark.parametrize(("default", "name"), [("public", "public.t"), (None, "main.t")])
def test_a_table_without_schema_is_in_the_default_schema(default: str | None, name: str) -> None:
    assert table_name_of(Table("t", MetaData()), default) == name


def test_the_schema_map_moves_a_table_as_sqlalchemy_moves_it() -> None:
    plain, placed = Table("t", MetaData()), Table("t", MetaData(), schema="a")
    moves: dict[str | None, str | None] = {None: "tenant", "a": None}
    assert [table_name_of(table, "public", moves) for table in (plain, placed)] == ["tenant.t", "public.t"]


def test_dots_in_names_do_not_confuse() -> None:
    one, other = Table("b.c", MetaData(), schema="a"), Table("c", MetaData(), schema="a.b")
    assert table_name_of(one, None) != table_name_of(other, None)


words = st.text(st.sampled_from("abpk1.!*|=?,/~% Ä"), max_size=4)
canonicals = st.one_of(
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.uuids().map(lambda value: value.hex),
    st.just(NULL_CANONICAL),
    words.map(lambda value: canonical(String(), value) or ""),
)


@st.composite
def meanings(draw: st.DrawFn) -> tuple[object, ...]:
    kind = draw(st.sampled_from(["bind", "table", "rows", "key", "value", "unknown"]))
    meaning: list[object] = [kind, draw(words)]
    if kind != "bind":
        meaning.append((draw(words).casefold() or "main", draw(words).casefold()))
    if kind in ("value", "unknown"):
        meaning.append(tuple(draw(st.lists(words, min_size=1, max_size=2))))
    if kind == "key":
        meaning.append(tuple(draw(st.lists(canonicals, min_size=1, max_size=3))))
    if kind == "value":
        meaning.append(tuple(draw(canonicals) for _ in range(len(meaning[-1]))))  # type: ignore[arg-type]
    if kind in ("rows", "key", "value"):
        meaning.append(draw(st.one_of(st.none(), st.just("#"), words.map(lambda name: (name.lower(),)))))
    return tuple(meaning)


def tag_meaning(meaning: tuple[Any, ...]) -> bytes:
    kind, bind, *rest = meaning
    if kind == "bind":
        return bind_tag(bind)
    schema, name = rest[0]
    table = table_name_of(Table(name, MetaData(), schema=schema), None)
    if kind == "table":
        return table_tag(bind, table)
    if kind == "unknown":
        return unknown_tag(bind, table, rest[1])
    if kind == "rows":
        rows = rows_tag(bind, table)
    else:
        rows = key_tag(bind, table, rest[1]) if kind == "key" else value_tag(bind, table, rest[1], rest[2])
    of_them = rest[-1]
    if of_them is None:
        return rows
    narrow = members_tag(rows) if of_them == "#" else column_tag(rows, of_them[0])
    assert (rows_of(narrow), rows_of(rows)) == (rows, rows)
    return narrow


@given(meanings(), meanings())
def test_two_meanings_never_share_a_tag(one: tuple[object, ...], other: tuple[object, ...]) -> None:
    assert (tag_meaning(one) == tag_meaning(other)) == (one == other)


def test_a_column_called_pk_is_not_the_primary_key() -> None:
    assert value_tag("b", "main.t", "pk", "1") != key_tag("b", "main.t", ["1"])


def test_tags_look_as_the_design_writes_them() -> None:
    assert [
        table_tag("b", "main.t"),
        rows_tag("b", "main.t"),
        key_tag("b", "main.t", ["1", "2"]),
        value_tag("b", "main.t", ["c"], ["-3"]),
        unknown_tag("b", "main.t", ["c"]),
        value_tag("b", "main.t", ["c", "d"], ["1", NULL_CANONICAL]),
        members_tag(rows_tag("b", "main.t")),
        column_tag(value_tag("b", "main.t", ["c"], ["-3"]), "D"),
    ] == [
        b"b/main.t!",
        b"b/main.t*",
        b"b/main.t|pk=1,2",
        b"b/main.t|c=-3",
        b"b/main.t|c=?",
        b"b/main.t|c,d=1,!",
        b"b/main.t*#",
        b"b/main.t|c=-3.d",
    ]


# -- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "column_type",
    [
        Numeric(10, 2),
        Float(),
        DateTime(),
        CHAR(3),
        Enum("a", "b"),
        JSON(),
        Shout(),
        OwnInteger(),
        postgresql.CITEXT(),
        String(collation="NOCASE"),
        postgresql.ARRAY(Integer),
    ],
    ids=lambda column_type: type(column_type).__name__,
)
def test_a_type_whose_equality_is_not_known_is_unsafe(column_type: TypeEngine[Any], dialect: Dialect) -> None:
    assert canonical_value_of(column_type, dialect) is None


@pytest.mark.parametrize("dialect", ALL, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize(
    "column_type", [Integer(), BigInteger(), SmallInteger(), Boolean(), Uuid(), Uuid(as_uuid=False)]
)
def test_numbers_and_uuids_are_safe_everywhere(column_type: TypeEngine[Any], dialect: Dialect) -> None:
    assert kind_of(column_type, dialect) is not None


@pytest.mark.parametrize(
    ("column_type", "dialect", "safe"),
    [
        (String(), POSTGRESQL, True),
        (Text(), SQLITE, True),
        (String(collation="BINARY"), SQLITE, True),
        (String(collation="C"), POSTGRESQL, False),
        (String(20), MYSQL, False),
        (String(20, collation="utf8mb4_bin"), MYSQL, False),
        (String(20, collation="utf8mb4_nopad_bin"), MYSQL, True),
        (String(20, collation="latin1_nopad_bin"), MYSQL, False),
        (mysql.VARCHAR(20, collation="utf8mb4_nopad_bin", charset="latin1"), MYSQL, False),
    ],
)
def test_text_is_safe_where_equal_means_equal_bytes(column_type: TypeEngine[Any], dialect: Dialect, safe: bool) -> None:
    assert (kind_of(column_type, dialect) == "text") is safe


def test_a_variant_is_what_counts_on_its_dialect() -> None:
    column_type = BigInteger().with_variant(Integer(), "sqlite").with_variant(Numeric(), "postgresql")
    assert [kind_of(column_type, dialect) for dialect in ALL] == ["int", None, "int"]


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, True, Decimal("1.00"), Decimal("1E+0")])
def test_numbers_that_are_equal_have_one_form(value: object) -> None:
    assert canonical(Integer(), value) == "1"


@pytest.mark.parametrize(
    "value",
    ["1", b"1", 1.0, 1.5, float("nan"), Decimal("1.5"), Decimal("NaN"), Decimal("1e999999"), Level.LOW, 2**63, None],
)
def test_what_is_not_a_whole_number_of_64_bits_has_no_form(value: object) -> None:
    assert canonical(Integer(), value) is None


@pytest.mark.parametrize(
    ("column_type", "value", "kept"),
    [
        (SmallInteger(), 32767, True),
        (SmallInteger(), 32768, False),
        (Integer(), -(2**31), True),
        (Integer(), 2**31, False),
        (mysql.INTEGER(unsigned=True), 2**31, True),
        (mysql.INTEGER(unsigned=True), -1, False),
        (mysql.TINYINT(), 128, False),
    ],
)
def test_what_mysql_would_clip_has_no_form(column_type: TypeEngine[Any], value: int, kept: bool) -> None:
    assert (canonical(column_type, value, MYSQL) is not None) is kept


UUID_TEXT = "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"


@pytest.mark.parametrize("value", [UUID(UUID_TEXT), UUID_TEXT, UUID_TEXT.replace("-", ""), UUID_TEXT.lower()])
def test_a_uuid_has_one_form_however_it_is_written(value: object) -> None:
    assert canonical(Uuid(), value) == UUID(UUID_TEXT).hex


@pytest.mark.parametrize("value", ["nothing", "g" * 32, 7, b"x" * 16])
def test_what_is_no_uuid_has_no_form(value: object) -> None:
    assert canonical(Uuid(), value) is None


def test_text_does_not_show_in_a_tag() -> None:
    form = canonical(String(), "secret")
    assert form is not None
    assert form.startswith("~")
    assert len(form) == 17
    assert "secret" not in form


class Text2(str):
    __slots__ = ()


@pytest.mark.parametrize("value", [3, b"a", Text2("a"), "\ud800", None])
def test_what_is_not_plain_text_has_no_form(value: object) -> None:
    assert canonical(String(), value) is None


def test_texts_that_differ_in_trailing_spaces_share_a_form_as_servers_may_cut_them() -> None:
    assert canonical(String(3), "abc") == canonical(String(), "abc  ")


def test_a_text_longer_than_its_column_has_no_form() -> None:
    assert canonical(String(3), "abcd") is None


@given(st.text(), st.text())
def test_texts_that_differ_elsewhere_have_two_forms(one: str, other: str) -> None:
    if one.rstrip(" ") != other.rstrip(" "):
        assert canonical(Text(), one) != canonical(Text(), other)


# -- tag columns -----------------------------------------------------------------------------------------------------


def shop() -> Table:
    metadata = MetaData()
    Table("category", metadata, Column("id", Integer, primary_key=True))
    return Table(
        "product",
        metadata,
        Column("views", Integer),
        Column("price", Numeric(10, 2)),
        Column("brand", Integer, index=True),
        Column("sku", String, unique=True),
        Column("ean", BigInteger),
        Column("category_id", ForeignKey("category.id")),
        Column("shelf", Integer),
        Column("id", Integer, primary_key=True),
        UniqueConstraint("ean"),
        Index("by_shelf", "shelf"),
    )


def names_of(columns: tuple[Column[Any], ...]) -> list[str]:
    return [column.name for column in columns]


def groups_of(table: Table, named: Any = None) -> list[tuple[str, ...]]:
    return [tuple(column.name for column in group) for group in value_groups_of(table, SQLITE, named)]


def test_tag_columns_stand_in_order_of_their_use_and_leave_out_unsafe_types() -> None:
    ordered = ["id", "category_id", "sku", "ean", "brand", "shelf", "views"]
    assert names_of(tag_columns_of(shop(), SQLITE)) == ordered


def test_at_most_sixteen_columns_have_tags() -> None:
    table = Table(
        "wide", MetaData(), *(Column(f"c{i}", Integer) for i in range(30)), Column("id", Integer, primary_key=True)
    )
    assert names_of(tag_columns_of(table, SQLITE)) == ["id", *(f"c{i}" for i in range(15))]


def test_named_tag_columns_replace_those_found() -> None:
    assert groups_of(shop(), ["views", "price"]) == [("views",)]


def test_a_group_stands_where_it_was_named() -> None:
    named = [("brand", "shelf"), "brand", ["shelf", "views"]]
    assert groups_of(shop(), named) == [("brand", "shelf"), ("brand",), ("shelf", "views")]


def test_a_group_with_a_column_of_an_unsafe_type_is_left_out() -> None:
    assert groups_of(shop(), [("brand", "price"), "brand"]) == [("brand",)]


def test_what_was_named_comes_before_the_columns_of_a_composite_key_and_its_own_columns_are_no_group() -> None:
    table = Table(
        "t",
        MetaData(),
        Column("a", Integer, primary_key=True),
        Column("b", Integer, primary_key=True),
        Column("n", Integer),
    )
    assert groups_of(table, [("a", "n"), ("b", "a"), "n"]) == [("a", "n"), ("n",), ("a",), ("b",)]


@pytest.mark.parametrize("named", [["colour"], [("brand", "colour")]])
def test_a_tag_column_that_does_not_exist_is_an_error_that_names_table_and_column(named: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"'product'.*'colour'"):
        value_groups_of(shop(), SQLITE, named)


@pytest.mark.parametrize(
    ("named", "why_not"),
    [
        ("brand", "no list"),
        (3, "no list"),
        ([3], "3 is neither"),
        ([()], "() is neither"),
        ([("brand", 3)], "('brand', 3) is neither"),
        ([("brand", "brand")], "names a column twice"),
    ],
)
def test_what_names_no_columns_is_told_from_what_does(named: Any, why_not: str) -> None:
    assert why_not in (why_not_named(named) or "")
    assert why_not_named(["brand", ("brand", "year"), ["year", "brand"]]) is None


def test_tags_that_are_of_no_rows_are_left_as_they_are() -> None:
    others = [bind_tag("b"), schema_tag("b"), table_tag("b", "s.t"), named_tag("b", "r.1#", "x"), b"plain"]
    assert [rows_of(tag) for tag in others] == others


def test_a_column_has_one_tag_in_upper_and_lower_case() -> None:
    assert column_tag(b"t*", "Views") == column_tag(b"t*", "views")


def test_a_primary_key_of_an_unsafe_type_has_no_tag() -> None:
    table = Table("t", MetaData(), Column("at", DateTime, primary_key=True), Column("n", Integer, primary_key=True))
    assert key_columns_of(table, SQLITE) == ()
    assert groups_of(table) == [("n",)]


def test_a_key_of_one_column_has_no_value_tag_beside_its_own() -> None:
    assert ("id",) not in groups_of(shop())


def test_the_columns_of_a_composite_key_have_value_tags_too() -> None:
    table = Table("t", MetaData(), Column("a", Integer, primary_key=True), Column("b", Integer, primary_key=True))
    assert names_of(key_columns_of(table, SQLITE)) == ["a", "b"]
    assert groups_of(table) == [("a",), ("b",)]


def test_the_fingerprint_is_that_of_names_and_kinds() -> None:
    assert fingerprint_of(shop(), SQLITE) == fingerprint_of(shop(), SQLITE)
    assert len(fingerprint_of(shop(), SQLITE)) == 8


@pytest.mark.parametrize(
    "other",
    [
        Table("t", MetaData(), Column("a", Integer, primary_key=True)),
        Table("t", MetaData(), Column("a", String, primary_key=True), Column("b", Integer)),
        Table("t", MetaData(), Column("a", Integer, primary_key=True), Column("c", Integer)),
        Table("t", MetaData(), Column("a", Integer, primary_key=True), Column("b", Integer, primary_key=True)),
    ],
)
def test_the_fingerprint_differs_with_what_is_tagged(other: Table) -> None:
    table = Table("t", MetaData(), Column("a", Integer, primary_key=True), Column("b", Integer))
    assert fingerprint_of(table, SQLITE) != fingerprint_of(other, SQLITE)


def test_the_fingerprint_differs_with_the_named_columns() -> None:
    named = [["views"], ("brand",), ["views", "brand"], [("views", "brand")], [("brand", "views")]]
    assert len({fingerprint_of(shop(), SQLITE, names) for names in named}) == len(named)


def test_the_fingerprint_differs_with_the_way_in_which_tags_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = fingerprint_of(shop(), SQLITE)
    monkeypatch.setattr(tags, "FORMAT", "of another release")
    assert fingerprint_of(shop(), SQLITE) != ours
