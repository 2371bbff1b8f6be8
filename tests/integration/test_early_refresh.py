"""One read refreshes a hot entry before it expires, by all the rules of a miss; the others are served meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session, lazyload

from coherence_world import Process, Product, World, category_of, is_hit, name_of, pin, read_in, rename
from querycache import FromCache
from querycache import session as reading_sessions
from querycache.refreshing import EarlyRefresh

TTL_S = 100.0
NEARLY_OVER_S = 95.0


class Lots:
    """Whether the next reads draw the lot of being early, as a test wishes."""

    def __init__(self, process: Process, *, drawn: bool = False) -> None:
        self.drawn = drawn
        assert process.cache is not None
        reader = process.cache._reader
        reader.refreshing = EarlyRefresh(1.0, lambda: 1 - 1e-16 if self.drawn else 0.0)
        note = reader.refreshing.note
        # However fast this machine is: each statement takes ten seconds.
        reader.refreshing.note = lambda plan, took_s: note(plan, 10.0)  # type: ignore[method-assign]

    @contextmanager
    def drawing(self) -> Iterator[None]:
        self.drawn = True
        yield
        self.drawn = False


@pytest.fixture
def process(sqlite: World) -> Process:
    """A process that has just stored the name of product 1."""
    return sqlite.process(ttl=TTL_S)


@pytest.fixture
def lots(process: Process) -> Lots:
    lots = Lots(process)
    read_in(process, name_of)
    return lots


def misses(process: Process) -> int:
    assert process.cache is not None
    return process.cache.events.reasons().get("miss: its entry was about to expire", 0)


def test_the_read_that_is_chosen_refreshes_for_all(sqlite: World, process: Process, lots: Lots) -> None:
    sqlite.store.advance(NEARLY_OVER_S)
    with lots.drawing():
        assert not is_hit(process)
    sqlite.store.advance(NEARLY_OVER_S)
    assert is_hit(process)
    assert misses(process) == 1


def test_a_read_that_is_not_chosen_is_served(sqlite: World, process: Process, lots: Lots) -> None:
    sqlite.store.advance(NEARLY_OVER_S)
    assert is_hit(process)


@pytest.mark.parametrize("drawn", [True, False])
def test_a_row_that_is_got_by_its_key_is_refreshed_like_others(
    sqlite: World, process: Process, lots: Lots, drawn: bool
) -> None:
    def got(session: Session) -> str:
        return session.get_one(Product, 1).name

    read_in(process, got)
    assert is_hit(process, got)
    sqlite.store.advance(NEARLY_OVER_S)
    lots.drawn = drawn
    assert is_hit(process, got) is not drawn
    assert misses(process) == drawn


def test_what_a_get_that_came_to_nothing_had_looked_up_answers_no_later_read(
    sqlite: World, process: Process, lots: Lots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: object, **options: object) -> None:
        raise RuntimeError("the ordinary way is cut off")

    for _ in range(3):  # the way past the statement is learnt from a hit
        read_in(process, lambda session: session.get_one(Product, 1))
    sqlite.store.advance(NEARLY_OVER_S)
    writer = sqlite.process()
    with process.session() as session:
        with monkeypatch.context() as patch:
            patch.setattr(reading_sessions, "_ordinary_get", never)
            with pytest.raises(RuntimeError):
                session.get(Product, 1)
        rename(writer, "b")
        found = session.get(Product, 1, options=[lazyload("*")])
        assert found is not None
        assert found.name == "b"


def test_no_read_is_chosen_in_the_first_half_of_a_life(sqlite: World, process: Process, lots: Lots) -> None:
    sqlite.store.advance(0.45 * TTL_S)
    with lots.drawing():
        assert is_hit(process)


def test_while_one_refreshes_the_others_are_served(sqlite: World, process: Process, lots: Lots) -> None:
    """Though they draw the lot as well: one a key and process."""
    sqlite.store.advance(NEARLY_OVER_S)
    served: list[bool] = []
    sqlite.store.before["fill"] = lambda: served.append(is_hit(process))
    with lots.drawing():
        assert not is_hit(process)
    assert served == [True]


def test_the_lease_of_a_refresh_is_older_than_its_query(sqlite: World, process: Process, lots: Lots) -> None:
    """What a commit between query and fill changed is stillborn, as after any miss."""
    writer = sqlite.process()
    sqlite.store.advance(NEARLY_OVER_S)
    sqlite.store.before["fill"] = lambda: rename(writer, "b")
    with lots.drawing():
        assert read_in(process, name_of) == "a"
    assert read_in(process, name_of) == "b"


def test_a_refresh_shows_what_the_database_says(sqlite: World, process: Process, lots: Lots) -> None:
    """The entry is current by all that is known; what an engine that nobody attached wrote shows at last."""
    rename(sqlite.process(cached=False), "b")
    sqlite.store.advance(NEARLY_OVER_S)
    with lots.drawing():
        assert read_in(process, name_of) == "b"
    assert read_in(process, name_of) == "b"


def test_a_transaction_that_wrote_refreshes_nothing(sqlite: World, process: Process, lots: Lots) -> None:
    """It may store nothing: it would only be another statement."""
    read_in(process, category_of)
    sqlite.store.advance(NEARLY_OVER_S)
    with process.session() as session:
        session.get_one(Product, 2).name = "y"
        session.flush()
        with process.counting() as selects, lots.drawing():
            assert category_of(session) == "c3"
    assert not selects


def test_a_read_of_uncommitted_rows_refreshes_nothing(mariadb: World) -> None:
    ordinary = mariadb.process(ttl=TTL_S)
    dirty = mariadb.process(ttl=TTL_S, engine_isolation_level="READ UNCOMMITTED")
    lots = Lots(dirty)
    read_in(dirty, name_of)
    read_in(ordinary, name_of)
    mariadb.store.advance(NEARLY_OVER_S)
    with lots.drawing():
        assert is_hit(dirty)


def test_a_snapshot_refreshes_what_it_may_store(postgresql: World) -> None:
    process = postgresql.process(ttl=TTL_S, engine_isolation_level="REPEATABLE READ")
    lots = Lots(process)
    read_in(process, name_of)
    postgresql.store.advance(NEARLY_OVER_S)
    with process.session() as session:
        pin(session)
        with lots.drawing():
            assert name_of(session) == "a"
    assert misses(process) == 1
    postgresql.store.advance(NEARLY_OVER_S)
    assert is_hit(process)


def test_a_list_kept_by_keys_is_refreshed_whole(sqlite: World, process: Process, lots: Lots) -> None:
    statement = select(Product).order_by(Product.id).options(FromCache(shape="keys"))

    def read(session: Session) -> list[str]:
        return [product.name for product in session.scalars(statement)]

    read_in(process, read)
    sqlite.store.advance(NEARLY_OVER_S)
    with lots.drawing():
        assert read_in(process, read) == ["a", "z"]
    sqlite.store.advance(NEARLY_OVER_S)
    assert is_hit(process, read)


@pytest.mark.parametrize(("early_refresh", "refreshed"), [(0, 0), (1e12, 1)])
def test_the_setting_decides_how_early(sqlite: World, early_refresh: float, refreshed: int) -> None:
    process = sqlite.process(ttl=TTL_S, early_refresh=early_refresh)
    read_in(process, name_of)
    sqlite.store.advance(NEARLY_OVER_S)
    read_in(process, name_of)
    assert misses(process) == refreshed
