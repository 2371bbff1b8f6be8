"""How is a run held together? Faults in one thread, one after the other; here the logs are read and judged meanwhile.

A read is judged a second after it ended, when what was acknowledged before it began is surely on file.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from torture_faults import Fault, Stage
from torture_history import History
from torture_log import (
    Acknowledged,
    Failed,
    Intended,
    Read,
    Record,
    Refused,
    Settled,
    Told,
    Unmarked,
    Wide,
    Withdrawn,
    now_ns,
)
from torture_tally import CALM_NS, Tally

POLL_S: Final = 0.25
SPARED: Final = 0.9
"""So often nobody is killed in the first commit after a loss: it takes the whole database, and its mark would stay."""

TOLD_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long, which faults and how often; ``once_each``: every fault once, in order, before any is drawn by lot."""

    seconds: float
    faults: Sequence[Fault]
    seed: int
    every_s: float = 1.0
    once_each: bool = False
    until_violation: bool = False
    judged_after_s: float = 1.0


class Supervisor:
    """Judges what a crew does under a plan."""

    def __init__(self, stage: Stage, history: History, plan: Plan, tell: Callable[[str], None]) -> None:
        self.tally = Tally()
        self._stage = stage
        self._history = history
        self._plan = plan
        self._tell = tell
        self._waiting: list[tuple[str, Read]] = []
        self._crashed: dict[int, int] = {}
        self._taken_losses = 0
        self._last = "none yet"
        self._error: BaseException | None = None

    def run(self) -> Tally:
        """Run to the end of the plan; raise what a fault raised."""
        self._stage.crew.wait_for_work()
        faults = threading.Thread(target=self._do_faults, daemon=True)
        end = time.monotonic() + self._plan.seconds
        faults.start()
        try:
            self._watch(faults, end)
        except KeyboardInterrupt:
            self._tell("  interrupted")
        self._stage.is_over = True
        self._stage.crew.calm()
        faults.join()
        if self._error is not None:
            raise self._error
        if not self._is_enough():
            time.sleep(self._plan.judged_after_s)
            self._judge()
        return self.tally

    def _watch(self, faults: threading.Thread, end: float) -> None:
        told = time.monotonic()
        while time.monotonic() < end and faults.is_alive() and not self._is_enough():
            time.sleep(POLL_S)
            self._judge()
            if time.monotonic() - told > TOLD_S:
                told = time.monotonic()
                self._tell(f"  {max(0.0, end - told):5.0f} s left: {self.tally.progress()}; last: {self._last}")

    def _is_enough(self) -> bool:
        return self._plan.until_violation and bool(self.tally.violations)

    # -- faults --------------------------------------------------------------------------------------------------------

    def _do_faults(self) -> None:
        dice = random.Random(self._plan.seed)
        queue = list(self._plan.faults) if self._plan.once_each else []
        weights = [fault.weight for fault in self._plan.faults]
        try:
            while not self._stage.is_over:
                due = time.monotonic() + self._plan.every_s
                fault = queue.pop(0) if queue else dice.choices(self._plan.faults, weights)[0]
                losses = len(self._stage.losses)
                fault.do(self._stage, dice)
                if len(self._stage.losses) > losses and dice.random() < SPARED:
                    self._stage.let_them_commit()
                self._last = fault.name
                self.tally.faults[fault.name] += 1
                self._bury_the_dead()
                while not self._stage.is_over and (left := due - time.monotonic()) > 0:
                    time.sleep(min(left, 0.1))
        except BaseException as error:  # the run must end with it
            self._error = error

    def _bury_the_dead(self) -> None:
        """Replace who died at a point when nobody waited for it any more."""
        for worker in self._stage.crew.workers:
            if worker.is_dead:
                self._stage.bury(worker)

    # -- judgement -----------------------------------------------------------------------------------------------------

    def _judge(self) -> None:
        """Read what is new in all logs, and judge what is old enough."""
        deaths, self._stage.deaths = self._stage.deaths, []
        under_way = self._stage.under_way_since
        readers = [found for worker in self._stage.crew.readers for found in worker.records()]
        # After what readers saw: whatever they saw was intended before, and is on file by now.
        writers = [found for worker in self._stage.crew.writers for found in worker.records()]
        self._take_losses()
        for name, record in writers:
            self._take(name, record)
        for name, at in deaths:
            for left in self._history.die(name, at):
                self._crashed[left.intended.group] = at
                self.tally.left_open += 1
                self.tally.left_wide += left.is_wide
        for name, record in readers:
            self._take(name, record)
        self._waiting.sort(key=lambda waiting: waiting[1].ended)
        now = now_ns() if under_way is None else min(now_ns(), under_way)
        old_enough = now - int(self._plan.judged_after_s * 1e9)
        ready = 0
        while ready < len(self._waiting) and self._waiting[ready][1].ended < old_enough:
            ready += 1
        judged, self._waiting = self._waiting[:ready], self._waiting[ready:]
        for name, read in judged:
            self._judge_one(name, read)
        self.tally.excused = self._history.excused

    def _take_losses(self) -> None:
        losses = self._stage.losses
        while self._taken_losses < len(losses):
            self._history.lose_marks(*losses[self._taken_losses])
            self._taken_losses += 1

    def _take(self, name: str, record: Record) -> None:
        if isinstance(record, Intended):
            self._history.intend(record, name)
        elif isinstance(record, Acknowledged):
            self._history.acknowledge(record, name)
            self.tally.writes += 1
            self.tally.owed += record.owed
        elif isinstance(record, Settled):
            self._history.settle(record, name)
        elif isinstance(record, Unmarked):
            self._history.go_on_unmarked(record, name)
            self.tally.unmarked += 1
        elif isinstance(record, Wide):
            self._history.take_much(record, name)
            self.tally.wide += 1
        elif isinstance(record, Withdrawn):
            self._history.withdraw(record, name)
            self.tally.rolled_back += 1
        elif isinstance(record, Failed):
            self._history.fail(record, name)
            self.tally.failures[f"commit: {record.error}"] += 1
        elif isinstance(record, Read):
            self._waiting.append((name, record))
        elif isinstance(record, Told):
            self.tally.told[name] = record
        elif isinstance(record, Refused):
            self.tally.failures[f"read: {record.error}"] += 1

    def _judge_one(self, name: str, read: Read) -> None:
        self.tally.violations += self._history.check(read, name)
        self.tally.count(read, in_outage=self._is_in_outage(read))
        crashed = self._crashed.get(read.group)
        if crashed is not None and read.kind == "group" and read.source == "hit" and read.began > crashed:
            self.tally.past_cache.append((read.ended - crashed) / 1e9)
            del self._crashed[read.group]

    def _is_in_outage(self, read: Read) -> bool:
        for since, until in reversed(self._stage.outages):
            if until + CALM_NS < read.began:
                return False
            if since < read.ended:
                return True
        return False
