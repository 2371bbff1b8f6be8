"""Which conditions does the oracle put into WHERE, ON and HAVING?

A condition is a function of the entity that it is about, a class or an alias of it: built anew for every statement, so
that equal statements made twice are met, too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from hypothesis import strategies as st
from oracle_schema import Flag, Item, Label, Part, Region, Tool, item_label
from oracle_values import values_of
from sqlalchemy import Boolean, and_, case, exists, false, func, not_, or_, select, true, tuple_
from sqlalchemy.orm import aliased

Condition: TypeAlias = Callable[[Any], Any]

_COMPARISONS: Final = st.sampled_from([operator.eq, operator.eq, operator.eq, operator.ne, operator.lt, operator.ge])

COLUMNS: Final[dict[type[Any], tuple[str, ...]]] = {
    Region: ("id", "name", "parent_id", "rank"),
    Item: ("id", "kind", "region_id", "code", "size", "price", "live"),
    Tool: ("id", "region_id", "code", "size", "power", "live"),
    Part: ("item_id", "number", "amount", "serial"),
    Label: ("id", "kind", "text"),
    Flag: ("id", "text", "colour"),
}
"""The attributes of each class that conditions, orders and column lists are made of."""

RELATIONSHIPS: Final[dict[type[Any], dict[str, tuple[type[Any], bool]]]] = {
    Region: {"parent": (Region, False), "children": (Region, True), "items": (Item, True)},
    Item: {"region": (Region, False), "parts": (Part, True), "labels": (Label, True)},
    Tool: {"region": (Region, False), "parts": (Part, True), "labels": (Label, True)},
    Part: {"item": (Item, False)},
    Label: {"items": (Item, True)},
    Flag: {"items": (Item, True)},
}
"""The relationships of each class: the class that they lead to, and whether to many."""


def conditions(model: type[Any], depth: int = 2) -> st.SearchStrategy[Condition]:
    """Return conditions on a class; ``depth`` bounds how often AND, OR, NOT and subqueries stand in one another."""
    plain = st.one_of(_comparisons(model), _comparisons(model), _lists(model), _nulls(model), _odd(model))
    if depth == 0:
        return plain
    inner = conditions(model, depth - 1)
    return st.one_of(
        plain,
        plain,
        st.builds(_joined, st.sampled_from([and_, or_]), inner, inner),
        st.builds(_negated, inner),
        _related(model, depth - 1),
        _subqueries(model, depth - 1),
    )


def key_columns(entity: Any, model: type[Any]) -> list[Any]:
    """Return the columns by which the rows of an entity have one order."""
    return [entity.item_id, entity.number] if model is Part else [entity.id]


@st.composite
def _comparisons(draw: st.DrawFn, model: type[Any]) -> Condition:
    name = draw(st.sampled_from(COLUMNS[model]))
    column = getattr(model, name).property.columns[0]
    compare, value = draw(_COMPARISONS), draw(values_of(column, nullable=False))
    if isinstance(column.type, Boolean):
        return lambda entity: getattr(entity, name) == value
    if draw(st.booleans()):
        return lambda entity: compare(getattr(entity, name), value)
    other = draw(values_of(column, nullable=False))
    low, high = sorted([value, other])
    if draw(st.booleans()):
        return lambda entity: getattr(entity, name).between(low, high)
    return lambda entity: getattr(entity, name) == value


@st.composite
def _lists(draw: st.DrawFn, model: type[Any]) -> Condition:
    name = draw(st.sampled_from(COLUMNS[model]))
    column = getattr(model, name).property.columns[0]
    values = draw(st.lists(values_of(column), max_size=3))
    if model is Part and draw(st.booleans()):
        pairs = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 2)), min_size=1, max_size=2))
        return lambda entity: tuple_(entity.item_id, entity.number).in_(pairs)
    if draw(st.integers(0, 3)) == 0:
        return lambda entity: getattr(entity, name).not_in(values)
    return lambda entity: getattr(entity, name).in_(values)


@st.composite
def _nulls(draw: st.DrawFn, model: type[Any]) -> Condition:
    name = draw(st.sampled_from(COLUMNS[model]))
    if draw(st.booleans()):
        return lambda entity: getattr(entity, name).is_(None)
    return lambda entity: getattr(entity, name).is_not(None)


@st.composite
def _odd(draw: st.DrawFn, model: type[Any]) -> Condition:
    """Return what looks like an equality and is none, or is one in disguise."""
    name = draw(st.sampled_from(COLUMNS[model]))
    value = draw(values_of(getattr(model, name).property.columns[0], nullable=False))
    shapes: list[Condition] = [
        lambda entity: case((getattr(entity, name) == value, 1), else_=0) == 0,
        lambda entity: func.coalesce(getattr(entity, name) == value, false()) == false(),
        lambda entity: and_(true(), getattr(entity, name) == value),
        lambda entity: or_(false(), getattr(entity, name) == value),
        lambda entity: value == getattr(entity, name),
    ]
    return draw(st.sampled_from(shapes))


def _joined(join: Callable[..., Any], first: Condition, second: Condition) -> Condition:
    return lambda entity: join(first(entity), second(entity))


def _negated(inner: Condition) -> Condition:
    return lambda entity: not_(inner(entity))


@st.composite
def _related(draw: st.DrawFn, model: type[Any], depth: int) -> Condition:
    """Return EXISTS over a relationship, as ``any()`` and ``has()`` make it."""
    name = draw(st.sampled_from(sorted(RELATIONSHIPS[model])))
    target, is_many = RELATIONSHIPS[model][name]
    inner = draw(conditions(target, depth))
    verb = "any" if is_many else "has"
    return lambda entity: getattr(getattr(entity, name), verb)(inner(target))


@st.composite
def _subqueries(draw: st.DrawFn, model: type[Any], depth: int) -> Condition:
    """Return IN, EXISTS and a scalar comparison over a subquery; one over the association table itself."""
    part, region = draw(conditions(Part, depth)), draw(conditions(Region, depth))
    key, label = draw(st.integers(1, 4)), draw(st.integers(1, 4))

    def in_parts(entity: Any) -> Any:
        inner = aliased(Part)
        return key_columns(entity, model)[0].in_(select(inner.item_id).where(part(inner)))

    def not_in_regions(entity: Any) -> Any:
        inner = aliased(Region)
        return key_columns(entity, model)[0].not_in(select(inner.id).where(region(inner)))

    def correlated(entity: Any) -> Any:
        inner = aliased(Part)
        return exists().where(inner.item_id == key_columns(entity, model)[0], part(inner))

    def scalar(entity: Any) -> Any:
        inner = aliased(Part)
        count = select(func.count()).select_from(inner).where(inner.item_id == key_columns(entity, model)[0])
        return or_(count.scalar_subquery() > 0, key_columns(entity, model)[0] == key)

    def greatest(entity: Any) -> Any:
        inner = aliased(Region)
        return key_columns(entity, model)[0] >= select(func.max(inner.rank)).where(region(inner)).scalar_subquery()

    def associated(entity: Any) -> Any:
        linked = select(item_label.c.item_id).where(item_label.c.label_id == label)
        return key_columns(entity, model)[0].in_(linked)

    shapes: list[Condition] = [in_parts, not_in_regions, correlated, scalar, greatest, associated]
    return draw(st.sampled_from(shapes))
