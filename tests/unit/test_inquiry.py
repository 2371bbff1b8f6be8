"""Asking a database whether a commit is over: who is asked, what is believed, and that nobody waits for the answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from querycache.coherence.inquiry import Case, ConnectAside, Inquiry
from querycache.databases import Activity, Profile, ServerSession, activities_of
from querycache.databases.sessions import session_of

SESSION = ServerSession(7, "20260101", "me")
LOST = Profile("a database", incarnation="since Monday", session=SESSION)
ASKED = replace(LOST, session=ServerSession(8, "20260102", "me"))


class Server:
    """A driver connection to a server on which these sessions are seen: (number, began, what it does)."""

    def __init__(self, *seen: tuple[int, str | None, str]) -> None:
        self._seen = seen
        self.questions: list[str] = []

    def cursor(self) -> Any:
        return SimpleNamespace(execute=self.questions.append, fetchall=lambda: self._seen, close=lambda: None)


def dialect(name: str = "postgresql", *, is_async: bool = False) -> Any:
    return SimpleNamespace(name=name, is_async=is_async)


def connecting(server: Server, profile: Profile | None = ASKED) -> ConnectAside:
    @contextmanager
    def connect() -> Iterator[tuple[Any, Profile | None]]:
        yield server, profile

    return connect


def asked(server: Server, *, name: str = "postgresql", by: Profile | None = ASKED, began: bool = True) -> Case:
    """Open a case, ask once, and return it."""
    inquiry = Inquiry(dialect(name), connecting(server, by))
    case = inquiry.open(LOST, began=began)
    assert case is not None
    case.look()
    wait_for(inquiry)
    return case


def wait_for(inquiry: Inquiry) -> None:
    assert inquiry._thread is not None
    inquiry._thread.join(30)
    assert not inquiry._thread.is_alive()


@pytest.mark.parametrize(
    ("seen", "activity"),
    [
        ([], Activity.GONE),
        ([(7, "20260101", "idle")], Activity.IDLE),
        ([(7, "20260101", "active")], Activity.BUSY),
        ([(7, "20260101", "idle in transaction")], Activity.UNKNOWN),
        ([(7, "20260101", "disabled")], Activity.UNKNOWN),
        ([(7, "20260203", "active")], Activity.GONE),
        ([(7, None, "")], Activity.UNKNOWN),
    ],
)
def test_a_session_of_postgresqls_is_judged_by_its_number_its_beginning_and_its_state(
    seen: list[Any], activity: Activity
) -> None:
    assert activities_of(dialect(), Server(*seen), [SESSION]) == {SESSION: activity}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seen", "activity"),
    [([], Activity.GONE), ([(7, None, "Sleep")], Activity.UNKNOWN), ([(7, None, "Query")], Activity.BUSY)],
)
def test_a_session_of_mariadbs_is_judged_by_its_number_and_command(seen: list[Any], activity: Activity) -> None:
    session = ServerSession(7, "", "me@%")
    assert activities_of(dialect("mariadb"), Server(*seen), [session]) == {session: activity}  # type: ignore[arg-type]


@pytest.mark.parametrize(("driver_number", "is_believed"), [(7, True), (8, False), (None, False)])
def test_a_session_has_a_name_only_where_the_driver_knows_it_by_the_same_number(
    driver_number: int | None, is_believed: bool
) -> None:
    """Behind a pooler the server's session is another one than the driver's."""
    assert (session_of("me", 7, "20260101", driver_number) is not None) == is_believed


def test_a_commit_is_over_when_its_session_is_gone() -> None:
    assert asked(Server()).is_over


def test_a_commit_is_over_when_its_session_is_in_no_transaction() -> None:
    assert asked(Server((7, "20260101", "idle"))).is_over


def test_a_statement_that_is_a_transaction_by_itself_is_not_over_while_its_session_is_idle() -> None:
    assert not asked(Server((7, "20260101", "idle")), began=False).is_over


def test_a_session_at_work_is_a_sign_of_life() -> None:
    case = asked(Server((7, "20260101", "active")))
    assert not case.is_over
    assert case.busy_at > 0


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, identity="another database"),
        replace(ASKED, incarnation="since Tuesday"),
        replace(ASKED, session=ServerSession(8, "20260102", "you")),
        replace(ASKED, session=None),
        None,
    ],
    ids=["another server", "the server after a restart", "another user", "a pooler", "not asked"],
)
def test_another_server_and_another_user_are_not_believed(other: Profile | None) -> None:
    server = Server()
    assert not asked(server, by=other).is_over
    assert server.questions == []


@pytest.mark.parametrize(
    ("profile", "of"),
    [
        (replace(LOST, session=None), dialect()),
        (replace(LOST, incarnation=""), dialect()),
        (replace(LOST, identity=None), dialect()),
    ],
    ids=["no session", "no incarnation", "no identity"],
)
def test_no_case_is_opened_that_nobody_could_decide(profile: Profile, of: Any) -> None:
    assert Inquiry(of, connecting(Server())).open(profile, began=True) is None


def test_a_server_that_refuses_leaves_the_case_open() -> None:
    def refuse() -> Any:
        raise ConnectionRefusedError

    inquiry = Inquiry(dialect(), refuse)
    case = inquiry.open(LOST, began=True)
    assert case is not None
    case.look()
    wait_for(inquiry)
    assert not case.is_over


def test_nobody_waits_for_a_server_that_does_not_answer_and_it_is_asked_one_question_at_a_time() -> None:
    answer, asking = threading.Event(), []

    @contextmanager
    def hang() -> Iterator[tuple[Any, Profile | None]]:
        asking.append(threading.current_thread())
        answer.wait(30)
        yield Server(), ASKED

    inquiry = Inquiry(dialect(), hang)
    case = inquiry.open(LOST, began=True)
    assert case is not None
    for _ in range(3):
        case.look()
    assert not case.is_over
    assert [thread.daemon for thread in asking] == [True]
    answer.set()
    wait_for(inquiry)
    assert case.is_over


def test_several_cases_are_one_question() -> None:
    server = Server()
    hold, release = connecting(server), threading.Event()

    @contextmanager
    def connect() -> Iterator[tuple[Any, Profile | None]]:
        release.wait(30)
        with hold() as found:
            yield found

    inquiry = Inquiry(dialect(), connect)
    first = inquiry.open(LOST, began=True)
    assert first is not None
    first.look()
    others = [inquiry.open(replace(LOST, session=replace(SESSION, number=n)), began=True) for n in (11, 12)]
    for case in others:
        assert case is not None
        case.look()
    release.set()
    wait_for(inquiry)
    for case in others:
        assert case is not None
        case.look()
    wait_for(inquiry)
    assert all(case is not None and case.is_over for case in [first, *others])
    assert len(server.questions) == 2
