"""What do readers see while a transaction writes, commits, rolls back or is given up? On every database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import event, func, insert, select, text, update
from sqlalchemy.orm import Session

from coherence_world import Category, Process, Product, World, is_hit, name_of, names_in, read_in, rename


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def writer(world: World) -> Process:
    return world.process()


@pytest.fixture
def reader(world: World, writer: Process) -> Process:
    return world.process()


def test_a_read_is_stored_and_served_to_another_process(writer: Process, reader: Process) -> None:
    read_in(writer, name_of)
    assert is_hit(reader)


def test_an_acknowledged_commit_is_seen(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    rename(writer, "b")
    assert read_in(reader, name_of) == "b"


def test_a_row_that_did_not_change_stays_cached(writer: Process, reader: Process) -> None:
    read_in(reader, lambda session: name_of(session, 2))
    rename(writer, "b")
    assert is_hit(reader, lambda session: name_of(session, 2))


def test_own_writes_are_read_past_the_cache_and_not_stored(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.session() as session:
        session.get_one(Product, 1).name = "mine"
        session.flush()
        assert name_of(session) == "mine"
        assert name_of(session, 2) == "z"
        fills = reader.counts().get("fill", 0) + writer.counts().get("fill", 0)
        assert read_in(reader, name_of) == "a"
        session.rollback()
    assert read_in(reader, name_of) == "a"
    assert writer.counts().get("fill", 0) + reader.counts().get("fill", 0) >= fills


def test_a_transaction_that_wrote_stores_nothing_at_all(writer: Process) -> None:
    with writer.session() as session:
        session.get_one(Product, 1).name = "mine"
        session.flush()
        before = writer.counts().get("fill", 0)
        session.scalars(select(Category.name).where(Category.id == 3)).one()
        assert writer.counts().get("fill", 0) == before


def test_a_transaction_that_wrote_one_table_is_still_served_from_others(world: World, writer: Process) -> None:
    def category(session: Session) -> str:
        return session.scalars(select(Category.name).where(Category.id == 3)).one()

    read_in(writer, category)
    world.store.advance(5)
    with writer.session() as session:
        session.add(Product(id=5, name="n", category_id=3))
        session.flush()
        with writer.counting() as selects:
            assert category(session) == "c3"
    assert not selects


def test_a_core_write_in_a_session_is_seen(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.session() as session:
        session.connection().execute(update(Product).values(name="core"))
        session.commit()
    assert read_in(reader, name_of) == "core"


def test_a_write_given_as_text_is_seen(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.begin() as connection:
        connection.execute(text("UPDATE product SET name = 'text' WHERE id = 1"))
    assert read_in(reader, name_of) == "text"


def test_a_write_given_as_text_with_a_comment_before_it_is_seen(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.begin() as connection:
        connection.exec_driver_sql("/* from the shell */ UPDATE product SET name = 'text' WHERE id = 1")
        assert read_in(reader, name_of) == "a"
    assert read_in(reader, name_of) == "text"


def test_a_write_of_the_driver_is_seen(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE product SET name = 'driver' WHERE id = 1")
    assert read_in(reader, name_of) == "driver"


def test_rows_inserted_are_seen_by_counts_and_lists(writer: Process, reader: Process) -> None:
    def count(session: Session) -> int:
        return session.scalars(select(func.count()).select_from(Product)).one()

    assert read_in(reader, count) == 2
    assert read_in(reader, lambda session: names_in(session, 3)) == ["a"]
    with writer.engine.begin() as connection:
        connection.execute(insert(Product), [{"id": 8, "name": "n", "category_id": 3, "stock": 0}])
    assert read_in(reader, count) == 3
    assert read_in(reader, lambda session: names_in(session, 3)) == ["a", "n"]


def test_a_row_that_was_not_there_is_seen_once_it_is(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: session.get(Product, 77)) is None
    assert is_hit(reader, lambda session: session.get(Product, 77))
    with writer.session() as session:
        session.add(Product(id=77, name="new", category_id=3))
        session.commit()
    assert read_in(reader, lambda session: session.get_one(Product, 77).name) == "new"


def test_a_reader_between_mark_and_commit_is_told_not_to_store(world: World, writer: Process, reader: Process) -> None:
    seen: list[str] = []
    read_in(reader, name_of)
    world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
    rename(writer, "b")
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"


def test_a_reader_between_commit_and_release_sees_the_commit(world: World, writer: Process, reader: Process) -> None:
    seen: list[str] = []
    fills: list[int] = []
    read_in(reader, name_of)

    def read() -> None:
        before = reader.counts().get("fill", 0)
        seen.append(read_in(reader, name_of))
        fills.append(reader.counts().get("fill", 0) - before)

    world.store.before["release"] = read
    rename(writer, "b")
    assert (seen, fills) == (["b"], [0])


def test_a_fill_that_arrives_after_a_commit_is_never_served(world: World, writer: Process, reader: Process) -> None:
    read_in(reader, lambda session: name_of(session, 2))
    world.store.before["fill"] = lambda: rename(writer, "b")
    assert read_in(reader, name_of) == "a"
    assert read_in(reader, name_of) == "b"


def test_a_fill_whose_lookup_came_before_a_commit_is_served_to_nobody_else(
    world: World, writer: Process, reader: Process
) -> None:
    world.store.after["lookup"] = lambda: rename(writer, "b")
    assert read_in(reader, name_of) == "b"
    assert read_in(reader, name_of) == "b"


def test_marks_are_released_before_the_users_own_hooks_run(writer: Process, reader: Process) -> None:
    seen: list[str | None] = []
    hits: list[bool] = []
    read_in(reader, name_of)
    with writer.session() as session:

        @event.listens_for(session, "after_commit")
        def read(session: Session) -> None:
            seen.append(read_in(reader, name_of))
            hits.append(is_hit(reader))

        session.get_one(Product, 1).name = "b"
        session.commit()
    assert (seen, hits) == (["b"], [True])


def test_what_a_commit_listener_of_the_users_writes_is_marked_too(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)

    @event.listens_for(writer.engine, "commit")
    def write(connection: object) -> None:
        connection.exec_driver_sql("UPDATE product SET name = 'late' WHERE id = 1")  # type: ignore[attr-defined]

    with writer.session() as session:
        session.get_one(Category, 3).name = "other"
        session.commit()
    assert read_in(reader, name_of) == "late"


def test_a_rollback_touches_what_was_pending(world: World, writer: Process) -> None:
    with writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        world.store.calls.clear()
        session.rollback()
    assert world.store.calls == ["release"]


def test_a_session_closed_without_commit_touches_what_was_pending(world: World, writer: Process) -> None:
    with writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        world.store.calls.clear()
    assert world.store.calls == ["release"]


def test_a_commit_asks_the_store_twice(world: World, writer: Process) -> None:
    """The mark tells of the catalog as well."""
    with writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        world.store.calls.clear()
        session.commit()
    assert world.store.calls == ["mark", "release"]


def test_a_transaction_that_only_read_tells_the_store_nothing_at_its_end(world: World, writer: Process) -> None:
    with writer.session() as session:
        name_of(session)
        world.store.calls.clear()
        session.commit()
    assert world.store.calls == []


def test_uncommitted_rows_are_never_stored(writer: Process, reader: Process) -> None:
    with writer.session() as session:
        session.get_one(Product, 1).name = "dirty"
        session.flush()
        assert name_of(session) == "dirty"
        assert names_in(session, 3) == ["dirty"]
        session.rollback()
    assert read_in(reader, name_of) == "a"
    assert read_in(reader, lambda session: names_in(session, 3)) == ["a"]


def test_the_write_of_a_savepoint_that_was_kept_is_seen(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.session() as session:
        session.get_one(
            Category, 3
        ).name = "outer"  # begins a transaction on SQLite, whose driver does not at SAVEPOINT
        session.flush()
        with session.begin_nested():
            session.get_one(Product, 1).name = "inner"
        assert read_in(reader, name_of) == "a"
        session.commit()
    assert read_in(reader, name_of) == "inner"


def test_a_write_before_a_savepoint_that_was_rolled_back_is_seen(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.session() as session:
        session.get_one(Product, 1).name = "outer"
        session.flush()
        inner = session.begin_nested()
        session.get_one(Product, 2).name = "gone"
        session.flush()
        inner.rollback()
        session.commit()
    assert read_in(reader, name_of) == "outer"
    assert read_in(reader, lambda session: name_of(session, 2)) == "z"


def test_after_an_inner_rollback_the_transaction_still_stores_nothing(writer: Process, reader: Process) -> None:
    with writer.session() as session:
        session.get_one(Product, 1).name = "outer"
        session.flush()
        session.begin_nested().rollback()
        assert session.scalars(select(Product.name).where(Product.id == 1)).one() == "outer"
        session.rollback()
    assert read_in(reader, name_of) == "a"


def test_a_value_that_the_database_computes_drops_every_list(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: names_in(session, 9)) == []
    with writer.session() as session:
        product = session.get_one(Product, 1)
        product.category_id = Product.category_id + 6
        session.commit()
    assert read_in(reader, lambda session: names_in(session, 9)) == ["a"]
    assert read_in(reader, lambda session: names_in(session, 3)) == []


def test_a_row_moved_after_expiry_leaves_its_old_list(writer: Process, reader: Process) -> None:
    with writer.session() as session:
        product = session.get_one(Product, 1)
        session.commit()
        assert read_in(reader, lambda session: names_in(session, 3)) == ["a"]
        assert read_in(reader, lambda session: names_in(session, 9)) == []
        product.category_id = 9
        session.commit()
    assert read_in(reader, lambda session: names_in(session, 3)) == []
    assert read_in(reader, lambda session: names_in(session, 9)) == ["a"]


def test_a_bulk_update_drops_every_list(writer: Process, reader: Process) -> None:
    assert read_in(reader, lambda session: names_in(session, 9)) == []
    with writer.session() as session:
        session.execute(update(Product).where(Product.name == "a").values(category_id=9))
        session.commit()
    assert read_in(reader, lambda session: names_in(session, 9)) == ["a"]


def test_ddl_is_followed_by_a_new_look_at_the_catalog(writer: Process) -> None:
    read_in(writer, name_of)
    with writer.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE product ADD COLUMN extra INTEGER")
    read_in(writer, name_of)
    assert is_hit(writer)


def test_an_engine_goes_on_being_heard_after_dispose(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    writer.engine.dispose()
    rename(writer, "b")
    assert read_in(reader, name_of) == "b"


def test_an_engine_with_execution_options_is_heard(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with Session(writer.engine.execution_options(some_option=1)) as session:
        session.get_one(Product, 1).name = "b"
        session.commit()
    assert read_in(reader, name_of) == "b"


def test_to_attach_an_engine_with_execution_options_attaches_the_engine(world: World, reader: Process) -> None:
    plain = world.process(cached=False)
    assert reader.cache is not None
    read_in(reader, name_of)
    world.process(cached=True, engine=plain.engine.execution_options(some_option=1))
    rename(plain, "b")
    assert read_in(reader, name_of) == "b"


def test_a_write_in_autocommit_is_marked_around_the_statement(world: World, reader: Process) -> None:
    writer = world.process(engine_isolation_level="AUTOCOMMIT")
    read_in(reader, name_of)
    seen: list[str] = []
    world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="auto"))
        assert read_in(reader, name_of) == "auto"
    assert seen == ["a"]


def test_a_transaction_begun_by_text_in_autocommit_is_marked_at_its_commit(world: World, reader: Process) -> None:
    writer = world.process(engine_isolation_level="AUTOCOMMIT")
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql("UPDATE product SET name = 'b' WHERE id = 1")
        assert read_in(reader, name_of) == "a"
        connection.exec_driver_sql("COMMIT")
        assert read_in(reader, name_of) == "b"


def test_a_commit_given_as_text_is_heard(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE product SET name = 'b' WHERE id = 1")
        connection.exec_driver_sql("COMMIT")
        assert read_in(reader, name_of) == "b"
