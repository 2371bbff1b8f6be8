"""Does asking for old images lock what the statement would lock anyway, and nothing else, earlier or in another order?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, bindparam, create_engine, event, select, text, update
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

from image_support import Book, Leaf, Library, Meeting, Shelf, meet

Change = Callable[[Session], object]
Act = Callable[[Connection], object]


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def library_of(url: str) -> Iterator[Callable[..., Library]]:
    """Make the library anew, with old images or without."""
    made: list[Library] = []

    def make(*, old_images: bool, isolation: str = "READ COMMITTED") -> Library:
        for library in made:
            library.close()
        made[:] = [Library(url, old_images, isolation)]
        return made[0]

    yield make
    for library in made:
        library.close()


@pytest.fixture
def library(library_of: Callable[..., Library]) -> Library:
    return library_of(old_images=True)


def text_of(*statements: str) -> Act:
    def act(connection: Connection) -> None:
        for statement in statements:
            connection.execute(text(statement))

    return act


def rename(*ids: int) -> Change:
    """Change the names of shelves in one flush."""

    def change(session: Session) -> None:
        for shelf in [session.get_one(Shelf, number) for number in ids]:
            shelf.name = "changed"

    return change


def core(statement: Any, *parameters: dict[str, Any]) -> Change:
    return lambda session: session.connection().execute(statement, list(parameters) or None)


def in_turn(*changes: Change) -> Change:
    def change(session: Session) -> None:
        for one in changes:
            one(session)

    return change


def remove(*ids: int) -> Change:
    """Delete shelves in one flush."""

    def change(session: Session) -> None:
        for shelf in [session.get_one(Shelf, number) for number in ids]:
            session.delete(shelf)

    return change


def move(*ids: int) -> Change:
    """Move books to shelf 3 in one flush."""

    def change(session: Session) -> None:
        for book in [session.get_one(Book, number) for number in ids]:
            book.shelf_id = 3

    return change


def of_leaf(key: int) -> Any:
    return update(Leaf).where(Leaf.id == key).values(number=0)


def leaves_in_order(*ids: int) -> Change:
    """Change leaves by one execution, in this order."""
    statement = update(Leaf).where(Leaf.id == bindparam("key")).values(number=bindparam("new"))
    return core(statement, *({"key": number, "new": 0} for number in ids))


MEETINGS: dict[str, tuple[Change, Act, Act]] = {
    "a parent is renamed while a child is added": (
        rename(1),
        text_of("INSERT INTO book (id, shelf_id, title, stock) VALUES (9, 1, 'new', 1)"),
        text_of("SELECT 1"),
    ),
    "a unique value changes while a child is added and the parent renamed": (
        lambda session: setattr(session.get_one(Shelf, 1), "code", 17),
        text_of("INSERT INTO book (id, shelf_id, title, stock) VALUES (9, 1, 'new', 1)"),
        text_of("UPDATE shelf SET name = 'theirs' WHERE id = 1"),
    ),
    "rows change in another order than that of their keys": (
        leaves_in_order(2, 1),
        text_of("UPDATE leaf SET stock = 2 WHERE id = 2"),
        text_of("UPDATE leaf SET stock = 2 WHERE id = 1"),
    ),
    "rows change in the order of their keys": (
        rename(1, 2),
        text_of("UPDATE shelf SET name = 'theirs' WHERE id = 1"),
        text_of("UPDATE shelf SET name = 'theirs' WHERE id = 2"),
    ),
    "a row that the statement does not match": (
        in_turn(core(of_leaf(1).where(Leaf.stock > 5)), core(of_leaf(2))),
        text_of("UPDATE leaf SET stock = 2 WHERE id = 2"),
        text_of("UPDATE leaf SET stock = 2 WHERE id = 1"),
    ),
    "rows move to a parent that is locked": (
        move(1, 2),
        text_of("SELECT 1 FROM shelf WHERE id = 3 FOR UPDATE"),
        text_of("UPDATE book SET stock = 2 WHERE id = 2"),
    ),
    "parents are deleted while a child is changed": (
        remove(1, 2),
        text_of("UPDATE book SET stock = 2 WHERE id = 1"),
        text_of("UPDATE shelf SET name = 'theirs' WHERE id = 2"),
    ),
    "a table after another, the other way round": (
        in_turn(rename(1), lambda session: session.flush(), core(of_leaf(1))),
        text_of("UPDATE leaf SET stock = 2 WHERE id = 1"),
        text_of("UPDATE leaf SET stock = 2 WHERE id = 2"),
    ),
    "two flushes that lock each other out": (
        rename(1, 2),
        text_of("UPDATE shelf SET name = 'theirs' WHERE id = 2"),
        text_of("UPDATE shelf SET name = 'theirs' WHERE id = 1"),
    ),
}


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
@pytest.mark.parametrize("name", MEETINGS)
def test_two_transactions_meet_as_they_would_without_old_images(
    library_of: Callable[..., Library], name: str, isolation: str
) -> None:
    found: list[Meeting] = []
    for old_images in (False, True):
        change, hold, go_on = MEETINGS[name]
        found.append(meet(library_of(old_images=old_images, isolation=isolation), change, hold=hold, go_on=go_on))
    assert found[1] == found[0]


# -- how strong -------------------------------------------------------------------------------------------------------


@contextmanager
def at_changes(engine: Engine, moment: str, act: Callable[[], object]) -> Iterator[None]:
    """Act before or after each UPDATE and DELETE that an application sends."""

    def hear(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith(("UPDATE", "DELETE")):
            act()

    event.listen(engine, f"{moment}_cursor_execute", hear)
    try:
        yield
    finally:
        event.remove(engine, f"{moment}_cursor_execute", hear)


ALIKE: dict[str, tuple[str, Change]] = {
    "one row": ("shelf", rename(1)),
    "two rows": ("shelf", rename(1, 2)),
    "a deleted row": ("book", lambda session: session.delete(session.get_one(Book, 1))),
    "a moved row": ("book", move(1)),
    "a row with a condition that holds": ("leaf", core(of_leaf(1).where(Leaf.stock == 1))),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_question_locks_the_rows_of_its_statement_as_strongly(library_of: Callable[..., Library], name: str) -> None:
    table, change = ALIKE[name]

    def locks(moment: str, *, old_images: bool) -> dict[int, str]:
        library = library_of(old_images=old_images, isolation="REPEATABLE READ")
        found: list[dict[int, str]] = []
        with (
            at_changes(library.engine, moment, lambda: found.append(library.locks(table, [1, 2, 3]))),
            Session(library.engine) as session,
        ):
            change(session)
            session.commit()
        return found[0]

    question, statement = locks("before", old_images=True), locks("after", old_images=False)
    assert question
    assert question == statement


NOT_ASKED: dict[str, Change] = {
    "several rows in no order": leaves_in_order(2, 1),
    "several rows that move to another parent": move(1, 2),
    "a condition that is no comparison": core(of_leaf(1).where(Leaf.stock.in_([1]))),
}


@pytest.mark.parametrize("name", NOT_ASKED)
def test_nothing_is_locked_beforehand_where_the_statement_may_lock_otherwise(library: Library, name: str) -> None:
    found: list[dict[int, str]] = []
    with (
        at_changes(library.engine, "before", lambda: found.append(library.locks("leaf", [1, 2, 3]))),
        at_changes(library.engine, "before", lambda: found.append(library.locks("book", [1, 2, 3]))),
        Session(library.engine) as session,
    ):
        NOT_ASKED[name](session)
        session.commit()
    assert found == [{}, {}]


@pytest.mark.parametrize("url", ["mariadb"], indirect=True)
@pytest.mark.parametrize("key", [5, 50], ids=["a row that is there", "a row that is not"])
def test_the_gaps_that_are_locked_are_those_of_the_statement(library_of: Callable[..., Library], key: int) -> None:
    def refused(library: Library) -> list[int]:
        def is_refused(number: int) -> bool:
            with library.other.connect() as connection:
                connection.exec_driver_sql("SET innodb_lock_wait_timeout = 0")
                try:
                    connection.exec_driver_sql(f"INSERT INTO leaf (id, number, stock) VALUES ({number}, 0, 0)")
                except DBAPIError:
                    return True
                return False

        with Session(library.engine) as session:
            session.execute(of_leaf(key))
            return [number for number in (-1, 49, 50, 51) if is_refused(number)]

    found = [refused(library_of(old_images=old_images, isolation="REPEATABLE READ")) for old_images in (False, True)]
    assert found[1] == found[0]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_who_may_not_wait_for_a_lock_gets_the_error_of_the_statement(url: str) -> None:
    found: list[type[BaseException]] = []
    for old_images in (False, True):
        library = Library(url, old_images=old_images)
        impatient = impatient_engine(library)
        with library.other.begin() as other:
            other.execute(text("UPDATE leaf SET stock = 2 WHERE id = 1"))
            with pytest.raises(DBAPIError) as error, Session(impatient) as session:
                session.execute(of_leaf(1))
        found.append(type(error.value))
        with Session(impatient) as session:
            session.execute(of_leaf(1))
            session.commit()
        impatient.dispose()
        library.close()
    assert found[1] is found[0]


def impatient_engine(library: Library) -> Engine:
    if library.engine.dialect.name == "postgresql":
        engine = create_engine(library.url, connect_args={"options": "-c lock_timeout=1ms"})
    else:
        engine = create_engine(library.url, connect_args={"init_command": "SET innodb_lock_wait_timeout = 0"})
    library.cache.attach(engine)
    return engine


@pytest.fixture
def role_of(postgresql_url: str) -> Iterator[Callable[[Library, str], Engine]]:
    """Make an attached engine whose role has some rights on the leaves, and no others."""
    made: list[Engine] = []
    owner = create_engine(postgresql_url, isolation_level="AUTOCOMMIT")

    def make(library: Library, *rights: str) -> Engine:
        with owner.connect() as connection:
            name = f"qc_images_{connection.exec_driver_sql('SELECT current_database()').scalar()}"
            connection.exec_driver_sql(f"CREATE ROLE {name}")
            connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {name}")
            for right in rights:
                connection.exec_driver_sql(f"GRANT {right} ON leaf TO {name}")
        engine = create_engine(postgresql_url)

        @event.listens_for(engine, "connect")
        def become(raw: Any, record: Any) -> None:
            raw.execute(f"SET ROLE {name}")
            raw.commit()

        library.cache.attach(engine)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.dispose()
    with owner.connect() as connection:
        name = f"qc_images_{connection.exec_driver_sql('SELECT current_database()').scalar()}"
        connection.exec_driver_sql(f"DROP OWNED BY {name}")
        connection.exec_driver_sql(f"DROP ROLE {name}")
    owner.dispose()


RIGHTS: dict[str, tuple[tuple[str, ...], Change]] = {
    "delete, not update": (("SELECT", "DELETE"), lambda session: session.delete(session.get_one(Leaf, 1))),
    "update of one column": (
        ("SELECT", "UPDATE (stock)"),
        lambda session: setattr(session.get_one(Leaf, 1), "stock", 7),
    ),
    "update, not all to be read": (
        ("SELECT (id)", "UPDATE (stock)"),
        core(update(Leaf).where(Leaf.id == 1).values(stock=7)),
    ),
    "delete, not all to be read": (
        ("SELECT (id)", "DELETE"),
        core(text("DELETE FROM leaf WHERE id = 1")),
    ),
}


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("name", RIGHTS)
def test_who_may_change_a_row_but_not_lock_or_read_it_changes_it(
    library: Library, role_of: Callable[..., Engine], name: str
) -> None:
    rights, change = RIGHTS[name]
    numbers = select(Leaf.stock).where(Leaf.number == 1)
    with Session(library.engine) as session:
        assert session.scalars(numbers).all() == [1]
    with Session(role_of(library, *rights)) as session:
        change(session)
        session.commit()
    with Session(library.engine) as session:
        assert session.scalars(numbers).all() != [1]


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_right_that_was_taken_away_is_noticed_by_the_first_question_that_is_refused(
    library: Library, role_of: Callable[..., Engine]
) -> None:
    engine = role_of(library, "SELECT", "UPDATE", "DELETE")

    def remove_leaf(key: int) -> None:
        with Session(engine) as session:
            session.delete(session.get_one(Leaf, key))
            session.commit()

    remove_leaf(1)
    with library.other.begin() as connection:
        name = f"qc_images_{connection.exec_driver_sql('SELECT current_database()').scalar()}"
        connection.exec_driver_sql(f"REVOKE UPDATE ON leaf FROM {name}")
    with pytest.raises(ProgrammingError, match="denied"):
        remove_leaf(2)
    remove_leaf(2)


@pytest.mark.parametrize("url", ["mariadb"], indirect=True)
def test_who_may_change_a_row_but_not_read_all_of_it_changes_it_on_mariadb(library: Library) -> None:
    with library.other.begin() as owner:
        database = owner.exec_driver_sql("SELECT DATABASE()").scalar()
        name = f"qc{str(database)[-20:]}"
        owner.exec_driver_sql(f"CREATE USER {name}@'%%' IDENTIFIED BY 'secret'")
        owner.exec_driver_sql(f"CREATE USER {name}@localhost IDENTIFIED BY 'secret'")
        for host in ("'%%'", "localhost"):
            owner.exec_driver_sql(f"GRANT SELECT (id), UPDATE (stock), TRIGGER ON leaf TO {name}@{host}")
    engine = create_engine(library.engine.url.set(username=name, password="secret"))
    library.cache.attach(engine)
    try:
        with Session(engine) as session:
            session.connection().execute(update(Leaf).where(Leaf.id == 1).values(stock=7))
            session.commit()
    finally:
        engine.dispose()
        with library.other.begin() as owner:
            owner.exec_driver_sql(f"DROP USER {name}@'%%', {name}@localhost")
    with Session(library.engine) as session:
        assert session.get_one(Leaf, 1).stock == 7
