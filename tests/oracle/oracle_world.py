"""Where do the cached and the uncached side of the oracle meet?

A world is one database with two engines: one attached to a cache, one that the cache never heard of. It says what the
cache answers and what the database answers to the same question in the same visible state, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Final

from oracle_answers import Disagreement, answer_to
from oracle_questions import Question
from oracle_schema import MODELS, TABLES, Base
from sqlalchemy import Engine, create_engine, event, insert, text
from sqlalchemy.orm import Session

from querycache import QueryCache, _sqlalchemy
from querycache.questions import Bypass

LEVELS: Final[Mapping[str, tuple[str | None, ...]]] = {
    "sqlite": (None,),
    "postgresql": (None, None, "REPEATABLE READ", "SERIALIZABLE"),
    "mysql": (None, "READ COMMITTED"),
    "mariadb": (None, "READ COMMITTED"),
}
"""The isolation levels of the cached side; None is the server's default."""

SEED: Final[Mapping[str, list[dict[str, Any]]]] = {
    "region": [
        {"id": 1, "name": "a", "parent_id": None, "rank": 1},
        {"id": 2, "name": "b", "parent_id": 1, "rank": None},
        {"id": 3, "name": None, "parent_id": 1, "rank": 1},
    ],
    "item": [
        {"id": 1, "kind": "item", "region_id": 1, "code": "a", "size": 1, "price": Decimal("1.50"), "live": True},
        {"id": 2, "kind": "tool", "region_id": 2, "code": None, "size": None, "price": None, "live": False},
        {"id": 3, "kind": "item", "region_id": None, "code": "A", "size": 1, "price": Decimal("0.00"), "live": None},
        {"id": 4, "kind": "tool", "region_id": 1, "code": "b", "size": 2, "price": None, "live": True},
    ],
    "tool": [{"id": 2, "power": 1}, {"id": 4, "power": None}],
    "part": [
        {"item_id": 1, "number": 1, "amount": 1, "serial": "a"},
        {"item_id": 1, "number": 2, "amount": None, "serial": None},
        {"item_id": 2, "number": 1, "amount": 2, "serial": "b"},
    ],
    "label": [
        {"id": 1, "kind": "label", "text": "a", "colour": None},
        {"id": 2, "kind": "flag", "text": None, "colour": 1},
    ],
    "item_label": [{"item_id": 1, "label_id": 1}, {"item_id": 2, "label_id": 1}, {"item_id": 2, "label_id": 2}],
}
"""Where each example begins."""


class World:
    """One database, one cache. ``store`` is the URL of the cache's store."""

    def __init__(self, url: str, store: str = "memory://") -> None:
        self.outside = _engine_on(url)
        self.engine = _engine_on(url)
        self.cache = QueryCache(store, models=MODELS)
        self.cache.attach(self.engine)
        self.levels = LEVELS[self.engine.dialect.name]
        self.examples = 0
        self.comparisons = 0
        self._past_cache = False
        self._send_reads_past_the_cache()
        Base.metadata.drop_all(self.outside)
        Base.metadata.create_all(self.outside)

    def _send_reads_past_the_cache(self) -> None:
        """Let ``uncached`` decide whether the cache is asked, for lazy and eager loads as well."""
        reader: Any = self.cache._reader
        read = reader.read

        def read_or_bypass(*arguments: Any) -> Any:
            return Bypass("the oracle asks the database") if self._past_cache else read(*arguments)

        reader.read = read_or_bypass

    def begin(self) -> None:
        """Start an example: the rows of the seed, an empty cache."""
        self.examples += 1
        with self.outside.begin() as connection:
            for table in reversed(TABLES):
                connection.execute(table.delete())
            for table in TABLES:
                connection.execute(insert(table), SEED[table.name])
            if connection.dialect.name == "postgresql":
                for name in ("region", "item", "label"):
                    connection.execute(text(f"SELECT setval('{name}_id_seq', 5)"))
        self.cache.clear()

    def session(self, level: str | None = None) -> Session:
        """Return a Session whose reads the cache may answer."""
        engine = self.engine if level is None else self.engine.execution_options(isolation_level=level)
        return Session(engine)

    def compare_afresh(self, question: Question, level: str | None = None) -> None:
        """Compare what a new Session says, which sends nothing where it is served, with what is committed."""
        with self.session(level) as session:
            cached = answer_to(question, session)
        self._require_same(question, "a new session", cached, self._committed(question))

    def compare_within(self, question: Question, session: Session, mode: str) -> None:
        """Compare within a Session's transaction.

        ``mode``: with nothing in the identity map ("fresh"), with all of it expired, or as it is ("kept").
        """
        self._prepare(session, mode)
        cached = answer_to(question, session)
        if mode == "fresh" and _sqlalchemy.connection_of(session, session.get_bind()) is None:
            truth = self._committed(question)
        else:
            self._prepare(session, mode)
            with self._uncached():
                truth = answer_to(question, session)
        self._require_same(question, f"a session with its identity map {mode}", cached, truth)

    def _prepare(self, session: Session, mode: str) -> None:
        if mode == "fresh":
            session.expunge_all()
        elif mode == "expired":
            session.expire_all()

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
        self.comparisons += 1
        if cached != truth:
            raise Disagreement(f"{where} asked {question}\n  the cache says    {cached}\n  the database says {truth}")

    def counts(self) -> Mapping[str, int]:
        """Return how often the cache did what."""
        counts: Mapping[str, int] = self.cache.stats()["counts"]
        return counts

    def close(self) -> None:
        """Close the engines and the cache."""
        self.engine.dispose()
        self.outside.dispose()
        self.cache.close()


def _engine_on(url: str) -> Engine:
    """Return an engine on which nobody waits for a lock: one thread plays all parts."""
    engine = create_engine(url, connect_args={"timeout": 0} if url.startswith("sqlite") else {})

    @event.listens_for(engine, "connect")
    def prepare(dbapi_connection: Any, record: Any) -> None:
        cursor = dbapi_connection.cursor()
        for statement in _SETTINGS[engine.dialect.name]:
            cursor.execute(statement)
        cursor.close()
        dbapi_connection.commit()

    return engine


_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "sqlite": ("PRAGMA foreign_keys = ON", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF"),
    "postgresql": ("SET lock_timeout = '20ms'",),
    "mysql": ("SET innodb_lock_wait_timeout = 0",),
    "mariadb": ("SET innodb_lock_wait_timeout = 0",),
}
