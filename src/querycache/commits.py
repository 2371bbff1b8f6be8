"""What happens around the end of a transaction?

Before the driver commits: mark. After it: release, before any hook of the user's. After a rollback: touch, as statements
may have committed on their own. Whatever commits counts: the driver's commit, a COMMIT given as text, a statement in
autocommit, the second phase of two.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy.engine import Dialect

from querycache._types import TagSet
from querycache.coherence.journal import Mark
from querycache.coherence.outcomes import Outcome, outcome_of
from querycache.coherence.protocol import Coherence
from querycache.coherence.transactions import ConnectionState, Pending
from querycache.errors import StoreError

MAX_PREPARED: Final = 1000

StateOf = Callable[[Any], "ConnectionState | None"]


def commit(
    state: ConnectionState | None, coherence: Coherence, dialect: Dialect, proxied: Any, send: Callable[[], None]
) -> None:
    """Send a COMMIT between mark and release; roll back where the mark cannot be set and must be."""
    if state is None:
        send()
        return
    _widen_unreported(state)
    if not state.pending:
        send()
        state.end()
        return
    # After a COMMIT that left the transaction open there may be more to mark than was.
    try:
        marks = [*state.marks, *coherence.mark(state.pending.tag_set(state.bind.tag))]
    except StoreError:
        # SQLAlchemy takes a COMMIT that raised for the end of a transaction, and would leave this one open in the pool.
        dialect.do_rollback(proxied)
        raise
    try:
        send()
    except BaseException as error:
        raw = getattr(proxied, "dbapi_connection", proxied)
        _after_failure(state, coherence, marks, outcome_of(error, dialect, raw))
        raise
    finish(state, coherence, marks)


def _widen_unreported(state: ConnectionState) -> None:
    """Take the whole table where an execution never reported the keys of the rows that it inserted."""
    for facts in state.inserts.values():
        state.pending.add(facts.key_tags(None))


def _after_failure(state: ConnectionState, coherence: Coherence, marks: list[Mark], outcome: Outcome) -> None:
    if outcome is Outcome.OPEN:
        state.marks = marks
        return
    if outcome is Outcome.FAILED:
        coherence.release(marks)
    else:
        coherence.doubt(marks)
    state.marks = []
    state.pending = Pending()


def finish(state: ConnectionState, coherence: Coherence, marks: Sequence[Mark]) -> None:
    """Release after a commit that succeeded, and begin anew."""
    if state.schema_changed:
        # Before the release: who reads the new rows must not go by the old catalog.
        state.bind.forget_survey()
    coherence.release(marks)
    state.end()


def abandon(state: ConnectionState, coherence: Coherence) -> None:
    """Touch what a transaction had pending when it was rolled back, or its connection was lost or given back."""
    coherence.release(state.marks)
    if state.pending:
        coherence.touch(state.pending.tag_set(state.bind.tag).tags)
    if state.schema_changed:
        state.bind.forget_survey()
    state.end()


def hook_ends(dialect: Dialect, coherence: Coherence, state_of: StateOf, bind_tags: Callable[[], TagSet]) -> None:
    """Put mark and release around what commits on a dialect object, and touch after what rolls back."""
    _hook_plain(dialect, coherence, state_of)
    _hook_two_phase(dialect, coherence, state_of, bind_tags)


def _hook_plain(dialect: Dialect, coherence: Coherence, state_of: StateOf) -> None:
    send_commit, send_rollback = dialect.do_commit, dialect.do_rollback

    def do_commit(dbapi_connection: Any) -> None:
        commit(state_of(dbapi_connection), coherence, dialect, dbapi_connection, lambda: send_commit(dbapi_connection))

    def do_rollback(dbapi_connection: Any) -> None:
        state = state_of(dbapi_connection)
        try:
            send_rollback(dbapi_connection)
        finally:
            if state is not None:
                abandon(state, coherence)

    dialect.do_commit = do_commit  # type: ignore[method-assign]
    dialect.do_rollback = do_rollback  # type: ignore[method-assign]


def _hook_two_phase(dialect: Dialect, coherence: Coherence, state_of: StateOf, bind_tags: Callable[[], TagSet]) -> None:
    """COMMIT PREPARED is the COMMIT. What this process did not prepare may be anything: the whole bind."""
    send_prepare, send_commit = dialect.do_prepare_twophase, dialect.do_commit_twophase
    prepared: OrderedDict[Any, TagSet] = OrderedDict()

    def do_prepare_twophase(connection: Any, xid: Any) -> None:
        state = state_of(connection.connection)
        if state is not None:
            _widen_unreported(state)
            prepared[xid] = state.pending.tag_set(state.bind.tag)
            while len(prepared) > MAX_PREPARED:
                prepared.popitem(last=False)
        send_prepare(connection, xid)

    def do_commit_twophase(connection: Any, xid: Any, is_prepared: bool = True, recover: bool = False) -> None:
        state = state_of(connection.connection)
        if state is None or not is_prepared:
            send_commit(connection, xid, is_prepared, recover)
            return
        tags = prepared.pop(xid, None)
        marks = coherence.mark(bind_tags() if tags is None else tags)
        try:
            send_commit(connection, xid, is_prepared, recover)
        except BaseException:
            # Still prepared, or committed: both go on without this connection.
            coherence.doubt(marks)
            raise
        finish(state, coherence, marks)

    dialect.do_prepare_twophase = do_prepare_twophase  # type: ignore[method-assign]
    dialect.do_commit_twophase = do_commit_twophase  # type: ignore[method-assign]
