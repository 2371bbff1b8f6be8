"""What does a page show? Each function asks through a Session, and returns plain values for a template.

``seen`` holds what a client can judge the page's age by: numbers that only grow, of bids on an item (``i7``), of comments
about a user (``u3``), of items in a category (``c1``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session, selectinload

from auction.models import Bid, Category, Comment, Item, User

PAGE: Final = 20


def home(session: Session) -> dict[str, Any]:
    """Return all categories with the number of items that are open in each."""
    counted = (
        select(Category.id, Category.name, func.count(Item.id))
        .outerjoin(Item, (Item.category_id == Category.id) & Item.closed.is_(False))
        .group_by(Category.id, Category.name)
        .order_by(Category.name)
    )
    categories = [{"id": number, "name": name, "items": items} for number, name, items in session.execute(counted)]
    return {"categories": categories, "seen": {f"c{one['id']}": one["items"] for one in categories}}


def browse(session: Session, category_id: int, page: int) -> dict[str, Any]:
    """Return one page of a category's open items, those that end first in the lead."""
    category = session.get_one(Category, category_id)
    total = session.scalar(open_items_in(category_id))
    found = session.scalars(
        select(Item)
        .where(Item.category_id == category_id, Item.closed.is_(False))
        .order_by(Item.ends, Item.id)
        .offset(page * PAGE)
        .limit(PAGE)
        .options(selectinload(Item.seller))
    )
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
    fits = (Item.closed.is_(False), Item.name.contains(word))
    total = session.scalar(select(func.count()).select_from(Item).where(*fits))
    found = session.scalars(
        select(Item).where(*fits).order_by(Item.ends, Item.id).limit(PAGE).options(selectinload(Item.seller))
    )
    items = [_line_of(item) for item in found]
    return {"title": f"search for {word}", "total": total, "page": 0, "items": items, "seen": _bids_seen(items)}


def item(session: Session, item_id: int) -> dict[str, Any]:
    """Return an item with its seller, how that one is rated, and the highest bids."""
    found = session.get_one(Item, item_id)
    bids = session.scalars(
        select(Bid)
        .where(Bid.item_id == item_id)
        .order_by(Bid.amount.desc(), Bid.id)
        .limit(10)
        .options(selectinload(Bid.bidder))
    )
    bidders = session.scalar(select(func.count(Bid.bidder_id.distinct())).where(Bid.item_id == item_id))
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
    comments = session.scalars(
        select(Comment)
        .where(Comment.about_id == user_id)
        .order_by(Comment.made.desc(), Comment.id.desc())
        .limit(PAGE)
        .options(selectinload(Comment.author))
    )
    sells = session.scalars(
        select(Item).where(Item.seller_id == user_id, Item.closed.is_(False)).order_by(Item.ends, Item.id).limit(PAGE)
    )
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


def open_items_in(category_id: int) -> Any:
    """Ask how many items of a category are open."""
    return select(func.count()).select_from(Item).where(Item.category_id == category_id, Item.closed.is_(False))


def comments_about(user_id: int) -> Any:
    """Ask how many comments there are about a user."""
    return select(func.count()).select_from(Comment).where(Comment.about_id == user_id)


def _rating_of(session: Session, user_id: int) -> dict[str, Any]:
    asked = select(func.count(), func.avg(Comment.rating)).where(Comment.about_id == user_id)
    count, average = session.execute(asked).one()
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
