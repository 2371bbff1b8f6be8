"""Which hooks of the application's may decide on what its connections show, behind the cache's back?

A hit asks for no connection, so whatever sets one before a Session has it (a role, a search path, a tenant) has not run; and
a listener that rewrites statements on their way to the driver changes what a key stands for. Tracers do neither.

Promises: each kind of hook that SQLAlchemy calls between a Session's read and the driver is looked at, each time. Never: a
hook called, or taken for harmless because of what it did before.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from querycache import _sqlalchemy

_OBSERVERS: Final = frozenset(
    {
        *("querycache", "sqlalchemy"),
        *("ddtrace", "elasticapm", "newrelic", "opentelemetry", "scout_apm", "sentry_sdk"),
    }
)
"""Packages whose listeners look on: this one, SQLAlchemy's own, and tracers."""

_KNOWN: Final[weakref.WeakKeyDictionary[Callable[..., Any], bool]] = weakref.WeakKeyDictionary()
"""Whether a listener is one of those packages'."""


class Hooks:
    """The hooks of one engine, and of those that ``Engine.execution_options()`` makes of it."""

    def __init__(self, engine: Engine) -> None:
        creator = _sqlalchemy.creator_of(engine.pool)
        self._creator = None if creator is None else f"{_name_of(creator)} (creator)"
        # A pool that keeps connections hands out any of them: what is set when they are made, is set in all alike.
        self._connects_each_time = isinstance(engine.pool, NullPool)

    def rewriter(self, target: Engine | Connection) -> str | None:
        """Name a listener that may send another statement or other values than it is given; None for none."""
        dispatch: Any = target.dispatch
        for name in ("before_execute", "before_cursor_execute"):
            for listener in getattr(dispatch, name):
                if _sqlalchemy.may_rewrite(listener) and not _observes(listener):
                    return f"{_name_of(listener)} ({name})"
        return None

    def setter(self, session: Session, engine: Engine) -> str | None:
        """Name a hook that may set a connection before a Session has it; None for none."""
        pool: Any = engine.pool
        return (
            self._creator
            or _foreign(session.dispatch.after_begin, "after_begin")
            or _foreign(engine.dispatch.begin, "begin")
            or _foreign(engine.dispatch.engine_connect, "engine_connect")
            or _foreign(pool.dispatch.checkout, "checkout")
            or _foreign(engine.dialect.dispatch.do_connect, "do_connect")
            or (_foreign(pool.dispatch.connect, "connect") if self._connects_each_time else None)
        )


def rewritten_by(listener: str) -> str:
    """Say why a statement that a listener may rewrite is not cached."""
    return (
        f"a listener may rewrite it on its way to the driver: {listener}; if QueryCache(vary=...) says what it goes by, "
        "it is cached"
    )


def _foreign(listeners: Any, event_name: str) -> str | None:
    # Nearly always there are none, which an empty collection tells at once.
    for listener in listeners or ():
        if not _observes(listener):
            return f"{_name_of(listener)} ({event_name})"
    return None


def _observes(listener: Callable[..., Any]) -> bool:
    # A listener is what it is: where it was defined is asked for once.
    try:
        known = _KNOWN.get(listener)
    except TypeError:  # neither every callable can be referred to weakly, nor has a hash
        return _is_observer(listener)
    if known is None:
        known = _KNOWN[listener] = _is_observer(listener)
    return known


def _is_observer(listener: Callable[..., Any]) -> bool:
    return _module_of(listener).partition(".")[0] in _OBSERVERS


def _module_of(listener: Callable[..., Any]) -> str:
    registered = _sqlalchemy.registered(listener)
    return str(getattr(registered, "__module__", None) or type(registered).__module__)


def _name_of(listener: Callable[..., Any]) -> str:
    registered = _sqlalchemy.registered(listener) or listener
    return f"{_module_of(listener)}.{getattr(registered, '__qualname__', type(registered).__qualname__)}"
