"""A SELECT given as text is read as one that rows alone decide, or refused; a doubtful one is refused."""

from __future__ import annotations

import pytest

from querycache.statements.functions import is_cacheable_function
from querycache.statements.reads import NotCacheable, SelectReads
from querycache.statements.textreads import text_reads_of, why_not_declared

POSTGRESQL, SQLITE, MYSQL, MARIADB = "postgresql", "sqlite", "mysql", "mariadb"
EVERY = (POSTGRESQL, SQLITE, MYSQL, MARIADB)


def unknown_functions(sql: str, dialect: str) -> set[str]:
    reads = text_reads_of(sql, dialect)
    assert isinstance(reads, SelectReads), reads
    return {name for name in reads.functions if not is_cacheable_function(name, dialect)}


@pytest.mark.parametrize("dialect", EVERY)
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT id, name FROM product WHERE category_id = :id AND price >= 1.5 ORDER BY name LIMIT 10",
        "SELECT p.id, upper(p.name) AS n FROM product p JOIN category c ON (c.id = p.category_id) WHERE c.id IN (1, 2)",
        "SELECT count(*), max(price) FROM product GROUP BY category_id HAVING (count(*) > 1)",
        "SELECT CASE WHEN (price > 1) THEN 'dear' ELSE coalesce(note, '') END FROM product",
        "SELECT id FROM product WHERE NOT EXISTS (SELECT 1 FROM label WHERE (product_id = id)) AND (note IS NULL OR (id = 1))",
        "WITH dear AS (SELECT * FROM product WHERE price > 5) SELECT * FROM dear",
        "WITH RECURSIVE tree (id, up) AS (SELECT id, up FROM n UNION ALL SELECT n.id, n.up FROM n JOIN tree ON n.up = tree.id) "
        "SELECT * FROM tree",
        "SELECT id, rank() OVER (PARTITION BY category_id ORDER BY price) FROM product",
        "SELECT id FROM product WHERE name LIKE 'a%'",
        "SELECT id FROM a UNION ALL SELECT id FROM b EXCEPT SELECT id FROM c",
        "SELECT CAST(id AS DECIMAL(10, 2)) FROM product",
    ],
)
def test_a_query_of_tables_and_known_functions_is_decided_by_rows(sql: str, dialect: str) -> None:
    assert unknown_functions(sql, dialect) == set()


@pytest.mark.parametrize(
    ("dialect", "sql"),
    [
        (
            POSTGRESQL,
            "SELECT id::text, data ->> 'a', tags @> ARRAY[1] FROM product WHERE id = ANY (ARRAY[1, 2]) AND name ~ '^a'",
        ),
        (
            POSTGRESQL,
            "SELECT date_trunc('day', made), string_agg(name, ',') FILTER (WHERE id > 1) FROM product GROUP BY 1",
        ),
        (POSTGRESQL, "SELECT category_id, sum(price) FROM product GROUP BY GROUPING SETS ((category_id), ())"),
        (SQLITE, "SELECT json_extract(data, '$.a'), id || name, price % 2 FROM product WHERE name GLOB 'a*'"),
        (MARIADB, "SELECT `p`.`id`, IF(`p`.`price` > 1, 'dear', '') FROM `shop`.`product` `p` WHERE YEAR(made) = 2020"),
        (MYSQL, "SELECT id FROM product USE INDEX (a) WHERE price % 2 = 1 AND made > '2020-01-01' - INTERVAL 1 DAY"),
    ],
)
def test_so_is_one_in_its_database_s_own_words(dialect: str, sql: str) -> None:
    assert unknown_functions(sql, dialect) == set()


@pytest.mark.parametrize(
    ("dialect", "sql", "function"),
    [
        *((dialect, "SELECT id, now() FROM product", "now") for dialect in (SQLITE, MYSQL, MARIADB)),
        *((dialect, "SELECT id FROM product ORDER BY random (  )", "random") for dialect in EVERY),
        (POSTGRESQL, "SELECT nextval('s'), id FROM product", "nextval"),
        (POSTGRESQL, "SELECT id FROM product WHERE owner = current_setting('app.user')", "current_setting"),
        (POSTGRESQL, 'SELECT "Clock_Timestamp"() FROM product', "clock_timestamp"),
        (SQLITE, "SELECT last_insert_rowid() FROM product", "last_insert_rowid"),
        (MARIADB, "SELECT uuid(), id FROM product", "uuid"),
        (MARIADB, "SELECT found_rows() FROM product", "found_rows"),
        (MARIADB, "SELECT get_lock('a', 1) FROM product", "get_lock"),
        (MARIADB, "SELECT LASTVAL(s), id FROM product", "lastval"),
        (POSTGRESQL, "SELECT * FROM product, pg_sleep(1)", "pg_sleep"),
        (POSTGRESQL, "WITH pi_ (a) AS (SELECT 1) SELECT pi_(), a FROM pi_, product", "pi_"),
        (POSTGRESQL, "SELECT id FROM product WHERE id OPERATOR (s.+) 1 = 2", "operator"),
    ],
)
def test_a_function_that_may_differ_from_call_to_call_is_named(dialect: str, sql: str, function: str) -> None:
    assert unknown_functions(sql, dialect) == {function}


@pytest.mark.parametrize(
    ("dialect", "sql", "reason"),
    [
        *((dialect, "SELECT CURRENT_TIMESTAMP, id FROM product", "CURRENT_TIMESTAMP") for dialect in EVERY),
        *((dialect, "SELECT * FROM product FOR UPDATE", "locks rows") for dialect in (POSTGRESQL, MYSQL, MARIADB)),
        *((dialect, "SELECT 1", "reads no table") for dialect in EVERY),
        *((dialect, "UPDATE product SET id = 1", "no SELECT") for dialect in EVERY),
        *((dialect, "SELECT id FROM product; SELECT 1", "not understood") for dialect in EVERY),
        *((dialect, "COMMIT", "no SELECT") for dialect in EVERY),
        (POSTGRESQL, "SELECT user, id FROM product", "USER"),
        (POSTGRESQL, "SELECT ctid FROM product", "CTID"),
        (POSTGRESQL, "SELECT * FROM product TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE"),
        (POSTGRESQL, "SELECT id FROM product WHERE made < 'now'", "present time"),
        (POSTGRESQL, "SELECT id FROM product WHERE made < 'no'\n'w'", "present time"),
        (POSTGRESQL, "SELECT id FROM product WHERE made < E'n\\x6fw'", "present time"),
        (POSTGRESQL, "SELECT id FROM product WHERE note::date = :day", "present time"),
        (POSTGRESQL, "SELECT CAST(note AS timestamptz) FROM product", "present time"),
        (POSTGRESQL, "SELECT id FROM product WHERE words @@ plainto_tsquery('a')", "follow a setting"),
        (POSTGRESQL, "SELECT id FROM product WHERE name % 'a'", "follow a setting"),
        (POSTGRESQL, "SELECT id FROM product WHERE name ~~~ 'a'", ""),
        (POSTGRESQL, "SELECT id, now() FROM product", "present time"),
        (POSTGRESQL, "SELECT * FROM pg_stat_activity", "system"),
        (MARIADB, "SELECT @a, id FROM product", "variable"),
        (MARIADB, "SELECT id FROM product WHERE id = @@session.auto_increment_increment", "variable"),
        (MARIADB, "SELECT NEXT VALUE FOR s, id FROM product", ""),
        (MARIADB, "SELECT SQL_CALC_FOUND_ROWS id FROM product", "SQL_CALC_FOUND_ROWS"),
        (MARIADB, "SELECT id FROM product LIMIT ROWS EXAMINED 10", ""),
        (SQLITE, "SELECT * FROM words WHERE words MATCH 'a'", "MATCH"),
        (SQLITE, "SELECT date('now'), id FROM product", "clock"),
        (SQLITE, "SELECT strftime('%Y'), id FROM product", "clock"),
        (POSTGRESQL, "SELECT age(made) FROM product", "clock"),
        (MARIADB, "SELECT date(maketime(10, 0, 0)) FROM product", "clock"),
        (MARIADB, "SELECT id FROM product WHERE made > TIME '10:00:00'", "TIME"),
    ],
)
def test_what_may_change_without_the_rows_is_refused(dialect: str, sql: str, reason: str) -> None:
    answer = text_reads_of(sql, dialect)
    assert isinstance(answer, NotCacheable)
    assert reason in answer.reason


def test_what_postgresql_may_take_for_a_function_of_a_row_is_told() -> None:
    answer = text_reads_of('SELECT p.total, "p"."Rest" FROM product p', POSTGRESQL)
    assert isinstance(answer, SelectReads)
    assert answer.attributes == {"total", "rest"}


@pytest.mark.parametrize("dialect", EVERY)
def test_a_text_may_be_declared_to_read_where_it_begins_as_a_select_and_locks_nothing(dialect: str) -> None:
    assert why_not_declared("/* why */ -- not\n (SELECT anything() FROM what WHERE ever)", dialect) is None
    assert why_not_declared("SELECT ~~ what is that", dialect) is None
    for sql in ["CALL p()", "UPDATE t SET a = 1", "CREATE TABLE t (a int)", "SELECT ?? FROM t FOR UPDATE", "COMMIT"]:
        assert why_not_declared(sql, dialect) is not None, sql
