"""Advanced Alchemy: repositories whose gets and lists are kept in a dogpile region, on Redis. Gives detached instances."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rows import Product
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from peers.peer import Peer, changes_through
from redis_servers import RedisServer


def repositories(engine: Engine, server: RedisServer, stack: ExitStack) -> Peer:
    """Return its repositories for the benchmark's rows."""
    from advanced_alchemy._listeners import setup_cache_listeners
    from advanced_alchemy.cache import CacheConfig, CacheManager
    from advanced_alchemy.filters import LimitOffset
    from advanced_alchemy.repository import SQLAlchemySyncRepository

    class Products(SQLAlchemySyncRepository[Any]):
        model_type = Product

    setup_cache_listeners()
    place = {"host": "127.0.0.1", "port": server.port}
    manager = CacheManager(CacheConfig(backend="dogpile.cache.redis", arguments=place))

    def reading(read: Callable[[Any], Any]) -> Callable[[], Any]:
        def in_session() -> Any:
            with Session(engine) as session:
                return read(Products(session=session, cache_manager=manager, auto_expunge=True))

        return in_session

    def rows(count: int) -> Callable[[Any], Any]:
        def read(repository: Any) -> Any:
            return repository.get_many(LimitOffset(count, 0), order_by=("id", False))

        return read

    def update(value: int) -> None:
        with Session(engine) as session:
            repository = Products(session=session, cache_manager=manager)
            product = repository.get(1, use_cache=False)
            product.stock = value
            repository.update(product)
            session.commit()

    return Peer(
        reads={
            "get": reading(lambda repository: repository.get(1)),
            **{f"select-{number}": reading(rows(number)) for number in (1, 10, 100, 1000)},
        },
        changes={"flush": update, "bulk": changes_through(engine)["bulk"]},
        shows={
            "get": reading(lambda repository: repository.get(1).stock),
            "list": reading(lambda repository: rows(10)(repository)[0].stock),
        },
    )
