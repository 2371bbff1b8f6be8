"""What if the database compares or stores a value otherwise than its mapped type says? Two processes, no stale read.

A list is cached by a value, another process writes a row with a value that is the same one to the database only, and
whoever reads the list next sees the row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import BigInteger, Engine, String, create_engine, event, insert, select, update
from sqlalchemy.dialects.mysql import VARCHAR
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from querycache import QueryCache
from querycache.stores.memory import MemoryStore

BYTES = VARCHAR(50, collation="utf8mb4_nopad_bin")
EXACT = {
    "sqlite": "VARCHAR(50)",
    "postgresql": "varchar(50)",
    "mariadb": "VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
}
SERIAL = {"sqlite": "INTEGER", "postgresql": "serial", "mariadb": "INTEGER AUTO_INCREMENT"}
LENIENT: dict[str, Any] = {"connect_args": {"init_command": "SET sql_mode = ''"}}

TEXT = String(50).with_variant(BYTES, "mysql", "mariadb")


class Base(DeclarativeBase):
    pass


class Word(Base):
    __tablename__ = "word"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(TEXT, index=True)


class Note(Base):
    __tablename__ = "note"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(TEXT, index=True)


class Number(Base):
    __tablename__ = "number"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int | None] = mapped_column(BigInteger, index=True)


class Label(Base):
    __tablename__ = "label"
    name: Mapped[str] = mapped_column(TEXT, primary_key=True)
    amount: Mapped[int]


class Doubled(Base):
    """The database makes ``amount`` twice ``base``, which this mapping does not say."""

    __tablename__ = "doubled"
    id: Mapped[int] = mapped_column(primary_key=True)
    base: Mapped[int]
    amount: Mapped[int] = mapped_column(BigInteger, index=True)


Read = Callable[[Session], Any]


@dataclass
class Processes:
    """Processes that share a database and a store, each with its own cache and engine."""

    url: str
    kind: str
    store: MemoryStore = field(default_factory=MemoryStore)
    caches: list[QueryCache] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)

    def run(self, *statements: str) -> None:
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def start(self, **options: Any) -> Engine:
        engine = create_engine(self.url, poolclass=NullPool, **options)
        self.caches.append(QueryCache(self.store, models=[Word, Note, Number, Label, Doubled]))
        self.caches[-1].attach(engine)
        event.listen(engine, "before_cursor_execute", self._note)
        return engine

    def _note(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.sent.append(statement)

    def is_hit(self, engine: Engine, read: Read) -> bool:
        read_in(engine, read)
        self.sent.clear()
        read_in(engine, read)
        return not self.sent


ProcessesOn = Callable[[str], Processes]


@pytest.fixture
def processes_on(request: pytest.FixtureRequest) -> Iterator[ProcessesOn]:
    """Start with an empty database of a kind."""
    made: list[Processes] = []

    def start(kind: str) -> Processes:
        made.append(Processes(request.getfixturevalue(f"{kind}_url"), kind))
        return made[-1]

    yield start
    for processes in made:
        for cache in processes.caches:
            cache.close()


def read_in(engine: Engine, read: Read) -> Any:
    with Session(engine) as session:
        return read(session)


def add(engine: Engine, *rows: Any) -> None:
    with Session(engine) as session:
        session.add_all(rows)
        session.commit()


def words_named(name: str) -> Read:
    return lambda session: list(session.scalars(select(Word.id).where(Word.name == name).order_by(Word.id)))


def numbers_of(amount: int) -> Read:
    return lambda session: list(session.scalars(select(Number.id).where(Number.amount == amount)))


def doubled_to_four(session: Session) -> list[int]:
    return list(session.scalars(select(Doubled.id).where(Doubled.amount == 4)))


FOLDING = "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
GENERAL = "VARCHAR(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"
SAME_TO_THE_DATABASE = {
    "nocase": ("sqlite", "VARCHAR(50) COLLATE NOCASE", ()),
    "nocase-with-a-comment": ("sqlite", 'VARCHAR(50) COLLATE /* "binary" */ NOCASE', ()),
    "nondeterministic": ("postgresql", "varchar(50) COLLATE folding", (FOLDING,)),
    "domain": ("postgresql", "folded", (FOLDING, "CREATE DOMAIN folded AS varchar(50) COLLATE folding")),
    "general-ci": ("mariadb", GENERAL, ()),
}


@pytest.fixture(params=list(SAME_TO_THE_DATABASE.values()), ids=list(SAME_TO_THE_DATABASE))
def folding(request: pytest.FixtureRequest, processes_on: ProcessesOn) -> Processes:
    """Tables in which 'abc' and 'ABC' are one text to the database, and two by their mapping."""
    kind, declared, before = request.param
    processes = processes_on(kind)
    processes.run(
        *before,
        f"CREATE TABLE word (id {SERIAL[kind]} PRIMARY KEY, name {declared})",
        f"CREATE TABLE note (id {SERIAL[kind]} PRIMARY KEY, name {EXACT[kind]})",
        f"CREATE TABLE label (name {declared} NOT NULL PRIMARY KEY, amount INTEGER)",
    )
    return processes


def test_a_text_that_only_the_database_holds_to_be_the_same_is_seen(folding: Processes) -> None:
    reader, writer = folding.start(), folding.start()
    assert read_in(reader, words_named("abc")) == []
    add(writer, Word(id=1, name="ABC"))
    assert read_in(reader, words_named("abc")) == [1]


def test_a_row_that_moves_to_the_same_text_is_seen(folding: Processes) -> None:
    reader, writer = folding.start(), folding.start()
    add(writer, Word(id=1, name="other"))
    assert read_in(reader, words_named("abc")) == []
    with Session(writer) as session:
        session.get_one(Word, 1).name = "ABC"
        session.commit()
    assert read_in(reader, words_named("abc")) == [1]


def test_such_a_table_is_still_cached_and_by_its_primary_key(folding: Processes) -> None:
    reader, writer = folding.start(), folding.start()
    assert folding.is_hit(reader, words_named("abc"))
    assert folding.is_hit(reader, lambda session: session.scalars(select(Word.name).where(Word.id == 7)).all())
    add(writer, Word(id=1, name="x"))
    folding.sent.clear()
    read_in(reader, lambda session: session.scalars(select(Word.name).where(Word.id == 7)).all())
    assert folding.sent == []


def test_a_primary_key_that_compares_in_another_way_is_not_cached(folding: Processes) -> None:
    reader, writer = folding.start(), folding.start()

    def amount(session: Session) -> int | None:
        return session.scalars(select(Label.amount).where(Label.name == "abc")).one_or_none()

    add(writer, Label(name="ABC", amount=1))
    assert not folding.is_hit(reader, amount)
    (why_not,) = {reason for reason in folding.caches[0].stats()["reasons"] if "label" in str(reason)}
    assert "primary key of another type in the database than in the mapping" in str(why_not)
    with Session(writer) as session:
        session.execute(update(Label).where(Label.name == "abc").values(amount=2))
        session.commit()
    assert read_in(reader, amount) == 2


@pytest.mark.parametrize("outer", [False, True], ids=["inner", "outer"])
def test_a_value_does_not_pass_on_through_a_column_that_compares_in_another_way(
    processes_on: ProcessesOn, outer: bool
) -> None:
    """word.name = 'abc' holds for 'ABC', and so does note.name = word.name: note's rows are not those of 'abc' alone."""
    processes = processes_on("sqlite")
    processes.run(
        "CREATE TABLE word (id INTEGER PRIMARY KEY, name VARCHAR(50) COLLATE NOCASE)",
        "CREATE TABLE note (id INTEGER PRIMARY KEY, name VARCHAR(50))",
    )
    reader, writer = processes.start(), processes.start()
    same = (Note.name == Word.name) & (Word.name == "abc")

    def notes(session: Session) -> list[int | None]:
        return list(session.scalars(select(Note.id).select_from(Word).join(Note, same, isouter=outer)))

    add(writer, Word(id=1, name="ABC"))
    assert read_in(reader, notes) == ([None] if outer else [])
    add(writer, Note(id=5, name="ABC"))
    assert read_in(reader, notes) == [5]


def test_numbers_that_a_rounding_column_makes_one_are_seen(processes_on: ProcessesOn) -> None:
    for kind, declared, one, other in (
        ("sqlite", "REAL", 2**53, 2**53 + 1),
        ("postgresql", "double precision", 2**53, 2**53 + 1),
        ("mariadb", "DOUBLE", 2**53, 2**53 + 1),
    ):
        processes = processes_on(kind)
        processes.run(f"CREATE TABLE number (id {SERIAL[kind]} PRIMARY KEY, amount {declared})")
        reader, writer = processes.start(), processes.start()
        assert read_in(reader, numbers_of(one)) == []
        add(writer, Number(id=1, amount=other))
        assert read_in(reader, numbers_of(one)) == [1], kind


def test_a_number_that_is_clipped_to_what_the_column_holds_is_seen(processes_on: ProcessesOn) -> None:
    processes = processes_on("mariadb")
    processes.run("CREATE TABLE number (id INTEGER PRIMARY KEY, amount SMALLINT)")
    reader, writer = processes.start(), processes.start(**LENIENT)
    assert read_in(reader, numbers_of(32767)) == []
    add(writer, Number(id=1, amount=40000))
    assert read_in(reader, numbers_of(32767)) == [1]


def test_a_text_that_is_cut_to_what_the_column_holds_is_seen(processes_on: ProcessesOn) -> None:
    processes = processes_on("mariadb")
    processes.run(
        "CREATE TABLE word (id INTEGER PRIMARY KEY, name VARCHAR(3) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin)"
    )
    reader, writer = processes.start(), processes.start(**LENIENT)
    assert read_in(reader, words_named("abc")) == []
    add(writer, Word(id=1, name="abcdef"))
    assert read_in(reader, words_named("abc")) == [1]


def test_a_null_that_becomes_zero_is_seen(processes_on: ProcessesOn) -> None:
    processes = processes_on("mariadb")
    processes.run("CREATE TABLE number (id INTEGER PRIMARY KEY, amount BIGINT NOT NULL)")
    reader, writer = processes.start(), processes.start(**LENIENT)
    add(writer, Number(id=1, amount=5))
    assert read_in(reader, numbers_of(0)) == []
    with Session(writer) as session:
        session.get_one(Number, 1).amount = None
        session.commit()
    assert read_in(reader, numbers_of(0)) == [1]


def test_a_number_that_the_database_computes_unknown_to_the_mapping_is_seen(processes_on: ProcessesOn) -> None:
    for kind in ("sqlite", "postgresql", "mariadb"):
        processes = processes_on(kind)
        amount = "bigint GENERATED ALWAYS AS (base * 2) STORED"
        processes.run(f"CREATE TABLE doubled (id integer PRIMARY KEY, base integer, amount {amount})")
        processes.run("INSERT INTO doubled (id, base) VALUES (1, 1)")
        engine = processes.start()

        assert read_in(engine, doubled_to_four) == []
        with Session(engine) as session:
            session.get_one(Doubled, 1).base = 2
            session.commit()
        assert read_in(engine, doubled_to_four) == [1], kind


@pytest.mark.parametrize("way", ["unit of work", "core", "many"])
def test_a_row_given_zero_for_its_number_is_seen_under_the_number_that_the_server_gave(
    processes_on: ProcessesOn, way: str
) -> None:
    processes = processes_on("mariadb")
    processes.run("CREATE TABLE number (id INTEGER AUTO_INCREMENT PRIMARY KEY, amount BIGINT)")
    reader, writer = processes.start(), processes.start()

    def first(session: Session) -> list[int]:
        return list(session.scalars(select(Number.amount).where(Number.id == 1)))

    assert read_in(reader, first) == []
    with Session(writer) as session:
        if way == "unit of work":
            session.add(Number(id=0, amount=5))
        elif way == "core":
            session.execute(insert(Number).values(id=0, amount=5))
        else:
            session.execute(insert(Number), [{"id": 0, "amount": 5}, {"id": None, "amount": 6}])
        session.commit()
    assert read_in(reader, first) == [5]


def test_a_row_given_no_number_by_name_is_seen_under_the_number_that_the_server_gave(processes_on: ProcessesOn) -> None:
    processes = processes_on("mariadb")
    processes.run("CREATE TABLE number (id INTEGER AUTO_INCREMENT PRIMARY KEY, amount BIGINT)")
    reader, writer = processes.start(), processes.start()

    def first(session: Session) -> list[int]:
        return list(session.scalars(select(Number.amount).where(Number.id == 1)))

    assert read_in(reader, first) == []
    with Session(writer) as session:
        session.execute(insert(Number).values(id=None, amount=5))
        session.commit()
    assert read_in(reader, first) == [5]


def test_processes_that_saw_another_catalog_do_not_trust_each_others_entries(processes_on: ProcessesOn) -> None:
    """The reader's picture is older than a change made past the cache; the writer's is not."""
    processes = processes_on("postgresql")
    processes.run(FOLDING, "CREATE TABLE word (id serial PRIMARY KEY, name varchar(50))")
    reader = processes.start()
    assert read_in(reader, words_named("abc")) == []
    processes.run("ALTER TABLE word ALTER name TYPE varchar(50) COLLATE folding")
    assert read_in(reader, words_named("x")) == []
    assert processes.is_hit(reader, words_named("abc"))
    add(processes.start(), Word(id=1, name="ABC"))
    assert read_in(reader, words_named("abc")) == [1]


def test_ddl_makes_the_catalog_be_read_again(processes_on: ProcessesOn) -> None:
    processes = processes_on("postgresql")
    processes.run(FOLDING, "CREATE TABLE word (id serial PRIMARY KEY, name varchar(50))")
    engine = processes.start()
    assert read_in(engine, words_named("abc")) == []
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE word ALTER name TYPE varchar(50) COLLATE folding")
    assert read_in(engine, words_named("abc")) == []
    add(engine, Word(id=1, name="ABC"))
    assert read_in(engine, words_named("abc")) == [1]
