"""What happens around the end of a transaction?

Before the driver commits: mark. After it: release, before any hook of the user's. After a rollback: touch, as statements
may have committed on their own. Whatever commits counts: the driver's commit, a COMMIT given as text, a statement in
autocommit, the second phase of two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Dialect

from querycache._types import Stamp, TagSet
from querycache.coherence.journal import Catalog, Mark
from querycache.coherence.outcomes import Outcome, outcome_of
from querycache.coherence.protocol import Coherence
from querycache.coherence.transactions import ConnectionState, Pending, ours

StateOf = Callable[[Any], "ConnectionState | None"]


def commit(
    state: ConnectionState | None, coherence: Coherence, dialect: Dialect, proxied: Any, send: Callable[[], None]
) -> None:
    """Send a COMMIT between mark and release; roll back where the mark cannot be set and must be."""
    if state is None:
        send()
        return
    widen_unreported(state)
    if not state.pending:
        send()
        state.end()
        return
    # After a COMMIT that left the transaction open there may be more to mark than was.
    try:
        marks = [*state.marks, *set_marks(state, coherence)]
    except BaseException:
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


def set_marks(state: ConnectionState, coherence: Coherence) -> list[Mark]:
    """Mark what a transaction changes, the whole bind where the catalog may be another one.

    What is known to change is marked first, and each store tells with its mark which catalog is there. Where a store is out,
    no other table is dropped if that aborts what was to be sent; if that goes on, the catalog is asked about at the release.
    Whatever it raises, ``StoreError`` above all, nothing is marked then.
    """
    if state.pending.whole_bind:
        return coherence.mark(state.tags_to_mark())
    guard, known = state.bind.schema_guard, state.survey_stamps or {}
    catalogs = {position: Catalog(guard, stamp, state.bind.tag) for position, stamp in known.items()}
    marks = coherence.mark(state.tags_to_mark(), catalogs)
    told = {position: mark.schema_stamp for position, mark in enumerate(marks) if mark.schema_stamp is not None}
    try:
        if _widen_unless_known(state, coherence, told):
            marks = [*marks, *coherence.mark(state.tags_to_mark())]
    except BaseException:  # a task that is cancelled, too
        coherence.release(marks)
        raise
    return marks


def _widen_unless_known(state: ConnectionState, coherence: Coherence, told: Mapping[int, Stamp]) -> bool:
    """Take the whole bind unless the stores told the stamps of the catalog that the changes are known by; tell whether so."""
    known = len(state.survey_stamps or ()) == len(coherence.journals)
    # Not known then and not known now is not the same as unchanged: a store that is spared, or of which the tag is marked.
    if state.pending.whole_bind or (known and told == state.survey_stamps):
        return False
    state.bind.forget_survey()
    state.pending.add_bind(state.bind.tag)
    return True


def widen_after_ddl(state: ConnectionState, coherence: Coherence) -> bool:
    """Take the whole bind where DDL of another process may have come before a transaction's first change; tell whether so.

    As far as this process knows, the trigger or cascade that the DDL made is not there. DDL marks the schema tag before it
    shows, and waits for the locks of those who changed its table before: so it is enough to look once, after the change.
    """
    if state.pending.whole_bind:
        return False
    return _widen_unless_known(state, coherence, coherence.stamps_of(state.bind.schema_guard))


def widen_unreported(state: ConnectionState) -> None:
    """Take the whole table where an execution never reported the keys of the rows that it inserted."""
    for facts in state.inserts.values():
        state.pending.add(facts.key_tags(None))


def _after_failure(state: ConnectionState, coherence: Coherence, marks: list[Mark], outcome: Outcome) -> None:
    if outcome is Outcome.OPEN:
        state.marks = marks
        return
    if outcome is Outcome.OVER:
        coherence.release(marks)
    else:
        coherence.doubt(marks, state.open_case(began=not state.autocommit))
    state.marks = []
    state.pending = Pending()


def finish(state: ConnectionState, coherence: Coherence, marks: Sequence[Mark]) -> None:
    """Release after a commit that succeeded, and begin anew."""
    if state.schema_changed:
        # Before the release: who reads the new rows must not go by the old catalog.
        state.bind.forget_survey()
    try:
        coherence.release(marks)
    finally:
        state.end()


def abandon(state: ConnectionState, coherence: Coherence) -> None:
    """Touch what a transaction had pending when it was rolled back, or its connection was lost or given back."""
    marks, touched = state.marks, state.tags_to_mark().tags if state.pending else ()
    if state.schema_changed:
        state.bind.forget_survey()
    state.end()
    try:
        coherence.release(marks)
    finally:
        if touched:
            coherence.touch(touched)


def hook_ends(dialect: Dialect, coherence: Coherence, state_of: StateOf, bind_tags: Callable[[], TagSet]) -> None:
    """Put mark and release around what commits on a dialect object, and touch after what rolls back."""
    _hook_plain(dialect, coherence, state_of)
    _hook_two_phase(dialect, coherence, state_of, bind_tags)


def _hook_plain(dialect: Dialect, coherence: Coherence, state_of: StateOf) -> None:
    send_commit, send_rollback = dialect.do_commit, dialect.do_rollback

    def do_commit(dbapi_connection: Any) -> None:
        state = state_of(dbapi_connection)
        with ours(state):
            commit(state, coherence, dialect, dbapi_connection, lambda: send_commit(dbapi_connection))

    def do_rollback(dbapi_connection: Any) -> None:
        state = state_of(dbapi_connection)
        try:
            with ours(state):
                send_rollback(dbapi_connection)
        finally:
            if state is not None:
                abandon(state, coherence)

    dialect.do_commit = do_commit  # type: ignore[method-assign]
    dialect.do_rollback = do_rollback  # type: ignore[method-assign]


def _hook_two_phase(dialect: Dialect, coherence: Coherence, state_of: StateOf, bind_tags: Callable[[], TagSet]) -> None:
    """COMMIT PREPARED is the COMMIT. What this connection did not prepare may be anything: the whole bind."""
    send_begin, send_prepare = dialect.do_begin_twophase, dialect.do_prepare_twophase
    send_commit, send_rollback = dialect.do_commit_twophase, dialect.do_rollback_twophase

    def do_begin_twophase(connection: Any, xid: Any) -> None:
        with _in_phase(state_of(connection.connection)):
            send_begin(connection, xid)

    def do_prepare_twophase(connection: Any, xid: Any) -> None:
        state = state_of(connection.connection)
        if state is not None:
            widen_unreported(state)
            widen_after_ddl(state, coherence)
            state.prepared = xid
        with _in_phase(state):
            send_prepare(connection, xid)

    def do_rollback_twophase(connection: Any, xid: Any, is_prepared: bool = True, recover: bool = False) -> None:
        state = state_of(connection.connection)
        try:
            with _in_phase(state):
                send_rollback(connection, xid, is_prepared, recover)
        finally:
            if state is not None:
                abandon(state, coherence)

    def do_commit_twophase(connection: Any, xid: Any, is_prepared: bool = True, recover: bool = False) -> None:
        def send() -> None:
            with _in_phase(state):
                send_commit(connection, xid, is_prepared, recover)

        state = state_of(connection.connection)
        if state is None or not is_prepared:
            commit(state, coherence, dialect, connection.connection, send)
            return
        marks = coherence.mark(state.tags_to_mark() if state.prepared == xid else bind_tags())
        try:
            send()
        except BaseException:
            # Still prepared, or committed: both go on without this connection.
            coherence.doubt(marks, state.open_case(began=False))
            raise
        finish(state, coherence, marks)

    dialect.do_begin_twophase = do_begin_twophase  # type: ignore[method-assign]
    dialect.do_prepare_twophase = do_prepare_twophase  # type: ignore[method-assign]
    dialect.do_rollback_twophase = do_rollback_twophase  # type: ignore[method-assign]
    dialect.do_commit_twophase = do_commit_twophase  # type: ignore[method-assign]


@contextmanager
def _in_phase(state: ConnectionState | None) -> Iterator[None]:
    """Let SQLAlchemy send the commands of two phases: they are not statements that nobody knows."""
    if state is None:
        yield
        return
    state.in_phase = True
    try:
        yield
    finally:
        state.in_phase = False
