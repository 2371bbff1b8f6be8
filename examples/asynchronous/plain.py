"""asyncio and nothing else: many tasks read, one writes, and nobody is shown what was before. Run: python plain.py"""

import asyncio

from shop import Article, cache, close_shop, open_shop, sessions
from sqlalchemy import select, update

PRICES = range(1, 11)


async def price():
    async with sessions() as session:
        return await session.scalar(select(Article.price).where(Article.id == 1))


async def set_price(to):
    async with sessions() as session, session.begin():
        await session.execute(update(Article).where(Article.id == 1).values(price=to))


async def main():
    await open_shop()
    async with sessions() as session, session.begin():
        session.add(Article(id=1, name="apple", price=0))
    for to in PRICES:
        await set_price(to)
        seen = await asyncio.gather(*(price() for _ in range(20)))
        assert set(seen) == {to}, f"{to} was committed, {set(seen)} was shown"
    counts = (await cache.astats())["counts"]
    print(f"{len(PRICES) * 20} reads, {counts['miss']} asked the database")
    await close_shop()


asyncio.run(main())
