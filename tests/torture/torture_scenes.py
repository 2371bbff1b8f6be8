"""Which interleavings are forced, because chance would hardly ever bring them about?

Each is one that a protocol without one of its rules does not survive. Workers wait at points until others have done what must
come in between; with every rule in place nothing is to be seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from torture_control import Action, Field, Point
from torture_crew import Worker
from torture_faults import Fault, Stage

READS: Final = 25
"""So many reads of a reader ask each question of a group with near certainty."""

TRIES: Final = 30


@contextmanager
def on_one_group(stage: Stage, dice: random.Random) -> Iterator[tuple[int, Worker]]:
    """Have everybody work on one group, and one writer alone write it, in the block."""
    group, writer = dice.randrange(stage.groups), dice.choice(stage.crew.writers)
    stage.crew.focus(group)
    stage.crew.pause_writers(but=writer)
    try:
        yield group, writer
    finally:
        stage.crew.calm()


def commits_one(stage: Stage, writer: Worker) -> bool:
    """Wait until a writer was told of one more commit that it began after this call; then it begins nothing new."""
    goal = writer.control[Field.COMMITS] + 2
    writer.control[Field.PAUSED] = 0
    came = stage.crew.wait_until(lambda: writer.control[Field.COMMITS] >= goal or writer.is_dead, 5.0)
    writer.control[Field.PAUSED] = 1
    return came


def seen_before_the_release(stage: Stage, dice: random.Random) -> None:
    """A commit is visible, its writer waits before the release, everybody reads."""
    with on_one_group(stage, dice) as (_, writer):
        stage.crew.let_them_read(READS)
        if stage.crew.hold(writer, Point.AFTER_COMMIT):
            stage.crew.let_them_read(READS)


def two_marks_on_one_tag(stage: Stage, dice: random.Random) -> None:
    """While a marked commit waits to be sent, another writer marks and releases a tag of both."""
    group, other_group = dice.sample(range(stage.groups), 2)
    writer, other = dice.sample(stage.crew.writers, 2)
    stage.crew.focus(group)
    other.control[Field.FOCUS] = other_group + 1
    stage.crew.pause_writers(but=writer)
    try:
        if stage.crew.hold(writer, Point.AFTER_MARK) and commits_one(stage, other):
            stage.crew.let_them_read(READS)
            if stage.crew.hold(writer, Point.AFTER_COMMIT):
                stage.crew.let_them_read(READS)
    finally:
        stage.crew.calm()


def mark_is_lost(stage: Stage, dice: random.Random) -> None:
    """The store loses a mark whose commit is still to come; what is read in between is stored."""
    with on_one_group(stage, dice) as (_, writer):
        if not stage.crew.hold(writer, Point.AFTER_MARK):
            return
        with stage.marks_may_be_lost():
            stage.store.lose_everything()
        stage.crew.let_them_read(READS)
        commits_one_that_waits(stage, writer)
        stage.crew.let_them_read(READS)


def commits_one_that_waits(stage: Stage, writer: Worker) -> None:
    """Let a waiting writer go on until it was told of its commit; then it begins nothing new."""
    goal = writer.control[Field.COMMITS] + 1
    writer.control[Field.PAUSED] = 1
    writer.control[Field.POINT] = Point.NOWHERE
    stage.crew.wait_until(lambda: writer.control[Field.COMMITS] >= goal or writer.is_dead, 5.0)


def filler_is_overtaken(stage: Stage, dice: random.Random) -> None:
    """A reader has its rows, and a commit is acknowledged before it stores them."""
    with on_one_group(stage, dice) as (_, writer):
        reader = dice.choice(stage.crew.focused)
        if stage.crew.hold(reader, Point.AFTER_QUERY) and commits_one(stage, writer):
            reader.control[Field.POINT] = Point.NOWHERE
            stage.crew.let_them_read(READS)


def filler_is_overtaken_by_a_new_store(stage: Stage, dice: random.Random) -> None:
    """What a reader is about to store was read under a lease of the store before: what that said must mean nothing now."""
    with on_one_group(stage, dice) as (_, writer):
        reader = alone(stage, dice)
        writer.control[Field.PAUSED] = 1
        with stage.marks_may_be_lost():
            stage.store.lose_everything()
        reader.control.arm(Point.BEFORE_FILL, Action.WAIT)
        arrived = step_until(stage, reader, lambda: bool(reader.control[Field.ARRIVED]))
        if arrived and commits_one(stage, writer):
            with stage.marks_may_be_lost():
                stage.store.lose_everything()
            reader.control[Field.POINT] = Point.NOWHERE
            step_until(stage, reader, lambda: False)
        stage.crew.calm()
        stage.crew.let_them_read(READS)


def waiter_begins_after_a_commit(stage: Stage, dice: random.Random) -> None:
    """A thread has its rows, a commit is acknowledged, and another thread of its process begins to wait for what it stores."""
    with on_one_group(stage, dice) as (_, writer):
        reader = alone(stage, dice)
        if not commits_one(stage, writer):
            return
        reader.control.arm(Point.AFTER_QUERY, Action.WAIT)
        if not step_until(stage, reader, lambda: bool(reader.control[Field.ARRIVED])):
            return
        if commits_one(stage, writer):
            step_until(stage, reader, lambda: False)
        reader.control[Field.POINT] = Point.NOWHERE
        stage.crew.wait_until(lambda: _is_idle(stage, reader), 5.0)


def alone(stage: Stage, dice: random.Random) -> Worker:
    """Have all readers begin nothing new, and return the one that is to go on step by step."""
    reader = dice.choice(stage.crew.focused)
    for one in stage.crew.focused:
        one.control[Field.PAUSED] = 1
    stage.crew.wait_until(lambda: _is_idle(stage, reader), 5.0)
    return reader


def _is_idle(stage: Stage, reader: Worker) -> bool:
    before = reader.control[Field.READS]
    stage.crew.wait_until(lambda: reader.control[Field.READS] != before, 0.05)
    return reader.control[Field.READS] == before


def step_until(stage: Stage, reader: Worker, holds: Callable[[], bool]) -> bool:
    """Let a reader do one read after another until something holds; False where one of them waits for another thread."""
    for _ in range(TRIES):
        before = reader.control[Field.READS]
        reader.control[Field.PAUSED] = 2
        stage.crew.wait_until(lambda before=before: reader.control[Field.READS] > before or holds(), 0.2)  # type: ignore[misc]
        if holds():
            return True
        if reader.control[Field.READS] == before:
            return False
    return False


def late_release(stage: Stage, dice: random.Random) -> None:
    """A release that failed is tried again while the next commit of its writer is marked and not yet sent."""
    with on_one_group(stage, dice) as (_, writer):
        writer.control.arm(Point.BEFORE_RELEASE, Action.FAIL_AND_WAIT)
        if not stage.crew.wait_until(lambda: writer.control[Field.ARRIVED] == 2, 5.0):
            return
        # The keeper comes round six times in the life of a mark, and renews it at a third: by now once, and not yet twice.
        stage.crew.wait_until(lambda: writer.is_dead, stage.mark_ttl_s / 5)
        stage.crew.let_them_read(READS)
        if stage.crew.hold(writer, Point.AFTER_COMMIT):
            stage.crew.let_them_read(READS)


def snapshot_is_overtaken(stage: Stage, dice: random.Random) -> None:
    """A transaction has its snapshot, a commit follows, others read what is new, then the transaction asks the cache."""
    with on_one_group(stage, dice) as (_, writer):
        reader = dice.choice(stage.crew.focused)
        if stage.crew.hold(reader, Point.IN_SNAPSHOT) and commits_one(stage, writer):
            stage.crew.let_them_read(READS)
            reader.control[Field.POINT] = Point.NOWHERE
            stage.crew.let_them_read(READS)


SCENES: Final = (
    Fault("a reader comes before the release", 1, seen_before_the_release),
    Fault("two writers mark one tag", 1, two_marks_on_one_tag),
    Fault("a mark is lost before its commit", 0.2, mark_is_lost),
    Fault("a filler is overtaken", 1, filler_is_overtaken),
    Fault("a filler is overtaken by a new store", 0.15, filler_is_overtaken_by_a_new_store),
    Fault("a waiter begins after a commit", 1, waiter_begins_after_a_commit),
    Fault("a release comes late", 0.2, late_release),
    Fault("a snapshot is overtaken", 1, snapshot_is_overtaken),
)
