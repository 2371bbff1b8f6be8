"""A. What changed: rows come, go and move, and whoever cached what they belong to is told."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from sqlalchemy import (
    CHAR,
    JSON,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    Numeric,
    String,
    Uuid,
    and_,
    delete,
    distinct,
    exists,
    func,
    literal,
    not_,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    column_property,
    defer,
    load_only,
    mapped_column,
    relationship,
)
from sqlalchemy.types import TypeDecorator

from scenario_support import (
    Category,
    Product,
    World,
    count_of,
    entities,
    get,
    in_category,
    names,
    rows,
    values_of,
)


def test_s1_a_row_that_is_inserted_appears_in_the_cached_list_it_belongs_to(shop: World) -> None:
    with (
        shop.expecting(changed=[in_category(1)], kept=[in_category(2), get(Product, 1), get(Category, 1)]),
        shop.write() as session,
    ):
        session.add(Product(name="plum", category_id=1, price=Decimal(3)))


def test_s2_a_row_updated_into_a_predicate_appears(shop: World) -> None:
    with (
        shop.expecting(
            changed=[in_category(1), get(Product, 3), names(Product.views > 30)],
            kept=[get(Product, 1), get(Category, 1)],
        ),
        shop.write() as session,
    ):
        product = session.get_one(Product, 3)
        product.category_id = 1
        product.views = 99


def test_s3_a_row_updated_out_of_a_predicate_disappears_by_its_old_value(shop: World) -> None:
    with (
        shop.expecting(changed=[in_category(1), in_category(2)], kept=[get(Product, 2), get(Category, 2)]),
        shop.write() as session,
    ):
        session.get_one(Product, 1).category_id = 2


def test_s3_an_update_that_moves_nothing_keeps_the_lists_of_other_values(shop: World) -> None:
    with (
        shop.expecting(changed=[in_category(1), get(Product, 1)], kept=[in_category(2), get(Product, 3)]),
        shop.write() as session,
    ):
        session.get_one(Product, 1).name = "quince"


def test_s3_the_old_value_is_the_database_s_not_the_session_s(shop: World) -> None:
    with shop.session() as slow:
        product = slow.get_one(Product, 1)
        slow.commit()
        slow.refresh(product)
        slow.commit()
        with shop.write() as session:
            session.get_one(Product, 1).category_id = 2
        with shop.expecting(changed=[in_category(2)], kept=[get(Product, 2)]):
            product.name = "quince"
            slow.commit()


def test_s3_a_row_that_moves_twice_in_one_transaction_leaves_every_list_it_was_in(shop: World) -> None:
    with shop.write() as session:
        session.add(Category(id=3, name="herbs"))
    with (
        shop.expecting(changed=[in_category(1), in_category(3)], true=[in_category(2)], kept=[get(Product, 2)]),
        shop.write() as session,
    ):
        product = session.get_one(Product, 1)
        for category_id in (2, 1, 3):
            product.category_id = category_id
            session.flush()


def test_s3_a_row_that_comes_and_goes_in_one_transaction_leaves_nothing_behind(shop: World) -> None:
    with shop.expecting(true=[in_category(1), get(Product, 9)], kept=[get(Product, 1)]), shop.write() as session:
        product = Product(id=9, name="plum", category_id=1, price=Decimal(3))
        session.add(product)
        session.flush()
        shop.assert_true(in_category(1))
        session.delete(product)


def test_s3_a_row_whose_primary_key_changes_is_found_under_the_new_one_only(shop: World) -> None:
    with (
        shop.expecting(changed=[get(Product, 3), get(Product, 9), in_category(2)], kept=[get(Product, 1)]),
        shop.write() as session,
    ):
        session.get_one(Product, 3).id = 9


def test_s4_a_deleted_row_disappears(shop: World) -> None:
    with (
        shop.expecting(changed=[in_category(1), get(Product, 2)], kept=[in_category(2), get(Product, 1)]),
        shop.write() as session,
    ):
        session.execute(text("DELETE FROM sc_label WHERE product_id = 2"))
        session.delete(session.get_one(Product, 2))


def test_s4_an_orphan_disappears(shop: World) -> None:
    with (
        shop.expecting(changed=[in_category(2), get(Product, 4)], kept=[get(Product, 3), in_category(1)]),
        shop.write() as session,
    ):
        category = session.get_one(Category, 2)
        category.products.remove(session.get_one(Product, 4))


def test_s4_what_the_orm_deletes_along_disappears(shop: World) -> None:
    with (
        shop.expecting(
            changed=[in_category(2), get(Product, 3), get(Category, 2), count_of(Category)],
            kept=[get(Product, 1), get(Category, 1)],
            # Several products are deleted at once, and others refer to them: their old values are not asked for.
            true=[in_category(1)],
        ),
        shop.write() as session,
    ):
        session.delete(session.get_one(Category, 2))


class Farm(DeclarativeBase):
    pass


class Owner(Farm):
    __tablename__ = "sa_owner"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)
    pets: Mapped[list[Pet]] = relationship(passive_deletes=True, passive_updates=True)


class Pet(Farm):
    __tablename__ = "sa_pet"

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_name: Mapped[str] = mapped_column(ForeignKey("sa_owner.name", ondelete="CASCADE", onupdate="CASCADE"))
    walker_name: Mapped[str | None] = mapped_column(ForeignKey("sa_walker.name", ondelete="SET NULL"))


class Walker(Farm):
    __tablename__ = "sa_walker"

    name: Mapped[str] = mapped_column(String(20), primary_key=True)


class Toy(Farm):
    __tablename__ = "sa_toy"

    id: Mapped[int] = mapped_column(primary_key=True)
    pet_id: Mapped[int] = mapped_column(ForeignKey("sa_pet.id", ondelete="CASCADE"))


class Barn(Farm):
    __tablename__ = "sa_barn"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def farm(worlds: Any) -> World:
    world: World = worlds(Owner, Walker, Pet, Toy, Barn)
    with Session(world.outside) as session:
        session.add_all([Owner(name="ann"), Owner(name="bob"), Walker(name="cat"), Barn(id=1)])
        session.flush()
        session.add_all([Pet(id=1, owner_name="ann", walker_name="cat"), Pet(id=2, owner_name="bob")])
        session.flush()
        session.add_all([Toy(id=1, pet_id=1), Toy(id=2, pet_id=2)])
        session.commit()
    return world


def test_s5_what_the_database_deletes_along_disappears_also_a_table_further(farm: World) -> None:
    toys = entities(select(Toy).order_by(Toy.id))
    with farm.expecting(changed=[get(Pet, 1), toys, get(Toy, 1), get(Owner, "ann")], kept=[get(Barn, 1)]):
        with farm.write() as session:
            session.delete(session.get_one(Owner, "ann"))
        assert not any("sa_toy" in statement for statement in farm.sent)


def test_s5_what_the_database_sets_to_null_is_null(farm: World) -> None:
    with (
        farm.expecting(changed=[get(Pet, 1), get(Walker, "cat")], kept=[get(Barn, 1), get(Owner, "ann")]),
        farm.write() as session,
    ):
        session.delete(session.get_one(Walker, "cat"))


def test_s5_what_the_database_renames_along_is_renamed(farm: World) -> None:
    pets = entities(select(Pet).where(Pet.owner_name == "zoe"))
    with farm.expecting(changed=[get(Pet, 1), pets, get(Owner, "ann")], kept=[get(Barn, 1)]), farm.write() as session:
        session.get_one(Owner, "ann").name = "zoe"


class Town(DeclarativeBase):
    pass


class House(Town):
    __tablename__ = "sa_house"

    key: Mapped[int] = mapped_column("Id", primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column("No.", primary_key=True, autoincrement=False)
    pk: Mapped[int]
    next_key: Mapped[int | None] = mapped_column()
    next_number: Mapped[int | None] = mapped_column()
    next: Mapped[House | None] = relationship(remote_side=[key, number], back_populates="before", post_update=True)
    before: Mapped[list[House]] = relationship(back_populates="next", order_by=number)
    __table_args__ = (ForeignKeyConstraint([next_key, next_number], [key, number]),)


def test_s2_names_that_differ_from_the_database_s_and_keys_of_two_columns_follow(worlds: Any) -> None:
    town: World = worlds(House)
    with town.write() as session:
        session.add_all([House(key=number, number=number, pk=number) for number in (1, 2, 3)])

    def before(number: int) -> Any:
        return lambda session: [house.number for house in session.get_one(House, (number, number)).before]

    third = entities(select(House).where(House.pk == 3))
    with (
        town.expecting(changed=[before(1), get(House, (2, 2))], kept=[third, before(3), get(House, (3, 3))]),
        town.write() as session,
    ):
        session.get_one(House, (2, 2)).next = session.get_one(House, (1, 1))
    with (
        town.expecting(changed=[before(1), before(3)], kept=[third, get(House, (1, 1))], true=[get(House, (3, 3))]),
        town.write() as session,
    ):
        session.get_one(House, (2, 2)).next = session.get_one(House, (3, 3))
    with (
        town.expecting(changed=[third, get(House, (3, 3))], kept=[before(1), get(House, (2, 2))]),
        town.write() as session,
    ):
        session.get_one(House, (3, 3)).pk = 4


AGGREGATES = {
    "count": select(func.count()).select_from(Product),
    "count of one category": select(func.count(Product.id)).where(Product.category_id == 1),
    "exists": select(exists().where(Product.name == "plum")),
    "sum": select(func.sum(Product.views)),
    "min": select(func.min(Product.price)),
    "max": select(func.max(Product.views)).where(Product.category_id == 1),
    "group by": select(Product.category_id, func.count()).group_by(Product.category_id).order_by(Product.category_id),
    "having": select(Product.category_id).group_by(Product.category_id).having(func.count() > 2),
    "distinct": select(Product.views).distinct().order_by(Product.views),
    "count distinct": select(func.count(distinct(Product.views))),
}


def test_s6_what_is_computed_of_rows_follows_a_new_row(shop: World) -> None:
    other = rows(select(func.count()).where(Product.category_id == 2))
    with (
        shop.expecting(changed=[rows(one) for one in AGGREGATES.values()], kept=[other, count_of(Category)]),
        shop.write() as session,
    ):
        session.add(Product(name="plum", category_id=1, price=Decimal("0.10"), views=77))


def test_s7_a_select_of_columns_follows_an_update_of_another_column_no_less_than_of_its_own(shop: World) -> None:
    column = rows(select(Product.name).where(Product.id == 1))
    with (
        shop.expecting(changed=[column], kept=[rows(select(Product.name).where(Product.id == 2))]),
        shop.write() as session,
    ):
        session.get_one(Product, 1).name = "quince"


def test_s7_an_instance_loaded_in_part_follows(shop: World) -> None:
    def in_part(session: Session) -> Any:
        product = session.scalars(select(Product).where(Product.id == 1).options(load_only(Product.name))).one()
        return product.name

    with shop.expecting(changed=[in_part], kept=[get(Product, 2)]), shop.write() as session:
        session.get_one(Product, 1).name = "quince"


def test_s7_a_deferred_column_loaded_after_a_hit_is_the_database_s(shop: World) -> None:
    deferred = select(Product).where(Product.id == 1).options(defer(Product.name))
    shop.prime(lambda session: session.scalars(deferred).one().views)
    with shop.write() as session:
        session.get_one(Product, 1).name = "quince"
    with shop.session() as session:
        assert session.scalars(deferred).one().name == "quince"


def test_s8_what_was_not_there_is_seen_when_it_comes(shop: World) -> None:
    is_there = rows(select(select(Product).where(Product.category_id == 1, Product.views == 5).exists()))
    with (
        shop.expecting(
            changed=[get(Product, 9), names(Product.name == "plum"), is_there, names(Product.id == 9)],
            kept=[get(Product, 8), get(Product, 1), in_category(2)],
        ),
        shop.write() as session,
    ):
        session.add(Product(id=9, name="plum", category_id=1, price=Decimal(3), views=5))


def test_s8_what_was_not_there_is_seen_when_the_database_numbers_it(shop: World) -> None:
    with shop.expecting(changed=[get(Product, 5)], kept=[get(Product, 1), in_category(2)]), shop.write() as session:
        session.add(Product(name="plum", category_id=1, price=Decimal(3)))


def page(number: int, *order: Any) -> Any:
    return entities(select(Product).order_by(*order, Product.id).limit(2).offset(2 * number))


def test_s9_a_row_that_moves_into_a_page_moves_every_page(shop: World) -> None:
    with (
        shop.expecting(changed=[page(0, Product.views.desc()), page(1, Product.views.desc())], kept=[get(Product, 3)]),
        shop.write() as session,
    ):
        session.get_one(Product, 1).views = 99


def test_s9_a_page_within_a_category_keeps_when_another_category_changes(shop: World) -> None:
    first = entities(select(Product).where(Product.category_id == 2).order_by(Product.views).limit(1))
    last = entities(select(Product).where(Product.category_id == 1).order_by(Product.views.desc()).limit(1))
    with shop.expecting(changed=[last], kept=[first]), shop.write() as session:
        session.get_one(Product, 1).views = 99


PREDICATES = {
    "range": Product.views.between(90, 99),
    "like": Product.name.like("qu%"),
    "not": not_(Product.views < 50),
    "in": Product.name.in_(["quince", "plum"]),
    "is null": Product.note.is_(None),
    "is not null": and_(Product.note.is_not(None), Product.views == 95),
    "or": or_(Product.category_id == 2, Product.name == "quince"),
    "or of one column": or_(Product.views == 95, Product.views == 30),
    "not equal": Product.views != 10,
    "tuple in": tuple_(Product.category_id, Product.views).in_([(1, 95), (2, 1)]),
    "in a list of none and one": Product.views.in_([95]),
    "not in": Product.id.in_([1, 2]) & Product.views.not_in([10]),
}


def test_s10_every_kind_of_predicate_follows_a_row_that_comes_to_fulfil_it(shop: World) -> None:
    reads = [names(predicate) for predicate in PREDICATES.values()]
    with shop.expecting(changed=reads, kept=[get(Product, 2), count_of(Category)]), shop.write() as session:
        product = session.get_one(Product, 1)
        product.name, product.views, product.note = "quince", 95, "ripe"


class Lab(DeclarativeBase):
    pass


class Mood(Enum):
    CALM = "c"
    WILD = "w"


class Reversed(TypeDecorator[str]):
    """Text that stands the other way round in the database."""

    impl = String(30)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value if value is None else value[::-1]

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        return value if value is None else value[::-1]


class Specimen(Lab):
    __tablename__ = "sa_specimen"

    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[str] = mapped_column(String(30))
    weight: Mapped[Decimal] = mapped_column(Numeric(8, 2), default=Decimal(0))
    mood: Mapped[Mood] = mapped_column(default=Mood.CALM)
    token: Mapped[uuid.UUID] = mapped_column(Uuid, default=uuid.UUID(int=7))
    token_text: Mapped[str] = mapped_column(Uuid(as_uuid=False), default=str(uuid.UUID(int=7)))
    seen: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=datetime(2024, 1, 1, 12, tzinfo=UTC))
    is_alive: Mapped[bool] = mapped_column(default=False)
    size: Mapped[int] = mapped_column(default=0)
    secret: Mapped[str] = mapped_column(Reversed, default="")
    short: Mapped[str] = mapped_column(CHAR(6), default="")
    ratio: Mapped[float] = mapped_column(Double, default=0.0)
    raw: Mapped[bytes] = mapped_column(LargeBinary, default=b"")
    data: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    twice: Mapped[int] = mapped_column(Computed("size * 2", persisted=True))
    made_by: Mapped[str] = mapped_column(String(20), server_default="nobody")
    changes: Mapped[int] = mapped_column(default=0, onupdate=text("changes + 1"))

    @hybrid_property
    def is_big(self) -> bool:
        return self.size > 100

    @is_big.inplace.expression
    @classmethod
    def _is_big(cls) -> Any:
        return cls.size > 100


class Sample(Lab):
    __tablename__ = "sa_sample"

    id: Mapped[int] = mapped_column(primary_key=True)
    specimen_id: Mapped[int] = mapped_column(ForeignKey("sa_specimen.id"))


Specimen.samples_count = column_property(
    select(func.count(Sample.id)).where(Sample.specimen_id == Specimen.id).correlate_except(Sample).scalar_subquery()
)


@pytest.fixture
def lab(worlds: Any) -> World:
    world: World = worlds(Specimen, Sample)
    with Session(world.outside) as session:
        session.add_all([Specimen(id=1, code="one", size=5), Specimen(id=2, code="two", size=6)])
        session.commit()
    return world


def codes(*conditions: Any) -> Any:
    return rows(select(Specimen.code).where(*conditions).order_by(Specimen.id))


def test_s10_a_json_path_follows(lab: World) -> None:
    red = codes(Specimen.data["color"].as_string() == "red")
    with lab.expecting(changed=[red], kept=[get(Sample, 1), get(Specimen, 2)]), lab.write() as session:
        session.get_one(Specimen, 1).data = {"color": "red"}


class Arrays(DeclarativeBase):
    pass


class Shelf(Arrays):
    __tablename__ = "sa_shelf"

    id: Mapped[int] = mapped_column(primary_key=True)
    heights: Mapped[list[int]] = mapped_column(ARRAY(Numeric(6, 0, asdecimal=False)))


@pytest.mark.parametrize("worlds", ["postgresql-memory"], indirect=True)
def test_s10_an_array_that_contains_a_value_follows(worlds: Any) -> None:
    world: World = worlds(Shelf)
    with world.write() as session:
        session.add_all([Shelf(id=1, heights=[1, 2]), Shelf(id=2, heights=[3])])
    high = rows(select(Shelf.id).where(Shelf.heights.contains([9])))
    with world.expecting(changed=[high], kept=[get(Shelf, 2)]), world.write() as session:
        session.get_one(Shelf, 1).heights = [1, 9]


def test_s11_a_list_longer_than_what_is_named_one_by_one_follows(shop: World) -> None:
    many = [*range(1000, 1400), 1]
    with (
        shop.expecting(
            changed=[names(Product.id.in_(many)), names(Product.category_id.in_(many))], kept=[get(Product, 2)]
        ),
        shop.write() as session,
    ):
        session.get_one(Product, 1).name = "quince"


NOON = datetime(2024, 6, 1, 12, tzinfo=UTC)
TOKEN = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
EQUALS: dict[str, tuple[Any, dict[str, Any]]] = {
    "another case": (Specimen.code == "ABC", {"code": "abc"}),
    "an accent": (Specimen.code == "cafe", {"code": "café"}),
    "a trailing space": (Specimen.code == "abc", {"code": "abc "}),
    "a trailing space asked for": (Specimen.code == "abc  ", {"code": "abc"}),
    "a decimal with zeros": (Specimen.weight == Decimal("1.000"), {"weight": Decimal(1)}),
    "a decimal for an integer": (Specimen.size == Decimal("7.0"), {"size": 7}),
    "a decimal that is rounded": (Specimen.weight == Decimal("1.01"), {"weight": Decimal("1.005")}),
    "a float": (Specimen.weight == 1.5, {"weight": Decimal("1.5")}),
    "an enum": (Specimen.mood == Mood.WILD, {"mood": Mood.WILD}),
    "a uuid": (Specimen.token == TOKEN, {"token": TOKEN}),
    "a uuid as text in capitals": (Specimen.token_text == str(TOKEN).upper(), {"token_text": str(TOKEN)}),
    "another time zone": (Specimen.seen == NOON.astimezone(timezone(timedelta(hours=5))), {"seen": NOON}),
    "true for 1": (Specimen.size == literal(True, Integer), {"size": 1}),
    "1 for true": (Specimen.is_alive == 1, {"is_alive": True}),
    "a type decorator": (Specimen.secret == "xyz", {"secret": "xyz"}),
    "a padded text": (Specimen.short == "ab", {"short": "ab"}),
    "a padded text asked for with its padding": (Specimen.short == "ab    ", {"short": "ab"}),
    "a sum of floats": (Specimen.ratio == 0.1 + 0.2, {"ratio": 0.30000000000000004}),
    "an integer for a float": (Specimen.ratio == literal(2, Integer), {"ratio": 2.0}),
    "minus zero": (Specimen.ratio == -0.0, {"ratio": 0.0, "code": "zero"}),
    "bytes": (Specimen.raw == b"\x00\xff", {"raw": b"\x00\xff"}),
    "a key as a decimal": (Specimen.id == Decimal("1.0"), {"code": "uno"}),
    "a key that is true": (Specimen.id == literal(True, Integer), {"code": "uno"}),
    "a key in a list of look-alikes": (Specimen.id.in_([Decimal(1), 7]), {"code": "uno"}),
    "two forms of a letter": (Specimen.code == "caf\u00e9", {"code": "cafe\u0301"}),
    "a capital that is longer": (Specimen.code == "STRASSE", {"code": "stra\u00dfe"}),
    "a tab at the end": (Specimen.code == "abc", {"code": "abc\t"}),
}


@pytest.mark.parametrize("name", EQUALS)
def test_s12_what_the_database_holds_equal_is_found_when_it_comes_and_not_when_it_is_gone(
    lab: World, name: str
) -> None:
    condition, change = EQUALS[name]
    if lab.dialect == "postgresql" and name == "1 for true":
        condition = Specimen.is_alive == True  # noqa: E712
    with lab.session() as session:
        before = {attribute: getattr(session.get_one(Specimen, 1), attribute) for attribute in change}
    for new in (change, before):
        with lab.expecting(true=[codes(condition)], kept=[get(Specimen, 2)]), lab.write() as session:
            for attribute, value in new.items():
                setattr(session.get_one(Specimen, 1), attribute, value)


def test_s12_a_number_given_as_text_is_found_when_it_comes(lab: World) -> None:
    as_text = rows(select(Specimen.code).where(Specimen.size == literal("7", Integer)))
    lab.assert_true(as_text)
    with lab.write() as session:
        session.get_one(Specimen, 1).size = 7
    lab.assert_true(as_text)


def test_s13_a_hybrid_a_computed_column_and_a_type_decorator_in_a_predicate_follow(lab: World) -> None:
    with (
        lab.expecting(
            changed=[codes(Specimen.is_big), codes(Specimen.twice == 400), codes(Specimen.secret == "abc")],
            kept=[get(Specimen, 2)],
        ),
        lab.write() as session,
    ):
        specimen = session.get_one(Specimen, 1)
        specimen.size, specimen.secret = 200, "abc"


def test_s13_a_column_property_that_counts_another_table_follows_that_table(lab: World) -> None:
    counted = codes(Specimen.samples_count > 0)  # type: ignore[attr-defined]
    with lab.expecting(changed=[counted, get(Specimen, 1)], kept=[get(Sample, 7)]), lab.write() as session:
        session.add(Sample(id=1, specimen_id=1))


def test_s14_values_that_only_the_database_knows_are_seen(lab: World) -> None:
    with (
        lab.expecting(
            changed=[codes(Specimen.made_by == "nobody"), codes(Specimen.twice == 18), get(Specimen, 9)],
            kept=[get(Specimen, 1)],
        ),
        lab.write() as session,
    ):
        session.add(Specimen(id=9, code="nine", size=9))


def test_s14_a_column_that_changes_with_every_update_follows(lab: World) -> None:
    with (
        lab.expecting(changed=[codes(Specimen.changes == 1), get(Specimen, 1)], kept=[get(Specimen, 2)]),
        lab.write() as session,
    ):
        session.get_one(Specimen, 1).code = "uno"


def test_s15_an_attribute_set_to_an_expression_is_what_the_database_computed(shop: World) -> None:
    with (
        shop.expecting(
            changed=[get(Product, 1), names(Product.views == 11), names(Product.views == 10)], kept=[get(Product, 2)]
        ),
        shop.write() as session,
    ):
        session.get_one(Product, 1).views = Product.views + 1


def test_s15_an_expression_for_a_foreign_key_moves_the_row_between_lists(shop: World) -> None:
    with shop.expecting(changed=[in_category(1), in_category(2)], kept=[get(Product, 2)]), shop.write() as session:
        session.get_one(Product, 1).category_id = Product.category_id + 1


def test_s3_a_bulk_delete_and_update_reach_every_read_of_their_table_and_no_other(shop: World) -> None:
    with (
        shop.expecting(changed=[names(Product.category_id == 2), get(Product, 3)], kept=[get(Category, 1)]),
        shop.write() as session,
    ):
        session.execute(update(Product).where(Product.views == 30).values(name="beet"))
        session.execute(delete(Product).where(Product.views == 40))


def test_s1_values_of_an_instance_are_those_of_its_columns(shop: World) -> None:
    assert shop.read(lambda session: values_of(session.get(Product, 1))) == (1, "apple", 1, Decimal("1.50"), 10, None)
