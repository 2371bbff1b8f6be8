"""Questions that differ in how they are asked: as text, with values given late, with options of the cache, past it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from oracle_conditions import comparable, condition, conditions
from oracle_questions import QUESTIONS, Question, entities_question, question, walks_of
from oracle_schema import attributes_of, keys_in
from oracle_stage import Stage
from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, lazyload

from querycache import FromCache, NoCache

_DIALECTS: Final[dict[str, Any]] = {
    "sqlite": sqlite.dialect,
    "postgresql": postgresql.dialect,
    "mysql": mysql.dialect,
}
_SPELLED: Final = (
    "few columns",
    "aggregate",
    "join by columns",
    "subquery in any clause",
    "set operation",
    "derived table",
)
"""Kinds of questions that can be asked as text: their rows have columns only."""


def _text_of(dialect: str, build: Callable[[], Any]) -> str | None:
    """Return a statement as text for a dialect, None where a value in it has no spelling."""
    spelled = _DIALECTS[dialect](paramstyle="named")
    try:
        compiled = build().compile(dialect=spelled, compile_kwargs={"literal_binds": True})
    except (SQLAlchemyError, NotImplementedError):
        return None
    return None if compiled.params else " ".join(str(compiled).split()).replace(":", "\\:")


@question("text", 4)
def textual(stage: Stage) -> Question | None:
    """Ask by text what could be asked by a construct; sometimes the author says what it reads."""
    inner = QUESTIONS[stage.dice.one_of(_SPELLED)][0](stage)
    if inner is None or inner.build is None:
        return None
    sql = _text_of(stage.dialect, inner.build)
    if sql is None:
        return None
    declares = stage.dice.happens(0.3)
    options = {"querycache_reads": list(stage.schema.tables)} if declares else {}

    def ask(session: Session) -> Sequence[Any]:
        return session.execute(text(sql), execution_options=options).all()

    return Question("text", sql + (" (declared)" if declares else ""), ask, ordered=inner.ordered)


@question("from_statement", 2)
def from_text(stage: Stage) -> Question | None:
    """Have objects made of the rows of a text."""
    model = stage.any_model()
    where = conditions(stage, model, 1, 0)
    sql = _text_of(stage.dialect, lambda: select(model).where(*(one(model) for one in where)).options(lazyload("*")))
    if sql is None:
        return None

    def ask(session: Session) -> Sequence[Any]:
        return session.execute(select(model).from_statement(text(sql)).options(lazyload("*"))).unique().all()

    return Question("from_statement", f"{model.__name__} {sql}", ask, walks=walks_of(stage, model))


@question("values given late", 3)
def late(stage: Stage) -> Question:
    """Ask one statement with values that are given when it is executed: one, or a list of them."""
    model, one = stage.any_model(), None
    one = comparable(stage, model)
    listed, by_params = stage.dice.happens(0.4), stage.dice.happens(0.3)
    values = [stage.compared(one.column, null=False) for _ in range(stage.dice.number(1, 2))]
    shown = stage.dice.one_of(attributes_of(model))
    given = {"given": values if listed else values[0]}
    kind = one.column.type

    def build() -> Any:
        bind = bindparam("given", type_=kind, expanding=listed)
        where = getattr(model, one.name).in_(bind) if listed else getattr(model, one.name) == bind
        return select(*keys_in(model, model), getattr(model, shown.name)).where(where)

    def ask(session: Session) -> Sequence[Any]:
        if by_params:
            return session.execute(build().params(given)).all()
        return session.execute(build(), given).all()

    told = " ".join(f"{build()} {given}".split())
    return Question("values given late", told, ask)


@question("list by keys", 4)
def by_keys(stage: Stage) -> Question:
    """Ask for objects that are kept row by row."""
    model = stage.any_model()
    where = conditions(stage, model, 2, 1)
    by = stage.attribute(model, lambda one: one.kind.orders)
    page = stage.dice.one_of([None, None, None, (2, 0), (1, 1)])
    ordered = page is not None or stage.dice.happens(0.6)

    def build() -> Any:
        statement = select(model).where(*(one(model) for one in where)).options(FromCache(shape="keys"))
        if ordered:
            statement = statement.order_by(*([getattr(model, by.name)] if by else []), *keys_in(model, model))
        return statement if page is None else statement.limit(page[0]).offset(page[1])

    return entities_question("list by keys", build, ordered=ordered, walks=walks_of(stage, model))


@question("FromCache", 2)
def from_cache(stage: Stage) -> Question:
    """Ask for rows to be cached that need not be cacheable, under a name."""
    model = stage.any_model()
    where = conditions(stage, model, 1, 0)
    shown = stage.dice.one_of(attributes_of(model))
    whole = stage.dice.happens(0.5)

    def build() -> Any:
        chosen = [model] if whole else [*keys_in(model, model), getattr(model, shown.name)]
        return select(*chosen).where(*(one(model) for one in where)).options(FromCache(cache_key="named"))

    return entities_question("FromCache", build)


@question("past the cache", 1)
def past(stage: Stage) -> Question:
    """Ask in ways that the cache leaves alone, between all the others."""
    model = stage.any_model()
    where = condition(stage, model, 0)
    way = stage.dice.one_of(["NoCache", "yield_per", "populate_existing"])

    def build() -> Any:
        statement = select(model).where(where(model)).order_by(*keys_in(model, model))
        if way == "NoCache":
            return statement.options(NoCache())
        if way == "yield_per":
            return select(*keys_in(model, model)).where(where(model)).execution_options(yield_per=1)
        return statement.execution_options(populate_existing=True)

    return entities_question("past the cache", build)
