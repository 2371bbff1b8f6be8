"""Do lists hear of a row that the session knew with other values than the database had?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import delete, update

from coherence_world import Process, Product, World, is_hit, names_in, read_in


def seven(process: Process) -> list[str]:
    names: list[str] = read_in(process, lambda session: names_in(session, 7))
    return names


@pytest.fixture(params=["postgresql", "mariadb"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World(request.getfixturevalue(f"{request.param}_url"))
    world.fill()
    yield world
    world.close()


@pytest.fixture(params=[True, False], ids=["images", "no-images"])
def process(request: pytest.FixtureRequest, world: World) -> Process:
    """A process under READ COMMITTED, with old images and without."""
    return world.process(engine_isolation_level="READ COMMITTED", old_images=request.param)


def lists_of(process: Process) -> dict[int, list[str]]:
    with process.session() as session:
        return {number: names_in(session, number) for number in (3, 7, 9)}


def move_to_seven(process: Process) -> None:
    with process.session() as session:
        session.get_one(Product, 1).category_id = 7
        session.commit()


def test_a_row_that_another_transaction_moved_is_renamed_in_its_new_list(world: World, process: Process) -> None:
    other = world.process()
    with process.session() as session:
        product = session.get_one(Product, 1)
        move_to_seven(other)
        assert seven(other) == ["a", "z"]
        product.name = "CHANGED"
        session.commit()
    assert seven(other) == ["CHANGED", "z"]


def test_a_row_that_another_transaction_moved_is_deleted_from_its_new_list(world: World, process: Process) -> None:
    other = world.process()
    with process.session() as session:
        product = session.get_one(Product, 1)
        move_to_seven(other)
        assert seven(other) == ["a", "z"]
        session.delete(product)
        session.commit()
    assert seven(other) == ["z"]


def test_a_row_moved_away_by_key_in_core_leaves_its_list(world: World, process: Process) -> None:
    other = world.process()
    assert seven(other) == ["z"]
    with process.engine.begin() as connection:
        connection.execute(update(Product).where(Product.id == 2).values(category_id=9))
    assert seven(other) == []


def test_a_row_deleted_by_key_in_core_leaves_its_list(world: World, process: Process) -> None:
    other = world.process()
    assert seven(other) == ["z"]
    with process.engine.begin() as connection:
        connection.execute(delete(Product).where(Product.id == 2))
    assert seven(other) == []


@pytest.mark.parametrize("world", ["postgresql"], indirect=True)
def test_a_row_that_another_moved_after_an_inner_rollback_gave_its_lock_back_is_seen(
    world: World, process: Process
) -> None:
    # MariaDB keeps the locks of a savepoint that was rolled back: nobody can move the row there.
    other = world.process()
    with process.session() as session:
        product = session.get_one(Product, 1)
        inner = session.begin_nested()
        product.category_id = 9
        session.flush()
        inner.rollback()
        move_to_seven(other)
        assert seven(other) == ["a", "z"]
        product.name = "CHANGED"
        session.commit()
    assert seven(other) == ["CHANGED", "z"]


def test_a_row_moved_twice_in_one_transaction_is_seen_in_every_list(world: World, process: Process) -> None:
    other = world.process()
    lists = lists_of(other)
    assert lists == {3: ["a"], 7: ["z"], 9: []}
    with process.session() as session:
        product = session.get_one(Product, 1)
        product.category_id = 7
        session.flush()
        product.category_id = 9
        session.commit()
    lists = lists_of(other)
    assert lists == {3: [], 7: ["z"], 9: ["a"]}


def test_with_old_images_the_lists_of_others_stay_cached(world: World) -> None:
    process = world.process(old_images=True)
    seven(process)
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.commit()
    assert is_hit(process, lambda session: names_in(session, 7))


def test_without_old_images_every_list_is_dropped(world: World) -> None:
    process = world.process(old_images=False)
    seven(process)
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.commit()
    assert not is_hit(process, lambda session: names_in(session, 7))


def test_old_images_are_read_once_a_table_and_flush(world: World) -> None:
    process = world.process()
    with process.session() as session:
        for number in (2, 1):
            session.get_one(Product, number).name = "x"
        start = len(process.sent)
        session.flush()
        sent = process.sent[start:]
    assert sum(statement.rstrip().endswith("FOR UPDATE") for statement in sent) == 1
