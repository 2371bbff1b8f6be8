"""Which of an application's hooks may set connections or rewrite statements, and which only look on."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from querycache import QueryCache
from querycache import hooks as hooks_of_engines
from querycache.hooks import Hooks


@pytest.fixture
def engine(tmp_path: Any, engine_of: Callable[..., Engine]) -> Engine:
    made = engine_of(f"sqlite:///{tmp_path}/a.db")
    with QueryCache("memory://") as cache:
        cache.attach(made)
    return made


def of_the_application(*arguments: Any, **named: Any) -> Any:
    """Listen, and do anything."""


def setter(engine: Engine, session: Session | None = None) -> str | None:
    return Hooks(engine).setter(session or Session(engine), engine)


def test_without_hooks_of_the_application_there_is_none(engine: Engine) -> None:
    assert setter(engine) is None
    assert Hooks(engine).rewriter(engine) is None


@pytest.mark.parametrize("name", ["begin", "checkout", "do_connect", "engine_connect"])
def test_a_hook_between_a_session_and_its_connection_may_set_it(engine: Engine, name: str) -> None:
    event.listen(engine, name, of_the_application)
    assert setter(engine) == f"{__name__}.of_the_application ({name})"
    assert setter(engine.execution_options(some="thing")) is not None


@pytest.mark.parametrize("name", ["checkin", "commit", "rollback", "connect", "after_cursor_execute"])
def test_a_hook_elsewhere_sets_no_connection_that_is_handed_out(engine: Engine, name: str) -> None:
    event.listen(engine, name, lambda *arguments: None)
    assert setter(engine) is None


def test_a_connection_made_for_each_session_may_be_set_when_it_is_made(tmp_path: Any) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=NullPool)
    engine.connect().close()
    assert setter(engine) is None
    event.listen(engine, "connect", of_the_application)
    assert setter(engine) == f"{__name__}.of_the_application (connect)"


def test_a_creator_may_lead_anywhere(engine_of: Callable[..., Engine]) -> None:
    engine = engine_of("sqlite://", creator=lambda: sqlite3.connect(":memory:"))
    assert str(setter(engine)).endswith("(creator)")


def test_a_hook_of_the_sessions_transaction_is_seen_wherever_it_was_registered(engine: Engine) -> None:
    factory = sessionmaker(engine)
    event.listen(factory, "after_begin", of_the_application)
    assert setter(engine, factory()) == f"{__name__}.of_the_application (after_begin)"
    assert setter(engine) is None
    one = Session(engine)
    event.listen(one, "after_begin", of_the_application)
    assert setter(engine, one) is not None


def test_an_option_engines_own_hook_is_seen(engine: Engine) -> None:
    other = engine.execution_options(some="thing")
    event.listen(other, "begin", of_the_application)
    assert setter(other) is not None
    assert setter(engine) is None


@pytest.mark.parametrize("options", [{"once": True}, {"named": True}, {"insert": True}])
def test_a_hook_is_seen_whatever_sqlalchemy_puts_around_it(engine: Engine, options: dict[str, bool]) -> None:
    event.listen(engine, "checkout", of_the_application, **options)
    assert setter(engine) == f"{__name__}.of_the_application (checkout)"


def test_a_hook_of_an_old_signature_is_seen(engine: Engine) -> None:
    def old(connection: Any, branch: Any) -> None:
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        event.listen(engine, "engine_connect", old)
    assert "old (engine_connect)" in str(setter(engine))


def test_a_tracer_looks_on(engine: Engine) -> None:
    def trace(*arguments: Any) -> Any:
        return arguments[2:4]

    trace.__module__ = "opentelemetry.instrumentation.sqlalchemy.engine"
    event.listen(engine, "checkout", trace)
    event.listen(engine, "before_cursor_execute", trace, retval=True)
    assert setter(engine) is None
    assert Hooks(engine).rewriter(engine) is None


@pytest.mark.parametrize("name", ["before_execute", "before_cursor_execute"])
def test_a_listener_that_may_rewrite_is_told_from_one_that_looks_on(engine: Engine, name: str) -> None:
    event.listen(engine, name, lambda *arguments: None)
    assert Hooks(engine).rewriter(engine) is None
    event.listen(engine, name, of_the_application, retval=True, named=True)
    assert Hooks(engine).rewriter(engine) == f"{__name__}.of_the_application ({name})"
    with engine.execution_options(some="thing").connect() as connection:
        assert Hooks(engine).rewriter(connection) is not None


def test_a_connections_own_listener_may_rewrite(engine: Engine) -> None:
    with engine.connect() as connection:
        event.listen(connection, "before_execute", of_the_application, retval=True)
        assert Hooks(engine).rewriter(connection) is not None
    assert Hooks(engine).rewriter(engine) is None


@pytest.mark.parametrize("name", ["begin", "checkout", "do_connect", "engine_connect", "before_execute"])
def test_a_hook_that_comes_when_all_were_quiet_is_heard(engine: Engine, name: str) -> None:
    hooks, session = Hooks(engine), Session(engine)
    assert hooks.are_quiet(session, engine)
    assert hooks.are_quiet(session, engine)
    event.listen(engine, name, of_the_application, **({"retval": True} if name == "before_execute" else {}))
    assert not hooks.are_quiet(session, engine)
    event.remove(engine, name, of_the_application)
    assert hooks.are_quiet(session, engine)


def test_a_session_of_its_own_make_is_asked_about_by_itself(engine: Engine) -> None:
    hooks, factory = Hooks(engine), sessionmaker(engine)
    assert hooks.are_quiet(Session(engine), engine)
    assert hooks.are_quiet(factory(), engine)
    event.listen(factory, "after_begin", of_the_application)
    assert not hooks.are_quiet(factory(), engine)
    assert hooks.are_quiet(Session(engine), engine)
    one = Session(engine)
    event.listen(one, "after_begin", of_the_application)
    assert not hooks.are_quiet(one, engine)


def test_makes_of_sessions_without_end_are_not_all_remembered(engine: Engine) -> None:
    hooks = Hooks(engine)
    assert all(hooks.are_quiet(sessionmaker(engine)(), engine) for _ in range(100))
    assert len(vars(engine)[hooks_of_engines._QUIET]) <= 16
