"""A near cache that is told of changes keeps the contract for its own process, and for others within the time that it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from near_support import LAG_S, NEAR, OTHER_ROW, PATIENCE_S, deafen, hold, is_served_here, opened_near
from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores._redis_asking import Found, Question
from querycache.stores._redis_server import Line
from querycache.stores.base import Store
from querycache.stores.pushed import PushedStore
from querycache.testing import StoreConformance
from redis_servers import SLOW, RedisServer, own_redis, own_sentinel
from redis_support import T, W, change, fill, found, new_namespace, opened
from troubled_proxy import TroubledProxy, troubled_proxy


@pytest.fixture(scope="module", params=["redis", "valkey", "redis-6.2"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with own_redis(kind=request.param) as server:
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


VERBS: dict[str, Callable[[PushedStore], object]] = {
    "mark": lambda near: near.mark(T, W, 60),
    "mark_and_look": lambda near: near.mark_and_look(T, (b"schema", b"mind"), W, 60),
    "release": lambda near: near.release(T.tags, W),
}


@pytest.mark.parametrize("verb", VERBS)
def test_what_the_server_was_not_told_ends_what_is_held_here_all_the_same(
    near: PushedStore, proxy: TroubledProxy, verb: str
) -> None:
    hold(near)
    deafen(near)
    proxy.what = "cut"
    with pytest.raises(StoreUnavailable):
        VERBS[verb](near)
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


def test_the_guarantee_names_the_lag(server: RedisServer, namespace: str) -> None:
    near = opened_near(server.url(namespace, options=f"{SLOW}&near=push"))
    assert near.lag_s == 1
    assert "what another process committed is seen 1 s after it was acknowledged at the latest" in near.guarantee
    assert not near.sees_one_moment
    near.close()
