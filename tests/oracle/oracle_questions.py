"""What is a question, and which kinds of questions are there?

A question is a read that any Session can perform as often as wanted, and the ways in which its objects are then walked. It
is built anew each time. A kind is one function from a stage to a question, with ``@question`` before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from oracle_schema import relations_of
from oracle_stage import Stage
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Question:
    """A read. ``ordered``: the order of its rows is part of the answer. ``walks``: attributes touched afterwards.

    ``is_steady``: asked twice in a row, it leaves behind what it left behind the first time.
    """

    kind: str
    told: str
    ask: Callable[[Session], Sequence[Any]]
    build: Callable[[], Any] | None = None
    ordered: bool = False
    walks: tuple[str, ...] = ()
    is_steady: bool = True

    def __str__(self) -> str:
        walked = f", then {', '.join(self.walks)}" if self.walks else ""
        return f"{self.kind}: {self.told or _sql_of(self.build)}{walked}"


Maker: TypeAlias = Callable[[Stage], "Question | None"]

QUESTIONS: Final[dict[str, tuple[Maker, int]]] = {}
"""The kinds of questions, and how often each is asked."""


def question(kind: str, weight: int = 2) -> Callable[[Maker], Maker]:
    """Add a kind of question; it may answer None where the schema has nothing to ask in this way."""

    def add(maker: Maker) -> Maker:
        QUESTIONS[kind] = (maker, weight)
        return maker

    return add


def draw_question(stage: Stage, kinds: Sequence[str]) -> Question:
    """Return a question of one of these kinds; of another where the schema has no such question."""
    for _ in range(10):
        found = QUESTIONS[stage.dice.weighted([(kind, QUESTIONS[kind][1]) for kind in kinds])][0](stage)
        if found is not None:
            return found
    found = QUESTIONS["columns"][0](stage)
    assert found is not None, "every class has columns"
    return found


def rows_question(kind: str, build: Callable[[], Any], *, ordered: bool = False) -> Question:
    """Return the question whose answer is what a statement returns."""
    statement = _now_and_then_anew(build)
    return Question(kind, "", lambda session: session.execute(statement()).all(), build, ordered)


def entities_question(
    kind: str, build: Callable[[], Any], *, ordered: bool = False, walks: Sequence[str] = ()
) -> Question:
    """Return the question whose answer has objects, each row once where collections are joined to them."""
    statement = _now_and_then_anew(build)
    return Question(kind, "", lambda session: session.execute(statement()).unique().all(), build, ordered, tuple(walks))


def _now_and_then_anew(build: Callable[[], Any]) -> Callable[[], Any]:
    """Return what gives a statement: the same object some times, then an equal one."""
    built: list[Any] = []

    def statement() -> Any:
        if len(built) % 4 == 0:
            built[:] = [build()]
        else:
            built.append(built[0])
        return built[0]

    return statement


def walks_of(stage: Stage, model: type[Any]) -> tuple[str, ...]:
    """Return relationships to be walked when the objects are there."""
    return tuple(relation.name for relation in stage.dice.some_of(relations_of(model), 0, 2))


def _sql_of(build: Callable[[], Any] | None) -> str:
    if build is None:
        return ""
    statement = build()
    try:
        text = str(statement.compile(compile_kwargs={"literal_binds": True}))
    except (SQLAlchemyError, NotImplementedError):
        text = _sql_with_parameters(statement)
    options = ", ".join(_option_text(option) for option in getattr(statement, "_with_options", ()))
    return " ".join(text.split()) + (f" OPTIONS {options}" if options else "")


def _sql_with_parameters(statement: Any) -> str:
    try:
        compiled = statement.compile()
    except SQLAlchemyError as error:
        return f"(a statement that cannot be compiled: {error})"
    return f"{compiled} {compiled.params}"


def _option_text(option: Any) -> str:
    parts = [
        f"{part.path} {dict(part.strategy or ())}" for part in getattr(option, "context", ()) if hasattr(part, "path")
    ]
    return f"{type(option).__name__}({', '.join(parts)})"
