"""Who hears of it when a store fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from coherence_world import StagedStore
from querycache._types import TagSet
from querycache.coherence.journal import Catalog, Journal
from querycache.coherence.protocol import Coherence, OnMarkFailure
from querycache.errors import StoreUnavailable
from querycache.events import Events

TAGS = TagSet((b"one",))
SCHEMA = (b"bind/schema", b"schema")


@pytest.fixture(autouse=True)
def no_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "_keep", lambda self: None)


@pytest.fixture
def stores() -> list[StagedStore]:
    return [StagedStore(), StagedStore()]


@pytest.fixture
def made() -> Iterator[list[Coherence]]:
    made: list[Coherence] = []
    yield made
    for coherence in made:
        for journal in coherence.journals:
            assert isinstance(journal.store, StagedStore)
            journal.store.failing.clear()
        coherence.close()


def coherence_of(made: list[Coherence], stores: list[StagedStore], policy: OnMarkFailure | None = None) -> Coherence:
    made.append(Coherence(stores, Events(), on_mark_failure=policy))
    return made[-1]


def marked(stores: list[StagedStore]) -> list[bool]:
    return [not store.lookup(None, TAGS).storable for store in stores]


def test_a_mark_is_set_in_every_store_and_released_in_each(made: list[Coherence], stores: list[StagedStore]) -> None:
    coherence = coherence_of(made, stores)
    marks = coherence.mark(TAGS)
    assert marked(stores) == [True, True]
    coherence.release(marks)
    assert marked(stores) == [False, False]


def test_a_mark_says_which_catalog_each_store_has(made: list[Coherence], stores: list[StagedStore]) -> None:
    coherence = coherence_of(made, stores)
    catalogs = {at: Catalog(SCHEMA, stamp, b"bind/") for at, stamp in coherence.stamps_of(SCHEMA).items()}
    stores[1].release([SCHEMA[0]], bytes(16))
    now = stores[1].lookup(None, TagSet((), (SCHEMA,))).lease[0]
    marks = coherence.mark(TAGS, catalogs)
    assert [mark.schema_stamp for mark in marks] == [catalogs[0].stamp, now]
    assert catalogs[1].stamp != now


def test_a_store_that_cannot_be_marked_says_of_no_catalog_that_it_is_another_one(
    made: list[Coherence], stores: list[StagedStore]
) -> None:
    coherence = coherence_of(made, stores, "continue")
    catalogs = {at: Catalog(SCHEMA, stamp, b"bind/") for at, stamp in coherence.stamps_of(SCHEMA).items()}
    stores[1].failing.add("mark")
    marks = coherence.mark(TAGS, catalogs)
    assert [mark.schema_stamp for mark in marks] == [catalogs[0].stamp, catalogs[1].stamp]
    assert [mark.catalog for mark in marks] == [None, catalogs[1]]


def test_a_mark_that_must_be_set_and_cannot_leaves_none_behind(
    made: list[Coherence], stores: list[StagedStore]
) -> None:
    coherence = coherence_of(made, stores)
    stores[1].failing.add("mark")
    with pytest.raises(StoreUnavailable):
        coherence.mark(TAGS)
    assert marked(stores) == [False, False]


@pytest.mark.parametrize("policy", ["continue", None])
def test_a_mark_that_need_not_be_set_is_released_after_the_commit_all_the_same(
    made: list[Coherence], stores: list[StagedStore], policy: OnMarkFailure | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StagedStore, "commits_need_marks", False)
    coherence = coherence_of(made, stores, policy)
    stores[0].failing.add("mark")
    marks = coherence.mark(TAGS)
    stores[0].failing.clear()
    coherence.journals[0].settle()
    lease = stores[0].lookup(None, TAGS).lease
    coherence.release(marks)
    assert stores[0].lookup(None, TAGS).lease != lease


def test_raise_holds_also_for_a_store_that_advises_to_continue(
    made: list[Coherence], stores: list[StagedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StagedStore, "commits_need_marks", False)
    coherence = coherence_of(made, stores, "raise")
    stores[0].failing.add("mark")
    with pytest.raises(StoreUnavailable):
        coherence.mark(TAGS)


@pytest.mark.parametrize("verb", ["lookup", "fill"])
def test_a_read_never_hears_of_a_store_that_fails(made: list[Coherence], stores: list[StagedStore], verb: str) -> None:
    coherence = coherence_of(made, stores)
    stores[0].failing.add(verb)
    assert (coherence.lookup(0, b"k", TAGS) is None) == (verb == "lookup")
    assert coherence.fill(0, b"k", b"rows", (1,), 60) == (verb != "fill")
    assert coherence.events.counts()["store_error"] == 1


def test_a_store_that_cannot_tell_the_time_is_left_out(
    made: list[Coherence], stores: list[StagedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    coherence = coherence_of(made, stores)

    def fail() -> int:
        raise StoreUnavailable("no clock")

    monkeypatch.setattr(stores[0], "clock", fail)
    assert list(coherence.clocks()) == [1]


def test_while_a_release_is_owed_and_not_taken_nothing_is_looked_up(
    made: list[Coherence], stores: list[StagedStore]
) -> None:
    coherence = coherence_of(made, stores)
    stores[0].failing.add("release")
    coherence.touch(TAGS.tags)
    assert coherence.lookup(0, b"k", TAGS) is None
    assert coherence.lookup_many(0, [(b"k", TAGS)]) is None
    assert coherence.lookup(1, b"k", TAGS) is not None
    stores[0].failing.clear()
    assert coherence.lookup(0, b"k", TAGS) is not None


def test_over_a_network_a_read_leaves_what_is_owed_to_the_keeper_and_asks_nothing_until_it_is_done(
    made: list[Coherence], stores: list[StagedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StagedStore, "scope", "fleet")
    coherence = coherence_of(made, stores)
    stores[0].failing.add("release")
    coherence.touch(TAGS.tags)
    stores[0].calls.clear()
    assert coherence.lookup(0, b"k", TAGS) is None
    assert coherence.lookup_many(0, [(b"k", TAGS)]) is None
    assert stores[0].calls == []
    stores[0].failing.clear()
    coherence.journals[0].tend()
    assert coherence.lookup(0, b"k", TAGS) is not None


def test_a_store_that_is_spared_is_not_asked_and_that_is_counted(
    made: list[Coherence], stores: list[StagedStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    coherence = coherence_of(made, stores)
    monkeypatch.setattr(StagedStore, "is_resting", True)
    assert coherence.lookup(0, b"k", TAGS) is None
    assert coherence.lookup_many(0, [(b"k", TAGS)]) is None
    assert stores[0].calls == []
    assert coherence.events.counts()["store_error"] == 2


def test_a_touch_changes_the_stamps_in_every_store(made: list[Coherence], stores: list[StagedStore]) -> None:
    coherence = coherence_of(made, stores)
    before = [store.lookup(None, TAGS).lease for store in stores]
    coherence.touch(TAGS.tags)
    assert all(store.lookup(None, TAGS).lease != lease for store, lease in zip(stores, before, strict=True))


def test_marks_in_doubt_stay_marked(made: list[Coherence], stores: list[StagedStore]) -> None:
    coherence = coherence_of(made, stores)
    coherence.doubt(coherence.mark(TAGS))
    assert marked(stores) == [True, True]
