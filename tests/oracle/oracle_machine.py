"""Do a cached and an uncached Session agree after every step?

Hypothesis plays random steps in a world: two cached Sessions that read, write, commit and roll back between one another,
savepoints, writes on connections of their own with and without AUTOCOMMIT. After each step that may have changed what
others see, every question asked so far is asked again, by a new Session through the cache and past it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from oracle_questions import Question, questions
from oracle_world import World
from oracle_writes import CoreWrite, SessionWrite, Write, core_writes, writes
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction

MAX_QUESTIONS: Final = 6
SLOTS: Final = st.integers(0, 1)
MODES: Final = st.sampled_from(["fresh", "fresh", "expired", "kept"])


_ASKED: Final = st.runner().flatmap(lambda machine: machine.asked)
_WRITTEN: Final = st.runner().flatmap(lambda machine: machine.written)


class Slot:
    """One of the Sessions that live through several steps, with its open savepoints."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.savepoints: list[SessionTransaction] = []

    def perform(self, write: Write, *, flush: bool = True) -> None:
        """Write; roll back where that is refused."""
        try:
            if isinstance(write, SessionWrite):
                write.perform(self.session)
            else:
                self.session.flush()
                write.perform(self.session.connection())
            if flush:
                self.session.flush()
        except SQLAlchemyError:
            # The database's or the unit of work's answer to a write that makes no sense.
            self.roll_back()

    def flush(self) -> None:
        """Send what is pending, so that what follows is a read and nothing else."""
        try:
            self.session.flush()
        except SQLAlchemyError:
            self.roll_back()

    def commit(self) -> None:
        try:
            self.session.commit()
            self.savepoints.clear()
        except SQLAlchemyError:
            self.roll_back()

    def roll_back(self) -> None:
        self.session.rollback()
        self.savepoints.clear()

    def close(self) -> None:
        self.session.close()
        self.savepoints.clear()


class OracleMachine(RuleBasedStateMachine):
    """The steps. ``machine_on`` gives the world, and what is asked and written where it is not everything."""

    world: ClassVar[World]
    asked: ClassVar[st.SearchStrategy[Question]] = questions()
    written: ClassVar[st.SearchStrategy[Write]] = writes()

    def __init__(self) -> None:
        super().__init__()
        self.questions: list[Question] = []
        self.slots: list[Slot] = []
        self.level: str | None = None
        self.changed = True

    @initialize(asked=st.lists(_ASKED, min_size=2, max_size=MAX_QUESTIONS), level=st.data())
    def begin(self, asked: list[Question], level: Any) -> None:
        self.level = level.draw(st.sampled_from(self.world.levels), label="level")
        self.world.begin()
        self.questions = list(asked)
        self.slots = [Slot(self.world.session(self.level)) for _ in range(2)]

    # -- reads ---------------------------------------------------------------------------------------------------------

    @rule(question=_ASKED)
    def ask_something_new(self, question: Question) -> None:
        self.questions = [*self.questions, question][-MAX_QUESTIONS:]
        self.world.compare_afresh(question)

    @rule(slot=SLOTS, position=st.integers(0, MAX_QUESTIONS - 1), mode=MODES)
    def ask_within(self, slot: int, position: int, mode: str) -> None:
        self._ask_within(self.slots[slot], [self.questions[position % len(self.questions)]], mode)

    def _ask_within(self, slot: Slot, asked: Sequence[Question], mode: str) -> None:
        slot.flush()
        try:
            for question in asked:
                self.world.compare_within(question, slot.session, mode)
        except DBAPIError:
            # A serialization failure: the database's, or the cache's in its place. No other error is right here.
            slot.roll_back()

    @invariant()
    def all_agree(self) -> None:
        if self.changed:
            for question in self.questions:
                self.world.compare_afresh(question)
        self.changed = False

    # -- writes --------------------------------------------------------------------------------------------------------

    @rule(slot=SLOTS, write=_WRITTEN, then=st.sampled_from(["leave", "flush", "ask"]))
    def write_within(self, slot: int, write: Write, then: str) -> None:
        self.changed = True
        self.slots[slot].perform(write, flush=then != "leave")
        if then == "ask":
            self._ask_within(self.slots[slot], self.questions, "fresh")

    @rule(changes=st.lists(_WRITTEN, min_size=1, max_size=2))
    def write_and_commit(self, changes: list[Write]) -> None:
        self.changed = True
        slot = Slot(self.world.session(self.level))
        for write in changes:
            slot.perform(write)
        slot.commit()
        slot.close()

    @rule(write=core_writes())
    def write_in_autocommit(self, write: CoreWrite) -> None:
        self.changed = True
        with self.world.engine.connect() as connection:
            try:
                write.perform(connection.execution_options(isolation_level="AUTOCOMMIT"))
            except SQLAlchemyError:
                connection.rollback()

    # -- transactions --------------------------------------------------------------------------------------------------

    @rule(slot=SLOTS)
    def commit(self, slot: int) -> None:
        self.changed = True
        self.slots[slot].commit()

    @rule(slot=SLOTS)
    def roll_back(self, slot: int) -> None:
        self.changed = True
        self.slots[slot].roll_back()

    @rule(slot=SLOTS)
    def close(self, slot: int) -> None:
        self.changed = True
        self.slots[slot].close()

    @rule(slot=SLOTS)
    def begin_savepoint(self, slot: int) -> None:
        try:
            self.slots[slot].savepoints.append(self.slots[slot].session.begin_nested())
        except SQLAlchemyError:
            self.slots[slot].roll_back()

    @precondition(lambda self: any(slot.savepoints for slot in self.slots))
    @rule(slot=SLOTS, keep=st.booleans())
    def end_savepoint(self, slot: int, keep: bool) -> None:
        self.changed = True
        here = self.slots[slot]
        if not here.savepoints:
            return
        try:
            savepoint = here.savepoints.pop()
            savepoint.commit() if keep else savepoint.rollback()
        except SQLAlchemyError:
            here.roll_back()

    def teardown(self) -> None:
        for slot in self.slots:
            slot.close()


def machine_on(
    world: World,
    asked: st.SearchStrategy[Question] | None = None,
    written: st.SearchStrategy[Write] | None = None,
) -> type[OracleMachine]:
    """Return the machine that plays in a world, with some questions and writes or with all."""
    given: dict[str, Any] = {"world": world}
    if asked is not None:
        given["asked"] = asked
    if written is not None:
        given["written"] = written
    return type("Machine", (OracleMachine,), given)
