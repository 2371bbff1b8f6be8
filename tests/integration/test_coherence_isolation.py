"""Which isolation level is in force, however it was set; and what is served and stored at each?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, event, insert, make_url, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from coherence_world import Category, Process, Product, World, is_hit, make_engine, name_of, pin, read_in, rename
from querycache import QueryCache


@pytest.fixture
def world(server_world: World) -> World:
    return server_world


def reads_a_snapshot(process: Process, writer: Process) -> bool:
    """Tell whether a transaction is kept from what was committed and cached after its first statement, as the database does."""
    rename(writer, "a")
    with process.session() as session:
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        seen = name_of(session)
        truth = session.execute(text("SELECT name FROM product WHERE id = 1")).scalar_one()
    assert seen == truth
    assert read_in(process, name_of) == "b"
    return seen == "a"


# -- the level as an option -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "is_snapshot"),
    [("AUTOCOMMIT", False), ("READ COMMITTED", False), ("REPEATABLE READ", True), ("SERIALIZABLE", True)],
)
@pytest.mark.parametrize("where", ["engine", "execution options"])
def test_a_level_that_is_an_option_is_kept_to(postgresql: World, level: str, is_snapshot: bool, where: str) -> None:
    if where == "engine":
        process = postgresql.process(engine_isolation_level=level)
    else:
        process = postgresql.process()
        process = Process(process.engine.execution_options(isolation_level=level), process.cache)
    assert reads_a_snapshot(process, postgresql.process()) == is_snapshot


def test_under_read_committed_each_statement_is_served_and_stored(world: World) -> None:
    process, writer = world.process(engine_isolation_level="READ COMMITTED"), world.process()
    with process.session() as session:
        pin(session)
        assert name_of(session) == "a"
        with process.counting() as selects:
            name_of(session)
        assert not selects
        rename(writer, "b")
        assert name_of(session) == "b"


def test_in_autocommit_reads_are_served_and_stored(world: World) -> None:
    process, writer = world.process(engine_isolation_level="AUTOCOMMIT"), world.process()
    read_in(process, name_of)
    assert is_hit(process)
    rename(writer, "b")
    assert read_in(process, name_of) == "b"


def test_in_autocommit_a_transaction_begun_by_text_is_neither_served_nor_stored(postgresql: World) -> None:
    process, writer = postgresql.process(engine_isolation_level="AUTOCOMMIT"), postgresql.process()
    read_in(process, name_of)
    with process.session() as session:
        session.execute(text("BEGIN ISOLATION LEVEL REPEATABLE READ"))
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"
        session.execute(text("COMMIT"))
    assert read_in(process, name_of) == "b"


# -- READ UNCOMMITTED -----------------------------------------------------------------------------------------------


def test_under_read_uncommitted_nothing_is_stored_on_mariadb(mariadb: World) -> None:
    process, writer = mariadb.process(engine_isolation_level="READ UNCOMMITTED"), mariadb.process(cached=False)
    with writer.session() as session:
        session.execute(update(Product).where(Product.id == 1).values(name="dirty"))
        assert read_in(process, name_of) == "dirty"
        session.rollback()
    assert read_in(process, name_of) == "a"


def test_under_read_uncommitted_what_others_stored_is_served_on_mariadb(mariadb: World) -> None:
    process, other = mariadb.process(engine_isolation_level="READ UNCOMMITTED"), mariadb.process()
    read_in(other, name_of)
    assert is_hit(process)
    rename(other, "b")
    assert read_in(process, name_of) == "b"


def test_read_uncommitted_is_read_committed_on_postgresql(postgresql: World) -> None:
    process, writer = postgresql.process(engine_isolation_level="READ UNCOMMITTED"), postgresql.process(cached=False)
    with writer.session() as session:
        session.execute(update(Product).where(Product.id == 1).values(name="dirty"))
        assert read_in(process, name_of) == "a"
        session.rollback()
    assert is_hit(process)


# -- SERIALIZABLE ---------------------------------------------------------------------------------------------------


def test_under_serializable_nothing_is_served(world: World) -> None:
    process = world.process(engine_isolation_level="SERIALIZABLE")
    read_in(process, name_of)
    assert not is_hit(process)


def test_what_a_serializable_transaction_reads_is_stored_for_others(world: World) -> None:
    process, other = world.process(engine_isolation_level="SERIALIZABLE"), world.process()
    read_in(process, name_of)
    assert is_hit(other)
    rename(other, "b")
    assert read_in(process, name_of) == "b"


def test_an_engine_that_is_serializable_is_not_served_beside_one_that_is_not(world: World) -> None:
    plain, serializable = make_engine(world.url), make_engine(world.url, isolation_level="SERIALIZABLE")
    cache = QueryCache(world.store, models=[Category, Product])
    for engine in (plain, serializable):
        cache.attach(engine)
    one, other = Process(plain, cache), Process(serializable, cache)
    world.processes += [one, other]
    read_in(one, name_of)
    assert is_hit(one)
    assert not is_hit(other)


@pytest.mark.parametrize("options", [{}, {"postgresql_readonly": True}], ids=["read write", "read only"])
def test_the_read_only_anomaly_is_refused_as_without_a_cache(postgresql: World, options: dict[str, bool]) -> None:
    """Batch 3 is closed while a late product is put into it: one who reports the closed batch must not miss it."""
    late, closing, reporting = (postgresql.process(engine_isolation_level="SERIALIZABLE") for _ in range(3))

    def total(session: Session) -> list[str]:
        return list(session.scalars(select(Product.name).where(Product.category_id == 3)))

    def batch(session: Session) -> str:
        return session.scalars(select(Category.name).where(Category.id == 3)).one()

    cached = postgresql.process()
    read_in(cached, total)
    with late.session() as putting:
        assert batch(putting) == "c3"
        with closing.session() as session:
            session.execute(update(Category).where(Category.id == 3).values(name="closed"))
            session.commit()
        read_in(cached, batch)
        with reporting.session() as session:
            session.connection(execution_options=options)
            assert (batch(session), total(session)) == ("closed", ["a"])
            session.commit()
        with pytest.raises(DBAPIError, match="could not serialize"):
            putting.execute(insert(Product).values(id=5, name="late", stock=0, category_id=3))


# -- levels that are somebody's default -----------------------------------------------------------------------------


@contextmanager
def postgresql_default(world: World, setting: str) -> Iterator[None]:
    """Set a default in the test's own database, and take it back."""
    engine = create_engine(world.url, isolation_level="AUTOCOMMIT")
    database = make_url(world.url).database
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ALTER {setting.format(database=database)}")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"ALTER ROLE CURRENT_USER IN DATABASE {database} RESET ALL")
            connection.exec_driver_sql(f"ALTER DATABASE {database} RESET ALL")
    engine.dispose()


@pytest.mark.parametrize("owner", ["ROLE CURRENT_USER IN DATABASE {database}", "DATABASE {database}"])
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_default_of_the_role_or_the_database_is_kept_to(postgresql: World, owner: str, level: str) -> None:
    writer = postgresql.process(engine_isolation_level="READ COMMITTED")
    with postgresql_default(postgresql, f"{owner} SET default_transaction_isolation TO '{level}'"):
        process = postgresql.process()
        assert reads_a_snapshot(process, writer)
        read_in(process, name_of)
        assert is_hit(process) == (level == "repeatable read")


@pytest.mark.parametrize(
    "statement",
    [
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET default_transaction_isolation TO 'repeatable read'",
    ],
)
def test_a_default_set_when_a_connection_is_made_is_kept_to(postgresql: World, statement: str) -> None:
    engine = make_engine(postgresql.url)

    @event.listens_for(engine, "connect")
    def set_default(raw, record) -> None:  # type: ignore[no-untyped-def]  # the pool's own types are private
        raw.execute(statement)
        raw.commit()

    assert reads_a_snapshot(postgresql.process(engine=engine), postgresql.process())


def test_a_default_in_mariadbs_init_command_is_kept_to(mariadb: World) -> None:
    command = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"
    process = mariadb.process(engine_connect_args={"init_command": command})
    assert not reads_a_snapshot(process, mariadb.process())
    assert reads_a_snapshot(mariadb.process(), mariadb.process())


def test_a_default_of_the_whole_server_is_kept_to(own_mariadb: World) -> None:
    admin = own_mariadb.process(cached=False, engine_isolation_level="AUTOCOMMIT")
    for level, is_snapshot in (("READ COMMITTED", False), ("SERIALIZABLE", True), ("REPEATABLE READ", True)):
        with admin.engine.connect() as connection:
            connection.exec_driver_sql(f"SET GLOBAL TRANSACTION ISOLATION LEVEL {level}")
        process = own_mariadb.process()
        writer = own_mariadb.process(engine_isolation_level="READ COMMITTED")
        if level != "SERIALIZABLE":  # there a writer waits for readers
            assert reads_a_snapshot(process, writer) == is_snapshot
        read_in(process, name_of)
        assert is_hit(process) == (level != "SERIALIZABLE")


# -- levels set by text ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "SET LOCAL transaction_isolation TO 'repeatable read'",
        "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_level_set_by_text_makes_the_transaction_uncached(postgresql: World, statement: str) -> None:
    process, writer = postgresql.process(), postgresql.process()
    read_in(process, name_of)
    with process.session() as session:
        session.execute(text(statement))
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"
    assert read_in(process, name_of) == "b"


@pytest.mark.parametrize(
    "statement",
    [
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SET default_transaction_isolation TO 'repeatable read'",
    ],
)
def test_a_default_set_by_text_is_uncached_and_then_asked_for(postgresql: World, statement: str) -> None:
    process = postgresql.process(engine_pool_size=1, engine_max_overflow=0)
    writer = postgresql.process()
    with process.session() as session:
        session.execute(text(statement))
        session.commit()
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == "a"
        session.commit()
    assert reads_a_snapshot(process, writer)


@pytest.mark.parametrize(
    ("statement", "is_snapshot"),
    [
        ("SET TRANSACTION ISOLATION LEVEL READ COMMITTED", False),
        ("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", False),
        ("SET SESSION tx_isolation = 'READ-COMMITTED'", False),
        ("SET @@session.tx_isolation = 'REPEATABLE-READ'", True),
    ],
)
def test_a_level_set_by_text_on_mariadb_makes_the_connection_uncached(
    mariadb: World, statement: str, is_snapshot: bool
) -> None:
    process, writer = mariadb.process(), mariadb.process()
    with process.session() as session:
        session.execute(text(statement))
        pin(session)
        rename(writer, "b")
        read_in(writer, name_of)
        assert name_of(session) == ("a" if is_snapshot else "b")
    assert read_in(process, name_of) == "b"


def test_a_level_set_by_text_for_the_session_is_asked_for_when_the_connection_comes_back(mariadb: World) -> None:
    process, writer = mariadb.process(engine_pool_size=1, engine_max_overflow=0), mariadb.process()
    with process.session() as session:
        session.execute(text("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED"))
    assert not reads_a_snapshot(process, writer)


def test_a_search_path_set_by_text_makes_the_connection_uncached_until_it_goes_back(postgresql: World) -> None:
    process = postgresql.process()
    with process.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA other")
        connection.exec_driver_sql("CREATE TABLE other.product AS SELECT * FROM product")
        connection.exec_driver_sql("UPDATE other.product SET name = 'theirs'")
    read_in(process, name_of)
    with process.session() as session:
        session.execute(text("SET LOCAL search_path TO other"))
        assert name_of(session) == "theirs"
    assert read_in(process, name_of) == "a"
    assert is_hit(process)


def test_a_role_set_by_text_makes_the_connection_uncached_until_it_goes_back(postgresql: World) -> None:
    process, writer = postgresql.process(), postgresql.process()
    read_in(process, name_of)
    with process.session() as session, process.counting() as selects:
        session.execute(text("SET LOCAL ROLE NONE"))
        name_of(session)
    assert selects
    rename(writer, "b")
    assert read_in(process, name_of) == "b"
