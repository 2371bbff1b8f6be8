"""D. Savepoints: released or rolled back, one in another, whatever was changed before, in between and after.

Each script is run by a session on the cached engine. At every step the session must read what it wrote, and everybody
else what the database shows them; after its end all must be true, stored, and what it never touched still a hit.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from scenario_support import (
    Category,
    Matrix,
    Product,
    Read,
    Shop,
    Tag,
    World,
    count_of,
    get,
    in_category,
    names,
    refill,
    rows,
    stock,
)

READS: Final[dict[str, Read]] = {
    "apple": get(Product, 1),
    "plum": get(Product, 9),
    "fruit": in_category(1),
    "roots": in_category(2),
    "herbs": in_category(3),
    "count": count_of(Product),
    "quince": names(Product.name == "quince"),
    "carrot": get(Product, 3),
    "leek": names(Product.id == 4),
    "empty": in_category(4),
    "category": get(Category, 2),
    "tags": count_of(Tag),
}
KEPT: Final = frozenset({"carrot", "leek", "empty"})


def stock_with_herbs(session: Session) -> None:
    stock(session)
    session.add_all([Category(id=3, name="herbs"), Category(id=4, name="empty")])


def to(category_id: int) -> Callable[[Session], Any]:
    """Move the apple, as the ORM does."""

    def move(session: Session) -> None:
        session.get_one(Product, 1).category_id = category_id
        session.flush()

    return move


def add(session: Session) -> None:
    session.add(Product(id=9, name="plum", category_id=2, price=Decimal(1)))
    session.flush()


def fail(session: Session) -> None:
    with pytest.raises(IntegrityError), session.begin_nested():
        session.execute(text("INSERT INTO sc_tag (id, name) VALUES (1, 'again')"))


STEPS: Final[dict[str, Callable[[Session], Any]]] = {
    "move": to(2),
    "on": to(3),
    "back": to(1),
    "core": lambda session: session.execute(
        update(Product).where(Product.id == 1).values(category_id=3, name="quince")
    ),
    "compute": lambda session: session.execute(
        update(Product).where(Product.id == 1).values(category_id=Product.category_id + 1),
        execution_options={"synchronize_session": False},
    ),
    "add": add,
    "drop": lambda session: session.execute(delete(Product).where(Product.id == 9)),
    "fail": fail,
    "text": lambda session: session.execute(text("UPDATE sc_product SET name = 'quince' WHERE id = 1")),
    "expire": lambda session: session.expire_all(),
    "look": lambda session: session.get_one(Product, 1).category_id,
}


# "(" begins a savepoint, ")" releases and "/" rolls back the innermost one; all within a transaction that wrote before.
SCRIPTS: Final = (
    "move ( on )",
    "move ( on /",
    "move ( on / back",
    "move ( on / expire look",
    "move ( on ) back",
    "( move )",
    "( move /",
    "( move / on",
    "( move ) on",
    "( move ( on ) )",
    "( move ( on / )",
    "( move ( on ) /",
    "( move ( on / / back",
    "move ( on ( back / core )",
    "( core / move",
    "( compute ) on",
    "( compute / on",
    "move ( compute / compute",
    "( add )",
    "( add /",
    "add ( drop )",
    "add ( drop /",
    "( add / ( add ) drop",
    "( add ( drop / ) move",
    "( move fail )",
    "move fail on",
    "( fail / move",
    "( text / move",
    "move ( text / on",
)


def run(session: Session, step: str, nested: list[Any]) -> None:
    if step == "(":
        nested.append(session.begin_nested())
    elif step == ")":
        nested.pop().commit()
    elif step == "/":
        nested.pop().rollback()
    else:
        STEPS[step](session)


@pytest.fixture(scope="module")
def standing_shop(standing: Any) -> tuple[World, Matrix]:
    world: World = standing(Category, Product, Tag)
    if world.dialect == "sqlite":
        with world.outside.connect() as connection:
            connection.execute(text("PRAGMA journal_mode = WAL"))
    refill(world, Shop, stock_with_herbs)
    return world, Matrix(world, READS)


OWN: Final = (
    select(Product.category_id, Product.name).where(Product.id == 1),
    "SELECT category_id, name FROM sc_product WHERE id = 1",
)


@pytest.mark.parametrize(
    ("script", "commits"), [*((script, True) for script in SCRIPTS), *((script, False) for script in SCRIPTS[::4])]
)
def test_s47_s48_savepoints_leave_behind_what_the_database_kept(
    standing_shop: tuple[World, Matrix], script: str, commits: bool
) -> None:
    shop, matrix = standing_shop
    refill(shop, Shop, stock_with_herbs)
    matrix.begin()
    with shop.session() as session:
        # The transaction has begun, also where SQLite's driver begins none for a savepoint.
        session.execute(update(Product).where(Product.id == 2).values(views=21))
        nested: list[Any] = []
        for step in script.split():
            run(session, step, nested)
            assert session.execute(OWN[0]).all() == session.execute(text(OWN[1])).all()
            assert shop.read(READS["apple"]) == shop.truth(READS["apple"])
        (session.commit if commits else session.rollback)()
    # What a text changes is not told by rows, nor by value what the database computes.
    kept = set() if "text" in script else KEPT - {"empty"} if "compute" in script else KEPT
    matrix.changed_by({"sc_product", "sc_tag"} if "fail" in script else {"sc_product"}, kept)
    matrix.assert_all_stored()


@pytest.mark.parametrize("script", ["( move )", "( move / on", "( move ( on / )", "( add /", "( fail / move"])
def test_s48_a_savepoint_that_comes_first_leaves_behind_what_the_database_kept(
    standing_shop: tuple[World, Matrix], script: str
) -> None:
    shop, matrix = standing_shop
    refill(shop, Shop, stock_with_herbs)
    matrix.begin()
    with shop.session() as session:
        nested: list[Any] = []
        for step in script.split():
            run(session, step, nested)
            assert shop.read(READS["apple"]) == shop.truth(READS["apple"])
        session.rollback()
    matrix.changed_by({"sc_product", "sc_tag"}, KEPT)
    matrix.assert_all_stored()


def test_s44_a_transaction_reads_all_that_it_wrote_whatever_is_cached(standing_shop: tuple[World, Matrix]) -> None:
    shop, matrix = standing_shop
    refill(shop, Shop, stock_with_herbs)
    matrix.begin()
    with shop.session() as session:
        to(2)(session)
        STEPS["add"](session)
        session.expire_all()
        own = {name: read(session) for name, read in READS.items()}
        with Session(session.connection()) as same:
            assert own["count"] == same.execute(text("SELECT count(*) FROM sc_product")).all()
        assert own["apple"][2] == 2
        assert [row[0] for row in own["roots"]] == [1, 3, 4, 9]
        assert [row[0] for row in own["fruit"]] == [2]
        assert own["herbs"] == []
        session.rollback()
    matrix.changed_by({"sc_product"}, KEPT)


@pytest.mark.parametrize("read", ["count", "fruit", "carrot", "category"])
def test_s45_s49_a_transaction_that_wrote_stores_nothing_that_others_could_find(
    standing_shop: tuple[World, Matrix], read: str
) -> None:
    shop, _ = standing_shop
    refill(shop, Shop, stock_with_herbs)
    for write in (to(2), STEPS["core"], STEPS["text"]):
        with shop.session() as session:
            write(session)
            READS[read](session)
            READS[read](session)
            session.rollback()
        assert shop.cost(READS[read]) == 1
        shop.cache.invalidate_all()


def test_s46_a_rollback_drops_what_was_written_and_nothing_else(standing_shop: tuple[World, Matrix]) -> None:
    shop, matrix = standing_shop
    refill(shop, Shop, stock_with_herbs)
    matrix.begin()
    with shop.session() as session:
        to(2)(session)
        session.rollback()
    assert matrix.changed_by({"sc_product"}, {*KEPT, "plum", "herbs"}) == set()
    matrix.assert_all_stored()


def test_s51_what_was_released_before_an_error_ended_the_transaction_is_not_there(
    standing_shop: tuple[World, Matrix],
) -> None:
    shop, matrix = standing_shop
    refill(shop, Shop, stock_with_herbs)
    matrix.begin()
    with shop.session() as session:
        to(2)(session)
        with session.begin_nested():
            to(3)(session)
        with pytest.raises(IntegrityError):
            session.execute(text("INSERT INTO sc_tag (id, name) VALUES (1, 'again')"))
        session.rollback()
    assert matrix.changed_by({"sc_product", "sc_tag"}, KEPT) == set()
    assert shop.read(rows(select(Product.category_id).where(Product.id == 1))) == [(1,)]
