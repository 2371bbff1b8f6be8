"""When many miss one entry at once, one asks the database; nobody waits for it longer than was said, or for another's key."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.util import await_only

from coherence_world import Process, Product, World, name_of, read_in, rename
from querycache.flights import Flights
from stampede_support import FOR_EVER_S, SECONDS, Thread, filling, several_filling


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Released each time somebody is about to wait."""
    told, wait = threading.Semaphore(0), Flights.wait

    def tell_and_wait(self: Flights, key: bytes) -> None:
        told.release()
        wait(self, key)

    monkeypatch.setattr(Flights, "wait", tell_and_wait)
    return told


def product_2(session: Any) -> str | None:
    return name_of(session, 2)


@pytest.fixture
def patient(sqlite: World) -> Process:
    """A process whose reads wait for a filler as long as it takes, and that knows the catalog."""
    process = sqlite.process(max_wait=FOR_EVER_S)
    read_in(process, lambda session: session.get(Product, 1))
    return process


def test_of_many_threads_that_miss_one_asks_the_database(patient: Process, waiting: threading.Semaphore) -> None:
    with patient.counting() as selects, filling(patient) as (held, filler):
        others = [Thread(lambda: read_in(patient, name_of)) for _ in range(7)]
        for _ in others:
            assert waiting.acquire(timeout=SECONDS)
        held.go.set()
        assert [thread.ended() for thread in (filler, *others)] == ["a"] * 8
    assert len(selects) == 1


def test_who_waited_for_nothing_is_waited_for_in_turn(
    sqlite: World, patient: Process, waiting: threading.Semaphore
) -> None:
    """What the first one got was outdated before it was stored: of those who waited for it one asks, not all."""
    writer = sqlite.process()
    with patient.counting() as selects, several_filling(patient) as (held, first, filler):
        sqlite.store.before["fill"] = lambda: rename(writer, "b")
        second_thread = Thread(lambda: read_in(patient, name_of))
        assert waiting.acquire(timeout=SECONDS)
        second = held.gate()
        first.go.set()
        assert second.arrived.wait(SECONDS)
        third_thread = Thread(lambda: read_in(patient, name_of))
        assert waiting.acquire(timeout=SECONDS)
        second.go.set()
        assert [thread.ended() for thread in (filler, second_thread, third_thread)] == ["a", "b", "b"]
    assert len(selects) == 2


def test_a_thread_that_reads_another_key_does_not_wait(patient: Process) -> None:
    with filling(patient):
        assert Thread(lambda: read_in(patient, product_2)).ended() == "z"


def test_a_hit_waits_for_nobody(patient: Process) -> None:
    read_in(patient, product_2)
    with filling(patient):
        assert Thread(lambda: read_in(patient, product_2)).ended() == "z"


def test_a_waiter_whose_filler_hangs_asks_the_database(sqlite: World) -> None:
    process = sqlite.process(max_wait=0.05)
    with process.counting() as selects, filling(process):
        assert Thread(lambda: read_in(process, name_of)).ended() == "a"
    assert len(selects) == 2


def test_with_no_time_to_wait_everybody_asks_the_database(sqlite: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = sqlite.process(max_wait=0)
    monkeypatch.setattr("querycache.flights.wait", lambda *given: pytest.fail("it waits"))
    with filling(process):
        assert Thread(lambda: read_in(process, name_of)).ended() == "a"


def test_a_filler_whose_statement_fails_lets_the_others_go_on_at_once(
    patient: Process, waiting: threading.Semaphore
) -> None:
    def fail() -> None:
        raise OperationalError("SELECT", {}, Exception("the server has gone"))

    with filling(patient) as (held, filler):
        held.then = fail
        other = Thread(lambda: read_in(patient, name_of))
        assert waiting.acquire(timeout=SECONDS)
        held.go.set()
        assert isinstance(filler.ended(), OperationalError)
        assert other.ended() == "a"


def test_nobody_waits_where_nothing_may_be_stored(sqlite: World) -> None:
    """While a commit is under way each reader asks for itself, and keeps nobody waiting."""
    writer, process = sqlite.process(), sqlite.process(max_wait=FOR_EVER_S)
    read_in(process, name_of)
    seen: list[Any] = []

    def read_twice() -> None:
        with filling(process):
            seen.append(Thread(lambda: read_in(process, name_of)).ended())

    sqlite.store.after["mark"] = read_twice
    rename(writer, "b")
    assert seen == ["a"]


def test_of_many_tasks_that_miss_one_asks_the_database(sqlite: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = sqlite.process(max_wait=60)
    assert process.cache is not None
    sent: list[str] = []

    async def read_at_once() -> list[str]:
        engine = create_async_engine(sqlite.url.replace("sqlite:", "sqlite+aiosqlite:"))
        assert process.cache is not None
        process.cache.attach(engine)
        go, waiting, wait = asyncio.Event(), 0, Flights.wait

        def count_and_wait(self: Flights, key: bytes) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == 7:
                go.set()
            wait(self, key)

        def hold(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("SELECT product"):
                sent.append(statement)
                await_only(go.wait())

        monkeypatch.setattr(Flights, "wait", count_and_wait)
        event.listen(engine.sync_engine, "before_cursor_execute", hold)

        async def read() -> str:
            async with AsyncSession(engine) as session:
                return (await session.scalars(select(Product.name).where(Product.id == 1))).one()

        try:
            async with asyncio.timeout(SECONDS):
                return await asyncio.gather(*(read() for _ in range(8)))
        finally:
            await engine.dispose()

    assert asyncio.run(read_at_once()) == ["a"] * 8
    assert len(sent) == 1
