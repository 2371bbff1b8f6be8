"""What does a cache add to what is sent: statements to the database, scripts to a Redis?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from rounds import Row, told
from sqlalchemy import Engine, event

from redis_servers import RedisServer

TIMES: Final = 20
SCRIPTS: Final = ("cmdstat_evalsha", "cmdstat_eval", "cmdstat_fcall")


@dataclass(frozen=True, slots=True)
class Counted:
    """Something that is done through an engine."""

    engine: Engine
    do: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Added:
    """What was sent more, for each time: statements, and round trips where there is a server."""

    statements: float
    round_trips: float | None

    def rows(self, group: str, case: str, store: str, statements: str = "statements") -> Iterator[Row]:
        """Yield it as results: no ratios, but the figures themselves."""
        yield told(group, case, store, statements, [self.statements])
        if self.round_trips is not None:
            yield told(group, case, store, "round-trips", [self.round_trips])


def added(plain: Counted, there: Counted, server: RedisServer | None) -> Added:
    """Count what is sent with a cache, less what is sent without."""
    without = _statements(plain)
    for _ in range(3):  # what is asked once
        there.do()
    before = 0 if server is None else _scripts(server)
    more = _statements(there) - without
    trips = None if server is None else (_scripts(server) - before) / TIMES
    return Added(more / TIMES, trips)


def _statements(counted: Counted) -> int:
    sent = 0

    def note(*told: Any) -> None:
        nonlocal sent
        sent += 1

    event.listen(counted.engine, "before_cursor_execute", note)
    try:
        for _ in range(TIMES):
            counted.do()
    finally:
        event.remove(counted.engine, "before_cursor_execute", note)
    return sent


def _scripts(server: RedisServer) -> int:
    about = server.info("commandstats")
    return sum(about.get(name, {"calls": 0})["calls"] for name in SCRIPTS)
