"""A hit in a near cache is decoded once for all sessions, and none of them can change what another is given."""

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
from querycache import QueryCache, entries
from querycache.rows.codec import DecodedRows, decode_rows
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
