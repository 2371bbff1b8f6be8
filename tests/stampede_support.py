"""What do the tests of stampedes play with? A statement held where it is about to be sent, and threads that give or raise."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event

from coherence_world import Process, name_of, read_in

FOR_EVER_S = threading.TIMEOUT_MAX
SECONDS = 10.0


class Gate:
    """Where one statement is held. ``arrived``: it came; ``go``: it may go on; ``then``: what happens to it then."""

    def __init__(self) -> None:
        self.arrived = threading.Event()
        self.go = threading.Event()
        self.then: Callable[[], object] = lambda: None


class Held:
    """Holds SELECTs of products of one process, one for each gate, where they are about to be sent."""

    def __init__(self, process: Process) -> None:
        self.gates: list[Gate] = []
        event.listen(process.engine, "before_cursor_execute", self._hold)

    def gate(self) -> Gate:
        """Hold the next one."""
        self.gates.append(Gate())
        return self.gates[-1]

    def _hold(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if self.gates and statement.startswith("SELECT product"):
            gate = self.gates.pop(0)
            gate.arrived.set()
            assert gate.go.wait(6 * SECONDS)
            gate.then()


class Thread(threading.Thread):
    """A thread whose work gives something, or raises; ``ended`` waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.gave: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.gave = self._work()
        except Exception as error:
            self.gave = error

    def ended(self) -> Any:
        self.join(SECONDS)
        assert not self.is_alive(), "it waits"
        return self.gave


@contextmanager
def filling(process: Process, read: Callable[..., Any] = name_of) -> Iterator[tuple[Gate, Thread]]:
    """Have a thread hang in the query of a miss."""
    with several_filling(process, read) as (_, gate, filler):
        yield gate, filler


@contextmanager
def several_filling(process: Process, read: Callable[..., Any] = name_of) -> Iterator[tuple[Held, Gate, Thread]]:
    """The same, where others after it may be held as well."""
    held = Held(process)
    gate = held.gate()
    filler = Thread(lambda: read_in(process, read))
    assert gate.arrived.wait(SECONDS)
    try:
        yield held, gate, filler
    finally:
        gate.go.set()
        filler.ended()
