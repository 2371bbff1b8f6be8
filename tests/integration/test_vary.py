"""Does what an application says that rows vary by keep entries apart, and keep what it does not say rows from being served?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import Integer, Select, String, bindparam, event, func, select, text, update
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    ORMExecuteState,
    Session,
    column_property,
    mapped_column,
    selectinload,
    sessionmaker,
)

from coherence_world import Category, Process, Product, World, is_hit, name_of, names_in, read_in, rename
from querycache import FromCache, QueryCache

TENANT: ContextVar[Any] = ContextVar("tenant", default=None)


def tenant_of(session: Session) -> Any:
    return TENANT.get()


@pytest.fixture(autouse=True)
def nobody() -> Iterator[None]:
    token = TENANT.set(None)
    yield
    TENANT.reset(token)


@pytest.fixture
def told(sqlite: World) -> Process:
    return sqlite.process(vary=tenant_of)


READS: dict[str, Callable[[Session], Any]] = {
    "get": lambda session: session.get(Product, 1),
    "select": lambda session: session.scalars(select(Product)).all(),
    "columns": lambda session: session.execute(select(Product.id, Product.name)).all(),
    "count": lambda session: session.scalar(select(func.count()).select_from(Product)),
    "named": lambda session: session.scalars(select(Product).options(FromCache(cache_key="named"))).all(),
    "lazy": lambda session: session.get_one(Category, 3).products[:],
    "selectin": lambda session: session.scalars(select(Category).options(selectinload(Category.products))).all(),
    "query": lambda session: session.query(Product).all(),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_each_tenant_has_entries_of_its_own(told: Process, read: Callable[[Session], Any]) -> None:
    for tenant in ("blue", "red", None):
        TENANT.set(tenant)
        assert not is_hit(told, read)
        # Once more before it counts: from its second answer on, a get is answered in a faster way.
        assert is_hit(told, read)
    for tenant in ("blue", "red", None):
        TENANT.set(tenant)
        assert is_hit(told, read)


def test_a_write_of_one_tenant_is_seen_by_all(told: Process) -> None:
    for tenant in ("blue", "red"):
        TENANT.set(tenant)
        assert read_in(told, name_of) == "a"
    rename(told, "b")
    for tenant in ("blue", "red"):
        TENANT.set(tenant)
        assert read_in(told, name_of) == "b"


def test_two_processes_of_which_one_tells_share_no_entries(sqlite: World) -> None:
    told, silent = sqlite.process(vary=lambda session: None), sqlite.process()
    read_in(silent, name_of)
    assert not is_hit(told)
    assert is_hit(told)
    assert is_hit(silent)


def test_a_hook_that_fails_answers_reads_and_caches_none(sqlite: World) -> None:
    process = sqlite.process(vary=lambda session: session.info["tenant"])
    for _ in range(2):
        assert not is_hit(process)
        assert read_in(process, lambda session: session.get_one(Product, 1).name) == "a"
    assert process.cache is not None
    assert set(process.cache.stats()["reasons"]) == {"bypass: vary failed: KeyError"}
    with process.session(info={"tenant": "blue"}) as session:
        assert session.get_one(Product, 1).name == "a"
    assert process.counts()["fill"] == 1


def test_a_hook_may_read_itself(sqlite: World) -> None:
    def of_its_category(session: Session) -> Any:
        return session.scalar(select(Category.name).where(Category.id == 3))

    process = sqlite.process(vary=of_its_category)
    assert read_in(process, name_of) == "a"
    with process.counting() as selects:
        assert read_in(process, name_of) == "a"
    assert [sent for sent in selects if "product" in sent] == []
    assert len(selects) == 1


def test_what_is_read_while_the_session_becomes_anothers_is_not_kept(sqlite: World) -> None:
    process = sqlite.process(vary=lambda session: session.info.get("tenant"))
    factory = sessionmaker(process.engine)

    @event.listens_for(factory, "after_begin")
    def become(session: Session, transaction: Any, connection: Any) -> None:
        session.info["tenant"] = TENANT.get()

    for tenant in ("blue", "red"):
        TENANT.set(tenant)
        with factory() as session:
            assert name_of(session) == "a"
    assert process.counts().get("fill", 0) == 0
    assert process.counts()["bypass"] == 2


def test_explain_asks_the_hook_about_its_session(sqlite: World) -> None:
    cache = sqlite.process(vary=lambda session: session.info["tenant"]).cache
    assert cache is not None
    statement = select(Product)
    keys = []
    for tenant in ("blue", "red"):
        with Session(cache.engines[0], info={"tenant": tenant}) as session:
            keys.append(cache.explain(statement, session=session).key)
    assert len(set(keys)) == 2
    assert cache.explain(statement).reason == "vary failed: KeyError"


# -- a connection first ----------------------------------------------------------------------------------------------


def checkouts_of(process: Process, session: Session) -> int:
    pool: Any = process.engine.pool
    before: int = pool.checkedout()
    name_of(session)
    return int(pool.checkedout() - before)


def test_where_a_hook_may_set_connections_a_hit_has_one(sqlite: World) -> None:
    process = sqlite.process()
    read_in(process, name_of)
    with process.session() as session:
        assert checkouts_of(process, session) == 0
    with process.session() as session:
        event.listen(session, "after_begin", lambda *arguments: None)
        with process.counting() as selects:
            assert checkouts_of(process, session) == 1
        assert selects == []


def test_where_the_application_tells_a_hit_needs_no_connection_whatever_its_hooks_do(told: Process) -> None:
    read_in(told, name_of)
    with told.session() as session:
        event.listen(session, "after_begin", lambda *arguments: None)
        assert checkouts_of(told, session) == 0


@pytest.mark.parametrize("vary", [None, tenant_of])
def test_s70_once_a_text_has_set_connections_a_hit_has_one(postgresql: World, vary: Any) -> None:
    process = postgresql.process(vary=vary)
    read_in(process, name_of)
    with process.session() as session:
        session.execute(text("SET LOCAL search_path TO public"))
    with process.session() as session:
        assert checkouts_of(process, session) == 1
    assert is_hit(process)


def test_s70_connections_of_one_database_that_are_set_by_turns_are_not_taken_for_one_another(postgresql: World) -> None:
    with postgresql.process(cached=False).engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
    theirs = World(f"{postgresql.url}?options=-csearch_path%3Dtenant")
    theirs.fill()
    rename(theirs.process(cached=False), "t")
    theirs.close()
    process = postgresql.process(engine_pool_size=2)

    @event.listens_for(process.engine, "connect")
    def set_path(raw: Any, record: Any) -> None:
        raw.execute(f"SET search_path TO {TENANT.get() or 'public'}")
        raw.commit()

    with process.session() as mine:
        assert name_of(mine) == "a"
        TENANT.set("tenant")
        with process.session() as other:
            other.connection()
            assert name_of(other) == "t"
    for _ in range(3):
        # The pool gives one, then the other.
        with process.session() as session:
            path = session.scalar(text("SHOW search_path"))
            shown = name_of(session)
        assert shown == {"public": "a", "tenant": "t"}[str(path)]
        with process.session() as session:
            shown = name_of(session)
            path = session.scalar(text("SHOW search_path"))
        assert shown == {"public": "a", "tenant": "t"}[str(path)]


def test_what_a_listener_to_checkouts_sets_lasts_as_without_a_cache(postgresql: World) -> None:
    process = postgresql.process(cached=False)

    @event.listens_for(process.engine, "checkout")
    def set_zone(raw: Any, record: Any, proxy: Any) -> None:
        raw.cursor().execute("SET TIME ZONE 'Etc/GMT-5'")

    with QueryCache("memory://", models=[Product]) as cache:
        cache.attach(process.engine)
        for _ in range(3):
            with process.session() as session:
                assert session.scalar(text("SHOW timezone")) == "Etc/GMT-5"


# -- what listeners change -------------------------------------------------------------------------------------------


def by_statement(orm: ORMExecuteState, **options: Any) -> None:
    orm.statement = orm.statement.execution_options(**options)


def by_call(orm: ORMExecuteState, **options: Any) -> None:
    orm.update_execution_options(**options)


@pytest.mark.parametrize("change", [by_statement, by_call])
def test_a_listener_may_have_an_instance_refreshed(sqlite: World, change: Any) -> None:
    process, other = sqlite.process(), sqlite.process()
    read_in(process, lambda session: names_in(session, 3))
    with process.session() as session:
        product = session.get_one(Product, 1)
        session.commit()
        assert product.name == "a"
        session.commit()
        product.name  # noqa: B018  # loaded anew
        rename(other, "b")
        read_in(process, lambda session: names_in(session, 3))
        event.listen(session, "do_orm_execute", lambda orm: change(orm, populate_existing=True))
        names_in(session, 3)
        assert product.name == "b"


@pytest.mark.parametrize("change", [by_statement, by_call])
def test_a_listener_may_give_instances_another_identity(sqlite: World, change: Any) -> None:
    process = sqlite.process()
    for _ in range(2):
        with process.session() as session:
            event.listen(session, "do_orm_execute", lambda orm: change(orm, identity_token="red"))
            (product,) = session.scalars(select(Product).where(Product.id == 1))
            assert product.__mapper__.identity_key_from_instance(product)[2] == "red"


def test_a_listener_that_answers_leaves_those_after_it_their_turn(sqlite: World) -> None:
    process = sqlite.process()

    def only_the_second(orm: ORMExecuteState) -> None:
        orm.statement = orm.statement.where(Product.id == 2)  # type: ignore[attr-defined]

    with process.session() as session:
        event.listen(session, "do_orm_execute", lambda orm: orm.invoke_statement())
        event.listen(session, "do_orm_execute", only_the_second)
        assert [product.id for product in session.scalars(select(Product))] == [2]


def test_a_connections_execution_options_come_before_a_statements(postgresql: World) -> None:
    process = postgresql.process()
    with postgresql.process(cached=False).engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA theirs")
        connection.exec_driver_sql("CREATE TABLE theirs.product AS SELECT * FROM product")
        connection.exec_driver_sql("UPDATE theirs.product SET name = 't'")
    theirs = select(Product.name).where(Product.id == 1).execution_options(schema_translate_map={None: "theirs"})
    for _ in range(2):
        with Session(process.engine.execution_options(schema_translate_map={None: "public"})) as session:
            assert session.scalar(theirs) == "a"
        assert read_in(process, lambda session: session.scalar(theirs)) == "t"


# -- values that functions give --------------------------------------------------------------------------------------


def test_a_value_that_is_another_when_the_statement_is_sent_is_not_kept_for_the_first(sqlite: World) -> None:
    process = sqlite.process()
    values = iter([1, 2, 1, 1])
    statement: Select[Any] = select(Product.id).where(Product.id == bindparam("id", callable_=lambda: next(values)))
    with process.session() as session:
        assert session.scalars(statement).all() == [2]
    assert process.counts().get("fill", 0) == 0
    with process.session() as session:
        assert session.scalars(statement).all() == [1]
    assert process.counts()["fill"] == 1


class Base(DeclarativeBase):
    pass


class Priced(Base):
    __tablename__ = "priced"
    id: Mapped[int] = mapped_column(primary_key=True)
    price = mapped_column(Integer)
    name: Mapped[str] = mapped_column(String(20))
    twice: Mapped[int] = column_property(price * 2)
    mine: Mapped[int] = column_property(price + bindparam("mine", callable_=TENANT.get, type_=Integer))


def test_values_in_column_properties_are_those_of_each_get(sqlite: World) -> None:
    process = sqlite.process()
    assert process.cache is not None
    Base.metadata.create_all(process.engine)
    process.cache.add_models(Priced)
    with process.session() as session:
        session.add(Priced(id=1, price=10, name="x"))
        session.commit()
    for mine in (1, 1, 1, 2, 2, 1):
        TENANT.set(mine)
        with process.session() as session:
            priced = session.get_one(Priced, 1)
            assert (priced.twice, priced.mine) == (20, 10 + mine)
    assert process.counts()["hit"] == 4


# -- statements rewritten on their way -------------------------------------------------------------------------------


def swap_values(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    """Send an UPDATE of the first product as one of the second."""
    if statement.startswith("UPDATE"):
        parameters = tuple(2 if value == 1 else value for value in parameters)
    return statement, parameters


def swap_tables(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    """Send an UPDATE of a product as one of a category."""
    if statement.startswith("UPDATE"):
        statement, parameters = "UPDATE category SET name = ? WHERE id = 3", (parameters[0],)
    return statement, parameters


@pytest.mark.parametrize("isolation", [None, "AUTOCOMMIT"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("rewrite", [swap_values, swap_tables])
def test_a_write_that_a_listener_rewrites_is_seen_where_it_was_made(
    sqlite: World, rewrite: Any, first: bool, isolation: str | None
) -> None:
    options: dict[str, Any] = {} if isolation is None else {"engine_isolation_level": isolation}
    reader, writer = sqlite.process(), sqlite.process(cached=False, **options)
    cache = QueryCache(sqlite.store, models=[Product, Category])

    def names(session: Session) -> list[Any]:
        return [name_of(session, 2), session.scalar(select(Category.name).where(Category.id == 3))]

    before = read_in(reader, names)
    if first:
        event.listen(writer.engine, "before_cursor_execute", rewrite, retval=True)
    cache.attach(writer.engine)
    if not first:
        event.listen(writer.engine, "before_cursor_execute", rewrite, retval=True)
    with writer.session() as session:
        session.execute(update(Product).where(Product.id == 1).values(name="new"))
        session.commit()
    after = read_in(reader, names)
    assert (after != before, after) == (True, read_in(sqlite.process(cached=False), names))


def test_reads_that_a_listener_may_rewrite_are_cached_where_the_application_tells_what_it_goes_by(
    sqlite: World,
) -> None:
    def look(connection: Any, statement: Any, multiparams: Any, params: Any, options: Any) -> Any:
        return statement, multiparams, params

    told, silent = sqlite.process(vary=tenant_of), sqlite.process()
    for process in (told, silent):
        event.listen(process.engine, "before_execute", look, retval=True)
        read_in(process, name_of)
    assert is_hit(told)
    assert not is_hit(silent)
    assert silent.cache is not None
    (reason,) = silent.cache.stats()["reasons"]
    assert "a listener may rewrite it" in reason
    assert "vary" in str(silent.cache.explain(select(Product)).reason)


# -- variables of a connection ---------------------------------------------------------------------------------------

SETTING_VARIABLES = {
    "SET LOCAL": "SET LOCAL app.tenant = 'blue'",
    "set_config": "SELECT set_config('app.tenant', 'blue', true)",
}


@pytest.mark.parametrize("setting", SETTING_VARIABLES.values(), ids=SETTING_VARIABLES)
def test_s70_a_variable_set_for_a_transaction_is_what_the_application_tells(postgresql: World, setting: str) -> None:
    told, silent = postgresql.process(vary=tenant_of), postgresql.process()
    for process, is_kept in ((told, True), (silent, False)):
        with process.session() as session:
            session.execute(text(setting))
            name_of(session)
        assert is_hit(process) is is_kept


def test_a_variable_given_as_a_parameter_is_one(postgresql: World) -> None:
    told = postgresql.process(vary=tenant_of)
    with told.session() as session:
        session.execute(text("SELECT set_config('app.tenant', :tenant, true)"), {"tenant": "blue"})
        name_of(session)
    assert is_hit(told)


def test_s70_a_setting_of_the_databases_own_is_nothing_that_the_application_tells(postgresql: World) -> None:
    told = postgresql.process(vary=tenant_of)
    for setting in ("SET LOCAL ROLE postgres", "SELECT set_config('search_path', 'public', true)"):
        with told.session() as session:
            session.execute(text(setting))
            name_of(session)
    assert told.counts().get("fill", 0) == 0


def test_a_variable_set_for_good_is_not_known_in_the_next_transaction(postgresql: World) -> None:
    told = postgresql.process(vary=tenant_of, engine_pool_size=1, engine_max_overflow=0)
    with told.session() as session:
        session.execute(text("SET app.tenant = 'blue'"))
        session.commit()
        name_of(session)
        assert told.counts().get("fill", 0) == 0
        session.commit()
        session.execute(text("SET app.tenant = 'red'"))
        name_of(session)
    assert told.counts()["fill"] == 1


def test_a_rollback_to_a_savepoint_may_take_a_variable_back(postgresql: World) -> None:
    told = postgresql.process(vary=tenant_of)
    with told.session() as session:
        savepoint = session.begin_nested()
        session.execute(text("SET LOCAL app.tenant = 'blue'"))
        savepoint.rollback()
        name_of(session)
    assert told.counts().get("fill", 0) == 0


def test_s70_a_variable_of_mariadbs_set_for_a_session_is_what_the_application_tells(mariadb: World) -> None:
    told, silent = (mariadb.process(vary=vary, engine_isolation_level="READ COMMITTED") for vary in (tenant_of, None))
    for process, is_kept in ((told, True), (silent, False)):
        with process.session() as session:
            session.execute(text("SET @tenant = 'blue'"))
            name_of(session)
        assert is_hit(process) is is_kept


def test_setting_a_variable_drops_nothing(postgresql: World) -> None:
    reader, writer = postgresql.process(), postgresql.process()
    read_in(reader, name_of)
    with writer.session() as session:
        session.execute(text("SELECT set_config('app.tenant', 'blue', true)"))
        session.commit()
    assert is_hit(reader)
