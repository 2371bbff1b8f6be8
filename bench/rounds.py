"""How are variants of one thing compared on a machine whose speed drifts?

All are done in turn, round after round, each round in an order of its own; a turn is three times in a row, of which the middle
one counts, since the first finds the processor's caches full of others. The ratio is taken within a round, and its median and
spread over the rounds. No absolute time leaves this file: those of two machines, or two moments, are not comparable.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

K = TypeVar("K", bound=Hashable)

Timed = Callable[[], float]
"""Does a thing once, and returns how long the part took that counts."""

WARM_UP = 5
IN_A_ROW = 3


class BenchError(Exception):
    """Something was not measured, or cannot be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """One result: ``store`` in relation to ``against``, its median and the 10th and 90th percentile of ``n`` rounds."""

    group: str
    case: str
    store: str
    against: str
    ratio: float
    p10: float
    p90: float
    n: int

    def as_json(self) -> dict[str, Any]:
        """Return it as in results/latest.json."""
        return asdict(self)


def in_turns(
    variants: Mapping[K, Timed], rounds: int, *, warm_up: int = WARM_UP, seed: int = 5
) -> dict[K, list[float]]:
    """Time each variant once a round, three times in a row; return the times of each, by round."""
    dice, turns = random.Random(seed), list(variants.items())
    times: dict[K, list[float]] = {name: [] for name in variants}
    for number in range(-warm_up, rounds):
        dice.shuffle(turns)  # who comes after whom may cost more than the difference
        for name, timed in turns:
            took = statistics.median(timed() for _ in range(IN_A_ROW))
            if number >= 0:
                times[name].append(took)
    return times


def compared(group: str, case: str, store: str, against: str, mine: Iterable[float], theirs: Iterable[float]) -> Row:
    """Make a result of what two variants took, round by round."""
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    return told(group, case, store, against, ratios)


def told(group: str, case: str, store: str, against: str, ratios: list[float]) -> Row:
    """Make a result of ratios, or of another figure that has no unit."""
    ordered = sorted(ratios)
    if not ordered:
        raise BenchError(f"{group}, {case}: nothing was measured")
    return Row(
        group,
        case,
        store,
        against,
        round(statistics.median(ordered), 4),
        round(ordered[len(ordered) // 10], 4),
        round(ordered[len(ordered) * 9 // 10], 4),
        len(ordered),
    )
