"""A Core connection is answered only what its transaction may be shown, and only where somebody asked for that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, insert, select, text, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from core_support import DIARY, ITEM, METADATA, SHOP, Item, Shop, Shops, rows_of_items, shops_on
from querycache import FromCache, NoCache, QueryCache
from querycache.coherence.moved import SnapshotMovedError

C = ITEM.c
LABELS = select(C.label).where(C.id == 1)
OTHERS = select(C.label).where(C.id == 2)


def relabel(label: str, item_id: int = 1) -> Any:
    return update(ITEM).where(C.id == item_id).values(label=label)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def shops(url: str) -> Iterator[Shops]:
    with shops_on(url) as shops:
        yield shops


@pytest.fixture
def on_postgresql(postgresql_url: str) -> Iterator[Shops]:
    with shops_on(postgresql_url) as shops:
        yield shops


# -- what a transaction may be shown ------------------------------------------------------------------------------------


def test_a_commit_of_another_connection_is_seen(shops: Shops) -> None:
    assert shops.read(LABELS) == [("l1",)]
    assert shops.is_hit(LABELS)
    shops.by_another(relabel("new"))
    assert shops.read(LABELS) == [("new",)]
    assert shops.is_hit(LABELS)


def test_a_commit_of_a_session_is_seen_and_its_entries_are_shared(shops: Shops) -> None:
    assert shops.read(LABELS) == [("l1",)]
    with Session(shops.engine) as session, shops.counting() as sent:
        assert session.execute(LABELS).all() == [("l1",)]
        assert sent == []
        session.get_one(Item, 1).label = "new"  # type: ignore[attr-defined]
        session.commit()
    assert shops.read(LABELS) == [("new",)]


def test_a_transaction_sees_its_own_changes_and_nobody_else_does(shops: Shops) -> None:
    shops.read(LABELS)
    with shops.engine.connect() as connection:
        connection.execute(relabel("mine"))
        assert connection.execute(LABELS).all() == [("mine",)]
        assert connection.scalar(LABELS) == "mine"
        with shops.counting() as sent:
            assert shops.read(LABELS) == [("l1",)]
        assert sent == []
        connection.rollback()
        assert connection.execute(LABELS).all() == [("l1",)]
    assert shops.read(LABELS) == [("l1",)]


def test_a_transaction_that_has_written_stores_nothing(shops: Shops) -> None:
    with shops.engine.connect() as connection:
        connection.execute(insert(DIARY).values(id=7, line="x"))
        connection.execute(LABELS)
        connection.rollback()
    assert not shops.is_hit(LABELS)


def test_a_savepoint_that_is_rolled_back_takes_its_changes_with_it(shops: Shops) -> None:
    shops.read(LABELS)
    with shops.engine.begin() as connection:
        savepoint = connection.begin_nested()
        connection.execute(relabel("mine"))
        assert connection.scalar(LABELS) == "mine"
        savepoint.rollback()
        assert connection.scalar(LABELS) == "l1"
    assert shops.read(LABELS) == [("l1",)]


def test_rows_that_a_commit_overtakes_are_not_kept(shops: Shops) -> None:
    """The commit comes between the question to the store and the one to the database."""

    @event.listens_for(shops.engine, "after_cursor_execute", once=True)
    def overtake(*sent: Any) -> None:
        shops.by_another(relabel("new"))

    shops.read(LABELS)

    assert shops.read(LABELS) == [("new",)]


def test_a_snapshot_that_is_taken_shows_what_it_showed(on_postgresql: Shops) -> None:
    shops = on_postgresql
    with shops.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        assert connection.scalar(select(func.count()).select_from(DIARY)) == 1
        shops.by_another(relabel("new"))
        assert shops.read(LABELS) == [("new",)]
        assert shops.is_hit(LABELS)

        assert connection.scalar(LABELS) == "l1"


def test_a_snapshot_that_is_taken_after_hits_must_show_the_same(on_postgresql: Shops) -> None:
    """Else the database would let pass a lost update that it refuses without a cache."""
    shops = on_postgresql
    shops.read(LABELS)
    with shops.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        assert connection.scalar(LABELS) == "l1"
        shops.by_another(relabel("new"))
        with pytest.raises(SnapshotMovedError):
            connection.execute(relabel("l1 and mine"))
    assert shops.read(LABELS) == [("new",)]


def test_a_serializable_transaction_asks_the_database(on_postgresql: Shops) -> None:
    shops = on_postgresql
    shops.read(LABELS)
    with (
        shops.engine.connect().execution_options(isolation_level="SERIALIZABLE") as connection,
        shops.counting() as sent,
    ):
        connection.execute(LABELS)
    assert len(sent) == 1


def test_a_connection_in_autocommit_is_answered(shops: Shops) -> None:
    shops.read(LABELS)
    with shops.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with shops.counting() as sent:
            assert connection.scalar(LABELS) == "l1"
        assert sent == []
        connection.execute(relabel("new"))
        assert connection.scalar(LABELS) == "new"


def test_a_begin_that_a_listener_sends_takes_the_snapshot_first(sqlite_url: str) -> None:
    """SQLAlchemy's own recipe for SQLite, whose driver would begin with the first change only."""
    with shops_on(sqlite_url) as shops:

        @event.listens_for(shops.engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

        with shops.plain.begin() as outside:
            outside.exec_driver_sql("PRAGMA journal_mode=WAL")
        with shops.engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(DIARY)) == 1
            shops.by_another(relabel("new"))
            assert shops.read(LABELS) == [("new",)]

            assert connection.scalar(LABELS) == "l1"


def test_a_hit_comes_after_the_begin_that_a_listener_sends(sqlite_url: str) -> None:
    """The transaction that it begins may show less than it was served, once its snapshot is taken."""
    with shops_on(sqlite_url) as shops:
        shops.read(LABELS)

        @event.listens_for(shops.engine, "begin")
        def begin(connection: Any) -> None:
            connection.exec_driver_sql("BEGIN")

        with shops.engine.connect() as connection:
            with shops.counting() as sent:
                assert connection.scalar(LABELS) == "l1"
            assert sent == ["BEGIN"]
            shops.by_another(relabel("new"))
            connection.scalar(select(func.count()).select_from(DIARY))

    assert shops.cache.events.counts()["moved"] == 1


def test_rows_that_are_locked_are_read_from_the_database(on_postgresql: Shops) -> None:
    locking = LABELS.with_for_update()
    on_postgresql.read(locking)
    assert not on_postgresql.is_hit(locking)


def test_a_text_that_writes_is_sent_and_heard(shops: Shops) -> None:
    shops.read(LABELS)
    with shops.engine.begin() as connection:
        connection.execute(text("UPDATE item SET \"the label\" = 'new' WHERE id = 1"))
    assert shops.read(LABELS) == [("new",)]


def test_an_entry_outlives_a_failed_statement_but_answers_not_in_its_transaction(on_postgresql: Shops) -> None:
    shops = on_postgresql
    shops.read(LABELS)
    with shops.engine.connect() as connection:
        with pytest.raises(Exception, match="no_such_table"):
            connection.execute(text("SELECT * FROM no_such_table"))
        with pytest.raises(Exception, match="aborted"):
            connection.execute(LABELS)
        connection.rollback()
        assert connection.scalar(LABELS) == "l1"


# -- who is answered ----------------------------------------------------------------------------------------------------


def test_without_core_only_statements_that_ask_for_it_are_answered(url: str) -> None:
    with shops_on(url, core=False) as shops:
        asking = LABELS.options(FromCache())
        for statement in (LABELS, asking):
            shops.read(statement)
        assert not shops.is_hit(LABELS)
        assert shops.is_hit(asking)
        shops.cache.attach(shops.engine, core=True)
        shops.read(LABELS)
        assert shops.is_hit(LABELS)


def test_a_table_of_no_cacheable_model_is_answered_where_a_statement_asks(shops: Shops) -> None:
    lines = select(DIARY.c.line)
    for statement in (lines, lines.options(FromCache(ttl=60))):
        shops.read(statement)
    assert not shops.is_hit(lines)
    assert shops.is_hit(lines.options(FromCache(ttl=60)))
    shops.by_another(insert(DIARY).values(id=2, line="diary"))
    assert shops.read(lines.order_by(DIARY.c.id).options(FromCache(ttl=60))) == [("dear",), ("diary",)]


def test_a_statement_that_wants_none_of_it_goes_to_the_database(shops: Shops) -> None:
    shops.read(LABELS)
    assert not shops.is_hit(LABELS.options(NoCache()))


def test_a_list_by_keys_is_one_entry_here(shops: Shops) -> None:
    statement = select(Item.id, Item.name).order_by(Item.id).options(FromCache(shape="keys"))
    shops.read(statement)
    assert shops.is_hit(statement)


def test_a_sessions_own_connection_is_left_to_the_session(shops: Shops) -> None:
    shops.read(LABELS)
    with Session(shops.engine) as session:
        with shops.counting() as sent:
            session.execute(LABELS.options(NoCache()))
            session.connection().execute(LABELS)
        assert len(sent) == 2


def test_where_vary_tells_sessions_apart_a_connection_is_not_answered(url: str) -> None:
    with shops_on(url, vary=lambda session: "tenant") as shops:
        shops.read(LABELS)
        assert not shops.is_hit(LABELS)
        assert shops.reasons()["bypass: vary is asked of a Session, and this is a Connection"]


def test_a_listener_that_may_rewrite_a_statement_keeps_it_from_being_answered(shops: Shops) -> None:
    shops.read(LABELS)

    @event.listens_for(shops.engine, "before_cursor_execute", retval=True)
    def rewrite(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> Any:
        return statement.replace("item.id = ", "item.id = 1 + "), parameters

    assert shops.read(LABELS) == [("l2",)]


def test_an_engine_of_the_same_pool_is_answered_too(shops: Shops) -> None:
    shops.read(LABELS)
    named = shops.engine.execution_options(logging_token="named")
    with named.connect() as connection, shops.counting() as sent:
        assert connection.scalar(LABELS) == "l1"
    assert sent == []


def test_translated_schemas_have_entries_of_their_own(on_postgresql: Shops) -> None:
    shops = on_postgresql
    with shops.plain.begin() as connection:
        connection.execute(text("CREATE SCHEMA elsewhere"))
    there = shops.plain.execution_options(schema_translate_map={None: "elsewhere"})
    METADATA.create_all(there)
    with there.begin() as connection:
        connection.execute(insert(SHOP).values(id=1, name="there"))
    try:
        names = select(SHOP.c.name).where(SHOP.c.id == 1)
        for _ in range(2):
            assert shops.read(names) == [("one",)]
            with shops.engine.connect() as connection:
                moved = connection.execution_options(schema_translate_map={None: "elsewhere"})
                assert moved.scalar(names) == "there"
    finally:
        with shops.plain.begin() as connection:
            connection.execute(text("DROP SCHEMA elsewhere CASCADE"))


def test_a_hit_needs_no_database(sqlite_url: str) -> None:
    with shops_on(sqlite_url) as shops:
        shops.read(LABELS)
        with shops.engine.connect() as connection:
            with shops.plain.begin() as outside:
                outside.execute(text("ALTER TABLE item RENAME TO gone"))
            try:
                assert connection.scalar(LABELS) == "l1"
                with pytest.raises(OperationalError):
                    connection.scalar(OTHERS)
            finally:
                connection.rollback()
                with shops.plain.begin() as outside:
                    outside.execute(text("ALTER TABLE gone RENAME TO item"))


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg"])
def test_an_async_connection_is_answered(driver: str, request: pytest.FixtureRequest) -> None:
    dialect = driver.partition("+")[0]
    url: str = request.getfixturevalue(f"{dialect}_url")
    target = driver + url[url.index("://") :]
    prices = select(C.id, C.price).order_by(C.id).limit(1)

    async def run(cache: QueryCache) -> None:
        engine = create_async_engine(target)
        sent: list[str] = []
        event.listen(
            engine.sync_engine, "before_cursor_execute", lambda c, cursor, statement, *rest: sent.append(statement)
        )
        cache.attach(engine, core=True)
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
            await connection.execute(insert(SHOP), [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}])
            await connection.execute(insert(ITEM), rows_of_items())
        for _ in range(2):
            sent.clear()
            async with engine.connect() as connection:
                assert (await connection.execute(prices)).all() == [(1, rows_of_items()[0]["price"])]
                assert await connection.scalar(LABELS) == "l1"
                assert (await connection.scalars(LABELS)).all() == ["l1"]
        assert sent == []
        async with engine.begin() as connection:
            await connection.execute(relabel("new"))
        async with engine.connect() as connection:
            assert await connection.scalar(LABELS) == "new"
            sent.clear()
            if dialect == "postgresql":
                async with connection.stream(LABELS) as streamed:
                    assert [row async for row in streamed] == [("new",)]
                assert len(sent) == 1
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.drop_all)
        await engine.dispose()

    with QueryCache("memory://", models=[Shop, Item]) as cache:
        asyncio.run(run(cache))


def test_engines_that_are_not_attached_are_left_alone(shops: Shops) -> None:
    def read(engine: Engine) -> Any:
        with engine.connect() as connection:
            return connection.execute(LABELS).all()

    assert read(shops.engine) == read(shops.plain) == [("l1",)]
    with shops.plain.begin() as outside:
        outside.execute(relabel("unheard"))
    assert read(shops.plain) == [("unheard",)]
    assert read(shops.engine) == [("l1",)]
