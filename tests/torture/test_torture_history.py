"""How answers are judged, on histories that were written down here."""

from __future__ import annotations

import pytest
from torture_history import History, Steps
from torture_log import Acknowledged, Intended, Read, Settled, Unmarked, Withdrawn
from torture_story import KINDS, Story, parts_of, row_ids, shelves

LIFE_S = 60.0
S = 1_000_000_000


def history_of(*commits: tuple[int, int, int | None], lag_s: float = 0.0) -> History:
    """Return the history of group 0 with commits: a version, when it was sent, when acknowledged."""
    history = History(2, LIFE_S, lag_s)
    for version, sent, acknowledged in commits:
        history.intend(Intended(sent, 0, version, token=version, base=version - 1), "writer")
        if acknowledged is not None:
            history.acknowledge(Acknowledged(acknowledged, 0, version), "writer")
    return history


def read_of(version: int, began: int, ended: int, kind: str = "group", *, snapshot: int | None = None) -> Read:
    """Return a read of group 0 that shows a version."""
    board = None if snapshot is None else {0: snapshot, 1: 0}
    rows = [[*row, row[3]] for row in Story(0).state(version)]
    answer = sum(row[2] for row in rows) if kind == "sum" else rows
    return Read(began, ended, "hit", kind, 0, 0, answer, snapshot=board)


def promise_broken(history: History, read: Read, worker: str = "reader") -> str | None:
    found = history.check(read, worker)
    return found[0].promise if found else None


def test_what_was_acknowledged_before_a_read_began_must_be_shown() -> None:
    history = history_of((1, 10, 20))

    assert promise_broken(history, read_of(0, 21, 30)) == "1: acknowledged is seen"
    assert promise_broken(history, read_of(1, 21, 30)) is None


def test_what_is_acknowledged_while_a_read_runs_may_be_shown_or_not() -> None:
    history = history_of((1, 10, 20))

    assert promise_broken(history, read_of(0, 19, 30)) is None
    assert promise_broken(history, read_of(1, 19, 30)) is None


def test_what_one_read_showed_no_later_one_may_lack() -> None:
    history = history_of((1, 10, 90))

    assert promise_broken(history, read_of(1, 20, 30)) is None
    assert promise_broken(history, read_of(0, 29, 40)) is None
    assert promise_broken(history, read_of(0, 31, 40)) == "2: visible is seen"


def test_what_was_not_sent_yet_must_not_be_shown() -> None:
    history = history_of((1, 50, 60))

    assert promise_broken(history, read_of(1, 20, 49)) == "nothing uncommitted is seen"
    assert promise_broken(history, read_of(1, 20, 51)) is None


def test_an_answer_that_an_old_version_and_one_to_come_share_is_told_to_be_old() -> None:
    counts = [Story(0).answer("count", 0, version) for version in range(60)]
    last = next(at for at in range(1, 59) if counts[at + 1] != counts[at] and counts[at + 1] in counts[:at])
    history = history_of(*((version, 10 * version, 10 * version + 5) for version in range(1, last + 1)))
    began = 10 * last + 10

    told = promise_broken(history, Read(began, began + 1, "hit", "count", 0, 0, counts[last + 1]))

    assert told == "1: acknowledged is seen"


def test_rows_of_two_versions_are_no_answer() -> None:
    history = history_of((1, 10, 20), (2, 30, 40))
    old, new = ([[*row, row[3]] for row in Story(0).state(version)] for version in (0, 2))
    changed = next(at for at in range(len(old)) if old[at] != new[at] and new[at][3] == 2)
    torn = [*old]
    torn[changed] = new[changed]

    told = promise_broken(history, Read(25, 60, "hit", "group", 0, 0, torn))

    assert told == "a list is a state of the database"


def test_a_sum_tells_every_version_from_every_other() -> None:
    story = Story(3)
    sums = [story.answer("sum", 0, version) for version in range(50)]

    assert sums == sorted(set(sums))


def test_a_token_that_was_rolled_back_must_not_be_shown() -> None:
    history = history_of((1, 10, 20))
    history.withdraw(Withdrawn(5, 0, 1, token=77), "writer")
    seen = read_of(1, 21, 30)
    rows = [[*row[:4], 77 if row[3] == 1 else 0] for row in seen.answer]

    told = promise_broken(history, Read(21, 30, "past", "group", 0, 0, rows))

    assert told == "nothing that was rolled back is seen"


def test_a_snapshot_shows_the_version_that_it_was_taken_at() -> None:
    history = history_of((1, 10, 20), (2, 30, 40))

    assert promise_broken(history, read_of(1, 50, 60, snapshot=1)) is None
    assert promise_broken(history, read_of(2, 50, 60, snapshot=1)) == "a snapshot is one state"


def test_a_lost_mark_excuses_from_the_second_promise_until_the_commit_is_acknowledged() -> None:
    history = history_of((1, 10, None))
    history.lose_marks(12, 13)

    assert promise_broken(history, read_of(1, 20, 30)) is None
    assert promise_broken(history, read_of(0, 31, 40)) is None
    history.acknowledge(Acknowledged(50, 0, 1), "writer")
    assert promise_broken(history, read_of(0, 60, 70)) == "1: acknowledged is seen"


def test_a_lost_mark_whose_release_is_owed_excuses_until_that_has_landed() -> None:
    history = history_of((1, 10, None))
    history.lose_marks(12, 13)
    history.acknowledge(Acknowledged(20, 0, 1, owed=True), "writer")

    assert promise_broken(history, read_of(0, 31, 40)) is None
    history.settle(Settled(50), "writer")
    assert promise_broken(history, read_of(0, 60, 70)) == "1: acknowledged is seen"


def test_an_owed_release_excuses_nothing_while_its_mark_is_kept() -> None:
    history = history_of((1, 10, None))
    history.acknowledge(Acknowledged(20, 0, 1, owed=True), "writer")

    assert promise_broken(history, read_of(0, 31, 40)) == "1: acknowledged is seen"


def test_a_commit_that_goes_on_unmarked_excuses_as_a_lost_mark_does() -> None:
    history = history_of((1, 10, None))
    history.go_on_unmarked(Unmarked(11, 0, 1), "writer")

    assert promise_broken(history, read_of(1, 20, 30)) is None
    assert promise_broken(history, read_of(0, 31, 40)) is None
    history.acknowledge(Acknowledged(50, 0, 1), "writer")
    assert promise_broken(history, read_of(0, 60, 70)) == "1: acknowledged is seen"


def test_a_list_by_keys_may_mix_what_a_lost_mark_leaves_old_with_what_is_new() -> None:
    history = history_of((1, 10, None))
    old, new = ([[*row, row[3]] for row in Story(0).state(version)] for version in (0, 1))
    changed = [at for at in range(len(old)) if old[at] != new[at]]
    mixed = Read(20, 30, "hit", "keyed", 0, 0, [old[at] if at == changed[0] else new[at] for at in range(len(old))])

    assert promise_broken(history, mixed) == "a list is a state of the database"
    history.lose_marks(12, 13)
    assert promise_broken(history, mixed) is None


def test_marks_lost_after_a_commit_excuse_nothing() -> None:
    history = history_of((1, 10, 20))
    history.lose_marks(25, 26)

    assert promise_broken(history, read_of(0, 31, 40)) == "1: acknowledged is seen"


def test_a_lost_mark_whose_writer_died_excuses_for_the_life_of_an_entry() -> None:
    history = history_of((1, 10, None))
    history.lose_marks(12, 13)
    assert [left.intended.group for left in history.die("writer", 14)] == [0]
    history.intend(Intended(20, 0, 2, token=2, base=1), "other")
    history.acknowledge(Acknowledged(30, 0, 2), "other")
    life = int(LIFE_S * S)

    assert promise_broken(history, read_of(0, 40, 50)) is None
    assert promise_broken(history, read_of(0, 13 + life, 14 + life)) == "1: acknowledged is seen"


def test_a_mark_lost_long_after_its_writer_died_excuses_nothing() -> None:
    history = history_of((1, 10, None))
    history.die("writer", 14)
    history.lose_marks(14 + 6 * S, 14 + 7 * S)

    assert promise_broken(history, read_of(1, 15, 16)) is None
    assert promise_broken(history, read_of(0, 14 + 7 * S, 14 + 8 * S)) == "2: visible is seen"


def test_where_others_are_told_later_what_they_were_told_counts_so_much_later() -> None:
    history = history_of((1, 10, 20), lag_s=0.5)
    heard = 20 + S // 2

    assert promise_broken(history, read_of(0, heard, heard + 5)) is None
    assert promise_broken(history, read_of(0, heard + 1, heard + 5)) == "1: acknowledged is seen"


def test_where_others_are_told_later_what_one_read_showed_counts_so_much_later() -> None:
    history = history_of((1, 10, None), lag_s=0.5)
    heard = 30 + S // 2

    assert promise_broken(history, read_of(1, 20, 30)) is None
    assert promise_broken(history, read_of(0, heard, heard + 5)) is None
    assert promise_broken(history, read_of(0, heard + 1, heard + 5)) == "2: visible is seen"


def test_where_others_are_told_later_a_process_sees_its_own_commits_at_once() -> None:
    history = history_of((1, 10, 20), lag_s=0.5)

    assert promise_broken(history, read_of(0, 21, 30), "writer") == "1: acknowledged is seen"
    assert promise_broken(history, read_of(1, 21, 30), "writer") is None


def test_where_others_are_told_later_a_lost_mark_excuses_until_they_heard_of_the_release() -> None:
    history = history_of((1, 10, None), lag_s=0.5)
    history.lose_marks(12, 13)
    history.acknowledge(Acknowledged(S, 0, 1, owed=True), "writer")
    history.settle(Settled(2 * S), "writer")
    heard = 2 * S + S // 2

    assert promise_broken(history, read_of(0, heard, heard + 5)) is None
    assert promise_broken(history, read_of(0, heard + 1, heard + 5)) == "1: acknowledged is seen"


def test_a_violation_tells_what_happened_around_it() -> None:
    history = history_of((1, 10, 20))

    told = history.check(read_of(0, 21, 30))[0].told

    assert "writer sends the commit of version 1" in told
    assert "writer was told that version 1 is committed" in told
    assert "shows version 0, and version 1 was acknowledged before the read began" in told


def test_steps_know_the_highest_number_before_a_time_in_whatever_order_they_are_told() -> None:
    steps = Steps()
    for time, value in [(30, 3), (10, 1), (20, 5), (40, 4), (50, 6)]:
        steps.raise_at(time, value)

    assert [steps.before(time) for time in (10, 11, 20, 21, 31, 41, 51)] == [0, 1, 1, 5, 5, 5, 6]


@pytest.mark.parametrize("kind", KINDS)
def test_each_question_is_answered_by_a_version(kind: str) -> None:
    story = Story(1)
    argument = {"row": row_ids(1)[0], "shelf": shelves(1)[0], "count": shelves(1)[0]}.get(kind, 0)

    assert story.answer(kind, argument, 5) is not None
    if kind in ("row", "group", "keyed", "shelf"):
        rows = [[*row, 9] for row in story.answer(kind, argument, 5)]
        assert parts_of(kind, argument, 1, rows)[0].answer == story.answer(kind, argument, 5)
