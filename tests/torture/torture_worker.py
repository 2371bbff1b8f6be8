"""One process of the application: reads, or writes, through the cache, and logs what it did and saw. Run by the supervisor.

    python torture_worker.py '{"role": "reader", ...}'

The description is that of ``torture_crew.Job``. Ends when the supervisor does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import secrets
import sys
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from sqlalchemy import Engine, create_engine, event, make_url  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402
from sqlalchemy.ext.asyncio import create_async_engine  # noqa: E402
from sqlalchemy.orm import Session  # noqa: E402
from torture_control import Control, Field, Point  # noqa: E402
from torture_log import (  # noqa: E402
    Acknowledged,
    Failed,
    Intended,
    Log,
    Read,
    Refused,
    Settled,
    Source,
    Told,
    Unmarked,
    Wide,
    Withdrawn,
    now_ns,
)
from torture_points import Points, pause  # noqa: E402
from torture_story import Story, argument_for  # noqa: E402
from torture_tables import WAYS, Group, Item, ask, lock_group, write_version  # noqa: E402

from querycache import Event, FromCache, NoCache, QueryCache  # noqa: E402
from querycache._sqlalchemy import run_on_bridge  # noqa: E402
from querycache.errors import QueryCacheError  # noqa: E402
from querycache.stores import open_store  # noqa: E402

MIX: Final = {"row": 60, "shelf": 12, "group": 10, "keyed": 6, "count": 5, "sum": 5, "board": 2}
FOCUSED_MIX: Final = {"group": 5, "sum": 3, "board": 3, "keyed": 1}
"""What is asked of the only group in focus: what each version of it changes."""

PAST: Final = 0.03
"""This part of the reads goes to the database, past the cache: who sees what is visible, not what is cached."""

SNAPSHOTS: Final = 0.01
FOCUSED_SNAPSHOTS: Final = 0.1
FOCUSED_PAST: Final = 0.15
OTHER_WAYS: Final = 0.005
"""This part of the writes is not by flush: it drops whole tables, so a few say enough."""

ROLLBACKS: Final = 0.05
READS_BACK: Final = 0.5
TELL_S: Final = 1.0

ASYNC_DRIVERS: Final = {"postgresql": "postgresql+asyncpg", "mysql": "mysql+aiomysql", "sqlite": "sqlite+aiosqlite"}
_HEARD: Final[ContextVar[Source]] = ContextVar("what the cache last said of this thread's, or task's, read")


class Worker:
    """What readers and writers have in common."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.parent: int = job["parent"]
        self.log = Log(Path(job["log"]))
        self.control = Control(Path(job["board"]), job["position"])
        self.points = Points(self.control, self.parent)
        self.groups: int = job["groups"]
        self._stepping = threading.Lock()
        store = open_store(job["store"])
        self.points.around_store(store)
        options = {} if job["on_mark_failure"] is None else {"on_mark_failure": job["on_mark_failure"]}
        self.cache = QueryCache(store, models=[Group, Item], ttl=job["ttl_s"], **options)
        for journal in self.cache._coherence.journals:
            journal._mark_ttl_s = job["mark_ttl_s"]
        self.engine = engine_for(job["database"], is_async=job["is_async"])
        self.points.around_engine(self.engine)
        self.cache.attach(self.engine)
        self.cache.subscribe(self._hear_source)

    @property
    def is_wanted(self) -> bool:
        """Whether the supervisor is there."""
        return os.getppid() == self.parent

    def group_for(self, dice: random.Random) -> int:
        focus = self.control[Field.FOCUS]
        return focus - 1 if focus else dice.randrange(self.groups)

    def wait_while_paused(self) -> None:
        while self.control[Field.PAUSED] and self.is_wanted:
            with self._stepping:
                if self.control[Field.PAUSED] == 2:
                    self.control[Field.PAUSED] = 1
                    return
            pause(0.001)

    def _hear_source(self, heard: Event) -> None:
        # The last word counts: a list by keys may be a miss whose rows are hits.
        if heard.kind in ("hit", "miss"):
            _HEARD.set(heard.kind)

    def read(self, kind: str, argument: int, group: int, *options: Any, is_forced: bool) -> None:
        """Ask one question in a Session of its own, and log the answer. ``options``: those that lead past the cache."""
        asked = (*options, FromCache(shape="keys")) if kind == "keyed" and not options else options
        _HEARD.set("bypass")
        began = now_ns()
        with Session(self.engine) as session:
            answer = ask(session, kind, argument, group, *asked)
        ended = now_ns()
        source: Source = "past" if options else _HEARD.get()
        self.log.write(Read(began, ended, source, kind, argument, group, answer, is_forced))

    def refuse(self, began: int, error: Exception) -> None:
        """Log that a read raised."""
        self.log.write(Refused(began, now_ns(), f"{type(error).__name__}: {str(error).splitlines()[0]}"))

    def tell(self) -> None:
        """Log what the cache counted."""
        self.log.write(Told(now_ns(), self.cache.events.counts(), self.cache.events.reasons()))

    def run(self, threads: int, work: Callable[[random.Random], None]) -> None:
        """Repeat ``work`` in threads until nobody wants it any more; an error of theirs ends the process.

        A job that is asynchronous has tasks of one event loop in their place.
        """

        def repeat(number: int) -> None:
            dice = random.Random(f"{self.job['seed']}/{self.job['name']}/{number}")
            try:
                while self.is_wanted:
                    self.wait_while_paused()
                    work(dice)
                    if self.job["is_async"]:
                        pause(0)  # hits wait for nothing
            except BaseException as error:  # whatever it is, the supervisor must hear of it
                sys.stderr.write(f"{self.job['name']}: {type(error).__name__}: {error}\n")
                os._exit(3)

        async def repeat_in_tasks() -> None:
            # A task is run with a copy of its context, so what one notes is not seen by the others.
            await asyncio.gather(*(asyncio.ensure_future(run_on_bridge(repeat, number)) for number in range(threads)))

        if self.job["is_async"]:
            threading.Thread(target=lambda: asyncio.run(repeat_in_tasks()), daemon=True).start()
        else:
            for number in range(threads):
                threading.Thread(target=repeat, args=(number,), daemon=True).start()
        while self.is_wanted:
            time.sleep(TELL_S)
            self.tell()
        os._exit(0)


class Reader(Worker):
    """Asks questions, mostly through the cache."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(job)
        self._counting = threading.Lock()

    def work(self, dice: random.Random) -> None:
        group = self.group_for(dice)
        is_focused = bool(self.control[Field.FOCUS])
        mix = FOCUSED_MIX if is_focused else MIX
        snapshots = 0.0 if self.engine.dialect.name == "sqlite" else FOCUSED_SNAPSHOTS if is_focused else SNAPSHOTS
        kind = dice.choices(list(mix), list(mix.values()))[0]
        argument = argument_for(kind, group, dice)
        past = FOCUSED_PAST if is_focused else PAST
        if self.control[Field.PAUSED]:
            # Let go for this one read: the same as the next one that is.
            kind, argument, snapshots, past = "group", 0, 0.0, 0.0
        way = dice.random()
        began = now_ns()
        try:
            if way < snapshots:
                self._read_in_snapshot(kind, argument, group)
            elif way < snapshots + past:
                self.read(kind, argument, group, NoCache(), is_forced=is_focused)
            else:
                self.points.enter(-1 if kind == "board" else group)
                self.read(kind, argument, group, is_forced=is_focused)
        except (SQLAlchemyError, QueryCacheError) as error:
            self.refuse(began, error)
            pause(0.01)
        self.points.enter(None)
        with self._counting:
            self.control.add(Field.READS, 1)

    def _read_in_snapshot(self, kind: str, argument: int, group: int) -> None:
        """Have a transaction's snapshot taken by a look at the board, and ask something else in it."""
        is_forced = bool(self.control[Field.FOCUS])
        with Session(self.engine) as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            board = {key: version for key, version, _ in ask(session, "board", 0, 0, NoCache())}
            self.points.enter(group)
            self.points.reach(Point.IN_SNAPSHOT)
            _HEARD.set("bypass")
            began = now_ns()
            asked = [FromCache(shape="keys")] if kind == "keyed" else []
            answer = ask(session, kind, argument, group, *asked)
            ended = now_ns()
        self.log.write(Read(began, ended, _HEARD.get(), kind, argument, group, answer, is_forced, board))


class Writer(Worker):
    """Writes versions, in several ways, and rolls some back."""

    def __init__(self, job: dict[str, Any]) -> None:
        super().__init__(job)
        self._stories = [Story(group) for group in range(self.groups)]
        self._owes = False
        self._settling = threading.Lock()
        self._sending: tuple[int, int, int] | None = None
        self.cache.subscribe(self._hear)

    def _hear(self, heard: Event) -> None:
        """Log what is particular about the mark of a commit: that it takes much, or is not set and need not be."""
        sending = self._sending
        if sending is None or sending[0] != threading.get_ident():
            return
        _, group, version = sending
        if heard.kind == "mark" and (wide := [tag for tag in heard.tags if tag.endswith(("!", "/"))]):
            self.log.write(Wide(now_ns(), group, version, wide))
        goes_on = self.job["on_mark_failure"] != "raise"
        if goes_on and heard.kind == "store_error" and (heard.reason or "").startswith("mark:"):
            self.log.write(Unmarked(now_ns(), group, version))

    @property
    def _owed(self) -> bool:
        return any(journal.owed for journal in self.cache._coherence.journals)

    def tell(self) -> None:
        self._note_settled()
        super().tell()

    def _note_settled(self) -> None:
        with self._settling:
            if self._owes and not self._owed:
                self._owes = False
                self.log.write(Settled(now_ns()))

    def work(self, dice: random.Random) -> None:
        self._note_settled()
        group = self.group_for(dice)
        self.points.enter(group)
        way = dice.choice(WAYS) if dice.random() < OTHER_WAYS else "flush"
        token = secrets.randbits(52) + 1
        with Session(self.engine) as session:
            try:
                self._write(session, group, token, way, rolls_back=dice.random() < ROLLBACKS)
            except (SQLAlchemyError, QueryCacheError) as error:
                told = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                is_over = isinstance(error, QueryCacheError)
                self.log.write(Failed(now_ns(), group, self._version, token, told, is_over))
        self.points.enter(None)
        if self.job["reads_back"] and dice.random() < READS_BACK:
            self._read_back(group, dice)
        pause(dice.expovariate(1 / self.job["pause_s"]) if self.job["pause_s"] else 0)

    def _read_back(self, group: int, dice: random.Random) -> None:
        """Ask for what was just written: whom the store tells of others' commits later knows his own at once."""
        kind = dice.choices(list(FOCUSED_MIX), list(FOCUSED_MIX.values()))[0]
        began = now_ns()
        try:
            self.read(kind, argument_for(kind, group, dice), group, is_forced=True)
        except (SQLAlchemyError, QueryCacheError) as error:
            self.refuse(began, error)

    _version = 0

    def _write(self, session: Session, group: int, token: int, way: str, *, rolls_back: bool) -> None:
        known, base = lock_group(session, group)
        self._version = version = known + 1
        if rolls_back:
            self.log.write(Withdrawn(now_ns(), group, version, token))
        write_version(session, self._stories[group], version, token, way)
        if rolls_back:
            session.rollback()
            return
        self.log.write(Intended(now_ns(), group, version, token, base))
        self._sending = threading.get_ident(), group, version
        try:
            session.commit()
        finally:
            self._sending = None
        with self._settling:
            at, owed = now_ns(), self._owed
            self._owes = self._owes or owed
            self.log.write(Acknowledged(at, group, version, owed))
        self.control.add(Field.COMMITS, 1)


def engine_for(database: str, *, is_async: bool) -> Engine:
    """Return an engine as an application makes it."""
    url = make_url(database)
    if is_async:
        url = url.set(drivername=ASYNC_DRIVERS[url.get_backend_name().replace("mariadb", "mysql")])
    engine = create_async_engine(url).sync_engine if is_async else create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def be_shared(raw: Any, record: Any) -> None:
            cursor = raw.cursor()
            for pragma in ("journal_mode=WAL", "synchronous=OFF", "busy_timeout=5000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

    return engine


def main() -> None:
    """Do one job."""
    logging.getLogger("querycache").setLevel(logging.CRITICAL)
    job = json.loads(sys.argv[1])
    reader = job["role"] == "reader"
    worker: Reader | Writer = Reader(job) if reader else Writer(job)
    worker.control[Field.ARRIVED] = 0
    worker.run(job["threads"] if reader else 1, worker.work)


if __name__ == "__main__":
    main()
