"""Does a statement that locked rows save the question for their old values, and is every list still heard of?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Connection, String, cast, event, func, insert, select, text, update
from sqlalchemy.orm import Session, aliased, load_only

from image_support import Book, Leaf, Library, Shelf, meet
from querycache import NoCache

ID, NUMBER, STOCK = Leaf.id, Leaf.number, Leaf.stock
LOCKED = select(ID, NUMBER, STOCK).where(ID == 1).with_for_update()


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def library(url: str) -> Iterator[Library]:
    library = Library(url, old_images=True)
    yield library
    library.close()


@pytest.fixture
def sent(library: Library) -> list[str]:
    """What was sent to the database, the cache's own questions among it."""
    sent: list[str] = []
    event.listen(library.engine, "before_cursor_execute", lambda *call: sent.append(call[2]))
    return sent


def leaves_of(library: Library, number: int) -> list[int]:
    with Session(library.engine) as session:
        return list(session.scalars(select(Leaf.stock).where(Leaf.number == number).order_by(Leaf.id)))


def is_hit(library: Library, number: int) -> bool:
    before = library.cache.events.counts().get("hit", 0)
    leaves_of(library, number)
    return library.cache.events.counts().get("hit", 0) > before


def questions(sent: list[str]) -> int:
    """Count the cache's own: they say in which order rows are locked."""
    return sum("FOR " in one and "ORDER BY" in one for one in sent)


def test_a_row_that_was_read_for_update_is_not_asked_about(library: Library, sent: list[str]) -> None:
    assert (leaves_of(library, 1), leaves_of(library, 2)) == ([1], [1])
    with Session(library.engine) as session:
        session.get_one(Leaf, 1, with_for_update=True).stock = 5
        session.commit()
    assert questions(sent) == 0
    assert is_hit(library, 2)
    assert leaves_of(library, 1) == [5]


def test_a_row_that_was_read_for_update_and_is_deleted_is_not_asked_about(library: Library, sent: list[str]) -> None:
    assert (leaves_of(library, 1), leaves_of(library, 2)) == ([1], [1])
    with Session(library.engine) as session:
        session.delete(session.get_one(Leaf, 1, with_for_update={"key_share": True}))
        session.commit()
    assert questions(sent) == 0
    assert is_hit(library, 2)
    assert leaves_of(library, 1) == []


def test_what_counts_is_what_the_locking_statement_told(library: Library, sent: list[str]) -> None:
    """The session goes on with what it loaded before: another transaction has moved the row since."""
    with Session(library.engine) as session:
        leaf = session.get_one(Leaf, 1)
        with library.other.begin() as other:
            other.execute(update(Leaf).where(ID == 1).values(number=2))
        library.cache.clear()
        assert leaves_of(library, 2) == [1, 1]
        session.execute(LOCKED)
        leaf.stock = 5
        session.commit()
    assert questions(sent) == 0
    assert leaves_of(library, 2) == [5, 1]


def test_a_row_that_another_moves_while_one_waits_for_its_lock_is_known_as_it_was_moved(library: Library) -> None:
    def change(session: Session) -> None:
        leaf = session.get_one(Leaf, 1, with_for_update=True)
        assert leaves_of(library, 2) == [1, 1]
        leaf.stock = 5

    def move(other: Connection) -> None:
        other.execute(update(Leaf).where(ID == 1).values(number=2))

    met = meet(library, change, hold=move, go_on=lambda other: None)
    assert (met.waited, met.errors) == (True, ())
    assert leaves_of(library, 2) == [5, 1]


def test_nobody_moves_a_row_between_the_lock_and_the_change(library: Library) -> None:
    assert (leaves_of(library, 1), leaves_of(library, 2)) == ([1], [1])
    with Session(library.engine) as session:
        session.execute(LOCKED)
        assert set(library.locks("leaf", [1])) == {1}
        session.get_one(Leaf, 1).number = 2
        session.commit()
    assert (leaves_of(library, 1), leaves_of(library, 2)) == ([], [1, 1])


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_row_whose_lock_an_inner_rollback_gave_back_is_asked_about(library: Library, sent: list[str]) -> None:
    # MariaDB keeps the locks of a savepoint that was rolled back.
    with Session(library.engine) as session:
        inner = session.begin_nested()
        session.execute(LOCKED)
        inner.rollback()
        with library.other.begin() as other:
            other.execute(update(Leaf).where(ID == 1).values(number=2))
        library.cache.clear()
        assert leaves_of(library, 2) == [1, 1]
        session.execute(update(Leaf).where(ID == 1).values(stock=5))
        session.commit()
    assert questions(sent) == 1
    assert leaves_of(library, 2) == [5, 1]


def test_what_the_transaction_changed_in_between_is_not_forgotten(library: Library, sent: list[str]) -> None:
    assert (leaves_of(library, 1), leaves_of(library, 2), leaves_of(library, 3)) == ([1], [1], [1])
    with Session(library.engine) as session:
        session.execute(LOCKED)
        session.execute(text("UPDATE leaf SET number = 2 WHERE id = 1"))
        session.execute(update(Leaf).where(ID == 1).values(number=3))
        session.commit()
    assert questions(sent) == 1
    assert (leaves_of(library, 1), leaves_of(library, 2), leaves_of(library, 3)) == ([], [1], [1, 1])


def test_in_autocommit_a_lock_is_over_with_its_statement(url: str) -> None:
    library = Library(url, old_images=True, isolation="AUTOCOMMIT")
    try:
        with Session(library.engine) as session:
            session.execute(LOCKED)
            state = library.cache._attachments[0].state_of(session.connection())
            assert state is not None
            assert state.images == {}
    finally:
        library.close()


@dataclass(frozen=True)
class Telling:
    """A statement, and whether what it tells of the first leaf counts."""

    statement: Callable[[], Any]
    counts: bool
    of: type[Any] = Leaf


TELLING = {
    "entity": Telling(lambda: select(Leaf).where(ID == 1).with_for_update(), True),
    "columns in another order": Telling(lambda: select(STOCK, ID, NUMBER).where(ID == 1).with_for_update(), True),
    "for no key update": Telling(lambda: LOCKED.with_for_update(key_share=True), True),
    "skip locked": Telling(lambda: LOCKED.with_for_update(skip_locked=True), True),
    "by another column": Telling(lambda: select(Leaf).where(NUMBER == 1).with_for_update(), True),
    "not locked": Telling(lambda: select(ID, NUMBER, STOCK).where(ID == 1).options(NoCache()), False),
    "for share": Telling(lambda: LOCKED.with_for_update(read=True), False),
    "a column too few": Telling(lambda: select(ID, NUMBER).where(ID == 1).with_for_update(), False),
    "a part of the entity": Telling(
        lambda: select(Leaf).options(load_only(Leaf.number)).where(ID == 1).with_for_update(), False
    ),
    "a negative": Telling(lambda: select(ID, -NUMBER, STOCK).where(ID == 1).with_for_update(), False),
    "a function of the same name": Telling(
        lambda: select(ID, func.abs(NUMBER).label("number"), STOCK).where(ID == 1).with_for_update(), False
    ),
    "a cast": Telling(lambda: select(ID, cast(NUMBER, String(9)), STOCK).where(ID == 1).with_for_update(), False),
    "an alias": Telling(lambda: _of_alias().where(text("leaf_1.id = 1")).with_for_update(), False),
    "a join": Telling(
        lambda: select(Book).join(Shelf, Shelf.id == Book.shelf_id).where(Book.id == 1).with_for_update(), False, Book
    ),
    "streamed": Telling(lambda: LOCKED.execution_options(yield_per=10), False),
}


def _of_alias() -> Any:
    leaf = aliased(Leaf)
    return select(leaf)


@pytest.mark.parametrize("telling", TELLING.values(), ids=TELLING)
def test_only_what_stands_in_a_column_of_its_own_of_a_locked_table_counts(library: Library, telling: Telling) -> None:
    with Session(library.engine) as session:
        rows = session.execute(telling.statement()).all()
        assert len(rows) == 1
        state = library.cache._attachments[0].state_of(session.connection())
        assert state is not None
        images = list(state.images.values())
    assert images == ([{"number": 1, "stock": 1}] if telling.counts else [])


def test_on_mariadb_a_group_is_no_row(mariadb_url: str) -> None:
    library = Library(mariadb_url, old_images=True)
    try:
        with Session(library.engine) as session:
            session.execute(select(ID, NUMBER, STOCK).group_by(ID, NUMBER, STOCK).with_for_update()).all()
            state = library.cache._attachments[0].state_of(session.connection())
            assert state is not None
            assert state.images == {}
    finally:
        library.close()


def test_of_very_many_rows_nothing_is_kept(library: Library) -> None:
    with library.other.begin() as other:
        other.execute(insert(Leaf), [{"id": n, "number": n, "stock": 1} for n in range(10, 120)])
    with Session(library.engine) as session:
        assert len(session.execute(select(Leaf).with_for_update()).all()) == 119
        state = library.cache._attachments[0].state_of(session.connection())
        assert state is not None
        assert state.images == {}


def test_without_old_images_nothing_is_kept(url: str) -> None:
    library = Library(url, old_images=False)
    try:
        with Session(library.engine) as session:
            assert len(session.execute(LOCKED).all()) == 1
            state = library.cache._attachments[0].state_of(session.connection())
            assert state is not None
            assert state.images == {}
    finally:
        library.close()
