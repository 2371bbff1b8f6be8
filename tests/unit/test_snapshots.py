"""The snapshot rules: what may be served, what may be stored."""

from __future__ import annotations

import pytest

from querycache.coherence.snapshots import Freshness, freshness_of, may_fill, may_serve, older_than

S = 10_000_000_000
OLD = (S - 1,)
EQUAL = (S,)


@pytest.mark.parametrize(
    ("level", "dialect", "inside", "expected"),
    [
        ("READ COMMITTED", "postgresql", True, Freshness.STATEMENT),
        ("read_committed", "postgresql", True, Freshness.STATEMENT),
        ("READ-COMMITTED", "mariadb", True, Freshness.STATEMENT),
        ("REPEATABLE READ", "postgresql", True, Freshness.SNAPSHOT),
        ("REPEATABLE READ", "mysql", True, Freshness.SNAPSHOT),
        ("SERIALIZABLE", "postgresql", True, Freshness.SERIAL),
        ("SERIALIZABLE", "mariadb", True, Freshness.SERIAL),
        ("READ UNCOMMITTED", "postgresql", True, Freshness.STATEMENT),
        ("READ UNCOMMITTED", "mariadb", True, Freshness.DIRTY),
        ("READ UNCOMMITTED", "sqlite", True, Freshness.DIRTY),
        ("SERIALIZABLE", "sqlite", True, Freshness.SNAPSHOT),
        ("SERIALIZABLE", "sqlite", False, Freshness.STATEMENT),
        ("AUTOCOMMIT", "postgresql", False, Freshness.STATEMENT),
        ("SNAPSHOT", "mssql", True, Freshness.UNKNOWN),
        ("", "postgresql", True, Freshness.UNKNOWN),
    ],
)
def test_an_isolation_level_says_what_a_statement_sees(
    level: str, dialect: str, inside: bool, expected: Freshness
) -> None:
    assert freshness_of(level, dialect, in_transaction=inside) is expected


def test_a_stamp_as_old_as_the_clock_was_is_not_older_than_the_snapshot() -> None:
    assert older_than(OLD, S)
    assert not older_than(EQUAL, S)


def test_one_young_stamp_makes_a_lease_young() -> None:
    assert not older_than((*OLD, S), S)


def test_nothing_is_older_than_a_snapshot_of_unknown_time() -> None:
    assert not older_than(OLD, None)


@pytest.mark.parametrize("freshness", [Freshness.STATEMENT, Freshness.DIRTY])
def test_where_each_statement_sees_all_an_entry_is_served_whatever_its_stamps(freshness: Freshness) -> None:
    assert may_serve(freshness, (S,), started=True, since=None)


def test_before_any_statement_a_snapshot_transaction_is_served_freely() -> None:
    assert may_serve(Freshness.SNAPSHOT, (S,), started=False, since=None)


def test_after_a_statement_a_snapshot_transaction_is_served_what_is_older() -> None:
    assert may_serve(Freshness.SNAPSHOT, OLD, started=True, since=S)
    assert not may_serve(Freshness.SNAPSHOT, EQUAL, started=True, since=S)
    assert not may_serve(Freshness.SNAPSHOT, OLD, started=True, since=None)


@pytest.mark.parametrize("freshness", [Freshness.SERIAL, Freshness.UNKNOWN])
def test_under_serializable_and_unknown_nothing_is_served(freshness: Freshness) -> None:
    assert not may_serve(freshness, OLD, started=False, since=S)


@pytest.mark.parametrize("freshness", [Freshness.SNAPSHOT, Freshness.SERIAL])
def test_a_snapshot_fills_by_its_first_statement_or_under_older_stamps(freshness: Freshness) -> None:
    assert may_fill(freshness, (S,), first=True, since=None)
    assert may_fill(freshness, OLD, first=False, since=S)
    assert not may_fill(freshness, EQUAL, first=False, since=S)
    assert not may_fill(freshness, OLD, first=False, since=None)


@pytest.mark.parametrize("freshness", [Freshness.DIRTY, Freshness.UNKNOWN])
def test_dirty_and_unknown_reads_are_never_stored(freshness: Freshness) -> None:
    assert not may_fill(freshness, OLD, first=True, since=S)
