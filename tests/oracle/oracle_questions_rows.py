"""Questions whose answers are columns of one class: lists, few columns, aggregates, subqueries in any clause, windows."""

from __future__ import annotations

from typing import Any

from oracle_conditions import condition, conditions, pair_of, subquery
from oracle_questions import Question, question, rows_question
from oracle_schema import attributes_of, expressions_of, key_of, keys_in
from oracle_stage import Stage
from sqlalchemy import Integer, and_, case, distinct, exists, func, select, type_coerce
from sqlalchemy.orm import Bundle, aliased


@question("columns", 5)
def columns(stage: Stage) -> Question:
    model = stage.any_model()
    names = [one.name for one in stage.dice.some_of(attributes_of(model), 1, 3)]
    names += stage.dice.some_of(expressions_of(model), 0, 1)
    where = conditions(stage, model)
    plain = all(one.kind.compares for one in attributes_of(model) if one.name in names)
    is_distinct, use_alias, limit = stage.dice.happens(0.2) and plain, stage.dice.happens(0.3), stage.dice.happens(0.3)
    bundled = stage.dice.happens(0.1)

    def build() -> Any:
        entity = aliased(model) if use_alias else model
        chosen = [getattr(entity, name) for name in names]
        statement = select(Bundle("bundle", *chosen)) if bundled else select(*chosen)
        statement = statement.where(*(one(entity) for one in where))
        if is_distinct:
            return statement.distinct()
        return statement.order_by(*keys_in(entity, model)).limit(2) if limit else statement

    return rows_question("columns", build, ordered=limit and not is_distinct)


@question("few columns", 5)
def few_columns(stage: Stage) -> Question:
    """Ask for one or two columns of some rows: what an update of another column has nothing to do with."""
    model = stage.any_model()
    one = stage.dice.one_of(attributes_of(model))
    where = condition(stage, model, 0)
    with_key, by = stage.dice.happens(0.5), stage.attribute(model, lambda found: found.kind.orders)

    def build() -> Any:
        chosen = [getattr(model, one.name), *(keys_in(model, model) if with_key else ())]
        statement = select(*chosen).where(where(model))
        return statement.order_by(*([getattr(model, by.name)] if by else []), *keys_in(model, model))

    return rows_question("few columns", build, ordered=True)


@question("one row's columns", 3)
def columns_by_key(stage: Stage) -> Question:
    model = stage.any_model()
    key = stage.key(model)
    names = [one.name for one in stage.dice.some_of(attributes_of(model), 1, 2)]
    foreign = [one for one in attributes_of(model) if one.column.foreign_keys]
    further = stage.dice.one_of(foreign) if foreign and stage.dice.happens(0.3) else None
    value = None if further is None else stage.compared(further.column, null=False)

    def build() -> Any:
        same = [getattr(model, one.name) == part for one, part in zip(key_of(model), key, strict=True)]
        if further is not None:
            same.append(getattr(model, further.name) == value)
        return select(*(getattr(model, name) for name in names)).where(*same)

    return rows_question("one row's columns", build)


@question("aggregate", 5)
def aggregate(stage: Stage) -> Question:
    model = stage.any_model()
    one = stage.attribute(model, lambda found: found.kind.compares)
    number = stage.attribute(model, lambda found: found.kind.counts) or one
    least = stage.attribute(model, lambda found: found.kind.extremes and found.kind.compares) or number
    assert one is not None
    assert number is not None
    assert least is not None
    sums = func.sum if number.kind.counts else func.count
    where = conditions(stage, model)
    kind = stage.dice.one_of(
        ["count", "count", "sum", "extremes", "group", "having", "distinct", "exists", "not exists", "filter", "case"]
    )

    def build() -> Any:
        column, value, extreme = (getattr(model, found.name) for found in (one, number, least))
        criteria = [part(model) for part in where]
        if kind == "exists":
            return select(select(model).where(*criteria).exists())
        if kind == "not exists":
            return select(~exists().where(*criteria) if criteria else ~select(model).exists())
        if kind in ("group", "having"):
            grouped = select(column, func.count(), sums(value)).where(*criteria).group_by(column)
            return grouped.having(func.count() > 1) if kind == "having" else grouped
        what: dict[str, list[Any]] = {
            "count": [func.count()],
            "sum": [sums(value), func.count(column)],
            "extremes": [func.min(extreme), func.max(extreme)],
            "distinct": [func.count(distinct(column))],
            "case": [func.sum(case((and_(True, *criteria), 1), else_=0))],
            "filter": [func.count(), func.count(column)],
        }
        statement = select(*what[kind]).select_from(model)
        return statement if kind == "case" else statement.where(*criteria)

    return rows_question("aggregate", build)


@question("subquery in any clause", 4)
def expressions(stage: Stage) -> Question | None:
    """Put a correlated subquery into the select list, CASE, ORDER BY, GROUP BY or HAVING."""
    model, target = stage.any_model(), stage.any_model()
    pair = pair_of(stage, model, target)
    if pair is None:
        return None
    here, there = pair
    inner, where = conditions(stage, target, 1, 0), conditions(stage, model, 2, 0)
    place = stage.dice.one_of(["list", "list", "case", "order", "having", "exists", "where"])

    def build() -> Any:
        entity, other = aliased(model), aliased(target)
        count = select(func.count()).select_from(other).where(getattr(other, there) == getattr(entity, here))
        scalar = count.where(*(one(other) for one in inner)).scalar_subquery()
        keys = keys_in(entity, model)
        criteria = [one(entity) for one in where]
        if place == "list":
            return select(*keys, scalar).where(*criteria)
        if place == "case":
            return select(*keys, case((scalar > 0, 1), else_=0)).where(*criteria)
        if place == "exists":
            found = exists().where(getattr(other, there) == getattr(entity, here), *(one(other) for one in inner))
            return select(*keys, type_coerce(case((found, 1), else_=0), Integer)).where(*criteria)
        if place == "having":
            return select(*keys).where(*criteria).group_by(*keys, getattr(entity, here)).having(scalar > 0)
        if place == "where":
            return select(*keys).where(scalar > 0, *criteria)
        return select(*keys).where(*criteria).order_by(scalar, *keys).limit(2)

    return rows_question("subquery in any clause", build, ordered=place == "order")


@question("subquery in WHERE", 3)
def where_subquery(stage: Stage) -> Question:
    """Ask by a subquery alone, so that nothing else keeps rows out."""
    model = stage.any_model()
    which = subquery(stage, model, 1)
    shown = stage.dice.one_of(attributes_of(model))

    def build() -> Any:
        return select(*keys_in(model, model), getattr(model, shown.name)).where(which(model))

    return rows_question("subquery in WHERE", build)


@question("window", 2)
def window(stage: Stage) -> Question:
    """Number, count or sum rows over partitions; sometimes with conditions on the outcome, outside."""
    model = stage.any_model()
    one = stage.attribute(model, lambda found: found.kind.compares)
    assert one is not None
    where, outside = conditions(stage, model, 1, 0), stage.dice.happens(0.5)
    verb = stage.dice.one_of(["row_number", "count", "rank"])
    value = stage.compared(one.column, null=False)

    def build() -> Any:
        keys = keys_in(model, model)
        call = func.count() if verb == "count" else getattr(func, verb)()
        over = call.over(partition_by=getattr(model, one.name), order_by=None if verb == "count" else keys)
        block = select(*keys, getattr(model, one.name).label("part"), over.label("place"))
        block = block.where(*(part(model) for part in where))
        if not outside:
            return block
        inner = block.subquery()
        return select(inner).where(inner.c.place == 1, inner.c.part == value)

    return rows_question("window", build)
