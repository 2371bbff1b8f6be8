"""Questions with blocks in them: set operations, derived tables, CTEs used once and twice, recursive ones, lateral ones."""

from __future__ import annotations

from typing import Any

from oracle_conditions import condition, conditions, pair_of
from oracle_questions import Question, entities_question, question, rows_question
from oracle_schema import Attribute, attributes_of, key_of, keys_in, relations_of
from oracle_stage import Stage
from sqlalchemy import except_, exists, func, intersect, literal, select, true, union, union_all
from sqlalchemy.orm import aliased


@question("set operation", 3)
def set_operation(stage: Stage) -> Question:
    model = stage.any_model()
    first, second = condition(stage, model, 1), condition(stage, model, 1)
    combine = stage.dice.one_of([union, union_all, intersect, except_])
    way = stage.dice.one_of(["keys", "limit", "outside", "entities"])
    value = stage.compared(key_of(model)[0].column, null=False)

    def build() -> Any:
        keys = keys_in(model, model)
        whole: Any = combine(select(*keys).where(first(model)), select(*keys).where(second(model)))
        if way == "limit":
            return whole.order_by(*whole.selected_columns).limit(2)
        if way == "outside":
            block = whole.subquery()
            return select(block).where(next(iter(block.c)) == value)
        if way == "entities":
            block = whole.subquery()
            return select(model).where(keys[0].in_(select(next(iter(block.c)))))
        return whole

    return (
        entities_question("set operation", build)
        if way == "entities"
        else rows_question("set operation", build, ordered=way == "limit")
    )


def _block(stage: Stage, model: type[Any], outside: Attribute) -> Any:
    """Return what makes a SELECT of the key and one more column that confines its rows in its own way."""
    inside = conditions(stage, model, 1, 1)
    way = stage.dice.one_of(["plain", "plain", "limit", "distinct", "group", "window"])
    if way == "distinct" and stage.dialect != "postgresql":
        way = "limit"

    def build(extra: Any = None) -> Any:
        keys = keys_in(model, model)
        column = getattr(model, outside.name).label("outside")
        statement = select(keys[0].label("key"), column).where(*(one(model) for one in inside))
        if extra is not None:
            statement = statement.where(extra(model))
        if way == "limit":
            return statement.order_by(getattr(model, outside.name), *keys).limit(2)
        if way == "distinct":
            return statement.distinct(column).order_by(column, *keys)
        if way == "group":
            grouped = select(func.count().label("key"), column).where(*(one(model) for one in inside))
            return grouped.group_by(getattr(model, outside.name))
        if way == "window":
            return statement.add_columns(func.row_number().over(order_by=keys).label("place"))
        return statement

    return build


@question("derived table", 4)
def derived(stage: Stage) -> Question:
    """Confine the rows of a derived table or CTE from outside."""
    model = stage.any_model()
    outside = stage.attribute(model, lambda one: one.kind.compares and one.kind.orders)
    assert outside is not None
    block, value = _block(stage, model, outside), stage.compared(outside.column, null=False)
    way = stage.dice.one_of(["subquery", "cte", "twice", "left", "exists"])

    def build() -> Any:
        source = block().subquery() if way == "subquery" else block().cte()
        if way == "twice":
            again = source.alias()
            joined = select(source.c.key, again.c.key).where(source.c.outside == value)
            return joined.where(source.c.outside == again.c.outside)
        if way == "left":
            again = source.alias()
            joined = select(source.c.key, again.c.outside)
            return joined.outerjoin_from(
                source, again, (source.c.outside == again.c.outside) & (again.c.outside == value)
            )
        if way == "exists":
            found = exists().where(source.c.outside == getattr(model, outside.name), source.c.outside == value)
            return select(*keys_in(model, model)).where(found)
        return select(source.c.key).where(source.c.outside == value)

    return rows_question("derived table", build)


@question("entities from a block", 2)
def entities_from(stage: Stage) -> Question:
    """Ask for objects out of a derived table or a CTE, or joined with one."""
    model = stage.any_model()
    inside, outside = conditions(stage, model, 1, 1), conditions(stage, model, 1, 0)
    way = stage.dice.one_of(["aliased", "joined", "cte"])

    def build() -> Any:
        inner = select(model).where(*(one(model) for one in inside))
        if way == "joined":
            keys = select(keys_in(model, model)[0].label("key")).where(*(one(model) for one in inside)).subquery()
            statement = select(model).join(keys, keys_in(model, model)[0] == keys.c.key)
            return statement.where(*(one(model) for one in outside))
        entity = aliased(model, inner.cte() if way == "cte" else inner.subquery())
        return select(entity).where(*(one(entity) for one in outside)).order_by(*keys_in(entity, model))

    return entities_question("entities from a block", build, ordered=way != "joined")


@question("recursive CTE", 2)
def recursive(stage: Stage) -> Question | None:
    """Walk a self-reference, down or up, from one row or from the roots; sometimes confined outside."""
    model = stage.model(lambda one: _own_reference(one) is not None)
    if model is None:
        return None
    found = _own_reference(model)
    assert found is not None
    reference, key = found
    value = stage.dice.one_of(key_of(model)[0].kind.keys)
    roots, up, confined = (stage.dice.happens(0.4) for _ in range(3))

    def build() -> Any:
        entity = aliased(model)
        start = getattr(entity, reference).is_(None) if roots else getattr(entity, key) == value
        base = select(getattr(entity, key).label("key"), getattr(entity, reference).label("reference")).where(start)
        tree = base.cte("tree", recursive=True)
        step = aliased(model)
        further = getattr(step, key) == tree.c.reference if up else getattr(step, reference) == tree.c.key
        tree = tree.union(select(getattr(step, key), getattr(step, reference)).where(further))
        statement = select(tree.c.key)
        return statement.where(tree.c.reference == value) if confined else statement

    return rows_question("recursive CTE", build)


def _own_reference(model: type[Any]) -> tuple[str, str] | None:
    if len(key_of(model)) != 1:
        return None
    key = key_of(model)[0]
    for one in attributes_of(model):
        if one.column is not key.column and one.column.references(key.column) and one.column.table is key.column.table:
            return one.name, key.name
    return None


@question("association table", 2)
def association(stage: Stage) -> Question | None:
    """Ask an association table alone, or joined with one side of it."""
    if not stage.schema.links:
        return None
    link = stage.dice.one_of(stage.schema.links)
    column = stage.dice.one_of(list(link.columns))
    value = stage.compared(column, null=False)
    way = stage.dice.one_of(["rows", "count", "joined", "not linked"])
    sides = [model for model in stage.schema.models if any(r.link is link for r in relations_of(model))]
    side = stage.dice.one_of(sides)
    relation = next(r for r in relations_of(side) if r.link is link)

    def build() -> Any:
        if way == "count":
            return select(func.count()).select_from(link).where(column == value)
        if way == "joined":
            return select(*keys_in(side, side)).join(getattr(side, relation.name)).where(column == value)
        if way == "not linked":
            return select(*keys_in(side, side)).where(~getattr(side, relation.name).any())
        return select(link).where(column == value)

    return rows_question("association table", build)


@question("lateral", 2)
def lateral(stage: Stage) -> Question | None:
    """Ask for the first rows of a class for each row of another."""
    if stage.dialect != "postgresql":
        return None
    model, target = stage.any_model(), stage.any_model()
    pair = pair_of(stage, model, target)
    if pair is None:
        return None
    here, there = pair
    inside, outside = conditions(stage, target, 1, 0), conditions(stage, model, 1, 0)
    outer = stage.dice.happens(0.5)

    def build() -> Any:
        entity, other = aliased(model), aliased(target)
        block = select(keys_in(other, target)[0].label("key")).where(getattr(other, there) == getattr(entity, here))
        block = block.where(*(one(other) for one in inside)).order_by(*keys_in(other, target)).limit(1)
        source = block.lateral()
        statement = select(*keys_in(entity, model), source.c.key).join(source, true(), isouter=outer)
        return statement.where(*(one(entity) for one in outside))

    return rows_question("lateral", build)


@question("view", 2)
def view(stage: Stage) -> Question | None:
    if not stage.schema.views:
        return None
    model = stage.dice.one_of(stage.schema.views)
    where, whole = conditions(stage, model, 1, 0), stage.dice.happens(0.5)

    def build() -> Any:
        chosen = [model] if whole else [func.count(), func.count(literal(1))]
        return select(*chosen).select_from(model).where(*(one(model) for one in where))

    return entities_question("view", build) if whole else rows_question("view", build)
