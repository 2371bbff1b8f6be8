"""B. Inheritance: a query of any class of a hierarchy follows writes of every other, in whatever tables their columns are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, insert, select, update
from sqlalchemy.ext.declarative import AbstractConcreteBase, ConcreteBase
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    configure_mappers,
    joinedload,
    mapped_column,
    relationship,
    selectin_polymorphic,
    selectinload,
    with_polymorphic,
)

from scenario_support import Matrix, Read, World, count_of, entities, get, refill, rows, values_of


class Firm(DeclarativeBase):
    pass


class Company(Firm):
    __tablename__ = "si_company"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    people: Mapped[list[Person]] = relationship(back_populates="company", order_by="Person.id")


class Person(Firm):
    __tablename__ = "si_person"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(20))
    company_id: Mapped[int] = mapped_column(ForeignKey("si_company.id"))
    company: Mapped[Company] = relationship(back_populates="people")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012


class Worker(Person):
    __tablename__ = "si_worker"

    id: Mapped[int] = mapped_column(ForeignKey("si_person.id"), primary_key=True)
    wage: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "worker"}  # noqa: RUF012


class Boss(Worker):
    __tablename__ = "si_boss"

    id: Mapped[int] = mapped_column(ForeignKey("si_worker.id"), primary_key=True)
    budget: Mapped[int]
    cars: Mapped[list[Car]] = relationship(order_by="Car.id")
    __mapper_args__ = {"polymorphic_identity": "boss"}  # noqa: RUF012


class Trainee(Worker):
    """A worker in the workers' own table."""

    __mapper_args__ = {"polymorphic_identity": "trainee"}  # noqa: RUF012


class Client(Person):
    __tablename__ = "si_client"

    id: Mapped[int] = mapped_column(ForeignKey("si_person.id"), primary_key=True)
    debt: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "client"}  # noqa: RUF012


class Car(Firm):
    __tablename__ = "si_car"

    id: Mapped[int] = mapped_column(primary_key=True)
    boss_id: Mapped[int] = mapped_column(ForeignKey("si_boss.id"))
    name: Mapped[str] = mapped_column(String(20))


class Beast(Firm):
    __tablename__ = "si_beast"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "beast"}  # noqa: RUF012


class Cat(Beast):
    lives: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "cat", "polymorphic_load": "inline"}  # noqa: RUF012


class Lion(Cat):
    mane: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "lion", "polymorphic_load": "inline"}  # noqa: RUF012


class Boat(ConcreteBase, Firm):
    __tablename__ = "si_boat"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "boat", "concrete": True}  # noqa: RUF012


class Ship(Boat):
    __tablename__ = "si_ship"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    masts: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "ship", "concrete": True}  # noqa: RUF012


class Fruit(AbstractConcreteBase, Firm):
    strict_attrs = True
    name = mapped_column(String(20))


class Apple(Fruit):
    __tablename__ = "si_apple"

    id: Mapped[int] = mapped_column(primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "apple", "concrete": True}  # noqa: RUF012


class Pear(Fruit):
    __tablename__ = "si_pear"

    id: Mapped[int] = mapped_column(primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "pear", "concrete": True}  # noqa: RUF012


configure_mappers()


def classes_loading(load: Any) -> Any:
    """Map the joined hierarchy once more, subclasses loaded with the base in one way."""

    class Base(DeclarativeBase):
        metadata = Firm.metadata

    class OwnPerson(Base):
        __table__ = Person.__table__
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012

    class OwnWorker(OwnPerson):
        __table__ = Worker.__table__
        __mapper_args__ = {"polymorphic_identity": "worker", "polymorphic_load": load}  # noqa: RUF012

    class OwnBoss(OwnWorker):
        __table__ = Boss.__table__
        __mapper_args__ = {"polymorphic_identity": "boss", "polymorphic_load": load}  # noqa: RUF012

    class OwnTrainee(OwnWorker):
        __mapper_args__ = {"polymorphic_identity": "trainee", "polymorphic_load": load}  # noqa: RUF012

    class OwnClient(OwnPerson):
        __table__ = Client.__table__
        __mapper_args__ = {"polymorphic_identity": "client", "polymorphic_load": load}  # noqa: RUF012

    return OwnPerson


def stock_firm(session: Session) -> None:
    session.add_all([Company(id=1, name="acme"), Company(id=2, name="zorg"), Company(id=3, name="none")])
    session.flush()
    session.add_all(
        [
            Person(id=1, name="pam", company_id=1),
            Worker(id=2, name="wim", company_id=1, wage=10),
            Boss(id=3, name="bea", company_id=1, wage=90, budget=5),
            Client(id=4, name="cid", company_id=1, debt=7),
            Trainee(id=5, name="tim", company_id=1, wage=1),
            Boss(id=6, name="bob", company_id=2, wage=80, budget=1),
            Beast(id=1, name="ant"),
            Cat(id=2, name="tom", lives=9),
            Lion(id=3, name="leo", lives=1, mane=4),
            Boat(id=1, name="dory"),
            Ship(id=2, name="argo", masts=1),
            Apple(id=1, name="cox"),
            Pear(id=1, name="anjou"),
        ]
    )
    session.flush()
    session.add_all([Car(id=1, boss_id=3, name="audi"), Car(id=2, boss_id=6, name="fiat")])


@pytest.fixture(scope="module")
def standing_firm(standing: Any) -> World:
    world: World = standing(Company, Person, Car, Beast, Boat, Apple, Pear)
    return world


@pytest.fixture
def firm(standing_firm: World) -> World:
    refill(standing_firm, Firm, stock_firm)
    return standing_firm


def of_all(statement: Any) -> Read:
    """Read entities of several classes with all that each of them has."""
    return lambda session: [(type(one).__name__, values_of(one)) for one in session.scalars(statement).unique()]


def named(statement: Any) -> Read:
    """Read entities of several tables, each with what all of them have."""
    return lambda session: [(type(one).__name__, one.id, one.name) for one in session.scalars(statement)]


def staff(*options: Any) -> Read:
    """Read companies with their people, and all that each of them has."""
    statement = select(Company).order_by(Company.id).options(*options)
    return lambda session: [
        (company.name, [(type(one).__name__, values_of(one)) for one in company.people])
        for company in session.scalars(statement).unique()
    ]


EVERYBODY = with_polymorphic(Person, "*")
WHOEVER = with_polymorphic(Person, "*", flat=True)
FLAT = with_polymorphic(Person, [Worker, Boss], flat=True, aliased=True)
EMPLOYED = with_polymorphic(Person, [Worker])
OTHER = aliased(Boss, flat=True)
INLINE, SELECTIN = classes_loading("inline"), classes_loading("selectin")
BEASTS = with_polymorphic(Beast, "*")

READS: dict[str, Read] = {
    "columns of the base": rows(select(Person.name, Person.kind).order_by(Person.id)),
    "everybody": of_all(select(EVERYBODY).order_by(EVERYBODY.id)),
    "everybody by a subclass's column": rows(
        select(EVERYBODY.name).where(EVERYBODY.Worker.wage > 20).order_by(EVERYBODY.id)
    ),
    "flat": of_all(select(FLAT).where(FLAT.kind != "client", FLAT.Worker.wage > 0).order_by(FLAT.id)),
    "some": rows(select(EMPLOYED.name, EMPLOYED.Worker.wage).order_by(EMPLOYED.id)),
    "selectin_polymorphic": of_all(
        select(Person).order_by(Person.id).options(selectin_polymorphic(Person, [Worker, Boss, Client]))
    ),
    "the mapper says selectin": of_all(select(SELECTIN).order_by(SELECTIN.__table__.c.id)),
    "a subclass": of_all(select(Boss).order_by(Boss.id)),
    "a subclass in the table of its base": of_all(select(Trainee).order_by(Trainee.id)),
    "a middle class's columns": rows(select(Worker.name, Worker.wage).order_by(Worker.id)),
    "an alias of a subclass": rows(
        select(Worker.name, OTHER.budget).outerjoin(OTHER, OTHER.id == Worker.id).order_by(Worker.id)
    ),
    "get of a subclass": get(Boss, 3),
    "get of a subclass in the table of its base": get(Trainee, 5),
    "get of a sibling": get(Client, 4),
    "count of the base": count_of(Person),
    "count of a middle class": count_of(Worker),
    "count of a subclass in the table of its base": count_of(Trainee),
    "join to a subclass": rows(
        select(Company.name, Worker.wage)
        .join(Company.people.of_type(Worker))
        .where(Worker.wage > 5)
        .order_by(Worker.id)
    ),
    "any of a subclass": rows(
        select(Company.name).where(Company.people.of_type(Boss).any(Boss.budget > 3)).order_by(Company.id)
    ),
    "related, selectin": staff(selectinload(Company.people.of_type(WHOEVER))),
    "related, joined": staff(joinedload(Company.people.of_type(WHOEVER))),
    "related, selectin_polymorphic": staff(
        selectinload(Company.people).options(selectin_polymorphic(Person, [Worker, Boss, Client]))
    ),
    "related to a subclass": lambda session: [
        (boss.name, [car.name for car in boss.cars])
        for boss in session.scalars(select(Boss).order_by(Boss.id).options(selectinload(Boss.cars)))
    ],
    "related to a subclass of the base": lambda session: [
        (one.name, [car.name for car in one.cars] if isinstance(one, Boss) else [])
        for one in session.scalars(
            select(Person)
            .order_by(Person.id)
            .options(selectin_polymorphic(Person, [Worker, Boss, Client]), selectinload(Boss.cars))
        )
    ],
    "single: everything": of_all(select(BEASTS).order_by(BEASTS.id)),
    "single: a subclass": of_all(select(Cat).order_by(Cat.id)),
    "single: a subclass's subclass": of_all(select(Lion).order_by(Lion.id)),
    "single: get": get(Lion, 3),
    "single: count": count_of(Cat),
    "single: columns": rows(select(Cat.name, Cat.lives).order_by(Cat.id)),
    "concrete: the base with the rest": named(select(Boat).order_by(Boat.id, Boat.name)),
    "concrete: a subclass": rows(select(Ship.name, Ship.masts)),
    "concrete: an abstract base": named(select(Fruit).order_by(Fruit.name)),
    "concrete: one of an abstract base": entities(select(Pear)),
}
# Attributes of a subclass that a query of the base loads later are asked for each time, as are those of a subclass's
# subclass that the mapper says are loaded inline.
UNCACHED: dict[str, Read] = {
    "base": of_all(select(Person).order_by(Person.id)),
    "get of the base": get(Person, 3),
    "the mapper says inline": of_all(select(INLINE).order_by(INLINE.__table__.c.id)),
    "single: base": of_all(select(Beast).order_by(Beast.id)),
}
KEPT: dict[str, Read] = {
    "kept get": get(Boss, 6),
    "kept columns": rows(select(Boss.name, Boss.wage).where(Boss.id == 6)),
    "kept list": rows(select(Person.name).where(Person.company_id == 2)),
    "kept cars": rows(select(Car.name).where(Car.boss_id == 6)),
    "kept beast": get(Beast, 1),
}
Change = Callable[[Session], Any]


def set_on(entity: type[Any], key: Any, **new: Any) -> Change:
    def change(session: Session) -> None:
        instance = session.get_one(entity, key)
        for attribute, value in new.items():
            setattr(instance, attribute, value)

    return change


# By what is written: the changes, one after the other, each with its tables.
CHANGES: dict[str, list[tuple[Change, set[str]]]] = {
    "the base": [
        (lambda session: session.add(Person(id=9, name="new", company_id=1)), {"si_person"}),
        (set_on(Person, 1, name="paula"), {"si_person"}),
        (set_on(Person, 3, name="berta"), {"si_person"}),
        (lambda session: session.delete(session.get_one(Person, 9)), {"si_person"}),
    ],
    "the base, of subclasses": [
        (set_on(Boss, 3, name="berta"), {"si_person"}),
        (set_on(Trainee, 5, name="tina"), {"si_person"}),
        (set_on(Client, 4, name="carl"), {"si_person"}),
        (set_on(Worker, 2, company_id=3), {"si_person"}),
    ],
    "a middle class": [
        (set_on(Worker, 2, wage=25), {"si_worker"}),
        (set_on(Boss, 3, wage=4), {"si_worker"}),
        (set_on(Person, 5, wage=30), {"si_worker"}),
    ],
    "a subclass": [
        (set_on(Boss, 3, budget=2), {"si_boss"}),
        (
            lambda session: session.add(Boss(id=8, name="ben", company_id=1, wage=50, budget=9)),
            {"si_person", "si_worker", "si_boss"},
        ),
        (lambda session: session.delete(session.get_one(Person, 8)), {"si_person", "si_worker", "si_boss"}),
        (set_on(Client, 4, debt=0), {"si_client"}),
    ],
    "a subclass without a table": [
        (lambda session: session.add(Trainee(id=8, name="tam", company_id=1, wage=3)), {"si_person", "si_worker"}),
        (lambda session: session.delete(session.get_one(Worker, 8)), {"si_person", "si_worker"}),
    ],
    "subclasses in bulk": [
        (
            lambda session: session.bulk_insert_mappings(
                Boss, [{"id": 8, "name": "ben", "company_id": 1, "wage": 50, "budget": 9}]
            ),
            {"si_person", "si_worker", "si_boss"},
        ),
        (
            lambda session: session.execute(insert(Trainee), [{"id": 9, "name": "tam", "company_id": 1, "wage": 3}]),
            {"si_person", "si_worker"},
        ),
        (
            lambda session: session.execute(update(Boss), [{"id": 3, "name": "berta", "wage": 4, "budget": 2}]),
            {"si_person", "si_worker", "si_boss"},
        ),
        (
            lambda session: session.bulk_update_mappings(Worker, [{"id": 2, "name": "will", "company_id": 3}]),
            {"si_person", "si_worker"},
        ),
        (
            lambda session: session.merge(Client(id=4, name="carl", company_id=1, debt=0)),
            {"si_person", "si_client"},
        ),
        (
            lambda session: session.execute(update(Person).where(Person.id == 5).values(name="tina")),
            {"si_person"},
        ),
    ],
    "what belongs to a subclass": [
        (lambda session: session.add(Car(id=9, boss_id=3, name="opel")), {"si_car"}),
        (set_on(Car, 9, name="seat"), {"si_car"}),
    ],
    "a single table": [
        (set_on(Lion, 3, name="lea", mane=5), {"si_beast"}),
        (set_on(Beast, 2, lives=8), {"si_beast"}),
        (lambda session: session.add(Lion(id=9, name="lou")), {"si_beast"}),
        (lambda session: session.delete(session.get_one(Beast, 9)), {"si_beast"}),
    ],
    "a concrete class": [
        (set_on(Ship, 2, masts=3), {"si_ship"}),
        (set_on(Boat, 1, name="doris"), {"si_boat"}),
        (set_on(Pear, 1, name="conference"), {"si_pear"}),
        (lambda session: session.add(Apple(id=2, name="gala")), {"si_apple"}),
    ],
}


@pytest.mark.parametrize("name", CHANGES)
def test_s28_queries_of_every_class_follow_writes_of_every_other(firm: World, name: str) -> None:
    matrix = Matrix(firm, {**READS, **UNCACHED, **KEPT}, UNCACHED)
    followed: set[str] = set()
    for change, written in CHANGES[name]:
        with firm.write() as session:
            change(session)
        followed |= matrix.changed_by(written, KEPT)
    matrix.assert_all_stored()
    assert followed


def test_s28_a_row_that_becomes_one_of_another_class_is_one(firm: World) -> None:
    reads = [READS["single: a subclass's subclass"], READS["single: everything"], count_of(Lion)]
    with firm.expecting(changed=reads, kept=[READS["a subclass"], get(Boss, 6)]), firm.write() as session:
        session.execute(update(Beast.__table__).where(Beast.__table__.c.id == 2).values(kind="lion"))  # type: ignore[arg-type]


@pytest.mark.parametrize("column", [Worker.wage, Boss.budget])
def test_s28_a_bulk_update_of_a_subclass_reaches_the_table_of_the_column(firm: World, column: Any) -> None:
    reads = [READS["everybody"], READS["the mapper says selectin"], READS["related, joined"], get(Boss, 3)]
    with firm.expecting(changed=reads, kept=[count_of(Client), get(Beast, 1)]), firm.write() as session:
        session.execute(update(column.class_).where(column > 4).values({column: 1}))
