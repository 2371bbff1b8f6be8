"""How long does each part of a call take by itself, when parts call each other?

Functions are wrapped; each wrapper keeps what it took without what wrapped functions below it took. What a wrapper itself costs
is measured on a function that does nothing, and taken off: once from its own part, once from its caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Final

REST: Final = ""
"""The part of whatever is done in no wrapped function."""

_CALIBRATION: Final = 500


@dataclass(slots=True)
class Part:
    """Nanoseconds that were spent in a part alone, its calls, and calls of other parts from it."""

    own_ns: int = 0
    calls: int = 0
    below: int = 0


@dataclass(slots=True)
class Stopwatch:
    """Adds up what parts take. For one thread."""

    parts: dict[str, Part] = field(default_factory=dict)
    _stack: list[list[int]] = field(default_factory=lambda: [[0, 0]])

    def wrapped(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same, and adds what it takes to a part."""
        stack, clock, entry = self._stack, time.perf_counter_ns, self.parts.setdefault(part, Part())

        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            below = [0, 0]
            stack.append(below)
            start = clock()
            try:
                return function(*args, **options)
            finally:
                took = clock() - start
                stack.pop()
                entry.own_ns += took - below[0]
                entry.calls += 1
                entry.below += below[1]
                above = stack[-1]
                above[0] += took
                above[1] += 1

        return timed

    def forget(self) -> None:
        """Begin again."""
        for part in self.parts.values():
            part.own_ns = part.calls = part.below = 0
        self._stack[0][:] = 0, 0

    def taken(self, cost: Cost) -> dict[str, float]:
        """Return the nanoseconds of each part, without what the wrappers cost."""
        return {
            name: part.own_ns - part.calls * cost.inside_ns - part.below * cost.outside_ns
            for name, part in self.parts.items()
        }


@dataclass(frozen=True, slots=True)
class Cost:
    """What a wrapper costs: within what it measures, and beyond, in its caller."""

    inside_ns: float
    outside_ns: float


def cost_of_a_wrapper() -> Cost:
    """Measure it."""
    watch = Stopwatch()

    def nothing(one: object, *, other: object) -> None:
        return None

    timed, inside, whole, plain = watch.wrapped("nothing", nothing), [], [], []
    for _ in range(80):
        watch.forget()
        whole.append(_time(timed))
        inside.append(watch.parts["nothing"].own_ns / _CALIBRATION)
        plain.append(_time(nothing))
    bare = min(plain)
    # The plain call's own cost is part of what is measured inside.
    return Cost(min(inside) - bare / 2, min(whole) - min(inside) - bare / 2)


def _time(function: Callable[..., Any]) -> float:
    start = time.perf_counter_ns()
    for _ in range(_CALIBRATION):
        function(1, other=2)
    return (time.perf_counter_ns() - start) / _CALIBRATION


@contextmanager
def patched(patches: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """Have attributes of modules and classes replaced for a while."""
    before = [(owner, name, vars(owner)[name]) for owner, name, _ in patches]
    for owner, name, value in patches:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
