"""One filler at a time per key; the others wait, and look up again."""

from __future__ import annotations

import threading

import pytest

from querycache import flights as module
from querycache.flights import Flights


def test_the_first_becomes_the_filler() -> None:
    assert Flights().begin(b"k")


def test_fillers_of_different_keys_do_not_wait_for_each_other() -> None:
    flights = Flights()
    assert flights.begin(b"k")
    assert flights.begin(b"other")


def test_a_key_can_be_filled_again_after_its_flight() -> None:
    flights = Flights()
    flights.begin(b"k")
    flights.end(b"k")
    assert flights.begin(b"k")


def test_a_thread_does_not_wait_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAIT_S", threading.TIMEOUT_MAX)
    flights = Flights()
    flights.begin(b"k")
    assert not flights.begin(b"k")


def test_another_thread_waits_until_the_filler_has_landed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAIT_S", 60.0)
    flights, landed, seen = Flights(), [False], []
    flights.begin(b"k")

    def wait() -> None:
        assert not flights.begin(b"k")
        seen.append(landed[0])

    waiter = threading.Thread(target=wait)
    waiter.start()
    landed[0] = True
    flights.end(b"k")
    waiter.join(10)
    assert seen == [True]


def test_a_wait_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAIT_S", 0.0)
    flights, answers = Flights(), []
    flights.begin(b"k")
    waiter = threading.Thread(target=lambda: answers.append(flights.begin(b"k")))
    waiter.start()
    waiter.join(10)
    assert answers == [False]


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
