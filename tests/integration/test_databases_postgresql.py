"""What a real PostgreSQL says about itself and its catalog."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from querycache.coherence.declared import Declared, declared_of
from querycache.coherence.relations import Relations
from querycache.databases import Profile, Survey, autocommit_of, in_transaction_of, profile_of, survey_of


@pytest.fixture
def engine(postgresql_url: str) -> Iterator[Engine]:
    engine = create_engine(postgresql_url, poolclass=NullPool)
    yield engine
    engine.dispose()


@pytest.fixture
def schema(engine: Engine) -> Iterator[str]:
    name = f"survey_{secrets.token_hex(4)}"
    run(engine, f"CREATE SCHEMA {name}")
    yield name
    run(engine, f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def surveyed(engine: Engine, schema: str) -> Callable[..., Survey]:
    def survey(*statements: str) -> Survey:
        with engine.begin() as connection:
            connection.execute(text(f"SET LOCAL search_path TO {schema}"))
            for statement in statements:
                connection.exec_driver_sql(statement)
        with engine.connect() as connection:
            return survey_of(engine.dialect, raw(connection))

    return survey


def raw(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def run(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def profile(url: Any, **settings: Any) -> Profile:
    engine = create_engine(url, poolclass=NullPool, **settings)
    try:
        with engine.connect() as connection:
            return profile_of(engine.dialect, raw(connection), pool=engine.pool)
    finally:
        engine.dispose()


def test_one_database_has_one_identity_by_any_url_and_as_any_user(engine: Engine, postgresql_url: str) -> None:
    role = f"survey_{secrets.token_hex(4)}"
    with engine.connect() as connection:
        directory = connection.exec_driver_sql("SHOW unix_socket_directories").scalar_one().split(",")[0].strip()
        port = connection.exec_driver_sql("SHOW port").scalar_one()
    url = make_url(postgresql_url)
    by_socket = url.set(query={"host": directory, "port": port})
    run(engine, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        seen = {
            profile(url).identity,
            profile(url.set(username=role, password="secret")).identity,
            profile(url.update_query_dict({"application_name": "other"})).identity,
        }
        with suppress(OperationalError):  # a server elsewhere, or one that wants the system's user there
            seen.add(profile(by_socket).identity)
    finally:
        run(engine, f"DROP ROLE {role}")
    (identity,) = seen
    assert identity is not None


def test_two_databases_of_one_server_have_two_identities(postgresql_url: str) -> None:
    url = make_url(postgresql_url)
    assert profile(url).identity != profile(url.set(database="postgres")).identity


def test_the_incarnation_is_the_same_for_every_connection_and_time_zone(postgresql_url: str) -> None:
    abroad = {"options": "-c timezone=Asia/Tokyo -c datestyle=SQL,DMY"}
    first = profile(postgresql_url)
    assert first.incarnation
    assert first.incarnation == profile(postgresql_url, connect_args=abroad).incarnation


def test_the_profile_tells_level_schema_and_role(postgresql_url: str) -> None:
    said = profile(postgresql_url)
    assert (said.isolation, said.default_schema, said.is_replica) == ("READ COMMITTED", "public", False)
    assert (said.scope, said.why_not) == ("shared", "")


def test_isolation_and_schema_are_those_of_the_connection_not_of_the_url(postgresql_url: str, schema: str) -> None:
    options = f"-c default_transaction_isolation=serializable -c search_path={schema}"
    said = profile(postgresql_url, connect_args={"options": options})
    assert (said.isolation, said.default_schema) == ("SERIALIZABLE", schema)


def test_a_connection_without_a_schema_has_an_empty_default_schema(postgresql_url: str) -> None:
    assert profile(postgresql_url, connect_args={"options": "-c search_path="}).default_schema == ""


def test_a_server_that_refuses_to_say_who_it_is_has_no_identity_but_the_rest_is_told(engine: Engine) -> None:
    """The right is taken away inside a transaction that is rolled back at once: nobody else sees it."""
    with engine.connect() as connection:
        raw_connection = raw(connection)
        role = f"survey_{secrets.token_hex(4)}"
        cursor = raw_connection.cursor()
        cursor.execute(f"CREATE ROLE {role}")
        cursor.execute("REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC")
        cursor.execute(f"SET ROLE {role}")
        said = profile_of(engine.dialect, raw_connection)
    assert said.identity is None
    assert "name the bind" in said.why_not
    assert said.incarnation == ""
    assert (said.isolation, said.default_schema) == ("READ COMMITTED", "public")


def test_autocommit_is_the_drivers_whoever_set_it(postgresql_url: str) -> None:
    for settings in ({"connect_args": {"autocommit": True}}, {"isolation_level": "AUTOCOMMIT"}):
        engine = create_engine(postgresql_url, poolclass=NullPool, **settings)
        with engine.connect() as connection:
            assert autocommit_of(engine.dialect, raw(connection))
        engine.dispose()


def test_a_transaction_is_seen_from_its_first_statement_to_its_end(engine: Engine) -> None:
    with engine.connect() as connection:
        assert not autocommit_of(engine.dialect, raw(connection))
        assert in_transaction_of(engine.dialect, raw(connection)) is False
        connection.execute(text("SELECT 1"))
        assert in_transaction_of(engine.dialect, raw(connection)) is True
        connection.rollback()
        assert in_transaction_of(engine.dialect, raw(connection)) is False


def test_begin_by_text_on_an_autocommit_connection_is_no_autocommit(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN")
        assert not autocommit_of(engine.dialect, raw(connection))
        connection.exec_driver_sql("ROLLBACK")
        assert autocommit_of(engine.dialect, raw(connection))


def test_an_ordinary_table_is_plain_and_its_writes_are_known(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed(
        "CREATE TABLE t (id serial PRIMARY KEY, code text UNIQUE, n int DEFAULT 1, at timestamptz DEFAULT now())",
        "CREATE UNLOGGED TABLE u (t_id int REFERENCES t (id) DEFERRABLE INITIALLY DEFERRED)",
    )
    for name in ("t", "u"):
        assert survey.why_not_plain((schema, name)) is None
        assert survey.writes_are_known((schema, name))


def test_a_system_table_is_not_plain(surveyed: Callable[..., Survey]) -> None:
    assert not surveyed().plain(("pg_catalog", "pg_class"))


@pytest.mark.parametrize(
    ("statements", "kind"),
    [
        (["CREATE VIEW x AS SELECT * FROM t"], "view"),
        (["CREATE MATERIALIZED VIEW x AS SELECT * FROM t"], "materialized view"),
        (["CREATE TABLE x (id int) PARTITION BY RANGE (id)"], "partitioned table"),
        (
            [
                "CREATE TABLE y (id int) PARTITION BY RANGE (id)",
                "CREATE TABLE x PARTITION OF y FOR VALUES FROM (1) TO (9)",
            ],
            "partition",
        ),
        (
            [
                "CREATE FOREIGN DATA WRAPPER {schema}_w",
                "CREATE SERVER {schema}_s FOREIGN DATA WRAPPER {schema}_w",
                "CREATE FOREIGN TABLE x (id int) SERVER {schema}_s",
            ],
            "foreign table",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_ordinary_table_is_not_plain_nor_are_its_writes_known(
    surveyed: Callable[..., Survey], engine: Engine, schema: str, statements: list[str], kind: str
) -> None:
    try:
        survey = surveyed("CREATE TABLE t (id int)", *(one.format(schema=schema) for one in statements))
    finally:
        run(engine, f"DROP FOREIGN DATA WRAPPER IF EXISTS {schema}_w CASCADE")
    assert survey.why_not_plain((schema, "x")) == f"is a {kind}"
    assert not survey.writes_are_known((schema, "x"))


def test_parents_and_children_of_inheritance_are_not_plain(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed("CREATE TABLE p (id int)", "CREATE TABLE c () INHERITS (p)", "CREATE TABLE o (id int)")
    for name in ("p", "c"):
        assert not survey.plain((schema, name))
        assert not survey.writes_are_known((schema, name))
    assert survey.plain((schema, "o"))


def test_row_level_security_is_not_plain(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed("CREATE TABLE t (id int)", "ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    assert "row-level security" in str(behind(survey, (schema, "t")))
    assert behind(survey, (schema, "t"), Declared(tells_who_asks=True)) == {(schema, "t")}


POLICIES = {
    "tenant = current_setting('app.tenant')": {"t"},
    "tenant = any (string_to_array(nullif(current_setting('app.tenants', true), ''), ','))": {"t"},
    "tenant = current_user or session_user = 'root' or pg_has_role(current_user, 'pg_monitor', 'member')": {"t"},
    "tenant in (select m.tenant from member m where m.id = current_setting('app.user')::int)": {"t", "member"},
    "exists (with mine as (select tenant from member) select 1 from mine join other using (tenant))": {
        *("t", "member", "other"),
    },
    "promised() = tenant": {"t"},
    "id > random()": None,
    "now() > '2020-01-01'": None,
    "current_date > '2020-01-01'": None,
    "tenant::date > '2020-01-01'": None,
    "unknown() = tenant": None,
    "tenant in (select relname from pg_class)": None,
    "tenant in (select tenant from member tablesample system (10))": None,
    "tenant in (select tenant from parts)": None,
}


@pytest.mark.parametrize("condition", POLICIES)
def test_what_the_policies_of_a_table_read_is_known_or_it_is_not_cached(
    surveyed: Callable[..., Survey], schema: str, condition: str
) -> None:
    function = "CREATE FUNCTION {}() RETURNS text STABLE LANGUAGE sql AS 'SELECT current_setting(''a.b'')'"
    survey = surveyed(
        "CREATE TABLE t (id int, tenant text)",
        "CREATE TABLE member (id int, tenant text)",
        "CREATE TABLE other (tenant text)",
        "CREATE TABLE parts (tenant text) PARTITION BY LIST (tenant)",
        *(function.format(name) for name in ("promised", "unknown")),
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        f"CREATE POLICY p ON t USING ({condition})",
    )
    expected = POLICIES[condition]
    found = behind(survey, (schema, "t"), declared_of(None, ["promised"], tells_who_asks=True))
    if expected is None:
        assert isinstance(found, str)
        assert "has row-level security by a policy that" in found
    else:
        assert found == {(schema, name) for name in expected}


def behind(survey: Survey, name: tuple[str, str], declared: Declared | None = None) -> Any:
    return Relations(survey, declared or Declared(), "postgresql", "public").behind(name)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE CONSTRAINT TRIGGER g AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f()",
        "CREATE RULE r AS ON UPDATE TO t DO ALSO DELETE FROM other",
        "ALTER TABLE t ALTER id SET DEFAULT counted()",
    ],
    ids=["trigger", "constraint trigger", "rule", "default"],
)
def test_code_that_a_write_runs_makes_writes_unknown(
    surveyed: Callable[..., Survey], schema: str, statement: str
) -> None:
    survey = surveyed(
        "CREATE TABLE t (id int)",
        "CREATE TABLE other (id int)",
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE FUNCTION counted() RETURNS int LANGUAGE sql AS 'INSERT INTO other VALUES (1) RETURNING 1'",
        statement,
    )
    assert survey.plain((schema, "t"))
    assert not survey.writes_are_known((schema, "t"))
    assert survey.writes_are_known((schema, "other"))


def test_cascades_are_followed_over_chain_self_reference_set_null_and_update(
    surveyed: Callable[..., Survey], schema: str
) -> None:
    survey = surveyed(
        "CREATE TABLE a (id int PRIMARY KEY, code int UNIQUE, up int REFERENCES a (id) ON DELETE CASCADE)",
        "CREATE TABLE b (id int PRIMARY KEY, a_id int UNIQUE REFERENCES a (id) ON DELETE SET NULL)",
        "CREATE TABLE c (a_id int REFERENCES b (a_id) ON UPDATE CASCADE)",
        "CREATE TABLE d (a_code int REFERENCES a (code) ON UPDATE SET DEFAULT)",
        "CREATE TABLE e (a_id int REFERENCES a (id))",
    )
    assert survey.reached_by_delete((schema, "a")) == {(schema, name) for name in "abc"}
    assert survey.reached_by_update((schema, "a"), ["code"]) == {(schema, "d")}
    assert survey.reached_by_update((schema, "a"), ["up"]) == frozenset()
    assert survey.writes_are_known((schema, "a"))


def test_a_key_of_several_columns_is_followed_from_each(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed(
        "CREATE TABLE a (x int, y int, z int, PRIMARY KEY (x, y))",
        "CREATE TABLE b (p int, q int, FOREIGN KEY (p, q) REFERENCES a (x, y) ON UPDATE CASCADE)",
    )
    for column, reached in (("x", {(schema, "b")}), ("y", {(schema, "b")}), ("z", set())):
        assert survey.reached_by_update((schema, "a"), [column]) == reached


def test_a_referenced_generated_column_changes_with_any_update(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed(
        "CREATE TABLE a (x int, g int GENERATED ALWAYS AS (x * 2) STORED UNIQUE)",
        "CREATE TABLE b (g int REFERENCES a (g) ON UPDATE CASCADE)",
    )
    assert survey.reached_by_update((schema, "a"), ["x"]) == {(schema, "b")}


def test_a_cascade_into_a_partitioned_table_makes_writes_unknown(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed(
        "CREATE TABLE a (id int PRIMARY KEY)",
        "CREATE TABLE m (a_id int REFERENCES a (id) ON DELETE CASCADE) PARTITION BY LIST (a_id)",
        "CREATE TABLE m1 PARTITION OF m DEFAULT",
    )
    assert {(schema, "m"), (schema, "m1")} <= survey.reached_by_delete((schema, "a"))
    assert not survey.writes_are_known((schema, "a"))


def test_a_temporary_table_hides_a_table_of_its_name(
    surveyed: Callable[..., Survey], engine: Engine, schema: str
) -> None:
    surveyed("CREATE TABLE t (id int)", "CREATE TABLE u (id int)")
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TEMP TABLE t (id int)")
        survey = survey_of(engine.dialect, raw(connection))
    assert survey.why_not_plain((schema, "t")) == "is hidden by a temporary table of the same name"
    assert survey.plain((schema, "u"))


def test_names_that_differ_in_case_only_are_not_plain(surveyed: Callable[..., Survey], schema: str) -> None:
    survey = surveyed('CREATE TABLE "User" (id int)', 'CREATE TABLE "user" (id int)', 'CREATE TABLE "Odd.N" (id int)')
    assert not survey.plain((schema, "user"))
    assert survey.plain((schema, "odd.n"))


def test_functions_and_procedures_of_users_are_known(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed(
        "CREATE FUNCTION pay(int) RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE PROCEDURE \"Move\"() LANGUAGE sql AS 'SELECT 1'",
    )
    assert survey.is_user_function("pay")
    assert survey.is_user_function("move")
    assert not survey.is_user_function("lower")
    assert not survey.is_user_function("pg_sleep")


def test_an_overload_of_a_users_is_a_user_function(surveyed: Callable[..., Survey]) -> None:
    assert surveyed("CREATE FUNCTION upper(int) RETURNS int LANGUAGE sql AS 'SELECT 1'").is_user_function("upper")


def test_pure_functions_of_an_extension_do_not_take_the_names_of_the_systems(
    surveyed: Callable[..., Survey], schema: str
) -> None:
    survey = surveyed(f"CREATE EXTENSION citext SCHEMA {schema}", f"CREATE EXTENSION dblink SCHEMA {schema}")
    assert not survey.is_user_function("max")
    assert not survey.is_user_function("replace")
    assert survey.is_user_function("dblink_exec")
