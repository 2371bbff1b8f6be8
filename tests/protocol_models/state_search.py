"""Is there a schedule under which a model breaks its promise?

Every action that is possible in a state is tried, in every state that can be reached, breadth first: a broken promise is
shown by a shortest schedule. Worlds whose ``key`` is equal are one state; the first one reached stands for all of them.

Never does: guess. A search that was stopped by its limit says so, and proves nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol, Self, TypeAlias

Action: TypeAlias = tuple[str, int]
"""What happens next, and to whom: the verb, and the position of a writer, reader, tag or entry."""

PROGRESS_EVERY: Final = 20_000


class World(Protocol):
    """One state of a model, which can be copied and moved on."""

    story: list[str] | None
    """Where ``apply`` tells what happened; None while nobody listens."""

    def copy(self) -> Self:
        """Return a world that goes its own way from here."""

    def key(self) -> Hashable:
        """Return what tells this state from others: equal keys have equal futures."""

    def actions(self) -> Iterable[Action]:
        """List what may happen next."""

    def apply(self, action: Action) -> str:
        """Let it happen; return what it breaks, or an empty string. May raise ``AssertionError`` instead."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a search found. ``schedule`` leads to what is broken; ``is_whole``: no state was left out."""

    states: int
    steps: int
    broken: str = ""
    schedule: tuple[Action, ...] = ()
    is_whole: bool = True

    @property
    def holds(self) -> bool:
        """Tell whether the promise was kept in every state there is."""
        return self.is_whole and not self.broken


_Parents: TypeAlias = dict[Hashable, tuple[Hashable, Action] | None]


def search(
    start: World, *, max_states: int = 5_000_000, on_progress: Callable[[int, int], object] | None = None
) -> Verdict:
    """Look at every state that can be reached from ``start``; stop at the first broken promise.

    ``on_progress`` is called now and then with the states known and those that wait.
    """
    first = start.key()
    parents: _Parents = {first: None}
    waiting = deque([(start, first)])
    steps = 0
    while waiting:
        world, key = waiting.popleft()
        for action in world.actions():
            child = world.copy()
            broken = applied(child, action)
            steps += 1
            if broken:
                return Verdict(len(parents), steps, broken, (*_schedule_to(key, parents), action))
            child_key = child.key()
            if child_key in parents:
                continue
            parents[child_key] = (key, action)
            waiting.append((child, child_key))
            if on_progress is not None and len(parents) % PROGRESS_EVERY == 0:
                on_progress(len(parents), len(waiting))
            if len(parents) >= max_states:
                return Verdict(len(parents), steps, is_whole=False)
    return Verdict(len(parents), steps)


def shortest_schedules(start: World, visit: Callable[[tuple[Action, ...]], object]) -> int:
    """Give ``visit`` a shortest schedule for every step of the model; return how many there were.

    A step that leads where another one led before is visited too: what it does elsewhere may be different.
    """
    first = start.key()
    parents: _Parents = {first: None}
    waiting = deque([(start, first)])
    steps = 0
    while waiting:
        world, key = waiting.popleft()
        before = _schedule_to(key, parents)
        for action in world.actions():
            child = world.copy()
            child.apply(action)
            steps += 1
            visit((*before, action))
            child_key = child.key()
            if child_key not in parents:
                parents[child_key] = (key, action)
                waiting.append((child, child_key))
    return steps


def all_schedules(start: World, visit: Callable[[World], object]) -> int:
    """Play every schedule there is to its end, whatever states they share; return how many there were.

    ``visit`` gets each world at its end. A broken promise is raised as ``AssertionError``, with its schedule.
    """
    ends = 0
    stack: list[tuple[World, tuple[Action, ...]]] = [(start, ())]
    while stack:
        world, schedule = stack.pop()
        is_over = True
        for action in world.actions():
            is_over = False
            child = world.copy()
            broken = applied(child, action)
            if broken:
                raise AssertionError(retold(start, (*schedule, action)))
            stack.append((child, (*schedule, action)))
        if is_over:
            ends += 1
            visit(world)
    return ends


def applied(world: World, action: Action) -> str:
    """Apply an action; a failed assertion counts as what it breaks."""
    try:
        return world.apply(action)
    except AssertionError as error:
        return str(error) or "an assertion failed"


def retold(start: World, schedule: Iterable[Action]) -> str:
    """Tell a schedule as numbered lines, the broken promise last."""
    world = start.copy()
    story: list[str] = []
    world.story = story
    for action in schedule:
        broken = applied(world, action)
        if broken:
            story.append(f"BROKEN: {broken}")
    return "\n".join(f"{number:3}  {line}" for number, line in enumerate(story, 1))


def _schedule_to(key: Hashable, parents: _Parents) -> tuple[Action, ...]:
    schedule: list[Action] = []
    step = parents[key]
    while step is not None:
        schedule.append(step[1])
        step = parents[step[0]]
    return tuple(reversed(schedule))
