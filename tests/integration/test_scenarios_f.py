"""F. Keys and identity: what looks alike is told apart, and nobody gets another session's instance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, String, bindparam, event, inspect, literal, select, text, update
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.horizontal_shard import ShardedSession, set_shard_id
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, defer, mapped_column, raiseload, selectinload
from sqlalchemy.orm.exc import StaleDataError

from querycache import QueryCache
from scenario_support import Category, Product, Tag, World, entities, get, in_category, names, rows, stock


@contextmanager
def tenants(worlds: Any) -> Iterator[World]:
    """Make the shop in three schemas of one PostgreSQL database, with other names in each."""
    world: World = worlds.shop()
    with world.outside.connect() as connection:
        for tenant in ("sf_one", "sf_two"):
            connection.execute(text(f"CREATE SCHEMA {tenant}"))
            mapped = connection.execution_options(schema_translate_map={None: tenant})
            Category.metadata.create_all(mapped)
            with Session(mapped) as session:
                session.add(Category(id=1, name=f"fruit of {tenant}"))
                session.commit()
    try:
        yield world
    finally:
        with world.outside.connect() as connection:
            connection.execute(text("DROP SCHEMA sf_one CASCADE"))
            connection.execute(text("DROP SCHEMA sf_two CASCADE"))


def of_tenant(engine: Engine, tenant: str | None) -> Engine:
    return engine.execution_options(schema_translate_map={None: tenant}) if tenant else engine


@pytest.mark.parametrize("worlds", ["postgresql-memory"], indirect=True)
def test_s68_each_tenant_of_a_schema_translate_map_reads_its_own_rows(worlds: Any) -> None:
    with tenants(worlds) as world:

        def name(tenant: str | None, engine: Engine) -> Any:
            with Session(of_tenant(engine, tenant)) as session:
                return session.get_one(Category, 1).name

        def by_option(tenant: str) -> Any:
            statement = select(Category.name).execution_options(schema_translate_map={None: tenant})
            return rows(statement.where(Category.id == 1))

        for _ in range(2):
            for tenant in (None, "sf_one", "sf_two"):
                assert name(tenant, world.engine) == name(tenant, world.outside)
        world.prime(by_option("sf_one"), by_option("sf_two"))
        assert world.read(by_option("sf_one")) == [("fruit of sf_one",)]
        world.sent.clear()
        assert name("sf_one", world.engine) == "fruit of sf_one"
        assert world.sent == []
        with Session(of_tenant(world.engine, "sf_one")) as session:
            session.get_one(Category, 1).name = "new"
            session.commit()
        assert name("sf_one", world.engine) == "new"
        world.sent.clear()
        assert name("sf_two", world.engine) == "fruit of sf_two"
        assert name(None, world.engine) == "fruit"
        assert world.sent == []
        world.assert_true(by_option("sf_one"))


def two_files(tmp_path: Path, engine_of: Any) -> tuple[Engine, Engine]:
    """Make the shop in two SQLite files; in the second the apple has another name."""
    engines = engine_of(f"sqlite:///{tmp_path}/one.sqlite"), engine_of(f"sqlite:///{tmp_path}/two.sqlite")
    for engine in engines:
        Category.metadata.create_all(engine)
        with Session(engine) as session:
            stock(session)
            session.commit()
    with engines[1].begin() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="second apple"))
    return engines


@pytest.fixture
def pair(tmp_path: Path, engine_of: Any) -> Iterator[tuple[Engine, Engine, QueryCache]]:
    first, second = two_files(tmp_path, engine_of)
    with QueryCache("memory://", models=[Category, Product, Tag]) as cache:
        cache.attach(first)
        cache.attach(second)
        yield first, second, cache


def test_s69_two_binds_with_the_same_sql_are_two(pair: tuple[Engine, Engine, QueryCache]) -> None:
    first, second, cache = pair
    for _ in range(2):
        for engine, name in [(first, "apple"), (second, "second apple")]:
            with Session(engine) as session:
                assert session.get_one(Product, 1).name == name
    assert cache.stats()["counts"]["hit"] == 2


def test_s69_bind_arguments_choose_the_bind(pair: tuple[Engine, Engine, QueryCache]) -> None:
    first, second, cache = pair
    statement = select(Product.name).where(Product.id == 1)
    for _ in range(2):
        with Session(first) as session:
            assert session.scalar(statement) == "apple"
            assert session.scalar(statement, bind_arguments={"bind": second}) == "second apple"
    assert cache.stats()["counts"]["hit"] == 2


def test_s69_a_write_on_one_bind_keeps_the_entries_of_the_other(pair: tuple[Engine, Engine, QueryCache]) -> None:
    first, second, cache = pair
    for engine in (first, second):
        with Session(engine) as session:
            session.get_one(Product, 1)
    with Session(first) as session:
        session.get_one(Product, 1).name = "quince"
        session.commit()
    hits = cache.stats()["counts"].get("hit", 0)
    with Session(second) as session:
        assert session.get_one(Product, 1).name == "second apple"
    assert cache.stats()["counts"]["hit"] == hits + 1
    with Session(first) as session:
        assert session.get_one(Product, 1).name == "quince"


def test_s69_each_shard_of_a_sharded_session_has_its_own_rows(pair: tuple[Engine, Engine, QueryCache]) -> None:
    first, second, _ = pair

    identities: Any = lambda mapper, key, **rest: ["one", "two"]  # noqa: E731

    def session_of_shards() -> ShardedSession:
        return ShardedSession(
            shard_chooser=lambda mapper, instance, clause=None: "one",
            identity_chooser=identities,
            execute_chooser=lambda context: ["one", "two"],
            shards={"one": first, "two": second},
        )

    statement = select(Product).where(Product.id == 1)
    for _ in range(3):
        with session_of_shards() as session:
            assert [product.name for product in session.scalars(statement)] == ["apple", "second apple"]
            only = session.scalars(statement.options(set_shard_id("two"))).all()
            assert [product.name for product in only] == ["second apple"]
    with session_of_shards() as session:
        session.scalars(statement.options(set_shard_id("two"))).one().name = "quince"
        session.commit()
    for _ in range(2):
        with session_of_shards() as session:
            assert [product.name for product in session.scalars(statement)] == ["apple", "quince"]


ALIKE = [1, "1", True, 1.0, None, "None", 0, False, "", b"1", float("inf"), 2**40, "\x00", "1 "]


@pytest.mark.parametrize("worlds", ["sqlite-memory", "sqlite-lmdb"], indirect=True)
def test_s71_parameters_that_look_alike_are_told_apart(shop: World) -> None:
    given: Any = bindparam("given", type_=None)
    statement = select(Product.id, given).where(Product.id == 1)

    def given_back(value: Any) -> Callable[[Session], Any]:
        def read(session: Session) -> Any:
            (_, found) = session.execute(statement, {"given": value}).one()
            return type(found), found

        return read

    for _ in range(2):
        for value in ALIKE:
            assert shop.read(given_back(value)) == shop.truth(given_back(value))


def test_s71_values_given_at_execute_time_and_in_the_statement_are_told_apart(shop: World) -> None:
    named = select(Product.name).where(Product.id == bindparam("id"))
    shop.prime(*[rows(named, {"id": id_}) for id_ in range(1, 6)])
    for id_ in range(1, 6):
        shop.assert_hit(rows(named, {"id": id_}))
        assert shop.read(rows(named, {"id": id_})) == shop.read(names(Product.id == id_))


def test_s71_numbers_and_texts_and_nulls_in_a_predicate_are_told_apart(shop: World) -> None:
    with shop.write() as session:
        session.add(Product(id=7, name="1", category_id=1, price=Decimal(1), note="None"))
    found = [
        names(Product.note == literal(None, String)),
        names(Product.note == "None"),
        names(Product.note.is_(None)),
        names(Product.name == "1"),
        names(Product.views.in_([])),
        names(Product.views.in_([10])),
        names(Product.views.in_([10, 20])),
        names(Product.views.in_([20, 10, 10])),
        names(Product.id.in_(list(range(300)))),
        names(Product.id.in_(list(range(2, 300)))),
    ]
    shop.prime(*found)
    for read in found:
        shop.assert_hit(read)


def test_s71_not_a_number_is_answered_as_the_database_answers(shop: World) -> None:
    if shop.dialect == "mariadb":
        # Its driver refuses the value.
        return
    read = names(Product.price > float("nan"))
    shop.assert_true(read)


COLLIDING = [
    [names(Product.name.in_(["apple,pear"])), names(Product.name.in_(["apple", "pear"]))],
    [names(Product.name.in_(["apple', 'pear"])), names(Product.name.in_(["apple", "pear"]))],
    [names(Product.name == "a", Product.note == "bc"), names(Product.name == "ab", Product.note == "c")],
    [names(Product.views == 10, Product.id == 1), names(Product.views == 1, Product.id == 10)],
    [
        rows(select(Product.id).order_by(Product.id).limit(1).offset(2)),
        rows(select(Product.id).order_by(Product.id).limit(2).offset(1)),
    ],
    [
        rows(select(Product.id, Product.views).where(Product.id == 1)),
        rows(select(Product.views, Product.id).where(Product.id == 1)),
    ],
    [rows(select(Product.name).order_by(Product.id)), rows(select(Product.name).order_by(Product.id.desc()))],
    [names(Product.views < 20), names(Product.views <= 20)],
    [
        rows(select(Product.views.label("a")).where(Product.id == 1)),
        rows(select(Product.id.label("a")).where(Product.id == 1)),
    ],
    [rows(select(Category.name).where(Category.id == 1)), rows(select(Tag.name).where(Tag.id == 1))],
]


@pytest.mark.parametrize("execution", [{}, {"identity_token": "here"}, {"populate_existing": True}])
def test_s72_one_sql_with_other_options_loads_what_each_of_them_asks_for(
    shop: World, execution: dict[str, Any]
) -> None:
    def loaded(engine: Engine, *options: Any) -> list[Any]:
        statement = select(Product).order_by(Product.id).options(*options).execution_options(**execution)
        with Session(engine) as session:
            found = session.scalars(statement).all()
            states = [inspect(product) for product in found]
            return [(state.identity, state.identity_token, sorted(state.unloaded)) for state in states]

    ways: list[tuple[Any, ...]] = [
        (),
        (selectinload(Product.tags),),
        (raiseload(Product.tags),),
        (defer(Product.price),),
    ]
    for _ in range(2):
        for options in ways:
            assert loaded(shop.engine, *options) == loaded(shop.outside, *options)


def test_s73_keys_do_not_collide(shop: World) -> None:
    for colliding in COLLIDING:
        shop.prime(*colliding)
        for read in colliding:
            shop.assert_hit(read)


def test_s73_a_column_s_label_is_the_row_s_own(shop: World) -> None:
    for _ in range(2):
        for label in ("a", "b"):
            with shop.session() as session:
                row = session.execute(select(Product.views.label(label)).where(Product.id == 1)).one()
                assert row._mapping == {label: 10}


def test_s74_each_session_gets_its_own_instance(shop: World) -> None:
    shop.prime(get(Product, 1))
    with shop.session() as one, shop.session() as other:
        mine, theirs = one.get_one(Product, 1), other.get_one(Product, 1)
        assert mine is not theirs
        assert mine is one.get_one(Product, 1)
        assert mine is one.scalars(select(Product).where(Product.id == 1)).one()


def test_s74_changing_an_instance_does_not_change_the_cache(shop: World) -> None:
    shop.prime(get(Product, 1), in_category(1))
    with shop.session() as session:
        session.get_one(Product, 1).name = "changed"
        session.expunge_all()
    shop.assert_hit(get(Product, 1))
    shop.assert_hit(in_category(1))


class Ledger(DeclarativeBase):
    pass


class Account(Ledger):
    __tablename__ = "sf_account"

    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]
    data: Mapped[bytes | None] = mapped_column()
    version: Mapped[int] = mapped_column()
    __mapper_args__ = {"version_id_col": version}  # noqa: RUF012


@pytest.fixture
def bank(worlds: Any) -> World:
    world: World = worlds(Account)
    with world.write() as session:
        session.add(Account(id=1, balance=10, data=b"\x00\xff"))
    return world


def test_s74_a_version_that_is_outdated_raises_rather_than_overwrites(bank: World) -> None:
    bank.prime(get(Account, 1))
    with bank.session() as late:
        account = late.get_one(Account, 1)
        late.commit()
        assert account.balance == 10
        late.commit()
        with bank.session() as session:
            other = session.get_one(Account, 1)
            with bank.write() as first:
                first.get_one(Account, 1).balance = 20
            other.balance = 30
            with pytest.raises(StaleDataError):
                session.commit()
    bank.assert_true(get(Account, 1))
    assert bank.read(get(Account, 1))[1] == 20


def test_s74_a_version_read_from_the_cache_can_be_written(bank: World) -> None:
    with bank.expecting(changed=[get(Account, 1)]), bank.write() as session:
        session.get_one(Account, 1).balance += 1


def test_s75_a_change_not_yet_flushed_is_kept_on_a_hit(shop: World) -> None:
    read = in_category(1)
    shop.prime(read)
    with shop.session(autoflush=False) as session:
        apple = session.get_one(Product, 1)
        apple.name = "mine"
        assert [product.name for product in session.scalars(select(Product).where(Product.category_id == 1))] == [
            "mine",
            "pear",
        ]
        assert apple in session.dirty
        session.rollback()


def test_s75_an_instance_that_is_there_keeps_its_values_on_a_hit_as_on_a_query(shop: World) -> None:
    statement = select(Product).where(Product.category_id == 1).order_by(Product.id)
    results = []
    for engine in (shop.engine, shop.outside):
        options: dict[str, Any] = {} if shop.dialect == "sqlite" else {"isolation_level": "READ COMMITTED"}
        with Session(engine.execution_options(**options)) as session:
            apple = session.get_one(Product, 1)
            with Session(shop.engine) as other:
                other.get_one(Product, 1).name = f"{apple.name}!"
                other.commit()
            shop.read(entities(statement))
            results.append([product.name for product in session.scalars(statement)])
            assert apple.name == results[-1][0]
            results[-1].append(session.scalars(statement.execution_options(populate_existing=True)).first().name)  # type: ignore[union-attr]
    assert results == [["apple", "pear", "apple!"], ["apple!", "pear", "apple!!"]]


def test_s75_an_expired_instance_is_refreshed_by_a_hit(shop: World) -> None:
    shop.prime(in_category(1))
    with shop.session() as session:
        apple = session.get_one(Product, 1)
        session.commit()
        shop.sent.clear()
        session.scalars(select(Product).where(Product.category_id == 1).order_by(Product.id)).all()
        assert apple.name == "apple"
        assert shop.sent == []


def test_s75_a_rollback_after_nothing_but_hits_expires_what_they_loaded(shop: World) -> None:
    shop.prime(get(Product, 1))
    with shop.session() as session:
        shop.sent.clear()
        apple = session.get_one(Product, 1)
        assert shop.sent == []
        with shop.session() as other:
            other.get_one(Product, 1).name = "changed"
            other.commit()
        session.rollback()
        assert session.get_one(Product, 1) is apple
        assert apple.name == "changed"


@pytest.mark.parametrize("begin", [Session.begin, Session.begin_nested])
def test_s75_a_hit_is_refused_where_a_query_is_in_a_context_whose_transaction_ended(shop: World, begin: Any) -> None:
    shop.prime(get(Product, 1))
    with shop.session() as session, begin(session) as transaction:
        transaction.rollback()
        with pytest.raises(InvalidRequestError, match="closed transaction inside context manager"):
            session.get(Product, 1)


def test_s75_a_deleted_instance_is_not_brought_back_by_a_hit(shop: World) -> None:
    shop.prime(in_category(2), names(Product.category_id == 2))
    with shop.session() as session:
        session.delete(session.get_one(Product, 3))
        session.flush()
        assert [product.id for product in session.scalars(select(Product).where(Product.category_id == 2))] == [4]
        session.rollback()
    shop.assert_true(in_category(2))


def test_s75_the_events_of_loading_are_fired_on_a_hit(shop: World) -> None:
    shop.prime(get(Product, 1))
    loaded: list[Any] = []

    def hear(target: Any, context: Any) -> None:
        loaded.append(target.id)

    event.listen(Product, "load", hear)
    try:
        shop.read(get(Product, 1))
    finally:
        event.remove(Product, "load", hear)
    assert loaded == [1]
