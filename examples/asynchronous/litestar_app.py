"""Litestar with Advanced Alchemy, which makes the sessions of its requests. Run: uvicorn litestar_app:app"""

from advanced_alchemy.extensions.litestar import AsyncSessionConfig, SQLAlchemyAsyncConfig, SQLAlchemyPlugin
from litestar import Litestar, get, put
from litestar.exceptions import NotFoundException
from shop import Base, Product, close_shop, engine, shown
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

alchemy = SQLAlchemyAsyncConfig(
    engine_instance=engine,  # the cache is attached to it
    session_config=AsyncSessionConfig(expire_on_commit=False),
    before_send_handler="autocommit",
    metadata=Base.metadata,
    create_all=True,
)


@get("/products")
async def products(db_session: AsyncSession) -> list[dict[str, int | str]]:
    return [shown(product) for product in await db_session.scalars(select(Product).order_by(Product.name))]


@get("/products/{number:int}")
async def product(number: int, db_session: AsyncSession) -> dict[str, int | str]:
    found = await db_session.get(Product, number)
    if found is None:
        raise NotFoundException
    return shown(found)


@put("/products/{number:int}")
async def save(number: int, name: str, price: int, db_session: AsyncSession) -> dict[str, int | str]:
    return shown(await db_session.merge(Product(id=number, name=name, price=price)))


app = Litestar([products, product, save], plugins=[SQLAlchemyPlugin(alchemy)], on_shutdown=[close_shop])
