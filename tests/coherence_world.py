"""What do the coherence tests play with: two tables, a store that can be stopped at each verb, several "processes"?

A process is a ``QueryCache`` of its own with an engine of its own; processes share the database and the store. Interleavings
are forced: a test hangs a callable on a verb of the store, and what it does happens right there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Engine, ForeignKey, String, create_engine, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from querycache import QueryCache
from querycache._types import Guard, Lease, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import StoreUnavailable
from querycache.stores.memory import MemoryStore


class Base(DeclarativeBase):
    pass


class Category(Base):
    __tablename__ = "category"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))
    products: Mapped[list[Product]] = relationship(back_populates="category", order_by="Product.id")


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(String(50))
    stock: Mapped[int] = mapped_column(default=0)
    category_id: Mapped[int] = mapped_column(ForeignKey("category.id"), index=True)
    category: Mapped[Category] = relationship(back_populates="products")


Callback = Callable[[], object]


class StagedStore(MemoryStore):
    """A memory store that calls back around its verbs, fails on demand, and whose clock can be moved on."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, Callback] = {}
        self.after: dict[str, Callback] = {}
        self.failing: set[str] = set()
        self.calls: list[str] = []
        self._ahead = 0

    def advance(self, seconds: float) -> None:
        """Let time pass on the store's clock."""
        self._ahead += int(seconds * 1e9)

    def _ticks(self) -> int:
        return time.monotonic_ns() + self._ahead

    @contextmanager
    def _verb(self, name: str) -> Iterator[None]:
        self.calls.append(name)
        _once(self.before, name)
        if name in self.failing:
            raise StoreUnavailable(f"{name} was told to fail")
        yield
        _once(self.after, name)

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        with self._verb("lookup"):
            return super().lookup(key, tags)

    def fill(self, key: bytes, payload: bytes, lease: Lease, ttl_s: float) -> bool:
        with self._verb("fill"):
            return super().fill(key, payload, lease, ttl_s)

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        with self._verb("mark"):
            return super().mark(tags, writer, ttl_s)

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        with self._verb("mark"):
            return super().mark_and_look(tags, guard, writer, ttl_s)

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        with self._verb("release"):
            super().release(tags, writer)


def _once(callbacks: dict[str, Callback], name: str) -> None:
    callback = callbacks.pop(name, None)
    if callback is not None:
        callback()


@dataclass
class Process:
    """One process of an application: an engine, attached or not, and a count of the SELECTs that it sent."""

    engine: Engine
    cache: QueryCache | None
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        event.listen(self.engine, "before_cursor_execute", self._note)

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.sent.append(statement)

    def session(self, **options: Any) -> Session:
        return Session(self.engine, **options)

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """Collect the SELECTs sent in the block."""
        start = len(self.sent)
        selects: list[str] = []
        yield selects
        selects.extend(sent for sent in self.sent[start:] if sent.lstrip().upper().startswith("SELECT"))

    def counts(self) -> dict[str, int]:
        assert self.cache is not None
        return self.cache.events.counts()


@dataclass
class World:
    """A database with the two tables filled, and the processes that use it."""

    url: str
    store: StagedStore = field(default_factory=StagedStore)
    processes: list[Process] = field(default_factory=list)
    use_wal: bool = True

    def process(self, *, cached: bool = True, engine: Engine | None = None, **options: Any) -> Process:
        """Start a process; ``options`` are those of ``QueryCache``, and ``engine_...`` those of ``create_engine``."""
        engine_options = {name[7:]: options.pop(name) for name in list(options) if name.startswith("engine_")}
        engine = engine or make_engine(self.url, use_wal=self.use_wal, **engine_options)
        cache = None
        if cached:
            cache = QueryCache(self.store, models=[Category, Product], **options)
            cache.attach(engine)
        self.processes.append(Process(engine, cache))
        return self.processes[-1]

    def fill(self) -> None:
        """Make the tables: categories 3, 7, 9; products 1 (in 3) and 2 (in 7)."""
        engine = make_engine(self.url, use_wal=self.use_wal)
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add_all([Category(id=number, name=f"c{number}") for number in (3, 7, 9)])
            session.flush()
            session.add_all(
                [Product(id=1, name="a", category_id=3), Product(id=2, name="z", category_id=7)],
            )
            session.commit()
        engine.dispose()

    def close(self) -> None:
        """Close the engines, and what the caches owe."""
        for process in self.processes:
            process.engine.dispose()
            if process.cache is not None:
                process.cache.close()


def make_engine(url: str, *, use_wal: bool = True, **options: Any) -> Engine:
    """Make an engine; by default SQLite files are in WAL mode, where readers and a writer don't wait for each other."""
    engine = create_engine(url, **options)
    if use_wal and engine.dialect.name == "sqlite" and url != "sqlite://":

        @event.listens_for(engine, "connect")
        def set_journal_mode(raw: Any, record: Any) -> None:
            raw.execute("PRAGMA journal_mode=WAL")
            raw.execute("PRAGMA busy_timeout=0")

    return engine


def begin_for_real(engine: Engine) -> None:
    """Have SQLite's driver begin transactions when SQLAlchemy does: the recipe of SQLAlchemy's documentation."""

    @event.listens_for(engine, "connect")
    def leave_begin_to_us(raw: Any, record: Any) -> None:
        raw.isolation_level = None

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN")


def names_in(session: Session, category_id: int) -> list[str]:
    """Read the list of a category's products."""
    statement = select(Product).where(Product.category_id == category_id).order_by(Product.id)
    return [product.name for product in session.scalars(statement)]


def name_of(session: Session, product_id: int = 1) -> str | None:
    """Read one product's name."""
    return session.scalars(select(Product.name).where(Product.id == product_id)).one_or_none()


def read_in(process: Process, read: Callable[[Session], Any]) -> Any:
    """Read in a session of its own."""
    with process.session() as session:
        return read(session)


def category_of(session: Session, category_id: int = 3) -> str:
    """Read one category's name."""
    return session.scalars(select(Category.name).where(Category.id == category_id)).one()


def pin(session: Session) -> None:
    """Take the transaction's snapshot, by a plain SELECT that is not cached."""
    session.connection().execute(text("SELECT name FROM category WHERE id = 9")).all()


def repeatable(world: World, **options: Any) -> Process:
    """Start a process that reads under REPEATABLE READ."""
    return world.process(engine_isolation_level="REPEATABLE READ", **options)


def rename(process: Process, name: str, product_id: int = 1) -> None:
    """Change a product's name and commit."""
    with process.session() as session:
        session.get_one(Product, product_id).name = name
        session.commit()


def is_hit(process: Process, read: Callable[[Session], Any] = name_of) -> bool:
    """Tell whether a read in a session of its own is answered without a SELECT."""
    with process.counting() as selects:
        read_in(process, read)
    return not selects
