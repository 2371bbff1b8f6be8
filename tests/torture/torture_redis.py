"""What can one Redis or Valkey server suffer, and the wires to it?

Everything that a server of its own can be made to do, with the settings that the store's documentation asks for:
``volatile-lru``, so that what expires is evicted and marks are not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import ClassVar, Final, Literal

from redis.exceptions import RedisError
from torture_faults import Fault, Stage, StoreUnderTest
from torture_wires import Mode, Wires, wires_between

from redis_servers import RedisServer, own_redis, put_dump_back, save

NAMESPACE: Final = "torture"
ROOM: Final = "64mb"
NEAR_ROOM: Final = "128KiB"
"""Less than all that a worker asks for."""

NEAR_LAG_MS: Final = 500
SETTINGS: Final = (f"maxmemory {ROOM}", "maxmemory-policy volatile-lru", "loglevel warning")
NEWCOMER_S: Final = 20.0
"""So long may a new process take until it has read something."""

SHORT: Final = (0.3, 2.0)
"""How long, in seconds, an outage lasts."""


class WiredStore(StoreUnderTest):
    """A store on servers that each worker reaches through wires of its own."""

    def __init__(self, servers: Sequence[RedisServer], wires: Wires, workers: int) -> None:
        self.servers = servers
        self.wires = wires
        self.workers = workers

    def lose_everything(self) -> None:
        for server in self.servers:
            with suppress(RedisError):  # a replica, or one that is down
                server.do("FLUSHALL")

    def faults(self) -> Sequence[Fault]:
        # An outage in a commit costs everybody the whole table.
        modes: Sequence[Mode] = ("stall", "drop", "refuse")
        return (
            *(Fault(f"cut one process off ({mode})", 0.5, partial(self._cut, mode)) for mode in modes),
            *(Fault(f"cut everybody off ({mode})", 0.2, partial(self._cut_all, mode)) for mode in modes),
            Fault("lag", 1, self._lag),
            Fault("flush the store", 0.2, self._flush),
            Fault("evict most of the store", 0.3, self._shrink),
            Fault("fill the store's memory up", 0.3, self._exhaust),
            Fault("a server stands still", 0.7, self._stand_still),
        )

    def _cut(self, mode: Mode, stage: Stage, dice: random.Random) -> None:
        self._treat([dice.randrange(self.workers)], mode, stage, dice)

    def _cut_all(self, mode: Mode, stage: Stage, dice: random.Random) -> None:
        self._treat(range(self.workers), mode, stage, dice)

    def _lag(self, stage: Stage, dice: random.Random) -> None:
        everybody = dice.random() < 0.5
        self._treat(range(self.workers) if everybody else [dice.randrange(self.workers)], "lag", stage, dice)

    def _treat(self, workers: Sequence[int], mode: Mode, stage: Stage, dice: random.Random) -> None:
        with stage.outage():
            for worker in workers:
                self.wires.set(worker, mode, dice.randint(5, 150) if mode == "lag" else 0)
            time.sleep(dice.uniform(*SHORT))
            for worker in workers:
                self.wires.set(worker, "pass")

    def _flush(self, stage: Stage, dice: random.Random) -> None:
        with stage.marks_may_be_lost():
            self.lose_everything()

    def _shrink(self, stage: Stage, dice: random.Random) -> None:
        """Take from a server half of the room that its data have, for a moment: it evicts, marks not."""
        server = dice.choice(self.servers)
        memory = server.info("memory")
        with self._memory(server, int(memory["used_memory"]) - int(memory["used_memory_dataset"]) // 2, "volatile-lru"):
            time.sleep(dice.uniform(0.1, 0.5))

    def _exhaust(self, stage: Stage, dice: random.Random) -> None:
        """Leave a server no memory to write with, for a moment: it refuses marks and look-ups alike."""
        with stage.outage(), self._memory(dice.choice(self.servers), 1_000, "noeviction"):
            time.sleep(dice.uniform(*SHORT))

    @contextmanager
    def _memory(self, server: RedisServer, room: int, policy: str) -> Iterator[None]:
        try:
            server.do("CONFIG", "SET", "maxmemory-policy", policy)
            server.do("CONFIG", "SET", "maxmemory", room)
            yield
        finally:
            server.do("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
            server.do("CONFIG", "SET", "maxmemory", ROOM)

    def _stand_still(self, stage: Stage, dice: random.Random) -> None:
        server = dice.choice(self.servers)
        with stage.outage():
            server.stop()
            try:
                time.sleep(dice.uniform(*SHORT))
            finally:
                server.go_on()


class RedisUnderTest(WiredStore):
    """One server. ``options``: what the workers' URLs say beside it."""

    name: ClassVar[str] = "redis"
    options: str = ""

    def url_for(self, position: int) -> str:
        port = self.wires.port(position, self.servers[0].port)
        return f"redis://127.0.0.1:{port}/0?namespace={NAMESPACE}{self.options}"

    def faults(self) -> Sequence[Fault]:
        return (
            *super().faults(),
            Fault("restart the store", 0.2, self._restart),
            Fault("restart the store with an old dump", 0.2, self._put_back),
        )

    def _restart(self, stage: Stage, dice: random.Random) -> None:
        with stage.outage(), stage.marks_may_be_lost():
            self.servers[0].restart()

    def _put_back(self, stage: Stage, dice: random.Random) -> None:
        """Save what the store holds, let time pass, kill it and start it with what was saved.

        Nobody writes then, until a process that never saw what is newer has read: not even a clock tells it.
        """
        (server,) = self.servers
        save(server)
        dump = (server.folder.path / "dump.rdb").read_bytes()
        stage.crew.let_them_read(100)
        stage.crew.quieten_writers()
        try:
            with stage.outage(), stage.marks_may_be_lost():
                put_dump_back(server, dump)
            stage.bury(dice.choice(stage.crew.focused))
            stage.crew.let_them_read(100, NEWCOMER_S)
        finally:
            stage.crew.calm()


@contextmanager
def redis_under_test(workers: int, kind: str = "redis") -> Iterator[RedisUnderTest]:
    """Start a server, and wires to it."""
    with own_redis(*SETTINGS, kind=kind) as server, wires_between(workers, [server.port]) as wires:
        yield RedisUnderTest([server], wires, workers)


@contextmanager
def near_under_test(mode: Literal["validate", "push"], workers: int) -> Iterator[RedisUnderTest]:
    """Start a server, and wires to it, for workers that each have a near cache."""
    with redis_under_test(workers) as store:
        store.options = f"&near={mode}&near_size={NEAR_ROOM}"
        if mode == "push":
            store.lag_s = NEAR_LAG_MS / 1000
            store.options += f"&near_lag_ms={NEAR_LAG_MS}"
        yield store
