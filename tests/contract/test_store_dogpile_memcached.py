"""A dogpile.cache region on a real memcached keeps the contract as far as memcached keeps what it is given."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from dogpile.cache import make_region
from dogpile.cache.backends.memcached import PyMemcacheBackend
from dogpile.cache.region import CacheRegion
from dogpile.cache.util import sha1_mangle_key
from pymemcache.serde import LegacyWrappingSerde

from dogpile_support import ClockedStore, DogpileConformance
from own_caches import OwnCache, own_memcached
from querycache._types import TagSet
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores import dogpile
from querycache.stores.base import Store
from querycache.stores.dogpile import DogpileStore

T = TagSet((b"t",))
W = bytes(range(16))


@pytest.fixture(autouse=True)
def _closed_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """dogpile leaves it to the garbage collector to close the connection of each thread."""
    clients: list[Any] = []
    create = PyMemcacheBackend._create_client

    def create_and_note(self: Any) -> Any:
        clients.append(create(self))  # type: ignore[no-untyped-call]  # has no types
        return clients[-1]

    monkeypatch.setattr(PyMemcacheBackend, "_create_client", create_and_note)
    yield
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def server() -> Iterator[OwnCache]:
    with own_memcached() as server:
        yield server


@pytest.fixture
def memcached(server: OwnCache) -> OwnCache:
    """A memcached with nothing in it."""
    assert server.say("flush_all").startswith(b"OK")
    return server


def region_on(server: OwnCache, **arguments: Any) -> CacheRegion:
    given = {"url": [server.address], "distributed_lock": True, "lock_timeout": 10, **arguments}
    return make_region(name="shop").configure("dogpile.cache.pymemcache", arguments=given)


def region_without_pickle_on(server: OwnCache) -> CacheRegion:
    """As the documentation says where not everybody who can write to memcached is to be trusted."""
    region = make_region(serializer=lambda value: json.dumps(value).encode(), deserializer=json.loads)
    arguments = {"url": [server.address], "distributed_lock": True, "lock_timeout": 10}
    return region.configure(
        "dogpile.cache.pymemcache", arguments={**arguments, "serde": LegacyWrappingSerde(None, None)}
    )


class TestMemcached(DogpileConformance):
    largest_payload_bytes = 700_000

    @pytest.fixture
    def store(self, memcached: OwnCache) -> Store:
        return ClockedStore(region_on(memcached), scope="fleet")


class TestMemcachedWithoutPickle(DogpileConformance):
    largest_payload_bytes = 700_000

    @pytest.fixture
    def store(self, memcached: OwnCache) -> Store:
        return ClockedStore(region_without_pickle_on(memcached), scope="fleet")


# -- what memcached loses is a miss ----------------------------------------------------------------------------------


@pytest.fixture
def store(memcached: OwnCache) -> DogpileStore:
    return DogpileStore(region_on(memcached), scope="fleet")


def fill(store: Store, key: bytes = b"k", tags: TagSet = T) -> None:
    store.fill(key, b"rows", store.lookup(key, tags).lease, 60)


@pytest.mark.parametrize("way", ["flush", "restart"])
def test_after_a_flush_or_a_restart_nothing_old_is_served(way: str) -> None:
    with own_memcached() as server:
        region = region_on(server, hashclient_retry_timeout=0, hashclient_dead_timeout=0)
        store = DogpileStore(region, scope="fleet")
        before = store.lookup(b"k", T).lease
        fill(store)
        if way == "flush":
            server.say("flush_all")
        else:
            server.restart()
        store.fill(b"k", b"old", before, 60) if way == "flush" else forgive(
            lambda: store.fill(b"k", b"old", before, 60)
        )
        seen = forgive(lambda: store.lookup(b"k", T)) or store.lookup(b"k", T)
        assert seen.payload is None
        fill(store)
        assert store.lookup(b"k", T).payload == b"rows"


def forgive(call: Any) -> Any:
    """The first call after a restart finds its connection cut."""
    try:
        return call()
    except StoreUnavailable:
        return None


def test_a_mark_that_was_flushed_away_lets_nobody_keep_what_was_read_before_the_release(
    memcached: OwnCache, store: DogpileStore
) -> None:
    """Visible is seen no longer; acknowledged is seen all the same, for the release changes the stamp."""
    store.mark(T, W, 60)
    memcached.say("flush_all")
    fill(store)
    assert store.lookup(b"k", T).payload == b"rows"
    store.release((b"t",), W)
    assert store.lookup(b"k", T).payload is None


def test_marks_and_stamps_that_are_evicted_end_what_depends_on_them() -> None:
    with own_memcached("-m", "2", "-I", "512k", "-o", "slab_reassign") as small:
        store = DogpileStore(region_on(small), scope="fleet")
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


@pytest.mark.parametrize("scope", ["fleet", "threads"])
def test_when_memcached_has_gone_each_verb_that_changes_something_says_so(
    scope: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where its client says nothing: for some time after an error pymemcache drops what it is given."""
    monkeypatch.setattr(dogpile, "PATIENCE_S", 0.05)
    with own_memcached() as server:
        region = region_on(server, distributed_lock=scope == "fleet", hashclient_retry_timeout=3600)
        store = DogpileStore(region, scope)
        fill(store)
        server.end()
        for verb in (
            lambda: store.lookup(b"k", T),
            lambda: store.mark(T, W, 60),
            lambda: store.release((b"t",), W),
            store.clear,
        ):
            with pytest.raises(StoreUnavailable, match=r"dogpile://shop"):
                verb()


# -- what does not fit -----------------------------------------------------------------------------------------------


def test_a_result_that_memcached_would_not_take_is_not_stored_and_takes_no_other_with_it(store: DogpileStore) -> None:
    lease = store.lookup(None, T).lease
    assert not store.fill(b"large", b"x" * 800_000, lease, 60)
    assert store.fill_many([(b"large", b"x" * 800_000, lease, 60), (b"small", b"rows", lease, 60)]) == 1
    assert store.lookup(b"small", T).payload == b"rows"


def test_the_largest_result_that_is_stored_fits(store: DogpileStore) -> None:
    """To the byte: what the adapter takes, memcached takes."""
    largest = next(size for size in range(786_000, 700_000, -1) if store.fill(b"k", b"x" * size, (), 60))
    assert largest > 700_000
    assert store.lookup(b"k", TagSet()).payload == b"x" * largest


def test_entries_with_keys_of_any_length_and_any_bytes_are_kept(store: DogpileStore) -> None:
    for key in (b"k" * 5000, b"a key\r\nwith a line", b"\x00\xff"):
        fill(store, key)
        assert store.lookup(key, T).payload == b"rows"


@pytest.mark.parametrize(
    ("mangler", "why"),
    [
        (lambda key: "shop" * 60 + key, r"292 bytes, and memcached takes 250.*sha1_mangle_key"),
        (lambda key: f"shop {key}", r"with a space or control character in them"),
    ],
)
def test_a_region_whose_keys_memcached_would_refuse_is_refused(memcached: OwnCache, mangler: Any, why: str) -> None:
    region = make_region(name="shop", key_mangler=mangler)
    region.configure("dogpile.cache.pymemcache", arguments={"url": [memcached.address]})
    with pytest.raises(ConfigurationError, match=why):
        DogpileStore(region)


def test_a_region_whose_keys_are_hashed_is_a_store(memcached: OwnCache) -> None:
    region = make_region(key_mangler=sha1_mangle_key)
    region.configure("dogpile.cache.pymemcache", arguments={"url": [memcached.address]})
    store = DogpileStore(region)
    fill(store)
    assert store.lookup(b"k", T).payload == b"rows"


def test_entries_that_the_region_has_expired_are_misses_and_marks_stay(memcached: OwnCache) -> None:
    region = make_region().configure(
        "dogpile.cache.pymemcache", expiration_time=-1, arguments={"url": [memcached.address]}
    )
    store = DogpileStore(region)
    fill(store)
    store.mark(TagSet((b"u",)), W, 60)
    region.region_invalidator.invalidate(hard=True)
    assert store.lookup(b"k", T).payload is None
    assert not store.lookup(None, TagSet((b"u",))).storable


# -- the lock among processes ----------------------------------------------------------------------------------------


def test_processes_change_registers_one_at_a_time(memcached: OwnCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has the lock: nobody writes over what it is about to write, and nobody waits for long."""
    monkeypatch.setattr(dogpile, "PATIENCE_S", 0.05)
    store, other = DogpileStore(region_on(memcached), scope="fleet"), region_on(memcached)
    lock = other.backend.get_mutex("querycache:registers")
    assert lock is not None
    assert lock.acquire(False)
    with pytest.raises(StoreUnavailable, match=r"the backend's lock could not be had.*lock_timeout"):
        store.mark(T, W, 60)
    lock.release()
    assert store.mark(T, W, 60) == (b"t",)


def test_a_lock_whose_process_was_killed_ends_by_itself(memcached: OwnCache) -> None:
    lock = region_on(memcached, lock_timeout=1).backend.get_mutex("querycache:registers")
    assert lock is not None
    assert lock.acquire(False)
    DogpileStore(region_on(memcached), scope="fleet").mark(T, W, 60)


def test_threads_of_several_processes_lose_none_of_each_others_marks(memcached: OwnCache) -> None:
    """Each has a region of its own, as processes have; all their tags are in registers that they share."""
    lost: list[bytes] = []

    def mark_and_look(tag: bytes) -> None:
        store = DogpileStore(region_on(memcached), scope="fleet")
        for _ in range(5):
            writer = tag.ljust(16)
            store.mark(TagSet((tag, b"shared")), writer, 60)
            if store.lookup(None, TagSet((tag, b"shared"))).storable:
                lost.append(tag)
            store.release((tag, b"shared"), writer)

    threads = [threading.Thread(target=mark_and_look, args=(b"t%d" % number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert lost == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"distributed_lock": False}, r"give its arguments distributed_lock=True, lock_timeout=10"),
        ({"lock_timeout": 0}, r"a process that is killed would keep its lock for good.*lock_timeout=10"),
        ({"default_noreply": True}, r"nobody is told whether a mark was set"),
    ],
)
def test_a_setting_under_which_marks_would_be_lost_is_refused(
    memcached: OwnCache, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"'shop' cannot be a store.*{why}"):
        DogpileStore(region_on(memcached, **arguments), scope="fleet")


def test_for_the_threads_of_one_process_no_lock_is_needed(memcached: OwnCache) -> None:
    fill(DogpileStore(region_on(memcached, distributed_lock=False, lock_timeout=0)))


def test_what_memcached_cannot_keep_is_said(store: DogpileStore) -> None:
    assert "memcached evicts" in store.guarantee
    assert not store.keeps_marks
    assert not store.commits_need_marks
