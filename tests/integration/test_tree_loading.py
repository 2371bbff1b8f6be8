"""What is loaded along with instances, and after them, by a recipe is what the ORM's own loader would have given."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from sqlalchemy import ForeignKeyConstraint, Numeric, String, Uuid, event, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    contains_eager,
    immediateload,
    joinedload,
    lazyload,
    mapped_column,
    raiseload,
    relationship,
    selectinload,
    subqueryload,
)
from sqlalchemy.schema import Column, ForeignKey, Table

from loading_support import Library, library_of, nothing
from querycache import FromCache, _loading, _trees, posts
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness
from querycache.collection import Collection
from querycache.session import attachment_of


class Base(DeclarativeBase):
    pass


wears = Table(
    "wears",
    Base.metadata,
    Column("dog_id", ForeignKey("dog.id"), primary_key=True),
    Column("tag_id", ForeignKey("tag.id"), primary_key=True),
)


class Town(Base):
    __tablename__ = "town"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    home_id: Mapped[int | None] = mapped_column(ForeignKey("town.id"))
    work_id: Mapped[int | None] = mapped_column(ForeignKey("town.id"))
    home: Mapped[Town | None] = relationship(foreign_keys=home_id)
    work: Mapped[Town | None] = relationship(foreign_keys=work_id)
    dogs: Mapped[list[Dog]] = relationship(back_populates="owner", order_by="Dog.id")
    cats: Mapped[set[Cat]] = relationship()
    card: Mapped[Card | None] = relationship(back_populates="owner", uselist=False)


class Dog(Base):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owner.id"))
    mother_id: Mapped[int | None] = mapped_column(ForeignKey("dog.id"))
    owner: Mapped[Owner | None] = relationship(back_populates="dogs")
    tags: Mapped[list[Tag]] = relationship(secondary=wears, order_by="Tag.id")
    mother: Mapped[Dog | None] = relationship(remote_side=id)
    walks: Mapped[list[Walk]] = relationship(order_by="Walk.number")


class Cat(Base):
    __tablename__ = "cat"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"))


class Card(Base):
    __tablename__ = "card"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"))
    owner: Mapped[Owner] = relationship(back_populates="card")


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(20))


class Walk(Base):
    __tablename__ = "walk"
    dog_id: Mapped[int] = mapped_column(ForeignKey("dog.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    stops: Mapped[list[Stop]] = relationship(back_populates="walk", order_by="Stop.id")


class Stop(Base):
    __tablename__ = "stop"
    __table_args__ = (ForeignKeyConstraint(["dog_id", "number"], ["walk.dog_id", "walk.number"]),)
    id: Mapped[int] = mapped_column(primary_key=True)
    dog_id: Mapped[int | None]
    number: Mapped[int | None]
    walk: Mapped[Walk | None] = relationship(back_populates="stops")


MODELS = [Town, Owner, Dog, Cat, Card, Tag, Walk, Stop]


def fill(session: Session) -> None:
    session.add_all([Town(id=1, name="here"), Town(id=2, name="there")])
    session.flush()
    session.add_all(
        [
            Owner(id=1, name="ann", home_id=1, work_id=2),
            Owner(id=2, name="bob", home_id=1, work_id=None),
            Owner(id=3, name="cat", home_id=None, work_id=None),
            Owner(id=4, name="dan", home_id=2, work_id=1),
        ]
    )
    session.flush()
    session.add_all([Tag(id=1, text="red"), Tag(id=2, text="old"), Tag(id=3, text="never")])
    session.add(Dog(id=1, name="rex", owner_id=1))
    session.flush()
    session.add_all(
        [
            Dog(id=2, name="max", owner_id=1, mother_id=1),
            Dog(id=3, name="leo", owner_id=2, mother_id=1),
            Dog(id=4, name="stray", owner_id=None),
        ]
    )
    session.add_all([Cat(id=1, owner_id=1), Cat(id=2, owner_id=1), Cat(id=3, owner_id=4)])
    session.add_all([Card(id=1, owner_id=1), Card(id=2, owner_id=3)])
    session.flush()
    session.execute(wears.insert(), [{"dog_id": dog, "tag_id": tag} for dog, tag in ((1, 1), (1, 2), (2, 2), (4, 1))])
    session.add_all([Walk(dog_id=1, number=1), Walk(dog_id=1, number=2), Walk(dog_id=3, number=1)])
    session.flush()
    session.add_all(
        [Stop(id=1, dog_id=1, number=1), Stop(id=2, dog_id=1, number=1), Stop(id=3, dog_id=3, number=1), Stop(id=4)]
    )


@pytest.fixture
def library(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    with library_of(sqlite_url, Base, MODELS, fill, monkeypatch) as library:
        yield library


OWNERS = select(Owner).order_by(Owner.id)
DOGS = select(Dog).order_by(Dog.id)
STOPS = select(Stop).order_by(Stop.id)
LONE_TAGS = select(Tag).order_by(Tag.id)


def unique(statement: Any) -> Callable[[Session], Any]:
    return lambda session: session.scalars(statement).unique().all()


def many(statement: Any) -> Callable[[Session], Any]:
    return lambda session: session.scalars(statement).all()


# Made once: an instance remembers which option object it was loaded with.
OTHER_DOG = aliased(Dog)
DOGS_JOINED = joinedload(Owner.dogs)
WITH_DOGS = OWNERS.options(DOGS_JOINED)
DOGS_AFTER = selectinload(Owner.dogs)
AND_DOGS = OWNERS.options(DOGS_AFTER)
PAIRS = select(Owner, Dog).join(Owner.dogs).options(selectinload(Owner.cats), selectinload(Dog.tags)).order_by(Dog.id)
JOINED: dict[str, Callable[[Session], Any]] = {
    "a collection": unique(OWNERS.options(joinedload(Owner.dogs))),
    "a collection, as rows": lambda session: session.execute(WITH_DOGS).unique().all(),
    "a collection that must be asked for each once": many(OWNERS.options(joinedload(Owner.dogs))),
    "a collection of one parent": lambda session: session.scalars(WITH_DOGS.where(Owner.id == 1)).unique().one(),
    "a collection that is a set": unique(OWNERS.options(joinedload(Owner.cats))),
    "two collections": unique(OWNERS.options(joinedload(Owner.dogs), joinedload(Owner.cats))),
    "a collection below a collection": unique(OWNERS.options(joinedload(Owner.dogs).joinedload(Dog.tags))),
    "three levels": unique(OWNERS.options(joinedload(Owner.dogs).joinedload(Dog.walks).joinedload(Walk.stops))),
    "a parent": many(DOGS.options(joinedload(Dog.owner))),
    "a parent that is always there": many(
        DOGS.where(Dog.owner_id.is_not(None)).options(joinedload(Dog.owner, innerjoin=True))
    ),
    "a parent by two columns": many(STOPS.options(joinedload(Stop.walk))),
    "a parent's parent": many(DOGS.options(joinedload(Dog.owner).joinedload(Owner.home))),
    "a parent and a collection": unique(DOGS.options(joinedload(Dog.owner), joinedload(Dog.tags))),
    "a single child": many(OWNERS.options(joinedload(Owner.card))),
    "shared children": unique(DOGS.options(joinedload(Dog.tags))),
    "a class at two places that do not meet": many(
        OWNERS.where(Owner.id == 1).options(joinedload(Owner.home), joinedload(Owner.work))
    ),
    "a limit": unique(OWNERS.options(joinedload(Owner.dogs)).limit(2)),
    "a join of one's own": unique(
        select(Owner).join(Owner.dogs).options(contains_eager(Owner.dogs)).order_by(Owner.id, Dog.id)
    ),
    "a join of one's own to an alias": unique(
        select(Owner)
        .join(Owner.dogs.of_type(OTHER_DOG))
        .options(contains_eager(Owner.dogs, alias=OTHER_DOG))
        .order_by(Owner.id, OTHER_DOG.id)
    ),
    "an option that changes nothing": many(OWNERS.options(lazyload(Owner.dogs))),
    "what is loaded later": lambda session: [
        (owner.home, [(dog.mother, dog.tags) for dog in owner.dogs]) for owner in session.scalars(WITH_DOGS).unique()
    ],
    "a legacy query": lambda session: session.query(Owner).options(DOGS_JOINED).order_by(Owner.id).all(),
    "a legacy query's first": lambda session: session.query(Owner).options(DOGS_JOINED).order_by(Owner.id).first(),
}

AFTERWARDS: dict[str, Callable[[Session], Any]] = {
    "a collection": many(OWNERS.options(selectinload(Owner.dogs))),
    "a collection that is a set": many(OWNERS.options(selectinload(Owner.cats))),
    "two collections": many(OWNERS.options(selectinload(Owner.dogs), selectinload(Owner.cats))),
    "two levels": many(OWNERS.options(selectinload(Owner.dogs).selectinload(Dog.tags))),
    "three levels": many(OWNERS.options(selectinload(Owner.dogs).selectinload(Dog.walks).selectinload(Walk.stops))),
    "shared children": many(DOGS.options(selectinload(Dog.tags))),
    "a parent": many(DOGS.options(selectinload(Dog.owner))),
    "a parent by two columns": many(STOPS.options(selectinload(Stop.walk))),
    "a parent of its own class": many(DOGS.options(selectinload(Dog.mother))),
    "a parent and back": many(DOGS.options(selectinload(Dog.owner).selectinload(Owner.dogs))),
    "a collection and back": many(OWNERS.options(selectinload(Owner.dogs).selectinload(Dog.owner))),
    "a class at two places": many(OWNERS.options(selectinload(Owner.home), selectinload(Owner.work))),
    "a single child": many(OWNERS.options(selectinload(Owner.card))),
    "by two columns": many(select(Walk).order_by(Walk.dog_id, Walk.number).options(selectinload(Walk.stops))),
    "below what is joined": unique(OWNERS.options(joinedload(Owner.dogs).selectinload(Dog.tags))),
    "below a joined parent": many(DOGS.options(joinedload(Dog.owner).selectinload(Owner.cats))),
    "with what is joined below": many(OWNERS.options(selectinload(Owner.dogs).joinedload(Dog.tags))),
    "with a joined parent below": many(STOPS.options(selectinload(Stop.walk).joinedload(Walk.stops))),
    "of rows": lambda session: session.execute(AND_DOGS).all(),
    "of one": lambda session: session.scalars(AND_DOGS.where(Owner.id == 2)).one(),
    "of two entities": lambda session: session.execute(PAIRS).all(),
    "in order with a limit": many(OWNERS.options(selectinload(Owner.dogs)).limit(2).offset(1)),
    "then changed": lambda session: changed(session),
    "what is loaded later": lambda session: [
        (owner.home, owner.cats, [(dog.mother, dog.tags) for dog in owner.dogs]) for owner in session.scalars(AND_DOGS)
    ],
    "of a legacy query": lambda session: session.query(Owner).options(DOGS_AFTER).order_by(Owner.id).all(),
}


def changed(session: Session) -> Any:
    owner = session.scalars(AND_DOGS).first()
    assert owner is not None
    gone = owner.dogs.pop()
    owner.dogs.append(Dog(id=9, name="new"))
    with session.no_autoflush:
        return [owner.dogs, gone, gone.owner, sorted(type(one).__name__ for one in session.dirty | session.new)]


@pytest.mark.parametrize("how", JOINED)
def test_what_is_joined_is_loaded_as_the_ordinary_loader_does(library: Library, how: str) -> None:
    library.check(JOINED[how])
    assert library.made
    assert -1 not in library.made


@pytest.mark.parametrize("how", AFTERWARDS)
def test_what_comes_after_is_loaded_as_the_ordinary_loader_does(library: Library, how: str) -> None:
    library.check(AFTERWARDS[how], times=5)
    assert library.made
    assert -1 not in library.made
    assert how in ("then changed", "what is loaded later") or library.sent == []


DOGS_OWNED = DOGS.options(joinedload(Dog.owner))
RAISING = select(Owner).options(raiseload(Owner.dogs)).where(Owner.id == 1)


def all_owners(session: Session) -> Any:
    return session.scalars(OWNERS).all()


def one_owner(session: Session) -> Any:
    return session.get_one(Owner, 2)


def owners_with_dogs(session: Session) -> Any:
    return session.scalars(AND_DOGS).all()


def some_dogs(session: Session) -> Any:
    return session.scalars(DOGS.where(Dog.id < 3)).all()


def dogs_with_owners(session: Session) -> Any:
    return session.scalars(DOGS_OWNED).all()


def expired_owner(session: Session) -> Any:
    owner = session.get_one(Owner, 1)
    session.expire(owner)
    return owner


def expired_dogs(session: Session) -> Any:
    owner = session.scalars(AND_DOGS).first()
    session.expire(owner, ["dogs"])
    return owner


def owner_without_name(session: Session) -> Any:
    owner = session.get_one(Owner, 1)
    del owner.name
    return owner


def adopted(session: Session) -> Any:
    """Have a dog wait for a collection that is not loaded."""
    session.autoflush = False
    dog = session.get_one(Dog, 4)
    owner = session.get_one(Owner, 1)
    dog.owner = owner
    return dog, owner


def moved(session: Session) -> Any:
    session.autoflush = False
    dog, owner = session.get_one(Dog, 1), session.get_one(Owner, 1)
    dog.owner_id, owner.home_id = 2, 2
    return dog, owner


def emptied(session: Session) -> Any:
    session.autoflush = False
    owner = session.scalars(AND_DOGS).first()
    assert owner is not None
    owner.dogs.clear()
    return owner


def raising(session: Session) -> Any:
    return session.scalars(RAISING).one()


def deleted(session: Session) -> Any:
    session.autoflush = False
    owner = session.get_one(Owner, 4)
    session.delete(owner)
    return owner


HELD = [
    all_owners,
    one_owner,
    owners_with_dogs,
    some_dogs,
    dogs_with_owners,
    expired_owner,
    expired_dogs,
    owner_without_name,
    adopted,
    moved,
    emptied,
    raising,
    deleted,
]


@pytest.mark.parametrize("before", HELD)
def test_what_a_session_holds_is_filled_up_as_the_ordinary_loader_does(
    library: Library, before: Callable[[Session], Any]
) -> None:
    ways = [
        *(JOINED[how] for how in ("a collection", "two collections", "a collection below a collection", "a parent")),
        *(JOINED[how] for how in ("a parent and a collection", "a single child", "what is loaded later")),
        *(AFTERWARDS[how] for how in ("a collection", "two levels", "a parent", "a collection and back")),
        *(AFTERWARDS[how] for how in ("a class at two places", "below what is joined", "with what is joined below")),
    ]
    for take in ways:
        library.check(take, times=4)  # so that there is a recipe before the situation is
        library.check(take, before=before, times=2)


@pytest.mark.parametrize("before", [nothing, all_owners, some_dogs])
@pytest.mark.parametrize("how", ["a collection", "two collections", "a collection below a collection"])
def test_recipes_fill_up_what_a_session_holds_themselves(
    library: Library, before: Callable[[Session], Any], how: str
) -> None:
    for ways in (JOINED, AFTERWARDS):
        take = ways.get(how, AFTERWARDS["two levels"])
        library.check(take)
        library.check(take, before=before)
        assert -1 not in library.made


ORDINARY: dict[str, Callable[[Session], Any]] = {
    "an instance that is met below itself": many(OWNERS.options(selectinload(Owner.dogs).joinedload(Dog.mother))),
    "an instance that is met above itself": many(select(Dog).order_by(Dog.id.desc()).options(joinedload(Dog.mother))),
    "nobody": many(OWNERS.where(Owner.id == 3).options(selectinload(Owner.dogs))),
    "a class that is met at two places": many(OWNERS.options(joinedload(Owner.home), joinedload(Owner.work))),
    "immediate loads": many(OWNERS.options(immediateload(Owner.dogs))),
    "subqueries": many(OWNERS.options(subqueryload(Owner.dogs))),
    "criteria of a load": lambda session: [
        [dog.id for dog in owner.dogs]
        for owner in session.scalars(OWNERS.options(selectinload(Owner.dogs.and_(Dog.id < 3))))
    ],
    "criteria of a join": lambda session: [
        [dog.id for dog in owner.dogs]
        for owner in session.scalars(OWNERS.options(joinedload(Owner.dogs.and_(Dog.id < 3)))).unique()
    ],
    "loads that raise": unique(OWNERS.options(joinedload(Owner.dogs), raiseload(Owner.cats))),
    "an alias": unique(select(OTHER_DOG).options(joinedload(OTHER_DOG.owner)).order_by(OTHER_DOG.id)),
    "as deep as it goes": many(DOGS.options(selectinload(Dog.mother, recursion_depth=-1))),
}


@pytest.mark.parametrize("how", ORDINARY)
def test_what_no_recipe_does_is_loaded_ordinarily(library: Library, how: str) -> None:
    library.check(ORDINARY[how], times=5)


def test_an_instance_that_later_rows_have_at_two_places_is_left_to_the_ordinary_loader(library: Library) -> None:
    mothers = DOGS.order_by(None).order_by(Dog.id.desc()).options(joinedload(Dog.mother))
    towns = OWNERS.options(joinedload(Owner.home), joinedload(Owner.work))
    for statement, key in ((mothers, Dog.id), (towns, Owner.id)):
        library.check(many(statement.where(key.between(2, 2))))
        assert library.made == [1]
        library.check(many(statement.where(key.between(1, 4))))
        assert library.made == [-1]


def test_where_an_entry_below_is_gone_that_one_alone_is_read_again(library: Library) -> None:
    take = AFTERWARDS["two levels"]
    library.check(take, times=5)
    with Session(library.cached) as session:
        session.get_one(Tag, 2).text = "changed"
        session.commit()
    library.made.clear()
    library.check(take, times=1)
    assert [statement for statement in library.sent if "wears" not in statement] == []
    assert len(library.sent) == 1
    library.check(take, times=1)
    assert library.sent == []
    assert -1 not in library.made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tell of each call of a store how much it was asked at once."""
    look_up, look_up_many = Coherence.lookup, Coherence.lookup_many
    asked: list[int] = []

    def one(self: Coherence, *arguments: Any, **options: Any) -> Any:
        asked.append(1)
        return look_up(self, *arguments, **options)

    def several(self: Coherence, store: int, questions: Any, **options: Any) -> Any:
        asked.append(len(questions))
        return look_up_many(self, store, questions, **options)

    monkeypatch.setattr(Coherence, "lookup", one)
    monkeypatch.setattr(Coherence, "lookup_many", several)
    return asked


ALL_BELOW = OWNERS.options(selectinload(Owner.dogs), selectinload(Owner.cats), selectinload(Owner.card))


def test_what_did_not_follow_a_statement_yet_is_looked_up_after_it_one_by_one(
    library: Library, asked: list[int]
) -> None:
    library.check(many(ALL_BELOW.where(Owner.id > 0)), times=5)
    library.check(many(ALL_BELOW.where(Owner.id > 1)), times=1)
    del asked[:]
    library.check(many(ALL_BELOW.where(Owner.id > 1)), times=1)
    assert asked == [1, 1, 1, 1]


def test_what_followed_a_statement_last_time_is_looked_up_together_with_it(library: Library, asked: list[int]) -> None:
    take = AFTERWARDS["two levels"]
    library.check(take, times=5)
    del asked[:]
    library.check(take, times=1)
    assert asked == [3]


def test_what_follows_a_statement_is_told_by_its_rows_and_not_by_what_followed_last_time(
    library: Library, asked: list[int]
) -> None:
    take = many(OWNERS.options(selectinload(Owner.dogs)))
    library.check(take, times=5)
    with Session(library.cached) as session:
        session.add(Owner(id=90, name="new"))
        session.flush()
        session.add(Dog(id=90, owner_id=90, name="dog of the new one"))
        session.commit()
    library.check(take, times=5)
    del asked[:]
    library.check(take, times=1)
    assert asked == [2]


def test_rows_that_were_put_together_later_go_with_no_children_of_before(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = many(OWNERS.options(selectinload(Owner.dogs), FromCache(shape="keys")))
    library.check(take, times=5)
    with Session(library.cached) as session:
        session.get_one(Owner, 1).name = "before"
        session.commit()
    put_together = Collection.put_together

    def after_a_commit(self: Collection, freshness: Freshness) -> Any:
        with Session(library.cached) as session:
            session.get_one(Owner, 1).name = "with a new dog"
            session.add(Dog(id=91, name="new", owner_id=1))
            session.commit()
        return put_together(self, freshness)

    with monkeypatch.context() as patch, Session(library.cached) as session:
        patch.setattr(Collection, "put_together", after_a_commit)
        ann = take(session)[0]
        assert ann.name == "with a new dog"
        assert 91 in [dog.id for dog in ann.dogs]


def test_below_what_was_looked_up_later_nothing_is_taken_of_before(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = AFTERWARDS["two levels"]
    library.check(take, times=5)
    with Session(library.cached) as session:
        session.add(Owner(id=90, name="new"))
        session.commit()
    library.check(take, times=1)  # the dogs of one owner more: another question, and the same one about their tags
    look_up, meanwhile = Coherence.lookup, [True]

    def after_a_commit(self: Coherence, *arguments: Any, **options: Any) -> Any:
        if meanwhile and meanwhile.pop():
            with Session(library.cached) as session:
                dog = session.get_one(Dog, 1)
                dog.name = "with a new tag"
                dog.tags.append(session.get_one(Tag, 3))
                session.commit()
            with Session(library.cached) as session:
                take(session)
        return look_up(self, *arguments, **options)

    with Session(library.cached) as session:
        monkeypatch.setattr(Coherence, "lookup", after_a_commit)
        rex = take(session)[0].dogs[0]
        assert meanwhile == []
        assert rex.name == "with a new tag"
        assert 3 in [tag.id for tag in rex.tags]


def test_a_store_that_sees_no_one_moment_is_asked_in_the_order_of_the_statements(
    library: Library, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Coherence, "sees_one_moment", lambda *store: False)
    library.check(many(ALL_BELOW), times=5)
    del asked[:]
    library.check(many(ALL_BELOW), times=1)
    assert asked == [1, 1, 1, 1]
    assert -1 not in library.made


def test_a_store_that_does_not_answer_for_what_comes_after_leaves_it_to_the_database(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = many(OWNERS.options(selectinload(Owner.dogs), selectinload(Owner.cats)))
    library.check(take, times=5)
    monkeypatch.setattr(Coherence, "lookup_many", lambda *arguments, **options: None)
    library.check(take, times=1)
    assert library.made == []


def test_where_one_of_several_below_is_gone_that_one_alone_is_read_again(library: Library) -> None:
    take = many(OWNERS.options(selectinload(Owner.dogs), selectinload(Owner.cats)))
    library.check(take, times=5)
    with Session(library.cached) as session:
        session.add(Cat(id=9, owner_id=1))
        session.commit()
    library.check(take, times=1)
    assert [statement for statement in library.sent if "FROM cat" not in statement] == []
    assert len(library.sent) == 1


def test_a_statement_knows_what_follows_another_one_that_was_read_before(library: Library) -> None:
    library.check(AFTERWARDS["a collection"], times=5)
    library.check(many(AND_DOGS.where(Owner.id < 3)), times=5)
    assert library.made == [2]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_an_option_of_a_users_does_not_shift_what_others_leave_on_instances(library: Library, first: int) -> None:
    statements = [OWNERS.options(FromCache(), DOGS_AFTER), AND_DOGS.options(FromCache()), AND_DOGS]
    joined = [OWNERS.options(FromCache(), DOGS_JOINED), WITH_DOGS.options(FromCache()), WITH_DOGS]
    for at in (first, first + 1, first + 2, first):
        library.check(many(statements[at % 3]), times=5)
        library.check(unique(joined[at % 3]), times=3)


def test_nothing_is_kept_of_statements_that_sqlalchemy_forgot(library: Library) -> None:
    library.check(AFTERWARDS["two levels"], times=5)
    found = attachment_of(library.cached)
    assert found is not None
    results = found[0].results
    assert len(results._followers) == 1
    library.cached._compiled_cache.clear()  # type: ignore[union-attr]
    gc.collect()
    assert not results._followers
    assert not results._recipes


def test_a_child_that_another_process_adds_is_seen_at_once(library: Library) -> None:
    take = AFTERWARDS["a collection"]
    library.check(take, times=5)
    with Session(library.cached) as session:
        session.add(Dog(id=8, name="pup", owner_id=3))
        session.commit()
    library.check(take, times=3)


def test_more_parents_than_one_statement_asks_for_are_followed_by_several(library: Library) -> None:
    with Session(library.cached) as session:
        session.add_all([Owner(id=number, name="many") for number in range(10, 1110)])
        session.flush()
        session.add_all([Dog(id=number, name="many", owner_id=number) for number in range(10, 1110)])
        session.commit()
    library.check(AFTERWARDS["a collection"], times=5)
    assert library.made == [1104]
    assert library.sent == []


def test_a_loading_that_is_asked_to_cache_is_followed_by_what_is_cached_anyway(library: Library) -> None:
    statement = AND_DOGS.options(FromCache(ttl=9))
    library.check(many(statement), times=5)
    assert library.made == [4]


def test_who_listens_to_collections_being_made_hears_of_them(library: Library) -> None:
    library.check(JOINED["a collection"])
    library.check(AFTERWARDS["a collection"], times=5)
    heard: list[Any] = []

    def listener(target: Any, collection: Any, adapter: Any) -> None:
        heard.append(target.id)

    event.listen(Owner.dogs, "init_collection", listener)
    try:
        for take in (JOINED["a collection"], AFTERWARDS["a collection"]):
            for engine in (library.plain, library.cached):
                with Session(engine) as session:
                    take(session)
    finally:
        event.remove(Owner.dogs, "init_collection", listener)
    assert heard == [1, 2, 3, 4] * 4


def test_another_listener_hears_of_each_statement_that_comes_after(library: Library) -> None:
    """A tenant's filter on children must not be passed by."""
    library.check(AFTERWARDS["a collection"], times=5)
    heard: list[bool] = []
    with Session(library.cached) as session:
        event.listen(session, "do_orm_execute", lambda state: heard.append(state.is_relationship_load))
        session.scalars(AND_DOGS).all()
    assert heard == [False, True]


def test_a_session_with_several_binds_asks_each_for_its_own(library: Library, tmp_path: Any) -> None:
    from sqlalchemy import create_engine

    library.check(AFTERWARDS["a collection"], times=5)
    other = create_engine(f"sqlite:///{tmp_path}/other.sqlite")
    Base.metadata.create_all(other)
    with Session(other) as session:
        session.add(Dog(id=70, name="elsewhere", owner_id=1))
        session.commit()
    library.cache.attach(other)
    for _ in range(3):
        with Session(binds={Dog: other, Owner: library.cached}) as session:
            owners = session.scalars(AND_DOGS).all()
            assert [[dog.name for dog in owner.dogs] for owner in owners] == [["elsewhere"], [], [], []]
    other.dispose()


def test_what_a_transaction_changed_below_is_read_from_the_database(library: Library) -> None:
    take = AFTERWARDS["a collection"]
    library.check(take, times=5)
    for engine in (library.plain, library.cached):
        with Session(engine) as session:
            session.get_one(Dog, 3).owner_id = 1
            owners = session.scalars(AND_DOGS).all()
            assert [[dog.id for dog in owner.dogs] for owner in owners] == [[1, 2, 3], [], [], []]


def test_instances_of_a_load_that_was_given_up_are_forgotten(library: Library) -> None:
    take = JOINED["a collection below a collection"]
    library.check(take)
    with Session(library.cached) as session:
        kept = expired_owner(session)
        owner = session.get_one(Owner, 2)
        session.expire(owner)
        library.made.clear()
        found = take(session)
        assert library.made[-1] == -1
        assert {id(state.obj()) for state in session.identity_map.all_states()} == {
            id(one) for one in (*found, *(dog for owner in found for dog in owner.dogs), *tags_of(found), kept)
        }


def tags_of(owners: Any) -> Iterator[Tag]:
    return (tag for owner in owners for dog in owner.dogs for tag in dog.tags)


@pytest.mark.parametrize("name", ["_INSTANCE", "_COLLECTION", "_SCALAR"])
def test_where_a_release_names_its_loaders_otherwise_the_ordinary_one_goes_on(
    library: Library, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(_trees, name, "another")
    library.check(JOINED["a parent and a collection"])
    assert library.made == []


def test_a_tree_that_links_otherwise_than_the_ordinary_loader_is_not_followed(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = _trees.tree_of

    def careless(*arguments: Any) -> Any:
        tree = original(*arguments)
        return replace(tree, pairs=tuple(reversed(tree.pairs)))

    def forgetful(pairs: Any, *rest: Any) -> Any:
        return None

    monkeypatch.setattr(_loading, "tree_of", careless)
    monkeypatch.setattr(_loading, "fill_collection", forgetful)
    library.check(AFTERWARDS["a collection"], times=5)
    assert library.made == []


def test_a_tree_that_cannot_be_tried_is_loaded_ordinarily(
    library: Library, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: Any) -> Any:
        raise AttributeError("_sa_adapter")

    monkeypatch.setattr(posts, "_load_into", fail)
    library.check(AFTERWARDS["a collection"], times=5)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


class Typed(DeclarativeBase):
    pass


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Crate(Typed):
    __tablename__ = "crate"
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    size: Mapped[Size]
    things: Mapped[list[Thing]] = relationship(back_populates="crate", order_by="Thing.id")


class Thing(Typed):
    __tablename__ = "thing"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[Decimal] = mapped_column(Numeric(8, 2))
    crate_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("crate.id"))
    crate: Mapped[Crate | None] = relationship(back_populates="things")


def fill_crates(session: Session) -> None:
    crates = [Crate(id=uuid.UUID(int=number), size=size) for number, size in ((1, Size.LARGE), (2, Size.SMALL))]
    session.add_all([*crates, *(Thing(id=number, price=Decimal(number) / 3) for number in (1, 2))])
    session.flush()
    session.add_all([Thing(id=number, price=Decimal(number), crate=crates[number % 2]) for number in (3, 4, 5)])


def test_keys_that_their_types_process_are_told_apart_on_every_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crates, things = select(Crate).order_by(Crate.id), select(Thing).order_by(Thing.id)
    with library_of(database_url, Typed, [Crate, Thing], fill_crates, monkeypatch) as library:
        for take in (
            unique(crates.options(joinedload(Crate.things))),
            many(things.options(joinedload(Thing.crate))),
            many(crates.options(selectinload(Crate.things))),
            many(things.options(selectinload(Thing.crate))),
            lambda session: session.execute(select(Crate.id, Crate.size, Thing.price).join(Crate.things)).all(),
        ):
            library.check(take, times=5)
            assert library.made
            assert -1 not in library.made
