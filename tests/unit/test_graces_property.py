"""Whatever reads are under way together, what a grace gives out is no older than it promises."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from querycache.graces import Graces

KEY = (b"key", 1)
GRACE_S = 6.0
READS = 3


@dataclass
class Under:
    """A read under way: when it was asked, and what it saw as soon as it saw something."""

    after: float
    version: int | None = None


@dataclass
class World:
    """A row that is a number, changed by this process and by others, and reads of it that overlap in any way."""

    now: float = 0.0
    version: int = 0
    changes: list[tuple[float, int]] = field(default_factory=lambda: [(-1.0, 0)])
    changed_at: float = -1.0
    own: int = 0
    seen: int = 0
    under: list[Under | None] = field(default_factory=lambda: [None] * READS)

    def __post_init__(self) -> None:
        self.graces = Graces(clock=lambda: self.now)

    def act(self, step: str, read: int) -> None:
        under = self.under[read]
        if step == "wait":
            self.now += 1
        elif step in ("other changes", "own change"):
            self.version += 1
            self.changes.append((self.now, self.version))
            if step == "own change":
                self.changed_at, self.own = self.now, self.version
        elif step == "ask" and under is None:
            self.under[read] = Under(self.now)
        elif step == "see" and under is not None and under.version is None:
            under.version = self.version
        elif step in ("know", "have seen") and under is not None and under.version is not None:
            # A reader whose rows are not at hand for others has seen them all the same.
            payload = b"%d" % under.version if step == "know" else None
            self.graces.keep(KEY, payload, under.after if step == "know" else float("-inf"))
            self.seen = max(self.seen, under.version)
            self.under[read] = None

    def check(self) -> None:
        payload = self.graces.of(KEY, GRACE_S, self.changed_at)
        if payload is not None:
            given = int(payload)
            assert given >= max(version for at, version in self.changes if at < self.now - GRACE_S), "older than said"
            assert given >= self.own, "a change of this process's own is un-seen"
            assert given >= self.seen, "what a reader of this process saw is un-seen"


STEPS = st.tuples(
    st.sampled_from(["wait", "other changes", "own change", "ask", "see", "know", "know", "have seen", "ask", "see"]),
    st.integers(0, READS - 1),
)


@settings(max_examples=800)
@given(st.lists(STEPS, max_size=60))
def test_what_is_given_out_is_as_young_as_promised(steps: list[tuple[str, int]]) -> None:
    world = World()
    world.changes[0] = (float("-inf"), 0)
    for step, read in steps:
        world.act(step, read)
        world.check()
