"""What does the example store? Users, and how often each was viewed."""

from __future__ import annotations

import random
from typing import Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import String, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from querycache import CacheableMixin

USERS = 20_000
FIRST_NAMES = (
    *(
        "James",
        "John",
        "Robert",
        "Michael",
        "William",
        "David",
        "Richard",
        "Charles",
        "Joseph",
        "Thomas",
        "Christopher",
    ),
    *(
        "Daniel",
        "Paul",
        "Mark",
        "Donald",
        "George",
        "Kenneth",
        "Steven",
        "Edward",
        "Brian",
        "Ronald",
        "Anthony",
        "Kevin",
    ),
    *("Mary", "Patricia", "Linda", "Barbara", "Elizabeth", "Jennifer", "Maria", "Susan", "Margaret", "Dorothy", "Lisa"),
)
LAST_NAMES = (
    *("Smith", "Johnson", "Williams", "Jones", "Brown", "Davis", "Miller", "Wilson", "Moore", "Taylor", "Anderson"),
    *("Thomas", "Jackson", "White", "Harris", "Martin", "Thompson", "Garcia", "Martinez", "Robinson", "Clark", "Lee"),
)
DOMAINS = ("example.com", "example.org", "example.net")


class Base(DeclarativeBase):
    pass


db = SQLAlchemy(model_class=Base)


class User(CacheableMixin, db.Model):
    """The mixin is all that it takes: reads of users are cached, writes end what they touch."""

    id: Mapped[int] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(String(80))
    email: Mapped[str] = mapped_column(String(120))
    views: Mapped[int] = mapped_column(default=0)


def init_db() -> None:
    """Begin anew, with users drawn at random, the same each time."""
    db.drop_all()
    db.create_all()
    draw = random.Random(2014)
    db.session.execute(insert(User), [_random_user(draw) for _ in range(USERS)])
    db.session.commit()


def _random_user(draw: random.Random) -> dict[str, Any]:
    first, last = draw.choice(FIRST_NAMES), draw.choice(LAST_NAMES)
    email = f"{first}.{last}@{draw.choice(DOMAINS)}".lower()
    views = min(int(draw.expovariate(0.6)), 9)
    return {"username": f"{first} {last}", "email": email, "views": views}
