"""Whatever interrupts what a near cache is told, it drops everything, asks, and misses nothing when it hears again."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from near_support import LAG_S, NEAR, OTHER_ROW, PATIENCE_S, hold, is_served_here, opened_near
from querycache.errors import StoreUnavailable
from querycache.stores import open_store
from querycache.stores._redis_feed import CHANNEL
from querycache.stores._vouched import boottime
from querycache.stores.base import Store
from querycache.stores.pushed import PushedStore
from redis_servers import SLOW, RedisServer, own_redis, wait_for
from redis_support import T, W, change, fill, found, new_namespace, opened


@pytest.fixture(scope="module", params=["redis", "valkey", "redis-6.2"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with own_redis(kind=request.param) as server:
        yield server


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server that a test may break."""
    with own_redis() as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return new_namespace()


@pytest.fixture
def near(server: RedisServer, namespace: str) -> Iterator[PushedStore]:
    store = opened_near(server.url(namespace, options=NEAR))
    yield store
    store.close()


@pytest.fixture
def other(server: RedisServer, namespace: str) -> Iterator[Store]:
    """Another process, as far as the server can tell."""
    with opened(server.url(namespace)) as store:
        yield store


# -- interruptions -----------------------------------------------------------------------------------------------------


def no_new_session(near: PushedStore) -> Callable[[], None]:
    """Have the next session not begin before what is returned is called."""
    original = near._feed.connect

    def refused() -> Any:
        raise StoreUnavailable("held by the test")

    near._feed.connect = refused  # type: ignore[method-assign]

    def go_on() -> None:
        near._feed.connect = original  # type: ignore[method-assign]

    return go_on


def kill_the_listener(server: RedisServer) -> None:
    assert server.do("CLIENT", "KILL", "TYPE", "pubsub") == 1


def kill_the_one_that_asks(server: RedisServer) -> None:
    with server.client() as client:
        numbers = [one["id"] for one in client.client_list() if "t" in one["flags"]]
        for number in numbers:
            client.client_kill_filter(_id=number)
    assert len(numbers) == 1


def restart(server: RedisServer) -> None:
    server.restart()


def say_what_is_not_understood(server: RedisServer) -> None:
    assert server.do("PUBLISH", CHANNEL, "product") == 1


def refuse_marks(server: RedisServer) -> None:
    server.do("CONFIG", "SET", "maxmemory", "1")


def take_marks(server: RedisServer) -> None:
    server.do("CONFIG", "SET", "maxmemory", "0")


def become_a_replica(server: RedisServer) -> None:
    server.do("REPLICAOF", "127.0.0.1", "1")


def become_a_primary(server: RedisServer) -> None:
    server.do("REPLICAOF", "NO", "ONE")


def nothing(server: RedisServer) -> None:
    """Undo nothing."""


INTERRUPTIONS = {
    "the connection that listens is killed": (kill_the_listener, nothing),
    "the connection that asks is killed": (kill_the_one_that_asks, nothing),
    "the server is restarted": (restart, nothing),
    "something is said that is not understood": (say_what_is_not_understood, nothing),
    "the server refuses marks": (refuse_marks, take_marks),
    "the server becomes a replica": (become_a_replica, become_a_primary),
}


@pytest.mark.parametrize("what", INTERRUPTIONS)
def test_an_interruption_drops_everything_and_what_was_changed_meanwhile_is_not_missed(
    own: RedisServer, what: str
) -> None:
    interrupt, undo = INTERRUPTIONS[what]
    near = opened_near(own.url(options=NEAR))
    hold(near)
    hold(near, b"k2", b"unchanged", OTHER_ROW)
    assert is_served_here(near)
    go_on = no_new_session(near)
    session = near._vouched.session
    interrupt(own)
    near._feed._wishes.asked += 1  # a beat, if nothing else would tell
    wait_for(lambda: near._vouched.session > session, "the interruption was not noticed")
    assert not is_served_here(near)
    assert near._here(b"k2", OTHER_ROW) is None
    undo(own)
    with opened(own.url()) as other:
        change(other)
    go_on()
    near.settle(PATIENCE_S)
    assert found(near) is None
    assert near._here(b"k2", OTHER_ROW) is None
    hold(near, payload=b"new")
    near.close()


def test_after_a_flush_nothing_is_served(own: RedisServer) -> None:
    near = opened_near(own.url(options=NEAR))
    hold(near)
    own.do("FLUSHALL")
    near.settle(PATIENCE_S)
    assert found(near) is None
    hold(near)
    near.close()


def test_a_flush_that_is_heard_ends_everything_before_the_next_beat(near: PushedStore) -> None:
    hold(near)
    near._feed._hear([b"message", CHANNEL, None])
    assert not is_served_here(near)


def test_a_server_that_stands_still_is_believed_for_the_lag_and_no_longer(own: RedisServer) -> None:
    quick = f"timeout_ms=200&connect_timeout_ms=200&near=push&near_lag_ms={LAG_S * 1000:.0f}"
    near = opened_near(own.url(options=quick))
    hold(near)
    began = near._vouched.clock()
    near._vouched.clock = lambda: began
    own.stop()
    assert found(near) == b"rows"
    near._vouched.clock = lambda: began + LAG_S
    with pytest.raises(StoreUnavailable):
        near.lookup(b"k", T)
    own.go_on()
    near.settle(PATIENCE_S)
    near.beneath._breaker.note_success()
    hold(near)
    near.close()


def test_an_answer_of_a_later_life_of_the_server_ends_the_session(
    near: PushedStore, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(near)
    go_on = no_new_session(near)
    other.clear()
    assert is_served_here(near), "nobody has told yet"
    near.lookup(None, OTHER_ROW)
    assert not is_served_here(near)
    go_on()
    near.settle(PATIENCE_S)
    assert found(near) is None


class Race:
    """A database of one number, written through one store and read through another whose feed is cut again and again."""

    def __init__(self, near: PushedStore, other: Store, server: RedisServer) -> None:
        self.near, self.other, self.server = near, other, server
        self.value = 0
        self.acknowledged = [(float("-inf"), 0)]
        self.faults: list[str] = []
        self.hits = 0
        self.is_over = False

    def write(self) -> None:
        number = 0
        while number < 200 or (not self.hits and number < 20_000):
            number += 1
            writer = number.to_bytes(16, "big")
            marked = self.other.mark(T, writer, 60)
            self.value = number
            self.other.release(marked, writer)
            self.acknowledged.append((boottime(), number))
            if number % 25 == 0:
                self.server.do("CLIENT", "KILL", "TYPE", "pubsub")
        self.is_over = True

    def read(self) -> None:
        while not self.is_over:
            long_ago = boottime() - self.near.lag_s
            expected = max(value for at, value in list(self.acknowledged) if at <= long_ago)
            found = self.near._here(b"k", T)
            self.hits += found is not None
            found = found or self.near.lookup(b"k", T)
            value = self.value if found.payload is None else int(found.payload)
            if found.payload is None and found.storable:
                self.near.fill(b"k", b"%d" % value, found.lease, 60)
            if value < expected:
                self.faults.append(f"read {value} after {expected} was acknowledged {self.near.lag_s} s before")


def test_no_reader_falls_behind_by_more_than_the_lag_while_the_feed_is_cut_again_and_again(own: RedisServer) -> None:
    near = opened_near(own.url(options=f"{SLOW}&near=push&near_lag_ms=50"))
    with opened(own.url()) as other:
        race = Race(near, other, own)
        readers = [threading.Thread(target=race.read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            race.write()
        finally:
            race.is_over = True
            for reader in readers:
                reader.join()
    assert race.faults == []
    assert race.hits > 0
    near.close()


def test_a_process_that_cannot_listen_asks_each_time_and_says_so_once(
    server: RedisServer, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    name = f"deaf-{namespace}"
    server.do("ACL", "SETUSER", name, "on", ">secret", "~*", "+@all", "allchannels", "-subscribe")
    store = open_store(
        f"redis://{name}:secret@{server.address}/0?namespace={namespace}&{NEAR}",
    )
    assert isinstance(store, PushedStore)
    fill(store)
    wait_for(lambda: "each read asks the server" in caplog.text, "nothing was said")
    assert not is_served_here(store)
    assert found(store) == b"rows"
    with pytest.raises(StoreUnavailable, match="heard nothing"):
        store.settle(0.5)
    assert caplog.text.count("each read asks the server") == 1
    store.close()


def test_who_is_allowed_what_the_readme_lists_can_listen(server: RedisServer) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    store = re.search(r"ACL SETUSER app on .*?~querycache:shop:\* -@all (.*?)\n```", readme, re.DOTALL)
    near = re.search(r"must allow `(\+getrange)` for a near cache.*?`(\+client.*?)`;", readme, re.DOTALL)
    assert store is not None
    assert near is not None
    rights = [*store[1].replace("\\", " ").split(), near[1], *near[2].split()]
    server.do("ACL", "SETUSER", "near", "reset", "on", ">secret", "~querycache:shop:*", "-@all", *rights)
    opened_near(f"redis://near:secret@{server.address}/0?namespace=shop&{NEAR}").close()


def test_a_forked_child_holds_nothing_and_hears_for_itself(near: PushedStore, other: Store) -> None:
    hold(near)
    near._vouched._lock.acquire()  # another thread's, at the moment of the fork
    child = os.fork()
    if not child:
        signal.alarm(int(PATIENCE_S))  # a lock that nobody will release must not hold up the test
        good = not is_served_here(near) and found(near) == b"rows"
        near.settle(PATIENCE_S)
        good = good and found(near) == b"rows" and is_served_here(near)
        change(other)
        near.settle(PATIENCE_S)
        os._exit(0 if good and found(near) is None else 1)
    near._vouched._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    near.settle(PATIENCE_S)
    assert found(near) is None, "the parent's feed is whole, and heard of the child's change"
    hold(near)


def test_a_store_that_is_closed_has_no_thread_and_still_lets_a_release_land(
    server: RedisServer, namespace: str, other: Store
) -> None:
    near = opened_near(server.url(namespace, options=NEAR))
    thread = near._feed._thread
    assert thread is not None
    hold(near)
    near.close()
    assert not thread.is_alive()
    assert not is_served_here(near)
    near.release(T.tags, W)
    assert found(other) is None


def test_a_store_that_is_forgotten_has_no_thread(server: RedisServer, namespace: str) -> None:
    near = opened_near(server.url(namespace, options=NEAR))
    thread = near._feed._thread
    assert thread is not None
    del near
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
