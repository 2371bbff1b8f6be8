"""Is a list whose rows are cached one by one ever torn?

Tag 0 is the list's, every other tag a row's; a transaction that changes a row of the list changes the list's tag too. What
is answered must be a state that the database had, at or after the moment when the read began.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from model_store import Lease, ModelStore, Rows, StoreRules, Tags
from state_search import Action

TOGETHER = 3
STATEMENTS: tuple[Tags, ...] = ((0,), (1,), (2,), (0,))
"""The list's keys, the two rows, and the rows kept together under what the list depends on."""


@dataclass(frozen=True, slots=True)
class KeysSetting:
    """Who takes part. ``looks_again``: at the list's stamp, after the last row."""

    writers: tuple[Tags, ...] = ((0, 1, 2), (0, 1))
    reads: tuple[int, ...] = (2, 1)
    looks_again: bool = True
    keeps_together: bool = True
    evictions: int = 1


class Collector(NamedTuple):
    """How far a reader is: what it saw of the list, and which rows it has."""

    state: str = "idle"
    left: int = 0
    since: int = 0
    lease: Lease = ()
    is_storable: bool = False
    keys: int = 0
    rows: tuple[int | None, ...] = ()
    leases: tuple[Lease | None, ...] = ()


class KeysWorld:
    """Database, store, writers, and readers that put a list together."""

    __slots__ = ("_evictions", "_history", "_readers", "_setting", "_store", "_writers", "story")

    def __init__(self, setting: KeysSetting) -> None:
        self._setting = setting
        self._store = ModelStore(3, len(STATEMENTS), StoreRules())
        self._history: tuple[Rows, ...] = ((0, 0, 0),)
        self._writers = ["idle"] * len(setting.writers)
        self._readers = [Collector(left=left) for left in setting.reads]
        self._evictions = setting.evictions
        self.story: list[str] | None = None

    def copy(self) -> Self:
        twin = object.__new__(type(self))
        twin._setting, twin._history, twin._evictions = self._setting, self._history, self._evictions
        twin._store, twin._writers, twin._readers = self._store.copy(), self._writers[:], self._readers[:]
        twin.story = self.story
        return twin

    def key(self) -> Hashable:
        readers = tuple(map(self._shape_of, self._readers))
        return self._history, tuple(self._writers), readers, self._store.shape(STATEMENTS), self._evictions

    def _shape_of(self, reader: Collector) -> Hashable:
        alive = [
            lease if lease is None else self._store.shape_of((row,), lease)
            for row, lease in enumerate(reader.leases, 1)
        ]
        lists = bool(reader.lease) and self._store.shape_of((0,), reader.lease)
        return reader._replace(lease=(), leases=()), lists, tuple(alive)

    def actions(self) -> Iterator[Action]:
        for position, state in enumerate(self._writers):
            if state != "done":
                yield {"idle": "mark", "marked": "commit", "visible": "release"}[state], position
        for position, reader in enumerate(self._readers):
            if reader.state != "idle" or reader.left:
                yield reader.state, position
        if self._evictions:
            for statement, tags in enumerate(STATEMENTS):
                if self._store.has_entry(statement, tags):
                    yield "evict", statement

    def apply(self, action: Action) -> str:
        verb, position = action
        if verb == "evict":
            self._evictions -= 1
            self._store.evict_entry(position)
            self._say(f"entry {position} is evicted")
            return ""
        if verb in ("mark", "commit", "release"):
            self._write(verb, position)
            return ""
        reader = self._readers[position]
        match verb:
            case "idle":
                return self._look_up_list(position)
            case "keys":
                self._query_list(position)
            case "rows":
                self._look_up_row(position)
            case "missing":
                self._query_missing(position)
            case "again":
                return self._look_again(position, reader)
        return ""

    def _write(self, verb: str, position: int) -> None:
        tags = self._setting.writers[position]
        self._say(f"writer {position}: {verb}")
        if verb == "mark":
            self._store.mark(tags, position)
            self._writers[position] = "marked"
        elif verb == "commit":
            now = self._history[-1]
            self._history = (*self._history, tuple(now[tag] + (tag in tags) for tag in range(3)))
            self._writers[position] = "visible"
        else:
            self._store.release(tags, position)
            self._writers[position] = "done"

    def _look_up_list(self, position: int) -> str:
        reader = self._readers[position]
        seen = self._store.lookup(0, STATEMENTS[0])
        reader = Collector("keys", reader.left - 1, len(self._history) - 1, seen.lease, seen.is_storable)
        self._readers[position] = reader
        self._say(f"reader {position} looks up the list: {'miss' if seen.rows is None else list(seen.rows)}")
        if seen.rows is None:
            return ""
        self._readers[position] = reader._replace(state="rows", keys=seen.rows[0])
        if not self._setting.keeps_together:
            return ""
        together = self._store.lookup(TOGETHER, STATEMENTS[TOGETHER])
        if together.rows is None or together.lease != seen.lease:
            return ""
        return self._answer(position, (seen.rows[0], *together.rows))

    def _query_list(self, position: int) -> None:
        reader = self._readers[position]
        keys = self._history[-1][0]
        if reader.is_storable:
            self._store.fill(0, (keys,), reader.lease)
        self._readers[position] = reader._replace(state="rows", keys=keys)
        self._say(f"reader {position} queries the list: {keys}")

    def _look_up_row(self, position: int) -> None:
        reader = self._readers[position]
        row = len(reader.rows) + 1
        seen = self._store.lookup(row, STATEMENTS[row])
        value = None if seen.rows is None else seen.rows[0]
        rows = (*reader.rows, value)
        lease = seen.lease if value is None and seen.is_storable else None
        state = "rows" if len(rows) < 2 else "missing" if None in rows else "again"
        self._readers[position] = reader._replace(state=state, rows=rows, leases=(*reader.leases, lease))
        self._say(f"reader {position} looks up row {row}: {'miss' if value is None else value}")

    def _query_missing(self, position: int) -> None:
        """Read what is missing in one query, and fill each row. That a fill can be late is for the protocol's model."""
        reader = self._readers[position]
        rows = tuple(self._history[-1][row] if value is None else value for row, value in enumerate(reader.rows, 1))
        for row, lease in enumerate(reader.leases, 1):
            if lease is not None:
                self._store.fill(row, rows[row - 1 : row], lease)
        self._readers[position] = reader._replace(state="again", rows=rows, leases=())
        self._say(f"reader {position} queries what is missing: {list(rows)}")

    def _look_again(self, position: int, reader: Collector) -> str:
        seen = self._store.lookup(0, STATEMENTS[0])
        if self._setting.looks_again and (not seen.is_storable or seen.lease != reader.lease):
            self._readers[position] = Collector(left=reader.left)
            self._say(f"reader {position} looks again: the list has changed, it is read whole")
            return ""
        rows = tuple(value for value in reader.rows if value is not None)
        if self._setting.keeps_together and reader.is_storable:
            self._store.fill(TOGETHER, rows, reader.lease)
        return self._answer(position, (reader.keys, *rows))

    def _answer(self, position: int, answer: Rows) -> str:
        reader = self._readers[position]
        self._readers[position] = Collector(left=reader.left)
        self._say(f"reader {position} answers {list(answer)}")
        if answer in self._history[reader.since :]:
            return ""
        return f"answered {list(answer)}, a state that the database did not have since the read began: {self._history}"

    def _say(self, text: str) -> None:
        if self.story is not None:
            self.story.append(text)
