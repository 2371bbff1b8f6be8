"""Rows that were valid a moment ago are served while one read asks the database, where that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from coherence_world import Category, Process, Product, World, category_of, name_of, read_in, rename
from querycache import FromCache, Policy, QueryCache
from querycache.verifying import VerifyingReader
from stampede_support import FOR_EVER_S, Thread, filling

GRACE_S = 30.0
NAME = select(Product.name).where(Product.id == 1)


def graced(session: Session) -> str | None:
    """Read product 1's name, with a grace of the statement's own."""
    return session.scalars(NAME.options(FromCache(grace=GRACE_S))).one_or_none()


class Clock:
    """The clock of a process's graces, moved on by the test."""

    def __init__(self, process: Process) -> None:
        assert process.cache is not None
        self.graces = process.cache._reader.graces
        self.ahead = 0.0
        clock = self.graces.clock
        self.graces.clock = lambda: clock() + self.ahead


@pytest.fixture
def writer(sqlite: World) -> Process:
    return sqlite.process()


@pytest.fixture
def reader(sqlite: World) -> Process:
    """A process that has just been served the name of product 1, and whose waits would never end."""
    process = sqlite.process(max_wait=FOR_EVER_S)
    for _ in range(2):
        read_in(process, graced)
    return process


def served(process: Process, read: Callable[[Session], Any] = graced) -> Any:
    """What one is given who reads while another one asks the database."""
    return Thread(lambda: read_in(process, read)).ended()


@contextmanager
def refreshing(process: Process, read: Callable[..., Any] = graced) -> Iterator[Thread]:
    with filling(process, read) as (_, filler):
        yield filler


def stale(process: Process) -> int:
    return process.counts().get("stale", 0)


def test_while_one_asks_the_database_the_others_are_served_what_was(writer: Process, reader: Process) -> None:
    rename(writer, "b")
    with reader.counting() as selects:
        with refreshing(reader) as filler:
            assert [served(reader) for _ in range(3)] == ["a"] * 3
        assert filler.ended() == "b"
        assert read_in(reader, graced) == "b"
    assert len(selects) == 1
    assert stale(reader) == 3


def test_who_reads_alone_is_always_shown_what_the_database_says(writer: Process, reader: Process) -> None:
    rename(writer, "b")
    assert read_in(reader, graced) == "b"
    assert stale(reader) == 0


def test_without_a_grace_nobody_is_served_what_was(sqlite: World, writer: Process) -> None:
    reader = sqlite.process(max_wait=0)
    for _ in range(2):
        read_in(reader, name_of)
    rename(writer, "b")
    with refreshing(reader, name_of):
        assert served(reader, name_of) == "b"
    assert stale(reader) == 0


def test_a_statement_without_a_grace_is_not_served_what_one_with_a_grace_would_be(
    writer: Process, reader: Process
) -> None:
    rename(writer, "b")
    plain = NAME.options(FromCache())
    with refreshing(reader):
        assert reader.cache is not None
        reader.cache._reader.flights._max_wait_s = 0
        assert served(reader, lambda session: session.scalars(plain).one()) == "b"


def test_what_was_valid_longer_ago_than_the_grace_is_not_served(
    sqlite: World, writer: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = sqlite.process(max_wait=0)
    clock = Clock(reader)
    for _ in range(2):
        read_in(reader, graced)
    rename(writer, "b")
    with refreshing(reader):
        clock.ahead = GRACE_S - 1
        assert served(reader) == "a"
        clock.ahead = GRACE_S + 1
        assert served(reader) == "b"


def test_what_a_store_that_lags_answered_may_be_that_much_older(
    sqlite: World, writer: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    lag_s = 10.0
    reader = sqlite.process(max_wait=0)
    clock = Clock(reader)
    assert reader.cache is not None
    monkeypatch.setattr(reader.cache._coherence, "lag_s", lambda store: lag_s)
    for process in (writer, reader):
        read_in(process, graced)
    assert reader.counts().get("hit") == 1
    rename(writer, "b")
    with refreshing(reader):
        clock.ahead = GRACE_S - lag_s - 1
        assert served(reader) == "a"
        clock.ahead = GRACE_S - lag_s + 1
        assert served(reader) == "b"


def test_an_entry_that_expired_is_served_within_its_grace_while_one_refreshes_it(
    sqlite: World, reader: Process
) -> None:
    sqlite.store.advance(86400)
    with refreshing(reader):
        assert served(reader) == "a"
    assert stale(reader) == 1


def test_while_a_commit_is_under_way_one_asks_and_the_others_are_served(
    sqlite: World, writer: Process, reader: Process
) -> None:
    seen: list[Any] = []

    def read_beside_a_reader() -> None:
        with refreshing(reader):
            seen.append(served(reader))

    sqlite.store.after["mark"] = read_beside_a_reader
    with reader.counting() as selects:
        rename(writer, "b")
    assert seen == ["a"]
    assert len(selects) == 1
    assert stale(reader) == 1


# -- what a read never is, whatever the grace ------------------------------------------------------------------------


@contextmanager
def impatient(process: Process) -> Iterator[None]:
    """Somebody asks the database meanwhile, and nobody waits: who is not served what was asks, too."""
    assert process.cache is not None
    process.cache._reader.flights._max_wait_s = 0
    with refreshing(process):
        yield


def test_nobody_in_a_process_unsees_what_it_committed(reader: Process) -> None:
    rename(reader, "b")
    with impatient(reader):
        assert served(reader) == "b"
    assert stale(reader) == 0


def test_nobody_is_served_what_a_rollback_of_the_same_process_dropped(reader: Process) -> None:
    with reader.session() as session:
        session.get_one(Product, 1).name = "b"
        session.flush()
        session.rollback()
    with impatient(reader):
        assert served(reader) == "a"
    assert stale(reader) == 0


def test_after_an_invalidation_of_the_same_process_nothing_from_before_is_served(
    sqlite: World, reader: Process
) -> None:
    rename(sqlite.process(cached=False), "b")
    assert reader.cache is not None
    for drop in (lambda cache: cache.invalidate(Product), QueryCache.clear):
        drop(reader.cache)
        with impatient(reader):
            assert served(reader) == "b"
    assert stale(reader) == 0


def test_a_transaction_is_not_served_what_it_has_changed(writer: Process, reader: Process) -> None:
    with reader.session() as session:
        session.get_one(Product, 1).name = "mine"
        session.flush()
        assert graced(session) == "mine"
        session.rollback()


def test_a_transaction_that_wrote_is_shown_nothing_that_is_over(postgresql: World) -> None:
    writer, reader = postgresql.process(), postgresql.process(max_wait=FOR_EVER_S)
    category = select(Category.name).where(Category.id == 3).options(FromCache(grace=GRACE_S))

    def read(session: Session) -> str:
        return session.scalars(category).one()

    for _ in range(2):
        read_in(reader, read)
    with writer.session() as session:
        session.get_one(Category, 3).name = "new"
        session.commit()
    assert reader.cache is not None
    flights = reader.cache._reader.flights
    with reader.session() as session:
        session.get_one(Product, 1).stock = 5
        session.flush()
        # Whatever its key: somebody is about to ask the database.
        flights.begin = lambda key: False  # type: ignore[method-assign]
        assert read(session) == "new"
    assert stale(reader) == 0


def test_a_snapshot_is_never_served_what_is_over(postgresql: World) -> None:
    """All its reads are of one moment."""
    writer = postgresql.process()
    reader = postgresql.process(engine_isolation_level="REPEATABLE READ")
    for _ in range(2):
        read_in(reader, graced)
    rename(writer, "b")
    with impatient(reader):
        assert served(reader) == "b"
    assert stale(reader) == 0


def test_a_reader_at_read_committed_on_a_server_is_served_what_was(postgresql: World) -> None:
    writer, reader = postgresql.process(), postgresql.process(max_wait=FOR_EVER_S)
    for _ in range(2):
        read_in(reader, graced)
    rename(writer, "b")
    with refreshing(reader):
        assert served(reader) == "a"
    assert stale(reader) == 1


def test_nothing_is_served_from_before_another_reader_of_the_process_saw_newer(
    sqlite: World, writer: Process, reader: Process
) -> None:
    """While a commit is under way nothing is stored; what was read then has been seen all the same."""
    reader_saw: list[Any] = []
    sqlite.store.before["release"] = lambda: reader_saw.append(read_in(reader, graced))
    rename(writer, "b")
    assert reader_saw == ["b"]
    with impatient(reader):
        assert served(reader) == "b"
    assert stale(reader) == 0


def test_what_the_filler_got_is_what_is_served_after_the_next_change(writer: Process, reader: Process) -> None:
    rename(writer, "b")
    assert read_in(reader, graced) == "b"
    rename(writer, "c")
    with refreshing(reader):
        assert served(reader) == "b"


def test_after_a_change_of_the_catalog_nothing_from_before_is_served(sqlite: World, reader: Process) -> None:
    other = sqlite.process()
    with other.session() as session:
        session.execute(text("CREATE TABLE another (id INTEGER PRIMARY KEY)"))
        session.commit()
    with impatient(reader):
        assert served(reader) == "a"
    assert stale(reader) == 0


def test_where_each_hit_is_verified_nothing_that_is_over_is_served(sqlite: World, writer: Process) -> None:
    class VerifiedCache(QueryCache):
        _reader_type = VerifyingReader

    reader = sqlite.process(cached=False)
    reader.cache = VerifiedCache(sqlite.store, models=[Product, Category], max_wait=0)
    reader.cache.attach(reader.engine)
    for _ in range(2):
        read_in(reader, graced)
    rename(writer, "b")
    with refreshing(reader):
        assert served(reader) == "b"
    assert stale(reader) == 0


# -- who has a grace -------------------------------------------------------------------------------------------------


def grace_of(process: Process, statement: Any) -> float:
    assert process.cache is not None
    return process.cache.explain(statement).grace


def test_a_statement_has_the_least_grace_of_its_tables(sqlite: World) -> None:
    with QueryCache(sqlite.store, models={Product: Policy(grace=5), Category: Policy(grace=2)}) as cache:
        process = sqlite.process(cached=False)
        cache.attach(process.engine)
        process.cache = cache
        products = select(func.count(Product.id))
        assert grace_of(process, products) == 5
        assert grace_of(process, products.join(Category)) == 2
        assert grace_of(process, products.options(FromCache(grace=0))) == 0
        assert grace_of(process, products.options(FromCache(grace=9))) == 9
        assert grace_of(process, products.options(FromCache())) == 5
        assert grace_of(process, select(Product).where(Product.id == 1)) == 0
        process.cache = None


def test_a_statement_of_which_a_table_has_no_policy_has_no_grace(sqlite: World) -> None:
    with QueryCache(sqlite.store, models={Product: Policy(grace=5)}) as cache:
        process = sqlite.process(cached=False)
        cache.attach(process.engine)
        process.cache = cache
        assert grace_of(process, select(func.count(Product.id)).join(Category).options(FromCache())) == 0
        process.cache = None


def test_the_guarantee_names_each_model_and_the_longest_grace_of_statements(sqlite: World) -> None:
    with QueryCache(sqlite.store, models={Product: Policy(grace=5), Category: Policy()}) as cache:
        process = sqlite.process(cached=False)
        cache.attach(process.engine)
        assert "Product: 5 s" in cache.guarantee
        assert "Category" not in cache.guarantee
        read_in(process, graced)
        assert "up to 30 s until now" in cache.guarantee
        assert "up to 30 s older" in str(cache.explain(NAME.options(FromCache(grace=30))))
    with QueryCache(sqlite.store, models=[Product]) as cache:
        assert "grace" not in cache.guarantee


def test_a_category_is_read_without_a_grace_all_the_same(sqlite: World) -> None:
    assert read_in(sqlite.process(), category_of) == "c3"
