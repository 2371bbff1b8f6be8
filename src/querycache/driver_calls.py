"""How is heard what an application sends past SQLAlchemy, on the driver's own connection?

A driver connection is given a class of its own, made from the driver's: its commits, its rollbacks, its cursors and whatever
else may send something are told to a listener before they are sent. SQLAlchemy's own calls pass through unheard, as they
are heard where SQLAlchemy announces them.

Promises: ``isinstance`` with the driver's class stays true; what the driver returns and raises is returned and raised. Never
decides what a call means. Where a driver's connection cannot be given a class, nothing is heard: ``listen_to`` says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final, Protocol

from sqlalchemy.engine import Dialect

_CLASS_PARAMETERS: Final = MappingProxyType(
    {"pysqlite": ("factory", "factory"), "psycopg2": ("connection_factory", "cursor_factory")}
)
"""By driver whose objects keep the class that they were made with: the argument of ``connect`` and of ``cursor``."""

# What a connection can be told besides commit, rollback and cursor, over all drivers; and what cannot be read from a text.
_CONNECTION_CALLS: Final = (
    *(
        "autocommit",
        "begin",
        "blobopen",
        "change_user",
        "cmd_query",
        "deserialize",
        "isolation_level",
        "lobject",
        "query",
    ),
    *("reset", "run", "select_db", "set_autocommit", "set_isolation_level", "set_session", "start_transaction"),
    *("tpc_begin", "tpc_commit", "tpc_prepare", "tpc_rollback"),
)
# Short for the cursor's method of the same name; sqlite3 makes that cursor without asking its own method for one.
_CONNECTION_SHORTCUTS: Final = ("execute", "executemany", "executescript")
_CONNECTION_BLOCKS: Final = ("pipeline", "transaction")
_CURSOR_CALLS: Final = ("execute", "executemany")
_CURSOR_BLOCKS: Final = ("copy",)
_CURSOR_STREAMS: Final = ("stream",)
_CURSOR_ENDS: Final = ("close", "fetchall")
_CURSOR_MYSTERIES: Final = ("callproc", "copy_expert", "copy_from", "copy_to", "executescript")


class Listener(Protocol):
    """Who hears. ``raw`` is a driver connection."""

    def is_deaf_to(self, raw: Any) -> bool:
        """Tell whether nothing is known of a connection, or SQLAlchemy or the cache itself is at work on it."""

    def is_sending(self, raw: Any) -> bool:
        """Tell whether a statement that SQLAlchemy announced is under way."""

    def commit_of(self, raw: Any, send: Callable[[], Any]) -> Any:
        """Send a commit, and return what it returns."""

    def rollback_of(self, raw: Any, send: Callable[[], Any]) -> Any:
        """Send a rollback, and return what it returns."""

    def statement_of(self, raw: Any, cursor: Any, text: object) -> AbstractContextManager[None]:
        """Surround the sending of a statement; ``text`` is None where nobody can tell what it does."""

    def block_of(self, raw: Any) -> AbstractContextManager[None]:
        """Surround a block of statements that the driver may commit at its end."""


class _Making(threading.local):
    """Whether SQLAlchemy is making a cursor for a statement that it will announce: set and asked in one thread."""

    now = False


class DriverCalls:
    """The classes made for one engine's driver."""

    def __init__(self, dialect: Dialect, listener: Listener) -> None:
        parameters = _CLASS_PARAMETERS.get(dialect.driver)
        self._connection_parameter = None if parameters is None else parameters[0]
        self._cursor_parameter = None if parameters is None else parameters[1]
        self.needs_its_class = parameters is not None
        self.is_async = dialect.is_async
        self.listener = listener
        self.making = _Making()
        self._classes: dict[type[Any], type[Any]] = {}
        self._default: type[Any] | None = None
        if dialect.driver == "pysqlite":
            self._default = dialect.loaded_dbapi.Connection
        elif dialect.driver == "psycopg2":
            self._default = dialect.loaded_dbapi.extensions.connection

    def listener_of_connect(self) -> Callable[..., None]:
        """Return a listener to ``do_connect``, for drivers whose connections can be listened to only if they are made so.

        It changes neither what is connected to nor how; its attribute ``querycache_listens`` tells it from others.
        """

        def prepare(dialect: Any, record: Any, arguments: Any, options: dict[str, Any]) -> None:
            if self._connection_parameter is not None:
                wanted = options.get(self._connection_parameter, self._default)
                if isinstance(wanted, type):
                    options[self._connection_parameter] = self._class_of(wanted, _connection_body)

        prepare.querycache_listens = self  # type: ignore[attr-defined]
        return prepare

    def listen_to(self, raw: Any) -> bool:
        """Begin to hear a connection; False where its driver does not allow it."""
        return self._give_class(raw, _connection_body)

    def know_contexts(self, dialect: Dialect) -> None:
        """Have the cursors that SQLAlchemy makes for its statements told from others."""
        base: Any = dialect.execution_ctx_cls
        create, making = base.create_cursor, self.making

        def create_cursor(self: Any) -> Any:
            making.now = True
            try:
                return create(self)
            finally:
                making.now = False

        members = {"create_cursor": create_cursor, "__module__": base.__module__}
        dialect.execution_ctx_cls = type(base.__name__, (base,), members)

    def hear_cursor(self, raw: Any, cursor: Any, again: Callable[..., Any]) -> Any:
        """Return a cursor that is heard, where need be one that ``again`` makes; one that cannot be heard counts as sending."""
        if getattr(cursor, "connection", None) is raw:
            if self._give_class(cursor, _cursor_body):
                return cursor
            if self._cursor_parameter is not None:
                return again(**{self._cursor_parameter: self._class_of(type(cursor), _cursor_body)})
        with self.listener.statement_of(raw, None, None):
            return cursor

    def _give_class(self, target: Any, body: _Body) -> bool:
        kind = type(target)
        if getattr(kind, "querycache_listens", None) is self:
            return True
        try:
            target.__class__ = self._class_of(kind, body)
        except TypeError:
            return False
        return True

    def _class_of(self, base: type[Any], body: _Body) -> type[Any]:
        if getattr(base, "querycache_listens", None) is self:
            return base
        made = self._classes.get(base)
        if made is None:
            members: dict[str, Any] = {"__module__": base.__module__, "__qualname__": base.__qualname__}
            if not self.needs_its_class:
                # An object can be given another class only where that adds nothing to it.
                members["__slots__"] = ()
            made = type(
                base.__name__, (base,), {**members, "querycache_listens": self, **body(base, self, self.listener)}
            )
            self._classes[base] = made
        return made


_Body = Callable[[type[Any], DriverCalls, Listener], dict[str, Any]]


def _connection_body(base: type[Any], calls: DriverCalls, listener: Listener) -> dict[str, Any]:
    make, making = base.cursor, calls.making

    def cursor(self: Any, *arguments: Any, **options: Any) -> Any:
        made = make(self, *arguments, **options)
        if making.now or listener.is_deaf_to(self):
            return made
        return calls.hear_cursor(
            self, made, lambda **more: base.cursor(self, *_names_only(arguments), **{**options, **more})
        )

    def commit(self: Any, *arguments: Any, **options: Any) -> Any:
        return listener.commit_of(self, lambda: base.commit(self, *arguments, **options))

    def rollback(self: Any, *arguments: Any, **options: Any) -> Any:
        return listener.rollback_of(self, lambda: base.rollback(self, *arguments, **options))

    def __exit__(self: Any, kind: Any, *rest: Any) -> Any:
        end = listener.commit_of if kind is None else listener.rollback_of
        return end(self, lambda: base.__exit__(self, kind, *rest))

    body: dict[str, Any] = {"commit": commit, "rollback": rollback}
    if not calls.is_async:
        body["cursor"] = cursor
    if hasattr(base, "__exit__"):
        body["__exit__"] = __exit__
    for name in _CONNECTION_SHORTCUTS:
        if calls.needs_its_class and hasattr(base, name):
            body[name] = _heard_shortcut(getattr(base, name), name, listener)
    for name in _CONNECTION_CALLS:
        if hasattr(base, name):
            body[name] = _heard_member(base, name, listener)
    body.update((name, _heard_block(base, name, listener)) for name in _CONNECTION_BLOCKS if hasattr(base, name))
    return body


def _names_only(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leave out a class of cursors among the arguments: the one that is named instead is made from it."""
    return tuple(argument for argument in arguments if not isinstance(argument, type))


def _heard_shortcut(member: Any, name: str, listener: Listener) -> Any:
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        if listener.is_deaf_to(self):
            return member(self, *arguments, **options)
        return getattr(self.cursor(), name)(*arguments, **options)

    return call


def _heard_member(base: type[Any], name: str, listener: Listener) -> Any:
    member = getattr(base, name)
    if callable(member):

        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            if listener.is_sending(self):
                return member(self, *arguments, **options)
            with listener.statement_of(self, None, None):
                return member(self, *arguments, **options)

        return call

    def assign(self: Any, value: Any) -> None:
        with listener.statement_of(self, None, None):
            member.__set__(self, value)

    return property(member.__get__, assign)


def _heard_block(base: type[Any], name: str, listener: Listener) -> Any:
    member = getattr(base, name)

    @contextmanager
    def block(self: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        with listener.block_of(self), member(self, *arguments, **options) as entered:
            yield entered

    return block


def _cursor_body(base: type[Any], calls: DriverCalls, listener: Listener) -> dict[str, Any]:
    body = {name: _heard_text(getattr(base, name), listener) for name in _CURSOR_CALLS if hasattr(base, name)}
    for name in _CURSOR_MYSTERIES:
        if hasattr(base, name):
            body[name] = _heard_mystery(getattr(base, name), listener)
    for name in _CURSOR_ENDS:
        body[name] = _ended(getattr(base, name))
    for name in _CURSOR_BLOCKS:
        if hasattr(base, name):
            body[name] = _heard_copy(getattr(base, name), listener)
    for name in _CURSOR_STREAMS:
        if hasattr(base, name):
            body[name] = _heard_stream(getattr(base, name), listener)
    return body


def _heard_text(member: Any, listener: Listener) -> Any:
    def call(self: Any, text: Any, *arguments: Any, **options: Any) -> Any:
        with listener.statement_of(self.connection, self, text):
            return member(self, text, *arguments, **options)

    return call


def _ended(member: Any) -> Any:
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return member(self, *arguments, **options)
        finally:
            if hasattr(self, "querycache_watch"):
                self.querycache_watch.is_open = False

    return call


def _heard_mystery(member: Any, listener: Listener) -> Any:
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        with listener.statement_of(self.connection, self, None):
            return member(self, *arguments, **options)

    return call


def _heard_copy(member: Any, listener: Listener) -> Any:
    @contextmanager
    def call(self: Any, text: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        with listener.statement_of(self.connection, self, text), member(self, text, *arguments, **options) as copy:
            yield copy

    return call


def _heard_stream(member: Any, listener: Listener) -> Any:
    def call(self: Any, text: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        with listener.statement_of(self.connection, self, text):
            yield from member(self, text, *arguments, **options)

    return call
