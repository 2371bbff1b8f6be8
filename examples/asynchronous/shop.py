"""What the examples share: a model, an engine, sessions, a cache. Nothing here knows a web framework."""

import os

from sqlalchemy import String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from querycache import CacheableMixin, QueryCache


class Base(DeclarativeBase):
    pass


class Article(CacheableMixin, Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    price: Mapped[int]


engine = create_async_engine(os.environ.get("DATABASE_URL", "sqlite+aiosqlite:///shop.db"))
sessions = async_sessionmaker(engine, expire_on_commit=False)
cache = QueryCache(os.environ.get("CACHE_URL", "lmdb://"))
cache.attach(sessions)


async def open_shop():
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def close_shop():
    await engine.dispose()
    await cache.aclose()


def shown(article):
    return {"id": article.id, "name": article.name, "price": article.price}
