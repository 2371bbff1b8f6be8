"""What was served before the transaction's snapshot was taken: is it what the snapshot shows?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from coherence_world import (
    Category,
    Process,
    Product,
    World,
    begin_for_real,
    category_of,
    make_engine,
    name_of,
    names_in,
    pin,
    read_in,
    rename,
    repeatable,
)
from querycache import SnapshotMovedError


@pytest.fixture
def world(server_world: World) -> World:
    return server_world


def product_of(session: Session) -> str:
    return session.get_one(Product, 1).name


def _moves(session: Session) -> bool:
    try:
        pin(session)
    except SnapshotMovedError:
        return True
    return False


# -- hits before any statement --------------------------------------------------------------------------------------


def test_a_request_whose_reads_are_all_hits_sends_nothing(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    read_in(process, category_of)
    sent = len(process.sent)
    with process.session() as session:
        assert (name_of(session), category_of(session)) == ("a", "c3")
        session.commit()
    assert len(process.sent) == sent


def test_a_hit_that_the_snapshot_does_not_show_raises_where_the_level_was_chosen(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError) as raised:
            pin(session)
    assert isinstance(raised.value, OperationalError)
    assert getattr(raised.value.orig, "sqlstate", None) == "40001"
    assert raised.value.orig is not None
    assert raised.value.orig.args[0] == 1213


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


def test_what_was_served_on_a_connection_that_sent_nothing_yet_is_compared(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        session.connection()
        assert name_of(session) == "a"
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            pin(session)


def test_what_was_served_in_a_transaction_that_is_over_is_not_compared(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        session.commit()
        rename(writer, "b")
        pin(session)
    assert "moved" not in process.counts()


def test_what_was_served_under_a_savepoint_is_compared_after_its_rollback(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        inner = session.begin_nested()
        assert name_of(session) == "a"
        inner.rollback()
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


def test_with_raise_a_servers_default_level_raises_too(mariadb: World) -> None:
    process, writer = mariadb.process(on_snapshot_moved="raise"), mariadb.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            pin(session)


def test_on_mariadbs_default_level_a_moved_snapshot_is_only_counted(mariadb: World) -> None:
    process, writer = mariadb.process(), mariadb.process()
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


def test_what_is_changed_after_the_snapshot_was_taken_raises_nothing(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        pin(session)
        rename(writer, "b")
        pin(session)
        assert session.execute(text("SELECT name FROM product WHERE id = 1")).scalar_one() == "a"
    assert "moved" not in process.counts()


def test_a_commit_under_way_when_the_snapshot_is_taken_counts_as_moved(world: World) -> None:
    process, writer = repeatable(world), world.process()
    read_in(process, name_of)
    moved: list[bool] = []
    with process.session() as session:
        name_of(session)
        world.store.after["mark"] = lambda: moved.append(_moves(session))
        rename(writer, "b")
    assert moved == [True]


def test_a_store_that_does_not_answer_when_the_snapshot_is_taken_counts_as_moved(world: World) -> None:
    process = repeatable(world)
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        world.store.failing.add("lookup")
        assert _moves(session)
        world.store.failing.clear()


def test_under_read_committed_nothing_moves(world: World) -> None:
    process, writer = world.process(engine_isolation_level="READ COMMITTED"), world.process()
    read_in(process, name_of)
    with process.session() as session:
        name_of(session)
        rename(writer, "b")
        pin(session)
    assert "moved" not in process.counts()


def test_raising_the_level_to_serializable_after_hits_compares_them(world: World) -> None:
    process, writer = world.process(engine_isolation_level="READ COMMITTED"), world.process()
    read_in(process, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        rename(writer, "b")
        session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
        with pytest.raises(SnapshotMovedError):
            pin(session)


# -- lost updates ---------------------------------------------------------------------------------------------------


def _update_after(world: World, process: Process, between: Callable[[Session], object]) -> None:
    """Change a row by what was read of it, while another process changes it; see that one of them is refused."""
    writer = world.process()
    read_in(process, product_of)
    with process.session() as session:
        product = session.get_one(Product, 1)
        between(session)
        rename(writer, "theirs")
        product.name += "+mine"
        with pytest.raises(DBAPIError):
            session.commit()
    assert read_in(process, name_of) == "theirs"


def test_a_hit_does_not_disarm_the_detection_of_lost_updates(postgresql: World) -> None:
    _update_after(postgresql, repeatable(postgresql), lambda session: None)


def test_a_hit_does_not_disarm_it_where_the_level_is_the_roles_default(postgresql: World) -> None:
    options = {"options": "-c default_transaction_isolation=repeatable\\ read"}
    _update_after(postgresql, postgresql.process(engine_connect_args=options), lambda session: None)


@pytest.mark.parametrize(
    "statement",
    [
        "SET LOCAL lock_timeout = '5s'",
        "SHOW lock_timeout",
        "NOTIFY nobody",
        "SELECT 1",
        "SAVEPOINT inner_one",
        "LOCK TABLE category IN ROW EXCLUSIVE MODE",
        "SET CONSTRAINTS ALL DEFERRED",
        "DO $$ BEGIN END $$",
        "CREATE TEMPORARY TABLE mine (id int)",
    ],
)
def test_no_statement_between_a_hit_and_the_update_disarms_it(postgresql: World, statement: str) -> None:
    _update_after(postgresql, repeatable(postgresql), lambda session: session.execute(text(statement)))


@pytest.mark.parametrize(
    "statement",
    [
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_level_set_by_text_after_a_hit_does_not_disarm_it(postgresql: World, statement: str) -> None:
    _update_after(postgresql, postgresql.process(), lambda session: session.execute(text(statement)))


def test_a_lock_that_had_to_be_waited_for_does_not_disarm_it(postgresql: World) -> None:
    # LOCK TABLE takes no snapshot. Had the hit been sent, there would be one from before the wait.
    process, writer = repeatable(postgresql), postgresql.process()
    read_in(process, product_of)
    with process.session() as session:
        product = session.get_one(Product, 1)
        session.execute(text("LOCK TABLE category IN EXCLUSIVE MODE"))
        assert "moved" not in process.counts()
        rename(writer, "theirs")
        assert session.execute(text("SELECT name FROM product WHERE id = 1")).scalar_one() == "a"
        product.name += "+mine"
        with pytest.raises(DBAPIError):
            session.commit()


def test_a_list_that_was_served_before_the_snapshot_is_looked_at_again(postgresql: World) -> None:
    process, writer = repeatable(postgresql), postgresql.process()
    read_in(process, lambda session: names_in(session, 3))
    with process.session() as session:
        names_in(session, 3)
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            session.execute(update(Category).where(Category.id == 9).values(name="x"))


def test_a_second_try_of_a_function_that_reads_and_updates_succeeds(postgresql: World) -> None:
    process, writer = repeatable(postgresql), postgresql.process()
    read_in(process, product_of)
    tries: list[str] = []

    def work(session: Session) -> None:
        product = session.get_one(Product, 1)
        tries.append(product.name)
        if len(tries) == 1:
            rename(writer, "theirs")
        product.name += "+mine"

    begin = sessionmaker(process.engine).begin
    with pytest.raises(OperationalError), begin() as session:
        work(session)
    with begin() as session:
        work(session)
    assert tries == ["a", "theirs"]
    assert read_in(process, name_of) == "theirs+mine"


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


# -- MariaDB: what takes a read view, and what only looks like it ----------------------------------------------------


def _prepare(process: Process) -> None:
    with process.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE isam (note int) ENGINE=MyISAM")
        connection.exec_driver_sql("INSERT INTO isam VALUES (1)")


def _takes_read_view(world: World, statement: Any) -> bool:
    """Ask the database itself, without a cache: does a change after the statement stay unseen?"""
    plain, writer = repeatable(world, cached=False), world.process(cached=False)
    with plain.session() as session:
        session.execute(statement).all()
        rename(writer, "seen")
        takes = name_of(session) == "a"
        session.rollback()
    rename(writer, "a")
    return takes


NO_READ_VIEW: list[Any] = [
    text("SELECT 1"),
    text("SELECT @@version"),
    text("SELECT table_name FROM information_schema.tables LIMIT 1"),
    text("SELECT name FROM category WHERE id = 9 FOR UPDATE"),
    text("SELECT name FROM category WHERE id = 9 LOCK IN SHARE MODE"),
    text("SELECT name FROM category WHERE 1 = 0"),
    text("SELECT name FROM category LIMIT 0"),
    text("SELECT name FROM category WHERE name IS NULL"),
    text("SELECT count(*) FROM category WHERE 1 = 0"),
    text("SELECT 1 UNION SELECT name FROM category WHERE 1 = 0"),
    text("SELECT note FROM isam"),
    text("SELECT seq FROM seq_1_to_3"),
    select(Category.id).where(Category.id == 7).with_for_update(),
    select(Category.id).where(Category.id.in_([])),
    select(func.count()).select_from(Category).where(Category.id.in_([])),
    select(select(Category.id).where(Category.id.in_([])).exists()),
    select(Category.id).where(Category.name.is_(None)),
]

READ_VIEW: list[Any] = [
    text("SELECT name FROM category WHERE id = 9"),
    text("SELECT p.name FROM category c JOIN product p ON p.category_id = c.id"),
    select(Category.id).where(Category.id == 7),
    select(Category.id, Product.id).outerjoin(Product, Product.category_id == Category.id),
]


@pytest.mark.parametrize("statement", NO_READ_VIEW, ids=str)
def test_a_statement_that_takes_no_read_view_does_not_pin(mariadb: World, statement: Any) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    _prepare(process)
    assert not _takes_read_view(mariadb, statement)
    read_in(writer, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        session.execute(statement).all()
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            session.execute(text("SELECT name FROM product WHERE id = 2")).all()


@pytest.mark.parametrize("statement", READ_VIEW, ids=str)
def test_a_plain_read_of_rows_pins(mariadb: World, statement: Any) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    assert _takes_read_view(mariadb, statement)
    read_in(writer, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        session.execute(statement).all()
        rename(writer, "b")
        pin(session)
    assert "moved" not in process.counts()


def test_a_write_does_not_pin_on_mariadb(mariadb: World) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    read_in(process, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        session.execute(update(Category).where(Category.id == 9).values(name="x"))
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            pin(session)


def test_a_statement_that_may_have_taken_the_read_view_is_looked_after_at_once(mariadb: World) -> None:
    process, writer = repeatable(mariadb), mariadb.process()
    read_in(process, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        rename(writer, "b")
        with pytest.raises(SnapshotMovedError):
            session.execute(text("SELECT count(*) FROM category")).all()


# -- SQLite ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "raises"), [("raise", True), ("continue", False), (None, False)])
def test_in_a_real_transaction_on_sqlite_hits_are_looked_at_again(
    sqlite: World, policy: str | None, raises: bool
) -> None:
    engine = make_engine(sqlite.url)
    begin_for_real(engine)
    process, writer = sqlite.process(engine=engine, on_snapshot_moved=policy), sqlite.process()
    read_in(writer, name_of)
    with process.session() as session:
        assert name_of(session) == "a"
        rename(writer, "b")
        assert _moves(session) == raises
    assert process.counts()["moved"] == 1
