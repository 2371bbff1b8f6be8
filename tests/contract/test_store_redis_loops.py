"""Asked from event loops, a Redis server costs one round trip a verb and a bounded wait; each loop has its own connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest

from cancelling import cancelled_everywhere
from heartbeat import Heartbeat
from lmdb_support import in_child
from loop_support import in_loop, running_loop
from querycache._sqlalchemy import run_on_bridge
from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores._redis_loops import LoopPool
from querycache.stores._redis_scripts import packed
from querycache.stores.redis import RedisStore, open_redis
from redis_servers import SLOW, RedisServer, own_redis
from redis_support import T, W, fill, found, new_namespace, opened
from troubled_proxy import TroubledProxy, black_hole, troubled_proxy

QUICK = "connect_timeout_ms=100&timeout_ms=100&mark_timeout_ms=150"


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
    "lookup_many": lambda store: store.lookup_many([(b"k%d" % number, T) for number in range(50)]),
    "fill": lambda store: store.fill(b"k", b"rows", (1, 2), 60),
    "fill_many": lambda store: store.fill_many([(b"k%d" % number, b"rows", (1, 2), 60) for number in range(50)]),
    "clock": lambda store: store.clock(),
    "mark": lambda store: store.mark(T, W, 60),
    "release": lambda store: store.release(T.tags, W),
    "clear": lambda store: store.clear(),
}
READS = ["lookup", "lookup_many", "fill", "clock"]
COMMITS = ["mark", "release", "clear"]


def clients_of(server: RedisServer) -> int:
    """Return how many connections are open, but for the one that asks."""
    return str(server.do("CLIENT", "LIST")).count("id=") - str(server.do("CLIENT", "LIST")).count("cmd=client")


def rests(store: RedisStore) -> bool:
    return store.is_resting


# -- round trips and limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_one_round_trip(proxy: TroubledProxy, shared: RedisServer, verb: str) -> None:
    with opened(through(proxy)) as store:

        def act() -> int:
            for _ in range(2):  # the server knows the script, and the connection is made
                VERBS[verb](store)
                proxy.requests = 0
                shared.do("CONFIG", "RESETSTAT")
            VERBS[verb](store)
            return proxy.requests

        assert in_loop(act) == 1
        calls = {name: told["calls"] for name, told in shared.info("commandstats").items()}
        assert calls["cmdstat_evalsha"] == (50 if verb == "fill_many" else 1)
        assert not {"cmdstat_eval", "cmdstat_ping", "cmdstat_select", "cmdstat_script|load"} & set(calls)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_while_the_server_stands_still_and_the_loop_goes_on(own: RedisServer, verb: str) -> None:
    with opened(own.url(options=QUICK)) as store:

        async def main() -> None:
            await run_on_bridge(VERBS[verb], store)
            own.stop()
            async with Heartbeat() as heart:
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    await run_on_bridge(VERBS[verb], store)
            heart.assert_steady()

        asyncio.run(main())


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_ends_where_the_answer_stops_in_the_middle(proxy: TroubledProxy, verb: str) -> None:
    with opened(through(proxy, QUICK)) as store:
        proxy.what = "half"
        with pytest.raises(StoreUnavailable, match="does not answer"):
            in_loop(VERBS[verb], store)


def test_a_verb_ends_where_nobody_can_connect_and_nobody_is_refused() -> None:
    with black_hole() as port:
        store = open_redis(f"redis://127.0.0.1:{port}?{QUICK}")
        for verb in ("lookup", "mark"):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                in_loop(VERBS[verb], store)


def test_a_server_that_is_gone_is_spared_and_found_again(own: RedisServer) -> None:
    with opened(own.url()) as store:

        async def main() -> None:
            await run_on_bridge(fill, store)
            own.kill()
            for _ in range(3):
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    await run_on_bridge(VERBS["lookup"], store)
            assert rests(store)
            own.start()
            while rests(store):
                await asyncio.sleep(0.05)
            await run_on_bridge(fill, store)
            assert await run_on_bridge(found, store) == b"rows"

        asyncio.run(main())


@pytest.mark.parametrize("verb", READS)
def test_a_read_is_tried_once(proxy: TroubledProxy, verb: str) -> None:
    with opened(through(proxy)) as store:
        proxy.what, proxy.requests = "cut", 0
        with pytest.raises(StoreUnavailable):
            in_loop(VERBS[verb], store)
        assert proxy.requests == 1


@pytest.mark.parametrize("verb", COMMITS)
def test_what_a_commit_says_is_said_once_more_on_a_new_connection(proxy: TroubledProxy, verb: str) -> None:
    with opened(through(proxy)) as store:

        def act() -> tuple[int, int]:
            VERBS[verb](store)
            proxy.what, proxy.requests, proxy.connections = "cut", 0, 0

            def pass_the_second() -> None:
                proxy.what = "cut" if proxy.requests == 1 else "pass"

            proxy.before = pass_the_second
            VERBS[verb](store)
            return proxy.requests, proxy.connections

        assert in_loop(act) == (2, 1)


def test_a_connection_that_the_server_closed_is_not_used_again(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace())) as store:

        async def main() -> None:
            await run_on_bridge(fill, store)
            shared.do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.05)
            assert await run_on_bridge(found, store) == b"rows"

        asyncio.run(main())


# -- cancellation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_who_is_cancelled_at_whichever_wait_leaves_a_pool_of_one_of_use(shared: RedisServer, verb: str) -> None:
    with opened(shared.url(new_namespace(), options=f"pool=1&{SLOW}")) as store:
        payload = b"rows" * 100_000  # more than comes in one piece

        async def main() -> int:
            async def check() -> None:
                await run_on_bridge(lambda: store.release(T.tags, W))
                await run_on_bridge(lambda: fill(store, payload=payload))
                assert await run_on_bridge(found, store) == payload
                assert await run_on_bridge(found, store, b"nobody filled this") is None

            return await cancelled_everywhere(lambda: run_on_bridge(VERBS[verb], store), check)

        # Connecting, sending and hearing of it; afterwards the connection of the check is used.
        assert asyncio.run(main()) >= 1


def test_an_answer_that_nobody_waited_for_is_never_taken_for_that_to_another_question(proxy: TroubledProxy) -> None:
    with opened(through(proxy)) as store:

        async def main() -> list[object]:
            pool = await run_on_bridge(lambda: store.place.servers()[0].reads)
            assert isinstance(pool, LoopPool)
            go_on = threading.Event()
            proxy.requests = 0
            proxy.before = lambda: proxy.requests > 1 or go_on.wait(60)
            await run_on_bridge(lambda: pool.abandon(pool.send([packed("ECHO", "old")])))
            new = asyncio.ensure_future(run_on_bridge(pool.exchange, [packed("ECHO", "new")]))
            await asyncio.sleep(
                0.2
            )  # time enough to be answered on a connection of its own; on the old one it has to wait
            go_on.set()
            return await new

        assert asyncio.run(main()) == [b"new"]


# -- pools and loops ---------------------------------------------------------------------------------------------------


def test_tasks_wait_for_a_connection_of_a_pool_that_is_smaller_than_they_are_many(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace(), options=f"pool=2&{SLOW}")) as store:

        async def main() -> list[bytes | None]:
            await run_on_bridge(fill, store)
            before = clients_of(shared)
            many: list[Awaitable[bytes | None]] = [run_on_bridge(found, store) for _ in range(50)]
            answers = await asyncio.gather(*many)
            assert clients_of(shared) <= before + 1
            return answers

        assert asyncio.run(main()) == [b"rows"] * 50


def test_who_waits_in_vain_for_a_connection_is_told_of_the_pool(proxy: TroubledProxy) -> None:
    with opened(through(proxy, "pool=1&connect_timeout_ms=5000&timeout_ms=200")) as store:

        def act() -> None:
            pool = store.place.servers()[0].reads
            sent = pool.send([packed("PING")])
            with pytest.raises(StoreUnavailable, match=r"all 1 connections of this event loop .* Raise \?pool="):
                store.lookup(b"k", T)
            assert not store.is_resting
            assert pool.collect(sent, 1) == [b"PONG"]
            store.lookup(b"k", T)

        in_loop(act)


def test_loops_and_threads_have_connections_of_their_own_and_those_of_a_loop_end_with_it(own: RedisServer) -> None:
    with opened(own.url()) as store:
        fill(store)
        alone = clients_of(own)
        with running_loop() as first, running_loop() as second:
            assert first.do(found, store) == second.do(found, store) == found(store) == b"rows"
            assert clients_of(own) == alone + 2
        assert clients_of(own) == alone
        for _ in range(3):
            assert in_loop(found, store) == b"rows"
        assert clients_of(own) == alone
        (server,) = store.place.servers()
        assert len(server._reads._of_loops) <= 1


def test_a_store_that_is_closed_in_a_thread_closes_what_loops_have_open(own: RedisServer) -> None:
    with opened(own.url()) as store, running_loop() as loop:
        loop.do(found, store)
        store.close()
        loop.do(lambda: None)
        assert clients_of(own) == 0
        assert loop.do(found, store) is None


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_loop_and_connections_of_its_own(shared: RedisServer) -> None:
    with opened(shared.url(new_namespace())) as store:
        tags = TagSet((b"mine",))
        fill(store, tags=tags)
        with running_loop() as loop:
            loop.do(lambda: found(store, tags=tags))
            assert in_child(lambda: in_loop(lambda: found(store, tags=tags)) == b"rows") == 0
            assert loop.do(lambda: found(store, tags=tags)) == b"rows"
