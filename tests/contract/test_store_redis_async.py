"""From an event loop a Redis or Valkey server keeps the contract as well, and the loop goes on while it is asked."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loop_support import Loop, StoreOnLoop, running_loop
from querycache.stores import open_store
from querycache.stores.base import Store
from querycache.testing import StoreConformance
from redis_servers import SLOW, RedisServer, cluster_url, own_cluster, own_redis, own_sentinel
from redis_support import new_namespace


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with running_loop() as loop:
        yield loop


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


def on_loop(url: str, loop: Loop) -> Iterator[Store]:
    store = StoreOnLoop(open_store(url), loop)
    yield store
    store.close()


class TestServers(StoreConformance):
    @pytest.fixture(params=["", "&near=validate", "&near=push&near_lag_ms=20"])
    def store(self, server: RedisServer, loop: Loop, request: pytest.FixtureRequest) -> Iterator[Store]:
        yield from on_loop(server.url(new_namespace()) + request.param, loop)


@pytest.fixture(scope="module")
def sentinel() -> Iterator[RedisServer]:
    with own_redis() as primary, own_sentinel(primary) as sentinel:
        yield sentinel


class TestSentinel(StoreConformance):
    @pytest.fixture
    def store(self, sentinel: RedisServer, loop: Loop) -> Iterator[Store]:
        yield from on_loop(f"redis+sentinel://{sentinel.address}/shop?namespace={new_namespace()}&{SLOW}", loop)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[RedisServer]]:
    with own_cluster(kind="valkey") as nodes:
        yield nodes


class TestCluster(StoreConformance):
    @pytest.fixture
    def store(self, nodes: list[RedisServer], loop: Loop) -> Iterator[Store]:
        yield from on_loop(cluster_url(nodes, new_namespace()), loop)
