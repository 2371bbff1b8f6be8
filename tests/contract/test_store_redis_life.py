"""What a Redis server shows after a restart, a failover, or with data put back never counts as current."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from querycache.errors import StoreUnavailable
from querycache.stores import _redis_asking, _redis_calls
from querycache.stores._redis_scripts import Script
from querycache.stores.redis import RedisStore, open_redis
from querycache.testing.hammer import Hammer
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
from redis_support import OTHER_MIND, TABLE, T, W, change, fill, found, keys_of, new_namespace, opened
from troubled_proxy import troubled_proxy

KINDS = ["redis", "valkey", "redis-6.2"]
NOBODY = 1
"""A port on which nobody listens: a replica of it stays a replica, and as old as it is."""


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with own_redis("save 3600 1", kind=request.param) as server:
        yield server


@pytest.fixture
def store(server: RedisServer) -> Iterator[RedisStore]:
    with opened(server.url()) as store:
        yield store


@pytest.fixture(params=["a process that was there before", "a new process"])
def reader_after(request: pytest.FixtureRequest, store: RedisStore) -> Callable[[RedisServer], RedisStore]:
    """Return who reads afterwards: one that remembers what it has seen, or one that has seen nothing."""
    if request.param == "a new process":
        return lambda server: open_redis(server.url())
    return lambda server: store


# -- restart -----------------------------------------------------------------------------------------------------------


def test_a_restart_with_an_old_dump_brings_no_old_entry_back(
    server: RedisServer, store: RedisStore, reader_after: Callable[[RedisServer], RedisStore]
) -> None:
    fill(store, payload=b"old")
    dump = copy_of_the_dump(server)
    change(store)
    put_dump_back(server, dump)
    reader = reader_after(server)
    assert any(b":e:" in key for key in keys_of(server, "default"))
    assert found(reader) is None
    fill(reader, payload=b"new")
    assert found(reader) == b"new"


def test_what_was_read_before_a_restart_with_an_old_dump_is_filled_in_vain(
    server: RedisServer, store: RedisStore, reader_after: Callable[[RedisServer], RedisStore]
) -> None:
    seen = store.lookup(b"k", T)
    dump = copy_of_the_dump(server)
    change(store)
    put_dump_back(server, dump)
    store.fill(b"k", b"old", seen.lease, 60)
    assert found(reader_after(server)) is None


def test_a_commit_under_way_at_a_restart_is_over_with_its_release(server: RedisServer, store: RedisStore) -> None:
    marked = store.mark(T, W, 60)
    server.restart()
    with opened(server.url()) as reader:
        fill(reader, payload=b"from before the commit")
        store.release(marked, W)
        assert found(reader) is None


def test_marks_in_a_dump_still_count(server: RedisServer, store: RedisStore) -> None:
    marked = store.mark(T, W, 60)
    put_dump_back(server, copy_of_the_dump(server))
    assert not store.lookup(b"k", T).storable
    store.release(marked, W)
    assert store.lookup(b"k", T).storable


# -- failover ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def replica(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with own_replica(server, kind=request.node.callspec.params["server"]) as replica:
        yield replica


def test_a_replica_that_lagged_when_it_was_promoted_serves_nothing_that_it_had(
    server: RedisServer, replica: RedisServer, store: RedisStore
) -> None:
    fill(store, payload=b"old")
    seen = store.lookup(b"other", T)
    catch_up(server, replica)
    replica.do("REPLICAOF", "127.0.0.1", NOBODY)
    change(store)
    promote(replica)
    with opened(replica.url()) as reader:
        assert found(reader) is None
        reader.fill(b"other", b"old", seen.lease, 60)
        assert found(reader, b"other") is None


def test_a_primary_that_was_demoted_and_comes_back_without_a_restart_serves_nothing_that_it_had(
    server: RedisServer, replica: RedisServer, store: RedisStore, reader_after: Callable[[RedisServer], RedisStore]
) -> None:
    fill(store, payload=b"old")
    catch_up(server, replica)
    promote(replica, old=server)
    server.do("REPLICAOF", "127.0.0.1", NOBODY)
    with opened(replica.url()) as elsewhere:
        change(elsewhere)
    promote(server)
    assert any(b":e:" in key for key in keys_of(server, "default"))
    assert found(reader_after(server)) is None


def test_a_primary_that_was_demoted_for_a_moment_serves_nothing_that_it_had(
    server: RedisServer, store: RedisStore
) -> None:
    fill(store, payload=b"old")
    server.do("REPLICAOF", "127.0.0.1", NOBODY)
    promote(server)
    assert found(store) is None


def test_a_connection_left_on_a_demoted_primary_is_served_nothing(
    server: RedisServer, replica: RedisServer, store: RedisStore
) -> None:
    fill(store)
    promote(replica, old=server)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        store.lookup(b"k", T)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        store.mark(T, W, 60)


def test_where_the_name_leads_to_the_new_primary_by_now_the_connections_to_the_old_one_are_left(
    server: RedisServer, replica: RedisServer
) -> None:
    with troubled_proxy(server.port) as name, opened(f"redis://127.0.0.1:{name.port}?{SLOW}") as store:
        fill(store)
        promote(replica, old=server)
        name.target = ("127.0.0.1", replica.port)
        with pytest.raises(StoreUnavailable, match="is a replica"):
            store.lookup(b"k", T)
        assert found(store) is None
        fill(store)
        assert found(store) == b"rows"


def test_a_replica_that_may_be_written_to_is_refused_too(server: RedisServer, store: RedisStore) -> None:
    fill(store)
    server.do("CONFIG", "SET", "replica-read-only", "no")
    server.do("REPLICAOF", "127.0.0.1", NOBODY)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        store.lookup(b"k", T)
    with pytest.raises(StoreUnavailable, match="is a replica"):
        store.release(T.tags, W)


# -- data lost, data put back ------------------------------------------------------------------------------------------


def test_what_was_read_before_a_flush_is_filled_in_vain(server: RedisServer, store: RedisStore) -> None:
    seen = store.lookup(b"k", T)
    server.do("FLUSHALL")
    store.fill(b"k", b"old", seen.lease, 60)
    assert found(store) is None


def test_a_commit_under_way_at_a_flush_is_over_with_its_release(server: RedisServer, store: RedisStore) -> None:
    marked = store.mark(T, W, 60)
    server.do("FLUSHALL")
    fill(store, payload=b"from before the commit")
    store.release(marked, W)
    assert found(store) is None


def test_a_writer_that_relied_on_a_guard_that_was_lost_is_heard_by_readers_of_another_mind(
    server: RedisServer, store: RedisStore
) -> None:
    store.lookup(None, T)
    marked = store.mark(T, W, 60)
    assert marked == T.tags, "the guard was there, so the table was left alone"
    server.do("FLUSHALL")
    fill(store, payload=b"from before the commit", tags=OTHER_MIND)
    store.release(marked, W)
    assert found(store, tags=OTHER_MIND) is None


def test_a_writer_that_relied_on_a_guard_that_is_still_there_leaves_the_table_alone(store: RedisStore) -> None:
    other_row = type(T)((b"product|id=2",), T.guards)
    fill(store, tags=other_row)
    store.release(store.mark(T, W, 60), W)
    assert found(store, tags=other_row) == b"rows"


def test_keys_put_back_from_before_a_flush_do_not_count(server: RedisServer, store: RedisStore) -> None:
    fill(store, payload=b"old")
    kept = {key: server.do("DUMP", key) for key in keys_of(server, "default") if not key.endswith(b":state")}
    server.do("FLUSHALL")
    with opened(server.url()) as new:
        change(new)
        for key, value in kept.items():
            server.do("RESTORE", key, 0, value, "REPLACE")
        assert found(new) is None


def end_of(server: RedisServer, key: bytes) -> int:
    """Return when a key ends, to the millisecond, as a careful backup knows it; 0 for one that does not."""
    if b":t:" in key:
        return int(server.do("GET", key)[:16]) // 1000 + 90_000_000
    return 0 if server.do("PTTL", key) < 0 else int(time.time() * 1000) + int(server.do("PTTL", key))


def test_all_keys_put_back_into_a_running_server_do_not_count_for_who_saw_them_go_on(
    server: RedisServer, store: RedisStore
) -> None:
    fill(store, payload=b"old")
    kept = {key: (server.do("DUMP", key), end_of(server, key)) for key in keys_of(server, "default")}
    change(store)
    for key, (value, ends_ms) in kept.items():
        server.do("RESTORE", key, ends_ms, value, "REPLACE", "ABSTTL")
    assert found(store) is None
    with opened(server.url()) as new:
        assert found(new) is None, "who saw it has told"


@pytest.mark.parametrize("keeps_its_life", [True, False])
def test_a_stamp_put_back_does_not_count(server: RedisServer, store: RedisStore, keeps_its_life: bool) -> None:
    fill(store, payload=b"old")
    stamps = [key for key in keys_of(server, "default") if b":t:" in key]
    kept = [(key, server.do("DUMP", key), server.do("PTTL", key)) for key in stamps]
    change(store, (*T.tags, TABLE))
    time.sleep(0.05)  # a stamp that is put back within the server's millisecond is as it was
    for key, value, life_ms in kept:
        server.do("RESTORE", key, life_ms if keeps_its_life else 0, value, "REPLACE")
    assert found(store) is None


def test_all_keys_put_back_into_another_server_do_not_count(server: RedisServer, store: RedisStore) -> None:
    fill(store, payload=b"old")
    kept = {key: server.do("DUMP", key) for key in keys_of(server, "default")}
    server.restart()
    server.do("FLUSHALL")
    for key, value in kept.items():
        server.do("RESTORE", key, 0, value)
    with opened(server.url()) as new:
        assert found(new) is None


@pytest.mark.parametrize("what", ["flush", "put back", "forget scripts"])
def test_threads_never_read_less_than_was_acknowledged_whatever_is_done_to_the_data(
    server: RedisServer, store: RedisStore, what: str
) -> None:
    hammer = Hammer(store, rounds=150)
    fill(store)
    kept = {key: server.do("DUMP", key) for key in keys_of(server, "default")}
    faults: list[BaseException] = []
    hammering = threading.Thread(target=lambda: _noting(faults, hammer.run))
    hammering.start()
    while hammering.is_alive():
        if what == "forget scripts":
            server.do("SCRIPT", "FLUSH")
        elif what == "flush":
            server.do("FLUSHALL")
        else:
            for key, value in kept.items():
                server.do("RESTORE", key, 0, value, "REPLACE")
            kept = {key: server.do("DUMP", key) for key in keys_of(server, "default")}
            kept = {key: value for key, value in kept.items() if value is not None}
        hammering.join(0.005)
    assert faults == []


def _noting(faults: list[BaseException], run: Callable[[], object]) -> None:
    try:
        run()
    except BaseException as error:
        faults.append(error)


# -- the clock ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def set_clock(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], object]:
    """Have the server's clock be what a test says, in seconds, for every store."""
    scripts = [(_redis_calls, name) for name in ("FILL", "MARK", "RELEASE", "CLEAR", "MARKS")]
    for module, name in (*scripts, (_redis_asking, "LOOKUP")):
        text = getattr(module, name).text.replace(b"redis.call('TIME')", b"{redis.call('GET', 'test:clock'), 0}")
        assert b"test:clock" in text
        monkeypatch.setattr(module, name, script_of(text))
    digits = iter(range(100, 1000))
    monkeypatch.setattr("querycache.stores._redis_calls.secrets.randbits", lambda bits: next(digits))

    def set_to(seconds: int) -> None:
        server.do("SET", "test:clock", seconds)

    set_to(2_000_000_000)
    return set_to


def script_of(text: bytes) -> Script:
    return Script(text, hashlib.sha1(text).hexdigest().encode())


def stamps_given(store: RedisStore) -> set[int]:
    given: set[int] = set()
    for _ in range(20):
        change(store)
        given.update(store.lookup(None, T).lease)
    return given


def test_stamps_grow_where_the_clock_is_set_back(server: RedisServer, set_clock: Callable[[int], object]) -> None:
    with opened(server.url()) as store:
        before = store.lookup(None, T)
        set_clock(1_999_990_000)
        change(store)
        after = store.lookup(None, T)
        assert min(after.lease[:1]) > max(before.lease)
        assert after.now >= before.now


def test_a_server_that_lost_everything_and_has_an_earlier_clock_gives_no_stamp_again(
    server: RedisServer, set_clock: Callable[[int], object]
) -> None:
    with opened(server.url()) as store:
        given = stamps_given(store)
    server.do("FLUSHALL")
    set_clock(2_000_000_000)
    with opened(server.url()) as new:
        again = stamps_given(new)
    assert given.isdisjoint(again)


def test_a_process_is_given_no_stamp_earlier_than_one_it_has_seen_whatever_happened_to_server_and_clock(
    server: RedisServer, set_clock: Callable[[int], object]
) -> None:
    with opened(server.url()) as store:
        before = store.lookup(None, T)
        server.do("FLUSHALL")
        set_clock(1_999_000_000)
        with opened(server.url()) as new:
            new.lookup(None, T)
        assert min(store.lookup(None, T).lease) > max(before.lease)


# -- refused where a mark would be -------------------------------------------------------------------------------------


def out_of_memory(server: RedisServer) -> None:
    server.do("CONFIG", "SET", "maxmemory", "1")


def enough_memory(server: RedisServer) -> None:
    server.do("CONFIG", "SET", "maxmemory", "0")


def cannot_save(server: RedisServer) -> None:
    dump = server.folder.path / "dump.rdb"
    dump.unlink(missing_ok=True)
    dump.mkdir()
    server.do("BGSAVE")
    wait_for(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", "the save did not fail")


def can_save(server: RedisServer) -> None:
    (server.folder.path / "dump.rdb").rmdir()
    server.do("SAVE")


def wants_replicas(server: RedisServer) -> None:
    server.do("CONFIG", "SET", "min-replicas-to-write", "1")


def wants_no_replicas(server: RedisServer) -> None:
    server.do("CONFIG", "SET", "min-replicas-to-write", "0")


REFUSALS = {
    "OOM": (out_of_memory, enough_memory, "is out of memory. Set maxmemory-policy"),
    "MISCONF": (cannot_save, can_save, "cannot save its data to disk"),
    "NOREPLICAS": (wants_replicas, wants_no_replicas, "fewer replicas than min-replicas-to-write"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_an_entry_is_not_served_where_a_mark_would_be_refused(server: RedisServer, store: RedisStore, why: str) -> None:
    begin, end, remedy = REFUSALS[why]
    fill(store)
    begin(server)
    verbs: list[Callable[[], object]] = [
        lambda: store.lookup(b"k", T),
        lambda: store.lookup(None, T),
        lambda: store.fill(b"k", b"rows", (), 60),
        store.clock,
        lambda: store.mark(T, W, 60),
        lambda: store.release(T.tags, W),
        store.clear,
    ]
    for verb in verbs:
        with pytest.raises(StoreUnavailable, match=remedy):
            verb()
    end(server)
    assert found(store) == b"rows"


def test_a_hit_changes_nothing_that_a_replica_would_have_to_be_told(
    server: RedisServer, replica: RedisServer, store: RedisStore
) -> None:
    fill(store)
    before = server.info("persistence")["rdb_changes_since_last_save"]
    for _ in range(20):
        assert found(store) == b"rows"
    assert server.info("persistence")["rdb_changes_since_last_save"] == before


# -- what is kept, and for how long ------------------------------------------------------------------------------------


def test_marks_never_expire_and_everything_else_does(server: RedisServer, store: RedisStore) -> None:
    fill(store)
    store.mark(T, W, 60)
    lives = {key: server.do("TTL", key) for key in keys_of(server, "default")}
    assert [key for key, seconds in lives.items() if seconds == -1] == [b"querycache:default:state"]


@pytest.mark.parametrize("policy", ["volatile-ttl", "volatile-lru", "volatile-random"])
def test_a_mark_is_never_evicted_where_only_what_expires_may_be(
    server: RedisServer, store: RedisStore, policy: str
) -> None:
    server.do("CONFIG", "SET", "maxmemory-policy", policy)
    writers = [bytes([number]) * 16 for number in range(20)]
    for number, writer in enumerate(writers):
        store.mark(type(T)((b"row|%d" % number,)), writer, 600)
    used = server.info("memory")["used_memory"]
    server.do("CONFIG", "SET", "maxmemory", used + 1_000_000)
    for number in range(500):
        store.fill(b"k%d" % number, bytes(5000), store.lookup(None, T).lease, 60)
    assert server.info("stats")["evicted_keys"] > 100
    assert store.stats().marks == 20


def test_marks_that_nobody_ends_and_guards_of_databases_that_are_gone_are_bounded(
    server: RedisServer, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_calls, "MOST_FIELDS", 50)
    fill(store, tags=OTHER_MIND)
    store.mark(type(T)((b"live",)), W, 600)
    for number in range(60):
        store.mark(type(T)((b"row|%d" % number,), ((b"table%d!" % number, b"f"),)), bytes([number]) * 16, 0.000_001)
    assert server.do("HLEN", "querycache:default:state") <= 70
    assert not store.lookup(None, type(T)((b"live",))).storable
    assert found(store, tags=OTHER_MIND) is None
    assert not store.lookup(None, type(T)((), ((b"another!", b"f"),))).storable, "a guard made anew starts marked"


# -- bytes that are not ours -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"", b"x", b"9" * 19, bytes(100), b"1" * 400])
def test_values_that_are_not_ours_count_as_absent(server: RedisServer, store: RedisStore, garbage: bytes) -> None:
    fill(store)
    for key in keys_of(server, "default"):
        if not key.endswith(b":state"):
            server.do("SET", key, garbage)
    seen = store.lookup(b"k", T)
    assert (seen.payload, seen.storable) == (None, True)
    fill(store)
    assert found(store) == b"rows"


def test_a_state_that_is_not_ours_begins_a_new_life(server: RedisServer, store: RedisStore) -> None:
    fill(store)
    for field in ("life", "last", "floor", "salt"):
        server.do("HSET", "querycache:default:state", field, b"nonsense")
    assert found(store) is None
    change(store)
    fill(store)
    assert found(store) == b"rows"


def test_entries_and_stamps_of_another_type_count_as_absent(server: RedisServer, store: RedisStore) -> None:
    fill(store)
    for key in keys_of(server, "default"):
        if not key.endswith(b":state"):
            server.do("DEL", key)
            server.do("LPUSH", key, "x")
    assert found(store) is None
    fill(store)
    assert found(store) == b"rows"


def test_a_state_of_another_type_is_an_error_of_the_store(server: RedisServer, store: RedisStore) -> None:
    fill(store)
    server.do("DEL", store.layout.state(0))
    server.do("LPUSH", store.layout.state(0), "x")
    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        store.lookup(b"k", T)


@pytest.mark.parametrize("field", ["last", "floor", "salt", "life"])
def test_a_state_that_lacks_something_begins_a_new_life(server: RedisServer, store: RedisStore, field: str) -> None:
    fill(store)
    server.do("HDEL", store.layout.state(0), field)
    with opened(server.url()) as new:
        assert found(new) is None
        fill(new)
        assert found(new) == b"rows"


def test_namespaces_share_a_server_and_nothing_else(server: RedisServer, store: RedisStore) -> None:
    with opened(server.url("other")) as other:
        fill(store)
        assert found(other) is None
        other.mark(T, W, 60)
        other.clear()
        assert found(store) == b"rows"
        assert store.lookup(None, T).storable


def test_the_table_s_own_tag_is_marked_by_who_finds_no_guard(store: RedisStore) -> None:
    assert set(store.mark(T, W, 60)) == {*T.tags, TABLE}
    assert new_namespace() != new_namespace()
