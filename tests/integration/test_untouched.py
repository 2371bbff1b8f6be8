"""What a Session does by itself, it does with the cache in front of it: options, refreshing, expiry, events, listeners."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, text, update
from sqlalchemy.orm import (
    ORMExecuteState,
    Session,
    defer,
    load_only,
    noload,
    raiseload,
    selectinload,
    with_loader_criteria,
)

from equality_support import observed
from scenario_support import Category, Product, World

BY_ID = select(Product).order_by(Product.id)
CATEGORIES = select(Category).order_by(Category.id)
# Made once: an instance remembers which option object it was loaded with.
with warnings.catch_warnings():
    # Deprecated since SQLAlchemy 2.1, and there.
    warnings.simplefilter("ignore")
    WITHOUT_PRODUCTS = noload(Category.products)
RAISING_SQL = raiseload(Product.category, sql_only=True)
WITH_PRODUCTS = selectinload(Category.products)
ONLY_NAMES = load_only(Product.name)
NOT_THE_APPLE = with_loader_criteria(Product, Product.id > 1)
WITHOUT_NAMES = defer(Product.name)

Behind = Callable[[], None]
"""Changes the name of the apple, and nobody tells the cache."""

Scene = Callable[[Session, Behind], Any]


# -- what refreshes, locks or streams reads the database ---------------------------------------------------------------


def populate_existing(session: Session, behind: Behind) -> Any:
    held = session.scalars(BY_ID).all()
    behind()
    return held, session.scalars(BY_ID.execution_options(populate_existing=True)).all()


def populate_existing_over_a_change(session: Session, behind: Behind) -> Any:
    session.autoflush = False
    apple = session.get_one(Product, 1)
    apple.name = "mine"
    return session.scalars(BY_ID.execution_options(populate_existing=True)).all(), apple in session.dirty


def get_populating(session: Session, behind: Behind) -> Any:
    held = session.get(Product, 1)
    behind()
    return held, session.get(Product, 1, populate_existing=True)


def query_populating(session: Session, behind: Behind) -> Any:
    held = session.query(Product).order_by(Product.id).all()
    behind()
    return held, session.query(Product).populate_existing().order_by(Product.id).all()


def refresh(session: Session, behind: Behind) -> Any:
    apple = session.get_one(Product, 1)
    behind()
    session.refresh(apple)
    return apple


def refresh_of_one_attribute(session: Session, behind: Behind) -> Any:
    apple = session.get_one(Product, 1)
    apple.views = 1000
    behind()
    with session.no_autoflush:
        session.refresh(apple, ["name"])
    return apple


def refresh_with_a_lock(session: Session, behind: Behind) -> Any:
    apple = session.get_one(Product, 1)
    behind()
    session.refresh(apple, with_for_update=True)
    return apple


def refresh_of_children(session: Session, behind: Behind) -> Any:
    fruit = session.get_one(Category, 1)
    held = list(fruit.products)
    held[0].name = "mine"
    with session.no_autoflush:
        session.refresh(fruit, ["products"])
        return fruit, held


def expire(session: Session, behind: Behind) -> Any:
    apple = session.get_one(Product, 1)
    behind()
    session.expire(apple)
    return apple.name, apple


def expire_of_one_attribute(session: Session, behind: Behind) -> Any:
    apple = session.get_one(Product, 1)
    behind()
    session.expire(apple, ["name"])
    return apple.views, apple.name, apple


def get_of_an_expired_instance(session: Session, behind: Behind) -> Any:
    held = session.scalars(BY_ID).all()
    behind()
    session.expire_all()
    return session.get(Product, 1), held


def a_list_of_expired_instances(session: Session, behind: Behind) -> Any:
    held = session.scalars(BY_ID).all()
    session.expire_all()
    return session.scalars(BY_ID).all(), held


def for_update(session: Session, behind: Behind) -> Any:
    session.scalars(BY_ID).all()
    session.expunge_all()
    behind()
    return session.scalars(BY_ID.with_for_update()).all()


def get_for_update(session: Session, behind: Behind) -> Any:
    session.get(Product, 1)
    session.expunge_all()
    behind()
    return session.get(Product, 1, with_for_update=True)


def yield_per(session: Session, behind: Behind) -> Any:
    session.scalars(BY_ID).all()
    session.expunge_all()
    behind()
    return [list(part) for part in session.scalars(BY_ID.execution_options(yield_per=2)).partitions()]


def yield_per_of_a_query(session: Session, behind: Behind) -> Any:
    session.query(Product).order_by(Product.id).all()
    session.expunge_all()
    behind()
    return list(session.query(Product).order_by(Product.id).yield_per(2))


def yield_per_with_children(session: Session, behind: Behind) -> Any:
    return list(session.scalars(CATEGORIES.options(WITH_PRODUCTS).execution_options(yield_per=1)))


def yield_per_with_children_and_a_listener(session: Session, behind: Behind) -> Any:
    event.listen(session, "do_orm_execute", lambda orm: None)
    return yield_per_with_children(session, behind)


def streamed(session: Session, behind: Behind) -> Any:
    session.scalars(BY_ID).all()
    session.expunge_all()
    behind()
    return list(session.scalars(BY_ID.execution_options(stream_results=True)))


def deferred_attribute(session: Session, behind: Behind) -> Any:
    apple = session.scalars(BY_ID.options(WITHOUT_NAMES)).all()[0]
    behind()
    return apple.name, apple


def the_rest_of_load_only(session: Session, behind: Behind) -> Any:
    apple = session.scalars(BY_ID.options(ONLY_NAMES)).all()[0]
    return apple.price, apple


def every_column_by_a_star(session: Session, behind: Behind) -> Any:
    return session.execute(select(text("*")).select_from(Product).order_by(Product.id)).all()


# -- identity, loader options, merging ---------------------------------------------------------------------------------


def identity_token(session: Session, behind: Behind) -> Any:
    north = session.scalars(BY_ID.execution_options(identity_token="north")).all()
    return north, session.scalars(BY_ID).all(), session.get(Product, 1, identity_token="south")


def no_load(session: Session, behind: Behind) -> Any:
    return [(one, one.products) for one in session.scalars(CATEGORIES.options(WITHOUT_PRODUCTS))]


def raise_load_of_what_is_not_there(session: Session, behind: Behind) -> Any:
    return session.scalars(BY_ID.options(RAISING_SQL)).all()[0].category


def raise_load_of_what_is_there(session: Session, behind: Behind) -> Any:
    fruit = session.get(Category, 1)
    return fruit, session.scalars(BY_ID.options(RAISING_SQL)).all()[0].category


def what_the_application_keeps_with_its_session(session: Session, behind: Behind) -> Any:
    session.info["mine"] = 1
    return session.get(Product, 1), session.scalars(BY_ID).all(), dict(session.info)


def merge(session: Session, behind: Behind) -> Any:
    return session.merge(Product(id=1, name="merged")), session.merge(Product(id=77, name="new")), sorted_new(session)


def merge_of_what_is_cached(session: Session, behind: Behind) -> Any:
    apple = session.get_one(Product, 1)
    session.expunge(apple)
    return session.merge(apple, load=False), session.merge(apple)


# -- flushing ----------------------------------------------------------------------------------------------------------


def plum(id_: int = 5) -> Product:
    return Product(id=id_, name="plum", category_id=1, price=Decimal("1.00"), views=0)


def sorted_new(session: Session) -> list[Any]:
    return sorted(type(one).__name__ for one in session.new)


def autoflush(session: Session, behind: Behind) -> Any:
    session.add(plum())
    return session.scalars(BY_ID).all(), sorted_new(session)


def autoflush_before_another_table_is_read(session: Session, behind: Behind) -> Any:
    session.add(plum())
    return session.scalars(CATEGORIES).all(), sorted_new(session)


def autoflush_before_a_get(session: Session, behind: Behind) -> Any:
    session.add(plum())
    return session.get(Category, 1), sorted_new(session)


def no_autoflush(session: Session, behind: Behind) -> Any:
    session.add(plum())
    with session.no_autoflush:
        return session.scalars(BY_ID).all(), session.get(Category, 1), sorted_new(session)


def no_autoflush_by_option(session: Session, behind: Behind) -> Any:
    session.add(plum())
    return session.scalars(BY_ID.execution_options(autoflush=False)).all(), sorted_new(session)


def autoflush_that_fails_before_a_list(session: Session, behind: Behind) -> Any:
    session.add(Product(id=6, name=None, category_id=1, price=Decimal("1.00"), views=0))
    return session.scalars(CATEGORIES).all()


def autoflush_that_fails_before_a_get(session: Session, behind: Behind) -> Any:
    session.add(Product(id=6, name=None, category_id=1, price=Decimal("1.00"), views=0))
    return session.get(Category, 1)


def after_a_failed_flush(session: Session, behind: Behind) -> Any:
    session.add(Product(id=6, name=None, category_id=1, price=Decimal("1.00"), views=0))
    with pytest.raises(Exception, match=r"(?i)null"):
        session.flush()
    first = session.scalars(CATEGORIES).all()
    session.rollback()
    return first, session.scalars(CATEGORIES).all()


def a_savepoint_undone(session: Session, behind: Behind) -> Any:
    apple = session.get_one(Product, 1)
    savepoint = session.begin_nested()
    apple.name = "mine"
    session.flush()
    within = session.scalars(select(Product.name).order_by(Product.id)).all()
    savepoint.rollback()
    return within, session.scalars(select(Product.name).order_by(Product.id)).all(), apple


# -- listeners ---------------------------------------------------------------------------------------------------------

TOLD = (
    *("is_select", "is_orm_statement", "is_executemany", "is_from_statement", "is_column_load", "is_relationship_load"),
    *("parameters", "bind_mapper", "all_mappers", "loader_strategy_path"),
)
LOADING = ("_autoflush", "_populate_existing", "_yield_per", "_identity_token", "_only_return_tuples")


def told_by(orm: ORMExecuteState) -> Any:
    """Write down what a listener is told; of options their kinds."""
    loading = [(name, getattr(orm.load_options, name, None)) for name in LOADING] if orm.is_select else []
    # What eager loading is told of the statement that it belongs to; the cache's own is left out.
    options = {name for name in orm.execution_options if not name.startswith(("_sa", "_querycache"))} - {
        "prebuffer_rows"
    }
    return (
        [(name, repr(getattr(orm, name))) for name in TOLD],
        repr(loading),
        sorted(options),
        sorted(orm.bind_arguments),
        [type(option).__name__ for option in orm.user_defined_options],
        None if orm.lazy_loaded_from is None else repr(orm.lazy_loaded_from.key),
    )


def walk(session: Session) -> Any:
    fruit = session.scalars(CATEGORIES.options(WITH_PRODUCTS)).all()[0]
    apple = session.get_one(Product, 2)
    session.expire(apple)
    session.refresh(fruit)
    rows = session.execute(select(Product.id, Category).join(Product.category).where(Product.id == 1), {}).all()
    return fruit, apple.name, list(apple.tags), apple.category, rows, session.get(Product, 99)


def a_listener_hears_of_each_statement_once(session: Session, behind: Behind) -> Any:
    told: list[Any] = []

    @event.listens_for(session, "do_orm_execute")
    def hear(orm: ORMExecuteState) -> None:
        told.append(told_by(orm))

    return walk(session), told


def a_listener_that_adds_criteria(session: Session, behind: Behind) -> Any:
    @event.listens_for(session, "do_orm_execute")
    def limit(orm: ORMExecuteState) -> None:
        if orm.is_select and not orm.is_column_load:
            orm.statement = orm.statement.options(NOT_THE_APPLE)

    return walk(session), session.get(Product, 1)


def a_listener_that_adds_options(session: Session, behind: Behind) -> Any:
    @event.listens_for(session, "do_orm_execute")
    def token(orm: ORMExecuteState) -> None:
        orm.update_execution_options(populate_existing=True)

    apple = session.get_one(Product, 1)
    with session.no_autoflush:
        apple.name = "mine"
        return session.scalars(BY_ID).all(), apple


def a_listener_that_answers(session: Session, behind: Behind) -> Any:
    @event.listens_for(session, "do_orm_execute")
    def answer(orm: ORMExecuteState) -> Any:
        return orm.invoke_statement().freeze()()

    return session.scalars(BY_ID).all(), session.scalars(select(Product.name).order_by(Product.id)).all()


def events_of_instances(session: Session, behind: Behind) -> Any:
    heard: list[Any] = []

    def loaded(instance: Any, context: Any) -> None:
        heard.append(("load", instance.id, context.session is session, type(context).__name__))

    def refreshed(instance: Any, context: Any, attributes: Any) -> None:
        heard.append(("refresh", instance.id, None if attributes is None else sorted(attributes)))

    def expired(instance: Any, attributes: Any) -> None:
        heard.append(("expire", attributes))

    def became(session: Session, instance: Any) -> None:
        heard.append(("persistent", instance.id))

    hooks: list[tuple[Any, str, Any]] = [
        (Product, "load", loaded),
        (Product, "refresh", refreshed),
        (Product, "expire", expired),
        (session, "loaded_as_persistent", became),
    ]
    for target, name, hook in hooks:
        event.listen(target, name, hook)
    try:
        apple = session.get_one(Product, 1)
        session.scalars(BY_ID).all()
        session.refresh(apple)
        session.expire(apple, ["name"])
        session.scalars(BY_ID).all()
        session.expire_all()
        session.scalars(BY_ID).all()
        session.get(Product, 1, populate_existing=True)
    finally:
        for target, name, hook in hooks:
            event.remove(target, name, hook)
    return heard


SCENES: dict[str, Scene] = {
    name.replace("_", " "): thing
    for name, thing in list(globals().items())
    if callable(thing)
    and getattr(thing, "__module__", None) == __name__
    and getattr(thing, "__code__", None) is not None
    and thing.__code__.co_varnames[:2] == ("session", "behind")
}


# A stream is the connection's only result with PyMySQL: children cannot be loaded meanwhile, with or without a cache.
NOT_WITH_PYMYSQL = (yield_per_with_children, yield_per_with_children_and_a_listener)


def plain_engine(shop: World) -> Engine:
    """Return an engine without a cache that is otherwise set as the one with it."""
    level = "SERIALIZABLE" if shop.dialect == "sqlite" else "READ COMMITTED"
    return shop.outside.execution_options(isolation_level=level)


def check(shop: World, scene: Scene) -> None:
    """Play a scene without the cache and, three times, with it."""

    def rename(name: str) -> None:
        with Session(shop.outside) as session:
            session.execute(update(Product).where(Product.id == 1).values(name=name))

    said = []
    for engine in (plain_engine(shop), shop.engine, shop.engine, shop.engine):
        with Session(engine) as session:
            said.append(observed(session, lambda session: scene(session, lambda: rename("changed behind"))))
        # Where the scene took a lock, it is let go of by now.
        rename("apple")
    for attempt, cached in zip(("miss", "hit", "hit"), said[1:], strict=True):
        assert cached == said[0], f"{scene.__name__}: {attempt}"


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("name", SCENES)
def test_a_session_behaves_as_without_a_cache(shop: World, name: str) -> None:
    check(shop, SCENES[name])


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb", "mariadb-memory"], indirect=True)
def test_a_session_behaves_as_without_a_cache_on_every_database(shop: World) -> None:
    for scene in SCENES.values():
        if shop.dialect != "mariadb" or scene not in NOT_WITH_PYMYSQL:
            check(shop, scene)


def test_a_get_bind_of_the_applications_own_is_given_what_sqlalchemy_gives(shop: World) -> None:
    class Routed(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None) -> Engine:  # type: ignore[override]
            return shop.engine

    for _ in range(2):
        with Routed() as session:
            assert session.scalars(select(Product.name).order_by(Product.id)).first() == "apple"
            assert session.get_one(Product, 1).name == "apple"
        with Routed() as session:
            event.listen(session, "do_orm_execute", lambda orm: None)
            assert session.scalars(select(Product.name).with_for_update()).first() == "apple"


def test_execution_options_reach_the_listeners_of_the_engine(shop: World) -> None:
    seen: list[Any] = []
    event.listen(shop.engine, "before_cursor_execute", lambda *told: seen.append(told[4].execution_options.get("mine")))
    with shop.session() as session:
        session.scalars(BY_ID.execution_options(mine="statement")).all()
        session.execute(select(Product.id), execution_options={"mine": "call"}).all()
    assert seen == ["statement", "call"]


@pytest.mark.parametrize("comes_first", [True, False])
@pytest.mark.parametrize("worlds", ["postgresql-lmdb"], indirect=True)
def test_a_listener_that_chooses_a_tenants_schema_is_heard_before_the_cache_is_asked(
    shop: World, comes_first: bool
) -> None:
    with shop.outside.connect() as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
        connection.exec_driver_sql("CREATE TABLE tenant.sc_product AS SELECT * FROM sc_product")
        connection.exec_driver_sql("UPDATE tenant.sc_product SET name = 'theirs'")

    def choose(orm: ORMExecuteState) -> None:
        if "schema" in orm.session.info:
            orm.update_execution_options(schema_translate_map={None: orm.session.info["schema"]})

    names = select(Product.name).order_by(Product.id)
    event.listen(Session, "do_orm_execute", choose, insert=comes_first)
    try:
        for _ in range(3):
            with shop.session() as session:
                assert session.scalars(names).first() == "apple"
            with shop.session(info={"schema": "tenant"}) as session:
                assert session.scalars(names).first() == "theirs"
                assert session.get_one(Product, 1).name == "theirs"
    finally:
        event.remove(Session, "do_orm_execute", choose)
