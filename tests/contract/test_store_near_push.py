"""A near cache that is told of changes keeps the contract for its own process, and for others within the time that it names."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores import open_store
from querycache.stores._redis_calls import Found, Question
from querycache.stores._redis_feed import CHANNEL
from querycache.stores._redis_server import Line
from querycache.stores._vouched import boottime
from querycache.stores.base import Store
from querycache.stores.pushed import PushedStore
from querycache.testing import StoreConformance
from redis_servers import SLOW, RedisServer, own_redis, own_sentinel, wait_for
from redis_support import T, W, change, fill, found, new_namespace, opened
from troubled_proxy import TroubledProxy, troubled_proxy

LAG_S = 600.0
"""Far longer than any test: what is not served is not served for another reason."""

NEAR = f"{SLOW}&near=push&near_lag_ms={LAG_S * 1000:.0f}"
PATIENCE_S = 60.0
OTHER_ROW = TagSet((b"product|id=2",), T.guards)


def opened_near(url: str) -> PushedStore:
    store = open_store(url)
    assert isinstance(store, PushedStore)
    store.settle(PATIENCE_S)
    return store


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
def proxy(server: RedisServer) -> Iterator[TroubledProxy]:
    with troubled_proxy(server.port) as proxy:
        yield proxy


@pytest.fixture
def near(proxy: TroubledProxy, namespace: str) -> Iterator[PushedStore]:
    """A near cache whose server is behind the proxy, which counts what it is asked."""
    store = opened_near(f"redis://127.0.0.1:{proxy.port}/0?namespace={namespace}&{NEAR}")
    yield store
    store.close()


@pytest.fixture
def other(server: RedisServer, namespace: str) -> Iterator[Store]:
    """Another process, as far as the server can tell."""
    with opened(server.url(namespace)) as store:
        yield store


def asked(proxy: TroubledProxy, act: Callable[[], Any]) -> int:
    """Return how many requests an act sends."""
    before = proxy.requests
    act()
    return proxy.requests - before


def is_served_here(near: PushedStore) -> bool:
    """Tell whether an entry is served without anybody being asked."""
    return near._here(b"k", T) is not None


def hold(near: PushedStore, key: bytes = b"k", payload: bytes = b"rows", tags: TagSet = T, ttl_s: float = 3600) -> None:
    """Have an entry served here. That its stamps were made is heard too, and they are asked for once more."""
    fill(near, key, payload, tags, ttl_s)
    near.settle(PATIENCE_S)
    assert found(near, key, tags) == payload
    assert near._here(key, tags) is not None


def deafen(near: PushedStore) -> None:
    """Have the near cache understand nothing of what it is told."""
    near._feed._hear = lambda message: None  # type: ignore[method-assign]


class TestServers(StoreConformance):
    @pytest.fixture
    def store(self, near: PushedStore) -> Store:
        return near


@pytest.fixture(scope="module")
def sentinel() -> Iterator[RedisServer]:
    with own_redis() as primary, own_sentinel(primary) as sentinel:
        yield sentinel


class TestSentinel(StoreConformance):
    @pytest.fixture
    def store(self, sentinel: RedisServer) -> Iterator[Store]:
        store = opened_near(f"redis+sentinel://{sentinel.address}/shop?namespace={new_namespace()}&{NEAR}")
        yield store
        store.close()


# -- a hit -------------------------------------------------------------------------------------------------------------


def test_a_hit_asks_nobody(near: PushedStore, proxy: TroubledProxy) -> None:
    hold(near)
    assert asked(proxy, lambda: [found(near) for _ in range(5)]) == 0
    assert found(near) == b"rows"


def test_an_entry_that_another_stored_is_asked_for_once(near: PushedStore, other: Store, proxy: TroubledProxy) -> None:
    fill(other)
    near.settle(PATIENCE_S)
    assert asked(proxy, lambda: [found(near) for _ in range(5)]) == 1
    assert is_served_here(near)


def test_of_several_questions_only_those_are_asked_that_cannot_be_answered_here(
    near: PushedStore, other: Store, proxy: TroubledProxy
) -> None:
    fill(other)
    fill(other, b"there", b"sent", OTHER_ROW)
    near.settle(PATIENCE_S)
    found(near)
    before = proxy.requests
    answers = near.lookup_many([(b"k", T), (b"there", OTHER_ROW), (None, T), (b"none", T)])
    assert [answer.payload for answer in answers] == [b"rows", b"sent", None, None]
    assert proxy.requests - before == 1
    assert asked(proxy, lambda: near.lookup_many([(b"k", T), (b"there", OTHER_ROW)])) == 0


def test_a_lease_alone_is_always_asked_for(near: PushedStore, proxy: TroubledProxy) -> None:
    hold(near)
    assert asked(proxy, lambda: near.lookup(None, T)) == 1


def test_an_entry_ends_on_the_clock_of_this_process_too(near: PushedStore, proxy: TroubledProxy) -> None:
    hold(near, ttl_s=60)
    began = near._vouched.clock()
    near._vouched.clock = lambda: began + 60
    assert near._vouched.is_fresh
    assert asked(proxy, lambda: found(near)) == 1


def test_a_hit_says_how_long_the_entry_still_lives(near: PushedStore) -> None:
    hold(near, ttl_s=60)
    began = near._vouched.clock()
    near._vouched.clock = lambda: began + 20
    seen = near._here(b"k", T)
    assert seen is not None
    assert 30 < (seen.expires - seen.now) / 1e9 <= 40


# -- changes of other processes ----------------------------------------------------------------------------------------


def test_what_another_process_changed_is_seen_once_it_was_heard(near: PushedStore, other: Store) -> None:
    hold(near)
    change(other)
    near.settle(PATIENCE_S)
    assert found(near) is None


def test_what_another_process_is_about_to_change_is_neither_served_nor_stored(near: PushedStore, other: Store) -> None:
    hold(near)
    other.mark(T, W, 60)
    near.settle(PATIENCE_S)
    for _ in range(2):
        seen = near.lookup(b"k", T)
        assert (seen.payload, seen.storable) == (None, False)


def test_a_reader_of_another_mind_ends_what_depends_on_the_guard(near: PushedStore, other: Store) -> None:
    hold(near)
    other.lookup(None, TagSet((), ((T.guards[0][0], b"another mind"),)))
    near.settle(PATIENCE_S)
    assert found(near) is None


def test_what_another_process_cleared_is_gone_once_the_feed_has_beaten(near: PushedStore, other: Store) -> None:
    hold(near)
    other.clear()
    near.settle(PATIENCE_S)
    assert found(near) is None


def test_another_namespace_is_not_heard(near: PushedStore, server: RedisServer) -> None:
    hold(near)
    with opened(server.url(new_namespace())) as stranger:
        change(stranger)
    near.settle(PATIENCE_S)
    assert is_served_here(near)


def test_an_answer_that_a_change_overtook_is_not_served_again(
    near: PushedStore, other: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(other, payload=b"old")
    original = near.beneath.look

    def overtaken(questions: Sequence[Question], held: Any) -> list[Found]:
        answers = original(questions, held)
        change(other)
        near.settle(PATIENCE_S)
        return answers

    monkeypatch.setattr(near.beneath, "look", overtaken)
    assert found(near) == b"old", "it was current when it was asked for"
    monkeypatch.undo()
    assert found(near) is None


def test_rows_that_a_change_overtook_are_filled_in_vain(near: PushedStore, other: Store) -> None:
    seen = near.lookup(b"k", T)
    change(other)
    near.settle(PATIENCE_S)
    near.fill(b"k", b"old", seen.lease, 60)
    assert found(near) is None


def test_what_is_not_heard_yet_is_served_for_the_lag_and_no_longer(near: PushedStore, other: Store) -> None:
    hold(near)
    deafen(near)
    began = near._vouched.clock()
    change(other)
    near._vouched.clock = lambda: began
    assert found(near) == b"rows"
    near._vouched.clock = lambda: began + LAG_S
    assert found(near) is None


def test_a_beat_that_takes_long_counts_from_its_beginning(near: PushedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    began = now = near._vouched.clock()
    near._vouched.clock = lambda: now
    original = near._feed._floor_at

    def slow(asker: Line) -> int:
        nonlocal now
        floor_us = original(asker)
        now = began + 1
        return floor_us

    monkeypatch.setattr(near._feed, "_floor_at", slow)
    near.settle(PATIENCE_S)
    assert near._vouched._as_of == began


def test_the_strict_way_never_lags(near: PushedStore, other: Store, proxy: TroubledProxy) -> None:
    hold(near)
    deafen(near)
    change(other)
    assert found(near) == b"rows"
    assert near.strict.lookup(b"k", T).payload is None
    fill(other, payload=b"new")
    assert near.strict.lookup(b"k", T).payload == b"new"
    assert near.strict.lag_s == 0


# -- changes of this process -------------------------------------------------------------------------------------------


def test_a_commit_of_this_process_is_seen_at_once_whatever_is_heard(near: PushedStore) -> None:
    hold(near)
    deafen(near)
    marked = near.mark(T, W, 60)
    seen = near.lookup(b"k", T)
    assert (seen.payload, seen.storable) == (None, False)
    near.release(marked, W)
    assert found(near) is None


def test_a_touch_of_this_process_is_seen_at_once_whatever_is_heard(near: PushedStore) -> None:
    hold(near)
    deafen(near)
    change(near)
    assert found(near) is None


@pytest.mark.parametrize("verb", ["mark", "release"])
def test_what_the_server_was_not_told_ends_what_is_held_here_all_the_same(
    near: PushedStore, proxy: TroubledProxy, verb: str
) -> None:
    hold(near)
    deafen(near)
    proxy.what = "cut"
    with pytest.raises(StoreUnavailable):
        near.mark(T, W, 60) if verb == "mark" else near.release(T.tags, W)
    assert not is_served_here(near)


def test_a_mark_of_this_process_ends_what_depends_on_its_guards(near: PushedStore) -> None:
    hold(near, tags=OTHER_ROW)
    deafen(near)
    other_mind = T._replace(guards=((T.guards[0][0], b"another mind"),))
    near.mark(other_mind, W, 60)
    assert near._here(b"k", OTHER_ROW) is None


def test_what_this_process_cleared_is_gone_at_once(near: PushedStore) -> None:
    hold(near)
    deafen(near)
    near.clear()
    assert found(near) is None


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


def test_the_guarantee_names_the_lag(server: RedisServer, namespace: str) -> None:
    near = opened_near(server.url(namespace, options=f"{SLOW}&near=push"))
    assert near.lag_s == 1
    assert "what another process committed is seen 1 s after it was acknowledged at the latest" in near.guarantee
    assert not near.sees_one_moment
    near.close()
