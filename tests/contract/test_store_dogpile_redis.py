"""A dogpile.cache region on a real Redis or Valkey keeps the contract as far as the server keeps what it is given."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from dogpile.cache import make_region
from dogpile.cache.region import CacheRegion
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkey import backoff as valkey_backoff
from valkey import retry as valkey_retry

from dogpile_support import ClockedStore, DogpileConformance
from own_caches import OwnCache, own_redis
from querycache._types import TagSet
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores import dogpile
from querycache.stores.base import Store
from querycache.stores.dogpile import DogpileStore

T = TagSet((b"t",))
W = bytes(range(16))

KINDS = ("redis", "valkey")
"""Each a server, and a backend of dogpile's for it with a client of its own."""


@pytest.fixture(scope="module")
def server() -> Iterator[OwnCache]:
    with own_redis() as server:
        yield server


@pytest.fixture(scope="module")
def valkey_server() -> Iterator[OwnCache]:
    with own_redis(kind="valkey") as server:
        yield server


@pytest.fixture
def redis(server: OwnCache) -> OwnCache:
    """A Redis with nothing in it."""
    assert server.say("FLUSHALL").startswith(b"+OK")
    return server


@pytest.fixture
def valkey(valkey_server: OwnCache) -> OwnCache:
    """A Valkey with nothing in it."""
    assert valkey_server.say("FLUSHALL").startswith(b"+OK")
    return valkey_server


@pytest.fixture(autouse=True)
def _closed_regions(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    regions: list[CacheRegion] = []
    configure = CacheRegion.configure

    def configure_and_note(self: CacheRegion, *given: Any, **named: Any) -> CacheRegion:
        regions.append(configure(self, *given, **named))
        return regions[-1]

    monkeypatch.setattr(CacheRegion, "configure", configure_and_note)
    yield
    for region in regions:
        region.actual_backend.writer_client.close()


def region_on(
    server: OwnCache, kind: str = "redis", region: CacheRegion | None = None, **arguments: Any
) -> CacheRegion:
    locking = {"distributed_lock": True, "thread_local_lock": False, "lock_timeout": 10, "lock_sleep": 0.01}
    given = {"host": "127.0.0.1", "port": server.port, "socket_timeout": 5, **locking, **arguments}
    return (region or make_region(name="shop")).configure(f"dogpile.cache.{kind}", arguments=given)


class TestRedis(DogpileConformance):
    @pytest.fixture
    def store(self, redis: OwnCache) -> Store:
        return ClockedStore(region_on(redis), scope="fleet")


class TestRedisWithoutPickle(DogpileConformance):
    """As the documentation says where not everybody who can write to the server is to be trusted."""

    @pytest.fixture
    def store(self, redis: OwnCache) -> Store:
        region = make_region(serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads)
        return ClockedStore(region_on(redis, region=region), scope="fleet")


class TestValkey(DogpileConformance):
    @pytest.fixture
    def store(self, valkey: OwnCache) -> Store:
        return ClockedStore(region_on(valkey, "valkey"), scope="fleet")


def fill(store: Store, key: bytes = b"k", tags: TagSet = T) -> None:
    store.fill(key, b"rows", store.lookup(key, tags).lease, 60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["FLUSHALL", "restart"])
def test_after_a_flush_or_a_restart_with_nothing_saved_nothing_old_is_served(way: str, kind: str) -> None:
    with own_redis(kind=kind) as server:
        store = DogpileStore(region_on(server, kind), scope="fleet")
        before = store.lookup(b"k", T).lease
        fill(store)
        if way == "restart":
            server.restart()
        else:
            server.say(way)
        store.fill(b"k", b"old", before, 60)
        assert store.lookup(b"k", T).payload is None
        fill(store)
        assert store.lookup(b"k", T).payload == b"rows"


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_back_with_an_old_dump_is_served_until_it_expires_and_that_is_said(kind: str) -> None:
    """A limit of this adapter, not a promise: it cannot tell one life of a server from another."""
    with own_redis(kind=kind) as server:
        store = ClockedStore(region_on(server, kind), scope="fleet")
        fill(store)
        assert server.say("SAVE").startswith(b"+OK")
        store.release((b"t",), W)
        server.restart(signal.SIGKILL)
        assert store.lookup(b"k", T).payload == b"rows"
        store.ahead_ns += int(60e9)
        assert store.lookup(b"k", T).payload is None
        assert "old stamps with old entries" in store.guarantee
        assert not store.keeps_marks


def test_a_mark_that_was_flushed_away_lets_nobody_keep_what_was_read_before_the_release(redis: OwnCache) -> None:
    store = DogpileStore(region_on(redis), scope="fleet")
    store.mark(T, W, 60)
    redis.say("FLUSHALL")
    fill(store)
    assert store.lookup(b"k", T).payload == b"rows"
    store.release((b"t",), W)
    assert store.lookup(b"k", T).payload is None


@pytest.mark.parametrize("kind", KINDS)
def test_marks_and_stamps_that_are_evicted_end_what_depends_on_them(kind: str) -> None:
    with own_redis("--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru", kind=kind) as small:
        store = DogpileStore(region_on(small, kind), scope="fleet")
        fill(store)
        store.mark(TagSet((b"u",)), W, 60)
        large = b"x" * 200_000
        for number in range(60):
            store.fill(b"k%d" % number, large, (), 60)
        values = [store.lookup(b"k%d" % number, TagSet()).payload for number in range(60)]
        assert values.count(large) < 60, "nothing was evicted: this test shows nothing"
        store.release((b"u",), W)
        store.release((b"t",), W)
        assert store.lookup(b"k", T).payload is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_server_that_refuses_to_write_refuses_marks_too(kind: str) -> None:
    with own_redis("--maxmemory", "1mb", "--maxmemory-policy", "noeviction", kind=kind) as full:
        store = DogpileStore(region_on(full, kind), scope="fleet")
        with pytest.raises(StoreUnavailable, match="OutOfMemory"):
            store.fill(b"k", b"x" * 2_000_000, (), 60)
        with pytest.raises(StoreUnavailable):
            store.mark(T, W, 60)


@pytest.mark.parametrize(
    ("kind", "once"),
    [("redis", Retry(NoBackoff(), 0)), ("valkey", valkey_retry.Retry(valkey_backoff.NoBackoff(), 0))],
    ids=KINDS,
)
def test_when_the_server_has_gone_each_verb_says_so(kind: str, once: Any) -> None:
    with own_redis(kind=kind) as server:
        # By themselves the clients try again for seconds.
        store = DogpileStore(region_on(server, kind, connection_kwargs={"retry": once}), scope="fleet")
        fill(store)
        server.end()
        for verb in (
            lambda: store.lookup(b"k", T),
            lambda: store.fill(b"k", b"rows", (), 60),
            lambda: store.mark(T, W, 60),
            lambda: store.release((b"t",), W),
            store.clear,
            store.clock,
        ):
            with pytest.raises(StoreUnavailable, match=r"dogpile://shop"):
                verb()


def test_processes_change_registers_one_at_a_time(redis: OwnCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dogpile, "PATIENCE_S", 0.05)
    store = DogpileStore(region_on(redis), scope="fleet")
    lock = region_on(redis).backend.get_mutex("querycache:registers")
    assert lock is not None
    assert lock.acquire(False)
    with pytest.raises(StoreUnavailable, match=r"the backend's lock could not be had"):
        store.mark(T, W, 60)
    lock.release()
    assert store.mark(T, W, 60) == (b"t",)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"distributed_lock": False}, r"give its arguments distributed_lock=True, lock_timeout=10"),
        ({"lock_timeout": None}, r"a process that is killed would keep its lock for good.*lock_timeout=10"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_setting_under_which_marks_would_be_lost_is_refused(
    redis: OwnCache, kind: str, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"'shop' cannot be a store.*{why}"):
        DogpileStore(region_on(redis, kind, **arguments), scope="fleet")


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # dogpile's call
def test_marks_and_stamps_expire_with_the_regions_expiration_and_entries_with_them(redis: OwnCache) -> None:
    """What depends on a stamp that expired is a miss."""
    store = DogpileStore(region_on(redis, redis_expiration_time=3600), scope="fleet")
    fill(store)
    name = dogpile._name(b"m")
    assert 0 < int(redis.say(f"TTL {name}").strip(b":\r\n")) <= 3600
    redis.say(f"PEXPIRE {name} 0")
    assert store.lookup(b"k", T).payload is None
