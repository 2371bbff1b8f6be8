"""E. Interleavings, each forced at a named point: another actor runs to its end in the middle of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, func, select, text
from sqlalchemy.orm import Session

from querycache import SnapshotMovedError
from querycache._types import Guard, Stamp, TagSet, Writer
from querycache._types import Tag as StoreTag
from querycache.stores.base import Store
from querycache.stores.memory import MemoryStore
from scenario_support import Category, Product, World, get, in_category, names, once, rows

APPLE = names(Product.id == 1)
PEAR = names(Product.id == 2)
FRUIT = in_category(1)
TOTAL = rows(select(func.sum(Product.views)))
SERVERS = ["postgresql-lmdb", "mariadb-memory"]


def rename(world: World, product_id: int = 1, name: str = "quince") -> Callable[[], None]:
    """Return an actor that renames a product, and commits."""

    def act() -> None:
        with world.write() as session:
            session.get_one(Product, product_id).name = name

    return act


@contextmanager
def after_next_select(world: World, act: Callable[[], None]) -> Iterator[None]:
    """Run ``act`` when the database has answered the next SELECT, before anything is stored of it."""
    done: list[bool] = []

    def hear(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT") and not done:
            done.append(True)
            act()

    event.listen(world.engine, "after_cursor_execute", hear)
    try:
        yield
    finally:
        event.remove(world.engine, "after_cursor_execute", hear)
    assert done


@pytest.mark.parametrize("read", [APPLE, FRUIT, TOTAL, get(Product, 1)], ids=["columns", "list", "sum", "get"])
def test_s54_refill_race_a_reader_that_read_before_a_commit_does_not_store_past_it(shop: World, read: Any) -> None:
    def act() -> None:
        with shop.write() as session:
            product = session.get_one(Product, 1)
            product.name, product.views = "quince", 11

    old = shop.truth(read)
    with after_next_select(shop, act):
        assert shop.read(read) == old
    assert shop.truth(read) != old
    shop.assert_true(read)
    shop.assert_hit(read)


def test_s54_refill_race_a_commit_between_lookup_and_query(shop: World) -> None:
    with once(shop.cache, "miss", rename(shop)):
        assert shop.read(APPLE) == [("quince",)]
    shop.assert_true(APPLE)
    shop.assert_hit(APPLE)


def test_s54_refill_race_two_commits_around_a_reader(shop: World) -> None:
    with after_next_select(shop, rename(shop, name="plum")):
        shop.read(APPLE)
    with after_next_select(shop, rename(shop, name="sloe")):
        shop.read(APPLE)
    shop.assert_true(APPLE)


def test_s54_refill_race_a_reader_inside_the_commit_stores_nothing_that_outlives_it(shop: World) -> None:
    with once(shop.cache, "mark", lambda: shop.read(APPLE)):
        rename(shop)()
    shop.assert_true(APPLE)


def test_s54_refill_race_a_reader_that_began_before_the_mark_and_ends_after_the_release(shop: World) -> None:
    shop.prime(PEAR)
    with once(shop.cache, "miss", lambda: None), after_next_select(shop, rename(shop)):
        assert shop.read(FRUIT)[0][1] == "apple"
    shop.assert_true(FRUIT)
    shop.assert_hit(PEAR)


def snapshot(worlds: Any, level: str, **options: Any) -> World:
    """Make a shop on an engine that is at an isolation level; SQLite has only one."""
    engine_options = {"isolation_level": level} if not worlds.url.startswith("sqlite") else {}
    world: World = worlds.shop(engine_options=engine_options, isolated=False, **options)
    return world


def uncached(worlds: Any, level: str) -> Session:
    """Open a session that knows no cache, at the same level."""
    return Session(worlds.engine(**({} if worlds.url.startswith("sqlite") else {"isolation_level": level})))


def begin(session: Session) -> None:
    """Take the snapshot that the session's transaction shows from now on."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("BEGIN"))
    session.connection().execute(text("SELECT count(*) FROM sc_tag"))


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_s55_a_snapshot_is_not_served_what_was_committed_after_it(worlds: Any, level: str) -> None:
    world = snapshot(worlds, level)
    with world.session() as old, uncached(worlds, level) as plain:
        begin(old)
        begin(plain)
        rename_outside(world)
        world.cache.invalidate(Product)
        world.assert_true(APPLE)
        for read in [APPLE, FRUIT, get(Product, 1)]:
            assert read(old) == read(plain)
        # MariaDB's SERIALIZABLE locks instead, and reads the newest.
        assert APPLE(old) == [("quince",) if (world.dialect, level) == ("mariadb", "SERIALIZABLE") else ("apple",)]
    world.assert_true(APPLE)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_s55_what_a_snapshot_shows_is_not_stored_for_those_who_come_after_it(worlds: Any, level: str) -> None:
    world = snapshot(worlds, level)
    with world.session() as old, uncached(worlds, level) as plain:
        begin(old)
        begin(plain)
        rename_outside(world)
        world.cache.invalidate(Product)
        assert APPLE(old) == APPLE(plain)
        assert world.read(APPLE) == [("quince",)]
        assert FRUIT(old) == FRUIT(plain)
        assert world.read(FRUIT)[0][1] == "quince"
    world.assert_true(APPLE)
    world.assert_true(FRUIT)


def rename_outside(world: World) -> None:
    """Rename on an engine without cache: under SERIALIZABLE our own writer's locks would wait for the reader's."""
    with Session(world.outside) as session:
        if world.dialect == "mariadb":
            session.execute(text("SET SESSION innodb_lock_wait_timeout = 1"))
        session.execute(text("UPDATE sc_product SET name = 'quince' WHERE id = 1"))
        session.commit()


def test_s55_a_commit_through_the_cache_is_not_hidden_by_an_older_snapshot(worlds: Any) -> None:
    world = snapshot(worlds, "REPEATABLE READ")
    with world.session() as old:
        begin(old)
        rename(world)()
        assert APPLE(old) == [("apple",)]
        assert world.read(APPLE) == [("quince",)]
        assert APPLE(old) == [("apple",)]
        old.rollback()
    world.assert_true(APPLE)


@pytest.mark.parametrize("worlds", SERVERS, indirect=True)
def test_s55_serializable_is_never_served(worlds: Any) -> None:
    world = snapshot(worlds, "SERIALIZABLE")
    assert [world.cost(APPLE), world.cost(APPLE), world.cost(APPLE)] == [1, 1, 1]


@pytest.mark.parametrize("worlds", ["postgresql-memory", *SERVERS], indirect=True)
def test_s55_a_hit_before_the_snapshot_that_no_longer_holds_raises_where_isolation_was_chosen(worlds: Any) -> None:
    world = snapshot(worlds, "REPEATABLE READ")
    world.prime(APPLE)
    with world.session() as session:
        assert APPLE(session) == [("apple",)]
        rename(world)()
        with pytest.raises(SnapshotMovedError):
            PEAR(session)
        session.rollback()
        assert APPLE(session) == [("quince",)]


@pytest.mark.parametrize("worlds", SERVERS, indirect=True)
def test_s55_a_hit_before_the_snapshot_that_still_holds_is_repeatable(worlds: Any) -> None:
    world = snapshot(worlds, "REPEATABLE READ")
    world.prime(APPLE)
    with world.session() as session:
        assert APPLE(session) == [("apple",)]
        assert PEAR(session) == [("pear",)]
        rename(world)()
        session.expunge_all()
        assert session.connection().execute(text("SELECT name FROM sc_product WHERE id = 1")).scalar() == "apple"
        assert APPLE(session) == [("apple",)]


@pytest.mark.parametrize("worlds", ["mariadb-memory"], indirect=True)
def test_s55_at_the_server_s_default_level_one_read_a_session_is_cached_and_a_moved_snapshot_goes_on(
    worlds: Any,
) -> None:
    world: World = worlds.shop(isolated=False)
    world.prime(APPLE, PEAR)
    with world.session() as session:
        assert APPLE(session) == [("apple",)]
        rename(world)()
        assert FRUIT(session)[0][1] == "quince"
        assert APPLE(session) == [("quince",)]
    assert world.cache.stats()["counts"]["moved"] == 1
    world.assert_true(APPLE)
    world.assert_hit(PEAR)


def test_s56_a_fill_begun_before_the_store_was_cleared_stays_dead(shop: World) -> None:
    with after_next_select(shop, shop.cache.clear):
        shop.read(APPLE)
    assert shop.cost(APPLE) == 1
    shop.assert_hit(APPLE)


def test_s56_stamps_made_anew_between_read_and_fill_do_not_revive_what_was_read(shop: World) -> None:
    def act() -> None:
        shop.cache.clear()
        rename(shop)()
        shop.cache.clear()
        shop.cache.invalidate(Product)

    with after_next_select(shop, act):
        assert shop.read(APPLE) == [("apple",)]
    shop.assert_true(APPLE)
    assert shop.read(APPLE) == [("quince",)]


def test_s56_an_entry_of_before_a_clear_is_not_valid_again_after_many_new_stamps(shop: World) -> None:
    shop.prime(APPLE)
    shop.cache.clear()
    rename(shop)()
    for _ in range(3):
        shop.cache.clear()
        shop.assert_true(APPLE)
        assert shop.read(APPLE) == [("quince",)]


@pytest.mark.parametrize("worlds", SERVERS, indirect=True)
def test_s58_a_second_writer_s_release_does_not_end_the_mark_of_the_first(shop: World) -> None:
    seen: list[Any] = []

    def act() -> None:
        rename(shop, 2, "sloe")()
        # Both have marked what the list depends on; one has released, the other has not committed yet.
        seen.append(shop.read(FRUIT))
        seen.append(shop.cost(FRUIT))

    shop.prime(FRUIT, in_category(2))
    with once(shop.cache, "mark", act):
        rename(shop, 1, "quince")()
    assert [row[1] for row in seen[0]] == ["apple", "sloe"]
    assert seen[1] == 1
    shop.assert_true(FRUIT)
    assert [row[1] for row in shop.read(FRUIT)] == ["quince", "sloe"]
    shop.assert_hit(in_category(2))


@pytest.mark.parametrize("worlds", SERVERS, indirect=True)
def test_s58_a_writer_that_commits_first_and_releases_last_hides_nothing(shop: World) -> None:
    # The first has committed, and its release has not come yet, when the second marks, commits and releases.
    shop.prime(FRUIT)
    with once(shop.cache, "mark", rename(shop, 2, "sloe")), shop.write() as session:
        session.get_one(Product, 1).name = "quince"
    shop.assert_true(FRUIT)
    shop.assert_hit(FRUIT)


class LosingMarks(MemoryStore):
    """Loses every mark right after it was set, as a store does that evicts them."""

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[StoreTag, ...]:
        marked = super().mark(tags, writer, ttl_s)
        super().release(marked, writer)
        return marked

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[StoreTag, ...], Stamp | None]:
        return Store.mark_and_look(self, tags, guard, writer, ttl_s)


class LosingStamps(MemoryStore):
    """Loses all stamps when told to; marks and entries stay."""

    def lose_stamps(self) -> None:
        with self._lock:
            writing = self._writing(self._ticks())
            writing.raise_floor()
            writing.save()


ONE_EACH = ["sqlite-memory", "postgresql-memory", "mariadb-memory"]


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s63_when_marks_are_lost_what_was_acknowledged_is_still_seen(worlds: Any) -> None:
    shop: World = worlds.shop(store=LosingMarks())
    shop.prime(APPLE, in_category(2), get(Category, 1))
    with once(shop.cache, "mark", lambda: shop.prime(APPLE)):
        rename(shop)()
    shop.assert_true(APPLE)
    assert shop.read(APPLE) == [("quince",)]
    for read in [in_category(2), get(Category, 1)]:
        shop.assert_hit(read)


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s63_when_stamps_are_lost_entries_are_missed_and_never_stale(worlds: Any) -> None:
    store = LosingStamps()
    shop: World = worlds.shop(store=store)
    shop.prime(APPLE)
    store.lose_stamps()
    assert shop.cost(APPLE) == 1
    shop.assert_hit(APPLE)
    with once(shop.cache, "mark", store.lose_stamps):
        rename(shop)()
    assert shop.cost(APPLE) == 1
    assert shop.read(APPLE) == [("quince",)]


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s63_a_reader_whose_stamps_are_lost_between_read_and_fill_stores_nothing_stale(worlds: Any) -> None:
    store = LosingStamps()
    shop: World = worlds.shop(store=store)

    def act() -> None:
        store.lose_stamps()
        rename(shop)()
        store.lose_stamps()

    with after_next_select(shop, act):
        assert shop.read(APPLE) == [("apple",)]
    shop.assert_true(APPLE)
    assert shop.read(APPLE) == [("quince",)]
