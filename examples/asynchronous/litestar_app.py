"""Litestar with Advanced Alchemy, which makes the sessions of its requests. Run: uvicorn litestar_app:app"""

from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, get, put
from litestar.exceptions import NotFoundException
from shop import Article, Base, close_shop, engine, shown
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

alchemy = SQLAlchemyAsyncConfig(
    engine_instance=engine,  # the cache is attached to it
    session_config=AsyncSessionConfig(expire_on_commit=False),
    before_send_handler="autocommit",
    metadata=Base.metadata,
    create_all=True,
)


@get("/articles")
async def articles(db_session: AsyncSession) -> list[dict[str, int | str]]:
    return [shown(article) for article in await db_session.scalars(select(Article).order_by(Article.name))]


@get("/articles/{number:int}")
async def article(number: int, db_session: AsyncSession) -> dict[str, int | str]:
    found = await db_session.get(Article, number)
    if found is None:
        raise NotFoundException
    return shown(found)


@put("/articles/{number:int}")
async def save(number: int, name: str, price: int, db_session: AsyncSession) -> dict[str, int | str]:
    return shown(await db_session.merge(Article(id=number, name=name, price=price)))


app = Litestar([articles, article, save], plugins=[SQLAlchemyPlugin(alchemy)], on_shutdown=[close_shop])
