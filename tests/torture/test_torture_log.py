"""What workers leave behind can be read while they write, and to the last whole line after they were killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture_log import (
    Acknowledged,
    Failed,
    Intended,
    Log,
    Read,
    Record,
    Refused,
    Settled,
    Tail,
    Told,
    Unmarked,
    Wide,
    Withdrawn,
)

RECORDS: list[Record] = [
    Intended(1, 2, 3, 4, 5),
    Acknowledged(1, 2, 3, owed=True),
    Settled(1),
    Unmarked(1, 2, 3),
    Wide(1, 2, 3, ["bind/"]),
    Withdrawn(1, 2, 3, 4),
    Failed(1, 2, 3, 4, "it raised", is_over=True),
    Read(1, 2, "hit", "sum", 0, 3, 400, is_forced=True, snapshot={0: 1, 1: 7}),
    Read(1, 2, "past", "row", 5, 1, [[5, 2, 100, 0, 0]]),
    Refused(1, 2, "it raised"),
    Told(1, {"hit": 1}, {}),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_as_it_was_written(record: Record, tmp_path: Path) -> None:
    Log(tmp_path / "log").write(record)

    assert Tail(tmp_path / "log").records() == [record]


def test_a_log_is_read_while_it_grows(tmp_path: Path) -> None:
    log, tail = Log(tmp_path / "log"), Tail(tmp_path / "log")
    assert tail.records() == []
    log.write(Settled(1))
    assert tail.records() == [Settled(1)]
    log.write(Settled(2))
    log.write(Settled(3))
    assert tail.records() == [Settled(2), Settled(3)]


def test_half_a_line_was_never_said(tmp_path: Path) -> None:
    path = tmp_path / "log"
    Log(path).write(Settled(1))
    with path.open("ab") as file:
        file.write(b'["A",17,')
    tail = Tail(path)

    assert tail.records() == [Settled(1)]
    assert tail.records() == []


def test_a_log_that_nobody_has_begun_is_empty(tmp_path: Path) -> None:
    assert Tail(tmp_path / "log").records() == []
