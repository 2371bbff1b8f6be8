"""When is a transaction in two phases over, for readers?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, update
from sqlalchemy.orm import Session

from coherence_fixtures import world_on
from coherence_world import Category, Process, Product, World, category_of, is_hit, name_of, read_in, rename
from querycache.stores.lmdb import LMDBStore

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def preparing(prepared_postgresql_url: str) -> Iterator[World]:
    with world_on(prepared_postgresql_url) as world:
        yield world


@pytest.fixture
def postgresql(preparing: World) -> Iterator[World]:
    """A PostgreSQL that allows prepared transactions, with none left over and the first names."""
    rename(preparing.process(cached=False), "a")
    yield preparing
    _roll_back_all(preparing)


@pytest.fixture
def mariadb(own_mariadb: World) -> Iterator[World]:
    """A MariaDB that nobody else has: prepared transactions are the whole server's."""
    yield own_mariadb
    _roll_back_all(own_mariadb)


@pytest.fixture(params=["postgresql", "mariadb"])
def world(request: pytest.FixtureRequest) -> World:
    found: World = request.getfixturevalue(request.param)
    return found


def _roll_back_all(world: World) -> None:
    for process in world.processes:
        process.engine.dispose()
    rollback = "ROLLBACK PREPARED" if world.url.startswith("postgresql") else "XA ROLLBACK"
    with world.process(cached=False, engine_isolation_level="AUTOCOMMIT").engine.connect() as connection:
        for xid in connection.recover_twophase():
            connection.exec_driver_sql(f"{rollback} '{_text(xid)}'")


def _text(xid: Any) -> str:
    return xid.decode() if isinstance(xid, bytes) else str(xid)


def _renamed(connection: Connection, name: str) -> None:
    connection.execute(update(Product).where(Product.id == 1).values(name=name))


def _coordinator(world: World) -> Process:
    """Start a process that ends what others prepared; MariaDB lets nobody do so whose transactions begin by themselves."""
    return world.process() if world.url.startswith("postgresql") else world.process(engine_isolation_level="AUTOCOMMIT")


# -- the phases of one connection -----------------------------------------------------------------------------------


def test_a_commit_in_two_phases_is_seen(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        assert read_in(reader, name_of) == "a"
        transaction.commit()
    assert read_in(reader, name_of) == "b"
    assert world.store.stats().marks == 0


def test_between_the_phases_nothing_is_marked(world: World) -> None:
    writer, reader = world.process(), world.process()
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        assert world.store.stats().marks == 0
        read_in(reader, name_of)
        assert is_hit(reader)
        transaction.rollback()
    assert read_in(reader, name_of) == "a"


def test_a_reader_between_mark_and_the_second_phase_is_told_not_to_store(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    seen: list[Any] = []
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
        transaction.commit()
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"


def test_a_session_in_two_phases_is_seen(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    with Session(writer.engine, twophase=True) as session:
        session.get_one(Product, 1).name = "b"
        session.commit()
    assert read_in(reader, name_of) == "b"


def test_a_commit_in_one_phase_of_a_two_phase_transaction_is_seen(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    seen: list[Any] = []
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
        transaction.commit()
        assert read_in(reader, name_of) == "b"
    assert seen == ["a"]
    assert world.store.stats().marks == 0


def test_a_commit_in_two_phases_drops_only_what_it_changed(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, lambda session: name_of(session, 2))
    read_in(reader, category_of)
    with Session(writer.engine, twophase=True) as session:
        session.get_one(Product, 1).name = "b"
        session.prepare()
        session.commit()
    assert is_hit(reader, category_of)
    assert is_hit(reader, lambda session: session.get_one(Category, 3).name) is False  # never read before


def test_in_two_phases_nothing_is_stored_after_a_change(world: World) -> None:
    writer = world.process()
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        with Session(connection) as session:
            assert name_of(session) == "b"
        transaction.rollback()
    assert read_in(writer, name_of) == "a"


def test_a_rollback_of_what_was_prepared_drops_what_it_had_changed(world: World) -> None:
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    with writer.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        transaction.rollback()
        assert not is_hit(reader)
    assert read_in(reader, name_of) == "a"
    assert world.store.stats().marks == 0


# -- prepared by one, committed by another --------------------------------------------------------------------------


def _prepare(process: Process) -> str:
    """Prepare a transaction, and lose the connection."""
    with process.engine.connect() as connection:
        transaction = connection.begin_twophase()
        _renamed(connection, "b")
        transaction.prepare()
        connection.invalidate()
    return _text(transaction.xid)


@pytest.mark.parametrize("prepared_by", ["an uncached process", "a cached process"])
def test_what_another_process_prepared_is_seen_when_this_one_commits_it(world: World, prepared_by: str) -> None:
    other = world.process(cached=prepared_by == "a cached process")
    process, reader = _coordinator(world), world.process()
    read_in(reader, name_of)
    xid = _prepare(other)
    assert read_in(reader, name_of) == "a"
    seen: list[Any] = []
    with process.engine.connect() as connection:
        world.store.after["mark"] = lambda: seen.append(read_in(reader, name_of))
        connection.commit_prepared(xid, recover=True)
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"
    assert world.store.stats().marks == 0


def test_a_transaction_id_that_is_used_again_does_not_stand_for_the_first_ones_changes(world: World) -> None:
    process, other, reader = world.process(), world.process(cached=False), world.process()
    read_in(reader, name_of)
    with process.engine.connect() as connection:
        first = connection.begin_twophase("the same")
        connection.execute(update(Category).where(Category.id == 9).values(name="x"))
        first.prepare()
        connection.invalidate()
    _roll_back_all(world)
    with other.engine.connect() as connection:
        second = connection.begin_twophase("the same")
        _renamed(connection, "b")
        second.prepare()
        connection.invalidate()
    with _coordinator(world).engine.connect() as connection:
        connection.commit_prepared("the same", recover=True)
    assert read_in(reader, name_of) == "b"


def test_all_that_a_coordinator_finds_prepared_it_can_commit_and_be_seen(world: World) -> None:
    other, process, reader = world.process(cached=False), _coordinator(world), world.process()
    read_in(reader, name_of)
    _prepare(other)
    with process.engine.connect() as connection:
        found = connection.recover_twophase()
    assert found
    for xid in found:
        with process.engine.connect() as connection:
            connection.commit_prepared(_text(xid), recover=True)
    assert read_in(reader, name_of) == "b"


# -- real processes, on a store of the machine ----------------------------------------------------------------------

CHILD = """
import sys
from sqlalchemy import update
from coherence_world import Category, Product, make_engine
from querycache import QueryCache

what, url, store, xid = sys.argv[1:]
ends = what == "commit" and url.startswith("mariadb")
engine = make_engine(url, **({"isolation_level": "AUTOCOMMIT"} if ends else {}))
QueryCache(f"lmdb://{store}", models=[Category, Product]).attach(engine)
with engine.connect() as connection:
    if what == "commit":
        connection.commit_prepared(xid, recover=True)
    else:
        transaction = connection.begin_twophase(xid)
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        transaction.prepare()
        print("prepared", flush=True)
        if what == "wait":
            sys.stdin.read()
        transaction.commit()
"""


@pytest.fixture
def on_lmdb(world: World, tmp_path: Path) -> World:
    world.store = LMDBStore(tmp_path / "store")  # type: ignore[assignment]  # its verbs are not staged
    return world


def _child(world: World, what: str, xid: str) -> subprocess.Popen[bytes]:
    paths = [str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    store = world.store.url.removeprefix("lmdb://")
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, what, world.url, store, xid],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_what_this_process_prepared_is_seen_here_when_another_process_commits_it(on_lmdb: World) -> None:
    process, reader = on_lmdb.process(), on_lmdb.process()
    read_in(reader, name_of)
    xid = _prepare(process)
    assert read_in(reader, name_of) == "a"
    with _child(on_lmdb, "commit", xid) as child:
        assert child.wait(60) == 0
    assert read_in(reader, name_of) == "b"
    assert is_hit(reader)


def test_what_a_killed_process_had_prepared_is_seen_when_another_commits_it(on_lmdb: World) -> None:
    process, reader = _coordinator(on_lmdb), on_lmdb.process()
    read_in(reader, name_of)
    with _child(on_lmdb, "wait", "prepared and killed") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"prepared\n"
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    assert read_in(reader, name_of) == "a"
    assert is_hit(reader)
    with process.engine.connect() as connection:
        connection.commit_prepared("prepared and killed", recover=True)
    assert read_in(reader, name_of) == "b"


# -- by text --------------------------------------------------------------------------------------------------------


def _send(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.exec_driver_sql(statement)


def test_a_prepared_transaction_committed_by_text_is_seen_on_postgresql(postgresql: World) -> None:
    process = postgresql.process(engine_isolation_level="AUTOCOMMIT")
    other, reader = postgresql.process(cached=False), postgresql.process()
    read_in(reader, name_of)
    xid = _prepare(other)
    with process.engine.connect() as connection:
        connection.exec_driver_sql(f"COMMIT PREPARED '{xid}'")
        assert read_in(reader, name_of) == "b"


def test_a_transaction_prepared_and_committed_by_text_is_seen_on_postgresql(postgresql: World) -> None:
    process = postgresql.process(engine_isolation_level="AUTOCOMMIT")
    reader = postgresql.process()
    read_in(reader, name_of)
    with process.engine.connect() as connection:
        _send(connection, "BEGIN", "UPDATE product SET name = 'b' WHERE id = 1", "PREPARE TRANSACTION 'by text'")
        assert read_in(reader, name_of) == "a"
        assert is_hit(reader)
        connection.exec_driver_sql("COMMIT PREPARED 'by text'")
        assert read_in(reader, name_of) == "b"


def test_a_transaction_prepared_by_text_and_rolled_back_changes_nothing(postgresql: World) -> None:
    process, reader = postgresql.process(engine_isolation_level="AUTOCOMMIT"), postgresql.process()
    with process.engine.connect() as connection:
        _send(connection, "BEGIN", "UPDATE product SET name = 'b' WHERE id = 1", "PREPARE TRANSACTION 'by text'")
        with Session(connection) as session:
            assert name_of(session) == "a"
        connection.exec_driver_sql("ROLLBACK PREPARED 'by text'")
    assert read_in(reader, name_of) == "a"


@pytest.mark.parametrize("end", ["XA COMMIT 'x'", "XA COMMIT 'x' ONE PHASE", "XA ROLLBACK 'x'"])
@pytest.mark.parametrize("verb", ["XA START", "XA BEGIN"])
def test_xa_by_text_is_seen_when_it_commits(mariadb: World, verb: str, end: str) -> None:
    process, reader = mariadb.process(), mariadb.process()
    read_in(reader, name_of)
    with process.engine.connect() as connection:
        _send(connection, f"{verb} 'x'", "UPDATE product SET name = 'b' WHERE id = 1", "XA END 'x'")
        assert read_in(reader, name_of) == "a"
        if "ONE PHASE" not in end:
            _send(connection, "XA PREPARE 'x'")
            assert read_in(reader, name_of) == "a"
        _send(connection, end)
        assert read_in(reader, name_of) == ("a" if "ROLLBACK" in end else "b")
    assert read_in(reader, name_of) == ("a" if "ROLLBACK" in end else "b")


def test_xa_commit_by_text_on_another_connection_is_seen(mariadb: World) -> None:
    other, process, reader = mariadb.process(cached=False), _coordinator(mariadb), mariadb.process()
    read_in(reader, name_of)
    xid = _prepare(other)
    with process.engine.connect() as connection:
        connection.exec_driver_sql(f"XA COMMIT '{xid}'")
        assert read_in(reader, name_of) == "b"


def test_the_drivers_own_two_phases_are_seen(postgresql: World) -> None:
    process, reader = postgresql.process(), postgresql.process()
    read_in(reader, name_of)
    raw: Any = process.engine.raw_connection()
    raw.tpc_begin("the driver's")
    raw.cursor().execute("UPDATE product SET name = 'b' WHERE id = 1")
    raw.tpc_prepare()
    assert read_in(reader, name_of) == "a"
    raw.tpc_commit()
    assert read_in(reader, name_of) == "b"
    raw.close()
