"""Listeners that are the same as before are known again, at no other price than being wrong never."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.orm import Session, sessionmaker

from querycache._listeners import Standing


def one(*arguments: Any) -> None:
    """Listen."""


def another(*arguments: Any) -> None:
    """Listen, too."""


@pytest.fixture
def engine(engine_of: Callable[..., Engine]) -> Engine:
    return engine_of("sqlite://")


def asked_of(engine: Engine) -> tuple[Any, ...]:
    return (engine.dispatch.begin, engine.pool.dispatch.checkout, engine.dialect.dispatch.do_connect)


def standing_of(engine: Engine) -> Standing:
    standing = Standing.of(asked_of(engine))
    assert standing is not None
    return standing


def test_what_nobody_touched_stands_as_it_did(engine: Engine) -> None:
    event.listen(engine, "checkout", one)
    assert standing_of(engine).is_that_of(asked_of(engine))


@pytest.mark.parametrize("name", ["begin", "checkout", "do_connect"])
@pytest.mark.parametrize("listens_before", [False, True])
def test_who_comes_is_seen(engine: Engine, name: str, *, listens_before: bool) -> None:
    if listens_before:
        event.listen(engine, name, one)
    standing = standing_of(engine)
    event.listen(engine, name, another)
    assert not standing.is_that_of(asked_of(engine))


@pytest.mark.parametrize("where", [Engine, None])
def test_who_comes_to_all_engines_is_seen(engine: Engine, where: Any) -> None:
    event.listen(engine, "begin", one) if where is None else None
    standing = standing_of(engine)
    event.listen(Engine, "begin", another)
    try:
        assert not standing.is_that_of(asked_of(engine))
    finally:
        event.remove(Engine, "begin", another)
    assert standing.is_that_of(asked_of(engine))


def test_one_that_takes_the_place_of_another_is_seen(engine: Engine) -> None:
    event.listen(engine, "checkout", one)
    standing = standing_of(engine)
    event.remove(engine, "checkout", one)
    event.listen(engine, "checkout", another)
    assert not standing.is_that_of(asked_of(engine))


def test_who_comes_and_goes_leaves_nothing_behind(engine: Engine) -> None:
    event.listen(engine, "checkout", one)
    standing = standing_of(engine)
    event.listen(engine, "checkout", another)
    event.remove(engine, "checkout", another)
    assert standing.is_that_of(asked_of(engine))


def test_a_session_of_another_make_has_listeners_of_its_own(engine: Engine) -> None:
    factory = sessionmaker(engine)
    standing = Standing.of((factory().dispatch.after_begin,))
    assert standing is not None
    assert standing.is_that_of((factory().dispatch.after_begin,))
    assert not standing.is_that_of((Session(engine).dispatch.after_begin,))
    event.listen(factory, "after_begin", one)
    assert not standing.is_that_of((factory().dispatch.after_begin,))


def test_listeners_that_an_engine_shares_with_another_are_never_taken_for_unchanged(engine: Engine) -> None:
    other = engine.execution_options(some="thing")
    assert Standing.of((other.dispatch.begin,)) is None


def test_what_stands_behind_them_is_what_it_was(engine: Engine) -> None:
    event.listen(engine, "begin", one)
    begin: Any = engine.dispatch.begin
    assert (begin.listeners, begin.parent_listeners) == (deque([one]), deque())
    checkout: Any = Session(engine).dispatch.after_attach
    assert checkout.parent_listeners == deque()
