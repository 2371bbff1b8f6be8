"""What may be served and stored inside a transaction, at each isolation level of PostgreSQL and MariaDB?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from coherence_world import Category, Process, Product, World, is_hit, name_of, names_in, read_in, rename
from querycache import SnapshotMovedError

MakeWorld = Callable[[str], World]


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[World]:
    world = World(postgresql_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def mariadb(mariadb_url: str) -> Iterator[World]:
    world = World(mariadb_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture(params=["postgresql", "mariadb"])
def world(request: pytest.FixtureRequest) -> World:
    """A world whose processes read under REPEATABLE READ."""
    found: World = request.getfixturevalue(request.param)
    return found


def repeatable(world: World, **options: Any) -> Process:
    return world.process(engine_isolation_level="REPEATABLE READ", **options)


def category_of(session: Session) -> str:
    return session.scalars(select(Category.name).where(Category.id == 3)).one()


def pin(session: Session) -> None:
    """Take the snapshot, by a plain SELECT that is not cached."""
    session.execute(text("SELECT name FROM category WHERE id = 9")).all()


# -- REPEATABLE READ: filling ---------------------------------------------------------------------------------------


def test_the_first_statement_of_a_transaction_is_stored(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    assert is_hit(process)


def test_a_later_statement_is_not_stored_under_fresh_stamps(world: World) -> None:
    process = repeatable(world)
    with process.session() as session:
        pin(session)
        name_of(session)
    assert not is_hit(process)


def test_a_later_statement_is_stored_under_stamps_that_are_older_than_the_snapshot(world: World) -> None:
    process = repeatable(world)
    with process.session() as session:
        pin(session)
        name_of(session)
    world.store.advance(5)
    with process.session() as session:
        pin(session)
        name_of(session)
    assert is_hit(process)


def test_an_old_snapshot_never_fills_what_was_changed_since(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    world.store.advance(5)
    with process.session() as session:
        pin(session)
        rename(writer, "b")
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


# -- REPEATABLE READ: serving ---------------------------------------------------------------------------------------


def test_a_pinned_transaction_is_not_served_what_was_committed_after_its_snapshot(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    world.store.advance(5)
    with process.session() as session:
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"
        assert name_of(session) == "a"


def test_a_pinned_transaction_is_served_what_is_older_than_its_snapshot(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    world.store.advance(5)
    with process.session() as session:
        pin(session)
        with process.counting() as selects:
            assert name_of(session) == "a"
    assert not selects


def test_a_pinned_transaction_is_not_served_within_the_margin(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    world.store.advance(0.5)
    with process.session() as session:
        pin(session)
        with process.counting() as selects:
            name_of(session)
    assert selects


def test_a_request_whose_reads_are_all_hits_sends_nothing(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    read_in(process, category_of)
    sent = len(process.sent)
    with process.session() as session:
        assert (name_of(session), category_of(session)) == ("a", "c3")
        session.commit()
    assert len(process.sent) == sent


def test_a_hit_before_the_snapshot_that_is_not_what_it_shows_raises_where_the_level_was_chosen(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError) as raised:
            pin(session)
    assert isinstance(raised.value, OperationalError)
    assert getattr(raised.value.orig, "sqlstate", None) == "40001"


def test_after_the_snapshot_moved_a_second_try_succeeds(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            pin(session)
        session.rollback()
        assert name_of(session) == "b"
        pin(session)


def test_what_was_served_is_compared_also_after_expunge_all(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        session.expunge_all()
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            pin(session)


def test_with_continue_a_moved_snapshot_is_counted(world: World) -> None:
    process, writer = repeatable(world, on_snapshot_moved="continue"), world.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        rename(writer, "b")
        pin(session)
    assert process.counts()["moved"] == 1


def test_a_hit_that_the_snapshot_agrees_with_raises_nothing(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        rename(writer, "b", 2)
        pin(session)
    assert "moved" not in process.counts()


def test_a_commit_under_way_when_the_snapshot_is_taken_counts_as_moved(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    moved: list[bool] = []

    def take_the_snapshot() -> None:
        with process.session() as session:
            name_of(session)
            raise_at_the_pin(session)

    def raise_at_the_pin(session: Session) -> None:
        world.store.after["mark"] = lambda: moved.append(_moves(session))
        rename(writer, "b")

    take_the_snapshot()
    assert moved == [True]


def _moves(session: Session) -> bool:
    try:
        pin(session)
    except SnapshotMovedError:
        return True
    return False


def test_a_cache_hit_does_not_disarm_the_detection_of_lost_updates(postgresql: World) -> None:
    process, writer = repeatable(postgresql), postgresql.process()
    read_in(process, lambda session: session.get_one(Product, 1).name)
    with process.session() as session:
        product = session.get_one(Product, 1)
        rename(writer, "theirs")
        product.name += "+mine"
        with pytest.raises(DBAPIError):
            session.commit()
    assert read_in(process, name_of) == "theirs"


def test_a_list_that_was_served_before_the_snapshot_is_looked_at_again(postgresql: World) -> None:
    process, writer = repeatable(postgresql), postgresql.process()
    read_in(process, lambda session: names_in(session, 3))
    with process.session() as session:
        names_in(session, 3)
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            session.execute(update(Category).where(Category.id == 9).values(name="x"))


def test_the_isolation_level_of_a_sessions_connection_counts(world: World) -> None:
    process, writer = world.process(engine_isolation_level="READ COMMITTED"), world.process()
    read_in(process, name_of)
    world.store.advance(5)
    with process.session() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"


def test_a_connection_used_in_autocommit_before_is_a_snapshot_again(postgresql: World) -> None:
    process = repeatable(postgresql, engine_pool_size=1, engine_max_overflow=0)
    writer = postgresql.process()
    read_in(process, name_of)
    with process.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(select(Category.name))
    with process.session() as session:
        session.connection()
        assert name_of(session) == "a"
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            pin(session)


# -- MariaDB's defaults ---------------------------------------------------------------------------------------------


def test_on_mariadbs_default_level_a_moved_snapshot_is_only_counted(mariadb: World) -> None:
    process, writer = mariadb.process(), mariadb.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        rename(writer, "b")
        pin(session)
    assert process.counts()["moved"] == 1


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        "SELECT @@version",
        "SELECT table_name FROM information_schema.tables LIMIT 1",
        "SELECT name FROM category WHERE id = 9 FOR UPDATE",
        "SELECT name FROM category WHERE id = 9 LOCK IN SHARE MODE",
        "UPDATE category SET name = 'x' WHERE id = 9",
    ],
)
def test_statements_that_take_no_read_view_do_not_pin(mariadb: World, statement: str) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    read_in(process, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        session.execute(text(statement))
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            session.execute(text("SELECT name FROM product WHERE id = 2")).all()


@pytest.mark.parametrize("form", ["FOR UPDATE", "plain"])
def test_locking_reads_of_the_orm_do_not_pin_and_plain_ones_do(mariadb: World, form: str) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    read_in(process, name_of)
    statement = select(Category.id).where(Category.id == 7)
    with process.session() as session:
        assert name_of(session) == "a"
        session.execute(statement.with_for_update() if form == "FOR UPDATE" else statement).all()
        rename(writer, "b")
        if form == "FOR UPDATE":
            with pytest.raises(SnapshotMovedError):
                pin(session)
        else:
            pin(session)


def test_a_consistent_snapshot_begun_by_text_neither_serves_nor_fills(mariadb: World) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    read_in(process, name_of)
    mariadb.store.advance(5)
    with process.session() as session:
        session.execute(text("START TRANSACTION WITH CONSISTENT SNAPSHOT"))
        rename(writer, "b")
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


# -- other levels ---------------------------------------------------------------------------------------------------


def test_under_read_committed_each_statement_is_served_and_stored(world: World) -> None:
    process, writer = world.process(engine_isolation_level="READ COMMITTED"), world.process()
    with process.session() as session:
        pin(session)
        assert name_of(session) == "a"
        with process.counting() as selects:
            name_of(session)
        assert not selects
        rename(writer, "b")
        assert name_of(session) == "b"


def test_under_serializable_nothing_is_served(world: World) -> None:
    process = world.process(engine_isolation_level="SERIALIZABLE")
    read_in(process, name_of)
    assert not is_hit(process)


def test_the_read_only_anomaly_is_still_refused_under_serializable(postgresql: World) -> None:
    process = postgresql.process(engine_isolation_level="SERIALIZABLE")
    read_in(process, name_of)
    with process.session() as session, process.counting() as selects:
        session.execute(text("SET TRANSACTION READ ONLY"))
        name_of(session)
    assert selects


def test_under_read_uncommitted_nothing_is_stored_on_mariadb(mariadb: World) -> None:
    process, writer = mariadb.process(engine_isolation_level="READ UNCOMMITTED"), mariadb.process(cached=False)
    with writer.session() as session:
        session.execute(update(Product).where(Product.id == 1).values(name="dirty"))
        assert read_in(process, name_of) == "dirty"
        session.rollback()
    assert read_in(process, name_of) == "a"


def test_in_autocommit_reads_are_served_and_stored(world: World) -> None:
    process, writer = world.process(engine_isolation_level="AUTOCOMMIT"), world.process()
    read_in(process, name_of)
    assert is_hit(process)
    rename(writer, "b")
    assert read_in(process, name_of) == "b"


def test_an_isolation_level_set_by_text_makes_the_connection_uncached(postgresql: World) -> None:
    process, writer = postgresql.process(), postgresql.process()
    read_in(process, name_of)
    with process.session() as session:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


def test_a_search_path_set_by_text_makes_the_connection_uncached_until_it_goes_back(postgresql: World) -> None:
    process = postgresql.process()
    with process.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql("CREATE TABLE other.product AS SELECT * FROM product")
        connection.exec_driver_sql("UPDATE other.product SET name = 'theirs'")
    read_in(process, name_of)
    with process.session() as session:
        session.execute(text("SET LOCAL search_path TO other"))
        assert name_of(session) == "theirs"
    assert read_in(process, name_of) == "a"
    assert is_hit(process)


def test_a_snapshot_taken_past_sqlalchemy_neither_serves_nor_fills(postgresql: World) -> None:
    process, writer = repeatable(postgresql), postgresql.process()
    read_in(process, name_of)
    postgresql.store.advance(5)
    with process.session() as session:
        raw = session.connection().connection.dbapi_connection
        assert raw is not None
        raw.cursor().execute("SELECT name FROM category")
        rename(writer, "b")
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


def test_a_statement_that_failed_leaves_nothing_stored_in_its_transaction(postgresql: World) -> None:
    process = postgresql.process()
    with process.session() as session:
        with pytest.raises(DBAPIError):
            session.execute(text("SELECT nothing FROM product"))
        with pytest.raises(DBAPIError):
            name_of(session)
    assert read_in(process, name_of) == "a"
