"""What do the tests of Core reads have in common? Tables of many types, an engine that is cached and one that is not."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Engine,
    Float,
    ForeignKey,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Numeric,
    String,
    Table,
    TypeDecorator,
    Uuid,
    create_engine,
    event,
    insert,
)
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import registry

from querycache import QueryCache


class Colour(Enum):
    RED = "r"
    BLUE = "b"


class Shouted(TypeDecorator[str]):
    """Text that comes out in capitals."""

    impl = String(30)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.upper()


METADATA: Final = MetaData()
MAPPING: Final = registry(metadata=METADATA)

SHOP: Final = Table("shop", METADATA, Column("id", Integer, primary_key=True), Column("name", String(30)))
ITEM: Final = Table(
    "item",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("shop_id", ForeignKey("shop.id"), index=True),
    Column("name", Shouted),
    Column("price", Numeric(10, 2)),
    Column("weight", Float),
    Column("made", Date),
    Column("seen", DateTime(timezone=True)),
    Column("colour", EnumType(Colour)),
    Column("is_new", Boolean),
    Column("more", JSON),
    Column("picture", LargeBinary),
    Column("token", Uuid),
    Column("lasts", Interval),
    Column("the label", String(30), key="label"),
)
DIARY: Final = Table("diary", METADATA, Column("id", Integer, primary_key=True), Column("line", String(30)))
"""Of no cacheable model."""


@MAPPING.mapped
class Shop:
    __table__ = SHOP


@MAPPING.mapped
class Item:
    __table__ = ITEM
    if TYPE_CHECKING:
        id: Any
        name: Any


def rows_of_items() -> list[dict[str, Any]]:
    """Return five rows, of which the last has NULL wherever there may be one."""
    rows: list[dict[str, Any]] = [
        {
            "id": number,
            "shop_id": 1 + number % 2,
            "name": f"item {number % 3}",
            "price": Decimal(f"{number}.50"),
            "weight": number / 4,
            "made": date(2026, 1, number),
            "seen": datetime(2026, 2, number, 12, 30, tzinfo=UTC),
            "colour": Colour.RED if number % 2 else Colour.BLUE,
            "is_new": bool(number % 2),
            "more": {"n": [number, None]},
            "picture": bytes([number, 0, 255]),
            "token": uuid.UUID(int=number),
            "lasts": datetime(2026, 1, 2) - datetime(2026, 1, 1, number),
            "label": f"l{number}",
        }
        for number in range(1, 5)
    ]
    return [*rows, {"id": 5, **dict.fromkeys(column.key for column in ITEM.columns if column.key != "id")}]


@dataclass
class Shops:
    """A database, ``engine`` that is cached, ``plain`` that no cache ever heard of, and what was sent on the cached one."""

    engine: Engine
    plain: Engine
    cache: QueryCache
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        event.listen(self.engine, "before_cursor_execute", self._note)

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.sent.append(statement)

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Collect what is sent on the cached engine in the block."""
        start = len(self.sent)
        collected: list[str] = []
        yield collected
        collected.extend(self.sent[start:])

    def read(self, statement: Any, parameters: Any = None) -> list[Any]:
        """Return the rows that a statement has on a connection of its own."""
        with self.engine.connect() as connection:
            return list(connection.execute(statement, parameters))

    def is_hit(self, statement: Any, parameters: Any = None) -> bool:
        """Tell whether a statement is answered without anything being sent."""
        with self.counting() as sent:
            self.read(statement, parameters)
        return not sent

    def reasons(self) -> dict[str, int]:
        return dict(self.cache.events.reasons())

    def by_another(self, statement: Any) -> None:
        """Have another connection of the cached engine commit a change."""
        with self.engine.begin() as connection:
            connection.execute(statement)


@contextmanager
def shops_on(
    url: str, *, core: bool = True, engine_options: dict[str, Any] | None = None, **options: Any
) -> Iterator[Shops]:
    """Fill a database, attach an engine of it, and drop the tables in the end. ``options`` are those of ``QueryCache``."""
    plain = create_engine(url)
    METADATA.create_all(plain)
    with plain.begin() as connection:
        connection.execute(insert(SHOP), [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}])
        connection.execute(insert(ITEM), rows_of_items())
        connection.execute(insert(DIARY), [{"id": 1, "line": "dear"}])
    engine = create_engine(url, **(engine_options or {}))
    with QueryCache("memory://", models=[Shop, Item], **options) as cache:
        cache.attach(engine, core=core)
        yield Shops(engine, plain, cache)
    engine.dispose()
    METADATA.drop_all(plain)
    plain.dispose()
