"""A near cache that asks each time keeps the contract of the store beneath, and spares the way of what it holds."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest

from querycache.errors import ConfigurationError
from querycache.stores import open_store
from querycache.stores._copies import Copies, Copy, Entry
from querycache.stores.base import Store
from querycache.stores.near import NearStore
from querycache.testing import StoreConformance
from redis_servers import SLOW, RedisServer, cluster_url, own_cluster, own_redis, save
from redis_support import T, W, change, fill, found, keys_of, new_namespace, opened
from troubled_proxy import troubled_proxy

NEAR = f"{SLOW}&near=validate"
SHELF = T._replace(tags=(b"product|shelf=2",))
LARGE = random.Random(5).randbytes(200_000)


def opened_near(url: str) -> NearStore:
    store = open_store(url)
    assert isinstance(store, NearStore)
    return store


@pytest.fixture(scope="module", params=["redis", "valkey", "redis-6.2"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with own_redis(kind=request.param) as server:
        yield server


@pytest.fixture
def namespace() -> str:
    return new_namespace()


@pytest.fixture
def near(server: RedisServer, namespace: str) -> Iterator[NearStore]:
    store = opened_near(server.url(namespace, options=NEAR))
    yield store
    store.close()


@pytest.fixture
def other(server: RedisServer, namespace: str) -> Iterator[Store]:
    """Another process, as far as the server can tell."""
    with opened(server.url(namespace)) as store:
        yield store


class TestServers(StoreConformance):
    @pytest.fixture
    def store(self, near: NearStore) -> Store:
        return near


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with own_cluster() as nodes:
        yield nodes


class TestCluster(StoreConformance):
    @pytest.fixture
    def store(self, nodes: list[RedisServer]) -> Iterator[Store]:
        store = opened_near(cluster_url(nodes, new_namespace(), NEAR))
        yield store
        store.close()


# -- what travels ------------------------------------------------------------------------------------------------------


def sent_by(server: RedisServer) -> int:
    size: int = server.info("stats")["total_net_output_bytes"]
    return size


def test_an_entry_that_the_process_stored_is_never_sent_to_it(server: RedisServer, near: NearStore) -> None:
    fill(near, payload=LARGE)
    before = sent_by(server)
    for _ in range(3):
        assert found(near) == LARGE
    assert sent_by(server) - before < len(LARGE)


def test_an_entry_that_another_stored_is_sent_once(server: RedisServer, near: NearStore, other: Store) -> None:
    fill(other, payload=LARGE)
    before = sent_by(server)
    for _ in range(3):
        assert found(near) == LARGE
    assert len(LARGE) < sent_by(server) - before < 2 * len(LARGE)


def test_an_entry_is_sent_once_by_a_cluster_too(nodes: list[RedisServer]) -> None:
    namespace = new_namespace()
    near = opened_near(cluster_url(nodes, namespace, NEAR))
    with opened(cluster_url(nodes, namespace)) as other:
        fill(other, payload=LARGE)
    before = sum(map(sent_by, nodes))
    for _ in range(3):
        assert found(near) == LARGE
    assert len(LARGE) < sum(map(sent_by, nodes)) - before < 2 * len(LARGE)
    near.close()


def test_several_questions_are_one_round_trip_whatever_is_held(
    server: RedisServer, other: Store, namespace: str
) -> None:
    with troubled_proxy(server.port) as proxy:
        near = opened_near(f"redis://127.0.0.1:{proxy.port}/0?namespace={namespace}&{NEAR}")
        fill(near, b"held")
        fill(other, b"sent")
        fill(near, b"outdated", b"old", SHELF)
        change(other, SHELF.tags)
        proxy.requests = 0
        answers = near.lookup_many([(b"held", T), (b"sent", T), (b"outdated", SHELF), (None, T), (b"none", T)])
        assert [answer.payload for answer in answers] == [b"rows", b"rows", None, None, None]
        assert proxy.requests == 1
        near.close()


def test_a_copy_is_the_same_object_each_time_with_a_place_for_what_is_made_of_it(near: NearStore) -> None:
    fill(near)
    first = near.lookup(b"k", T)
    assert first.memo is not None
    first.memo.keep("decoded", 7)
    again = near.lookup(b"k", T)
    assert again.payload is first.payload
    assert again.memo is not None
    assert again.memo.value == "decoded"


# -- what is never served ----------------------------------------------------------------------------------------------


def test_what_another_process_changed_is_a_miss_at_once(near: NearStore, other: Store) -> None:
    fill(near)
    change(other)
    assert found(near) is None


def test_what_another_process_is_about_to_change_is_a_miss_at_once(near: NearStore, other: Store) -> None:
    fill(near)
    other.mark(T, W, 60)
    seen = near.lookup(b"k", T)
    assert (seen.payload, seen.storable) == (None, False)


def test_what_another_process_stored_since_is_served_with_nothing_of_the_old(near: NearStore, other: Store) -> None:
    fill(near, payload=b"old")
    memo = near.lookup(b"k", T).memo
    assert memo is not None
    memo.keep("decoded from the old", 7)
    change(other)
    fill(other, payload=b"new")
    seen = near.lookup(b"k", T)
    assert seen.payload == b"new"
    assert seen.memo is not None
    assert seen.memo.value is None
    assert found(near) == b"new"


def test_what_another_process_stored_under_the_same_stamps_is_served(near: NearStore, other: Store) -> None:
    fill(near, payload=b"old")
    fill(other, payload=b"new")
    assert found(near) == b"new"


def test_what_the_server_lost_is_a_miss_though_it_is_held(near: NearStore, server: RedisServer, namespace: str) -> None:
    fill(near)
    for key in keys_of(server, namespace):
        if b":e:" in key:
            server.do("DEL", key)
    assert found(near) is None


def test_after_a_flush_nothing_that_is_held_counts(near: NearStore, server: RedisServer) -> None:
    fill(near)
    server.do("FLUSHALL")
    assert found(near) is None


def test_after_a_restart_with_its_data_nothing_that_is_held_counts() -> None:
    with own_redis("save 3600 1") as server:
        near = opened_near(server.url(options=NEAR))
        fill(near)
        save(server)
        server.restart()
        assert any(b":e:" in key for key in keys_of(server, "default"))
        assert found(near) is None
        near.close()


def test_a_promise_is_that_of_the_store_beneath(near: NearStore, other: Store) -> None:
    assert near.guarantee == f"{other.guarantee} The near cache asks it at each read."
    assert (near.scope, near.keeps_marks, near.lag_s) == (other.scope, other.keeps_marks, 0)
    assert near.strict is near
    assert (near.commits_need_marks, near.clock_margin_s) == (other.commits_need_marks, other.clock_margin_s)
    assert (near.sees_one_moment, near.url) == (other.sees_one_moment, other.url)


# -- room --------------------------------------------------------------------------------------------------------------


def test_what_was_used_last_is_held_and_all_of_it_stays_within_the_size(server: RedisServer, namespace: str) -> None:
    near = opened_near(server.url(namespace, options=f"{NEAR}&near_size=64KiB"))
    for number in range(10):
        fill(near, b"k%d" % number, bytes(10_000))
        assert found(near, b"k0") == bytes(10_000)
    stats = near.stats()
    assert stats.size_bytes is not None
    assert stats.size_bytes <= 65_536
    assert stats.evictions >= 4
    before = sent_by(server)
    assert found(near, b"k0") == bytes(10_000)
    assert found(near, b"k9") == bytes(10_000)
    assert sent_by(server) - before < 10_000
    assert found(near, b"k1") == bytes(10_000)
    assert sent_by(server) - before > 10_000
    near.close()


def test_an_entry_larger_than_half_the_size_is_served_and_not_held(server: RedisServer, namespace: str) -> None:
    near = opened_near(server.url(namespace, options=f"{NEAR}&near_size=64KiB"))
    fill(near, payload=bytes(40_000))
    assert near.lookup(b"k", T)[::5] == (bytes(40_000), None)
    assert near.stats().entries == 0
    near.close()


def put(copies: Copies, key: bytes, payload: bytes) -> Copy:
    copy = copies.put(key, Entry(b"head", payload, (1,), 2, 3.0))
    assert copy is not None
    return copy


def test_what_readers_made_of_payloads_counts_and_goes_with_them() -> None:
    copies = Copies(65_536)
    for number in range(4):
        copy = put(copies, b"k%d" % number, bytes(1000))
        copy.keep("rows", 20_000)
        copy.keep("rows again", 20_000)
    assert (len(copies), copies.evictions) == (3, 1)
    assert copies.size_bytes <= 65_536
    last = put(copies, b"k9", b"")
    last.keep("more than half of all", 40_000)
    assert last.value is None


def test_nothing_is_charged_for_a_copy_that_is_not_held_any_more() -> None:
    copies = Copies(65_536)
    old = put(copies, b"k", b"old")
    put(copies, b"k", b"new")
    before = copies.size_bytes
    old.keep("rows", 1000)
    assert (copies.size_bytes, old.value) == (before, None)


def test_a_forked_child_holds_nothing_and_is_answered(near: NearStore) -> None:
    fill(near)
    near.copies._lock.acquire()  # another thread's, at the moment of the fork
    child = os.fork()
    if not child:
        signal.alarm(60)  # a lock that nobody will release must not hold up the test
        os._exit(0 if len(near.copies) == 0 and found(near) == b"rows" and len(near.copies) == 1 else 1)
    near.copies._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert found(near) == b"rows"


def test_a_right_that_a_near_cache_needs_and_lacks_is_an_error_at_the_start(
    server: RedisServer, namespace: str
) -> None:
    server.do("ACL", "SETUSER", "lacks", "reset", "on", ">secret", "~*", "+@all", "-getrange")
    url = f"redis://lacks:secret@{server.address}/0?namespace={namespace}"
    with opened(f"{url}&{SLOW}"), pytest.raises(ConfigurationError, match="does not allow a command"):
        open_store(f"{url}&{NEAR}")
