"""SELECTs of every shape that SQLAlchemy makes, over mapped classes of every kind.

A shape is built anew each time. ``refused``: what the reason says why it is not cached; None where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar, Final
from typing import cast as taken_for

from sqlalchemy import (
    JSON,
    Column,
    ForeignKey,
    Integer,
    String,
    Table,
    all_,
    and_,
    any_,
    case,
    cast,
    column,
    desc,
    distinct,
    except_,
    exists,
    extract,
    func,
    inspect,
    intersect,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    text,
    true,
    tuple_,
    type_coerce,
    union,
    union_all,
    values,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.declarative import AbstractConcreteBase, ConcreteBase
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    Bundle,
    DeclarativeBase,
    Mapped,
    Query,
    aliased,
    column_property,
    composite,
    contains_eager,
    foreign,
    joinedload,
    lazyload,
    load_only,
    mapped_column,
    query_expression,
    relationship,
    selectin_polymorphic,
    with_expression,
    with_loader_criteria,
    with_polymorphic,
)


class Base(DeclarativeBase):
    pass


book_tag = Table(
    "book_tag",
    Base.metadata,
    Column("book_id", ForeignKey("book.id"), primary_key=True),
    Column("tag_id", ForeignKey("tag.id"), primary_key=True),
)


@dataclass
class Size:
    width: int | None
    height: int | None


class Tag(Base):
    __tablename__ = "tag"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    boss_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    books: Mapped[list[Book]] = relationship(back_populates="author")
    boss: Mapped[Author | None] = relationship(remote_side=[id])
    best: ClassVar[Any]
    tags: Mapped[list[Tag]] = relationship(
        secondary=lambda: Book.__table__.join(book_tag, Book.id == book_tag.c.book_id),
        primaryjoin=lambda: Author.id == Book.author_id,
        secondaryjoin=lambda: book_tag.c.tag_id == Tag.id,
        viewonly=True,
    )

    @hybrid_property
    def count_of_books(self) -> Any:
        return len(self.books)

    @count_of_books.inplace.expression
    @classmethod
    def _count_of_books(cls) -> Any:
        return select(func.count(Book.id)).where(Book.author_id == cls.id).scalar_subquery()


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("author.id"))
    title: Mapped[str] = mapped_column(String(20))
    width: Mapped[int | None]
    height: Mapped[int | None]
    day: Mapped[date | None]
    more: Mapped[Any] = mapped_column(JSON, nullable=True)
    size: Mapped[Size] = composite("width", "height")
    author: Mapped[Author | None] = relationship(back_populates="books")
    tags: Mapped[list[Tag]] = relationship(secondary=book_tag)
    tag_names: AssociationProxy[list[str]] = association_proxy("tags", "name")
    reviews: Mapped[list[Review]] = relationship(lazy="joined", order_by="Review.id")
    sold: Mapped[int] = query_expression()


class Review(Base):
    __tablename__ = "review"
    id: Mapped[int] = mapped_column(primary_key=True)
    book_id: Mapped[int] = mapped_column(ForeignKey("book.id"))
    stars: Mapped[int]


Tag.uses = column_property(
    select(func.count()).where(book_tag.c.tag_id == Tag.id).correlate_except(book_tag).scalar_subquery()
)


class Person(Base):
    __tablename__ = "person"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10))
    name: Mapped[str] = mapped_column(String(20))
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}  # noqa: RUF012 - as the ORM declares it


class Engineer(Person):
    __tablename__ = "engineer"
    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    language: Mapped[str] = mapped_column(String(20))
    tools: Mapped[list[Tool]] = relationship()
    __mapper_args__ = {"polymorphic_identity": "engineer"}  # noqa: RUF012 - as the ORM declares it


class Manager(Person):
    __tablename__ = "manager"
    id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True)
    budget: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "manager", "polymorphic_load": "inline"}  # noqa: RUF012 - as the ORM declares it


class Clerk(Person):
    desk: Mapped[int | None] = mapped_column(nullable=True)
    __mapper_args__ = {"polymorphic_identity": "clerk"}  # noqa: RUF012 - as the ORM declares it


class Tool(Base):
    __tablename__ = "tool"
    id: Mapped[int] = mapped_column(primary_key=True)
    engineer_id: Mapped[int] = mapped_column(ForeignKey("engineer.id"))


class Shape(ConcreteBase, Base):
    __tablename__ = "shape"
    id: Mapped[int] = mapped_column(primary_key=True)
    area: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "shape", "concrete": True}  # noqa: RUF012 - as the ORM declares it


class Circle(Shape):
    __tablename__ = "circle"
    id: Mapped[int] = mapped_column(primary_key=True)
    area: Mapped[int]
    radius: Mapped[int]
    __mapper_args__ = {"polymorphic_identity": "circle", "concrete": True}  # noqa: RUF012 - as the ORM declares it


class Vehicle(AbstractConcreteBase, Base):
    strict_attrs = True
    wheels: Mapped[int]


class Car(Vehicle):
    __tablename__ = "car"
    id: Mapped[int] = mapped_column(primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "car", "concrete": True}  # noqa: RUF012 - as the ORM declares it


class Truck(Vehicle):
    __tablename__ = "truck"
    id: Mapped[int] = mapped_column(primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "truck", "concrete": True}  # noqa: RUF012 - as the ORM declares it


class Written(Base):
    """Mapped to a join."""

    __table__ = Author.__table__.join(Book.__table__, Author.__table__.c.id == Book.__table__.c.author_id)
    id: Mapped[int] = column_property(Author.__table__.c.id, Book.__table__.c.author_id)
    book_id = Book.__table__.c.id
    __mapper_args__ = {"exclude_properties": ["boss_id", "more", "day"]}  # noqa: RUF012 - as the ORM declares it


class Busy(Base):
    """Mapped to a subquery."""

    __table__ = (
        select(Author.__table__.c.id, func.count(Book.__table__.c.id).label("n"))
        .join(Book.__table__, Author.__table__.c.id == Book.__table__.c.author_id)
        .group_by(Author.__table__.c.id)
        .subquery("busy")
    )
    n: ClassVar[Any]
    __mapper_args__ = {"primary_key": [__table__.c.id]}  # noqa: RUF012 - as the ORM declares it


_first = select(
    Book.id, func.row_number().over(partition_by=Book.author_id, order_by=Book.id).label("place")
).subquery()
_best = aliased(Book)
Author.best = relationship(
    _best,
    primaryjoin=lambda: and_(
        Author.id == foreign(_best.author_id),
        _best.id.in_(select(_first.c.id).where(_first.c.place == 1)),
    ),
    viewonly=True,
)


@dataclass(frozen=True)
class ReadShape:
    """A statement, and what the library is to say of it."""

    build: Callable[[], Any]
    refused: str | None = None


def _tree(*, nesting: bool = False) -> Any:
    top = select(Author.id, Author.boss_id).where(Author.id == 1).cte("tree", recursive=True, nesting=nesting)
    below = aliased(Author)
    return top.union_all(select(below.id, below.boss_id).join(top, below.boss_id == top.c.id))


def _in_cte() -> Any:
    inner = select(Book.author_id).where(Book.id == 1).cte("inner_one")
    outer = select(Author.id).where(Author.id.in_(select(inner.c.author_id))).cte("outer_one")
    return select(Review.id).where(Review.id.in_(select(outer.c.id)))


def _books() -> Any:
    return select(func.count(Book.id)).where(Book.author_id == Author.id).scalar_subquery()


_alias = aliased(Book)
_page = aliased(Book, select(Book).order_by(Book.id).limit(2).subquery())
_staff = with_polymorphic(Person, [Engineer, Manager])
_flat = aliased(Engineer, flat=True)
_flat_staff = with_polymorphic(Person, "*", flat=True, aliased=True)
_poly_select = with_polymorphic(Person, [Engineer], aliased=True)

SHAPES: Final[dict[str, ReadShape]] = {
    # where a subquery may stand
    "in the select list": ReadShape(lambda: select(Author.name, _books())),
    "labelled in the select list": ReadShape(lambda: select(Author.name, _books().label("n")).order_by("n")),
    "in WHERE": ReadShape(lambda: select(Author.name).where(_books() > 1)),
    "in HAVING": ReadShape(
        lambda: (
            select(Author.boss_id)
            .group_by(Author.boss_id)
            .having(func.count() > select(func.count(Tag.id)).scalar_subquery())
        )
    ),
    "in ORDER BY": ReadShape(lambda: select(Author.name).order_by(desc(_books()))),
    "in GROUP BY": ReadShape(lambda: select(func.count()).select_from(Author).group_by(_books())),
    "in LIMIT": ReadShape(lambda: select(Author.name).limit(select(func.count(Tag.id)).scalar_subquery())),
    "in OFFSET": ReadShape(lambda: select(Author.name).limit(9).offset(select(func.count(Tag.id)).scalar_subquery())),
    "in ON": ReadShape(
        lambda: select(Author.name).join(
            Book, and_(Book.author_id == Author.id, exists().where(Review.book_id == Book.id))
        )
    ),
    "in ON of an outer join": ReadShape(
        lambda: select(Author.name).outerjoin(Book, Book.id == select(func.max(Review.book_id)).scalar_subquery())
    ),
    "in CASE": ReadShape(lambda: select(case((_books() > 1, 1), else_=select(func.max(Tag.id)).scalar_subquery()))),
    "in a function": ReadShape(lambda: select(func.coalesce(_books(), 0))),
    "in a function of a function": ReadShape(lambda: select(func.abs(func.coalesce(_books(), 0)))),
    "in a cast": ReadShape(lambda: select(cast(_books(), String))),
    "in a type coercion": ReadShape(lambda: select(type_coerce(_books(), String))),
    "in an expression": ReadShape(lambda: select(Author.id + _books() * 2, -_books())),
    "in a window's order": ReadShape(lambda: select(func.row_number().over(order_by=_books())).select_from(Author)),
    "in a window's partition": ReadShape(
        lambda: select(func.row_number().over(partition_by=_books())).select_from(Author)
    ),
    "in a window's argument": ReadShape(lambda: select(func.sum(_books()).over()).select_from(Author)),
    "in FILTER": ReadShape(lambda: select(func.count(Author.id).filter(Author.id.in_(select(Book.author_id))))),
    "in a list": ReadShape(
        lambda: select(Author.name).where(Author.id.in_([literal(1), select(func.max(Tag.id)).scalar_subquery()]))
    ),
    "in a tuple": ReadShape(
        lambda: select(Author.name).where(tuple_(Author.id, Author.name).in_(select(Book.author_id, Book.title)))
    ),
    "in BETWEEN": ReadShape(
        lambda: select(Author.name).where(Author.id.between(1, select(func.max(Tag.id)).scalar_subquery()))
    ),
    "in LIKE": ReadShape(
        lambda: select(Author.name).where(Author.name.like(select(func.max(Tag.name)).scalar_subquery()))
    ),
    "in IS NOT DISTINCT FROM": ReadShape(lambda: select(Author.name).where(Author.id.is_not_distinct_from(_books()))),
    "in OR and NOT": ReadShape(
        lambda: select(Author.name).where(or_(Author.id == 1, not_(exists().where(Book.author_id == Author.id))))
    ),
    "IN": ReadShape(lambda: select(Author.name).where(Author.id.in_(select(Book.author_id)))),
    "NOT IN": ReadShape(lambda: select(Author.name).where(Author.id.not_in(select(Book.author_id)))),
    "EXISTS": ReadShape(lambda: select(Author.name).where(exists().where(Book.author_id == Author.id))),
    "NOT EXISTS": ReadShape(lambda: select(Author.name).where(~exists().where(Book.author_id == Author.id))),
    "EXISTS alone": ReadShape(lambda: select(exists().where(Book.author_id == 1))),
    "EXISTS over a table that shows nowhere": ReadShape(lambda: select(exists(select(literal(1)).select_from(Tag)))),
    "three levels": ReadShape(
        lambda: select(Author.name).where(
            exists().where(
                Book.author_id == Author.id,
                exists().where(Review.book_id == Book.id, Review.stars > select(func.count(Tag.id)).scalar_subquery()),
            )
        )
    ),
    "a count of a count": ReadShape(lambda: select(func.count()).select_from(select(Book.id).subquery())),
    "an alias of a subquery": ReadShape(lambda: select(select(Book.id).subquery().alias("again"))),
    # sets and CTEs
    "UNION": ReadShape(lambda: union(select(Author.id), select(Tag.id))),
    "a UNION of unions": ReadShape(
        lambda: union_all(union(select(Author.id), select(Tag.id)).subquery().select(), select(Review.id))
    ),
    "EXCEPT and INTERSECT": ReadShape(
        lambda: except_(select(Author.id), intersect(select(Tag.id), select(Review.id)).subquery().select())
    ),
    "a UNION with ORDER BY and LIMIT": ReadShape(
        lambda: union(select(Author.id), select(Tag.id)).order_by("id").limit(3)
    ),
    "a UNION in IN": ReadShape(
        lambda: select(Review.id).where(Review.id.in_(union(select(Author.id), select(Tag.id))))
    ),
    "a UNION as an entity": ReadShape(
        lambda: select(aliased(Author, union(select(Author), select(Author)).subquery()))
    ),
    "from_statement of a UNION": ReadShape(
        lambda: select(Author).from_statement(union(select(Author), select(Author))),
    ),
    "a CTE": ReadShape(lambda: select(select(Author.id).cte().c.id)),
    "a CTE in a CTE": ReadShape(_in_cte),
    "a CTE that nothing refers to": ReadShape(lambda: select(Author.id).add_cte(select(Tag.id).cte("unused"))),
    "a recursive CTE": ReadShape(lambda: select(_tree())),
    "a recursive CTE in a subquery": ReadShape(
        lambda: select(Book.title).where(Book.author_id.in_(select(_tree().c.id)))
    ),
    "a nesting CTE": ReadShape(
        lambda: select(Book.title).where(Book.author_id.in_(select(select(Author.id).cte("n", nesting=True).c.id)))
    ),
    "a CTE as an entity": ReadShape(lambda: select(aliased(Author, select(Author).where(Author.id > 1).cte()))),
    "from_statement of a SELECT": ReadShape(
        lambda: select(Author).from_statement(select(Author).where(Author.id == 1))
    ),
    "a CTE under an alias": ReadShape(lambda: select(select(Author.id).cte("one").alias("two").c.id)),
    # mapped things
    "column_property": ReadShape(lambda: select(Tag)),
    "column_property in WHERE": ReadShape(lambda: select(Tag.id).where(inspect(Tag).attrs.uses.class_attribute > 1)),
    "column_property under an alias": ReadShape(lambda: select(aliased(Tag))),
    "hybrid": ReadShape(lambda: select(Author.id).where(Author.count_of_books > 1)),
    "composite": ReadShape(lambda: select(Book.size).where(Book.size == Size(1, 2))),
    "query_expression": ReadShape(
        lambda: select(Book).options(with_expression(Book.sold, select(func.count(Review.id)).scalar_subquery()))
    ),
    "Bundle": ReadShape(lambda: select(Bundle("b", Book.id, Author.name)).join(Author)),
    "eager by the mapper": ReadShape(lambda: select(Book)),
    "eager by the mapper, a page": ReadShape(lambda: select(Book).limit(2)),
    "eager, two levels": ReadShape(lambda: select(Author).options(joinedload(Author.books).joinedload(Book.tags))),
    "eager, inner join": ReadShape(lambda: select(Book).options(joinedload(Book.author, innerjoin=True))),
    "eager with criteria": ReadShape(
        lambda: select(Author).options(joinedload(Author.books.and_(Book.id.in_(select(Review.book_id)))))
    ),
    "contains_eager": ReadShape(
        lambda: select(Author).join(Author.books).options(contains_eager(Author.books).lazyload("*"))
    ),
    "loader criteria": ReadShape(
        lambda: select(Book).options(with_loader_criteria(Review, Review.id.in_(select(Tag.id))))
    ),
    "loader criteria for all": ReadShape(
        lambda: (
            select(Author)
            .join(Author.books)
            .options(with_loader_criteria(Book, lambda cls: cls.id > 0, include_aliases=True))
        )
    ),
    "load_only": ReadShape(lambda: select(Book).options(load_only(Book.title))),
    "any": ReadShape(lambda: select(Author).where(Author.books.any(Book.title == "x"))),
    "any over an association": ReadShape(lambda: select(Book.id).where(Book.tags.any(Tag.name == "x"))),
    "any over a secondary that is a join": ReadShape(lambda: select(Author.id).where(Author.tags.any(Tag.name == "x"))),
    "has": ReadShape(lambda: select(Book.id).where(Book.author.has(Author.name == "x"))),
    "has of itself": ReadShape(lambda: select(Author.id).where(Author.boss.has(Author.name == "x"))),
    "contains": ReadShape(lambda: select(Author.id).where(Author.books.contains(Book(id=1, author_id=2)))),
    "contains over an association": ReadShape(lambda: select(Book.id).where(Book.tags.contains(Tag(id=1)))),
    "a relationship to a subquery": ReadShape(lambda: select(Author.id).join(Author.best)),
    "a relationship to a subquery, eager": ReadShape(lambda: select(Author).options(joinedload(Author.best))),
    "no object": ReadShape(lambda: select(Author.id).where(~Author.books.any())),
    "an association proxy": ReadShape(lambda: select(Book.id).where(Book.tag_names.contains("x"))),
    "join over an association": ReadShape(lambda: select(Book.id, Tag.name).join(Book.tags)),
    "join over a secondary that is a join": ReadShape(lambda: select(Author.id, Tag.name).join(Author.tags)),
    "outer join over an association": ReadShape(lambda: select(Book.id, Tag.name).outerjoin(Book.tags)),
    "eager over an association": ReadShape(lambda: select(Book).options(joinedload(Book.tags), lazyload(Book.reviews))),
    "eager over a secondary that is a join": ReadShape(lambda: select(Author).options(joinedload(Author.tags))),
    "of_type": ReadShape(lambda: select(Author.id).join(Author.books.of_type(_alias)).where(_alias.title == "x")),
    "aliased": ReadShape(lambda: select(_alias).where(_alias.id == 1)),
    "aliased subquery": ReadShape(lambda: select(_page)),
    "aliased subquery in a join": ReadShape(
        lambda: select(Author.id, _page.id).join(_page, _page.author_id == Author.id)
    ),
    "select_from a join": ReadShape(lambda: select(Book.id).select_from(Author.__table__.join(Book.__table__))),
    "mapped to a join": ReadShape(lambda: select(Written)),
    "mapped to a subquery": ReadShape(lambda: select(Busy).where(Busy.n > 1)),
    "Query": ReadShape(lambda: Query(Author).filter(Author.id == 1).statement),
    "Query of a subquery": ReadShape(
        lambda: Query(Author).filter(Author.id.in_(Query(Book.author_id).distinct().subquery().select())).statement
    ),
    # inheritance
    "joined, base": ReadShape(lambda: select(Person)),
    "joined, subclass": ReadShape(lambda: select(Engineer).where(Engineer.language == "x")),
    "single": ReadShape(lambda: select(Clerk)),
    "with_polymorphic": ReadShape(lambda: select(_staff).where(_staff.Engineer.language == "x")),
    "with_polymorphic, flat": ReadShape(lambda: select(_flat_staff)),
    "with_polymorphic, a selectable": ReadShape(lambda: select(_poly_select)),
    "joined, flat alias": ReadShape(lambda: select(_flat)),
    "of_type of a subclass": ReadShape(lambda: select(Engineer.id).join(Engineer.tools).where(Tool.id == 1)),
    "selectin_polymorphic": ReadShape(lambda: select(Person).options(selectin_polymorphic(Person, [Engineer]))),
    "a subclass in EXISTS": ReadShape(lambda: select(Tool.id).where(exists().where(Engineer.id == Tool.engineer_id))),
    "concrete": ReadShape(lambda: select(Shape)),
    "concrete, subclass": ReadShape(lambda: select(Circle).where(Circle.radius == 1)),
    "concrete, abstract base": ReadShape(lambda: select(Vehicle)),
    "concrete in EXISTS": ReadShape(lambda: select(Tag.id).where(exists(select(Shape.id).where(Shape.id == Tag.id)))),
    # odds and ends
    "DISTINCT": ReadShape(lambda: select(Book.author_id).distinct()),
    "count of distinct": ReadShape(lambda: select(func.count(distinct(Book.author_id)))),
    "EXTRACT": ReadShape(lambda: select(extract("year", Book.day))),
    "a literal": ReadShape(lambda: select(literal_column("1")).select_from(Tag)),
    "NULL": ReadShape(lambda: select(null(), true()).select_from(Tag)),
    "json path": ReadShape(lambda: select(Book.more["a"].as_string()).where(Book.more[("a", "b")].as_integer() == 1)),
    "a cartesian product": ReadShape(lambda: select(Author.id, Tag.id)),
    "a join with true": ReadShape(lambda: select(Author.id).join(Tag, true())),
    "a full join": ReadShape(lambda: select(Author.id, Book.id).join(Book, full=True)),
    "nested joins": ReadShape(
        lambda: select(Author.id).outerjoin(
            Book.__table__.join(Review.__table__), Author.id == Book.__table__.c.author_id
        )
    ),
    "text in ORDER BY": ReadShape(lambda: select(Author.name).order_by(text("name"))),
    "from_statement of text": ReadShape(lambda: select(Author).from_statement(text("SELECT * FROM author"))),
    "FOR UPDATE": ReadShape(lambda: select(Author).with_for_update(), "locks rows"),
}

SQLITE: Final[dict[str, ReadShape]] = {
    "collate": ReadShape(lambda: select(Author.name).order_by(Author.name.collate("NOCASE"))),
    "a table-valued function": ReadShape(
        lambda: select(Book.id, func.json_each(Book.more).table_valued("value").c.value)
    ),
    "a table-valued function in EXISTS": ReadShape(
        lambda: select(Book.id).where(
            exists().select_from(each := func.json_each(Book.more).table_valued("value")).where(each.c.value == 1)
        )
    ),
}


class Basket(Base):
    __tablename__ = "basket"
    id: Mapped[int] = mapped_column(primary_key=True)
    items: Mapped[list[int]] = mapped_column(postgresql.ARRAY(Integer).with_variant(JSON, "sqlite", "mysql"))


def _latest() -> Any:
    latest = select(Book.id, Book.title).where(Book.author_id == Author.id).order_by(Book.id.desc()).limit(1)
    return latest.lateral()


def _distinct_on(statement: Any, column: Any) -> Any:
    extension: Any = getattr(postgresql, "distinct_on", None)
    return statement.distinct(column) if extension is None else statement.ext(extension(column))


POSTGRESQL: Final[dict[str, ReadShape]] = {
    "collate": ReadShape(lambda: select(Author.name).order_by(Author.name.collate("C"))),
    "in VALUES": ReadShape(
        lambda: select(
            values(column("n", Integer), name="v").data([(select(func.max(Tag.id)).scalar_subquery(),), (2,)])
        )
    ),
    "LATERAL": ReadShape(lambda: select(Author.id, (each := _latest()).c.title).join(each, true())),
    "an outer LATERAL": ReadShape(lambda: select(Author.id, (each := _latest()).c.title).outerjoin(each, true())),
    "LATERAL in a LATERAL": ReadShape(
        lambda: select(Author.id).join(
            select((inner := select(Review.stars).where(Review.book_id == Book.id).limit(1).lateral()).c.stars)
            .select_from(Book)
            .join(inner, true())
            .where(Book.author_id == Author.id)
            .correlate(Author)
            .lateral("outer_one"),
            true(),
        )
    ),
    "LATERAL as an entity": ReadShape(
        lambda: select(
            Author.id, each := aliased(Book, select(Book).where(Book.author_id == Author.id).limit(1).lateral())
        ).join(each, true())
    ),
    "unnest": ReadShape(
        lambda: select(Basket.id, func.unnest(Basket.items).table_valued("item").render_derived().c.item)
    ),
    "unnest as a column": ReadShape(
        lambda: select(func.unnest(Basket.items).column_valued("item")).select_from(Basket)
    ),
    "unnest in the list": ReadShape(lambda: select(func.unnest(Basket.items))),
    "unnest in EXISTS": ReadShape(
        lambda: select(Basket.id).where(
            exists()
            .select_from(each := func.unnest(Basket.items).table_valued("item").render_derived())
            .where(each.c.item == 1)
        )
    ),
    "generate_series": ReadShape(lambda: select(func.generate_series(1, select(func.max(Tag.id)).scalar_subquery()))),
    "generate_series with an order": ReadShape(
        lambda: select(
            func.generate_series(1, 3).table_valued("value", with_ordinality="place").render_derived().c.place, Tag.id
        )
    ),
    "ANY": ReadShape(lambda: select(Tag.id).where(Tag.id == any_(select(Book.author_id).scalar_subquery()))),
    "ALL": ReadShape(lambda: select(Tag.id).where(Tag.id > all_(select(Book.author_id).scalar_subquery()))),
    "ANY of an array": ReadShape(lambda: select(Basket.id).where(literal(3) == any_(Basket.items))),
    "ARRAY of a subquery": ReadShape(lambda: select(Author.id, func.array(select(Book.id).scalar_subquery()))),
    "array": ReadShape(lambda: select(postgresql.array([Author.id, _books()]))),
    "array_agg": ReadShape(lambda: select(func.array_agg(aggregate_order_by(Book.id, Book.title.desc())))),
    "string_agg": ReadShape(lambda: select(func.aggregate_strings(Book.title, ", "))),
    "WITHIN GROUP": ReadShape(lambda: select(func.percentile_cont(0.5).within_group(Review.stars))),
    "WITHIN GROUP of a subquery": ReadShape(lambda: select(func.mode().within_group(_books())).select_from(Author)),
    "DISTINCT ON": ReadShape(lambda: _distinct_on(select(Book.title), Book.author_id)),
    "DISTINCT ON a subquery": ReadShape(lambda: _distinct_on(select(Author.id), _books())),
    "GROUPING SETS": ReadShape(
        lambda: select(Book.author_id, func.count()).group_by(func.grouping_sets(tuple_(Book.author_id), tuple_()))
    ),
    "ROLLUP": ReadShape(lambda: select(Book.author_id, func.count()).group_by(func.rollup(Book.author_id, Book.title))),
    "FETCH FIRST WITH TIES": ReadShape(lambda: select(Book.id).order_by(Book.title).fetch(2, with_ties=True)),
    "a window's frame": ReadShape(lambda: select(func.sum(Review.stars).over(order_by=Review.id, range_=(-1, 1)))),
    "a materialized CTE": ReadShape(
        lambda: select(select(Author.id).cte().prefix_with("MATERIALIZED", dialect="postgresql").c.id)
    ),
    "a CTE with another prefix": ReadShape(
        lambda: select(select(Author.id).cte().prefix_with("NOT /* */ MATERIALIZED").c.id), "prefix or suffix"
    ),
    "json_each": ReadShape(lambda: select(Book.id, func.json_each(Book.more).table_valued("key", "value").c.key)),
    "a row of a table": ReadShape(
        lambda: select(func.to_json(taken_for(Any, Book.__table__).table_valued())), "row of table"
    ),
    "a function with columns": ReadShape(
        lambda: select(
            Book.id, func.json_array_elements(Book.more).table_valued(column("value", JSON), joins_implicitly=True)
        )
    ),
    "concrete in a LATERAL": ReadShape(
        lambda: select(Tag.id).join(select(Shape.id).where(Shape.id == Tag.id).correlate(Tag).lateral(), true())
    ),
}
