"""Whatever is committed in the middle of putting a list together, it is one that the database had since the read began."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from keys_support import ALL, IN_FRUIT, after_statement, make_one_missing, move, rename, shop_by_keys
from querycache import SnapshotMovedError
from querycache._types import Lookup, TagSet
from querycache.stores.memory import MemoryStore
from scenario_fixtures import Worlds
from scenario_support import Product, World, entities, once

Change = Callable[[Session], Any]
Point = Callable[[World, Callable[[], object]], AbstractContextManager[Any]]


@pytest.fixture
def fruit(worlds: Worlds) -> World:
    return shop_by_keys(worlds)


def swap_names(session: Session) -> None:
    """Change two rows of the list at once, in what does not decide on its keys."""
    session.get_one(Product, 1).name, session.get_one(Product, 2).name = "first", "second"


CHANGES: dict[str, Change] = {
    "a stored row leaves the list": lambda session: session.execute(
        update(Product).where(Product.id == 2).values(category_id=2)
    ),
    "the missing row leaves the list": lambda session: session.execute(
        update(Product).where(Product.id == 1).values(category_id=2)
    ),
    "a stored row is deleted": lambda session: session.delete(session.get_one(Product, 2)),
    "the missing row is deleted": lambda session: session.delete(session.get_one(Product, 1)),
    "a row comes into the list": lambda session: session.execute(
        insert(Product).values(id=9, name="fig", category_id=1, price=1, views=0)
    ),
    "two rows change at once": swap_names,
    "every row changes": lambda session: session.execute(update(Product).values(name="same")),
    "the whole list is gone": lambda session: session.execute(
        update(Product).where(Product.category_id == 1).values(category_id=2)
    ),
}


def after_the_keys(world: World, act: Callable[[], object]) -> AbstractContextManager[Any]:
    return once(world.cache, "hit", act)


def after_the_rows(world: World, act: Callable[[], object]) -> AbstractContextManager[Any]:
    return once(world.cache, "miss", act)


def after_the_query(world: World, act: Callable[[], object]) -> AbstractContextManager[Any]:
    return after_statement(world, 1, act)


POINTS = [after_the_keys, after_the_rows, after_the_query]


def check(fruit: World, point: Point, change: str) -> None:
    read = make_one_missing(fruit)
    before = fruit.truth(read)

    def commit() -> None:
        with fruit.write() as session:
            CHANGES[change](session)

    with point(fruit, commit):
        found = fruit.read(read)

    assert found in (before, fruit.truth(read))
    fruit.assert_true(read)
    fruit.assert_true(entities(ALL))
    fruit.assert_hit(read)


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_put_together_is_a_list_that_the_database_had(fruit: World, point: Point, change: str) -> None:
    check(fruit, point, change)


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb", "mariadb-memory"], indirect=True)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("change", ["a stored row leaves the list", "two rows change at once"])
def test_it_is_so_on_every_database_and_store(fruit: World, point: Point, change: str) -> None:
    check(fruit, point, change)


@pytest.mark.parametrize("point", [after_the_keys, after_the_rows])
def test_a_change_that_was_acknowledged_before_the_last_look_is_in_the_list(fruit: World, point: Point) -> None:
    read = make_one_missing(fruit)

    with point(fruit, lambda: rename(fruit, 2, "quince")):
        found = fruit.read(read)

    assert [row[1] for row in found] == ["renamed", "quince"]


class InTurn(MemoryStore):
    """Looks at one stamp after the other, and lets a test act in between."""

    sees_one_moment = False
    acts: list[Callable[[], object]]

    def lookup_many(self, questions: Iterable[tuple[bytes | None, TagSet]]) -> list[Lookup]:
        found = []
        for key, tags in questions:
            found.append(self.lookup(key, tags))
            while self.acts:
                self.acts.pop()()
        return found


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_are_looked_at_one_after_the_other_are_looked_at_again(worlds: Worlds, change: str) -> None:
    store = InTurn()
    store.acts = []
    fruit = shop_by_keys(worlds, store=store)
    read = make_one_missing(fruit)
    fruit.prime(entities(ALL))
    before = fruit.truth(read)

    def commit() -> None:
        with fruit.write() as session:
            CHANGES[change](session)

    store.acts.append(commit)
    found = fruit.read(read)

    assert not store.acts
    assert found in (before, fruit.truth(read))
    fruit.assert_true(read)


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_rows_that_were_taken_one_after_the_other_are_looked_at_again(worlds: Worlds) -> None:
    """Both rows are stored each time that one is looked at, and were never so together."""
    store = InTurn()
    store.acts = []
    fruit = shop_by_keys(worlds, store=store)
    read = make_one_missing(fruit)
    fruit.prime(entities(ALL))
    before = fruit.truth(read)

    def commit_and_read() -> None:
        with fruit.write() as session:
            swap_names(session)
        fruit.read(entities(ALL))

    store.acts.append(commit_and_read)
    found = fruit.read(read)

    assert not store.acts
    assert found in (before, fruit.truth(read))


def test_rows_of_a_newer_list_are_not_taken_for_older_keys(fruit: World) -> None:
    read = make_one_missing(fruit)
    views = entities(select(Product).where(Product.views < 25).order_by(Product.id))
    before = fruit.truth(read)

    def leave_and_read() -> None:
        with fruit.write() as session:
            product = session.get_one(Product, 2)
            product.category_id, product.name = 2, "gone"
        fruit.read(views)
        fruit.read(entities(ALL))

    with after_the_keys(fruit, leave_and_read):
        found = fruit.read(read)

    assert found in (before, fruit.truth(read))


def test_a_row_that_changed_after_the_list_was_read_is_not_stored_as_it_was(fruit: World) -> None:
    with after_statement(fruit, 1, lambda: rename(fruit, 1, "quince")):
        fruit.read(entities(IN_FRUIT))

    rename(fruit, 2, "plum")
    fruit.assert_true(entities(IN_FRUIT))


def test_a_row_that_changes_between_its_stamps_and_the_last_look_is_not_stored(worlds: Worlds) -> None:
    store = InTurn()
    store.acts = []
    fruit = shop_by_keys(worlds, store=store)
    store.acts.append(lambda: rename(fruit, 1, "quince"))
    fruit.read(entities(IN_FRUIT))

    assert not store.acts
    rename(fruit, 2, "plum")
    fruit.assert_true(entities(IN_FRUIT))


def test_a_list_is_put_together_also_while_another_of_its_rows_is_being_committed(fruit: World) -> None:
    read = make_one_missing(fruit)
    facts = fruit.cache._binds.known()[0].facts(Product.__table__)  # type: ignore[arg-type]
    coherence = fruit.cache._coherence
    marks = coherence.mark(TagSet(tuple(facts.any_row_tags((3,)))))
    entries = fruit.cache.stats()["stores"][0]["entries"]

    assert fruit.read(read) == fruit.truth(read)
    assert fruit.cache.stats()["stores"][0]["entries"] <= entries + 1
    coherence.release(marks)
    fruit.assert_true(read)


@pytest.mark.parametrize("worlds", ["postgresql-lmdb", "mariadb-memory"], indirect=True)
def test_what_is_served_before_the_snapshot_is_taken_is_what_it_shows(fruit: World) -> None:
    read = make_one_missing(fruit)
    fruit.read(entities(ALL))
    level = fruit.engine.execution_options(isolation_level="REPEATABLE READ")
    with Session(level) as session:
        first = read(session)
        rename(fruit, 4, "outside the list")
        session.expunge_all()

        assert [tuple(row) for row in session.execute(select(Product.id, Product.name).where(Product.category_id == 1))]
        session.expunge_all()
        assert read(session) == first


@pytest.mark.parametrize("worlds", ["postgresql-lmdb"], indirect=True)
def test_a_list_put_together_that_the_snapshot_does_not_show_fails_the_transaction(fruit: World) -> None:
    read = make_one_missing(fruit)
    fruit.read(entities(ALL))
    level = fruit.engine.execution_options(isolation_level="REPEATABLE READ")
    with Session(level) as session:
        assert len(read(session)) == 2
        rename(fruit, 1, "moved on")
        with pytest.raises(SnapshotMovedError):
            session.execute(select(Product.id).where(Product.views > 1))


def test_a_row_that_moved_away_and_back_is_in_the_list(fruit: World) -> None:
    read = make_one_missing(fruit)

    def away_and_back() -> None:
        move(fruit, 2, 2)
        move(fruit, 2, 1)

    with after_the_rows(fruit, away_and_back):
        assert fruit.read(read) == fruit.truth(read)
