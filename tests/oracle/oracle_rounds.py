"""What is a round, and what of it is left when it failed?

A round is one schema and a few examples in it; its seed is all that it takes to see it again. A failed example is made
small: steps are left out as long as it goes on failing.
"""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from oracle_answers import Disagreement
from oracle_dice import Dice
from oracle_draft import NO_WISHES, Wishes
from oracle_play import Play, Scene, Step, scene_of, steps_of
from oracle_tally import Tally
from oracle_world import World

from querycache import _sqlalchemy

EXAMPLES: Final = 3
"""Examples in a round."""


@dataclass(frozen=True, slots=True)
class Kinds:
    """The kinds of questions and writes that a round is confined to; none: all that there are."""

    questions: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()


ALL_KINDS: Final = Kinds()


@dataclass(frozen=True, slots=True)
class Failure:
    """An example in which the cache and the database disagreed, or that ended in an error of somebody's."""

    seed: int
    example: int
    error: BaseException
    told: str

    @property
    def is_disagreement(self) -> bool:
        return isinstance(self.error, Disagreement)


def play_round(
    url: str,
    seed: int,
    tally: Tally,
    *,
    kinds: Kinds = ALL_KINDS,
    wishes: Wishes = NO_WISHES,
    examples: int = EXAMPLES,
    steps: int = 14,
    shrink_seconds: float = 0.0,
    store: str | None = None,
    is_async: bool = False,
) -> Failure | None:
    """Play a round; return its first failure, made small for as many seconds as said.

    ``is_async``: as ``AsyncSession`` does it, in an event loop.
    """

    def play() -> Failure | None:
        return _play_round(
            World(url, seed, tally, wishes, store, is_async=is_async), seed, kinds, examples, steps, shrink_seconds
        )

    return asyncio.run(_sqlalchemy.run_on_bridge(play)) if is_async else play()


def _play_round(
    world: World, seed: int, kinds: Kinds, examples: int, steps: int, shrink_seconds: float
) -> Failure | None:
    tally = world.tally
    try:
        for number in range(examples):
            dice = Dice(seed, number)
            scene = scene_of(dice, world.schema, world.levels, kinds.questions, kinds.writes)
            taken: Sequence[Step] = steps_of(dice, further=steps)
            error = _error_of(world, scene, taken)
            if error is not None:
                tally.disagreements += 1
                if shrink_seconds:
                    taken = _smallest(world, scene, taken, shrink_seconds, type(error))
                return Failure(seed, number, error, _story_of(world, scene, taken, seed))
    finally:
        world.close()
    return None


def _error_of(world: World, scene: Scene, steps: Sequence[Step]) -> Exception | None:
    try:
        Play(world, scene).run(steps)
    except Exception as error:
        # Whatever it is: a read or a write ended otherwise than without the cache, or the oracle itself is wrong.
        return error
    return None


def _smallest(
    world: World, scene: Scene, steps: Sequence[Step], seconds: float, kind: type[BaseException]
) -> Sequence[Step]:
    """Leave out steps, many at a time first, as long as the example goes on failing in its way."""
    end = time.monotonic() + seconds
    size = max(1, len(steps) // 2)
    while size:
        position, smaller = 0, False
        while position < len(steps) and time.monotonic() < end:
            fewer = [*steps[:position], *steps[position + size :]]
            if isinstance(_error_of(world, scene, fewer), kind):
                steps, smaller = fewer, True
            else:
                position += size
        if time.monotonic() >= end:
            break
        if not smaller or size > 1:
            size //= 2
    return steps


def _story_of(world: World, scene: Scene, steps: Sequence[Step], seed: int) -> str:
    """Play the example once more, and tell it."""
    play = Play(world, scene)
    try:
        play.run(steps)
        ending = "(played once more, it does not fail)"
    except Exception as error:
        ending = "".join(traceback.format_exception(error))
    parts = [world.schema.described(world.outside), world.settings, str(scene)]
    for table, rows in world.rows:
        parts.extend(f"{table.name}: {row}" for row in rows)
    return "\n".join((*parts, f"seed {seed}, {len(steps)} steps:", *play.log, ending))
