"""What came of it? Figures that need no memory in proportion to the reads, as text and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from torture_history import Violation
from torture_log import Read, Told

_PER_DECADE: Final = 50
"""Classes of a histogram: each is 4.7% wider than the one before."""

SOURCES: Final = ("hit", "miss", "bypass", "past")

CALM_NS: Final = 1_000_000_000
"""So long after an outage a read is still counted as one of it."""


@dataclass
class Spread:
    """How long things took: quantiles to within a few percent."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, nanoseconds: int) -> None:
        """Count one."""
        self.counts[math.ceil(math.log10(max(nanoseconds, 1)) * _PER_DECADE)] += 1

    def quantile_ms(self, share: float) -> float | None:
        """Return the time that so many were within; None where there were none."""
        left = share * self.counts.total()
        for place in sorted(self.counts):
            left -= self.counts[place]
            if left <= 0:
                return round(math.pow(10, place / _PER_DECADE) / 1e6, 3)
        return None

    def figures(self) -> dict[str, Any]:
        """Return count, median and 99th percentile."""
        return {"count": self.counts.total(), "p50_ms": self.quantile_ms(0.5), "p99_ms": self.quantile_ms(0.99)}


@dataclass
class Tally:
    """The figures of a run."""

    reads: Counter[str] = field(default_factory=Counter)
    forced: Counter[str] = field(default_factory=Counter)
    """Those of readers that were led to one group, most often to one that is being written."""

    writes: int = 0
    rolled_back: int = 0
    owed: int = 0
    unmarked: int = 0
    wide: int = 0
    left_open: int = 0
    left_wide: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    excused: int = 0
    past_cache: list[float] = field(default_factory=list)
    """For each commit that a killed writer left open: seconds until its group was served from the cache again."""

    calm: dict[str, Spread] = field(default_factory=lambda: {source: Spread() for source in SOURCES})
    in_outage: Spread = field(default_factory=Spread)
    snapshots: int = 0
    told: dict[str, Told] = field(default_factory=dict)
    """What the cache of each worker's life counted last."""

    def count(self, read: Read, *, in_outage: bool) -> None:
        """Count a read."""
        self.reads[read.source] += 1
        if read.is_forced:
            self.forced[read.source] += 1
        self.snapshots += read.snapshot is not None
        took = read.ended - read.began
        if not in_outage:
            self.calm[read.source].add(took)
        elif read.source != "past":
            self.in_outage.add(took)

    @property
    def hit_rate(self) -> float:
        """Hits by hits and misses, as ``QueryCache.stats`` says it, of readers that ask what comes."""
        mixed = self.reads - self.forced
        through = mixed["hit"] + mixed["miss"]
        return mixed["hit"] / through if through else 0.0

    def reasons(self) -> Counter[str]:
        """Return how often the caches of all workers gave each reason."""
        return sum((Counter(told.reasons) for told in self.told.values()), Counter())

    @property
    def all_faults(self) -> int:
        return self.faults.total()

    def added_ms(self, share: float) -> float | None:
        """Return by how much reads took longer in outages than from the database past the cache in calm times."""
        slow, usual = self.in_outage.quantile_ms(share), self.calm["past"].quantile_ms(share)
        return None if slow is None or usual is None else round(max(0.0, slow - usual), 3)

    def past_cache_s(self, share: float) -> float:
        """Return within how many seconds after a crash so many groups were served again."""
        times = sorted(self.past_cache)
        return round(times[min(len(times) - 1, int(share * len(times)))], 2) if times else 0.0

    def progress(self) -> str:
        """Return how far it is, in one line."""
        return (
            f"{self.reads.total()} reads, {self.writes} writes, {self.all_faults} faults, "
            f"hit rate {self.hit_rate:.1%}, {len(self.violations)} violations"
        )

    def as_json(self) -> dict[str, Any]:
        """Return all figures."""
        return {
            "reads": dict(self.reads),
            "forced_reads": dict(self.forced),
            "writes": self.writes,
            "rolled_back": self.rolled_back,
            "releases_owed": self.owed,
            "unmarked": self.unmarked,
            "wide": self.wide,
            "left_open_by_the_killed": self.left_open,
            "left_wide_by_the_killed": self.left_wide,
            "failures": dict(self.failures),
            "reasons": dict(self.reasons().most_common(40)),
            "faults": dict(self.faults),
            "hit_rate": round(self.hit_rate, 4),
            "violations": [violation.told for violation in self.violations],
            "excused": self.excused,
            "snapshot_reads": self.snapshots,
            "past_cache_after_a_crash": {
                "crashes": len(self.past_cache),
                "p50_s": self.past_cache_s(0.5),
                "max_s": self.past_cache_s(1),
            },
            "latency": {source: spread.figures() for source, spread in self.calm.items()},
            "in_outage": self.in_outage.figures(),
            "added_in_outage_ms": {"p50": self.added_ms(0.5), "p99": self.added_ms(0.99)},
        }

    def table(self) -> str:
        """Return all figures, to be read."""
        lines = ["faults:"]
        lines += [f"  {count:6}  {name}" for name, count in sorted(self.faults.items())]
        if self.failures:
            lines.append("what raised:")
            lines += [f"  {count:6}  {what}" for what, count in self.failures.most_common(12)]
        lines.append("what the caches said:")
        lines += [f"  {count:6}  {what}" for what, count in self.reasons().most_common(12)]
        lines.append("latency:                          reads       p50       p99")
        for name, spread in (*self.calm.items(), ("in an outage", self.in_outage)):
            told = spread.figures()
            if told["count"]:
                lines.append(f"  {name:28} {told['count']:9} {told['p50_ms']:7.2f} ms {told['p99_ms']:7.2f} ms")
        added = [self.added_ms(share) for share in (0.5, 0.99)]
        if added[0] is not None and added[1] is not None:
            lines.append(
                f"added in an outage, beside the database's own time: p50 {added[0]:.2f} ms, p99 {added[1]:.2f} ms"
            )
        if self.past_cache:
            lines.append(
                f"time past the cache after each of {len(self.past_cache)} crashes that left a commit open: "
                f"p50 {self.past_cache_s(0.5):.1f} s, longest {self.past_cache_s(1):.1f} s"
            )
        lines.append(f"commits that owed their release: {self.owed}, that went on unmarked: {self.unmarked}")
        lines.append(
            f"commits that took whole tables: {self.wide}; left open by who was killed: {self.left_open}, "
            f"of these with whole tables: {self.left_wide}"
        )
        lines.append(f"reads in interleavings that were forced, not counted in the hit rate: {self.forced.total()}")
        lines.append(f"reads in snapshots: {self.snapshots}; excused, as their marks were lost: {self.excused}")
        return "\n".join(lines)
