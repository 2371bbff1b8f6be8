"""What do workers leave behind of what they did and saw, whoever kills them, and whenever?

A file for each life of a worker, one line a record, each line one ``write``: what a killed process has said is there, and
half a line at the end was never said. Times are nanoseconds of the monotonic clock, which all processes of a machine share.

Promises: a record is on file before the next step of the worker. Never does: judge.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

Source: TypeAlias = Literal["hit", "miss", "bypass", "past"]
"""Where an answer came from: the cache, the database after the cache was asked, the database because the cache could not be
asked, or the database past the cache, as the reader wished."""


def now_ns() -> int:
    """Return the time that all processes of this machine share."""
    return time.monotonic_ns()


@dataclass(frozen=True, slots=True)
class Intended:
    """A writer is about to send COMMIT for a version; ``base``: the token of the version before it, as the database has it."""

    at: int
    group: int
    version: int
    token: int
    base: int


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The commit of a version returned. ``owed``: the store did not acknowledge its release yet."""

    at: int
    group: int
    version: int
    owed: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """Every release that the worker owed has landed by now."""

    at: int


@dataclass(frozen=True, slots=True)
class Unmarked:
    """The store could not be told that the commit of a version is about to be sent, and it goes on all the same."""

    at: int
    group: int
    version: int


@dataclass(frozen=True, slots=True)
class Wide:
    """The commit of a version is marked, and takes whole tables or the whole database. ``tags``: the names of these."""

    at: int
    group: int
    version: int
    tags: list[str]


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An attempt was rolled back on purpose: nobody may ever see its token."""

    at: int
    group: int
    version: int
    token: int


@dataclass(frozen=True, slots=True)
class Failed:
    """A commit raised. ``is_over``: it was not sent; else it is not known whether it happened."""

    at: int
    group: int
    version: int
    token: int
    error: str
    is_over: bool


@dataclass(frozen=True, slots=True)
class Read:
    """A question was answered. ``snapshot``: the board that the same transaction was shown before, where that was in one.

    ``is_forced``: the reader was led to one group, for an interleaving; else it asked what came.
    """

    began: int
    ended: int
    source: Source
    kind: str
    argument: int
    group: int
    answer: Any
    is_forced: bool = False
    snapshot: dict[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A read raised: the database or the cache said no."""

    began: int
    ended: int
    error: str


@dataclass(frozen=True, slots=True)
class Told:
    """Counts of what the worker's cache did until now, by kind and by reason."""

    at: int
    counts: dict[str, int]
    reasons: dict[str, int]


Record: TypeAlias = Intended | Acknowledged | Settled | Unmarked | Wide | Withdrawn | Failed | Read | Refused | Told

_TYPES: dict[str, type[Any]] = {
    "I": Intended,
    "A": Acknowledged,
    "S": Settled,
    "U": Unmarked,
    "M": Wide,
    "W": Withdrawn,
    "F": Failed,
    "R": Read,
    "E": Refused,
    "T": Told,
}
_LETTERS = {kind: letter for letter, kind in _TYPES.items()}


class Log:
    """The file that one worker appends to."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def __del__(self) -> None:
        os.close(self._descriptor)

    def write(self, record: Record) -> None:
        """Append a record, in one call of the system."""
        kind = type(record)
        fields = [getattr(record, name) for name in kind.__slots__]
        line = json.dumps([_LETTERS[kind], *fields], separators=(",", ":"))
        os.write(self._descriptor, line.encode() + b"\n")


class Tail:
    """A log that is read while it grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def records(self) -> list[Record]:
        """Return what was written since the last call, whole lines only."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        return [record_of(line) for line in data[:whole].splitlines()]


def record_of(line: bytes) -> Record:
    """Return the record that a line holds."""
    letter, *fields = json.loads(line)
    if letter == "R" and fields[-1] is not None:
        fields[-1] = {int(group): version for group, version in fields[-1].items()}
    record: Record = _TYPES[letter](*fields)
    return record
