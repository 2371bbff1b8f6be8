"""Which hooks of the application's may decide on what its connections show, behind the cache's back?

A hit asks for no connection, so whatever sets one before a Session has it (a role, a search path, a tenant) has not run; and
a listener that rewrites statements on their way to the driver changes what a key stands for. Tracers do neither.

Promises: each kind of hook that SQLAlchemy calls between a Session's read and the driver is looked at, each time. Never: a
hook called, or taken for harmless because of what it did before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from querycache import _sqlalchemy
from querycache._listeners import Standing

_OBSERVERS: Final = frozenset(
    {
        *("querycache", "sqlalchemy"),
        *("ddtrace", "elasticapm", "newrelic", "opentelemetry", "scout_apm", "sentry_sdk"),
    }
)
"""Packages whose listeners look on: this one, SQLAlchemy's own, and tracers."""

_QUIET: Final = "_querycache_quiet"
_MAX_QUIET: Final = 16
"""So many makes of Session are known at a time to be heard by nobody."""


class _Judge:
    """Finds the first of some listeners that does more than look on. Those that it last found harmless it knows again."""

    __slots__ = ("_harmless", "_looks_on")

    def __init__(self, looks_on: Callable[[Any], bool]) -> None:
        self._looks_on = looks_on
        self._harmless: tuple[Any, ...] = ()

    def first_of(self, listeners: Any, event_name: str) -> str | None:
        # Nearly always there are none, or the same as before.
        if not listeners:
            return None
        given = tuple(listeners)
        if given == self._harmless:
            return None
        for listener in given:
            if not self._looks_on(listener):
                return f"{_name_of(listener)} ({event_name})"
        self._harmless = given
        return None


class Hooks:
    """The hooks of one engine, and of those that ``Engine.execution_options()`` makes of it."""

    def __init__(self, engine: Engine) -> None:
        creator = _sqlalchemy.creator_of(engine.pool)
        self._creator = None if creator is None else f"{_name_of(creator)} (creator)"
        # A pool that keeps connections hands out any of them: what is set when they are made, is set in all alike.
        self._connects_each_time = isinstance(engine.pool, NullPool)
        self._of_statements, self._of_cursors = _Judge(_sends_as_given), _Judge(_sends_as_given)
        names = ("after_begin", "begin", "engine_connect", "checkout", "do_connect", "connect")
        self._judges = tuple(_Judge(_observes) for _ in names)

    def are_quiet(self, session: Session, engine: Engine) -> bool:
        """Tell whether there is neither a ``setter`` nor a ``rewriter``. Cheap where the listeners are as they were before."""
        of_engine: Any = engine.dispatch
        pool: Any = engine.pool.dispatch
        after_begin = session.dispatch.after_begin
        asked = (
            after_begin,
            of_engine.begin,
            of_engine.engine_connect,
            of_engine.before_execute,
            of_engine.before_cursor_execute,
            engine.dialect.dispatch.do_connect,
            pool.checkout,
            pool.connect,
        )
        # With the engine, which its listeners may refer to: it would never be freed.
        quiet: dict[Any, Standing] = engine.__dict__.setdefault(_QUIET, {})
        known = quiet.get(after_begin)
        if known is not None and known.is_that_of(asked):
            return True
        # Before they are looked at: who comes meanwhile is asked about the next time.
        standing = Standing.of(asked)
        if self.setter(session, engine) is not None or self.rewriter(engine) is not None:
            return False
        if standing is not None:
            if len(quiet) >= _MAX_QUIET:
                quiet.clear()
            quiet[after_begin] = standing
        return True

    def rewriter(self, target: Engine | Connection) -> str | None:
        """Name a listener that may send another statement or other values than it is given; None for none."""
        dispatch: Any = target.dispatch
        return self._of_statements.first_of(dispatch.before_execute, "before_execute") or self._of_cursors.first_of(
            dispatch.before_cursor_execute, "before_cursor_execute"
        )

    def setter(self, session: Session, engine: Engine) -> str | None:
        """Name a hook that may set a connection before a Session has it; None for none."""
        pool: Any = engine.pool
        of_engine: Any = engine.dispatch
        after_begin, begin, engine_connect, checkout, do_connect, connect = self._judges
        return (
            self._creator
            or after_begin.first_of(session.dispatch.after_begin, "after_begin")
            or begin.first_of(of_engine.begin, "begin")
            or engine_connect.first_of(of_engine.engine_connect, "engine_connect")
            or checkout.first_of(pool.dispatch.checkout, "checkout")
            or do_connect.first_of(engine.dialect.dispatch.do_connect, "do_connect")
            or (connect.first_of(pool.dispatch.connect, "connect") if self._connects_each_time else None)
        )


def rewritten_by(listener: str) -> str:
    """Say why a statement that a listener may rewrite is not cached."""
    return (
        f"a listener may rewrite it on its way to the driver: {listener}; if QueryCache(vary=...) says what it goes by, "
        "it is cached"
    )


def _sends_as_given(listener: Callable[..., Any]) -> bool:
    return not _sqlalchemy.may_rewrite(listener) or _observes(listener)


def _observes(listener: Callable[..., Any]) -> bool:
    return _module_of(listener).partition(".")[0] in _OBSERVERS


def _module_of(listener: Callable[..., Any]) -> str:
    registered = _sqlalchemy.registered(listener)
    return str(getattr(registered, "__module__", None) or type(registered).__module__)


def _name_of(listener: Callable[..., Any]) -> str:
    registered = _sqlalchemy.registered(listener) or listener
    return f"{_module_of(listener)}.{getattr(registered, '__qualname__', type(registered).__qualname__)}"
