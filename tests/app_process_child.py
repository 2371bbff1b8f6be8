"""One process of an application, told what to do line by line: JSON in, JSON out. Started by ``app_process``.

Its models are a file of the test's, its store is on LMDB with a clock that can be moved, verbs that fail on demand, and
points at which it stops until it is told to go on. What it reads it reads twice: through the cache, and past it.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, event, func, select, text, update
from sqlalchemy.orm import Session, make_transient_to_detached

from querycache import QueryCache
from querycache._types import Guard, Lookup, Stamp, Tag, TagSet, Writer
from querycache.errors import StoreUnavailable
from querycache.stores.lmdb import LMDBStore


def tell(**what: Any) -> None:
    """Write one line to the parent."""
    os.write(1, json.dumps(what).encode() + b"\n")


def asked() -> dict[str, Any]:
    """Read one line of the parent's; leave when there are no more."""
    line = sys.stdin.readline()
    if not line:
        sys.exit(0)
    question: dict[str, Any] = json.loads(line)
    return question


class Store(LMDBStore):
    """LMDB that fails and stops where it is told to, and whose clock can be put forward."""

    ahead_ns = 0
    failing: frozenset[str] = frozenset()
    stop_at: str | None = None

    def _ticks(self) -> int:
        return super()._ticks() + self.ahead_ns

    @contextmanager
    def _verb(self, name: str) -> Iterator[None]:
        self._stop(f"before {name}")
        if name in self.failing:
            raise StoreUnavailable(f"{name} was told to fail")
        yield
        self._stop(f"after {name}")

    def _stop(self, point: str) -> None:
        if self.stop_at == point:
            self.stop_at = None
            tell(at=point)
            assert asked() == {"do": "go"}

    def lookup_many(self, questions: Any) -> list[Lookup]:
        with self._verb("lookup"):
            return super().lookup_many(questions)

    def fill_many(self, entries: Any) -> int:
        with self._verb("fill"):
            return super().fill_many(entries)

    def mark(self, tags: TagSet, writer: Writer, ttl_s: float) -> tuple[Tag, ...]:
        with self._verb("mark"):
            return super().mark(tags, writer, ttl_s)

    def mark_and_look(
        self, tags: TagSet, guard: Guard, writer: Writer, ttl_s: float
    ) -> tuple[tuple[Tag, ...], Stamp | None]:
        with self._verb("mark"):
            return super().mark_and_look(tags, guard, writer, ttl_s)

    def release(self, tags: Sequence[Tag], writer: Writer) -> None:
        with self._verb("release"):
            super().release(tags, writer)


def shown(instance: Any) -> Any:
    """Return an instance's columns by name, values with their types."""
    if instance is None:
        return None
    return {key: repr(getattr(instance, key)) for key in sorted(type(instance).__mapper__.column_attrs.keys())}


READS: dict[str, Callable[[Session, Any], Any]] = {
    "get": lambda session, thing: shown(session.get(thing, 1)),
    "shelf": lambda session, thing: [
        shown(found) for found in session.scalars(select(thing).where(thing.shelf_id == 3).order_by(thing.id))
    ],
    "all": lambda session, thing: [shown(found) for found in session.scalars(select(thing).order_by(thing.id))],
    "count": lambda session, thing: session.scalar(select(func.count()).select_from(thing)),
    "names": lambda session, thing: list(
        session.scalars(select(thing.name).where(thing.shelf_id == 3).order_by(thing.id))
    ),
    "extra": lambda session, thing: list(
        session.scalars(select(thing.name).where(thing.extra == 4).order_by(thing.id))
    ),
    "named": lambda session, thing: list(session.scalars(select(thing.id).where(thing.name == "a").order_by(thing.id))),
}


def insert(session: Session, thing: Any, **values: Any) -> None:
    session.add(thing(**values))


def change(session: Session, thing: Any, **values: Any) -> None:
    found = session.get_one(thing, values.pop("id"))
    for name, value in values.items():
        setattr(found, name, value)


def blind(session: Session, thing: Any, **values: Any) -> None:
    """Change a row without reading it."""
    known = thing(id=values.pop("id"))
    make_transient_to_detached(known)
    session.add(known)
    for name, value in values.items():
        setattr(known, name, value)


def delete(session: Session, thing: Any, **values: Any) -> None:
    session.delete(session.get_one(thing, values["id"]))


def bulk(session: Session, thing: Any, **values: Any) -> None:
    session.execute(update(thing).where(thing.shelf_id == 3).values(**values))


def core(session: Session, thing: Any, **values: Any) -> None:
    session.execute(update(thing.__table__).where(thing.__table__.c.shelf_id == 3).values(**values))


def run_text(session: Session, thing: Any, statement: str) -> None:
    session.execute(text(statement))


WRITES: dict[str, Callable[..., None]] = {
    function.__name__: function for function in (insert, change, blind, delete, bulk, core, run_text)
}


class App:
    """What the process has: models, an engine with the cache in front of it, and one without."""

    def __init__(self, models: str, url: str, store: str, **options: Any) -> None:
        names = runpy.run_path(models)
        self.thing: Any = names["ENTITY"]
        self.store = Store(store, 16 * 1024 * 1024)
        options.setdefault("tag_columns", names.get("TAG_COLUMNS"))
        self.cache = QueryCache(self.store, models=names["MODELS"], **options)
        self.engine, self.outside = engine_of(url), engine_of(url)
        self.cache.attach(self.engine)
        self.selects = 0
        event.listen(self.engine, "before_cursor_execute", self._count)
        self.cache.subscribe(lambda heard: None)

    def _count(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.selects += statement.lstrip().upper().startswith("SELECT")

    def read(self, name: str) -> dict[str, Any]:
        """Read through the cache and past it; an error of either is its type's name."""
        before = self.selects
        cached = self._attempt(self.engine, name)
        cost = self.selects - before
        return {"cached": cached, "truth": self._attempt(self.outside, name), "selects": cost}

    def _attempt(self, engine: Engine, name: str) -> Any:
        with Session(engine) as session:
            try:
                return READS[name](session, self.thing)
            except (LookupError, AssertionError, TypeError) as error:
                return f"raises {type(error).__name__}"

    def write(self, how: str, values: dict[str, Any]) -> None:
        with Session(self.engine) as session:
            WRITES[how](session, self.thing, **values)
            session.commit()

    def close(self) -> None:
        self.engine.dispose()
        self.outside.dispose()
        self.cache.close()


def engine_of(url: str) -> Engine:
    engine = create_engine(url, poolclass=NullPool if url.startswith("sqlite") else None)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def set_journal_mode(raw: Any, record: Any) -> None:
            raw.execute("PRAGMA journal_mode=WAL")

    return engine


class Commands:
    """What the parent may ask for, by name."""

    app: App

    def start(self, **options: Any) -> None:
        self.app = App(**options)

    def read(self, names: list[str]) -> dict[str, Any]:
        return {name: self.app.read(name) for name in names}

    def write(self, how: str, **values: Any) -> None:
        self.app.write(how, values)

    def stop_at(self, point: str) -> None:
        self.app.store.stop_at = point

    def fail(self, verbs: list[str]) -> None:
        self.app.store.failing = frozenset(verbs)

    def advance(self, seconds: float) -> None:
        self.app.store.ahead_ns += int(seconds * 1e9)

    def tend(self) -> None:
        self.app.cache._coherence.journals[0].tend()

    def settle(self) -> bool:
        return self.app.cache._coherence.journals[0].settle()

    def stats(self) -> dict[str, Any]:
        return self.app.cache.stats()

    def close(self) -> None:
        self.app.close()

    def leave(self) -> None:
        """End without Python's exit handlers, as a killed process does."""
        os._exit(0)


def main() -> None:
    """Do what each line says, until there are no more."""
    commands = Commands()
    while True:
        question = asked()
        try:
            tell(done=getattr(commands, question.pop("do"))(**question))
        except Exception as error:
            tell(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
