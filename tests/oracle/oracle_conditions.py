"""Which conditions does the oracle put into WHERE, ON and HAVING?

A condition is a function of the entity that it is about, a class or an alias of it: built anew for every statement, so
that equal statements made twice are met, too. Many look like one that narrows a read to some rows, and do not.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from oracle_schema import Attribute, attributes_of, key_of, keys_in, relations_of
from oracle_stage import Stage
from oracle_values import BOOL
from sqlalchemy import (
    Integer,
    String,
    and_,
    case,
    cast,
    exists,
    false,
    func,
    literal,
    not_,
    null,
    or_,
    select,
    text,
    true,
    tuple_,
)
from sqlalchemy.orm import aliased

Condition: TypeAlias = Callable[[Any], Any]

_COMPARISONS: Final = (operator.eq, operator.eq, operator.eq, operator.ne, operator.lt, operator.ge)


def condition(stage: Stage, model: type[Any], depth: int = 2) -> Condition:
    """Return a condition on a class; ``depth`` bounds how often AND, OR, NOT and subqueries stand in one another."""
    makers: list[tuple[Any, int]] = [
        (_comparison, 6), (_key, 3), (_list, 2), (_null, 1), (_tuples, 1), (_odd, 3), (_either, 3), (_both, 2)
    ]  # fmt: skip
    if depth > 0:
        makers += [(_joined, 4), (_negated, 1), (_related, 3), (subquery, 4)]
    made: Condition = stage.dice.weighted(makers)(stage, model, depth - 1)
    return made


def conditions(stage: Stage, model: type[Any], most: int = 2, depth: int = 2) -> list[Condition]:
    """Return some conditions, to be joined by AND."""
    count = stage.dice.weighted([(0, 4), (1, 5), (2, 2)])
    return [condition(stage, model, depth) for _ in range(min(count, most))]


def comparable(stage: Stage, model: type[Any]) -> Attribute:
    """Return a mapped column that has ``=``."""
    found = stage.attribute(model, lambda one: one.kind.compares)
    assert found is not None, "a key can be compared"
    return found


def _comparison(stage: Stage, model: type[Any], depth: int) -> Condition:
    one = comparable(stage, model)
    name, value = one.name, stage.compared(one.column, null=False)
    compare = stage.dice.one_of(_COMPARISONS) if one.kind.orders else operator.eq
    if one.kind.orders and stage.dice.happens(0.15):
        low, high = sorted([value, stage.compared(one.column, null=False)])
        return lambda entity: getattr(entity, name).between(low, high)
    if one.kind.likes and stage.dice.happens(0.15):
        return lambda entity: getattr(entity, name).like("a%")
    return lambda entity: compare(getattr(entity, name), value)


def _key(stage: Stage, model: type[Any], depth: int) -> Condition:
    """Return a condition on the whole primary key, or on a foreign key."""
    foreign = [one for one in attributes_of(model) if one.column.foreign_keys and not one.column.primary_key]
    chosen = [stage.dice.one_of(foreign)] if foreign and stage.dice.happens(0.5) else list(key_of(model))
    values = [(one.name, stage.compared(one.column, null=False)) for one in chosen]
    return lambda entity: and_(*(getattr(entity, name) == value for name, value in values))


def _list(stage: Stage, model: type[Any], depth: int) -> Condition:
    one = comparable(stage, model)
    name, values = one.name, [stage.compared(one.column) for _ in range(stage.dice.number(0, 3))]
    if stage.dice.happens(0.25):
        return lambda entity: getattr(entity, name).not_in(values)
    return lambda entity: getattr(entity, name).in_(values)


def _tuples(stage: Stage, model: type[Any], depth: int) -> Condition:
    """Return a tuple IN over the primary key or over any two columns."""
    key = list(key_of(model))
    chosen = key if len(key) > 1 and stage.dice.happens(0.6) else [comparable(stage, model) for _ in range(2)]
    names = [one.name for one in chosen]
    rows = [tuple(stage.compared(one.column, null=False) for one in chosen) for _ in range(stage.dice.number(1, 3))]
    return lambda entity: tuple_(*(getattr(entity, name) for name in names)).in_(rows)


def _null(stage: Stage, model: type[Any], depth: int) -> Condition:
    name = stage.dice.one_of(attributes_of(model)).name
    if stage.dice.happens(0.6):
        return lambda entity: getattr(entity, name).is_(None)
    return lambda entity: getattr(entity, name).is_not(None)


def _odd(stage: Stage, model: type[Any], depth: int) -> Condition:
    """Return what looks like an equality and is none, or is one in disguise."""
    one, other = comparable(stage, model), comparable(stage, model)
    name, value = one.name, stage.compared(one.column, null=False)
    further, another = other.name, stage.compared(other.column, null=False)
    again = stage.compared(one.column, null=False)
    shapes: list[Condition] = [
        lambda entity: case((getattr(entity, name) == value, 1), else_=0) == 0,
        lambda entity: func.coalesce(getattr(entity, name) == value, false()) == false(),
        lambda entity: and_(true(), getattr(entity, name) == value),
        lambda entity: or_(false(), getattr(entity, name) == value),
        lambda entity: value == getattr(entity, name),
        lambda entity: or_(getattr(entity, name) == value, getattr(entity, name) == again),
        lambda entity: or_(getattr(entity, name) == value, getattr(entity, further) == another),
        lambda entity: and_(getattr(entity, name) == value, getattr(entity, name) == again),
        lambda entity: and_(getattr(entity, name) == value, getattr(entity, further) == another),
        lambda entity: not_(getattr(entity, name) == value),
        lambda entity: not_(or_(getattr(entity, name) != value, getattr(entity, further) == another)),
        lambda entity: getattr(entity, name).is_distinct_from(value),
        lambda entity: getattr(entity, name).is_not_distinct_from(value),
        lambda entity: or_(getattr(entity, name) == value, getattr(entity, name).is_(None)),
        lambda entity: func.coalesce(getattr(entity, name), value) == value,
        lambda entity: func.nullif(getattr(entity, name), value).is_(None),
        lambda entity: getattr(entity, name) == null(),
        lambda entity: and_(getattr(entity, name) == value, text("1 = 1")),
        lambda entity: getattr(entity, name) == case((getattr(entity, further) == another, value), else_=again),
    ]
    if one.kind is BOOL:
        shapes += [lambda entity: getattr(entity, name), lambda entity: ~getattr(entity, name)]
        shapes += [lambda entity: getattr(entity, name).is_(True), lambda entity: getattr(entity, name) == true()]
    if one.kind.counts:
        shapes += [
            lambda entity: getattr(entity, name) + 0 == value,
            lambda entity: getattr(entity, name) == literal(value, one.column.type) + 0,
            lambda entity: cast(getattr(entity, name), Integer) == 1,
            lambda entity: -getattr(entity, name) == -value,
        ]
    if one.kind.likes:
        shapes += [
            lambda entity: func.lower(getattr(entity, name)) == value,
            lambda entity: getattr(entity, name) + "" == value,
            lambda entity: cast(getattr(entity, name), String(20)) == value,
        ]
    same = [a.name for a in attributes_of(model) if a.kind is one.kind and a.name != name]
    if same:
        equal = stage.dice.one_of(same)
        shapes += [
            lambda entity: and_(getattr(entity, name) == getattr(entity, equal), getattr(entity, equal) == value)
        ] * 3
        shapes += [lambda entity: getattr(entity, name) == getattr(entity, equal)]
    return stage.dice.one_of(shapes)


def _either(stage: Stage, model: type[Any], depth: int) -> Condition:
    """Return an OR of equalities: of one column, which narrows, or of two, which does not."""
    one = comparable(stage, model)
    other = one if stage.dice.happens(0.3) else comparable(stage, model)
    first, second = stage.compared(one.column, null=False), stage.compared(other.column, null=False)
    with_null = stage.dice.happens(0.2)
    return lambda entity: or_(
        getattr(entity, one.name) == first,
        getattr(entity, other.name).is_(None) if with_null else getattr(entity, other.name) == second,
    )


def _both(stage: Stage, model: type[Any], depth: int) -> Condition:
    """Return two equalities that must hold both."""
    one, other = comparable(stage, model), comparable(stage, model)
    first, second = stage.compared(one.column, null=False), stage.compared(other.column, null=False)
    return lambda entity: and_(getattr(entity, one.name) == first, getattr(entity, other.name) == second)


def _joined(stage: Stage, model: type[Any], depth: int) -> Condition:
    join = stage.dice.one_of([and_, or_])
    parts = [condition(stage, model, depth) for _ in range(stage.dice.number(2, 3))]
    return lambda entity: join(*(part(entity) for part in parts))


def _negated(stage: Stage, model: type[Any], depth: int) -> Condition:
    inner = condition(stage, model, depth)
    return lambda entity: not_(inner(entity))


def _related(stage: Stage, model: type[Any], depth: int) -> Condition:
    """Return EXISTS over a relationship, as ``any()`` and ``has()`` make it, or that there is none."""
    relations = relations_of(model)
    if not relations:
        return _comparison(stage, model, depth)
    relation = stage.dice.one_of(relations)
    name, verb, target = relation.name, "any" if relation.many else "has", relation.target
    inner = conditions(stage, target, 1, min(depth, 1))
    negated = stage.dice.happens(0.3)

    def build(entity: Any) -> Any:
        found = getattr(getattr(entity, name), verb)(and_(true(), *(one(target) for one in inner)))
        return not_(found) if negated else found

    return build


def pair_of(stage: Stage, model: type[Any], target: type[Any]) -> tuple[str, str] | None:
    """Return an attribute of each of two classes that can be compared; most often a foreign key and what it points to."""
    keyed = []
    every = []
    for one in attributes_of(model):
        for other in attributes_of(target):
            if one.kind.compares and one.kind is other.kind:
                every.append((one.name, other.name))
                if one.column.references(other.column) or other.column.references(one.column):
                    keyed += [(one.name, other.name)]
    if keyed and stage.dice.happens(0.7):
        return stage.dice.one_of(keyed)
    return stage.dice.one_of(every) if every else None


def subquery(stage: Stage, model: type[Any], depth: int) -> Condition:
    """Return IN, EXISTS or a scalar comparison over a subquery, correlated or not; one over an association table."""
    target = stage.any_model()
    pair = pair_of(stage, model, target)
    if pair is None:
        return _comparison(stage, model, depth)
    here, there = pair
    inner = conditions(stage, target, 2, min(depth, 1))
    negated = stage.dice.happens(0.3)
    value = stage.compared(next(a.column for a in attributes_of(model) if a.name == here), null=False)
    number = stage.dice.number(0, 2)

    def within(entity: Any) -> Any:
        other = aliased(target)
        return getattr(entity, here).in_(select(getattr(other, there)).where(*(one(other) for one in inner)))

    def without(entity: Any) -> Any:
        other = aliased(target)
        return getattr(entity, here).not_in(select(getattr(other, there)).where(*(one(other) for one in inner)))

    def correlated(entity: Any) -> Any:
        other = aliased(target)
        found = exists().where(getattr(other, there) == getattr(entity, here), *(one(other) for one in inner))
        return not_(found) if negated else found

    def correlated_and_narrowed(entity: Any) -> Any:
        other = aliased(target)
        found = exists().where(getattr(other, there) == getattr(entity, here), *(one(other) for one in inner))
        return and_(getattr(entity, here) == value, not_(found) if negated else found)

    def either(entity: Any) -> Any:
        other = aliased(target)
        found = exists().where(getattr(other, there) == getattr(entity, here), *(one(other) for one in inner))
        return or_(found, getattr(entity, here) == value)

    def counted(entity: Any) -> Any:
        other = aliased(target)
        count = select(func.count()).select_from(other).where(getattr(other, there) == getattr(entity, here))
        count = count.where(*(one(other) for one in inner))
        return count.scalar_subquery() > number if not negated else count.scalar_subquery() == number

    def first(entity: Any) -> Any:
        other = aliased(target)
        found = select(getattr(other, there)).where(*(one(other) for one in inner))
        return getattr(entity, here) == found.order_by(*keys_in(other, target)).limit(1).scalar_subquery()

    def correlated_list(entity: Any) -> Any:
        other = aliased(target)
        found = select(getattr(other, there)).where(getattr(other, there) == getattr(entity, here))
        return getattr(entity, here).in_(found.where(*(one(other) for one in inner)))

    def about_an_aggregate(entity: Any) -> Any:
        # It has a row whatever there is: true for all, or false for all.
        other = aliased(target)
        found = select(func.count()).where(getattr(other, there) == getattr(entity, here)).select_from(other)
        return found.where(*(one(other) for one in inner)).exists()

    def about_groups(entity: Any) -> Any:
        other = aliased(target)
        found = select(getattr(other, there)).where(*(one(other) for one in inner)).group_by(getattr(other, there))
        return getattr(entity, here).in_(found.having(func.count() > number))

    def plain(entity: Any) -> Any:
        found = exists().where(getattr(target, there) == getattr(entity, here), *(one(target) for one in inner))
        return not_(found) if negated else found

    shapes: list[Condition] = [
        within, without, correlated, correlated, correlated_and_narrowed, either, counted, first, correlated_list,
        about_an_aggregate, about_groups,
    ]  # fmt: skip
    if target is not model and not issubclass(target, model) and not issubclass(model, target):
        shapes.append(plain)
    links = [relation for relation in relations_of(model) if relation.link is not None]
    if links and len(key_of(model)) == 1:
        link = stage.dice.one_of(links).link
        shapes += [_linked(stage, model, link)] * 2
    return stage.dice.one_of(shapes)


def _linked(stage: Stage, model: type[Any], link: Any) -> Condition:
    """Return IN over an association table."""
    own = key_of(model)[0]
    mine = [column for column in link.columns if column.references(own.column)]
    others = [column for column in link.columns if column not in mine]
    if not mine or not others:
        return _comparison(stage, model, 0)
    other, value = others[0], stage.compared(others[0], null=False)
    name, column = own.name, mine[0]
    return lambda entity: getattr(entity, name).in_(select(column).where(other == value))
