"""SQL given as text: what it reads is cached where that is surely known, or declared; what it writes, too."""

from __future__ import annotations

from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from sqlalchemy import Numeric, String, bindparam, func, insert, literal_column, select, text, update
from sqlalchemy.orm import Session

from querycache import ConfigurationError, FromCache, NoCache
from scenario_support import (
    Category,
    Product,
    Read,
    Tag,
    World,
    count_of,
    entities,
    get,
    in_category,
    once,
    rows,
)

ONE_EACH = ["sqlite-memory", "postgresql-lmdb", "mariadb-memory"]
on_each = pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)

FRUIT = "SELECT id, name FROM sc_product WHERE category_id = 1 ORDER BY id"


def reasons(world: World) -> str:
    return " ".join(world.cache.stats()["reasons"])


READS: dict[str, Read] = {
    "text": rows(text(FRUIT)),
    "text with a value": rows(text("SELECT name FROM sc_product WHERE category_id = :c ORDER BY id"), {"c": 1}),
    "text with a list of values": rows(
        text("SELECT name FROM sc_product WHERE category_id IN :c ORDER BY id").bindparams(
            bindparam("c", expanding=True)
        ),
        {"c": [1, 7]},
    ),
    "text with columns": rows(text(FRUIT).columns(Product.id, Product.name)),
    "text with types": rows(
        text("SELECT price, name FROM sc_product ORDER BY id").columns(name=String, price=Numeric(10, 2))
    ),
    "entities from text": entities(
        select(Product).from_statement(text("SELECT * FROM sc_product WHERE category_id = 1 ORDER BY id"))
    ),
    "entities from text with columns": entities(
        select(Product).from_statement(
            text(
                "SELECT id, name, category_id, price, views, note FROM sc_product WHERE category_id = 1 ORDER BY id"
            ).columns(Product.id, Product.name, Product.category_id, Product.price, Product.views, Product.note)
        )
    ),
    "columns from text": lambda session: [
        tuple(row)
        for row in session.query(Product.id, Product.name).from_statement(text(FRUIT)).all()  # the legacy way
    ],
    "a condition in text": rows(select(Product.name).where(text("category_id = 1")).order_by(text("id DESC"))),
    "entities with a condition in text": entities(
        select(Product).where(text("sc_product.category_id IN (1, 7)"), Product.id.in_([1, 2])).order_by(Product.id)
    ),
    "a column in text": rows(select(Product.id, literal_column("upper(name)")).order_by(Product.id)),
    "a text in a subquery's place": rows(
        select(text(FRUIT).columns(Product.id, Product.name).subquery("fruit")).order_by(text("1"))
    ),
    "a join in text": rows(
        text(
            "SELECT p.name, c.name AS category FROM sc_product p JOIN sc_category c ON c.id = p.category_id ORDER BY p.id"
        )
    ),
    "an aggregate in text": lambda session: session.scalar(text("SELECT max(name) FROM sc_product WHERE id < 2")),
}


@on_each
def test_s30_a_textual_select_of_cacheable_tables_is_cached_and_follows_them(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.expecting(changed=list(READS.values()), kept=[count_of(Tag)]), shop.write() as session:
        session.get_one(Product, 1).name = "quince"


@on_each
def test_s30_a_textual_select_follows_every_table_in_it(worlds: Any) -> None:
    shop: World = worlds.shop()
    inner = rows(
        text(
            "WITH red AS (SELECT product_id FROM sc_label WHERE tag_id IN (SELECT id FROM sc_tag WHERE name = 'red')) "
            "SELECT name FROM sc_product WHERE id IN (SELECT product_id FROM red)"
        )
    )
    with shop.expecting(changed=[inner], kept=[get(Product, 1), count_of(Category)]), shop.write() as session:
        session.get_one(Tag, 2).name = "red"
        session.get_one(Tag, 1).name = "none"
    with shop.expecting(changed=[inner], kept=[count_of(Category)]), shop.write() as session:
        session.execute(text("INSERT INTO sc_label (product_id, tag_id) VALUES (4, 2)"))


@on_each
def test_s30_a_textual_select_that_returns_the_same_on_a_hit_as_from_the_database(worlds: Any) -> None:
    shop: World = worlds.shop()
    statement = text("SELECT id, name, price, id AS twice FROM sc_product WHERE category_id = :c ORDER BY id")

    def shown(session: Session) -> list[Any]:
        def ask() -> Any:
            return session.execute(statement, {"c": 1})

        return [
            type(ask()),
            list(ask().keys()),
            [{**mapping} for mapping in ask().mappings()],
            [(row.name, row._mapping["price"], type(row.price)) for row in ask()],
            ask().rowcount,
            ask().returns_rows,
            ask().first()[0],
            ask().scalars(1).all(),
            ask().columns("twice", 1).all(),
            [list(map(tuple, part)) for part in ask().partitions(1)],
            ask().fetchmany(1),
            session.scalar(statement, {"c": 1}),
            session.scalars(statement, {"c": 2}).all(),
        ]

    shop.prime(shown)


def test_s30_values_that_look_alike_are_told_apart(shop: World) -> None:
    for value in (1, True, "1", Decimal(1), 1.0):
        read = rows(text("SELECT name, :v FROM sc_product WHERE id = 1").bindparams(bindparam("v")), {"v": value})
        if shop.dialect == "postgresql" and isinstance(value, str):
            continue  # its type would not be known to the server
        if shop.dialect == "sqlite" and isinstance(value, Decimal):
            continue  # its driver does not take it
        shop.assert_true(lambda session, read=read: [(name, type(v), v) for name, v in read(session)])  # type: ignore[misc]


UNSURE: dict[str, dict[str, str]] = {
    "a table of no model": dict.fromkeys(("sqlite", "postgresql", "mariadb"), "SELECT count(*) FROM sc_plain"),
    "a function that is not known": {
        "sqlite": "SELECT date('now'), id FROM sc_product",
        "postgresql": "SELECT clock_timestamp(), id FROM sc_product",
        "mariadb": "SELECT sysdate(6), id FROM sc_product",
    },
    "a session's variable": {
        "sqlite": "SELECT last_insert_rowid(), id FROM sc_product",
        "postgresql": "SELECT current_setting('search_path'), id FROM sc_product",
        "mariadb": "SELECT @wanted, id FROM sc_product",
    },
    "a sequence": {
        "postgresql": "SELECT nextval('sc_tag_id_seq'), id FROM sc_product",
        "mariadb": "SELECT NEXT VALUE FOR sc_sequence, id FROM sc_product",
    },
    "the present time in a literal": {"postgresql": "SELECT id FROM sc_product WHERE now() > 'yesterday'"},
    "a catalog": {
        "sqlite": "SELECT count(*) FROM sqlite_master",
        "postgresql": "SELECT count(*) FROM pg_class",
        "mariadb": "SELECT count(*) FROM information_schema.tables",
    },
    "a lock": {
        "postgresql": "SELECT id FROM sc_product FOR UPDATE",
        "mariadb": "SELECT id FROM sc_product LOCK IN SHARE MODE",
    },
    "no table": dict.fromkeys(("sqlite", "postgresql", "mariadb"), "SELECT 1"),
}


@on_each
def test_s30_a_text_that_is_not_surely_understood_is_not_cached_and_the_reason_is_counted(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.outside.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE sc_plain (id INTEGER)")
        if shop.dialect == "mariadb":
            connection.exec_driver_sql("CREATE SEQUENCE sc_sequence")
    try:
        for name, by_database in UNSURE.items():
            if shop.dialect in by_database:
                read = rows(text(by_database[shop.dialect]))
                before = sum(shop.cache.stats()["reasons"].values())
                assert [shop.cost(read), shop.cost(read)] == [1, 1], name
                assert sum(shop.cache.stats()["reasons"].values()) == before + 2, name
    finally:
        with shop.outside.connect() as connection:
            connection.exec_driver_sql("DROP TABLE sc_plain")
            if shop.dialect == "mariadb":
                connection.exec_driver_sql("DROP SEQUENCE sc_sequence")


@pytest.mark.parametrize("worlds", ["mariadb-memory"], indirect=True)
def test_s31_text_over_a_column_that_mariadb_puts_on_the_present_day_is_not_cached(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.outside.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE sc_hours (id INTEGER PRIMARY KEY, opens TIME, made DATETIME)")
        connection.exec_driver_sql("CREATE VIEW sc_open AS SELECT id FROM sc_hours WHERE opens > made")
    try:
        for source in ("sc_hours WHERE opens > made", "sc_open"):
            read = rows(text(f"SELECT id FROM {source}").options(FromCache()))
            assert [shop.cost(read), shop.cost(read)] == [1, 1]
        assert any("TIME" in reason for reason in shop.cache.stats()["reasons"])
    finally:
        with shop.outside.connect() as connection:
            connection.exec_driver_sql("DROP VIEW sc_open")
            connection.exec_driver_sql("DROP TABLE sc_hours")


@on_each
def test_s30_a_text_asks_to_be_cached_and_not_to_be(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.outside.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE sc_plain (id INTEGER)")
    asking = text("SELECT count(*) FROM sc_plain").options(FromCache())
    with shop.expecting(changed=[rows(asking)], kept=[get(Product, 1)]), shop.write() as session:
        session.execute(text("INSERT INTO sc_plain (id) VALUES (1)"))
    read = rows(text(FRUIT).options(NoCache()))
    assert [shop.cost(read), shop.cost(read)] == [1, 1]
    with shop.outside.connect() as connection:
        connection.exec_driver_sql("DROP TABLE sc_plain")


@on_each
def test_s30_a_statement_that_is_not_understood_is_cached_as_declared(worlds: Any) -> None:
    shop: World = worlds.shop()
    clock = "date('now')" if shop.dialect == "sqlite" else "now()"
    strange = text(f"SELECT name FROM sc_product WHERE category_id = 1 AND {clock} > '2000-01-01'")
    declared = {
        "names": rows(strange.execution_options(querycache_reads=["sc_product"])),
        "classes and tables": rows(strange.execution_options(querycache_reads=[Product, Tag.__table__])),
        "a construct": rows(
            select(Product.name)
            .where(Product.category_id == 1, text(f"{clock} > '2000-01-01'"))
            .execution_options(querycache_reads=["sc_product"])
        ),
        "a call": lambda session: list(
            session.scalars(strange, execution_options={"querycache_reads": ["sc_product"]})
        ),
    }
    kept = rows(strange.execution_options(querycache_reads=["sc_tag"]))
    with shop.expecting(changed=list(declared.values()), kept=[count_of(Category)]), shop.write() as session:
        session.get_one(Product, 1).name = "quince"
    # It is the user's word that counts, wrong as it may be: this one is stale.
    shop.prime(kept)
    with shop.write() as session:
        session.get_one(Product, 1).name = "plum"
    assert shop.cost(kept) == 0
    assert shop.read(kept) != shop.truth(kept)


@on_each
def test_s30_a_declared_construct_follows_the_tables_that_it_shows_as_well(worlds: Any) -> None:
    shop: World = worlds.shop()
    read = rows(
        select(Product.name)
        .where(Product.category_id == 1, text("1 = 1"))
        .order_by(Product.id)
        .execution_options(querycache_reads=[Tag])
    )
    with shop.expecting(changed=[read]), shop.write() as session:
        session.get_one(Product, 1).name = "quince"


WRONG: dict[str, Any] = {
    "nothing": (),
    "a name instead of names": "sc_product",
    "a class instead of classes": Product,
    "a number": 7,
    "numbers": [7],
    "an empty name": [""],
    "a class that is not mapped": [int],
    "a table that there is not": ["sc_prodct", "sc_product"],
}


@on_each
def test_s30_a_wrong_declaration_is_an_error_that_names_it(worlds: Any) -> None:
    shop: World = worlds.shop()
    given = [("querycache_reads", text(FRUIT)), ("querycache_writes", text("UPDATE sc_product SET views = 1"))]
    for (option, statement), (name, value) in product(given, WRONG.items()):
        with shop.session() as session, pytest.raises(ConfigurationError, match=option) as raised:
            session.execute(statement.execution_options(**{option: value}))
        if name == "a table that there is not":
            assert "sc_prodct" in str(raised.value)
            assert "sc_product" not in str(raised.value)


@on_each
def test_s30_a_table_that_another_connection_just_made_may_be_declared(worlds: Any) -> None:
    shop: World = worlds.shop()
    shop.prime(get(Product, 1))
    with shop.engine.begin() as connection:
        connection.execute(text("CREATE TABLE sc_fresh (id INTEGER)"))
    try:
        read = rows(text("SELECT id FROM sc_fresh").execution_options(querycache_reads=["sc_fresh"]))
        with shop.expecting(changed=[read]), shop.write() as session:
            session.execute(
                text("INSERT INTO sc_fresh (id) VALUES (1)").execution_options(querycache_writes=["sc_fresh"])
            )
    finally:
        with shop.engine.begin() as connection:
            connection.execute(text("DROP TABLE sc_fresh"))


@on_each
def test_s30_a_lock_or_a_change_is_not_cached_whatever_it_is_declared_to_read(worlds: Any) -> None:
    shop: World = worlds.shop()
    locking = select(Product.name).with_for_update().execution_options(querycache_reads=["sc_product"])
    assert [shop.cost(rows(locking)), shop.cost(rows(locking))] == [1, 1]
    changing = text("UPDATE sc_product SET name = 'quince' WHERE id = 1").execution_options(
        querycache_reads=["sc_product"]
    )
    with shop.expecting(changed=[get(Product, 1)]), shop.write() as session:
        session.execute(changing)


@on_each
def test_s30_a_text_flushes_what_is_pending_and_reads_it(worlds: Any) -> None:
    shop: World = worlds.shop()
    shop.prime(READS["text"])
    with shop.session() as session:
        session.get_one(Product, 1).name = "quince"
        assert READS["text"](session)[0] == (1, "quince")
        session.rollback()
    shop.assert_true(READS["text"])


@on_each
def test_s30_a_text_that_is_no_select_is_left_to_the_database(worlds: Any) -> None:
    shop: World = worlds.shop()
    events = shop.events()
    with shop.session() as session:
        session.add(Tag(id=9, name="blue"))
        with session.no_autoflush:
            session.execute(text("DELETE FROM sc_label"))
        assert session.new
        session.rollback()
    assert "miss" not in [event.kind for event in events]


@on_each
def test_s30_a_change_between_a_text_s_lookup_and_its_rows_is_not_lost(worlds: Any) -> None:
    shop: World = worlds.shop()

    def rename() -> None:
        with shop.write() as session:
            session.execute(update(Product).where(Product.id == 1).values(name="quince"))

    with once(shop.cache, "miss", rename):
        shop.read(READS["text"])
    shop.assert_true(READS["text"])


@on_each
def test_s31_a_temporary_table_in_a_text_is_not_cached(worlds: Any) -> None:
    shop: World = worlds.shop()
    shop.prime(READS["text"])
    with shop.session() as session:
        session.execute(text("CREATE TEMPORARY TABLE sc_product AS SELECT * FROM sc_product"))
        session.execute(text("UPDATE sc_product SET name = 'fake'"))
        assert READS["text"](session)[0] == (1, "fake")
        session.execute(text("DROP TABLE sc_product" if shop.dialect != "sqlite" else "DROP TABLE temp.sc_product"))
        session.rollback()
    shop.assert_true(READS["text"])


# -- what a statement writes -----------------------------------------------------------------------------------------

DECLARED = {"querycache_writes": ["sc_product"]}


@pytest.mark.parametrize("worlds", ["postgresql-lmdb", "mariadb-memory"], indirect=True)
@pytest.mark.parametrize("commits", [False, True])
def test_s40_a_procedure_touches_what_it_is_declared_to_write_and_no_more(worlds: Any, commits: bool) -> None:
    shop: World = worlds.shop()
    end = "COMMIT;" if commits else ""
    body = f"BEGIN UPDATE sc_product SET name = 'x' WHERE id = 1; {end} END"
    language = f"LANGUAGE plpgsql AS $$ {body} $$" if shop.dialect == "postgresql" else body
    with shop.outside.connect() as connection:
        connection.exec_driver_sql(f"CREATE PROCEDURE sc_rename() {language}")
    try:
        with (
            shop.expecting(changed=[get(Product, 1), in_category(1)], kept=[count_of(Tag), get(Category, 1)]),
            shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.execute(text("CALL sc_rename()").execution_options(**DECLARED))
            # It is known of what was said: the connection is as good as before.
            assert "not understood" not in reasons(shop)
    finally:
        with shop.outside.connect() as connection:
            connection.exec_driver_sql("DROP PROCEDURE sc_rename")


@pytest.mark.parametrize("worlds", ["mariadb-memory"], indirect=True)
def test_s40_what_a_procedure_commits_by_itself_is_marked_before(worlds: Any) -> None:
    shop: World = worlds.shop()
    body = "BEGIN UPDATE sc_product SET name = 'x' WHERE id = 1; COMMIT; END"
    with shop.outside.connect() as connection:
        connection.exec_driver_sql(f"CREATE PROCEDURE sc_rename() {body}")
    try:
        with shop.expecting(changed=[get(Product, 1)], kept=[get(Category, 1)]), shop.session() as session:
            session.execute(text("CALL sc_rename()"), execution_options=DECLARED)
            # Another one sees it before this one commits.
            shop.assert_true(get(Product, 1))
            session.rollback()
    finally:
        with shop.outside.connect() as connection:
            connection.exec_driver_sql("DROP PROCEDURE sc_rename")


@on_each
def test_s40_a_declared_write_reaches_what_cascades_do(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.outside.connect() as connection:
        connection.exec_driver_sql("DELETE FROM sc_product WHERE category_id = 2")
        key = "tag_id INTEGER, FOREIGN KEY (tag_id) REFERENCES sc_tag (id) ON DELETE CASCADE"
        connection.exec_driver_sql(f"CREATE TABLE sc_hanging (id INTEGER PRIMARY KEY, {key})")
        connection.exec_driver_sql("INSERT INTO sc_hanging (id, tag_id) VALUES (1, 1)")
    shop.cache.invalidate_all()
    hanging = rows(text("SELECT id FROM sc_hanging").options(FromCache()))
    try:
        with shop.expecting(changed=[hanging, count_of(Tag)], kept=[get(Category, 1)]), shop.write() as session:
            session.execute(text("DELETE FROM sc_label"))
            session.execute(text("DELETE FROM sc_tag WHERE id = 1"), execution_options={"querycache_writes": [Tag]})
    finally:
        with shop.outside.connect() as connection:
            connection.exec_driver_sql("DROP TABLE sc_hanging")


@on_each
@pytest.mark.parametrize("level", ["statement", "call", "connection"])
def test_s40_a_trigger_is_known_where_its_writes_are_declared(worlds: Any, level: str) -> None:
    shop: World = worlds.shop()
    body = "UPDATE sc_tag SET name = 'touched' WHERE id = 1"
    made = {
        "sqlite": [f"CREATE TRIGGER sc_touch AFTER UPDATE ON sc_category BEGIN {body}; END"],
        "postgresql": [
            f"CREATE FUNCTION sc_touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$",
            "CREATE TRIGGER sc_touch AFTER UPDATE ON sc_category EXECUTE FUNCTION sc_touch()",
        ],
        "mariadb": [f"CREATE TRIGGER sc_touch AFTER UPDATE ON sc_category FOR EACH ROW {body}"],
    }[shop.dialect]
    with shop.outside.connect() as connection:
        for statement in made:
            connection.exec_driver_sql(statement)
    options = {"querycache_writes": [Tag]}
    change = update(Category).where(Category.id == 1).values(name="fruits")
    with shop.expecting(changed=[get(Tag, 1), get(Category, 1)], kept=[get(Product, 1), in_category(2)]):
        if level == "connection":
            with shop.engine.connect().execution_options(**options) as connection, connection.begin():
                connection.execute(change)
        else:
            with shop.write() as session:
                if level == "statement":
                    session.execute(change.execution_options(**options))
                else:
                    session.execute(change, execution_options=options)
    with shop.outside.connect() as connection:
        connection.exec_driver_sql(
            "DROP TRIGGER sc_touch" + (" ON sc_category" if shop.dialect == "postgresql" else "")
        )
    if shop.dialect == "postgresql":
        with shop.outside.connect() as connection:
            connection.exec_driver_sql("DROP FUNCTION sc_touch()")


@on_each
def test_s40_a_declaration_adds_to_what_a_statement_is_seen_to_write(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.expecting(changed=[get(Product, 1)], kept=[get(Category, 1)]), shop.write() as session:
        session.execute(
            text("UPDATE sc_product SET name = 'quince' WHERE id = 1"),
            execution_options={"querycache_writes": ["sc_tag"]},
        )


@on_each
def test_s40_what_changes_the_catalog_is_not_made_less_by_a_declaration(worlds: Any) -> None:
    shop: World = worlds.shop()
    whole = rows(text("SELECT * FROM sc_product ORDER BY id"))
    with shop.expecting(changed=[whole]), shop.engine.begin() as connection:
        adding = text("ALTER TABLE sc_product ADD COLUMN color VARCHAR(10)")
        connection.execute(adding.execution_options(querycache_writes=["sc_tag"]))


@pytest.mark.parametrize("worlds", ["postgresql-lmdb"], indirect=True)
def test_s40_a_function_that_writes_touches_what_it_is_declared_to_write(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.outside.connect() as connection:
        connection.exec_driver_sql(
            "CREATE FUNCTION sc_rename() RETURNS integer LANGUAGE sql AS "
            "'UPDATE sc_product SET name = ''x'' WHERE id = 1 RETURNING id'"
        )
    statements: list[Any] = [select(func.sc_rename()), text("SELECT sc_rename()")]
    for number, statement in enumerate(statements):
        with shop.outside.connect() as connection:
            connection.exec_driver_sql(f"UPDATE sc_product SET name = '{number}' WHERE id = 1")
        shop.cache.invalidate_all()
        with shop.expecting(changed=[get(Product, 1)], kept=[get(Category, 1), count_of(Tag)]), shop.write() as session:
            session.execute(statement.execution_options(**DECLARED))


def test_s40_an_undeclared_write_that_is_not_known_drops_everything(shop: World) -> None:
    if shop.dialect == "sqlite":
        statement = "UPDATE OR REPLACE sc_product SET name = 'x' WHERE id = 1"
    elif shop.dialect == "postgresql":
        statement = "DO $$ BEGIN UPDATE sc_product SET name = 'x' WHERE id = 1; END $$"
    else:
        statement = "BEGIN NOT ATOMIC UPDATE sc_product SET name = 'x' WHERE id = 1; END"
    shop.prime(get(Product, 1), get(Category, 1))
    with shop.write() as session:
        session.execute(text(statement))
    assert shop.cost(get(Category, 1)) == 1
    shop.assert_true(get(Product, 1))


def test_s30_what_text_reads_in_a_dirty_transaction_is_not_shared(shop: World) -> None:
    with shop.session() as session:
        session.execute(insert(Tag).values(id=9, name="mine"))
        assert session.scalar(text("SELECT count(*) FROM sc_tag")) == 3
        session.rollback()
    read = rows(text("SELECT count(*) FROM sc_tag"))
    shop.assert_true(read)
    assert shop.read(read) == [(2,)]
