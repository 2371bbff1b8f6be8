"""Questions over several FROM elements: inner, outer and full joins, two in a row, equalities that stand in WHERE."""

from __future__ import annotations

from typing import Any

from oracle_conditions import comparable, condition, conditions, pair_of
from oracle_questions import Question, entities_question, question, rows_question
from oracle_schema import attributes_of, keys_in, relations_of
from oracle_stage import Stage
from sqlalchemy import and_, func, select, true
from sqlalchemy.orm import aliased


@question("join over a relationship", 5)
def related(stage: Stage) -> Question | None:
    """Ask for two entities that a relationship joins, the other one under an alias; ON may say more."""
    model = stage.any_model()
    relation = stage.relation(model)
    if relation is None:
        return None
    name, target = relation.name, relation.target
    outer = stage.dice.happens(0.5)
    here, there = conditions(stage, model, 1, 1), conditions(stage, target, 1, 1)
    # Where an association table is joined, too, the ON in the middle cannot name the first entity.
    on_here = conditions(stage, model, 1, 0) if relation.link is None and stage.dice.happens(0.4) else []
    on_there = conditions(stage, target, 1, 0) if stage.dice.happens(0.5) else []
    what = stage.dice.one_of(["both", "one", "column", "missing", "count"])
    shown = comparable(stage, model)

    def build() -> Any:
        other = aliased(target)
        on = getattr(model, name).of_type(other)
        on = on.and_(*(one(model) for one in on_here), *(one(other) for one in on_there)) if on_here or on_there else on
        key = keys_in(other, target)[0]
        chosen: dict[str, list[Any]] = {
            "both": [model, other],
            "one": [model],
            "column": [*keys_in(model, model), key, getattr(model, shown.name)],
            "missing": keys_in(model, model),
            "count": [func.count(), func.count(key)],
        }
        statement = select(*chosen[what]).select_from(model).join(on, isouter=outer)
        statement = statement.where(*(one(model) for one in here), *(one(other) for one in there))
        return statement.where(key.is_(None)) if what == "missing" else statement

    if what in ("both", "one"):
        return entities_question("join over a relationship", build)
    return rows_question("join over a relationship", build)


@question("join by columns", 5)
def explicit(stage: Stage) -> Question | None:
    """Join two classes by equal columns; what confines one side passes on to the other, or must not."""
    model, target = stage.any_model(), stage.any_model()
    pair = pair_of(stage, model, target)
    if pair is None:
        return None
    here, there = pair
    ways = ["inner", "inner", "outer", "outer", "where", "swapped"] + ([] if stage.dialect == "mysql" else ["full"])
    way = stage.dice.one_of(ways)
    # Few at a time: over few rows, each keeps most of them out.
    places = stage.dice.some_of(["on here", "on there", "where here", "where there", "confined", "missing"], 0, 2)
    on_here, on_there = condition(stage, model, 0), condition(stage, target, 0)
    where_here, where_there = condition(stage, model, 1), condition(stage, target, 1)
    flat = stage.dice.happens(0.7)
    column = next(one for one in attributes_of(target) if one.name == there)
    value = stage.dice.one_of(column.kind.keys or column.kind.values)
    counts = stage.dice.happens(0.25)
    shown_here, shown_there = comparable(stage, model), comparable(stage, target)

    def build() -> Any:
        left, right = aliased(model, flat=flat), aliased(target, flat=flat)
        on = getattr(left, here) == getattr(right, there)
        on = and_(on, on_here(left)) if "on here" in places else on
        on = and_(on, on_there(right)) if "on there" in places else on
        keys = [*keys_in(left, model), *keys_in(right, target)]
        shown = [getattr(left, shown_here.name), getattr(right, shown_there.name)]
        statement = select(func.count(), func.count(keys[-1])) if counts else select(*keys, *shown)
        if way == "where":
            statement = statement.select_from(left, right).where(on)
        elif way == "swapped":
            statement = statement.select_from(right).join(left, on, isouter=True)
        else:
            statement = statement.select_from(left).join(right, on, isouter=way == "outer", full=way == "full")
        where = {
            "where here": lambda: where_here(left),
            "where there": lambda: where_there(right),
            "confined": lambda: getattr(right, there) == value,
            "missing": lambda: getattr(right, shown_there.name).is_(None),
        }
        return statement.where(*(where[place]() for place in places if place in where))

    return rows_question("join by columns", build)


@question("join of three", 3)
def chained(stage: Stage) -> Question | None:
    """Join over two relationships in a row, each inner or outer."""
    model = stage.model(lambda one: bool(relations_of(one)))
    if model is None:
        return None
    first = stage.relation(model)
    assert first is not None
    second = stage.relation(first.target)
    if second is None:
        return None
    outers = stage.dice.happens(0.5), stage.dice.happens(0.5)
    where = [
        conditions(stage, model, 1, 0),
        conditions(stage, first.target, 1, 0),
        conditions(stage, second.target, 1, 0),
    ]
    last = condition(stage, second.target, 0) if stage.dice.happens(0.4) else None

    def build() -> Any:
        near, far = aliased(first.target), aliased(second.target)
        on = getattr(near, second.name).of_type(far)
        on = on if last is None else on.and_(last(far))
        statement = (
            select(*keys_in(model, model), keys_in(near, first.target)[0], keys_in(far, second.target)[0])
            .join(getattr(model, first.name).of_type(near), isouter=outers[0])
            .join(on, isouter=outers[1])
        )
        entities = ((model, where[0]), (near, where[1]), (far, where[2]))
        return statement.where(*(one(entity) for entity, parts in entities for one in parts))

    return rows_question("join of three", build)


@question("product", 1)
def product(stage: Stage) -> Question:
    """Ask for rows of two classes side by side, joined by nothing or by TRUE."""
    model, target = stage.any_model(), stage.any_model()
    here, there = condition(stage, model, 0), condition(stage, target, 0)
    joined = stage.dice.happens(0.5)

    def build() -> Any:
        left, right = aliased(model), aliased(target)
        statement = select(func.count()).select_from(left)
        statement = statement.join(right, true()) if joined else statement.select_from(right)
        return statement.where(here(left), there(right))

    return rows_question("product", build)
