"""What do the catalogs of real databases say of columns of each declared type?"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.pool import NullPool

from querycache.databases import Column, Survey, survey_of


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def survey_after(url: str, *statements: str) -> Survey:
    engine = create_engine(url, poolclass=NullPool)
    run(engine, *statements)
    with engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        return survey_of(engine.dialect, raw)


def told_in(url: str) -> tuple[str, str]:
    schemas = {"postgresql": "public", "sqlite": "main"}
    return schemas.get(make_url(url).get_backend_name(), str(make_url(url).database)), "TOLD"


def column_of(url: str, declared: str, *before: str) -> Column:
    survey = survey_after(url, *before, f"CREATE TABLE Told (Told_Column {declared})")
    said = survey.column(told_in(url), "told_column")
    assert said is not None
    return said


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("INTEGER", "int"),
        ("BIGINT", "int"),
        ("BOOLEAN", "int"),
        ("NUMERIC(10, 2)", "int"),
        ("TEXT", "text"),
        ("VARCHAR(5)", "text"),
        ("CHAR(32)", "text"),
        ("VARCHAR(5) COLLATE BINARY", "text"),
        ('VARCHAR(5) COLLATE "binary"', "text"),
        ("VARCHAR(5) COLLATE NOCASE", ""),
        ("VARCHAR(5) collate RTRIM", ""),
        ("VARCHAR(5) COLLATE binary COLLATE nocase", ""),
        ("VARCHAR(5) /* COLLATE BINARY */ COLLATE/**/NOCASE", ""),
        ("INTEGER COLLATE NOCASE", "int"),
        ("REAL", ""),
        ("BLOB", ""),
        ("", ""),
    ],
)
def test_sqlite_goes_by_the_affinity_of_the_declared_type(sqlite_url: str, declared: str, kind: str) -> None:
    assert column_of(sqlite_url, declared).kind == kind


def test_a_custom_collation_of_sqlites_whose_name_begins_like_binary_is_another(sqlite_url: str) -> None:
    for number, name in enumerate(("binary_ci", '"binary ci"', "binary€", "binary$")):
        engine = create_engine(sqlite_url, poolclass=NullPool)
        with engine.connect() as connection:
            raw: Any = connection.connection.dbapi_connection
            raw.create_collation(name.strip('"'), lambda one, other: 0)
            raw.execute(f"CREATE TABLE told{number} (name TEXT COLLATE {name})")
            assert survey_of(engine.dialect, raw).kind_of_column(("main", f"told{number}"), "name") == "", name


@pytest.mark.parametrize(
    ("declared", "kind"),
    [
        ("smallint", "int"),
        ("integer", "int"),
        ("bigserial", "int"),
        ("integer GENERATED ALWAYS AS IDENTITY", "int"),
        ("boolean", "int"),
        ("uuid", "uuid"),
        ("char(32)", "uuid"),
        ("text", "text"),
        ("varchar(5)", "text"),
        ('varchar(5) COLLATE "C"', "text"),
        ("varchar(5) COLLATE folding", ""),
        ("char(32) COLLATE folding", ""),
        ("char(5)", ""),
        ("numeric", ""),
        ("double precision", ""),
        ("integer[]", ""),
        ("citext", ""),
        ("wrapped", ""),
        ('"Name"', ""),
    ],
)
def test_postgresql_goes_by_its_own_types_and_deterministic_collations(
    postgresql_url: str, declared: str, kind: str
) -> None:
    before = (
        "CREATE EXTENSION citext",
        "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE DOMAIN wrapped AS integer",
        'CREATE DOMAIN "Name" AS text',
    )
    assert column_of(postgresql_url, declared, *before).kind == kind


@pytest.mark.parametrize(
    ("declared", "kind", "low", "high"),
    [
        ("TINYINT(1)", "int", -128, 127),
        ("SMALLINT UNSIGNED", "int", 0, 65535),
        ("MEDIUMINT", "int", -(2**23), 2**23 - 1),
        ("INTEGER ZEROFILL", "int", 0, 2**32 - 1),
        ("BIGINT", "int", -(2**63), 2**63 - 1),
        ("DECIMAL(10)", "", None, None),
        ("DOUBLE", "", None, None),
        ("UUID", "uuid", None, None),
        ("CHAR(32)", "uuid", None, None),
        ("CHAR(31)", "", None, None),
        ("VARCHAR(32)", "", None, None),
        ("VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", "text", None, 50),
        ("TINYTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", "text", None, 63),
        ("VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin", "", None, None),
        ("VARCHAR(50) CHARACTER SET utf8mb3 COLLATE utf8mb3_nopad_bin", "", None, None),
        ("CHAR(5) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", "", None, None),
        ("ENUM('a') CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", "", None, None),
    ],
)
def test_mariadb_goes_by_type_collation_and_room(
    mariadb_url: str, declared: str, kind: str, low: int | None, high: int | None
) -> None:
    said = column_of(mariadb_url, declared)
    assert (said.kind, said.low, said.high) == (kind, low, high)


def test_mariadb_tells_where_a_value_of_its_own_replaces_null_and_zero(mariadb_url: str) -> None:
    said = column_of(mariadb_url, "INTEGER NOT NULL")
    assert (said.replaces_null, said.replaces_zero) == (True, False)
    run(create_engine(mariadb_url, poolclass=NullPool), "DROP TABLE Told")
    said = column_of(mariadb_url, "INTEGER AUTO_INCREMENT UNIQUE")
    assert (said.replaces_null, said.replaces_zero) == (True, True)
    run(create_engine(mariadb_url, poolclass=NullPool), "DROP TABLE Told")
    said = column_of(mariadb_url, "INTEGER")
    assert (said.replaces_null, said.replaces_zero) == (False, False)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_generated_columns_are_told(request: pytest.FixtureRequest, kind: str) -> None:
    url = request.getfixturevalue(f"{kind}_url")
    assert column_of(url, "integer GENERATED ALWAYS AS (base + 1) STORED, base integer").is_computed
    survey = survey_after(url)
    name = told_in(url)
    base = survey.column(name, "base")
    assert base is not None
    assert not base.is_computed
    assert (survey.kind_of_column(name, "BASE"), survey.kind_of_column(name, "other")) == ("int", "")


def test_two_columns_whose_names_differ_in_case_only_are_not_known(postgresql_url: str) -> None:
    survey = survey_after(postgresql_url, 'CREATE TABLE told (name text, "Name" text)')
    assert survey.kind_of_column(("public", "told"), "name") == ""
