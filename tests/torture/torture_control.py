"""How does the supervisor tell a worker where to stop, to die, or what to work on, and how does it see that it is there?

A few numbers of each worker in a file that both have mapped: no message that could be waited for, nothing that a killed
process could leave half done.
"""

from __future__ import annotations

import mmap
import os
from enum import IntEnum
from pathlib import Path
from typing import Final


class Point(IntEnum):
    """Where a worker can be made to die or to wait. ``NOWHERE`` ends a wait."""

    NOWHERE = 0
    BEFORE_MARK = 1
    AFTER_MARK = 2
    BEFORE_COMMIT = 3
    AFTER_COMMIT = 4
    BEFORE_RELEASE = 5
    AFTER_RELEASE = 6
    AFTER_QUERY = 7
    BEFORE_FILL = 8
    IN_SNAPSHOT = 9
    """A transaction has its snapshot, and is about to ask the cache."""


class Action(IntEnum):
    """What a worker does at its point: waits in the thread that came there, is killed, or has the verb there fail."""

    WAIT = 0
    DIE = 1
    FAIL = 2
    FAIL_AND_WAIT = 3
    """The verb there fails, and the thread waits once it has set its next mark."""


class Field(IntEnum):
    """The numbers of one worker: the first four are the supervisor's to write, the others the worker's."""

    POINT = 0
    ACTION = 1
    FOCUS = 2
    """The only group to work on, plus one; 0: all of them."""
    PAUSED = 3
    """1: begin nothing new. 2: one thread may begin one thing, and makes it 1."""
    ARRIVED = 4
    """1: a thread came to the point. 2: and waits after its next mark."""
    READS = 5
    COMMITS = 6


FIELDS: Final = len(Field)
_NUMBER: Final = 8


def make_board(path: Path, workers: int) -> None:
    """Make the file, with every number 0."""
    path.write_bytes(bytes(workers * FIELDS * _NUMBER))


class Control:
    """The numbers of one worker."""

    def __init__(self, path: Path, position: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        self._numbers = memoryview(self._map).cast("q")
        self._first = position * FIELDS

    def __getitem__(self, field: Field) -> int:
        return self._numbers[self._first + field]

    def __setitem__(self, field: Field, value: int) -> None:
        self._numbers[self._first + field] = value

    def add(self, field: Field, value: int) -> None:
        """Add to a number that only one thread writes."""
        self[field] = self[field] + value

    def arm(self, point: Point, action: Action) -> None:
        """Have the worker wait, die or fail when it next comes to a point."""
        self[Field.POINT] = Point.NOWHERE
        self[Field.ACTION] = action
        self[Field.ARRIVED] = 0
        self[Field.POINT] = point

    def reset(self) -> None:
        """Let the worker go on, and work on everything."""
        self[Field.POINT] = Point.NOWHERE
        self[Field.FOCUS] = 0
        self[Field.PAUSED] = 0

    def close(self) -> None:
        """Give the file back."""
        self._numbers.release()
        self._map.close()
