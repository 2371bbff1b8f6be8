"""FastAPI: the shop opens and closes with the application, each request has a session. Run: uvicorn fastapi_app:app"""

from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from shop import Article, close_shop, open_shop, sessions, shown
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


@app.get("/articles")
async def articles(session: Session):
    return [shown(article) for article in await session.scalars(select(Article).order_by(Article.name))]


@app.get("/articles/{number}")
async def article(number: int, session: Session):
    found = await session.get(Article, number)
    if found is None:
        raise HTTPException(404)
    return shown(found)


@app.put("/articles/{number}")
async def put(number: int, name: str, price: int, session: Session):
    return shown(await save(session, number, name, price))


async def save(session, number, name, price):
    article = await session.merge(Article(id=number, name=name, price=price))
    await session.commit()  # and the next request, in any worker, shows it
    return article
