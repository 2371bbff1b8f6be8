"""Which reads does the oracle ask?

A question is a read that can be performed by any Session as often as wanted, and the ways in which its objects are then
walked. It is built anew each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from oracle_conditions import COLUMNS, RELATIONSHIPS, conditions, key_columns
from oracle_schema import MODELS, Item, Label, Part, Region, Tool, item_label
from sqlalchemy import distinct, func, select, union, union_all
from sqlalchemy.orm import (
    Session,
    aliased,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    selectin_polymorphic,
    selectinload,
    subqueryload,
    with_polymorphic,
)

LOADERS: Final = (joinedload, selectinload, subqueryload, immediateload, lazyload)


@dataclass(frozen=True, slots=True)
class Question:
    """A read. ``ordered``: the order of its rows is part of the answer. ``walks``: attributes touched afterwards."""

    shape: str
    ask: Callable[[Session], Sequence[Any]]
    build: Callable[[], Any] | None = None
    ordered: bool = False
    walks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        walked = f", then {', '.join(self.walks)}" if self.walks else ""
        return f"<{self.shape}: {self._sql()}{walked}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        # Hypothesis shows dataclasses field by field unless told otherwise.
        printer.text(repr(self))

    def _sql(self) -> str:
        if self.build is None:
            return ""
        compiled = self.build().compile(compile_kwargs={"literal_binds": True})
        return " ".join(str(compiled).split())


def questions() -> st.SearchStrategy[Question]:
    """Return reads of every shape."""
    return st.one_of(
        gets(), entities(), entities(), columns(), aggregates(), joins(), joins(), unions(), derived(), legacy()
    )


def question_of(shape: str, build: Callable[[], Any], *, ordered: bool = False, walks: Sequence[str] = ()) -> Question:
    """Return the question that executes a statement."""

    def ask(session: Session) -> Sequence[Any]:
        result = session.execute(build())
        # Joined eager loading of collections demands unique().
        return result.unique().all() if "joined" in shape else result.all()

    return Question(shape, ask, build, ordered, tuple(walks))


@st.composite
def gets(draw: st.DrawFn) -> Question:
    model = draw(st.sampled_from(MODELS))
    key = draw(st.tuples(st.integers(1, 4), st.integers(1, 2))) if model is Part else draw(st.integers(1, 4))
    walks = draw(_walks(model))
    return Question(f"get {model.__name__} {key}", lambda session: [session.get(model, key)], walks=walks)


def _walks(model: type[Any]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(sorted(RELATIONSHIPS[model])), max_size=2, unique=True).map(tuple)


@st.composite
def _options(draw: st.DrawFn, model: type[Any]) -> tuple[str, Callable[[], list[Any]]]:
    """Return loader options, by what makes them, and a word for the shape."""
    chosen: list[tuple[Any, str, str | None]] = []
    for name in draw(_walks(model)):
        target = RELATIONSHIPS[model][name][0]
        further = draw(st.one_of(st.none(), st.sampled_from(sorted(RELATIONSHIPS[target]))))
        chosen.append((draw(st.sampled_from(LOADERS)), name, further))
    extent = draw(st.sampled_from(["all", "all", "only", "defer"]))
    column = draw(st.sampled_from([name for name in COLUMNS[model] if name not in ("id", "kind", "item_id", "number")]))

    def build() -> list[Any]:
        options: list[Any] = []
        for loader, name, further in chosen:
            option = loader(getattr(model, name))
            target = RELATIONSHIPS[model][name][0]
            if further is not None:
                option = getattr(option, loader.__name__)(getattr(target, further))
            options.append(option)
        if extent == "only":
            options.append(load_only(getattr(model, column)))
        elif extent == "defer":
            options.append(defer(getattr(model, column)))
        return options

    return "joined " if any(loader is joinedload for loader, _, _ in chosen) else "", build


@st.composite
def entities(draw: st.DrawFn) -> Question:
    model = draw(st.sampled_from(MODELS))
    where = draw(st.lists(conditions(model), max_size=2))
    joined, options = draw(_options(model))
    page = draw(st.sampled_from([None, None, (2, 0), (1, 1)]))
    ordered = page is not None or draw(st.booleans())
    by = draw(st.sampled_from(COLUMNS[model]))
    polymorphic = model is Item and draw(st.booleans())

    def build() -> Any:
        statement = select(model).where(*(condition(model) for condition in where)).options(*options())
        if polymorphic:
            statement = statement.options(selectin_polymorphic(Item, [Tool]))
        if ordered:
            statement = statement.order_by(getattr(model, by), *key_columns(model, model))
        return statement if page is None else statement.limit(page[0]).offset(page[1])

    return question_of(f"{joined}entities", build, ordered=ordered, walks=draw(_walks(model)))


@st.composite
def columns(draw: st.DrawFn) -> Question:
    model = draw(st.sampled_from(MODELS))
    names = draw(st.lists(st.sampled_from(COLUMNS[model]), min_size=1, max_size=3, unique=True))
    where = draw(st.lists(conditions(model), max_size=2))
    is_distinct, use_alias, limit = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())

    def build() -> Any:
        entity = aliased(model) if use_alias else model
        statement = select(*(getattr(entity, name) for name in names)).where(*(one(entity) for one in where))
        if is_distinct:
            return statement.distinct()
        return statement.order_by(*key_columns(entity, model)).limit(1) if limit else statement

    return question_of("columns", build, ordered=limit and not is_distinct)


@st.composite
def aggregates(draw: st.DrawFn) -> Question:
    model = draw(st.sampled_from(MODELS))
    name, number = draw(st.sampled_from(COLUMNS[model])), draw(st.sampled_from(_NUMBERS_OF[model]))
    where = draw(st.lists(conditions(model), max_size=2))
    kind = draw(st.sampled_from(["count", "count", "sum", "min max", "group", "having", "distinct", "exists"]))

    def build() -> Any:
        column, value = getattr(model, name), getattr(model, number)
        criteria = [one(model) for one in where]
        if kind == "exists":
            return select(select(model).where(*criteria).exists())
        if kind in ("group", "having"):
            grouped = select(column, func.count(), func.sum(value)).where(*criteria).group_by(column)
            return grouped.having(func.count() > 1) if kind == "having" else grouped
        what: dict[str, list[Any]] = {
            "count": [func.count()],
            "sum": [func.sum(value), func.count(column)],
            "min max": [func.min(value), func.max(value)],
            "distinct": [func.count(distinct(column))],
        }
        return select(*what[kind]).select_from(model).where(*criteria)

    return question_of(f"{kind} aggregate", build)


_NUMBERS_OF: Final = {
    model: [n for n in COLUMNS[model] if n in ("id", "rank", "size", "number", "amount", "power", "colour")]
    for model in MODELS
}


@st.composite
def joins(draw: st.DrawFn) -> Question:
    """Ask for two entities that a relationship joins, the other one under an alias; ON may say more."""
    model = draw(st.sampled_from(MODELS))
    name = draw(st.sampled_from(sorted(RELATIONSHIPS[model])))
    target = RELATIONSHIPS[model][name][0]
    outer = draw(st.booleans())
    here, there = draw(st.lists(conditions(model, 1), max_size=1)), draw(st.lists(conditions(target, 1), max_size=1))
    # Where an association table is joined, too, the ON in the middle cannot name the first entity.
    direct = getattr(model, name).property.secondary is None
    on_here = draw(st.lists(conditions(model, 0), max_size=1)) if direct else []
    on_there = draw(st.lists(conditions(target, 0), max_size=1))
    what = draw(st.sampled_from(["both", "one", "column", "missing", "count"]))

    def build() -> Any:
        other = aliased(target)
        on = getattr(model, name).of_type(other)
        on = on.and_(*(one(model) for one in on_here), *(one(other) for one in on_there)) if on_here or on_there else on
        key = key_columns(other, target)[0]
        chosen: dict[str, list[Any]] = {
            "both": [model, other],
            "one": [model],
            "column": [*key_columns(model, model), key],
            "missing": key_columns(model, model),
            "count": [func.count(), func.count(key)],
        }
        statement = select(*chosen[what]).select_from(model).join(on, isouter=outer)
        statement = statement.where(*(one(model) for one in here), *(one(other) for one in there))
        return statement.where(key.is_(None)) if what == "missing" else statement

    return question_of(f"{'outer' if outer else 'inner'} join, {what}", build)


@st.composite
def unions(draw: st.DrawFn) -> Question:
    model = draw(st.sampled_from(MODELS))
    first, second = draw(conditions(model, 1)), draw(conditions(model, 1))
    combine = draw(st.sampled_from([union, union_all]))

    def build() -> Any:
        keys = key_columns(model, model)
        return combine(select(*keys).where(first(model)), select(*keys).where(second(model)))

    return question_of("union", build)


@st.composite
def derived(draw: st.DrawFn) -> Question:
    """Ask over a CTE or a derived table with LIMIT, a recursive CTE, the association table, several classes at once."""
    inside, outside = draw(conditions(Item, 1)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["cte", "derived", "recursive", "association", "polymorphic", "uses"]))

    def build() -> Any:
        if kind == "recursive":
            tree = select(Region.id, Region.parent_id).where(Region.id == outside).cte("tree", recursive=True)
            below = select(Region.id, Region.parent_id).join(tree, Region.parent_id == tree.c.id)
            return select(tree.union(below).c.id)
        if kind == "association":
            return select(item_label).where(item_label.c.label_id == outside)
        if kind == "uses":
            return select(Label.id, Label.uses).where(Label.uses >= outside - 1)
        if kind == "polymorphic":
            both = with_polymorphic(Item, [Tool])
            return select(both).where(inside(both))
        inner = select(Item.id, Item.region_id).where(inside(Item)).order_by(Item.region_id, Item.id)
        block: Any = inner.limit(2).subquery() if kind == "derived" else inner.cte()
        return select(block.c.id).where(block.c.region_id == outside)

    return question_of(kind, build)


@st.composite
def legacy(draw: st.DrawFn) -> Question:
    model = draw(st.sampled_from(MODELS))
    where = draw(st.lists(conditions(model, 1), max_size=1))
    verb = draw(st.sampled_from(["all", "count", "first", "filter_by", "exists", "scalars"]))
    name = draw(st.sampled_from([name for name in COLUMNS[model] if name != "price"]))
    value = draw(st.integers(1, 2))

    def ask(session: Session) -> Sequence[Any]:
        query: Any = session.query(model).filter(*(one(model) for one in where)).order_by(*key_columns(model, model))
        if verb == "count":
            return [query.count()]
        if verb == "first":
            return [query.first()]
        if verb == "filter_by" and name in ("id", "region_id", "size", "item_id", "parent_id", "rank", "power"):
            query = query.filter_by(**{name: value})
        if verb == "exists":
            return [session.query(query.order_by(None).exists()).scalar()]
        if verb == "scalars":
            return session.scalars(query.statement).all()
        found: list[Any] = query.all()
        return found

    return Question(
        f"Query.{verb}",
        ask,
        lambda: select(model).where(*(one(model) for one in where)),
        ordered=True,
        walks=draw(_walks(model)),
    )
