"""A text is known to do something, or it is unknown; it is never taken for less than it does."""

from __future__ import annotations

import logging
import sqlite3
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from querycache.statements.rawsql import MAX_LENGTH, TextEffect, effect_of_text
from querycache.statements.rawtext import clean_text

POSTGRESQL, SQLITE, MYSQL, MARIADB = "postgresql", "sqlite", "mysql", "mariadb"
EVERY = (POSTGRESQL, SQLITE, MYSQL, MARIADB)


def names(text: str) -> frozenset[tuple[str | None, str]]:
    """Return the table names in "a s.b", schemas before the dot."""
    return frozenset((name.rpartition(".")[0] or None, name.rpartition(".")[2]) for name in text.split())


def check(sql: str, dialect: str, kind: str, reads: str = "", writes: str = "") -> TextEffect:
    effect = effect_of_text(sql, dialect)
    assert (effect.kind, effect.reads, effect.writes) == (kind, names(reads), names(writes))
    return effect


# -- reads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", EVERY)
@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("SELECT 1", ""),
        ("select * from Orders", "orders"),
        ("SELECT * FROM s.t;", "s.t"),
        ("  -- why\n SELECT /* what */ a FROM t -- end", "t"),
        ("(SELECT a FROM t)", "t"),
        ("SELECT a FROM t UNION SELECT a FROM u ORDER BY 1 LIMIT 2 OFFSET 3", "t u"),
        ("SELECT * FROM t JOIN u ON t.a = u.a LEFT JOIN v USING (b), w", "t u v w"),
        ("SELECT * FROM (SELECT * FROM t) x WHERE EXISTS (SELECT 1 FROM u WHERE u.a = x.a)", "t u"),
        ("SELECT (SELECT max(b) FROM u), CASE WHEN a IN (SELECT a FROM v) THEN 1 END FROM t", "t u v"),
        ("SELECT 'DELETE FROM x; --' FROM t WHERE b = 'it''s' AND c <> ''", "t"),
        ("WITH x AS (SELECT * FROM t) SELECT * FROM x", "t"),
        ("SELECT * FROM t WHERE a = :a AND b IN (:b_1, :b_2) LIMIT :n", "t"),
        ("SELECT * FROM t WHERE a IN :ids", "t"),
    ],
)
def test_a_query_reads_its_tables(sql: str, reads: str, dialect: str) -> None:
    check(sql, dialect, "read", reads)


@pytest.mark.parametrize(
    ("dialect", "sql", "reads"),
    [
        (POSTGRESQL, 'SELECT * FROM "My"."Table"', "my.table"),
        (POSTGRESQL, "SELECT a::int, $$;'$$, $x$ ' $$ $x$, E'a\\'b', :b::int FROM t", "t"),
        (POSTGRESQL, "SELECT * FROM t WHERE a = %s AND b = %(b)s AND c %% 2 = 1 AND d LIKE '%%s'", "t"),
        (POSTGRESQL, "SELECT * FROM t WHERE a = $1 AND b @> ARRAY[1] AND c ? 'd' AND e ->> 'f' = 'g'", "t"),
        (POSTGRESQL, "VALUES (1), (2)", ""),
        (POSTGRESQL, "TABLE t", "t"),
        (POSTGRESQL, "SELECT * FROM ONLY t, LATERAL (SELECT * FROM u WHERE u.a = t.a) x, generate_series(1, 2)", "t u"),
        (POSTGRESQL, "SELECT a[1:2], ARRAY(SELECT b FROM u) FROM t", "t u"),
        (SQLITE, 'SELECT * FROM [My Table], `u`, "v" WHERE a = ?1 AND b = @b AND c = $c AND d = :d', "u v"),
        (POSTGRESQL, "SELECT * FROM t AS x FOR UPDATE OF x", "t"),
        (SQLITE, "SELECT a '-', b AS 'x' FROM t INDEXED BY i", "t"),
        (MARIADB, "SELECT \"a;b\" AS 'x', `c``d` FROM `db`.`t` # end", "db.t"),
        (MYSQL, "SELECT 1 FROM DUAL", ""),
        (MYSQL, "SELECT a FROM t FORCE INDEX (i) STRAIGHT_JOIN u", "t u"),
        (MYSQL, "SELECT a -- b\n FROM t", "t"),
    ],
)
def test_a_query_in_its_databases_own_words_reads_its_tables(dialect: str, sql: str, reads: str) -> None:
    effect = effect_of_text(sql, dialect)
    assert effect.kind == "read"
    assert effect.reads >= names(reads)
    assert len(effect.reads) == len(names(reads)) + ("[My Table]" in sql)


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (POSTGRESQL, "SELECT * FROM t JOIN u ON true FOR NO KEY UPDATE OF t SKIP LOCKED"),
        (MARIADB, "SELECT * FROM t, u LOCK IN SHARE MODE"),
        (MYSQL, "SELECT * FROM t WHERE a = (SELECT a FROM u FOR UPDATE)"),
    ],
)
def test_a_read_that_locks_says_so(dialect: str, sql: str) -> None:
    assert check(sql, dialect, "read", "t u").locks


def test_a_plain_read_locks_nothing() -> None:
    assert not check("SELECT * FROM t", MARIADB, "read", "t").locks


@pytest.mark.parametrize(
    ("sql", "reads"),
    [
        ("WITH t AS (SELECT 1) SELECT * FROM t", ""),
        ("WITH t AS (SELECT * FROM t) SELECT * FROM t", "t"),
        ("WITH RECURSIVE t AS (SELECT 1 UNION ALL SELECT * FROM t) SELECT * FROM t", ""),
        ("WITH u AS (SELECT * FROM t), t AS (SELECT 1) SELECT * FROM u, t", "t"),
        ("WITH t AS (SELECT 1), u AS (SELECT * FROM t) SELECT * FROM u", ""),
        ("WITH t AS (SELECT 1) SELECT * FROM s.t", "s.t"),
        ("SELECT * FROM (WITH t AS (SELECT 1) SELECT * FROM t) x, t", "t"),
        ("SELECT * FROM (WITH t AS (SELECT 1) SELECT * FROM t) x", ""),
        ("(WITH t AS (SELECT 1) SELECT * FROM t) UNION SELECT * FROM t", "t"),
        ("WITH t AS (SELECT 1) SELECT * FROM u WHERE a IN (SELECT * FROM t)", "u"),
        ('WITH "T" AS (SELECT 1) SELECT * FROM t', "t"),
        ("WITH Ä AS (SELECT 1) SELECT * FROM ä", "ä"),
    ],
)
def test_a_cte_hides_the_table_of_its_name_inside_of_its_scope_only(sql: str, reads: str) -> None:
    check(sql, POSTGRESQL, "read", reads)


def test_on_mysql_a_cte_of_another_spelling_hides_nothing() -> None:
    check("WITH T AS (SELECT 1) SELECT * FROM t", MYSQL, "read", "t")


@pytest.mark.parametrize(
    ("sql", "functions"),
    [
        ('SELECT f(1), My.G(a), "H" (2), lower(b) FROM i(3)', {"f", "g", "h", "lower", "i"}),
        ("SELECT nextval('s')", {"nextval"}),
        ("INSERT INTO t VALUES (f(1))", {"f"}),
        ("EXPLAIN SELECT f(1)", {"f"}),
    ],
)
def test_the_functions_called_are_named(sql: str, functions: set[str]) -> None:
    assert effect_of_text(sql, POSTGRESQL).functions >= functions


# -- writes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", EVERY)
@pytest.mark.parametrize(
    ("sql", "writes", "reads", "deletes"),
    [
        ("INSERT INTO t (a) VALUES (:a)", "t", "", False),
        ("INSERT INTO s.t SELECT * FROM u", "s.t", "u", False),
        ("INSERT INTO t SELECT * FROM t", "t", "t", False),
        ("UPDATE t SET a = (SELECT max(b) FROM u) WHERE c = 1", "t", "u", False),
        ("DELETE FROM t WHERE a IN (SELECT a FROM u)", "t", "u", True),
        ("delete from T;", "t", "", True),
    ],
)
def test_a_change_writes_its_table(sql: str, writes: str, reads: str, deletes: bool, dialect: str) -> None:
    assert check(sql, dialect, "write", reads, writes).deletes is deletes


@pytest.mark.parametrize(
    ("dialect", "sql", "writes", "reads", "deletes"),
    [
        (MYSQL, "REPLACE INTO t VALUES (1)", "t", "", True),
        (MARIADB, "REPLACE LOW_PRIORITY t SET a = %s", "t", "", True),
        (SQLITE, "REPLACE INTO t VALUES (?)", "t", "", True),
        (SQLITE, "INSERT OR REPLACE INTO t VALUES (?)", "t", "", True),
        (SQLITE, "INSERT OR IGNORE INTO t VALUES (?)", "t", "", False),
        (SQLITE, "UPDATE t SET a = u.a FROM u RETURNING *", "t", "u", False),
        (SQLITE, "WITH t AS (SELECT 1) DELETE FROM t", "t", "", True),
        (POSTGRESQL, "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x, u", "t", "u", True),
        (POSTGRESQL, "WITH x AS (INSERT INTO t VALUES (1) RETURNING a) UPDATE u SET a = x.a FROM x", "t u", "", False),
        (POSTGRESQL, "INSERT INTO t AS x VALUES (1) ON CONFLICT (a) DO UPDATE SET a = excluded.a", "t", "", False),
        (POSTGRESQL, "UPDATE ONLY t SET (a, b) = (SELECT a, b FROM u)", "t", "u", False),
        (POSTGRESQL, "DELETE FROM t USING u, v WHERE t.a = u.a RETURNING t.*", "t", "u v", True),
        (POSTGRESQL, "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = 1", "t", "u", True),
        (MYSQL, "INSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = VALUES(a)", "t", "", False),
        (MYSQL, "INSERT LOW_PRIORITY IGNORE INTO t SET a = 1", "t", "", False),
        (MYSQL, "UPDATE LOW_PRIORITY IGNORE t SET a = 1", "t", "", False),
        (MYSQL, "UPDATE t JOIN u ON t.a = u.a SET u.b = 1", "t u", "", False),
        (MYSQL, "UPDATE t, (SELECT * FROM u) x SET t.b = x.b", "t", "u", False),
        (MYSQL, "DELETE QUICK FROM t", "t", "", True),
        (MYSQL, "DELETE x FROM t AS x JOIN u ON x.a = u.a", "t u", "", True),
        (MYSQL, "DELETE FROM x USING t AS x JOIN u", "x t u", "", True),
    ],
)
def test_a_change_in_its_databases_own_words_writes_its_tables(
    dialect: str, sql: str, writes: str, reads: str, deletes: bool
) -> None:
    assert check(sql, dialect, "write", reads, writes).deletes is deletes


# -- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialects", "kind", "commands"),
    [
        (EVERY, "savepoint", "SAVEPOINT a|RELEASE SAVEPOINT a|ROLLBACK TO SAVEPOINT a|rollback to a;"),
        ((POSTGRESQL, SQLITE), "savepoint", 'SAVEPOINT "a b"|RELEASE a|ROLLBACK TRANSACTION TO a'),
        (EVERY, "begin", "BEGIN| begin ; "),
        ((POSTGRESQL, MYSQL, MARIADB), "begin", "START TRANSACTION|START TRANSACTION READ ONLY|BEGIN WORK"),
        ((SQLITE,), "begin", "BEGIN IMMEDIATE|BEGIN EXCLUSIVE TRANSACTION|BEGIN DEFERRED"),
        (EVERY, "commit", "COMMIT|commit /* now */;"),
        ((POSTGRESQL, MYSQL, MARIADB), "commit", "COMMIT WORK|COMMIT AND CHAIN|COMMIT AND NO CHAIN"),
        ((POSTGRESQL, SQLITE), "commit", "END|END TRANSACTION|COMMIT TRANSACTION"),
        (EVERY, "rollback", "ROLLBACK|Rollback;"),
        ((POSTGRESQL,), "rollback", "ABORT|ROLLBACK AND CHAIN"),
        (
            (POSTGRESQL,),
            "session",
            "SET search_path TO a, b|SET LOCAL role = 'x'|SET ROLE x|RESET ALL|DISCARD ALL"
            "|SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE|SET TRANSACTION READ ONLY",
        ),
        (
            (MYSQL, MARIADB),
            "session",
            "SET NAMES utf8mb4|SET autocommit = 0|SET @a = 1|USE other|SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        ),
        ((SQLITE,), "session", "PRAGMA foreign_keys = ON|PRAGMA main.cache_size(-2000)|ATTACH 'x' AS y|DETACH y"),
        ((SQLITE,), "harmless", "PRAGMA foreign_keys|PRAGMA table_info('t')|PRAGMA main.foreign_key_list(\"t\")"),
        ((POSTGRESQL,), "harmless", "SHOW search_path|LISTEN a|UNLISTEN *|NOTIFY a, 'b'"),
        (
            (MYSQL, MARIADB),
            "harmless",
            "SHOW TABLES|SHOW FULL COLUMNS FROM `t` LIKE 'a%'|DESCRIBE t|DESC t a|EXPLAIN t",
        ),
        (EVERY, "harmless", "EXPLAIN SELECT * FROM t|EXPLAIN DELETE FROM t"),
        ((POSTGRESQL,), "harmless", "EXPLAIN VERBOSE SELECT 1|EXPLAIN (FORMAT JSON, COSTS OFF) UPDATE t SET a = 1"),
        ((MYSQL,), "harmless", "EXPLAIN FORMAT=JSON SELECT 1"),
        ((SQLITE,), "harmless", "EXPLAIN QUERY PLAN SELECT * FROM t"),
    ],
)
def test_a_command_is_known_by_its_words(dialects: tuple[str, ...], kind: str, commands: str) -> None:
    for dialect in dialects:
        for command in commands.split("|"):
            assert (command, effect_of_text(command, dialect).kind) == (command, kind)


# -- what is unknown -------------------------------------------------------------------------------------------------

UNKNOWN_EVERYWHERE = [
    "",
    " ; ",
    "-- nothing",
    "SELECT 1; DELETE FROM t",
    "SELECT 1;;SELECT 2",
    "COMMIT; DELETE FROM t",
    "SELEC * FROM t",
    "DELET FROM t",
    "DELETE FORM t",
    "UPDATE t SE a = 1",
    "t",
    "SELECT * FROM t WHERE",
    "CREATE TABLE t (a int)",
    "CREATE TABLE t AS SELECT 1",
    "ALTER TABLE t ADD b int",
    "DROP TABLE t",
    "TRUNCATE TABLE t",
    "TRUNCATE t",
    "CALL f()",
    "DO f()",
    "GRANT ALL ON t TO u",
    "ANALYZE",
    "EXPLAIN ANALYZE DELETE FROM t",
    "EXPLAIN CREATE TABLE t AS SELECT 1",
    "EXPLAIN",
    "SELECT * INTO u FROM t",
    "REFRESH MATERIALIZED VIEW v",
    "SELECT 'open",
    "SELECT 1 /* open",
    "SELECT 1 /* /* */ */",
    "SELECT \0 1",
    "SELECT a\u00a0FROM t",
    "SELECT a FROM t -- one\rDELETE FROM t",
    "BEGIN; DELETE FROM t",
    "ROLLBACK PREPARED 'x'",
    "SELECT * FROM t WHERE a IN u",
    "SELECT a FROM t \\",
]


@pytest.mark.parametrize("dialect", EVERY)
@pytest.mark.parametrize("sql", UNKNOWN_EVERYWHERE)
def test_what_is_not_positively_known_is_unknown(sql: str, dialect: str, caplog: pytest.LogCaptureFixture) -> None:
    check(sql, dialect, "unknown")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (POSTGRESQL, "EXPLAIN (ANALYZE, COSTS OFF) DELETE FROM t"),
        (POSTGRESQL, "EXPLAIN (ANALYSE) DELETE FROM t"),
        (POSTGRESQL, "DO $$ BEGIN DELETE FROM t; END $$"),
        (POSTGRESQL, "COPY t FROM STDIN"),
        (POSTGRESQL, "SELECT E'a'\n'b\\'; DELETE FROM t; --'"),
        (POSTGRESQL, "SELECT E'a'\n'\\'' , f() -- '"),
        (POSTGRESQL, "SELECT 1 /* /* */ FROM t -- */ FROM u"),
        (POSTGRESQL, "SELECT * FROM %s"),
        (POSTGRESQL, "SELECT * FROM (DELETE FROM t RETURNING *) x"),
        (POSTGRESQL, "UPDATE t JOIN u ON t.a = u.a SET b = 1"),
        (POSTGRESQL, "DELETE u FROM t"),
        (MYSQL, "SELECT * FROM ONLY t"),
        (POSTGRESQL, "SELECT U&'\\0061' UESCAPE '!'"),
        (POSTGRESQL, "SELECT $x$ open"),
        (POSTGRESQL, "SELECT set_config('search_path', 'a', false)"),
        (POSTGRESQL, "SELECT query_to_xml('SELECT * FROM t', true, true, '')"),
        (POSTGRESQL, "BEGIN ISOLATION LEVEL SERIALIZABLE"),
        (POSTGRESQL, "SET CONSTRAINTS ALL IMMEDIATE"),
        (POSTGRESQL, "PREPARE TRANSACTION 'x'"),
        (POSTGRESQL, "COMMIT PREPARED 'x'"),
        (POSTGRESQL, "EXECUTE x"),
        (POSTGRESQL, "FETCH ALL FROM c"),
        (POSTGRESQL, "LOCK TABLE t"),
        (POSTGRESQL, 'SELECT * FROM "t_%s"'),
        (POSTGRESQL, "SELECT * FROM t_%s"),
        (SQLITE, "UPDATE OR IGNORE t SET a = 1"),
        (SQLITE, "INSERT OR ROLLBACK INTO t VALUES (1)"),
        (SQLITE, "DELETE FROM 't'"),
        (SQLITE, "SELECT * FROM 't'"),
        (SQLITE, "SELECT * FROM t WHERE a IN 'u'"),
        (SQLITE, "PRAGMA user_version = 3"),
        (SQLITE, "PRAGMA journal_mode = WAL"),
        (SQLITE, "PRAGMA optimize"),
        (SQLITE, "PRAGMA wal_checkpoint"),
        (SQLITE, "SELECT load_extension('x')"),
        (SQLITE, "VACUUM"),
        (SQLITE, "REINDEX"),
        (MYSQL, "LOAD DATA INFILE 'x' INTO TABLE t"),
        (MYSQL, "/*! DELETE FROM t */"),
        (MYSQL, "SELECT 1 /*!50000 , f() */"),
        (MARIADB, "SELECT 1 /*M! , f() */"),
        (MYSQL, "SELECT * FROM t INTO OUTFILE 'x'"),
        (MYSQL, "SELECT a FROM t INTO @a"),
        (MYSQL, "SELECT @a := a FROM t"),
        (MYSQL, "SELECT 'a\\' , f() , \\'b'"),
        (MYSQL, 'SELECT * FROM "t"'),
        (MYSQL, "DELETE FROM `t_%s`"),
        (MYSQL, "SET GLOBAL read_only = 1"),
        (MYSQL, "SET @@global.read_only = 1"),
        (MYSQL, "SET PASSWORD = 'x'"),
        (MYSQL, "SET @a = (SELECT f())"),
        (MARIADB, "SET STATEMENT max_statement_time = 1 FOR DELETE FROM t"),
        (MYSQL, "START TRANSACTION WITH CONSISTENT SNAPSHOT"),
        (MARIADB, "BEGIN NOT ATOMIC DELETE FROM t; END"),
        (MARIADB, "ANALYZE DELETE FROM t"),
        (MYSQL, "HANDLER t OPEN"),
        (MYSQL, "LOCK TABLES t WRITE"),
        (MYSQL, "XA COMMIT 'x'"),
        ("oracle", "SELECT 1 FROM dual"),
        ("", "SELECT 1"),
    ],
)
def test_what_a_database_means_by_it_is_not_guessed(dialect: str, sql: str, caplog: pytest.LogCaptureFixture) -> None:
    check(sql, dialect, "unknown")
    assert caplog.records == []


def test_on_mysql_two_hyphens_without_a_space_hide_nothing() -> None:
    assert "f" in check("SELECT 5--1, f(2), (SELECT a FROM t)", MYSQL, "read", "t").functions


def test_two_quoted_names_side_by_side_are_two() -> None:
    check('SELECT * FROM "t"[x y]', SQLITE, "read", "t")


def test_a_text_that_is_too_long_is_unknown() -> None:
    sql = "SELECT 1" + " " * MAX_LENGTH
    check(sql, SQLITE, "unknown")
    check(sql[:MAX_LENGTH], SQLITE, "read")


def test_a_text_nested_too_deep_for_the_parser_is_unknown() -> None:
    check("SELECT " + "(" * 5000 + "1" + ")" * 5000, SQLITE, "unknown")


def test_without_sqlglot_queries_and_changes_are_unknown_and_commands_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    effect_of_text.cache_clear()
    try:
        check("SELECT * FROM t", SQLITE, "unknown")
        check("COMMIT", SQLITE, "commit")
    finally:
        effect_of_text.cache_clear()


def test_a_text_is_looked_at_once() -> None:
    assert effect_of_text("SELECT * FROM t", SQLITE) is effect_of_text("SELECT * FROM t", SQLITE)


def test_cleaning_leaves_no_literal_behind() -> None:
    cleaned = clean_text("SELECT 'secret', $$secret$$, E'secret' /* secret */ FROM t -- secret", POSTGRESQL)
    assert cleaned is not None
    assert "secret" not in cleaned.text


@pytest.mark.parametrize("sql", ["SELECT 1; SELECT 2", "SELECT 1e'a'", "SELECT '", "SELECT $a", "SELECT `a`"])
def test_cleaning_refuses_what_is_not_surely_one_statement(sql: str) -> None:
    assert clean_text(sql, POSTGRESQL) is None


def test_cleaning_leaves_no_two_hyphens_that_another_reader_takes_for_a_comment() -> None:
    cleaned = clean_text("SELECT 5---1", MYSQL)
    assert cleaned is not None
    assert cleaned.text == "SELECT 5- - -1"


# -- against SQLite itself: its bytecode says what it opens -----------------------------------------------------------

SEEDS = [
    "SELECT x FROM a WHERE y IN ( SELECT x FROM b )",
    "WITH t AS ( SELECT * FROM a ) SELECT * FROM t , b",
    "WITH a AS ( SELECT x FROM a ) SELECT * FROM a",
    "WITH RECURSIVE t ( x ) AS ( SELECT 1 UNION ALL SELECT x + 1 FROM t , a ) SELECT * FROM t",
    "INSERT INTO a ( x ) VALUES ( 1 ) ON CONFLICT ( x ) DO UPDATE SET y = ( SELECT x FROM c )",
    "UPDATE a SET y = b . y FROM b , c WHERE a . x = b . x RETURNING *",
    "WITH t AS ( SELECT x FROM b ) DELETE FROM a WHERE x IN ( SELECT x FROM t )",
    "REPLACE INTO a SELECT * FROM b",
    "SELECT ( SELECT x FROM b ) FROM a LEFT JOIN t ON a . x = t . x",
    "SELECT * FROM ( WITH a AS ( SELECT 1 ) SELECT * FROM a ) , a",
]
WORDS = """
SELECT FROM WHERE a b c t x * ( ) , 1 'a' "a" [t] `b` WITH AS UNION JOIN ON IN NOT EXISTS INSERT INTO UPDATE SET DELETE
VALUES = . main count(*) -- /* */ ; ' " \\ CASE NATURAL INDEXED OR
"""
PHRASES = ["--c\n", "/* c */", "x AS", "t AS", "DELETE FROM", "INSERT OR REPLACE INTO", "RETURNING *", "DEFAULT VALUES"]
FRAGMENTS = [*WORDS.split(), *PHRASES]


@pytest.fixture(scope="module")
def opened() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for name in "abct":
        connection.execute(f"CREATE TABLE {name} (x INTEGER PRIMARY KEY, y, z)")
    yield connection
    connection.close()


def tables_in_bytecode(connection: sqlite3.Connection, sql: str) -> tuple[set[str], set[str]]:
    """Return the tables that a statement opens to read and to write. Raises what SQLite says about the text."""
    tables = dict(connection.execute("SELECT rootpage, name FROM sqlite_master"))
    steps = connection.execute(f"EXPLAIN {sql}").fetchall()
    reads = {tables.get(step[3]) for step in steps if step[1] == "OpenRead"}
    writes = {tables.get(step[3]) for step in steps if step[1] == "OpenWrite"}
    writes |= {tables.get(step[2]) for step in steps if step[1] == "Clear"}
    return {name for name in reads if name}, {name for name in writes if name}


@given(st.data())
def test_no_text_is_taken_for_less_than_sqlite_does(opened: sqlite3.Connection, data: st.DataObject) -> None:
    words = data.draw(st.sampled_from(SEEDS)).split()
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(words)))
        words[position : position + data.draw(st.integers(0, 1))] = [data.draw(st.sampled_from(FRAGMENTS))]
    sql = data.draw(st.sampled_from([" ", " ", "\n"])).join(words)
    try:
        reads, writes = tables_in_bytecode(opened, sql)
    except (sqlite3.Error, sqlite3.Warning):
        return
    effect = effect_of_text(sql, SQLITE)
    if effect.kind == "unknown":
        return
    written = {name for _, name in effect.writes}
    assert writes <= written
    assert not writes or effect.kind == "write"
    assert reads <= written | {name for _, name in effect.reads}


def test_the_parsers_own_warnings_are_not_provoked_by_changes_it_hardly_knows(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for dialect in EVERY:
            effect_of_text("REPLACE t SET a = 1", dialect)
            effect_of_text("SELECT a -> 'b', a ->> '$.c[0]' FROM t", dialect)
    assert caplog.records == []
