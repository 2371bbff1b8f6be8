"""sqlacache, in a process of its own, since it listens to every Session: an AsyncSession on Redis, against one without it.

python sqlacache_program.py DATABASE_URL REDIS_PORT
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from rounds import IN_A_ROW
from rows import Product
from sqlacache import configure
from sqlalchemy import event, func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

Read = Callable[[AsyncSession], Awaitable[Any]]


async def _get(session: AsyncSession) -> Any:
    return await session.get_one(Product, 1)


def _rows(count: int) -> Read:
    async def read(session: AsyncSession) -> Any:
        found = await session.scalars(select(Product).where(Product.id <= count).order_by(Product.id))
        return found.all()

    return read


async def _count(session: AsyncSession) -> Any:
    return (await session.execute(select(func.count(Product.id)))).all()


READS: dict[str, Read] = {
    "get": _get,
    **{f"select-{number}": _rows(number) for number in (1, 10, 100, 1000)},
    "count": _count,
}


async def main(url: str, port: str) -> None:
    """Answer orders, a line each."""
    logging.disable()
    cached, plain = create_async_engine(url), create_async_engine(url)
    cache = configure(
        backend=f"redis://127.0.0.1:{port}/1", models={f"{Product.__module__}.{Product.__name__}": {"ops": "all"}}
    )
    await cache.bind(cached)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        print(json.dumps(await _answer(order, cached, plain)), flush=True)
    await cache.disconnect()


async def _answer(order: dict[str, Any], cached: AsyncEngine, plain: AsyncEngine) -> Any:
    if order["do"] == "cases":
        return [case for case in READS if await _is_served(cached, case)]
    if order["do"] == "stale":
        return {change: await _is_stale(cached, change, value) for value, change in enumerate(("flush", "bulk"), 101)}
    times: dict[str, list[float]] = {"cached": [], "uncached": []}
    turns, dice = [("cached", cached), ("uncached", plain)], random.Random(5)
    for number in range(-5, order["rounds"]):
        dice.shuffle(turns)
        for name, engine in turns:
            took = statistics.median([await _timed(engine, order["case"]) for _ in range(IN_A_ROW)])
            if number >= 0:
                times[name].append(took)
    return times


async def _timed(engine: AsyncEngine, case: str) -> float:
    start = time.perf_counter()
    async with AsyncSession(engine) as session:
        await READS[case](session)
    return time.perf_counter() - start


async def _is_served(engine: AsyncEngine, case: str) -> bool:
    """Tell whether a second read of a case sends no statement."""
    sent: list[object] = []

    def note(*told: object) -> None:
        sent.append(told)

    for count in range(2):
        if count:
            event.listen(engine.sync_engine, "before_cursor_execute", note)
        async with AsyncSession(engine) as session:
            await READS[case](session)
    event.remove(engine.sync_engine, "before_cursor_execute", note)
    return not sent


async def _is_stale(engine: AsyncEngine, change: str, value: int) -> bool:
    async def shown() -> list[int]:
        async with AsyncSession(engine) as session:
            got, listed = await _get(session), await _rows(10)(session)
            return [got.stock, listed[0].stock]

    await shown()
    async with AsyncSession(engine) as session:
        if change == "flush":
            (await session.get_one(Product, 1)).stock = value
        else:
            await session.execute(update(Product).where(Product.id == 1).values(stock=value))
        await session.commit()
    return any(stock != value for stock in await shown())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
