"""A miss and a hit give what the database gives: values, types, order, identity, loader state, errors."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Interval,
    LargeBinary,
    Numeric,
    PickleType,
    String,
    Text,
    Time,
    Uuid,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal,
    null,
    select,
    text,
    tuple_,
    union,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, INET, INT4RANGE, JSONB, Range
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    column_property,
    contains_eager,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    mapped_column,
    raiseload,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    undefer,
    with_loader_criteria,
    with_polymorphic,
)
from sqlalchemy.types import TypeDecorator

from equality_support import Take, assert_same_as_uncached, observed
from scenario_support import Category, Product, Tag, World, labels

BY_ID = select(Product).order_by(Product.id)
OTHER = aliased(Product)


def scalars(statement: Any) -> Take:
    return lambda session: session.scalars(statement).all()


def rows(statement: Any) -> Take:
    return lambda session: session.execute(statement).all()


def unique(statement: Any) -> Take:
    return lambda session: session.scalars(statement).unique().all()


def walk(statement: Any) -> Take:
    """Take categories, and whatever hangs on them."""

    def take(session: Session) -> Any:
        found = session.scalars(statement).unique().all()
        return [(one, list(one.products), [list(product.tags) for product in one.products]) for one in found]

    return take


def after_close(session: Session) -> Any:
    result = session.execute(BY_ID)
    result.close()
    return result.all()


def numbers(name: str = "numbers") -> Any:
    base = select(literal(1).label("n"), Product.id).where(Product.id == 1).cte(name, recursive=True)
    return base.union_all(select(base.c.n + 1, base.c.id).where(base.c.n < 3))


COUNTED = select(func.count(Product.id)).where(Product.category_id == Category.id).scalar_subquery()
WANTED = select(Product.id, Product.name).where(Product.views > 10).cte("wanted")
NUMBERS = numbers()
# Made once: an instance remembers which option object it was loaded with.
WITH_CATEGORY = joinedload(Product.category)
WITH_PRODUCTS = joinedload(Category.products)

STATEMENTS: dict[str, Take] = {
    "get": lambda session: session.get(Product, 1),
    "get nothing": lambda session: session.get(Product, 99),
    "get_one nothing": lambda session: session.get_one(Product, 99),
    "get twice": lambda session: (session.get(Product, 1), session.get(Product, 1)),
    "get with options": lambda session: session.get(Product, 1, options=[WITH_CATEGORY]),
    "filter": scalars(BY_ID.where(Product.views > 10)),
    "filter_by": scalars(BY_ID.filter_by(category_id=1)),
    "nothing": scalars(BY_ID.where(Product.name == "none")),
    "order": scalars(select(Product).order_by(Product.name.desc())),
    "join": scalars(BY_ID.join(Product.category).where(Category.name == "fruit")),
    "join of two entities": rows(select(Product, Category).join(Product.category).order_by(Product.id)),
    "outer join": rows(select(Category, Product).outerjoin(Category.products).order_by(Category.id, Product.id)),
    "alias": rows(
        select(Product, OTHER).join(OTHER, Product.category_id == OTHER.category_id).order_by(Product.id, OTHER.id)
    ),
    "alias alone": scalars(select(OTHER).where(OTHER.id == 2)),
    "many to many": scalars(BY_ID.join(Product.tags).where(Tag.name == "red")),
    "association table": rows(select(labels).order_by(labels.c.product_id)),
    "columns": rows(select(Product.id, Product.name, Product.price).order_by(Product.id)),
    "labelled column": rows(select(Product.views.label("seen")).order_by(Product.id)),
    "entity and column": rows(select(Product, Product.name, func.length(Product.name)).order_by(Product.id)),
    "same column twice": rows(select(Product.id, Product.id, Product.name).order_by(Product.id)),
    "count": lambda session: session.scalar(select(func.count()).select_from(Product)),
    "sum of decimals": lambda session: session.scalar(select(func.sum(Product.price))),
    "average": lambda session: session.scalar(select(func.avg(Product.price))),
    "aggregates": rows(select(func.min(Product.price), func.max(Product.name), func.sum(Product.views))),
    "aggregate of nothing": rows(select(func.max(Product.views)).where(Product.id == 99)),
    "group by": rows(
        select(Product.category_id, func.count()).group_by(Product.category_id).order_by(Product.category_id)
    ),
    "exists": lambda session: session.scalar(select(exists().where(Product.id == 1))),
    "exists and a filter": scalars(select(Category).where(Category.products.any(Product.views > 30))),
    "in list": scalars(BY_ID.where(Product.id.in_([1, 3, 99]))),
    "empty in list": scalars(BY_ID.where(Product.id.in_([]))),
    "long in list": scalars(BY_ID.where(Product.id.in_(list(range(200))))),
    "tuple in": rows(select(Product.id).where(tuple_(Product.id, Product.category_id).in_([(1, 1), (2, 2)]))),
    "page": scalars(BY_ID.limit(2).offset(1)),
    "page with children": unique(
        select(Category).order_by(Category.id).limit(1).options(joinedload(Category.products))
    ),
    "distinct": rows(select(Product.category_id).distinct().order_by(Product.category_id)),
    "case": rows(select(case((Product.views > 20, "many"), else_="few")).order_by(Product.id)),
    "cast": rows(select(cast(Product.views, String(10))).order_by(Product.id)),
    "null": rows(select(null(), Product.note).where(Product.id == 1)),
    "subquery": rows(select(select(Product.name).where(Product.id < 3).order_by(Product.id).subquery())),
    "in subquery": scalars(BY_ID.where(Product.category_id.in_(select(Category.id).where(Category.name == "roots")))),
    "scalar subquery": rows(select(Category.name, COUNTED.label("many")).order_by(Category.id)),
    "union": rows(union(select(Product.name), select(Category.name)).order_by("name")),
    "union of entities": scalars(
        select(Product).from_statement(
            union_all(select(Product).where(Product.id == 1), select(Product).where(Product.id == 2)).order_by("id")
        )
    ),
    "cte": rows(select(WANTED).order_by(WANTED.c.id)),
    "recursive cte": rows(select(NUMBERS.c.n).order_by(NUMBERS.c.n)),
    "window function": rows(
        select(Product.id, func.row_number().over(order_by=Product.views.desc())).order_by(Product.id)
    ),
    "bundle": rows(select(Bundle("pair", Product.id, Product.name)).order_by(Product.id)),
    "single entity bundle": rows(select(Bundle("one", Product.id, single_entity=True)).order_by(Product.id)),
    "joined": unique(select(Category).order_by(Category.id).options(joinedload(Category.products))),
    "joined many to one": scalars(BY_ID.options(joinedload(Product.category))),
    "joined inner": scalars(BY_ID.options(joinedload(Product.category, innerjoin=True))),
    "selectin": scalars(select(Category).order_by(Category.id).options(selectinload(Category.products))),
    "selectin many to one": scalars(BY_ID.options(selectinload(Product.category))),
    "selectin many to many": scalars(BY_ID.options(selectinload(Product.tags))),
    "selectin in two levels": walk(
        select(Category).order_by(Category.id).options(selectinload(Category.products).selectinload(Product.tags))
    ),
    "joined then selectin": walk(
        select(Category).order_by(Category.id).options(joinedload(Category.products).selectinload(Product.tags))
    ),
    "subqueryload": scalars(select(Category).order_by(Category.id).options(subqueryload(Category.products))),
    "immediate": scalars(select(Category).order_by(Category.id).options(immediateload(Category.products))),
    "lazy": walk(select(Category).order_by(Category.id)),
    "lazy by option": walk(select(Category).order_by(Category.id).options(lazyload(Category.products))),
    "lazy many to one": lambda session: [(one, one.category) for one in session.scalars(BY_ID)],
    "contains_eager": unique(
        select(Category)
        .join(Category.products)
        .where(Product.views > 10)
        .order_by(Category.id, Product.id)
        .options(contains_eager(Category.products))
    ),
    "load_only": scalars(BY_ID.options(load_only(Product.name))),
    "defer": scalars(BY_ID.options(defer(Product.price), defer(Product.note))),
    "defer raising": lambda session: (
        session.scalars(BY_ID.options(defer(Product.price, raiseload=True))).all()[0].price
    ),
    "undefer": scalars(BY_ID.options(defer(Product.price), undefer(Product.price))),
    "load_only of children": scalars(
        select(Category).order_by(Category.id).options(selectinload(Category.products).load_only(Product.name))
    ),
    "with_loader_criteria": scalars(
        select(Category)
        .order_by(Category.id)
        .options(selectinload(Category.products), with_loader_criteria(Product, Product.views > 20))
    ),
    "one": lambda session: session.execute(select(Product).where(Product.id == 1)).one(),
    "one of none": lambda session: session.execute(select(Product).where(Product.id == 99)).one(),
    "one of many": lambda session: session.execute(BY_ID).one(),
    "scalar_one": lambda session: session.execute(select(Product.name).where(Product.id == 1)).scalar_one(),
    "scalar_one of none": lambda session: session.execute(select(Product).where(Product.id == 99)).scalar_one(),
    "scalar_one of many": lambda session: session.execute(BY_ID).scalar_one(),
    "scalar_one_or_none": lambda session: session.execute(BY_ID.where(Product.id == 99)).scalar_one_or_none(),
    "first": lambda session: session.scalars(BY_ID).first(),
    "first of none": lambda session: session.execute(BY_ID.where(Product.id == 99)).first(),
    "fetchmany": lambda session: session.execute(BY_ID).fetchmany(2),
    "partitions": lambda session: [list(part) for part in session.execute(BY_ID).partitions(3)],
    "mappings": lambda session: [dict(row) for row in session.execute(select(Product.id, Product.name)).mappings()],
    "tuples and columns": lambda session: session.execute(select(Product.id, Product.name)).columns(1).all(),
    "keys": lambda session: list(session.execute(select(Product.id, Product.name.label("n"))).keys()),
    "attributes of rows": lambda session: [
        (row.id, row[0], row._mapping[Product.id]) for row in session.execute(select(Product.id))
    ],
    "unique missing": lambda session: session.scalars(select(Category).options(joinedload(Category.products))).all(),
    "unique by a key": lambda session: session.execute(select(Product.category_id)).unique(lambda row: row[0]).all(),
    "closed": after_close,
    "read twice": lambda session: (lambda result: (result.all(), result.all()))(session.execute(BY_ID)),
    "same statement twice": lambda session: (session.scalars(BY_ID).all(), session.scalars(BY_ID).all()),
    "parameters at execute": lambda session: session.scalars(
        BY_ID.where(Product.id == bindparam("given")), {"given": 2}
    ).all(),
    "a parameter missing": lambda session: session.scalars(BY_ID.where(Product.id == bindparam("given"))).all(),
    "legacy query": lambda session: session.query(Product).order_by(Product.id).all(),
    "legacy of columns": lambda session: session.query(Product.id, Product.name).order_by(Product.id).all(),
    "legacy count": lambda session: session.query(Product).filter_by(category_id=1).count(),
    "legacy first": lambda session: session.query(Product).order_by(Product.id).first(),
    "legacy one": lambda session: session.query(Product).filter_by(id=1).one(),
    "legacy one of none": lambda session: session.query(Product).filter_by(id=99).one(),
    "legacy scalar": lambda session: session.query(Product.name).filter_by(id=1).scalar(),
    "legacy exists": lambda session: session.query(session.query(Product).filter_by(id=1).exists()).scalar(),
    "legacy joined": lambda session: session.query(Category).options(WITH_PRODUCTS).order_by(Category.id).all(),
    "legacy page": lambda session: (
        session.query(Product).order_by(Product.id).limit(2).offset(2).all(),
        session.query(Product).order_by(None).count(),
    ),
    "legacy iteration": lambda session: [product.name for product in session.query(Product).order_by(Product.id)],
    "legacy slice": lambda session: session.query(Product).order_by(Product.id)[1:3],
    "legacy from_self": lambda session: session.query(Product).filter(Product.id.in_([1, 2])).distinct().count(),
}


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("name", STATEMENTS)
def test_b26_an_answer_from_the_cache_is_the_database_s(shop: World, name: str) -> None:
    raises = name in {"a parameter missing"}
    assert_same_as_uncached(shop, STATEMENTS[name], hits=not raises)


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb", "mariadb-memory"], indirect=True)
def test_b26_answers_from_the_cache_are_the_database_s_on_every_database(shop: World) -> None:
    for name, take in STATEMENTS.items():
        if name in {"a parameter missing"}:
            continue
        assert_same_as_uncached(shop, take)


def products_of_first(statement: Any) -> Take:
    return lambda session: session.scalars(statement).all()[0].products


def test_b26_raiseload_raises_on_a_hit_too(shop: World) -> None:
    for loader in (raiseload("*"), raiseload(Category.products)):
        statement = select(Category).order_by(Category.id).options(loader)
        assert_same_as_uncached(shop, scalars(statement))
        assert_same_as_uncached(shop, products_of_first(statement))


class Zoo(DeclarativeBase):
    pass


class Animal(Zoo):
    __tablename__ = "eq_animal"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(10))
    weight: Mapped[int] = mapped_column(default=0)
    twice: Mapped[int] = column_property(weight * 2)
    story: Mapped[str | None] = mapped_column(Text, deferred=True)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012

    @hybrid_property
    def heavy(self) -> bool:
        return self.weight > 5


class Lion(Animal):
    __tablename__ = "eq_lion"

    id: Mapped[int] = mapped_column(ForeignKey("eq_animal.id"), primary_key=True)
    mane: Mapped[str] = mapped_column(String(10), default="big")
    __mapper_args__ = {"polymorphic_identity": "lion"}  # noqa: RUF012


EVERY = with_polymorphic(Animal, "*")
POLYMORPHIC: dict[str, Take] = {
    "subclass": scalars(select(Lion).order_by(Lion.id)),
    "base": scalars(select(Animal).order_by(Animal.id)),
    "with_polymorphic": scalars(select(EVERY).order_by(EVERY.id)),
    "selectin_polymorphic": scalars(select(Animal).order_by(Animal.id).options(selectin_polymorphic(Animal, [Lion]))),
    "get of a subclass": lambda session: session.get(Lion, 2),
    "get of another class": lambda session: session.get(Lion, 1),
    "column_property": rows(select(Animal.twice).order_by(Animal.id)),
    "hybrid": rows(select(Animal.heavy, Animal.name).order_by(Animal.id)),
    "hybrid in a filter": scalars(select(Lion).where(Lion.heavy)),
    "undeferred": scalars(select(Lion).options(undefer(Lion.story)).order_by(Lion.id)),
    "of the type column": scalars(select(Lion).where(Animal.kind == "lion").order_by(Lion.id)),
}


@pytest.fixture
def zoo(worlds: Any) -> World:
    world: World = worlds(Animal, Lion)
    with Session(world.outside) as session:
        session.add_all([Animal(id=1, name="ape", weight=3, story="long"), Lion(id=2, name="leo", weight=9, story="x")])
        session.commit()
    return world


@pytest.mark.parametrize("name", POLYMORPHIC)
def test_b28_polymorphic_answers_from_the_cache_are_the_database_s(zoo: World, name: str) -> None:
    assert_same_as_uncached(zoo, POLYMORPHIC[name])


class Mood(Enum):
    CALM = 1
    WILD = 2


class Shout(TypeDecorator[str]):
    """Text in capitals outside of the database."""

    impl = String(20)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.upper()


class Types(DeclarativeBase):
    pass


class Sample(Types):
    __tablename__ = "eq_sample"

    id: Mapped[int] = mapped_column(primary_key=True)
    mood: Mapped[Mood | None]
    data: Mapped[Any] = mapped_column(JSON, nullable=True)
    thing: Mapped[Any] = mapped_column(PickleType, nullable=True)
    price: Mapped[Decimal | None] = mapped_column(Numeric(20, 6))
    ratio: Mapped[float | None] = mapped_column(Float)
    exact: Mapped[Any] = mapped_column(Numeric(10, 3, asdecimal=False), nullable=True)
    seen: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    made: Mapped[datetime | None] = mapped_column(DateTime)
    day: Mapped[date | None] = mapped_column(Date)
    hour: Mapped[time | None] = mapped_column(Time)
    took: Mapped[timedelta | None] = mapped_column(Interval)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    token: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    token_text: Mapped[str | None] = mapped_column(Uuid(as_uuid=False))
    flag: Mapped[bool | None]
    shout: Mapped[str | None] = mapped_column(Shout)
    story: Mapped[str | None] = mapped_column(Text)


TOKEN = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
NOON = datetime(2024, 6, 1, 12, 30, 15, 123456)
FULL: dict[str, Any] = {
    "mood": Mood.WILD,
    "data": {"a": [1, 2.5, None, True, "ü", {"b": []}]},
    "thing": {"set": {1, 2}, "decimal": Decimal("1.1")},
    "price": Decimal("12345678901234.567890"),
    "ratio": 0.1,
    "exact": 1.125,
    "seen": NOON.replace(tzinfo=UTC),
    "made": NOON,
    "day": date(2024, 2, 29),
    "hour": time(23, 59, 59),
    "took": timedelta(days=3, seconds=7, microseconds=11),
    "blob": b"\x00\x01\xff",
    "token": TOKEN,
    "token_text": str(TOKEN),
    "flag": True,
    "shout": "loud",
    "story": "ünïcødé \U0001f600\n" * 10,
}


@pytest.mark.filterwarnings("ignore:Dialect sqlite.* does .not. support Decimal objects natively")
@pytest.mark.parametrize("name", sorted(FULL))
def test_every_type_comes_back_as_the_database_gives_it(worlds: Any, name: str) -> None:
    world: World = worlds(Sample)
    with Session(world.outside) as session:
        session.add_all([Sample(id=1, **{name: FULL[name]}), Sample(id=2)])
        session.commit()
    column = getattr(Sample, name)
    assert_same_as_uncached(world, rows(select(column).order_by(Sample.id)))
    assert_same_as_uncached(world, scalars(select(Sample).order_by(Sample.id)))
    assert_same_as_uncached(world, lambda session: session.get(Sample, 1))


class Picky(TypeDecorator[str]):
    """Takes nothing but what it likes."""

    impl = String(20)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        if value == "bad":
            raise Disliked
        return value


class Disliked(Exception):
    pass


REFUSED: dict[str, Any] = {
    "a uuid": Sample.token == literal("not a uuid", Uuid),
    "an enum": Sample.mood == literal(date(2024, 1, 1), Sample.mood.type),
    "a date": Sample.day == literal("yesterday", Date),
    "a type of the application's": Sample.shout == literal("bad", Picky),
    "JSON": Sample.data == literal(object(), JSON),
}


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("name", REFUSED)
def test_a_value_that_its_type_refuses_raises_what_it_raises_without_a_cache(worlds: Any, name: str) -> None:
    world: World = worlds(Sample)
    take = scalars(select(Sample).where(REFUSED[name]))
    with Session(world.outside) as session:
        assert observed(session, take)[0] == "raised"
    assert_same_as_uncached(world, take, hits=False)


class OfPostgresql(DeclarativeBase):
    pass


class Row(OfPostgresql):
    __tablename__ = "eq_row"

    id: Mapped[int] = mapped_column(primary_key=True)
    many: Mapped[Any] = mapped_column(ARRAY(String(10)))
    nested: Mapped[Any] = mapped_column(ARRAY(Numeric(6, 2), dimensions=2))
    document: Mapped[Any] = mapped_column(JSONB)
    span: Mapped[Any] = mapped_column(INT4RANGE)
    address: Mapped[Any] = mapped_column(INET)


@pytest.mark.parametrize("worlds", ["postgresql-memory"], indirect=True)
def test_postgresql_s_own_types_come_back_as_the_database_gives_them(worlds: Any) -> None:
    world: World = worlds(Row)
    with Session(world.outside) as session:
        session.add(
            Row(
                id=1,
                many=["a", None, "b,{}"],
                nested=[[Decimal("1.50")], [Decimal("2.00")]],
                document={"a": [1, None]},
                span=Range(1, 5),
                address="10.0.0.1/8",
            )
        )
        session.commit()
    assert_same_as_uncached(world, scalars(select(Row)))
    for column in Row.__table__.columns:
        assert_same_as_uncached(world, rows(select(column)))


def test_what_the_application_does_to_a_value_does_not_reach_the_cache(worlds: Any) -> None:
    world: World = worlds(Sample)
    with Session(world.outside) as session:
        session.add(Sample(id=1, data={"a": [1]}, thing=[1]))
        session.commit()
    take: Callable[[Session], Any] = lambda session: session.get(Sample, 1)  # noqa: E731
    assert_same_as_uncached(world, take)
    for _ in range(2):
        with world.session() as session:
            sample = session.get_one(Sample, 1)
            sample.data["a"].append(2)
            sample.thing.append(2)
    assert_same_as_uncached(world, take)


def test_text_is_never_cached_and_is_the_database_s(shop: World) -> None:
    assert_same_as_uncached(shop, rows(text("SELECT id, name FROM sc_product ORDER BY id")), hits=False)
