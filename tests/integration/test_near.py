"""A near cache costs no session what it is promised: nothing is shared that one could change, nothing lags but as stated."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import JSON, Engine, String, create_engine, select, update
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from conftest import EngineFactory
from querycache import NoCache, QueryCache, entries
from querycache.coherence.moved import SnapshotMovedError
from querycache.rows.codec import DecodedRows, decode_rows
from querycache.stores import open_store
from querycache.stores.pushed import PushedStore
from redis_servers import SLOW, RedisServer, own_redis
from redis_support import new_namespace


class Base(DeclarativeBase):
    pass


class Book(Base):
    __tablename__ = "near_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(50))
    notes: Mapped[dict[str, Any]] = mapped_column(JSON)
    price: Mapped[Decimal]
    printed: Mapped[datetime]


class Shelf(Base):
    __tablename__ = "near_shelf"
    id: Mapped[int] = mapped_column(primary_key=True)
    labels: Mapped[list[str]] = mapped_column(ARRAY(String))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of the payloads that were decoded."""
    keys: list[bytes] = []

    def counting(key: bytes, payload: bytes) -> DecodedRows:
        keys.append(key)
        return decode_rows(key, payload)

    monkeypatch.setattr(entries, "decode_rows", counting)
    return keys


def add_books(engine: Engine) -> None:
    Base.metadata.tables["near_book"].create(engine)
    with Session(engine) as session:
        session.add_all(
            Book(
                id=number, title=f"t{number}", notes={"n": number}, price=Decimal(number), printed=datetime(2020, 1, 1)
            )
            for number in range(1, 6)
        )
        session.commit()


@pytest.fixture
def engine(sqlite_url: str, engine_of: EngineFactory, server: RedisServer) -> Iterator[Engine]:
    add_books(create_engine(sqlite_url))
    engine = engine_of(sqlite_url)
    cache = QueryCache(f"{server.url(new_namespace(), options=SLOW)}&near=validate", models=[Book])
    cache.attach(engine)
    yield engine
    cache.close()


def books(engine: Engine) -> list[Book]:
    with Session(engine) as session:
        return list(session.scalars(select(Book).order_by(Book.id)))


def test_a_hit_is_decoded_once(engine: Engine, decoded: list[bytes]) -> None:
    books(engine)
    for _ in range(4):
        assert [book.title for book in books(engine)] == ["t1", "t2", "t3", "t4", "t5"]
    for _ in range(4):
        with Session(engine) as session:
            assert session.get_one(Book, 1).price == 1
    assert len(decoded) == len(set(decoded)) == 2


def test_what_changed_is_decoded_anew(engine: Engine, decoded: list[bytes]) -> None:
    for title in ("one", "two"):
        with Session(engine) as session:
            session.execute(update(Book).where(Book.id == 1).values(title=title))
            session.commit()
        for _ in range(3):
            assert books(engine)[0].title == title
    assert len(decoded) == 2


def test_no_session_can_change_what_another_is_given(engine: Engine) -> None:
    books(engine)
    for _ in range(3):
        with Session(engine) as session:
            found = list(session.scalars(select(Book).order_by(Book.id)))
            assert [(book.title, book.notes) for book in found] == [(f"t{n}", {"n": n}) for n in range(1, 6)]
            for book in found:
                book.title = "changed"
                book.notes["n"] = "changed"
            found.clear()
            rows = session.execute(select(Book.id, Book.notes).order_by(Book.id)).all()
            rows[0].notes["n"] = "changed"
            session.rollback()


def test_values_that_the_driver_itself_gives_as_lists_are_not_shared(
    postgresql_url: str, engine_of: EngineFactory, server: RedisServer, decoded: list[bytes]
) -> None:
    engine = engine_of(postgresql_url)
    Base.metadata.tables["near_shelf"].create(engine)
    with Session(engine) as session:
        session.add(Shelf(id=1, labels=["a", "b"]))
        session.commit()
    cache = QueryCache(f"{server.url(new_namespace(), options=SLOW)}&near=validate", models=[Shelf])
    cache.attach(engine)
    for _ in range(4):
        with Session(engine) as session:
            labels = session.scalars(select(Shelf)).one().labels
            assert labels == ["a", "b"]
            labels.append("changed")
            session.rollback()
    assert len(decoded) == 3
    cache.close()


# -- near=push: what lags, and what does not ---------------------------------------------------------------------------

LAG_MS = 600_000
PATIENCE_S = 60.0


class Apart:
    """A process whose near cache hears nothing, and another that commits."""

    def __init__(self, url: str, server: RedisServer, engine_of: EngineFactory, **options: Any) -> None:
        add_books(engine_of(url))
        namespace = new_namespace()
        store = open_store(f"{server.url(namespace, options=SLOW)}&near=push&near_lag_ms={LAG_MS}")
        assert isinstance(store, PushedStore)
        self.store = store
        # Else every stamp would have to be a second older than the snapshot.
        store.clock_margin_s = store.strict.clock_margin_s = 0.0  # type: ignore[misc]
        self.here, self.there = engine_of(url, **options), engine_of(url)
        self.cache, self.other = QueryCache(store, models=[Book]), QueryCache(server.url(namespace), models=[Book])
        self.cache.attach(self.here)
        self.other.attach(self.there)
        for _ in range(2):
            assert self.title() == "t1"
            store.settle(PATIENCE_S)
        store._feed._hear = lambda message: None  # type: ignore[method-assign]

    def title(self) -> str:
        with Session(self.here) as session:
            return title_in(session)

    def close(self) -> None:
        self.cache.close()
        self.other.close()


def title_in(session: Session) -> str:
    return session.get_one(Book, 1).title


def rename_on(engine: Engine, title: str) -> None:
    with Session(engine) as session:
        session.execute(update(Book).where(Book.id == 1).values(title=title))
        session.commit()


@pytest.fixture
def apart(request: pytest.FixtureRequest, server: RedisServer, engine_of: EngineFactory) -> Iterator[Apart]:
    level, url = request.param
    options = {"isolation_level": level} if level else {}
    apart = Apart(request.getfixturevalue(url), server, engine_of, **options)
    yield apart
    apart.close()


COMMITTED = pytest.mark.parametrize("apart", [(None, "sqlite_url"), (None, "postgresql_url")], indirect=True)
REPEATABLE = pytest.mark.parametrize(
    "apart", [("REPEATABLE READ", "postgresql_url"), ("REPEATABLE READ", "mariadb_url")], indirect=True
)


@COMMITTED
def test_what_another_process_committed_may_be_unseen_for_the_lag(apart: Apart) -> None:
    rename_on(apart.there, "new")
    assert apart.title() == "t1", "nothing was heard yet: this is what the guarantee names"
    began = apart.store._vouched.clock()
    apart.store._vouched.clock = lambda: began + LAG_MS / 1000
    assert apart.title() == "new"


@COMMITTED
def test_what_this_process_committed_is_seen_at_once(apart: Apart) -> None:
    rename_on(apart.here, "mine")
    assert apart.title() == "mine"


@REPEATABLE
def test_a_transaction_whose_snapshot_is_taken_is_not_served_what_its_snapshot_does_not_show(apart: Apart) -> None:
    rename_on(apart.there, "new")
    with Session(apart.here) as session:
        session.execute(select(Book.price).where(Book.id == 2).options(NoCache()))
        assert title_in(session) == "new"


@REPEATABLE
def test_a_list_of_which_rows_are_held_is_not_served_past_the_snapshot_either(apart: Apart) -> None:
    statement = select(Book.title).where(Book.id == 1)
    for _ in range(3):
        with Session(apart.here) as session:
            assert session.scalars(statement).one() == "t1"
    rename_on(apart.there, "new")
    with Session(apart.here) as session:
        session.execute(select(Book.price).where(Book.id == 2).options(NoCache()))
        assert session.scalars(statement).one() == "new"


@REPEATABLE
def test_what_was_served_before_a_snapshot_that_does_not_show_it_is_noticed(apart: Apart) -> None:
    rename_on(apart.there, "new")
    with Session(apart.here) as session:
        assert title_in(session) == "t1"
        with pytest.raises(SnapshotMovedError):
            session.execute(select(Book.price).where(Book.id == 2).options(NoCache()))
        session.rollback()
    with Session(apart.here) as session:
        assert title_in(session) == "new", "who tries again is not told the same"


@COMMITTED
def test_the_guarantee_says_how_late_a_read_may_be(apart: Apart) -> None:
    told = apart.cache.guarantee
    assert (
        "less than what had been committed 600 s before it began, nor less than what had been committed through the same"
        in told
    )
    assert "nor less than what the database already showed 600 s before" in told
    assert "same QueryCache when it began.\n  Visible" in told
    assert "less than what had been committed when it began." in apart.other.guarantee
