"""Does a reader see what a write reaches through nothing but the database's own catalog?

The mapping knows two tables that have nothing to do with each other. The catalog knows better: each case says how, and
which write to the one changes what is read of the other. The truth is what a connection without a cache reads.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    delete,
    event,
    func,
    insert,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from querycache import FromCache, QueryCache
from querycache.stores.memory import MemoryStore

Kind = Literal["sqlite", "postgresql", "mariadb"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql", "mariadb")


class Base(DeclarativeBase):
    pass


class Written(Base):
    __tablename__ = "written"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(index=True)


class Seen(Base):
    __tablename__ = "seen"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int] = mapped_column(index=True)
    other: Mapped[int | None] = mapped_column(index=True)


WRITTEN = "CREATE TABLE written (id integer PRIMARY KEY, value integer NOT NULL UNIQUE)"
SEEN = "CREATE TABLE seen (id integer PRIMARY KEY, value integer NOT NULL, other integer)"
ROWS = (
    "INSERT INTO written (id, value) VALUES (1, 1)",
    "INSERT INTO seen (id, value, other) VALUES (1, 10, 1), (2, 20, NULL)",
)


@dataclass
class Catalog:
    """One database, one process that writes to it and one that reads, and somebody who knows no cache."""

    url: str
    store: MemoryStore
    engines: list[Engine]
    caches: list[QueryCache]

    def engine(self, *pragmas: str, **options: Any) -> Engine:
        engine = create_engine(self.url, **options)
        if engine.dialect.name == "sqlite":
            for pragma in ("foreign_keys = ON", *pragmas):
                event.listen(engine, "connect", lambda raw, record, pragma=pragma: raw.execute(f"PRAGMA {pragma}"))
        self.engines.append(engine)
        return engine

    def process(self, *pragmas: str) -> Engine:
        options = {} if self.kind == "sqlite" else {"isolation_level": "READ COMMITTED"}
        engine = self.engine(*pragmas, **options)
        self.caches.append(QueryCache(self.store, models=[Written, Seen]))
        self.caches[-1].attach(engine)
        return engine

    @property
    def kind(self) -> str:
        return make_url(self.url).get_backend_name()

    def make(self, *statements: str) -> None:
        with self.engine(poolclass=NullPool, isolation_level="AUTOCOMMIT").connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def hits(self) -> int:
        return sum(cache.events.counts().get("hit", 0) for cache in self.caches)

    def close(self) -> None:
        for engine in self.engines:
            engine.dispose()
        for cache in self.caches:
            cache.close()


@pytest.fixture
def catalog_on(request: pytest.FixtureRequest) -> Iterator[Callable[[Kind], Catalog]]:
    made: list[Catalog] = []

    def catalog(kind: Kind) -> Catalog:
        made.append(Catalog(request.getfixturevalue(f"{kind}_url"), MemoryStore(), [], []))
        return made[-1]

    yield catalog
    for one in made:
        one.close()


def everything(session: Session) -> list[Any]:
    """Read what there is to see in every way that has tags of its own."""
    in_order = select(Seen.id, Seen.value, Seen.other).order_by(Seen.id)
    return [
        list(session.execute(in_order)),
        session.scalar(select(func.count()).select_from(Seen)),
        *[list(session.execute(in_order.where(Seen.id == key))) for key in (1, 2, 3)],
        *[list(session.execute(in_order.where(Seen.value == value))) for value in (10, 20, 99)],
        *[list(session.execute(in_order.where(Seen.other == value))) for value in (1, 5)],
        list(session.execute(in_order.where(Seen.other.is_(None)))),
    ]


def read(engine: Engine) -> list[Any]:
    with Session(engine) as session:
        return everything(session)


Way = Literal["orm", "core", "text"]
Operation = Literal["insert", "update", "delete"]
WAYS: tuple[Way, ...] = ("orm", "core", "text")


def write(engine: Engine, operation: Operation, way: Way) -> None:
    """Insert a row 2, or update or delete the row 1, of the one table that is written to."""
    with Session(engine) as session, session.begin():
        if way == "orm":
            if operation == "insert":
                session.add(Written(id=2, value=7))
            elif operation == "update":
                session.get_one(Written, 1).value = 5
            else:
                session.delete(session.get_one(Written, 1))
        elif way == "core":
            statements: dict[Operation, Any] = {
                "insert": insert(Written).values(id=2, value=7),
                "update": update(Written).where(Written.id == 1).values(value=5),
                "delete": delete(Written).where(Written.id == 1),
            }
            session.connection().execute(statements[operation])
        else:
            texts: dict[Operation, str] = {
                "insert": "INSERT INTO written (id, value) VALUES (2, 7)",
                "update": "UPDATE written SET value = 5 WHERE id = 1",
                "delete": "DELETE FROM written WHERE id = 1",
            }
            session.execute(text(texts[operation]))


@dataclass(frozen=True)
class Case:
    """What the catalog holds, and which write shows through it. ``is_cached``: what is read is cached at all."""

    name: str
    kinds: Sequence[Kind]
    operation: Operation
    catalog: Sequence[str]
    ways: Sequence[Way] = ("orm", "core")
    is_cached: bool = True


def keyed(rule: str, column: str = "other", references: str = "written (value)") -> list[str]:
    """Make a foreign key of what is seen that the mapping does not know."""
    return [WRITTEN, f"{SEEN[:-1]}, FOREIGN KEY ({column}) REFERENCES {references} {rule})", *ROWS]


SERVERS: tuple[Kind, ...] = ("postgresql", "mariadb")
CHAIN = [
    WRITTEN,
    "CREATE TABLE middle (id integer PRIMARY KEY, up integer NOT NULL UNIQUE,"
    " FOREIGN KEY (up) REFERENCES written (value) ON DELETE CASCADE ON UPDATE CASCADE)",
    f"{SEEN[:-1]}, FOREIGN KEY (other) REFERENCES middle (up) ON DELETE CASCADE ON UPDATE CASCADE)",
    ROWS[0],
    "INSERT INTO middle VALUES (1, 1)",
    ROWS[1],
]
CASES = [
    Case("cascading delete", KINDS, "delete", keyed("ON DELETE CASCADE"), WAYS),
    Case("delete that sets null", KINDS, "delete", keyed("ON DELETE SET NULL"), WAYS),
    Case("update that cascades", KINDS, "update", keyed("ON UPDATE CASCADE"), WAYS),
    Case("update that sets null", KINDS, "update", keyed("ON UPDATE SET NULL"), WAYS),
    Case("chain of deletes", KINDS, "delete", CHAIN, WAYS),
    Case("chain of updates", KINDS, "update", CHAIN, WAYS),
    Case(
        "chain that sets null by a delete and cascades it as an update",
        KINDS,
        "delete",
        [
            WRITTEN,
            "CREATE TABLE middle (id integer PRIMARY KEY, up integer UNIQUE,"
            " FOREIGN KEY (up) REFERENCES written (value) ON DELETE SET NULL)",
            f"{SEEN[:-1]}, FOREIGN KEY (other) REFERENCES middle (up) ON UPDATE CASCADE)",
            ROWS[0],
            "INSERT INTO middle VALUES (1, 1)",
            ROWS[1],
        ],
    ),
    Case(
        "delete that sets a default",
        ("sqlite", "postgresql"),
        "delete",
        [
            WRITTEN,
            "CREATE TABLE seen (id integer PRIMARY KEY, value integer NOT NULL, other integer DEFAULT 9"
            " REFERENCES written (value) ON DELETE SET DEFAULT)",
            "INSERT INTO written (id, value) VALUES (9, 9)",
            *ROWS,
        ],
    ),
    Case(
        "trigger",
        ("sqlite", "mariadb"),
        "update",
        [
            WRITTEN,
            SEEN,
            *ROWS,
            "CREATE TRIGGER g AFTER UPDATE ON written FOR EACH ROW BEGIN"
            " UPDATE seen SET value = 99, other = 5 WHERE id = 2; END",
        ],
    ),
    Case(
        "trigger that fires another",
        ("sqlite", "mariadb"),
        "insert",
        [
            WRITTEN,
            SEEN,
            *ROWS,
            "CREATE TABLE middle (id integer PRIMARY KEY)",
            "CREATE TRIGGER g AFTER INSERT ON written FOR EACH ROW BEGIN INSERT INTO middle VALUES (NEW.id); END",
            "CREATE TRIGGER h AFTER INSERT ON middle FOR EACH ROW BEGIN INSERT INTO seen VALUES (3, 99, 5); END",
        ],
    ),
    *[
        Case(
            f"{when} trigger",
            ("postgresql",),
            "update",
            [
                WRITTEN,
                SEEN,
                *ROWS,
                "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN UPDATE seen SET value = 99, other = 5 WHERE id = 2; RETURN NEW; END $$",
                f"CREATE {made}",
            ],
        )
        for when, made in {
            "row": "TRIGGER g BEFORE UPDATE ON written FOR EACH ROW EXECUTE FUNCTION f()",
            "statement": "TRIGGER g AFTER UPDATE ON written FOR EACH STATEMENT EXECUTE FUNCTION f()",
            "deferred": "CONSTRAINT TRIGGER g AFTER UPDATE ON written DEFERRABLE INITIALLY DEFERRED"
            " FOR EACH ROW EXECUTE FUNCTION f()",
        }.items()
    ],
    Case(
        "rule beside the write",
        ("postgresql",),
        "insert",
        [WRITTEN, SEEN, *ROWS, "CREATE RULE r AS ON INSERT TO written DO ALSO DELETE FROM seen WHERE id = 2"],
    ),
    Case(
        "rule in place of the write",
        ("postgresql",),
        "delete",
        [WRITTEN, SEEN, *ROWS, "CREATE RULE r AS ON DELETE TO written DO INSTEAD UPDATE seen SET other = 5"],
        ways=("core",),  # the ORM asks how many rows were deleted, and minds that none was
    ),
    Case(
        "default that writes",
        ("postgresql",),
        "insert",
        [
            WRITTEN,
            SEEN,
            *ROWS,
            "CREATE FUNCTION f() RETURNS integer LANGUAGE sql VOLATILE AS 'UPDATE seen SET value = 99 RETURNING 1'",
            "ALTER TABLE written ADD COLUMN hidden integer",
            "ALTER TABLE written ALTER COLUMN hidden SET DEFAULT f()",
        ],
    ),
    *[
        Case(
            "write to a view over a view",
            (kind,),
            "update",
            [
                "CREATE TABLE seen (id integer PRIMARY KEY, value integer NOT NULL, other integer)",
                ROWS[1],
                "CREATE VIEW half AS SELECT id, value FROM seen",
                "CREATE VIEW written AS SELECT id, value FROM half",
            ],
        )
        for kind in SERVERS
    ],
    Case(
        "trigger in place of a write to a view",
        ("sqlite",),
        "update",
        [
            SEEN,
            ROWS[1],
            "CREATE VIEW written AS SELECT id, value FROM seen",
            "CREATE TRIGGER g INSTEAD OF UPDATE ON written BEGIN"
            " UPDATE seen SET value = NEW.value WHERE id = NEW.id; END",
        ],
        ways=("core",),
    ),
    *[
        Case(
            "view over a view that is read",
            (kind,),
            "update",
            [
                WRITTEN,
                ROWS[0],
                "CREATE VIEW half AS SELECT id, value FROM written",
                "CREATE VIEW seen AS SELECT id, value, value AS other FROM half",
            ],
        )
        for kind in KINDS
    ],
    Case(
        "materialized view that is read",
        ("postgresql",),
        "update",
        [
            WRITTEN,
            ROWS[0],
            "CREATE MATERIALIZED VIEW seen AS SELECT id, value, value AS other FROM written",
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN REFRESH MATERIALIZED VIEW seen; RETURN NULL; END $$",
            "CREATE TRIGGER g AFTER UPDATE ON written FOR EACH STATEMENT EXECUTE FUNCTION f()",
        ],
        is_cached=False,
    ),
    Case(
        "write to a partition",
        ("postgresql",),
        "update",
        [
            "CREATE TABLE seen (id integer, value integer NOT NULL, other integer) PARTITION BY RANGE (id)",
            "CREATE TABLE written PARTITION OF seen FOR VALUES FROM (1) TO (9)",
            ROWS[1],
        ],
        is_cached=False,
    ),
    Case(
        "partition that is read",
        ("postgresql",),
        "update",
        [
            "CREATE TABLE written (id integer, value integer NOT NULL, other integer) PARTITION BY RANGE (id)",
            "CREATE TABLE seen PARTITION OF written FOR VALUES FROM (1) TO (9)",
            ROWS[1],
        ],
        is_cached=False,
    ),
    Case(
        "child whose rows are its parent's",
        ("postgresql",),
        "update",
        [SEEN, "CREATE TABLE written () INHERITS (seen)", "INSERT INTO written VALUES (1, 10, 1)"],
        is_cached=False,
    ),
    Case(
        "parent whose writes are its child's",
        ("postgresql",),
        "update",
        [WRITTEN, "CREATE TABLE seen (other integer) INHERITS (written)", ROWS[1]],
        is_cached=False,
    ),
    Case(
        "constraint that replaces rows, and cascades",
        ("sqlite",),
        "insert",
        [
            "CREATE TABLE written (id integer PRIMARY KEY, value integer, flag integer DEFAULT 0"
            " UNIQUE ON CONFLICT REPLACE)",
            f"{SEEN[:-1]}, FOREIGN KEY (other) REFERENCES written (id) ON DELETE CASCADE)",
            *ROWS,
        ],
    ),
    Case(
        "key that refers to another database of the server",
        ("mariadb",),
        "delete",
        [
            WRITTEN,
            "CREATE DATABASE IF NOT EXISTS {database}_x",
            "CREATE TABLE {database}_x.middle (id integer PRIMARY KEY,"
            " FOREIGN KEY (id) REFERENCES {database}.written (id) ON DELETE CASCADE)",
            f"{SEEN[:-1]}, FOREIGN KEY (other) REFERENCES {{database}}_x.middle (id) ON DELETE CASCADE)",
            ROWS[0],
            "INSERT INTO {database}_x.middle VALUES (1)",
            ROWS[1],
        ],
    ),
    Case(
        "table that remembers its old rows",
        ("mariadb",),
        "update",
        [
            WRITTEN,
            ROWS[0],
            "CREATE TABLE seen (id integer PRIMARY KEY, value integer NOT NULL, other integer) WITH SYSTEM VERSIONING",
            ROWS[1],
            "CREATE TRIGGER g AFTER UPDATE ON written FOR EACH ROW UPDATE seen SET value = 99",
        ],
        is_cached=False,
    ),
    Case(
        "table that knows no transactions",
        ("mariadb",),
        "update",
        [
            WRITTEN,
            ROWS[0],
            f"{SEEN} ENGINE=MyISAM",
            ROWS[1],
            "CREATE TRIGGER g AFTER UPDATE ON written FOR EACH ROW UPDATE seen SET value = 99",
        ],
        is_cached=False,
    ),
]
SPREAD = [(case, kind, way) for case in CASES for kind in case.kinds for way in case.ways]


@pytest.mark.parametrize(("case", "kind", "way"), SPREAD, ids=lambda value: getattr(value, "name", value))
def test_what_only_the_catalog_connects_is_seen(
    catalog_on: Callable[[Kind], Catalog], case: Case, kind: Kind, way: Way
) -> None:
    catalog = catalog_on(kind)
    database = make_url(catalog.url).database
    try:
        catalog.make(*(statement.replace("{database}", str(database)) for statement in case.catalog))
        reader, writer, outside = catalog.process(), catalog.process("recursive_triggers = ON"), catalog.engine()
        before = read(outside)
        assert read(reader) == before
        hits = catalog.hits()
        assert read(reader) == before
        assert (catalog.hits() > hits) == case.is_cached
        write(writer, case.operation, way)
        assert read(outside) != before, "the write does not show"
        assert read(reader) == read(outside)
        assert read(reader) == read(outside)
    finally:
        if kind == "mariadb":
            catalog.make("SET FOREIGN_KEY_CHECKS = 0", f"DROP DATABASE IF EXISTS {database}_x")


# -- cases of their own ---------------------------------------------------------------------------------------------


@pytest.fixture
def on_postgresql(catalog_on: Callable[[Kind], Catalog]) -> Catalog:
    return catalog_on("postgresql")


def assert_true(reader: Engine, outside: Engine) -> None:
    """Check that what is read is the truth, also when it is read again."""
    assert read(reader) == read(outside)
    assert read(reader) == read(outside)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generated_column_moves_with_the_column_that_it_is_computed_of(
    catalog_on: Callable[[Kind], Catalog], kind: Kind
) -> None:
    """The mapping takes ``other`` for a column like any other, and reads lists by it."""
    catalog = catalog_on(kind)
    computed = "other integer GENERATED ALWAYS AS (value - 9) STORED"
    catalog.make(f"CREATE TABLE seen (id integer PRIMARY KEY, value integer NOT NULL, {computed})")
    catalog.make("INSERT INTO seen (id, value) VALUES (1, 10), (2, 20)")
    reader, writer, outside = catalog.process(), catalog.process(), catalog.engine()
    assert_true(reader, outside)
    with Session(writer) as session, session.begin():
        session.get_one(Seen, 1).value = 14
    assert_true(reader, outside)


@pytest.mark.parametrize("kind", ["child", "partition"])
def test_a_table_that_becomes_part_of_another_brings_its_rows_and_takes_them_along(
    on_postgresql: Catalog, kind: str
) -> None:
    columns = "(id integer NOT NULL, value integer NOT NULL, other integer)"
    if kind == "child":
        made, joins, leaves = "", "ALTER TABLE written INHERIT seen", "ALTER TABLE written NO INHERIT seen"
    else:
        made = "PARTITION BY RANGE (id)"
        joins = "ALTER TABLE seen ATTACH PARTITION written FOR VALUES FROM (1) TO (9)"
        leaves = "ALTER TABLE seen DETACH PARTITION written"
    on_postgresql.make(f"CREATE TABLE seen {columns} {made}", f"CREATE TABLE written {columns}")
    on_postgresql.make("INSERT INTO written VALUES (1, 10, 1)")
    reader, writer, outside = on_postgresql.process(), on_postgresql.process(), on_postgresql.engine()
    for change in (joins, leaves, joins):
        assert_true(reader, outside)
        before = read(outside)
        with writer.begin() as connection:
            connection.exec_driver_sql(change)
        assert read(outside) != before
        assert_true(reader, outside)
    with writer.begin() as connection:
        connection.execute(update(Written).values(value=20))
    assert_true(reader, outside)


def become(role: str, who: int, raw: Any, record: Any) -> None:
    """Have a new connection be somebody, before anything else is asked on it."""
    raw.execute(f"SET ROLE {role}")
    raw.execute(f"SET app.who = {who}")
    raw.commit()


def test_what_row_level_security_shows_to_one_is_not_shown_to_another(on_postgresql: Catalog) -> None:
    role = f"survey_{secrets.token_hex(4)}"
    on_postgresql.make(
        WRITTEN,
        SEEN,
        *ROWS,
        "ALTER TABLE seen ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE seen FORCE ROW LEVEL SECURITY",
        "CREATE POLICY p ON seen USING (value = current_setting('app.who')::integer)",
        f"CREATE ROLE {role}",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"GRANT SELECT ON seen TO {role}",
    )
    try:
        told = []
        for who in (10, 20):
            reader = on_postgresql.process()
            event.listen(reader, "connect", partial(become, role, who))
            with Session(reader) as session:
                told.append(list(session.scalars(select(Seen.value))))
        assert told == [[10], [20]]
        assert on_postgresql.hits() == 0
    finally:
        on_postgresql.make(f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@pytest.mark.parametrize("foreign", ["seen", "written"])
def test_a_foreign_table_is_not_cached_and_a_write_to_it_is_a_write_to_anything(
    on_postgresql: Catalog, foreign: str
) -> None:
    """The other server is this one: the table here and the table there share their rows."""
    url = make_url(on_postgresql.url)
    columns = "id integer, value integer, other integer"
    real = "written" if foreign == "seen" else "seen"
    try:
        on_postgresql.make(
            f"CREATE TABLE {real} ({columns.replace('id integer', 'id integer PRIMARY KEY')})",
            f"INSERT INTO {real} VALUES (1, 10, 1)",
            "CREATE EXTENSION IF NOT EXISTS postgres_fdw SCHEMA pg_catalog",
            f"CREATE SERVER survey_loop FOREIGN DATA WRAPPER postgres_fdw OPTIONS"
            f" (host '{url.host or ''}', port '{url.port or 5432}', dbname '{url.database}')",
            f"CREATE USER MAPPING FOR CURRENT_USER SERVER survey_loop OPTIONS (user '{url.username}',"
            f" password '{url.password or ''}', password_required 'false')",
            f"CREATE FOREIGN TABLE {foreign} ({columns}) SERVER survey_loop OPTIONS (table_name '{real}')",
        )
        reader, writer, outside = on_postgresql.process(), on_postgresql.process(), on_postgresql.engine()
        assert_true(reader, outside)
        assert (on_postgresql.hits() == 0) == (foreign == "seen")
        with Session(writer) as session, session.begin():
            session.get_one(Written, 1).value = 20
        assert_true(reader, outside)
        assert read(outside)[0] == [(1, 20, 1)]
    finally:
        on_postgresql.make("DROP SERVER IF EXISTS survey_loop CASCADE", "DROP EXTENSION IF EXISTS postgres_fdw CASCADE")


@pytest.mark.parametrize("kind", KINDS)
def test_a_temporary_table_in_the_place_of_another_is_its_connections_own_affair(
    catalog_on: Callable[[Kind], Catalog], kind: Kind
) -> None:
    catalog = catalog_on(kind)
    catalog.make(WRITTEN, SEEN, *ROWS)
    reader, shadowed, outside = catalog.process(), catalog.process(), catalog.engine()
    assert_true(reader, outside)
    with Session(shadowed) as session:
        session.execute(text("CREATE TEMPORARY TABLE seen (id integer, value integer, other integer)"))
        session.commit()
        assert everything(session)[0] == []
        session.execute(text("INSERT INTO seen VALUES (7, 7, 7)"))
        session.commit()
        assert everything(session)[0] == [(7, 7, 7)]
        assert_true(reader, outside)
        session.execute(text("DROP TABLE seen"))
        session.commit()
        assert everything(session)[0] == read(outside)[0]
    assert_true(shadowed, outside)


def test_partitions_of_mariadb_are_part_of_their_table(catalog_on: Callable[[Kind], Catalog]) -> None:
    catalog = catalog_on("mariadb")
    columns = "(id integer PRIMARY KEY, value integer NOT NULL, other integer)"
    partitions = "PARTITION BY RANGE (id) (PARTITION low VALUES LESS THAN (9), PARTITION high VALUES LESS THAN (99))"
    catalog.make(f"CREATE TABLE seen {columns} {partitions}", f"CREATE TABLE written {columns}", ROWS[1])
    catalog.make("INSERT INTO written VALUES (3, 99, 5)")
    reader, writer, outside = catalog.process(), catalog.process(), catalog.engine()
    for change in (
        "ALTER TABLE seen EXCHANGE PARTITION low WITH TABLE written",
        "ALTER TABLE seen TRUNCATE PARTITION low",
    ):
        before = read(outside)
        assert_true(reader, outside)
        # Without autocommit MariaDB 10.11 waits for itself when it exchanges a partition.
        with writer.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(change)
        assert read(outside) != before
        assert_true(reader, outside)


def test_a_sequence_of_mariadb_is_not_cached(catalog_on: Callable[[Kind], Catalog]) -> None:
    catalog = catalog_on("mariadb")
    catalog.make("CREATE SEQUENCE numbers NOCACHE")
    counter = Table("numbers", MetaData(), Column("next_not_cached_value", Integer, primary_key=True))
    reader, writer = catalog.process(), catalog.process()
    for expected in (1, 2, 3):
        for _ in range(2):
            with Session(reader) as session:
                statement = select(counter.c.next_not_cached_value).options(FromCache())
                assert session.scalars(statement).one() == expected
        with writer.connect() as connection:
            connection.exec_driver_sql("SELECT NEXT VALUE FOR numbers")
    assert catalog.hits() == 0


def test_a_table_of_an_attached_sqlite_database_is_not_cached(
    catalog_on: Callable[[Kind], Catalog], tmp_path: Path
) -> None:
    catalog = catalog_on("sqlite")
    catalog.make(WRITTEN)
    attach = f"ATTACH '{tmp_path}/other.db' AS more"
    engines = [catalog.process(), catalog.process(), catalog.engine()]
    for engine in engines:
        event.listen(engine, "connect", lambda raw, record: raw.execute(attach))
    reader, writer, outside = engines
    with outside.begin() as connection:
        connection.exec_driver_sql(SEEN.replace("seen", "more.seen"))
        connection.exec_driver_sql(ROWS[1])
    assert_true(reader, outside)
    with writer.begin() as connection:
        connection.execute(update(Seen).where(Seen.id == 1).values(value=99))
    assert_true(reader, outside)
    assert catalog.hits() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_catalog_is_read_once_and_again_after_ddl_and_its_cost_is_told(
    catalog_on: Callable[[Kind], Catalog], kind: Kind
) -> None:
    catalog = catalog_on(kind)
    catalog.make(WRITTEN, SEEN, *ROWS)
    process = catalog.process()
    (cache,) = catalog.caches
    assert cache.stats()["databases"] == []
    for _ in range(3):
        read(process)
        write(process, "update", "core")
    (before,) = cache.stats()["databases"]
    assert before["surveys"] == 1
    assert before["tables"] >= 2
    assert before["survey_seconds"] > 0
    with process.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE third (id integer)")
    read(process)
    (after,) = cache.stats()["databases"]
    assert after["surveys"] == 2
    if kind != "mariadb":  # where the catalog is that of the whole server, and others make and drop tables
        assert after["tables"] == before["tables"] + 1
    assert after["survey_seconds"] > before["survey_seconds"]
    assert after["identity"] == before["identity"]
