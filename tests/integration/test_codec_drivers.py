"""Whatever a driver reads from a column comes back from the codec as the same type and value."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import make_url

from querycache.rows.codec import UnsupportedValue, decode_rows, encode_rows

KEY = b"0123456789abcdef"

POSTGRESQL_COLUMNS = {
    "smallint": "-32768",
    "integer": "2147483647",
    "bigint": "-9223372036854775808",
    "numeric": "123456789012345678901234567890.1234567890",
    "numeric(10,2)": "1.00",
    "numeric(1000,0)": "1e900",
    "real": "1.5",
    "double precision": "1e308",
    "money": "12.34",
    "boolean": "true",
    "text": "snow ☃ 🐍",
    "varchar(10)": "",
    "char(5)": "ab",
    '"char"': "x",
    "name": "a name",
    "bytea": "\\x00ff10",
    "date": "2024-02-29",
    "time": "23:59:59.999999",
    "timetz": "12:30:00.5+05:45",
    "timestamp": "0001-01-01 00:00:00.000001",
    "timestamptz": "2024-10-27 02:30:00+02",
    "interval": "-3 days 04:05:06.789",
    "uuid": "12345678-1234-5678-1234-567812345678",
    "json": '{"b": [1, 2.5, null, "x"], "a": {"c": true}}',
    "jsonb": '[{"n": 123456789012345678901234567890, "f": 1.0}, "2024-01-01"]',
    "inet": "192.0.2.1/24",
    "cidr": "2001:db8::/32",
    "macaddr": "08:00:2b:01:02:03",
    "bit(5)": "10101",
    "varbit": "101",
    "point": "(1,2)",
    "xml": "<a>b</a>",
    "tsvector": "'a':1 'b':2",
    "int4range": "[1,5)",
    "int8range": "empty",
    "numrange": "(1.50,)",
    "daterange": "[2024-01-01,2024-02-01)",
    "tsrange": "[2024-01-01 00:00,2024-01-02 00:00]",
    "tstzrange": "[2024-01-01 00:00+02,)",
    "int4multirange": "{[1,2),[5,7)}",
    "nummultirange": "{}",
    "tstzmultirange": "{[2024-01-01 00:00+00,2024-01-02 00:00+00)}",
    "integer[]": "{1,NULL,3}",
    "text[]": "{{a,b},{c,NULL}}",
    "numeric[]": "{1.00,NaN,Infinity}",
    "timestamptz[]": "{2024-01-01 00:00+00}",
    "uuid[]": "{12345678-1234-5678-1234-567812345678}",
    "bytea[]": "{\\\\x00ff}",
    "jsonb[]": '{"{\\"a\\": 1}"}',
    "int4range[]": '{"[1,2)",empty}',
    "inet[]": "{10.0.0.1,::1}",
    "oid": "4294967295",
    "regclass": "pg_class",
    "pg_lsn": "16/B374D848",
}

MARIADB_COLUMNS: dict[str, Any] = {
    "tinyint": -128,
    "tinyint(1)": 1,
    "smallint unsigned": 65535,
    "mediumint": -5,
    "int": 2147483647,
    "bigint": -(2**63),
    "bigint unsigned": 2**64 - 1,
    "decimal(65,30)": Decimal("1.5"),
    "decimal(10,2)": Decimal("1.00"),
    "float": 1.5,
    "double": -1e308,
    "bit(1)": 1,
    "bit(64)": 2**64 - 1,
    "char(5)": "ab",
    "varchar(20) character set utf8mb4": "snow ☃ 🐍",
    "text": "x" * 1000,
    "binary(4)": b"\0\xff",
    "varbinary(10)": b"",
    "blob": bytes(range(256)),
    "enum('a','b')": "a",
    "set('a','b','c')": "a,c",
    "json": '{"a": [1, 2.50]}',
    "date": "2024-02-29",
    "datetime": "2024-01-01 12:00:00",
    "datetime(6)": "2024-01-01 12:00:00.123456",
    "timestamp(6) null": "2024-01-01 12:00:00.000001",
    "time": "-12:30:00",
    "time(6)": "838:59:59.000001",
    "year": 2024,
    "inet6": "2001:db8::1",
    "uuid": "12345678-1234-5678-1234-567812345678",
    "point": None,
}


def check_round_trip(description: Sequence[Sequence[Any]], rows: Sequence[Sequence[Any]]) -> None:
    short = [(column[0], column[1]) for column in description]
    decoded = decode_rows(KEY, encode_rows(KEY, short, rows))
    assert decoded.description == tuple(short)
    assert decoded.rows == [tuple(row) for row in rows] or "nan" in repr(rows).lower()
    assert shape_of(decoded.rows) == shape_of([tuple(row) for row in rows])


def shape_of(value: object) -> object:
    """Return types and representations of a value and of all that it holds."""
    if isinstance(value, list | tuple):
        return type(value), [shape_of(item) for item in value]
    if isinstance(value, dict):
        return dict, [(key, shape_of(item)) for key, item in value.items()]
    return type(value), value.tobytes() if isinstance(value, memoryview) else repr(value)


@pytest.mark.parametrize("column", POSTGRESQL_COLUMNS)
@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
def test_a_postgresql_column_comes_back(postgresql_url: str, column: str, binary: bool) -> None:
    psycopg = importlib.import_module("psycopg")
    address = make_url(postgresql_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection, connection.cursor(binary=binary) as cursor:
        cursor.execute("SET TIME ZONE 'Europe/Berlin'")
        text = POSTGRESQL_COLUMNS[column].replace("'", "''")
        cursor.execute(f"SELECT '{text}'::{column} AS value, NULL::{column} AS nothing".encode())
        check_round_trip(cursor.description, cursor.fetchall())


def test_all_postgresql_columns_come_back_from_one_row(postgresql_url: str) -> None:
    psycopg = importlib.import_module("psycopg")
    address = make_url(postgresql_url).set(drivername="postgresql").render_as_string(hide_password=False)
    columns = [f"""'{text.replace("'", "''")}'::{column}""" for column, text in POSTGRESQL_COLUMNS.items()]
    sql = f"SELECT {', '.join(columns)} UNION ALL SELECT {', '.join('NULL' for _ in columns)}"
    with psycopg.connect(address) as connection:
        cursor = connection.execute(sql.encode())
        check_round_trip(cursor.description, cursor.fetchall())


def test_a_postgresql_composite_is_refused(postgresql_url: str) -> None:
    psycopg = importlib.import_module("psycopg")
    composite = importlib.import_module("psycopg.types.composite")
    address = make_url(postgresql_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TYPE b_pair AS (a int, b text)")
        composite.register_composite(composite.CompositeInfo.fetch(connection, "b_pair"), connection)
        rows = connection.execute("SELECT ROW(1, 'x')::b_pair").fetchall()
    with pytest.raises(UnsupportedValue, match="b_pair"):
        encode_rows(KEY, [("value", None)], rows)


@pytest.mark.parametrize("column", MARIADB_COLUMNS)
def test_a_mariadb_column_comes_back(mariadb_url: str, column: str) -> None:
    pymysql = importlib.import_module("pymysql")
    url = make_url(mariadb_url)
    with pymysql.connect(
        host=url.host,
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        database=url.database,
        unix_socket=url.query.get("unix_socket"),
    ) as connection:
        cursor = connection.cursor()
        cursor.execute(f"CREATE TABLE b_codec (value {column} NULL)")
        value = "ST_GeomFromText('POINT(1 2)')" if column == "point" else "%s"
        cursor.execute(
            f"INSERT INTO b_codec VALUES ({value}), (NULL)", [] if column == "point" else [MARIADB_COLUMNS[column]]
        )
        cursor.execute("SELECT value, value IS NULL, count(*) OVER (), now(6) FROM b_codec")
        rows = cursor.fetchall()
        assert len(rows) == 2
        check_round_trip(cursor.description, rows)


@pytest.mark.parametrize(
    "values",
    [
        [1, 1.0, "1", b"1", None],
        [2**63 - 1, -(2**63)],
        [float("inf"), -0.0, 0.1],
        ["", "snow ☃ 🐍", "a\0b"],
        [b"", bytes(range(256))],
    ],
)
def test_sqlite_columns_of_many_types_come_back(values: list[Any]) -> None:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE t (value)")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in values])
        cursor = connection.execute("SELECT value, typeof(value), value IS NULL FROM t")
        check_round_trip(cursor.description, cursor.fetchall())
    finally:
        connection.close()
