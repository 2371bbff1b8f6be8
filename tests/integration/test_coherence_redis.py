"""On Redis a cached read is never older than the database, whatever happens to the server at the worst moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event

from coherence_world import Category, Process, Product, World, is_hit, make_engine, name_of, names_in, read_in, rename
from commit_support import journal_of, replace_commit, wait_until
from near_support import MODES, hearing
from querycache import QueryCache
from querycache.errors import StoreUnavailable
from querycache.stores import Store, _redis_feed
from querycache.stores._breaker import LONGEST_PAUSE_S, Breaker
from redis_servers import (
    SLOW,
    RedisServer,
    catch_up,
    copy_of_the_dump,
    own_redis,
    own_replica,
    promote,
    put_dump_back,
    wait_for,
)
from redis_support import keys_of
from troubled_proxy import TroubledProxy, troubled_proxy

NOBODY = 1


@dataclass
class Fleet:
    """A primary, a replica, and an address that leads to whichever of the two is the primary."""

    primary: RedisServer
    replica: RedisServer
    proxy: TroubledProxy
    remembered: Any = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}?{SLOW}"

    def move_to(self, server: RedisServer) -> None:
        """Have the address lead to another server, and close what leads to the old one."""
        self.proxy.lead_to(server.port)


@dataclass
class Fault:
    """Something that brings back what a server had before: ``remember`` it, and later ``strike``."""

    remember: Callable[[Fleet], object]
    strike: Callable[[Fleet], object]


def keep_dump(fleet: Fleet) -> None:
    fleet.remembered = copy_of_the_dump(fleet.primary)


def restart_with_dump(fleet: Fleet) -> None:
    put_dump_back(fleet.primary, fleet.remembered)


def keep_keys(fleet: Fleet) -> None:
    server = fleet.primary
    fleet.remembered = [(key, server.do("DUMP", key), server.do("PTTL", key)) for key in keys_of(server, "default")]


def put_keys_back(fleet: Fleet) -> None:
    for key, value, _ in fleet.remembered:
        fleet.primary.do("RESTORE", key, 0, value, "REPLACE")


def put_keys_back_with_their_lives(fleet: Fleet) -> None:
    time.sleep(0.05)
    for key, value, life_ms in fleet.remembered:
        fleet.primary.do("RESTORE", key, max(0, life_ms), value, "REPLACE")


def cut_off_replica(fleet: Fleet) -> None:
    catch_up(fleet.primary, fleet.replica)
    fleet.replica.do("REPLICAOF", "127.0.0.1", NOBODY)


def fail_over(fleet: Fleet) -> None:
    promote(fleet.replica)
    fleet.move_to(fleet.replica)


def fail_over_and_keep_the_old_primary(fleet: Fleet) -> None:
    catch_up(fleet.primary, fleet.replica)
    promote(fleet.replica)
    fleet.primary.do("REPLICAOF", "127.0.0.1", NOBODY)
    fleet.move_to(fleet.replica)


def fail_back(fleet: Fleet) -> None:
    promote(fleet.primary)
    fleet.move_to(fleet.primary)


FAULTS = {
    "a restart with an old dump": Fault(keep_dump, restart_with_dump),
    "a flush": Fault(lambda fleet: None, lambda fleet: fleet.primary.do("FLUSHALL")),
    "all keys put back": Fault(keep_keys, put_keys_back),
    "all keys put back with their lives": Fault(keep_keys, put_keys_back_with_their_lives),
    "a failover to a replica that lags": Fault(cut_off_replica, fail_over),
    "a failback without a restart": Fault(fail_over_and_keep_the_old_primary, fail_back),
}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    with (
        own_redis("save 3600 1") as primary,
        own_replica(primary, "save 3600 1") as replica,
        troubled_proxy(primary.port) as proxy,
    ):
        yield Fleet(primary, replica, proxy)


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Fault:
    return FAULTS[request.param]


@dataclass
class Fleetwide:
    """Processes on one database, each with a store of its own."""

    url: str
    world: World
    stores: list[Any] = field(default_factory=list)

    def process(self, store: Store | None = None, **options: Any) -> Process:
        engine = make_engine(self.world.url)
        store = store or hearing(self.url)
        self.stores.append(store)
        cache = QueryCache(store, models=[Category, Product], **options)
        cache.attach(engine)
        self.world.processes.append(Process(engine, cache))
        return self.world.processes[-1]


@pytest.fixture
def fleetwide(fleet: Fleet, sqlite_url: str) -> Iterator[Fleetwide]:
    world = World(sqlite_url)
    world.fill()
    yield Fleetwide(fleet.url, world)
    world.close()


@pytest.fixture(params=MODES, ids=["alone", "near=validate", "near=push"])
def anyhow(
    request: pytest.FixtureRequest, fleet: Fleet, fleetwide: Fleetwide, monkeypatch: pytest.MonkeyPatch
) -> Fleetwide:
    """Without a near cache and with each kind; one that may lag answers when it has heard everything."""
    monkeypatch.setattr(_redis_feed, "POLL_S", 0.002)
    fleetwide.url += request.param
    return fleetwide


def names(process: Process) -> list[str]:
    found: list[str] = read_in(process, lambda session: names_in(session, 3))
    return found


def assert_all_see(fleetwide: Fleetwide, name: str) -> None:
    """Every process, and a new one, sees what was committed, by the database, and then by the cache."""
    for process in (*fleetwide.world.processes, fleetwide.process()):
        assert (read_in(process, name_of), names(process)) == (name, [name])
    for process in fleetwide.world.processes:
        assert (read_in(process, name_of), names(process)) == (name, [name])
        assert is_hit(process)


def test_between_a_read_and_its_fill(fleet: Fleet, anyhow: Fleetwide, fault: Fault) -> None:
    reader, writer = anyhow.process(), anyhow.process()
    assert read_in(reader, name_of) == "a"
    fault.remember(fleet)

    def strike(*_: object) -> None:
        if len(reader.sent) == sent + 1:
            rename(writer, "b")
            fault.strike(fleet)

    sent = len(reader.sent)
    event.listen(reader.engine, "after_cursor_execute", strike)
    assert names(reader) == ["a"], "read before the commit"
    assert_all_see(anyhow, "b")


def test_between_a_mark_and_its_commit(fleet: Fleet, anyhow: Fleetwide, fault: Fault) -> None:
    reader, writer = anyhow.process(), anyhow.process()
    assert (read_in(reader, name_of), names(reader)) == ("a", ["a"])
    fault.remember(fleet)

    def commit(send: Callable[[], None], proxied: Any) -> None:
        fault.strike(fleet)
        assert (read_in(reader, name_of), names(reader)) == ("a", ["a"])
        send()

    replace_commit(writer, commit)
    rename(writer, "b")
    assert_all_see(anyhow, "b")


def test_between_a_commit_and_its_release(fleet: Fleet, anyhow: Fleetwide, fault: Fault) -> None:
    reader, writer = anyhow.process(), anyhow.process()
    assert (read_in(reader, name_of), names(reader)) == ("a", ["a"])
    fault.remember(fleet)

    def commit(send: Callable[[], None], proxied: Any) -> None:
        send()
        fault.strike(fleet)

    replace_commit(writer, commit)
    rename(writer, "b")
    assert_all_see(anyhow, "b")


def test_after_a_commit(fleet: Fleet, anyhow: Fleetwide, fault: Fault) -> None:
    reader, writer = anyhow.process(), anyhow.process()
    assert (read_in(reader, name_of), names(reader)) == ("a", ["a"])
    fault.remember(fleet)
    rename(writer, "b")
    fault.strike(fleet)
    assert_all_see(anyhow, "b")


# -- outages -----------------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_reads_and_commits_go_on_without_the_server_and_the_commits_are_seen_when_it_is_back(
    fleet: Fleet, fleetwide: Fleetwide
) -> None:
    reader, writer = fleetwide.process(), fleetwide.process()
    clock = Clock()
    for store in fleetwide.stores:
        store._breaker = Breaker(clock)
    assert (read_in(reader, name_of), names(reader)) == ("a", ["a"])
    fleet.proxy.what = "cut"
    rename(writer, "b")
    for _ in range(5):
        assert (read_in(reader, name_of), names(reader)) == ("b", ["b"])
        assert (read_in(writer, name_of), names(writer)) == ("b", ["b"])
    assert journal_of(writer).owed
    fleet.proxy.what = "pass"
    clock.now += LONGEST_PAUSE_S
    assert read_in(writer, name_of) == "b", "not from the cache before the release landed"
    wait_until(lambda: not journal_of(writer).owed, "the release does not land")
    assert_all_see(fleetwide, "b")


def test_a_process_that_could_not_tell_of_a_commit_trusts_the_server_only_after_it_has_told(
    fleet: Fleet, fleetwide: Fleetwide
) -> None:
    reader, writer = fleetwide.process(), fleetwide.process()
    assert (read_in(reader, name_of), read_in(writer, name_of)) == ("a", "a")
    fleet.proxy.what = "cut"
    rename(writer, "b")
    fleet.proxy.what = "pass"
    with writer.counting() as selects:
        while journal_of(writer).owed:
            assert read_in(writer, name_of) == "b"
    assert selects or not journal_of(writer).owed
    assert_all_see(fleetwide, "b")


def test_with_raise_a_commit_that_the_server_cannot_be_told_of_is_aborted(fleet: Fleet, fleetwide: Fleetwide) -> None:
    writer = fleetwide.process(on_mark_failure="raise")
    assert read_in(writer, name_of) == "a"
    fleet.proxy.what = "cut"
    with pytest.raises(StoreUnavailable):
        rename(writer, "b")
    fleet.proxy.what = "pass"
    wait_until(lambda: not journal_of(writer).owed, "the release does not land")
    assert_all_see(fleetwide, "a")


def test_an_application_starts_and_works_while_the_server_is_gone(fleet: Fleet, fleetwide: Fleetwide) -> None:
    fleet.primary.kill()
    process = fleetwide.process()
    assert read_in(process, name_of) == "a"
    rename(process, "b")
    assert read_in(process, name_of) == "b"
    fleet.primary.start()
    wait_until(lambda: not journal_of(process).owed, "the release does not land")
    wait_for(lambda: read_in(process, name_of) == "b" and is_hit(process), "the store is not used again")
    assert_all_see(fleetwide, "b")


def test_the_guarantee_tells_of_the_network_and_of_a_policy_that_evicts_marks(
    fleet: Fleet, fleetwide: Fleetwide
) -> None:
    process = fleetwide.process()
    assert process.cache is not None
    told = process.cache.guarantee
    assert "coherent across the hosts of a fleet" in told
    assert 'With on_mark_failure="continue"' in told
    assert "as long as no mark or stamp is lost" not in told
    fleet.primary.do("CONFIG", "SET", "maxmemory", "100mb")
    fleet.primary.do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    fleetwide.stores[0]._told = type(fleetwide.stores[0]._told)("", float("-inf"))
    told = process.cache.guarantee
    assert "maxmemory-policy is allkeys-lru, which evicts marks too" in told
    assert "as long as no mark or stamp is lost" in told
