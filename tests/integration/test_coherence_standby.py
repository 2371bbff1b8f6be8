"""What do readers see while a COMMIT waits for a synchronous standby that is missing?

The commit is written but not visible, for as long as the wait lasts: the longest COMMIT that there is. A PostgreSQL of our
own is told to wait for a standby that nobody started.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from app_process import AppProcess
from coherence_world import Process, Product, World, is_hit, make_engine, name_of, read_in, rename
from commit_support import Background, journal_of, tend, tend_until_settled, wait_until
from own_servers import start_postgresql
from querycache.coherence import inquiry as inquiries
from querycache.coherence import journal as journals
from servers import POSTGRESQL, database, why_not
from wire import Wire

# Who waits says so: everybody else's commits are the primary's own affair.
WAITING = "-c synchronous_commit=on"


@dataclass
class Primary:
    """A server whose standby is missing until ``standby_returns``."""

    url: str
    admin: Engine

    def standby_is_missing(self) -> None:
        self._name_standby("nobody")
        wait_until(self._a_commit_waits, "the server does not wait for its standby")

    def standby_returns(self) -> None:
        """Take the standby off the list: to those who wait this is the same."""
        self._name_standby("")

    def _name_standby(self, name: str) -> None:
        with self.admin.connect() as connection:
            connection.exec_driver_sql(f"ALTER SYSTEM SET synchronous_standby_names = '{name}'")
            connection.exec_driver_sql("SELECT pg_reload_conf()")

    def _a_commit_waits(self) -> bool:
        """Commit something, and tell whether it waits: the server takes up its new settings in its own time."""
        probe = Background(self._write)
        wait_until(lambda: self.waits() or not probe.is_running, "a COMMIT neither waits nor returns")
        waited = probe.is_running
        self.cancel_the_wait()
        probe.join()
        return waited

    def _write(self) -> None:
        with self.admin.connect() as connection:
            connection.exec_driver_sql("SET synchronous_commit = on")
            connection.exec_driver_sql("SELECT pg_logical_emit_message(true, 'probe', 'a transaction that writes')")

    def cancel_the_wait(self) -> None:
        """Cancel what waits, as an administrator or a driver does."""
        self._end_the_wait("pg_cancel_backend")

    def terminate_who_waits(self) -> None:
        """End the sessions that wait."""
        self._end_the_wait("pg_terminate_backend")

    def _end_the_wait(self, function: str) -> None:
        with self.admin.connect() as connection:
            connection.exec_driver_sql(f"SELECT {function}(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

    def waits(self) -> bool:
        """Tell whether a COMMIT waits for the standby."""
        with self.admin.connect() as connection:
            question = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
            return bool(connection.exec_driver_sql(question).scalar())


@pytest.fixture(scope="module")
def own_server() -> Iterator[URL]:
    with start_postgresql(lambda url: why_not(POSTGRESQL, url)) as url:
        yield url


@pytest.fixture
def primary(own_server: URL) -> Iterator[Primary]:
    with database(own_server, "standby") as url:
        admin = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
        with admin.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} SET synchronous_commit = local")
        primary = Primary(url.render_as_string(hide_password=False), admin)
        yield primary
        primary.standby_returns()
        wait_until(lambda: not primary.waits(), "a COMMIT still waits")


@pytest.fixture
def world(primary: Primary) -> Iterator[World]:
    world = World(primary.url)
    world.fill()
    primary.standby_is_missing()
    yield world
    primary.standby_returns()
    world.close()


@dataclass
class Scene:
    primary: Primary
    world: World
    writer: Process
    reader: Process

    def commit_that_waits(self) -> Background:
        commit = Background(lambda: rename(self.writer, "b"))
        wait_until(self.primary.waits, "the COMMIT does not wait")
        return commit

    def is_marked(self) -> bool:
        return bool(self.world.store.stats().marks)

    def assert_stored_by_nobody(self, name: str) -> None:
        for _ in range(2):
            assert read_in(self.reader, name_of) == name
            assert not is_hit(self.reader)

    def assert_cached(self, name: str) -> None:
        assert read_in(self.reader, name_of) == name
        assert is_hit(self.reader)


@pytest.fixture
def scene(primary: Primary, world: World) -> Scene:
    scene = Scene(primary, world, world.process(engine_connect_args={"options": WAITING}), world.process())
    for process in (scene.writer, scene.reader):
        read_in(process, name_of)
        assert is_hit(process)
    return scene


class Clock:
    """Stands in for ``time`` in the journal: what it shows is put forward by the test, on the store's clock too."""

    def __init__(self, world: World, now: float) -> None:
        self._world, self._now = world, now

    def monotonic(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
        self._world.store.advance(seconds)


@pytest.fixture
def clock(world: World, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(world, time.monotonic())
    monkeypatch.setattr(journals, "time", clock)
    monkeypatch.setattr(inquiries, "time", clock)
    return clock


# -- the client waits -------------------------------------------------------------------------------------------------


def test_a_mark_is_renewed_for_as_long_as_its_commit_waits(scene: Scene, clock: Clock) -> None:
    commit = scene.commit_that_waits()
    for _ in range(5):
        clock.advance(20)
        journal_of(scene.writer).tend()
        scene.assert_stored_by_nobody("a")
    scene.primary.standby_returns()
    commit.join()
    assert commit.error is None
    assert not scene.is_marked()
    scene.assert_cached("b")


def test_control_c_while_a_commit_waits_commits_it_here(scene: Scene) -> None:
    """psycopg cancels the wait: the server commits with a warning, and says that the transaction is over."""
    main = threading.main_thread().ident
    assert main is not None

    def press() -> None:
        wait_until(scene.primary.waits, "the COMMIT does not wait")
        signal.pthread_kill(main, signal.SIGINT)

    pressing = Background(press)
    with pytest.raises(KeyboardInterrupt):
        rename(scene.writer, "b")
    pressing.join()
    assert not scene.is_marked()
    scene.assert_cached("b")


def test_a_wait_that_was_cancelled_is_a_commit(scene: Scene) -> None:
    """A warning and no error: to the application it is a success, and visible it is."""
    commit = scene.commit_that_waits()
    scene.primary.cancel_the_wait()
    commit.join()
    assert commit.error is None
    assert not scene.is_marked()
    scene.assert_cached("b")


def test_a_wait_ended_by_an_administrator_is_asked_about(scene: Scene) -> None:
    commit = scene.commit_that_waits()
    scene.primary.terminate_who_waits()
    commit.join()
    assert commit.error is not None
    assert scene.is_marked()
    assert read_in(scene.reader, name_of) == "b"
    tend_until_settled(scene.writer)
    scene.assert_cached("b")


# -- the client is gone -----------------------------------------------------------------------------------------------


def test_a_commit_that_waits_is_in_doubt_for_as_long_as_the_server_is_at_work_on_it(
    primary: Primary, world: World, clock: Clock
) -> None:
    """Ten minutes are for servers that cannot be asked: this one says that it still waits, after a quarter of an hour."""
    with Wire(primary.url) as wire:
        url = make_url(wire.url).update_query_dict({"options": WAITING}).render_as_string(hide_password=False)
        scene = Scene(primary, world, world.process(engine=make_engine(url)), world.process())
        read_in(scene.reader, name_of)
        commit = scene.commit_that_waits()
        wire.cut_all()
        commit.join()
        assert isinstance(commit.error, DBAPIError)
        for _ in range(45):
            clock.advance(20)
            tend(scene.writer)
        scene.assert_stored_by_nobody("a")
        primary.standby_returns()
        wait_until(lambda: not primary.waits(), "the COMMIT still waits")
        scene.assert_stored_by_nobody("b")
        tend_until_settled(scene.writer)
        scene.assert_cached("b")


MODELS = """
from sqlalchemy import Integer, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

class Base(DeclarativeBase):
    pass

class Thing(Base):
    __tablename__ = "thing"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)
    name = mapped_column(String(20))

ENTITY = Thing
MODELS = [Thing]
"""


@pytest.fixture
def kill_a_waiting_writer(primary: Primary, tmp_path: Path) -> Iterator[AppProcess]:
    """Kill a process while its COMMIT waits; yield another process, which had cached what it was about to change."""
    with primary.admin.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE thing (id integer PRIMARY KEY, name varchar(20))")
        connection.exec_driver_sql("INSERT INTO thing VALUES (1, 'a')")
    models, store = tmp_path / "models.py", tmp_path / "store"
    models.write_text(MODELS)
    primary.standby_is_missing()
    writer, reader = AppProcess(), AppProcess()
    try:
        reader.start(models, primary.url, store)
        url = make_url(primary.url).update_query_dict({"options": WAITING})
        writer.start(models, url.render_as_string(hide_password=False), store)
        reader.read("get")
        assert reader.hits("get") == ["get"]
        writer.say("write", how="change", id=1, name="b")
        wait_until(primary.waits, "the COMMIT does not wait")
        writer.kill()
        yield reader
    finally:
        writer.end()
        reader.end()


def test_a_writer_killed_in_its_commit_is_seen_when_the_commit_becomes_visible(
    primary: Primary, kill_a_waiting_writer: AppProcess
) -> None:
    """The mark outlives its writer: promise 2."""
    reader = kill_a_waiting_writer
    assert reader.hits("get") == reader.hits("get") == []
    primary.standby_returns()
    wait_until(lambda: not primary.waits(), "the COMMIT still waits")
    assert "'b'" in str(reader.read("get")["get"]["cached"])
    reader.ask("advance", seconds=31)
    reader.read("get")
    assert reader.hits("get") == ["get"]


def test_a_killed_writers_commit_that_lands_after_its_mark_ran_out_is_hidden_for_a_time_to_live_at_most(
    primary: Primary, kill_a_waiting_writer: AppProcess
) -> None:
    """The mark is lost and the writer dead before the release: promise 3."""
    reader = kill_a_waiting_writer
    reader.ask("advance", seconds=31)
    reader.read("get")
    assert reader.hits("get") == ["get"]
    primary.standby_returns()
    wait_until(lambda: not primary.waits(), "the COMMIT still waits")
    found = reader.ask("read", names=["get"])["get"]
    assert ("'a'" in str(found["cached"]), "'b'" in str(found["truth"])) == (True, True)
    reader.ask("advance", seconds=3601)
    assert "'b'" in str(reader.read("get")["get"]["cached"])


# -- asyncio ------------------------------------------------------------------------------------------------------------


async def cancel_a_commit(primary: Primary, world: World, driver: str) -> Process:
    """Cancel the task whose COMMIT waits, as a web server does when its client hangs up."""
    arguments: dict[str, Any] = (
        {"server_settings": {"synchronous_commit": "on"}} if driver == "asyncpg" else {"options": WAITING}
    )
    url = make_url(primary.url).set(drivername=f"postgresql+{driver}")
    engine = create_async_engine(url, connect_args=arguments)
    process = world.process(engine=engine.sync_engine)

    async def change() -> None:
        async with AsyncSession(engine) as session:
            (await session.get_one(Product, 1)).name = "b"
            await session.commit()

    task = asyncio.create_task(change())
    while not await asyncio.to_thread(primary.waits):
        assert not task.done(), task.exception()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await engine.dispose()
    return process


def test_a_cancelled_commit_of_psycopgs_is_over_when_the_server_says_so(primary: Primary, world: World) -> None:
    """psycopg cancels the wait and hears the answer: the transaction was committed, with a warning."""
    reader = world.process()
    read_in(reader, name_of)
    process = asyncio.run(cancel_a_commit(primary, world, "psycopg"))
    assert journal_of(process).held == 0
    assert read_in(reader, name_of) == "b"
    assert is_hit(reader)


def test_a_cancelled_commit_of_asyncpgs_is_over_when_the_server_says_so(
    primary: Primary, world: World, clock: Clock
) -> None:
    """asyncpg drops the connection: the server is asked what became of its session."""
    reader, plain = world.process(), world.process(cached=False)
    read_in(reader, name_of)
    process = asyncio.run(cancel_a_commit(primary, world, "asyncpg"))

    def is_over() -> bool:
        assert read_in(reader, name_of) == read_in(plain, name_of)
        clock.advance(20)
        tend(process)
        return journal_of(process).held == 0

    wait_until(is_over, "the COMMIT is in doubt still")
    assert read_in(reader, name_of) == read_in(plain, name_of) == "b"
    assert is_hit(reader)
