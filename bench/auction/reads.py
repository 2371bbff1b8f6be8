"""What does a page show? Each function asks through a Session, and returns plain values for a template.

``seen`` holds what a client can judge the page's age by: numbers that only grow, of bids on an item (``i7``), of comments
about a user (``u3``), of items in a category (``c1``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session, selectinload

from auction.models import Bid, Category, Comment, Item, User

PAGE: Final = 20

CATEGORIES: Final = (
    select(Category.id, Category.name, func.count(Item.id))
    .outerjoin(Item, (Item.category_id == Category.id) & Item.closed.is_(False))
    .group_by(Category.id, Category.name)
    .order_by(Category.name)
)
OPEN_ITEMS: Final = (
    select(Item).where(Item.closed.is_(False)).order_by(Item.ends, Item.id).limit(PAGE).offset(bindparam("first"))
)
ITEMS_IN: Final = OPEN_ITEMS.where(Item.category_id == bindparam("category")).options(selectinload(Item.seller))
ITEMS_NAMED: Final = OPEN_ITEMS.where(Item.name.contains(bindparam("word"))).options(selectinload(Item.seller))
ITEMS_OF: Final = OPEN_ITEMS.where(Item.seller_id == bindparam("seller"))
COUNT_OF_ITEMS: Final = select(func.count()).select_from(Item).where(Item.closed.is_(False))
COUNT_IN: Final = COUNT_OF_ITEMS.where(Item.category_id == bindparam("category"))
COUNT_NAMED: Final = COUNT_OF_ITEMS.where(Item.name.contains(bindparam("word")))
HIGHEST_BIDS: Final = (
    select(Bid)
    .where(Bid.item_id == bindparam("item"))
    .order_by(Bid.amount.desc(), Bid.id)
    .limit(10)
    .options(selectinload(Bid.bidder))
)
COUNT_OF_BIDDERS: Final = select(func.count(Bid.bidder_id.distinct())).where(Bid.item_id == bindparam("item"))
COMMENTS: Final = (
    select(Comment)
    .where(Comment.about_id == bindparam("user"))
    .order_by(Comment.made.desc(), Comment.id.desc())
    .limit(PAGE)
    .options(selectinload(Comment.author))
)
RATING: Final = select(func.count(), func.avg(Comment.rating)).where(Comment.about_id == bindparam("user"))
COUNT_OF_COMMENTS: Final = select(func.count()).select_from(Comment).where(Comment.about_id == bindparam("user"))


def home(session: Session) -> dict[str, Any]:
    """Return all categories with the number of items that are open in each."""
    categories = [{"id": number, "name": name, "items": items} for number, name, items in session.execute(CATEGORIES)]
    return {"categories": categories, "seen": {f"c{one['id']}": one["items"] for one in categories}}


def browse(session: Session, category_id: int, page: int) -> dict[str, Any]:
    """Return one page of a category's open items, those that end first in the lead."""
    category = session.get_one(Category, category_id)
    total = session.scalar(COUNT_IN, {"category": category_id})
    found = session.scalars(ITEMS_IN, {"category": category_id, "first": page * PAGE})
    items = [_line_of(item) for item in found]
    return {
        "title": category.name,
        "total": total,
        "page": page,
        "items": items,
        "seen": {f"c{category_id}": total, **_bids_seen(items)},
    }


def search(session: Session, word: str) -> dict[str, Any]:
    """Return open items with a word in their names."""
    total = session.scalar(COUNT_NAMED, {"word": word})
    found = session.scalars(ITEMS_NAMED, {"word": word, "first": 0})
    items = [_line_of(item) for item in found]
    return {"title": f"search for {word}", "total": total, "page": 0, "items": items, "seen": _bids_seen(items)}


def item(session: Session, item_id: int) -> dict[str, Any]:
    """Return an item with its seller, how that one is rated, and the highest bids."""
    found = session.get_one(Item, item_id)
    bids = session.scalars(HIGHEST_BIDS, {"item": item_id})
    bidders = session.scalar(COUNT_OF_BIDDERS, {"item": item_id})
    rated = _rating_of(session, found.seller_id)
    return {
        **_line_of(found),
        "description": found.description,
        "category": found.category.name,
        "category_id": found.category_id,
        "bidders": bidders,
        "bids": [{"by": bid.bidder.nickname, "amount": bid.amount, "made": bid.made} for bid in bids],
        "rated": rated,
        "seen": {f"i{item_id}": found.bid_count, f"u{found.seller_id}": rated["comments"]},
    }


def user(session: Session, user_id: int) -> dict[str, Any]:
    """Return a user, what others wrote, and what the user sells."""
    found = session.get_one(User, user_id)
    rated = _rating_of(session, user_id)
    comments = session.scalars(COMMENTS, {"user": user_id})
    sells = session.scalars(ITEMS_OF, {"seller": user_id, "first": 0})
    items = [{**_line_of(one), "seller": found.nickname} for one in sells]
    return {
        "id": user_id,
        "nickname": found.nickname,
        "region": found.region,
        "joined": found.joined,
        "rating": found.rating,
        "rated": rated,
        "comments": [{"by": one.author.nickname, "rating": one.rating, "text": one.text} for one in comments],
        "items": items,
        "seen": {f"u{user_id}": rated["comments"], **_bids_seen(items)},
    }


READS: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "home": home,
    "browse": browse,
    "search": search,
    "item": item,
    "user": user,
}


def _rating_of(session: Session, user_id: int) -> dict[str, Any]:
    count, average = session.execute(RATING, {"user": user_id}).one()
    return {"comments": count, "average": average}


def _line_of(one: Item) -> dict[str, Any]:
    return {
        "id": one.id,
        "name": one.name,
        "seller": one.seller.nickname,
        "seller_id": one.seller_id,
        "price": one.max_bid or one.initial_price,
        "bid_count": one.bid_count,
        "ends": one.ends,
    }


def _bids_seen(items: list[dict[str, Any]]) -> dict[str, int]:
    return {f"i{one['id']}": one["bid_count"] for one in items}
