"""Should this read ask the database although the store has its entry, because that will soon expire?

Probabilistic early expiration ("XFetch": Vattani, Chierichetti, Lowenstein, Optimal Probabilistic Cache Stampede Prevention,
VLDB 2015): a read does so with a probability that grows towards the end as the time that the statement takes (delta) and
``beta`` command, so that most likely one reader of many, in one process of many, is early, and all others go on being served.

Promises: never in the first half of an entry's life, so that a statement that takes as long as its rows live is not sent all
the time. Costs a comparison of two numbers before. Never: what is not known to be worth it is refreshed; what a
statement takes is what it took when this process last sent it, with whatever values.
"""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Callable
from typing import Final

from querycache._types import Lookup
from querycache.errors import ConfigurationError
from querycache.questions import Plan, Question

BETA: Final = 1.0
_HALF_NS: Final = 0.5e9
_SURELY_NOT: Final = 20.0
"""Times what a statement takes: one in 500 million reads is early by more."""


class EarlyRefresh:
    """Draws lots for one cache. ``beta``: above 1 is earlier, below 1 later, 0 never."""

    def __init__(self, beta: float = BETA, draw: Callable[[], float] = random.random) -> None:
        """``draw`` gives a number from 0 up to, but not including, 1."""
        if not 0 <= beta < math.inf:
            raise ConfigurationError(f"early_refresh={beta!r}: give a number, 0 or more; 0 never refreshes early")
        self._beta = beta
        self._draw = draw
        self._took_ns: weakref.WeakKeyDictionary[Plan, float] = weakref.WeakKeyDictionary()

    def note(self, plan: Plan, took_s: float) -> None:
        """Remember how long a statement took, its rows included."""
        self._took_ns[plan] = took_s * 1e9

    def may_be_due(self, question: Question, found: Lookup) -> bool:
        """Tell whether one who found this may draw the lot, by the time that is left."""
        left_ns = found.expires - found.now
        if left_ns > question.ttl_s * _HALF_NS or left_ns <= 0:
            return False
        took_ns = self._took_ns.get(question.plan)
        return took_ns is not None and left_ns <= _SURELY_NOT * self._beta * took_ns

    def is_due(self, question: Question, found: Lookup) -> bool:
        """Tell whether one who found this should read it anew."""
        if not self.may_be_due(question, found):
            return False
        left_ns = found.expires - found.now
        return left_ns <= -math.log(1 - self._draw()) * self._beta * self._took_ns[question.plan]
