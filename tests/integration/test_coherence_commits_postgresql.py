"""Do readers hear of every way in which a text given to PostgreSQL commits, or changes rows in hiding?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, insert, literal, select, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from coherence_world import Category, Process, Product, World, name_of, read_in
from own_servers import start_postgresql
from servers import POSTGRESQL, database, why_not

UPDATE = "UPDATE product SET name = 'b' WHERE id = 1"


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """A PostgreSQL that allows prepared transactions; few are set so."""
    with start_postgresql(partial(why_not, POSTGRESQL)) as server, database(server, "texts") as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def server_world(server_url: str) -> Iterator[World]:
    world = World(server_url)
    world.fill()
    with world.process(cached=False).engine.begin() as connection:
        for statement in FUNCTIONS:
            connection.exec_driver_sql(statement)
    yield world
    world.close()


FUNCTIONS = (
    f"CREATE FUNCTION bump() RETURNS int LANGUAGE sql AS $$ {UPDATE} RETURNING id $$",
    f"CREATE FUNCTION bumps() RETURNS SETOF int LANGUAGE sql AS $$ {UPDATE} RETURNING id $$",
    f"CREATE PROCEDURE changes() LANGUAGE sql AS $$ {UPDATE} $$",
    f"CREATE PROCEDURE commits() LANGUAGE plpgsql AS $$ BEGIN {UPDATE}; COMMIT; END $$",
    "CREATE TABLE scratch (id int)",
    "CREATE TABLE told (name text)",
    "CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN UPDATE product SET name = NEW.name WHERE id = 1; RETURN NEW; END $$",
    "CREATE TRIGGER renames AFTER INSERT ON told FOR EACH ROW EXECUTE FUNCTION rename()",
    "CREATE VIEW shown AS SELECT id, name FROM product",
    "CREATE RULE also AS ON DELETE TO scratch DO INSTEAD UPDATE product SET name = 'b' WHERE id = 1",
)


@pytest.fixture(scope="module")
def processes(server_world: World) -> dict[str, Process]:
    return {
        "writer": server_world.process(),
        "autocommitting": server_world.process(engine_isolation_level="AUTOCOMMIT"),
        "reader": server_world.process(),
        "plain": server_world.process(cached=False),
    }


@pytest.fixture
def plain(processes: dict[str, Process]) -> Process:
    """A process that reads past the cache; the row is as it was before each test."""
    with processes["plain"].engine.begin() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="a"))
        for kind in ("TABLE", "MATERIALIZED VIEW"):
            connection.exec_driver_sql(
                f"DO $$ BEGIN DROP {kind} IF EXISTS fresh; EXCEPTION WHEN wrong_object_type THEN END $$"
            )
    return processes["plain"]


@pytest.fixture
def world(server_world: World, plain: Process) -> World:
    return server_world


@pytest.fixture
def writer(processes: dict[str, Process]) -> Iterator[Process]:
    yield processes["writer"]
    processes["writer"].engine.dispose()


@pytest.fixture
def autocommitting(processes: dict[str, Process]) -> Iterator[Process]:
    yield processes["autocommitting"]
    processes["autocommitting"].engine.dispose()


@pytest.fixture
def reader(processes: dict[str, Process], plain: Process) -> Process:
    reader = processes["reader"]
    assert reader.cache is not None
    with reader.engine.connect():
        reader.cache.invalidate_all()
    assert read_in(reader, name_of) == "a"
    return reader


@pytest.mark.parametrize(
    "commit",
    [
        "COMMIT",
        "commit;",
        "COMMIT WORK",
        "COMMIT TRANSACTION",
        "COMMIT AND CHAIN",
        "COMMIT AND NO CHAIN",
        "END",
        "END TRANSACTION",
        "END AND NO CHAIN",
        "END WORK AND CHAIN",
        "/* at last */ COMMIT -- now",
        "COMMIT; BEGIN",
        "SELECT 1; COMMIT",
        "UPDATE category SET name = 'x' WHERE id = 3; COMMIT",
    ],
)
def test_a_commit_by_text_is_marked_around(
    world: World, writer: Process, reader: Process, plain: Process, commit: str
) -> None:
    during: list[Any] = []
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        assert read_in(reader, name_of) == "a"
        world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
        connection.exec_driver_sql(commit)
        assert during == ["a"]
        assert read_in(reader, name_of) == read_in(plain, name_of) == "b"
        connection.execute(update(Product).where(Product.id == 1).values(name="c"))
        assert read_in(reader, name_of) == "b"
        connection.commit()
    assert read_in(reader, name_of) == read_in(plain, name_of) == "c"
    assert world.store.stats().marks == 0


def test_a_transaction_prepared_by_text_is_seen_when_it_is_committed_by_text(
    world: World, writer: Process, reader: Process, plain: Process
) -> None:
    during: list[Any] = []
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.exec_driver_sql("PREPARE TRANSACTION 'by text'")
        assert read_in(reader, name_of) == "a"
        connection.rollback()
    assert read_in(reader, name_of) == "a"
    with writer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
        connection.exec_driver_sql("COMMIT PREPARED 'by text'")
        assert during == ["a"]
        assert read_in(reader, name_of) == read_in(plain, name_of) == "b"


def test_a_transaction_prepared_by_text_and_rolled_back_is_not_seen(writer: Process, reader: Process) -> None:
    with writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.exec_driver_sql("PREPARE TRANSACTION 'given up'")
        connection.rollback()
    with writer.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ROLLBACK PREPARED 'given up'")
    assert read_in(reader, name_of) == "a"


def a_cte_of_core(connection: Connection) -> None:
    changed = update(Product).where(Product.id == 1).values(name="b").returning(Product.id).cte("changed")
    connection.execute(select(Category.id).add_cte(changed)).all()


def a_cte_that_is_read(connection: Connection) -> None:
    changed = update(Product).where(Product.id == 1).values(name="b").returning(Product.id).cte("changed")
    connection.execute(select(changed.c.id)).all()


def a_cte_inside_a_cte(connection: Connection) -> None:
    changed = update(Product).where(Product.id == 1).values(name="b").returning(Product.id).cte("changed")
    outer = select(changed.c.id).cte("outer_one")
    connection.execute(select(outer.c.id).union_all(select(literal(1)))).all()


def a_cte_of_an_insert(connection: Connection) -> None:
    changed = update(Product).where(Product.id == 1).values(name="b").returning(Product.id).cte("changed")
    categories = Category.__table__
    rows = select(changed.c.id + 1000, literal("made"))
    connection.execute(insert(categories).from_select(["id", "name"], rows))  # type: ignore[arg-type]
    connection.execute(categories.delete().where(categories.c.id > 1000))  # type: ignore[attr-defined]


TEXTS = (
    "WITH changed AS (UPDATE product SET name = 'b' WHERE id = 1 RETURNING id) SELECT id FROM changed",
    "WITH one AS (SELECT 1 AS id), changed AS (UPDATE product SET name = 'b' FROM one WHERE product.id = one.id) SELECT 1",
    "SELECT bump()",
    "SELECT * FROM bumps()",
    "SELECT 1 WHERE bump() = 1",
    "VALUES (bump())",
    "SELECT (SELECT bump())",
    "SELECT count(*) FROM category WHERE id = 3 AND bump() > 0",
    "SELECT bump() AS made INTO fresh",
    "CREATE TABLE fresh AS SELECT bump() AS made",
    "CREATE MATERIALIZED VIEW fresh AS SELECT bump() AS made",
    "INSERT INTO scratch SELECT bump()",
    "INSERT INTO told VALUES ('b')",
    "UPDATE shown SET name = 'b' WHERE id = 1",
    "DELETE FROM scratch",
    "EXPLAIN ANALYZE UPDATE product SET name = 'b' WHERE id = 1",
    "EXPLAIN (ANALYZE, COSTS OFF) UPDATE product SET name = 'b' WHERE id = 1",
    "EXPLAIN ANALYZE SELECT bump()",
    "CALL changes()",
    f"DO $$ BEGIN {UPDATE}; END $$",
    f"PREPARE later AS {UPDATE}; EXECUTE later; DEALLOCATE later",
    "MERGE INTO product USING (SELECT 1 AS id) AS one ON product.id = one.id WHEN MATCHED THEN UPDATE SET name = 'b'",
    "INSERT INTO product (id, name, stock, category_id) VALUES (1, 'x', 0, 3) ON CONFLICT (id) DO UPDATE SET name = 'b'",
    "UPDATE ONLY product AS p SET name = 'b' WHERE p.id = 1",
    'UPDATE "public"."product" SET "name" = $$b$$ WHERE id = 1',
    "SELECT query_to_xml('SELECT bump()', true, false, '')",
)
CONSTRUCTS: dict[str, Callable[[Connection], Any]] = {
    "func.bump()": lambda connection: connection.execute(select(func.bump())).all(),
    "table valued": lambda connection: connection.execute(select(func.bumps().column_valued("id"))).all(),
    "text()": lambda connection: connection.execute(text(UPDATE)),
    "a CTE of Core": a_cte_of_core,
    "a CTE that is read": a_cte_that_is_read,
    "a CTE inside a CTE": a_cte_inside_a_cte,
    "a CTE of an INSERT": a_cte_of_an_insert,
}


def send(connection: Connection, what: str) -> None:
    if what in CONSTRUCTS:
        CONSTRUCTS[what](connection)
        return
    result = connection.exec_driver_sql(what)
    if result.returns_rows:
        result.all()


@pytest.mark.parametrize("hidden", [*TEXTS, *CONSTRUCTS])
def test_a_change_in_hiding_is_seen_after_the_commit(
    writer: Process, reader: Process, plain: Process, hidden: str
) -> None:
    with writer.engine.connect() as connection:
        send(connection, hidden)
        assert read_in(reader, name_of) == "a"
        connection.commit()
    assert read_in(reader, name_of) == read_in(plain, name_of) == "b"


@pytest.mark.parametrize("hidden", [*TEXTS, *CONSTRUCTS])
def test_a_change_in_hiding_is_marked_around_in_autocommit(
    world: World, autocommitting: Process, reader: Process, plain: Process, hidden: str
) -> None:
    during: list[Any] = []
    with autocommitting.engine.connect() as connection:
        world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
        send(connection, hidden)
        assert during == ["a"]
        assert read_in(reader, name_of) == read_in(plain, name_of) == "b"


@pytest.mark.parametrize("statement", ["CALL commits()", f"DO $$ BEGIN {UPDATE}; COMMIT; END $$"])
def test_code_of_the_servers_that_commits_is_marked_around(
    world: World, autocommitting: Process, reader: Process, plain: Process, statement: str
) -> None:
    during: list[Any] = []
    with autocommitting.engine.connect() as connection:
        world.store.after["mark"] = lambda: during.append(read_in(reader, name_of))
        connection.exec_driver_sql(statement)
        assert during == ["a"]
        assert read_in(reader, name_of) == read_in(plain, name_of) == "b"


def test_a_script_that_fails_after_its_commit_is_heard(writer: Process, reader: Process, plain: Process) -> None:
    with writer.engine.connect() as connection:
        with pytest.raises(DBAPIError):
            connection.exec_driver_sql(f"{UPDATE}; COMMIT; SELECT 1 / 0")
        assert read_in(reader, name_of) == read_in(plain, name_of) == "b"
