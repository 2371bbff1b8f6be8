"""What do readers see when a COMMIT raises, or a statement takes its whole transaction with it?

Errors that the server itself answered with, on real servers; and interrupts that come while a COMMIT is under way.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from greenlet import GreenletExit, getcurrent, greenlet  # type: ignore[import-untyped]
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from coherence_world import Category, Process, Product, World, is_hit, make_engine, name_of, names_in, read_in, rename
from commit_support import Background, journal_of, replace_commit, tend_until_settled, wait_until
from wire import Point, Wire


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    yield from filled(sqlite_url)


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[World]:
    yield from filled(postgresql_url)


@pytest.fixture
def mariadb(mariadb_url: str) -> Iterator[World]:
    yield from filled(mariadb_url)


@pytest.fixture(params=["postgresql", "mariadb"])
def served(request: pytest.FixtureRequest) -> Iterator[World]:
    """A world on a server."""
    yield from filled(request.getfixturevalue(f"{request.param}_url"))


def filled(url: str) -> Iterator[World]:
    world = World(url)
    world.fill()
    yield world
    world.close()


def assert_cached_and_true(world: World, process: Process, read: Callable[[Any], Any] = name_of) -> None:
    """Nothing is marked any more, what is read is what the database says, and it is cached."""
    assert world.store.stats().marks == 0
    truth = read_in(world.process(cached=False), read)
    assert read_in(process, read) == truth
    assert is_hit(process, read)
    assert read_in(process, read) == truth


# -- what the server says at COMMIT ---------------------------------------------------------------------------------


def test_a_deferred_constraint_that_fails_the_commit_releases_the_mark(postgresql: World) -> None:
    process = postgresql.process()
    with process.engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE product ADD CONSTRAINT one_name UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
        )
    read_in(process, name_of)
    with process.session() as session:
        session.get_one(Product, 1).name = "z"
        with pytest.raises(IntegrityError):
            session.commit()
    assert_cached_and_true(postgresql, process)


def deferred_trigger(engine: Engine, body: str) -> None:
    """Have a trigger run at COMMIT, after an update of a product's name."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$"
        )
        connection.exec_driver_sql(
            "CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE OF name ON product DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION at_commit()"
        )


def test_a_deferred_trigger_that_raises_at_commit_leaves_no_doubt(postgresql: World) -> None:
    """Its error is on no list: the server says that the session is in no transaction any more."""
    process = postgresql.process()
    deferred_trigger(process.engine, "RAISE EXCEPTION 'not today'")
    read_in(process, lambda session: session.get_one(Product, 1).name)
    with pytest.raises(DBAPIError, match="not today"):
        rename(process, "b")
    assert journal_of(process).held == 0
    assert postgresql.store.stats().marks == 0
    assert read_in(process, name_of) == "a"


def test_what_a_deferred_trigger_writes_at_commit_is_seen(postgresql: World) -> None:
    process, reader = postgresql.process(), postgresql.process()
    deferred_trigger(process.engine, "UPDATE category SET name = 'renamed' WHERE id = 9")

    def read(session: Any) -> str | None:
        name: str | None = session.scalar(select(Category.name).where(Category.id == 9))
        return name

    assert read_in(reader, read) == "c9"
    rename(process, "b")
    assert read_in(reader, read) == "renamed"


def test_a_serialization_failure_at_commit_releases_the_mark(postgresql: World) -> None:
    process = postgresql.process(engine_isolation_level="SERIALIZABLE")
    with process.session() as one, process.session() as two:
        for session, number in ((one, 1), (two, 2)):
            session.execute(select(Product.name)).all()
            session.execute(update(Product).where(Product.id == number).values(stock=1))
        one.commit()
        with pytest.raises(DBAPIError):
            two.commit()
        two.rollback()
    assert postgresql.store.stats().marks == 0


def deadlock_timeout(milliseconds: int) -> dict[str, str]:
    return {"options": f"-c deadlock_timeout={milliseconds}"}


def test_a_deadlock_at_commit_releases_the_mark(postgresql: World) -> None:
    """The trigger wants a row that another transaction holds, which waits for ours."""
    process = postgresql.process(engine_connect_args=deadlock_timeout(10))
    other = postgresql.process(cached=False, engine_connect_args=deadlock_timeout(600_000))
    deferred_trigger(process.engine, "UPDATE category SET name = 'c' WHERE id = 9")
    read_in(process, name_of)
    with other.engine.connect() as theirs, process.session() as session:
        theirs.execute(update(Category).where(Category.id == 9).values(name="theirs"))
        session.get_one(Product, 1).name = "b"
        session.flush()
        waiting = Background(lambda: theirs.execute(update(Product).where(Product.id == 1).values(stock=7)))
        wait_until(lambda: lock_waits(other.engine), "the other transaction does not wait")
        with pytest.raises(OperationalError, match="deadlock"):
            session.commit()
        assert postgresql.store.stats().marks == 0
        session.rollback()
        waiting.join()
        theirs.commit()
    assert read_in(process, name_of) == "a"


def lock_waits(engine: Engine) -> bool:
    """Tell whether somebody waits for a lock in this database.

    On MariaDB: whether a statement that locks rows is under way. innodb_trx would be exact, but is a copy that is not
    renewed while anybody on the server keeps asking.
    """
    question = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        if engine.dialect.name == "postgresql"
        else "SELECT count(*) FROM information_schema.processlist"
        " WHERE db = DATABASE() AND id <> CONNECTION_ID() AND command = 'Query' AND LOCATE('UPDATE', info)"
    )
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql(question).scalar())


# -- what the server says at a statement ----------------------------------------------------------------------------


def test_after_a_deadlock_at_a_statement_what_one_did_and_the_other_did_not_is_seen(served: World) -> None:
    options: Any = [{}, {}]
    if served.url.startswith("postgresql"):
        options = [{"engine_connect_args": deadlock_timeout(number)} for number in (10, 600_000)]
    one, two, reader = served.process(**options[0]), served.process(**options[1]), served.process()
    for number in (1, 2):
        read_in(reader, partial(name_of, product_id=number))
    errors: list[Exception] = []
    with one.session() as ours, two.session() as theirs:
        ours.get_one(Product, 1).name = "ours"
        theirs.get_one(Product, 2).name = "theirs"
        ours.flush()
        theirs.flush()
        theirs.get_one(Product, 1).name = "theirs"
        waiting = Background(theirs.flush)
        wait_until(lambda: lock_waits(reader.engine), "the other transaction does not wait")
        ours.get_one(Product, 2).name = "ours"
        try:
            ours.commit()
        except OperationalError as error:
            errors.append(error)
            ours.rollback()
        waiting.join()
        assert len(errors) + (waiting.error is not None) == 1
        if waiting.error is None:
            theirs.commit()
        else:
            theirs.rollback()
    for number in (1, 2):
        assert_cached_and_true(served, reader, partial(name_of, product_id=number))


def test_old_images_end_with_a_transaction_that_a_deadlock_ended(mariadb: World) -> None:
    """MariaDB rolls back the whole transaction, and an application that catches the error goes on in another."""
    process, other, reader = mariadb.process(), mariadb.process(), mariadb.process()
    with process.session() as session:
        product = session.get_one(Product, 1)
        product.stock = 1
        session.flush()
        lose_a_deadlock(mariadb, session)
        with other.session() as moving:
            moving.get_one(Product, 1).category_id = 7
            moving.commit()
        assert read_in(reader, lambda session: names_in(session, 7)) == ["a", "z"]
        product.category_id = 9
        session.commit()
    assert read_in(reader, lambda session: names_in(session, 7)) == ["z"]


def lose_a_deadlock(world: World, session: Any) -> None:
    """Let a session, which holds product 1, be the victim of a deadlock with somebody who changed more."""
    plain = world.process(cached=False)
    with plain.engine.connect() as heavy:
        heavy.execute(update(Category).values(name=text("CONCAT(name, '!')")))
        heavy.execute(update(Product).where(Product.id == 2).values(stock=1))
        waiting = Background(lambda: heavy.execute(update(Product).where(Product.id == 1).values(stock=2)))
        wait_until(lambda: lock_waits(plain.engine), "the other transaction does not wait")
        with pytest.raises(OperationalError, match="1213"):
            session.execute(update(Product).where(Product.id == 2).values(stock=3))
        waiting.join()
        assert waiting.error is None
        heavy.rollback()


def test_a_lock_wait_that_timed_out_leaves_a_transaction_that_can_commit(mariadb: World) -> None:
    process, reader, other = mariadb.process(), mariadb.process(), mariadb.process(cached=False)
    read_in(reader, name_of)
    with other.engine.connect() as holding, process.engine.connect() as connection:
        holding.execute(update(Product).where(Product.id == 2).values(stock=1))
        connection.exec_driver_sql("SET innodb_lock_wait_timeout = 1")
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        with pytest.raises(OperationalError, match="1205"):
            connection.execute(update(Product).where(Product.id == 2).values(name="y"))
        connection.commit()
        holding.rollback()
    assert read_in(reader, name_of) == "b"
    assert_cached_and_true(mariadb, reader)


def test_a_statement_in_autocommit_that_fails_leaves_no_mark(postgresql: World) -> None:
    process = postgresql.process(engine_isolation_level="AUTOCOMMIT")
    with process.engine.connect() as connection, pytest.raises(IntegrityError):
        connection.execute(update(Product).where(Product.id == 1).values(category_id=1000))
    assert postgresql.store.stats().marks == 0


def test_a_listener_of_the_users_that_fails_before_a_statement_leaves_the_mark_in_doubt(postgresql: World) -> None:
    process = postgresql.process(engine_isolation_level="AUTOCOMMIT")

    @event.listens_for(process.engine, "before_cursor_execute")
    def refuse(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("UPDATE"):
            raise LookupError("refused")

    with process.engine.connect() as connection:
        with pytest.raises(LookupError):
            connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.execute(select(Category.name)).all()
    journal = journal_of(process)
    assert len(journal._doubted) == journal.held == 1


def test_an_empty_category_is_listed_again_after_a_failed_insert(world: World) -> None:
    process = world.process()
    with process.session() as session:
        session.execute(text("PRAGMA foreign_keys"))
        session.add(Product(id=1, name="twice", category_id=9))
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
    assert read_in(process, lambda session: names_in(session, 9)) == []


# -- interrupts -------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """What no library expects."""


@pytest.mark.parametrize("sent", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, GreenletExit, SystemExit, Interrupted])
def test_an_interrupt_around_the_commit_leaves_the_mark_until_the_server_tells(
    served: World, interrupt: type[BaseException], sent: bool
) -> None:
    process, reader = served.process(), served.process()
    read_in(reader, name_of)

    def stop(send: Callable[[], None], proxied: Any) -> None:
        if sent:
            send()
        raise interrupt

    replace_commit(process, stop)
    with pytest.raises(interrupt):
        rename(process, "b")
    assert read_in(reader, name_of) == ("b" if sent else "a")
    tend_until_settled(process)
    assert_cached_and_true(served, reader)


def test_an_interrupt_during_commit_keeps_the_mark(world: World) -> None:
    process = world.process()

    def interrupt(send: Callable[[], None], proxied: Any) -> None:
        send()
        raise KeyboardInterrupt

    read_in(process, name_of)
    replace_commit(process, interrupt)
    with pytest.raises(KeyboardInterrupt):
        rename(process, "b")
    assert world.store.stats().marks
    assert read_in(process, name_of) == "b"


def test_a_greenlet_killed_while_its_commit_is_under_way_leaves_the_mark(postgresql: World) -> None:
    process, reader = postgresql.process(), postgresql.process()
    read_in(reader, name_of)
    hub = getcurrent()

    def wait(send: Callable[[], None], proxied: Any) -> None:
        hub.switch("in commit")
        send()

    replace_commit(process, wait)
    writer = greenlet(lambda: rename(process, "b"))
    assert writer.switch() == "in commit"
    writer.throw(GreenletExit)
    assert postgresql.store.stats().marks
    assert read_in(reader, name_of) == "a"
    tend_until_settled(process)
    assert_cached_and_true(postgresql, reader)


def test_control_c_while_the_answer_is_on_the_wire_keeps_the_mark(mariadb: World) -> None:
    with Wire(mariadb.url) as wire:
        process, reader = mariadb.process(engine=make_engine(wire.url)), mariadb.process()
        read_in(reader, name_of)
        wire.arm(Point.STALL)
        main = threading.main_thread().ident
        assert main is not None

        def press() -> None:
            wire.wait_until_reached()
            signal.pthread_kill(main, signal.SIGINT)

        pressing = Background(press)
        with pytest.raises(KeyboardInterrupt):
            rename(process, "b")
        pressing.join()
        assert mariadb.store.stats().marks
        assert read_in(reader, name_of) == "b"
        assert not is_hit(reader)
        wire.cut()
        tend_until_settled(process)
        assert_cached_and_true(mariadb, reader)
