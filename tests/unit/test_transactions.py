"""What a driver connection's transaction remembers, and what follows from it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from querycache._cursors import OpenCursor
from querycache._types import TagSet
from querycache.coherence.snapshots import Freshness
from querycache.coherence.transactions import (
    MAX_PENDING_TAGS,
    MAX_REMEMBERED,
    MAX_ROW_TAGS,
    ConnectionState,
    Pending,
    Served,
)
from querycache.databases import Profile

BIND = b"bind/"
T = (b"t!", b"f")


def state_of(dialect: str = "postgresql", isolation: str = "READ COMMITTED") -> ConnectionState:
    return ConnectionState(dialect, Profile("x"), SimpleNamespace(tag=BIND), isolation, isolation_chosen=False)


def test_nothing_is_pending_at_first() -> None:
    assert not Pending()
    assert Pending().tag_set(BIND) == TagSet()


def test_pending_tags_are_marked_once_each_with_their_guards() -> None:
    pending = Pending()
    pending.add_rows(T, "t", [b"a", b"b"])
    pending.add_rows(T, "t", [b"a"])
    assert pending.tag_set(BIND) == TagSet((b"a", b"b"), (T,))


def test_a_change_of_anything_stands_for_all_others() -> None:
    pending = Pending()
    pending.add_rows(T, "t", [b"a"])
    pending.add_bind(BIND)
    pending.add([b"b"])
    pending.add_rows(T, "t", [b"c"])
    assert pending.tag_set(BIND) == TagSet((BIND,))


def test_a_change_of_a_whole_table_stands_for_those_of_its_rows() -> None:
    pending = Pending()
    pending.add_rows(T, "t", [b"a"])
    pending.add([b"t!"], ["t"])
    pending.add_rows(T, "t", [b"b"])
    assert pending.tag_set(BIND).tags == (b"t!",)


def test_more_rows_of_a_table_than_are_followed_become_that_table() -> None:
    pending = Pending()
    pending.add_rows((b"u!", b"f"), "u", [b"u*"])
    for number in range(MAX_ROW_TAGS + 2):
        pending.add_rows(T, "t", [f"t{number}".encode()])
    assert pending.tag_set(BIND).tags == (b"t!", b"u*")
    assert pending.tables == {"t", "u"}


def test_more_rows_of_several_tables_than_are_followed_become_those_tables() -> None:
    pending = Pending()
    for table in ("t", "u", "v"):
        rows = (f"{table}{number}".encode() for number in range(MAX_ROW_TAGS))
        pending.add_rows((f"{table}!".encode(), b"f"), table, rows)
    assert pending.tag_set(BIND).tags == (b"t!", b"u!", b"v!")


def test_more_tags_than_are_followed_become_the_whole_bind() -> None:
    pending = Pending()
    pending.add(str(number).encode() for number in range(MAX_PENDING_TAGS + 1))
    assert pending.tag_set(BIND) == TagSet((BIND,))


def test_a_read_may_have_changed_where_a_write_reached_its_table() -> None:
    state = state_of()
    state.pending.add([b"a"], tables=["t"])
    assert not state.may_have_changed(["t"])
    state.dirty = True
    assert state.may_have_changed(["t", "u"])
    assert not state.may_have_changed(["u"])


def test_any_read_may_have_changed_after_a_write_of_unknown_reach() -> None:
    state = state_of()
    state.dirty = True
    state.pending.add_bind(BIND)
    assert state.may_have_changed(["u"])


def test_a_tainted_connection_sees_nobody_knows_what() -> None:
    state = state_of()
    state.tainted = "SET"
    assert state.freshness(in_transaction=True) is Freshness.UNKNOWN


def test_autocommit_is_per_statement_at_any_level() -> None:
    state = state_of(isolation="REPEATABLE READ")
    state.autocommit = True
    assert state.freshness(in_transaction=False) is Freshness.STATEMENT


@pytest.mark.parametrize("inside", [True, None])
def test_a_transaction_begun_by_text_under_autocommit_is_of_unknown_level(inside: bool | None) -> None:
    state = state_of(isolation="AUTOCOMMIT")
    state.begun_by_text = True
    assert state.freshness(in_transaction=inside) is Freshness.UNKNOWN


def test_autocommit_on_sqlite_is_a_snapshot_inside_a_transaction() -> None:
    state = state_of("sqlite", "AUTOCOMMIT")
    state.autocommit = True
    assert state.freshness(in_transaction=True) is Freshness.SNAPSHOT
    assert state.freshness(in_transaction=False) is Freshness.STATEMENT


def test_an_open_cursor_on_sqlite_pins_no_one_knows_which_snapshot() -> None:
    state, cursor = state_of("sqlite", "SERIALIZABLE"), OpenCursor()
    state.watch(cursor)
    assert state.freshness(in_transaction=False) is Freshness.UNKNOWN
    cursor.is_open = False
    assert state.freshness(in_transaction=False) is Freshness.STATEMENT


def test_a_cursor_that_nobody_holds_any_more_is_not_open() -> None:
    state = state_of("sqlite", "SERIALIZABLE")
    state.watch(OpenCursor())
    assert not state.has_open_cursor()


def test_a_driver_that_cannot_tell_counts_as_in_a_transaction() -> None:
    assert state_of(isolation="REPEATABLE READ").freshness(in_transaction=None) is Freshness.SNAPSHOT


def test_the_first_lease_under_which_an_entry_was_served_is_kept() -> None:
    served = Served()
    served.remember(0, b"k", TagSet((b"a",)), (1,))
    served.remember(0, b"k", TagSet((b"a",)), (2,))
    assert list(served.leases.values()) == [(TagSet((b"a",)), (1,))]


def test_more_leases_than_are_kept_are_told() -> None:
    served = Served()
    for number in range(MAX_REMEMBERED + 1):
        served.remember(0, str(number).encode(), TagSet(), ())
    assert (len(served.leases), served.overflowed) == (MAX_REMEMBERED, True)


def test_what_a_session_was_served_goes_over_to_its_connection() -> None:
    session, connection = Served(), Served()
    session.remember(0, b"k", TagSet(), (1,))
    session.overflowed = True
    connection.take(session)
    assert (len(connection.leases), connection.overflowed, bool(session)) == (1, True, False)


def test_the_end_of_a_transaction_is_forgotten_but_for_what_stays_with_the_connection() -> None:
    state = state_of()
    state.suspect_everything()
    state.begun_by_text = state.pinned = state.failed = True
    state.tainted = "SET"
    state.served.remember(0, b"k", TagSet(), (1,))
    state.end()
    fresh = state_of()
    fresh.tainted = "SET"
    for name in ("began", "statements", "since", "pinned", "dirty", "failed", "begun_by_text", "marks", "tainted"):
        assert getattr(state, name) == getattr(fresh, name), name
    assert not state.pending
    assert not state.served


def test_a_transaction_that_nobody_heard_begin_may_have_changed_anything() -> None:
    state = state_of()
    state.suspect_everything()
    assert state.may_have_changed(["any"])
    assert state.pending.tag_set(BIND) == TagSet((BIND,))
