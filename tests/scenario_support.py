"""What do the scenario tests share? A shop, a database with the cache in front of it, and the question "is it true?".

``World`` has two engines on one database: one attached to a cache, and one that the cache does not know of, which tells
what the database says. Nothing here sleeps: MariaDB's engines are at READ COMMITTED, so that what is read is stored at
once, unless a test is about isolation.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

from sqlalchemy import Column, Engine, ForeignKey, MetaData, Numeric, String, Table, event, func, inspect, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from querycache import Event, QueryCache

Read = Callable[[Session], Any]

_TABLE = re.compile(r"\bs[a-z]_[a-z_]+")


class Shop(DeclarativeBase):
    pass


labels = Table(
    "sc_label",
    Shop.metadata,
    Column("product_id", ForeignKey("sc_product.id"), primary_key=True),
    Column("tag_id", ForeignKey("sc_tag.id"), primary_key=True),
)


class Category(Shop):
    __tablename__ = "sc_category"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    products: Mapped[list[Product]] = relationship(
        back_populates="category", order_by="Product.id", cascade="all, delete-orphan"
    )


class Product(Shop):
    __tablename__ = "sc_product"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    category_id: Mapped[int] = mapped_column(ForeignKey("sc_category.id"))
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    views: Mapped[int] = mapped_column(default=0)
    note: Mapped[str | None] = mapped_column(String(50))
    category: Mapped[Category] = relationship(back_populates="products")
    tags: Mapped[list[Tag]] = relationship(secondary=labels, back_populates="products", order_by="Tag.id")


class Tag(Shop):
    __tablename__ = "sc_tag"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50))
    products: Mapped[list[Product]] = relationship(secondary=labels, back_populates="tags", order_by="Product.id")


def stock(session: Session) -> None:
    """Put two categories, four products and two tags into the shop."""
    session.add_all([Category(id=1, name="fruit"), Category(id=2, name="roots")])
    session.add_all([Tag(id=1, name="red"), Tag(id=2, name="green")])
    session.flush()
    stocked = [
        (1, "apple", 1, "1.50", 10),
        (2, "pear", 1, "2.00", 20),
        (3, "carrot", 2, "0.50", 30),
        (4, "leek", 2, "0.75", 40),
    ]
    session.add_all(
        Product(id=id_, name=name, category_id=category, price=Decimal(price), views=views)
        for id_, name, category, price, views in stocked
    )
    session.flush()
    session.execute(labels.insert(), [{"product_id": 1, "tag_id": 1}, {"product_id": 2, "tag_id": 2}])
    if session.get_bind().dialect.name == "postgresql":
        # What was inserted with its key did not move the sequence.
        for name in ("sc_category", "sc_product", "sc_tag"):
            session.execute(text(f"SELECT setval('{name}_id_seq', (SELECT max(id) FROM {name}))"))


class World:
    """A database, an engine with the cache in front of it, and an engine without."""

    def __init__(self, engine: Engine, outside: Engine, cache: QueryCache) -> None:
        self.engine = engine
        self.outside = outside
        self.cache = cache
        self.sent: list[str] = []
        self.checkouts = 0
        self.thread = threading.get_ident()
        event.listen(engine, "before_cursor_execute", self._count)
        # What is checked out goes back. Who listens to "checkout" may set connections: then a hit asks for one.
        event.listen(engine, "checkin", self._checked_out)
        # SQLAlchemy words some errors otherwise where nobody listens.
        event.listen(outside, "before_cursor_execute", lambda *told: None)

    @property
    def dialect(self) -> str:
        """Name the database."""
        return "mariadb" if self.engine.dialect.name == "mysql" else self.engine.dialect.name

    def _count(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.sent.append(statement)

    def _checked_out(self, *rest: Any) -> None:
        # Threads of the library's own ask what became of a commit, whenever they do: no read costs that.
        if threading.get_ident() == self.thread:
            self.checkouts += 1

    def session(self, **options: Any) -> Session:
        """Return a session in front of which the cache stands."""
        return Session(self.engine, **options)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session, and commit."""
        with self.session() as session, session.begin():
            yield session

    def read(self, read: Read) -> Any:
        """Read in a fresh session through the cache."""
        with self.session() as session:
            return read(session)

    def truth(self, read: Read) -> Any:
        """Read in a fresh session that knows no cache."""
        with Session(self.outside) as session:
            return read(session)

    def cost(self, read: Read) -> int:
        """Count the statements that a read sends; none at all means that no connection was asked for either."""
        self.sent.clear()
        checkouts = self.checkouts
        self.read(read)
        if not self.sent:
            assert self.checkouts == checkouts, "a hit checked out a connection"
        return len(self.sent)

    def assert_hit(self, read: Read) -> None:
        """Check that a read costs no statement, and tells the truth."""
        assert self.cost(read) == 0, self.sent
        assert self.read(read) == self.truth(read)

    def assert_true(self, read: Read) -> None:
        """Check that a read tells what the database says, and still does when it is read again."""
        assert self.read(read) == self.truth(read)
        assert self.read(read) == self.truth(read)

    def prime(self, *reads: Read) -> list[Any]:
        """Have reads cached, check that they are, and return what they said."""
        for read in reads:
            self.assert_true(read)
        for read in reads:
            assert self.cost(read) == 0, f"not cached: {self.sent}, {self.cache.stats()['reasons']}"
        return [self.truth(read) for read in reads]

    @contextmanager
    def expecting(
        self,
        *,
        changed: Sequence[Read] = (),
        kept: Sequence[Read] = (),
        true: Sequence[Read] = (),
        uncached: Sequence[Read] = (),
    ) -> Iterator[None]:
        """Cache all reads; then check that ``changed`` say something new and true, cached anew, and ``kept`` are still hits.

        ``true``: reads that must be true, whether anything changed for them or not; ``uncached``: such of which a part
        always asks the database.
        """
        before = self.prime(*changed)
        self.prime(*kept, *true)
        for read in uncached:
            self.assert_true(read)
        yield
        for read, old in zip(changed, before, strict=True):
            assert self.truth(read) != old, "the scenario changes nothing"
            self.assert_true(read)
            self.assert_hit(read)
        for read in (*true, *uncached):
            self.assert_true(read)
        for read in kept:
            self.assert_hit(read)

    def events(self) -> list[Event]:
        """Return a list that the cache's events are added to from now on."""
        seen: list[Event] = []
        self.cache.subscribe(seen.append)
        return seen

    def look(self, read: Read) -> tuple[Any, bool]:
        """Read through the cache; return what was said, and whether the database was spared."""
        self.sent.clear()
        return self.read(read), not self.sent

    def truth_and_tables(self, read: Read) -> tuple[Any, frozenset[str]]:
        """Read as ``truth`` does; return the names of the scenario's tables in the SQL that was sent, too."""
        seen: list[str] = []
        event.listen(self.outside, "before_cursor_execute", hear := lambda *told: seen.append(told[2]))
        truth = self.truth(read)
        event.remove(self.outside, "before_cursor_execute", hear)
        return truth, frozenset(_TABLE.findall(" ".join(seen)))


class Matrix:
    """Many reads of one world: after each change those of the tables that were written are looked at, at the end all.

    None may be anything but true, and what reads no table that was written must still be a hit. ``uncached``: names of
    reads of which a part always asks the database.
    """

    def __init__(self, world: World, reads: Mapping[str, Read], uncached: Collection[str] = ()) -> None:
        self._world = world
        self._reads = reads
        self._uncached = frozenset(uncached)
        asked = {name: world.truth_and_tables(read) for name, read in reads.items()}
        self._at_first = {name: truth for name, (truth, _) in asked.items()}
        self._tables = {name: tables for name, (_, tables) in asked.items()}
        self.begin()

    def begin(self) -> None:
        """Have everything cached, as it was when the matrix was made."""
        self._said: dict[str, Any] = dict(self._at_first)
        for read in self._reads.values():
            self._world.read(read)
        self.assert_all_stored()

    def reading(self, *tables: str) -> set[str]:
        """Return the names of the reads of which one of these tables is a part."""
        return {name for name, read in self._tables.items() if not read.isdisjoint(tables)}

    def changed_by(self, written: Collection[str], kept: Collection[str] = ()) -> set[str]:
        """Check the reads of ``written`` tables, which were just changed; return the names of those that say something new.

        ``kept``: names of reads that are hits although they read such a table.
        """
        changed, problems = set(), []
        for name in sorted(self.reading(*written)):
            said, is_hit = self._world.look(self._reads[name])
            truth = self._world.truth(self._reads[name])
            if said != truth:
                problems.append(f"{name} is stale: {said} for {truth}")
            if name in kept and not is_hit:
                problems.append(f"{name} was dropped needlessly")
            if truth != self._said[name]:
                changed.add(name)
            self._said[name] = truth
        assert not problems, problems
        return changed

    def assert_all_stored(self) -> None:
        """Check that every read is a hit, and says what the database said when it was asked last."""
        problems = []
        for name, read in self._reads.items():
            said, is_hit = self._world.look(read)
            if said != self._said[name]:
                problems.append(f"{name} is not what the database said: {said} for {self._said[name]}")
            elif not is_hit and name not in self._uncached:
                problems.append(f"{name} is not stored: {self._world.cache.stats()['reasons']}")
        assert not problems, problems


@contextmanager
def once(cache: QueryCache, kind: str, act: Callable[[], object]) -> Iterator[list[Event]]:
    """Run ``act`` in the middle of the next event of a kind, once; check that it came, and that ``act`` succeeded."""
    seen: list[Event] = []
    failed: list[BaseException] = []

    def hear(heard: Event) -> None:
        if heard.kind == kind and not seen:
            seen.append(heard)
            try:
                act()
            except BaseException as error:
                failed.append(error)
                raise

    stop = cache.subscribe(hear)
    try:
        yield seen
    finally:
        stop()
    if failed:
        raise failed[0]
    assert seen, f"no {kind} came"


def values_of(instance: Any) -> tuple[Any, ...] | None:
    """Return an instance's column values, None for no instance."""
    if instance is None:
        return None
    return tuple(getattr(instance, attribute.key) for attribute in inspect(instance).mapper.column_attrs)


def get(entity: type[Any], key: Any) -> Read:
    """Read one entity by primary key."""
    return lambda session: values_of(session.get(entity, key))


def entities(statement: Any) -> Read:
    """Read entities with all their columns."""
    return lambda session: [values_of(instance) for instance in session.scalars(statement).unique()]


def rows(statement: Any, parameters: Any = None) -> Read:
    """Read rows of columns."""
    return lambda session: [tuple(row) for row in session.execute(statement, parameters)]


def names(*conditions: Any) -> Read:
    """Read the names of the products for which all conditions hold."""
    return rows(select(Product.name).where(*conditions).order_by(Product.id))


def in_category(category_id: int) -> Read:
    """Read the products of a category."""
    return entities(select(Product).where(Product.category_id == category_id).order_by(Product.id))


def count_of(entity: type[Any]) -> Read:
    """Count the rows of an entity."""
    return rows(select(func.count()).select_from(entity))


_UNCHECKED = {
    "sqlite": ("SERIALIZABLE", "PRAGMA foreign_keys = OFF", "PRAGMA foreign_keys = ON"),
    "postgresql": ("READ COMMITTED", "SET session_replication_role = replica", "SET session_replication_role = origin"),
    "mariadb": ("READ COMMITTED", "SET foreign_key_checks = 0", "SET foreign_key_checks = 1"),
}


def refill(world: World, base: type[DeclarativeBase], stock: Callable[[Session], None]) -> None:
    """Give a database that tests share the rows that it had at first, and forget what is cached of it."""
    level, unchecked, checked = _UNCHECKED[world.dialect]
    with world.outside.connect().execution_options(isolation_level=level) as connection:
        connection.exec_driver_sql(unchecked)
        for table in base.metadata.sorted_tables:
            connection.execute(table.delete())
        with Session(connection) as session:
            stock(session)
            session.flush()
        connection.commit()
        connection.exec_driver_sql(checked)
    world.cache.invalidate_all()


def tables_of(*models: type[Any]) -> tuple[MetaData, list[Table]]:
    """Return models' metadata and tables, association tables included."""
    found: dict[Table, None] = {}
    for model in models:
        for mapper in inspect(model).self_and_descendants:
            found.update(dict.fromkeys(mapper.tables))
            found.update(
                dict.fromkeys(one.secondary for one in mapper.relationships if isinstance(one.secondary, Table))
            )
    return models[0].metadata, list(found)
