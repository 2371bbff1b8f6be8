"""``Model.cache``: rows by primary key and lists of rows, each row cached on its own, and never a torn list."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, delete, event, select, text, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    mapped_column,
    relationship,
    with_loader_criteria,
)

from querycache import CacheableMixin, FromCache, NotAttachedError, Policy, QueryCache, Region
from querycache._types import TagSet


class Base(DeclarativeBase):
    pass


class Shelf(CacheableMixin, Base):
    __tablename__ = "mc_shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    room: Mapped[str] = mapped_column(String(20))
    books: Mapped[list[Book]] = relationship(lazy="joined", order_by="Book.id", viewonly=True)


class Book(Base, CacheableMixin):
    __tablename__ = "mc_book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    shelf_id: Mapped[int] = mapped_column(ForeignKey("mc_shelf.id"))
    loans: Mapped[int] = mapped_column(default=0)
    notes: Mapped[list[Note]] = relationship(lazy="subquery", order_by="Note.id", viewonly=True)


class Note(CacheableMixin, Base):
    __tablename__ = "mc_note"
    cache_label = "short"

    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("mc_book.id"))
    body: Mapped[str] = mapped_column(String(50))


class Copy(CacheableMixin, Base):
    __tablename__ = "mc_copy"

    shop: Mapped[str] = mapped_column(String(10), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    state: Mapped[str] = mapped_column(String(10))


class Ticket(CacheableMixin, Base):
    __tablename__ = "mc_ticket"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    seat: Mapped[int]


class Person(CacheableMixin, Base):
    __tablename__ = "mc_person"
    __mapper_args__: dict[str, Any] = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(20))


class Writer(Person):
    __tablename__ = "mc_writer"
    __mapper_args__: dict[str, Any] = {"polymorphic_identity": "writer"}  # noqa: RUF012

    id: Mapped[int] = mapped_column(ForeignKey("mc_person.id"), primary_key=True)
    genre: Mapped[str] = mapped_column(String(20))


class Draft(CacheableMixin, Base):
    __tablename__ = "mc_draft"
    cache_policy = Policy(operations=frozenset({"get"}))

    id: Mapped[int] = mapped_column(primary_key=True)


class Library:
    """A database with the cache in front of it, and an engine that the cache does not know of."""

    def __init__(self, engine: Engine, outside: Engine) -> None:
        self.engine = engine
        self.outside = outside
        self.cache = QueryCache("memory://", regions={"short": Region("memory://", ttl=60)})
        self.cache.attach(engine)
        self.selects: list[tuple[str, Any]] = []
        event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, connection: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            self.selects.append((statement, parameters))

    def asks(self, read: Callable[[Session], Any]) -> int:
        """Return how many SELECTs a read costs in a Session of its own."""
        self.selects.clear()
        self.read(read)
        return len(self.selects)

    def read(self, read: Callable[[Session], Any]) -> Any:
        with Session(self.engine) as session:
            return read(session)

    def commit(self, statement: Any) -> None:
        with Session(self.engine) as session:
            session.execute(statement)
            session.commit()

    def change_outside(self, sql: str) -> None:
        with self.outside.begin() as connection:
            connection.execute(text(sql))

    @contextmanager
    def after_select(self, number: int, act: Callable[[], None]) -> Iterator[None]:
        """Act once, right after the SELECT of that number is answered."""
        seen: list[str] = []

        def listen(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
            if statement.lstrip().upper().startswith("SELECT"):
                seen.append(statement)
                if len(seen) == number:
                    act()

        event.listen(self.engine, "after_cursor_execute", listen)
        yield
        event.remove(self.engine, "after_cursor_execute", listen)
        assert len(seen) >= number


@pytest.fixture(params=["sqlite", "postgresql"])
def library(request: pytest.FixtureRequest, engine_of: Any) -> Iterator[Library]:
    url: str = request.getfixturevalue(f"{request.param}_url")
    outside = engine_of(url)
    Base.metadata.create_all(outside)
    with Session(outside) as session:
        session.add_all(Shelf(id=number, room="attic" if number < 2 else "hall") for number in range(3))
        session.add_all(
            [Person(id=1, name="Ada"), Writer(id=2, name="Ben", genre="crime"), Writer(id=3, name="Cy", genre="sea")]
        )
        session.add_all(Ticket(id=uuid.UUID(int=number), seat=number % 2) for number in range(4))
        session.add_all(Copy(shop=shop, number=number, state="new") for shop in ("a", "b") for number in (1, 2))
        session.flush()
        session.add_all(
            Book(id=number, title=f"t{9 - number}", shelf_id=number % 2, loans=number) for number in range(1, 7)
        )
        session.flush()
        session.add_all(Note(id=number, book_id=number, body="n") for number in range(1, 7))
        session.commit()
    library = Library(engine_of(url), outside)
    yield library
    library.cache.close()


def ids(books: Any) -> list[int]:
    return [book.id for book in books]


def state_of(session: Session, key: tuple[str, int]) -> str | None:
    copy = Copy.cache.get(key, session=session)
    return None if copy is None else copy.state


# -- get ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "key"),
    [
        (Shelf, 0),
        (Book, 1),
        (Copy, ("a", 1)),
        (Copy, {"number": 2, "shop": "b"}),
        (Ticket, uuid.UUID(int=0)),
        (Writer, 2),
        (Person, 3),
        (Book, 99),
    ],
)
def test_get_asks_the_database_once_and_gives_what_the_session_gives(library: Library, model: Any, key: Any) -> None:
    def got(session: Session) -> Any:
        return model.cache.get(key, session=session)

    with Session(library.outside) as session:
        truth = session.get(model, key)
    library.read(got)

    again = library.read(got)
    assert (type(again), again and columns_of(again)) == (type(truth), truth and columns_of(truth))
    assert library.asks(lambda session: (got(session), None)[1]) == 0


def columns_of(instance: Any) -> dict[str, Any]:
    return {key: value for key, value in vars(instance).items() if key not in ("_sa_instance_state", "books", "notes")}


def test_a_row_that_is_absent_is_seen_once_it_is_inserted(library: Library) -> None:
    assert library.read(lambda session: Copy.cache.get(("c", 1), session=session)) is None
    with Session(library.engine) as session:
        session.add(Copy(shop="c", number=1, state="new"))
        session.commit()

    assert library.read(lambda session: state_of(session, ("c", 1))) == "new"


def test_get_gives_the_instance_that_the_session_holds(library: Library) -> None:
    with Session(library.engine) as session:
        book = session.get(Book, 1)

        assert Book.cache.get(1, session=session) is book


def test_get_sees_the_sessions_own_writes_and_nobody_else_does(library: Library) -> None:
    library.read(lambda session: Copy.cache.get(("a", 1), session=session))
    with Session(library.engine) as session:
        session.execute(update(Copy).values(state="sold"))

        assert state_of(session, ("a", 1)) == "sold"
        session.rollback()
    assert library.read(lambda session: state_of(session, ("a", 1))) == "new"


def test_get_finds_what_is_pending_in_the_session(library: Library) -> None:
    with Session(library.engine) as session:
        session.add(Copy(shop="z", number=1, state="new"))

        assert Copy.cache.get(("z", 1), session=session) is not None


def test_a_key_of_the_wrong_width_is_the_sessions_error(library: Library) -> None:
    with Session(library.engine) as session, pytest.raises(Exception, match="Incorrect number of values"):
        Copy.cache.get("a", session=session)


# -- filter ------------------------------------------------------------------------------------------------------------

LISTS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [1, 2, 3, 4, 5, 6]),
    ({"order_by": "desc"}, [6, 5, 4, 3, 2, 1]),
    ({"shelf_id": 1}, [1, 3, 5]),
    ({"shelf_id": 1, "loans": 3}, [3]),
    ({"order_by": "title"}, [6, 5, 4, 3, 2, 1]),
    ({"order_by": Book.title.desc(), "offset": 1, "limit": 2}, [2, 3]),
    ({"order_by": ["shelf_id", Book.id.desc()]}, [6, 4, 2, 5, 3, 1]),
    ({"shelf_id": 0, "order_by": "desc", "limit": 2, "offset": 1}, [4, 2]),
    ({"offset": 4}, [5, 6]),
    ({"shelf_id": 77}, []),
]


@pytest.mark.parametrize(("asked", "expected"), LISTS)
def test_a_list_is_in_order_and_costs_nothing_the_second_time(
    library: Library, asked: dict[str, Any], expected: list[int]
) -> None:
    def listed(session: Session) -> list[int]:
        return ids(Book.cache.filter(session=session, **asked))

    assert library.read(listed) == expected
    assert library.read(listed) == expected
    assert library.asks(listed) == 0


def test_an_attribute_that_the_model_lacks_is_named(library: Library) -> None:
    with Session(library.engine) as session:
        with pytest.raises(TypeError, match="Book does not have an attribute color"):
            Book.cache.filter(session=session, color="red")
        with pytest.raises(TypeError, match="Book does not have an attribute up"):
            Book.cache.filter(session=session, order_by="up")


def test_instances_of_a_list_belong_to_the_session(library: Library) -> None:
    library.read(lambda session: Copy.cache.filter(session=session))
    with Session(library.engine) as session:
        copies = Copy.cache.filter(session=session)
        copies[0].state = "sold"
        session.commit()

        assert all(copy in session for copy in copies)
    assert library.read(lambda session: state_of(session, ("a", 1))) == "sold"


def test_rows_that_are_missing_are_read_in_one_query(library: Library) -> None:
    def listed(session: Session) -> list[int]:
        return [ticket.seat for ticket in Ticket.cache.filter(session=session)]

    library.read(listed)
    with Session(library.engine) as session:
        for number in (1, 2):
            session.get_one(Ticket, uuid.UUID(int=number)).seat = 7
        session.commit()

    assert library.asks(listed) == 1
    assert len(library.selects[0][1]) == 2
    assert library.read(listed) == [0, 7, 7, 1]


def test_rows_of_composite_keys_are_read_without_their_neighbours(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return [(copy.shop, copy.number, copy.state) for copy in Copy.cache.filter(session=session)]

    library.read(listed)
    with Session(library.engine) as session:
        for key in (("a", 2), ("b", 1)):
            session.get_one(Copy, key).state = "sold"
        session.commit()

    assert library.asks(listed) == 1
    assert library.read(listed) == [("a", 1, "new"), ("a", 2, "sold"), ("b", 1, "sold"), ("b", 2, "new")]


def test_a_row_read_in_a_list_is_there_for_get(library: Library) -> None:
    library.read(lambda session: Copy.cache.filter(session=session))

    assert library.asks(lambda session: Copy.cache.get(("b", 2), session=session)) == 0


def test_a_changed_row_costs_that_row(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return [(ticket.id.int, ticket.seat) for ticket in Ticket.cache.filter(session=session)]

    library.read(listed)
    with Session(library.engine) as session:
        session.get_one(Ticket, uuid.UUID(int=2)).seat = 9
        session.commit()

    assert library.asks(listed) == 1
    assert len(library.selects[0][1]) == 1
    assert library.read(listed) == [(0, 0), (1, 1), (2, 9), (3, 1)]


def test_a_change_of_a_row_that_is_not_in_the_list_costs_nothing(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return Copy.cache.filter(session=session, shop="a")

    library.read(listed)
    with Session(library.engine) as session:
        session.get_one(Copy, ("b", 1)).state = "sold"
        session.commit()

    assert library.asks(listed) == 0


def test_subclasses_are_listed_by_their_own_attributes(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return [(type(one), one.name, one.genre) for one in Writer.cache.filter(session=session, genre="sea")]

    assert library.read(listed) == [(Writer, "Cy", "sea")]
    assert library.asks(listed) == 0
    with Session(library.engine) as session:
        session.get_one(Person, 3).name = "Cyd"
        session.commit()
    assert library.read(listed) == [(Writer, "Cyd", "sea")]


def test_rows_with_eager_collections_follow_the_changes_of_these(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return [(shelf.id, ids(shelf.books)) for shelf in Shelf.cache.filter(session=session, room="attic")]

    assert library.read(listed) == [(0, [2, 4, 6]), (1, [1, 3, 5])]
    assert library.asks(listed) == 0
    library.commit(delete(Note).where(Note.book_id == 3))
    library.commit(delete(Book).where(Book.id == 3))
    assert library.read(listed) == [(0, [2, 4, 6]), (1, [1, 5])]


def test_what_a_list_loads_beside_its_rows_is_loaded(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return [ids(book.notes) for book in Book.cache.filter(session=session, shelf_id=0)]

    assert library.read(listed) == [[2], [4], [6]]
    assert library.read(listed) == [[2], [4], [6]]
    assert library.asks(listed) == 0


# -- never torn --------------------------------------------------------------------------------------------------------


def test_a_row_that_leaves_the_list_while_another_is_read_is_not_in_it(library: Library) -> None:
    def listed(session: Session) -> list[int]:
        return ids(Book.cache.filter(session=session, shelf_id=1))

    assert library.read(listed) == [1, 3, 5]
    library.commit(update(Book).where(Book.id == 3).values(loans=9))

    def leave() -> None:
        library.commit(update(Book).where(Book.id == 1).values(shelf_id=0))

    with Session(library.engine) as session, library.after_select(1, leave):
        assert listed(session) == [3, 5]


def test_a_page_is_filled_up_when_one_of_its_rows_is_gone(library: Library) -> None:
    def page(session: Session) -> list[int]:
        return [ticket.id.int for ticket in Ticket.cache.filter(session=session, limit=2)]

    assert library.read(page) == [0, 1]
    library.change_outside("DELETE FROM mc_ticket WHERE seat = 1")
    library.read(lambda session: Ticket.cache.flush(Ticket.cache._cache_key(uuid.UUID(int=1)), session=session))

    assert library.read(page) == [0, 2]


def test_a_row_that_get_found_absent_is_in_no_list(library: Library) -> None:
    def listed(session: Session) -> list[int]:
        return [ticket.id.int for ticket in Ticket.cache.filter(session=session)]

    assert library.read(listed) == [0, 1, 2, 3]
    library.change_outside("DELETE FROM mc_ticket WHERE seat = 1")
    key = uuid.UUID(int=1)
    library.read(lambda session: Ticket.cache.flush(Ticket.cache._cache_key(key), session=session))
    assert library.read(lambda session: Ticket.cache.get(key, session=session)) is None

    assert library.read(listed) == [0, 2]


def test_rows_of_a_newer_list_are_not_taken_for_older_keys(library: Library) -> None:
    def notes(session: Session) -> dict[int, list[int]]:
        return {book.id: ids(book.notes) for book in Book.cache.filter(session=session, shelf_id=0)}

    def arrive() -> None:
        library.commit(update(Book).where(Book.id == 1).values(shelf_id=0))
        library.read(notes)

    library.read(notes)
    library.commit(update(Book).where(Book.id == 2).values(loans=9))
    with Session(library.engine) as session, library.after_select(1, arrive):
        assert notes(session) == {1: [1], 2: [2], 4: [4], 6: [6]}


def test_a_row_that_is_gone_while_another_is_read_is_not_in_the_list(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return [(copy.shop, copy.number) for copy in Copy.cache.filter(session=session)]

    library.read(listed)
    library.commit(update(Copy).where(Copy.shop == "a", Copy.number == 1).values(state="sold"))

    def remove() -> None:
        library.commit(delete(Copy).where(Copy.shop == "b"))

    with Session(library.engine) as session, library.after_select(1, remove):
        assert listed(session) == [("a", 1), ("a", 2)]


def test_a_torn_list_is_not_kept(library: Library) -> None:
    def leave() -> None:
        library.commit(update(Copy).where(Copy.shop == "a").values(state="sold"))

    with Session(library.engine) as session, library.after_select(1, leave):
        Copy.cache.filter(session=session, state="new")

    def listed(session: Session) -> list[str]:
        return [copy.shop for copy in Copy.cache.filter(session=session, state="new")]

    assert library.read(listed) == ["b", "b"]
    assert library.read(listed) == ["b", "b"]


def test_a_list_under_a_mark_is_read_whole_and_not_kept(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return Copy.cache.filter(session=session)

    library.read(listed)
    coherence = library.cache._coherence
    marks = coherence.mark(TagSet((library.cache._binds.known()[0].tag,)))

    for _ in range(2):
        assert library.asks(listed) == 1
    coherence.release(marks)


# -- transactions ------------------------------------------------------------------------------------------------------


def test_a_transaction_that_changed_the_table_reads_the_list_whole(library: Library) -> None:
    library.read(lambda session: Copy.cache.filter(session=session))
    with Session(library.engine) as session:
        session.execute(update(Copy).where(Copy.shop == "b").values(state="sold"))
        library.selects.clear()

        assert [copy.state for copy in Copy.cache.filter(session=session)] == ["new", "new", "sold", "sold"]
        assert len(library.selects) == 1
        session.rollback()
    assert {copy.state for copy in library.read(lambda session: Copy.cache.filter(session=session))} == {"new"}


def test_a_transaction_that_changed_another_table_keeps_nothing(library: Library) -> None:
    library.read(lambda session: session.execute(select(Ticket.seat)))
    before = library.cache.stats()["stores"][0]["entries"]
    with Session(library.engine) as session:
        session.execute(update(Copy).values(state="sold"))

        assert len(Ticket.cache.filter(session=session)) == 4
        assert library.cache.stats()["stores"][0]["entries"] == before


@pytest.mark.parametrize("library", ["postgresql"], indirect=True)
@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_snapshot_shows_the_same_list_until_it_ends(library: Library, level: str) -> None:
    def states(session: Session) -> list[str]:
        session.expunge_all()
        return [copy.state for copy in Copy.cache.filter(session=session)]

    library.read(states)
    with Session(library.engine.execution_options(isolation_level=level)) as session:
        session.execute(select(Ticket))
        before = states(session)
        library.commit(update(Copy).values(state="sold"))
        library.read(states)

        assert states(session) == before == ["new"] * 4
    assert library.read(states) == ["sold"] * 4


def test_what_a_listener_adds_to_statements_keeps_rows_apart(library: Library) -> None:
    tenant = {"shop": "a"}

    def only_tenant(orm: ORMExecuteState) -> None:
        if orm.is_select:
            shop = tenant["shop"]
            orm.statement = orm.statement.options(with_loader_criteria(Copy, lambda cls: cls.shop == shop))

    def read() -> list[Any]:
        with Session(library.engine) as session:
            event.listen(session, "do_orm_execute", only_tenant)
            found = [(copy.shop, copy.number) for copy in Copy.cache.filter(session=session)]
            one = Copy.cache.get(("a", 1), session=session)
            return [found, one is not None]

    for _ in range(2):
        tenant["shop"] = "a"
        assert read() == [[("a", 1), ("a", 2)], True]
        tenant["shop"] = "b"
        assert read() == [[("b", 1), ("b", 2)], False]


# -- flush -------------------------------------------------------------------------------------------------------------


def test_flush_of_a_row_drops_it_and_the_lists_that_hold_it(library: Library) -> None:
    def seat(session: Session) -> int:
        found: Ticket | None = Ticket.cache.get(uuid.UUID(int=1), session=session)
        assert found is not None
        return found.seat

    def seats(session: Session) -> list[int]:
        return [ticket.seat for ticket in Ticket.cache.filter(session=session)]

    assert (library.read(seat), library.read(seats)) == (1, [0, 1, 0, 1])
    library.change_outside("UPDATE mc_ticket SET seat = 8 WHERE seat = 1")
    assert library.read(seat) == 1
    library.read(lambda session: Ticket.cache.flush(Ticket.cache._cache_key(uuid.UUID(int=1)), session=session))

    assert library.read(seat) == 8
    assert library.read(seats) == [0, 8, 0, 1]


def test_flush_of_a_list_drops_its_keys(library: Library) -> None:
    def states(session: Session) -> list[int]:
        return [copy.number for copy in Copy.cache.filter(session=session, shop="a")]

    library.read(states)
    library.change_outside("DELETE FROM mc_copy WHERE shop = 'a' AND number = 1")
    library.read(lambda session: Copy.cache.flush("mc_copy.shop=a[all]", session=session))

    assert library.read(states) == [2]


def test_flush_of_ones_own_name_drops_what_was_cached_under_it(library: Library) -> None:
    statement = select(Copy.state).options(FromCache(cache_key="mine"))

    def states(session: Session) -> list[str]:
        return list(session.scalars(statement))

    library.read(states)
    assert library.asks(states) == 0
    library.read(lambda session: Book.cache.flush("mine", session=session))
    assert library.asks(states) == 1


def test_flush_all_drops_an_instance_and_the_lists_by_its_values(library: Library) -> None:
    def listed(session: Session) -> list[Any]:
        return Copy.cache.filter(session=session, state="new")

    library.read(listed)
    with Session(library.engine) as session:
        copy = session.get_one(Copy, ("a", 1))
        copy.state = "sold"
        Copy.cache._flush_all(copy)
        session.rollback()

    assert library.asks(listed) > 0


# -- where -------------------------------------------------------------------------------------------------------------


def entries_of_the_model(library: Library) -> int:
    """Return what the region "short" holds beside what every store of the database does."""
    default, short = (store["entries"] for store in library.cache.stats()["stores"])
    return int(short - default)


def test_the_label_names_the_region(library: Library) -> None:
    library.read(lambda session: Note.cache.get(1, session=session))

    assert entries_of_the_model(library) == 1


def test_plain_statements_of_the_model_are_cached_in_its_region(library: Library) -> None:
    library.read(lambda session: session.scalars(select(Note)).all())

    assert entries_of_the_model(library) == 1
    assert library.asks(lambda session: session.scalars(select(Note)).all()) == 0


def test_without_a_cache_reads_go_to_the_database(library: Library) -> None:
    with Session(library.outside) as session:
        assert ids(Book.cache.filter(session=session, shelf_id=1)) == [1, 3, 5]
        found = Book.cache.get(1, session=session)
        assert found is not None
        Book.cache.flush("book.id[1]", session=session)


def test_without_a_session_the_error_says_how_to_give_one(library: Library) -> None:
    with pytest.raises(NotAttachedError, match=r"Book\.cache: no Session is known.*bind_session"):
        Book.cache.get(1)


def test_a_bound_session_is_found(library: Library) -> None:
    with Session(library.engine) as session:
        library.cache.bind_session(lambda: session)

        assert Book.cache.get(1) is session.get(Book, 1)


def test_of_several_bound_sessions_none_is_guessed(library: Library) -> None:
    with Session(library.engine) as one, Session(library.engine) as other:
        library.cache.bind_session(lambda: one)
        library.cache.bind_session(lambda: other)

        with pytest.raises(NotAttachedError, match="several Sessions"):
            Book.cache.get(1)


def test_a_policy_of_the_model_holds_for_its_statements(library: Library) -> None:
    assert library.asks(lambda session: session.scalars(select(Draft)).all()) == 1
    assert library.asks(lambda session: session.scalars(select(Draft)).all()) == 1
    library.asks(lambda session: session.get(Draft, 1))
    assert library.asks(lambda session: session.get(Draft, 1)) == 0
