"""Is each answer one that the promises allow, given what was committed, acknowledged and seen before?

For each group three things are known at any time: the highest version whose commit was *intended* (sent at the earliest
then), *acknowledged*, and *seen* by somebody whose read is over. An answer must be that of a version

- not below what was acknowledged before the read began (promise 1);
- not below what a read had seen that ended before this one began (promise 2);
- not above what was intended before the read ended, and of one version: no state in between, nothing rolled back.

A fault that takes marks away excuses a group whose commit was under way then: from promise 2 until that commit is
acknowledged, from both for the life of an entry where its writer died instead (promise 3).

Never does: I/O, or know what time it is.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from torture_log import Acknowledged, Failed, Intended, Read, Withdrawn
from torture_story import Part, Story, parts_of

CRASH_GRACE_NS = 2_000_000_000
"""So long may a COMMIT that was sent by a process killed since still become visible."""


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
    """One try to commit a version. ``acknowledged`` and ``died`` are times, None where that did not happen."""

    intended: Intended
    worker: str
    acknowledged: int | None = None
    died: int | None = None

    def was_open(self, since: int, until: int) -> bool:
        """Tell whether the commit can have become visible, and was not acknowledged yet, in a span of time."""
        ends = [at for at in (self.acknowledged, None if self.died is None else self.died + CRASH_GRACE_NS) if at]
        return self.intended.at <= until and (not ends or min(ends) >= since)


@dataclass(slots=True)
class _Excuse:
    since: int
    attempt: Attempt
    life_ns: int

    def until(self) -> float:
        """Return when the excuse ends: when the commit is acknowledged, or an entry's life after its writer's death."""
        if self.attempt.acknowledged is not None:
            return self.attempt.acknowledged
        return self.since + self.life_ns if self.attempt.died is not None else float("inf")


@dataclass(slots=True)
class GroupHistory:
    """What is known of one group."""

    story: Story
    intended: Steps = field(default_factory=Steps)
    acknowledged: Steps = field(default_factory=Steps)
    seen: Steps = field(default_factory=Steps)
    tokens: dict[int, int] = field(default_factory=lambda: {0: 0})
    withdrawn: set[int] = field(default_factory=set)
    attempts: dict[int, list[Attempt]] = field(default_factory=dict)
    excuses: list[_Excuse] = field(default_factory=list)
    events: list[tuple[int, str]] = field(default_factory=list)

    def note(self, at: int, what: str) -> None:
        """Remember something for those who must explain a violation."""
        insort(self.events, (at, what))
        del self.events[:-60]


class History:
    """What all workers did, and the judgement of what they saw. ``entry_life_s``: the most that an entry lives."""

    def __init__(self, groups: int, entry_life_s: float) -> None:
        self.groups = [GroupHistory(Story(group)) for group in range(groups)]
        self._life_ns = int(entry_life_s * 1e9)
        self._losses: list[tuple[int, int]] = []
        self.excused = 0

    # -- what happened -------------------------------------------------------------------------------------------------

    def intend(self, record: Intended, worker: str) -> None:
        """Take in that a commit is about to be sent."""
        group = self.groups[record.group]
        group.intended.raise_at(record.at, record.version)
        group.tokens.setdefault(record.version - 1, record.base)
        attempt = Attempt(record, worker)
        group.attempts.setdefault(record.version, []).append(attempt)
        group.note(record.at, f"{worker} sends the commit of version {record.version} (token {record.token})")
        for since, until in self._losses:
            if attempt.was_open(since, until):
                group.excuses.append(_Excuse(since, attempt, self._life_ns))

    def acknowledge(self, record: Acknowledged, worker: str) -> None:
        """Take in that a commit returned."""
        group = self.groups[record.group]
        group.acknowledged.raise_at(record.at, record.version)
        mine = [attempt for attempt in group.attempts.get(record.version, ()) if attempt.worker == worker]
        if mine:
            mine[-1].acknowledged = record.at
            group.tokens[record.version] = mine[-1].intended.token
        group.note(record.at, f"{worker} was told that version {record.version} is committed")

    def withdraw(self, record: Withdrawn, worker: str) -> None:
        """Take in that an attempt was rolled back on purpose."""
        group = self.groups[record.group]
        group.withdrawn.add(record.token)
        group.note(record.at, f"{worker} rolls version {record.version} back (token {record.token})")

    def fail(self, record: Failed, worker: str) -> None:
        """Take in that a commit raised."""
        self.groups[record.group].note(record.at, f"{worker}: version {record.version} failed: {record.error}")

    def die(self, worker: str, at: int) -> list[int]:
        """Take in that a worker was killed; return the groups whose commit it left open."""
        left = []
        for group in self.groups:
            for attempts in list(group.attempts.values())[-8:]:
                for attempt in attempts:
                    if attempt.worker == worker and attempt.acknowledged is None:
                        attempt.died = at
                        group.note(at, f"{worker} is dead, version {attempt.intended.version} not acknowledged")
                        left.append(group.story.group)
        return left

    def lose_marks(self, since: int, until: int) -> None:
        """Take in that marks may have been lost in a span of time."""
        self._losses.append((since, until))
        for group in self.groups:
            group.note(since, "the store begins to lose marks")
            for attempts in list(group.attempts.values())[-8:]:
                group.excuses += [
                    _Excuse(since, attempt, self._life_ns) for attempt in attempts if attempt.was_open(since, until)
                ]

    # -- judgement -----------------------------------------------------------------------------------------------------

    def check(self, read: Read) -> list[Violation]:
        """Judge an answer, and learn from it what is seen from now on."""
        found = [self._check(read, part) for part in parts_of(read.kind, read.argument, read.group, read.answer)]
        return [violation for violation in found if violation is not None]

    def _check(self, read: Read, part: Part) -> Violation | None:
        group = self.groups[part.group]
        strange = self._strange_token(group, part)
        if strange is not None:
            return self._violation("nothing that was rolled back is seen", read, group, strange)
        lowest, highest = group.acknowledged.before(read.began), group.intended.before(read.ended)
        if read.snapshot is not None:
            lowest = highest = read.snapshot[part.group]
        seen = group.seen.before(read.began) if read.snapshot is None else 0
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
        """Tell whether rows too old are what is left to be promised: of visible ones, or after a writer's death."""
        is_left = excuse.attempt.died is not None or read.snapshot is not None
        return is_left and self._shown(group, read, part) is not None

    def _shown(self, group: GroupHistory, read: Read, part: Part) -> int | None:
        """Return the newest version that an answer is that of, however old; None where it is of none."""
        known = max(group.intended.before(read.ended), *group.attempts, 0)
        for version in range(known, -1, -1):
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
