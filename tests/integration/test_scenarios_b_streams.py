"""B. Rows that are streamed are neither stored nor served nor held in memory; a result past its size limit is not stored."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import ScalarResult, delete, event, select
from sqlalchemy.orm import Session, selectinload

from querycache import Policy
from scenario_support import Category, Product, Shop, Tag, World, entities, get, refill, rows, stock

ALL = select(Product).order_by(Product.id)
WITH_PRODUCTS = select(Category).order_by(Category.id).options(selectinload(Category.products))


def stock_many(session: Session) -> None:
    stock(session)
    session.add_all(Product(name=f"plum {number}", category_id=1, price=Decimal(1)) for number in range(60))


@pytest.fixture(scope="module")
def standing_shop(standing: Any) -> World:
    world: World = standing(Category, Product, Tag)
    world.cache.add_models(Product, policy=Policy(max_size_bytes=600))
    return world


@pytest.fixture
def shop(standing_shop: World) -> World:
    refill(standing_shop, Shop, stock_many)
    return standing_shop


STREAMS: dict[str, Callable[[Session], ScalarResult[Product]]] = {
    "yield_per of the statement": lambda session: session.scalars(ALL.execution_options(yield_per=5)),
    "yield_per of the call": lambda session: session.scalars(ALL, execution_options={"yield_per": 5}),
    "yield_per of the result": lambda session: (
        session.execute(ALL, execution_options={"stream_results": True}).yield_per(5).scalars()
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_s33_a_stream_is_neither_stored_nor_fetched_before_it_is_read(shop: World, name: str) -> None:
    page = entities(ALL.limit(5))
    shop.prime(page)
    cursors: list[Any] = []
    event.listen(shop.engine, "after_cursor_execute", hear := lambda *told: cursors.append(told[1]))
    stored = shop.cache.stats()["counts"]["fill"]
    for _ in range(2):
        with shop.session() as session:
            stream = STREAMS[name](session)
            assert next(stream).id == 1
            assert len(cursors.pop().fetchall()) > 30, "its rows were fetched"
            stream.close()
        found = shop.read(lambda session: [one.id for part in STREAMS[name](session).partitions() for one in part])
        assert found == shop.truth(lambda session: session.scalars(select(Product.id).order_by(Product.id)).all())
    event.remove(shop.engine, "after_cursor_execute", hear)
    assert shop.cache.stats()["counts"]["fill"] == stored
    shop.assert_hit(page)


FEW = ALL.limit(3)
AT_ONCE: dict[str, Callable[[Session], Any]] = {
    "yield_per": lambda session: session.scalars(FEW.execution_options(yield_per=2)).all(),
    "yield_per of a query": lambda session: list(session.query(Product).order_by(Product.id).limit(3).yield_per(2)),
    "stream_results": lambda session: session.scalars(FEW, execution_options={"stream_results": True}).all(),
}


@pytest.mark.parametrize("name", AT_ONCE)
def test_s33_what_is_stored_is_not_served_to_a_stream(shop: World, name: str) -> None:
    shop.prime(entities(FEW))
    assert [shop.cost(AT_ONCE[name]), shop.cost(AT_ONCE[name])] == [1, 1]
    shop.assert_hit(entities(FEW))


def test_s33_what_a_connection_is_set_to_stream_is_streamed(shop: World) -> None:
    columns = select(Product.id).order_by(Product.id)
    shop.prime(rows(columns))
    cursors: list[Any] = []
    event.listen(shop.engine, "after_cursor_execute", hear := lambda *told: cursors.append(told[1]))
    for _ in range(2):
        with shop.session() as session:
            session.connection(execution_options={"stream_results": True})
            streamed = session.execute(columns).yield_per(5)
            assert next(streamed).id == 1
            assert len(cursors.pop().fetchall()) > 30, "its rows were fetched"
            streamed.close()
    event.remove(shop.engine, "after_cursor_execute", hear)
    shop.assert_hit(rows(columns))


# PyMySQL has one result at a time, and what hangs on a row is another.
@pytest.mark.parametrize("standing", ["sqlite-memory", "postgresql-lmdb"], indirect=True)
def test_s33_a_stream_with_what_hangs_on_it_is_true(shop: World) -> None:
    def read(statement: Any) -> Callable[[Session], Any]:
        return lambda session: [(one.name, [each.name for each in one.products]) for one in session.scalars(statement)]

    streamed = read(WITH_PRODUCTS.execution_options(yield_per=1))
    assert shop.read(streamed) == shop.truth(read(WITH_PRODUCTS))
    with shop.write() as session:
        session.get_one(Product, 3).name = "beet"
    assert shop.read(streamed) == shop.truth(read(WITH_PRODUCTS))


def test_s34_a_result_past_the_limit_is_not_stored_and_one_below_it_is(shop: World) -> None:
    everything, page = entities(ALL), entities(ALL.limit(5))
    shop.prime(page, get(Product, 1))
    assert [shop.cost(everything), shop.cost(everything)] == [1, 1]
    assert any("larger than max_size_bytes" in reason for reason in shop.cache.stats()["reasons"])
    shop.assert_true(everything)
    with shop.write() as session:
        session.execute(delete(Product).where(Product.id > 4))
    shop.assert_true(everything)
    shop.assert_hit(everything)


def test_s34_what_hangs_on_a_row_may_be_past_the_limit_when_the_row_is_not(shop: World) -> None:
    def read(session: Session) -> Any:
        return [(one.name, len(one.products)) for one in session.scalars(WITH_PRODUCTS)]

    shop.assert_true(read)
    assert [shop.cost(read), shop.cost(read)] == [1, 1]
    assert all("sc_product" in statement for statement in shop.sent)
    with shop.write() as session:
        session.add(Product(name="plum", category_id=2, price=Decimal(1)))
    shop.assert_true(read)
