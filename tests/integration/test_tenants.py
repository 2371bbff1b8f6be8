"""Is a tenant ever shown another's rows through the cache, however they are kept apart and however they are read?

Each way to be a tenant is met by each way to read: as one tenant, then as the other, compared with the same application
without a cache. Where caching is allowed, the second read of the same tenant asks the database nothing.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pymysql  # type: ignore[import-untyped]
import pytest
from sqlalchemy import Engine, NullPool, Select, create_engine, event, make_url, text
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import ORMExecuteState, Query, Session, sessionmaker, with_loader_criteria

from querycache import QueryCache
from servers import database
from tenant_support import (
    FEW,
    READS,
    TENANT,
    TENANTS,
    Book,
    Enter,
    Library,
    Shelf,
    Stage,
    Theatre,
    put_place,
    put_rows,
)

Way = Callable[[Stage], Enter]
EVERY = ("sqlite", "postgresql", "mariadb")


# -- rows of one table, told apart by a listener's criteria ----------------------------------------------------------


def add_criteria(orm: ORMExecuteState) -> None:
    if orm.is_select and not orm.is_column_load and not orm.is_relationship_load:
        tenant = TENANT.get()
        for entity in (Shelf, Book):
            orm.statement = orm.statement.options(
                with_loader_criteria(entity, lambda cls: cls.tenant == tenant, include_aliases=True)
            )


def add_criteria_each_time(orm: ORMExecuteState) -> None:
    if orm.is_select:
        for entity in (Shelf, Book):
            criteria = with_loader_criteria(entity, entity.tenant == TENANT.get(), propagate_to_loaders=False)
            orm.statement = orm.statement.options(criteria)


def subclass_of_session(*listeners: Any) -> type[Session]:
    made = type("TenantSession", (Session,), {})
    for listener in listeners:
        event.listen(made, "do_orm_execute", listener)
    return made


def criteria_of_a_session_class(stage: Stage) -> Enter:
    made = subclass_of_session(add_criteria)
    engine = stage.engine()
    return lambda: made(engine)


def criteria_added_after_the_cache(stage: Stage) -> Enter:
    engine = stage.engine()
    factory = sessionmaker(engine)
    event.listen(factory, "do_orm_execute", add_criteria_each_time)
    return factory


def criteria_of_one_session(stage: Stage) -> Enter:
    engine = stage.engine()

    def enter() -> Session:
        session = Session(engine)
        event.listen(session, "do_orm_execute", add_criteria)
        return session

    return enter


def criteria_of_every_session(stage: Stage) -> Enter:
    engine = stage.engine()

    def add(orm: ORMExecuteState) -> None:
        if orm.session.info.get("stage") is stage:
            add_criteria(orm)

    event.listen(Session, "do_orm_execute", add)
    stage.at_end(lambda: event.remove(Session, "do_orm_execute", add))
    return lambda: Session(engine, info={"stage": stage})


def criteria_behind_one_that_answers(stage: Stage) -> Enter:
    """A listener that runs the statement itself leaves the next one its turn."""
    engine = stage.engine()

    def run(orm: ORMExecuteState) -> Any:
        return orm.invoke_statement()

    def enter() -> Session:
        session = Session(engine)
        event.listen(session, "do_orm_execute", run)
        event.listen(session, "do_orm_execute", add_criteria)
        return session

    return enter


def criteria_of_an_overridden_execute(stage: Stage) -> Enter:
    engine = stage.engine()

    def added(statement: Any) -> Any:
        if isinstance(statement, Select):
            for entity in (Shelf, Book):
                statement = statement.options(with_loader_criteria(entity, entity.tenant == TENANT.get()))
        return statement

    class TenantSession(Session):
        def execute(self, statement: Any, *arguments: Any, **options: Any) -> Any:
            return super().execute(added(statement), *arguments, **options)

        def scalars(self, statement: Any, *arguments: Any, **options: Any) -> Any:
            return super().scalars(added(statement), *arguments, **options)

        def scalar(self, statement: Any, *arguments: Any, **options: Any) -> Any:
            return super().scalar(added(statement), *arguments, **options)

    return lambda: TenantSession(engine)


def criteria_of_legacy_queries(stage: Stage) -> Enter:
    engine = stage.engine()

    class TenantQuery(Query[Any]):
        pass

    @event.listens_for(TenantQuery, "before_compile", retval=True)
    def add(query: Any) -> Any:
        for described in query.column_descriptions:
            if described["entity"] in (Shelf, Book):
                query = query.enable_assertions(False).filter(described["entity"].tenant == TENANT.get())
        return query

    return lambda: Session(engine, query_cls=TenantQuery)


# -- rows of one table, told apart on their way to the driver --------------------------------------------------------


def sql_rewritten_as_constructs(stage: Stage) -> Enter:
    engine = stage.engine()

    @event.listens_for(engine, "before_execute", retval=True)
    def rewrite(connection: Any, statement: Any, multiparams: Any, params: Any, options: Any) -> Any:
        if isinstance(statement, Select):
            for described in statement.column_descriptions:
                if described.get("entity") in (Shelf, Book):
                    statement = statement.where(described["entity"].tenant == TENANT.get())
        return statement, multiparams, params

    return lambda: Session(engine)


def sql_rewritten_as_text(stage: Stage) -> Enter:
    engine = stage.engine(attach=False)

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def rewrite(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        if TENANT.get() == "red":
            statement = re.sub(r"\b(te_shelf\.name|te_book\.title)(?= AS\b|,|\s+FROM\b)", r"upper(\1)", statement)
        return statement, parameters

    stage.attach(engine)
    return lambda: Session(engine)


def values_rewritten(stage: Stage) -> Enter:
    engine = stage.engine()

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def rewrite(
        connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> tuple[str, Any]:
        swapped = {1: 2, 2: 1, 11: 21, 21: 11}
        if TENANT.get() == "red" and isinstance(parameters, dict):
            parameters = {name: swapped.get(value, value) for name, value in parameters.items()}
        elif TENANT.get() == "red" and not executemany:
            parameters = tuple(swapped.get(value, value) for value in parameters)
        return statement, parameters

    return lambda: Session(engine)


# -- places of their own ---------------------------------------------------------------------------------------------


def bind_of_the_session(stage: Stage) -> Enter:
    engines = {tenant: stage.engine(place) for tenant, place in stage.places.items()}
    return lambda: Session(engines[TENANT.get() or ""])


def bind_chosen_by_get_bind(stage: Stage) -> Enter:
    engines = {tenant: stage.engine(place) for tenant, place in stage.places.items()}

    class TenantSession(Session):
        def get_bind(self, *arguments: Any, **options: Any) -> Engine:
            return engines[TENANT.get() or ""]

    return TenantSession


def bind_chosen_by_a_listener(stage: Stage) -> Enter:
    engines = {tenant: stage.engine(place) for tenant, place in stage.places.items()}
    factory = sessionmaker(engines[""])

    @event.listens_for(factory, "do_orm_execute")
    def choose(orm: ORMExecuteState) -> None:
        orm.bind_arguments["bind"] = engines[TENANT.get() or ""]

    return factory


def bind_of_each_class(stage: Stage) -> Enter:
    engines = {tenant: stage.engine(place) for tenant, place in stage.places.items()}
    return lambda: Session(binds={Library: engines[TENANT.get() or ""]})


def shard_of_the_tenant(stage: Stage) -> Enter:
    shards = {tenant: stage.engine(place) for tenant, place in stage.places.items()}

    def enter() -> Session:
        tenant = TENANT.get() or ""
        identities: Any = lambda mapper, key, **options: [tenant]  # noqa: E731
        return ShardedSession(
            shard_chooser=lambda mapper, instance, clause=None: tenant,
            identity_chooser=identities,
            execute_chooser=lambda orm: [tenant],
            shards=shards,
        )

    return enter


def connection_made_for_the_tenant(stage: Stage) -> Enter:
    """``creator``: one engine, and each connection leads to the database of whoever is at work."""
    engine = stage.engine(creator=lambda: connect_to(stage.places[TENANT.get() or ""]), poolclass=NullPool)
    return lambda: Session(engine)


def connection_led_elsewhere(stage: Stage) -> Enter:
    engine = stage.engine(poolclass=NullPool, attach=False)

    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, record: Any, arguments: Any, options: Any) -> Any:
        return connect_to(stage.places[TENANT.get() or ""])

    stage.attach(engine)
    return lambda: Session(engine)


def connect_to(place: str) -> Any:
    url = make_url(place)
    if url.get_backend_name() == "sqlite":
        return sqlite3.connect(url.database or "")
    options = {"user": url.username, "password": url.password, "host": url.host, "port": url.port}
    options = {name: value for name, value in options.items() if value is not None}
    if url.get_backend_name() == "postgresql":
        return psycopg.connect(dbname=url.database, **url.query, **options)  # type: ignore[arg-type]
    return pymysql.connect(database=url.database, **url.query, **options)


# -- names that mean another table -----------------------------------------------------------------------------------


def schema_map_of_the_engine(stage: Stage) -> Enter:
    engine = stage.engine()
    return lambda: Session(engine.execution_options(**stage.schema_map()))


def schema_map_of_the_connection(stage: Stage) -> Enter:
    engine = stage.engine()

    def enter() -> Session:
        session = Session(engine)
        session.connection(execution_options=stage.schema_map())
        return session

    return enter


def schema_map_of_each_statement(stage: Stage) -> Enter:
    engine = stage.engine()
    factory = sessionmaker(engine)

    @event.listens_for(factory, "do_orm_execute")
    def choose(orm: ORMExecuteState) -> None:
        orm.update_execution_options(**stage.schema_map())

    return factory


def name_setting_of(stage: Stage) -> str:
    own = "public" if stage.url.startswith("postgresql") else make_url(stage.url).database
    schema = stage.schemas.get(TENANT.get() or "", own)
    return f"SET search_path TO {schema}" if stage.url.startswith("postgresql") else f"USE {schema}"


def names_set_when_a_transaction_begins(stage: Stage) -> Enter:
    engine = stage.engine()
    factory = sessionmaker(engine)

    @event.listens_for(factory, "after_begin")
    def set_names(session: Session, transaction: Any, connection: Any) -> None:
        connection.execute(text(name_setting_of(stage)))

    return factory


def names_set_at_checkout(stage: Stage) -> Enter:
    engine = stage.engine(attach=False)

    @event.listens_for(engine, "checkout")
    def set_names(raw: Any, record: Any, proxy: Any) -> None:
        raw.cursor().execute(name_setting_of(stage))

    stage.attach(engine)
    return lambda: Session(engine)


def names_set_at_the_beginning(stage: Stage) -> Enter:
    engine = stage.engine()

    @event.listens_for(engine, "begin")
    def set_names(connection: Any) -> None:
        connection.exec_driver_sql(name_setting_of(stage))

    return lambda: Session(engine)


def names_set_when_connecting(stage: Stage) -> Enter:
    engine = stage.engine(attach=False, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def set_names(raw: Any, record: Any) -> None:
        raw.cursor().execute(name_setting_of(stage))
        raw.commit()

    stage.attach(engine)
    return lambda: Session(engine)


def names_set_by_hand(stage: Stage) -> Enter:
    engine = stage.engine()

    def enter() -> Session:
        session = Session(engine)
        session.execute(text(name_setting_of(stage)))
        return session

    return enter


def names_set_by_connection_options(stage: Stage) -> Enter:
    paths = {"": "public", **stage.schemas}
    engines = {name: stage.engine(connect_args={"options": f"-csearch_path={path}"}) for name, path in paths.items()}
    return lambda: Session(engines[TENANT.get() or ""])


# -- rows that the database shows by who asks ------------------------------------------------------------------------


def variable_set_when_a_transaction_begins(stage: Stage) -> Enter:
    engine = stage.engine(connect_args={"options": f"-crole={stage.role}"})
    factory = sessionmaker(engine)

    @event.listens_for(factory, "after_begin")
    def set_variable(session: Session, transaction: Any, connection: Any) -> None:
        connection.execute(text("SELECT set_config('te.tenant', :tenant, true)"), {"tenant": TENANT.get() or ""})

    return factory


def variable_set_at_checkout(stage: Stage) -> Enter:
    engine = stage.engine(connect_args={"options": f"-crole={stage.role}"}, attach=False)

    @event.listens_for(engine, "checkout")
    def set_variable(raw: Any, record: Any, proxy: Any) -> None:
        raw.cursor().execute(f"SET te.tenant = '{TENANT.get() or ''}'")

    stage.attach(engine)
    return lambda: Session(engine)


def variable_set_by_hand(stage: Stage) -> Enter:
    engine = stage.engine(connect_args={"options": f"-crole={stage.role}"})

    def enter() -> Session:
        session = Session(engine)
        session.execute(text(f"SET LOCAL te.tenant = '{TENANT.get() or ''}'"))
        return session

    return enter


def role_set_when_a_transaction_begins(stage: Stage) -> Enter:
    engine = stage.engine()
    factory = sessionmaker(engine)

    @event.listens_for(factory, "after_begin")
    def set_role(session: Session, transaction: Any, connection: Any) -> None:
        tenant = TENANT.get()
        if tenant is not None:
            connection.execute(text(f"SET LOCAL ROLE {stage.roles[tenant]}"))

    return factory


def role_of_the_connection(stage: Stage) -> Enter:
    roles = {"": stage.role, **stage.roles}
    engines = {name: stage.engine(connect_args={"options": f"-crole={role}"}) for name, role in roles.items()}
    return lambda: Session(engines[TENANT.get() or ""])


# -- the stages ------------------------------------------------------------------------------------------------------


@contextmanager
def shared_rows(url: str) -> Iterator[dict[str, Any]]:
    """Both tenants' rows in one table."""
    with filling(url) as engine, Session(engine) as session:
        put_rows(session, *TENANTS)
    yield {}


@contextmanager
def places(url: str) -> Iterator[dict[str, Any]]:
    """A database for each tenant; on PostgreSQL a schema on the search path of its connections."""
    with schemas(url) as found:
        if url.startswith("sqlite"):
            yield {"places": {tenant: f"{url}.{tenant}" for tenant in TENANTS}}
            return
        base = make_url(url)
        yield {
            "places": {
                tenant: (
                    base.update_query_dict({"options": f"-csearch_path={schema}"})
                    if url.startswith("postgresql")
                    else base.set(database=schema)
                ).render_as_string(hide_password=False)
                for tenant, schema in found["schemas"].items()
            }
        }


@contextmanager
def schemas(url: str) -> Iterator[dict[str, Any]]:
    """A schema for each tenant, which MariaDB calls a database and SQLite does not have: there it is a file."""
    with ExitStack() as stack:
        named: dict[str, str] = {}
        with filling(url) as engine, Session(engine) as session:
            put_place(session, "nobody")
        for tenant in TENANTS:
            place = url
            if url.startswith("sqlite"):
                place = f"{url}.{tenant}"
            elif url.startswith("postgresql"):
                named[tenant] = f"te_{tenant}"
                with filling(url) as engine, engine.begin() as connection:
                    connection.execute(text(f"CREATE SCHEMA te_{tenant}"))
                place = f"{url}?options=-csearch_path%3Dte_{tenant}"
            else:
                made = stack.enter_context(database(make_url(url), tenant))
                named[tenant], place = made.database or "", made.render_as_string(hide_password=False)
            with filling(place) as engine, Session(engine) as session:
                put_place(session, tenant)
        yield {"schemas": named}


@contextmanager
def rows_by_who_asks(
    url: str, condition: str = "tenant = nullif(current_setting('te.tenant', true), '')"
) -> Iterator[Any]:
    """Both tenants' rows in one table, of which PostgreSQL shows those of whoever asks."""
    suffix = secrets.token_hex(4)
    roles = {tenant: f"te_{tenant}_{suffix}" for tenant in TENANTS}
    with shared_rows(url), filling(url) as engine, engine.begin() as connection:
        for role in (*roles.values(), f"te_reader_{suffix}"):
            connection.execute(text(f"CREATE ROLE {role}"))
            connection.execute(text(f"GRANT USAGE ON SCHEMA public TO {role}"))
            connection.execute(text(f"GRANT ALL ON te_shelf, te_book TO {role}"))
        for table in ("te_shelf", "te_book"):
            connection.execute(text(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"))
            connection.execute(text(f"CREATE POLICY own ON {table} USING ({condition})"))
    try:
        yield {"roles": roles, "role": f"te_reader_{suffix}"}
    finally:
        with filling(url) as engine, engine.begin() as connection:
            for role in (*roles.values(), f"te_reader_{suffix}"):
                connection.execute(text(f"DROP OWNED BY {role}"))
                connection.execute(text(f"DROP ROLE {role}"))


def rows_by_role(url: str) -> Any:
    return rows_by_who_asks(url, "current_user LIKE 'te_' || tenant || '_%'")


@contextmanager
def filling(url: str) -> Iterator[Engine]:
    engine = create_engine(url, poolclass=NullPool)
    Library.metadata.create_all(engine)
    yield engine


# -- the play --------------------------------------------------------------------------------------------------------

Setting = Callable[[str], Any]


@dataclass(frozen=True)
class Case:
    """A way, where it applies, and whether a cache may answer its reads, without ``vary`` and with it (None: as without)."""

    way: Way
    setting: Setting
    plainly: bool
    told: bool | None = None
    databases: tuple[str, ...] = ("sqlite",)


SERVERS = ("postgresql", "mariadb")
POSTGRESQL = ("postgresql",)

CASES = [
    Case(criteria_of_a_session_class, shared_rows, True, databases=EVERY),
    Case(criteria_added_after_the_cache, shared_rows, True),
    Case(criteria_of_one_session, shared_rows, True),
    Case(criteria_of_every_session, shared_rows, True),
    Case(criteria_behind_one_that_answers, shared_rows, False),
    Case(criteria_of_an_overridden_execute, shared_rows, True),
    Case(criteria_of_legacy_queries, shared_rows, True),
    Case(sql_rewritten_as_constructs, shared_rows, False, False),
    Case(sql_rewritten_as_text, shared_rows, False, False),
    Case(values_rewritten, shared_rows, False, False),
    Case(bind_of_the_session, places, True, databases=EVERY),
    Case(bind_chosen_by_get_bind, places, True),
    Case(bind_chosen_by_a_listener, places, True),
    Case(bind_of_each_class, places, True),
    Case(shard_of_the_tenant, places, False),
    Case(connection_made_for_the_tenant, places, True, True, ("sqlite", "postgresql")),
    Case(connection_led_elsewhere, places, True, databases=("sqlite", "postgresql")),
    Case(schema_map_of_the_engine, schemas, True, databases=SERVERS),
    Case(schema_map_of_the_connection, schemas, True, databases=SERVERS),
    Case(schema_map_of_each_statement, schemas, True, databases=SERVERS),
    Case(names_set_when_a_transaction_begins, schemas, False, False, SERVERS),
    Case(names_set_at_checkout, schemas, False, False, SERVERS),
    Case(names_set_at_the_beginning, schemas, False, databases=SERVERS),
    Case(names_set_when_connecting, schemas, True, databases=SERVERS),
    Case(names_set_by_hand, schemas, False, False, SERVERS),
    Case(names_set_by_connection_options, schemas, True, databases=POSTGRESQL),
    Case(variable_set_when_a_transaction_begins, rows_by_who_asks, False, True, POSTGRESQL),
    Case(variable_set_at_checkout, rows_by_who_asks, False, True, POSTGRESQL),
    Case(variable_set_by_hand, rows_by_who_asks, False, True, POSTGRESQL),
    Case(role_set_when_a_transaction_begins, rows_by_role, False, False, POSTGRESQL),
    Case(role_of_the_connection, rows_by_role, False, True, POSTGRESQL),
]

# One of each kind; for the others a few reads are enough.
READ_IN_EVERY_WAY = (criteria_of_a_session_class, sql_rewritten_as_constructs, connection_led_elsewhere)

PLAYS = [
    pytest.param(case, name, vary, id=f"{case.way.__name__}-{name}-{'told' if vary else 'plainly'}")
    for case in CASES
    for name in case.databases
    for vary in ((False,) if case.told is None else (False, True))
]


@pytest.fixture
def play(request: pytest.FixtureRequest, engine_of: Callable[..., Engine]) -> Iterator[Callable[..., Theatre]]:
    with ExitStack() as stack:

        def begin(case: Case, name: str, vary: bool) -> Theatre:
            url = request.getfixturevalue(f"{name}_url")
            props = stack.enter_context(case.setting(url))
            hook = (lambda session: TENANT.get()) if vary else None
            cache = stack.enter_context(QueryCache("memory://", models=[Shelf, Book], vary=hook))
            stages = [Stage(url, engine_of, one, **props) for one in (cache, None)]
            for stage in stages:
                stack.callback(stage.end)
            return Theatre(stages[0], stages[1], case.way)

        yield begin


@pytest.mark.parametrize(("case", "name", "vary"), PLAYS)
def test_nobody_is_shown_anothers_rows(case: Case, name: str, vary: bool, play: Any) -> None:
    theatre: Theatre = play(case, name, vary)
    reads = list(READS) if case.way in READ_IN_EVERY_WAY and name == "sqlite" else FEW
    assert theatre.wrong(reads) == []
    if case.told if vary else case.plainly:
        assert theatre.asked(reads) == []
    theatre.rename("red")
    assert theatre.wrong(["get", "lazy", "Model.cache.filter"]) == []
