"""What can be done on the auction site? Each function commits, and returns the numbers that every later page must show."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Final

from sqlalchemy.orm import Session

from auction.models import Bid, Comment, Item, User
from auction.reads import COUNT_IN, COUNT_OF_COMMENTS
from auction.seed import START


def bid(session: Session, item_id: int, bidder_id: int) -> dict[str, int]:
    """Offer a little more than the others."""
    item = session.get_one(Item, item_id, with_for_update=True, populate_existing=True)
    amount = (item.max_bid or item.initial_price) + Decimal(1)
    item.max_bid, item.bid_count = amount, item.bid_count + 1
    session.add(Bid(item_id=item_id, bidder_id=bidder_id, amount=amount, made=START))
    count = item.bid_count
    session.commit()
    return {f"i{item_id}": count}


def sell(session: Session, category_id: int, seller_id: int, name: str) -> dict[str, int]:
    """Put an item up for sale."""
    session.add(
        Item(
            name=name,
            description=name * 10,
            initial_price=Decimal(1),
            max_bid=None,
            bid_count=0,
            starts=START,
            ends=START + timedelta(days=30),
            closed=False,
            seller_id=seller_id,
            category_id=category_id,
        )
    )
    count = session.scalar(COUNT_IN, {"category": category_id}) or 0
    session.commit()
    return {f"c{category_id}": count}


def comment(session: Session, about_id: int, author_id: int, rating: int) -> dict[str, int]:
    """Write about another user."""
    user = session.get_one(User, about_id, with_for_update=True, populate_existing=True)
    user.rating += rating
    session.add(Comment(about_id=about_id, author_id=author_id, rating=rating, text="as described " * 5, made=START))
    count = session.scalar(COUNT_OF_COMMENTS, {"user": about_id}) or 0
    session.commit()
    return {f"u{about_id}": count}


WRITES: Final[dict[str, Callable[..., dict[str, int]]]] = {"bid": bid, "sell": sell, "comment": comment}
CHANGES: Final[dict[str, tuple[type[object], ...]]] = {"bid": (Item, Bid), "sell": (Item,), "comment": (User, Comment)}
"""The models whose tables each writes."""
