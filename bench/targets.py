"""What is wanted, and was it reached? The figures below which a release is not good enough, each a ratio of one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from rounds import Row
from screen import figure


@dataclass(frozen=True, slots=True)
class Target:
    """One figure: where it stands in the results, and what it must not exceed, or fall below."""

    group: str
    case: str
    store: str
    against: str
    limit: float
    way: Literal["most", "least"] = "most"
    says: str = ""

    @property
    def place(self) -> tuple[str, str, str, str]:
        return self.group, self.case, self.store, self.against

    def is_met_by(self, ratio: float) -> bool:
        return ratio <= self.limit if self.way == "most" else ratio >= self.limit


TARGETS: Final = (
    Target("hit", "get", "lmdb", "postgresql-open", 0.05),
    Target("hit", "select-1", "lmdb", "postgresql", 0.09),
    Target("hit", "select-100", "lmdb", "postgresql", 0.14),
    Target("hit", "select-1000", "lmdb", "postgresql", 0.35),
    Target("hit", "selectin-10x5", "lmdb", "postgresql", 0.14),
    Target("hit", "joined-10x5", "lmdb", "postgresql", 0.14),
    Target("hit", "select-1", "redis", "postgresql", 0.25),
    Target("hit", "select-100", "redis", "postgresql", 0.25),
    Target("hit", "select-1", "redis-near", "postgresql", 0.2),
    Target("hit", "select-100", "redis-near", "postgresql", 0.2),
    Target("peers", "select-100", "redis", "dogpile-recipe", 0.14),
    Target("miss", "select-1", "lmdb", "postgresql", 1.1),
    Target("write", "update-1-by-key", "lmdb", "postgresql", 1.1),
    Target("write", "update-1", "lmdb", "statements-per-table", 1.0, says="statements added for each table"),
    Target("write", "update-1", "redis", "round-trips", 2.0, says="round trips added to a commit"),
    *(Target("scale", "hit-1m", store, "hit-1k", 1.15) for store in ("memory", "lmdb", "redis")),
    *(Target("scale", "invalidate-1m", store, "invalidate-1", 1.2) for store in ("memory", "lmdb", "redis")),
    Target("app", "bidding", "lmdb", "no-cache", 5.2, "least"),
    Target("app", "bidding-stale", "lmdb", "pages", 0.0, says="stale pages by pages"),
)


def verdicts(rows: list[Row], notes: Mapping[tuple[str, str, str, str], str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield for each target what it is, what was wanted, what was measured, and the verdict; ``notes`` are said beside it."""
    found = {(row.group, row.case, row.store, row.against): row.ratio for row in rows}
    for target in TARGETS:
        what = f"{target.group}: {target.case}, {target.store} / {target.against}"
        if target.says:
            what += f" ({target.says})"
        wanted = f"{'≤' if target.way == 'most' else '≥'} {target.limit:g}"
        ratio = found.get(target.place)
        if ratio is None:
            yield what, wanted, "", "not measured"
            continue
        note = notes.get(target.place, "")
        verdict = "met" if target.is_met_by(ratio) else "not met"
        yield what + (f"\n  {note}" if note else ""), wanted, figure(ratio), verdict
