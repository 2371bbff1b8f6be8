"""What do the tests of old images play with: shelves and books, and two transactions that meet at a forced point?

``meet`` runs one transaction in a thread until it waits for the other or is done. ``Locks`` says which rows are locked,
and how: it tries each lock without waiting.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, ForeignKey, NullPool, String, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from querycache import QueryCache
from querycache.stores.memory import MemoryStore

GIVE_UP_S = 30.0
POLL_S = 0.12  # InnoDB says nothing new to those who ask more often than each 0.1 s
MODES = {"postgresql": ("KEY SHARE", "SHARE", "NO KEY UPDATE", "UPDATE"), "mysql": ("UPDATE",)}

_WAITING = {
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
    "mysql": "SELECT COUNT(*) FROM information_schema.innodb_trx JOIN information_schema.processlist "
    "ON id = trx_mysql_thread_id WHERE db = DATABASE() AND trx_state = 'LOCK WAIT'",
}


class Base(DeclarativeBase):
    pass


class Shelf(Base):
    __tablename__ = "shelf"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    code: Mapped[int] = mapped_column(unique=True)
    floor: Mapped[int]
    name: Mapped[str] = mapped_column(String(50))


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    shelf_id: Mapped[int] = mapped_column(ForeignKey("shelf.id", ondelete="CASCADE"), index=True)
    title: Mapped[str] = mapped_column(String(50))
    stock: Mapped[int] = mapped_column(default=0)


class Leaf(Base):
    """Refers to nothing, and nothing to it."""

    __tablename__ = "leaf"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int]
    stock: Mapped[int] = mapped_column(default=0)


@dataclass(frozen=True)
class Meeting:
    """What became of two transactions: whether the one had to wait, and the errors that either met."""

    waited: bool
    errors: tuple[str, ...]


@dataclass
class Library:
    """A database with three shelves, three books and nine leaves, an application that is cached, and another that is not."""

    url: str
    old_images: bool
    isolation: str = "READ COMMITTED"

    def __post_init__(self) -> None:
        options: dict[str, Any] = {"isolation_level": self.isolation}
        if self.url.startswith("postgresql"):
            options["connect_args"] = {"options": "-c deadlock_timeout=20ms -c lock_timeout=20s"}
        self.engine = create_engine(self.url, **options)
        self.other = create_engine(self.url, **options)
        self.watch = create_engine(self.url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
        Base.metadata.drop_all(self.other)
        Base.metadata.create_all(self.other)
        with Session(self.other) as session:
            session.add_all([Shelf(id=number, code=number, floor=1, name="s") for number in (1, 2, 3)])
            session.flush()
            session.add_all([Book(id=number, shelf_id=number, title="b", stock=1) for number in (1, 2, 3)])
            session.add_all([Leaf(id=number, number=number, stock=1) for number in range(1, 10)])
            session.commit()
        self.store = MemoryStore()
        self.cache = QueryCache(self.store, models=[Shelf, Book, Leaf], old_images=self.old_images)
        self.cache.attach(self.engine)

    def close(self) -> None:
        for engine in (self.engine, self.other, self.watch):
            engine.dispose()
        self.cache.close()

    @property
    def _kind(self) -> str:
        return "postgresql" if self.engine.dialect.name == "postgresql" else "mysql"

    def is_waiting(self) -> bool:
        """Tell whether some transaction of this database waits for a lock."""
        with self.watch.connect() as connection:
            return bool(connection.exec_driver_sql(_WAITING[self._kind]).scalar())

    def locks(self, table: str, keys: Sequence[int]) -> dict[int, str]:
        """Return by primary key the weakest way to lock a row that is refused now; rows that nobody locks are left out."""
        found: dict[int, str] = {}
        for key in keys:
            for mode in MODES[self._kind]:
                if self._is_refused(f"SELECT id FROM {table} WHERE id = {key} FOR {mode} NOWAIT"):
                    found[key] = mode
                    break
        return found

    def _is_refused(self, statement: str) -> bool:
        with self.other.connect() as connection:
            try:
                connection.execute(text(statement))
            except DBAPIError:
                return True
            return False


def meet(
    library: Library,
    change: Callable[[Session], object],
    *,
    hold: Callable[[Connection], object],
    go_on: Callable[[Connection], object],
) -> Meeting:
    """Have another transaction ``hold`` something, run ``change`` until it waits or is done, then have the other ``go_on``."""
    errors: list[str] = []
    changing = threading.Thread(target=_commit, args=(library.engine, change, errors))
    with library.other.connect() as other:
        hold(other)
        changing.start()
        waited = _waits(library, changing)
        try:
            go_on(other)
            other.commit()
        except DBAPIError as error:
            errors.append(type(error.orig).__name__)
            other.rollback()
    changing.join(GIVE_UP_S)
    assert not changing.is_alive()
    return Meeting(waited, tuple(errors))


def _commit(engine: Engine, change: Callable[[Session], object], errors: list[str]) -> None:
    with Session(engine) as session:
        try:
            change(session)
            session.commit()
        except DBAPIError as error:
            errors.append(type(error.orig).__name__)


def _waits(library: Library, thread: threading.Thread) -> bool:
    deadline = time.monotonic() + GIVE_UP_S
    while thread.is_alive():
        if library.is_waiting():
            return True
        assert time.monotonic() < deadline, "it neither waits nor ends"
        thread.join(POLL_S)
    return False
