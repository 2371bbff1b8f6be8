"""A. Predicates and pages: rows that come to fulfil a condition, and rows that cease to, in whatever way it is written.

All conditions are asked at once. A row is inserted, changed into what they ask for, changed out of it, and deleted; after
each change all must tell the truth, and each must have told something new more than once: on the way in, and on the way out.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any, Final

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Date,
    Integer,
    Numeric,
    String,
    and_,
    any_,
    bindparam,
    case,
    cast,
    exists,
    extract,
    func,
    literal,
    not_,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, array
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from scenario_support import Matrix, Read, World, get, refill, rows


class Store(DeclarativeBase):
    pass


class Thing(Store):
    __tablename__ = "sp_thing"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(30))
    bin: Mapped[int] = mapped_column(default=1)
    size: Mapped[int | None]
    price: Mapped[Decimal] = mapped_column(Numeric(8, 2), default=Decimal(1))
    big: Mapped[int] = mapped_column(BigInteger, default=0)
    is_new: Mapped[bool] = mapped_column(default=False)
    made: Mapped[date] = mapped_column(Date, default=date(2024, 1, 1))
    data: Mapped[Any] = mapped_column(JSON, default=dict)
    sizes: Mapped[Any] = mapped_column(ARRAY(Integer).with_variant(JSON, "sqlite", "mysql", "mariadb"), default=list)
    document: Mapped[Any] = mapped_column(JSONB().with_variant(JSON, "sqlite", "mysql", "mariadb"), default=dict)


class Other(Store):
    __tablename__ = "sp_other"

    id: Mapped[int] = mapped_column(primary_key=True)


# What no condition asks for, and what each of them asks for.
PLAIN: Final[dict[str, Any]] = {
    "name": "plain",
    "bin": 1,
    "size": 1,
    "price": Decimal("1.00"),
    "big": 1,
    "is_new": False,
    "made": date(2020, 1, 1),
    "data": {"color": "blue", "n": 1, "on": False, "deep": [{"a": 0}]},
    "sizes": [1],
    "document": {"k": 1},
}
WANTED: Final[dict[str, Any]] = {
    "name": "50%_Wanted",
    "bin": 7,
    "size": None,
    "price": Decimal("9.50"),
    "big": 2**40,
    "is_new": True,
    "made": date(2024, 2, 29),
    "data": {"color": "red", "n": 5, "on": True, "deep": [{"a": 3}]},
    "sizes": [1, 9],
    "document": {"k": 2, "extra": None},
}
MANY: Final = [*range(1000, 1150), 7]

TWIN = aliased(Thing, name="twin")

PREDICATES: Final[dict[str, Any]] = {
    "equal": Thing.bin == 7,
    "equal, the other way round": literal(7) == Thing.bin,
    "not equal": Thing.bin != 1,
    "greater": Thing.bin > 5,
    "between": Thing.bin.between(6, 8),
    "not between": ~Thing.bin.between(0, 5),
    "in": Thing.bin.in_([7, 70]),
    "in a long list": Thing.bin.in_(MANY),
    "in a list of expressions": Thing.bin.in_([literal(3) + 4, literal(8)]),
    "not in": Thing.bin.not_in([1]),
    "not not equal": not_(Thing.bin != 7),
    "tuple in": tuple_(Thing.bin, Thing.is_new).in_([(7, True), (8, False)]),
    "tuple not in": tuple_(Thing.bin, Thing.big).not_in([(1, 1)]),
    "is null": Thing.size.is_(None),
    "equals None": Thing.size == None,  # noqa: E711
    "is not null": not_(Thing.size.is_not(None)),
    "is distinct": Thing.size.is_distinct_from(1),
    "is not distinct": Thing.bin.is_not_distinct_from(7),
    "null or a value": or_(Thing.size.is_(None), Thing.size == 40),
    "or": or_(Thing.bin == 7, Thing.bin == 8),
    "or of two columns": or_(Thing.bin == 7, Thing.big == 2**40),
    "or with and": or_(and_(Thing.bin == 7, Thing.is_new), and_(Thing.bin == 8, Thing.size == 3)),
    "and of contradictions": and_(Thing.bin.in_([7, 8]), or_(Thing.bin == 7, Thing.big == 3)),
    "true": Thing.is_new,
    "is true": Thing.is_new.is_(True),
    "not false": ~(Thing.is_new == False),  # noqa: E712
    "like": Thing.name.like("%Wanted"),
    "not like": Thing.name.not_like("pl%"),
    "ilike": Thing.name.ilike("%WANTED"),
    "startswith": Thing.name.startswith("50%", autoescape=True),
    "endswith": Thing.name.endswith("nted"),
    "contains": Thing.name.contains("%_", autoescape=True),
    "text equal": Thing.name == "50%_Wanted",
    "text greater": Thing.name < "6",
    "lower": func.lower(Thing.name) == "50%_wanted",
    "length": func.length(Thing.name) == 10,
    "concatenated": Thing.name + "!" == "50%_Wanted!",
    "arithmetic": Thing.bin * 2 == 14,
    "modulo": Thing.bin % 4 == 3,
    "negative": -Thing.bin == -7,
    "two columns": Thing.big > Thing.bin,
    "equal columns": Thing.bin != Thing.big,
    "coalesce": func.coalesce(Thing.size, 99) == 99,
    "nullif": func.nullif(Thing.bin, 7).is_(None),
    "case": case((Thing.bin == 7, "yes"), else_="no") == "yes",
    "cast": cast(Thing.bin, String(10)) == "7",
    "decimal": Thing.price == Decimal("9.5"),
    "decimal range": Thing.price.between(Decimal("9.49"), Decimal("9.51")),
    "bigint": Thing.big == 2**40,
    "date": Thing.made == date(2024, 2, 29),
    "date range": and_(Thing.made >= date(2024, 2, 1), Thing.made < date(2024, 3, 1)),
    "year": extract("year", Thing.made) == 2024,
    "json text": Thing.data["color"].as_string() == "red",
    "json integer": Thing.data["n"].as_integer() == 5,
    "json boolean": Thing.data["on"].as_boolean(),
    "json path": Thing.data[("deep", 0, "a")].as_integer() > 2,
    "json in": Thing.data["n"].as_integer().in_([5, 6]),
    "in a subquery of the same table": Thing.id.in_(select(TWIN.id).where(TWIN.bin == 7)),
    "exists in the same table": exists().where(TWIN.id == Thing.id, TWIN.bin == 7),
    "given at execution": Thing.bin == bindparam("given"),
    "a list given at execution": Thing.bin.in_(bindparam("some", expanding=True)),
}
SERVERS: Final[dict[str, Any]] = {"regular expression": Thing.name.regexp_match("^50.*d$")}
POSTGRESQL: Final[dict[str, Any]] = {
    "array contains": Thing.sizes.contains([9]),
    "array is contained": not_(Thing.sizes.contained_by([1, 2])),
    "array overlaps": Thing.sizes.overlap([9, 10]),
    "array any": literal(9) == any_(Thing.sizes),
    "array element": Thing.sizes[2] == 9,
    "array length": func.cardinality(Thing.sizes) == 2,
    "jsonb contains": Thing.document.contains({"k": 2}),
    "jsonb has a key": Thing.document.has_key("extra"),
    "jsonb has any": Thing.document.has_any(array(["extra", "none"])),
    "jsonb text": Thing.document["k"].astext == "2",
    "jsonb null": Thing.document["extra"] == JSON.NULL,
    "case-insensitive regular expression": Thing.name.regexp_match("WANTED", flags="i"),
    "between symmetric": Thing.bin.between(8, 6, symmetric=True),
}
# Of rows that are left alone.
KEPT: Final[dict[str, Any]] = {
    "kept equal": Thing.bin == 3,
    "kept in": Thing.bin.in_([3, 4]),
    "kept and": and_(Thing.bin == 3, Thing.name.like("%")),
    "kept or": or_(Thing.bin == 3, Thing.bin == 4),
    "kept or with and": or_(and_(Thing.bin == 3, Thing.size > 0), and_(Thing.bin == 4, Thing.is_new)),
    "kept tuple in": tuple_(Thing.bin, Thing.big).in_([(3, 3), (4, 4)]),
    "kept bigint": Thing.big == 3,
    "kept none": Thing.bin == 3000,
    "kept given at execution": and_(Thing.bin == bindparam("kept"), Thing.size.is_not(None)),
}
GIVEN: Final = {"given": 7, "some": [7, 70], "kept": 3}


def read_of(name: str, predicate: Any) -> Read:
    statement = select(Thing.id).where(predicate).order_by(Thing.id)
    given = {key: value for key, value in GIVEN.items() if f":{key}" in str(predicate) or f"_{key}" in str(predicate)}
    return rows(statement, given or None)


def stock_store(session: Session) -> None:
    session.add_all([Thing(id=1, **PLAIN), Thing(id=2, **PLAIN), Other(id=1)])
    session.add_all([Thing(id=3, **PLAIN | {"bin": 3, "big": 3}), Thing(id=4, **PLAIN | {"bin": 4, "big": 4})])


@pytest.fixture(scope="module")
def standing_store(standing: Any) -> tuple[World, Matrix]:
    world: World = standing(Thing, Other)
    refill(world, Store, stock_store)
    predicates = PREDICATES | KEPT
    if world.dialect != "sqlite":
        predicates |= SERVERS
    if world.dialect == "postgresql":
        predicates |= POSTGRESQL
    reads = {name: read_of(name, predicate) for name, predicate in predicates.items()}
    return world, Matrix(world, {**reads, "kept get": get(Thing, 3), "aside": get(Other, 1)})


def by_flush(session: Session, new: dict[str, Any]) -> None:
    thing = session.get_one(Thing, 1)
    for name, value in new.items():
        setattr(thing, name, value)


def by_core(session: Session, new: dict[str, Any]) -> None:
    session.connection().execute(update(Thing.__table__).where(Thing.__table__.c.id == 1), new)  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [by_flush, by_core])
def test_s10_s11_every_kind_of_predicate_follows_a_row_in_and_out(
    standing_store: tuple[World, Matrix], change: Callable[[Session, dict[str, Any]], None]
) -> None:
    store, matrix = standing_store
    refill(store, Store, stock_store)
    matrix.begin()
    kept = {*KEPT, "kept get"}
    steps: list[Callable[[Session], Any]] = [
        lambda session: session.add(Thing(id=9, **WANTED)),
        lambda session: change(session, WANTED),
        lambda session: change(session, PLAIN),
        lambda session: session.delete(session.get_one(Thing, 9)),
    ]
    for step in steps:
        with store.write() as session:
            step(session)
        followed = matrix.changed_by({"sp_thing"}, kept)
        assert sorted(matrix.reading("sp_thing") - kept - followed) == []
    matrix.assert_all_stored()


def things(*order: Any, where: Any = True, limit: int = 2, offset: int = 0) -> Read:
    return rows(select(Thing.id, Thing.name).where(where).order_by(*order, Thing.id).limit(limit).offset(offset))


PAGES: Final[dict[str, Read]] = {
    "first": things(Thing.size.desc()),
    "second": things(Thing.size.desc(), offset=2),
    "by an expression": things(Thing.size * -1),
    "by a case": things(case((Thing.name == "plain", 1), else_=0)),
    "by a subquery": things(select(func.count(TWIN.id)).where(TWIN.size > Thing.size).scalar_subquery()),
    "with a condition": things(Thing.size.desc(), where=Thing.size < 60),
    "after a key": rows(select(Thing.id).where(Thing.id > 3).order_by(Thing.id).limit(2)),
    "after a row": rows(
        select(Thing.id)
        .where(tuple_(Thing.size, Thing.id) < tuple_(literal(50), literal(9)))
        .order_by(Thing.size.desc(), Thing.id.desc())
        .limit(1)
    ),
    "the largest": rows(select(Thing.id).order_by(Thing.size.desc()).limit(1)),
    "of a bin": things(Thing.size.desc(), where=Thing.bin == 1, limit=1),
    "counted": rows(select(func.count()).select_from(select(Thing.id).order_by(Thing.size).limit(5).subquery())),
    "of groups": rows(
        select(Thing.bin, func.sum(Thing.size)).group_by(Thing.bin).order_by(func.sum(Thing.size).desc()).limit(1)
    ),
    "distinct": rows(select(Thing.size).distinct().order_by(Thing.size.desc()).limit(2)),
    "empty": things(Thing.id, offset=4),
    "kept of a bin": things(Thing.size.desc(), where=Thing.bin == 3, limit=1),
    "kept second of a bin": things(Thing.size.desc(), where=Thing.bin == 3, limit=1, offset=1),
}


def stock_pages(session: Session) -> None:
    sizes = enumerate([50, 40, 30, 20], start=1)
    session.add_all(Thing(id=id_, **PLAIN | {"size": size, "bin": 3 if id_ == 3 else 1}) for id_, size in sizes)


def test_s9_pages_follow_what_comes_in_from_outside_and_what_goes_out(standing_store: tuple[World, Matrix]) -> None:
    store, _ = standing_store
    refill(store, Store, stock_pages)
    pages = Matrix(store, PAGES)
    kept = {name for name in PAGES if name.startswith("kept")}
    steps: list[tuple[Callable[[Session], Any], set[str]]] = [
        (
            lambda session: setattr(session.get_one(Thing, 4), "size", 55),
            {"first", "second", "the largest", "of a bin"},
        ),
        (lambda session: setattr(session.get_one(Thing, 1), "name", "shown"), {"by a case", "first"}),
        (lambda session: session.add(Thing(id=9, **PLAIN | {"size": 99})), {"first", "second", "counted", "distinct"}),
        (lambda session: setattr(session.get_one(Thing, 2), "bin", 4), {"of groups"}),
        (
            lambda session: session.delete(session.get_one(Thing, 9)),
            {"first", "second", "counted", "of groups", "empty"},
        ),
        (lambda session: session.delete(session.get_one(Thing, 1)), {"first", "after a row", "with a condition"}),
    ]
    followed: set[str] = set()
    for step, new in steps:
        with store.write() as session:
            step(session)
        told = pages.changed_by({"sp_thing"}, kept)
        assert new - told == set()
        followed |= told
    assert set(PAGES) - kept - followed == set()
    pages.assert_all_stored()
