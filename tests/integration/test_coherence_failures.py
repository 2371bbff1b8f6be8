"""What do readers see when the store fails, a commit stays in doubt, or a process is forked?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, update

from coherence_world import Product, World, category_of, is_hit, name_of, read_in, rename
from commit_support import journal_of, replace_commit
from querycache.coherence import journal as journals
from querycache.errors import StoreUnavailable
from querycache.stores.memory import MemoryStore
from restartable import wait_for


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    world = World(sqlite_url)
    world.fill()
    yield world
    world.store.failing.clear()
    world.close()


# -- the store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["lookup", "fill"])
def test_a_read_goes_on_when_the_store_fails(world: World, verb: str) -> None:
    process = world.process()
    read_in(process, lambda session: name_of(session, 2))
    world.store.failing.add(verb)
    assert read_in(process, name_of) == "a"
    world.store.failing.clear()
    assert read_in(process, name_of) == "a"
    assert is_hit(process)


def test_a_commit_that_cannot_be_marked_is_aborted_by_default(world: World) -> None:
    process = world.process()
    read_in(process, name_of)
    world.store.failing.add("mark")
    with pytest.raises(StoreUnavailable):
        rename(process, "b")
    world.store.failing.clear()
    assert read_in(process, name_of) == "a"
    assert world.store.stats().marks == 0


def test_an_outage_that_aborts_a_commit_drops_nothing_of_other_tables(world: World) -> None:
    """Of the catalog the store says nothing then, which is no reason to take it for another one."""
    process, reader = world.process(), world.process()
    read_in(reader, category_of)
    read_in(reader, name_of)
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        with outage(world), pytest.raises(StoreUnavailable):
            session.commit()
    wait_for(journal_of(process).settle, "what is owed is not acknowledged")

    assert is_hit(reader, category_of)
    assert not is_hit(reader)


def test_an_outage_that_aborts_a_statement_in_autocommit_drops_nothing_of_other_tables(world: World) -> None:
    process, reader = world.process(engine_isolation_level="AUTOCOMMIT"), world.process()
    read_in(reader, category_of)
    read_in(reader, name_of)
    with process.engine.connect() as connection, outage(world), pytest.raises(StoreUnavailable):
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
    wait_for(journal_of(process).settle, "what is owed is not acknowledged")

    assert is_hit(reader, category_of)
    assert not is_hit(reader)


def test_a_commit_that_goes_on_in_an_outage_drops_nothing_of_other_tables(world: World) -> None:
    """Once its release lands the store tells that the catalog is still the one that its changes were named by."""
    process, reader = world.process(on_mark_failure="continue"), world.process()
    read_in(reader, category_of)
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        with outage(world):
            session.commit()
    wait_for(journal_of(process).settle, "what is owed is not acknowledged")

    assert is_hit(reader, category_of)
    assert read_in(reader, name_of) == "b"


@pytest.mark.parametrize("before_the_commit", [True, False])
def test_ddl_in_an_outage_has_a_commit_that_goes_on_drop_everything(world: World, before_the_commit: bool) -> None:
    """What a trigger does that the commit knows nothing of, say."""
    process, reader = world.process(on_mark_failure="continue"), world.process()
    for one in (process, reader):
        read_in(one, category_of)
    assert process.cache is not None
    (bind,) = process.cache._binds.known()

    def ddl_of_another_process() -> None:
        MemoryStore.release(world.store, [bind.schema_guard[0]], bytes(16))

    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        with outage(world):
            if before_the_commit:
                ddl_of_another_process()
            session.commit()
            if not before_the_commit:
                ddl_of_another_process()
    wait_for(journal_of(process).settle, "what is owed is not acknowledged")

    assert not is_hit(reader, category_of)
    assert read_in(reader, name_of) == "b"


def test_a_commit_whose_second_mark_cannot_be_set_leaves_no_mark(world: World) -> None:
    """The first took what is known, the second would have taken the whole database."""
    process = world.process()
    assert process.cache is not None
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        (bind,) = process.cache._binds.known()
        MemoryStore.release(world.store, [bind.schema_guard[0]], bytes(16))  # DDL of another process
        world.store.after["mark"] = lambda: world.store.failing.add("mark")
        with pytest.raises(StoreUnavailable):
            session.commit()
    world.store.failing.clear()

    assert journal_of(process).held == 0
    assert world.store.stats().marks == 0


@contextmanager
def outage(world: World) -> Iterator[None]:
    """A block in which the store says nothing to anybody."""
    world.store.failing.update({"lookup", "fill", "mark", "release"})
    yield
    world.store.failing.clear()


def test_a_session_whose_commit_was_aborted_can_be_rolled_back_and_used(world: World) -> None:
    process = world.process()
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        world.store.failing.add("mark")
        with pytest.raises(StoreUnavailable):
            session.commit()
        world.store.failing.clear()
        session.rollback()
        session.get_one(Product, 1).name = "c"
        session.commit()
    assert read_in(process, name_of) == "c"


def test_with_continue_a_commit_that_cannot_be_marked_is_seen_once_it_is_over(world: World) -> None:
    process, reader = world.process(on_mark_failure="continue"), world.process()
    read_in(reader, name_of)
    world.store.failing.add("mark")
    rename(process, "b")
    assert read_in(reader, name_of) == "b"


def test_with_continue_the_release_is_tried_until_the_store_takes_it(world: World) -> None:
    process, reader = world.process(on_mark_failure="continue"), world.process()
    read_in(reader, name_of)
    world.store.failing.update({"mark", "release"})
    rename(process, "b")
    assert process.cache is not None
    assert process.cache.stats()["releases_owed"]
    world.store.failing.clear()
    read_in(process, lambda session: name_of(session, 2))
    assert process.cache.stats()["releases_owed"] == 0
    assert read_in(reader, name_of) == "b"


def test_with_continue_the_process_itself_sees_its_commit_before_the_release_lands(world: World) -> None:
    process = world.process(on_mark_failure="continue")
    read_in(process, name_of)
    world.store.failing.update({"mark", "release"})
    rename(process, "b")
    assert read_in(process, name_of) == "b"


def test_with_continue_what_is_owed_before_the_commit_does_not_stand_for_what_comes_after(world: World) -> None:
    process, reader = world.process(on_mark_failure="continue"), world.process()
    read_in(reader, name_of)
    seen: list[Any] = []

    @event.listens_for(process.engine, "commit")
    def look_up_in_between(connection: object) -> None:
        world.store.failing.add("mark")

    def commit(send: Callable[[], None], proxied: Any) -> None:
        world.store.failing.clear()
        journal_of(process).tend()
        seen.append(read_in(reader, name_of))
        send()

    replace_commit(process, commit)
    rename(process, "b")
    assert seen == ["a"]
    assert read_in(reader, name_of) == "b"


def test_a_release_that_fails_leaves_the_mark_until_it_is_taken(world: World) -> None:
    process, reader = world.process(), world.process()
    read_in(reader, name_of)
    world.store.failing.add("release")
    rename(process, "b")
    assert read_in(reader, name_of) == "b"
    assert not is_hit(reader)
    world.store.failing.clear()
    read_in(process, name_of)
    assert world.store.stats().marks == 0
    read_in(reader, name_of)
    assert is_hit(reader)


def test_a_touch_that_fails_is_owed(world: World) -> None:
    process = world.process()
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        world.store.failing.add("release")
        session.rollback()
    assert process.cache is not None
    assert process.cache.stats()["releases_owed"] == 1


# -- commits in doubt ------------------------------------------------------------------------------------------------


def test_a_transaction_in_doubt_for_too_long_is_released_twice(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    process = world.process()
    assert process.cache is not None
    journal = process.cache._coherence.journals[0]
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        state = process.cache._attachments[0].state_of(session.connection())
        assert state is not None
        mark = journal.mark(state.pending.tag_set(state.bind.tag))
        journal.doubt(mark)
        session.rollback()
    assert world.store.stats().marks
    later = time.monotonic() + journals.MAX_DOUBT_S + 1
    monkeypatch.setattr("querycache.coherence.journal.time.monotonic", lambda: later)
    journal.tend()
    assert (world.store.stats().marks, journal.owed) == (0, 1)


# -- fork -----------------------------------------------------------------------------------------------------------


def test_a_forked_child_never_releases_for_its_parent(world: World) -> None:
    process = world.process()
    assert process.cache is not None
    journal = process.cache._coherence.journals[0]
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        state = process.cache._attachments[0].state_of(session.connection())
        assert state is not None
        mark = journal.mark(state.pending.tag_set(state.bind.tag))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                world.store.calls.clear()
                journal.release(mark)
                journal.tend()
                status = 0 if world.store.calls == [] and journal.held == journal.owed == 0 else 2
            finally:
                os._exit(status)
        _, waited = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(waited) == 0
        assert world.store.stats().marks
        journal.release(mark)
        session.rollback()
    assert world.store.stats().marks == 0


def test_a_process_forked_in_a_transaction_leaves_the_parents_commit_to_the_parent(world: World) -> None:
    process, reader = world.process(), world.process()
    read_in(reader, name_of)
    with process.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        assert read_in(reader, name_of) == "a"
        session.commit()
    assert read_in(reader, name_of) == "b"
