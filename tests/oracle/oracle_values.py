"""Which types have the oracle's columns, and which values go into them and into comparisons?

Very few values, so that they collide: keys 1 to 4, numbers 0 to 2, texts that some collations hold to be equal, and values
that the database stores as another one.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    CHAR,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    TypeDecorator,
    Uuid,
)
from sqlalchemy.types import TypeEngine

POSTGRESQL_COLLATION: Final = "oracle_nocase"
"""The nondeterministic collation that a world makes on PostgreSQL."""


class Colour(enum.Enum):
    red = "r"
    green = "g"


class Shifted(TypeDecorator[int]):
    """An integer that the database has ten higher."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Any) -> int | None:
        return None if value is None else value + 10

    def process_result_value(self, value: int | None, dialect: Any) -> int | None:
        return None if value is None else value - 10


class Lowered(TypeDecorator[str]):
    """A text that the database has in lower case: different values are one."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of column. ``type_on``: its type on a dialect. ``keys``: the values that it has as a key.

    ``compares``: it has ``=``. ``orders``: it has ``<``. ``counts``: it can be summed and set to itself plus one.
    ``likes``: it can be searched by LIKE. ``extremes``: it has min() and max() everywhere. ``indexes``: it may have an index.
    """

    name: str
    type_on: Callable[[str], TypeEngine[Any]]
    values: tuple[Any, ...]
    keys: tuple[Any, ...] = ()
    compares: bool = True
    orders: bool = True
    counts: bool = False
    likes: bool = False
    extremes: bool = True
    indexes: bool = True


def _text_on(dialect: str) -> TypeEngine[Any]:
    # The default of MariaDB is not case sensitive: only so is equality that of bytes there.
    return String(20, collation="utf8mb4_nopad_bin" if dialect in ("mysql", "mariadb") else None)


def _nocase_on(dialect: str) -> TypeEngine[Any]:
    collations = {"sqlite": "NOCASE", "postgresql": POSTGRESQL_COLLATION}
    return String(20, collation=collations.get(dialect, "utf8mb4_general_ci"))


_TEXTS: Final = ("a", "b", "A", "a ", "")
_NAMES: Final = ("a", "b", "A", "c", "d")
_UUIDS: Final = tuple(uuid.UUID(int=number) for number in (1, 2, 3, 2**127))

INT: Final = Kind("int", lambda dialect: Integer(), (0, 1, 2), (1, 2, 3, 4, 5), counts=True)
NUMBER: Final = Kind("number", lambda dialect: Integer(), (1, 2), (1, 2), counts=True)
UUID: Final = Kind("uuid", lambda dialect: Uuid(), _UUIDS, _UUIDS, extremes=False)
TEXT: Final = Kind("text", _text_on, _TEXTS, _NAMES, likes=True)
NOCASE: Final = Kind("nocase text", _nocase_on, _TEXTS, _NAMES)
BOOL: Final = Kind("bool", lambda dialect: Boolean(), (False, True), orders=False, extremes=False)

KINDS: Final[tuple[tuple[Kind, int], ...]] = (
    (INT, 6),
    (TEXT, 4),
    (NOCASE, 2),
    (BOOL, 2),
    (UUID, 1),
    (Kind("small int", lambda dialect: SmallInteger(), (0, 1, 2), counts=True), 1),
    (Kind("big int", lambda dialect: BigInteger(), (0, 1, 2**40), counts=True), 1),
    (Kind("plain text", lambda dialect: String(20), _TEXTS, likes=True), 1),
    (Kind("char", lambda dialect: CHAR(3), ("a", "b", "A")), 1),
    (Kind("numeric", lambda dialect: Numeric(8, 2), (Decimal("0.00"), Decimal("1.5"), Decimal("1.505")), counts=True), 2),
    (Kind("float", lambda dialect: Float(), (0.0, 0.1, 1.0), counts=True), 1),
    (
        Kind(
            "datetime",
            lambda dialect: DateTime(),
            (datetime(2024, 1, 1), datetime(2024, 1, 1, 12), datetime(2024, 1, 1, 12, 0, 0, 600000)),
        ),
        1,
    ),
    (Kind("date", lambda dialect: Date(), (date(2024, 1, 1), date(2024, 1, 2))), 1),
    (Kind("enum", lambda dialect: Enum(Colour, native_enum=False, length=10), tuple(Colour), orders=False, extremes=False), 1),
    (Kind("json", lambda dialect: JSON(none_as_null=True), ({"a": 1}, {"a": 2}, [1]), compares=False, orders=False,
          extremes=False, indexes=False), 1),
    (Kind("shifted int", lambda dialect: Shifted(), (0, 1, 2), counts=False), 1),
    (Kind("lowered text", lambda dialect: Lowered(20), ("a", "b", "A")), 1),
    (Kind("bytes", lambda dialect: LargeBinary(), (b"", b"a", b"A"), extremes=False, indexes=False), 1),
)  # fmt: skip
"""The kinds of the columns that are no keys, and how often each is taken."""


def kind_of(column: Column[Any]) -> Kind:
    """Return the kind that a column was made of."""
    kind: Kind = column.info["kind"]
    return kind
