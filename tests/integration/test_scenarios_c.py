"""C. Ways to write: whatever way a change takes through an attached engine, it is heard."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Connection, case, delete, insert, literal, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session

from scenario_support import Category, Product, Tag, World, count_of, get, in_category, names, rows

PAIRS = ("sqlite-memory", "sqlite-lmdb", "postgresql-lmdb", "mariadb-memory")
PLUM = {"name": "plum", "category_id": 1, "price": Decimal(3), "views": 5}
PLUMS = [PLUM, {**PLUM, "name": "sloe"}]

Way = Callable[[Session], Any]


def test_s35_a_flush_is_heard_when_it_is_committed(shop: World) -> None:
    with shop.expecting(changed=[in_category(1)], kept=[in_category(2), get(Product, 1)]), shop.session() as session:
        session.add(Product(**PLUM))
        session.flush()
        session.commit()


def test_s35_the_flush_that_commit_itself_triggers_is_heard(shop: World) -> None:
    with (
        shop.expecting(changed=[get(Product, 1)], kept=[in_category(2), get(Product, 2)]),
        shop.session(autoflush=False) as session,
    ):
        session.get_one(Product, 1).name = "quince"
        session.commit()


BULK: dict[str, Way] = {
    "bulk_save_objects": lambda session: session.bulk_save_objects([Product(**row) for row in PLUMS]),
    "bulk_save_objects with keys": lambda session: session.bulk_save_objects([Product(**PLUM)], return_defaults=True),
    "bulk_insert_mappings": lambda session: session.bulk_insert_mappings(Product, PLUMS),
    "insert of many": lambda session: session.execute(insert(Product), PLUMS),
    "insert of many returning": lambda session: session.scalars(insert(Product).returning(Product), PLUMS).all(),
    "insert of values": lambda session: session.execute(insert(Product).values(PLUMS)),
    "add_all": lambda session: session.add_all([Product(**row) for row in PLUMS]),
}


@pytest.mark.parametrize("way", BULK)
def test_s36_many_rows_inserted_at_once_are_heard(shop: World, way: str) -> None:
    with (
        shop.expecting(changed=[in_category(1), count_of(Product)], kept=[count_of(Category), get(Category, 1)]),
        shop.write() as session,
    ):
        BULK[way](session)


def test_s36_rows_updated_by_mappings_are_heard(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 1), in_category(1)], kept=[get(Category, 1)]), shop.write() as session:
        session.bulk_update_mappings(Product, [{"id": 1, "name": "quince"}])


def test_s36_rows_updated_by_primary_key_in_bulk_are_heard(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 1), in_category(2)], kept=[get(Category, 1)]), shop.write() as session:
        session.execute(update(Product), [{"id": 1, "name": "quince"}, {"id": 3, "name": "beet"}])


ROW = {**PLUM, "id": 1}
ANY: dict[str, Way] = {
    "update": lambda session: session.execute(update(Product).where(Product.id == 1).values(name="quince")),
    "update of the table": lambda session: session.execute(
        update(Product.__table__).where(Product.id == 1).values(name="quince")  # type: ignore[arg-type]
    ),
    "update unsynchronised": lambda session: session.execute(
        update(Product).where(Product.views == 10).values(name="quince"),
        execution_options={"synchronize_session": False},
    ),
    "update fetching": lambda session: session.execute(
        update(Product).where(Product.views == 10).values(name=case((Product.views > 5, "quince"), else_="")),
        execution_options={"synchronize_session": "fetch"},
    ),
    "update from another table": lambda session: session.execute(
        update(Product).where(Product.category_id == Category.id, Category.name == "fruit").values(name="quince"),
        execution_options={"synchronize_session": False},
    ),
    "legacy update": lambda session: session.query(Product).filter_by(id=1).update({"name": "quince"}),
    "core on the session's connection": lambda session: session.connection().execute(
        update(Product).where(Product.id == 1).values(name="quince")
    ),
    "text": lambda session: session.execute(
        text("UPDATE sc_product SET name = :name WHERE id = :id"), {"name": "quince", "id": 1}
    ),
    "text of many": lambda session: session.execute(
        text("UPDATE sc_product SET name = :name WHERE id = :id"), [{"name": "quince", "id": 1}, {"name": "x", "id": 3}]
    ),
    "driver SQL": lambda session: session.connection().exec_driver_sql("UPDATE sc_product SET name = 'x' WHERE id = 1"),
    "driver SQL in odd clothes": lambda session: session.connection().exec_driver_sql(
        "/* hello */ upDATE\n\t sc_product -- SELECT\n SET name = 'x' WHERE id = 1"
    ),
    "insert from select": lambda session: session.execute(
        insert(Product).from_select(
            ["name", "category_id", "price", "views"],
            select(literal("plum"), Category.id, literal(Decimal(3)), literal(1)).where(Category.id == 1),
        )
    ),
}
ANY["delete"] = lambda session: (
    session.execute(text("DELETE FROM sc_label")),
    session.execute(delete(Product).where(Product.id == 1)),
)
NOT_MARIADB: dict[str, Way] = {
    "update returning": lambda session: session.execute(
        update(Product).where(Product.id == 1).values(name="quince").returning(Product.id)
    ).all(),
    "DML in a CTE's place": lambda session: session.execute(
        text(
            "WITH chosen AS (SELECT id FROM sc_product WHERE views = 10) "
            "UPDATE sc_product SET name = 'x' WHERE id IN (SELECT id FROM chosen)"
        )
    ),
}
SQLITE: dict[str, Way] = {
    "upsert": lambda session: session.execute(
        sqlite.insert(Product).values(ROW).on_conflict_do_update(index_elements=["id"], set_={"name": "plum"})
    ),
    "replace": lambda session: (
        session.execute(text("REPLACE INTO sc_label (product_id, tag_id) VALUES (1, 2)")),
        session.execute(text("UPDATE OR REPLACE sc_product SET name = 'x' WHERE id = 1")),
    ),
    "a pragma before": lambda session: (
        session.execute(text("PRAGMA cache_size = 1000")),
        session.execute(text("UPDATE sc_product SET name = 'x' WHERE id = 1")),
    ),
}
POSTGRESQL: dict[str, Way] = {
    "upsert": lambda session: session.execute(
        postgresql.insert(Product).values(ROW).on_conflict_do_update(index_elements=["id"], set_={"name": "plum"})
    ),
    "merge": lambda session: session.execute(
        text("MERGE INTO sc_product p USING (SELECT 1 AS id) s ON p.id = s.id WHEN MATCHED THEN UPDATE SET name = 'x'")
    ),
    "DML inside a CTE": lambda session: session.execute(
        select(update(Product).where(Product.id == 1).values(name="quince").returning(Product.id).cte("done"))
    ).all(),
    "DML added as a CTE": lambda session: session.execute(
        select(literal(1)).add_cte(update(Product).where(Product.id == 1).values(name="x").cte("done"))
    ).all(),
    "several statements in one string": lambda session: session.connection().exec_driver_sql(
        "SELECT 1; UPDATE sc_product SET name = 'x' WHERE id = 1"
    ),
    "a DO block": lambda session: session.execute(
        text("DO $$ BEGIN UPDATE sc_product SET name = 'x' WHERE id = 1; END $$")
    ),
    "truncate": lambda session: session.execute(text("TRUNCATE sc_product CASCADE")),
    "copy": lambda session: session.execute(
        text("COPY sc_product (id, name, category_id, price, views) FROM PROGRAM 'echo 9,plum,1,3,5' WITH (FORMAT csv)")
    ),
}
MARIADB: dict[str, Way] = {
    "upsert": lambda session: session.execute(mysql.insert(Product).values(ROW).on_duplicate_key_update(name="plum")),
    "delete of several tables": lambda session: session.execute(
        text("DELETE l, p FROM sc_product p LEFT JOIN sc_label l ON l.product_id = p.id WHERE p.id = 4")
    ),
    "truncate": lambda session: (
        session.execute(text("SET FOREIGN_KEY_CHECKS = 0")),
        session.execute(text("TRUNCATE sc_product")),
        session.execute(text("SET FOREIGN_KEY_CHECKS = 1")),
    ),
}


def ways() -> list[Any]:
    """Return every way with every pair that it can run on."""
    found: list[Any] = []
    for pair in PAIRS:
        kind = pair.split("-")[0]
        own = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mariadb": MARIADB}[kind]
        every = {**ANY, **({} if kind == "mariadb" else NOT_MARIADB), **own}
        if pair == "sqlite-lmdb":
            every = {"text": ANY["text"]}
        found.extend(pytest.param(pair, way, id=f"{pair}-{name}") for name, way in every.items())
    return found


@pytest.mark.parametrize(("worlds", "way"), ways(), indirect=["worlds"])
def test_s37_s38_s40_every_statement_that_changes_a_table_is_heard(shop: World, way: Way) -> None:
    everything = rows(select(Product.id, Product.name).order_by(Product.id))
    with (
        shop.expecting(changed=[everything], true=[in_category(1), get(Product, 1), names(Product.views == 10)]),
        shop.write() as session,
    ):
        way(session)


@pytest.mark.parametrize("way", ["update", "text", "driver SQL", "insert from select", "legacy update"])
def test_s37_a_statement_on_one_table_keeps_the_reads_of_others(shop: World, way: str) -> None:
    with shop.expecting(changed=[in_category(1)], kept=[get(Tag, 1), count_of(Tag)]), shop.write() as session:
        ANY[way](session)


def test_s38_a_legacy_delete_is_heard(shop: World) -> None:
    with shop.expecting(changed=[in_category(2), count_of(Product)], kept=[get(Tag, 1)]), shop.write() as session:
        assert session.query(Product).filter(Product.category_id == 2).delete() == 2


def rename(connection: Connection) -> None:
    connection.execute(update(Product).where(Product.id == 1).values(name="quince"))


def test_s39_core_on_another_connection_is_heard(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 1)], kept=[get(Category, 1)]), shop.engine.begin() as connection:
        rename(connection)


def test_s39_core_in_autocommit_is_heard_at_once(shop: World) -> None:
    with (
        shop.expecting(changed=[get(Product, 1)], kept=[get(Category, 1)]),
        shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
    ):
        rename(connection)
        shop.assert_true(get(Product, 1))


def test_s39_core_and_orm_in_one_transaction_are_both_heard(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 1), get(Category, 2)], kept=[get(Tag, 1)]), shop.write() as session:
        session.get_one(Category, 2).name = "bulbs"
        rename(session.connection())


@pytest.mark.parametrize("worlds", ["postgresql-lmdb", "mariadb-memory"], indirect=True)
@pytest.mark.parametrize("commits", [False, True])
def test_s40_a_stored_procedure_is_heard_also_when_it_commits_by_itself(shop: World, commits: bool) -> None:
    end = "COMMIT;" if commits else ""
    body = f"BEGIN UPDATE sc_product SET name = 'x' WHERE id = 1; {end} END"
    language = f"LANGUAGE plpgsql AS $$ {body} $$" if shop.dialect == "postgresql" else body
    with shop.outside.connect() as connection:
        connection.exec_driver_sql(f"CREATE PROCEDURE sc_rename() {language}")
    try:
        # PostgreSQL lets a procedure commit only where no transaction was begun around it.
        with (
            shop.expecting(changed=[get(Product, 1), in_category(1)]),
            shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            connection.execute(text("CALL sc_rename()"))
    finally:
        with shop.outside.connect() as connection:
            connection.exec_driver_sql("DROP PROCEDURE sc_rename")


def test_s40_a_change_of_the_schema_is_heard(shop: World) -> None:
    with (
        shop.expecting(changed=[get(Product, 1)], true=[in_category(1), get(Category, 1)]),
        shop.engine.begin() as connection,
    ):
        connection.execute(text("ALTER TABLE sc_product ADD COLUMN color VARCHAR(10) DEFAULT 'red'"))
        connection.execute(text("UPDATE sc_product SET name = 'x' WHERE id = 1"))


def test_s40_a_table_that_is_made_anew_is_empty(shop: World) -> None:
    labels = rows(text("SELECT count(*) FROM sc_label"))
    counted = rows(select(Product.id).where(Product.tags.any()))
    with shop.expecting(changed=[counted], uncached=[labels]), shop.engine.begin() as connection:
        connection.execute(text("DROP TABLE sc_label"))
        connection.execute(text("CREATE TABLE sc_label (product_id INTEGER, tag_id INTEGER)"))


@pytest.mark.parametrize("worlds", ["mariadb-memory"], indirect=True)
def test_s40_what_the_server_commits_by_itself_is_heard_although_the_application_rolls_back(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 1)]), shop.session() as session:
        session.execute(text("UPDATE sc_product SET name = 'x' WHERE id = 1"))
        session.execute(text("CREATE TABLE sc_other (id INTEGER)"))
        shop.assert_true(get(Product, 1))
        session.rollback()


@pytest.mark.parametrize("worlds", ["sqlite-memory", "postgresql-lmdb"], indirect=True)
def test_s40_a_commit_given_as_text_is_heard(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 1)]), shop.engine.connect() as connection:
        rename(connection)
        connection.exec_driver_sql("COMMIT")
        shop.assert_true(get(Product, 1))


def test_s40_a_commit_on_the_driver_s_connection_is_heard_at_the_latest_when_it_goes_back(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 1)]), shop.engine.connect() as connection:
        rename(connection)
        connection.connection.commit()
