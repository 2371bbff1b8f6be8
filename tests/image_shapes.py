"""Which kinds of rows can be changed, and how? Models and changes, for the tests of old images.

A change gets a session and ``meanwhile``: it loads what it wants to load, lets another transaction move every row to group
7, and then changes something that it knows nothing newer of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from sqlalchemy import ForeignKey, String, bindparam, delete, insert, text, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, deferred, load_only, mapped_column, relationship

MANY = range(100, 220)
"""More items than are asked about one by one."""


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "item"
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    grp: Mapped[int | None] = mapped_column(index=True)
    kind: Mapped[int] = mapped_column(server_default=text("4"))
    note: Mapped[str] = deferred(mapped_column(String(20), default=""))


class Versioned(Base):
    __tablename__ = "versioned"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    grp: Mapped[int | None] = mapped_column(index=True)
    kind: Mapped[int]
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


class Pair(Base):
    __tablename__ = "pair"
    a: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    b: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    grp: Mapped[int | None] = mapped_column(index=True)
    kind: Mapped[int]


class Animal(Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sort: Mapped[str] = mapped_column(String(10))
    grp: Mapped[int | None] = mapped_column(index=True)
    __mapper_args__ = {"polymorphic_on": "sort", "polymorphic_identity": "animal"}  # noqa: RUF012


class Dog(Animal):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(ForeignKey("animal.id"), primary_key=True)
    kind: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    pets: Mapped[list[Pet]] = relationship(cascade="all, delete-orphan", order_by="Pet.id")


class Pet(Base):
    __tablename__ = "pet"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"))
    grp: Mapped[int | None] = mapped_column(index=True)
    kind: Mapped[int]


class Node(Base):
    __tablename__ = "node"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    grp: Mapped[int | None] = mapped_column(index=True)
    kind: Mapped[int]
    friend_id: Mapped[int | None] = mapped_column(ForeignKey("node.id"))
    friend: Mapped[Node | None] = relationship(remote_side="Node.id", post_update=True)


GROUPED = (Item, Versioned, Pair, Animal, Pet, Node)
KINDS = (Item, Versioned, Pair, Dog, Pet, Node)

Meanwhile: TypeAlias = Callable[[], object]
Change: TypeAlias = Callable[[Session, Meanwhile], object]


def fill(session: Session) -> None:
    """Put a few rows of each kind into group 3, one of which has no group."""
    for number in (1, 2, 3):
        grp = None if number == 3 else 3
        session.add(Item(id=number, grp=grp, kind=1))
        session.add(Versioned(id=number, grp=grp, kind=1))
        session.add(Pair(a=1, b=number, grp=grp, kind=1))
        session.add(Dog(id=number, grp=grp, kind=1))
        session.add(Owner(id=number, pets=[Pet(id=number, grp=grp, kind=1)]))
        session.add(Node(id=number, grp=grp, kind=1))
    session.add_all(Item(id=number, grp=3, kind=1) for number in MANY)
    session.commit()


def _update_returning(session: Session, meanwhile: Meanwhile) -> None:
    meanwhile()
    statement = update(Item).where(Item.id == 1).values(kind=5)
    if session.get_bind().dialect.update_returning:
        session.scalars(statement.returning(Item)).all()
    else:
        session.execute(statement)


def _delete_returning(session: Session, meanwhile: Meanwhile) -> None:
    meanwhile()
    session.scalars(delete(Item).where(Item.id == 1).returning(Item.id)).all()


def _insert_returning(session: Session, meanwhile: Meanwhile) -> None:
    meanwhile()
    session.scalars(insert(Item).values(id=50, grp=7, kind=5, note="").returning(Item)).all()


def _default_of_the_server(session: Session, meanwhile: Meanwhile) -> None:
    meanwhile()
    session.add(Item(id=50, grp=7))


def _version_that_matches(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Versioned, 1)
    meanwhile()
    row.kind = 5


def _version_that_matches_a_delete(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Versioned, 1)
    meanwhile()
    session.delete(row)


def _version_that_does_not_match(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Versioned, 1)
    meanwhile()
    with Session(session.get_bind()) as other:
        other.get_one(Versioned, 1).kind = 6
        other.commit()
    row.kind = 5
    try:
        session.commit()
    except SQLAlchemyError:
        session.rollback()


def _composite_key(session: Session, meanwhile: Meanwhile) -> None:
    rows = [session.get_one(Pair, (1, number)) for number in (1, 2, 3)]
    meanwhile()
    for row in rows:
        row.kind = 5


def _composite_key_deleted(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Pair, (1, 1))
    meanwhile()
    session.delete(row)


def _into_no_group(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Item, 1)
    meanwhile()
    row.grp = None


def _out_of_no_group(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Item, 3)
    meanwhile()
    row.grp = 9


def _child_of_two_tables(session: Session, meanwhile: Meanwhile) -> None:
    dog = session.get_one(Dog, 1)
    meanwhile()
    dog.kind = 5


def _child_of_two_tables_moved(session: Session, meanwhile: Meanwhile) -> None:
    dog = session.get_one(Dog, 1)
    meanwhile()
    dog.grp, dog.kind = 9, 5


def _child_of_two_tables_deleted(session: Session, meanwhile: Meanwhile) -> None:
    dog = session.get_one(Dog, 1)
    meanwhile()
    session.delete(dog)


def _many_rows(session: Session, meanwhile: Meanwhile) -> None:
    rows = session.query(Item).filter(Item.id.in_(MANY)).all()
    meanwhile()
    for row in rows:
        row.kind = 5


def _bulk_delete(session: Session, meanwhile: Meanwhile) -> None:
    session.get_one(Item, 1)
    meanwhile()
    session.execute(delete(Item).where(Item.grp == 7), execution_options={"synchronize_session": "fetch"})


def _bulk_update(session: Session, meanwhile: Meanwhile) -> None:
    session.get_one(Item, 1)
    meanwhile()
    session.execute(update(Item).where(Item.kind == 1).values(grp=9), execution_options={"synchronize_session": "auto"})


def _mappings(session: Session, meanwhile: Meanwhile) -> None:
    meanwhile()
    session.bulk_update_mappings(Item.__mapper__, [{"id": 2, "kind": 5}, {"id": 1, "kind": 6}])


def _executemany(session: Session, meanwhile: Meanwhile) -> None:
    meanwhile()
    statement = update(Item).where(Item.id == bindparam("key")).values(grp=bindparam("new"))
    session.connection().execute(statement, [{"key": 2, "new": 9}, {"key": 1, "new": 3}])


def _orphan(session: Session, meanwhile: Meanwhile) -> None:
    owner = session.get_one(Owner, 1)
    assert owner.pets
    meanwhile()
    owner.pets.clear()


def _cascade(session: Session, meanwhile: Meanwhile) -> None:
    owner = session.get_one(Owner, 1)
    assert owner.pets
    meanwhile()
    session.delete(owner)


def _another_key(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Item, 1)
    meanwhile()
    row.id = 50


def _keys_switched(session: Session, meanwhile: Meanwhile) -> None:
    meanwhile()
    connection = session.connection()
    for old, new in ((1, 50), (2, 1), (50, 2)):
        connection.execute(update(Item).where(Item.id == old).values(id=new))
    connection.execute(update(Item).where(Item.id == 1).values(grp=9))


def _merged(session: Session, meanwhile: Meanwhile) -> None:
    session.get_one(Item, 1)
    meanwhile()
    session.merge(Item(id=1, kind=5))


def _expired(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Item, 1)
    session.expire(row)
    meanwhile()
    row.grp = 9


def _not_loaded(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Item, 1, options=[load_only(Item.id)])
    meanwhile()
    row.note = "changed"
    row.kind = 5


def _post_update(session: Session, meanwhile: Meanwhile) -> None:
    first, second = session.get_one(Node, 1), session.get_one(Node, 2)
    meanwhile()
    first.friend, second.friend = second, first


def _expression(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Item, 1)
    meanwhile()
    row.kind = Item.kind + 1
    session.flush()
    row.grp = 9


def _inner_transaction(session: Session, meanwhile: Meanwhile) -> None:
    row = session.get_one(Item, 1)
    meanwhile()
    inner = session.begin_nested()
    row.grp = 9
    session.flush()
    inner.rollback()
    row.kind = 5


CHANGES: dict[str, Change] = {
    name.strip("_").replace("_", " "): change
    for name, change in globals().copy().items()
    if name.startswith("_") and callable(change) and getattr(change, "__module__", "") == __name__
}
