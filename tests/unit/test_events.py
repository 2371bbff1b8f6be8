"""Counters and subscribers."""

from __future__ import annotations

import logging

import pytest

from querycache.events import Event, Events, Kind

_KINDS: tuple[Kind, ...] = ("hit", "hit", "miss")


def test_each_kind_is_counted() -> None:
    events = Events()
    for kind in _KINDS:
        events.emit(kind)
    assert events.counts() == {"hit": 2, "miss": 1}


def test_reasons_are_counted_by_kind() -> None:
    events = Events()
    events.emit("bypass", reason="NoCache")
    events.emit("bypass", reason="NoCache")
    assert events.reasons() == {"bypass: NoCache": 2}


def test_a_subscriber_is_told_with_key_and_tags_as_text() -> None:
    events = Events()
    told: list[Event] = []
    events.subscribe(told.append)
    events.emit("hit", key=b"\x01", tags=(b"a!",), reason="why")
    assert told == [Event("hit", "01", ("a!",), "why")]


def test_a_subscriber_that_left_is_not_told() -> None:
    events = Events()
    told: list[Event] = []
    leave = events.subscribe(told.append)
    leave()
    events.emit("hit")
    assert told == []


def test_an_error_of_a_subscriber_is_logged_and_the_others_are_told(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    told: list[Event] = []

    def fail(event: Event) -> None:
        raise LookupError("mine")

    events.subscribe(fail)
    events.subscribe(told.append)
    with caplog.at_level(logging.ERROR, "querycache"):
        events.emit("hit")
    assert len(told) == 1
    assert "mine" in caplog.text


def test_what_is_returned_is_a_copy() -> None:
    events = Events()
    events.emit("hit")
    events.counts()["hit"] = 9
    assert events.counts() == {"hit": 1}
