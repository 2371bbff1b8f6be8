"""On a Cluster, and behind a Sentinel, the right server is asked, and found again when it is another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores._redis_calls import PARTS, SLOTS, Call, Layout, slot_of
from querycache.stores._redis_places import Cluster
from querycache.stores.redis import RedisStore
from redis_servers import (
    SLOW,
    RedisServer,
    catch_up,
    cluster_url,
    own_cluster,
    own_redis,
    own_replica,
    own_sentinel,
    wait_for,
)
from redis_support import T, W, change, fill, found, new_namespace, opened


@pytest.fixture(scope="module", params=["redis", "valkey"])
def nodes(request: pytest.FixtureRequest) -> Iterator[list[RedisServer]]:
    with own_cluster(kind=request.param) as nodes:
        yield nodes


@pytest.fixture
def store(nodes: list[RedisServer]) -> Iterator[RedisStore]:
    with opened(cluster_url(nodes, new_namespace())) as store:
        yield store


# -- spread ------------------------------------------------------------------------------------------------------------


def test_parts_are_spread_evenly_over_all_slots() -> None:
    layout = Layout.over_a_cluster("shop")
    assert sorted(layout.slot(part) * PARTS // SLOTS for part in range(PARTS)) == list(range(PARTS))


def test_a_slot_is_what_a_cluster_says(nodes: list[RedisServer]) -> None:
    for name in (b"0", b"17", b"querycache"):
        assert nodes[0].do("CLUSTER", "KEYSLOT", b"any{%b}thing" % name) == slot_of(name)


def test_all_keys_of_a_script_are_in_one_slot(nodes: list[RedisServer]) -> None:
    layout = Layout.over_a_cluster("shop")
    for name in (b"one", b"two", b"three"):
        part = layout.part_of(name)
        for key in (layout.state(part), layout.stamp(name), layout.entry(name)):
            assert nodes[0].do("CLUSTER", "KEYSLOT", key) == layout.slot(part)


def test_entries_and_stamps_are_spread_over_all_nodes(nodes: list[RedisServer], store: RedisStore) -> None:
    for number in range(300):
        fill(store, b"k%d" % number, tags=TagSet((b"row|%d" % number,)))
    for kind in ("e", "t"):
        counts = [len(node.do("KEYS", f"querycache:{store.target.namespace}:*:{kind}:*")) for node in nodes]
        assert sum(counts) == 300
        assert min(counts) > 60


def test_many_questions_go_to_each_node_once(nodes: list[RedisServer], store: RedisStore) -> None:
    questions = [(b"k%d" % number, TagSet((b"row|%d" % number,))) for number in range(100)]
    for (key, _), seen in zip(questions, store.lookup_many(questions), strict=True):
        store.fill(key, key, seen.lease, 60)
    sent: Counter[str] = Counter()
    place = store._place
    assert isinstance(place, Cluster)
    for server in place.servers():
        counted(server.reads, sent, server.url)
    assert [seen.payload for seen in store.lookup_many(questions)] == [key for key, _ in questions]
    assert set(sent.values()) <= {1, 2}, "twice where entries are so young that the order is not sure"


def counted(pool: Any, sent: Counter[str], name: str) -> None:
    original = pool.send

    def send(commands: Sequence[Any]) -> Any:
        sent[name] += 1
        return original(commands)

    pool.send = send


# -- no one moment -----------------------------------------------------------------------------------------------------


def between(store: RedisStore, happens: Callable[[], object]) -> None:
    """Have the next look-up ask for its stamps first and for its entry last, and something happen in between, once."""
    place = store._place
    original = place._outcomes
    waiting = [happens]

    def in_parts(calls: Sequence[Call], lane: Any) -> list[Any]:
        if not waiting:
            return original(calls, lane)
        happen = waiting.pop()
        entry_key = store._layout.entry(b"k")
        last = [call for call in calls if entry_key in call.entries]
        first = [call for call in calls if call not in last]
        assert first
        assert last
        answers = dict(zip(map(id, first), original(first, lane), strict=True))
        happen()
        answers |= dict(zip(map(id, last), original(last, lane), strict=True))
        return [answers[id(call)] for call in calls]

    place._outcomes = in_parts  # type: ignore[method-assign]


def apart_from(layout: Layout, key: bytes) -> TagSet:
    """Return a tag that is not in the part of an entry."""
    return next(
        TagSet((b"tag%d" % number,))
        for number in range(100)
        if layout.part_of(b"tag%d" % number) != layout.part_of(key)
    )


def test_an_entry_filled_after_its_stamps_were_looked_at_is_not_taken_under_them(store: RedisStore) -> None:
    tags = apart_from(store._layout, b"k")
    late = store.lookup(b"k", tags)

    def commit_and_fill() -> None:
        # A filler that took its lease long ago reads the database only now, after the commit.
        store.release(store.mark(tags, W, 60), W)
        store.fill(b"k", b"from after the commit", late.lease, 60)

    between(store, commit_and_fill)
    seen = store.lookup(b"k", tags)
    assert seen.payload is None
    assert min(seen.lease) > max(late.lease)


def test_an_entry_filled_after_its_stamps_were_looked_at_is_taken_where_nothing_changed(store: RedisStore) -> None:
    tags = apart_from(store._layout, b"k")
    lease = store.lookup(b"k", tags).lease
    between(store, lambda: store.fill(b"k", b"rows", lease, 60))
    assert store.lookup(b"k", tags).payload == b"rows"


def test_a_mark_set_while_the_nodes_are_asked_is_heeded_or_came_after_the_read_began(store: RedisStore) -> None:
    tags = apart_from(store._layout, b"k")
    fill(store, tags=tags)
    between(store, lambda: store.mark(tags, W, 60))
    assert store.lookup(b"k", tags).payload in (None, b"rows")
    assert not store.lookup(b"k", tags).storable
    assert found(store, tags=tags) is None
    store.release(tags.tags, W)


# -- nodes that change -------------------------------------------------------------------------------------------------


def owner_of(nodes: list[RedisServer], slot: int) -> RedisServer:
    for first, last, (_, port, *_), *_ in nodes[0].do("CLUSTER SLOTS"):
        if first <= slot <= last:
            return next(node for node in nodes if node.port == int(port))
    raise AssertionError("nobody has the slot")


def id_of(node: RedisServer) -> str:
    told: Any = node.do("CLUSTER MYID")
    return told.decode() if isinstance(told, bytes) else str(told)


def begin_to_move(nodes: list[RedisServer], slot: int) -> tuple[RedisServer, RedisServer]:
    source = owner_of(nodes, slot)
    target = next(node for node in nodes if node is not source)
    target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", id_of(source))
    source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", id_of(target))
    return source, target


def move_keys(source: RedisServer, target: RedisServer, slot: int) -> None:
    while keys := source.do("CLUSTER", "GETKEYSINSLOT", slot, 100):
        source.do("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)


def end_the_move(nodes: list[RedisServer], target: RedisServer, slot: int) -> None:
    for node in (target, *(node for node in nodes if node is not target)):
        node.do("CLUSTER", "SETSLOT", slot, "NODE", id_of(target))


def test_a_mark_moves_with_its_slot_and_is_released_where_it_is(nodes: list[RedisServer], store: RedisStore) -> None:
    tag = T.tags[0]
    slot = store._layout.slot(store._layout.part_of(tag))
    fill(store, tags=TagSet((tag,)))
    store.mark(TagSet((tag,)), W, 60)
    source, target = begin_to_move(nodes, slot)
    move_keys(source, target, slot)
    end_the_move(nodes, target, slot)
    assert not store.lookup(None, TagSet((tag,))).storable
    store.release((tag,), W)
    assert store.lookup(None, TagSet((tag,))).storable
    assert found(store, tags=TagSet((tag,))) is None
    fill(store, tags=TagSet((tag,)))
    assert found(store, tags=TagSet((tag,))) == b"rows"


def test_while_a_slot_moves_it_is_asked_where_its_keys_are_or_not_at_all(
    nodes: list[RedisServer], store: RedisStore
) -> None:
    tags = TagSet((T.tags[0],))
    slot = store._layout.slot(store._layout.part_of(T.tags[0]))
    fill(store, tags=tags)
    source, target = begin_to_move(nodes, slot)
    assert found(store, tags=tags) == b"rows", "all its keys are there yet"
    move_keys(source, target, slot)
    store.lookup(None, tags)  # where its keys are now, by ASK
    change(store, tags.tags)
    end_the_move(nodes, target, slot)
    assert found(store, tags=tags) is None


def test_a_slot_of_which_half_the_keys_have_moved_answers_nobody(nodes: list[RedisServer], store: RedisStore) -> None:
    tags = TagSet((T.tags[0],))
    slot = store._layout.slot(store._layout.part_of(T.tags[0]))
    store.lookup(None, tags)
    source, target = begin_to_move(nodes, slot)
    source.do("MIGRATE", "127.0.0.1", target.port, store._layout.stamp(T.tags[0]), 0, 5000)
    with pytest.raises(StoreUnavailable, match=r"TRYAGAIN|[Mm]ultiple keys"):
        store.lookup(None, tags)
    move_keys(source, target, slot)
    end_the_move(nodes, target, slot)
    store.lookup(None, tags)


def test_nodes_that_are_there_answer_without_one_that_is_gone() -> None:
    with own_cluster(3, "cluster-require-full-coverage no") as nodes, opened(cluster_url(nodes)) as store:
        tags = [TagSet((b"row|%d" % number,)) for number in range(30)]
        for one in tags:
            fill(store, one.tags[0], tags=one)
        nodes[2].kill()
        answers = Counter(answer_of(store, one) for one in tags)
        assert answers["hit"] > 3
        assert answers["no answer"] > 3
        nodes[2].start()
        wait_for(lambda: "no answer" not in {answer_of(store, one) for one in tags}, "the node is not found again")
        for one in tags:
            fill(store, one.tags[0], tags=one)
        assert {answer_of(store, one) for one in tags} == {"hit"}


def answer_of(store: RedisStore, tags: TagSet) -> str:
    store._breaker.note_success()  # this test is not about sparing
    try:
        return "miss" if store.lookup(tags.tags[0], tags).payload is None else "hit"
    except StoreUnavailable:
        return "no answer"


def test_a_node_whose_replica_took_over_serves_nothing_that_it_had() -> None:
    with own_cluster(3, "cluster-node-timeout 1000") as nodes, own_redis("cluster-enabled yes") as replica:
        tag = T.tags[0]
        with opened(cluster_url(nodes)) as store:
            owner = owner_of(nodes, store._layout.slot(store._layout.part_of(tag)))
            replica.do("CLUSTER", "MEET", "127.0.0.1", owner.port)
            wait_for(lambda: id_of(owner).encode() in cluster_nodes(replica), "the replica does not meet the others")
            wait_for(lambda: replicates(replica, owner), "the replica does not follow")
            fill(store, tags=TagSet((tag,)))
            catch_up(owner, replica)
            # It takes the next epoch after those that it knows: were that one of another's, the old primary would not give way.
            wait_for(lambda: epochs_in(replica) == epochs_in(owner), "the replica does not hear of all epochs")
            replica.do("CLUSTER", "FAILOVER", "TAKEOVER")
            wait_for(lambda: owner.info("replication")["role"] == "slave", "the old primary does not step back")
            assert seen_soon(store, TagSet((tag,))) is None
            store.mark(TagSet((tag,)), W, 60)
            store.release((tag,), W)
            fill(store, tags=TagSet((tag,)))
            assert found(store, tags=TagSet((tag,))) == b"rows"


def epochs_in(node: RedisServer) -> dict[bytes, bytes]:
    """Return the epoch of each primary, as one node knows it."""
    lines = [line.split() for line in cluster_nodes(node).splitlines()]
    return {line[0]: line[6] for line in lines if b"master" in line[2]}


def cluster_nodes(node: RedisServer) -> bytes:
    with node.client() as client:
        told = client.connection_pool.get_connection()
        told.send_command("CLUSTER", "NODES")
        answer: bytes = told.read_response()
        client.connection_pool.release(told)
    return answer


def replicates(replica: RedisServer, owner: RedisServer) -> bool:
    try:
        replica.do("CLUSTER", "REPLICATE", id_of(owner))
    except ResponseError:
        return False
    return replica.info("replication").get("master_link_status") == "up"


def seen_soon(store: RedisStore, tags: TagSet) -> bytes | None:
    """Look up, past the moments in which the nodes have not told each other yet who is who."""

    def answers() -> bool:
        store._breaker.note_success()
        try:
            store.lookup(None, tags)
        except StoreUnavailable:
            return False
        return True

    wait_for(answers, "nobody answers for the slot")
    return found(store, tags=tags)


# -- Sentinel ----------------------------------------------------------------------------------------------------------


def test_after_a_failover_the_new_primary_is_asked_and_nothing_from_before_it_is_served() -> None:
    with (
        own_redis() as primary,
        own_replica(primary) as replica,
        own_sentinel(primary) as sentinel,
        opened(f"redis+sentinel://{sentinel.address}/shop?{SLOW}") as store,
    ):
        fill(store)
        marked = store.mark(TagSet((b"other",)), W, 600)
        catch_up(primary, replica)
        wait_for(lambda: begins_a_failover(sentinel), "the Sentinel finds no replica to promote")
        wait_for(lambda: replica.info("replication")["role"] == "master", "the replica is not promoted")
        wait_for(lambda: primary.info("replication")["role"] == "slave", "the old primary is not demoted")
        wait_for(lambda: address_of(sentinel) == replica.port, "the Sentinel does not tell")
        change(store, (b"third",))  # at once, though the connection leads to the old primary
        assert seen_soon(store, T) is None
        assert not store.lookup(None, TagSet((b"other",))).storable, "a mark that was replicated still counts"
        store.release(marked, W)
        fill(store)
        assert found(store) == b"rows"
        assert store._place.servers()[0].address[1] == replica.port


def begins_a_failover(sentinel: RedisServer) -> bool:
    try:
        sentinel.do("SENTINEL", "FAILOVER", "shop")
    except ResponseError:
        return False
    return True


def address_of(sentinel: RedisServer) -> int:
    with sentinel.client() as client:
        told: tuple[str, int] = client.sentinel_get_master_addr_by_name("shop")
    return int(told[1])
