"""Would these tests notice? Each rule of the protocol is broken here on purpose, and the staleness must show.

Every test is one interleaving, run twice: with the rule, where the last read is fresh, and without it, where it is stale.
A harness that could not tell the two apart would prove nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import text

from coherence_world import Process, Product, StagedStore, World, name_of, read_in, rename
from querycache import commits, entries
from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.coherence.journal import Journal
from querycache.coherence.protocol import Coherence
from querycache.flights import Flights

Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url)
    world.fill()
    yield world
    world.store.failing.clear()
    world.close()


@pytest.fixture(params=["kept", "broken"])
def rule(request: pytest.FixtureRequest) -> str:
    """Whether the protocol is the real one, or has the rule that the test is about taken out."""
    kind: str = request.param
    return kind


def assert_fresh_unless_broken(rule: str, *, found: object, truth: object) -> None:
    """With the rule what was read is the truth; without it the interleaving must have made it stale."""
    if rule == "kept":
        assert found == truth
    else:
        assert found != truth, "the interleaving does not show the staleness that it is there to show"


def marked_in_name_only(
    self: StagedStore, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
) -> tuple[tuple[Tag, ...], Stamp | None]:
    return tags.tags, self.lookup(None, TagSet((), (guard,))).lease[0]


# -- invalidate only after commit ------------------------------------------------------------------------------------


def test_a_change_is_marked_before_its_commit(world: World, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that comes after the commit became visible and before the release must not be served the old row."""
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    if rule == "broken":
        monkeypatch.setattr(StagedStore, "mark_and_look", marked_in_name_only)
    seen: list[Any] = []
    world.store.before["release"] = lambda: seen.append(read_in(reader, name_of))
    rename(writer, "b")
    assert_fresh_unless_broken(rule, found=seen, truth=["b"])


def test_a_mark_is_released_after_its_commit_and_never_before(
    world: World, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader fills between an early release and the commit would stay for its whole life."""
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    if rule == "broken":

        def mark_and_release(self: Coherence, tags: TagSet, catalogs: object = None) -> list[Any]:
            for journal in self.journals:
                journal.release(journal.mark(tags))
            read_in(reader, name_of)
            return []

        monkeypatch.setattr(Coherence, "mark", mark_and_release)
    else:
        world.store.after["mark"] = lambda: read_in(reader, name_of)
    rename(writer, "b")
    assert_fresh_unless_broken(rule, found=read_in(reader, name_of), truth="b")


# -- lease after the query -------------------------------------------------------------------------------------------


def test_the_lease_is_in_hand_before_the_query_is_sent(
    world: World, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit between query and fill must make the entry stillborn."""
    writer, process = world.process(), world.process()
    read_in(process, lambda session: name_of(session, 2))
    if rule == "broken":
        asked: dict[bytes | None, TagSet] = {}
        lookup, fill = StagedStore.lookup, StagedStore.fill

        def remember(self: StagedStore, key: bytes | None, tags: TagSet) -> Lookup:
            asked[key] = tags
            return lookup(self, key, tags)

        def fill_under_a_new_lease(self: StagedStore, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
            if self.before:
                self.before.pop("fill")()
            return fill(self, key, payload, lookup(self, None, asked[key]).lease, ttl_s)

        monkeypatch.setattr(StagedStore, "lookup", remember)
        monkeypatch.setattr(StagedStore, "fill", fill_under_a_new_lease)
    world.store.before["fill"] = lambda: rename(writer, "b")
    assert read_in(process, name_of) == "a"
    assert_fresh_unless_broken(rule, found=read_in(process, name_of), truth="b")


# -- a waiter takes the filler's rows --------------------------------------------------------------------------------


def test_a_waiter_looks_up_again(world: World, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The filler has read, a commit came, then the waiter began: what the filler holds is older than the waiter."""
    writer, filler, waiter = world.process(), world.process(), world.process()
    assert filler.cache is not None
    assert waiter.cache is not None
    waiter.cache._reader.flights = filler.cache._reader.flights
    read_in(waiter, lambda session: name_of(session, 2))
    read_in(filler, lambda session: name_of(session, 2))
    waited = threading.Event()
    wait = Flights.wait
    handed_over: list[str] = []

    def tell_and_wait(self: Flights, key: bytes) -> None:
        waited.set()
        wait(self, key)

    monkeypatch.setattr(Flights, "wait", tell_and_wait)
    found: list[Any] = []

    def read_later() -> None:
        mine = read_in(waiter, name_of)
        found.append(handed_over[0] if rule == "broken" else mine)

    second = threading.Thread(target=read_later)

    def commit_and_start_the_waiter() -> None:
        handed_over.append("a")
        rename(writer, "b")
        second.start()
        assert waited.wait(10)

    world.store.before["fill"] = commit_and_start_the_waiter
    assert read_in(filler, name_of) == "a"
    second.join(10)
    assert_fresh_unless_broken(rule, found=found, truth=["b"])


# -- release only if the stamp is mine -------------------------------------------------------------------------------


def test_a_release_changes_the_stamp_though_its_mark_is_lost(
    world: World, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mark ran out before the commit, and a reader filled the old row under a new stamp."""
    writer, reader = world.process(), world.process()
    read_in(reader, name_of)
    if rule == "broken":
        release = StagedStore.release

        def release_what_is_mine(self: StagedStore, tags: Sequence[Tag], writer: Writer) -> None:
            if self.stats().marks:
                release(self, tags, writer)

        monkeypatch.setattr(StagedStore, "release", release_what_is_mine)

    def lose_the_mark() -> None:
        world.store.advance(3600)
        assert world.store.stats().marks == 0
        assert read_in(reader, name_of) == "a"

    world.store.after["mark"] = lose_the_mark
    rename(writer, "b")
    assert_fresh_unless_broken(rule, found=read_in(reader, name_of), truth="b")


# -- the writer's name -----------------------------------------------------------------------------------------------


def test_each_attempt_to_commit_has_a_name_of_its_own(world: World, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The release of an earlier attempt arrives while the next one's mark is set, and must not take it away."""
    writer, reader = world.process(), world.process()
    if rule == "broken":
        monkeypatch.setattr("querycache.coherence.journal.secrets.token_bytes", lambda size: b"pid 1234".ljust(size))
    read_in(reader, name_of)
    world.store.failing.add("release")
    rename(writer, "b")
    seen: list[Any] = []
    assert writer.cache is not None
    journal = writer.cache._coherence.journals[0]

    def release_the_first_attempt_late() -> None:
        world.store.failing.clear()
        assert journal.settle()
        read_in(reader, name_of)

    world.store.after["mark"] = release_the_first_attempt_late
    original = commits.finish

    def look_before_the_release(*arguments: Any) -> None:
        seen.append(read_in(reader, name_of))
        original(*arguments)

    monkeypatch.setattr(commits, "finish", look_before_the_release)
    rename(writer, "c")
    assert_fresh_unless_broken(rule, found=seen, truth=["c"])


# -- the snapshot rule -----------------------------------------------------------------------------------------------


@pytest.fixture
def postgresql(postgresql_url: str) -> Iterator[World]:
    world = World(postgresql_url)
    world.fill()
    yield world
    world.close()


def test_what_was_stamped_at_the_moment_of_the_snapshot_is_not_served(
    postgresql: World, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two things at one tick of a coarse clock: which came first is not known. Without a margin the later one is served."""
    monkeypatch.setattr(StagedStore, "clock_margin_s", 0.0 if rule == "broken" else 1.0)
    frozen = postgresql.store.clock() + 10_000_000_000
    monkeypatch.setattr(StagedStore, "_ticks", lambda self: frozen)
    monkeypatch.setattr(StagedStore, "clock", lambda self: frozen + 1_000_000)
    process, writer = postgresql.process(engine_isolation_level="REPEATABLE READ"), postgresql.process()
    with process.session() as session:
        session.execute(text("SELECT name FROM category WHERE id = 9")).all()
        rename(writer, "b")
        read_in(writer, name_of)
        assert_fresh_unless_broken(rule, found=name_of(session), truth="a")


def test_what_was_served_before_the_snapshot_is_looked_at_again(
    postgresql: World, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, a lost update that PostgreSQL refuses goes through."""
    if rule == "broken":
        monkeypatch.setattr("querycache.engine.Attachment._look_again", lambda self, state, sent, raw: None)
        _read_without_asking_for_old_images(monkeypatch)
    process = postgresql.process(engine_isolation_level="REPEATABLE READ")
    writer = postgresql.process()
    read_in(process, lambda session: session.get_one(Product, 1).name)
    assert_lost = rule == "broken"
    with process.session() as session:
        product = session.get_one(Product, 1)
        rename(writer, "theirs")
        product.name += "+mine"
        if assert_lost:
            session.commit()
        else:
            with pytest.raises(Exception, match="retry"):
                session.commit()
    found = read_in(process, name_of)
    assert found == ("a+mine" if assert_lost else "theirs")


def _read_without_asking_for_old_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("querycache.capture.learn_images", lambda *arguments: None)


# -- after the first write -------------------------------------------------------------------------------------------


def test_a_transaction_that_wrote_stores_nothing(world: World, rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    process: Process = world.process()
    if rule == "broken":
        monkeypatch.setattr("querycache.coherence.transactions.ConnectionState.may_have_changed", lambda *rest: False)
        monkeypatch.setattr(entries, "may_fill", lambda *rest, **options: True)
        monkeypatch.setattr(commits, "abandon", lambda state, coherence: state.end())
        monkeypatch.setattr("querycache.engine.abandon", lambda state, coherence: state.end())
    with process.session() as writing:
        writing.get_one(Product, 1).name = "dirty"
        writing.flush()
        if rule == "broken":
            state = process.cache._attachments[0].state_of(writing.connection())  # type: ignore[union-attr]
            assert state is not None
            state.dirty = False
        assert name_of(writing) == "dirty"
        writing.rollback()
    assert_fresh_unless_broken(rule, found=read_in(process, name_of), truth="a")


def test_a_fork_never_releases_what_it_did_not_mark(world: World, rule: str) -> None:
    """What a journal does not hold it never releases; without the rule a child would unmark its parent's commit."""
    process, child = world.process(), world.process()
    assert process.cache is not None
    assert child.cache is not None
    parents: Journal = process.cache._coherence.journals[0]
    read_in(process, name_of)
    attachment = process.cache._attachments[0]
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        state = attachment.state_of(session.connection())
        assert state is not None
        mark = parents.mark(state.pending.tag_set(state.bind.tag))
        if rule == "broken":
            child.cache._coherence.journals[0]._held[mark.writer] = mark
        child.cache._coherence.journals[0].release(mark)
        assert_fresh_unless_broken(rule, found=bool(world.store.stats().marks), truth=True)
        parents.release(mark)
