"""A Redis server that is gone, hangs or stalls costs a bounded wait, is spared, and is found again."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lmdb_support import in_child
from querycache._types import TagSet
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores import open_store
from querycache.stores._breaker import FAILURES, LONGEST_PAUSE_S, Breaker
from querycache.stores._redis_scripts import packed
from querycache.stores.redis import RedisStore, open_redis
from querycache.testing.hammer import Hammer
from redis_servers import SLOW, RedisServer, cluster_url, own_cluster, own_redis, own_replica, own_sentinel
from redis_support import T, W, fill, found, new_namespace, opened
from troubled_proxy import TroubledProxy, black_hole, troubled_proxy

QUICK = "connect_timeout_ms=100&timeout_ms=100&mark_timeout_ms=150"
"""Limits for tests in which a server does not answer: as long as it does, it is asked within SLOW."""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def own() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def proxy(shared: RedisServer) -> Iterator[TroubledProxy]:
    with troubled_proxy(shared.port) as proxy:
        yield proxy


def through(proxy: TroubledProxy, options: str = SLOW) -> str:
    return f"redis://127.0.0.1:{proxy.port}?namespace={new_namespace()}&{options}"


VERBS: dict[str, Callable[[RedisStore], object]] = {
    "lookup": lambda store: store.lookup(b"k", T),
    "lookup_many": lambda store: store.lookup_many([(b"k", T), (None, T)]),
    "fill": lambda store: store.fill(b"k", b"rows", (1, 2), 60),
    "clock": lambda store: store.clock(),
    "mark": lambda store: store.mark(T, W, 60),
    "release": lambda store: store.release(T.tags, W),
    "clear": lambda store: store.clear(),
}
READS = ["lookup", "lookup_many", "fill", "clock"]
COMMITS = ["mark", "release", "clear"]


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_while_the_server_stands_still(own: RedisServer, verb: str) -> None:
    with opened(own.url(options=QUICK)) as store:
        own.stop()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            VERBS[verb](store)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_where_the_answer_stops_in_the_middle(proxy: TroubledProxy, verb: str) -> None:
    with opened(through(proxy, QUICK)) as store:
        proxy.what = "half"
        with pytest.raises(StoreUnavailable, match="does not answer"):
            VERBS[verb](store)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_where_nobody_can_connect_and_nobody_is_refused(verb: str) -> None:
    with black_hole() as port:
        store = open_redis(f"redis://127.0.0.1:{port}?{QUICK}")
        with pytest.raises(StoreUnavailable, match="does not answer"):
            VERBS[verb](store)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_where_the_server_is_gone(own: RedisServer, verb: str) -> None:
    with opened(own.url()) as store:
        own.kill()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            VERBS[verb](store)
        own.start()
        VERBS[verb](store)


def test_stats_of_a_server_that_is_gone_know_nothing(own: RedisServer) -> None:
    with opened(own.url()) as store:
        own.kill()
        assert store.stats().marks is None


def test_a_half_answer_is_never_taken_for_part_of_another(proxy: TroubledProxy) -> None:
    with opened(through(proxy, "connect_timeout_ms=5000&timeout_ms=1000")) as store:
        fill(store, payload=b"one" * 1000)
        proxy.what = "half"
        with pytest.raises(StoreUnavailable):
            store.lookup(b"k", T)
        proxy.what = "pass"
        assert found(store) == b"one" * 1000
        assert found(store, b"nobody filled this") is None


def test_an_answer_that_nobody_waited_for_is_never_taken_for_that_to_another_question(proxy: TroubledProxy) -> None:
    with opened(through(proxy)) as store:
        pool: Any = store._place.servers()[0].reads
        go_on = threading.Event()
        proxy.requests = 0
        proxy.before = lambda: proxy.requests > 1 or go_on.wait(60)
        pool.abandon(pool.send([packed("ECHO", "old")]))
        answers: list[object] = []
        asking = threading.Thread(target=lambda: answers.extend(pool.exchange([packed("ECHO", "new")])))
        asking.start()
        asking.join(0.2)  # time enough to be answered on a connection of its own; on the old one it has to wait
        go_on.set()
        asking.join()
        assert answers == [b"new"]


# -- tries -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", READS)
def test_a_read_is_tried_once(proxy: TroubledProxy, verb: str) -> None:
    with opened(through(proxy)) as store:
        proxy.what, proxy.requests = "cut", 0
        with pytest.raises(StoreUnavailable):
            VERBS[verb](store)
        assert proxy.requests == 1


@pytest.mark.parametrize("verb", COMMITS)
def test_what_a_commit_says_is_said_once_more_on_a_new_connection(proxy: TroubledProxy, verb: str) -> None:
    with opened(through(proxy)) as store:
        VERBS[verb](store)
        proxy.what, proxy.requests, proxy.connections = "cut", 0, 0

        def pass_the_second() -> None:
            proxy.what = "cut" if proxy.requests == 1 else "pass"

        proxy.before = pass_the_second
        VERBS[verb](store)
        assert (proxy.requests, proxy.connections) == (2, 1)


@pytest.mark.parametrize("verb", COMMITS)
def test_what_a_commit_says_is_not_repeated_where_its_time_is_over(proxy: TroubledProxy, verb: str) -> None:
    with opened(through(proxy, QUICK)) as store:
        proxy.what, proxy.requests = "swallow", 0
        with pytest.raises(StoreUnavailable):
            VERBS[verb](store)
        assert proxy.requests == 1


def test_a_server_that_does_not_know_the_scripts_any_more_is_told_them(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace())) as store:
        fill(store)
        shared.do("SCRIPT", "FLUSH")
        for verb in VERBS.values():
            verb(store)


def test_connections_that_the_server_closed_are_noticed_before_they_are_used(proxy: TroubledProxy) -> None:
    with opened(through(proxy)) as store:
        fill(store)
        proxy.what = "cut"
        with pytest.raises(StoreUnavailable):
            store.lookup(b"k", T)
        proxy.what = "pass"
        assert found(store) == b"rows"


def test_a_connection_that_the_server_closed_is_not_used_again(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace())) as store:
        fill(store)
        shared.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(0.05)
        assert found(store) == b"rows"


# -- spared ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def spared(proxy: TroubledProxy, clock: Clock) -> Iterator[RedisStore]:
    """A store whose server has just failed so often that it is spared."""
    with opened(through(proxy)) as store:
        fill(store)
        store._breaker = Breaker(clock)
        proxy.what = "cut"
        for _ in range(FAILURES):
            with pytest.raises(StoreUnavailable):
                store.lookup(b"k", T)
        proxy.requests = proxy.connections = 0
        yield store


@pytest.mark.parametrize("verb", READS)
def test_reads_spare_a_server_that_failed(spared: RedisStore, proxy: TroubledProxy, verb: str) -> None:
    assert spared.is_resting
    for _ in range(5):
        with pytest.raises(StoreUnavailable, match="did not answer lately"):
            VERBS[verb](spared)
    assert (proxy.requests, proxy.connections) == (0, 0)


@pytest.mark.parametrize("verb", COMMITS)
def test_commits_spare_nobody(spared: RedisStore, proxy: TroubledProxy, verb: str) -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        VERBS[verb](spared)
    assert proxy.requests == 2


def test_after_the_pause_one_read_finds_out_and_the_others_do_not_wait(
    spared: RedisStore, proxy: TroubledProxy, clock: Clock
) -> None:
    clock.now += LONGEST_PAUSE_S
    for _ in range(5):
        with pytest.raises(StoreUnavailable):
            spared.lookup(b"k", T)
    assert proxy.requests == 1


@pytest.mark.parametrize("verb", ["lookup", "mark"])
def test_a_server_that_answers_again_is_used_again(
    spared: RedisStore, proxy: TroubledProxy, clock: Clock, verb: str
) -> None:
    proxy.what = "pass"
    clock.now += LONGEST_PAUSE_S if verb == "lookup" else 0
    VERBS[verb](spared)
    assert not spared.is_resting
    spared.release(T.tags, W)
    fill(spared)
    assert found(spared) == b"rows"


def test_a_release_after_a_wait_in_vain_waits_no_longer_than_a_read(spared: RedisStore, proxy: TroubledProxy) -> None:
    # The limits of marks are for good here: only those of reads let this test end.
    server = spared._place.servers()[0]
    marks: Any = server.marks
    marks._make = lambda: pytest.fail("a connection with the limits of a mark")
    with pytest.raises(StoreUnavailable):
        spared.release(T.tags, W)
    assert proxy.requests == 2


def test_a_refusal_is_no_reason_to_spare_a_server(own: RedisServer) -> None:
    with opened(own.url()) as store:
        fill(store)
        own.do("CONFIG", "SET", "maxmemory", "1")
        for _ in range(2 * FAILURES):
            with pytest.raises(StoreUnavailable, match="out of memory"):
                store.lookup(b"k", T)
        own.do("CONFIG", "SET", "maxmemory", "0")
        assert found(store) == b"rows"


def test_an_outage_is_logged_once_and_so_is_its_end(own: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with opened(own.url()) as store:
        own.kill()
        for _ in range(10):
            with pytest.raises(StoreUnavailable):
                store.mark(T, W, 60)
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "Reads go to the database" in caplog.text
        own.start()
        store.mark(T, W, 60)
        store.release(T.tags, W)
        assert [record.getMessage().partition(" ")[2] for record in caplog.records[1:]] == ["can be used again"]


# -- the start ---------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_at_the_start_is_found_later(
    own: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    own.kill()
    with opened(own.url()) as store:
        assert len(caplog.records) == 1
        own.start()
        fill(store)
        assert found(store) == b"rows"


def test_a_password_that_is_wrong_is_an_error_with_the_remedy_and_without_the_password() -> None:
    with own_redis("requirepass right") as server:
        for login in (":wrong-secret@", "me:wrong-secret@", ""):
            with pytest.raises(ConfigurationError, match="does not accept this user or password") as caught:
                open_store(f"redis://{login}{server.address}?{SLOW}")
            assert "secret" not in str(caught.value)
        with opened(f"redis://:right@{server.address}?{SLOW}") as store:
            fill(store)
            assert "right" not in store.url
            assert "right" not in repr(store.target)


def test_a_replica_is_refused_with_the_remedy(shared: RedisServer) -> None:
    with own_replica(shared) as replica, pytest.raises(ConfigurationError, match=r"is a replica\. Give the primary's"):
        open_store(replica.url())


def test_a_sentinel_that_does_not_know_the_service_is_told_of(
    shared: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    with own_sentinel(shared) as sentinel, opened(f"redis+sentinel://{sentinel.address}/shoe?{SLOW}") as store:
        assert "knows no service 'shoe'" in caplog.text
        with pytest.raises(StoreUnavailable, match="no Sentinel names the primary"):
            store.mark(T, W, 60)


def test_a_cluster_that_is_none_and_a_node_of_one_are_refused_with_the_remedy(shared: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="cluster support disabled"):
        open_store(cluster_url([shared]))
    with own_cluster(1, "cluster-node-timeout 500") as nodes:
        nodes[0].do("CLUSTER", "DELSLOTS", *range(0, 16384, 2))
        with opened(cluster_url(nodes)) as store, pytest.raises(StoreUnavailable):
            store.clear()


def test_what_is_no_redis_server_at_all_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    with black_hole() as port, opened(f"redis://127.0.0.1:{port}?{QUICK}") as store:
        assert "does not answer" in caplog.text
        assert store.keeps_marks


# -- pools, threads, forks ---------------------------------------------------------------------------------------------


def test_who_finds_no_free_connection_waits_for_one(proxy: TroubledProxy) -> None:
    with opened(through(proxy, f"pool=1&{SLOW}")) as store:
        fill(store)
        arrived, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            arrived.set()
            assert go_on.wait(60)

        proxy.before, proxy.connections = hold, 0
        seen: list[bytes | None] = []
        first = threading.Thread(target=lambda: seen.append(found(store)))
        first.start()
        assert arrived.wait(60)
        others = [threading.Thread(target=lambda: seen.append(found(store))) for _ in range(5)]
        for other in others:
            other.start()
        assert seen == []
        go_on.set()
        for one in (first, *others):
            one.join()
        assert seen == [b"rows"] * 6
        assert proxy.connections == 0


def test_who_waits_in_vain_for_a_connection_is_told_of_the_pool(proxy: TroubledProxy) -> None:
    with opened(through(proxy, "pool=1&connect_timeout_ms=5000&timeout_ms=200")) as store:
        pool: Any = store._place.servers()[0].reads
        sent = pool.send([packed("PING")])
        with pytest.raises(StoreUnavailable, match=r"all 1 connections .* Raise \?pool="):
            store.lookup(b"k", T)
        assert not store.is_resting
        assert pool.collect(sent, 1) == [b"PONG"]
        store.lookup(b"k", T)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_and_its_parent_use_connections_of_their_own(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace())) as store:
        mine = TagSet((b"mine",))
        fill(store, tags=mine)
        hammer = Hammer(store, rounds=100)
        others = threading.Thread(target=hammer.run)
        others.start()

        def child() -> bool:
            return all(found(store, tags=mine) == b"rows" for _ in range(50))

        assert [in_child(child) for _ in range(3)] == [0, 0, 0]
        others.join()
        assert found(store, tags=mine) == b"rows"


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_leaves_alone_what_its_parent_has_open(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace())) as store:
        pool: Any = store._place.servers()[0].reads
        mine = pool.exchange([packed("CLIENT", "ID")])
        assert in_child(lambda: pool.exchange([packed("CLIENT", "ID")]) != mine) == 0
        assert pool.exchange([packed("CLIENT", "ID")]) == mine


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_forked_while_all_connections_are_taken_has_all_of_its_own(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace(), options=f"pool=1&{SLOW}")) as store:
        fill(store)
        pool: Any = store._place.servers()[0].reads
        sent = pool.send([packed("PING")])
        assert in_child(lambda: found(store) == b"rows") == 0
        assert pool.collect(sent, 1) == [b"PONG"]
        assert found(store) == b"rows"


GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
import sys, gevent
from querycache._types import TagSet
from querycache.stores import open_store
store = open_store(sys.argv[1])
T = TagSet((b"t",))
store.fill(b"k", b"rows", store.lookup(b"k", T).lease, 60)
jobs = [gevent.spawn(store.lookup, b"k", T) for _ in range(50)]
gevent.joinall(jobs, raise_error=True)
assert [job.value.payload for job in jobs] == [b"rows"] * 50
print("done")
"""


def test_greenlets_share_a_pool_that_is_smaller_than_they_are_many(shared: RedisServer) -> None:
    url = shared.url(new_namespace(), options=f"pool=5&{SLOW}")
    done = subprocess.run([sys.executable, "-c", GEVENT, url], capture_output=True, text=True)
    assert done.stdout.strip() == "done", done.stderr
