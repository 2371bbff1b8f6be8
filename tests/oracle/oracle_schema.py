"""What does the oracle's database look like?

Small on purpose: few rows and few values, so that random statements and random writes meet. It has what caches fail on:
database-side cascades, an association table, joined and single inheritance, a composite key, a self-reference, nullable
and unique columns, a mapped subquery, types that narrow and types that must not.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from sqlalchemy import Column, ForeignKey, Numeric, String, Table, UniqueConstraint, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, column_property, mapped_column, relationship


class Base(DeclarativeBase):
    pass


item_label = Table(
    "item_label",
    Base.metadata,
    Column("item_id", ForeignKey("item.id", ondelete="CASCADE"), primary_key=True),
    Column("label_id", ForeignKey("label.id", ondelete="CASCADE"), primary_key=True),
)


class Region(Base):
    __tablename__ = "region"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(String(20), unique=True)
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("region.id", ondelete="SET NULL"))
    rank: Mapped[int | None]
    parent: Mapped[Region | None] = relationship(back_populates="children", remote_side="Region.id")
    children: Mapped[list[Region]] = relationship(back_populates="parent", order_by="Region.id", passive_deletes=True)
    items: Mapped[list[Item]] = relationship(
        back_populates="region", order_by="Item.id", cascade="all, delete-orphan", passive_deletes=True
    )


class Item(Base):
    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), default="item")
    region_id: Mapped[int | None] = mapped_column(ForeignKey("region.id", ondelete="CASCADE"))
    code: Mapped[str | None] = mapped_column(String(20))
    size: Mapped[int | None]
    price: Mapped[Decimal | None] = mapped_column(Numeric(8, 2))
    live: Mapped[bool | None] = mapped_column(default=True)
    region: Mapped[Region | None] = relationship(back_populates="items")
    parts: Mapped[list[Part]] = relationship(
        back_populates="item", order_by="Part.number", cascade="all, delete-orphan", passive_deletes=True
    )
    labels: Mapped[list[Label]] = relationship(
        secondary=item_label, back_populates="items", order_by="Label.id", passive_deletes=True
    )

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "item"}  # noqa: RUF012


class Tool(Item):
    __tablename__ = "tool"

    id: Mapped[int] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"), primary_key=True)
    power: Mapped[int | None]

    __mapper_args__ = {"polymorphic_identity": "tool"}  # noqa: RUF012


class Part(Base):
    __tablename__ = "part"
    __table_args__ = (UniqueConstraint("serial"),)

    item_id: Mapped[int] = mapped_column(ForeignKey("item.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    amount: Mapped[int | None]
    serial: Mapped[str | None] = mapped_column(String(20))
    item: Mapped[Item] = relationship(back_populates="parts")


class Label(Base):
    __tablename__ = "label"

    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(10), default="label")
    text: Mapped[str | None] = mapped_column(String(20), index=True)
    items: Mapped[list[Item]] = relationship(
        secondary=item_label, back_populates="labels", order_by=Item.id, passive_deletes=True
    )
    uses: Mapped[int] = column_property(
        select(func.count())
        .select_from(item_label)
        .where(item_label.c.label_id == id)
        .correlate_except(item_label)
        .scalar_subquery()
    )

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "label"}  # noqa: RUF012


class Flag(Label):
    colour: Mapped[int | None] = mapped_column(nullable=True)

    __mapper_args__ = {"polymorphic_identity": "flag"}  # noqa: RUF012


MODELS: tuple[type[Any], ...] = (Region, Item, Tool, Part, Label, Flag)
"""The classes that a statement may begin with."""

TABLES: tuple[Table, ...] = tuple(Base.metadata.sorted_tables)
