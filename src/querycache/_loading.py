"""How are rows turned into instances without the ORM's loader?  And which of its private names does that lean on?

A *recipe* is read off what an ordinary load of the same compiled statement left behind, never guessed from options: which
column of a row goes to which attribute, by which key an instance is found. It is tried once against the ordinary load,
field by field, on a row of its own; where anything differs, or the statement asks for more than plain columns, there is no
recipe, and the ORM's own loader goes on loading it. The private names stand here, and tests/integration/test_direct_loading.py
fails when a release changes what stands behind them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from sqlalchemy.engine import CursorResult, Result
from sqlalchemy.engine.result import ChunkedIteratorResult, SimpleResultMetaData
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import ORMExecuteState, Session, UserDefinedOption
from sqlalchemy.orm.context import _MapperEntity
from sqlalchemy.orm.loading import _new_runid
from sqlalchemy.orm.relationships import RelationshipProperty
from sqlalchemy.orm.state import InstanceState
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import BindParameter

logger = logging.getLogger("querycache")

_UNIQUE_PARAMETER: Final = (
    "_create_unique_filters" if "_create_unique_filters" in SimpleResultMetaData.__slots__ else "_unique_filters"
)
_LAZY: Final = (("lazy", "select"),)

# What a load decides by itself for each instance, or what is the instance's own.
_OWN_FIELDS: Final = frozenset({"obj", "session_id", "runid", "_instance_dict", "manager", "class_"})

Replay: TypeAlias = Callable[[Session, Sequence[Sequence[Any]]], Result[Any]]
"""Has the ordinary loader load rows into a Session."""

Load: TypeAlias = Callable[[Session, Sequence[Sequence[Any]]], list[Any] | None]
"""Returns the instances that rows, as the driver gave them, stand for in a Session; None where the ordinary loader must.

That is where an instance that the Session holds is expired or lacks a column, or a row has no primary key.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How the rows of one compiled statement become instances of one mapped class."""

    mapper: Any
    load: Load
    metadata: SimpleResultMetaData
    described: tuple[tuple[Any, Any], ...]


def recipe_of(
    orm: ORMExecuteState,
    cursor: CursorResult[Any],
    description: Sequence[Sequence[Any]],
    row: Sequence[Any],
    ordinary: Replay,
) -> Recipe | None:
    """Read off how a compiled statement is loaded, after an ordinary load of it; None where that is not plain.

    ``row``: one row as the driver gave it, to try the recipe on, with the ordinary loader beside. Never raises.
    """
    try:
        return _read_off(orm, cursor, description, row, ordinary)
    except Exception:
        logger.warning(
            "a statement is loaded by SQLAlchemy's own loader: no recipe could be read off it", exc_info=True
        )
        return None


def _read_off(
    orm: ORMExecuteState,
    cursor: CursorResult[Any],
    description: Sequence[Sequence[Any]],
    row: Sequence[Any],
    ordinary: Replay,
) -> Recipe | None:
    context: Any = cursor.context
    compile_state: Any = context.compiled.compile_state
    entities: Any = getattr(compile_state, "_entities", ())
    if len(entities) != 1 or type(entities[0]) is not _MapperEntity or not may_follow(orm, entities[0].mapper):
        return None
    entity = entities[0]
    mapper = entity.mapper
    getters = entity.path.get(compile_state.attributes, ("getters", mapper), None)
    if (
        getters is None
        or entity.is_aliased_class
        or compile_state.current_path.path
        or compile_state.compound_eager_adapter is not None
        or compile_state._polymorphic_adapters
        or compile_state.compile_options._only_load_props
        or mapper.polymorphic_map
        or mapper.always_refresh
        or "__setattr__" in {name for cls in mapper.class_.__mro__[:-1] for name in vars(cls)}
        or not all(isinstance(prop, RelationshipProperty) and prop.strategy_key == _LAZY for prop in getters["todo"])
        or any(getters["cached_populators"][kind] for kind in ("new", "deferred", "expire", "existing", "eager"))
    ):
        return None
    positions = tuple(range(len(row)))
    metadata: Any = cursor._metadata
    recipe = Recipe(
        mapper=mapper,
        load=loader_of(
            mapper,
            entity.path,
            {name: getter(positions) for name, getter in getters["cached_populators"]["quick"]},
            getters["primary_key_getter"](positions),
            {at: process for at, process in enumerate(metadata._processors or ()) if process is not None},
            len(row),
        ),
        metadata=SimpleResultMetaData(
            [entity._label_name], [entity._extra_entities], **{_UNIQUE_PARAMETER: _unique_filters()}
        ),
        described=_described(description),
    )
    return recipe if _is_faithful(recipe, orm, ordinary, row) else None


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
    dispatch = mapper.class_manager.dispatch
    return (
        type(session).execute is Session.execute
        and len(session.dispatch.do_orm_execute) == 1
        and not (dispatch.load or dispatch.refresh or session.dispatch.loaded_as_persistent)
        and not mapper.always_refresh
    )


def holds(session: Session, mapper: Any, key: tuple[Any, ...]) -> bool:
    """Tell whether a Session may hold the instance of a primary key already."""
    return (mapper._identity_class, key, None) in session.identity_map._dict


def follows(recipe: Recipe, orm: ORMExecuteState, description: Sequence[Sequence[Any]]) -> bool:
    """Tell whether one call may be loaded by the recipe."""
    return may_follow(orm, recipe.mapper) and _described(description) == recipe.described


def may_follow(orm: ORMExecuteState, mapper: Any) -> bool:
    """Tell whether nothing about one call asks for the ordinary loader: its options, or who listens to loads."""
    options: Any = orm.load_options
    dispatch = mapper.class_manager.dispatch
    return (
        not (
            options._only_return_tuples
            or options._populate_existing
            or options._version_check
            or options._identity_token is not None
            or options._refresh_state is not None
            or options._sa_top_level_orm_context is not None
            or options._lazy_loaded_from is not None
            or options._yield_per
        )
        and not (dispatch.load or dispatch.refresh or orm.session.dispatch.loaded_as_persistent)
        and all(
            isinstance(option, UserDefinedOption) and not option.propagate_to_loaders
            for option in getattr(orm.statement, "_with_options", ())
        )
    )


_LOAD: Final = """\
def load(session, rows):
    identity_map = session.identity_map
    held, wr, session_id, runid = identity_map._dict, identity_map._wr, session.hash_key, new_runid()
    instances = []
    add = instances.append
    for {row} in rows:
        {process}
        key = (identity_class, ({key},), None)
        state = held.get(key)
        if state is not None and (instance := state.obj()) is not None:
            if not is_whole(state, instance.__dict__, attributes):
                return None
            add(instance)
            continue
        if {no_key}:
            return None
        instance = make(cls)
        values = instance.__dict__
        values["_sa_instance_state"] = state = construct(instance, manager)
        state.key = key
        state.session_id = session_id
        state.runid = runid
        state.load_path = load_path
        held[key] = state
        state._instance_dict = wr
        {populate}
        add(instance)
    return instances
"""


def loader_of(
    mapper: Any,
    load_path: Any,
    attributes: Mapping[str, int],
    key: Sequence[int],
    processors: Mapping[int, Callable[[Any], Any]],
    width: int,
) -> Load:
    """Generate the function that makes instances of rows: each row's columns are numbered from 0 to ``width``."""
    manager = mapper.class_manager
    source = _LOAD.format(
        row="".join(f"c{position}, " for position in range(width)),
        process="; ".join(f"c{position} = process{position}(c{position})" for position in processors) or "pass",
        key="".join(f"c{position}, " for position in key).rstrip(", "),
        no_key=" or ".join(f"c{position} is None" for position in key),
        populate="; ".join(f"values[{name!r}] = c{position}" for name, position in attributes.items()),
    )
    names: dict[str, Any] = {
        "identity_class": mapper._identity_class,
        "cls": manager.class_,
        "make": manager.class_.__new__,
        "construct": manager._state_constructor,
        "manager": manager,
        "load_path": load_path,
        "attributes": tuple(attributes),
        "is_whole": _is_whole,
        "new_runid": _new_runid,
        **{f"process{position}": process for position, process in processors.items()},
    }
    exec(source, names)
    load: Load = names["load"]
    return load


def _is_whole(state: Any, values: Mapping[str, Any], attributes: Sequence[str]) -> bool:
    """Tell whether a load would leave an instance that the Session holds as it is."""
    return not state.expired and all(name in values or name in state.committed_state for name in attributes)


def result_of(recipe: Recipe, instances: list[Any], ordinary: Callable[[], CursorResult[Any]]) -> Result[Any]:
    """Return what the ORM returns for these instances. ``ordinary`` makes the cursor result that it would have kept."""

    def chunks(size: int | None) -> Iterator[list[Any]]:
        return iter([instances])

    result: Any = ChunkedIteratorResult(
        recipe.metadata,
        chunks,
        source_supports_scalars=True,
        raw=_LateCursor(ordinary),  # type: ignore[arg-type]
    )
    result._attributes = result._attributes.union({"filtered": True, "is_single_entity": True})
    return result  # type: ignore[no-any-return]


class _LateCursor:
    """Stands for the cursor result below an ORM result until somebody asks it for more than to be closed."""

    __slots__ = ("_made", "_make")

    def __init__(self, make: Callable[[], CursorResult[Any]]) -> None:
        self._make = make
        self._made: Any = None

    def _soft_close(self, hard: bool = False, **options: Any) -> None:
        if self._made is not None:
            self._made._soft_close(hard=hard, **options)

    def __getattr__(self, name: str) -> Any:
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


def _unique_filters() -> Any:
    def create(result: Any) -> list[Callable[[Any], Any]]:
        if result._yield_per:
            raise InvalidRequestError("Can't use the ORM yield_per feature in conjunction with unique()")
        return [id]

    return create if _UNIQUE_PARAMETER == "_create_unique_filters" else [id]


def _described(description: Sequence[Sequence[Any]]) -> tuple[tuple[Any, Any], ...]:
    return tuple((column[0], column[1]) for column in description)


def _is_faithful(recipe: Recipe, orm: ORMExecuteState, ordinary: Replay, row: Sequence[Any]) -> bool:
    """Tell whether the recipe makes of a row what the ordinary loader does, field by field."""
    with Session() as one, Session() as other:
        expected = ordinary(one, [row]).unique().scalars().one()
        instances = recipe.load(other, [row])
        return (
            instances is not None
            and type(instances[0]) is type(expected)
            and _values_of(instances[0]) == _values_of(expected)
            and _fields_of(instances[0]) == _fields_of(expected)
        )


def _values_of(instance: Any) -> dict[str, tuple[Any, Any]]:
    """Return the loaded values, each with its type."""
    values = {name: (type(value), value) for name, value in instance.__dict__.items()}
    del values["_sa_instance_state"]
    return values


def _fields_of(instance: Any) -> dict[str, Any]:
    """Return what the instance's state says, in its own right or by its class's default."""
    state = instance._sa_instance_state
    defaults = {
        name: value
        for name, value in vars(InstanceState).items()
        if not name.startswith("__") and not hasattr(value, "__get__")
    }
    slots = {name: getattr(state, name, None) for name in InstanceState.__slots__ if not name.startswith("__")}
    return {name: value for name, value in {**defaults, **slots, **vars(state)}.items() if name not in _OWN_FIELDS}
