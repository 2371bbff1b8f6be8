"""Does a cached read ever return less than it promised? The protocol itself: writers, readers, and what may go wrong.

Each tag stands for one row, whose version grows with every commit. A read is broken when it is served less than its floor:
what was *acknowledged*, or what was *visible*, when it began. The rules can be left out one by one.

Time is in ticks: nothing here waits. What is not modelled: SQL, sessions, and how tags follow from statements.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple, Self

from model_store import Lease, ModelStore, Rows, Seen, StepStore, StoreRules, Tags
from state_search import Action

Promise = Literal["acknowledged", "visible", "settled", "bounded"]
"""Which floor a read has: what was acknowledged; what was visible; what was visible once every writer was over; the same,
once every entry of before has come to the end of its time to live."""

Kind = Literal["commit", "two-phase", "outsider"]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of the protocol above the store; each one False is the library without it."""

    marks_before_commit: bool = True
    marks_before_commit_prepared: bool = True
    renews_marks: bool = True
    lease_before_query: bool = True
    names_each_attempt: bool = True
    has_journal: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What one transaction changes. An outsider commits unheard, and then says so by clearing the cache."""

    tags: Tags
    kind: Kind = "commit"


@dataclass(frozen=True, slots=True)
class Faults:
    """What may go wrong, each of ``kinds`` as often as ``budget`` allows in all, and as many ``crashes``.

    ``loses_marks``: marks may be evicted or expire while their commit is to come. Otherwise time passes only for marks that
    nobody renews, and only when their commit is over one way or the other.
    """

    kinds: frozenset[str] = frozenset()
    budget: int = 0
    crashes: int = 0
    loses_marks: bool = False


EVICTIONS: Final = frozenset({"evict entry", "evict register"})
ALL_KINDS: Final = EVICTIONS | {"tick", "release fails"}


@dataclass(frozen=True, slots=True)
class Setting:
    """Who takes part, and under which rules. ``statements``: the tags of each entry; ``reads``: what each reader reads.

    ``steps``: whether a store's verb is one step, or one step for each tag, with the entry looked at first or last.
    """

    promise: Promise
    writers: tuple[Plan, ...] = (Plan((0, 1)), Plan((0,)))
    statements: tuple[Tags, ...] = ((0, 1),)
    reads: tuple[tuple[int, ...], ...] = ((0, 0), (0,))
    faults: Faults = field(default_factory=Faults)
    rules: Rules = field(default_factory=Rules)
    store_rules: StoreRules = field(default_factory=StoreRules)
    steps: Literal["whole", "entry first", "entry last"] = "whole"
    acknowledges_when_owed: bool = False
    rollbacks: bool = False

    @property
    def tags(self) -> int:
        return 1 + max(tag for plan in self.writers for tag in plan.tags)


class Writer(NamedTuple):
    """How far a transaction is. ``at``: the tag that comes next where a verb goes tag by tag."""

    state: str = "idle"
    at: int = 0
    versions: Rows = ()


class Reader(NamedTuple):
    """How far a reader is. ``turn``: which of its reads; ``floor``: what that may not fall below."""

    state: str = "idle"
    turn: int = 0
    lease: Lease = ()
    rows: Rows | None = None
    floor: Rows = ()
    entry: tuple[Rows, Lease] | None = None
    is_storable: bool = True


class ProtocolWorld:
    """Database, store, writers and readers at one moment."""

    __slots__ = (
        "_acked",
        "_crashes",
        "_db",
        "_expired",
        "_faults",
        "_held",
        "_late",
        "_readers",
        "_setting",
        "_writers",
        "store",
        "story",
    )

    def __init__(self, setting: Setting, store: StepStore | None = None) -> None:
        self._setting = setting
        self.store: StepStore = store or ModelStore(setting.tags, len(setting.statements), setting.store_rules)
        self.story: list[str] | None = None
        self._db = [0] * setting.tags
        self._acked = [0] * setting.tags
        self._writers = [Writer() for _ in setting.writers]
        self._readers = [Reader() for _ in setting.reads]
        self._held: frozenset[int] = frozenset()
        self._late: tuple[int, ...] = ()
        self._faults = setting.faults.budget
        self._crashes = setting.faults.crashes
        self._expired = False

    def copy(self) -> Self:
        twin = object.__new__(type(self))
        twin._setting = self._setting
        twin.store = self.store.copy()
        twin.story = self.story
        twin._db = self._db[:]
        twin._acked = self._acked[:]
        twin._writers = self._writers[:]
        twin._readers = self._readers[:]
        twin._held = self._held
        twin._late = self._late
        twin._faults = self._faults
        twin._crashes = self._crashes
        twin._expired = self._expired
        return twin

    def key(self) -> Hashable:
        return (
            tuple(self._db),
            tuple(self._acked),
            tuple(self._writers),
            tuple(self._shape_of(position, reader) for position, reader in enumerate(self._readers)),
            self.store.shape(self._setting.statements),
            self._held,
            self._late,
            self._faults,
            self._crashes,
            self._expired,
        )

    def _shape_of(self, position: int, reader: Reader) -> Hashable:
        if reader.state == "idle":
            return reader.turn
        shape = self.store.shape_of(self._tags_of(position), reader.lease)
        # What is read under a dead lease is filled in vain, whatever it is.
        rows = reader.rows if shape is not False or not self._setting.rules.lease_before_query else None
        return reader.state, reader.turn, shape, rows, reader.floor, reader.entry, reader.is_storable

    def _tags_of(self, position: int) -> Tags:
        statements = self._setting.statements
        return statements[self._setting.reads[position][self._readers[position].turn]][
            : len(self._readers[position].lease)
        ]

    # -- what may happen ---------------------------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        yield from self._actions_of_writers()
        for position, reader in enumerate(self._readers):
            if reader.turn < len(self._setting.reads[position]):
                yield _NEXT_OF_READER[reader.state], position
        for position in range(len(self._late)):
            yield "land late", position
        if self._faults:
            yield from self._accidents()
        # Statements end sooner than entries: nobody reads for an hour.
        is_quiet = self._is_settled() and all(reader.state == "idle" for reader in self._readers)
        if self._setting.promise == "bounded" and not self._expired and is_quiet:
            yield "expire entries", 0

    def _actions_of_writers(self) -> Iterator[Action]:
        setting, rules, faults = self._setting, self._setting.rules, self._setting.faults
        for position, (state, _, _) in enumerate(self._writers):
            kind = setting.writers[position].kind
            if state == "idle":
                if kind == "outsider":
                    yield "commit", position
                    continue
                yield ("mark" if rules.marks_before_commit else "commit"), position
                if self._faults and "mark fails" in faults.kinds:
                    yield "commit unmarked", position
            elif state == "marking":
                yield "mark", position
            elif state == "marked" and kind == "two-phase" and not rules.marks_before_commit_prepared:
                yield "prepare", position
            elif state in ("marked", "prepared"):
                yield "commit", position
                if setting.rollbacks:
                    yield "roll back", position
            elif state in ("visible", "releasing"):
                yield ("clear" if kind == "outsider" else "release"), position
                if self._faults and "release fails" in faults.kinds and kind != "outsider" and state == "visible":
                    yield "release fails", position
            elif state == "owed":
                if rules.has_journal:
                    yield "release", position
            elif state == "dying":
                yield "commit", position
                yield "vanish", position
            if self._crashes and state in _ALIVE:
                yield "crash", position

    def _accidents(self) -> Iterator[Action]:
        kinds, loses_marks = self._setting.faults.kinds, self._setting.faults.loses_marks
        if "evict entry" in kinds:
            for statement, tags in enumerate(self._setting.statements):
                if self.store.has_entry(statement, tags):
                    yield "evict entry", statement
        if "evict register" in kinds:
            for tag in range(self._setting.tags):
                if self.store.has_register(tag) and (loses_marks or not self.store.is_marked(tag)):
                    yield "evict register", tag
        # A dead client's COMMIT that is still on its way has a mark that nobody renews.
        may_pass = loses_marks or all(writer.state != "dying" for writer in self._writers)
        if "tick" in kinds and may_pass and any(map(self.store.is_marked, range(self._setting.tags))):
            yield "tick", 0
        if "clear" in kinds:
            yield "clear all", 0

    def apply(self, action: Action) -> str:
        verb, position = action
        method = getattr(self, _VERBS[verb])
        return method(position) or ""

    # -- writers -----------------------------------------------------------------------------------------------------

    def _name_of(self, writer: int) -> int:
        return writer if self._setting.rules.names_each_attempt else 0

    def _step(self, position: int, verb: Callable[[Tags, int], None]) -> bool:
        """Do a verb for all tags of a writer, or for the next of them; tell whether that was the last."""
        tags, writer = self._setting.writers[position].tags, self._writers[position]
        if self._setting.steps == "whole":
            verb(tags, self._name_of(position))
            return True
        verb(tags[writer.at : writer.at + 1], self._name_of(position))
        self._writers[position] = writer._replace(at=writer.at + 1)
        return writer.at + 1 == len(tags)

    def _mark(self, position: int) -> None:
        self._held |= {self._name_of(position)}
        is_last = self._step(position, self.store.mark)
        self._move(position, "marked" if is_last else "marking", at=0 if is_last else None)
        self._say("writer {} marks", position)

    def _prepare(self, position: int) -> None:
        self._move(position, "prepared")
        self._say("writer {} prepares, and goes on to other things", position)

    def _commit(self, position: int) -> None:
        writer, tags = self._writers[position], self._setting.writers[position].tags
        for tag in tags:
            self._db[tag] += 1
        versions = tuple(self._db[tag] for tag in tags)
        state = "dead" if writer.state == "dying" else "visible"
        self._writers[position] = Writer(state, 0, versions if state == "visible" else ())
        self._say(f"the commit of writer {{}} is visible: the database shows {self._db}", position)

    def _commit_unmarked(self, position: int) -> None:
        self._faults -= 1
        self._held |= {self._name_of(position)}
        self._say("writer {} cannot mark, and goes on", position)
        self._commit(position)

    def _roll_back(self, position: int) -> None:
        self._held -= {self._name_of(position)}
        self.store.release(self._setting.writers[position].tags, self._name_of(position))
        self._move(position, "done")
        self._say("writer {} rolls back and releases", position)

    def _release(self, position: int) -> None:
        name = self._name_of(position)
        self._say("writer {} releases", position)
        if self._setting.rules.marks_before_commit and name not in self._held and self._is_at(position, "visible"):
            # The journal keeps marks by their writers' names: under one that was released it keeps none.
            self._acknowledge(position)
            return
        self._held -= {name}
        if self._step(position, self.store.release):
            self._acknowledge(position)
        else:
            self._move(position, "releasing")

    def _release_fails(self, position: int) -> None:
        self._faults -= 1
        self._held -= {self._name_of(position)}
        self._late = (*self._late, position)
        self.store.lose_release(self._setting.writers[position].tags, self._name_of(position))
        if self._setting.acknowledges_when_owed or not self._setting.rules.has_journal:
            versions = self._writers[position].versions
            self._acknowledge(position)
            self._writers[position] = Writer("owed", 0, versions)
        else:
            self._move(position, "owed")
        self._say("the release of writer {} is not answered: it is lost, or late", position)

    def _land_late(self, place: int) -> None:
        position = self._late[place]
        self._late = (*self._late[:place], *self._late[place + 1 :])
        self.store.land_late(self._setting.writers[position].tags, self._name_of(position))
        self._say("a late release of writer {} lands", position)

    def _acknowledge(self, position: int) -> None:
        if self._setting.promise == "acknowledged":
            for tag, version in zip(
                self._setting.writers[position].tags, self._writers[position].versions, strict=False
            ):
                self._acked[tag] = max(self._acked[tag], version)
        self._writers[position] = Writer("done")

    def _clear(self, position: int) -> None:
        self.store.clear()
        self._acknowledge(position)
        self._say("outsider {} clears the cache", position)

    def _crash(self, position: int) -> None:
        self._crashes -= 1
        state = self._writers[position].state
        self._writers[position] = Writer("dying" if state in ("marked", "prepared") else "dead")
        self._say(f"writer {{}} is killed ({state})", position)

    def _vanish(self, position: int) -> None:
        self._writers[position] = Writer("dead")
        self._say("the server has dropped the transaction of writer {}", position)

    def _move(self, position: int, state: str, at: int | None = None) -> None:
        writer = self._writers[position]
        self._writers[position] = Writer(state, writer.at if at is None else at, writer.versions)

    # -- readers -----------------------------------------------------------------------------------------------------

    def _look_up(self, position: int) -> str:
        reader = self._readers[position]
        statement, tags = self._statement_of(position)
        if self._setting.steps != "whole":
            entry = self._entry(statement) if self._setting.steps == "entry first" else None
            self._readers[position] = Reader("looking", reader.turn, floor=self._floor(tags), entry=entry)
            self._say("reader {} begins to look up", position)
            return ""
        return self._answered(position, self.store.lookup(statement, tags), self._floor(tags))

    def _look_at_next(self, position: int) -> str:
        """Look at one more register; after the last, and the entry where that comes last, it is known what was found."""
        reader = self._readers[position]
        statement, tags = self._statement_of(position)
        if len(reader.lease) < len(tags):
            tag = tags[len(reader.lease)]
            lease = (*reader.lease, self._register(tag))
            is_storable = reader.is_storable and not self.store.is_marked(tag)
            self._readers[position] = reader._replace(lease=lease, is_storable=is_storable)
            self._say(f"reader {{}} looks at the stamp of tag {tag}", position)
            if self._setting.steps == "entry last" or len(lease) < len(tags):
                return ""
            reader = self._readers[position]
        entry = reader.entry if self._setting.steps == "entry first" else self._entry(statement)
        rows = entry[0] if entry is not None and entry[1] == reader.lease and reader.is_storable else None
        return self._answered(position, Seen(rows, reader.lease, reader.is_storable), reader.floor)

    def _entry(self, statement: int) -> tuple[Rows, Lease] | None:
        assert isinstance(self.store, ModelStore)
        return self.store.entry_of(statement)

    def _register(self, tag: int) -> int:
        assert isinstance(self.store, ModelStore)
        return self.store.stamp_of(tag)

    def _answered(self, position: int, seen: Seen, floor: Rows) -> str:
        turn = self._readers[position].turn
        if seen.rows is None and seen.is_storable:
            self._readers[position] = Reader("missed", turn, seen.lease)
            self._say("reader {} misses", position)
            return ""
        self._readers[position] = Reader("idle", turn + 1)
        if seen.rows is None:
            self._say("reader {} misses and is told not to store", position)
            return ""
        self._say(f"reader {{}} is served {list(seen.rows)}", position)
        if any(map(int.__lt__, seen.rows, floor)):
            return f"served {list(seen.rows)} where {list(floor)} was promised: {self._setting.promise} is seen"
        return ""

    def _query(self, position: int) -> None:
        reader = self._readers[position]
        rows = tuple(self._db[tag] for tag in self._statement_of(position)[1])
        state = "queried" if self._setting.rules.lease_before_query else "asks for a lease"
        self._readers[position] = reader._replace(state=state, rows=rows)
        self._say(f"reader {{}} queries and gets {list(rows)}", position)

    def _lease_late(self, position: int) -> None:
        statement, tags = self._statement_of(position)
        seen = self.store.lookup(statement, tags)
        reader = self._readers[position]
        self._readers[position] = (
            reader._replace(state="queried", lease=seen.lease) if seen.is_storable else Reader("idle", reader.turn + 1)
        )
        self._say("reader {} takes its lease only now", position)

    def _fill(self, position: int) -> str:
        reader = self._readers[position]
        assert reader.rows is not None
        self.store.fill(self._statement_of(position)[0], reader.rows, reader.lease)
        self._readers[position] = Reader("idle", reader.turn + 1)
        self._say("reader {} fills", position)
        return ""

    def _statement_of(self, position: int) -> tuple[int, Tags]:
        statement = self._setting.reads[position][self._readers[position].turn]
        return statement, self._setting.statements[statement]

    def _floor(self, tags: Tags) -> Rows:
        promise = self._setting.promise
        if promise == "acknowledged":
            return tuple(self._acked[tag] for tag in tags)
        counts = promise == "visible" or (self._is_settled() if promise == "settled" else self._expired)
        return tuple(self._db[tag] if counts else 0 for tag in tags)

    def _is_at(self, position: int, state: str) -> bool:
        return self._writers[position].state == state

    def _is_settled(self) -> bool:
        return all(writer.state in ("done", "dead") for writer in self._writers)

    # -- accidents ---------------------------------------------------------------------------------------------------

    def _evict_entry(self, statement: int) -> None:
        self._faults -= 1
        self.store.evict_entry(statement)
        self._say("entry {} is evicted", statement)

    def _evict_register(self, tag: int) -> None:
        self._faults -= 1
        self.store.evict_register(tag)
        self._say("the stamp of tag {} is evicted, with its marks", tag)

    def _tick(self, _: int) -> None:
        self._faults -= 1
        self.store.tick()
        self._say("time passes{}", "")
        if self._setting.faults.loses_marks or not self._setting.rules.renews_marks:
            return
        for position, writer in enumerate(self._writers):
            if writer.state in ("marking", "marked"):
                tags = self._setting.writers[position].tags
                self.store.mark(tags[: writer.at] if writer.state == "marking" else tags, self._name_of(position))

    def _clear_all(self, _: int) -> None:
        self._faults -= 1
        self.store.clear()
        self._say("somebody clears the cache{}", "")

    def _expire_entries(self, _: int) -> None:
        self._expired = True
        for statement in range(len(self._setting.statements)):
            self.store.evict_entry(statement)
        self._say("every entry's time to live is over{}", "")

    def _say(self, text: str, who: int | str) -> None:
        if self.story is not None:
            self.story.append(text.format(who))


_ALIVE: Final = frozenset({"marking", "marked", "prepared", "visible", "releasing", "owed"})
_NEXT_OF_READER: Final = {
    "idle": "look up",
    "looking": "look at next",
    "missed": "query",
    "asks for a lease": "lease late",
    "queried": "fill",
    "waiting": "look up again",
}
_VERBS: Final = {
    "mark": "_mark",
    "prepare": "_prepare",
    "commit": "_commit",
    "commit unmarked": "_commit_unmarked",
    "roll back": "_roll_back",
    "release": "_release",
    "release fails": "_release_fails",
    "land late": "_land_late",
    "clear": "_clear",
    "crash": "_crash",
    "vanish": "_vanish",
    "look up": "_look_up",
    "look at next": "_look_at_next",
    "look up again": "_look_up",
    "query": "_query",
    "lease late": "_lease_late",
    "fill": "_fill",
    "evict entry": "_evict_entry",
    "evict register": "_evict_register",
    "tick": "_tick",
    "clear all": "_clear_all",
    "expire entries": "_expire_entries",
}
