"""Which rows does the auction site begin with? The same for each run of a size, popular things in the lead."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import Engine, insert, text

from auction.models import Base, Bid, Category, Comment, Item, User

START: Final = datetime(2026, 1, 1)
WORDS: Final = (
    *("antique", "blue", "brass", "camera", "carpet", "chair", "clock", "coat", "coin", "desk", "drum", "dress", "fan"),
    *(
        "glass",
        "globe",
        "guitar",
        "hat",
        "iron",
        "jacket",
        "jar",
        "lamp",
        "lens",
        "map",
        "mirror",
        "oak",
        "oil",
        "organ",
    ),
    *(
        "pan",
        "pearl",
        "piano",
        "pipe",
        "poster",
        "radio",
        "ring",
        "saddle",
        "ship",
        "silver",
        "stamp",
        "stove",
        "table",
    ),
    *("tent", "tin", "trunk", "vase", "violin", "watch", "wheel", "wool"),
)
REGIONS: Final = ("north", "south", "east", "west", "coast", "hills", "lakes", "islands")


@dataclass(frozen=True, slots=True)
class Size:
    """How many rows of each kind there are."""

    users: int = 1_000
    categories: int = 20
    items: int = 10_000
    bids: int = 100_000
    comments: int = 5_000


QUICK: Final = Size(users=200, categories=10, items=1_000, bids=5_000, comments=500)


def popular(dice: random.Random, count: int) -> int:
    """Choose a number from 1 to ``count``, the first ones most often: nearly Zipf's law with an exponent of 1."""
    return min(count, int((count + 1) ** dice.random()))


def fill(engine: Engine, size: Size) -> None:
    """Make the tables and their rows."""
    dice = random.Random(11)
    Base.metadata.create_all(engine)
    bids = list(_bids(dice, size))
    with engine.begin() as connection:
        for model, rows in (
            (User, _users(dice, size)),
            (Category, ({"id": number, "name": f"category {number}"} for number in range(1, size.categories + 1))),
            (Item, _items(dice, size, bids)),
            (Bid, bids),
            (Comment, _comments(dice, size)),
        ):
            connection.execute(insert(model), list(rows))
            if engine.dialect.name == "postgresql":
                table = model.__tablename__
                wanted = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), (SELECT max(id) FROM {table}))"
                connection.execute(text(wanted))
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _users(dice: random.Random, size: Size) -> Iterator[dict[str, Any]]:
    for number in range(1, size.users + 1):
        joined = START - timedelta(days=dice.randint(1, 900))
        yield {"id": number, "nickname": f"user{number}", "region": dice.choice(REGIONS), "joined": joined, "rating": 0}


def _bids(dice: random.Random, size: Size) -> Iterator[dict[str, Any]]:
    for number in range(1, size.bids + 1):
        item = popular(dice, size.items) if number % 2 else dice.randint(1, size.items)
        bidder, made = dice.randint(1, size.users), START + timedelta(seconds=number)
        yield {"id": number, "item_id": item, "bidder_id": bidder, "amount": Decimal(10 + number), "made": made}


def _items(dice: random.Random, size: Size, bids: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    counts, highest = dict[int, int](), dict[int, Decimal]()
    for bid in bids:
        counts[bid["item_id"]] = counts.get(bid["item_id"], 0) + 1
        highest[bid["item_id"]] = max(highest.get(bid["item_id"], Decimal(0)), bid["amount"])
    for number in range(1, size.items + 1):
        yield {
            "id": number,
            "name": " ".join(dice.sample(WORDS, 3)),
            "description": " ".join(dice.choices(WORDS, k=40)),
            "initial_price": Decimal(dice.randint(1, 9)),
            "max_bid": highest.get(number),
            "bid_count": counts.get(number, 0),
            "starts": START - timedelta(days=7),
            "ends": START + timedelta(days=7, minutes=dice.randint(0, 20_000)),
            "closed": number % 4 == 0,
            "seller_id": dice.randint(1, size.users),
            "category_id": popular(dice, size.categories) if number % 2 else dice.randint(1, size.categories),
        }


def _comments(dice: random.Random, size: Size) -> Iterator[dict[str, Any]]:
    for number in range(1, size.comments + 1):
        yield {
            "id": number,
            "about_id": popular(dice, size.users),
            "author_id": dice.randint(1, size.users),
            "rating": dice.randint(-5, 5),
            "text": " ".join(dice.choices(WORDS, k=20)),
            "made": START + timedelta(seconds=number),
        }
