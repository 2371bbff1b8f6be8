"""Is each answer one that the promises allow, given what was committed, acknowledged and seen before?

For each group three things are known at any time: the highest version whose commit was *intended* (sent at the earliest
then), *acknowledged*, and *seen* by somebody whose read is over. An answer must be that of a version

- not below what was acknowledged before the read began (promise 1);
- not below what a read had seen that ended before this one began (promise 2);
- not above what was intended before the read ended, and of one version: no state in between, nothing rolled back.

Of a store that may tell a process of others' commits a while later, both count by so much later: what a process was told of
its own commits, at once. Whatever is shown is of one version there too.

A fault that takes marks away excuses a group whose commit was under way then: from promise 2 until that commit is
acknowledged; from both until its release has landed, where that is owed then, and for the life of an entry where its writer
died before (promise 3).

Never does: I/O, or know what time it is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Final

from torture_log import Acknowledged, Failed, Intended, Read, Settled, Unmarked, Wide, Withdrawn
from torture_story import Part, Story, parts_of

CRASH_GRACE_NS: Final = 5_000_000_000
"""So long may a COMMIT that was sent by a process killed since still become visible."""

REMEMBERED: Final = 1000
"""So many attempts to commit are remembered: those of some minutes."""

LOOKED_AHEAD: Final = 3
"""How many versions above the last one that was sent an answer is compared with, to say what it shows."""


class Steps:
    """A number that only grows with time."""

    def __init__(self, start: int = 0) -> None:
        self._times: list[int] = []
        self._values: list[int] = []
        self._start = start

    def raise_at(self, time: int, value: int) -> None:
        """Note that the number was at least ``value`` from ``time`` on."""
        at = bisect_left(self._times, time)
        if value <= self._before(at):
            return
        self._times.insert(at, time)
        self._values.insert(at, value)
        last = at + 1
        while last < len(self._values) and self._values[last] <= value:
            last += 1
        del self._times[at + 1 : last], self._values[at + 1 : last]

    def before(self, time: int) -> int:
        """Return the number just before ``time``."""
        return self._before(bisect_left(self._times, time))

    def _before(self, at: int) -> int:
        return self._values[at - 1] if at else self._start


@dataclass(frozen=True, slots=True)
class Violation:
    """An answer that no promise allows, and what explains it."""

    promise: str
    read: Read
    group: int
    told: str


@dataclass(slots=True)
class Attempt:
    """One try to commit a version. ``over``: when it and its release were acknowledged; ``died``: when its writer was killed.

    ``owed``: the commit is acknowledged, its release is not yet.
    """

    intended: Intended
    worker: str
    over: int | None = None
    died: int | None = None
    owed: bool = False
    was_owed: bool = False
    is_wide: bool = False

    def was_open(self, since: int, until: int) -> bool:
        """Tell whether there was something in a span of time that only a mark could tell others of."""
        ends = [at for at in (self.over, None if self.died is None else self.died + CRASH_GRACE_NS) if at is not None]
        return self.intended.at <= until and (not ends or min(ends) >= since)


@dataclass(slots=True)
class _Excuse:
    since: int
    attempt: Attempt
    life_ns: int

    lag_ns: int

    def until(self) -> float:
        """Return when the excuse ends: when all heard of the release, or an entry's life after its writer's death."""
        if self.attempt.over is not None:
            return self.attempt.over + self.lag_ns
        return self.since + self.life_ns if self.attempt.died is not None else float("inf")


@dataclass(slots=True)
class GroupHistory:
    """What is known of one group."""

    story: Story
    intended: Steps = field(default_factory=Steps)
    acknowledged: Steps = field(default_factory=Steps)
    own: defaultdict[str, Steps] = field(default_factory=lambda: defaultdict(Steps))
    """By worker: what was acknowledged to it."""

    seen: Steps = field(default_factory=Steps)
    tokens: dict[int, int] = field(default_factory=lambda: {0: 0})
    withdrawn: set[int] = field(default_factory=set)
    excuses: list[_Excuse] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)

    def note(self, at: int, what: str) -> None:
        """Remember something for those who must explain a violation."""
        insort(self.events, (at, what))
        del self.events[:-60]


class History:
    """What all workers did, and the judgement of what they saw.

    ``entry_life_s``: the most that an entry lives. ``lag_s``: how late a process may hear of others' commits.
    """

    def __init__(self, groups: int, entry_life_s: float, lag_s: float = 0.0) -> None:
        self.groups = [GroupHistory(Story(group)) for group in range(groups)]
        self._life_ns = int(entry_life_s * 1e9)
        self._lag_ns = int(lag_s * 1e9)
        self._losses: list[tuple[int, int]] = []
        self._attempts: deque[Attempt] = deque(maxlen=REMEMBERED)
        self.excused = 0

    # -- what happened -------------------------------------------------------------------------------------------------

    def intend(self, record: Intended, worker: str) -> None:
        """Take in that a commit is about to be sent."""
        group = self.groups[record.group]
        group.intended.raise_at(record.at, record.version)
        group.tokens.setdefault(record.version - 1, record.base)
        attempt = Attempt(record, worker)
        self._attempts.append(attempt)
        group.note(record.at, f"{worker} sends the commit of version {record.version} (token {record.token})")
        for since, until in self._losses[-8:]:
            if attempt.was_open(since, until):
                group.excuses.append(self._excuse(since, attempt))

    def acknowledge(self, record: Acknowledged, worker: str) -> None:
        """Take in that a commit returned."""
        group = self.groups[record.group]
        group.acknowledged.raise_at(record.at, record.version)
        group.own[worker].raise_at(record.at, record.version)
        attempt = self._attempt_of(record, worker)
        if attempt is not None:
            attempt.owed = attempt.was_owed = record.owed
            attempt.over = None if record.owed else record.at
            group.tokens[record.version] = attempt.intended.token
        owed = ", and owes its release" if record.owed else ""
        group.note(record.at, f"{worker} was told that version {record.version} is committed{owed}")

    def settle(self, record: Settled, worker: str) -> None:
        """Take in that all releases which a worker owed have landed."""
        for attempt in self._attempts:
            if attempt.worker == worker and attempt.owed:
                attempt.owed, attempt.over = False, record.at
                self._group_of(attempt).note(record.at, f"{worker} has released what it owed")

    def go_on_unmarked(self, record: Unmarked, worker: str) -> None:
        """Take in that a commit goes on though nobody was told: it is as if its mark were lost."""
        attempt = self._attempt_of(record, worker)
        if attempt is not None:
            group = self.groups[record.group]
            group.excuses.append(self._excuse(attempt.intended.at, attempt))
            group.note(record.at, f"{worker} commits version {record.version} unmarked")

    def take_much(self, record: Wide, worker: str) -> None:
        """Take in that a commit takes whole tables."""
        attempt = self._attempt_of(record, worker)
        if attempt is not None:
            attempt.is_wide = True
        self.groups[record.group].note(record.at, f"{worker} marks {', '.join(record.tags)}")

    def _attempt_of(self, record: Acknowledged | Failed | Unmarked | Wide, worker: str) -> Attempt | None:
        for attempt in reversed(self._attempts):
            about = attempt.intended
            if attempt.worker == worker and (about.group, about.version) == (record.group, record.version):
                return attempt
        return None

    def _group_of(self, attempt: Attempt) -> GroupHistory:
        return self.groups[attempt.intended.group]

    def withdraw(self, record: Withdrawn, worker: str) -> None:
        """Take in that an attempt was rolled back on purpose."""
        group = self.groups[record.group]
        group.withdrawn.add(record.token)
        group.note(record.at, f"{worker} rolls version {record.version} back (token {record.token})")

    def fail(self, record: Failed, worker: str) -> None:
        """Take in that a commit raised."""
        attempt = self._attempt_of(record, worker)
        if attempt is not None and record.is_over:
            attempt.over = record.at
        elif attempt is not None:
            attempt.died = record.at
        self.groups[record.group].note(record.at, f"{worker}: version {record.version} failed: {record.error}")

    def die(self, worker: str, at: int) -> list[Attempt]:
        """Take in that a worker was killed; return the commits that it left open."""
        left = [attempt for attempt in self._attempts if attempt.worker == worker and attempt.over is None]
        for attempt in left:
            attempt.died = at
            self._group_of(attempt).note(at, f"{worker} is dead, version {attempt.intended.version} not over")
        return left

    def lose_marks(self, since: int, until: int) -> None:
        """Take in that marks may have been lost in a span of time."""
        self._losses.append((since, until))
        for group in self.groups:
            group.note(since, "the store begins to lose marks")
        for attempt in self._attempts:
            if attempt.was_open(since, until):
                self._group_of(attempt).excuses.append(self._excuse(since, attempt))

    def _excuse(self, since: int, attempt: Attempt) -> _Excuse:
        return _Excuse(since, attempt, self._life_ns, self._lag_ns)

    # -- judgement -----------------------------------------------------------------------------------------------------

    def check(self, read: Read, worker: str = "") -> list[Violation]:
        """Judge an answer that a worker was given, and learn from it what is seen from now on."""
        found = [
            self._check(read, worker, part) for part in parts_of(read.kind, read.argument, read.group, read.answer)
        ]
        return [violation for violation in found if violation is not None]

    def _check(self, read: Read, worker: str, part: Part) -> Violation | None:
        group = self.groups[part.group]
        strange = self._strange_token(group, part)
        if strange is not None:
            return self._violation("nothing that was rolled back is seen", read, group, strange)
        heard_until, own = read.began - self._lag_ns, group.own[worker].before(read.began)
        lowest, highest = max(group.acknowledged.before(heard_until), own), group.intended.before(read.ended)
        if read.snapshot is not None:
            lowest = highest = read.snapshot[part.group]
        seen = group.seen.before(heard_until) if read.snapshot is None else 0
        matches = [
            version
            for version in range(lowest, highest + 1)
            if group.story.answer(read.kind, read.argument, version) == part.answer
        ]
        excuse = self._excuse_at(group, read.began)
        if not matches:
            if excuse is not None and self._is_excused(excuse, group, read, part):
                self.excused += 1
                return None
            return self._violation(*self._explain(group, read, part, lowest, highest))
        if read.snapshot is not None:
            return None
        late_enough = [version for version in matches if version >= seen]
        if not late_enough and excuse is None:
            return self._violation(
                "2: visible is seen",
                read,
                group,
                f"shows version {matches[-1]}, and version {seen} was seen by a read that ended before this one began",
            )
        if not late_enough:
            self.excused += 1
            return None
        group.seen.raise_at(read.ended, late_enough[0])
        if late_enough[0] > seen:
            group.note(read.ended, f"version {late_enough[0]} is seen ({read.kind} {read.argument}, {read.source})")
        return None

    def _strange_token(self, group: GroupHistory, part: Part) -> str | None:
        for version, token in part.tokens:
            if token in group.withdrawn:
                return f"shows token {token} of version {version}, which was rolled back"
            known = group.tokens.get(version)
            if known is not None and known != token:
                return f"shows token {token} of version {version}, which was committed with token {known}"
        return None

    def _excuse_at(self, group: GroupHistory, at: int) -> _Excuse | None:
        for excuse in group.excuses:
            if excuse.since <= at <= excuse.until():
                return excuse
        return None

    def _is_excused(self, excuse: _Excuse, group: GroupHistory, read: Read, part: Part) -> bool:
        """Tell whether rows too old may be shown: visible ones not, acknowledged ones not while their release is owed.

        A list by keys is put together from rows of which each may be too old by itself: of no state, as far as it is one.
        """
        if read.kind == "keyed":
            return all(row in group.story.state(row[3]) for row in part.answer)
        is_free = excuse.attempt.died is not None or excuse.attempt.was_owed or read.snapshot is not None
        return is_free and self._shown(group, read, part) is not None

    def _shown(self, group: GroupHistory, read: Read, part: Part) -> int | None:
        """Return the newest version that an answer is that of, however old, else one to come; None where it is of none."""
        sent = group.intended.before(read.ended)
        candidates: list[int] = [*range(sent, -1, -1), *range(sent + 1, sent + 1 + LOOKED_AHEAD)]
        for version in candidates:
            if group.story.answer(read.kind, read.argument, version) == part.answer:
                return version
        return None

    def _explain(
        self, group: GroupHistory, read: Read, part: Part, lowest: int, highest: int
    ) -> tuple[str, Read, GroupHistory, str]:
        shown = self._shown(group, read, part)
        if read.snapshot is not None:
            return "a snapshot is one state", read, group, f"shows version {shown}, the snapshot is of version {lowest}"
        if shown is None:
            told = f"shows no state that ever was; allowed were versions {lowest} to {highest}"
            return "a list is a state of the database", read, group, told
        if shown < lowest:
            told = f"shows version {shown}, and version {lowest} was acknowledged before the read began"
            return "1: acknowledged is seen", read, group, told
        return "nothing uncommitted is seen", read, group, f"shows version {shown}, and {highest} is the last one sent"

    def _violation(self, promise: str, read: Read, group: GroupHistory, told: str) -> Violation:
        began = read.began, f"the read began; it took {(read.ended - read.began) / 1e6:.1f} ms"
        near = sorted([*group.events, began])
        place = near.index(began)
        around = [
            f"    {(at - read.began) / 1e6:+10.1f} ms  {what}" for at, what in near[max(0, place - 20) : place + 8]
        ]
        lines = [
            f"promise {promise}: {read.kind} {read.argument} of group {group.story.group}, a {read.source}: {told}",
            f"    answer {read.answer if read.kind != 'board' else 'of the board'}",
            *around,
        ]
        return Violation(promise, read, group.story.group, "\n".join(lines))
