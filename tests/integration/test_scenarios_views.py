"""Views and functions of the database: a read of one follows the tables behind it, or is not cached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import String, func, select, text, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from querycache import FromCache
from scenario_support import (
    Category,
    Product,
    Tag,
    World,
    count_of,
    entities,
    get,
    in_category,
    names,
    rows,
)

ONE_EACH = ["sqlite-memory", "postgresql-lmdb", "mariadb-memory"]


class Views(DeclarativeBase):
    pass


class Active(Views):
    """A model that is mapped to a view."""

    __tablename__ = "sc_active"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


class Upper(Views):
    """A model that is mapped to a view of a view."""

    __tablename__ = "sc_upper"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))


ACTIVE = (
    "CREATE VIEW sc_active AS SELECT p.id, p.name FROM sc_product p JOIN sc_category c ON c.id = p.category_id "
    "WHERE c.name = 'fruit' AND NOT EXISTS (SELECT 1 FROM sc_label l WHERE l.product_id = p.id AND l.tag_id = 2)"
)
UPPER = "CREATE VIEW sc_upper AS SELECT id, upper(name) AS name FROM sc_active"

SHOWN = entities(select(Active).order_by(Active.id))
SHOUTED = entities(select(Upper).order_by(Upper.id))


def run(world: World, *statements: str) -> None:
    with world.outside.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@contextmanager
def viewing(worlds: Any, *views: str, models: tuple[Any, ...] = (Active, Upper), **options: Any) -> Iterator[World]:
    """Make a shop with views over it, before the cache first looks at the catalog; ``models`` of them are cacheable."""
    shop: World = worlds.shop(**options)
    shop.cache.add_models(*models)
    run(shop, *views)
    try:
        yield shop
    finally:
        for view in reversed(views):
            run(shop, " ".join(["DROP", *view.split(" AS ")[0].split()[1:]]))


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_view_follows_the_tables_behind_it(worlds: Any) -> None:
    with viewing(worlds, ACTIVE, UPPER) as shop:
        for change in (
            update(Product).where(Product.id == 1).values(name="quince"),
            update(Category).where(Category.id == 1).values(name="fruits"),
        ):
            with (
                shop.expecting(changed=[SHOWN, SHOUTED, get(Active, 1)], kept=[count_of(Tag)]),
                shop.write() as session,
            ):
                session.execute(change)


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_view_follows_a_table_that_only_a_subquery_of_it_reads(worlds: Any) -> None:
    with (
        viewing(worlds, ACTIVE, UPPER) as shop,
        shop.expecting(changed=[SHOWN, SHOUTED], kept=[get(Product, 1), count_of(Tag)]),
        shop.write() as session,
    ):
        pear = session.get_one(Product, 2)
        pear.tags.clear()


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_view_survives_what_it_does_not_read(worlds: Any) -> None:
    with (
        viewing(worlds, ACTIVE) as shop,
        shop.expecting(changed=[count_of(Tag)], kept=[SHOWN]),
        shop.write() as session,
    ):
        session.add(Tag(name="blue"))


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_join_with_a_view_follows_both(worlds: Any) -> None:
    joined = rows(select(Product.name, Active.name).join(Active, Active.id == Product.id).where(Active.id == 1))
    with viewing(worlds, ACTIVE) as shop:
        with shop.expecting(changed=[joined]), shop.write() as session:
            session.get_one(Product, 1).name = "quince"
        with shop.expecting(changed=[joined]), shop.write() as session:
            session.get_one(Category, 1).name = "fruits"


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_view_that_no_model_makes_cacheable_is_not_cached_unless_asked_for(worlds: Any) -> None:
    with viewing(worlds, ACTIVE, models=()) as shop:
        assert [shop.cost(SHOWN), shop.cost(SHOWN)] == [1, 1]
        shop.prime(entities(select(Active).options(FromCache())))


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_transaction_that_changed_a_table_reads_its_views_from_the_database(worlds: Any) -> None:
    with viewing(worlds, ACTIVE) as shop:
        shop.prime(SHOWN)
        with shop.session() as session:
            session.get_one(Product, 1).name = "quince"
            assert SHOWN(session)[0] == (1, "quince")
            session.rollback()
        shop.assert_true(SHOWN)


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_write_through_a_view_is_heard_by_those_who_read_its_tables(worlds: Any) -> None:
    simple = "CREATE VIEW sc_active AS SELECT id, name FROM sc_product WHERE category_id = 1"
    triggered = (
        "CREATE TRIGGER sc_instead INSTEAD OF UPDATE ON sc_active "
        "BEGIN UPDATE sc_product SET name = new.name WHERE id = old.id; END"
    )
    with viewing(worlds, simple) as shop:
        run(shop, *([triggered] if shop.dialect == "sqlite" else []))
        with shop.expecting(changed=[SHOWN, get(Product, 1), in_category(1)]), shop.write() as session:
            session.execute(update(Active).where(Active.id == 1).values(name="quince"))


RESTLESS = {
    "sqlite": ["date('now')", "random()", "CURRENT_TIMESTAMP", "last_insert_rowid()"],
    "postgresql": [
        "now()",
        "random()",
        "CURRENT_DATE",
        "current_user",
        "nextval('sc_tag_id_seq')",
        "current_setting('search_path')",
        "(SELECT count(*) FROM pg_class)",
        "CAST(name AS date)",
        "(SELECT 1 FROM sc_tag FOR UPDATE LIMIT 1)",
    ],
    "mariadb": ["now()", "rand()", "CURRENT_DATE", "current_user()", "connection_id()", "last_insert_id()"],
}


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s31_a_view_with_what_differs_from_call_to_call_is_not_cached(worlds: Any) -> None:
    shop: World = worlds.shop()
    shop.cache.add_models(Active)
    read = rows(select(Active.id))
    for number, expression in enumerate(RESTLESS[shop.dialect]):
        view = f"CREATE VIEW sc_active AS SELECT id, name, {expression} AS other FROM sc_product"
        with shop.engine.begin() as connection:
            connection.exec_driver_sql(view)
        try:
            assert [shop.cost(read), shop.cost(read)] == [1, 1], expression
            reasons = shop.cache.stats()["reasons"]
            assert sum(count for reason, count in reasons.items() if "table sc_active" in reason) == 2 * (number + 1)
        finally:
            with shop.engine.begin() as connection:
                connection.exec_driver_sql("DROP VIEW sc_active")


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_view_that_is_not_understood_is_cached_as_declared(worlds: Any) -> None:
    # The user knows that the clock does not matter here.
    clock = "date('now')" if "sqlite" in worlds.url else "now()"
    strange = (
        f"CREATE VIEW sc_active AS SELECT id, name FROM sc_product WHERE category_id = 1 AND {clock} > '2000-01-01'"
    )
    with (
        viewing(worlds, strange, views={"sc_active": [Product]}) as shop,
        shop.expecting(changed=[SHOWN], kept=[count_of(Tag)]),
        shop.write() as session,
    ):
        session.get_one(Product, 1).name = "quince"


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_declared_table_that_the_database_does_not_have_is_the_reason_why_a_view_is_not_cached(
    worlds: Any,
) -> None:
    with viewing(worlds, ACTIVE, views={"sc_active": ["sc_prodct"]}) as shop:
        assert [shop.cost(SHOWN), shop.cost(SHOWN)] == [1, 1]
        assert any("sc_prodct, which was not in the catalog" in reason for reason in shop.cache.stats()["reasons"])


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_view_that_is_replaced_follows_what_it_reads_now(worlds: Any) -> None:
    with viewing(worlds, ACTIVE) as shop:
        shop.prime(SHOWN)
        with shop.engine.begin() as connection:
            connection.exec_driver_sql("DROP VIEW sc_active")
            connection.exec_driver_sql("CREATE VIEW sc_active AS SELECT id, name FROM sc_tag")
        with shop.expecting(changed=[SHOWN], kept=[count_of(Product)]), shop.write() as session:
            session.get_one(Tag, 1).name = "blue"


@pytest.mark.parametrize("worlds", ["postgresql-lmdb"], indirect=True)
def test_s29_a_materialized_view_is_cached_as_declared_and_dropped_when_it_is_refreshed(worlds: Any) -> None:
    made = "CREATE MATERIALIZED VIEW sc_active AS SELECT id, name FROM sc_product"
    with viewing(worlds, made, views={"sc_active": []}) as shop:
        shop.prime(SHOWN)
        with shop.write() as session:
            session.get_one(Product, 1).name = "quince"
        shop.assert_hit(SHOWN)
        with shop.expecting(changed=[SHOWN]), shop.engine.begin() as connection:
            connection.execute(text("REFRESH MATERIALIZED VIEW sc_active"))
        with shop.expecting(changed=[SHOWN]):
            run(shop, "UPDATE sc_product SET name = 'plum' WHERE id = 1", "REFRESH MATERIALIZED VIEW sc_active")
            shop.cache.invalidate(Active)


@pytest.mark.parametrize("worlds", ["postgresql-lmdb"], indirect=True)
def test_s29_a_materialized_view_that_nobody_declares_is_not_cached(worlds: Any) -> None:
    with viewing(worlds, "CREATE MATERIALIZED VIEW sc_active AS SELECT id, name FROM sc_product") as shop:
        assert [shop.cost(SHOWN), shop.cost(SHOWN)] == [1, 1]


FUNCTIONS = {
    "sqlite": [],
    "postgresql": [
        "CREATE FUNCTION sc_dear(integer) RETURNS boolean STABLE LANGUAGE sql AS "
        "'SELECT EXISTS (SELECT 1 FROM sc_tag WHERE id = $1)'"
    ],
    "mariadb": [
        "CREATE FUNCTION sc_dear(x INTEGER) RETURNS BOOLEAN READS SQL DATA RETURN EXISTS (SELECT 1 FROM sc_tag WHERE id = x)"
    ],
}
CALLING = rows(select(Product.id, func.sc_dear(Product.id)).order_by(Product.id))


@contextmanager
def calling(worlds: Any, **options: Any) -> Iterator[World]:
    shop: World = worlds.shop(**options)
    run(shop, *FUNCTIONS[shop.dialect])
    try:
        yield shop
    finally:
        run(shop, f"DROP FUNCTION sc_dear{'(integer)' if shop.dialect == 'postgresql' else ''}")


@pytest.mark.parametrize("worlds", ["postgresql-lmdb", "mariadb-memory"], indirect=True)
def test_s29_a_function_of_the_users_is_cached_as_declared_and_follows_what_it_reads(worlds: Any) -> None:
    with calling(worlds, functions={"sc_dear": ["sc_tag"]}) as shop:
        written = rows(text("SELECT id, sc_dear(id) FROM sc_product ORDER BY id"))
        with (
            shop.expecting(changed=[CALLING, written], kept=[get(Product, 1), count_of(Category)]),
            shop.write() as session,
        ):
            session.add(Tag(id=3, name="blue"))
        with shop.expecting(changed=[CALLING, written], kept=[count_of(Tag)]), shop.write() as session:
            session.add(Product(id=9, name="plum", category_id=1, price=Decimal(1)))


@pytest.mark.parametrize("worlds", ["postgresql-lmdb", "mariadb-memory"], indirect=True)
@pytest.mark.parametrize("declared", [True, False])
def test_s29_a_view_that_calls_a_function_follows_what_the_function_is_declared_to_read(
    worlds: Any, declared: bool
) -> None:
    with calling(worlds, **({"functions": {"sc_dear": [Tag]}} if declared else {})) as shop:
        shop.cache.add_models(Active)
        run(shop, "CREATE VIEW sc_active AS SELECT id, name FROM sc_product WHERE sc_dear(id)")
        try:
            if declared:
                with shop.expecting(changed=[SHOWN]), shop.write() as session:
                    session.add(Tag(id=3, name="blue"))
            else:
                assert [shop.cost(SHOWN), shop.cost(SHOWN)] == [1, 1]
                assert [shop.cost(CALLING), shop.cost(CALLING)] == [1, 1]
        finally:
            run(shop, "DROP VIEW sc_active")


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_s29_a_function_of_the_application_s_own_is_cached_as_declared(worlds: Any) -> None:
    def listens(engine: Any) -> None:
        from sqlalchemy import event

        event.listen(engine, "connect", lambda raw, _: raw.create_function("shout", 1, str.upper, deterministic=True))

    shop: World = worlds.shop(before_attach=listens, functions=["shout"])
    read = rows(select(func.shout(Product.name)).order_by(Product.id))
    assert [shop.cost(read), shop.cost(read)] == [1, 0]
    with shop.write() as session:
        session.get_one(Product, 1).name = "quince"
    assert shop.read(read)[0] == ("QUINCE",)
    # To call it is no write: what else is cached stays, and what is read in the same transaction is stored.
    kept = names(Product.id == 2)
    shop.prime(kept)
    with shop.session() as session:
        session.execute(select(func.shout(Product.name)).where(Product.id == 3)).all()
        session.commit()
    shop.assert_hit(kept)


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_view_with_a_temporary_table_s_name_is_not_cached(worlds: Any) -> None:
    with viewing(worlds, ACTIVE) as shop:
        shop.prime(SHOWN)
        with shop.session() as session:
            session.execute(text("CREATE TEMPORARY TABLE sc_active (id INTEGER, name VARCHAR(50))"))
            assert SHOWN(session) == []
            session.execute(text("DROP TABLE sc_active" if shop.dialect != "sqlite" else "DROP TABLE temp.sc_active"))
            session.rollback()
        shop.assert_true(SHOWN)


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s29_a_session_reads_a_view_before_and_after_in_the_order_of_commits(worlds: Any) -> None:
    with viewing(worlds, ACTIVE) as shop:
        shop.prime(SHOWN)
        with shop.session() as reader, Session(shop.engine) as writer:
            before = SHOWN(reader)
            reader.commit()
            writer.get_one(Product, 1).name = "quince"
            writer.flush()
            assert SHOWN(reader) == before
            reader.commit()
            writer.commit()
            assert SHOWN(reader)[0] == (1, "quince")
