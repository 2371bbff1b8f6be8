"""What an application says that rows vary by: what tells keys apart, and what becomes of a hook that fails."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from querycache import ConfigurationError
from querycache.questions import Bypass
from querycache.variation import NOTHING, Variations

ALIKE: list[Any] = [
    *(None, 0, 1, True, "", "1", b"1", "None", (), (1,), ("1",), (1, ("a", None)), ((1, "a"), None)),
    *("\u00e9", "e\u0301", 2**70, UUID(int=1), str(UUID(int=1))),
]


def said(value: Any) -> bytes | Bypass:
    return Variations(lambda session: value).of(Session())


def test_values_that_look_alike_are_told_apart() -> None:
    parts = [said(value) for value in ALIKE]
    assert not any(isinstance(part, Bypass) for part in parts)
    assert len(set(parts)) == len(ALIKE)


def test_equal_values_are_told_alike() -> None:
    assert said(("a", 1, b"x")) == said(("a", 1, b"x"))


def test_without_a_hook_nothing_varies_which_is_not_what_a_hook_says() -> None:
    nothing = Variations(None)
    assert (nothing.of(Session()), nothing.are_told) == (NOTHING, False)
    assert NOTHING not in [said(value) for value in ALIKE]


def test_the_hook_is_asked_about_the_session() -> None:
    hook = Variations(lambda session: session.info["tenant"])
    assert hook.of(Session(info={"tenant": "blue"})) != hook.of(Session(info={"tenant": "red"}))
    assert hook.are_told


def test_a_hook_that_fails_is_a_reason_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    hook = Variations(lambda session: session.info["tenant"])
    with caplog.at_level(logging.ERROR, "querycache"):
        answers = [hook.of(Session()) for _ in range(3)]
    assert answers == [Bypass("vary failed: KeyError")] * 3
    assert len(caplog.records) == 1


def test_a_value_without_an_exact_form_is_a_reason_that_does_not_show_it(caplog: pytest.LogCaptureFixture) -> None:
    class Secret:
        def __repr__(self) -> str:
            raise AssertionError

    answer = said(Secret())
    assert isinstance(answer, Bypass)
    assert "Secret" in answer.reason
    assert len(caplog.records) == 1


def test_what_ends_a_program_is_not_held_up() -> None:
    def interrupted(session: Session) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Variations(interrupted).of(Session())


def test_a_hook_that_asks_again_is_not_asked_again() -> None:
    inner: list[bytes | Bypass] = []
    hook: Variations

    def ask(session: Session) -> str:
        inner.append(hook.of(session))
        return "blue"

    hook = Variations(ask)
    assert hook.of(Session()) == said("blue")
    assert hook.of(Session()) == said("blue")
    assert all(isinstance(one, Bypass) for one in inner)
    assert len(inner) == 2


async def waiting(session: Session) -> str:
    return "blue"


@pytest.mark.parametrize("given", ["blue", 1, waiting])
def test_what_is_no_plain_function_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="vary="):
        Variations(given)
