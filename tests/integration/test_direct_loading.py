"""Instances made by a recipe, and those that ``get`` finds, are what the ORM's own loader would have given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, String, TypeDecorator, create_engine, event, func, inspect, select, update
from sqlalchemy.engine import Result
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Mapper,
    Session,
    defer,
    deferred,
    mapped_column,
    raiseload,
    relationship,
    selectinload,
    with_loader_criteria,
)
from sqlalchemy.schema import ForeignKey

from loading_support import Library, library_of
from querycache import FromCache, _generated, _loading
from querycache.questions import Questions
from querycache.results import GETS, Results
from querycache.session import attachment_of


class Base(DeclarativeBase):
    pass


class Upper(TypeDecorator[str]):
    """Shows in capitals what is kept in small letters."""

    impl = String(20)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.upper()


class Shelf(Base):
    __tablename__ = "shelf"
    id: Mapped[int] = mapped_column(primary_key=True)
    label: Mapped[str] = mapped_column(Upper)
    books: Mapped[list[Book]] = relationship(back_populates="shelf", order_by="Book.id")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    notes: Mapped[dict[str, Any]] = mapped_column(JSON)
    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelf.id"), index=True)
    shelf: Mapped[Shelf] = relationship(back_populates="books")


class Leaf(Base):
    __tablename__ = "leaf"
    book_id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Pad(Base):
    __tablename__ = "pad"
    id: Mapped[int] = mapped_column(primary_key=True)
    notes: Mapped[dict[str, Any]] = mapped_column(MutableDict.as_mutable(JSON))


class Scroll(Base):
    __tablename__ = "scroll"
    id: Mapped[int] = mapped_column(primary_key=True)
    short: Mapped[str]
    long: Mapped[str] = deferred(mapped_column(String(100)))


def fill(session: Session) -> None:
    session.add_all([Shelf(id=1, label="one"), Shelf(id=2, label="two")])
    session.add_all(
        [Book(id=number, title=f"t{number}", notes={"n": number}, shelf_id=1 + number % 2) for number in range(1, 7)]
    )
    session.add(Book(id=7, title=None, notes={}, shelf_id=1))
    session.add_all([Leaf(book_id=1, number=2, text="x"), Leaf(book_id=2, number=1, text="y")])
    session.add_all([Scroll(id=1, short="s", long="l"), Pad(id=1, notes={"n": 1})])


@pytest.fixture
def library(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    with library_of(sqlite_url, Base, [Shelf, Book, Leaf, Pad, Scroll], fill, monkeypatch) as library:
        yield library


def books(session: Session) -> list[Book]:
    return list(session.scalars(select(Book).where(Book.shelf_id == 1).order_by(Book.id)))


def by_itself(session: Session, counted: Any) -> list[Any]:
    """Name a column of a row by the very expression that the statement of this call was made with."""
    return [row._mapping[counted] for row in session.execute(select(Book.shelf_id, counted).group_by(Book.shelf_id))]


EAGER = select(Shelf).options(selectinload(Shelf.books)).order_by(Shelf.id)
COLUMNS = select(Book.id, Book.title).order_by(Book.id)
COUNTED = select(Book.shelf_id, func.count().label("many")).group_by(Book.shelf_id).order_by(Book.shelf_id)
BY_SHELF = select(Book, Shelf).join(Shelf).order_by(Book.id)


def in_parts_afterwards(session: Session, **options: Any) -> list[Any]:
    result = session.execute(select(Book).order_by(Book.id), execution_options=options)
    return [result.fetchone(), result.yield_per(2).all()]


PLAIN: dict[str, Callable[[Session], Any]] = {
    "deferred columns": lambda session: session.scalars(select(Scroll)).all(),
    "a deferred column afterwards": lambda session: [scroll.long for scroll in session.scalars(select(Scroll))],
    "loader options": lambda session: session.scalars(EAGER).all(),
    "two entities": lambda session: session.execute(BY_SHELF).all(),
    "two entities, each once": lambda session: session.execute(BY_SHELF).unique().all(),
    "an entity that may be missing": lambda session: session.execute(
        select(Book, Leaf).outerjoin(Leaf, Leaf.book_id == Book.id).order_by(Book.id)
    ).all(),
    "an entity and a column": lambda session: session.execute(select(Book, Shelf.label).join(Shelf)).all(),
    "some columns": lambda session: session.execute(COLUMNS).all(),
    "some columns as mappings": lambda session: [dict(row) for row in session.execute(COLUMNS).mappings()],
    "some columns by what they are": lambda session: [
        (row._mapping[Book.id], row._mapping[Book.title], row.title) for row in session.execute(COLUMNS)
    ],
    "some columns, each row once": lambda session: session.execute(select(Book.shelf_id)).unique().all(),
    "a column's values": lambda session: session.scalars(select(Book.title).order_by(Book.id)).all(),
    "a column's values, each once": lambda session: session.scalars(select(Book.shelf_id)).unique().all(),
    "a column with a type of the application's": lambda session: session.execute(select(Shelf.label)).all(),
    "a count": lambda session: session.scalar(select(func.count()).select_from(Book)),
    "counts": lambda session: [(row.many, row[0], tuple(row._fields)) for row in session.execute(COUNTED)],
    "a count by what it is": lambda session: by_itself(session, func.count(Book.id)),
    "columns of a legacy query": lambda session: session.query(Book.id, Book.title).order_by(Book.id).all(),
    "one column too many": lambda session: session.execute(COLUMNS).one(),
    "an unknown column": lambda session: session.execute(COLUMNS).columns("author").all(),
    "scalars": books,
    "tuples": lambda session: session.execute(select(Book).order_by(Book.id)).all(),
    "first": lambda session: session.scalars(select(Book).order_by(Book.id)).first(),
    "one of many": lambda session: session.scalars(select(Book).order_by(Book.id)).one(),
    "one": lambda session: session.scalars(select(Book).where(Book.id == 3)).one(),
    "scalar": lambda session: session.scalar(select(Book).where(Book.id == 3)),
    "mappings": lambda session: [dict(row) for row in session.execute(select(Book).order_by(Book.id)).mappings()],
    "unique": lambda session: session.scalars(select(Book).order_by(Book.id)).unique().all(),
    "partitions": lambda session: [
        list(part) for part in session.scalars(select(Book).order_by(Book.id)).partitions(2)
    ],
    "parts of a size that is told": lambda session: [
        list(part) for part in session.execute(select(Book).order_by(Book.id)).yield_per(2).partitions()
    ],
    "parts of a size that is told when all were fetched": lambda session: in_parts_afterwards(session),
    "parts of what was fetched for one that cannot wait": lambda session: in_parts_afterwards(
        session, prebuffer_rows=True
    ),
    "fetchmany": lambda session: session.execute(select(Book).order_by(Book.id)).fetchmany(2),
    "columns": lambda session: session.execute(select(Book).order_by(Book.id)).columns("Book").all(),
    "keys": lambda session: list(session.execute(select(Book)).keys()),
    "the same row twice": lambda session: session.scalars(select(Shelf).join(Shelf.books).order_by(Book.id)).all(),
    "a type of the application's": lambda session: session.scalars(select(Shelf).order_by(Shelf.id)).all(),
    "two parts of a key": lambda session: session.scalars(select(Leaf).order_by(Leaf.text)).all(),
    "legacy query": lambda session: session.query(Book).filter(Book.id < 3).order_by(Book.id).all(),
    "frozen": lambda session: session.execute(select(Book).where(Book.id < 3)).freeze()().scalars().all(),
    "get": lambda session: session.get(Book, 2),
    "get with nothing asked for": lambda session: session.get(Book, 2, options=(), with_for_update=None),
    "get by keyword": lambda session: session.get(Book, {"id": 2}),
    "get by two parts": lambda session: session.get(Leaf, (2, 1)),
    "get of nothing": lambda session: session.get(Book, 99),
    "get twice": lambda session: [session.get(Book, 2), session.get(Book, 2)],
    "get_one of nothing": lambda session: session.get_one(Book, 99),
    "get by text": lambda session: session.get(Book, "2"),
    "refetched": lambda session: [books(session), books(session)],
    "lazy parents": lambda session: [book.shelf for book in books(session)],
    "lazy children": lambda session: [shelf.books for shelf in session.scalars(select(Shelf).order_by(Shelf.id))],
    "a user's option": lambda session: session.scalars(select(Book).options(FromCache(ttl=9)).order_by(Book.id)).all(),
}


def changed(session: Session) -> Any:
    pad = session.get_one(Pad, 1)
    pad.notes["n"] = "other"
    return [pad, pad in session.dirty]


@pytest.mark.parametrize("how", PLAIN)
def test_a_result_loaded_by_recipe_is_the_ordinary_one(library: Library, how: str) -> None:
    library.check(PLAIN[how])
    if how not in ("get by keyword", "get of nothing", "get_one of nothing"):
        assert library.made


def gone_title(session: Session) -> Book:
    book = session.get_one(Book, 3)
    del book.title
    return book


def expired_title(session: Session) -> Book:
    book = session.get_one(Book, 3)
    session.expire(book, ["title"])
    return book


def stale_in(session: Session) -> list[Book]:
    kept = books(session)
    session.expire_all()
    return kept


def dirty_in(session: Session) -> list[Book]:
    kept = books(session)
    with session.no_autoflush:
        kept[0].title = "mine"
    session.autoflush = False
    return kept


def pending_in(session: Session) -> Book:
    book = Book(id=9, title="new", notes={}, shelf_id=1)
    session.add(book)
    return book


def deleted_in(session: Session) -> Book:
    book = session.get_one(Book, 3)
    session.delete(book)
    return book


def partly_loaded(session: Session) -> Book:
    statement = select(Book.__table__.c.id).where(Book.id == 3)
    session.execute(statement)
    return session.scalars(select(Book).options(raiseload("*")).where(Book.id == 3)).one()


@pytest.mark.parametrize(
    "before", [books, gone_title, expired_title, stale_in, dirty_in, pending_in, deleted_in, partly_loaded]
)
@pytest.mark.parametrize("how", ["scalars", "get", "unique", "tuples", "lazy parents"])
def test_what_a_session_holds_already_is_treated_as_the_ordinary_loader_does(
    library: Library, before: Callable[[Session], Any], how: str
) -> None:
    with library_session(library) as session:
        books(session)  # so that there is a recipe before the situation is
    library.check(PLAIN[how], before=before)


def library_session(library: Library) -> Session:
    return Session(library.cached)


RAISING = select(Book).options(raiseload("*")).order_by(Book.id)
WITH_CRITERIA = select(Book).options(with_loader_criteria(Shelf, Shelf.id == 1)).order_by(Book.id)

PUT_OFF = select(Scroll).options(defer(Scroll.short))

DECLINED: dict[str, Callable[[Session], Any]] = {
    "a column put off by the statement": lambda session: session.scalars(PUT_OFF).all(),
    "a mutable value": changed,
    "raising loads": lambda session: session.scalars(RAISING).all(),
    "columns whose values have no hash": lambda session: session.execute(select(Book.id, Book.notes)).all(),
    "criteria": lambda session: session.scalars(WITH_CRITERIA).all(),
}


@pytest.mark.parametrize("how", DECLINED)
def test_what_is_more_than_plain_columns_is_loaded_ordinarily(library: Library, how: str) -> None:
    library.check(DECLINED[how])
    assert not library.made


def test_where_a_release_changed_what_a_recipe_leans_on_the_ordinary_loader_goes_on(
    library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> Any:
        raise AttributeError("_state_constructor")

    monkeypatch.setattr(_loading, "maker_of", fail)
    library.check(books)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_recipe_that_makes_other_instances_than_the_ordinary_loader_is_not_followed(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _generated.maker_of

    def careless(tree: Any) -> Any:
        (node,) = tree.nodes
        node = replace(node, attributes={name: at for name, at in node.attributes.items() if name != "title"})
        return original(replace(tree, entities=(node,), nodes=(node,)))

    monkeypatch.setattr(_loading, "maker_of", careless)
    library.check(books)


@pytest.mark.parametrize("name", ["load", "refresh"])
def test_who_listens_to_loads_of_a_class_hears_of_them(library: Library, name: str) -> None:
    library.check(books)
    heard: list[Any] = []

    def listener(instance: Any, *arguments: Any) -> None:
        heard.append(instance.id)

    event.listen(Book, name, listener)
    try:
        for engine in (library.plain, library.cached):
            with Session(engine) as session:
                kept = books(session)
                session.expire(kept[0], ["title"])
                books(session)
                session.get(Book, 1)
    finally:
        event.remove(Book, name, listener)
    half = len(heard) // 2
    assert heard
    assert heard[:half] == heard[half:]


def test_who_listens_to_a_session_hears_of_loads(library: Library) -> None:
    library.check(books)
    heard: list[Any] = []
    with Session(library.cached) as session:
        event.listen(session, "loaded_as_persistent", lambda session, instance: heard.append(instance.id))
        books(session)
        session.get(Book, 1)
    assert heard == [2, 4, 6, 7, 1]


def test_another_listener_of_reads_is_asked_about_a_get(library: Library) -> None:
    """A tenant's filter must not be passed by."""
    library.check(PLAIN["get"])
    with Session(library.cached) as session:

        @event.listens_for(session, "do_orm_execute")
        def only_untitled(state: Any) -> None:
            state.statement = state.statement.options(with_loader_criteria(Book, Book.title.is_(None)))

        assert session.get(Book, 2) is None
    with Session(library.cached) as session:
        assert session.get(Book, 2) is not None


def test_a_get_of_a_sharded_session_finds_its_row_on_its_shard(library: Library, tmp_path: Path) -> None:
    other = create_engine(f"sqlite:///{tmp_path}/shard.sqlite")
    Base.metadata.create_all(other)
    with Session(other) as session:
        session.add_all([Shelf(id=1, label="other"), Book(id=2, title="elsewhere", notes={}, shelf_id=1)])
        session.commit()
    library.cache.attach(other)
    for engine in (library.cached, other):
        for _ in range(3):
            with Session(engine) as session:
                session.get(Book, 2)

    def there(*arguments: Any, **options: Any) -> list[str]:
        return ["there"]

    def for_flushes(*arguments: Any, **options: Any) -> str:
        raise TypeError("of statements it knows nothing")

    def sharded() -> ShardedSession:
        return ShardedSession(
            shards={"here": library.cached, "there": other},
            shard_chooser=for_flushes,
            identity_chooser=there,
            execute_chooser=there,
        )

    with sharded() as session:
        assert session.get_one(Book, 2).title == "elsewhere"
    with sharded() as session:
        assert session.get_one(Book, 2, identity_token="here").title == "t2"
    with sharded() as session:
        assert session.scalars(select(Book.title)).all() == ["elsewhere"]
    other.dispose()


def test_an_error_of_the_applications_get_bind_is_the_ordinary_one(library: Library) -> None:
    class Refusing(Session):
        def get_bind(self, *arguments: Any, **options: Any) -> Any:
            raise LookupError("no such tenant")

    library.check(PLAIN["get"])
    with Refusing() as session, pytest.raises(LookupError, match="no such tenant"):
        session.get(Book, 2)


def test_a_session_class_with_an_execute_of_its_own_is_asked_about_a_get(library: Library) -> None:
    class Watching(Session):
        asked = 0

        def execute(self, *arguments: Any, **options: Any) -> Result[Any]:
            self.asked += 1
            return super().execute(*arguments, **options)

    library.check(PLAIN["get"])
    with Watching(library.cached) as session:
        assert session.get(Book, 2) is not None
        assert session.asked == 1


def test_a_get_that_is_known_costs_neither_statement_nor_connection(library: Library) -> None:
    library.check(PLAIN["get"])
    with Session(library.cached) as session:
        library.sent.clear()
        assert session.get(Book, 2) is not None
        assert session.in_transaction()
        assert library.sent == []


def test_no_mapper_forgets_what_it_worked_out_when_something_is_kept_with_its_class(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Statements that are built afterwards would have another FROM for the same class than those from before.
    for model in (Shelf, Book):
        for name in ("_querycache_get", "_querycache_rows_by_key"):
            if name in vars(model):
                type.__delattr__(model, name)
    forgot: list[Mapper[Any]] = []
    monkeypatch.setattr(Mapper, "_expire_memoizations", forgot.append)
    for _ in range(3):
        with Session(library.cached) as session:
            session.get(Shelf, 1)
            session.scalars(select(Book).order_by(Book.id).options(FromCache(shape="keys"))).all()
    assert {"_querycache_get", "_querycache_rows_by_key"} <= vars(Shelf).keys() | vars(Book).keys()
    assert forgot == []


def test_a_get_after_a_commit_of_another_process_sees_it(library: Library) -> None:
    library.check(PLAIN["get"])
    with Session(library.cached) as session:
        session.get_one(Book, 2).title = "new"
        session.commit()
    with Session(library.cached) as session:
        assert session.get_one(Book, 2).title == "new"


def test_a_get_is_answered_without_a_statement_again_after_the_catalog_has_changed(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.check(PLAIN["get"])
    with library.cached.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE one_more (id INTEGER PRIMARY KEY)")
    library.check(PLAIN["get"])
    monkeypatch.delattr(Questions, "form_of")
    library.check(PLAIN["get"], times=1)
    assert library.made == [1]


def test_a_get_is_known_to_the_cache_that_learnt_it_alone(library: Library) -> None:
    library.check(PLAIN["get"])
    found = attachment_of(library.cached)
    assert found is not None
    results = found[0].results
    gets = vars(Book)[GETS]
    assert results.known_get(gets, library.cached.dialect) is not None
    assert Results(results.questions).known_get(gets, library.cached.dialect) is None
    assert results.known_get(gets, library.plain.dialect) is None


def test_a_get_in_a_transaction_that_wrote_reads_past_the_cache(library: Library) -> None:
    library.check(PLAIN["get"])
    with Session(library.cached) as session:
        session.execute(
            update(Book).where(Book.id == 2).values(title="mine").execution_options(synchronize_session=False)
        )
        assert session.get_one(Book, 2).title == "mine"
        session.rollback()


def test_a_get_that_misses_is_looked_up_once(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.check(PLAIN["get"])
    library.cache.invalidate(Book)
    before = library.cache.stats()["counts"]
    with Session(library.cached) as session:
        session.get(Book, 2)
    after = library.cache.stats()["counts"]
    assert after["miss"] == before["miss"] + 1
    assert after["fill"] == before["fill"] + 1
    with Session(library.cached) as session:
        library.sent.clear()
        session.get(Book, 2)
    assert library.sent == []


def test_an_instance_loaded_by_recipe_is_forgotten_with_its_last_reference(library: Library) -> None:
    library.check(books)
    with Session(library.cached) as session:
        books(session)
        assert list(session.identity_map.keys()) == []


def test_a_result_holds_none_of_the_rows_that_it_gave(library: Library) -> None:
    for _ in ("a miss", "a hit by the ordinary loader", "a hit by recipe"):
        with Session(library.cached) as session:
            result = session.scalars(select(Book).where(Book.shelf_id == 1))
            assert len(list(result)) > 1
            assert list(session.identity_map.keys()) == []
            del result


def test_an_instance_loaded_by_recipe_is_flushed_refreshed_and_detached_like_any(library: Library) -> None:
    library.check(books)
    with Session(library.cached) as session:
        book = books(session)[0]
        book.title = "changed"
        session.flush()
        session.refresh(book)
        assert book.title == "changed"
        session.rollback()
        assert book.title == "t2"
        session.close()
        assert inspect(book).detached
