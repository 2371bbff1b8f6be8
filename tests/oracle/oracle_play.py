"""Do a cached and an uncached Session agree after every step?

An example is a list of random steps in a world: two cached Sessions that read, write, commit and roll back between one
another, savepoints, writes on connections of their own with and without AUTOCOMMIT, DDL. After each step that may have
changed what others see, every question asked so far is asked again, by a new Session through the cache and past it. What a
step does follows from its own seed, so that steps can be left out and the others stay what they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import oracle_kinds  # noqa: F401
from oracle_ddl import ddl
from oracle_dice import Dice
from oracle_questions import QUESTIONS, Question, draw_question
from oracle_schema import Schema
from oracle_stage import Stage
from oracle_world import Side, World
from oracle_writes import CORE_WRITES, WRITES, CoreWrite, SessionWrite, Write, draw_write
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction

MAX_QUESTIONS: Final = 6


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens, and the seed of its choices."""

    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class Scene:
    """What an example is about: classes, kinds of questions and writes, an isolation level."""

    focus: tuple[type[Any], ...]
    questions: tuple[str, ...]
    writes: tuple[str, ...]
    level: str | None
    taste: int

    def __str__(self) -> str:
        return (
            f"about {', '.join(model.__name__ for model in self.focus)}, at {self.level or 'the default level'}\n"
            f"questions: {', '.join(self.questions)}\nwrites: {', '.join(self.writes)}"
        )


class Slot:
    """One of the Sessions that live through several steps, with its open savepoints."""

    def __init__(self, side: Side, level: str | None, *, twophase: bool = False) -> None:
        self.side = side
        self.session: Session = side.session(level, twophase=twophase)
        self.savepoints: list[SessionTransaction] = []

    def perform(self, write: Write, *, flush: bool = True) -> bool:
        """Write; roll back where that is refused. Tell whether it was done."""
        try:
            if isinstance(write, SessionWrite):
                write.perform(self.session)
            else:
                self.session.flush()
                write.perform(self.session.connection())
            if flush:
                self.session.flush()
        except _REFUSALS:
            self.roll_back()
            return False
        return True

    def flush(self) -> None:
        """Send what is pending, so that what follows is a read and nothing else."""
        try:
            self.session.flush()
        except _REFUSALS:
            self.roll_back()

    def commit(self) -> None:
        try:
            self.session.commit()
            self.savepoints.clear()
        except _REFUSALS:
            self.roll_back()

    def roll_back(self) -> None:
        self.session.rollback()
        self.savepoints.clear()

    def close(self) -> None:
        self.session.close()
        self.savepoints.clear()


_REFUSALS: Final = (SQLAlchemyError, AssertionError, NotImplementedError)
"""The database's, the unit of work's or the compiler's answer to a write that makes no sense."""


class Play:
    """One example under way. ``log`` says what was done."""

    def __init__(self, world: World, scene: Scene) -> None:
        self.world = world
        self.scene = scene
        self.questions: list[Question] = []
        self.log: list[str] = []
        self.changed = False
        world.begin()
        self.slots = [Slot(world.sides[i % len(world.sides)], scene.level) for i in range(2)]

    def run(self, steps: Iterable[Step]) -> None:
        """Take the steps; raise ``Disagreement`` where the cache and the database disagree."""
        try:
            with warnings.catch_warnings():
                # SQLAlchemy has something to say about much of this.
                warnings.simplefilter("ignore")
                for step in steps:
                    STEPS[step.name][0](self, Dice(step.seed))
                    self._compare_all()
        finally:
            for slot in self.slots:
                slot.close()

    def _compare_all(self) -> None:
        if self.changed:
            for question in self.questions:
                self.world.compare_afresh(question)
        self.changed = False

    def stage(self, dice: Dice) -> Stage:
        return Stage(self.world.schema, dice, self.scene.focus, self.scene.taste)

    def note(self, line: str) -> None:
        self.log.append(line)

    def ask_within(self, slot: Slot, asked: Sequence[Question], mode: str) -> None:
        slot.flush()
        try:
            for question in asked:
                self.world.compare_within(slot.side, question, slot.session, mode)
        except DBAPIError as error:
            # A serialization failure: the database's, or the cache's in its place.
            self.note(f"    ended by {type(error).__name__}: {str(error.orig)[:100]}")
            slot.roll_back()

    def perform(self, slot: Slot, write: Write, *, flush: bool = True) -> None:
        done = slot.perform(write, flush=flush)
        self.count(write.kind, done)

    def count(self, kind: str, done: bool) -> None:
        (self.world.tally.done if done else self.world.tally.refused)[kind] += 1
        if not done:
            self.note("    refused")


Action: TypeAlias = Callable[[Play, Dice], None]
STEPS: Final[dict[str, tuple[Action, int]]] = {}
"""What may happen in an example, and how often."""


def step(weight: int) -> Callable[[Action], Action]:
    """Add a step under its function's name."""

    def add(action: Action) -> Action:
        STEPS[action.__name__] = (action, weight)
        return action

    return add


# -- reads -------------------------------------------------------------------------------------------------------------


@step(5)
def ask_something_new(play: Play, dice: Dice) -> None:
    question = draw_question(play.stage(dice), play.scene.questions)
    play.note(f"ask {question}")
    play.questions = [*play.questions, question][-MAX_QUESTIONS:]
    play.world.compare_afresh(question)


@step(8)
def ask_within(play: Play, dice: Dice) -> None:
    number, mode = dice.number(0, 1), dice.one_of(["fresh", "fresh", "expired", "kept"])
    position = dice.number(0, MAX_QUESTIONS - 1)
    if not play.questions:
        return
    question = play.questions[position % len(play.questions)]
    play.note(f"session {number} is asked, its identity map {mode}: {question}")
    play.ask_within(play.slots[number], [question], mode)


# -- writes ------------------------------------------------------------------------------------------------------------


@step(10)
def write_within(play: Play, dice: Dice) -> None:
    number, then = dice.number(0, 1), dice.one_of(["leave", "flush", "ask"])
    write = draw_write(play.stage(dice), play.scene.writes)
    if write is None:
        return
    play.changed = True
    play.note(f"session {number} writes, then {then}: {write.kind}: {write.told}")
    play.perform(play.slots[number], write, flush=then != "leave")
    if then == "ask":
        play.ask_within(play.slots[number], play.questions, "fresh")


@step(22)
def write_and_commit(play: Play, dice: Dice) -> None:
    slot = Slot(play.world.next_side(), play.scene.level)
    writes = [draw_write(play.stage(dice), play.scene.writes) for _ in range(dice.number(1, 2))]
    play.changed = True
    try:
        for write in writes:
            if write is None:
                continue
            play.note(f"write: {write.kind}: {write.told}")
            play.perform(slot, write)
        play.note("commit")
        slot.commit()
    finally:
        slot.close()


@step(7)
def write_in_autocommit(play: Play, dice: Dice) -> None:
    kinds = [kind for kind in play.scene.writes if kind in CORE_WRITES]
    write = draw_write(play.stage(dice), kinds or sorted(CORE_WRITES))
    if not isinstance(write, CoreWrite):
        return
    play.changed = True
    play.note(f"write in AUTOCOMMIT: {write.kind}: {write.told}")
    with play.world.next_side().engine.connect() as connection:
        try:
            write.perform(connection.execution_options(isolation_level="AUTOCOMMIT"))
        except _REFUSALS:
            connection.rollback()
            play.count(write.kind, False)
        else:
            play.count(write.kind, True)


@step(2)
def write_in_two_phases(play: Play, dice: Dice) -> None:
    """Commit by PREPARE and COMMIT PREPARED, where the server allows it."""
    write = draw_write(play.stage(dice), play.scene.writes)
    if write is None or not play.world.prepares:
        return
    play.changed = True
    slot = Slot(play.world.next_side(), play.scene.level, twophase=True)
    play.note(f"write in two phases: {write.kind}: {write.told}")
    try:
        play.perform(slot, write)
        slot.commit()
    finally:
        slot.close()


@step(1)
def change_the_schema(play: Play, dice: Dice) -> None:
    """Have everybody end what is under way, and then send DDL."""
    statement = ddl(play.stage(dice), play.world)
    if statement is None:
        return
    for slot in play.slots:
        slot.roll_back()
    play.changed = True
    play.note(f"DDL: {statement.sql}")
    with play.world.next_side().engine.connect() as connection:
        try:
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(statement.sql)
        except SQLAlchemyError:
            connection.rollback()
            play.count(statement.kind, False)
        else:
            play.count(statement.kind, True)
            if statement.undo:
                play.world.undo_later(statement.undo)


# -- transactions ------------------------------------------------------------------------------------------------------


@step(7)
def commit(play: Play, dice: Dice) -> None:
    number = dice.number(0, 1)
    play.changed = True
    play.note(f"session {number} commits")
    play.slots[number].commit()


@step(3)
def roll_back(play: Play, dice: Dice) -> None:
    number = dice.number(0, 1)
    play.changed = True
    play.note(f"session {number} rolls back")
    play.slots[number].roll_back()


@step(1)
def close(play: Play, dice: Dice) -> None:
    number = dice.number(0, 1)
    play.changed = True
    play.note(f"session {number} is closed")
    play.slots[number].close()


@step(2)
def begin_savepoint(play: Play, dice: Dice) -> None:
    number = dice.number(0, 1)
    slot = play.slots[number]
    play.note(f"session {number} begins a savepoint")
    try:
        slot.savepoints.append(slot.session.begin_nested())
    except _REFUSALS:
        slot.roll_back()


@step(3)
def end_savepoint(play: Play, dice: Dice) -> None:
    number, keep = dice.number(0, 1), dice.happens(0.5)
    slot = play.slots[number]
    if not slot.savepoints:
        return
    play.changed = True
    play.note(f"session {number} {'releases' if keep else 'rolls back to'} its savepoint")
    try:
        savepoint = slot.savepoints.pop()
        savepoint.commit() if keep else savepoint.rollback()
    except _REFUSALS:
        slot.roll_back()


# -- examples ----------------------------------------------------------------------------------------------------------


def scene_of(
    dice: Dice, schema: Schema, levels: Sequence[str | None], questions: Sequence[str] = (), writes: Sequence[str] = ()
) -> Scene:
    """Return what an example is about: a few classes, and some of all kinds, or those that are given."""
    pair = dice.one_of(schema.pairs) if schema.pairs and dice.happens(0.8) else dice.some_of(schema.models, 1, 2)
    return Scene(
        tuple(dict.fromkeys(pair)),
        tuple(questions or dice.some_of(list(QUESTIONS), 4, 14)),
        tuple(writes or dice.some_of(list(WRITES), 4, 12)),
        dice.one_of(levels),
        dice.seed(),
    )


def steps_of(dice: Dice, asked: int = 4, further: int = 14) -> list[Step]:
    """Return the steps of an example: some questions first."""
    weights = [(name, weight) for name, (_, weight) in STEPS.items()]
    names = ["ask_something_new"] * asked + [dice.weighted(weights) for _ in range(further)]
    return [Step(name, dice.seed()) for name in names]
