"""One filler at a time per key; the others wait, a bounded time, and look up again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from sqlalchemy.util import greenlet_spawn

from querycache import flights as module
from querycache.errors import ConfigurationError
from querycache.flights import Flights

FOR_EVER_S = threading.TIMEOUT_MAX


class Thread(threading.Thread):
    def ended(self) -> None:
        self.join(10)
        assert not self.is_alive(), "it waits"


def in_thread(work: Callable[[], object]) -> Thread:
    thread = Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_the_first_becomes_the_filler() -> None:
    assert Flights().begin(b"k")


def test_the_second_does_not_become_a_filler() -> None:
    flights = Flights()
    flights.begin(b"k")
    assert not flights.begin(b"k")


def test_fillers_of_different_keys_do_not_wait_for_each_other() -> None:
    flights = Flights(FOR_EVER_S)
    assert flights.begin(b"k")
    assert flights.begin(b"other")


def test_a_key_can_be_filled_again_after_its_flight() -> None:
    flights = Flights()
    flights.begin(b"k")
    flights.end(b"k")
    assert flights.begin(b"k")


def test_a_thread_does_not_wait_for_itself() -> None:
    flights = Flights(FOR_EVER_S)
    flights.begin(b"k")
    flights.wait(b"k")


def test_nobody_waits_for_a_filler_that_has_landed() -> None:
    flights = Flights(FOR_EVER_S)
    flights.begin(b"k")
    flights.end(b"k")
    in_thread(lambda: flights.wait(b"k")).ended()


def test_nobody_waits_for_the_filler_of_another_key() -> None:
    flights = Flights(FOR_EVER_S)
    flights.begin(b"k")
    in_thread(lambda: flights.wait(b"other")).ended()


def test_another_thread_waits_until_the_filler_has_landed() -> None:
    flights, landed, seen = Flights(FOR_EVER_S), [False], []
    flights.begin(b"k")

    def wait() -> None:
        flights.wait(b"k")
        seen.append(landed[0])

    waiter = in_thread(wait)
    landed[0] = True
    flights.end(b"k")
    waiter.ended()
    assert seen == [True]


def test_nobody_holds_the_lock_while_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    flights, free, waited = Flights(FOR_EVER_S), [], threading.Event()

    def look(*landed: object) -> None:
        free.append(not flights._lock.locked())
        waited.set()

    monkeypatch.setattr(module, "wait", look)
    flights.begin(b"k")
    in_thread(lambda: flights.wait(b"k")).ended()
    assert waited.is_set()
    assert free == [True]


@pytest.mark.parametrize("max_wait_s", [0, 0.01])
def test_a_wait_for_a_filler_that_never_lands_is_bounded(max_wait_s: float) -> None:
    flights = Flights(max_wait_s)
    flights.begin(b"k")
    waiter = in_thread(lambda: flights.wait(b"k"))
    waiter.ended()


@pytest.mark.parametrize("max_wait_s", [-1, float("inf"), float("nan")])
def test_what_is_no_time_to_wait_is_refused(max_wait_s: float) -> None:
    with pytest.raises(ConfigurationError, match=r"max_wait=.*give seconds"):
        Flights(max_wait_s)


def test_to_end_a_flight_twice_is_harmless() -> None:
    flights = Flights()
    flights.begin(b"k")
    flights.end(b"k")
    flights.end(b"k")


def test_a_forked_child_waits_for_nobody() -> None:
    flights = Flights()
    flights.begin(b"k")
    module._forget_in_child()
    assert flights.begin(b"k")


def test_a_task_waits_for_another_without_holding_up_its_loop() -> None:
    """Else the filler, on the same loop, would never land."""
    flights, order = Flights(60), []

    async def fill() -> None:
        await greenlet_spawn(flights.begin, b"k")
        await asyncio.sleep(0)
        order.append("landed")
        flights.end(b"k")

    async def wait() -> None:
        await greenlet_spawn(flights.wait, b"k")
        order.append("waited")

    async def both() -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(fill(), wait())

    asyncio.run(both())
    assert order == ["landed", "waited"]


def test_a_task_does_not_wait_for_itself() -> None:
    flights = Flights(60)

    async def wait() -> None:
        async with asyncio.timeout(10):
            await greenlet_spawn(flights.begin, b"k")
            await greenlet_spawn(flights.wait, b"k")

    asyncio.run(wait())


def test_the_wait_of_a_task_is_bounded() -> None:
    flights = Flights(0.01)

    async def begin() -> None:
        await greenlet_spawn(flights.begin, b"k")

    async def wait() -> None:
        async with asyncio.timeout(10):
            await asyncio.create_task(begin())
            await greenlet_spawn(flights.wait, b"k")

    asyncio.run(wait())


def test_a_task_waits_for_a_thread_without_holding_up_its_loop() -> None:
    flights, order = Flights(60), []

    async def wait() -> None:
        await greenlet_spawn(flights.wait, b"k")
        order.append("waited")

    async def go_on() -> None:
        order.append("went on")
        in_thread(lambda: flights.end(b"k"))

    async def both() -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(wait(), go_on())

    in_thread(lambda: flights.begin(b"k")).ended()
    asyncio.run(both())
    assert order == ["went on", "waited"]


def test_a_cancelled_task_lets_the_filler_land() -> None:
    flights = Flights(60)

    async def begin() -> None:
        await greenlet_spawn(flights.begin, b"k")

    async def cancel() -> None:
        await asyncio.create_task(begin())
        waiter = asyncio.create_task(greenlet_spawn(flights.wait, b"k"))
        await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(cancel())
    flights.end(b"k")
    assert flights.begin(b"k")
