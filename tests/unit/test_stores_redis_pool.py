"""Connections to one server: taken by one at a time, waited for where all are in use, closed when nobody needs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis.connection import Connection
from redis.exceptions import ConnectionError, ReadOnlyError

from querycache.errors import StoreUnavailable
from querycache.stores._redis_scripts import packed
from querycache.stores._redis_server import Pool
from querycache.stores._redis_wires import UNWATCHED_S, Refusal, answer_on

PING = packed("PING")


class FakeWire:
    """A connection that answers PONG, refuses, or fails."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_open = False
        self.looks = 0
        self.answers: list[object] = []

    def connect(self) -> None:
        self.is_open = True

    def disconnect(self) -> None:
        self.is_open = False

    def can_read(self, timeout: float) -> bool:
        self.looks += 1
        if not self.is_open:
            raise ConnectionError("closed")
        return False

    def send_packed_command(self, command: list[bytes], check_health: bool) -> None:
        assert self.is_open
        self.answers.extend([b"PONG"] * sum(part.count(PING) for part in command))

    def read_response(self, *, disable_decoding: bool) -> object:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Wires:
    """Makes connections, and remembers them."""

    def __init__(self) -> None:
        self.made: list[FakeWire] = []

    def __call__(self) -> Any:
        self.made.append(FakeWire(len(self.made)))
        return self.made[-1]


@pytest.fixture
def wires() -> Wires:
    return Wires()


@pytest.fixture
def pool(wires: Wires) -> Pool:
    return Pool(wires, 2, 0.05, "redis://there")


def test_what_was_used_last_is_used_next(pool: Pool, wires: Wires) -> None:
    first, second = pool.send([PING]), pool.send([PING])
    pool.collect(first, 1)
    pool.collect(second, 1)
    for _ in range(3):
        assert pool.exchange([PING, PING]) == [b"PONG", b"PONG"]
    assert len(wires.made) == 2
    assert pool.send([PING])[1] is second[1]


def test_an_open_connection_is_taken_before_another_is_made(pool: Pool, wires: Wires) -> None:
    first, second = pool.send([PING]), pool.send([PING])
    pool.collect(first, 1)
    pool.abandon(second)
    pool.exchange([PING])
    assert len(wires.made) == 2


def test_who_finds_none_free_is_told_after_its_time(pool: Pool) -> None:
    sent = [pool.send([PING]), pool.send([PING])]
    with pytest.raises(StoreUnavailable, match="all 2 connections"):
        pool.send([PING])
    pool.collect(sent[0], 1)
    assert pool.exchange([PING]) == [b"PONG"]


@pytest.mark.parametrize("is_usable", [True, False])
def test_who_waits_takes_what_is_given_back(wires: Wires, is_usable: bool) -> None:
    pool = Pool(wires, 1, 60, "redis://there")
    sent = pool.send([PING])
    answers: list[object] = []
    waiting = [threading.Thread(target=lambda: answers.extend(pool.exchange([PING]))) for _ in range(5)]
    for thread in waiting:
        thread.start()
    deadline = time.monotonic() + 30
    while pool._held.waiting < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert pool._held.waiting == 5
    if is_usable:
        pool.collect(sent, 1)
    else:
        pool.abandon(sent)
    for thread in waiting:
        thread.join()
    assert answers == [b"PONG"] * 5
    assert len(wires.made) == (1 if is_usable else 2)


def test_one_that_was_just_used_is_taken_to_be_open_and_another_is_looked_at(pool: Pool, wires: Wires) -> None:
    pool.exchange([PING])
    pool._held.free[-1] = (wires.made[0], time.monotonic())
    pool.exchange([PING])
    assert wires.made[0].looks == 0
    pool._held.free[-1] = (wires.made[0], time.monotonic() - UNWATCHED_S)
    wires.made[0].is_open = False
    assert pool.exchange([PING]) == [b"PONG"]
    assert wires.made[0].looks == 1
    assert len(wires.made) == 2


def test_a_refusal_is_a_value_in_its_command_s_place(pool: Pool, wires: Wires) -> None:
    sent = pool.send([PING, PING])
    wires.made[0].answers.insert(1, ReadOnlyError("You can't write"))
    first, second, third = pool.collect(sent, 3)
    assert (first, third) == (b"PONG", b"PONG")
    assert isinstance(second, Refusal)
    pool.exchange([PING])
    assert len(wires.made) == 1


def test_a_connection_that_failed_is_closed_and_makes_room_for_another(pool: Pool, wires: Wires) -> None:
    for number in range(3):
        sent = pool.send([PING])
        wires.made[number].answers[:] = [ConnectionError("gone")]
        with pytest.raises(StoreUnavailable):
            pool.collect(sent, 1)
    assert [wire.is_open for wire in wires.made] == [False] * 3
    assert pool.exchange([PING]) == [b"PONG"]


def test_a_pool_that_is_closed_closes_what_nobody_uses_and_the_rest_when_it_comes_back(
    pool: Pool, wires: Wires
) -> None:
    first, second = pool.send([PING]), pool.send([PING])
    pool.collect(first, 1)
    pool.close()
    assert [wire.is_open for wire in wires.made] == [False, True]
    pool.collect(second, 1)
    assert not wires.made[1].is_open
    assert pool.exchange([PING]) == [b"PONG"]
    assert len(wires.made) == 3


def with_its_parser(wire: Any) -> None:
    of_redis_py: Any = Connection
    assert "_parser" in vars(of_redis_py()), "redis-py has another name for it: answers are read the longer way"
    wire._parser = wire
    wire.read_response = lambda disable_decoding: wire.answers.pop(0)


@pytest.mark.parametrize("prepare", [lambda wire: None, with_its_parser])
def test_an_answer_is_read_by_the_parser_or_where_there_is_none_by_the_connection(
    prepare: Callable[[Any], None],
) -> None:
    wire: Any = FakeWire(0)
    prepare(wire)
    wire.answers = [b"PONG", ReadOnlyError("You can't write")]
    assert answer_on(wire) == b"PONG"
    assert isinstance(answer_on(wire), ReadOnlyError)
