"""Questions whose answers are objects: by key, in lists, with loader options, polymorphic, by legacy Query and Model.cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from oracle_conditions import condition, conditions
from oracle_questions import Question, entities_question, question, walks_of
from oracle_schema import (
    attributes_of,
    expressions_of,
    key_of,
    keys_in,
    mapper_of,
    relations_of,
    subclasses_of,
)
from oracle_stage import Stage
from sqlalchemy import func, inspect, select
from sqlalchemy.orm import (
    Session,
    aliased,
    contains_eager,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    raiseload,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    undefer,
    with_loader_criteria,
    with_polymorphic,
)

from querycache.models import ModelCache

_LOADERS: Final = (joinedload, selectinload, subqueryload, immediateload, lazyload, joinedload, selectinload)


@question("get", 3)
def get(stage: Stage) -> Question:
    model = stage.any_model()
    key = stage.key(model)
    ident = key if len(key) > 1 else key[0]
    return Question(
        "get", f"{model.__name__} {key}", lambda session: [session.get(model, ident)], walks=walks_of(stage, model)
    )


@question("Model.cache.get")
def cache_get(stage: Stage) -> Question:
    model = stage.any_model()
    key = stage.key(model)
    return Question(
        "Model.cache.get",
        f"{model.__name__} {key}",
        lambda session: [ModelCache(model).get(key, session=session)],
        walks=walks_of(stage, model),
    )


@question("Model.cache.filter")
def cache_filter(stage: Stage) -> Question | None:
    model = stage.any_model()
    one = stage.attribute(model, lambda found: found.kind.compares)
    assert one is not None
    given = {} if stage.dice.happens(0.3) else {one.name: stage.compared(one.column)}
    page = stage.dice.one_of([{}, {}, {"limit": 2}, {"limit": 1, "offset": 1}])
    order = stage.dice.one_of(["asc", "desc"])
    return Question(
        "Model.cache.filter",
        f"{model.__name__} {given} {page} {order}",
        lambda session: ModelCache(model).filter(order, session=session, **page, **given),
        ordered=True,
        walks=walks_of(stage, model),
    )


def _loader_options(stage: Stage, model: type[Any]) -> Callable[[], list[Any]]:
    """Return what makes loader options, two levels deep, some with criteria of their own."""
    made: list[Callable[[], Any]] = []
    for relation in stage.dice.some_of(relations_of(model), 0, 2):
        loader = stage.dice.one_of(_LOADERS)
        further = stage.relation(relation.target) if stage.dice.happens(0.4) else None
        only = condition(stage, relation.target, 0) if stage.dice.happens(0.2) else None

        def option(
            loader: Any = loader, name: str = relation.name, target: Any = relation.target, further: Any = further,
            only: Any = only,
        ) -> Any:  # fmt: skip
            over = getattr(model, name)
            first = loader(over if only is None else over.and_(only(target)))
            return first if further is None else getattr(first, loader.__name__)(getattr(target, further.name))

        made.append(option)
    columns = [one.name for one in attributes_of(model) if one.is_settable]
    extent = stage.dice.weighted([("all", 6), ("only", 2), ("defer", 1), ("undefer", 1), ("raise", 1)])
    if extent in ("only", "defer") and columns:
        chosen = stage.dice.some_of(columns, 1, 2)
        word = load_only if extent == "only" else defer
        made.append(lambda: word(*(getattr(model, name) for name in chosen[: None if extent == "only" else 1])))
    elif extent == "undefer" and expressions_of(model):
        name = stage.dice.one_of(expressions_of(model))
        made.append(lambda: undefer(getattr(model, name)))
    elif extent == "raise":
        made.append(lambda: raiseload("*"))
    return lambda: [make() for make in made]


@question("entities", 6)
def entities(stage: Stage) -> Question:
    model = stage.any_model()
    where, options = conditions(stage, model), _loader_options(stage, model)
    page = stage.dice.one_of([None, None, (2, 0), (1, 1)])
    ordered = page is not None or stage.dice.happens(0.5)
    by = stage.attribute(model, lambda one: one.kind.orders)

    def build() -> Any:
        statement = select(model).where(*(one(model) for one in where)).options(*options())
        if ordered:
            statement = statement.order_by(*([getattr(model, by.name)] if by else []), *keys_in(model, model))
        return statement if page is None else statement.limit(page[0]).offset(page[1])

    return entities_question("entities", build, ordered=ordered, walks=walks_of(stage, model))


@question("polymorphic")
def polymorphic(stage: Stage) -> Question | None:
    """Ask a base class for its subclasses' columns, in one statement or by further ones."""
    model = stage.model(lambda one: bool(subclasses_of(one)) and mapper_of(one).polymorphic_on is not None)
    if model is None:
        return None
    below = [one for one in subclasses_of(model) if not mapper_of(one).concrete]
    if not below:
        return None
    chosen = stage.dice.some_of(below, 1)
    way = stage.dice.one_of(["selectin", "with", "with", "flat"])
    where = conditions(stage, model, 1, 1)
    inner = condition(stage, chosen[0], 0) if stage.dice.happens(0.5) else None

    def build() -> Any:
        if way == "selectin":
            statement = select(model).options(selectin_polymorphic(model, chosen))
            return statement.where(*(one(model) for one in where)).order_by(*keys_in(model, model))
        every = with_polymorphic(model, chosen, flat=way == "flat")
        statement = select(every).where(*(one(every) for one in where)).order_by(*keys_in(every, model))
        return statement if inner is None else statement.where(inner(getattr(every, chosen[0].__name__)))

    return entities_question("polymorphic", build, ordered=True, walks=walks_of(stage, model))


@question("with_loader_criteria")
def criteria(stage: Stage) -> Question | None:
    """Ask with a criterion that applies wherever a class is loaded."""
    model = stage.any_model()
    relation = stage.relation(model)
    if relation is None:
        return None
    target = relation.target if stage.dice.happens(0.7) else model
    only = condition(stage, target, 0)
    loader = stage.dice.one_of(_LOADERS)
    where = conditions(stage, model, 1, 1)

    def build() -> Any:
        return (
            select(model)
            .where(*(one(model) for one in where))
            .options(loader(getattr(model, relation.name)), with_loader_criteria(target, only(target)))
        )

    return entities_question("with_loader_criteria", build, walks=(relation.name,))


@question("contains_eager")
def eager(stage: Stage) -> Question | None:
    """Fill a relationship from a join, of the target itself, an alias of it, or a subclass of it."""
    model = stage.any_model()
    relation = stage.relation(model)
    if relation is None or relation.target is model:
        return None
    name, target = relation.name, relation.target
    inner, outer = conditions(stage, target, 1, 1), conditions(stage, model, 1, 0)
    is_outer, way = stage.dice.happens(0.5), stage.dice.one_of(["plain", "alias", "subclass"])
    below = [one for one in subclasses_of(target) if not mapper_of(one).concrete]

    def build() -> Any:
        if way == "subclass" and below:
            other: Any = aliased(below[0])
        else:
            other = target if way == "plain" else aliased(target)
        over = getattr(model, name) if other is target else getattr(model, name).of_type(other)
        statement = select(model).join(over, isouter=is_outer).options(contains_eager(over))
        statement = statement.where(*(one(other) for one in inner), *(one(model) for one in outer))
        return statement.order_by(*keys_in(model, model), *keys_in(other, target))

    return entities_question("contains_eager", build, ordered=True)


@question("legacy Query", 2)
def legacy(stage: Stage) -> Question:
    model = stage.any_model()
    where = conditions(stage, model, 2, 1)
    verb = stage.dice.one_of(["all", "count", "first", "filter_by", "exists", "get", "one_or_none", "from_statement"])
    one = stage.attribute(model, lambda found: found.kind.compares)
    assert one is not None
    value = stage.compared(one.column, null=False)
    key = stage.key(model)
    ident = key if len(key) > 1 else key[0]

    def ask(session: Session) -> Sequence[Any]:
        query: Any = session.query(model).filter(*(part(model) for part in where))
        if verb == "count":
            return [query.count()]
        if verb == "exists":
            return [session.query(query.exists()).scalar()]
        if verb == "get":
            return [session.get(model, ident)]
        query = query.order_by(*keys_in(model, model))
        if verb == "first":
            return [query.first()]
        if verb == "one_or_none":
            return [query.limit(1).one_or_none()]
        if verb == "from_statement":
            return list(session.query(model).from_statement(query.statement).all())
        if verb == "filter_by":
            query = query.filter_by(**{one.name: value})
        return list(query.all())

    told = f"{verb} of {select(model).where(*(part(model) for part in where))} {one.name}={value!r} {key}"
    return Question("legacy Query", " ".join(told.split()), ask, ordered=True, walks=walks_of(stage, model))


@question("refresh", 1)
def refresh(stage: Stage) -> Question:
    """Load objects, have some of what they hold expired or refreshed, and look again."""
    model = stage.any_model()
    where = conditions(stage, model, 1, 0)
    way = stage.dice.one_of(["refresh", "expire", "expire some", "refresh some"])
    names = [
        one.name for one in stage.dice.some_of([a for a in attributes_of(model) if not a.column.primary_key], 1, 2)
    ]

    def ask(session: Session) -> Sequence[Any]:
        statement = select(model).where(*(one(model) for one in where)).order_by(*keys_in(model, model))
        found = list(session.execute(statement).unique().scalars())
        for instance in found[:2]:
            if way == "refresh":
                session.refresh(instance)
            elif way == "refresh some":
                session.refresh(instance, names)
            else:
                session.expire(instance, names if way == "expire some" else None)
                getattr(instance, names[0] if names else key_of(model)[0].name)
        return found

    told = " ".join(f"{way} {names} of {select(model).where(*(one(model) for one in where))}".split())
    return Question("refresh", told, ask, ordered=True, is_steady=False)


@question("with_parent and count", 1)
def of_parent(stage: Stage) -> Question | None:
    """Ask for what one object is related to, as a lazy load does, and how many there are."""
    model = stage.model(lambda one: any(relation.many for relation in relations_of(one)))
    if model is None:
        return None
    relation = stage.relation(model, lambda one: one.many)
    assert relation is not None
    key = stage.key(model)
    name, target = relation.name, relation.target

    def ask(session: Session) -> Sequence[Any]:
        parent = session.get(model, key if len(key) > 1 else key[0])
        if parent is None:
            return [None]
        from sqlalchemy.orm import with_parent

        counted = select(func.count()).select_from(target).where(with_parent(parent, getattr(model, name)))
        return [session.scalar(counted), [inspect(one).identity for one in getattr(parent, name)]]

    return Question("with_parent and count", f"{model.__name__} {key} {name}", ask)
