"""Where do the cached and the uncached side of the oracle meet?

A world is one database with a random schema in it, and engines: one or two that are attached to caches on one store, and
one that no cache ever heard of. It says what a cache answers and what the database answers to the same question in the
same visible state, and counts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from oracle_answers import ERROR, Disagreement, answer_to, told
from oracle_design import design
from oracle_dice import Dice
from oracle_draft import NO_WISHES, Wishes
from oracle_questions import Question
from oracle_schema import Schema, forget, mapper_of, random_row, table_of
from oracle_tally import Tally
from oracle_values import POSTGRESQL_COLLATION, kind_of
from sqlalchemy import Connection, Engine, NullPool, Table, create_engine, event, insert, inspect, make_url, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session

from querycache import Policy, QueryCache, _sqlalchemy
from querycache.questions import Bypass
from querycache.stores import open_store
from servers import empty_database

LEVELS: Final[Mapping[str, tuple[str | None, ...]]] = {
    "sqlite": (None,),
    "postgresql": (None, None, None, "REPEATABLE READ", "SERIALIZABLE"),
    "mysql": (None, None, "READ COMMITTED"),
    "mariadb": (None, None, "READ COMMITTED"),
}
"""The isolation levels of the cached side; None is the server's default. At READ UNCOMMITTED a hit is what was committed."""


@dataclass(frozen=True, slots=True)
class Side:
    """An engine attached to a cache: what one process of an application has."""

    engine: Engine
    cache: QueryCache

    def session(self, level: str | None = None, *, twophase: bool = False) -> Session:
        """Return a Session whose reads the cache may answer."""
        engine = self.engine if level is None else self.engine.execution_options(isolation_level=level)
        return Session(engine, twophase=twophase)


class World:
    """One round. ``url``: a database that is emptied first; of SQLite a file that is made anew.

    ``is_async``: the engines with a cache have asynchronous drivers; all is played in an event loop, on SQLAlchemy's bridge.
    """

    def __init__(
        self,
        url: str,
        seed: int,
        tally: Tally,
        wishes: Wishes = NO_WISHES,
        store: str | None = None,
        *,
        is_async: bool = False,
    ) -> None:
        dice = Dice(seed, "world")
        self.tally = tally
        self.outside = _engine_on(url, waits=True)
        self._folder = TemporaryDirectory(prefix="querycache-oracle-")
        self._undone: list[str] = []
        self._turn = 0
        self._past_cache = False
        _empty(url, self.outside)
        self.schema: Schema = design(Dice(seed, "schema"), self.outside.dialect.name, wishes)
        self._create()
        self.rows = self._first_rows(Dice(seed, "rows"))
        self._name_classes()
        self.settings = ""
        self.sides = self._open(dice, url, store, is_async=is_async)
        self.levels = LEVELS[self.outside.dialect.name]
        self.prepares = self._prepares()

    # -- making --------------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        with self.outside.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(
                    text(
                        f"CREATE COLLATION {POSTGRESQL_COLLATION} "
                        "(provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                    )
                )
            with _stored_types(self.schema):
                self.schema.metadata.create_all(connection)
            for statement in (*self.schema.after, *(trigger.made_by for trigger in self.schema.triggers)):
                connection.exec_driver_sql(statement)

    def _prepares(self) -> bool:
        """Tell whether the server commits in two phases."""
        with self.outside.connect() as connection:
            if connection.dialect.name == "postgresql":
                return bool(connection.scalar(text("SHOW max_prepared_transactions")) != "0")
            return connection.dialect.name in ("mysql", "mariadb")

    def _first_rows(self, dice: Dice) -> list[tuple[Table, list[dict[str, Any]]]]:
        """Return the rows of each table with which an example begins: those that the database takes."""
        taken = []
        for table in self.schema.tables:
            rows = []
            key = next(iter(table.primary_key.columns))
            for attempt in range(8):
                row = random_row(dice, list(table.columns))
                if not key.foreign_keys:
                    row[key.key] = kind_of(key).keys[attempt % 3]
                with suppress(SQLAlchemyError), self.outside.begin() as connection:
                    connection.execute(insert(table).values(row))
                    rows.append(row)
                if len(rows) == 3:
                    break
            taken.append((table, rows))
        return taken

    def _name_classes(self) -> None:
        """Let the rows of a base class say which of them have a row in a subclass's table."""
        rows_of = dict(self.rows)
        for model in self.schema.models:
            mapper = mapper_of(model)
            if mapper.inherits is None or mapper.concrete or mapper.single or mapper.polymorphic_on is None:
                continue
            column: Any = mapper.polymorphic_on
            base, own = table_of(mapper.inherits.class_), table_of(model)
            keys = [c.key for c in own.primary_key.columns], [c.key for c in base.primary_key.columns]
            there = [[row[key] for key in keys[0]] for row in rows_of[own]]
            for row in rows_of[base]:
                if [row[key] for key in keys[1]] in there:
                    row[column.key] = mapper.polymorphic_identity

    def _open(self, dice: Dice, url: str, store: str | None, *, is_async: bool) -> list[Side]:
        """Open one cache or two on one store, each with settings of its own."""
        store = store or dice.weighted([("memory://", 3), ("lmdb", 1)])
        where = f"lmdb://{self._folder.name}/store?size=16MB" if store == "lmdb" else store
        shared: Any = open_store(where) if where.startswith("memory") else where
        sides = []
        settings = [f"store {store}"]
        for _ in range(dice.weighted([(1, 2), (2, 1)])):
            old_images, tag_columns = dice.happens(0.75), self._tag_columns(dice)
            policies = {model: self._policy(dice) for model in self._cacheable(dice)}
            views = {table_of(view).name: [table_of(view).info["of"]] for view in self.schema.views}
            varies, declares = dice.happens(0.15), dice.happens(0.3)
            settings.append(
                f"cache with old_images={old_images}, tag_columns={tag_columns}, {'vary, ' if varies else ''}"
                f"{'views declared, ' if declares and views else ''}{_told(policies)}"
            )
            cache = QueryCache(
                shared,
                models=policies,
                old_images=old_images,
                tag_columns=tag_columns,
                vary=(lambda session: "everybody") if varies else None,
                views=views if declares else None,
            )
            engine = _engine_on(url, is_async=is_async)
            cache.attach(engine)
            self._send_reads_past(cache)
            sides.append(Side(engine, cache))
        self.settings = "\n".join(settings)
        return sides

    def _cacheable(self, dice: Dice) -> list[type[Any]]:
        models = [*self.schema.models, *self.schema.views]
        return models if dice.happens(0.8) else dice.some_of(models, len(models) - 1, len(models) - 1)

    def _policy(self, dice: Dice) -> Policy:
        way = dice.weighted([("usual", 7), ("keys", 2), ("small", 1), ("few operations", 1)])
        if way == "keys":
            return Policy(shape="keys")
        if way == "small":
            return Policy(max_size_bytes=200)
        if way == "few operations":
            return Policy(operations=frozenset(dice.some_of(["get", "list", "columns"], 1, 2)))
        return Policy()

    def _tag_columns(self, dice: Dice) -> dict[str, list[str | tuple[str, ...]]]:
        """Name the columns, and groups of them, by which reads of a table are told apart, sometimes."""
        if not dice.happens(0.3):
            return {}
        table = table_of(dice.one_of(self.schema.models))
        names = [column.name for column in table.columns if kind_of(column).compares]
        named: list[str | tuple[str, ...]] = [*dice.some_of(names, 1, 3)]
        if len(names) > 1 and dice.happens(0.6):
            named.insert(0, tuple(dice.some_of(names, 2, 2)))
        return {table.fullname: named}

    def _send_reads_past(self, cache: QueryCache) -> None:
        """Let ``uncached`` decide whether the cache is asked, for gets, lazy and eager loads as well."""
        reader: Any = cache._reader
        situation_of = reader._situation_of

        def situation_or_bypass(*arguments: Any) -> Any:
            return Bypass("the oracle asks the database") if self._past_cache else situation_of(*arguments)

        reader._situation_of = situation_or_bypass

    # -- examples ------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start an example: the first rows, an empty cache, the schema as it was made."""
        self.tally.examples += 1
        for statement in reversed(self._undone):
            # MariaDB keeps an index that a foreign key uses by now, and so may we.
            with self.sides[0].engine.connect() as connection, suppress(SQLAlchemyError):
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement)
        self._undone.clear()
        with self.outside.begin() as connection:
            _switch_keys(connection, on=False)
            with self._without_triggers(connection):
                for table in reversed(self.schema.tables):
                    connection.execute(table.delete())
            for table, rows in self.rows:
                for row in rows:
                    connection.execute(insert(table).values(row))
            self._put_sequences_back(connection)
            _switch_keys(connection, on=True)
        for side in self.sides:
            side.cache.clear()

    @contextmanager
    def _without_triggers(self, connection: Connection) -> Iterator[None]:
        """A block in which no trigger fires: what it does to rows that are there still may not be allowed."""
        for trigger in self.schema.triggers:
            connection.exec_driver_sql(trigger.dropped_by)
        yield
        for trigger in self.schema.triggers:
            connection.exec_driver_sql(trigger.made_by)

    def _put_sequences_back(self, connection: Connection) -> None:
        if connection.dialect.name != "postgresql":
            return
        for table in self.schema.tables:
            column = table.autoincrement_column
            if column is not None and kind_of(column).name == "int" and not column.foreign_keys:
                quote = connection.dialect.identifier_preparer.quote
                connection.execute(
                    text("SELECT setval(pg_get_serial_sequence(:table, :column), 2)"),
                    {"table": quote(table.name), "column": column.name},
                )

    def undo_later(self, statement: str) -> None:
        """Have DDL undone before the next example."""
        self._undone.append(statement)

    def next_side(self) -> Side:
        """Return the sides in turn."""
        self._turn += 1
        return self.sides[self._turn % len(self.sides)]

    # -- comparing -----------------------------------------------------------------------------------------------------

    def compare_afresh(self, question: Question) -> None:
        """Compare what a new Session says, which sends nothing where it is served, with what is committed."""
        side = self.next_side()
        with side.session() as session:
            cached = _or_error(lambda: self._asked(side, question, session))
        self._require_same(question, "a new session", cached, _or_error(lambda: self._committed(question)))

    def compare_within(self, side: Side, question: Question, session: Session, mode: str) -> None:
        """Compare within a Session's transaction.

        ``mode``: with nothing in the identity map ("fresh"), with all of it expired, or as it is ("kept").
        """
        if mode == "kept" and not question.is_steady:
            mode = "fresh"
        if mode == "fresh":
            session.expunge_all()
        elif mode == "expired":
            session.expire_all()
        before: list[Any] = list(session.identity_map.values())
        cached = self._asked(side, question, session)
        after: list[Any] = list(session.identity_map.values())
        if mode == "fresh" and _sqlalchemy.connection_of(session, session.get_bind()) is None:
            truth = self._committed(question)
        else:
            if mode != "kept":
                # As it was before: what the first asking loaded is not there when it is asked again.
                known = set(map(id, before))
                session._expunge_states([inspect(one) for one in after if id(one) not in known])
                session.expire_all()
            with self._uncached():
                truth = answer_to(question, session)
        self._require_same(question, f"a session with its identity map {mode}", cached, truth)

    def _asked(self, side: Side, question: Question, session: Session) -> Any:
        """Return what a cached Session says, and count what the cache did."""
        before = side.cache.events.counts()
        failed = True
        try:
            answer = answer_to(question, session)
            failed = answer[0] == ERROR
            return answer
        finally:
            self.tally.errors[question.kind] += failed
            after = side.cache.events.counts()
            self.tally.asked[question.kind] += 1
            self.tally.hits[question.kind] += after.get("hit", 0) > before.get("hit", 0)
            self.tally.bypasses[question.kind] += after.get("bypass", 0) > before.get("bypass", 0)
            self.tally.counts["defect"] += after.get("defect", 0) - before.get("defect", 0)
            self.tally.counts["fill"] += after.get("fill", 0) - before.get("fill", 0)

    def _committed(self, question: Question) -> Any:
        with Session(self.outside) as session:
            return answer_to(question, session)

    @contextmanager
    def _uncached(self) -> Iterator[None]:
        self._past_cache = True
        try:
            yield
        finally:
            self._past_cache = False

    def _require_same(self, question: Question, where: str, cached: Any, truth: Any) -> None:
        self.tally.comparisons += 1
        if cached != truth:
            raise Disagreement(
                f"{where} asked {question}\n  the cache says    {told(cached, truth)}\n"
                f"  the database says {told(truth, cached)}"
            )

    def close(self) -> None:
        """Close the engines and the caches, forget the classes."""
        for side in self.sides:
            side.engine.dispose()
            side.cache.close()
        self.outside.dispose()
        self.schema.registry.dispose()
        for model in self.schema.views:
            model.registry.dispose()
        forget()
        _forget_tables()
        self._folder.cleanup()


@contextmanager
def _stored_types(schema: Schema) -> Iterator[None]:
    """Give columns the types that the database is to have, which the mapping does not know of."""
    mapped = {c: c.type for table in schema.tables for c in table.columns if kind_of(c).stored_on is not None}
    for column in mapped:
        stored_on = kind_of(column).stored_on
        assert stored_on is not None
        column.type = stored_on(schema.dialect)
    yield
    for column, column_type in mapped.items():
        column.type = column_type


_REMEMBERING: Final[type[Any]] = type(lru_cache(lambda: None))


def _forget_tables() -> None:
    """Empty what the library remembers of tables: it remembers a thousand, and each holds its whole schema."""
    for name, module in list(sys.modules.items()):
        if name.startswith("querycache"):
            for value in list(vars(module).values()):
                # By its type: to ask Flask's current_app for an attribute is an error where there is none.
                if type(value) is _REMEMBERING:
                    value.cache_clear()


def _or_error(answer: Callable[[], Any]) -> Any:
    """Return an answer, or what the database has against the question."""
    try:
        return answer()
    except DBAPIError as error:
        return (ERROR, type(error).__name__)


def _told(policies: Mapping[type[Any], Policy]) -> str:
    usual = Policy()
    return ", ".join(
        f"{model.__name__}{'' if policy == usual else f' ({policy})'}" for model, policy in policies.items()
    )


def _empty(url: str, engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        database = str(engine.url.database)
        for suffix in ("", "-wal", "-shm"):
            Path(database + suffix).unlink(missing_ok=True)
        return
    maintenance = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    empty_database(maintenance)
    maintenance.dispose()


def _switch_keys(connection: Connection, *, on: bool) -> None:
    """Have MariaDB delete rows of tables that point to themselves, which it checks row by row."""
    if connection.dialect.name in ("mysql", "mariadb"):
        connection.exec_driver_sql(f"SET foreign_key_checks = {int(on)}")


ASYNC_DRIVERS: Final = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+aiomysql"}
"""Those that give values of the same types as the drivers of the other side."""


def _engine_on(url: str, *, waits: bool = False, is_async: bool = False) -> Engine:
    """Return an engine on which nobody waits for a lock: one thread plays all parts. ``waits``: but for the server's own."""
    given = make_url(url)
    arguments = {"timeout": 0} if url.startswith("sqlite") else {}
    if is_async:
        name = given.get_backend_name().replace("mariadb", "mysql")
        engine = create_async_engine(given.set(drivername=ASYNC_DRIVERS[name]), connect_args=arguments).sync_engine
    else:
        engine = create_engine(given, connect_args=arguments)
    settings = () if waits and engine.dialect.name != "sqlite" else _SETTINGS[engine.dialect.name]

    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, record: Any) -> None:
        cursor = dbapi_connection.cursor()
        for statement in settings:
            cursor.execute(statement)
        cursor.close()
        dbapi_connection.commit()

    return engine


_MARIADB: Final = ("SET innodb_lock_wait_timeout = 0", "SET lock_wait_timeout = 1")
_SETTINGS: Final[Mapping[str, Sequence[str]]] = {
    "sqlite": ("PRAGMA foreign_keys = ON", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF"),
    "postgresql": ("SET lock_timeout = '20ms'",),
    "mysql": _MARIADB,
    "mariadb": _MARIADB,
}
