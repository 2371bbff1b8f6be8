"""The honest lower bound of effort: a dict, and a time after which it is asked again. In one process, of plain dicts."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from rows import Category, Product
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, joinedload

from peers.peer import Peer, changes_through
from redis_servers import RedisServer

TTL_S: Final = 3600.0


def ttl_dict(engine: Engine, server: RedisServer, stack: ExitStack) -> Peer:
    """Return what anybody writes in two lines."""
    kept: dict[Any, tuple[float, Any]] = {}

    def cached(key: Any, make: Callable[[], Any]) -> Any:
        until, value = kept.get(key) or (0.0, None)
        return value if until > time.monotonic() else kept.setdefault(key, (time.monotonic() + TTL_S, make()))[1]

    def dicts(statement: Any) -> list[dict[str, Any]]:
        with Session(engine) as session:
            return [_plain(row) for row in session.scalars(statement).unique()]

    def count() -> Any:
        with Session(engine) as session:
            return session.scalar(select(func.count()).select_from(Product))

    def rows(number: int) -> Callable[[], Any]:
        statement = select(Product).where(Product.id <= number).order_by(Product.id)
        return lambda: cached(("rows", number), lambda: dicts(statement))

    def get() -> Any:
        return cached(("row", 1), lambda: dicts(select(Product).where(Product.id == 1))[0])

    tree = select(Category).where(Category.id <= 10).options(joinedload(Category.products))
    return Peer(
        reads={
            "get": get,
            **{f"select-{number}": rows(number) for number in (1, 10, 100, 1000)},
            "count": lambda: cached("count", count),
            "joined-10x5": lambda: cached("tree", lambda: dicts(tree)),
        },
        changes=changes_through(engine),
        shows={"get": lambda: get()["stock"], "list": lambda: rows(10)()[0]["stock"]},
    )


def _plain(instance: Any) -> dict[str, Any]:
    values = {name: value for name, value in vars(instance).items() if not name.startswith("_")}
    return {name: list(map(_plain, value)) if isinstance(value, list) else value for name, value in values.items()}
