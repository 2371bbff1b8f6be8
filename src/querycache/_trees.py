"""Which tree of instances does a compiled statement load, and from which columns of a row?

Read off what the ORM's loader is about to do with a row: the functions that it has made for this very statement, and what
these hold. Nothing is guessed from options or mappings; what is not known by name raises ``Unusual``. The private names stand
here, and tests/integration/test_tree_loading.py fails when a release changes what stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Load, ORMExecuteState, Session, UserDefinedOption, strategies
from sqlalchemy.orm.collections import InstrumentedList, InstrumentedSet
from sqlalchemy.orm.context import QueryContext, _BundleEntity, _ColumnEntity, _MapperEntity
from sqlalchemy.orm.loading import _new_runid

from querycache import _sqlalchemy

_INSTANCE: Final = "_instance_processor.<locals>._instance"
_COLLECTION: Final = "_create_collection_loader.<locals>.load_collection_from_joined_new_row"
_SCALAR: Final = "_create_scalar_loader.<locals>.load_scalar_from_joined_new_row"
_SELECTIN: Final[Any] = getattr(strategies, "_SelectInLoader", None) or strategies.SelectInLoader  # type: ignore[attr-defined]
_NOT_OF_A_LOAD: Final = ("refresh_state", "only_load_props", "populate_existing", "version_check", "identity_token")
_HEARD: Final = ("load_evt", "refresh_evt", "persistent_evt")


class Unusual(Exception):
    """A statement is loaded in a way that no recipe is made for."""


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """A relationship that is loaded from the same row. ``factory`` makes its collection; None for a single instance."""

    name: str
    node: Node
    impl: Any
    factory: type[Any] | None


@dataclass(frozen=True, slots=True, eq=False)
class Post:
    """A relationship that is loaded by a statement of its own afterwards, once for all instances of a node.

    ``path`` is what the ORM calls that statement's place. ``key``: the columns of the row that say which instances it asks
    for; ``by_child``: these are the children's keys, in ``key_names`` of the parent, and not the parents' own.
    """

    name: str
    path: tuple[Any, ...]
    impl: Any
    factory: type[Any] | None
    key: tuple[int, ...]
    key_names: tuple[str, ...]
    by_child: bool
    chunk_size: int


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """How instances of one mapped class are made of the columns of a row."""

    mapper: Any
    load_path: Any
    load_options: tuple[Any, ...]
    attributes: Mapping[str, int]
    key: tuple[int, ...]
    branches: tuple[Branch, ...]
    posts: tuple[Post, ...] = ()

    def nodes(self) -> Iterator[Node]:
        """Yield the node and all below it, in the order in which a row is read."""
        yield self
        for branch in self.branches:
            yield from branch.node.nodes()


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """What a compiled statement loads: per entity a node, or the position of a column.

    ``labels``, ``extras`` and ``translated`` are what the result is told of its columns; the last: which of them is known by
    what the statement itself names it, and where that stands. ``pairs``: each row is a key and an instance of that key's.
    ``sorts_keys``: this release asks for children by their keys in the order of these. ``post_order``: the nodes that have
    posts, in the order in which these are sent.
    """

    entities: tuple[Node | int, ...]
    pairs: tuple[int, ...]
    processors: Mapping[int, Callable[[Any], Any]]
    width: int
    labels: tuple[Any, ...]
    extras: tuple[tuple[Any, ...], ...]
    translated: tuple[tuple[int, int], ...]
    by_identity: tuple[bool, ...]
    is_single: bool
    has_entities: bool
    needs_unique: bool
    all_eagers: bool
    sorts_keys: bool
    current_path: bool
    post_order: tuple[Node, ...] = ()
    nodes: tuple[Node, ...] = field(default=())


def tree_of(orm: ORMExecuteState, cursor: CursorResult[Any], width: int) -> Tree:
    """Read off what the ORM does with a row of a cursor result. Raises ``Unusual``."""
    context: Any = cursor.context
    compile_state: Any = context.compiled.compile_state
    load_options: Any = _sqlalchemy.load_options_of(orm)
    if (
        compile_state is None
        or not getattr(compile_state, "_entities", ())
        or compile_state.compile_options._is_star
        or compile_state.compile_options._only_load_props
        or compile_state._polymorphic_adapters
    ):
        raise Unusual
    with Session() as session:
        statement: Any = orm.statement
        loading = QueryContext(compile_state, statement, statement, {}, session, load_options, {}, {})
        loading.runid = _new_runid()
        loading.post_load_paths = {}
        return _Reader(cursor, loading, width).tree()


def may_be_loaded(option: Any) -> bool:
    """Tell whether an option of a statement has no part in loading that another call's could not have."""
    if type(option) is Load:
        return not any(element._extra_criteria for element in option.context)
    return isinstance(option, UserDefinedOption) and not option.propagate_to_loaders


def place_of(compiled: Any) -> tuple[Any, ...]:
    """Return at which place below another statement the rows of a compiled one are loaded; empty for one of its own."""
    place: tuple[Any, ...] = compiled.compile_state.current_path.path
    return place


class _Reader:
    def __init__(self, cursor: CursorResult[Any], loading: QueryContext, width: int) -> None:
        self._cursor = cursor
        self._loading: Any = loading
        self._positions = tuple(range(width))
        self._posts: dict[int, Node] = {}

    def tree(self) -> Tree:
        compile_state = self._loading.compile_state
        given = list(compile_state._entities)
        metadata: Any = self._cursor._metadata
        pairs: tuple[int, ...] = ()
        read: list[Node | int] = []
        labels, extras = [], []
        for entity in given:
            process, label, extra = entity.row_processor(self._loading, self._cursor)
            labels.append(label)
            extras.append(tuple(extra))
            if type(entity) is _MapperEntity:
                if entity.is_aliased_class:
                    raise Unusual
                read.append(self._node(process))
            elif isinstance(entity, _ColumnEntity):
                if entity._non_hashable_value or entity._null_column_type:
                    raise Unusual
                read.append(process(self._positions))
            elif type(entity) is _BundleEntity and compile_state.current_path.path and not pairs:
                pairs = tuple(get(self._positions) for get in _held_by(process)["procs"])
            else:
                raise Unusual
        if compile_state.current_path.path and len(read) > 1 and not pairs:
            pairs = tuple(position for position in read[:-1] if isinstance(position, int))
        is_pair = bool(pairs) and isinstance(read[-1], Node) and (len(read) == 1 or len(read) == len(pairs) + 1)
        if pairs and not is_pair:
            raise Unusual
        nodes = [node for entity in read if isinstance(entity, Node) for node in entity.nodes()]
        translated = tuple(
            (position, entity.raw_column_index)
            for position, entity in enumerate(given)
            if getattr(entity, "translate_raw_column", False)
        )
        return Tree(
            entities=tuple(read),
            pairs=pairs,
            processors={at: process for at, process in enumerate(metadata._processors or ()) if process is not None},
            width=len(self._positions),
            labels=tuple(labels),
            extras=tuple(
                extra[:-1] if position in dict(translated) else extra for position, extra in enumerate(extras)
            ),
            translated=translated,
            by_identity=tuple(bool(entity.use_id_for_hash) for entity in given),
            is_single=len(given) == 1 and given[0].supports_single_entity,
            has_entities=compile_state._has_mapper_entities,
            needs_unique=bool(compile_state.multi_row_eager_loaders),
            all_eagers=bool(self._loading.invoke_all_eagers),
            sorts_keys=any(type(entity) is _BundleEntity for entity in given),
            current_path=bool(compile_state.current_path.path),
            post_order=tuple(self._posts[id(post_load)] for post_load in self._loading.post_load_paths.values()),
            nodes=tuple(nodes),
        )

    def _node(self, process: Any) -> Node:
        if getattr(process, "__qualname__", "") != _INSTANCE:
            raise Unusual  # a class with subclasses, for one
        held = _held_by(process)
        mapper, populators = held["mapper"], held["populators"]
        if (
            any(held[name] for name in (*_NOT_OF_A_LOAD, *_HEARD))
            or populators["deferred"]
            or any(is_set for _, is_set in populators["expire"])
            or mapper.always_refresh
            or mapper.polymorphic_map
            or "__setattr__" in {name for cls in mapper.class_.__mro__[:-1] for name in vars(cls)}
        ):
            raise Unusual
        branches = tuple(self._branch(mapper, name, populate) for name, populate in populators["new"])
        names = [branch.name for branch in branches]
        eager = [name for name, _ in populators["eager"]]
        if [name for name, _ in populators["existing"]] != names or eager != names * self._loading.invoke_all_eagers:
            raise Unusual
        attributes = {name: getter(self._positions) for name, getter in populators["quick"]}
        key = tuple(held["primary_key_getter"](self._positions))
        post_load = held["post_load"]
        node = Node(
            mapper=mapper,
            load_path=held["load_path"],
            load_options=tuple(held["propagated_loader_options"]),
            attributes=attributes,
            key=key,
            branches=branches,
            posts=() if post_load is None else tuple(self._posts_of(post_load, mapper, held, attributes, key)),
        )
        if post_load is not None:
            self._posts[id(post_load)] = node
        return node

    def _branch(self, mapper: Any, name: str, populate: Any) -> Branch:
        qualname = getattr(populate, "__qualname__", "")
        if not qualname.endswith((_COLLECTION, _SCALAR)):
            raise Unusual
        node = self._node(_held_by(populate)["_instance"])
        impl = mapper.class_manager[name].impl
        factory = _factory_of(impl)
        if (factory is None) != qualname.endswith(_SCALAR):
            raise Unusual
        return Branch(name, node, impl, factory)

    def _posts_of(
        self, post_load: Any, mapper: Any, held: Mapping[str, Any], attributes: Mapping[str, int], key: tuple[int, ...]
    ) -> Iterator[Post]:
        for prop, (_, _, limited_to, load, arguments, _) in post_load.loaders.items():
            strategy: Any = getattr(load, "__self__", None)
            entity, load_option, depth, _ = arguments
            if (
                type(strategy) is not _SELECTIN
                or load.__name__ != "_load_for_path"
                or limited_to is not mapper
                or entity is not strategy.mapper
                or depth is not None
                or (load_option is not None and load_option._extra_criteria)
            ):
                raise Unusual
            impl = mapper.class_manager[prop.key].impl
            factory = _factory_of(impl)
            query = strategy._query_info
            names: tuple[str, ...] = ()
            if query.load_only_child:
                names = tuple(mapper._columntoproperty[column].key for column in query.child_lookup_cols)
                if factory is not None or not set(names) <= attributes.keys():
                    raise Unusual
            chunk_size = strategy._set_chunksize(load_option) if hasattr(strategy, "_set_chunksize") else None
            yield Post(
                name=prop.key,
                path=held["load_path"][prop].path,
                impl=impl,
                factory=factory,
                key=tuple(attributes[name] for name in names) if query.load_only_child else key,
                key_names=names,
                by_child=bool(query.load_only_child),
                chunk_size=chunk_size or strategy._chunksize,
            )


def _factory_of(impl: Any) -> type[Any] | None:
    """Return what makes a relationship's collection; None where it holds a single instance. Raises ``Unusual``."""
    if not impl.collection:
        return None
    factory: type[Any] = impl.collection_factory
    if factory not in (InstrumentedList, InstrumentedSet) or is_heard(impl):
        raise Unusual
    return factory


def is_heard(impl: Any) -> bool:
    """Tell whether somebody listens to collections being made."""
    return bool(impl.dispatch.init_collection or impl.dispatch.dispose_collection)


def _held_by(function: Any) -> dict[str, Any]:
    """Return what a function holds of the one that made it."""
    held = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # nothing was put there
            continue
    return held
