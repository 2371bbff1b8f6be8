"""C. Writers beside us: another process, one without the library, and sessions that join a transaction begun elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import pytest
from sqlalchemy import Connection, select, text, update
from sqlalchemy.orm import Session

from scenario_support import Category, Product, Shop, Tag, World, count_of, get, in_category, names, refill, rows, stock

APPLE, PEAR = names(Product.id == 1), names(Product.id == 2)

OTHER_PROCESS = """
import sys
from decimal import Decimal
from sqlalchemy import create_engine, select, update
from sqlalchemy.orm import Session
from querycache import QueryCache
from scenario_support import Category, Product, Tag
engine = create_engine(sys.argv[1])
cache = QueryCache(sys.argv[2], models=[Category, Product, Tag])
cache.attach(engine)
with Session(engine) as session:
    session.get_one(Product, 1).name = "quince"
    session.add(Product(name="plum", category_id=1, price=Decimal(1)))
    session.commit()
    session.execute(update(Product).where(Product.id == 3).values(category_id=1))
    session.commit()
with Session(engine) as session:
    session.get_one(Category, 2).name = "kept"
    session.flush()
    session.rollback()
cache.close()
"""


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb", "mariadb-lmdb"], indirect=True)
def test_s41_what_another_process_with_the_library_commits_is_seen(worlds: Any) -> None:
    shop: World = worlds.shop()
    with shop.expecting(
        changed=[APPLE, in_category(1), in_category(2), get(Product, 3), count_of(Product)],
        kept=[PEAR, get(Product, 4), get(Category, 1), get(Tag, 1)],
        true=[get(Category, 2)],
    ):
        subprocess.run(
            [sys.executable, "-c", OTHER_PROCESS, worlds.url, worlds.store_url],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
            check=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def standing_shop(standing: Any) -> World:
    world: World = standing(Category, Product, Tag)
    return world


@pytest.fixture
def shop(standing_shop: World) -> World:
    refill(standing_shop, Shop, stock)
    return standing_shop


def rename_outside(shop: World) -> None:
    """Change the apple in a process without the library."""
    with shop.outside.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="quince"))


# What is declared, and the reads that it must not touch.
DECLARED: Final[dict[str, tuple[Callable[[World], Any], list[Any]]]] = {
    "the row": (
        lambda shop: shop.truth(lambda session: session.get_one(Product, 1)),
        [PEAR, get(Product, 3), get(Category, 1), get(Tag, 1)],
    ),
    "the model": (lambda shop: Product, [get(Category, 1), get(Tag, 1)]),
    "the table": (lambda shop: Product.__table__, [get(Category, 1), get(Tag, 1)]),
}


@pytest.mark.parametrize("name", DECLARED)
def test_s41_what_a_process_without_the_library_did_is_seen_once_it_is_declared(shop: World, name: str) -> None:
    declared, kept = DECLARED[name]
    with shop.expecting(changed=[APPLE, get(Product, 1), in_category(1)], kept=kept):
        rename_outside(shop)
        shop.cache.invalidate(declared(shop))


def test_s41_everything_can_be_declared(shop: World) -> None:
    with shop.expecting(changed=[APPLE, get(Product, 1), in_category(1)], true=[get(Category, 1)]):
        rename_outside(shop)
        shop.cache.invalidate_all()


# -- 43 ------------------------------------------------------------------------------------------------------------------

Mode = Literal["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]
MODES: Final[list[Mode]] = ["conditional_savepoint", "rollback_only", "control_fully", "create_savepoint"]


def join(connection: Connection, mode: Mode, *, commit: bool) -> None:
    with Session(connection, join_transaction_mode=mode) as session:
        session.get_one(Product, 1).category_id = 2
        session.flush()
        assert session.scalar(text("SELECT category_id FROM sc_product WHERE id = 1")) == 2
        (session.commit if commit else session.rollback)()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("savepoint", [False, True], ids=["", "in a savepoint"])
@pytest.mark.parametrize(("inner", "outer"), [(True, True), (True, False), (False, True)])
def test_s43_a_session_that_joins_a_transaction_is_heard_when_the_database_commits(
    shop: World, mode: Mode, savepoint: bool, inner: bool, outer: bool
) -> None:
    reads = [APPLE, get(Product, 1), in_category(1), in_category(2), PEAR, get(Category, 1)]
    shop.prime(*reads)
    with shop.engine.connect() as connection:
        transaction = connection.begin()
        connection.execute(update(Product).where(Product.id == 2).values(name="sloe"))
        if savepoint:
            connection.begin_nested()
        join(connection, mode, commit=inner)
        for read in reads:
            shop.assert_true(read)
        if transaction.is_active:
            (transaction.commit if outer else transaction.rollback)()
    for read in reads:
        shop.assert_true(read)
        shop.assert_hit(read)


def test_s43_a_transaction_begun_in_blocks_within_blocks_is_heard(shop: World) -> None:
    with (
        shop.expecting(changed=[APPLE, PEAR, get(Category, 1)], kept=[get(Category, 2), in_category(2)]),
        shop.session() as session,
        session.begin(),
    ):
        session.get_one(Product, 1).name = "quince"
        with session.begin_nested():
            session.get_one(Product, 2).name = "sloe"
            with session.begin_nested():
                session.get_one(Category, 1).name = "fruits"


@pytest.mark.parametrize("standing", ["mariadb-memory"], indirect=True)
def test_s43_a_session_in_two_phases_is_heard_where_it_wrote(standing_shop: World) -> None:
    refill(standing_shop, Shop, stock)
    with (
        standing_shop.expecting(changed=[APPLE, in_category(1), in_category(2)], kept=[PEAR, get(Category, 1)]),
        standing_shop.session(twophase=True) as session,
    ):
        session.get_one(Product, 1).category_id = 2
        session.get_one(Product, 1).name = "quince"
        session.flush()
        session.prepare()
        standing_shop.assert_true(APPLE)
        session.commit()


def test_s43_a_session_that_begins_again_after_its_end_is_a_new_transaction(shop: World) -> None:
    # A rollback drops what was written.
    with (
        shop.expecting(changed=[APPLE], kept=[get(Product, 3), get(Category, 1)], true=[PEAR]),
        shop.session() as session,
    ):
        session.get_one(Product, 2).name = "sloe"
        session.flush()
        session.rollback()
        session.get_one(Product, 1).name = "quince"
        session.commit()
        assert rows(select(Product.name).where(Product.id == 2))(session) == [("pear",)]
