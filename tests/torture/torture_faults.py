"""What can happen to the workers, whatever the store is, and what does a fault have to go on?

A fault is a function of the stage and dice. It may wait for workers to come somewhere, never for a time to pass by luck; when
it returns, everybody works again.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Final, TypeAlias

from torture_control import Action, Field, Point
from torture_crew import Crew, Worker
from torture_log import now_ns


class StoreUnderTest(ABC):
    """A store that can be made to suffer. ``faults``: what is particular to it.

    ``lag_s``: how late a worker may hear of others' commits.
    """

    name: ClassVar[str]
    lag_s: float = 0.0

    @abstractmethod
    def url_for(self, position: int) -> str:
        """Return the URL by which the worker at a position reaches the store."""

    @abstractmethod
    def faults(self) -> Sequence[Fault]:
        """Return what can happen to this store."""

    @abstractmethod
    def lose_everything(self) -> None:
        """Have the store lose all that it holds, marks too, at once."""


@dataclass
class Stage:
    """Everything that a fault works on, and where it says what happened."""

    crew: Crew
    store: StoreUnderTest
    groups: int
    mark_ttl_s: float
    entry_life_s: float
    deaths: list[tuple[str, int]] = field(default_factory=list)
    losses: list[tuple[int, int]] = field(default_factory=list)
    outages: list[tuple[int, int]] = field(default_factory=list)
    under_way_since: int | None = None
    is_over: bool = False

    def bury(self, worker: Worker) -> None:
        """Note that a worker is dead, and start another in its place."""
        died = worker.kill()
        self.deaths.append((worker.name, died))
        worker.start()

    def let_them_commit(self) -> None:
        """Wait until each writer has committed once more, for a while."""
        goals = [(writer, writer.control[Field.COMMITS] + 2) for writer in self.crew.writers]
        self.crew.wait_until(
            lambda: self.is_over or all(one.control[Field.COMMITS] >= goal for one, goal in goals), 3.0
        )

    @contextmanager
    def marks_may_be_lost(self) -> Iterator[None]:
        """A block in which marks may be lost. Nothing that is read in it is judged before its end."""
        self.under_way_since = since = now_ns()
        try:
            yield
        finally:
            self.losses.append((since, now_ns()))
            self.under_way_since = None

    @contextmanager
    def outage(self) -> Iterator[None]:
        """A block in which the store is slow, or does not answer."""
        since = now_ns()
        try:
            yield
        finally:
            self.outages.append((since, now_ns()))


Act: TypeAlias = Callable[[Stage, random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that can happen, and how often beside others.

    What has all marks and stamps lost is rare: whoever commits next takes the whole database, as it cannot know what was
    changed of the catalog meanwhile, and if he is killed then, nobody is served anything for the life of a mark.
    """

    name: str
    weight: float
    do: Act


def kill_at(point: Point, stage: Stage, dice: random.Random) -> None:
    """Have a writer be killed at a point of its commit."""
    writer = dice.choice(stage.crew.writers)
    writer.control.arm(point, Action.DIE)
    stage.crew.wait_until(lambda: writer.is_dead or stage.is_over, 5.0)
    stage.bury(writer)
    writer.control.reset()


def kill(role: str, stage: Stage, dice: random.Random) -> None:
    """Kill a worker wherever it is."""
    stage.bury(dice.choice([worker for worker in stage.crew.workers if worker.role == role]))


def stop(role: str, stage: Stage, dice: random.Random) -> None:
    """Stop a whole worker, which may hold a lock or a mark, and let it go on."""
    worker = dice.choice([worker for worker in stage.crew.workers if worker.role == role])
    with stage.outage():
        worker.stop()
        time.sleep(dice.uniform(0.1, 1.5))
        worker.go_on()


def fail_release(stage: Stage, dice: random.Random) -> None:
    """Have a release fail, so that it is owed."""
    writer = dice.choice(stage.crew.writers)
    writer.control.arm(Point.BEFORE_RELEASE, Action.FAIL)
    stage.crew.wait_until(lambda: bool(writer.control[Field.ARRIVED]) or stage.is_over, 5.0)
    writer.control.reset()


KILL_POINTS: Final = (
    Point.BEFORE_MARK,
    Point.AFTER_MARK,
    Point.BEFORE_COMMIT,
    Point.AFTER_COMMIT,
    Point.BEFORE_RELEASE,
    Point.AFTER_RELEASE,
)


def _shown(point: Point) -> str:
    return point.name.lower().replace("_", " ")


OF_WORKERS: Final = (
    *(Fault(f"kill a writer {_shown(point)}", 0.5, partial(kill_at, point)) for point in KILL_POINTS),
    Fault("kill a writer anywhere", 3, partial(kill, "writer")),
    Fault("kill a reader anywhere", 2, partial(kill, "reader")),
    Fault("stop a writer", 4, partial(stop, "writer")),
    Fault("stop a reader", 4, partial(stop, "reader")),
    Fault("a release fails", 1.5, fail_release),
)
