"""B. Query shapes: joins, subqueries, associations, relationships in every way to load them, inheritance."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, event, exists, func, insert, select, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    immediateload,
    joinedload,
    lazyload,
    mapped_column,
    relationship,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    with_polymorphic,
)

from scenario_support import (
    Category,
    Product,
    Tag,
    World,
    count_of,
    entities,
    get,
    in_category,
    labels,
    names,
    rows,
    values_of,
)


def test_s16_a_join_follows_both_sides(shop: World) -> None:
    joined = rows(select(Product.name, Category.name).join(Category).order_by(Product.id))
    with shop.expecting(changed=[joined], kept=[get(Tag, 1), get(Product, 3)]), shop.write() as session:
        session.get_one(Category, 1).name = "fruits"
    with shop.expecting(changed=[joined], kept=[get(Tag, 1), get(Category, 1)]), shop.write() as session:
        session.get_one(Product, 1).name = "quince"


def test_s16_a_join_narrowed_on_one_side_keeps_when_another_value_changes(shop: World) -> None:
    joined = rows(select(Product.name, Category.name).join(Category).where(Category.id == 1, Product.category_id == 1))
    with shop.expecting(changed=[in_category(2)], kept=[joined]), shop.write() as session:
        session.get_one(Product, 3).name = "beet"


def test_s17_an_outer_join_follows_a_row_on_the_nullable_side(shop: World) -> None:
    with shop.write() as session:
        session.add(Category(id=7, name="herbs"))
    outer = rows(select(Category.name, Product.name).outerjoin(Product).order_by(Category.id, Product.id))
    empty = rows(select(Category.name).outerjoin(Product).where(Product.id.is_(None)))
    one = rows(select(Category.name, Product.name).outerjoin(Product).where(Category.id == 7))
    with shop.expecting(changed=[outer, empty, one], kept=[get(Product, 1), get(Category, 7)]), shop.write() as session:
        session.add(Product(name="basil", category_id=7, price=Decimal(1)))


def test_s18_an_in_subquery_follows_its_table(shop: World) -> None:
    inner = select(Category.id).where(Category.name == "fruit")
    with (
        shop.expecting(changed=[names(Product.category_id.in_(inner))], kept=[get(Product, 1), get(Category, 2)]),
        shop.write() as session,
    ):
        session.get_one(Category, 1).name = "fruits"


def test_s19_exists_and_not_exists_follow_their_table(shop: World) -> None:
    with shop.write() as session:
        session.add(Category(id=7, name="herbs"))
    of_category = exists().where(Product.category_id == Category.id)
    with_some = rows(select(Category.name).where(of_category).order_by(Category.id))
    with_none = rows(select(Category.name).where(~of_category).order_by(Category.id))
    by_any = rows(select(Category.name).where(Category.products.any(Product.name == "basil")))
    with (
        shop.expecting(changed=[with_some, with_none, by_any], kept=[get(Category, 7), in_category(1)]),
        shop.write() as session,
    ):
        session.add(Product(name="basil", category_id=7, price=Decimal(1)))


def tagged(tag_id: int) -> Callable[[Session], Any]:
    return lambda session: [product.id for product in session.get_one(Tag, tag_id).products]


def with_tags(product_id: int) -> Callable[[Session], Any]:
    return entities(select(Tag).join(Tag.products).where(Product.id == product_id).order_by(Tag.id))


def add_tag(session: Session) -> None:
    product = session.get_one(Product, 1)
    product.tags.append(session.get_one(Tag, 2))


def remove_tag(session: Session) -> None:
    product = session.get_one(Product, 1)
    product.tags.remove(session.get_one(Tag, 1))


def clear_tags(session: Session) -> None:
    product = session.get_one(Product, 1)
    product.tags.clear()


def insert_labels(session: Session) -> None:
    session.execute(insert(labels), [{"product_id": 1, "tag_id": 2}, {"product_id": 3, "tag_id": 2}])


@pytest.mark.parametrize("change", [add_tag, remove_tag, clear_tags, insert_labels])
def test_s24_reads_through_an_association_table_follow_it(shop: World, change: Callable[[Session], None]) -> None:
    reads = [with_tags(1), rows(select(func.count()).select_from(labels))]
    reads.append(lambda session: [tag.id for tag in session.get_one(Product, 1).tags])
    with (
        shop.expecting(
            changed=reads, true=[tagged(1), tagged(2)], kept=[get(Product, 1), get(Tag, 1), get(Category, 1)]
        ),
        shop.write() as session,
    ):
        change(session)


WAYS: dict[str, Callable[[Any], Any]] = {
    "lazy": lazyload,
    "joined": joinedload,
    "selectin": selectinload,
    "subquery": subqueryload,
    "immediate": immediateload,
}


def tree(way: str) -> Callable[[Session], Any]:
    """Read the categories with their products and those with their tags, loaded in one way."""
    load = WAYS[way]

    def read(session: Session) -> Any:
        statement = select(Category).order_by(Category.id).options(load(Category.products))
        return [
            (category.name, [(product.name, product.category is category) for product in category.products])
            for category in session.scalars(statement).unique()
        ]

    return read


@pytest.mark.parametrize("way", WAYS)
def test_s26_related_rows_follow_in_whatever_way_they_are_loaded(shop: World, way: str) -> None:
    with shop.expecting(changed=[tree(way)], kept=[get(Product, 1), get(Tag, 1)]), shop.write() as session:
        session.add(Product(name="plum", category_id=1, price=Decimal(3)))
    with shop.expecting(changed=[tree(way)], kept=[get(Product, 1), get(Category, 1)]), shop.write() as session:
        session.get_one(Product, 3).name = "beet"
    with shop.expecting(changed=[tree(way)], kept=[get(Product, 1)]), shop.write() as session:
        session.get_one(Category, 2).name = "bulbs"


@pytest.mark.parametrize("way", ["select", "joined", "selectin", "subquery", "immediate"])
def test_s26_related_rows_follow_when_the_mapper_says_how_they_are_loaded(worlds: Any, way: Any) -> None:
    class Base(DeclarativeBase):
        pass

    class Parent(Base):
        __tablename__ = "sb_parent"
        id: Mapped[int] = mapped_column(primary_key=True)

    class Child(Base):
        __tablename__ = "sb_child"
        id: Mapped[int] = mapped_column(primary_key=True)
        parent_id: Mapped[int] = mapped_column(ForeignKey("sb_parent.id"))
        parent: Mapped[Any] = relationship(Parent, lazy=way)

    Parent.children = relationship(Child, lazy=way, order_by=Child.id, overlaps="parent")
    world: World = worlds(Parent, Child)
    with world.write() as session:
        session.add_all([Parent(id=1), Parent(id=2)])
        session.flush()
        session.add_all([Child(id=1, parent_id=1), Child(id=2, parent_id=2)])

    def children(session: Session) -> Any:
        return [child.id for child in session.get_one(Parent, 1).children]  # type: ignore[attr-defined]

    def parent(session: Session) -> Any:
        return session.get_one(Child, 2).parent.id

    with (
        world.expecting(changed=[children, parent], kept=[rows(select(Parent.id).where(Parent.id == 3))]),
        world.write() as session,
    ):
        session.get_one(Child, 2).parent_id = 1


class Zoo(DeclarativeBase):
    pass


class Staff(Zoo):
    __tablename__ = "sb_staff"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "staff"}  # noqa: RUF012


class Vet(Staff):
    __tablename__ = "sb_vet"

    id: Mapped[int] = mapped_column(ForeignKey("sb_staff.id"), primary_key=True)
    license: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "vet"}  # noqa: RUF012


class Animal(Zoo):
    __tablename__ = "sb_animal"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012


class Lion(Animal):
    mane: Mapped[str | None] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_identity": "lion"}  # noqa: RUF012


class Cage(Zoo):
    __tablename__ = "sb_cage"

    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]


class Aviary(Cage):
    __tablename__ = "sb_aviary"

    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]
    perches: Mapped[int]
    __mapper_args__ = {"concrete": True}  # noqa: RUF012


@pytest.fixture
def zoo(worlds: Any) -> World:
    world: World = worlds(Staff, Vet, Animal, Lion, Cage, Aviary)
    with Session(world.outside) as session:
        session.add_all([Staff(id=1, name="sam"), Vet(id=2, name="vera", license="x")])
        session.add_all([Animal(id=1, name="ape"), Lion(id=2, name="leo", mane="big")])
        session.add_all([Cage(id=1, size=5), Aviary(id=1, size=50, perches=3)])
        session.commit()
    return world


def people(session: Session) -> Any:
    return [(type(one).__name__, values_of(one)) for one in session.scalars(select(Staff).order_by(Staff.id))]


def people_with_polymorphic(session: Session) -> Any:
    every = with_polymorphic(Staff, "*")
    return [(type(one).__name__, values_of(one)) for one in session.scalars(select(every).order_by(every.id))]


def people_selectin_polymorphic(session: Session) -> Any:
    statement = select(Staff).order_by(Staff.id).options(selectin_polymorphic(Staff, [Vet]))
    return [(type(one).__name__, values_of(one)) for one in session.scalars(statement)]


def test_s28_a_base_query_follows_a_write_of_a_joined_subclass(zoo: World) -> None:
    reads = [people_with_polymorphic, people_selectin_polymorphic, get(Vet, 2)]
    with zoo.expecting(changed=reads, kept=[get(Animal, 1)], uncached=[people, get(Staff, 2)]), zoo.write() as session:
        session.get_one(Vet, 2).license = "y"


def test_s28_a_subclass_query_follows_a_write_of_its_base_table(zoo: World) -> None:
    vets = entities(select(Vet).order_by(Vet.id))
    with (
        zoo.expecting(changed=[vets, get(Vet, 2)], kept=[get(Staff, 1), get(Animal, 1)], uncached=[people]),
        zoo.write() as session,
    ):
        session.get_one(Staff, 2).name = "vanessa"


def test_s28_a_base_query_follows_an_insert_and_a_delete_of_a_subclass(zoo: World) -> None:
    reads = [people_with_polymorphic, people_selectin_polymorphic, count_of(Vet), count_of(Staff)]
    with (
        zoo.expecting(changed=reads, kept=[get(Staff, 1)], uncached=[people, get(Staff, 3)]),
        zoo.write() as session,
    ):
        session.add(Vet(id=3, name="vic", license="z"))
    with zoo.expecting(changed=[*reads, get(Vet, 3)], kept=[get(Staff, 1)], uncached=[people]), zoo.write() as session:
        session.delete(session.get_one(Staff, 3))


def test_s28_single_table_queries_follow_each_other_s_writes(zoo: World) -> None:
    animals = entities(select(Animal).order_by(Animal.id))
    lions = entities(select(Lion).order_by(Lion.id))
    with (
        zoo.expecting(changed=[lions, get(Lion, 2)], kept=[get(Animal, 1)], uncached=[animals, get(Animal, 2)]),
        zoo.write() as session,
    ):
        session.get_one(Animal, 2).name = "lea"
    with (
        zoo.expecting(changed=[lions, count_of(Lion)], kept=[get(Animal, 1), get(Lion, 2)], uncached=[animals]),
        zoo.write() as session,
    ):
        session.add(Lion(id=3, name="liv", mane="none"))


def test_s28_concrete_classes_are_tables_of_their_own(zoo: World) -> None:
    with (
        zoo.expecting(changed=[get(Aviary, 1), entities(select(Aviary))], kept=[get(Cage, 1), entities(select(Cage))]),
        zoo.write() as session,
    ):
        session.get_one(Aviary, 1).perches = 4


CLOCKS: dict[str, Any] = {
    "now": select(func.now()).select_from(Product),
    "current_timestamp": select(func.current_timestamp(), Product.id),
    "current_timestamp in where": select(Product.id).where(func.current_timestamp() > func.current_date()),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_s31_what_the_clock_says_is_not_cached(shop: World, name: str) -> None:
    read = rows(CLOCKS[name])
    assert [shop.cost(read), shop.cost(read)] == [1, 1]


RANDOM = {
    "sqlite": [func.random(), func.hex(func.randomblob(4)), func.last_insert_rowid(), func.changes()],
    "postgresql": [
        func.random(),
        func.gen_random_uuid(),
        func.nextval("sc_product_id_seq"),
        func.current_setting("search_path"),
        func.current_user(),
    ],
    "mariadb": [func.rand(), func.uuid(), func.connection_id(), func.last_insert_id(), func.found_rows()],
}


def test_s31_what_differs_from_call_to_call_is_not_cached(shop: World) -> None:
    for function in RANDOM[shop.dialect]:
        read = rows(select(function, Product.id).where(Product.id == 1))
        assert [shop.cost(read), shop.cost(read)] == [1, 1], str(function)


@pytest.mark.parametrize("worlds", ["mariadb-memory"], indirect=True)
def test_s31_a_session_variable_is_not_cached(shop: World) -> None:
    read = rows(select(Product.id).where(Product.id == text("@wanted")))
    assert [shop.cost(read), shop.cost(read)] == [1, 1]


def test_s31_a_temporary_table_in_a_table_s_place_is_not_cached(shop: World) -> None:
    shop.prime(names(Product.id == 1))
    with shop.session() as session:
        session.execute(text("CREATE TEMPORARY TABLE sc_product AS SELECT * FROM sc_product"))
        session.execute(text("UPDATE sc_product SET name = 'fake'"))
        assert names(Product.id == 1)(session) == [("fake",)]
        session.execute(text("DROP TABLE sc_product" if shop.dialect != "sqlite" else "DROP TABLE temp.sc_product"))
        session.rollback()
    shop.assert_true(names(Product.id == 1))


def test_s32_a_locking_read_is_never_served_and_never_stored(shop: World) -> None:
    plain = names(Product.id == 1)
    statement = select(Product.name).where(Product.id == 1)
    shop.prime(plain)
    for locking in [statement.with_for_update(), statement.with_for_update(read=True)]:
        assert [shop.cost(rows(locking)), shop.cost(rows(locking))] == [1, 1]
    shop.assert_hit(plain)


def test_s32_a_get_with_a_lock_asks_the_database(shop: World) -> None:
    shop.prime(get(Product, 1))

    def locked(session: Session) -> Any:
        return values_of(session.get(Product, 1, with_for_update=True))

    assert [shop.cost(locked), shop.cost(locked)] == [1, 1]


def test_s16_the_statements_that_are_counted_are_those_sent(shop: World) -> None:
    seen: list[str] = []
    event.listen(shop.engine, "before_cursor_execute", lambda *told: seen.append(told[2]))
    parent, alias = Category, aliased(Category)
    read = rows(select(parent.id, alias.id).where(parent.id == alias.id).order_by(parent.id))
    shop.read(read)
    assert len(seen) == 1
    shop.read(read)
    assert len(seen) == 1
