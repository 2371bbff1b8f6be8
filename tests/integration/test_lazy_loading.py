"""A lazy load of a many-to-one is answered like ``get``, and is what the ORM's own loader would have given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import event, inspect, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, raiseload, relationship
from sqlalchemy.schema import ForeignKey

from loading_support import Library, library_of, nothing
from querycache import _lazyloads


class Base(DeclarativeBase):
    pass


class City(Base):
    __tablename__ = "city"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Street(Base):
    __tablename__ = "street"
    id: Mapped[int] = mapped_column(primary_key=True)
    city_id: Mapped[int | None] = mapped_column(ForeignKey("city.id"))
    next_id: Mapped[int | None] = mapped_column(ForeignKey("city.id"))
    city: Mapped[City | None] = relationship(foreign_keys=city_id)
    next: Mapped[City | None] = relationship(foreign_keys=next_id)


class House(Base):
    __tablename__ = "house"
    id: Mapped[int] = mapped_column(primary_key=True)
    street_id: Mapped[int] = mapped_column(ForeignKey("street.id"))
    street: Mapped[Street] = relationship()
    only: Mapped[Street] = relationship(viewonly=True, lazy="raise_on_sql")


class Room(Base):
    __tablename__ = "room"
    id: Mapped[int] = mapped_column(primary_key=True)
    house_id: Mapped[int] = mapped_column(ForeignKey("house.id"))
    house: Mapped[House] = relationship(lazy="joined")
    desks: Mapped[list[Desk]] = relationship(lazy="selectin", order_by="Desk.id", back_populates="room")


class Desk(Base):
    __tablename__ = "desk"
    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int] = mapped_column(ForeignKey("room.id"))
    room: Mapped[Room] = relationship(back_populates="desks")


def fill(session: Session) -> None:
    session.add_all([City(id=1, name="here"), City(id=2, name="there")])
    session.flush()
    session.add_all([Street(id=1, city_id=1, next_id=2), Street(id=2, city_id=1), Street(id=3)])
    session.flush()
    session.add_all([House(id=number, street_id=number) for number in (1, 2, 3)])
    session.flush()
    session.add_all([Room(id=1, house_id=1), Room(id=2, house_id=1)])
    session.flush()
    session.add_all([Desk(id=1, room_id=1), Desk(id=2, room_id=1), Desk(id=3, room_id=2)])


@pytest.fixture
def library(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    with library_of(sqlite_url, Base, [City, Street, House, Room, Desk], fill, monkeypatch) as library:
        yield library


STREETS = select(Street).order_by(Street.id)
DESKS = select(Desk).order_by(Desk.id)
HOUSES = select(House).order_by(House.id)
WITH_STREET = HOUSES.options(joinedload(House.street))
RAISING = STREETS.options(raiseload(Street.next))

WAYS: dict[str, Callable[[Session], Any]] = {
    "one": lambda session: [street.city for street in session.scalars(STREETS)],
    "two to one class": lambda session: [(street.next, street.city) for street in session.scalars(STREETS)],
    "the other first": lambda session: [street.next for street in session.scalars(STREETS)],
    "further": lambda session: [house.street.city for house in session.scalars(HOUSES)],
    "below what is joined": lambda session: [house.street.city for house in session.scalars(WITH_STREET)],
    "beside what raises": lambda session: [street.city for street in session.scalars(RAISING)],
    "of what loads along": lambda session: [desk.room for desk in session.scalars(DESKS)],
    "after get": lambda session: [session.get(City, 1), session.get_one(Street, 1).city],
    "before get": lambda session: [session.get_one(Street, 1).city, session.get(City, 1)],
    "what raises": lambda session: session.get_one(House, 1).only,
    "of what is new": lambda session: new(session).city,
    "of what is changed": lambda session: moved(session).city,
    "of a key that is not there": lambda session: moved(session, to=99).city,
    "of what was put there just now": lambda session: put(session).city,
    "refreshed": lambda session: refreshed(session),
}


def new(session: Session) -> Street:
    street = Street(id=9, city_id=2)
    session.add(street)
    session.flush()
    return street


def moved(session: Session, to: int = 2) -> Street:
    street = session.get_one(Street, 1)
    street.city_id = to
    return street


def put(session: Session) -> Street:
    street = session.get_one(Street, 3)
    street.city_id = 7
    session.info["kept"] = City(id=7, name="new")
    session.add(session.info["kept"])
    return street


def refreshed(session: Session) -> Any:
    city = session.get_one(Street, 1).city
    assert city is not None
    session.refresh(city)
    return city


def cities(session: Session) -> Any:
    return session.scalars(select(City)).all()


def expired_city(session: Session) -> Any:
    city = session.get_one(City, 1)
    session.expire(city)
    return city


@pytest.mark.parametrize("before", [nothing, cities, expired_city])
@pytest.mark.parametrize("how", WAYS)
def test_a_lazy_load_leaves_what_the_ordinary_one_leaves(
    library: Library, how: str, before: Callable[[Session], Any]
) -> None:
    library.check(WAYS[how], before=before)


def test_one_entry_serves_gets_and_lazy_loads_by_whichever_way(library: Library) -> None:
    for _ in range(3):
        with Session(library.cached) as session:
            session.get(City, 1)
    with Session(library.cached) as session:
        streets = session.scalars(STREETS).all()
        library.sent.clear()
        assert [street.city for street in streets[:2]] == [session.get(City, 1)] * 2
        assert library.sent == []


def test_a_lazy_load_is_learnt_without_any_get(library: Library) -> None:
    library.check(WAYS["one"])
    assert library.made.count(1) == 1
    assert library.sent == []


def test_a_lazy_load_sees_a_change_at_once(library: Library) -> None:
    library.check(WAYS["one"])
    with Session(library.cached) as session:
        session.get_one(City, 1).name = "changed"
        session.commit()
    library.check(WAYS["one"])


@pytest.mark.parametrize("name", ["do_orm_execute", "loaded_as_persistent"])
def test_who_listens_to_a_session_hears_of_lazy_loads(library: Library, name: str) -> None:
    library.check(WAYS["one"])
    heard: list[Any] = []
    for engine in (library.plain, library.cached):
        with Session(engine) as session:
            event.listen(session, name, lambda *arguments: heard.append(len(arguments)))
            assert session.get_one(Street, 1).city is not None
    assert len(heard) == 4


def test_no_lazy_load_of_an_engine_without_a_cache_is_touched(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise AssertionError("the path of a load that is none of ours")

    library.check(WAYS["one"])
    monkeypatch.setattr(_lazyloads, "_leave_path", fail)
    with Session(library.plain) as session:
        assert [street.city_id for street in session.scalars(STREETS) if street.city] == [1, 1]


def test_this_release_has_lazy_loads_as_they_are_expected() -> None:
    assert _lazyloads.LOADER._emit_lazyload.__wrapped__ is not None
    loader = inspect(Street).relationships["city"]._get_strategy((("lazy", "select"),))
    assert isinstance(loader, _lazyloads.LOADER)
    assert _lazyloads._is_bare(inspect(City))
    assert not loader._raise_on_sql
