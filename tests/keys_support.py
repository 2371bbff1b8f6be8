"""What do the tests of lists kept by keys share? A shop whose products are, and what a read of them cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Select, event, select, update

from querycache import FromCache, Policy
from scenario_fixtures import Worlds
from scenario_support import Product, Read, World, entities

BY_KEYS = Policy(shape="keys")
IN_FRUIT = select(Product).where(Product.category_id == 1).order_by(Product.id)
ALL = select(Product).order_by(Product.id)


def by_keys(statement: Select[Any]) -> Select[Any]:
    """Ask for a statement to be kept by keys."""
    return statement.options(FromCache(shape="keys"))


def shop_by_keys(worlds: Worlds, **options: Any) -> World:
    """Make a shop whose products are kept by keys."""
    world = worlds.shop(**options)
    world.cache.add_models(Product, policy=BY_KEYS)
    return world


def rename(world: World, product_id: int, name: str) -> None:
    """Change of a product what no list of these tests filters or orders by."""
    with world.write() as session:
        session.get_one(Product, product_id).name = name


def move(world: World, product_id: int, category_id: int) -> None:
    """Move a product to another category."""
    with world.write() as session:
        session.execute(update(Product).where(Product.id == product_id).values(category_id=category_id))


def reads_of(world: World, read: Read) -> list[tuple[str, Any]]:
    """Return the SELECTs that a read sends, each with its parameters; check that it tells the truth."""
    sent: list[tuple[str, Any]] = []

    def hear(connection: Any, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        sent.append((statement, parameters))

    event.listen(world.engine, "before_cursor_execute", hear)
    try:
        found = world.read(read)
    finally:
        event.remove(world.engine, "before_cursor_execute", hear)
    assert found == world.truth(read)
    return sent


def keys_asked(sent: list[tuple[str, Any]]) -> list[int]:
    """Return how many keys each SELECT asked for: 0 for one that is the list's own."""
    return [len(parameters) if " IN " in statement else 0 for statement, parameters in sent]


def make_one_missing(world: World, product_id: int = 1) -> Read:
    """Cache the list of fruit, and change one of its rows; return the list's read."""
    read = entities(IN_FRUIT)
    world.prime(read)
    rename(world, product_id, "renamed")
    return read


@contextmanager
def after_statement(world: World, number: int, act: Callable[[], object]) -> Iterator[None]:
    """Act once, right after the statement of that number is answered."""
    seen: list[str] = []

    def hear(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        seen.append(statement)
        if len(seen) == number:
            act()

    event.listen(world.engine, "after_cursor_execute", hear)
    try:
        yield
    finally:
        event.remove(world.engine, "after_cursor_execute", hear)
    assert len(seen) >= number, seen
