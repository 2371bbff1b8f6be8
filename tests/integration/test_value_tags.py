"""Whatever the database holds to be equal has a tag in common, or is met by a tag that stands for any value.

Each value is stored in a column of each type, as the application gave it, and each is asked for. Which rows a condition
finds the database says itself; the tags of who wrote such a row and of who asks for it must have one in common, both by
the value that was sent and by the value that the database gives back before the row is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import IntEnum
from typing import Any, Final
from uuid import UUID

import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    bindparam,
    insert,
    or_,
    select,
    tuple_,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from sqlalchemy.types import TypeEngine

from conftest import EngineFactory
from querycache import FromCache, QueryCache
from querycache.session import attachment_of
from querycache.statements.writes import RowChange

EXACT: Final = "utf8mb4_nopad_bin"


class Level(IntEnum):
    THREE = 3


class Name(str):
    __slots__ = ()


def text_of(length: int | None) -> TypeEngine[str]:
    plain = Text() if length is None else String(length)
    return plain.with_variant(
        mysql.TEXT(collation=EXACT) if length is None else mysql.VARCHAR(length, collation=EXACT), "mysql", "mariadb"
    )


TYPES: Final[dict[str, TypeEngine[Any]]] = {
    "int": Integer(),
    "small": SmallInteger(),
    "big": BigInteger(),
    "tiny": Integer().with_variant(mysql.TINYINT(unsigned=True), "mysql", "mariadb"),
    "bool": Boolean(),
    "text": text_of(50),
    "short": text_of(3),
    "long": text_of(None),
    "uuid": Uuid(),
    "uuid as text": Uuid(as_uuid=False),
    "uuid in text": Uuid(native_uuid=False),
    "uuid as text in text": Uuid(as_uuid=False, native_uuid=False),
}

_UUID: Final = "0123abcd-0123-4567-89ab-0123456789ab"
NUMBERS: Final[list[Any]] = [
    *(
        0,
        1,
        -1,
        3,
        127,
        128,
        255,
        256,
        32767,
        32768,
        40000,
        2**31 - 1,
        2**31,
        2**53,
        2**53 + 1,
        2**63 - 1,
        2**63,
        -(2**63),
    ),
    *(True, False, Level.THREE),
    *(Decimal(3), Decimal("3.0"), Decimal("3E0"), Decimal("2.5"), Decimal("3.4999"), Decimal(2**53 + 1)),
    *(3.0, 2.5, 3.4, float(2**53), 1e300),
]
TEXTS: Final[list[Any]] = [
    *("3", "03", " 3", "3 ", "3.0", "+3", "3e0", "3abc", "1", "0", "true", "t", ""),
    *("abc", "ABC", "abc ", "abc  ", "abc\t", " abc", "abcdef", "ab", "àbc", "a\u0300bc", "ábc"),
    *("\u00df", "ss", "\u0130", "i\u0307", "\ufb01", "fi", "a\u200bb", "x" * 60, "x" * 50, "\U0001f600", "?"),
    *("a\0b", "a", Name("abc"), b"abc"),
    *(_UUID, _UUID.upper(), _UUID.replace("-", ""), f"{{{_UUID}}}", f"urn:uuid:{_UUID}", UUID(_UUID)),
]
VALUES: Final[list[Any]] = [*NUMBERS, *TEXTS, None]

REFUSALS: Final = (SQLAlchemyError, OverflowError, UnicodeError, ValueError, TypeError, AttributeError)
"""What SQLAlchemy, drivers and databases raise for values that are not of a column's type."""

KINDS: Final = ("sqlite", "postgresql", "mariadb", "mariadb without strict mode")


@dataclass
class Column1:
    """One column of one type, with a row for each value that the database took."""

    table: Table
    stored: dict[int, Any]


@dataclass
class Place:
    """A database with a column of each type, filled by an engine that is not attached."""

    plain: Engine
    attached: Engine
    cache: QueryCache
    columns: dict[str, Column1]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, engine_of: EngineFactory) -> Iterator[Place]:
    url = request.getfixturevalue(f"{request.param.split()[0]}_url")
    lenient = {"connect_args": {"init_command": "SET sql_mode = ''"}} if "without" in request.param else {}
    plain, attached = (engine_of(url, **lenient) for _ in range(2))
    metadata = MetaData()
    tables = {
        name: Table(
            name.replace(" ", "_"),
            metadata,
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("c", kind),
        )
        for name, kind in TYPES.items()
    }
    metadata.create_all(plain)
    cache = QueryCache("memory://")
    cache.attach(attached)
    yield Place(plain, attached, cache, {name: Column1(table, fill(plain, table)) for name, table in tables.items()})
    cache.close()


def fill(engine: Engine, table: Table) -> dict[int, Any]:
    """Store what the database takes; return it as it was given."""
    stored: dict[int, Any] = {}
    with engine.connect() as connection:
        for number, value in enumerate(VALUES):
            with suppress(*REFUSALS):
                with connection.begin():
                    connection.execute(insert(table), {"id": number, "c": value})
                stored[number] = value
    return stored


def conditions_on(column: Any, value: Any) -> list[Any]:
    given = bindparam("v", value, column.type)
    return [
        column == given,
        or_(column.in_([value, VALUES[1]]), column.is_(None)),
        tuple_(column, column).in_([(value, value)]),
    ]


def test_what_the_database_holds_to_be_equal_shares_a_tag(place: Place) -> None:
    compared, narrowed, wrong = 0, 0, []
    for name, column in place.columns.items():
        written = tags_of_writes(place, column)
        for value in VALUES:
            for condition in conditions_on(column.table.c.c, value):
                statement = select(column.table.c.id).where(condition)
                tags, found = tags_of_read(place, statement), rows_found(place, statement)
                if tags is None or found is None:
                    continue
                narrowed += not any(tag.rstrip("#").endswith("*") for tag in tags)
                for number in found:
                    compared += 1
                    for how, its_tags in written[number].items():
                        if not tags & its_tags:
                            wrong.append((name, value, how, column.stored[number]))
    assert wrong == []
    # Else the test says nothing.
    assert compared > 500
    assert narrowed > 300


def tags_of_writes(place: Place, column: Column1) -> dict[int, dict[str, set[str]]]:
    """Return the tags of each row, by the value that was sent and by the one that the database gives before a change."""
    found = attachment_of(place.attached)
    assert found is not None
    bind = found[1].ask()
    assert bind is not None
    facts = bind.facts(column.table)
    tags: dict[int, dict[str, set[str]]] = {}
    with place.plain.connect() as connection:
        for number, value in column.stored.items():
            with suppress(*REFUSALS):
                given = connection.scalar(select(column.table.c.c).where(column.table.c.id == number))
                for how, each in (("sent", value), ("given back", given)):
                    made = facts.change_tags(RowChange(column.table, "delete", (number,)), {"c": each})
                    names = {tag.decode().removeprefix(f"{bind.id}/") for tag in made}
                    tags.setdefault(number, {})[how] = names
    return {number: tags.get(number, {}) for number in column.stored}


def rows_found(place: Place, statement: Any) -> list[int] | None:
    with place.plain.connect() as connection:
        try:
            return list(connection.scalars(statement))
        except REFUSALS:
            return None


def tags_of_read(place: Place, statement: Any) -> set[str] | None:
    """Return the names of the tags of a read; None where it is not cached."""
    with Session(place.attached) as session:
        try:
            explained = place.cache.explain(statement.options(FromCache()), session=session)
        except REFUSALS:
            return None
    return {tag for table in explained.tables for tag in table.tags} if explained.cached else None
