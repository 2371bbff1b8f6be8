"""A Redis or Valkey server keeps the contract, directly, behind a Sentinel, and as a Cluster of three nodes."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from querycache.stores import open_store
from querycache.stores.base import Store
from querycache.testing import StoreConformance
from redis_servers import SLOW, RedisServer, cluster_url, own_cluster, own_redis, own_sentinel


def new_namespace() -> str:
    return f"t{secrets.token_hex(6)}"


@contextmanager
def opened(url: str) -> Iterator[Store]:
    store = open_store(url)
    yield store
    store.close()


@pytest.fixture(scope="module", params=["redis", "valkey", "redis-6.2"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with own_redis(kind=request.param) as server:
        yield server


class TestServers(StoreConformance):
    @pytest.fixture
    def store(self, server: RedisServer) -> Iterator[Store]:
        with opened(server.url(new_namespace())) as store:
            yield store


@pytest.fixture(scope="module")
def sentinel() -> Iterator[RedisServer]:
    with own_redis() as primary, own_sentinel(primary) as sentinel:
        yield sentinel


class TestSentinel(StoreConformance):
    @pytest.fixture
    def store(self, sentinel: RedisServer) -> Iterator[Store]:
        with opened(f"redis+sentinel://{sentinel.address}/shop?namespace={new_namespace()}&{SLOW}") as store:
            yield store


@pytest.fixture(scope="module", params=["redis", "valkey"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[RedisServer]]:
    with own_cluster(kind=request.param) as nodes:
        yield nodes


class TestCluster(StoreConformance):
    @pytest.fixture
    def store(self, nodes: list[RedisServer]) -> Iterator[Store]:
        with opened(cluster_url(nodes, new_namespace())) as store:
            yield store
