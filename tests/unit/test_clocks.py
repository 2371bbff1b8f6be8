"""What may be the present time, though no function says so, is not cached; what only looks like it is."""

from __future__ import annotations

from typing import Any, Final

import pytest
from sqlalchemy import (
    JSON,
    Column,
    Date,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    Time,
    TypeDecorator,
    bindparam,
    case,
    cast,
    extract,
    func,
    literal,
    null,
    select,
    tuple_,
    union,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.postgresql import DATERANGE, Range
from sqlalchemy.engine import Dialect

from querycache.statements.clocks import names_the_clock
from querycache.statements.dependencies import reads_the_clock
from querycache.statements.reads import NotCacheable, reads_of

SQLITE: Final[Dialect] = sqlite.dialect()
POSTGRESQL: Final[Dialect] = postgresql.dialect()  # type: ignore[no-untyped-call]
MYSQL: Final[Dialect] = mysql.dialect()


class Moment(TypeDecorator[Any]):
    impl = DateTime
    cache_ok = True


e = Table(
    "e",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("day", Date),
    Column("at", Moment),
    Column("hour", Time),
    Column("name", String),
    Column("days", postgresql.ARRAY(Date).with_variant(JSON, "sqlite", "mysql")),
    Column("span", DATERANGE().with_variant(JSON, "sqlite", "mysql")),
)
d = e.alias()


def is_cached(statement: Any, dialect: Dialect) -> bool:
    """Tell whether a statement with the values that stand in it is cached, as far as the clock goes."""
    found = reads_of(statement, dialect)
    return not isinstance(found, NotCacheable) and not reads_the_clock(found, lambda bind: bind.effective_value)


CASES: Final[dict[str, tuple[Dialect, Any, Any]]] = {
    # PostgreSQL: a text where a date is wanted
    "a function of dates": (
        POSTGRESQL,
        select(func.date_trunc("day", e.c.at)),
        select(func.date_trunc("day", "now")),
    ),
    "EXTRACT": (POSTGRESQL, select(extract("year", e.c.at)), select(extract("year", literal("today")))),
    "COALESCE": (POSTGRESQL, select(func.coalesce(e.c.name, "-")), select(func.coalesce(e.c.day, "tomorrow"))),
    "CASE": (
        POSTGRESQL,
        select(case((e.c.id == 1, e.c.day), else_=null())),
        select(case((e.c.id == 1, e.c.day), else_="yesterday")),
    ),
    "UNION": (
        POSTGRESQL,
        union(select(e.c.day), select(literal("2026-01-01"))),
        union(select(e.c.day), select(literal("now"))),
    ),
    "IN": (POSTGRESQL, select(e).where(e.c.name.in_(["now"])), select(e).where(e.c.day.in_(["now"]))),
    "a tuple": (
        POSTGRESQL,
        select(e).where(tuple_(e.c.day, e.c.id).in_([("2026-01-01", 1)])),
        select(e).where(tuple_(e.c.day, e.c.id).in_([("today", 1)])),
    ),
    "an array": (
        POSTGRESQL,
        select(e).where(e.c.days.contains(["2026-01-01"])),
        select(e).where(e.c.days.contains(["today"])),
    ),
    "a range": (
        POSTGRESQL,
        select(e).where(e.c.span == bindparam("r", Range("2026-01-01", None), DATERANGE)),
        select(e).where(e.c.span == bindparam("r", Range("today", None), DATERANGE)),
    ),
    "a cast": (POSTGRESQL, select(cast(e.c.at, Date)), select(cast(e.c.name, Date))),
    "an age": (POSTGRESQL, select(func.age(e.c.at, d.c.at)), select(func.age(e.c.at))),
    "a comparison of texts": (POSTGRESQL, select(e).where(e.c.name == "now"), select(e).where(e.c.day == "now")),
    "a search in texts": (
        POSTGRESQL,
        select(e).where(e.c.name.ilike("%today%")),
        select(e).where(e.c.day > func.to_date("today", e.c.name)),
    ),
    # SQLite: 'now' for its functions of dates
    "date()": (SQLITE, select(func.date(e.c.at)), select(func.date("now"))),
    "date() of nothing": (SQLITE, select(func.date(e.c.day)), select(func.date())),
    "date() of a text": (SQLITE, select(func.date(e.c.at)), select(func.date(e.c.name))),
    "date() with a modifier": (SQLITE, select(func.date(e.c.at)), select(func.date(e.c.at, "localtime"))),
    "strftime()": (SQLITE, select(func.strftime("%Y", e.c.at)), select(func.strftime("%Y", "now"))),
    "strftime() of nothing": (SQLITE, select(func.strftime("%Y", e.c.day)), select(func.strftime("%Y"))),
    "extract": (SQLITE, select(extract("year", e.c.at)), select(extract("year", e.c.name))),
    "extract from a text": (SQLITE, select(extract("year", e.c.day)), select(extract("year", literal("now")))),
    # MySQL and MariaDB: a TIME made a date is one of today
    "a part of a time": (MYSQL, select(func.hour(e.c.hour)), select(func.year(e.c.hour))),
    "the date of a time": (MYSQL, select(func.date(e.c.at)), select(func.date(e.c.hour))),
    "the last day": (MYSQL, select(func.last_day(e.c.day)), select(func.last_day(e.c.hour))),
    "a cast of a time": (MYSQL, select(cast(e.c.hour, String)), select(cast(e.c.hour, DateTime))),
    "a time compared": (MYSQL, select(e).where(e.c.hour > d.c.hour), select(e).where(e.c.hour > d.c.at)),
    "a time or a date": (
        MYSQL,
        select(func.coalesce(e.c.hour, d.c.hour)),
        select(func.coalesce(e.c.hour, e.c.at)),
    ),
    "the later": (MYSQL, select(func.max(e.c.hour)), select(func.greatest(e.c.hour, e.c.day))),
    "a time in a CASE": (
        MYSQL,
        select(case((e.c.id == 1, e.c.hour), else_=null())),
        select(case((e.c.id == 1, e.c.hour), else_=e.c.at)),
    ),
    "a time in a UNION": (
        MYSQL,
        union(select(e.c.hour), select(d.c.hour)),
        union(select(e.c.hour), select(d.c.at)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_be_the_clock_is_cached(name: str) -> None:
    dialect, harmless, _ = CASES[name]
    assert is_cached(harmless, dialect)


@pytest.mark.parametrize("name", CASES)
def test_what_may_be_the_clock_is_not(name: str) -> None:
    dialect, _, clock = CASES[name]
    assert not is_cached(clock, dialect)


@pytest.mark.parametrize("value", [1, 1.5, None, b"now", "nowhere", "knows", ["a", ("b",)], Range(1, 2)])
def test_a_value_without_the_words_does_not_name_it(value: object) -> None:
    assert not names_the_clock(value)


@pytest.mark.parametrize("value", ["now", "Today ", "infinity or tomorrow", ["a", ("now",)], Range("yesterday", None)])
def test_a_value_with_one_of_the_words_names_it(value: object) -> None:
    assert names_the_clock(value)
