"""A list kept by keys: the change of a row costs that row, and what is put together is what the database would give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from dogpile.cache import make_region
from sqlalchemy import bindparam, func, insert, select, text, update
from sqlalchemy.orm import Session

from keys_support import ALL, BY_KEYS, IN_FRUIT, keys_asked, move, reads_of, rename, shop_by_keys
from querycache import ConfigurationError, FromCache, Policy, Region
from querycache.stores.dogpile import DogpileStore
from querycache.stores.memory import MemoryStore
from scenario_fixtures import Worlds
from scenario_support import Category, Product, World, count_of, entities, get


@pytest.fixture
def fruit(worlds: Worlds) -> World:
    return shop_by_keys(worlds)


def products(ids: Iterable[int]) -> list[dict[str, Any]]:
    return [{"id": n, "name": "x", "category_id": 1, "price": 1, "views": 0, "note": "x" * 40} for n in ids]


# -- what a change costs -----------------------------------------------------------------------------------------------


def test_a_list_is_read_in_one_query_of_its_own(fruit: World) -> None:
    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [0]
    assert reads_of(fruit, entities(IN_FRUIT)) == []


def test_the_change_of_a_row_costs_one_query_for_that_row(fruit: World) -> None:
    fruit.prime(entities(IN_FRUIT))
    rename(fruit, 2, "quince")

    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [1]
    assert reads_of(fruit, entities(IN_FRUIT)) == []


def test_rows_that_are_missing_are_read_in_one_query(fruit: World) -> None:
    fruit.prime(entities(ALL))
    with fruit.write() as session:
        for product in session.scalars(select(Product).where(Product.id.in_([1, 4]))):
            product.name += "s"

    assert keys_asked(reads_of(fruit, entities(ALL))) == [2]


def test_where_all_rows_are_missing_the_list_s_own_statement_runs(fruit: World) -> None:
    fruit.prime(entities(IN_FRUIT))
    with fruit.write() as session:
        for product in session.scalars(IN_FRUIT):
            product.name += "s"

    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [0]


def test_a_row_that_one_list_read_is_there_for_another(fruit: World) -> None:
    fruit.prime(entities(IN_FRUIT), entities(ALL))
    rename(fruit, 1, "quince")
    reads_of(fruit, entities(ALL))

    assert reads_of(fruit, entities(IN_FRUIT)) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda session: session.execute(update(Product).where(Product.id == 3).values(category_id=1)),
        lambda session: session.execute(update(Product).where(Product.id == 1).values(category_id=2)),
        lambda session: session.execute(insert(Product).values(id=9, name="fig", category_id=1, price=1, views=0)),
        lambda session: session.delete(session.get(Product, 4)),
        lambda session: session.execute(update(Product).values(views=Product.views + 1)),
    ],
)
def test_a_list_whose_keys_may_be_others_is_read_whole(fruit: World, change: Callable[[Session], Any]) -> None:
    fruit.prime(entities(ALL.where(Product.category_id < 3)))
    with fruit.write() as session:
        change(session)

    assert keys_asked(reads_of(fruit, entities(ALL.where(Product.category_id < 3)))) == [0]
    fruit.assert_hit(entities(ALL.where(Product.category_id < 3)))


def test_the_column_that_orders_a_list_decides_on_its_keys(fruit: World) -> None:
    by_views = entities(select(Product).order_by(Product.views.desc(), Product.id))
    fruit.prime(by_views)
    with fruit.write() as session:
        session.get_one(Product, 1).views = 99

    assert keys_asked(reads_of(fruit, by_views)) == [0]


def test_an_empty_list_survives_what_does_not_decide_on_its_keys(fruit: World) -> None:
    nothing = entities(ALL.where(Product.category_id == 7, Product.views > 5))
    fruit.prime(nothing)
    rename(fruit, 1, "quince")

    assert reads_of(fruit, nothing) == []


def test_a_page_is_filled_up_when_a_row_of_it_is_gone(fruit: World) -> None:
    page = entities(select(Product).order_by(Product.id).limit(2).offset(1))
    fruit.prime(page)
    with fruit.write() as session:
        session.delete(session.get_one(Product, 2))

    fruit.assert_true(page)


def test_rows_larger_than_the_limit_in_all_are_still_kept_one_by_one(worlds: Worlds) -> None:
    fruit = worlds.shop()
    fruit.cache.add_models(Product, policy=Policy(shape="keys", max_size_bytes=1500))
    with fruit.write() as session:
        session.execute(insert(Product), products(range(10, 60)))
    reads_of(fruit, entities(ALL))

    assert reads_of(fruit, entities(ALL)) == []
    assert fruit.cache.stats()["reasons"]["bypass: the result is larger than max_size_bytes"] >= 1


# -- how often the store is asked --------------------------------------------------------------------------------------


class CountedStore(MemoryStore):
    """Counts how often it is asked, which is how often a networked store would be."""

    asked = 0
    sees_one_moment = True

    def lookup(self, key: Any, tags: Any) -> Any:
        self.asked += 1
        return super().lookup(key, tags)

    def lookup_many(self, questions: Any) -> Any:
        self.asked += 1
        return super().lookup_many(questions)


class CountedInTurn(CountedStore):
    """Says of itself that it may look at one stamp after the other."""

    sees_one_moment = False


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize(("make", "apart"), [(CountedStore, 3), (CountedInTurn, 4)])
def test_a_list_that_is_whole_is_looked_up_once_and_one_in_parts_twice_more(
    worlds: Worlds, make: type[CountedStore], apart: int
) -> None:
    store = make()
    fruit = shop_by_keys(worlds, store=store)
    fruit.prime(entities(IN_FRUIT), entities(ALL))
    store.asked = 0
    fruit.read(entities(IN_FRUIT))
    assert store.asked == 1
    rename(fruit, 1, "quince")
    fruit.read(entities(ALL))

    store.asked = 0
    assert fruit.cost(entities(IN_FRUIT)) == 0
    assert store.asked == apart


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_a_list_of_ever_so_many_rows_costs_no_more_lookups(worlds: Worlds) -> None:
    store = CountedStore()
    fruit = shop_by_keys(worlds, store=store)
    with fruit.write() as session:
        session.execute(insert(Product), products(range(10, 300)))
    fruit.prime(entities(IN_FRUIT))
    rename(fruit, 20, "quince")
    store.asked = 0

    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [1]
    assert store.asked == 4  # the whole, the keys, the rows, and all of it once more


# -- how long it lives -------------------------------------------------------------------------------------------------


class ClockedStore(MemoryStore):
    """A store whose clock a test can move."""

    ahead_ns = 0

    def _ticks(self) -> int:
        return super()._ticks() + self.ahead_ns


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_what_is_put_together_lives_no_longer_than_its_parts(worlds: Worlds) -> None:
    store = ClockedStore()
    fruit = shop_by_keys(worlds, store=store)
    fruit.prime(entities(IN_FRUIT))
    store.ahead_ns += 3_000_000_000_000
    rename(fruit, 1, "quince")
    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [1]
    store.ahead_ns += 700_000_000_000

    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [0]


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_what_nobody_was_told_of_is_shown_when_the_statement_s_time_to_live_is_over(worlds: Worlds) -> None:
    store = ClockedStore()
    fruit = shop_by_keys(worlds, store=store)
    short = entities(IN_FRUIT.options(FromCache(ttl=60)))
    fruit.prime(entities(IN_FRUIT))
    store.ahead_ns += 50_000_000_000
    with Session(fruit.outside) as session:
        session.execute(update(Product).where(Product.id == 1).values(name="unheard"))
        session.commit()
    fruit.assert_true(short)
    with Session(fruit.outside) as session:
        session.execute(update(Product).where(Product.id == 1).values(name="unheard again"))
        session.commit()
    store.ahead_ns += 50_000_000_000
    rename(fruit, 2, "quince")
    fruit.read(short)
    store.ahead_ns += 11_000_000_000

    fruit.assert_true(short)


# -- transactions ------------------------------------------------------------------------------------------------------


def test_a_transaction_that_changed_the_table_reads_it_from_the_database(fruit: World) -> None:
    fruit.prime(entities(IN_FRUIT))
    with fruit.session() as session:
        session.execute(update(Product).where(Product.id == 1).values(name="mine"))

        assert [product.name for product in session.scalars(IN_FRUIT)] == ["mine", "pear"]
        session.rollback()
    fruit.assert_true(entities(IN_FRUIT))


def test_a_transaction_that_changed_another_table_stores_nothing(fruit: World) -> None:
    fruit.read(count_of(Category))
    before = fruit.cache.stats()["stores"][0]["entries"]
    with fruit.session() as session:
        session.execute(update(Category).values(name="other"))

        assert len(session.scalars(IN_FRUIT).all()) == 2
        assert fruit.cache.stats()["stores"][0]["entries"] == before
        session.rollback()


def test_a_savepoint_that_is_rolled_back_leaves_the_list_true(fruit: World) -> None:
    fruit.prime(entities(IN_FRUIT))
    with fruit.write() as session:
        session.execute(update(Product).where(Product.id == 2).values(name="kept"))
        inner = session.begin_nested()
        session.execute(update(Product).where(Product.id == 1).values(name="lost"))
        inner.rollback()

    fruit.assert_true(entities(IN_FRUIT))
    fruit.assert_hit(entities(IN_FRUIT))


def test_an_instance_that_is_expired_is_loaded_as_without_a_cache(fruit: World) -> None:
    fruit.prime(entities(IN_FRUIT))
    with fruit.session() as session:
        held = session.scalars(IN_FRUIT).all()
        session.expire(held[0])
        rename(fruit, 1, "quince")

        assert [product.name for product in session.scalars(IN_FRUIT)] == ["quince", "pear"]
        assert session.scalars(IN_FRUIT).all() == held


@pytest.mark.parametrize("worlds", ["postgresql-lmdb", "mariadb-memory"], indirect=True)
def test_a_snapshot_shows_the_same_list_until_it_ends(fruit: World) -> None:
    def names(session: Session) -> list[str]:
        return [product.name for product in session.scalars(IN_FRUIT)]

    fruit.prime(entities(IN_FRUIT))
    level = fruit.engine.execution_options(isolation_level="REPEATABLE READ")
    with Session(level) as session:
        session.scalar(select(func.count()).select_from(Product))
        rename(fruit, 1, "quince")
        reads_of(fruit, entities(IN_FRUIT))
        move(fruit, 3, 1)

        assert names(session) == ["apple", "pear"]
        session.expunge_all()
        assert names(session) == ["apple", "pear"]
    fruit.assert_true(entities(IN_FRUIT))


# -- stores ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_a_dogpile_region_keeps_lists_by_keys(worlds: Worlds) -> None:
    store = DogpileStore(make_region().configure("dogpile.cache.memory"))
    fruit = shop_by_keys(worlds, store=store)
    fruit.prime(entities(IN_FRUIT))
    rename(fruit, 1, "quince")

    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [1]
    assert reads_of(fruit, entities(IN_FRUIT)) == []


def test_the_rows_of_another_region_are_rows_of_their_own(worlds: Worlds) -> None:
    world = worlds.shop(regions={"short": Region("memory://", ttl=60)})
    statement = IN_FRUIT.options(FromCache("short", shape="keys"))
    world.prime(entities(statement))
    rename(world, 1, "quince")

    assert keys_asked(reads_of(world, entities(statement))) == [1]


# -- names -------------------------------------------------------------------------------------------------------------


def test_a_name_drops_the_list_and_has_its_rows_read_anew(worlds: Worlds) -> None:
    world = worlds.shop()
    statement = IN_FRUIT.options(FromCache(cache_key="fruit", shape="keys"))
    world.prime(entities(statement))
    with Session(world.outside) as session:
        session.execute(update(Product).where(Product.id == 1).values(name="unheard"))
        session.commit()
    world.cache.invalidate_named("default", "fruit")

    assert keys_asked(reads_of(world, entities(statement))) == [0]
    rename(world, 2, "quince")
    assert keys_asked(reads_of(world, entities(statement))) == [1]


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_a_tenant_s_rows_are_in_no_other_tenant_s_list(worlds: Worlds) -> None:
    """What the database shows each of them of a row is changed here by others, unheard."""
    fruit = shop_by_keys(worlds, vary=lambda session: session.info.get("tenant"))

    def first(tenant: str) -> str:
        with fruit.session(info={"tenant": tenant}) as session:
            return session.scalars(IN_FRUIT).all()[0].name

    for tenant in ("one", "two"):
        with Session(fruit.outside) as session:
            session.execute(update(Product).where(Product.id == 1).values(name=f"apple of {tenant}"))
            session.commit()
        assert first(tenant) == f"apple of {tenant}"
    rename(fruit, 2, "quince")

    assert [first(tenant) for tenant in ("one", "two")] == ["apple of one", "apple of two"]


# -- settings ----------------------------------------------------------------------------------------------------------


def test_an_unknown_shape_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"^shape='rows': known are keys, whole$"):
        Policy(shape="rows")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"^FromCache\(shape='rows'\): known are keys, whole$"):
        FromCache(shape="rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_a_statement_s_word_goes_before_the_policy_s(fruit: World) -> None:
    whole = entities(IN_FRUIT.options(FromCache(shape="whole")))
    fruit.prime(whole)
    rename(fruit, 1, "quince")

    assert keys_asked(reads_of(fruit, whole)) == [0]


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_the_policy_is_that_of_the_entity_not_of_what_is_joined(worlds: Worlds) -> None:
    world = worlds.shop()
    world.cache.add_models(Category, policy=BY_KEYS)
    products = select(Product).join(Product.category).where(Category.name == "fruit").order_by(Product.id)

    assert world.cache.explain(products).shape == "whole"
    assert world.cache.explain(select(Category).order_by(Category.id)).shape == "keys"


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_explain_names_the_shape_and_says_why_it_is_not_another(fruit: World) -> None:
    kept = fruit.cache.explain(IN_FRUIT)
    assert (kept.shape, kept.why_whole) == ("keys", None)
    assert "its keys, and each of its rows, are kept on their own besides" in str(kept)
    refused = fruit.cache.explain(IN_FRUIT.distinct())
    assert (refused.shape, refused.why_whole) == ("whole", "it has DISTINCT")
    assert "kept whole, not by keys: it has DISTINCT" in str(refused)


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_one_row_by_its_key_is_no_list(fruit: World) -> None:
    fruit.prime(get(Product, 1))

    assert "whole" not in fruit.cache.stats()["counts"]
    explained = fruit.cache.explain(select(Product).where(Product.id == 1))
    assert (explained.shape, explained.why_whole) == ("whole", "it asks for one row")


def test_a_list_of_given_keys_is_read_row_by_row(fruit: World) -> None:
    some = entities(ALL.where(Product.id.in_([1, 3, 4, 77])))
    fruit.prime(some)
    rename(fruit, 3, "quince")

    assert keys_asked(reads_of(fruit, some)) == [1]
    with fruit.write() as session:
        session.add(Product(id=77, name="fig", category_id=1, price=1))
    fruit.assert_true(some)


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_a_policy_for_lists_alone_lets_their_keys_and_rows_be_kept(worlds: Worlds) -> None:
    fruit = worlds.shop()
    fruit.cache.add_models(Product, policy=Policy(shape="keys", operations=frozenset({"list"})))
    fruit.prime(entities(IN_FRUIT))
    rename(fruit, 1, "quince")

    assert keys_asked(reads_of(fruit, entities(IN_FRUIT))) == [1]


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_what_is_kept_whole_is_counted_with_the_reason(fruit: World) -> None:
    called = ALL.where(Product.id < bindparam("most", callable_=lambda: 3))
    why_not = "a function of the application's gives one of its values"

    assert fruit.cache.explain(called).why_whole == why_not
    fruit.assert_true(entities(called))
    assert fruit.cache.stats()["reasons"][f"whole: {why_not}"] == 1


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_an_order_by_text_decides_on_the_keys_like_any(fruit: World) -> None:
    by_text = entities(select(Product).order_by(text("name")))
    named = entities(select(Product).order_by("name"))
    fruit.prime(by_text, named)
    rename(fruit, 1, "zucchini")

    fruit.assert_true(by_text)
    fruit.assert_true(named)


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_rows_of_a_list_are_not_kept_by_what_the_catalog_was_before(worlds: Worlds) -> None:
    fruit = shop_by_keys(worlds)
    fruit.prime(entities(IN_FRUIT))
    rename(fruit, 1, "quince")
    with fruit.write() as session:
        session.execute(text("CREATE TABLE sc_more (id INTEGER)"))

    fruit.assert_true(entities(IN_FRUIT))
    fruit.assert_hit(entities(IN_FRUIT))
