"""Are a driver's calls told before they are sent, and its classes kept?"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.engine import Dialect

from querycache.driver_calls import DriverCalls


class Notes:
    """A listener that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.deaf = False

    def is_deaf_to(self, raw: Any) -> bool:
        return self.deaf

    def is_sending(self, raw: Any) -> bool:
        return self.deaf

    def commit_of(self, raw: Any, send: Callable[[], Any]) -> Any:
        self.told.append("commit")
        return send()

    def rollback_of(self, raw: Any, send: Callable[[], Any]) -> Any:
        self.told.append("rollback")
        return send()

    @contextmanager
    def statement_of(self, raw: Any, cursor: Any, text: object) -> Iterator[None]:
        self.told.append(f"statement {text}")
        yield

    @contextmanager
    def block_of(self, raw: Any) -> Iterator[None]:
        self.told.append("block")
        yield
        self.told.append("end of block")


class Slotted:
    """A connection of a driver in Python, without room for attributes."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent: list[str] = []

    def cursor(self) -> SlottedCursor:
        return SlottedCursor(self)

    def commit(self) -> str:
        self.sent.append("commit")
        return "committed"

    def rollback(self) -> None:
        self.sent.append("rollback")

    def query(self, text: str) -> str:
        self.sent.append(text)
        return "answer"

    @contextmanager
    def transaction(self) -> Iterator[str]:
        yield "entered"


class SlottedCursor:
    __slots__ = ("connection",)

    def __init__(self, connection: Slotted) -> None:
        self.connection = connection

    def execute(self, text: str) -> str:
        self.connection.sent.append(text)
        return "done"

    def fetchall(self) -> list[object]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def notes() -> Notes:
    return Notes()


def dialect_of(url: str) -> Dialect:
    return create_engine(url).dialect


@pytest.fixture
def raw(notes: Notes) -> Slotted:
    raw = Slotted()
    assert DriverCalls(dialect_of("mysql+pymysql://"), notes).listen_to(raw)
    return raw


def test_a_class_without_room_for_attributes_is_heard(notes: Notes, raw: Slotted) -> None:
    assert raw.commit() == "committed"
    raw.rollback()
    assert (notes.told, raw.sent) == (["commit", "rollback"], ["commit", "rollback"])


def test_a_connection_keeps_its_class_for_those_who_ask(raw: Slotted) -> None:
    assert isinstance(raw, Slotted)
    assert type(raw).__name__ == "Slotted"


def test_a_statement_is_told_with_its_text(notes: Notes, raw: Slotted) -> None:
    assert raw.cursor().execute("SELECT 1") == "done"
    assert notes.told == ["statement SELECT 1"]


def test_a_call_that_sends_something_unread_is_told_without_one(notes: Notes, raw: Slotted) -> None:
    assert raw.query("SELECT 1") == "answer"
    assert notes.told == ["statement None"]


def test_a_block_is_surrounded(notes: Notes, raw: Slotted) -> None:
    with raw.transaction() as entered:
        assert entered == "entered"
    assert notes.told == ["block", "end of block"]


def test_what_nobody_wants_to_hear_of_is_not_told(notes: Notes, raw: Slotted) -> None:
    notes.deaf = True
    cursor = raw.cursor()
    assert type(cursor) is SlottedCursor
    raw.query("SELECT 1")
    assert notes.told == []


def test_a_cursor_that_cannot_be_heard_counts_as_a_statement(notes: Notes) -> None:
    class Stranger(Slotted):
        __slots__ = ()

        def cursor(self) -> Any:
            return object()

    stranger = Stranger()
    DriverCalls(dialect_of("mysql+pymysql://"), notes).listen_to(stranger)
    stranger.cursor()
    assert notes.told == ["statement None"]


def test_a_driver_that_allows_no_class_is_left_alone(notes: Notes) -> None:
    raw = sqlite3.connect(":memory:")
    assert not DriverCalls(dialect_of("sqlite://"), notes).listen_to(raw)
    raw.commit()
    raw.close()
    assert notes.told == []


def test_a_connection_is_given_a_class_once(notes: Notes) -> None:
    calls = DriverCalls(dialect_of("mysql+pymysql://"), notes)
    one, two = Slotted(), Slotted()
    for raw in (one, two, one):
        assert calls.listen_to(raw)
    assert type(one) is type(two)
    one.commit()
    assert notes.told == ["commit"]


def test_the_argument_of_connect_that_is_no_class_is_left_as_it_is(notes: Notes) -> None:
    def factory(*arguments: Any, **options: Any) -> sqlite3.Connection:
        return sqlite3.Connection(*arguments, **options)

    options: dict[str, Any] = {"factory": factory}
    DriverCalls(dialect_of("sqlite://"), notes).listener_of_connect()(None, None, [], options)
    assert options == {"factory": factory}


def test_of_an_asyncio_driver_only_the_ends_of_transactions_are_heard(notes: Notes) -> None:
    class Asynchronous:
        is_async = True
        driver = "some"

    raw = Slotted()
    DriverCalls(Asynchronous(), notes).listen_to(raw)  # type: ignore[arg-type]
    raw.cursor().execute("SELECT 1")
    raw.commit()
    assert notes.told == ["commit"]
