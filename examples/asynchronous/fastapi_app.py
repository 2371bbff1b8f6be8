"""FastAPI: the shop opens and closes with the application, each request has a session. Run: uvicorn fastapi_app:app"""

from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from shop import Product, close_shop, open_shop, sessions, shown
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession


@asynccontextmanager
async def lifespan(app: FastAPI):
    await open_shop()
    yield
    await close_shop()


async def session_of_request():
    async with sessions() as session:
        yield session


app = FastAPI(lifespan=lifespan)
Session = Annotated[AsyncSession, Depends(session_of_request)]


@app.get("/products")
async def products(session: Session):
    return [shown(product) for product in await session.scalars(select(Product).order_by(Product.name))]


@app.get("/products/{number}")
async def product(number: int, session: Session):
    found = await session.get(Product, number)
    if found is None:
        raise HTTPException(404)
    return shown(found)


@app.put("/products/{number}")
async def put(number: int, name: str, price: int, session: Session):
    return shown(await save(session, number, name, price))


async def save(session, number, name, price):
    product = await session.merge(Product(id=number, name=name, price=price))
    await session.commit()  # and the next request, in any worker, shows it
    return product
