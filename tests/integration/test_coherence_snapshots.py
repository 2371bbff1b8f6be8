"""What may be stored and served under REPEATABLE READ, once the transaction has begun?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, event, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from coherence_fixtures import world_on
from coherence_world import Category, Product, StagedStore, World, is_hit, name_of, pin, read_in, rename, repeatable
from querycache.coherence.journal import Journal
from querycache.stores.lmdb import LMDBStore


@pytest.fixture
def world(server_world: World) -> World:
    return server_world


class ApproximateStore(StagedStore):
    """A store whose clock may tie, step back, or differ from host to host."""

    clock_margin_s = 1.0


@pytest.fixture
def approximate(world: World) -> World:
    world.store = ApproximateStore()
    return world


def stock_of(session: Session) -> int:
    return session.scalars(select(Product.stock).where(Product.id == 1)).one()


# -- filling --------------------------------------------------------------------------------------------------------


def test_the_first_statement_of_a_transaction_is_stored(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    assert is_hit(process)


def test_the_first_statement_of_a_connections_second_transaction_is_stored(world: World) -> None:
    process = repeatable(world)
    with process.session() as session:
        pin(session)
        session.commit()
        name_of(session)
    assert is_hit(process)


def test_a_later_statement_is_not_stored_under_fresh_stamps(world: World) -> None:
    process = repeatable(world)
    with process.session() as session:
        pin(session)
        name_of(session)
    assert not is_hit(process)


def test_a_later_statement_is_stored_under_stamps_that_are_older_than_the_snapshot(world: World) -> None:
    process = repeatable(world)
    for _ in range(2):
        with process.session() as session:
            pin(session)
            name_of(session)
    assert is_hit(process)


def test_an_old_snapshot_never_fills_what_was_changed_since(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        rename(writer, "b")
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


def test_an_old_snapshot_never_fills_what_is_being_committed(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        world.store.after["mark"] = lambda: name_of(session)
        rename(writer, "b")
    assert read_in(process, name_of) == "b"


def test_an_old_snapshot_never_fills_after_the_mark_of_a_killed_writer_has_ended(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, writer, reader = repeatable(world), world.process(), world.process()
    read_in(process, name_of)
    monkeypatch.setattr(Journal, "release", lambda journal, mark: None)  # killed before it could
    with process.session() as session:
        world.store.after["mark"] = lambda: pin(session)
        rename(writer, "b")
        world.store.advance(31)
        assert name_of(session) == "a"
    assert read_in(reader, name_of) == "b"


def test_a_listener_that_reads_when_the_transaction_begins_makes_no_statement_the_first(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:

        @event.listens_for(session, "after_begin")
        def read_early(session: Session, transaction: object, connection: Connection) -> None:
            connection.execute(text("SELECT name FROM category WHERE id = 9")).all()
            rename(writer, "b")

        session.connection()
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


# -- serving --------------------------------------------------------------------------------------------------------


def test_a_pinned_transaction_is_not_served_what_was_committed_after_its_snapshot(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"
        assert name_of(session) == "a"


def test_a_pinned_transaction_is_served_what_is_older_than_its_snapshot(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        with process.counting() as selects:
            assert name_of(session) == "a"
    assert not selects


def test_right_after_a_write_a_pinned_transaction_is_served_again(world: World) -> None:
    process, writer = repeatable(world), world.process()
    rename(writer, "b")
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        with process.counting() as selects:
            assert name_of(session) == "b"
    assert not selects


@pytest.mark.parametrize(("seconds", "is_served"), [(0.5, False), (1.5, True)])
def test_with_a_clock_that_is_not_exact_a_pinned_transaction_is_served_past_the_margin(
    approximate: World, seconds: float, is_served: bool
) -> None:
    process = repeatable(approximate)
    read_in(process, name_of)
    approximate.store.advance(seconds)
    with process.session() as session:
        pin(session)
        with process.counting() as selects:
            name_of(session)
    assert bool(selects) != is_served


@pytest.mark.parametrize("behind_s", [0.0, 0.5, 0.9])
def test_within_the_margin_a_clock_that_stands_still_or_steps_back_makes_nothing_stale(
    approximate: World, behind_s: float
) -> None:
    process, writer, reader = repeatable(approximate), approximate.process(), approximate.process()
    read_in(process, name_of)
    approximate.store.advance(5)
    with process.session() as session:
        pin(session)
        approximate.store.advance(-behind_s)
        rename(writer, "b")
        read_in(reader, name_of)
        assert name_of(session) == "a"
        assert name_of(session) == "a"
    assert read_in(reader, name_of) == "b"


def test_what_a_transaction_changed_it_reads_from_the_database_alone(mariadb: World) -> None:
    # The row it updates is the newest one, with what others changed of it since the snapshot.
    process, writer = repeatable(mariadb), mariadb.process()
    read_in(process, stock_of)
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        with writer.engine.begin() as connection:
            connection.execute(update(Product).where(Product.id == 1).values(stock=5))
        assert stock_of(session) == 0
        session.execute(update(Product).where(Product.id == 1).values(name="mine"))
        assert (stock_of(session), name_of(session)) == (5, "mine")
        session.rollback()
    assert (read_in(process, stock_of), read_in(process, name_of)) == (5, "a")


def test_what_another_transaction_changed_is_not_served_to_one_that_changed_the_table(mariadb: World) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    with process.session() as session:
        pin(session)
        session.execute(update(Product).where(Product.id == 2).values(name="mine"))
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"


# -- whose snapshot nobody knows the time of ------------------------------------------------------------------------


def test_the_isolation_level_of_a_sessions_connection_counts(world: World) -> None:
    process, writer = world.process(engine_isolation_level="READ COMMITTED"), world.process()
    read_in(process, name_of)
    with process.session() as session:
        session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"


def test_a_snapshot_taken_past_sqlalchemy_neither_serves_nor_fills(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        raw = session.connection().connection.dbapi_connection
        assert raw is not None
        raw.cursor().execute("SELECT name FROM category")
        rename(writer, "b")
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


def test_a_consistent_snapshot_begun_by_text_neither_serves_nor_fills(mariadb: World) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    read_in(process, name_of)
    with process.session() as session:
        session.execute(text("START TRANSACTION WITH CONSISTENT SNAPSHOT"))
        rename(writer, "b")
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


def test_a_snapshot_imported_from_another_transaction_neither_serves_nor_fills(postgresql: World) -> None:
    process, writer, exporter = repeatable(postgresql), postgresql.process(), postgresql.process(cached=False)
    with exporter.session() as old, process.session() as session:
        old.connection(execution_options={"isolation_level": "REPEATABLE READ"})
        snapshot = old.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        rename(writer, "b")
        read_in(writer, name_of)
        session.execute(text(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


@pytest.mark.parametrize("chain", ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"])
def test_a_transaction_that_is_chained_to_the_one_before_is_a_snapshot_of_its_own(world: World, chain: str) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        session.execute(text(chain))
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
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


# -- SQLite: a snapshot lasts as long as a cursor is open -----------------------------------------------------------


def test_rows_left_over_from_the_transaction_before_pin_the_next_one_too(sqlite: World) -> None:
    process, writer = sqlite.process(), sqlite.process()
    read_in(writer, name_of)
    with process.engine.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        rows = connection.execute(select(Category.id).execution_options(yield_per=1))
        rows.fetchone()
        rename(writer, "b")
        writer_sees = read_in(writer, lambda session: session.get_one(Category, 7).name)
        connection.commit()
        connection.exec_driver_sql("BEGIN")
        with Session(connection) as session:
            assert name_of(session) == "a"
        rows.close()
    assert (read_in(writer, name_of), writer_sees) == ("b", "c7")


# -- on a store of the machine --------------------------------------------------------------------------------------


@pytest.fixture
def shared(mariadb_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world_on(mariadb_url) as world:
        world.store = LMDBStore(tmp_path_factory.mktemp("store"))  # type: ignore[assignment]  # its verbs are not staged
        yield world


def test_on_lmdb_too_a_pinned_transaction_is_served_right_after_a_write_and_never_its_successor(shared: World) -> None:
    process, writer = repeatable(shared), shared.process()
    rename(writer, "b")
    read_in(process, name_of)
    with process.session() as session:
        pin(session)
        with process.counting() as selects:
            assert name_of(session) == "b"
        assert not selects
        rename(writer, "c")
        read_in(writer, name_of)
        assert name_of(session) == "b"
    assert read_in(process, name_of) == "c"
