"""Where do the oracle's random choices come from?

From one number each: the same number gives the same choices, on every machine and in every process.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Choices that follow from a seed."""

    def __init__(self, *seed: object) -> None:
        self._random = random.Random("/".join(map(str, seed)))

    def happens(self, chance: float) -> bool:
        """Tell whether something of this chance happens."""
        return self._random.random() < chance

    def number(self, low: int, high: int) -> int:
        """Return a number between two, both included."""
        return self._random.randint(low, high)

    def one_of(self, choices: Sequence[T]) -> T:
        """Return one of several."""
        return self._random.choice(choices)

    def weighted(self, choices: Sequence[tuple[T, int]]) -> T:
        """Return one of several, each as often as its weight says."""
        return self._random.choices([choice for choice, _ in choices], [weight for _, weight in choices])[0]

    def some_of(self, choices: Sequence[T], low: int = 0, high: int | None = None) -> list[T]:
        """Return several different ones in any order, between ``low`` and ``high`` of them as far as there are so many."""
        most = len(choices) if high is None else min(high, len(choices))
        return self._random.sample(list(choices), self._random.randint(min(low, most), most))

    def seed(self) -> int:
        """Return the seed of further dice."""
        return self._random.randrange(2**32)
