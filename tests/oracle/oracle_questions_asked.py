"""Questions that are asked in another way than as a SELECT construct: as SQL text, and of a list that is kept by its keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from oracle_conditions import conditions
from oracle_questions import Question, entities_question, question, walks_of
from oracle_schema import attributes_of, keys_in, mapper_of
from oracle_stage import Stage
from sqlalchemy import Table, func, select, text
from sqlalchemy.orm import Session

from querycache import FromCache


@question("SQL text", 3)
def sql_text(stage: Stage) -> Question | None:
    """Ask for columns or the number of rows of one table by text, with a value in it; sometimes as the rows of a class."""
    model = stage.any_model()
    table = mapper_of(model).local_table
    if not isinstance(table, Table):
        return None
    one = stage.attribute(model, lambda found: found.kind.compares and found.column.table is table)
    if one is None:
        return None
    column, value = table.c[one.column.key], stage.value(one.column, null=False)
    shown = stage.dice.some_of([found for found in table.columns if found is not column], 1, 2) or [column]
    counted = stage.dice.happens(0.3)
    core = select(func.count()) if counted else select(*shown).order_by(*table.primary_key.columns)
    core = core.select_from(table).where(column == value) if stage.dice.happens(0.7) else core.select_from(table)
    is_typed = not counted and stage.dice.happens(0.5)

    def ask(session: Session) -> Sequence[Any]:
        compiled = core.compile(dialect=session.get_bind().dialect, compile_kwargs={"literal_binds": True})
        written = text(str(compiled).replace(":", r"\:"))
        return session.execute(written.columns(*shown) if is_typed else written).all()

    return Question("SQL text", f"{core} {value!r}, {'typed' if is_typed else 'plain'}", ask, ordered=not counted)


@question("by keys", 3)
def by_keys(stage: Stage) -> Question:
    """Ask for a list of one class that is kept as its keys, and its rows one by one."""
    model = stage.any_model()
    where = conditions(stage, model)
    by = stage.attribute(model, lambda found: found.kind.orders) or stage.dice.one_of(attributes_of(model))
    orders: Callable[[], list[Any]] = lambda: [getattr(model, by.name)] if by.kind.orders else []  # noqa: E731
    page = stage.dice.one_of([None, None, (2, 0), (1, 1)])

    def build() -> Any:
        statement = select(model).where(*(one(model) for one in where)).order_by(*orders(), *keys_in(model, model))
        statement = statement.options(FromCache(shape="keys"))
        return statement if page is None else statement.limit(page[0]).offset(page[1])

    return entities_question("by keys", build, ordered=True, walks=walks_of(stage, model))
