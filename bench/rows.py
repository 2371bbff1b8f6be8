"""Which rows do the benchmarks read, and by which statements?

The tables, their rows, and the cases by name: each reads through a Session that somebody else opens and closes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from sqlalchemy import Engine, ForeignKey, String, func, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

PRODUCTS: Final = 1000


class Base(DeclarativeBase):
    """The benchmark's own tables."""

    type_annotation_map: ClassVar[dict[Any, Any]] = {str: String(200)}  # MariaDB wants a length


class Category(Base):
    """A parent of products."""

    __tablename__ = "bench_category"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    products: Mapped[list[Product]] = relationship(back_populates="category")


class Product(Base):
    """A row of eight columns."""

    __tablename__ = "bench_product"
    id: Mapped[int] = mapped_column(primary_key=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("bench_category.id"))
    name: Mapped[str]
    description: Mapped[str]
    price: Mapped[float]
    stock: Mapped[int]
    active: Mapped[bool]
    position: Mapped[int]
    category: Mapped[Category] = relationship(back_populates="products")


def product(number: int, category_id: int) -> Product:
    """Make one row."""
    return Product(
        id=number,
        category_id=category_id,
        name=f"product {number}",
        description="x" * 60,
        price=number * 1.5,
        stock=number % 7,
        active=bool(number % 2),
        position=number,
    )


def fill(engine: Engine) -> None:
    """Make the tables anew: ten categories of five products each, and one of all others."""
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all(Category(id=number, name=f"category {number}") for number in range(1, 12))
        session.flush()
        session.add_all(
            product(number, (number - 1) // 5 % 10 + 1 if number <= 50 else 11) for number in range(1, PRODUCTS + 1)
        )
        session.commit()


def _nothing(session: Session) -> object:
    return None


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of read. ``before`` is done first, and is part of it only where the Session's opening is, too."""

    read: Callable[[Session], object]
    before: Callable[[Session], object] = _nothing


def _select(rows: int) -> Case:
    return Case(lambda session: session.scalars(select(Product).where(Product.id <= rows).order_by(Product.id)).all())


def _get(session: Session) -> object:
    return session.get(Product, 1)


def _count(session: Session) -> object:
    return session.scalar(select(func.count()).select_from(Product))


def _columns(session: Session) -> object:
    wanted = select(Product.id, Product.name, Product.price)
    return session.execute(wanted.where(Product.id <= 100).order_by(Product.id)).all()


def _selectin(session: Session) -> object:
    return session.scalars(select(Category).options(selectinload(Category.products)).where(Category.id <= 10)).all()


def _joined(session: Session) -> object:
    statement = select(Category).options(joinedload(Category.products)).where(Category.id <= 10)
    return session.scalars(statement).unique().all()


def _lazy(session: Session) -> object:
    return session.get_one(Product, 1).category


CASES: Final[dict[str, Case]] = {
    "get": Case(_get),
    "select-1": _select(1),
    "select-10": _select(10),
    "select-100": _select(100),
    "select-1000": _select(1000),
    "count": Case(_count),
    "columns": Case(_columns),
    "selectin-10x5": Case(_selectin),
    "joined-10x5": Case(_joined),
    "lazy-m2o": Case(_lazy, before=_get),
}
