"""Who works? Processes that are started, killed, stopped and started anew, each life with a log of its own.

Promises: nobody survives the end; a worker that ends by itself is an error with what it said.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final, Literal

from torture_control import Action, Control, Field, Point, make_board
from torture_log import Record, Tail, now_ns

HERE: Final = Path(__file__).resolve().parent
START_S: Final = 60.0
QUIET_S: Final = 0.3


class WorkerEnded(Exception):
    """A worker ended though nobody killed it; the message says what it said."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one worker is told when it starts."""

    role: Literal["reader", "writer"]
    position: int
    database: str
    store: str
    groups: int
    seed: int
    board: str
    name: str = ""
    log: str = ""
    parent: int = 0
    threads: int = 2
    pause_s: float = 0.1
    ttl_s: float = 60.0
    mark_ttl_s: float = 30.0
    on_mark_failure: str | None = None
    reads_back: bool = False
    is_async: bool = False


class Worker:
    """One place in the crew, and whoever has it now."""

    def __init__(self, job: Job, folder: Path, library: Path | None) -> None:
        self._job = job
        self._folder = folder
        self._library = library
        self._life = 0
        self._stopped = False
        self.control = Control(Path(job.board), job.position)
        self.tails: list[tuple[str, Tail]] = []
        self.start()

    @property
    def role(self) -> str:
        return self._job.role

    @property
    def position(self) -> int:
        return self._job.position

    def start(self) -> None:
        """Give the place to a new process."""
        self._life += 1
        self.name = f"{self._job.role} {self._job.position}.{self._life}"
        log = self._folder / f"{self._job.role}-{self._job.position}-{self._life}.log"
        self.tails.append((self.name, Tail(log)))
        job = replace(self._job, name=self.name, log=str(log), parent=os.getpid())
        paths = [] if self._library is None else [str(self._library)]
        if "PYTHONPATH" in os.environ:
            paths.append(os.environ["PYTHONPATH"])
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        with (self._folder / "errors").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "torture_worker.py"), json.dumps(asdict(job))],
                stderr=errors,
                stdout=errors,
                env=environment,
                start_new_session=True,
            )
        self._stopped = False

    @property
    def is_dead(self) -> bool:
        """Whether the process was killed: by the supervisor, or by itself at a point. Raises where it ended otherwise."""
        ended = self._process.poll()
        if ended is None:
            return False
        if ended != -signal.SIGKILL:
            raise WorkerEnded(f"{self.name} ended with {ended}:\n{(self._folder / 'errors').read_text()[-3000:]}")
        return True

    @property
    def is_stopped(self) -> bool:
        return self._stopped

    def kill(self) -> int:
        """Kill, at once and wherever it is; return when it was surely dead."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        return now_ns()

    def stop(self) -> None:
        """Stop the whole process."""
        self._process.send_signal(signal.SIGSTOP)
        self._stopped = True

    def go_on(self) -> None:
        """Continue what was stopped."""
        self._process.send_signal(signal.SIGCONT)
        self._stopped = False

    def close(self) -> None:
        """End it."""
        self.kill()
        self.control.close()

    def records(self) -> Iterator[tuple[str, Record]]:
        """Yield what all lives of this worker have written since the last call."""
        lives = list(self.tails)
        for name, tail in lives:
            for record in tail.records():
                yield name, record
        for ended in lives[:-1]:
            # Dead before this was read: there is nothing more to come.
            ended[1].path.unlink(missing_ok=True)
            self.tails.remove(ended)


class Crew:
    """All workers."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers

    @property
    def readers(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.role == "reader"]

    @property
    def writers(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.role == "writer"]

    def wait_until(self, holds: Callable[[], bool], patience_s: float) -> bool:
        """Wait until something holds, or for so long; tell which."""
        end = time.monotonic() + patience_s
        while not holds():
            if time.monotonic() > end:
                return False
            time.sleep(0.002)
        return True

    def wait_for_work(self) -> None:
        """Wait until everybody has done something."""

        def is_at_work() -> bool:
            done = [
                worker.control[Field.READS if worker.role == "reader" else Field.COMMITS]
                for worker in self.workers
                if not worker.is_dead
            ]
            return all(done)

        if not self.wait_until(is_at_work, START_S):
            raise WorkerEnded(f"no work was done in {START_S:.0f} s")

    @property
    def focused(self) -> list[Worker]:
        """The readers that work on one group at times: a third of them, the others go on with everything."""
        return self.readers[: -(-len(self.readers) // 3)]

    def let_them_read(self, more: int, patience_s: float = 5.0) -> bool:
        """Wait until each reader in focus has done so many reads more; tell whether so."""
        goals = [(reader, reader.control[Field.READS] + more) for reader in self.focused]
        return self.wait_until(lambda: all(one.control[Field.READS] >= goal for one, goal in goals), patience_s)

    def focus(self, group: int) -> None:
        """Have the writers, and some readers, work on one group."""
        for worker in (*self.writers, *self.focused):
            worker.control[Field.FOCUS] = group + 1

    def pause_writers(self, but: Worker | None = None) -> None:
        """Have the writers begin nothing new; ``None`` but one."""
        for writer in self.writers:
            writer.control[Field.PAUSED] = int(writer is not but)

    def quieten_writers(self) -> None:
        """Have the writers begin nothing new, and give them time to be done with what they began."""
        done: list[int] = []
        while True:
            # Each time anew: who ends the run has everybody go on.
            self.pause_writers()
            now = [writer.control[Field.COMMITS] for writer in self.writers]
            if now == done:
                return
            done = now
            time.sleep(QUIET_S)

    def calm(self) -> None:
        """Let everybody go on, with everything."""
        for worker in self.workers:
            worker.control.reset()
            if worker.is_stopped and not worker.is_dead:
                worker.go_on()

    def hold(self, worker: Worker, point: Point, patience_s: float = 5.0) -> bool:
        """Have a worker wait at a point; tell whether it came there."""
        worker.control.arm(point, Action.WAIT)
        return self.wait_until(lambda: bool(worker.control[Field.ARRIVED]) or worker.is_dead, patience_s)


@contextmanager
def crew_of(jobs: list[Job], folder: Path, library: Path | None) -> Iterator[Crew]:
    """Start a worker for each job; all are gone afterwards."""
    make_board(Path(jobs[0].board), len(jobs))
    workers: list[Worker] = []
    try:
        for job in jobs:
            workers.append(Worker(job, folder, library))
        yield Crew(workers)
    finally:
        for worker in workers:
            worker.close()
