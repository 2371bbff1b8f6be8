"""Does a transaction with a snapshot see one state, and does it store nothing that is old?

One row and its tag; a transaction whose statements all see one snapshot; a reader whose statements see what is committed;
writers; and a clock that ties, or steps back. Whether to serve and to fill is asked of the rules given, which are the
library's own unless a test replaces them.

A hit sends nothing, so the snapshot is taken by whatever statement comes first: what was served until then is looked at
again right after. "Noise" is a statement that takes no snapshot, as SELECT 1 on MySQL.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, Self

from state_search import Action

from querycache._types import Lease, Stamp
from querycache.coherence import snapshots
from querycache.coherence.snapshots import Freshness

MARGIN_NS: Final = 1_000_000_000
"""What is taken off a clock that can tie or step back."""

TICK_NS: Final = MARGIN_NS + MARGIN_NS // 5
"""One tick makes what was there before older than the margin."""

BACK_NS: Final = MARGIN_NS // 2
START_NS: Final = 100 * MARGIN_NS


class MayServe(Protocol):
    """The signature of ``snapshots.may_serve``."""

    def __call__(self, freshness: Freshness, lease: Lease, *, started: bool, since: Stamp | None) -> bool: ...


class MayFill(Protocol):
    """The signature of ``snapshots.may_fill``."""

    def __call__(self, freshness: Freshness, lease: Lease, *, first: bool, since: Stamp | None) -> bool: ...


@dataclass(frozen=True, slots=True)
class SnapshotSetting:
    """Who takes part, how often, on which clock. ``steps_back``: how often the clock goes back by half the margin;
    ``crashes``: how often a writer is killed after its commit, so that its mark ends by its deadline.

    ``margin_ns`` is taken off the clock that is seen before the first statement.
    """

    writers: int = 2
    statements: int = 3
    reads: int = 2
    ticks: int = 2
    steps_back: int = 0
    crashes: int = 0
    clock: Literal["ties", "never repeats"] = "ties"
    margin_ns: int = MARGIN_NS
    has_noise: bool = True
    looks_again: bool = True
    clock_before_statement: bool = True
    ended_marks_are_stamped: bool = True
    may_serve: MayServe = snapshots.may_serve
    may_fill: MayFill = snapshots.may_fill


class Seen(NamedTuple):
    """What the store said: the row's version, and the stamp with its moment."""

    value: int | None
    stamp: int
    moment: Stamp
    is_storable: bool


class Transaction(NamedTuple):
    """What the snapshot transaction has done. ``served``: versions and stamps from before it was pinned."""

    state: str = "idle"
    left: int = 0
    seen: Seen | None = None
    is_first: bool = False
    is_started: bool = False
    since: Stamp | None = None
    snapshot: int | None = None
    served: tuple[tuple[int, int], ...] = ()


class Reader(NamedTuple):
    """What the reader at READ COMMITTED is doing."""

    state: str = "idle"
    left: int = 0
    seen: Seen | None = None
    value: int = 0


class SnapshotWorld:
    """The row, its register and entry, and all who use them."""

    __slots__ = (
        "_at",
        "_crashes",
        "_entry",
        "_last",
        "_marks",
        "_moment",
        "_reader",
        "_setting",
        "_stamp",
        "_steps_back",
        "_ticks",
        "_transaction",
        "_value",
        "_writers",
        "story",
    )

    def __init__(self, setting: SnapshotSetting) -> None:
        self._setting = setting
        self._value = 0
        self._at = self._last = self._moment = START_NS
        self._stamp = 1
        self._marks: frozenset[int] = frozenset()
        self._entry: tuple[int, int] | None = None
        self._writers = ("idle",) * setting.writers
        self._transaction = Transaction(left=setting.statements)
        self._reader = Reader(left=setting.reads)
        self._ticks = setting.ticks
        self._steps_back = setting.steps_back
        self._crashes = setting.crashes
        self.story: list[str] | None = None

    def copy(self) -> Self:
        twin = object.__new__(type(self))
        for name in SnapshotWorld.__slots__:
            setattr(twin, name, getattr(self, name))
        return twin

    def key(self) -> Hashable:
        transaction, reader = self._transaction, self._reader
        # Moments matter to the transaction alone, and only in comparison.
        times: Hashable = None
        if not self._is_over:
            times = (
                self._age(self._moment),
                self._age(self._at),
                max(self._last - self._at, 0),
                self._ticks,
                self._steps_back,
            )
        return (
            self._value,
            times,
            self._marks,
            None if self._entry is None or self._entry[1] != self._stamp else self._entry[0],
            self._writers,
            self._crashes,
            transaction._replace(seen=None, served=(), since=None),
            self._shape_of(transaction.seen),
            tuple((value, stamp == self._stamp) for value, stamp in transaction.served),
            reader._replace(seen=None),
            reader.seen is not None and reader.seen.stamp == self._stamp,
        )

    @property
    def _is_over(self) -> bool:
        return self._transaction.state == "idle" and not self._transaction.left

    def _age(self, moment: Stamp) -> Stamp:
        """Return how a moment lies to S, or to the clock while S is not known."""
        since = self._transaction.since
        return moment - (self._at if since is None else since)

    def _shape_of(self, seen: Seen | None) -> Hashable:
        return None if seen is None else (seen.stamp == self._stamp, self._age(seen.moment), seen.is_storable)

    # -- what may happen ---------------------------------------------------------------------------------------------

    def actions(self) -> Iterator[Action]:
        for position, state in enumerate(self._writers):
            if state == "visible" and self._crashes:
                yield "crash", position
            if state == "dead" and position in self._marks:
                yield "end mark", position
            if state in _NEXT_OF_WRITER:
                yield _NEXT_OF_WRITER[state], position
        if self._transaction.state != "idle":
            yield self._transaction.state, 0
        elif self._transaction.left:
            yield "look up", 0
            yield "read elsewhere", 0
            if self._setting.has_noise:
                yield "noise", 0
        if self._reader.state != "idle" or self._reader.left:
            yield (
                {"idle": "reader looks up", "missed": "reader queries", "queried": "reader fills"}[self._reader.state],
                0,
            )
        if self._ticks and not self._is_over:
            yield "tick", 0
        if self._steps_back and not self._is_over:
            yield "step back", 0

    def apply(self, action: Action) -> str:
        verb, position = action
        if verb in _NEXT_OF_WRITER.values():
            self._write(verb, position)
            return ""
        if verb in ("crash", "end mark"):
            self._lose_writer(verb, position)
            return ""
        return _VERBS[verb](self) or ""

    def _tick(self) -> None:
        self._ticks -= 1
        self._at += TICK_NS
        self._say("time passes")

    def _step_back(self) -> None:
        self._steps_back -= 1
        self._at -= BACK_NS
        self._say("the clock steps back")

    # -- the store ---------------------------------------------------------------------------------------------------

    def _clock(self) -> Stamp:
        now = max(self._last, self._at) if self._setting.clock == "never repeats" else self._at
        return now - self._setting.margin_ns

    def _new_stamp(self) -> None:
        self._stamp += 1
        self._moment = max(self._last + 1, self._at) if self._setting.clock == "never repeats" else self._at
        self._last = self._moment

    def _look(self) -> Seen:
        storable = not self._marks
        found = self._entry[0] if storable and self._entry is not None and self._entry[1] == self._stamp else None
        return Seen(found, self._stamp, self._moment, storable)

    def _write(self, verb: str, position: int) -> None:
        if verb == "mark":
            self._marks |= {position}
            self._new_stamp()
        elif verb == "commit":
            self._value += 1
        else:
            self._marks -= {position}
            self._new_stamp()
        self._move(position, {"mark": "marked", "commit": "visible", "release": "done"}[verb])
        self._say(f"writer {position}: {verb}; the row is {self._value}, the stamp of {self._told(self._moment)}")

    def _lose_writer(self, verb: str, position: int) -> None:
        """Kill a writer whose commit is visible, or let its mark come to its deadline."""
        if verb == "crash":
            self._crashes -= 1
            self._move(position, "dead")
            self._say(f"writer {position} is killed")
            return
        self._marks -= {position}
        if self._setting.ended_marks_are_stamped:
            self._new_stamp()
        self._say(f"the mark of writer {position} ends by its deadline")

    def _move(self, position: int, state: str) -> None:
        self._writers = (*self._writers[:position], state, *self._writers[position + 1 :])

    # -- the transaction ---------------------------------------------------------------------------------------------

    def _look_up(self) -> str:
        transaction, seen = self._transaction, self._look()
        may_serve = seen.value is not None and self._setting.may_serve(
            Freshness.SNAPSHOT, (seen.moment,), started=transaction.is_started, since=transaction.since
        )
        if not may_serve or seen.value is None:
            self._say("T looks up: it must ask the database")
            self._transaction = transaction._replace(state="send", left=transaction.left - 1, seen=seen)
            return ""
        self._say(f"T is served {seen.value}")
        served = (*transaction.served, (seen.value, seen.stamp)) if transaction.snapshot is None else ()
        self._transaction = transaction._replace(left=transaction.left - 1, served=served)
        if transaction.snapshot is None:
            return _old(seen.value, self._value)
        return _moved(seen.value, transaction.snapshot)

    def _read_elsewhere(self) -> None:
        self._transaction = self._transaction._replace(state="send", left=self._transaction.left - 1, seen=None)
        self._say("T reads another table")

    def _send(self) -> None:
        """Look at the clock, before the first statement of any kind; what is sent after that may take its time."""
        transaction = self._transaction
        first = not transaction.is_started
        since = self._clock() if first and self._setting.clock_before_statement else transaction.since
        self._transaction = transaction._replace(state="run", is_first=first, is_started=True, since=since)
        if first:
            self._say(f"T sees the clock, {self._told(since)} with the margin, and sends its first statement")

    def _run(self) -> None:
        transaction = self._transaction
        snapshot = self._value if transaction.snapshot is None else transaction.snapshot
        state = "look again" if transaction.served and self._setting.looks_again else "fill"
        self._transaction = transaction._replace(state=state, snapshot=snapshot)
        self._say(f"T's snapshot shows {snapshot}")

    def _look_again(self) -> str:
        transaction, seen = self._transaction, self._look()
        still = seen.is_storable and all(stamp == seen.stamp for _, stamp in transaction.served)
        if not still:
            self._say("T looks again: what it was served has moved, it must begin anew")
            self._transaction = Transaction()
            return ""
        self._transaction = transaction._replace(state="fill")
        return ""

    def _fill(self) -> str:
        transaction = self._transaction
        seen, snapshot = transaction.seen, transaction.snapshot
        assert snapshot is not None
        since_from_now = self._clock() if transaction.since is None else transaction.since
        self._transaction = transaction._replace(
            state="idle", seen=None, served=(), is_first=False, since=since_from_now
        )
        if seen is not None and seen.is_storable:
            since, first = transaction.since, transaction.is_first
            if self._setting.may_fill(Freshness.SNAPSHOT, (seen.moment,), first=first, since=since):
                self._entry = (snapshot, seen.stamp)
                self._say(f"T fills {snapshot}")
        for value, _ in transaction.served:
            broken = _moved(value, snapshot)
            if broken:
                return broken
        return ""

    def _noise(self) -> None:
        transaction = self._transaction
        since = transaction.since if transaction.is_started else self._clock()
        self._transaction = transaction._replace(left=transaction.left - 1, is_started=True, since=since)
        self._say("T sends a statement that takes no snapshot")

    # -- the reader --------------------------------------------------------------------------------------------------

    def _reader_looks_up(self) -> str:
        seen = self._look()
        left = self._reader.left - 1
        if seen.value is None and seen.is_storable:
            self._reader = Reader("missed", left, seen)
            self._say("R misses")
            return ""
        self._reader = Reader("idle", left)
        self._say("R asks the database" if seen.value is None else f"R is served {seen.value}")
        return "" if seen.value is None else _old(seen.value, self._value)

    def _reader_queries(self) -> None:
        self._reader = self._reader._replace(state="queried", value=self._value)
        self._say(f"R gets {self._value}")

    def _reader_fills(self) -> None:
        reader = self._reader
        assert reader.seen is not None
        self._entry = (reader.value, reader.seen.stamp)
        self._reader = Reader("idle", reader.left)
        self._say(f"R fills {reader.value}")

    def _told(self, moment: Stamp | None) -> str:
        return "never" if moment is None else f"{(moment - START_NS) / 1e9:g} s"

    def _say(self, text: str) -> None:
        if self.story is not None:
            self.story.append(text)


def _old(value: int, visible: int) -> str:
    return f"served {value} where {visible} was visible when the read began" if value < visible else ""


def _moved(value: int, snapshot: int) -> str:
    return f"served {value} in a transaction whose snapshot shows {snapshot}" if value != snapshot else ""


_NEXT_OF_WRITER: Final = {"idle": "mark", "marked": "commit", "visible": "release"}
_VERBS: Final[dict[str, Callable[[SnapshotWorld], str | None]]] = {
    "look up": SnapshotWorld._look_up,
    "read elsewhere": SnapshotWorld._read_elsewhere,
    "send": SnapshotWorld._send,
    "run": SnapshotWorld._run,
    "look again": SnapshotWorld._look_again,
    "fill": SnapshotWorld._fill,
    "noise": SnapshotWorld._noise,
    "reader looks up": SnapshotWorld._reader_looks_up,
    "reader queries": SnapshotWorld._reader_queries,
    "reader fills": SnapshotWorld._reader_fills,
    "tick": SnapshotWorld._tick,
    "step back": SnapshotWorld._step_back,
}
