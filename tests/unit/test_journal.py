"""The journal: what was marked is released, whatever the store does in between."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coherence_world import StagedStore
from querycache._types import MARK_TTL_S, TagSet
from querycache.coherence import journal as module
from querycache.coherence.inquiry import Case
from querycache.coherence.journal import Catalog, Journal
from querycache.coherence.protocol import Coherence
from querycache.errors import StoreUnavailable
from querycache.events import Events
from querycache.stores.lmdb import LMDBStore

TAGS = TagSet((b"one", b"two"))
BIND = TagSet((b"bind",))
SCHEMA = (b"schema", b"fingerprint")


class Clock:
    """Stands in for ``time`` in the journal: it moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def store() -> StagedStore:
    return StagedStore()


@pytest.fixture
def journal(store: StagedStore, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    # The keeper's rounds are made by the tests themselves.
    monkeypatch.setattr(Journal, "_keep", lambda self: None)
    journal = Journal(store, Events())
    yield journal
    store.failing.clear()
    journal.close()


def is_marked(store: StagedStore) -> bool:
    return not store.lookup(None, TAGS).storable


def test_a_mark_holds_until_its_release(journal: Journal, store: StagedStore) -> None:
    mark = journal.mark(TAGS)
    assert is_marked(store)
    journal.release(mark)
    assert not is_marked(store)
    assert (journal.held, journal.owed) == (0, 0)


def test_each_mark_has_a_writer_of_its_own(journal: Journal, store: StagedStore) -> None:
    first, second = journal.mark(TAGS), journal.mark(TAGS)
    assert first.writer != second.writer
    journal.release(first)
    assert is_marked(store)
    journal.release(second)
    assert not is_marked(store)


def test_a_second_release_of_a_mark_does_nothing(journal: Journal, store: StagedStore) -> None:
    mark = journal.mark(TAGS)
    journal.release(mark)
    store.calls.clear()
    journal.release(mark)
    assert store.calls == []


def test_a_release_changes_every_stamp(journal: Journal, store: StagedStore) -> None:
    before = store.lookup(None, TAGS).lease
    journal.release(journal.mark(TAGS))
    after = store.lookup(None, TAGS).lease
    assert all(one != two for one, two in zip(before, after, strict=True))


def test_a_release_that_fails_is_owed_and_tried_at_the_next_call(journal: Journal, store: StagedStore) -> None:
    mark = journal.mark(TAGS)
    store.failing.add("release")
    journal.release(mark)
    assert journal.owed == 1
    assert not journal.settle()
    store.failing.clear()
    assert journal.settle()
    assert (journal.owed, is_marked(store)) == (0, False)


def test_what_one_thread_is_settling_is_owed_for_all_others(journal: Journal, store: StagedStore) -> None:
    store.failing.add("release")
    journal.touch((b"one",))
    store.failing.clear()
    seen: list[object] = []
    store.before["release"] = lambda: seen.extend([journal.owed, journal.settle()])
    assert journal.settle()
    assert seen == [1, False]
    assert journal.owed == 0


def test_what_is_owed_is_left_to_the_keeper_by_who_does_not_wait(journal: Journal, store: StagedStore) -> None:
    assert journal.settle_soon()
    store.failing.add("release")
    journal.touch((b"one",))
    store.failing.clear()
    store.calls.clear()
    assert not journal.settle_soon()
    assert store.calls == []
    assert journal._wake.is_set()
    journal.tend()
    assert journal.settle_soon()


def test_the_keeper_comes_at_once_when_it_is_asked_to(store: StagedStore) -> None:
    journal = Journal(store, Events())
    store.failing.add("release")
    journal.touch((b"one",))
    store.failing.clear()
    landed = threading.Event()
    store.after["release"] = landed.set
    journal.settle_soon()
    assert landed.wait(60)
    journal.close()


def test_a_touch_that_fails_is_owed(journal: Journal, store: StagedStore) -> None:
    store.failing.add("release")
    journal.touch((b"one",))
    assert journal.owed == 1


def test_what_is_owed_first_is_settled_first(journal: Journal, store: StagedStore) -> None:
    store.failing.add("release")
    journal.touch((b"one",))
    journal.touch((b"two",))
    assert [owed.tags for owed in journal._owed] == [(b"one",), (b"two",)]


def test_a_mark_that_fails_raises_and_owes_a_release_as_it_may_have_been_set(
    journal: Journal, store: StagedStore
) -> None:
    store.failing.add("mark")
    with pytest.raises(StoreUnavailable):
        journal.mark(TagSet((b"one",), ((b"guard", b"f"),)))
    assert [owed.tags for owed in journal._owed] == [(b"one", b"guard")]


def test_a_mark_that_was_pretended_is_released_with_its_guards(journal: Journal, store: StagedStore) -> None:
    before = store.lookup(None, TAGS).lease
    journal.release(journal.pretend(TAGS))
    assert store.lookup(None, TAGS).lease != before
    assert journal.pretend(TagSet((b"one",), ((b"guard", b"f"),))).marked == (b"one", b"guard")


def test_what_a_commit_that_went_on_changed_is_what_it_knew_of_where_the_catalog_is_the_same(
    journal: Journal, store: StagedStore
) -> None:
    bind_before = store.lookup(None, BIND).lease
    mark = journal.pretend(TAGS, Catalog(SCHEMA, store.lookup(None, TagSet((), (SCHEMA,))).lease[0], b"bind"))
    before = store.lookup(None, TAGS).lease
    journal.release(mark)
    assert store.lookup(None, TAGS).lease != before
    assert store.lookup(None, BIND).lease == bind_before


def test_what_a_commit_that_went_on_changed_is_the_whole_bind_where_the_catalog_is_another_one(
    journal: Journal, store: StagedStore
) -> None:
    before = store.lookup(None, BIND).lease
    mark = journal.pretend(TAGS, Catalog(SCHEMA, store.lookup(None, TagSet((), (SCHEMA,))).lease[0], b"bind"))
    store.release([SCHEMA[0]], bytes(16))
    journal.release(mark)
    assert store.lookup(None, BIND).lease != before


def test_a_release_is_owed_until_the_store_tells_of_the_catalog(journal: Journal, store: StagedStore) -> None:
    mark = journal.pretend(TAGS, Catalog(SCHEMA, store.lookup(None, TagSet((), (SCHEMA,))).lease[0], b"bind"))
    store.failing.add("lookup")
    journal.release(mark)
    assert journal.owed == 1
    assert not journal.settle()
    store.failing.clear()
    assert journal.settle()
    assert journal.owed == 0


def test_a_mark_is_renewed_at_a_third_of_its_life(journal: Journal, store: StagedStore, clock: Clock) -> None:
    journal.mark(TAGS)
    store.advance(20)
    clock.now += 20
    journal.tend()
    store.advance(20)
    assert is_marked(store)


def test_a_mark_that_is_young_is_not_renewed(journal: Journal, store: StagedStore, clock: Clock) -> None:
    journal.mark(TAGS)
    store.calls.clear()
    clock.now += 9
    journal.tend()
    assert store.calls == []


def test_a_mark_released_while_it_is_renewed_does_not_stay(journal: Journal, store: StagedStore, clock: Clock) -> None:
    mark = journal.mark(TAGS)
    clock.now += 20
    store.before["mark"] = lambda: journal.release(mark)
    journal.tend()
    assert not is_marked(store)


def test_a_renewal_that_fails_leaves_the_mark_to_the_next_round(
    journal: Journal, store: StagedStore, clock: Clock
) -> None:
    journal.mark(TAGS)
    clock.now += 20
    store.failing.add("mark")
    journal.tend()
    store.failing.clear()
    store.advance(20)
    journal.tend()
    store.advance(20)
    assert is_marked(store)


def test_a_doubted_mark_is_kept_for_ten_minutes(journal: Journal, store: StagedStore, clock: Clock) -> None:
    journal.doubt(journal.mark(TAGS))
    for _ in range(59):
        clock.now += 10
        store.advance(10)
        journal.tend()
        assert is_marked(store)


def test_a_doubted_mark_is_released_twice_a_marks_life_apart(
    journal: Journal, store: StagedStore, clock: Clock
) -> None:
    journal.doubt(journal.mark(TAGS))
    clock.now += module.MAX_DOUBT_S
    journal.tend()
    assert (is_marked(store), journal.owed) == (False, 1)
    once = store.lookup(None, TAGS).lease
    clock.now += 29
    journal.tend()
    assert store.lookup(None, TAGS).lease == once
    clock.now += 2
    journal.tend()
    assert store.lookup(None, TAGS).lease != once
    assert journal.owed == 0


class Told(Case):
    """A case in which the test is the database."""

    def __init__(self) -> None:
        self.is_over = False
        self.busy_at = float("-inf")
        self.looks = 0

    def look(self) -> None:
        self.looks += 1


def test_a_doubted_mark_is_released_once_when_the_database_says_that_its_commit_is_over(
    journal: Journal, store: StagedStore
) -> None:
    case = Told()
    journal.doubt(journal.mark(TAGS), case)
    journal.tend()
    assert is_marked(store)
    case.is_over = True
    journal.tend()
    assert (is_marked(store), journal.held, journal.owed) == (False, 0, 0)


def test_the_database_is_asked_at_once_and_in_each_round(journal: Journal, clock: Clock) -> None:
    case = Told()
    journal.doubt(journal.mark(TAGS), case)
    assert case.looks == 1
    for _ in range(3):
        clock.now += 5
        journal.tend()
    assert case.looks == 4


def test_the_ten_minutes_begin_anew_whenever_the_database_is_seen_at_work_on_the_commit(
    journal: Journal, store: StagedStore, clock: Clock
) -> None:
    case = Told()
    journal.doubt(journal.mark(TAGS), case)
    for _ in range(120):
        clock.now += 10
        store.advance(10)
        case.busy_at = clock.now
        journal.tend()
        assert is_marked(store)
    clock.now += module.MAX_DOUBT_S
    journal.tend()
    assert (is_marked(store), journal.owed) == (False, 1)


def test_at_the_end_what_is_in_doubt_is_left_to_run_out(journal: Journal, store: StagedStore) -> None:
    """Its commit may land after us: a mark that is left protects for the rest of its life."""
    journal.doubt(journal.mark(TAGS))
    journal.close()
    assert is_marked(store)
    store.advance(MARK_TTL_S + 1)
    assert not is_marked(store)


def test_at_the_end_a_doubted_mark_that_was_never_set_is_released(journal: Journal, store: StagedStore) -> None:
    before = store.lookup(None, TAGS).lease
    journal.doubt(journal.pretend(TAGS))
    journal.close()
    assert store.lookup(None, TAGS).lease != before


def test_at_the_end_what_is_never_acknowledged_is_told(
    journal: Journal, store: StagedStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.failing.add("release")
    journal.touch((b"one",))
    with caplog.at_level(logging.ERROR, "querycache"):
        journal.close()
    assert "memory://" in caplog.text


def test_a_forked_child_owes_and_holds_nothing(journal: Journal, store: StagedStore) -> None:
    mark = journal.mark(TAGS)
    module._forget_in_child()
    store.calls.clear()
    journal.release(mark)
    journal.tend()
    assert (store.calls, journal.held, journal.owed) == ([], 0, 0)


def test_the_keeper_ends_with_its_journal(store: StagedStore) -> None:
    journal = Journal(store, Events())
    journal.release(journal.mark(TAGS))
    keeper = journal._keeper
    assert keeper is not None
    journal.close()
    keeper.join(10)
    assert not keeper.is_alive()


class LMDBWithAClock(LMDBStore):
    """LMDB whose clock is put forward by the test."""

    ahead_ns = 0

    def _ticks(self) -> int:
        return super()._ticks() + self.ahead_ns


def test_on_lmdb_a_doubted_mark_is_kept_for_ten_minutes_and_then_released_twice(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Journal, "_keep", lambda self: None)
    store = LMDBWithAClock(tmp_path / "store", 16 * 1024 * 1024)
    journal = Journal(store, Events())

    def pass_by(seconds: float) -> None:
        clock.now += seconds
        store.ahead_ns += int(seconds * 1e9)
        journal.tend()

    journal.doubt(journal.mark(TAGS))
    for _ in range(59):
        pass_by(10)
        assert not store.lookup(None, TAGS).storable
    pass_by(10)
    once = store.lookup(None, TAGS)
    assert once.storable
    pass_by(MARK_TTL_S + 1)
    assert store.lookup(None, TAGS).lease != once.lease
    journal.close()
    store.close()


# -- who is cancelled --------------------------------------------------------------------------------------------------


def cancel(*arguments: object) -> None:
    raise asyncio.CancelledError


def test_who_is_cancelled_while_a_mark_is_set_owes_its_release(
    journal: Journal, store: StagedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = store.mark

    def mark_and_cancel(*arguments: Any) -> Any:
        mark(*arguments)
        raise asyncio.CancelledError

    with monkeypatch.context() as while_it_is_set:
        while_it_is_set.setattr(store, "mark", mark_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            journal.mark(TAGS)
    assert (journal.held, journal.owed) == (0, 1)
    assert is_marked(store)
    assert journal.settle()
    assert not is_marked(store)


def test_who_is_cancelled_while_a_mark_is_released_owes_the_release(
    journal: Journal, store: StagedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = journal.mark(TAGS)
    with monkeypatch.context() as while_it_is_released:
        while_it_is_released.setattr(store, "release", cancel)
        with pytest.raises(asyncio.CancelledError):
            journal.release(mark)
    assert (journal.held, journal.owed) == (0, 1)
    assert journal.settle()
    assert not is_marked(store)


def test_who_is_cancelled_while_one_store_is_told_tells_the_others_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Journal, "_keep", lambda self: None)
    first, second = StagedStore(), StagedStore()
    coherence = Coherence([first, second], Events())
    marks = coherence.mark(TAGS)
    with monkeypatch.context() as while_it_is_released:
        while_it_is_released.setattr(first, "release", cancel)
        with pytest.raises(asyncio.CancelledError):
            coherence.release(marks)
    assert [journal.owed for journal in coherence.journals] == [1, 0]
    assert not is_marked(second)

    lease = second.lookup(None, TAGS).lease
    with monkeypatch.context() as while_it_is_touched:
        while_it_is_touched.setattr(first, "release", cancel)
        with pytest.raises(asyncio.CancelledError):
            coherence.touch(TAGS.tags)
    assert second.lookup(None, TAGS).lease != lease
    coherence.close()


def test_who_is_cancelled_while_the_second_store_is_marked_releases_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "_keep", lambda self: None)
    first, second = StagedStore(), StagedStore()
    coherence = Coherence([first, second], Events())
    monkeypatch.setattr(second, "mark", cancel)
    with pytest.raises(asyncio.CancelledError):
        coherence.mark(TAGS)
    assert not is_marked(first)
    assert [journal.held for journal in coherence.journals] == [0, 0]
    coherence.close()
