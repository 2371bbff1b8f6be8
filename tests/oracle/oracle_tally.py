"""What did the oracle ask and write, and what became of it?

By kind, so that one sees that nothing sits idle: a kind of question that is never answered from the cache, or a kind of
write that never happens, finds nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from oracle_questions import QUESTIONS
from oracle_writes import WRITES

ON_POSTGRESQL_ONLY: Final = frozenset({"lateral", "code in the database"})
NOT_ON_MYSQL: Final = frozenset({"ORM upsert", "DML in a CTE"})
NEVER_CACHED: Final = frozenset({"past the cache"})
"""Kinds of questions that pass the cache by, as the library is."""


@dataclass(slots=True)
class Tally:
    """Counts of one run."""

    examples: int = 0
    comparisons: int = 0
    disagreements: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    bypasses: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def all_hits(self) -> int:
        return self.hits.total()

    def told(self) -> str:
        """Return a line that says what was done so far."""
        return (
            f"{self.examples} examples, {self.comparisons} comparisons, {self.all_hits} hits, "
            f"{self.counts['defect']} defects counted, {self.disagreements} disagreements"
        )

    def table(self) -> str:
        """Return what became of each kind."""
        lines = [f"{'question':34}{'asked':>8}{'hits':>8}{'bypassed':>10}{'errors':>8}"]
        for kind in QUESTIONS:
            counts = self.asked[kind], self.hits[kind], self.bypasses[kind], self.errors[kind]
            lines.append(f"{kind:34}{counts[0]:8}{counts[1]:8}{counts[2]:10}{counts[3]:8}")
        lines.append(f"{'write':34}{'done':>8}{'refused':>8}")
        lines.extend(f"{kind:34}{self.done[kind]:8}{self.refused[kind]:8}" for kind in (*WRITES, *_further(self)))
        return "\n".join(lines)

    def idle(self, dialect: str) -> list[str]:
        """Return the kinds that had no effect: never a hit, never done."""
        off = set(ON_POSTGRESQL_ONLY) if dialect != "postgresql" else set()
        off |= NOT_ON_MYSQL if dialect in ("mysql", "mariadb") else set()
        never = [kind for kind in QUESTIONS if not self.hits[kind] and kind not in NEVER_CACHED]
        return [kind for kind in (*never, *(kind for kind in WRITES if not self.done[kind])) if kind not in off]


def _further(tally: Tally) -> Iterable[str]:
    return sorted((set(tally.done) | set(tally.refused)) - set(WRITES))
