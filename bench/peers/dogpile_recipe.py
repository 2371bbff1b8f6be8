"""The recipe of SQLAlchemy's documentation ("Dogpile Caching", examples/dogpile_caching), on Redis.

``ORMCache`` and ``FromCache`` are the recipe's own, without its options for relationships and single keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from dogpile.cache import make_region
from rows import Category, Product
from sqlalchemy import Engine, event, func, select
from sqlalchemy.orm import Session, UserDefinedOption, joinedload, loading, selectinload, sessionmaker

from peers.peer import Peer, changes_through
from redis_servers import RedisServer


class ORMCache:
    """Keeps frozen results in regions, for statements that ask for it."""

    def __init__(self, regions: dict[str, Any]) -> None:
        self.cache_regions = regions
        self._statement_cache: dict[Any, Any] = {}

    def listen_on_session(self, session_factory: Any) -> None:
        """Answer the reads of a factory's Sessions."""
        event.listen(session_factory, "do_orm_execute", self._do_orm_execute)

    def _do_orm_execute(self, orm_context: Any) -> Any:
        for option in orm_context.user_defined_options:
            if isinstance(option, FromCache):
                region = self.cache_regions[option.region]
                key = option.generate_cache_key(orm_context.statement, orm_context.parameters or {}, self)
                value = region.get_or_create(key, lambda: orm_context.invoke_statement().freeze())
                merge: Any = loading.merge_frozen_result  # it says no types
                merged = merge(orm_context.session, orm_context.statement, value, load=False)
                return merged()
        return None


class FromCache(UserDefinedOption):
    """Says of a statement that its result may come from a region."""

    propagate_to_loaders = False

    def __init__(self, region: str = "default") -> None:
        self.region = region

    def generate_cache_key(self, statement: Any, parameters: Any, orm_cache: ORMCache) -> str:
        """Make the key of a statement and its values."""
        key = statement._generate_cache_key()
        text: str = key.to_offline_string(orm_cache._statement_cache, statement, parameters)
        return text


def recipe(engine: Engine, server: RedisServer, stack: ExitStack) -> Peer:
    """Return the recipe on a Redis."""
    region = make_region(key_mangler=lambda key: hashlib.md5(key.encode(), usedforsecurity=False).hexdigest())
    region.configure("dogpile.cache.redis", expiration_time=3600, arguments={"host": "127.0.0.1", "port": server.port})
    sessions = sessionmaker(engine)
    ORMCache({"default": region}).listen_on_session(sessions)

    def reading(read: Callable[[Session], Any]) -> Callable[[], Any]:
        def in_session() -> Any:
            with sessions() as session:
                return read(session)

        return in_session

    def get(session: Session) -> Any:
        return session.get_one(Product, 1, options=[FromCache()])

    def rows(count: int) -> Callable[[Session], Any]:
        def read(session: Session) -> Any:
            statement = select(Product).where(Product.id <= count).order_by(Product.id)
            return session.scalars(statement.options(FromCache())).all()

        return read

    def count(session: Session) -> Any:
        return session.execute(select(func.count()).select_from(Product).options(FromCache())).all()

    def tree(option: Any) -> Callable[[Session], Any]:
        def read(session: Session) -> Any:
            statement = select(Category).where(Category.id <= 10).options(option, FromCache())
            return session.scalars(statement).unique().all()

        return read

    return Peer(
        reads={
            "get": reading(get),
            **{f"select-{number}": reading(rows(number)) for number in (1, 10, 100, 1000)},
            "count": reading(count),
            "selectin-10x5": reading(tree(selectinload(Category.products))),
            "joined-10x5": reading(tree(joinedload(Category.products))),
        },
        changes=changes_through(engine),
        shows={
            "get": reading(lambda session: get(session).stock),
            "list": reading(lambda session: rows(10)(session)[0].stock),
        },
    )
