"""Do all ways to one database lead to one cache, and is a database that is no longer the same given nothing of the old one?"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from coherence_world import Base, Category, Process, Product, World, is_hit, name_of, read_in, rename
from querycache import connections
from querycache.databases import FileWatch
from restartable import Forwarder, OwnServer, own_mariadb, own_pgbouncer, own_postgresql, wait_for

# pgbouncer gives each transaction another session, which knows no statement that was prepared before.
THROUGH_A_POOLER = {"connect_args": {"prepare_threshold": None}}


@pytest.fixture(scope="module")
def postgresql() -> Iterator[OwnServer]:
    with own_postgresql("fsync=off") as server:
        run(server.url, "CREATE ROLE other SUPERUSER LOGIN")
        yield server


@pytest.fixture(scope="module")
def mariadb() -> Iterator[OwnServer]:
    with own_mariadb() as server:
        run(server.url, "CREATE USER other", "GRANT ALL ON *.* TO other")
        yield server


def run(url: Any, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


@pytest.fixture
def on_postgresql(postgresql: OwnServer) -> Iterator[World]:
    with world_on(postgresql, "app") as world:
        yield world


@pytest.fixture
def on_mariadb(mariadb: OwnServer) -> Iterator[World]:
    with world_on(mariadb, "app") as world:
        yield world


@contextmanager
def world_on(server: OwnServer, database: str) -> Iterator[World]:
    """Make a database with products on a server of the tests' own."""
    run(server.url, f"DROP DATABASE IF EXISTS {database}", f"CREATE DATABASE {database}")
    world = World(server.url.set(database=database).render_as_string(hide_password=False))
    world.fill()
    try:
        yield world
    finally:
        world.close()


def process(world: World, url: Any = None, **options: Any) -> Process:
    """Start a process; at READ COMMITTED, so that on MariaDB, too, what is read is stored at once."""
    options.setdefault("isolation_level", "READ COMMITTED")
    return world.process(engine=create_engine(url or world.url, **options))


def assert_one_bind(world: World, one: Process, other: Process) -> None:
    """Check that what each writes, the other reads."""
    assert read_in(one, name_of) == read_in(other, name_of) == "a"
    assert is_hit(one)
    assert is_hit(other)
    rename(other, "b")
    assert read_in(one, name_of) == "b"
    rename(one, "c")
    assert read_in(other, name_of) == "c"
    assert one.cache is not None
    assert other.cache is not None
    assert one.cache._binds.known()[0].id == other.cache._binds.known()[0].id


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


HOSTS = ["localhost", "127.0.0.1", *(["::1"] if has_ipv6() else [])]


@pytest.mark.parametrize("host", HOSTS)
def test_every_name_of_a_postgresqls_host_is_one_database(
    on_postgresql: World, postgresql: OwnServer, host: str
) -> None:
    by_socket = process(on_postgresql, postgresql.socket_url.set(database="app"))
    assert_one_bind(on_postgresql, by_socket, process(on_postgresql, postgresql.url.set(host=host, database="app")))


def test_another_user_of_postgresql_is_on_the_same_database(on_postgresql: World, postgresql: OwnServer) -> None:
    other = postgresql.url.set(username="other", database="app")
    assert_one_bind(on_postgresql, process(on_postgresql), process(on_postgresql, other))


def test_a_proxy_at_another_port_is_the_same_database(on_postgresql: World, postgresql: OwnServer) -> None:
    forwarder = Forwarder(("127.0.0.1", postgresql.url.port or 0))
    through = postgresql.url.set(port=forwarder.port, database="app")
    assert_one_bind(on_postgresql, process(on_postgresql), process(on_postgresql, through))
    forwarder.close()


def test_every_way_to_a_mariadb_is_one_database(on_mariadb: World, mariadb: OwnServer) -> None:
    ways = [
        mariadb.socket_url,
        mariadb.url.set(host="localhost"),
        mariadb.url.set(drivername="mysql+pymysql"),
        mariadb.url.set(username="other"),
    ]
    first = process(on_mariadb)
    for way in ways:
        rename(first, "a")
        assert_one_bind(on_mariadb, first, process(on_mariadb, way.set(database="app")))


def test_two_databases_of_one_mariadb_share_no_entry(on_mariadb: World, mariadb: OwnServer) -> None:
    with world_on(mariadb, "elsewhere") as other:
        other.store = on_mariadb.store
        here, there = process(on_mariadb), process(other)
        rename(there, "z")
        assert (read_in(here, name_of), read_in(there, name_of)) == ("a", "z")
        assert (read_in(here, name_of), read_in(there, name_of)) == ("a", "z")
        assert is_hit(here)
        assert is_hit(there)


# -- a pooler -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pooler(postgresql: OwnServer) -> Iterator[Any]:
    with own_pgbouncer(postgresql) as url:
        yield url.set(database="app")


def test_a_pooler_is_the_same_database(on_postgresql: World, pooler: Any) -> None:
    assert_one_bind(on_postgresql, process(on_postgresql), process(on_postgresql, pooler, **THROUGH_A_POOLER))


def test_each_client_of_a_pooler_keeps_its_settings(on_postgresql: World, pooler: Any) -> None:
    """pgbouncer gives a session to whoever needs one, set as that client set its own when it connected."""
    zone = {"connect_args": {"prepare_threshold": None, "options": "-c timezone=Asia/Tokyo"}}
    one, other = process(on_postgresql, pooler, **THROUGH_A_POOLER), process(on_postgresql, pooler, **THROUGH_A_POOLER)
    read_in(one, name_of)
    assert is_hit(other)
    with pytest.raises(OperationalError, match="options"):
        process(on_postgresql, pooler, **zone).engine.connect()


def test_a_crash_behind_a_pooler_is_noticed_through_a_connection_that_outlived_it(
    on_postgresql: World, postgresql: OwnServer, pooler: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = process(on_postgresql, pooler, **THROUGH_A_POOLER)
    rename(through, "lost")
    read_in(through, name_of)
    run(postgresql.url.set(database="app"), "UPDATE product SET name = 'found' WHERE id = 1")
    postgresql.stop()
    postgresql.start()
    monkeypatch.setattr(connections, "ASK_AGAIN_AFTER_S", 0.0)
    made = count_connections(through.engine)
    with through.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    assert made == []
    assert read_in(through, name_of) == "found"


def count_connections(engine: Engine) -> list[object]:
    made: list[object] = []
    event.listen(engine, "connect", lambda connection, record: made.append(connection))
    return made


# -- a server that goes back behind what it had acknowledged --------------------------------------------------------


@pytest.fixture
def losing_postgresql() -> Iterator[OwnServer]:
    """A PostgreSQL whose commits are acknowledged before they are safe."""
    with own_postgresql("synchronous_commit=off", "wal_writer_delay=10s") as server:
        yield server


def stop_the_walwriter(server: OwnServer) -> int:
    """Keep PostgreSQL from writing its log by itself; return the process that would have."""
    engine = create_engine(server.url, poolclass=NullPool)
    with engine.connect() as connection:
        asked = connection.exec_driver_sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'")
        pid: int = asked.scalar_one()
    os.kill(pid, signal.SIGSTOP)
    return pid


def without_connections(process: Process) -> Process:
    """Close what a process has open, as a pool does that recycles: its next hit needs none."""
    process.engine.dispose()
    return process


@pytest.mark.parametrize("how", ["server", "one process of it"])
def test_a_commit_that_postgresql_lost_in_a_crash_is_lost_to_every_process(
    losing_postgresql: OwnServer, how: str
) -> None:
    """Seen: an asynchronous commit acknowledged, cached, and lost; the cache said 3, the database 1."""
    server = losing_postgresql
    with world_on(server, "app") as world:
        writer, reader = process(world), process(world)
        run(server.url, "CHECKPOINT")
        walwriter = stop_the_walwriter(server)
        rename(writer, "lost")
        assert read_in(reader, name_of) == "lost"
        without_connections(writer), without_connections(reader)
        if how == "server":
            server.process.send_signal(signal.SIGQUIT)
        os.kill(walwriter, signal.SIGKILL)
        if how == "server":
            server.process.wait()
            server.start()
        wait_for(lambda: truth(server) == "a", "the commit was not lost")
        assert is_hit(reader), "nobody can have told it"
        assert read_in(reader, name_of) == "lost"
        writer.engine.connect().close()
        assert read_in(reader, name_of) == "a"
        assert read_in(writer, name_of) == "a"
        assert is_hit(reader)


def test_what_a_mariadb_may_have_lost_when_it_was_killed_is_served_to_nobody(mariadb: OwnServer) -> None:
    """Whether its log had been written is a matter of moments: here the commit is undone by somebody unheard."""
    with world_on(mariadb, "app") as world:
        writer, reader = process(world), process(world)
        rename(writer, "lost")
        assert read_in(reader, name_of) == "lost"
        without_connections(writer), without_connections(reader)
        mariadb.end(signal.SIGKILL)
        mariadb.start()
        run(mariadb.url.set(database="app"), "UPDATE product SET name = 'a' WHERE id = 1")
        writer.engine.connect().close()
        assert read_in(reader, name_of) == "a"
        assert read_in(writer, name_of) == "a"


def truth(server: OwnServer) -> str | None:
    """Read what a connection that knows no cache reads; None while none can be made."""
    engine = create_engine(server.url.set(database="app"), poolclass=NullPool)
    try:
        with engine.connect() as connection:
            name: str = connection.exec_driver_sql("SELECT name FROM product WHERE id = 1").scalar_one()
            return name
    except OperationalError:
        return None


@pytest.fixture(params=["postgresql", "mariadb"])
def restored(request: pytest.FixtureRequest) -> Iterator[OwnServer]:
    with own_postgresql("fsync=off") if request.param == "postgresql" else own_mariadb() as server:
        yield server


def test_a_server_given_back_its_old_files_is_given_no_newer_rows(restored: OwnServer) -> None:
    with world_on(restored, "app") as world:
        restored.keep_files()
        writer, reader = process(world), process(world)
        rename(writer, "after the backup")
        assert read_in(reader, name_of) == "after the backup"
        without_connections(writer), without_connections(reader)
        restored.put_files_back()
        assert truth(restored) == "a"
        writer.engine.connect().close()
        assert read_in(reader, name_of) == "a"


def test_what_the_catalog_was_before_a_restore_is_forgotten_with_the_rows(restored: OwnServer) -> None:
    """The trigger that was dropped is there again."""
    with world_on(restored, "app") as world:
        make_trigger(world.url)
        restored.keep_files()
        writer, reader = process(world), process(world)
        with writer.engine.begin() as connection:
            connection.exec_driver_sql(
                "DROP TRIGGER moved ON category" if writer.engine.dialect.name == "postgresql" else "DROP TRIGGER moved"
            )
        with writer.session() as session:
            session.get_one(Category, 3).name = "no trigger"
            session.commit()
        without_connections(writer), without_connections(reader)
        restored.put_files_back()
        assert read_in(reader, name_of) == "a"
        with writer.session() as session:
            session.get_one(Category, 3).name = "trigger"
            session.commit()
        assert truth(restored) == "by a trigger"
        assert read_in(reader, name_of) == "by a trigger"


def make_trigger(url: str) -> None:
    change = "UPDATE product SET name = 'by a trigger' WHERE category_id = NEW.id"
    if url.startswith("postgresql"):
        run(
            url,
            f"CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {change}; RETURN NEW; END $$",
            "CREATE TRIGGER moved AFTER UPDATE ON category FOR EACH ROW EXECUTE FUNCTION move()",
        )
    else:
        run(url, f"CREATE TRIGGER moved AFTER UPDATE ON category FOR EACH ROW {change}")


def test_a_postgresql_database_dropped_and_made_again_is_given_nothing_of_the_old_one(
    on_postgresql: World, postgresql: OwnServer
) -> None:
    writer, idle = process(on_postgresql), process(on_postgresql)
    rename(writer, "old")
    assert read_in(idle, name_of) == "old"
    without_connections(writer), without_connections(idle)
    run(postgresql.url, "DROP DATABASE app", "CREATE DATABASE app")
    on_postgresql.fill()
    writer.engine.connect().close()
    assert read_in(writer, name_of) == "a"
    assert read_in(idle, name_of) == "a"
    assert is_hit(writer)


# -- engines that lead to more than one database --------------------------------------------------------------------


def test_an_engine_that_leads_to_databases_by_turns_serves_only_who_has_a_connection(
    on_postgresql: World, postgresql: OwnServer
) -> None:
    with world_on(postgresql, "elsewhere") as other:
        rename(other.process(cached=False), "there")
        turn = ["app"]
        engine = create_engine(on_postgresql.url, poolclass=NullPool)

        @event.listens_for(engine, "do_connect")
        def choose(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
            parameters["dbname"] = turn[0]

        routed = on_postgresql.process(engine=engine)
        for turn[0], told in (("app", "a"), ("elsewhere", "there"), ("app", "a")):
            engine.connect().close()
            assert read_in(routed, name_of) == told
        for turn[0], told in (("elsewhere", "there"), ("app", "a")):
            assert read_in(routed, name_of) == told
        with routed.session() as session:
            session.connection()
            assert name_of(session) == "a"


# -- SQLite ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def on_sqlite(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url, use_wal=False)
    world.fill()
    yield world
    world.close()


def replace(path: Path) -> None:
    os.replace(path.with_name("new"), path)


def remove_and_rename(path: Path) -> None:
    path.unlink()
    path.with_name("new").rename(path)


def remove_and_copy(path: Path) -> None:
    born = FileWatch(str(path)).identity()
    path.unlink()
    shutil.copyfile(path.with_name("new"), path)
    while FileWatch(str(path)).identity() == born:  # the tick of the kernel's clock
        path.unlink()
        shutil.copyfile(path.with_name("new"), path)


@pytest.mark.parametrize("put", [replace, remove_and_rename, remove_and_copy])
def test_rows_of_a_file_are_not_served_once_another_is_in_its_place(
    on_sqlite: World, put: Callable[[Path], None]
) -> None:
    path = path_of(on_sqlite)
    reader = on_sqlite.process(engine=create_engine(on_sqlite.url, poolclass=NullPool))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", [str(path.with_name("new"))])
    with closing(sqlite3.connect(path.with_name("new"))) as connection:
        connection.execute("UPDATE product SET name = 'new' WHERE id = 1")
        connection.commit()
    read_in(reader, name_of)
    assert is_hit(reader)
    put(path)
    assert read_in(reader, name_of) == "new"
    assert read_in(reader, name_of) == "new"
    assert is_hit(reader)


def test_rows_of_a_file_are_not_served_once_the_link_to_it_leads_elsewhere(on_sqlite: World, tmp_path: Path) -> None:
    link, other = tmp_path / "current", World(f"sqlite:///{tmp_path}/other", use_wal=False)
    link.symlink_to(path_of(on_sqlite))
    reader = on_sqlite.process(engine=create_engine(f"sqlite:///{link}", poolclass=NullPool))
    other.fill()
    rename(other.process(cached=False), "other")
    read_in(reader, name_of)
    assert is_hit(reader)
    link.unlink()
    link.symlink_to(tmp_path / "other")
    assert read_in(reader, name_of) == "other"
    other.close()


def test_a_pooled_connection_on_a_file_that_was_replaced_fills_nothing_for_the_new_one(
    on_sqlite: World, tmp_path: Path
) -> None:
    path = path_of(on_sqlite)
    pooled, fresh = on_sqlite.process(), on_sqlite.process(engine=create_engine(on_sqlite.url, poolclass=NullPool))
    pooled.engine.connect().close()
    shutil.copyfile(path, path.with_name("new"))
    replace(path)
    rename(fresh, "new")
    assert read_in(pooled, name_of) == "a", "its connection has the old file open: what SQLAlchemy alone would read"
    assert read_in(pooled, name_of) == "a"
    assert read_in(fresh, name_of) == "new"
    pooled.engine.dispose()
    assert read_in(pooled, name_of) == "new"
    assert is_hit(pooled)


def path_of(world: World) -> Path:
    return Path(world.url.removeprefix("sqlite:///"))


@pytest.mark.parametrize("options", [{}, {"poolclass": StaticPool}, {"poolclass": QueuePool}], ids=str)
def test_what_was_in_memory_is_not_served_when_its_connection_is_closed(options: dict[str, Any]) -> None:
    world = World("sqlite://")
    engine = create_engine("sqlite://", **options)
    reader = world.process(engine=engine)
    fill(engine, "old")
    read_in(reader, name_of)
    assert is_hit(reader)
    engine.dispose()
    with pytest.raises(OperationalError, match="no such table"):
        read_in(reader, name_of)
    fill(engine, "new")
    assert read_in(reader, name_of) == "new"
    assert read_in(reader, name_of) == "new"
    world.close()


def fill(engine: Engine, name: str) -> None:
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Category(id=3, name="c"))
        session.add(Product(id=1, name=name, category_id=3))
        session.commit()
