"""Do readers hear of each kind of statement by which MariaDB commits what was pending?

On a server of our own: some of the statements lock all of it, or make users. After "What statements cause an implicit commit"
of its manual, without those that need a replica or end the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Column, Index, Integer, MetaData, Sequence, Table, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.schema import (
    DDL,
    AddConstraint,
    CheckConstraint,
    CreateIndex,
    CreateSchema,
    CreateSequence,
    CreateTable,
    DropIndex,
    DropSchema,
    DropSequence,
    DropTable,
    SetTableComment,
)

from coherence_world import Process, Product, World, name_of, read_in
from own_servers import start_mariadb
from servers import MARIADB, database, why_not


@dataclass
class Scene:
    """One database: who writes, who reads through the cache, and who reads past it."""

    world: World
    writer: Process
    reader: Process
    plain: Process

    def run(self, *statements: str) -> None:
        """Run statements of no interest, past the cache."""
        with self.plain.engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
            connection.commit()


@pytest.fixture(scope="module")
def server_scene() -> Iterator[Scene]:
    with start_mariadb(partial(why_not, MARIADB)) as server_url, database(server_url, "implicit") as url:
        world = World(url.render_as_string(hide_password=False))
        world.fill()
        yield Scene(world, world.process(), world.process(), world.process(cached=False))
        world.close()


@pytest.fixture
def scene(server_scene: Scene) -> Iterator[Scene]:
    server_scene.run(
        "UPDATE product SET name = 'a' WHERE id = 1",
        "CREATE OR REPLACE TABLE other (id INT PRIMARY KEY, n INT) ENGINE=InnoDB",
        "CREATE OR REPLACE TABLE keyed (id INT PRIMARY KEY, n INT, KEY by_n (n)) ENGINE=MyISAM",
        "INSERT INTO other VALUES (1, 1)",
    )
    for process in (server_scene.writer, server_scene.reader):
        assert process.cache is not None
        process.cache.invalidate_all()
    assert read_in(server_scene.reader, name_of) == "a"
    yield server_scene
    server_scene.world.store.after.clear()
    server_scene.writer.engine.dispose()


Send = Callable[[Connection], Any]


def check(scene: Scene, send: Send, *, commits: bool) -> None:
    """Have a statement sent in a transaction that changed a row; compare what a reader sees with what the database shows."""
    during: list[Any] = []
    with scene.writer.engine.connect() as connection:
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        assert read_in(scene.reader, name_of) == "a"
        scene.world.store.after["mark"] = lambda: during.append(read_in(scene.reader, name_of))
        send(connection)
        shown = read_in(scene.plain, name_of)
        assert read_in(scene.reader, name_of) == shown
        assert shown == ("b" if commits else "a")
        if commits:
            assert during == ["a"]
        scene.world.store.after.clear()
        connection.rollback()
    assert read_in(scene.reader, name_of) == read_in(scene.plain, name_of) == shown
    assert scene.world.store.stats().marks == 0


# What the statement needs, the statement, and what is left to remove.
COMMITTING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "CREATE TABLE fresh (id INT)": ((), ("DROP TABLE fresh",)),
    "CREATE TABLE fresh LIKE other": ((), ("DROP TABLE fresh",)),
    "CREATE TABLE fresh AS SELECT 1 AS one": ((), ("DROP TABLE fresh",)),
    "CREATE OR REPLACE TABLE other (id INT)": ((), ()),
    "CREATE TABLE IF NOT EXISTS other (id INT)": ((), ()),
    "ALTER TABLE other ADD COLUMN more INT": ((), ()),
    "ALTER TABLE product COMMENT = 'the same table'": ((), ()),
    "RENAME TABLE other TO another": ((), ("DROP TABLE another",)),
    "TRUNCATE TABLE other": ((), ()),
    "TRUNCATE other": ((), ()),
    "DROP TABLE other": ((), ()),
    "DROP TABLE IF EXISTS no_such_table": ((), ()),
    "CREATE INDEX by_more ON other (n)": ((), ()),
    "DROP INDEX by_n ON keyed": ((), ()),
    "CREATE VIEW seen AS SELECT 1 AS one": ((), ("DROP VIEW seen",)),
    "ALTER VIEW seen AS SELECT 2 AS two": (("CREATE VIEW seen AS SELECT 1 AS one",), ("DROP VIEW seen",)),
    "DROP VIEW seen": (("CREATE VIEW seen AS SELECT 1 AS one",), ()),
    "CREATE DATABASE qc_fresh": ((), ("DROP DATABASE qc_fresh",)),
    "ALTER DATABASE qc_fresh COMMENT 'x'": (("CREATE DATABASE qc_fresh",), ("DROP DATABASE qc_fresh",)),
    "DROP DATABASE qc_fresh": (("CREATE DATABASE qc_fresh",), ()),
    "CREATE PROCEDURE p() SELECT 1": ((), ("DROP PROCEDURE p",)),
    "ALTER PROCEDURE p COMMENT 'x'": (("CREATE PROCEDURE p() SELECT 1",), ("DROP PROCEDURE p",)),
    "DROP PROCEDURE p": (("CREATE PROCEDURE p() SELECT 1",), ()),
    "CREATE FUNCTION f() RETURNS INT RETURN 1": ((), ("DROP FUNCTION f",)),
    "ALTER FUNCTION f COMMENT 'x'": (("CREATE FUNCTION f() RETURNS INT RETURN 1",), ("DROP FUNCTION f",)),
    "DROP FUNCTION f": (("CREATE FUNCTION f() RETURNS INT RETURN 1",), ()),
    "CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW SET @x = 1": ((), ()),
    "DROP TRIGGER t": (("CREATE TRIGGER t AFTER INSERT ON other FOR EACH ROW SET @x = 1",), ()),
    "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1": ((), ("DROP EVENT e",)),
    "ALTER EVENT e DISABLE": (("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1",), ("DROP EVENT e",)),
    "DROP EVENT e": (("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1",), ()),
    "CREATE SEQUENCE s": ((), ("DROP SEQUENCE s",)),
    "ALTER SEQUENCE s RESTART 5": (("CREATE SEQUENCE s",), ("DROP SEQUENCE s",)),
    "DROP SEQUENCE s": (("CREATE SEQUENCE s",), ()),
    "CREATE SERVER far FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1')": ((), ("DROP SERVER far",)),
    "ALTER SERVER far OPTIONS (HOST '127.0.0.2')": (
        ("CREATE SERVER far FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1')",),
        ("DROP SERVER far",),
    ),
    "DROP SERVER far": (("CREATE SERVER far FOREIGN DATA WRAPPER mysql OPTIONS (HOST '127.0.0.1')",), ()),
    "CREATE USER ann": ((), ("DROP USER ann",)),
    "ALTER USER ann ACCOUNT LOCK": (("CREATE USER ann",), ("DROP USER ann",)),
    "RENAME USER ann TO bob": (("CREATE USER ann",), ("DROP USER bob",)),
    "DROP USER ann": (("CREATE USER ann",), ()),
    "SET PASSWORD FOR ann = PASSWORD('secret')": (("CREATE USER ann",), ("DROP USER ann",)),
    "GRANT SELECT ON *.* TO ann": (("CREATE USER ann",), ("DROP USER ann",)),
    "REVOKE SELECT ON *.* FROM ann": (("CREATE USER ann", "GRANT SELECT ON *.* TO ann"), ("DROP USER ann",)),
    "CREATE ROLE reading": ((), ("DROP ROLE reading",)),
    "DROP ROLE reading": (("CREATE ROLE reading",), ()),
    "LOCK TABLES other WRITE": ((), ()),
    "LOCK TABLES product READ": ((), ()),
    "START TRANSACTION": ((), ()),
    "START TRANSACTION READ ONLY": ((), ()),
    "START TRANSACTION WITH CONSISTENT SNAPSHOT": ((), ()),
    "BEGIN": ((), ()),
    "BEGIN WORK": ((), ()),
    "COMMIT": ((), ()),
    "COMMIT WORK": ((), ()),
    "COMMIT AND CHAIN": ((), ()),
    "COMMIT AND NO CHAIN NO RELEASE": ((), ()),
    "SET autocommit = 1": ((), ()),
    "SET SESSION autocommit = ON": ((), ()),
    "SET @@session.autocommit = 1, @x = 2": ((), ()),
    "SET STATEMENT lock_wait_timeout = 5 FOR CREATE TABLE fresh (id INT)": ((), ("DROP TABLE fresh",)),
    "ANALYZE TABLE other": ((), ()),
    "CHECK TABLE other": ((), ()),
    "OPTIMIZE TABLE other": ((), ()),
    "REPAIR TABLE keyed": ((), ()),
    "FLUSH TABLES": ((), ()),
    "FLUSH TABLES other": ((), ()),
    "FLUSH TABLES WITH READ LOCK": ((), ()),
    "FLUSH PRIVILEGES": ((), ()),
    "FLUSH STATUS": ((), ()),
    "FLUSH LOGS": ((), ()),
    "RESET QUERY CACHE": ((), ()),
    "INSTALL SONAME 'ha_blackhole'": ((), ("UNINSTALL SONAME 'ha_blackhole'",)),
    "UNINSTALL SONAME 'ha_blackhole'": (("INSTALL SONAME 'ha_blackhole'",), ()),
    "/* a comment */ create /* and another */ table fresh (id int)": ((), ("DROP TABLE fresh",)),
    "/*! CREATE TABLE fresh (id INT) */": ((), ("DROP TABLE fresh",)),
    "/*M!100100 CREATE TABLE fresh (id INT) */": ((), ("DROP TABLE fresh",)),
    "EXECUTE IMMEDIATE 'CREATE TABLE fresh (id INT)'": ((), ("DROP TABLE fresh",)),
    "BEGIN NOT ATOMIC COMMIT; END": ((), ()),
    "CALL commits()": (("CREATE PROCEDURE commits() COMMIT",), ("DROP PROCEDURE commits",)),
    "CALL makes()": (
        ("CREATE PROCEDURE makes() CREATE TABLE fresh (id INT)",),
        ("DROP PROCEDURE makes", "DROP TABLE fresh"),
    ),
}
KEEPING = (
    "CREATE TEMPORARY TABLE passing (id INT)",
    "CREATE TEMPORARY TABLE passing AS SELECT 1 AS one",
    "DROP TEMPORARY TABLE IF EXISTS passing",
    "SET autocommit = 0",
    "SET @x = 1",
    "SET SESSION sql_mode = ''",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    # The manual has these two on its list, and 10.11 does not commit at them.
    "CACHE INDEX keyed IN default",
    "LOAD INDEX INTO CACHE keyed",
    "SHOW TABLES",
    "SHOW CREATE TABLE other",
    "DESCRIBE other",
    "EXPLAIN UPDATE other SET n = 2",
    "SELECT 1",
    "SELECT * FROM other FOR UPDATE",
    "DO 1 + 1",
    "HELP 'select'",
    "CHECKSUM TABLE other",
    "SAVEPOINT here",
    "UPDATE other SET n = 2",
    "INSERT INTO other VALUES (5, 5)",
    "REPLACE INTO other VALUES (1, 7)",
    "DELETE FROM other",
    "HANDLER other OPEN",
    "PREPARE later FROM 'SELECT 1'",
    "UNLOCK TABLES",
    "CALL only_reads()",
    "USE `{database}`",
)


@pytest.mark.parametrize("statement", COMMITTING)
def test_a_statement_that_commits_what_is_pending_is_marked_around(scene: Scene, statement: str) -> None:
    before, after = COMMITTING[statement]
    scene.run(*before)
    try:
        check(scene, lambda connection: connection.exec_driver_sql(statement), commits=True)
    finally:
        scene.writer.engine.dispose()
        scene.run(*after)


@pytest.mark.parametrize("statement", KEEPING)
def test_a_statement_that_commits_nothing_shows_nothing(scene: Scene, statement: str) -> None:
    scene.run("CREATE OR REPLACE PROCEDURE only_reads() SELECT 1")
    statement = statement.format(database=scene.writer.engine.url.database)
    check(scene, lambda connection: connection.exec_driver_sql(statement), commits=False)


metadata = MetaData()
made = Table("fresh", metadata, Column("id", Integer), mariadb_engine="InnoDB")
there = Table("other", metadata, Column("id", Integer, primary_key=True), Column("n", Integer), comment="words")
truncation: DDL = DDL("TRUNCATE TABLE other")  # type: ignore[no-untyped-call]
CONSTRUCTS: dict[str, tuple[Send, tuple[str, ...]]] = {
    "CreateTable": (lambda connection: connection.execute(CreateTable(made)), ("DROP TABLE fresh",)),
    "DropTable": (lambda connection: connection.execute(DropTable(there)), ()),
    "create": (made.create, ("DROP TABLE fresh",)),
    "drop_all": (metadata.drop_all, ()),
    "create_all": (metadata.create_all, ("DROP TABLE fresh",)),
    "CreateIndex": (lambda connection: connection.execute(CreateIndex(Index("by_n", there.c.n))), ()),
    "DropIndex": (
        lambda connection: connection.execute(
            DropIndex(Index("by_n", Table("keyed", MetaData(), Column("n", Integer)).c.n))
        ),
        (),
    ),
    "CreateSchema": (lambda connection: connection.execute(CreateSchema("qc_fresh")), ("DROP DATABASE qc_fresh",)),
    "DropSchema": (lambda connection: connection.execute(DropSchema("qc_fresh", if_exists=True)), ()),
    "CreateSequence": (lambda connection: connection.execute(CreateSequence(Sequence("s"))), ("DROP SEQUENCE s",)),
    "DropSequence": (lambda connection: connection.execute(DropSequence(Sequence("s"), if_exists=True)), ()),
    "AddConstraint": (
        lambda connection: connection.execute(AddConstraint(CheckConstraint("n > 0", name="positive", table=there))),
        (),
    ),
    "SetTableComment": (lambda connection: connection.execute(SetTableComment(there)), ()),
    "DDL": (lambda connection: connection.execute(truncation), ()),
    "text": (lambda connection: connection.execute(text("TRUNCATE TABLE other")), ()),
}


@pytest.mark.parametrize("construct", CONSTRUCTS)
def test_ddl_of_sqlalchemys_own_is_marked_around(scene: Scene, construct: str) -> None:
    send, after = CONSTRUCTS[construct]
    try:
        check(scene, send, commits=True)
    finally:
        scene.writer.engine.dispose()
        scene.run(*after)


def test_a_statement_that_fails_after_it_has_committed_what_was_pending_is_heard(scene: Scene) -> None:
    """MariaDB commits before it finds that it cannot do what it was told."""

    def send(connection: Connection) -> None:
        with pytest.raises(scene.writer.engine.dialect.loaded_dbapi.Error):  # noqa: PT012
            try:
                connection.exec_driver_sql("CREATE TABLE other (id INT)")
            except Exception as error:
                raise error.__cause__ or error from None

    check(scene, send, commits=True)


def test_tables_unlocked_commit_what_was_pending_under_the_lock(scene: Scene) -> None:
    with scene.writer.engine.connect() as connection:
        connection.exec_driver_sql("SET autocommit = 0")
        connection.exec_driver_sql("LOCK TABLES product WRITE")
        connection.execute(update(Product).where(Product.id == 1).values(name="b"))
        connection.exec_driver_sql("UNLOCK TABLES")
        shown = read_in(scene.plain, name_of)
        assert shown == "b"
        assert read_in(scene.reader, name_of) == shown
        connection.rollback()
    assert read_in(scene.reader, name_of) == read_in(scene.plain, name_of)
