"""What do the tests of failing commits share: commits in the background, the journal's rounds, the driver's own COMMIT."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from coherence_world import Process
from querycache.coherence.journal import Journal

TIMEOUT_S = 20.0


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds; fail after a long time."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < give_up_at, what
        time.sleep(0.01)


def journal_of(process: Process) -> Journal:
    assert process.cache is not None
    return process.cache._coherence.journals[0]


def tend(process: Process) -> None:
    """Make one round of the journal's keeper, and wait for the database's answer if it was asked."""
    journal_of(process).tend()
    assert process.cache is not None
    for attachment in process.cache._attachments:
        asking = attachment._inquiry._thread
        if asking is not None:
            asking.join(TIMEOUT_S)
            assert not asking.is_alive(), "the database did not answer"


def tend_until_settled(process: Process) -> None:
    """Make rounds of the keeper until this process holds no mark and owes no release."""

    def is_settled() -> bool:
        tend(process)
        return journal_of(process).held == journal_of(process).owed == 0

    wait_until(is_settled, "a commit stays in doubt")


class Background:
    """A call in a thread of its own; ``error`` is what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.error = error

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(TIMEOUT_S)
        assert not self._thread.is_alive(), "it did not come back"


def replace_commit(process: Process, replacement: Callable[[Callable[[], None], Any], None]) -> None:
    """Have ``replacement(send, proxied)`` called where the library sends a COMMIT, between mark and release."""
    dialect = process.engine.dialect
    original = type(dialect).do_commit.__get__(dialect)
    replace_innermost(dialect.do_commit, original, lambda proxied: replacement(lambda: original(proxied), proxied))


def replace_innermost(hook: Any, original: Any, replacement: Any) -> None:
    """Put another callable in the place of the dialect's own method that a hook calls."""
    for cell in hook.__closure__:
        if cell.cell_contents == original:
            cell.cell_contents = replacement
            return
    raise AssertionError("the hook does not call the dialect's own method")
