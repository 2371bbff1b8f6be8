"""What can a service behind a Sentinel suffer, or a Cluster? All that one server can, and failovers.

A failover loses the marks that the new primary had not received. Servers refuse to write while they have no replica
(``min-replicas-to-write``), as the store's documentation asks for: so a primary that others have given up serves nobody.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, ClassVar, Final

from redis.exceptions import RedisError
from torture_faults import Fault, Stage
from torture_redis import NAMESPACE, SETTINGS, WiredStore
from torture_wires import Wires, wires_between

from redis_servers import RedisServer, free_ports, own_cluster, own_redis, own_replica, own_sentinel, wait_for

SERVICE: Final = "shop"
FENCED: Final = ("min-replicas-to-write 1", "min-replicas-max-lag 3")
QUICK: Final = ("repl-diskless-sync-delay 0", "repl-ping-replica-period 1")
NODE_TIMEOUT_MS: Final = 1500


def _role(server: RedisServer) -> str:
    try:
        return str(server.info("replication")["role"])
    except RedisError:
        return "down"


def _is_linked(server: RedisServer) -> bool:
    try:
        return bool(server.info("replication").get("master_link_status") == "up")
    except RedisError:
        return False


class FailingOver(WiredStore):
    """A store whose primaries have replicas that take over."""

    def faults(self) -> Sequence[Fault]:
        return (
            *super().faults(),
            Fault("fail over in order", 0.2, self._fail_over),
            Fault("a primary dies, and its replica takes over", 0.15, self._die),
            Fault("a primary is given up, and goes on later", 0.15, self._be_given_up),
        )

    def primaries(self) -> list[RedisServer]:
        """Return the servers that take writes now."""
        return [server for server in self.servers if _role(server) == "master"]

    def choose(self, dice: random.Random) -> RedisServer:
        """Return one of the primaries, once everything has settled down after the last failover."""
        self.settle()
        return dice.choice(self.primaries())

    def settle(self) -> None:
        """Wait until there are as many primaries as there should be, and everybody else follows one."""
        raise NotImplementedError

    def order(self, primary: RedisServer) -> None:
        """Order a failover."""
        raise NotImplementedError

    def _fail_over(self, stage: Stage, dice: random.Random) -> None:
        primary = self.choose(dice)
        with stage.outage(), stage.marks_may_be_lost():
            self.order(primary)
            wait_for(lambda: _role(primary) == "slave", "the old primary is not demoted")
            self.settle()

    def _die(self, stage: Stage, dice: random.Random) -> None:
        primary = self.choose(dice)
        count = len(self.primaries())
        with stage.outage(), stage.marks_may_be_lost():
            primary.kill()
            wait_for(lambda: len(self.primaries()) == count, "no replica takes over")
            primary.start()
            self.settle()

    def _be_given_up(self, stage: Stage, dice: random.Random) -> None:
        primary = self.choose(dice)
        count = len(self.primaries())
        others = [server for server in self.servers if server is not primary]
        with stage.outage(), stage.marks_may_be_lost():
            primary.stop()
            try:
                wait_for(lambda: [_role(one) for one in others].count("master") == count, "no replica takes over")
            finally:
                primary.go_on()
            self.settle()


class SentinelUnderTest(FailingOver):
    """A primary and two replicas, watched by a Sentinel."""

    name: ClassVar[str] = "redis-sentinel"
    sentinel: RedisServer

    def url_for(self, position: int) -> str:
        port = self.wires.port(position, self.sentinel.port)
        return f"redis+sentinel://127.0.0.1:{port}/{SERVICE}/0?namespace={NAMESPACE}"

    def settle(self) -> None:
        def is_settled() -> bool:
            roles = [_role(server) for server in self.servers]
            told: list[Any] = self.sentinel.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            named = int(told[1])
            return (
                sorted(roles) == ["master", "slave", "slave"]
                and all(_is_linked(one) for one, role in zip(self.servers, roles, strict=True) if role == "slave")
                and self.servers[roles.index("master")].port == named
            )

        wait_for(is_settled, "the service does not settle down", self.sentinel.folder.log_tail)

    def order(self, primary: RedisServer) -> None:
        def is_taken() -> bool:
            with suppress(RedisError):  # it knows no good replica yet, or one failover runs already
                self.sentinel.do("SENTINEL", "FAILOVER", SERVICE)
                return True
            return False

        wait_for(is_taken, "the Sentinel takes no order")


class ClusterUnderTest(FailingOver):
    """Three primaries, each with a replica."""

    name: ClassVar[str] = "valkey-cluster"

    def url_for(self, position: int) -> str:
        ports = [self.wires.port(position, server.port) for server in self.servers[:3]]
        places = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"redis+cluster://{places}?namespace={NAMESPACE}"

    def settle(self) -> None:
        def is_settled() -> bool:
            roles = [_role(server) for server in self.servers]
            return (
                sorted(roles) == ["master"] * 3 + ["slave"] * 3
                and all(_is_linked(one) for one, role in zip(self.servers, roles, strict=True) if role == "slave")
                and all(_is_ok(server) for server in self.servers)
            )

        wait_for(is_settled, "the Cluster does not settle down")

    def order(self, primary: RedisServer) -> None:
        mine = primary.do("CLUSTER", "MYID")
        for server in self.servers:
            if _role(server) == "slave" and _primary_of(server) == primary.port:
                server.do("CLUSTER", "FAILOVER")
                return
        raise AssertionError(f"{mine} has no replica")


def _primary_of(server: RedisServer) -> int:
    return int(server.info("replication")["master_port"])


def _is_ok(server: RedisServer) -> bool:
    with server.client() as client:
        about: dict[str, Any] = client.execute_command("CLUSTER INFO")
    return {str(name): str(value) for name, value in about.items()}["cluster_state"] == "ok"


@contextmanager
def sentinel_under_test(workers: int, kind: str = "redis") -> Iterator[SentinelUnderTest]:
    """Start a primary, two replicas and a Sentinel, and wires to them."""
    settings = (*SETTINGS, *QUICK, *FENCED)
    with (
        own_redis(*settings, kind=kind) as primary,
        own_replica(primary, *SETTINGS, *FENCED, kind=kind) as one,
        own_replica(primary, *SETTINGS, *FENCED, kind=kind) as other,
        own_sentinel(primary, SERVICE, kind=kind) as sentinel,
    ):
        servers = [primary, one, other]
        with wires_between(workers, [*(server.port for server in servers), sentinel.port]) as wires:
            store = SentinelUnderTest(servers, wires, workers)
            store.sentinel = sentinel
            store.settle()
            yield store


@contextmanager
def cluster_under_test(workers: int, kind: str = "valkey") -> Iterator[ClusterUnderTest]:
    """Start three primaries with a replica each, and wires to them."""
    settings = (*SETTINGS, *QUICK, *FENCED)
    with own_cluster(3, *settings, kind=kind) as primaries, ExitStack() as stack:
        always = ("cluster-enabled yes", f"cluster-node-timeout {NODE_TIMEOUT_MS}", *settings)
        replicas = [stack.enter_context(own_redis(*always, kind=kind, port=port)) for port in free_ports(3)]
        for primary, replica in zip(primaries, replicas, strict=True):
            _follow(replica, primary)
        servers = [*primaries, *replicas]
        for server in servers:
            server.do("CONFIG", "SET", "cluster-node-timeout", NODE_TIMEOUT_MS)
        wires: Wires = stack.enter_context(wires_between(workers, [server.port for server in servers]))
        store = ClusterUnderTest(servers, wires, workers)
        store.settle()
        yield store


def _follow(replica: RedisServer, primary: RedisServer) -> None:
    """Make a node the replica of another, once it has heard of it."""
    replica.do("CLUSTER", "MEET", "127.0.0.1", primary.port)
    mine = primary.do("CLUSTER", "MYID").decode()

    def follows() -> bool:
        with suppress(RedisError):
            replica.do("CLUSTER", "REPLICATE", mine)
            return True
        return False

    wait_for(follows, "a replica does not hear of its primary")
