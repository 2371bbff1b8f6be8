"""Whose transaction is it, where Sessions, Connections and engines share a connection or a database?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
from sqlalchemy import Connection, create_engine, event, make_url, select, text, update
from sqlalchemy.orm import Session, sessionmaker

from coherence_world import Category, Process, Product, World, is_hit, name_of, names_in, read_in, rename

Mode = Literal["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
MODES: tuple[Mode, ...] = ("conditional_savepoint", "rollback_only", "control_fully", "create_savepoint")


@pytest.fixture
def world(postgresql: World) -> World:
    return postgresql


@pytest.fixture
def writer(world: World) -> Process:
    return world.process()


@pytest.fixture
def reader(world: World, writer: Process) -> Process:
    return world.process()


@pytest.mark.parametrize("mode", MODES)
def test_the_commit_of_a_joined_session_counts_when_the_database_commits(
    writer: Process, reader: Process, mode: Mode
) -> None:
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.get_one(Product, 1).name = "b"
            session.commit()
        committed = not transaction.is_active
        if not committed:
            assert read_in(reader, name_of) == "a"
            assert is_hit(reader)
            transaction.commit()
    assert committed == (mode == "control_fully")
    assert read_in(reader, name_of) == "b"


@pytest.mark.parametrize("mode", MODES)
def test_a_joined_sessions_write_that_is_rolled_back_outside_is_never_stored(
    writer: Process, reader: Process, mode: Mode
) -> None:
    with writer.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.get_one(Product, 1).name = "dirty"
            session.flush()
            assert name_of(session) == "dirty"
        with Session(connection, join_transaction_mode="rollback_only") as other:
            names_in(other, 3)
        if transaction.is_active:
            transaction.rollback()
    assert read_in(reader, name_of) == "a"
    assert read_in(reader, lambda session: names_in(session, 3)) == ["a"]


def test_after_commit_of_a_joined_session_does_not_release(writer: Process, reader: Process, world: World) -> None:
    seen: list[bool] = []
    read_in(reader, name_of)
    with writer.engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            event.listen(session, "after_commit", lambda session: seen.append(is_hit(reader)))
            session.get_one(Product, 1).name = "b"
            session.commit()
        world.store.calls.clear()
        transaction.rollback()
    assert seen == [True]
    assert "release" in world.store.calls
    assert read_in(reader, name_of) == "a"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("inner", ["commit", "rollback"])
@pytest.mark.parametrize("outer", ["commit", "rollback"])
def test_at_each_step_of_a_joined_session_readers_see_what_the_database_shows(
    world: World, writer: Process, reader: Process, mode: Mode, inner: str, outer: str
) -> None:
    plain = world.process(cached=False)

    def require_truth() -> None:
        assert read_in(reader, name_of) == read_in(plain, name_of)
        assert read_in(reader, lambda session: names_in(session, 3)) == read_in(
            plain, lambda session: names_in(session, 3)
        )

    require_truth()
    with writer.engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, join_transaction_mode=mode) as session:
            session.get_one(Product, 1).name = "b"
            session.flush()
            require_truth()
            getattr(session, inner)()
            require_truth()
            assert name_of(session) == connection.execute(select(Product.name).where(Product.id == 1)).scalar_one()
        require_truth()
        if transaction.is_active:
            getattr(transaction, outer)()
        require_truth()
    require_truth()


@pytest.mark.parametrize("mode", MODES)
def test_at_each_step_of_a_session_joined_to_a_savepoint_readers_see_what_the_database_shows(
    world: World, writer: Process, reader: Process, mode: Mode
) -> None:
    plain = world.process(cached=False)
    read_in(reader, name_of)
    with writer.engine.connect() as connection, connection.begin() as transaction:
        nested = connection.begin_nested()
        with Session(connection, join_transaction_mode=mode) as session:
            session.get_one(Product, 1).name = "b"
            session.commit()
            assert read_in(reader, name_of) == read_in(plain, name_of)
        if nested.is_active:
            nested.rollback()
        assert read_in(reader, name_of) == read_in(plain, name_of)
        if transaction.is_active:
            transaction.commit()
    assert read_in(reader, name_of) == read_in(plain, name_of)


def test_an_inner_savepoint_that_is_rolled_back_changes_nothing_for_the_commit(
    writer: Process, reader: Process
) -> None:
    read_in(reader, name_of)
    with writer.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        inner = session.begin_nested()
        session.get_one(Product, 2).name = "never"
        session.flush()
        inner.rollback()
        assert read_in(reader, name_of) == "a"
        session.commit()
    assert read_in(reader, name_of) == "b"
    assert read_in(reader, lambda session: name_of(session, 2)) == "z"


# -- listeners that write -------------------------------------------------------------------------------------------


class Writer(Process):
    """A process whose Sessions have listeners of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.maker = sessionmaker(self.engine)


def _rename(connection: Connection) -> None:
    connection.execute(update(Product).where(Product.id == 1).values(name="b"))


def _write_at_commit_of_the_engine(writer: Writer) -> None:
    event.listen(writer.engine, "commit", _rename)


def _write_before_the_commit_of_a_session(writer: Writer) -> None:
    event.listen(writer.maker, "before_commit", lambda session: _rename(session.connection()))


def _write_after_the_flush_of_a_session(writer: Writer) -> None:
    event.listen(writer.maker, "after_flush", lambda session, context: _rename(session.connection()))


def _write_on_another_connection_after_the_commit(writer: Writer) -> None:
    def write(session: Session) -> None:
        with writer.engine.begin() as connection:
            _rename(connection)

    event.listen(writer.maker, "after_commit", write)


@pytest.mark.parametrize(
    "listen",
    [
        _write_at_commit_of_the_engine,
        _write_before_the_commit_of_a_session,
        _write_after_the_flush_of_a_session,
        _write_on_another_connection_after_the_commit,
    ],
)
def test_what_a_listener_writes_at_the_commit_is_marked_and_seen(
    world: World, writer: Process, reader: Process, listen: Callable[[Writer], None]
) -> None:
    own, seen = Writer(writer.engine, writer.cache), list[str | None]()
    listen(own)
    read_in(reader, name_of)
    with own.maker() as session:
        session.get_one(Category, 7).name = "other"
        session.flush()
        world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
        session.commit()
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"


def test_two_sessions_on_one_connection_share_its_uncommitted_writes(writer: Process, reader: Process) -> None:
    with writer.engine.connect() as connection:
        one, two = Session(connection), Session(connection)
        one.get_one(Product, 1).name = "dirty"
        one.flush()
        before = writer.counts().get("fill", 0)
        assert name_of(two) == "dirty"
        assert name_of(two, 2) == "z"
        assert writer.counts().get("fill", 0) == before
        two.close()
        one.close()
        connection.rollback()
    assert read_in(reader, name_of) == "a"


def test_a_session_and_core_on_its_connection_share_one_transaction(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.session() as session:
        session.connection().execute(update(Product).where(Product.id == 1).values(name="core"))
        assert name_of(session) == "core"
        session.commit()
    assert read_in(reader, name_of) == "core"


def test_a_detached_connection_is_still_heard(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        connection.detach()
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.commit()
    assert read_in(reader, name_of) == "b"


def test_an_invalidated_connection_is_asked_anew(writer: Process, reader: Process) -> None:
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        connection.invalidate()
        connection.rollback()
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.commit()
    assert read_in(reader, name_of) == "b"


def test_engines_of_two_urls_of_one_database_are_one_bind(world: World) -> None:
    url = make_url(world.url)
    other_url = url.set(host="localhost" if url.host == "127.0.0.1" else url.host, query={"application_name": "other"})
    one = world.process()
    two = world.process(engine=create_engine(other_url))
    read_in(one, name_of)
    assert is_hit(two)
    rename(two, "b")
    assert read_in(one, name_of) == "b"


def test_two_engines_of_one_cache_hear_each_other(world: World) -> None:
    one = world.process()
    two = world.process(cached=False)
    assert one.cache is not None
    one.cache.attach(two.engine)
    read_in(one, name_of)
    rename(two, "b")
    assert read_in(one, name_of) == "b"


def test_two_databases_of_one_server_share_nothing(world: World) -> None:
    other_url = make_url(world.url).set(database=f"{make_url(world.url).database}_x")
    admin = create_engine(make_url(world.url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {other_url.database}")
    other = World(other_url.render_as_string(hide_password=False), world.store)
    try:
        other.fill()
        rename(other.process(cached=False), "other")
        assert read_in(world.process(), name_of) == "a"
        assert read_in(other.process(), name_of) == "other"
    finally:
        other.close()
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {other_url.database} WITH (FORCE)")
        admin.dispose()
