"""Are reads and writes right where a setting of the connection makes the names of tables mean others?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import func, make_url, select, text, update
from sqlalchemy.orm import Session

from coherence_world import Process, Product, World, make_engine, name_of, read_in
from servers import database

Settle = Callable[[Session], Any]


@pytest.fixture
def main(postgresql_url: str) -> Iterator[World]:
    world = World(postgresql_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def tenant(main: World) -> Iterator[World]:
    """The same tables in a schema of a tenant, whose own processes have it on their search path."""
    engine = make_engine(main.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA tenant")
    world = World(f"{main.url}?options=-csearch_path%3Dtenant", store=main.store)
    world.fill()
    with world.process(cached=False).session() as session:
        session.get_one(Product, 1).name = "t"
        session.commit()
    yield world
    world.close()
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA tenant CASCADE")
    engine.dispose()


SETTLING: dict[str, Settle] = {
    "SET LOCAL": lambda session: session.execute(text("SET LOCAL search_path TO tenant")),
    "SET": lambda session: session.execute(text("SET search_path TO tenant")),
    "SET SCHEMA": lambda session: session.execute(text("SET SCHEMA 'tenant'")),
    "set_config by text": lambda session: session.execute(text("SELECT set_config('search_path', 'tenant', true)")),
    "set_config": lambda session: session.execute(select(func.set_config("search_path", "tenant", True))),
    "set_config of its schema": lambda session: session.execute(
        select(func.pg_catalog.set_config("search_path", "tenant", True))
    ),
    "set_config of Core": lambda session: session.connection().execute(
        select(func.set_config("search_path", "tenant", True))
    ),
    "on the driver's connection": lambda session: (
        session.connection().connection.cursor().execute("SET LOCAL search_path TO tenant")
    ),
    "on the driver's connection, by function": lambda session: (
        session.connection().connection.cursor().execute("SELECT set_config('search_path', 'tenant', true)")
    ),
}


@pytest.fixture(params=SETTLING)
def settle(request: pytest.FixtureRequest) -> Settle:
    return SETTLING[request.param]


def test_what_is_read_as_a_tenant_is_not_kept_for_others(main: World, tenant: World, settle: Settle) -> None:
    process = main.process()
    read_in(process, lambda session: name_of(session, 2))
    with process.session() as session:
        settle(session)
        assert name_of(session) == "t"
        session.rollback()
    assert read_in(process, name_of) == "a"
    with process.session() as session:
        settle(session)
        assert name_of(session) == "t"


def test_what_is_written_as_a_tenant_is_seen_by_the_tenants_readers(main: World, tenant: World, settle: Settle) -> None:
    writer, reader = main.process(), tenant.process()
    read_in(writer, name_of)
    assert read_in(reader, name_of) == "t"
    with writer.session() as session:
        settle(session)
        session.execute(update(Product).where(Product.id == 1).values(name="b"))
        session.commit()
    assert read_in(reader, name_of) == "b"


def test_what_is_written_as_a_tenant_in_a_later_transaction_of_the_connection_is_seen(
    main: World, tenant: World
) -> None:
    writer, reader = main.process(), tenant.process()
    assert read_in(reader, name_of) == "t"
    with writer.engine.connect() as connection:
        connection.execute(text("SET search_path TO tenant"))
        connection.commit()
        for name in ("b", "c"):
            connection.execute(update(Product).where(Product.id == 1).values(name=name))
            connection.commit()
            assert read_in(reader, name_of) == name


def test_what_is_written_in_another_database_of_a_mariadb_is_seen_there(mariadb_url: str) -> None:
    here = World(mariadb_url)
    here.fill()
    with database(make_url(mariadb_url), "other") as url:
        there = World(url.render_as_string(hide_password=False), store=here.store)
        there.fill()
        writer, reader = here.process(), there.process()
        assert read_in(reader, name_of) == "a"
        with writer.engine.connect() as connection:
            connection.exec_driver_sql(f"USE {url.database}")
            connection.execute(update(Product).where(Product.id == 1).values(name="b"))
            connection.commit()
            assert read_in(reader, name_of) == "b"
            connection.invalidate()
        there.close()
    here.close()


def test_a_setting_that_names_mean_the_same_under_leaves_lists_of_others_cached(main: World) -> None:
    writer, reader = main.process(), main.process()
    read_in(reader, lambda session: name_of(session, 2))
    with writer.session() as session:
        session.execute(text("SET LOCAL statement_timeout = 5000"))
        session.execute(update(Product).where(Product.id == 1).values(name="b"))
        session.commit()
    assert hits(reader)


def hits(process: Process) -> bool:
    with process.counting() as selects:
        read_in(process, lambda session: name_of(session, 2))
    return not selects
