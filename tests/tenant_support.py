"""What do the tests of tenants share? Shelves with books, two tenants, and an application that is somebody's at each moment.

A *way* is how an application keeps its tenants apart. It is set up twice: on engines with a cache in front of them, and on
engines without, which tell what a Session of that tenant is shown. Reads run as one tenant, then as the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Engine, ForeignKey, String, event, exists, func, inspect, select, text
from sqlalchemy.exc import LegacyAPIWarning
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    contains_eager,
    immediateload,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    subqueryload,
)

from querycache import CacheableMixin, FromCache, QueryCache

TENANTS = ("blue", "red")
TENANT: ContextVar[str | None] = ContextVar("tenant", default=None)

Enter = Callable[[], Session]
Read = Callable[[Session], Any]


class Library(DeclarativeBase):
    pass


class Shelf(CacheableMixin, Library):
    __tablename__ = "te_shelf"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(String(20))
    name: Mapped[str] = mapped_column(String(40))
    books: Mapped[list[Book]] = relationship(back_populates="shelf", order_by="Book.id")


class Book(CacheableMixin, Library):
    __tablename__ = "te_book"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(String(20))
    title: Mapped[str] = mapped_column(String(40))
    shelf_id: Mapped[int] = mapped_column(ForeignKey("te_shelf.id"))
    shelf: Mapped[Shelf] = relationship(back_populates="books")


def put_rows(session: Session, *tenants: str) -> None:
    """Put each tenant's shelf and books into tables that they share."""
    for number, tenant in enumerate(TENANTS, 1):
        if tenant in tenants:
            _put(session, tenant, number)


def put_place(session: Session, tenant: str) -> None:
    """Put one tenant's rows into tables of its own, under the keys that every tenant's have."""
    _put(session, tenant, 1)
    _put(session, tenant, 2)


def _put(session: Session, tenant: str, number: int) -> None:
    session.add(Shelf(id=number, tenant=tenant, name=f"{tenant} shelf {number}"))
    session.flush()
    session.add_all(
        Book(id=10 * number + at, tenant=tenant, title=f"{tenant} book {at}", shelf_id=number) for at in (1, 2)
    )
    session.commit()


def seen(instance: Any) -> Any:
    """Return an instance's loaded columns, None for none."""
    if instance is None:
        return None
    return tuple(getattr(instance, attribute.key) for attribute in inspect(instance).mapper.column_attrs)


def all_seen(instances: Any) -> list[Any]:
    return sorted(map(seen, instances))


def _books_of_shelves(*options: Any) -> Read:
    statement = select(Shelf).options(*options).order_by(Shelf.id)
    return lambda session: [(seen(shelf), all_seen(shelf.books)) for shelf in session.scalars(statement).unique()]


def _shelf_of_book(session: Session) -> Any:
    return [seen(book.shelf) for book in session.scalars(select(Book).order_by(Book.id))]


def _refreshed(session: Session) -> Any:
    shelf = session.get(Shelf, 1)
    if shelf is not None:
        session.refresh(shelf)
    return seen(shelf)


def _merged(session: Session) -> Any:
    return seen(session.merge(Shelf(id=1)))


def _got_by_query(session: Session) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LegacyAPIWarning)
        return seen(session.query(Shelf).get(1))


def _expired(session: Session) -> Any:
    shelf = session.get(Shelf, 1)
    if shelf is not None:
        session.expire(shelf)
    return seen(shelf)


_OF_ALL = select(Book).order_by(Book.id)

CACHED: dict[str, Read] = {
    "get": lambda session: [seen(session.get(Shelf, key)) for key in (1, 2)],
    "get of a book": lambda session: [seen(session.get(Book, key)) for key in (11, 21)],
    "select": lambda session: all_seen(session.scalars(_OF_ALL)),
    "select one": lambda session: all_seen(session.scalars(select(Book).where(Book.id == 11))),
    "columns": lambda session: sorted(map(tuple, session.execute(select(Book.id, Book.title)))),
    "scalar": lambda session: session.scalar(select(Shelf.name).where(Shelf.id == 1)),
    "count": lambda session: session.scalar(select(func.count()).select_from(Book)),
    "exists": lambda session: session.scalar(select(exists().where(Book.id == 11))),
    "in a list": lambda session: all_seen(session.scalars(select(Book).where(Book.id.in_([11, 12, 21])))),
    "subquery": lambda session: session.scalars(
        select(Shelf.name).where(Shelf.id.in_(select(Book.shelf_id))).order_by(Shelf.name)
    ).all(),
    "lazy": _books_of_shelves(),
    "lazy many to one": _shelf_of_book,
    "selectin": _books_of_shelves(selectinload(Shelf.books)),
    "joined": _books_of_shelves(joinedload(Shelf.books)),
    "subquery load": _books_of_shelves(subqueryload(Shelf.books)),
    "immediate": _books_of_shelves(immediateload(Shelf.books)),
    "contains eager": lambda session: [
        (seen(shelf), all_seen(shelf.books))
        for shelf in session.scalars(
            select(Shelf).join(Shelf.books).options(contains_eager(Shelf.books)).order_by(Shelf.id, Book.id)
        ).unique()
    ],
    "query": lambda session: all_seen(session.query(Book).order_by(Book.id)),
    "query count": lambda session: session.query(Book).count(),
    "Model.cache.get": lambda session: [seen(Book.cache.get(key, session=session)) for key in (11, 21)],
    "Model.cache.filter": lambda session: [
        all_seen(Book.cache.filter(shelf_id=key, session=session)) for key in (1, 2)
    ],
    "by a name": lambda session: all_seen(session.scalars(_OF_ALL.options(FromCache(cache_key="the books")))),
    "tables": lambda session: sorted(map(tuple, session.execute(select(Book.__table__)))),
}
"""Reads that a cache answers where it may; nothing else of them is asked of the database."""

OTHER: dict[str, Read] = {
    "refresh": _refreshed,
    "merge": _merged,
    "expire": _expired,
    "query get": _got_by_query,
    "text": lambda session: sorted(map(tuple, session.execute(text("SELECT id, name FROM te_shelf")))),
    "text of entities": lambda session: all_seen(
        session.scalars(select(Shelf).from_statement(text("SELECT * FROM te_shelf")))
    ),
}

READS = {**CACHED, **OTHER}

FEW = [
    "get",
    "select",
    "count",
    "lazy",
    "selectin",
    "query",
    "Model.cache.get",
    "Model.cache.filter",
    "by a name",
    "text",
]
"""Enough where only the database is another one."""


class Stage:
    """What an application stands on: a database, and engines with a cache in front of them, or without."""

    def __init__(
        self,
        url: str,
        engine_of: Callable[..., Engine],
        cache: QueryCache | None,
        *,
        places: Mapping[str, str] | None = None,
        schemas: Mapping[str, str] | None = None,
        roles: Mapping[str, str] | None = None,
        role: str = "",
    ) -> None:
        self.url = url
        self.cache = cache
        self.places = {"": url, **(places or {})}
        self.schemas = schemas or {}
        self.roles = roles or {}
        self.role = role
        self.sent: list[str] = []
        self._engine_of = engine_of
        self._endings: list[Callable[[], object]] = []

    def schema_map(self) -> dict[str, Any]:
        """Return the execution options by which names mean the tables of whoever is at work."""
        tenant = TENANT.get()
        return {} if tenant is None else {"schema_translate_map": {None: self.schemas[tenant]}}

    def engine(self, url: str | None = None, *, attach: bool = True, **options: Any) -> Engine:
        """Make an engine, in front of which the cache is unless ``attach`` leaves that for later."""
        url = url or self.url
        if url.startswith(("mysql", "mariadb")):
            options.setdefault("isolation_level", "READ COMMITTED")
        engine = self._engine_of(url, **options)
        if attach:
            self.attach(engine)
        return engine

    def attach(self, engine: Engine) -> None:
        """Put the cache in front of an engine."""
        event.listen(engine, "before_cursor_execute", self._note)
        if self.cache is not None:
            self.cache.attach(engine)

    def at_end(self, ending: Callable[[], object]) -> None:
        """Have something undone at the end."""
        self._endings.append(ending)

    def end(self) -> None:
        while self._endings:
            self._endings.pop()()

    def forget(self) -> None:
        """Drop what is cached."""
        if self.cache is not None:
            self.cache.clear()

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "te_" in statement:
            self.sent.append(statement)


# Nobody, then one after the other; and once more the other way round.
_ORDER = (None, *TENANTS, None, *reversed(TENANTS), None)
_HALF = 3


class Theatre:
    """One application on two stages: what its tenants see with a cache is compared with what they see without."""

    def __init__(self, cached: Stage, plain: Stage, way: Callable[[Stage], Enter]) -> None:
        self.cached = cached
        self._enter = way(cached)
        self._enter_plainly = way(plain)

    def read(self, tenant: str | None, read: Read) -> Any:
        """Read as a tenant through the cache; an error counts as an answer."""
        return _answer(self._enter, tenant, read)

    def truth(self, tenant: str | None, read: Read) -> Any:
        """Read as a tenant past it."""
        return _answer(self._enter_plainly, tenant, read)

    def wrong(self, names: Iterable[str]) -> list[str]:
        """Read as each tenant, after the other and after itself; name what is not what it should be."""
        told = []
        for name in names:
            read = READS[name]
            truth = {tenant: self.truth(tenant, read) for tenant in (None, *TENANTS)}
            for at, tenant in enumerate(_ORDER):
                if at == _HALF:
                    # The other one first.
                    self.cached.forget()
                answer = self.read(tenant, read)
                if answer != truth[tenant]:
                    told.append(f"{name}, {at}: {tenant} was shown {answer}, not {truth[tenant]}")
        return told

    def asked(self, names: Iterable[str]) -> list[str]:
        """Name the reads that a cache may answer, and that asked the database again."""
        told = []
        for name, read in [(name, CACHED[name]) for name in names if name in CACHED]:
            for tenant in TENANTS:
                # Once to have the catalog read again, which was forgotten with everything else.
                self.read(tenant, read)
                self.read(tenant, read)
                self.cached.sent.clear()
                self.read(tenant, read)
                if self.cached.sent:
                    told.append(f"{name} of {tenant}")
        return told

    def rename(self, tenant: str) -> None:
        """Give the first shelf that a tenant is shown, and its books, other names."""

        def write(session: Session) -> None:
            shelf = session.scalars(select(Shelf).order_by(Shelf.id)).first()
            assert shelf is not None
            shelf.name += "!"
            for book in shelf.books:
                book.title += "!"
            session.commit()

        assert _answer(self._enter, tenant, write) is None


def _answer(enter: Enter, tenant: str | None, read: Read) -> Any:
    with being(tenant), enter() as session:
        try:
            return read(session)
        except Exception as error:
            return f"{type(error).__name__}: {error}"


@contextmanager
def being(tenant: str | None) -> Iterator[None]:
    """Be a tenant for a while."""
    token = TENANT.set(tenant)
    try:
        yield
    finally:
        TENANT.reset(token)
