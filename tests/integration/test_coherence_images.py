"""Do lists hear of a row that the session knew with other values than the database had?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, FetchedValue, create_engine, delete, event, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from coherence_world import Process, Product, World, begin_for_real, is_hit, make_engine, names_in, read_in
from querycache import QueryCache
from querycache.stores.memory import MemoryStore


class Counting(DeclarativeBase):
    pass


class Counted(Counting):
    __tablename__ = "counted"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    grp: Mapped[int] = mapped_column(index=True)
    name: Mapped[str]
    xmin: Mapped[int] = mapped_column(system=True, server_default=FetchedValue())
    __mapper_args__ = {"version_id_col": xmin, "version_id_generator": False}  # noqa: RUF012


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
    assert sum(statement.rstrip().endswith("UPDATE") for statement in sent) == 1


def test_rows_that_share_what_is_no_key_in_the_database_are_all_heard_of(world: World) -> None:
    process, other = world.process(), world.process()
    drop = "DROP PRIMARY KEY" if world.url.startswith("mariadb") else "DROP CONSTRAINT product_pkey"
    with process.engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE product {drop}"))
        connection.execute(text("UPDATE product SET id = 2 WHERE id = 1"))
    lists = lists_of(other)
    assert lists == {3: ["a"], 7: ["z"], 9: []}
    with process.engine.begin() as connection:
        connection.execute(update(Product).where(Product.id == 2).values(name="both"))
    lists = lists_of(other)
    assert lists == {3: ["both"], 7: ["both"], 9: []}


def test_a_row_whose_version_the_database_counts_is_heard_of_in_its_new_list(postgresql_url: str) -> None:
    store, statement = MemoryStore(), select(Counted.name).where(Counted.grp == 7)
    engines = [create_engine(postgresql_url) for _ in range(2)]
    Counting.metadata.create_all(engines[0])
    caches = [QueryCache(store, models=[Counted]) for _ in engines]
    for cache, engine in zip(caches, engines, strict=True):
        cache.attach(engine)
    with Session(engines[0]) as session:
        session.add(Counted(id=1, grp=3, name="a"))
        session.commit()
        row = session.get_one(Counted, 1)
        row.grp = 7
        session.flush()
        row.name = "b"
        session.commit()
    with Session(engines[1]) as session:
        names = session.scalars(statement).all()
        assert names == ["b"]
    with Session(engines[0]) as session:
        session.get_one(Counted, 1).name = "c"
        session.commit()
    with Session(engines[1]) as session:
        names = session.scalars(statement).all()
        assert names == ["c"]
    for cache, engine in zip(caches, engines, strict=True):
        engine.dispose()
        cache.close()


# -- SQLite: no lock of a row, but one for all who write --------------------------------------------------------------


@pytest.fixture(params=["the driver", "SQLAlchemy"])
def sqlite_process(request: pytest.FixtureRequest, sqlite_url: str) -> Iterator[Process]:
    """A process whose transactions are begun by the driver, at the first change, or by SQLAlchemy, as it says."""
    world = World(sqlite_url)
    world.fill()
    engine = make_engine(sqlite_url)
    if request.param == "SQLAlchemy":
        begin_for_real(engine)
    yield world.process(engine=engine)
    world.close()


def move_past_the_cache(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE product SET category_id = 7 WHERE id = 1"))


def test_nobody_moves_a_row_between_question_and_change_on_sqlite(sqlite_process: Process, sqlite_url: str) -> None:
    other = make_engine(sqlite_url)
    refused: list[str] = []

    def move_before_the_change(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("UPDATE product"):
            with pytest.raises(OperationalError, match="locked"):
                move_past_the_cache(other)
            refused.append(statement)

    event.listen(sqlite_process.engine, "before_cursor_execute", move_before_the_change)
    with sqlite_process.session() as session:
        session.execute(update(Product).where(Product.id == 1).values(name="b"))
        session.commit()
    other.dispose()
    assert len(refused) == 1


@pytest.mark.parametrize("sqlite_process", ["SQLAlchemy"], indirect=True)
def test_a_reader_whose_snapshot_is_too_old_to_write_is_refused_as_ever(
    sqlite_process: Process, sqlite_url: str
) -> None:
    other = make_engine(sqlite_url)
    with sqlite_process.session() as session:
        session.execute(text("SELECT name FROM product")).all()
        move_past_the_cache(other)
        with pytest.raises(OperationalError, match="locked"):
            session.execute(update(Product).where(Product.id == 1).values(name="b"))
    other.dispose()
