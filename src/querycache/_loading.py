"""How are rows turned into what a Session returns without the ORM's loader? And which of its private names does that lean on?

A *recipe* is read off what an ordinary load of the same compiled statement was about to do (``_trees``), never guessed from
options: which column of a row goes to which attribute of which instance, by which key an instance is found, which column is
shown. It is tried against the ordinary load, field by field, before it is followed (``_trials``); where anything differs, or
the statement asks for more than is known, there is no recipe, and the ORM's own loader goes on loading it. The private names
stand here and in those modules, and tests/integration/test_direct_loading.py fails when a release changes what stands behind
them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from typing import Any, Final, TypeAlias

from sqlalchemy.engine import CursorResult, Result, Row
from sqlalchemy.engine.result import ChunkedIteratorResult, SimpleResultMetaData
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.collections import CollectionAdapter
from sqlalchemy.orm.context import QueryContext
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter

from querycache import _sqlalchemy, _trials
from querycache._generated import Make, maker_of
from querycache._trees import Branch, Post, Tree, Unusual, is_heard, may_be_loaded, tree_of

logger = logging.getLogger("querycache")

_UNIQUE_PARAMETER: Final = (
    "_create_unique_filters" if "_create_unique_filters" in SimpleResultMetaData.__slots__ else "_unique_filters"
)
_TELLS_CONTEXT: Final = "context" in inspect.signature(ChunkedIteratorResult).parameters
_TRIED_ROWS: Final = 20

_PREBUFFERED: Final = "prebuffer_rows"

_Chunks: TypeAlias = Callable[[int | None], Iterator[Any]]

Replay: TypeAlias = Callable[[Session, Sequence[Sequence[Any]]], Result[Any]]
"""Has the ordinary loader load rows into a Session."""


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How the rows of one compiled statement become what a Session returns for them.

    ``options``: of which types those of the statement are. SQLAlchemy pairs them by their places with those of another call.
    ``is_tried``: it was compared with the ordinary load already. One with posts is tried when these are answered, too.
    """

    tree: Tree
    make: Make
    metadata: SimpleResultMetaData | None
    described: tuple[tuple[Any, Any], ...]
    unique_state: Any
    mappers: tuple[Any, ...]
    heard: tuple[Any, ...]
    options: tuple[type[Any], ...]
    is_tried: list[bool] = field(default_factory=list)

    @property
    def mapper(self) -> Any:
        """The mapper of its only entity."""
        return self.mappers[0]

    @property
    def is_plain(self) -> bool:
        """Whether it makes instances of one class, one a row, and nothing more."""
        tree = self.tree
        return tree.is_single and len(tree.nodes) == 1 and not tree.post_order and not tree.current_path

    @property
    def is_alone(self) -> bool:
        """Whether no statement is sent after it."""
        return not self.tree.post_order

    def load(self, session: Session, rows: Sequence[Sequence[Any]]) -> list[Any] | None:
        """Return what rows, as the driver gave them, stand for in a Session; None where the ordinary loader must.

        That is where an instance that the Session holds is expired or lacks something, or a row has part of a key.
        """
        runids: set[int] = set()
        later: list[tuple[dict[str, Any], dict[str, Any]]] = []
        made = self.make(session, rows, runids, later, ())
        if made is None:
            forget(session, runids)
            return None
        for values, target in later:
            values.update(target)
        return made


def recipe_of(
    orm: ORMExecuteState,
    cursor: CursorResult[Any],
    description: Sequence[Sequence[Any]],
    rows: Sequence[Sequence[Any]],
    ordinary: Replay,
    unique_state: Any,
) -> Recipe | None:
    """Read off how a compiled statement is loaded, after an ordinary load of it; None where that is not known.

    ``rows``: as the driver gave them, to try the recipe on some, with the ordinary loader beside. ``unique_state``: what the
    ordinary result demands of who reads it. Never raises.
    """
    try:
        recipe = _read_off(orm, cursor, description, len(rows[0]), unique_state)
        if not recipe.is_alone or is_faithful(recipe, orm, rows[:_TRIED_ROWS], ordinary):
            return recipe
        logger.debug("a statement is loaded by SQLAlchemy's own loader: its recipe makes something else")
    except Unusual:
        pass
    except Exception:
        logger.warning(
            "a statement is loaded by SQLAlchemy's own loader: no recipe could be read off it", exc_info=True
        )
    return None


def _read_off(
    orm: ORMExecuteState,
    cursor: CursorResult[Any],
    description: Sequence[Sequence[Any]],
    width: int,
    unique_state: Any,
) -> Recipe:
    if not _may_follow(orm):
        raise Unusual
    tree = tree_of(orm, cursor, width)
    mappers = tuple(dict.fromkeys(node.mapper for node in tree.nodes))
    relations: list[Branch | Post] = [*(branch for node in tree.nodes for branch in node.branches)]
    relations += (post for node in tree.nodes for post in node.posts)
    if any(_is_watched(mapper, orm.session) for mapper in mappers) or tree.needs_unique != (unique_state is not None):
        raise Unusual
    return Recipe(
        tree=tree,
        make=maker_of(tree),
        metadata=_metadata_of(tree, ()) if not tree.translated else None,
        described=_described(description),
        unique_state=unique_state,
        mappers=mappers,
        heard=tuple(relation.impl for relation in relations if relation.factory is not None),
        options=tuple(map(type, _options_of(orm))),
    )


def is_faithful(recipe: Recipe, orm: ORMExecuteState, rows: Sequence[Sequence[Any]], ordinary: Replay) -> bool:
    """Tell whether the recipe makes of rows what the ordinary loader does, field by field."""
    with _trials.trial_session() as one, _trials.trial_session() as other:
        expected = shown(recipe, ordinary(one, rows))
        made = recipe.load(other, rows)
        return made is not None and _trials.are_same(shown_of(recipe, orm, made), expected)


def shown(recipe: Recipe, result: Result[Any]) -> list[Any]:
    """Write down what a result shows, so that it can be compared with ``shown_of``."""
    keys = list(result.keys())
    rows = (result.unique() if recipe.unique_state is not None else result).all()
    if recipe.tree.pairs:
        return [(_flat(row[:-1]), row[-1]) for row in rows]
    return [keys, *map(tuple, rows)]


def shown_of(recipe: Recipe, orm: ORMExecuteState, made: list[Any]) -> list[Any]:
    """Write down what the recipe shows."""
    if recipe.tree.pairs:
        return [(_flat((key,)), instance) for key, instance in distinct(recipe, made) or ()]
    return shown(recipe, result_of(recipe, orm, made, None))


def distinct(recipe: Recipe, pairs: list[Any]) -> list[Any] | None:
    """Return pairs of a key and an instance without repetitions, where the ORM drops these; None where it may keep them."""
    once = {(key, id(instance)): (key, instance) for key, instance in pairs}
    return list(once.values()) if len(once) == len(pairs) or recipe.unique_state is not None else None


def _flat(key: Any) -> tuple[Any, ...]:
    first = key[0]
    return tuple(first) if len(key) == 1 and isinstance(first, tuple | Row) else tuple(key)


def names_of_get(statement: Any, mapper: Any) -> tuple[str, ...] | None:
    """Return under which names ``Session.get`` passes the parts of a primary key; None where the statement is another."""
    clause, parameters = mapper._get_clause
    criteria: Any = getattr(statement, "_where_criteria", ())
    if len(criteria) != 1 or not criteria[0].compare(clause):
        return None
    names = tuple(parameters[column].key for column in mapper.primary_key)
    given = {element.key for element in visitors.iterate(criteria[0]) if isinstance(element, BindParameter)}
    return names if given == set(names) else None


def may_get(session: Session, mapper: Any) -> bool:
    """Tell whether nobody but us has a hand in what ``Session.get`` does."""
    return is_ours_alone(session) and not _is_watched(mapper, session) and not mapper.always_refresh


def is_ours_alone(session: Session) -> bool:
    """Tell whether nobody but us is told of a Session's statements."""
    listeners = session.dispatch.do_orm_execute
    return type(session).execute is Session.execute and (len(listeners) == 1 or all(map(_is_ours, listeners)))


def _is_ours(listener: Any) -> bool:
    return str(getattr(listener, "__module__", "")).startswith("querycache.")


def holds(session: Session, mapper: Any, key: tuple[Any, ...]) -> bool:
    """Tell whether a Session may hold the instance of a primary key already."""
    return (mapper._identity_class, key, None) in session.identity_map._dict


def forget(session: Session, runids: set[int]) -> None:
    """Have a Session forget the instances that loads have made which were given up."""
    held = session.identity_map._dict
    for key, state in list(held.items()):
        if state.runid in runids and held.get(key) is state:
            del held[key]


def follows(recipe: Recipe, orm: ORMExecuteState, description: Sequence[Sequence[Any]]) -> bool:
    """Tell whether one call may be loaded by the recipe."""
    return may_apply(recipe, orm.session, description) and _may_follow(orm, recipe)


def may_apply(recipe: Recipe, session: Session, description: Sequence[Sequence[Any]]) -> bool:
    """Tell whether nobody listens to what the recipe would do unheard, and rows are described as they were."""
    return (
        not any([_is_watched(mapper, session) for mapper in recipe.mappers])  # noqa: C419  (asked at every hit)
        and not any(map(is_heard, recipe.heard))
        and (description == recipe.described or _described(description) == recipe.described)
    )


def _is_watched(mapper: Any, session: Session) -> bool:
    dispatch = mapper.class_manager.dispatch
    return bool(dispatch.load or dispatch.refresh or session.dispatch.loaded_as_persistent)


def _options_of(orm: ORMExecuteState) -> tuple[Any, ...]:
    options: tuple[Any, ...] = getattr(orm.statement, "_with_options", ())
    return options


def _may_follow(orm: ORMExecuteState, recipe: Recipe | None = None) -> bool:
    """Tell whether nothing about one call asks for the ordinary loader: how it is to load, or its options."""
    options: Any = _sqlalchemy.load_options_of(orm)
    given = _options_of(orm)
    return (
        # Nearly always nobody asked for anything.
        (options is QueryContext.default_load_options or _are_usual(options))
        and (not given or all(map(may_be_loaded, given)))
        and (
            recipe is None
            or (recipe.tree.all_eagers == options._invoke_all_eagers and recipe.options == tuple(map(type, given)))
        )
    )


def _are_usual(options: Any) -> bool:
    return not (
        options._only_return_tuples
        or options._populate_existing
        or options._version_check
        or options._identity_token is not None
        or options._refresh_state is not None
        or options._yield_per
    )


def fill_collection(
    impl: Any, state: Any, values: dict[str, Any], name: str, factory: type[Any], instances: list[Any] | None
) -> None:
    """Give an instance that was made just now a collection that was loaded afterwards."""
    collection = values[name] = factory(instances or ())
    CollectionAdapter(impl, state, collection)


def top_level_of(orm: ORMExecuteState) -> Any:
    """Return the compile state of the statement that a load belongs to which is sent after it; None where it is its own."""
    context: Any = _sqlalchemy.load_options_of(orm)._sa_top_level_orm_context
    return None if context is None else context.compile_state


def without_top_level(options: Any) -> dict[str, Any]:
    """Return execution options by which a statement is loaded as one of its own."""
    kept = {name: value for name, value in options.items() if name != "sa_top_level_orm_context"}
    given = kept.get("_sa_orm_load_options")
    if given is not None:
        kept["_sa_orm_load_options"] = given + {"_sa_top_level_orm_context": None}
    return kept


def result_of(
    recipe: Recipe,
    orm: ORMExecuteState,
    made: list[Any],
    ordinary: Callable[[], CursorResult[Any]] | None,
) -> Result[Any]:
    """Return what the ORM returns for what rows stand for. ``ordinary`` makes the cursor result that it would have kept."""
    tree = recipe.tree

    chunks = _again_and_again([made]) if orm.execution_options.get(_PREBUFFERED) else _each_once([made])
    statement: Any = orm.statement
    metadata = recipe.metadata or _metadata_of(tree, statement._raw_columns)
    raw: Any = None if ordinary is None else _Late(ordinary)
    result: Any = ChunkedIteratorResult(metadata, chunks, tree.is_single, raw)
    if _TELLS_CONTEXT and ordinary is not None:
        result.context = _Late(partial(_context_of, orm, ordinary))
    result._attributes = _attributes_of(tree.has_entities, tree.is_single)
    if recipe.unique_state is not None:
        seen, demand = recipe.unique_state
        result._unique_filter_state = (None if seen is None else set(), demand)
    return result  # type: ignore[no-any-return]


def hand_over(result: Result[Any], orm: ORMExecuteState) -> Result[Any]:
    """Have a result whose rows we had fetched before they are asked for give them as one that fetches them."""
    if isinstance(result, ChunkedIteratorResult) and not orm.execution_options.get(_PREBUFFERED):
        chunks = _each_once(list(result.chunks(None)))
        result.chunks = chunks
        result.iterator = chain.from_iterable(chunks(None))
    return result


def _each_once(given: list[Any]) -> _Chunks:
    """Give each list of rows once, whoever asks again, and hold none that was given: a result may outlive its rows."""
    left = given[::-1]

    def chunks(size: int | None) -> Iterator[Any]:
        while left:
            yield left.pop()

    return chunks


def _again_and_again(given: list[Any]) -> _Chunks:
    """Give all lists of rows whenever one asks, as a result that was fetched for an ``AsyncSession`` does."""
    return lambda size: iter(given)


@cache
def _attributes_of(has_entities: bool, is_single: bool) -> Any:
    told = {"filtered": has_entities, "is_single_entity": is_single}
    return ChunkedIteratorResult._attributes.union(told)


class _Late:
    """Stands for the cursor result below an ORM result, or its context, until somebody asks it for more than to be closed."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made: Any = None

    def _soft_close(self, hard: bool = False, **options: Any) -> None:
        if self._made is not None:
            self._made._soft_close(hard=hard, **options)

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


def _context_of(orm: ORMExecuteState, ordinary: Callable[[], CursorResult[Any]]) -> QueryContext:
    """Make what the ORM's loader would have kept of a call."""
    context: Any = ordinary().context
    return QueryContext(
        context.compiled.compile_state,
        orm.statement,  # type: ignore[arg-type]
        orm.statement,  # type: ignore[arg-type]
        orm.parameters or {},  # type: ignore[arg-type]
        orm.session,
        _sqlalchemy.load_options_of(orm),
        context.execution_options,
        orm.bind_arguments,
    )


def _metadata_of(tree: Tree, raw_columns: Sequence[Any]) -> SimpleResultMetaData:
    """Make what a result knows of its columns; ``raw_columns``: as the statement of this call names them."""
    extras = list(tree.extras)
    for position, at in tree.translated:
        extras[position] = (*extras[position], raw_columns[at])
    return SimpleResultMetaData(list(tree.labels), extras, **{_UNIQUE_PARAMETER: _unique_filters(tree.by_identity)})


def _unique_filters(by_identity: Sequence[bool]) -> Any:
    filters = [id if is_entity else None for is_entity in by_identity]

    def create(result: Any) -> list[Callable[[Any], Any] | None]:
        if result._yield_per:
            raise InvalidRequestError("Can't use the ORM yield_per feature in conjunction with unique()")
        return filters

    return create if _UNIQUE_PARAMETER == "_create_unique_filters" else filters


def _described(description: Sequence[Sequence[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((column[0], column[1]) for column in description)
