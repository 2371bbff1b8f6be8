"""D. Transactions: what one has changed is its own until it commits, and everybody's right after."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import Session

from querycache._types import Tag as StoreTag
from querycache._types import Writer
from querycache.stores.memory import MemoryStore
from scenario_support import Category, Product, Tag, World, get, in_category, names, once, rows

APPLE = names(Product.id == 1)
PEAR = names(Product.id == 2)


def rename(session: Session, name: str = "quince") -> None:
    session.get_one(Product, 1).name = name
    session.flush()


def test_s44_a_transaction_reads_what_it_wrote(shop: World) -> None:
    shop.prime(APPLE, in_category(1), get(Product, 1))
    with shop.session() as session:
        session.execute(update(Product).where(Product.id == 1).values(name="quince"))
        assert APPLE(session) == [("quince",)]
        assert get(Product, 1)(session)[1] == "quince"
        assert [row[1] for row in in_category(1)(session)] == ["quince", "pear"]
        session.rollback()


def test_s44_autoflush_comes_before_the_cache_is_asked(shop: World) -> None:
    shop.prime(APPLE)
    with shop.session() as session:
        session.get_one(Product, 1).name = "quince"
        assert APPLE(session) == [("quince",)]
        session.rollback()


def test_s45_what_is_not_committed_is_shared_with_nobody(shop: World) -> None:
    shop.prime(APPLE)
    with shop.session() as session:
        rename(session)
        assert APPLE(session) == [("quince",)]
        assert session.scalar(select(Product.name).where(Product.id == 1, Product.views == 10)) == "quince"
        shop.assert_hit(APPLE)
        shop.assert_true(names(Product.id == 1, Product.views == 10))
        session.rollback()
    shop.assert_true(APPLE)
    shop.assert_true(names(Product.id == 1, Product.views == 10))
    assert shop.read(APPLE) == [("apple",)]


def test_s45_nothing_that_a_writing_transaction_reads_is_stored(shop: World) -> None:
    with shop.session() as session:
        rename(session)
        assert session.get_one(Category, 2).name == "roots"
        session.rollback()
    assert shop.cost(get(Category, 2)) == 1


def test_s46_after_a_rollback_the_old_value_is_read_and_other_entries_are_still_there(shop: World) -> None:
    shop.prime(APPLE, PEAR, in_category(2), get(Category, 1))
    with shop.session() as session:
        rename(session)
        session.rollback()
    for read in [PEAR, in_category(2), get(Category, 1)]:
        shop.assert_hit(read)
    shop.assert_true(APPLE)
    assert shop.read(APPLE) == [("apple",)]
    shop.assert_hit(APPLE)


def test_s46_closing_without_a_commit_is_a_rollback(shop: World) -> None:
    shop.prime(APPLE)
    with shop.session() as session:
        rename(session)
    shop.assert_true(APPLE)
    shop.assert_hit(APPLE)


def test_s47_what_was_changed_outside_of_a_rolled_back_savepoint_is_seen(shop: World) -> None:
    with shop.expecting(changed=[APPLE], kept=[get(Category, 1), in_category(2)], true=[PEAR]), shop.write() as session:
        rename(session)
        inner = session.begin_nested()
        session.get_one(Product, 2).name = "gone"
        session.flush()
        inner.rollback()


def test_s47_a_savepoint_that_is_released_is_seen_with_the_rest(shop: World) -> None:
    with shop.expecting(changed=[APPLE, PEAR], kept=[in_category(2)]), shop.write() as session:
        rename(session)
        with session.begin_nested():
            session.get_one(Product, 2).name = "sloe"


def test_s47_the_old_value_is_known_after_a_savepoint_was_rolled_back(shop: World) -> None:
    with (
        shop.expecting(changed=[in_category(1), get(Product, 1)], kept=[PEAR], true=[in_category(2)]),
        shop.write() as session,
    ):
        product = session.get_one(Product, 1)
        product.views = 11
        inner = session.begin_nested()
        product.category_id = 2
        session.flush()
        inner.rollback()
        product.name = "quince"


def test_s48_a_released_savepoint_whose_transaction_is_rolled_back_changes_nothing(shop: World) -> None:
    shop.prime(APPLE, in_category(2))
    with shop.session() as session:
        session.get_one(Product, 2).views = 21
        session.flush()
        with session.begin_nested():
            rename(session)
        assert APPLE(session) == [("quince",)]
        session.rollback()
    shop.assert_hit(in_category(2))
    shop.assert_true(APPLE)
    assert shop.read(APPLE) == [("apple",)]


def test_s48_a_savepoint_that_comes_first_is_the_database_s_own_affair_and_readers_see_what_it_shows(
    shop: World,
) -> None:
    # SQLite's driver begins no transaction for a savepoint: releasing it commits.
    shop.prime(APPLE, in_category(1), in_category(2))
    with shop.session() as session:
        product = session.get_one(Product, 1)
        with session.begin_nested():
            product.name, product.category_id = "quince", 2
        for read in [APPLE, in_category(1), in_category(2)]:
            shop.assert_true(read)
        session.rollback()
    for read in [APPLE, in_category(1), in_category(2)]:
        shop.assert_true(read)


def test_s53_an_engine_in_autocommit_is_heard_statement_by_statement(worlds: Any) -> None:
    shop: World = worlds.shop(engine_options={"isolation_level": "AUTOCOMMIT"})
    reads = [APPLE, in_category(1), in_category(2)]
    with shop.expecting(changed=reads, kept=[get(Category, 1), get(Product, 2)]), shop.session() as session:
        product = session.get_one(Product, 1)
        product.name = "quince"
        session.flush()
        shop.assert_true(APPLE)
        product.category_id = 2
        session.flush()
        for read in reads:
            shop.assert_true(read)
        session.rollback()


RAW: dict[str, Callable[[Session], Any]] = {
    "text": lambda session: session.execute(text("UPDATE sc_product SET name = 'quince' WHERE id = 1")),
    "driver SQL": lambda session: session.connection().exec_driver_sql(
        "UPDATE sc_product SET name = 'quince' WHERE id = 1"
    ),
    "core": lambda session: session.connection().execute(update(Product.__table__).values(name="quince")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("way", RAW)
def test_s49_raw_sql_makes_a_transaction_read_past_the_cache_and_store_nothing(shop: World, way: str) -> None:
    shop.prime(APPLE)
    with shop.session() as session:
        RAW[way](session)
        assert APPLE(session) == [("quince",)]
        assert session.scalar(select(Tag.name).where(Tag.id == 2)) == "green"
        session.rollback()
    assert shop.cost(rows(select(Tag.name).where(Tag.id == 2))) == 1
    shop.assert_true(APPLE)


def test_s50_the_hooks_of_a_commit_find_the_cache_true(shop: World) -> None:
    shop.prime(APPLE)
    seen: list[Any] = []
    with shop.session() as session:
        event.listen(session, "after_commit", lambda _: seen.append(shop.read(APPLE)))
        rename(session)
        session.commit()
    assert seen == [[("quince",)]]


def test_s50_what_a_hook_before_the_commit_still_writes_is_heard(shop: World) -> None:
    with shop.expecting(changed=[APPLE, PEAR], kept=[in_category(2)]), shop.session() as session:
        # Of the engine's, as it comes last; the change is made below the Session.
        event.listen(
            shop.engine,
            "commit",
            lambda connection: connection.execute(update(Product).where(Product.id == 2).values(name="sloe")),
            once=True,
        )
        rename(session)
        session.commit()


class Hiccup(Exception):
    pass


def test_s51_an_exception_in_a_hook_after_the_commit_hides_nothing(shop: World) -> None:
    def fail(_: Session) -> None:
        raise Hiccup

    with shop.expecting(changed=[APPLE], kept=[PEAR]):
        session = shop.session()
        event.listen(session, "after_commit", fail)
        rename(session)
        with pytest.raises(Hiccup):
            session.commit()
        session.close()


def test_s51_a_commit_that_fails_before_it_is_sent_changes_nothing(shop: World) -> None:
    def fail(_: Any) -> None:
        raise Hiccup

    shop.prime(APPLE, PEAR)
    event.listen(shop.engine, "commit", fail)
    with shop.session() as session:
        rename(session)
        with pytest.raises(Hiccup):
            session.commit()
    event.remove(shop.engine, "commit", fail)
    shop.assert_true(APPLE)
    assert shop.read(APPLE) == [("apple",)]
    shop.assert_hit(PEAR)


@pytest.mark.parametrize("was_sent", [True, False])
def test_s51_while_a_commit_s_outcome_is_unknown_what_it_changed_is_read_from_the_database(
    worlds: Any, was_sent: bool
) -> None:
    fails: list[bool] = []

    def break_commits(engine: Engine) -> None:
        send = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            if not fails or was_sent:
                send(connection)
            if fails:
                raise ConnectionError("the line went dead")

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign, assignment]

    shop: World = worlds.shop(before_attach=break_commits)
    shop.prime(APPLE, PEAR, get(Category, 1))
    fails.append(True)
    with shop.session() as session:
        rename(session)
        with pytest.raises(ConnectionError):
            session.commit()
    fails.clear()
    # Where the server can be asked it may have said by then that the commit is over.
    assert shop.cost(APPLE) == 1
    assert shop.read(APPLE) == shop.truth(APPLE) == [("quince",) if was_sent else ("apple",)]
    for read in [PEAR, get(Category, 1)]:
        shop.assert_hit(read)


WRITER = """
import os, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from querycache import QueryCache
from querycache._types import Tag as StoreTag
from querycache._types import Writer
from querycache.stores.memory import MemoryStore
from scenario_support import Category, Product, Tag
url, store, moment = sys.argv[1:]
engine = create_engine(url)
if moment == "after the mark":
    engine.dialect.do_commit = lambda connection: os._exit(9)
if moment == "before the release":
    send = engine.dialect.do_commit
    engine.dialect.do_commit = lambda connection: (send(connection), os._exit(9))
cache = QueryCache(store, models=[Category, Product, Tag])
cache.attach(engine)
with Session(engine) as session:
    session.get_one(Product, 1).name = "quince"
    session.flush()
    if moment == "before the mark":
        os._exit(9)
    session.commit()
"""


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb"], indirect=True)
@pytest.mark.parametrize("moment", ["before the mark", "after the mark", "before the release", "never"])
def test_s52_a_writer_killed_at_any_moment_leaves_nothing_stale(worlds: Any, moment: str) -> None:
    shop: World = worlds.shop()
    shop.prime(APPLE, PEAR, get(Category, 1))
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    ended = subprocess.run(
        [sys.executable, "-c", WRITER, worlds.url, worlds.store_url, moment],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
        timeout=60,
    )
    assert ended.returncode == (0 if moment == "never" else 9)
    for _ in range(3):
        assert shop.read(APPLE) == shop.truth(APPLE)
    committed = moment in ("before the release", "never")
    assert shop.read(APPLE) == [("quince",) if committed else ("apple",)]
    for read in [PEAR, get(Category, 1)]:
        shop.assert_hit(read)


def test_s50_a_reader_between_commit_and_release_sees_what_was_committed(worlds: Any) -> None:
    seen: list[Any] = []
    readers: list[Callable[[], Any]] = []

    def let_readers_in(engine: Engine) -> None:
        send = engine.dialect.do_commit

        def do_commit(connection: Any) -> None:
            send(connection)
            while readers:
                seen.append(readers.pop()())

        engine.dialect.do_commit = do_commit  # type: ignore[method-assign, assignment]

    shop: World = worlds.shop(before_attach=let_readers_in)
    shop.prime(APPLE, PEAR)
    with shop.session() as session:
        rename(session)
        readers += [lambda: shop.read(APPLE), lambda: shop.cost(PEAR)]
        session.commit()
    assert seen == [0, [("quince",)]]
    shop.assert_true(APPLE)
    shop.assert_hit(APPLE)


class Dying(MemoryStore):
    """Hears of no release once its writer is dead, and its clock can be put forward."""

    is_dead = False
    forward_s = 0

    def release(self, tags: Sequence[StoreTag], writer: Writer) -> None:
        if not self.is_dead:
            super().release(tags, writer)

    def _ticks(self) -> int:
        return super()._ticks() + self.forward_s * 1_000_000_000


@pytest.mark.parametrize("worlds", ["sqlite-memory", "postgresql-memory", "mariadb-memory"], indirect=True)
def test_s52_what_was_read_inside_of_a_commit_that_is_never_released_is_not_served_when_its_mark_expires(
    worlds: Any,
) -> None:
    store = Dying()
    shop: World = worlds.shop(store=store)
    shop.prime(APPLE, PEAR)

    def look_and_die() -> None:
        assert shop.read(APPLE) == [("apple",)]
        store.is_dead = True

    with once(shop.cache, "mark", look_and_die), shop.write() as session:
        rename(session)
    store.forward_s = 31
    shop.assert_true(APPLE)
    shop.assert_hit(APPLE)
    shop.assert_hit(PEAR)


def test_s53_readers_around_a_write_in_autocommit_see_the_truth(shop: World) -> None:
    shop.prime(APPLE)
    seen: list[tuple[str, Any, Any]] = []

    def look(moment: str) -> Callable[..., None]:
        def hear(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("UPDATE"):
                seen.append((moment, shop.read(APPLE), shop.truth(APPLE)))

        return hear

    event.listen(shop.engine, "before_cursor_execute", look("before"))
    event.listen(shop.engine, "after_cursor_execute", look("after"))
    with shop.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="quince"))
    assert seen == [("before", [("apple",)], [("apple",)]), ("after", [("quince",)], [("quince",)])]
    shop.assert_true(APPLE)
    shop.assert_hit(APPLE)


def test_s53_a_reader_between_mark_and_commit_stores_nothing(shop: World) -> None:
    shop.prime(APPLE)

    def look() -> None:
        assert shop.read(APPLE) == [("apple",)]
        assert [shop.cost(APPLE), shop.cost(APPLE)] == [1, 1]

    with once(shop.cache, "mark", look), shop.write() as session:
        rename(session)
    shop.assert_true(APPLE)
    assert shop.read(APPLE) == [("quince",)]
