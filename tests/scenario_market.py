"""A market with every kind of relation, for the scenarios about query shapes.

Aisles form a tree and hold items; items carry labels through an association table, and are offered by sellers through
an association object. The second aisle and all that is in it is left alone by the tests: what is confined to it must
stay cached.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from sqlalchemy import Column, ForeignKey, String, Table, and_, func, insert, select
from sqlalchemy.ext.associationproxy import AssociationProxy, association_proxy
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import (
    DeclarativeBase,
    DynamicMapped,
    Mapped,
    Session,
    WriteOnlyMapped,
    column_property,
    mapped_column,
    relationship,
)

from scenario_support import Matrix, World


class Market(DeclarativeBase):
    pass


item_labels = Table(
    "sm_item_label",
    Market.metadata,
    Column("item_id", ForeignKey("sm_item.id", ondelete="CASCADE"), primary_key=True),
    Column("label_id", ForeignKey("sm_label.id", ondelete="CASCADE"), primary_key=True),
)


class Aisle(Market):
    __tablename__ = "sm_aisle"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("sm_aisle.id"))
    parent: Mapped[Aisle | None] = relationship(remote_side=[id], back_populates="children")
    children: Mapped[list[Aisle]] = relationship(back_populates="parent", order_by="Aisle.id")
    items: Mapped[list[Item]] = relationship(back_populates="aisle", order_by="Item.price, Item.id")
    stream: WriteOnlyMapped[Item] = relationship(viewonly=True, order_by="Item.id")


class Label(Market):
    __tablename__ = "sm_label"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    items: Mapped[list[Item]] = relationship(secondary=item_labels, back_populates="labels", order_by="Item.id")


class Seller(Market):
    __tablename__ = "sm_seller"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    offers: DynamicMapped[Offer] = relationship(back_populates="seller", order_by="Offer.item_id", viewonly=True)


class Offer(Market):
    __tablename__ = "sm_offer"

    item_id: Mapped[int] = mapped_column(ForeignKey("sm_item.id", ondelete="CASCADE"), primary_key=True)
    seller_id: Mapped[int] = mapped_column(ForeignKey("sm_seller.id"), primary_key=True)
    amount: Mapped[int]
    item: Mapped[Item] = relationship(back_populates="offers")
    seller: Mapped[Seller] = relationship(back_populates="offers")
    seller_name: AssociationProxy[str] = association_proxy("seller", "name")


class Item(Market):
    __tablename__ = "sm_item"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    aisle_id: Mapped[int] = mapped_column(ForeignKey("sm_aisle.id"))
    price: Mapped[int]
    rest: Mapped[int | None]
    aisle: Mapped[Aisle] = relationship(back_populates="items")
    labels: Mapped[list[Label]] = relationship(secondary=item_labels, back_populates="items", order_by=Label.id)
    offers: Mapped[list[Offer]] = relationship(
        back_populates="item", order_by=Offer.seller_id, cascade="all, delete-orphan", passive_deletes=True
    )
    sellers: AssociationProxy[list[Seller]] = association_proxy(
        "offers", "seller", creator=lambda seller: Offer(seller=seller, amount=1)
    )
    seller_names: AssociationProxy[list[str]] = association_proxy("offers", "seller_name")
    label_names: AssociationProxy[list[str]] = association_proxy("labels", "name")
    large_offers: Mapped[list[Offer]] = relationship(
        primaryjoin=and_(id == Offer.item_id, Offer.amount > 5), viewonly=True, order_by=Offer.seller_id
    )
    large_sellers: Mapped[list[Seller]] = relationship(
        # A seller's name that is also an aisle's: over a join of tables in the place of an association table.
        secondary=lambda: Offer.__table__.join(Label.__table__, Offer.amount > Label.id),
        primaryjoin=lambda: and_(Item.id == Offer.item_id, Offer.amount > 5),
        secondaryjoin=lambda: and_(Offer.seller_id == Seller.id, Label.name == "red"),
        viewonly=True,
        order_by=Seller.id,
    )

    @hybrid_property
    def offered(self) -> int:
        raise NotImplementedError

    @offered.inplace.expression
    @classmethod
    def _offered(cls) -> Any:
        return select(func.coalesce(func.sum(Offer.amount), 0)).where(Offer.item_id == cls.id).scalar_subquery()


class CountedLabel(Market):
    """A label that knows how often it is used."""

    __table__ = Label.__table__
    times = column_property(
        select(func.count())
        .select_from(item_labels)
        .where(item_labels.c.label_id == Label.__table__.c.id)
        .correlate(Label.__table__)
        .scalar_subquery()
    )


def stock_market(session: Session) -> None:
    """Put rows into an empty market."""
    session.add_all([Aisle(id=1, name="food"), Aisle(id=2, name="tools")])
    session.flush()
    session.add_all([Aisle(id=3, name="fruit", parent_id=1), Aisle(id=4, name="empty", parent_id=1)])
    session.add_all([Label(id=1, name="red"), Label(id=2, name="green"), Label(id=3, name="steel")])
    session.add_all([Seller(id=1, name="ann"), Seller(id=2, name="bob"), Seller(id=3, name="cid")])
    session.flush()
    stocked = [
        (1, "bread", 1, 30, None),
        (2, "apple", 3, 10, 5),
        (3, "pear", 3, 20, 6),
        (4, "saw", 2, 90, 1),
        (5, "nail", 2, 5, None),
    ]
    session.add_all(
        Item(id=id_, name=name, aisle_id=aisle, price=price, rest=rest) for id_, name, aisle, price, rest in stocked
    )
    session.flush()
    labelled = [(1, 1), (2, 1), (2, 2), (3, 2), (4, 3), (5, 3)]
    session.execute(item_labels.insert(), [{"item_id": item, "label_id": label} for item, label in labelled])
    offered = [(1, 1, 2), (2, 1, 9), (2, 2, 4), (3, 2, 7), (4, 3, 8), (5, 3, 1)]
    session.execute(
        insert(Offer),
        [{"item_id": item, "seller_id": seller, "amount": amount} for item, seller, amount in offered],
    )


Change = Callable[[Session], Any]


def set_on(entity: type[Any], key: Any, **new: Any) -> Change:
    def change(session: Session) -> None:
        instance = session.get_one(entity, key)
        for attribute, value in new.items():
            setattr(instance, attribute, value)

    return change


def gone(entity: type[Any], key: Any) -> Change:
    return lambda session: session.delete(session.get_one(entity, key))


def come(instance_of: Callable[[], Any]) -> Change:
    return lambda session: session.add(instance_of())


def each(*changes: Change) -> Change:
    def change(session: Session) -> None:
        for one in changes:
            one(session)

    return change


def labelled(item_id: int, label_id: int, *, take_off: bool = False) -> Change:
    def change(session: Session) -> None:
        item, label = session.get_one(Item, item_id), session.get_one(Label, label_id)
        (item.labels.remove if take_off else item.labels.append)(label)

    return change


def clear_labels(session: Session) -> None:
    item = session.get_one(Item, 3)
    item.labels.clear()


def add_seller(session: Session) -> None:
    item = session.get_one(Item, 3)
    item.sellers.append(session.get_one(Seller, 2))


def take_offer(session: Session) -> None:
    item = session.get_one(Item, 2)
    item.offers.pop(0)


CHANGES: dict[str, list[Change]] = {
    "sm_aisle": [
        come(lambda: Aisle(id=9, name="frost", parent_id=3)),
        set_on(Aisle, 3, name="greens"),
        set_on(Aisle, 1, name="foods"),
        set_on(Aisle, 4, parent_id=None),
        set_on(Aisle, 4, name="food"),
        gone(Aisle, 9),
    ],
    "sm_item": [
        come(lambda: Item(id=9, name="fig", aisle_id=3, price=99)),
        set_on(Item, 2, name="quince"),
        set_on(Item, 3, price=9, name="bread"),
        set_on(Item, 1, aisle_id=4, rest=1, name="toast", price=20),
        set_on(Item, 2, price=3, aisle_id=1),
        gone(Item, 9),
    ],
    "sm_label": [
        come(lambda: Label(id=9, name="new")),
        set_on(Label, 1, name="rose"),
        set_on(Label, 2, name="red"),
        each(gone(Label, 9), gone(Label, 1), gone(Label, 2)),
    ],
    "sm_item_label": [
        labelled(3, 1),
        labelled(2, 1, take_off=True),
        clear_labels,
        lambda session: session.execute(insert(item_labels), [{"item_id": 2, "label_id": 1}]),
        set_on(Item, 1, labels=[]),
    ],
    "sm_seller": [
        come(lambda: Seller(id=9, name="zed")),
        come(lambda: Seller(id=8, name="abe")),
        set_on(Seller, 1, name="anna"),
        set_on(Seller, 2, name="ann"),
        gone(Seller, 9),
    ],
    "sm_offer": [
        come(lambda: Offer(item_id=1, seller_id=2, amount=77)),
        set_on(Offer, (2, 1), amount=3),
        set_on(Offer, (3, 2), seller_id=1),
        add_seller,
        take_offer,
        gone(Offer, (1, 2)),
    ],
}

# Where the database deletes along, it does not say which rows.
_REACHED = {"sm_item": {"sm_item_label", "sm_offer"}, "sm_label": {"sm_item_label"}}


def change_all(world: World, matrix: Matrix, table: str, kept: Collection[str] = ()) -> set[str]:
    """Change a table in each of its ways, and look at everything after each; return the names of the reads that followed.

    ``kept``: names of reads of the table that are hits nevertheless, as long as rows are changed one by one.
    """
    followed: set[str] = set()
    for change in CHANGES[table]:
        with world.write() as session:
            change(session)
        reached: set[str] = _REACHED.get(table, set()) if change is CHANGES[table][-1] else set()
        followed |= matrix.changed_by({table} | reached, () if reached else kept)
    matrix.assert_all_stored()
    return followed
