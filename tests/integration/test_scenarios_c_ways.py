"""C. More ways to write: each is tried against the same reads, of which those of other tables must stay hits.

Where a way tells which rows it changes, the reads of other rows must stay hits too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import __version__ as version_of_sqlalchemy
from sqlalchemy import bindparam, case, delete, exists, func, insert, literal, select, text, update
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Session

from scenario_support import (
    Category,
    Matrix,
    Product,
    Read,
    Shop,
    Tag,
    World,
    count_of,
    get,
    in_category,
    labels,
    names,
    refill,
    rows,
    stock,
)

PRODUCTS, CATEGORIES, TAGS, LABELS = "sc_product", "sc_category", "sc_tag", "sc_label"
EVERYTHING = frozenset({PRODUCTS, CATEGORIES, TAGS, LABELS})
PLUM: dict[str, Any] = {"name": "plum", "category_id": 1, "price": Decimal(3), "views": 5}

READS: dict[str, Read] = {
    "apple": get(Product, 1),
    "pear": get(Product, 2),
    "carrot": get(Product, 3),
    "plum": get(Product, 9),
    "fruit": in_category(1),
    "roots": in_category(2),
    "count": count_of(Product),
    "names": rows(select(Product.id, Product.name, Product.category_id).order_by(Product.id)),
    "seen often": names(Product.views > 15),
    "quince": names(Product.name == "quince"),
    "joined": rows(select(Product.name, Category.name).join(Category).order_by(Product.id)),
    "categories": rows(select(Category.id, Category.name).order_by(Category.id)),
    "fruit itself": get(Category, 1),
    "roots itself": get(Category, 2),
    "labels": rows(select(labels).order_by(labels.c.product_id, labels.c.tag_id)),
    "labelled": rows(select(Product.id).join(Product.tags).where(Tag.id == 1).order_by(Product.id)),
    "tags": rows(select(Tag.name).order_by(Tag.id)),
}
# What a way that tells its rows leaves alone when it changes the apple, or an apple into a root.
PEAR = frozenset({"pear", "carrot", "plum"})
NOT_ROOTS = PEAR | {"roots"}
IS_20 = version_of_sqlalchemy.startswith("2.0.")


@dataclass(frozen=True)
class Way:
    """One way to write, the tables that it may touch, and the reads of those that must stay hits nevertheless."""

    write: Callable[[Session], Any]
    written: Collection[str] = (PRODUCTS,)
    kept: Collection[str] = ()
    on: str = "sqlite postgresql mariadb"


def sql(*statements: str) -> Callable[[Session], Any]:
    def write(session: Session) -> None:
        for statement in statements:
            session.execute(text(statement))

    return write


def driver(statement: str, parameters: Any = None) -> Callable[[Session], Any]:
    return lambda session: session.connection().exec_driver_sql(statement, parameters)


def raw(act: Callable[[Any], Any]) -> Callable[[Session], Any]:
    """Use a cursor of the driver's own."""

    def write(session: Session) -> None:
        cursor = session.connection().connection.cursor()
        act(cursor)
        cursor.close()

    return write


def options(**given: Any) -> dict[str, Any]:
    return {"execution_options": given}


def bulk_save(session: Session) -> None:
    products = session.scalars(select(Product).where(Product.category_id == 1)).all()
    session.expunge_all()
    for product in products:
        product.category_id, product.name = 2, f"{product.name}s"
    session.bulk_save_objects(products)


def merge_detached(session: Session) -> None:
    session.merge(Product(id=1, name="quince", category_id=2, price=Decimal(1), views=10))


def merge_new(session: Session) -> None:
    session.merge(Product(id=9, **PLUM))


def returning_in_order(session: Session) -> None:
    many = [{**PLUM, "name": f"plum {number}"} for number in range(3)]
    found = session.scalars(insert(Product).returning(Product, sort_by_parameter_order=True), many).all()
    assert [product.name for product in found] == ["plum 0", "plum 1", "plum 2"]


def moved_by_cte(session: Session) -> None:
    gone = delete(labels).where(labels.c.product_id == 1).returning(labels.c.product_id).cte("gone")
    session.execute(update(Product).where(Product.id.in_(select(gone.c.product_id))).values(name="quince"))


def flush_around_core(session: Session) -> None:
    product = session.get_one(Product, 1)
    product.category_id = 2
    session.flush()
    session.connection().execute(update(T).where(T.c.id == 2).values(name="quince"))
    product.name = "apples"


def copy_in(cursor: Any) -> None:
    with cursor.copy("COPY sc_product (id, name, category_id, price, views) FROM STDIN") as copying:
        copying.write_row((9, "plum", 1, 3, 5))


T: Any = Product.__table__
C: Any = Category.__table__
BY_ID = T.c.id == bindparam("an_id")
WAYS: dict[str, Way] = {
    # 36
    "s36 bulk_save_objects of rows that are there": Way(bulk_save),
    "s36 bulk_save_objects in any order": Way(
        lambda session: session.bulk_save_objects(
            [Product(**PLUM), Category(id=9, name="herbs"), Product(**PLUM, note="ripe")], preserve_order=False
        ),
        {PRODUCTS, CATEGORIES},
        {"roots", "apple", "pear", "fruit itself", "roots itself"},
        on="postgresql",
    ),
    "s36 bulk_update_mappings that move": Way(
        lambda session: session.bulk_update_mappings(
            Product, [{"id": 1, "category_id": 2}, {"id": 3, "name": "quince"}]
        ),
        kept={"pear", "plum"},
    ),
    "s36 bulk_insert_mappings with other keys each": Way(
        lambda session: session.bulk_insert_mappings(Product, [PLUM, {**PLUM, "note": "ripe"}, {**PLUM, "id": 9}]),
        kept={"apple", "roots"},
    ),
    "s36 bulk_insert_mappings with nulls": Way(
        lambda session: session.bulk_insert_mappings(Product, [PLUM, {**PLUM, "note": "ripe"}], render_nulls=True),
        kept={"apple", "roots"},
        on="sqlite",
    ),
    # SQLAlchemy 2.0 does not say which keys the rows got that it returns in order: their table is dropped.
    "s36 insertmanyvalues in order": Way(returning_in_order, kept=set() if IS_20 else {"apple", "roots"}),
    "s36 update by primary key that moves": Way(
        lambda session: session.execute(update(Product), [{"id": 1, "category_id": 2}, {"id": 2, "name": "quince"}]),
        kept={"carrot", "plum"},
    ),
    "s36 insert with other keys each": Way(
        lambda session: session.execute(insert(Product), [PLUM, {**PLUM, "note": "ripe"}]),
        kept={"apple", "roots"},
        on="mariadb",
    ),
    "s36 a merge of what is there": Way(merge_detached, kept=PEAR, on="sqlite"),
    "s36 a merge of what is new": Way(merge_new, kept={"apple", "pear", "roots"}, on="mariadb"),
    # 37
    **{
        f"s37 update, synchronize_session={how!r}": Way(
            lambda session, how=how: session.execute(  # type: ignore[misc]
                update(Product).where(Product.category_id == 1).values(name="quince", category_id=2),
                **options(synchronize_session=how),
            ),
            on="sqlite",
        )
        for how in ("auto", "evaluate", "fetch", False)
    },
    **{
        f"s37 delete, synchronize_session={how!r}": Way(
            lambda session, how=how: session.execute(  # type: ignore[misc]
                delete(Product).where(Product.category_id == 2, Product.id > 3), **options(synchronize_session=how)
            ),
            on="sqlite",
        )
        for how in ("auto", "evaluate", "fetch", False)
    },
    "s37 update of one row": Way(
        lambda session: session.execute(update(Product).where(Product.id == 1).values(name="quince")), kept=NOT_ROOTS
    ),
    "s37 update of one row that moves": Way(
        lambda session: session.execute(update(Product).where(Product.id == 1).values(category_id=2)), kept=PEAR
    ),
    "s37 update of one row by an expression": Way(
        lambda session: session.execute(
            update(Product).where(Product.id == 1).values(category_id=Product.category_id + 1, views=Product.views * 3)
        ),
        kept=PEAR,
    ),
    "s37 update to a subquery": Way(
        lambda session: session.execute(
            update(Product)
            .where(Product.id == 1)
            .values(category_id=select(func.max(Category.id)).scalar_subquery(), name="quince"),
            **options(synchronize_session=False),
        ),
        kept=PEAR,
    ),
    "s37 update to a case": Way(
        lambda session: session.execute(
            update(Product).values(name=case((Product.id == 1, "quince"), else_=Product.name)),
            **options(synchronize_session=False),
        ),
        on="sqlite",
    ),
    "s37 update where a subquery says": Way(
        lambda session: session.execute(
            update(Product)
            .where(Product.category_id.in_(select(Category.id).where(Category.name == "fruit")))
            .values(name="quince"),
            **options(synchronize_session=False),
        ),
        on="sqlite postgresql",
    ),
    "s37 update of a primary key": Way(
        lambda session: session.execute(
            update(Product).where(Product.id == 3).values(id=9), **options(synchronize_session=False)
        ),
        # PostgreSQL is not asked for old values where a key changes: every list of products is dropped.
        kept={"apple", "pear"},
    ),
    "s37 update to a bound key that is also asked for": Way(
        lambda session: session.connection().execute(
            update(T).where(BY_ID).values(id=bindparam("new_id")), {"an_id": 3, "new_id": 9}
        ),
    ),
    "s37 delete where there are none": Way(
        lambda session: session.execute(
            delete(Product).where(~exists().where(labels.c.product_id == Product.id)),
            **options(synchronize_session=False),
        ),
        on="sqlite postgresql",
    ),
    "s37 delete of one row": Way(
        lambda session: session.execute(delete(Product).where(Product.id == 3)), kept={"apple", "pear", "fruit"}
    ),
    "s37 delete of what another table says": Way(
        lambda session: session.execute(
            delete(Product).where(Product.category_id == Category.id, Category.name == "roots"),
            **options(synchronize_session=False),
        ),
        {PRODUCTS, CATEGORIES},
        on="postgresql mariadb",
    ),
    "s37 insert from select": Way(
        lambda session: session.execute(
            insert(Product).from_select(
                ["id", "name", "category_id", "price", "views"],
                select(Product.id + 8, literal("plum"), Product.category_id, Product.price, Product.views).where(
                    Product.id == 1
                ),
            )
        )
    ),
    "s37 insert of a subquery": Way(
        lambda session: session.connection().execute(
            insert(T).values(**{**PLUM, "id": 9, "category_id": select(func.max(C.c.id)).scalar_subquery()})
        ),
        kept={"apple", "pear"},
        on="postgresql",
    ),
    "s37 insert of many values": Way(
        lambda session: session.execute(insert(Product).values([{**PLUM, "id": 9}, {**PLUM, "id": 10}]))
    ),
    "s37 the association table's own": Way(
        lambda session: (
            session.execute(insert(labels), [{"product_id": 3, "tag_id": 1}]),
            session.execute(delete(labels).where(labels.c.product_id == 1)),
        ),
        {LABELS},
    ),
    "s37 two deletes of one statement": Way(
        lambda session: session.connection().execute(delete(T).where(BY_ID), [{"an_id": 3}, {"an_id": 4}]),
        kept={"apple", "pear"},
        on="sqlite postgresql",
    ),
    "s37 two updates of one statement": Way(
        lambda session: session.connection().execute(
            update(T).where(BY_ID).values(name=bindparam("a_name"), category_id=bindparam("a_category")),
            [{"an_id": 1, "a_name": "quince", "a_category": 2}, {"an_id": 3, "a_name": "beet", "a_category": 1}],
        ),
        kept={"pear", "plum"},
    ),
    "s37 delete and insert the same row": Way(
        lambda session: (
            session.execute(delete(Product).where(Product.id == 3)),
            session.execute(insert(Product).values(**PLUM | {"id": 3})),
        ),
        kept={"apple", "pear", "plum"},
    ),
    "s37 upsert that moves": Way(
        lambda session: session.execute(
            (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql)
            .insert(Product)
            .values(id=1, **PLUM)
            .on_conflict_do_update(index_elements=["id"], set_={"category_id": 2, "name": "quince"})
        ),
        on="sqlite postgresql",
    ),
    "s37 upsert that changes the key": Way(
        lambda session: session.execute(
            (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql)
            .insert(Product)
            .values(id=3, **PLUM)
            .on_conflict_do_update(index_elements=["id"], set_={"id": 9})
        ),
        on="sqlite postgresql",
    ),
    "s37 upsert of what was to be inserted": Way(
        lambda session: session.execute(
            (
                one := (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql).insert(T)
            ).on_conflict_do_update(index_elements=["id"], set_={"name": one.excluded.name}),
            [{**PLUM, "id": 1}, {**PLUM, "id": 9}],
        ),
        on="sqlite postgresql",
    ),
    "s37 upsert that does nothing": Way(
        lambda session: session.execute(
            (sqlite if session.get_bind().dialect.name == "sqlite" else postgresql)
            .insert(Product)
            .values([{**PLUM, "id": 1}, {**PLUM, "id": 9}])
            .on_conflict_do_nothing()
        ),
        on="sqlite postgresql",
    ),
    "s37 update from another table": Way(
        lambda session: session.execute(
            update(Product).where(Product.category_id == Category.id, Category.id == 1).values(name=Category.name),
            **options(synchronize_session=False),
        ),
        {PRODUCTS, CATEGORIES},
    ),
    "s37 update returning": Way(
        lambda session: session.scalars(
            update(Product).where(Product.category_id == 1).values(category_id=2).returning(Product)
        ).all(),
        on="sqlite postgresql",
    ),
    "s37 delete returning": Way(
        lambda session: session.scalars(delete(Product).where(Product.id == 3).returning(Product.name)).all(),
        kept={"apple", "pear", "fruit"},
    ),
    "s37 DML in CTEs of DML": Way(moved_by_cte, {PRODUCTS, LABELS}, on="postgresql"),
    "s37 what a CTE deletes is inserted elsewhere": Way(
        sql(
            "WITH gone AS (DELETE FROM sc_label WHERE product_id = 1 RETURNING tag_id) "
            "INSERT INTO sc_label (product_id, tag_id) SELECT 3, tag_id FROM gone"
        ),
        {LABELS},
        on="postgresql",
    ),
    "s37 MERGE": Way(
        sql(
            "MERGE INTO sc_product p USING sc_category c ON p.category_id = c.id AND c.name = 'fruit' "
            "WHEN MATCHED AND p.id = 1 THEN UPDATE SET name = 'quince' WHEN MATCHED AND p.id = 9 THEN DELETE "
            "WHEN NOT MATCHED THEN INSERT (name, category_id, price, views) VALUES ('plum', c.id, 1, 1)"
        ),
        EVERYTHING,
        on="postgresql",
    ),
    "s37 update of two tables": Way(
        lambda session: session.connection().execute(
            update(T).where(T.c.category_id == C.c.id, C.c.id == 1).values({T.c.name: "quince", C.c.name: "fruits"})
        ),
        {PRODUCTS, CATEGORIES},
        on="mariadb",
    ),
    "s37 update with a limit": Way(
        lambda session: session.connection().execute(
            update(T).with_dialect_options(mysql_limit=1).values(name="quince")
        ),
        on="mariadb",
    ),
    "s37 update of one row with a limit": Way(
        lambda session: session.connection().execute(
            update(T).where(T.c.id == 1).with_dialect_options(mysql_limit=1).values(category_id=2)
        ),
        kept=PEAR,
        on="mariadb",
    ),
    "s37 insert or replace": Way(
        lambda session: session.connection().execute(insert(T).prefix_with("OR REPLACE"), {**PLUM, "id": 3}),
        on="sqlite",
    ),
    "s37 insert or ignore": Way(
        lambda session: session.connection().execute(
            insert(T).prefix_with("OR IGNORE"), [{**PLUM, "id": 1}, {**PLUM, "id": 9}]
        ),
        on="sqlite",
    ),
    "s37 insert ignore": Way(
        lambda session: session.connection().execute(
            insert(T).prefix_with("IGNORE"), [{**PLUM, "id": 1}, {**PLUM, "id": 9}]
        ),
        on="mariadb",
    ),
    "s37 on duplicate key": Way(
        lambda session: session.execute(
            (one := mysql.insert(Product).values(id=1, **PLUM)).on_duplicate_key_update(
                category_id=2, name=one.inserted.name, views=Product.views + 1
            )
        ),
        on="mariadb",
    ),
    "s37 on duplicate key, the key": Way(
        lambda session: session.execute(mysql.insert(Product).values(id=3, **PLUM).on_duplicate_key_update(id=9)),
        on="mariadb",
    ),
    # 38
    "s38 legacy update that moves": Way(
        lambda session: session.query(Product).filter(Product.category_id == 1).update({Product.category_id: 2}),
        on="sqlite",
    ),
    "s38 legacy update unsynchronised": Way(
        lambda session: (
            session.query(Product)
            .filter(Product.name.like("a%"))
            .update({"name": Product.name + "s"}, synchronize_session=False)
        ),
        on="postgresql",
    ),
    "s38 legacy delete fetching": Way(
        lambda session: session.query(Product).filter(Product.views == 40).delete(synchronize_session="fetch"),
        on="mariadb",
    ),
    # 39
    "s39 core and flushes around it": Way(flush_around_core, kept={"carrot", "plum"}),
    # 40
    "s40 text of several tables": Way(
        sql(
            "UPDATE sc_product SET name = 'quince' WHERE id = 1", "UPDATE sc_category SET name = 'fruits' WHERE id = 1"
        ),
        {PRODUCTS, CATEGORIES},
    ),
    "s40 text with a comment and quotes": Way(
        sql(
            "/* UPDATE sc_tag */ UPDATE sc_product -- sc_category\n SET name = 'it''s; DELETE FROM sc_tag' WHERE id = 1"
        )
    ),
    "s40 text, inserted from a query": Way(
        sql("INSERT INTO sc_label (product_id, tag_id) SELECT id, 1 FROM sc_product WHERE id > 2"), {LABELS}
    ),
    "s40 text, deleted": Way(
        sql("DELETE FROM sc_label WHERE tag_id IN (SELECT id FROM sc_tag)"), {LABELS}, on="sqlite mariadb"
    ),
    "s40 text with a schema": Way(sql("UPDATE public.sc_product SET name = 'quince' WHERE id = 1"), on="postgresql"),
    "s40 text with quoted names": Way(
        sql('UPDATE "sc_product" SET "name" = \'quince\' WHERE "id" = 1'), on="sqlite postgresql"
    ),
    "s40 text with backticks": Way(
        sql("UPDATE `sc_product` SET `name` = 'quince' WHERE `id` = 1"), on="sqlite mariadb"
    ),
    "s40 text in capitals": Way(sql("UPDATE SC_PRODUCT SET NAME = 'quince' WHERE ID = 1"), on="sqlite postgresql"),
    "s40 driver's SQL of many": Way(
        lambda session: session.connection().exec_driver_sql(
            {"sqlite": "UPDATE sc_product SET name = ? WHERE id = ?"}.get(
                session.get_bind().dialect.name, "UPDATE sc_product SET name = %s WHERE id = %s"
            ),
            [("quince", 1), ("beet", 3)],
        )
    ),
    "s40 a cursor of the driver's": Way(
        raw(lambda cursor: cursor.execute("UPDATE sc_product SET name = 'quince' WHERE id = 1")), EVERYTHING
    ),
    "s40 a cursor of the driver's, of many": Way(
        raw(lambda cursor: cursor.executemany("DELETE FROM sc_label WHERE tag_id = 1", [()])), EVERYTHING
    ),
    "s40 several statements": Way(
        driver("UPDATE sc_product SET name = 'quince' WHERE id = 1; UPDATE sc_tag SET name = 'rose' WHERE id = 1"),
        EVERYTHING,
        on="postgresql",
    ),
    "s40 a script": Way(
        raw(lambda cursor: cursor.executescript("UPDATE sc_product SET name = 'x'; UPDATE sc_tag SET name = 'y';")),
        EVERYTHING,
        on="sqlite",
    ),
    "s40 explained and run": Way(
        sql("EXPLAIN ANALYZE UPDATE sc_product SET name = 'quince' WHERE id = 1"), EVERYTHING, on="postgresql"
    ),
    "s40 analyzed and run": Way(
        sql("ANALYZE UPDATE sc_product SET name = 'quince' WHERE id = 1"), EVERYTHING, on="mariadb"
    ),
    "s40 prepared on the server": Way(
        sql(
            "PREPARE renaming AS UPDATE sc_product SET name = 'quince' WHERE id = $1",
            "EXECUTE renaming(1)",
            "DEALLOCATE renaming",
        ),
        EVERYTHING,
        on="postgresql",
    ),
    "s40 executed at once": Way(
        sql("EXECUTE IMMEDIATE 'UPDATE sc_product SET name = ''quince'' WHERE id = 1'"), EVERYTHING, on="mariadb"
    ),
    "s40 a block": Way(
        sql("BEGIN NOT ATOMIC UPDATE sc_product SET name = 'quince' WHERE id = 1; END"), EVERYTHING, on="mariadb"
    ),
    "s40 at a cursor": Way(
        sql(
            "DECLARE at CURSOR FOR SELECT id FROM sc_product WHERE id = 1 FOR UPDATE",
            "FETCH at",
            "UPDATE sc_product SET name = 'quince' WHERE CURRENT OF at",
        ),
        EVERYTHING,
        on="postgresql",
    ),
    "s40 TRUNCATE of several": Way(sql("TRUNCATE TABLE sc_label, sc_product"), EVERYTHING, on="postgresql"),
    "s40 TRUNCATE that cascades": Way(
        sql("TRUNCATE sc_category RESTART IDENTITY CASCADE"), EVERYTHING, on="postgresql"
    ),
    "s40 TRUNCATE": Way(sql("TRUNCATE TABLE sc_label"), EVERYTHING, on="postgresql mariadb"),
    "s40 COPY": Way(raw(copy_in), EVERYTHING, on="postgresql"),
    "s40 INSERT SET": Way(
        sql("INSERT INTO sc_product SET id = 9, name = 'plum', category_id = 1, price = 3, views = 5"), on="mariadb"
    ),
    "s40 REPLACE": Way(sql("REPLACE INTO sc_label (product_id, tag_id) VALUES (1, 2)"), {LABELS}, on="sqlite mariadb"),
    "s40 text of two tables": Way(
        sql(
            "UPDATE sc_product p JOIN sc_category c ON c.id = p.category_id SET p.name = 'x', c.name = 'y' WHERE c.id = 1"
        ),
        {PRODUCTS, CATEGORIES},
        on="mariadb",
    ),
    "s40 text, deleted by a join": Way(
        sql("DELETE FROM l USING sc_label l JOIN sc_tag t ON t.id = l.tag_id WHERE t.name = 'red'"),
        EVERYTHING,
        on="mariadb",
    ),
    "s40 tables that change places": Way(
        sql(
            "CREATE TABLE sc_other LIKE sc_label",
            "RENAME TABLE sc_label TO sc_old, sc_other TO sc_label",
            "RENAME TABLE sc_label TO sc_other, sc_old TO sc_label",
            "DROP TABLE sc_other",
            "DELETE FROM sc_label",
        ),
        EVERYTHING,
        on="mariadb",
    ),
}


@pytest.fixture(scope="module")
def standing_shop(standing: Any) -> tuple[World, Matrix]:
    world: World = standing(Category, Product, Tag)
    refill(world, Shop, stock)
    return world, Matrix(world, READS)


def ways() -> list[Any]:
    """Return each way with each database that has it."""
    pairs = {"sqlite": "sqlite-memory", "postgresql": "postgresql-lmdb", "mariadb": "mariadb-memory"}
    return [
        pytest.param(pair, way, id=f"{kind}-{name}")
        for kind, pair in pairs.items()
        for name, way in WAYS.items()
        if kind in way.on.split()
    ]


@pytest.mark.parametrize(("standing", "way"), ways(), indirect=["standing"])
def test_s36_to_s40_every_way_to_write_is_heard_where_it_writes(standing_shop: tuple[World, Matrix], way: Way) -> None:
    shop, matrix = standing_shop
    refill(shop, Shop, stock)
    matrix.begin()
    with shop.write() as session:
        way.write(session)
    assert matrix.changed_by(way.written, way.kept), "the scenario changes nothing"
    matrix.assert_all_stored()
