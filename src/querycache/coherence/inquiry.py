"""A COMMIT was sent and nobody heard its answer: is it over by now? The database can tell.

A commit is over when the server's session that was told to commit has ended, or is in no transaction any more: then what
it changed is visible, or never will be. Asked is over a connection of its own, made for the question, as the application's
pool may be exhausted by the very thing that happened; in a thread of its own, as it may hang; and one question at a time.

An asynchronous driver is asked on an event loop of that thread's. Promises: a case is over only by the word of the server that
its session was on, running since the same moment. Whoever cannot be asked (a proxy that shares sessions among clients,
SQLite) leaves it open.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from sqlalchemy.engine import Dialect

from querycache import _sqlalchemy
from querycache.databases import Activity, Profile, ServerSession, activities_of
from querycache.events import logger

ConnectAside: TypeAlias = Callable[[], AbstractContextManager[tuple[Any, Profile | None]]]
"""Makes a driver connection that is none of the pool's, tells its profile, and closes it in the end."""


class Case:
    """One session of which it is not known whether its COMMIT is over.

    ``is_over`` once that is known. ``busy_at``: when the session was last seen at work, on ``time.monotonic``.
    """

    def __init__(self, inquiry: Inquiry, profile: Profile, *, began: bool) -> None:
        self.profile = profile
        self.is_over = False
        self.busy_at = float("-inf")
        self._inquiry = inquiry
        self._began = began

    def look(self) -> None:
        """Have it asked, soon; returns at once."""
        if not self.is_over:
            self._inquiry.ask_about(self)

    def hear(self, activity: Activity) -> None:
        """Take what the server said.

        A session in no transaction is a proof only where the transaction had begun: a statement that is one by itself may
        still be on its way.
        """
        if activity is Activity.GONE or (activity is Activity.IDLE and self._began):
            self.is_over = True
        elif activity is Activity.BUSY:
            self.busy_at = time.monotonic()


class Inquiry:
    """The questions to the database of one engine. Safe to use from any thread, and in a forked child."""

    def __init__(self, dialect: Dialect, connect_aside: ConnectAside) -> None:
        self._dialect = dialect
        self._connect_aside = connect_aside
        self._cases: set[Case] = set()
        self._thread: threading.Thread | None = None

    def open(self, profile: Profile, *, began: bool) -> Case | None:
        """Open a case for the session that ``profile`` was asked on; None where nobody could tell.

        ``began``: the server is known to have answered within the transaction, so that its end is the COMMIT's.
        """
        askable = profile.session and profile.identity and profile.incarnation
        return Case(self, profile, began=began) if askable else None

    def ask_about(self, case: Case) -> None:
        """Add a case to the next question; ask it unless one is under way."""
        self._cases.add(case)
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._ask, name="querycache-inquiry", daemon=True)
            self._thread.start()

    def _ask(self) -> None:
        cases, self._cases = self._cases, set()
        try:
            if self._dialect.is_async:
                asyncio.run(_sqlalchemy.run_on_bridge(self._ask_aside, cases))
            else:
                self._ask_aside(cases)
        except Exception as error:
            # Whatever a driver, or a listener of the user's, raises while there is no database: it cannot be asked now.
            logger.info("the outcome of a commit cannot be asked of the database now: %s", error)

    def _ask_aside(self, cases: Iterable[Case]) -> None:
        with self._connect_aside() as (raw, profile):
            if profile is not None:
                self._ask_on(raw, profile, cases)

    def _ask_on(self, raw: Any, profile: Profile, cases: Iterable[Case]) -> None:
        ours = [(case, session) for case in cases if (session := _session_shown_to(profile, case.profile)) is not None]
        if ours:
            said = activities_of(self._dialect, raw, {session for _, session in ours})
            for case, session in ours:
                case.hear(said[session])


def _session_shown_to(asked: Profile, lost: Profile) -> ServerSession | None:
    """Return the lost session where a connection is on the same run of the same server, and is shown that user's sessions."""
    if lost.session is None or asked.session is None or lost.session.user != asked.session.user:
        return None
    return lost.session if (lost.identity, lost.incarnation) == (asked.identity, asked.incarnation) else None
