"""Is a list whose rows are cached one by one ever torn?

Tag 0 is the list's own, every other tag a row's: a transaction may change which rows the list has, some of the rows, or both.
What is answered must be a state that the database had, at or after the moment when the read began: also where two rows
changed at once, in what the list does not look at.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Self

from model_store import Lease, ModelStore, Rows, StoreRules, Tags
from state_search import Action

WHOLE, KEYS, FIRST, SECOND = range(4)
STATEMENTS: tuple[Tags, ...] = ((0, 1, 2), (0,), (1,), (2,))
"""The list with its rows, its keys alone, and the two rows."""


@dataclass(frozen=True, slots=True)
class KeysSetting:
    """Who takes part, and by which rules.

    ``sees_one_moment``: the store looks at rows and list at once, else one after the other. ``looks_again``: at all that was
    taken, after a query for missing rows, and after looking one by one. ``ends_with_the_list``: the list's stamp is looked
    at after the rows. ``looks_before_keeping``: at the whole, after the stamps of rows that the SELECT gave.
    """

    writers: tuple[Tags, ...] = ((1, 2), (0, 1))
    reads: tuple[int, ...] = (2, 1)
    sees_one_moment: bool = True
    looks_again: bool = True
    ends_with_the_list: bool = True
    looks_before_keeping: bool = True
    evictions: int = 1


class Part(NamedTuple):
    """What the store said of one statement, and the version that was taken or read; None: neither."""

    lease: Lease = ()
    is_storable: bool = False
    version: int | None = None
    was_stored: bool = False


class Collector(NamedTuple):
    """How far a reader is."""

    state: str = "idle"
    left: int = 0
    since: int = 0
    whole: Part = Part()
    keys: Part = Part()
    rows: tuple[Part, ...] = ()
    got: Rows = ()


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
        parts = (reader.whole, reader.keys, *reader.rows)
        alive = tuple(
            bool(part.lease) and self._store.shape_of(STATEMENTS[statement], part.lease)
            for statement, part in enumerate(parts)
        )
        bare = tuple(part._replace(lease=()) for part in parts)
        return reader._replace(whole=Part(), keys=Part(), rows=()), bare, alive

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
        steps = {
            "idle": self._look_up_whole,
            "keys": self._look_up_keys,
            "rows": self._look_up_rows,
            "query": self._query_missing,
            "again": self._look_again,
            "select": self._select,
            "apart": self._look_at_rows,
            "still": self._keep_apart,
        }
        return steps[verb](position, self._readers[position])

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

    def _look_up(self, statement: int) -> Part:
        seen = self._store.lookup(statement, STATEMENTS[statement])
        version = None if seen.rows is None or statement == WHOLE else seen.rows[0]
        return Part(seen.lease, seen.is_storable, version, seen.rows is not None)

    def _look_up_whole(self, position: int, reader: Collector) -> str:
        seen = self._store.lookup(WHOLE, STATEMENTS[WHOLE])
        part = Part(seen.lease, seen.is_storable)
        self._readers[position] = reader = Collector("keys", reader.left - 1, len(self._history) - 1, part)
        self._say(f"reader {position} looks up the list: {'miss' if seen.rows is None else list(seen.rows)}")
        return "" if seen.rows is None else self._answer(position, seen.rows)

    def _look_up_keys(self, position: int, reader: Collector) -> str:
        keys = self._look_up(KEYS)
        self._readers[position] = reader._replace(keys=keys, state="rows" if keys.was_stored else "select")
        self._say(f"reader {position} looks up the keys: {keys.version}")
        return ""

    def _look_up_rows(self, position: int, reader: Collector) -> str:
        """Look up both rows and, last, the list: at once, or one a step."""
        rows = reader.rows
        while len(rows) < 2:
            rows = (*rows, self._look_up(FIRST + len(rows)))
            self._say(f"reader {position} looks up row {len(rows)}: {rows[-1].version}")
            if not self._setting.sees_one_moment:
                self._readers[position] = reader._replace(rows=rows)
                if len(rows) < 2:
                    return ""
        if self._setting.ends_with_the_list and not self._is_as_it_was(KEYS, reader.keys):
            return self._give_up(position, reader)
        stored = [row.was_stored for row in rows]
        state = "again" if all(stored) else "query" if any(stored) else "select"
        self._readers[position] = reader = reader._replace(rows=rows, state=state)
        if state == "select":
            return self._give_up(position, reader)
        if state == "again" and self._setting.sees_one_moment:
            return self._serve(position, reader)
        return ""

    def _query_missing(self, position: int, reader: Collector) -> str:
        now = self._history[-1]
        rows = tuple(
            row if row.was_stored else row._replace(version=now[tag]) for tag, row in enumerate(reader.rows, start=1)
        )
        self._readers[position] = reader._replace(rows=rows, state="again")
        self._say(f"reader {position} queries what is missing: {[row.version for row in rows]}")
        return ""

    def _look_again(self, position: int, reader: Collector) -> str:
        taken = [(KEYS, reader.keys), *((FIRST + at, row) for at, row in enumerate(reader.rows) if row.was_stored)]
        if self._setting.looks_again and not all(self._is_as_it_was(*part) for part in taken):
            return self._give_up(position, reader)
        return self._serve(position, reader)

    def _is_as_it_was(self, statement: int, part: Part) -> bool:
        now = self._store.lookup(statement, STATEMENTS[statement])
        return now.is_storable and now.lease == part.lease

    def _serve(self, position: int, reader: Collector) -> str:
        """Store what is new, and answer. That a fill can be late is for the protocol's model."""
        versions = tuple(part.version for part in (reader.keys, *reader.rows) if part.version is not None)
        for statement, row in enumerate(reader.rows, start=FIRST):
            if not row.was_stored and row.is_storable and row.version is not None:
                self._store.fill(statement, (row.version,), row.lease)
        if reader.whole.is_storable:
            self._store.fill(WHOLE, versions, reader.whole.lease)
        return self._answer(position, versions)

    def _give_up(self, position: int, reader: Collector) -> str:
        self._readers[position] = reader._replace(state="select", rows=())
        self._say(f"reader {position} has to run the SELECT")
        return ""

    def _select(self, position: int, reader: Collector) -> str:
        now = self._history[-1]
        if reader.whole.is_storable:
            self._store.fill(WHOLE, now, reader.whole.lease)
        answer = self._answer(position, now, since=reader.since)
        if reader.whole.is_storable:
            self._readers[position] = reader._replace(state="apart", got=now)
        return answer

    def _look_at_rows(self, position: int, reader: Collector) -> str:
        rows = tuple(self._look_up(FIRST + at) for at in range(2))
        self._readers[position] = reader._replace(state="still", rows=rows)
        self._say(f"reader {position} looks at the stamps of the rows that it read")
        return ""

    def _keep_apart(self, position: int, reader: Collector) -> str:
        if not self._setting.looks_before_keeping or self._is_as_it_was(WHOLE, reader.whole):
            for at, row in enumerate(reader.rows):
                if row.is_storable:
                    self._store.fill(FIRST + at, (reader.got[1 + at],), row.lease)
            if reader.keys.is_storable:
                self._store.fill(KEYS, reader.got[:1], reader.keys.lease)
            self._say(f"reader {position} stores keys and rows: {list(reader.got)}")
        self._readers[position] = Collector(left=reader.left)
        return ""

    def _answer(self, position: int, answer: Rows, *, since: int | None = None) -> str:
        reader = self._readers[position]
        since = reader.since if since is None else since
        self._readers[position] = Collector(left=reader.left)
        self._say(f"reader {position} answers {list(answer)}")
        if answer in self._history[since:]:
            return ""
        return f"answered {list(answer)}, a state that the database did not have since the read began: {self._history}"

    def _say(self, text: str) -> None:
        if self.story is not None:
            self.story.append(text)
