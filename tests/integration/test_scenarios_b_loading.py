"""B. Related rows: in whatever way they are loaded, on whatever level, a write to any of their tables is seen.

The changes are those of the market. Each way is asked for by options, and once more by classes whose mappers say so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from sqlalchemy import select
from sqlalchemy.orm import (
    DeclarativeBase,
    Session,
    aliased,
    contains_eager,
    defer,
    immediateload,
    joinedload,
    lazyload,
    raiseload,
    relationship,
    selectinload,
    subqueryload,
    with_loader_criteria,
)

from scenario_market import CHANGES, Aisle, Item, Label, Market, Offer, change_all, item_labels
from scenario_support import Matrix, Read, World

WAYS: Final[dict[str, Callable[[Any], Any]]] = {
    "lazy": lazyload,
    "joined": joinedload,
    "selectin": selectinload,
    "subquery": subqueryload,
    "immediate": immediateload,
}
ELSE = aliased(Item, name="else_item")


def aisles(*options: Any) -> Read:
    """Read aisles with their items and the items' labels."""
    statement = select(Aisle).order_by(Aisle.id).options(*options)

    def read(session: Session) -> Any:
        found = session.scalars(statement).unique().all()
        return [
            (aisle.name, [(item.name, item.price, [label.name for label in item.labels]) for item in aisle.items])
            for aisle in found
        ]

    return read


def items(*options: Any) -> Read:
    """Read items with their aisle and its parent."""
    statement = select(Item).order_by(Item.id).options(*options)

    def read(session: Session) -> Any:
        return [
            (item.name, item.aisle.name, item.aisle.parent and item.aisle.parent.name)
            for item in session.scalars(statement).unique()
        ]

    return read


def told(statement: Any, tell: Callable[[Any], Any]) -> Read:
    """Read entities, and tell of each what hangs on it."""
    return lambda session: [tell(one) for one in session.scalars(statement).unique().all()]


def classes_loading(way: Any) -> tuple[Any, Any]:
    """Map the market's aisles and offers once more, with all that hangs on them loaded in one way."""

    class Base(DeclarativeBase):
        metadata = Market.metadata

    class OwnLabel(Base):
        __table__ = Label.__table__

    class OwnItem(Base):
        __table__ = Item.__table__
        labels = relationship(
            OwnLabel, secondary=item_labels, viewonly=True, lazy=way, order_by=OwnLabel.__table__.c.id
        )

    class OwnOffer(Base):
        __table__ = Offer.__table__
        item = relationship(OwnItem, viewonly=True, lazy=way, innerjoin=way == "joined")

    class OwnAisle(Base):
        __table__ = Aisle.__table__
        items = relationship(OwnItem, viewonly=True, lazy=way, order_by=[Item.__table__.c.price, Item.__table__.c.id])

    return OwnAisle, OwnOffer


def by_mapper(way: str) -> dict[str, Read]:
    """Return reads of classes whose mappers say how what hangs on them is loaded."""
    aisle, offer = classes_loading("select" if way == "lazy" else way)
    return {
        f"s26 the mapper says {way}": told(
            select(aisle).order_by(aisle.__table__.c.id),
            lambda one: (one.name, [(item.name, [label.name for label in item.labels]) for item in one.items]),
        ),
        f"s26 the mapper says {way} to one": told(
            select(offer).order_by(offer.__table__.c.item_id, offer.__table__.c.seller_id),
            lambda one: (one.amount, one.item.name, [label.name for label in one.item.labels]),
        ),
    }


def two_levels(outer: str, inner: str) -> Any:
    return getattr(WAYS[outer](Aisle.items), f"{inner}load")(Item.labels)


OFFERS = select(Item).order_by(Item.id)


def offers(item: Item) -> Any:
    return item.name, [(offer.amount, offer.seller.name) for offer in item.offers]


PAIRS: Final = [
    *((way, way) for way in WAYS),
    ("joined", "selectin"),
    ("selectin", "joined"),
    ("subquery", "immediate"),
    ("lazy", "joined"),
]
LOADS: dict[str, Read] = {
    **{f"s26 {outer}, then {inner}": aisles(two_levels(outer, inner)) for outer, inner in PAIRS},
    **{
        f"s26 {way} to one, and on": items(getattr(load(Item.aisle), f"{way}load")(Aisle.parent))
        for way, load in WAYS.items()
    },
    "s26 joined inner": items(joinedload(Item.aisle, innerjoin=True).joinedload(Aisle.parent)),
    "s26 joined in a page": told(
        select(Aisle).order_by(Aisle.id).limit(3).options(joinedload(Aisle.items)),
        lambda aisle: (aisle.name, [item.name for item in aisle.items]),
    ),
    "s26 selectin in a page": told(
        select(Aisle).order_by(Aisle.name).limit(2).options(selectinload(Aisle.items)),
        lambda aisle: (aisle.name, [item.name for item in aisle.items]),
    ),
    "s26 subquery in a page": told(
        select(Aisle).order_by(Aisle.name).limit(2).options(subqueryload(Aisle.items)),
        lambda aisle: (aisle.name, [item.name for item in aisle.items]),
    ),
    "s26 through the association object": told(
        OFFERS.options(selectinload(Item.offers).joinedload(Offer.seller)), offers
    ),
    "s26 an association object in a subquery": told(
        OFFERS.options(subqueryload(Item.offers).selectinload(Offer.seller)), offers
    ),
    "s26 viewonly": told(
        OFFERS.options(selectinload(Item.large_offers)), lambda item: [one.amount for one in item.large_offers]
    ),
    "s26 a secondary join": told(
        OFFERS.options(selectinload(Item.large_sellers)), lambda item: [one.name for one in item.large_sellers]
    ),
    "s26 a secondary join, joined": told(
        OFFERS.options(joinedload(Item.large_sellers)), lambda item: [one.name for one in item.large_sellers]
    ),
    "s26 a tree": told(
        select(Aisle)
        .where(Aisle.parent_id.is_(None))
        .order_by(Aisle.id)
        .options(selectinload(Aisle.children, recursion_depth=2)),
        lambda aisle: (aisle.name, [(one.name, [two.name for two in one.children]) for one in aisle.children]),
    ),
    "s26 raiseload": told(select(Item).order_by(Item.id).options(raiseload("*")), lambda item: item.name),
    "s26 load_only below": told(
        select(Aisle).order_by(Aisle.id).options(selectinload(Aisle.items).load_only(Item.name)),
        lambda aisle: (aisle.id, [item.name for item in aisle.items]),
    ),
    "s26 defer below": told(
        select(Aisle)
        .order_by(Aisle.id)
        .options(joinedload(Aisle.items).options(defer(Item.name), raiseload(Item.labels))),
        lambda aisle: (aisle.name, [item.price for item in aisle.items]),
    ),
    "s26 several": told(
        select(Item)
        .order_by(Item.id)
        .options(joinedload(Item.aisle), selectinload(Item.labels), subqueryload(Item.offers)),
        lambda item: (
            item.name,
            item.aisle.name,
            [one.name for one in item.labels],
            [one.amount for one in item.offers],
        ),
    ),
    "s26 through a select of columns": lambda session: [
        (name, aisle.name, [item.name for item in aisle.items])
        for name, aisle in session.execute(
            select(Item.name, Aisle).join(Item.aisle).order_by(Item.id).options(selectinload(Aisle.items))
        )
    ],
    "s27 criteria of the relationship": aisles(selectinload(Aisle.items.and_(Item.price > 15))),
    "s27 criteria of the relationship, joined": aisles(joinedload(Aisle.items.and_(Item.price > 15))),
    "s27 criteria of the relationship, lazy": aisles(lazyload(Aisle.items.and_(Item.price > 15))),
    **{
        f"s27 with_loader_criteria, {way}": aisles(load(Aisle.items), with_loader_criteria(Item, Item.price > 15))
        for way, load in WAYS.items()
        if way not in ("subquery", "immediate")
    },
    "s27 with_loader_criteria of the entity": told(
        select(Item).order_by(Item.id).options(with_loader_criteria(Item, lambda cls: cls.price > 15)),
        lambda item: item.name,
    ),
    "s27 with_loader_criteria with a subquery": told(
        select(Item)
        .order_by(Item.id)
        .options(with_loader_criteria(Item, Item.id.in_(select(Offer.item_id).where(Offer.amount > 5)))),
        lambda item: item.name,
    ),
    "s27 with_loader_criteria of what is joined": told(
        select(Item).join(Item.aisle).order_by(Item.id).options(with_loader_criteria(Aisle, Aisle.name != "greens")),
        lambda item: item.name,
    ),
    "s27 contains_eager": told(
        select(Aisle)
        .join(Aisle.items)
        .where(Item.price > 5)
        .order_by(Aisle.id, Item.id)
        .options(contains_eager(Aisle.items)),
        lambda aisle: (aisle.name, [item.name for item in aisle.items]),
    ),
    "s27 contains_eager of an alias": told(
        select(Aisle)
        .join(Aisle.items.of_type(ELSE))
        .where(ELSE.price > 5)
        .order_by(Aisle.id, ELSE.id)
        .options(contains_eager(Aisle.items.of_type(ELSE))),
        lambda aisle: (aisle.name, [item.name for item in aisle.items]),
    ),
    "s27 contains_eager, two levels": told(
        select(Aisle)
        .join(Aisle.items)
        .join(Item.offers)
        .order_by(Aisle.id, Item.id, Offer.seller_id)
        .options(contains_eager(Aisle.items).contains_eager(Item.offers)),
        lambda aisle: (aisle.name, [(item.name, [one.amount for one in item.offers]) for item in aisle.items]),
    ),
    "s27 of_type an alias": told(
        select(Aisle).order_by(Aisle.id).options(selectinload(Aisle.items.of_type(ELSE))),
        lambda aisle: (aisle.name, [item.name for item in aisle.items]),
    ),
}

for _way in WAYS:
    LOADS.update(by_mapper(_way))

# Of the second aisle, which no test changes. What a subquery reads is not narrowed, and a join to one knows no value.
KEPT: dict[str, Read] = {
    f"kept {way}": told(
        select(Aisle).where(Aisle.id == 2).options(WAYS[way](Aisle.items)),
        lambda one: [item.name for item in one.items],
    )
    for way in WAYS
    if way != "subquery"
}
KEPT |= {
    f"kept {way} to one": told(
        select(Item).where(Item.id == 4).options(WAYS[way](Item.aisle)), lambda one: (one.name, one.aisle.name)
    )
    for way in WAYS
    if way not in ("subquery", "joined")
}


@pytest.mark.parametrize("table", CHANGES)
def test_s26_s27_related_rows_follow_each_of_their_tables_and_no_other(market: World, table: str) -> None:
    # How rows are loaded is not the database's affair: on the servers some ways are enough.
    some = {name: read for at, (name, read) in enumerate(LOADS.items()) if market.dialect == "sqlite" or at % 5 == 0}
    matrix = Matrix(market, {**some, **KEPT})
    followed = change_all(market, matrix, table, KEPT)
    assert sorted(matrix.reading(table) - followed - set(KEPT)) == []
