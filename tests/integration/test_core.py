"""A Core connection is given the same by a miss and by a hit as by the database: keys, types, rows, errors, its own state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import (
    LABEL_STYLE_TABLENAME_PLUS_COL,
    Connection,
    Engine,
    Executable,
    Result,
    Row,
    bindparam,
    case,
    cast,
    except_,
    exists,
    func,
    literal,
    select,
    text,
    tuple_,
    union,
    union_all,
)
from sqlalchemy import Text as TextType
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm import Session

from core_support import ITEM, SHOP, Item, Shop, Shops, shops_on

C, S = ITEM.c, SHOP.c
OTHER = ITEM.alias("other")
RECENT = select(C.id, C.name).where(C.id > 2).cte("recent")

STATEMENTS: Final[dict[str, tuple[Executable, Any]]] = {
    "a table": (select(ITEM).order_by(C.id), None),
    "no row": (select(ITEM).where(C.id == 99), None),
    "one row": (select(ITEM).where(C.id == 3), None),
    "columns": (select(C.name, C.price, C.label).order_by(C.id), None),
    "labels": (select(C.name.label("what"), (C.id + 1).label("next")).order_by(C.id), None),
    "a column twice": (select(C.id, C.id, C.name).order_by(C.id), None),
    "one name of two tables": (select(ITEM, SHOP).join(SHOP).order_by(C.id), None),
    "an outer join": (select(C.id, S.name).outerjoin(SHOP).order_by(C.id), None),
    "a self-join": (select(C.id, OTHER.c.id).join(OTHER, OTHER.c.shop_id == C.shop_id).order_by(C.id, OTHER.c.id), None),
    "count": (select(func.count()).select_from(ITEM), None),
    "sums by group": (select(C.shop_id, func.sum(C.price)).group_by(C.shop_id).order_by(C.shop_id), None),
    "an expression without a name": (select(C.id * 2, C.weight + 1).order_by(C.id), None),
    "distinct": (select(C.shop_id).distinct().order_by(C.shop_id), None),
    "case and cast": (select(case((C.id > 2, "big"), else_="small"), cast(C.id, TextType)).order_by(C.id), None),
    "exists": (select(exists().where(C.id == 1)), None),
    "a scalar subquery": (select(S.name, select(func.count(C.id)).where(C.shop_id == S.id).scalar_subquery()), None),
    "a CTE": (select(RECENT).order_by(RECENT.c.id), None),
    "a subquery": (select(sub := select(C.id, C.made).where(C.id < 4).subquery()).order_by(sub.c.id), None),
    "union": (union(select(C.id), select(S.id)).order_by("id"), None),
    "union all": (union_all(select(C.id, C.name), select(S.id, S.name)).order_by("id", "name"), None),
    "except": (except_(select(C.id), select(S.id)).order_by("id"), None),
    "in": (select(C.id).where(C.id.in_([1, 3, 5])).order_by(C.id), None),
    "in nothing": (select(C.id).where(C.id.in_([])), None),
    "tuples": (select(C.id).where(tuple_(C.id, C.shop_id).in_([(1, 2), (2, 1)])).order_by(C.id), None),
    "parameters": (select(C.name).where(C.id == bindparam("key")), {"key": 2}),
    "a list of one set": (select(C.name).where(C.id == bindparam("key")), [{"key": 2}]),
    "a parameter with a default": (select(C.name).where(C.id == bindparam("key", 4)), None),
    "limit and offset": (select(C.id).order_by(C.id).limit(2).offset(1), None),
    "a literal": (select(literal("x").label("l"), C.id).order_by(C.id), None),
    "long labels": (select(ITEM).order_by(C.id).set_label_style(LABEL_STYLE_TABLENAME_PLUS_COL), None),
    "an entity": (select(Item).order_by(C.id), None),
    "attributes": (select(Item.id, Item.name).order_by(C.id), None),
    "text": (text("SELECT id, name, price FROM item ORDER BY id"), None),
    "text with a parameter": (text("SELECT id, name FROM item WHERE id = :key"), {"key": 2}),
    "text with types": (text("SELECT id, colour, price FROM item ORDER BY id").columns(C.id, C.colour, C.price), None),
    "text of which nobody knows the types": (text("SELECT count(*) AS n, max(weight) FROM item"), None),
}  # fmt: skip


OF_ENTITIES: Final = ("an entity", "attributes")
"""Of which a Session makes something else than a connection."""


def row_told(row: Any) -> Any:
    if isinstance(row, Row):
        return type(row).__name__, tuple(row._fields), [value_told(value) for value in row], hash_told(row)
    return value_told(row)


def hash_told(row: Row[Any]) -> Any:
    try:
        return hash(row) == hash(tuple(row))
    except TypeError:
        return "none"


def value_told(value: Any) -> Any:
    return type(value).__name__, repr(value)


def rows_told(rows: Any) -> Any:
    return [row_told(row) for row in rows]


def closes(result: Any) -> Any:
    result.close()
    return result.closed, result.fetchall()


def by_columns(result: Any) -> Any:
    first = result.first()
    return first and [first._mapping[key] for key in (*first._mapping, C.id)]


TAKES: Final[dict[str, Callable[[Any], Any]]] = {
    "all": lambda result: rows_told(result.all()),
    "again": lambda result: (len(result.all()), result.all(), result.closed, result._soft_closed),
    "iteration": lambda result: rows_told(list(result)),
    "keys": lambda result: (list(result.keys()), list(result.mappings().keys())),
    "one by one": lambda result: (row_told(result.fetchone()), rows_told(result.fetchmany(2)), len(result.fetchall())),
    "first": lambda result: (row_told(result.first()), result.closed),
    "one": lambda result: row_told(result.one()),
    "one or none": lambda result: row_told(result.one_or_none()),
    "scalar": lambda result: value_told(result.scalar()),
    "scalar one": lambda result: value_told(result.scalar_one()),
    "scalars": lambda result: rows_told(result.scalars().all()),
    "the second column": lambda result: rows_told(result.scalars(1).all()),
    "mappings": lambda result: [[(key, value_told(value)) for key, value in row.items()] for row in result.mappings()],
    "columns by position": lambda result: rows_told(result.columns(0).all()),
    "columns by name": lambda result: rows_told(result.columns("name").all()),
    "by columns of the table": by_columns,
    "unique": lambda result: rows_told(result.unique(strategy=repr).all()),
    "partitions": lambda result: [rows_told(rows) for rows in result.partitions(2)],
    "yield_per of the result": lambda result: rows_told(result.yield_per(2)),
    "tuples": lambda result: rows_told(result.tuples()),
    "frozen": lambda result: rows_told(result.freeze()().all()),
    "closed": closes,
    "closed by with": lambda result: with_told(result),
    "what it says of itself": lambda result: (
        type(result).__name__,
        result.returns_rows,
        result.is_insert,
        result.rowcount,
        result.supports_sane_rowcount(),
        result.supports_sane_multi_rowcount(),
        result.closed,
        result.context.isinsert,
        result.context.is_crud,
    ),
    "keys of an insert": lambda result: result.inserted_primary_key,
    "parameters of an insert": lambda result: result.last_inserted_params(),
    "its description": lambda result: [column[0] for column in result.cursor.description],
}


def with_told(result: Any) -> Any:
    with result as same:
        row = row_told(same.fetchone())
    return row, result.closed


def told(connection: Connection, statement: Executable, parameters: Any, take: Callable[[Any], Any]) -> Any:
    """Return what is seen of a result, or the error; and what the connection is left with."""
    try:
        result: Result[Any] = connection.execute(statement, parameters)
        seen = take(result)
        seen = seen, result.connection is connection  # type: ignore[attr-defined]
    except Exception as error:
        seen = type(error).__name__, str(error)
    return seen, connection.in_transaction(), connection.in_nested_transaction()


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "mariadb"])
def shops(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shops]:
    """A database that the tests of this file only read."""
    folder: Path = tmp_path_factory.mktemp("core")
    on_file = f"sqlite:///{folder}/database.sqlite"
    url: str = on_file if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_session_url")
    with shops_on(url) as shops:
        yield shops


@pytest.mark.parametrize("name", STATEMENTS)
def test_whatever_is_done_with_a_result_is_answered_as_by_the_database(shops: Shops, name: str) -> None:
    statement, parameters = STATEMENTS[name]
    for what, take in TAKES.items():
        with shops.plain.connect() as connection:
            expected = told(connection, statement, parameters, take)
        shops.cache.invalidate(Item, Shop)
        for _ in range(2):
            with shops.engine.connect() as connection, shops.counting() as sent:
                assert told(connection, statement, parameters, take) == expected, what
        assert sent == [], what


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_session_is_given_the_same_rows_of_what_is_no_entity(shops: Shops, name: str) -> None:
    statement, parameters = STATEMENTS[name]
    if name == "a list of one set":
        parameters = parameters[0]
    for what in ("all", "keys", "what it says of itself"):
        with Session(shops.plain) as session:
            expected = TAKES[what](session.execute(statement, parameters)) if name not in OF_ENTITIES else None
        for _ in range(2):
            with Session(shops.engine) as session, shops.counting() as sent:
                result = session.execute(statement, parameters)
                assert name in OF_ENTITIES or TAKES[what](result) == expected, what
        assert sent == [], what


def test_a_scalar_is_answered_too(shops: Shops) -> None:
    statement = select(func.max(C.price))
    with shops.plain.connect() as connection:
        expected = connection.scalar(statement)
    for _ in range(2):
        with shops.engine.connect() as connection, shops.counting() as sent:
            assert connection.scalar(statement) == expected
            assert connection.scalars(select(C.id).order_by(C.id)).all() == [1, 2, 3, 4, 5]
    assert sent == []


def test_a_hit_begins_the_connections_transaction(shops: Shops) -> None:
    statement = select(func.count()).select_from(ITEM)
    shops.read(statement)
    with shops.engine.connect() as connection, shops.counting() as sent:
        assert not connection.in_transaction()
        connection.execute(statement)
        assert connection.in_transaction()
        with pytest.raises(Exception, match="already initialized a SQLAlchemy Transaction"):
            connection.begin()
        connection.rollback()
        with connection.begin():
            connection.execute(statement)
    assert sent == []


def test_where_a_statement_would_be_refused_a_hit_is_refused_too(shops: Shops) -> None:
    statement = select(func.count()).select_from(ITEM)
    shops.read(statement)

    def ended(engine: Engine) -> str:
        with engine.connect() as connection, connection.begin() as transaction:
            transaction.rollback()
            with pytest.raises(Exception, match="closed transaction") as raised:
                connection.execute(statement)
        return f"{type(raised.value).__name__}: {raised.value}"

    def nested(engine: Engine) -> str:
        with engine.connect() as connection:
            connection.begin()
            savepoint = connection.begin_nested()
            with pytest.raises(Exception, match="no_such_table") as raised:
                connection.execute(text("SELECT * FROM no_such_table"))
            savepoint.rollback()
            connection.execute(statement)
        return type(raised.value).__name__

    def savepoint_ended(engine: Engine) -> str:
        with engine.connect() as connection:
            connection.begin()
            with connection.begin_nested() as savepoint:
                savepoint.rollback()
                with pytest.raises(Exception, match="closed transaction") as raised:
                    connection.execute(statement)
        return f"{type(raised.value).__name__}: {raised.value}"

    def closed(engine: Engine) -> str:
        connection = engine.connect()
        connection.close()
        with pytest.raises(Exception, match="closed") as raised:
            connection.execute(statement)
        return f"{type(raised.value).__name__}: {raised.value}"

    for way in (ended, nested, savepoint_ended, closed):
        assert way(shops.engine) == way(shops.plain)


@pytest.mark.parametrize(
    ("statement", "parameters"),
    [
        (select(C.id).where(C.id == bindparam("key")), None),
        (select(C.id).where(C.id == bindparam("key")), {"other": 1}),
        (text("SELECT id FROM item WHERE id = :key"), None),
        (text("SELECT no_such_column FROM item"), None),
        (select(text("no_such_column")).select_from(ITEM), None),
        ("SELECT 1", None),
        (select(C.id), [1, 2]),
        (select(C.id), 7),
    ],
    ids=[
        "no value",
        "another value",
        "no value in a text",
        "no column",
        "no column in a text",
        "a str",
        "a list",
        "a number",
    ],
)
def test_errors_are_those_of_the_database(shops: Shops, statement: Any, parameters: Any) -> None:
    def failed(engine: Engine) -> Any:
        with engine.connect() as connection:
            seen = told(connection, statement, parameters, lambda result: result.all())
            return seen[0][0], str(seen[0][1]).splitlines()[0], seen[1:]

    expected = failed(shops.plain)
    for _ in range(2):
        assert failed(shops.engine) == expected


@pytest.mark.parametrize("way", ["yield_per", "stream_results", "of the connection"])
def test_what_is_streamed_is_left_alone(shops: Shops, way: str) -> None:
    statement = select(C.id).order_by(C.id)
    shops.read(statement)
    options: Any = {"yield_per": {"yield_per": 2}, "stream_results": {"stream_results": True}}.get(way, {})
    with shops.engine.connect() as connection, shops.counting() as sent:
        if way == "of the connection":
            connection = connection.execution_options(stream_results=True)
        result = connection.execute(statement, execution_options=options)
        assert result.scalars().all() == [1, 2, 3, 4, 5]
    assert len(sent) == 1
    assert shops.reasons()["bypass: its rows are streamed"]


def test_a_cartesian_product_is_warned_of_as_without_a_cache(shops: Shops) -> None:
    product = select(C.id, S.id)
    shops.engine.clear_compiled_cache()
    with pytest.warns(SAWarning, match="cartesian product"), shops.engine.connect() as connection:
        connection.execute(product)
    shops.engine.clear_compiled_cache()
    with pytest.warns(SAWarning, match="cartesian product"), Session(shops.engine) as session:
        session.execute(product)


def test_what_a_dialect_asks_of_its_first_connection_is_left_alone(sqlite_url: str) -> None:
    with shops_on(sqlite_url) as shops:
        dialect: Any = shops.engine.dialect
        initialize = dialect.initialize

        def initialize_and_ask(connection: Connection) -> None:
            initialize(connection)
            assert connection.scalar(select(func.count()).select_from(ITEM)) == 5

        dialect.initialize = initialize_and_ask
        assert shops.read(select(func.count()).select_from(ITEM)) == [(5,)]


def test_driver_sql_is_left_alone(shops: Shops) -> None:
    with shops.engine.connect() as connection, shops.counting() as sent:
        for _ in range(2):
            assert len(connection.exec_driver_sql("SELECT id FROM item").all()) == 5
    assert len(sent) == 2
