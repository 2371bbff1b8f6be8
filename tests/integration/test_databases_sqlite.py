"""What a real SQLite says about itself and its schema."""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool, StaticPool

from querycache.databases import Profile, Survey, profile_of, survey_of


@pytest.fixture
def surveyed(tmp_path: Path) -> Iterator[Callable[..., Survey]]:
    engine = create_engine(f"sqlite:///{tmp_path / 'surveyed.db'}", poolclass=NullPool)

    def survey(*statements: str) -> Survey:
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
            connection.commit()
            return survey_of(engine.dialect, raw(connection))

    yield survey
    engine.dispose()


def raw(connection: Connection) -> Any:
    return connection.connection.dbapi_connection


def profile_in(engine: Engine) -> Profile:
    with engine.connect() as connection:
        return profile_of(engine.dialect, raw(connection), pool=engine.pool)


def profile(url: str, **settings: Any) -> Profile:
    engine = create_engine(url, **settings)
    try:
        return profile_in(engine)
    finally:
        engine.dispose()


def wait_for_the_next_tick(directory: Path, since: str | None) -> None:
    """Make files until the filesystem gives one another time of birth than the database had."""
    born = str(since).rpartition(":")[2]
    while True:
        scratch = directory / f"tick-{secrets.token_hex(4)}.db"
        sqlite3.connect(scratch).close()
        seen = str(profile(f"sqlite:///{scratch}").identity).rpartition(":")[2]
        scratch.unlink()
        if seen != born:
            return


def test_one_file_has_one_identity_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    path = tmp_path / "a.db"
    sqlite3.connect(path).close()
    (tmp_path / "link.db").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    seen = {
        profile(f"sqlite:///{path}").identity,
        profile("sqlite:///a.db").identity,
        profile(f"sqlite:///{tmp_path}/sub/../a.db").identity,
        profile("sqlite:///link.db").identity,
        profile(f"sqlite:///file:{path}?mode=rw&uri=true").identity,
        profile("sqlite://", creator=lambda: sqlite3.connect(path), poolclass=NullPool).identity,
    }
    (identity,) = seen
    assert identity is not None


def test_writing_to_a_file_does_not_change_its_identity(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    before = profile(url).identity
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (a)")
    connection.close()
    assert profile(url).identity == before


def test_two_files_have_two_identities(tmp_path: Path) -> None:
    assert profile(f"sqlite:///{tmp_path / 'a.db'}").identity != profile(f"sqlite:///{tmp_path / 'b.db'}").identity


def test_a_file_removed_and_made_again_is_another_even_when_it_gets_the_same_inode(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    first = profile(f"sqlite:///{path}").identity
    wait_for_the_next_tick(tmp_path, first)
    path.unlink()
    second = profile(f"sqlite:///{path}").identity
    assert first is not None
    assert second is not None
    assert first != second


def test_a_file_that_another_replaced_under_its_name_is_another(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    first = profile(f"sqlite:///{path}").identity
    sqlite3.connect(tmp_path / "new.db").close()
    os.replace(tmp_path / "new.db", path)
    assert profile(f"sqlite:///{path}").identity != first


def test_asking_a_files_identity_keeps_the_locks_of_this_process(tmp_path: Path) -> None:
    """Any handle of the file that were opened and closed would drop them: another connection could then write."""
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}", poolclass=NullPool)
    holder = sqlite3.connect(tmp_path / "a.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    profile_in(engine)
    attempt = f"import sqlite3; sqlite3.connect({str(tmp_path / 'a.db')!r}, timeout=0).execute('BEGIN IMMEDIATE')"
    other_process = subprocess.run([sys.executable, "-c", attempt], capture_output=True, text=True, check=False)
    assert "database is locked" in other_process.stderr
    holder.close()
    engine.dispose()


@pytest.mark.parametrize("parameters", ["immutable=1", "nolock=1", "vfs=unix-none"])
def test_a_file_opened_so_that_others_writes_are_not_seen_has_no_identity(tmp_path: Path, parameters: str) -> None:
    sqlite3.connect(tmp_path / "a.db").close()
    said = profile(f"sqlite:///file:{tmp_path}/a.db?{parameters}&uri=true")
    assert said.identity is None
    assert "name the bind" in said.why_not


def test_two_databases_in_memory_have_two_identities() -> None:
    first, second = profile("sqlite://"), profile("sqlite://")
    assert first.scope == second.scope == "connection"
    assert first.identity is not None
    assert first.identity != second.identity


@pytest.mark.parametrize("pool", [StaticPool, SingletonThreadPool, QueuePool])
def test_a_connection_to_memory_keeps_its_identity(pool: Any) -> None:
    engine = create_engine("sqlite://", poolclass=pool)
    first = profile_in(engine)
    assert first.identity is not None
    assert first == profile_in(engine)
    engine.dispose()


def test_each_connection_to_memory_of_one_pool_is_a_database_of_its_own() -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool)
    with engine.connect() as one, engine.connect() as other:
        seen = {profile_of(engine.dialect, raw(each), pool=engine.pool).identity for each in (one, other)}
    assert len(seen) == 2
    engine.dispose()


def test_memory_without_a_pool_that_keeps_it_has_no_identity() -> None:
    said = profile("sqlite://", poolclass=NullPool)
    assert said.identity is None
    assert "NullPool" in said.why_not


def _shared() -> Any:
    return sqlite3.connect("file:shared?mode=memory&cache=shared", uri=True, check_same_thread=False)


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("sqlite:///file:shared?mode=memory&cache=shared&uri=true", {"poolclass": QueuePool}),
        ("sqlite:///file::memory:?cache=shared&uri=true", {}),
        ("sqlite://", {"creator": _shared}),
        ("sqlite://", {"poolclass": StaticPool, "creator": _shared}),
        ("sqlite://", {"pool": SingletonThreadPool(_shared)}),
    ],
    ids=["named", "unnamed", "creator", "static pool", "pool"],
)
def test_memory_that_other_connections_may_share_has_no_identity(url: str, settings: dict[str, Any]) -> None:
    said = profile(url, **settings)
    assert said.identity is None
    assert "name the bind" in said.why_not


def test_memory_that_a_do_connect_listener_may_have_opened_has_no_identity() -> None:
    engine = create_engine("sqlite://")
    event.listen(engine, "do_connect", lambda *_: _shared())
    assert profile_in(engine).identity is None
    engine.dispose()


def test_an_sqlite_that_cannot_list_its_functions_has_no_identity_and_no_tables(
    tmp_path: Path,
) -> None:
    old = create_engine("sqlite://").dialect
    old.dbapi = SimpleNamespace(sqlite_version_info=(3, 26, 0))  # type: ignore[assignment]  # no other part is asked for
    connection: Any = sqlite3.connect(tmp_path / "a.db")
    connection.execute("CREATE TABLE t (a)")
    assert profile_of(old, connection).identity is None
    assert not survey_of(old, connection).tables
    connection.close()


def test_the_profile_tells_level_and_schema(tmp_path: Path) -> None:
    said = profile(f"sqlite:///{tmp_path / 'a.db'}")
    assert (said.isolation, said.default_schema, said.scope) == ("SERIALIZABLE", "main", "shared")
    assert (said.incarnation, said.is_replica) == ("", False)
    assert profile(f"sqlite:///{tmp_path / 'a.db'}", isolation_level="READ UNCOMMITTED").isolation == "READ UNCOMMITTED"


def test_neither_question_leaves_a_transaction_or_a_change_behind(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.connect() as connection:
        before = raw(connection).total_changes
        profile_of(engine.dialect, raw(connection), pool=engine.pool)
        survey_of(engine.dialect, raw(connection))
        assert not raw(connection).in_transaction
        assert raw(connection).total_changes == before
    engine.dispose()


def test_an_ordinary_table_is_plain_and_its_writes_are_known(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed(
        "CREATE TABLE Plain (id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT UNIQUE)",
        "CREATE TABLE bare (id TEXT PRIMARY KEY) WITHOUT ROWID",
    )
    for name in ("plain", "bare"):
        assert survey.why_not_plain(("main", name)) is None
        assert survey.writes_are_known(("main", name))


@pytest.mark.parametrize("name", ["sqlite_master", "sqlite_schema", "sqlite_sequence"])
def test_a_table_of_sqlites_own_is_not_plain(surveyed: Callable[..., Survey], name: str) -> None:
    survey = surveyed("CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT)")
    assert not survey.plain(("main", name))


def test_a_view_is_not_plain_nor_are_its_writes_known(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed("CREATE TABLE t (id)", "CREATE VIEW v AS SELECT * FROM t")
    assert survey.why_not_plain(("main", "v")) == "is a view"
    assert not survey.writes_are_known(("main", "v"))


def test_a_virtual_table_and_its_shadows_are_not_plain(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed("CREATE VIRTUAL TABLE Words USING fts5(body)", "CREATE TABLE wordsmiths (id)")
    assert survey.why_not_plain(("main", "words")) == "is a virtual table"
    assert not survey.writes_are_known(("main", "words"))
    assert survey.why_not_plain(("main", "words_content")) == "is a shadow table"
    assert survey.plain(("main", "wordsmiths"))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM other; END",
        "CREATE TEMP TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END",
        "CREATE TEMP TRIGGER g AFTER INSERT ON main.T BEGIN SELECT 1; END",
    ],
    ids=["trigger", "temporary", "qualified"],
)
def test_a_trigger_makes_writes_unknown(surveyed: Callable[..., Survey], statement: str) -> None:
    survey = surveyed("CREATE TABLE t (id)", "CREATE TABLE other (id)", statement)
    assert survey.plain(("main", "t"))
    assert not survey.writes_are_known(("main", "t"))
    assert survey.writes_are_known(("main", "other"))


@pytest.mark.parametrize("clause", ["ON CONFLICT REPLACE", "on /* or */ conflict\n replace"])
def test_a_constraint_that_replaces_rows_makes_writes_unknown(surveyed: Callable[..., Survey], clause: str) -> None:
    survey = surveyed(f"CREATE TABLE t (id INTEGER PRIMARY KEY, code TEXT UNIQUE {clause})")
    assert not survey.writes_are_known(("main", "t"))


@pytest.mark.parametrize("enforced", ["ON", "OFF"])
def test_cascades_are_followed_whether_they_are_enforced_now_or_not(
    surveyed: Callable[..., Survey], enforced: str
) -> None:
    survey = surveyed(
        f"PRAGMA foreign_keys = {enforced}",
        "CREATE TABLE A (id INTEGER PRIMARY KEY, code UNIQUE, up REFERENCES a ON DELETE CASCADE)",
        "CREATE TABLE b (id INTEGER PRIMARY KEY, a_id UNIQUE REFERENCES a ON DELETE SET NULL)",
        "CREATE TABLE c (a_id REFERENCES B (A_ID) ON UPDATE CASCADE)",
        "CREATE TABLE d (a_code REFERENCES a (code) ON UPDATE SET DEFAULT)",
        "CREATE TABLE e (a_id REFERENCES a (id))",
    )
    assert survey.reached_by_delete(("main", "a")) == {("main", name) for name in "abc"}
    assert survey.reached_by_update(("main", "a"), ["Code"]) == {("main", "d")}
    assert survey.reached_by_update(("main", "a"), ["up"]) == frozenset()
    assert survey.writes_are_known(("main", "a"))


def test_a_key_that_names_no_columns_refers_to_the_primary_key(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed(
        "CREATE TABLE a (x, y, z, PRIMARY KEY (x, y))",
        "CREATE TABLE b (p, q, FOREIGN KEY (p, q) REFERENCES a ON UPDATE CASCADE)",
    )
    for column, reached in (("x", {("main", "b")}), ("y", {("main", "b")}), ("z", set())):
        assert survey.reached_by_update(("main", "a"), [column]) == reached


def test_a_key_on_a_table_that_does_not_exist_yet_is_followed(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed("CREATE TABLE b (a_id REFERENCES a ON UPDATE CASCADE ON DELETE CASCADE)")
    assert survey.reached_by_delete(("main", "a")) == {("main", "b")}
    assert survey.reached_by_update(("main", "a"), ["id"]) == {("main", "b")}


def test_a_referenced_generated_column_changes_with_any_update(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed(
        "CREATE TABLE a (x, g UNIQUE GENERATED ALWAYS AS (x * 2) STORED)",
        "CREATE TABLE b (g REFERENCES a (g) ON UPDATE CASCADE)",
    )
    assert survey.reached_by_update(("main", "a"), ["x"]) == {("main", "b")}


def test_a_temporary_table_or_view_hides_a_table_of_its_name(surveyed: Callable[..., Survey]) -> None:
    survey = surveyed(
        "CREATE TABLE t (id)",
        "CREATE TABLE u (id)",
        "CREATE TABLE o (id)",
        "CREATE TEMP TABLE T (id)",
        "CREATE TEMP VIEW u AS SELECT 1",
    )
    for name in ("t", "u"):
        assert survey.why_not_plain(("main", name)) == "is hidden by a temporary table of the same name"
        assert not survey.writes_are_known(("main", name))
    assert survey.plain(("main", "o"))


def test_tables_of_an_attached_database_are_not_plain(surveyed: Callable[..., Survey], tmp_path: Path) -> None:
    survey = surveyed(
        "CREATE TABLE t (id)",
        f'ATTACH \'{tmp_path / "other.db"}\' AS "Other ""one"',
        'CREATE TABLE "Other ""one".t (id)',
        'CREATE TABLE "Other ""one".u (id)',
    )
    assert survey.why_not_plain(('other "one', "u")) == "belongs to an attached database"
    assert not survey.writes_are_known(('other "one', "t"))
    assert not survey.plain(("main", "u"))
    assert survey.plain(("main", "t"))


def test_the_identity_of_a_connection_with_attached_databases_is_that_of_its_main_one(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}", poolclass=NullPool)
    alone = profile_in(engine)
    event.listen(engine, "connect", lambda connection, _: connection.execute(f"ATTACH '{tmp_path / 'b.db'}' AS b"))
    assert profile_in(engine) == alone
    engine.dispose()


def test_functions_registered_on_the_connection_are_known() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        raw(connection).create_function("Pay", 1, lambda amount: amount)
        profile_of(engine.dialect, raw(connection), pool=engine.pool)
        survey = survey_of(engine.dialect, raw(connection))
    assert survey.is_user_function("pay")
    for name in ("lower", "count", "regexp", "bm25", "querycache_identity"):
        assert not survey.is_user_function(name)
    engine.dispose()
