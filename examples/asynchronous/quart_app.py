"""Quart: the session of a request is found by ``Model.cache`` itself. Run: hypercorn quart_app:app"""

from asyncio import current_task

from quart import Quart, abort, request
from shop import Article, cache, close_shop, open_shop, sessions, shown
from sqlalchemy.ext.asyncio import async_scoped_session

app = Quart(__name__)
session = async_scoped_session(sessions, current_task)
app.before_serving(open_shop)
app.after_serving(close_shop)


@app.before_serving
async def bind():
    cache.bind_session(session)


@app.after_request
async def remove(response):
    await session.remove()
    return response


@app.get("/articles")
async def articles():
    return [shown(article) for article in await Article.cache.afilter(order_by="name")]


@app.get("/articles/<int:number>")
async def article(number):
    found = await Article.cache.aget(number)
    return abort(404) if found is None else shown(found)


@app.put("/articles/<int:number>")
async def put(number):
    name, price = request.args["name"], int(request.args["price"])
    article = await session.merge(Article(id=number, name=name, price=price))
    await session.commit()
    return shown(article)
