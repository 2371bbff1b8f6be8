"""What did the cache do for this request?

Listens to the cache's events and to the engine's SELECTs, and tells it in headers and in the bar below each page.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, g, has_request_context
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event
from werkzeug.wrappers import Response

from querycache import Event
from querycache.flask import QueryCache


@dataclass(slots=True)
class RequestNotes:
    """What happened during one request."""

    cached: bool
    began_s: float = field(default_factory=time.perf_counter)
    hits: int = 0
    misses: int = 0
    fills: int = 0
    selects: int = 0
    dropped: dict[str, None] = field(default_factory=dict)

    @property
    def worker(self) -> int:
        return os.getpid()

    @property
    def time_ms(self) -> float:
        return (time.perf_counter() - self.began_s) * 1000

    @property
    def outcome(self) -> str:
        if not self.cached:
            return "cache off"
        if self.dropped:
            return "write"
        if self.misses:
            return "miss, filled" if self.fills and not self.hits else "part" if self.hits else "miss"
        return "hit" if self.hits else "no read"


def watch(app: Flask, db: SQLAlchemy, cache: QueryCache) -> None:
    """Keep notes of each request of an application."""
    own = app.extensions["querycache"]
    own.subscribe(_note)
    with app.app_context():
        cached = bool(own.engines)
        event.listen(db.engine, "before_cursor_execute", _count)

    def begin() -> None:
        g.notes = RequestNotes(cached)

    app.before_request(begin)
    app.after_request(_tell)
    app.context_processor(lambda: {"notes": getattr(g, "notes", None)})


def dropped_by_this_request() -> list[str]:
    """Return what a commit of this request ended in the cache, in words."""
    return list(g.notes.dropped)


def _note(happened: Event) -> None:
    if not has_request_context() or "notes" not in g:
        return
    notes: RequestNotes = g.notes
    if happened.kind == "hit":
        notes.hits += 1
    elif happened.kind == "miss":
        notes.misses += 1
    elif happened.kind == "fill":
        notes.fills += 1
    elif happened.kind in ("mark", "touch"):
        notes.dropped.update(dict.fromkeys(filter(None, map(_in_words, happened.tags))))


def _in_words(tag: str) -> str | None:
    """Say what a tag stands for: ``<database>/main.user|views=3`` is "lists of user by views=3"."""
    name = tag.partition("/")[2]
    table, narrowed, value = name.partition("|")
    table = table.rpartition(".")[2].rstrip("*!")
    if not name:
        return "everything"
    if not narrowed:
        return f"lists of all of {table}" if name.endswith("*") else f"everything about {table}"
    column, _, shown = value.partition("=")
    if column == "pk":
        return f"{table} {shown}"
    # Texts stand in tags as digests, which tell a reader of this page nothing.
    return f"lists by {column}={shown}" if shown.lstrip("-").isdigit() else None


def _count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
    if has_request_context() and "notes" in g and statement.lstrip().upper().startswith("SELECT"):
        g.notes.selects += 1


def _tell(response: Response) -> Response:
    notes: RequestNotes = g.notes
    response.headers["X-QueryCache-Outcome"] = notes.outcome
    response.headers["X-QueryCache-Hits"] = str(notes.hits)
    response.headers["X-QueryCache-Misses"] = str(notes.misses)
    response.headers["X-QueryCache-Fills"] = str(notes.fills)
    response.headers["X-QueryCache-Selects"] = str(notes.selects)
    response.headers["X-QueryCache-Invalidated"] = "; ".join(notes.dropped)
    response.headers["X-QueryCache-Worker"] = str(notes.worker)
    response.headers["X-QueryCache-Time-ms"] = f"{notes.time_ms:.2f}"
    return response
