"""Whatever reads are under way together, what a grace gives out is no older than it promises."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from querycache.graces import Graces

KEY = (b"key", 1)
GRACE_S = 6.0
READS = 2


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
        if step in ("a moment", "long"):
            self.now += 1 if step == "a moment" else GRACE_S
        elif step in ("other changes", "own change"):
            self.version += 1
            self.changes.append((self.now, self.version))
            if step == "own change":
                self.changed_at, self.own = self.now, self.version
        else:
            self._go_on_with(read, is_at_hand=step == "read")

    def _go_on_with(self, read: int, *, is_at_hand: bool) -> None:
        """Ask, or see what is there, or know it; where its rows are not at hand for others the reader has them all the same."""
        under = self.under[read]
        if under is None:
            self.under[read] = Under(self.now)
        elif under.version is None:
            under.version = self.version
        else:
            payload, after = (b"%d" % under.version, under.after) if is_at_hand else (None, float("-inf"))
            self.graces.keep(KEY, payload, after)
            self.seen = max(self.seen, under.version)
            self.under[read] = None

    def check(self) -> None:
        payload = self.graces.of(KEY, GRACE_S, self.changed_at)
        if payload is not None:
            given = int(payload)
            assert given >= max(version for at, version in self.changes if at < self.now - GRACE_S), "older than said"
            assert given >= self.own, "a change of this process's own is un-seen"
            assert given >= self.seen, "what a reader of this process saw is un-seen"


OFTEN = 6
STEPS = st.sampled_from(
    [("read", 0), ("read", 1)] * OFTEN
    + [("read unheard", 0), ("other changes", 0), ("other changes", 0), ("own change", 0), ("a moment", 0), ("long", 0)]
)
OVERTAKEN = [("read", 0), ("read", 0), ("other changes", 0), ("read", 1), ("read", 1), ("read", 1), ("read", 0)]
"""A read that saw less ends after one that saw more."""

OUTLIVED = [("read", 0), ("read", 0), ("read", 0), ("other changes", 0), ("a moment", 0), ("long", 0)]
"""A change is longer ago than the grace."""


@example(OVERTAKEN)
@example(OUTLIVED)
@settings(max_examples=500)
@given(st.lists(STEPS, max_size=40))
def test_what_is_given_out_is_as_young_as_promised(steps: list[tuple[str, int]]) -> None:
    world = World()
    world.changes[0] = (float("-inf"), 0)
    for step, read in steps:
        world.act(step, read)
        world.check()
