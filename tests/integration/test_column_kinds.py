"""What if the database compares a column otherwise than its mapped type says? Real columns, two processes, no stale read.

A list is cached by a value, another process writes a row with a value that is equal to the database only, and whoever
reads the list next must see the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Uuid,
    and_,
    bindparam,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects.mysql import VARCHAR
from sqlalchemy.orm import Session, registry
from sqlalchemy.pool import NullPool

from querycache import QueryCache
from querycache.databases import ColumnKind, Survey, survey_of
from querycache.stores.memory import MemoryStore

TEXT = String(50).with_variant(VARCHAR(50, charset=None, collation="utf8mb4_nopad_bin"), "mysql", "mariadb")

metadata = MetaData()
word = Table("word", metadata, Column("id", Integer, primary_key=True), Column("name", TEXT, index=True))
note = Table("note", metadata, Column("id", Integer, primary_key=True), Column("name", TEXT, index=True))
number = Table("number", metadata, Column("id", Integer, primary_key=True), Column("amount", Integer, index=True))
label = Table("label", metadata, Column("name", TEXT, primary_key=True), Column("amount", Integer))
mapped = registry(metadata=metadata)


@mapped.mapped
class Word:
    __table__ = word


@mapped.mapped
class Note:
    __table__ = note


@mapped.mapped
class Number:
    __table__ = number


@mapped.mapped
class Label:
    __table__ = label


MODELS = [Word, Note, Number, Label]
Read = Callable[[Session], Any]


@dataclass
class Processes:
    """Processes that share a database and a store, each with its own cache and engine."""

    url: str
    store: MemoryStore = field(default_factory=MemoryStore)
    caches: list[QueryCache] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def run(self, *statements: str) -> None:
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def start(self, cache: QueryCache | None = None, **options: Any) -> Engine:
        if cache is None:
            cache = QueryCache(self.store, models=MODELS)
            self.caches.append(cache)
        engine = create_engine(self.url, poolclass=NullPool, **options)
        event.listen(engine, "before_cursor_execute", lambda *event: self.sent.append(event[2]))
        cache.attach(engine)
        return engine

    def is_hit(self, engine: Engine, read: Read) -> bool:
        read_in(engine, read)
        self.sent.clear()
        read_in(engine, read)
        return not self.sent


def read_in(engine: Engine, read: Read) -> Any:
    with Session(engine) as session:
        return read(session)


def add(engine: Engine, *rows: Any) -> None:
    with Session(engine) as session:
        session.add_all(rows)
        session.commit()


def ids_named(name: str) -> Read:
    return lambda session: list(session.scalars(select(Word.id).where(Word.name == name).order_by(Word.id)))


def survey_in(url: str) -> Survey:
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        return survey_of(engine.dialect, raw)


@pytest.fixture
def processes_on() -> Iterator[Callable[[str], Processes]]:
    made: list[Processes] = []

    def start(url: str) -> Processes:
        made.append(Processes(url))
        return made[-1]

    yield start
    for processes in made:
        for cache in processes.caches:
            cache.close()


ProcessesOn = Callable[[str], Processes]

NONDETERMINISTIC = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"

FOLDING = [
    pytest.param("sqlite", [], "VARCHAR(50) COLLATE NOCASE", id="sqlite-nocase"),
    pytest.param("sqlite", [], "VARCHAR(50) COLLATE /* of the user */ NOCASE", id="sqlite-comment"),
    pytest.param("postgresql", [NONDETERMINISTIC], "varchar(50) COLLATE folding", id="postgresql-nondeterministic"),
    pytest.param("postgresql", ["CREATE EXTENSION citext"], "citext", id="postgresql-citext"),
    pytest.param(
        "postgresql",
        ["CREATE EXTENSION citext", "CREATE DOMAIN folded AS citext"],
        "folded",
        id="postgresql-domain",
    ),
    pytest.param(
        "mariadb",
        [],
        "VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
        id="mariadb-general-ci",
    ),
]


def folding(request: pytest.FixtureRequest, processes_on: ProcessesOn) -> Processes:
    kind, before, declared = request.param
    processes = processes_on(request.getfixturevalue(f"{kind}_url"))
    key = {"sqlite": "INTEGER", "postgresql": "serial", "mariadb": "INTEGER AUTO_INCREMENT"}[kind]
    tables = (
        f"CREATE TABLE word (id {key} PRIMARY KEY, name {declared})",
        f"CREATE TABLE note (id {key} PRIMARY KEY, name {exact_text(kind)})",
        f"CREATE TABLE label (name {declared} NOT NULL PRIMARY KEY, amount INTEGER)",
    )
    processes.run(*before, *tables)
    return processes


def exact_text(kind: str) -> str:
    return {
        "sqlite": "VARCHAR(50)",
        "postgresql": "varchar(50)",
        "mariadb": "VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    }[kind]
