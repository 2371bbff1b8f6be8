"""A list put together of its keys and rows is the database's own answer: values, order, identity, loader state, errors."""

from __future__ import annotations

import uuid
from enum import Enum
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, Text, Uuid, func, select, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    contains_eager,
    defer,
    joinedload,
    load_only,
    mapped_column,
    raiseload,
    selectinload,
    with_loader_criteria,
    with_polymorphic,
)
from sqlalchemy.types import TypeDecorator

from equality_support import Take, assert_same_as_uncached, observed
from keys_support import BY_KEYS
from scenario_fixtures import Worlds
from scenario_support import Category, Product, Tag, World

BY_ID = select(Product).order_by(Product.id)


def scalars(statement: Any) -> Take:
    return lambda session: session.scalars(statement).all()


def unique(statement: Any) -> Take:
    return lambda session: session.scalars(statement).unique().all()


def assert_same_put_together(world: World, take: Take, change: Any, *, by_key: bool = True) -> None:
    """Check that an answer is the database's as a miss, a hit, and put together after a change of one row.

    ``by_key``: that it is put together, of one query for that row.
    """
    assert_same_as_uncached(world, take)
    with world.write() as session:
        session.execute(change)
    with Session(world.outside) as session:
        expected = observed(session, take)
    for attempt in ("put together", "hit"):
        with world.session() as session:
            world.sent.clear()
            assert observed(session, take) == expected, attempt
        if attempt == "put together" and by_key:
            assert any(".id IN (" in sent for sent in world.sent), (world.sent, world.cache.stats()["reasons"])
        elif attempt == "hit":
            assert world.sent == [], world.cache.stats()["reasons"]


JOINED = joinedload(Product.category)
WITH_PRODUCTS = joinedload(Category.products)
ONLY_NAME = load_only(Product.name)
NO_NOTE = defer(Product.note, raiseload=True)
WITH_TAGS = selectinload(Product.tags)
NOTHING_MORE = raiseload("*")
FEW = with_loader_criteria(Product, Product.views < 35)

PRODUCTS: dict[str, Take] = {
    "a filter": scalars(BY_ID.where(Product.category_id == 1)),
    "a range": scalars(BY_ID.where(Product.views.between(5, 35))),
    "an order": scalars(select(Product).order_by(Product.views.desc())),
    "a page": scalars(BY_ID.limit(2).offset(1)),
    "a join": scalars(BY_ID.join(Product.category).where(Category.name == "fruit")),
    "an implicit join": scalars(BY_ID.where(Product.category_id == Category.id, Category.name == "fruit")),
    "an outer join": scalars(BY_ID.outerjoin(Product.category)),
    "a subquery": scalars(BY_ID.where(Product.category_id.in_(select(Category.id).where(Category.name == "fruit")))),
    "load_only": scalars(BY_ID.options(ONLY_NAME)),
    "defer": scalars(BY_ID.options(NO_NOTE)),
    "joinedload": scalars(BY_ID.options(JOINED)),
    "joinedload of a page": scalars(BY_ID.options(JOINED).limit(2)),
    "selectinload": scalars(BY_ID.options(WITH_TAGS)),
    "raiseload": scalars(BY_ID.options(NOTHING_MORE)),
    "raiseload that raises": lambda session: session.scalars(BY_ID.options(NOTHING_MORE)).all()[0].category,
    "with_loader_criteria": scalars(BY_ID.options(FEW)),
    "rows": lambda session: session.execute(BY_ID).all(),
    "first": lambda session: session.scalars(BY_ID).first(),
    "one of many": lambda session: session.execute(BY_ID).scalar_one(),
    "partitions": lambda session: [list(part) for part in session.execute(BY_ID).partitions(3)],
    "a legacy query": lambda session: session.query(Product).order_by(Product.id).all(),
    "a legacy page": lambda session: session.query(Product).order_by(Product.id)[1:3],
    "a legacy query with a join": lambda session: (
        session.query(Product).join(Product.category).filter(Category.id == 1).order_by(Product.id).all()
    ),
    "parameters at execute": lambda session: session.scalars(
        BY_ID.where(Product.category_id == func.coalesce(None, 1)), {}
    ).all(),
    "with the rows held": lambda session: (session.get(Product, 2), session.scalars(BY_ID).all()),
    "twice": lambda session: (session.scalars(BY_ID).all(), session.scalars(BY_ID).all()),
}
# What is kept whole is the database's as well.
WHOLE: dict[str, Take] = {
    "a join with a joinedload of one": scalars(BY_ID.join(Product.category).options(JOINED)),
    "a join with joinedload": scalars(BY_ID.join(Product.tags).options(JOINED)),
    "a join that multiplies rows": scalars(BY_ID.join(Category, Category.id > 0)),
    "an outer join of nothing": scalars(
        select(Product).select_from(Tag).outerjoin(Product, Product.id == Tag.id + 3).order_by(Tag.id)
    ),
    "contains_eager": scalars(BY_ID.join(Product.category).options(contains_eager(Product.category))),
    "distinct": scalars(BY_ID.distinct()),
    "joinedload of a legacy page": lambda session: (
        session.query(Category).options(WITH_PRODUCTS).order_by(Category.id).limit(1).all()
    ),
}


@pytest.fixture
def shop_of_keys(worlds: Worlds) -> World:
    world = worlds.shop()
    for model in (Category, Product, Tag):
        world.cache.add_models(model, policy=BY_KEYS)
    return world


NOTES = iter(range(10**6))


def note(product_id: int = 2) -> Any:
    return update(Product).where(Product.id == product_id).values(note=f"note {next(NOTES)}")


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("name", PRODUCTS)
def test_an_answer_put_together_is_the_database_s(shop_of_keys: World, name: str) -> None:
    assert_same_put_together(shop_of_keys, PRODUCTS[name], note(), by_key=name not in {"load_only", "defer"})


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_is_kept_whole_is_the_database_s(shop_of_keys: World, name: str) -> None:
    assert_same_put_together(shop_of_keys, WHOLE[name], note(), by_key=False)
    assert shop_of_keys.cache.stats()["counts"]["whole"] >= 1


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb", "mariadb-memory"], indirect=True)
def test_answers_are_the_database_s_on_every_database(shop_of_keys: World) -> None:
    for name, take in {**PRODUCTS, **WHOLE}.items():
        by_key = name in PRODUCTS and name not in {"load_only", "defer"}
        assert_same_put_together(shop_of_keys, take, note(), by_key=by_key)


# -- collections -------------------------------------------------------------------------------------------------------

CATEGORIES: dict[str, Take] = {
    "joinedload": unique(select(Category).options(WITH_PRODUCTS).order_by(Category.id)),
    "joinedload without unique": scalars(select(Category).options(WITH_PRODUCTS).order_by(Category.id)),
    "joinedload of a page": unique(select(Category).options(WITH_PRODUCTS).order_by(Category.id.desc()).limit(2)),
    "joinedload in two levels": unique(
        select(Category).options(WITH_PRODUCTS.joinedload(Product.tags)).order_by(Category.id)
    ),
    "a legacy query": lambda session: session.query(Category).options(WITH_PRODUCTS).order_by(Category.id).all(),
}


@pytest.mark.parametrize("name", CATEGORIES)
def test_collections_loaded_with_their_rows_are_the_database_s(shop_of_keys: World, name: str) -> None:
    if name == "joinedload without unique":
        assert_same_as_uncached(shop_of_keys, CATEGORIES[name])
        return
    assert_same_put_together(shop_of_keys, CATEGORIES[name], note())
    assert_same_put_together(
        shop_of_keys, CATEGORIES[name], update(Product).where(Product.id == 3).values(category_id=1), by_key=False
    )


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_rows_joined_under_other_criteria_are_other_rows(shop_of_keys: World) -> None:
    def few(most: int) -> Take:
        criteria = with_loader_criteria(Product, Product.views < most)
        return unique(select(Category).options(WITH_PRODUCTS, criteria).order_by(Category.id))

    def names_below(most: int) -> Take:
        take = few(most)
        return lambda session: [(one.name, [product.name for product in one.products]) for one in take(session)]

    shop_of_keys.prime(names_below(15), names_below(35))
    with shop_of_keys.write() as session:
        session.get_one(Category, 2).name = "tubers"

    shop_of_keys.assert_true(names_below(15))
    shop_of_keys.assert_true(names_below(35))


# -- kinds of primary keys ---------------------------------------------------------------------------------------------


class Keyed(DeclarativeBase):
    pass


class Pair(Keyed):
    __tablename__ = "ke_pair"

    shop: Mapped[str] = mapped_column(String(10), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    rank: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(String(20))


class Token(Keyed):
    __tablename__ = "ke_token"

    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    rank: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(String(20))


class Word(Keyed):
    __tablename__ = "ke_word"

    id: Mapped[str] = mapped_column(String(20), primary_key=True)
    rank: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(String(20))


class Suit(Enum):
    HEARTS = "h"
    SPADES = "s"


class Card(Keyed):
    __tablename__ = "ke_card"

    id: Mapped[Suit] = mapped_column(primary_key=True)
    rank: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(String(20))


class Doubled(TypeDecorator[int]):
    """A number that is twice as large in the database."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Any) -> str | None:
        return None if value is None else str(value * 2)

    def process_result_value(self, value: str | None, dialect: Any) -> int | None:
        return None if value is None else int(value) // 2


class Half(Keyed):
    __tablename__ = "ke_half"

    id: Mapped[int] = mapped_column(Doubled, primary_key=True)
    rank: Mapped[int | None]
    note: Mapped[str | None] = mapped_column(String(20))


class Versioned(Keyed):
    __tablename__ = "ke_versioned"

    id: Mapped[int] = mapped_column(primary_key=True)
    rank: Mapped[int | None] = mapped_column()
    note: Mapped[str | None] = mapped_column(String(20))
    story: Mapped[str | None] = mapped_column(Text, deferred=True)
    version: Mapped[int] = mapped_column()
    half: Mapped[int | None] = column_property(rank * 2)
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


KEYS: dict[type[Any], tuple[list[Any], bool]] = {
    Pair: ([Pair(shop=s, number=n, rank=n) for s in "ab" for n in (1, 2)], True),
    Token: ([Token(id=uuid.UUID(int=n), rank=n % 2 or None) for n in range(4)], True),
    Word: ([Word(id=w, rank=len(w)) for w in ("a", "B", "ü", "long word")], True),
    Card: ([Card(id=suit, rank=1) for suit in Suit], False),
    Half: ([Half(id=n, rank=n) for n in (1, 2, 3)], False),
    Versioned: ([Versioned(id=n, rank=n, story="long") for n in (1, 2, 3)], True),
}
"""By model: its rows, and whether they are told apart by their key."""


@pytest.mark.parametrize("model", KEYS)
def test_rows_of_any_key_come_back_as_the_database_gives_them(worlds: Worlds, model: type[Any]) -> None:
    world = worlds(model)
    world.cache.add_models(model, policy=BY_KEYS)
    rows, told_apart = KEYS[model]
    with Session(world.outside) as session:
        session.add_all(copies_of(rows))
        session.commit()
    # MariaDB takes one text for another: of a pair, the number is left.
    told_apart = told_apart and not (world.dialect == "mariadb" and model is Word)
    for statement in (select(model).order_by(model.rank), select(model).where(model.rank.is_(None)), select(model)):
        ordered = statement.order_by(*model.__mapper__.primary_key)

        def change(session: Session) -> None:
            first = session.scalars(select(model).order_by(*model.__mapper__.primary_key)).first()
            assert first is not None
            first.note = f"note {next(NOTES)}"

        assert_same_as_uncached(world, scalars(ordered))
        with world.write() as session:
            change(session)
        for _ in range(2):
            assert_same_now(world, scalars(ordered))
    whole = world.cache.stats()["counts"].get("whole", 0)
    assert (whole == 0) == told_apart, world.cache.stats()["reasons"]


def assert_same_now(world: World, take: Take) -> None:
    with Session(world.outside) as session:
        expected = observed(session, take)
    with world.session() as session:
        assert observed(session, take) == expected


def copies_of(rows: list[Any]) -> list[Any]:
    return [
        type(row)(**{key: value for key, value in vars(row).items() if key != "_sa_instance_state"}) for row in rows
    ]


# -- inheritance -------------------------------------------------------------------------------------------------------


class Zoo(DeclarativeBase):
    pass


class Animal(Zoo):
    __tablename__ = "ke_animal"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(10))
    note: Mapped[str | None] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal", "with_polymorphic": "*"}  # noqa: RUF012


class Lion(Animal):
    __tablename__ = "ke_lion"

    id: Mapped[int] = mapped_column(ForeignKey("ke_animal.id"), primary_key=True)
    mane: Mapped[str] = mapped_column(String(10), default="big")
    __mapper_args__ = {"polymorphic_identity": "lion"}  # noqa: RUF012


class Bird(Animal):
    wings: Mapped[int | None]
    __mapper_args__ = {"polymorphic_identity": "bird"}  # noqa: RUF012


EVERY = with_polymorphic(Animal, [Lion])
ANIMALS: dict[str, Take] = {
    "the base": scalars(select(Animal).order_by(Animal.id)),
    "a joined subclass": scalars(select(Lion).order_by(Lion.id)),
    "a subclass by a column of its own": scalars(select(Lion).where(Lion.mane == "big").order_by(Lion.id)),
    "a subclass in the table of its base": scalars(select(Bird).order_by(Bird.id)),
    "with_polymorphic": scalars(select(EVERY).order_by(EVERY.id)),
}


@pytest.mark.parametrize("name", ANIMALS)
def test_inherited_rows_are_the_database_s(worlds: Worlds, name: str) -> None:
    world = worlds(Animal, Lion, Bird)
    world.cache.add_models(Animal, Lion, Bird, policy=BY_KEYS)
    with Session(world.outside) as session:
        session.add_all([Animal(id=1, name="ape"), Lion(id=2, name="leo"), Bird(id=3, name="tit", wings=2)])
        session.add_all([Lion(id=4, name="leona"), Bird(id=5, name="owl"), Animal(id=6, name="cat")])
        session.commit()
    for changed in (2, 3):
        change = update(Animal).where(Animal.id == changed).values(note=f"note {next(NOTES)}")
        assert_same_put_together(world, ANIMALS[name], change, by_key=False)
    if name in {"the base", "a joined subclass"}:
        assert "whole" not in world.cache.stats()["counts"], world.cache.stats()["reasons"]
