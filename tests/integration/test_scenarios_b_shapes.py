"""B. Query shapes: whatever the shape of a SELECT, a write to any of its tables is seen, and one to another is not felt.

Each shape is primed once for each table of the market, all of them together. Then rows of that table are inserted,
updated and deleted; after each change every shape must tell the truth, those that do not read the table must still be
hits, and each that reads it must have told something new at least once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    Integer,
    String,
    and_,
    any_,
    case,
    column,
    except_,
    exists,
    func,
    intersect,
    lateral,
    literal,
    or_,
    select,
    true,
    tuple_,
    union,
    union_all,
    values,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Bundle, Session, aliased, with_parent

from scenario_market import CHANGES, Aisle, CountedLabel, Item, Label, Offer, Seller, change_all, item_labels
from scenario_support import Matrix, Read, World, entities, rows

pytestmark = pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")

OTHER = aliased(Item, name="other")
PARENT = aliased(Aisle, name="up")


def distinct_on(statement: Any, one: Any) -> Any:
    """SQLAlchemy 2.1 has another way than 2.0."""
    extension: Any = getattr(postgresql, "distinct_on", None)
    return statement.distinct(one) if extension is None else statement.ext(extension(one))


def by_id(statement: Any) -> Read:
    return rows(statement.order_by(Item.id))


def of(entity: type[Any], key: Any, look: Callable[[Any], Any]) -> Read:
    """Read an instance's name, and what hangs on it."""

    def read(session: Session) -> Any:
        instance = session.get(entity, key)
        return instance and (instance.name, look(instance))

    return read


def with_one(entity: type[Any], key: Any, statement_of: Callable[[Any], Any]) -> Read:
    """Read an instance's name, and a statement made with the instance."""

    def read(session: Session) -> Any:
        instance = session.get(entity, key)
        return instance and (instance.name, session.scalars(statement_of(instance)).all())

    return read


def tree(root: Any) -> Any:
    """Return the aisles below one that ``root`` chooses, itself among them."""
    top = select(Aisle.id, Aisle.name).where(root).cte("tree", recursive=True)
    return top.union_all(select(Aisle.id, Aisle.name).join(top, Aisle.parent_id == top.c.id))


SUM = select(func.sum(Offer.amount)).where(Offer.item_id == Item.id).correlate(Item).scalar_subquery()
CHEAPEST = select(func.min(OTHER.price)).where(OTHER.aisle_id == Item.aisle_id).correlate(Item).scalar_subquery()
LABEL_OF_ITEM = exists().where(
    item_labels.c.item_id == Item.id, item_labels.c.label_id == Label.id, Label.name == "red"
)
DEAR = select(Item.id, Item.name, Item.aisle_id).where(Item.price > 15).cte("dear")
WHOLE = aliased(Item, select(Item).where(Item.price > 15).cte("whole"))
OFFERED = select(Offer.item_id, func.count().label("times")).group_by(Offer.item_id).subquery("offered")
FOOD, FRUIT = tree(Aisle.name == "food"), tree(Aisle.id == 3)
ITEM_OF_LABEL = select(item_labels.c.item_id).join(Label, Label.id == item_labels.c.label_id)
NAMES = union(select(Item.name), select(Seller.name), select(Label.name)).subquery("all_names")
BREAD_OR_DEAR = aliased(
    Item, union_all(select(Item).where(Item.name == "bread"), select(Item).where(Item.price > 15)).subquery("picked")
)
BEST = select(Offer.seller_id, Offer.amount).where(Offer.item_id == Item.id).order_by(Offer.amount.desc()).limit(1)
BEST_OFFER = lateral(BEST.correlate(Item), name="best")
RANK = func.rank().over(partition_by=Item.aisle_id, order_by=Item.price.desc())
RANKED = select(Item.id, Item.name, RANK.label("place")).subquery("ranked")
FIXED = values(column("id", Integer), column("word", String), name="fixed").data([(1, "one"), (9, "nine")])

SHAPES: dict[str, Read] = {
    # 16, 17
    "s16 join": by_id(select(Item.name, Aisle.name).join(Item.aisle)),
    "s16 join of four": rows(
        select(Item.name, Seller.name, Label.name)
        .join(Item.offers)
        .join(Offer.seller)
        .join(Item.labels)
        .order_by(Item.id, Seller.id, Label.id)
    ),
    "s16 cross join": rows(
        select(Item.name, Seller.name).where(Item.price > 10, Seller.name < "c").order_by(Item.id, Seller.id)
    ),
    "s16 join on what is no key": rows(
        select(Item.id, Offer.seller_id).join(Offer, Offer.amount > Item.price).order_by(Item.id, Offer.seller_id)
    ),
    "s16 join with a condition on the other side": by_id(
        select(Item.name, Aisle.name).join(Aisle, and_(Item.aisle_id == Aisle.id, Aisle.name != "tools"))
    ),
    "s17 outer join": rows(select(Aisle.name, Item.name).outerjoin(Aisle.items).order_by(Aisle.id, Item.id)),
    "s17 outer join with a condition in ON": rows(
        select(Aisle.name, Item.name)
        .outerjoin(Item, and_(Item.aisle_id == Aisle.id, Item.price > 15))
        .order_by(Aisle.id, Item.id)
    ),
    "s17 outer join of a key": rows(
        select(Aisle.name, Item.name).outerjoin(Item, and_(Item.aisle_id == Aisle.id, Item.id == 2)).order_by(Aisle.id)
    ),
    "s17 none on the nullable side": rows(
        select(Aisle.id).outerjoin(Aisle.items).where(Item.id.is_(None)).order_by(Aisle.id)
    ),
    "s17 nested outer joins": rows(
        select(Aisle.id, Item.id, Offer.amount)
        .outerjoin(Aisle.items)
        .outerjoin(Item.offers)
        .order_by(Aisle.id, Item.id, Offer.amount)
    ),
    # 18, 19
    "s18 in": by_id(select(Item.name).where(Item.aisle_id.in_(select(Aisle.id).where(Aisle.name.like("f%"))))),
    "s18 not in": by_id(select(Item.id).where(Item.id.not_in(select(Offer.item_id).where(Offer.amount < 4)))),
    "s18 in, two deep": by_id(
        select(Item.name).where(
            Item.id.in_(select(Offer.item_id).where(Offer.seller_id.in_(select(Seller.id).where(Seller.name == "bob"))))
        )
    ),
    "s18 tuple in": rows(
        select(Offer.amount)
        .where(tuple_(Offer.item_id, Offer.seller_id).in_(select(Item.id, literal(1)).where(Item.price < 25)))
        .order_by(Offer.amount)
    ),
    "s18 in a union": by_id(
        select(Item.name).where(
            Item.id.in_(
                union(select(Offer.item_id).where(Offer.amount > 7), ITEM_OF_LABEL.where(Label.name == "green"))
                .subquery()
                .select()
            )
        )
    ),
    "s19 exists": by_id(select(Item.name).where(exists().where(Offer.item_id == Item.id, Offer.amount > 5))),
    "s19 not exists": by_id(select(Item.name).where(~exists().where(Offer.item_id == Item.id, Offer.amount > 5))),
    "s19 exists across an association": by_id(select(Item.name).where(LABEL_OF_ITEM)),
    "s19 exists by itself": rows(select(exists().where(Item.price > 95))),
    "s19 exists alone, twice": rows(
        select(exists(select(Item.id).where(Item.price > 98)), ~exists().where(Seller.name == "zed"))
    ),
    "s19 any": rows(select(Aisle.name).where(Aisle.items.any(Item.price < 15)).order_by(Aisle.id)),
    "s19 not any": rows(select(Aisle.name).where(~Aisle.items.any()).order_by(Aisle.id)),
    "s19 has": by_id(select(Item.name).where(Item.aisle.has(Aisle.parent.has(Aisle.name == "food")))),
    "s19 compared with an instance's key": by_id(
        select(Item.name).where(Item.aisle_id == 3, Item.labels.any(Label.id == 2))
    ),
    "s19 in the select list": by_id(select(Item.id, exists().where(Offer.item_id == Item.id, Offer.amount > 8))),
    # 20
    "s20 in the select list": by_id(select(Item.name, SUM)),
    "s20 in ORDER BY": rows(select(Item.name).order_by(func.coalesce(SUM, 0), Item.id)),
    "s20 in CASE": by_id(select(Item.id, case((SUM > 8, "much"), (SUM.is_(None), "none"), else_="some"))),
    "s20 in WHERE": by_id(select(Item.name).where(Item.price == CHEAPEST)),
    "s20 in HAVING": rows(
        select(Item.aisle_id)
        .group_by(Item.aisle_id)
        .having(func.count() > select(func.count()).select_from(Seller).where(Seller.name < "b").scalar_subquery())
        .order_by(Item.aisle_id)
    ),
    "s20 in ON": by_id(
        select(Item.name, Aisle.name).join(
            Aisle, Aisle.id == select(func.max(Offer.seller_id)).where(Offer.item_id == Item.id).scalar_subquery()
        )
    ),
    "s20 in a function": by_id(select(func.coalesce(Item.rest, SUM))),
    "s20 in arithmetic": by_id(select(Item.price + func.coalesce(SUM, 0))),
    "s20 by itself": rows(select(select(func.count()).select_from(Label).scalar_subquery(), literal(1))),
    "s20 in IN": rows(
        select(Aisle.name)
        .where(Aisle.id.in_([select(func.max(Item.aisle_id)).scalar_subquery(), 1]))
        .order_by(Aisle.id)
    ),
    "s20 two of one table": by_id(
        select(
            Item.id,
            select(func.min(Offer.amount)).where(Offer.item_id == Item.id).scalar_subquery(),
            select(func.max(Offer.amount)).scalar_subquery(),
        )
    ),
    "s20 of a hybrid": by_id(select(Item.name, Item.offered).where(Item.offered > 1)),
    "s20 of a column_property": entities(select(CountedLabel).order_by(CountedLabel.__table__.c.id)),
    # 21
    "s21 CTE": rows(select(DEAR.c.name, Aisle.name).join(Aisle, Aisle.id == DEAR.c.aisle_id).order_by(DEAR.c.id)),
    "s21 CTE used twice": rows(
        select(DEAR.c.name, func.count())
        .join(one := DEAR.alias("one"), one.c.aisle_id == DEAR.c.aisle_id)
        .group_by(DEAR.c.id, DEAR.c.name)
        .order_by(DEAR.c.id)
    ),
    "s21 CTE in a subquery": by_id(select(Item.name).where(Item.id.in_(select(DEAR.c.id)))),
    "s21 CTE of a CTE": rows(select(select(DEAR.c.name).where(DEAR.c.aisle_id == 3).cte("of_three"))),
    "s21 recursive": rows(select(FOOD.c.id, FOOD.c.name).order_by(FOOD.c.id)),
    "s21 recursive from a key": rows(select(FRUIT.c.id, FRUIT.c.name).order_by(FRUIT.c.id)),
    "s21 recursive, joined": rows(select(Item.name).join(FOOD, FOOD.c.id == Item.aisle_id).order_by(Item.id)),
    "s21 aliased to an entity": entities(select(WHOLE).order_by(WHOLE.id)),
    # 22
    "s22 union": rows(union(select(Item.name), select(Seller.name)).order_by("name")),
    "s22 union all": rows(union_all(select(Item.id.label("n")), select(Offer.amount)).order_by("n")),
    "s22 intersect": rows(intersect(select(Item.id.label("n")), select(Offer.amount)).order_by("n")),
    "s22 except": rows(
        except_(select(Item.id.label("n")), select(Offer.item_id).where(Offer.amount < 5)).order_by("n")
    ),
    "s22 of keys": rows(
        union_all(select(Item.name).where(Item.id == 2), select(Seller.name).where(Seller.id == 1)).order_by("name")
    ),
    "s22 in FROM": rows(select(NAMES.c.name, func.length(NAMES.c.name)).order_by(NAMES.c.name)),
    "s22 of an entity": entities(select(BREAD_OR_DEAR).order_by(BREAD_OR_DEAR.id)),
    "s22 of a statement": entities(
        select(Item).from_statement(
            union(select(Item).where(Item.id == 1), select(Item).where(Item.aisle_id == 3)).order_by("id")
        )
    ),
    "s22 with a page": rows(
        select(union_all(select(Item.id.label("n"), Item.price), select(Offer.item_id, Offer.amount)).subquery("both"))
        .order_by("price", "n")
        .limit(3)
    ),
    # 23
    "s23 self-join": rows(
        select(Item.name, OTHER.name)
        .join(OTHER, and_(OTHER.aisle_id == Item.aisle_id, OTHER.id != Item.id))
        .order_by(Item.id, OTHER.id)
    ),
    "s23 self-join of a key": rows(
        select(OTHER.name).join(Item, Item.aisle_id == OTHER.aisle_id).where(Item.id == 2).order_by(OTHER.id)
    ),
    "s23 aliased parent": rows(select(Aisle.name, PARENT.name).outerjoin(PARENT, Aisle.parent).order_by(Aisle.id)),
    "s23 window": by_id(select(Item.name, RANK, func.sum(Item.price).over())),
    "s23 window in FROM": rows(select(RANKED.c.name).where(RANKED.c.place == 1).order_by(RANKED.c.id)),
    "s23 window over groups": rows(
        select(Item.aisle_id, func.row_number().over(order_by=[func.sum(Item.price), Item.aisle_id]))
        .group_by(Item.aisle_id)
        .order_by(Item.aisle_id)
    ),
    "s23 window of a key": by_id(
        select(Item.name, func.count().over(partition_by=Offer.seller_id)).join(Item.offers).where(Offer.seller_id == 2)
    ),
    "s23 subquery in FROM": rows(
        select(Item.name, OFFERED.c.times).outerjoin(OFFERED, OFFERED.c.item_id == Item.id).order_by(Item.id)
    ),
    "s23 bundle": by_id(select(Bundle("pair", Item.name, Aisle.name)).join(Item.aisle)),
    "s23 distinct": rows(
        select(Seller.name)
        .join(Offer, and_(Offer.seller_id == Seller.id, Offer.amount > 5))
        .distinct()
        .order_by(Seller.name)
    ),
    "s23 group by a joined column": rows(
        select(Label.name, func.sum(Item.price)).join(Label.items).group_by(Label.name).order_by(Label.name)
    ),
    # 24
    "s24 through the association table": rows(
        select(Item.name, Label.name).join(Item.labels).order_by(Item.id, Label.id)
    ),
    "s24 of one label": rows(select(Item.name).join(Item.labels).where(Label.id == 1).order_by(Item.id)),
    "s24 any": by_id(select(Item.name).where(Item.labels.any(Label.name == "red"))),
    "s24 contains": with_one(
        Label, 1, lambda label: select(Item.name).where(Item.labels.contains(label)).order_by(Item.id)
    ),
    "s24 in": by_id(select(Item.name).where(Item.id.in_(ITEM_OF_LABEL.where(Label.name == "red")))),
    "s24 the table itself": rows(select(item_labels).order_by(item_labels.c.item_id, item_labels.c.label_id)),
    "s24 lazy": of(Item, 2, lambda item: [label.name for label in item.labels]),
    "s24 with_parent": with_one(
        Label, 1, lambda label: select(Item.name).where(with_parent(label, Label.items)).order_by(Item.id)
    ),
    # 25
    "s25 association object": rows(
        select(Item.name, Offer.amount, Seller.name).join(Item.offers).join(Offer.seller).order_by(Item.id, Seller.id)
    ),
    "s25 lazy object": of(Item, 2, lambda item: [(one.amount, one.seller.name) for one in item.offers]),
    "s25 viewonly": of(Item, 2, lambda item: [one.amount for one in item.large_offers]),
    "s25 viewonly in any": by_id(select(Item.name).where(Item.large_offers.any())),
    "s25 secondary join": of(Item, 2, lambda item: [one.name for one in item.large_sellers]),
    "s25 secondary join in any": by_id(select(Item.name).where(Item.large_sellers.any(Seller.name == "ann"))),
    "s25 proxy": of(Item, 2, lambda item: [seller.name for seller in item.sellers]),
    "s25 proxy of a proxy": of(Item, 2, lambda item: list(item.seller_names)),
    "s25 proxy any": by_id(select(Item.name).where(Item.sellers.any(Seller.name == "ann"))),
    "s25 proxy contains": by_id(select(Item.name).where(Item.label_names.contains("red"))),
    "s25 proxy equals": by_id(select(Item.name).where(Item.label_names == "green")),
    "s25 proxy of a proxy any": by_id(select(Item.name).where(Item.seller_names.contains("bob"))),
    "s25 dynamic": of(Seller, 1, lambda seller: [one.amount for one in seller.offers]),
    "s25 dynamic filtered": of(Seller, 1, lambda seller: seller.offers.filter(Offer.amount > 1).count()),
    "s25 write only": with_one(
        Aisle, 3, lambda aisle: aisle.stream.select().where(Item.price > 5).with_only_columns(Item.name)
    ),
}
NOT_MARIADB: dict[str, Read] = {
    "s17 full join": rows(
        select(Item.name, Offer.amount)
        .outerjoin(Offer, and_(Offer.item_id == Item.id, Offer.amount > 5), full=True)
        .order_by(Item.id, Offer.amount)
    ),
}
POSTGRESQL: dict[str, Read] = {
    "s23 values": rows(select(FIXED.c.word, Item.name).outerjoin(Item, Item.id == FIXED.c.id).order_by(FIXED.c.id)),
    "s23 lateral": rows(select(Item.name, BEST_OFFER.c.amount).join(BEST_OFFER, true()).order_by(Item.id)),
    "s23 outer lateral": rows(
        select(Item.name, BEST_OFFER.c.seller_id).outerjoin(BEST_OFFER, true()).order_by(Item.id)
    ),
    "s23 distinct on": rows(distinct_on(select(Item.name).order_by(Item.aisle_id, Item.price), Item.aisle_id)),
    "s23 grouping sets": rows(
        select(Item.aisle_id, func.count()).group_by(func.rollup(Item.aisle_id)).order_by(Item.aisle_id)
    ),
    "s23 array of a subquery": by_id(
        select(Item.name, func.array_to_string(func.array_agg(Offer.amount), ",")).join(Item.offers).group_by(Item.id)
    ),
    "s23 filter": rows(select(func.count().filter(Item.price > 15), func.count(Offer.amount)).join(Item.offers)),
    "s20 ANY": by_id(
        select(Item.name).where(Item.id == any_(select(Offer.item_id).where(Offer.amount > 7).scalar_subquery()))
    ),
}

# Confined to rows that no test changes row by row.
KEPT: dict[str, Read] = {
    "kept get": lambda session: session.get_one(Item, 4).name,
    "kept list": rows(select(Item.name).where(Item.aisle_id == 2).order_by(Item.id)),
    "kept join": rows(select(Item.name, Aisle.name).join(Item.aisle).where(Aisle.id == 2).order_by(Item.id)),
    "kept outer join": rows(
        select(Aisle.name, Item.name).outerjoin(Aisle.items).where(Aisle.id == 2).order_by(Item.id)
    ),
    "kept offers": rows(select(Offer.amount).where(Offer.seller_id == 3).order_by(Offer.item_id)),
    "kept object": rows(
        select(Item.name, Seller.name)
        .join(Item.offers)
        .join(Offer.seller)
        .where(Item.aisle_id == 2, Offer.seller_id == 3, Seller.id == 3)
        .order_by(Item.id)
    ),
    "kept association": rows(select(item_labels.c.item_id).where(item_labels.c.label_id == 3).order_by("item_id")),
    "kept union": rows(
        union_all(select(Item.name).where(Item.id == 4), select(Seller.name).where(Seller.id == 3)).order_by("name")
    ),
    "kept lazy": of(Aisle, 2, lambda aisle: [item.name for item in aisle.items]),
    "kept group": rows(select(func.count(), func.max(Item.price)).where(Item.aisle_id == 2)),
    "kept or": rows(select(Item.name).where(or_(Item.id == 4, and_(Item.id == 5, Item.price > 1))).order_by(Item.id)),
    "kept in": rows(select(Item.name).where(Item.id.in_([4, 5]), Item.aisle_id == 2).order_by(Item.id)),
    "kept with_parent": with_one(
        Aisle, 2, lambda aisle: select(Item.name).where(with_parent(aisle, Aisle.items)).order_by(Item.id)
    ),
}


def shapes_on(world: World) -> dict[str, Read]:
    if world.dialect == "mariadb":
        return {**SHAPES, **KEPT}
    return {**SHAPES, **KEPT, **NOT_MARIADB, **(POSTGRESQL if world.dialect == "postgresql" else {})}


@pytest.mark.parametrize("table", CHANGES)
def test_s16_to_s25_every_shape_follows_each_of_its_tables_and_no_other(market: World, table: str) -> None:
    # SQLAlchemy itself cannot tell two VALUES apart.
    matrix = Matrix(market, shapes_on(market), uncached={"s23 values"})
    followed = change_all(market, matrix, table, KEPT)
    assert sorted(matrix.reading(table) - followed - set(KEPT)) == []
