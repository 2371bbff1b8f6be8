"""A Redis or Valkey server keeps the contract, directly, behind a Sentinel, and as a Cluster of three nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loop_support import in_loop
from querycache.stores.base import Store
from querycache.testing import StoreConformance
from redis_servers import SLOW, RedisServer, cluster_url, own_cluster, own_redis, own_sentinel
from redis_support import fill, found, new_namespace, opened


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


def test_a_server_is_reached_through_its_socket_and_a_database_has_entries_of_its_own(server: RedisServer) -> None:
    namespace = new_namespace()
    with (
        opened(f"unix://{server.socket_path}?db=3&namespace={namespace}&{SLOW}") as store,
        opened(server.url(namespace)) as other,
    ):
        fill(store)
        assert found(store) == in_loop(found, store) == b"rows"
        assert found(other) is None
