"""What does the auction site know? Users, categories, items, bids, comments."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import ForeignKey, Index, Numeric
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """The site's tables."""


class User(Base):
    """Who sells, bids and comments."""

    __tablename__ = "auction_user"
    id: Mapped[int] = mapped_column(primary_key=True)
    nickname: Mapped[str] = mapped_column(unique=True)
    region: Mapped[str]
    joined: Mapped[datetime]
    rating: Mapped[int]


class Category(Base):
    """Where items are found."""

    __tablename__ = "auction_category"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Item(Base):
    """What is for sale. ``bid_count`` and ``max_bid`` are kept with it, as RUBiS does."""

    __tablename__ = "auction_item"
    __table_args__ = (Index("auction_item_by_end", "category_id", "closed", "ends"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    description: Mapped[str]
    initial_price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    max_bid: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    bid_count: Mapped[int]
    starts: Mapped[datetime]
    ends: Mapped[datetime]
    closed: Mapped[bool]
    seller_id: Mapped[int] = mapped_column(ForeignKey("auction_user.id"), index=True)
    category_id: Mapped[int] = mapped_column(ForeignKey("auction_category.id"))
    seller: Mapped[User] = relationship()
    category: Mapped[Category] = relationship()


class Bid(Base):
    """What somebody offered."""

    __tablename__ = "auction_bid"
    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("auction_item.id"), index=True)
    bidder_id: Mapped[int] = mapped_column(ForeignKey("auction_user.id"), index=True)
    amount: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    made: Mapped[datetime]
    item: Mapped[Item] = relationship()
    bidder: Mapped[User] = relationship()


class Comment(Base):
    """What somebody wrote about a user."""

    __tablename__ = "auction_comment"
    id: Mapped[int] = mapped_column(primary_key=True)
    about_id: Mapped[int] = mapped_column(ForeignKey("auction_user.id"), index=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("auction_user.id"), index=True)
    rating: Mapped[int]
    text: Mapped[str]
    made: Mapped[datetime]
    author: Mapped[User] = relationship(foreign_keys=author_id)
