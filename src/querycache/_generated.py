"""How is the function made that turns rows into the instances of a tree?

As source, for one compiled statement, so that nothing about it is decided for each row. What it makes is what the ORM's loader
makes, in the same order; wherever that would do something else than to make, to find or to fill up, it stops and says so.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy.orm import Session
from sqlalchemy.orm.collections import CollectionAdapter, InstrumentedList
from sqlalchemy.orm.loading import _new_runid
from sqlalchemy.orm.state import InstanceState

from querycache._trees import Branch, Node, Tree

Visit: TypeAlias = tuple[Any, dict[str, Any], bool, Any]
"""An instance that was met: its state, what it has loaded, whether it was made just now, and the key for what comes after."""

Make: TypeAlias = Callable[
    [Session, Sequence[Sequence[Any]], set[int], list[tuple[dict[str, Any], dict[str, Any]]], Sequence[list[Visit]]],
    list[Any] | None,
]
"""Returns what rows, as the driver gave them, stand for in a Session; None where the ordinary loader must have its way.

It notes under which run it made instances, what to add to what the Session holds already once all is sure, and, for each node
that has posts, whom it met.
"""

_PENDING: Final = object()
_HEAD: Final = """\
def make(session, rows, runids, later, visits):
    identity_map = session.identity_map
    held, wr, session_id, runid = identity_map._dict, identity_map._wr, session.hash_key, new_runid()
    made = []
    add = made.append
"""


def maker_of(tree: Tree) -> Make:
    """Generate the function that makes of rows what a tree says: each row's columns are numbered from 0 to its width."""
    if tree.entities == tuple(range(tree.width)) and not tree.processors:
        return _as_they_are
    source = _Source(tree)
    names: dict[str, Any] = {}
    exec("\n".join(source.lines()), source.names, names)
    make: Make = names["make"]
    return make


def _as_they_are(
    session: Session, rows: Sequence[Sequence[Any]], runids: set[int], later: list[Any], visits: Sequence[list[Visit]]
) -> list[Any]:
    return list(rows)


class _Source:
    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._classes = [node.mapper._identity_class for node in tree.nodes]
        self._numbers = {id(node): number for number, node in enumerate(tree.nodes)}
        self._is_lone = len(tree.nodes) == 1
        self.names: dict[str, Any] = {
            "new_runid": _new_runid,
            "is_whole": _is_whole,
            "target_of": _target_of,
            "PENDING": _PENDING,
            "Adapter": CollectionAdapter,
            "State": InstanceState,
            "new_state": InstanceState.__new__,
            "ref": weakref.ref,
            **{f"process{position}": process for position, process in tree.processors.items()},
        }

    def lines(self) -> Iterator[str]:
        tree = self._tree
        yield _HEAD + f"    runids.add(runid){self._beginnings()}"
        yield f"    for {''.join(f'c{position}, ' for position in range(tree.width))} in rows:"
        for position in tree.processors:
            yield f"        c{position} = process{position}(c{position})"
        shown = []
        for entity in tree.entities:
            if isinstance(entity, Node):
                shown.append(f"i{self._numbers[id(entity)]}")
                yield from _indented(2, self._node(entity, is_leaf_of_collection=not self._repeats(entity)))
            else:
                shown.append(f"c{entity}")
        if tree.pairs:
            yield f"        add(({_key(tree.pairs)}, {shown[-1]}))"
        elif tree.is_single:
            yield f"        add({shown[0]})"
        else:
            yield f"        add(({', '.join(shown)},))"
        yield "    return made"

    def _beginnings(self) -> str:
        seen = [f"seen{number} = {{}}" for number in self._numbers.values()]
        met = [f"met{self._numbers[id(node)]} = visits[{at}].append" for at, node in enumerate(self._tree.post_order)]
        return "; " + "; ".join([*seen, *met]) if seen else ""

    def _repeats(self, node: Node) -> bool:
        return not self._is_lone

    def _node(self, node: Node, *, is_leaf_of_collection: bool) -> Iterator[str]:
        """Yield the lines that find or make one instance, ``i<number>``, and all below it."""
        number = self._numbers[id(node)]
        is_elsewhere, names = self._classes.count(node.mapper._identity_class) > 1, self.names
        remembers = bool(node.branches or node.posts) or is_elsewhere or not is_leaf_of_collection
        absent = " and ".join(f"c{position} is None" for position in node.key)
        names.update(
            {
                f"identity{number}": node.mapper._identity_class,
                f"class{number}": node.mapper.class_manager.class_,
                f"make{number}": node.mapper.class_manager.class_.__new__,
                f"manager{number}": node.mapper.class_manager,
                f"construct{number}": node.mapper.class_manager._state_constructor,
                f"path{number}": node.load_path,
                f"options{number}": node.load_options,
                f"columns{number}": tuple(node.attributes),
                f"branches{number}": tuple(branch.name for branch in node.branches),
            }
        )
        record = [f"i{number}"]
        if node.branches:
            record.append(f"t{number}")
            for at, branch in enumerate(node.branches):
                if branch.factory is not None:
                    record += [f"a{number}_{at}", f"s{number}_{at}"]
        yield f"if {absent}:"
        yield f"    i{number} = None"
        yield "else:"
        body = self._found_or_made(node, number, is_elsewhere, record)
        if remembers:
            kept = f"({', '.join(record)})" if len(record) > 1 else record[0]
            yield f"    k{number} = {_key(node.key)}"
            yield f"    r{number} = seen{number}.get(k{number})"
            yield f"    if r{number} is not None:"
            yield f"        {', '.join(record)} = r{number}"
            yield "    else:"
            yield from _indented(2, body)
            yield f"        seen{number}[k{number}] = {kept}"
        else:
            yield from _indented(1, body)
        for at, branch in enumerate(node.branches):
            yield from _indented(1, self._branch(number, at, branch))

    def _found_or_made(self, node: Node, number: int, is_elsewhere: bool, record: list[str]) -> Iterator[str]:
        met = id(node) in {id(other) for other in self._tree.post_order}
        yield f"key = (identity{number}, ({''.join(f'c{position}, ' for position in node.key)}), None)"
        yield "state = held.get(key)"
        yield f"if state is not None and (i{number} := state.obj()) is not None:"
        if is_elsewhere:
            yield "    if state.runid == runid:"
            yield "        return None"
        yield f"    v = i{number}.__dict__"
        yield f"    if not is_whole(state, v, columns{number}):"
        yield "        return None"
        if (node.branches or node.posts) and not self._tree.all_eagers:
            yield "    return None"
        for post in node.posts:
            for name, position in zip(post.key_names, post.key, strict=True) if post.by_child else ():
                yield f"    if v.get({name!r}) != c{position}:"
                yield "        return None"
        if node.branches:
            yield f"    t{number} = target_of(state, v, branches{number}, later, runids)"
            yield f"    if t{number} is PENDING:"
            yield "        return None"
        if met:
            yield f"    met{number}((state, v, False, {_keys_after(node)}))"
        yield "else:"
        if len(node.key) > 1:
            yield f"    if {' or '.join(f'c{position} is None' for position in node.key)}:"
            yield "        return None"
        yield from _indented(1, self._make(node, number))
        if met:
            yield f"    met{number}((state, v, True, {_keys_after(node)}))"
        if node.branches:
            yield f"    t{number} = v"
        if not node.branches:
            return
        collections = [(at, branch) for at, branch in enumerate(node.branches) if branch.factory is not None]
        if collections:
            yield f"if t{number} is None:"
            for at, _ in collections:
                yield f"    a{number}_{at} = s{number}_{at} = None"
            yield "else:"
        else:
            yield f"if t{number} is not None:"
        for at, branch in enumerate(node.branches):
            if branch.factory is None:
                yield f"    t{number}[{branch.name!r}] = PENDING"
                continue
            self.names[f"collection{number}_{at}"] = branch.factory
            self.names[f"impl{number}_{at}"] = branch.impl
            base = list.append if branch.factory is InstrumentedList else set.add
            self.names[f"adder{number}_{at}"] = base.__get__
            yield f"    many = t{number}[{branch.name!r}] = collection{number}_{at}()"
            yield f"    Adapter(impl{number}_{at}, state, many)"
            yield f"    a{number}_{at} = adder{number}_{at}(many)"
            yield f"    s{number}_{at} = set()"
        if collections:
            yield "    state._empty_collections = {}"  # as the ORM's loader leaves it

    def _make(self, node: Node, number: int) -> Iterator[str]:
        """Yield the lines that make an instance and its state, as the ORM's loader does."""
        yield f"i{number} = make{number}(class{number})"
        yield f"v = i{number}.__dict__"
        if self.names[f"construct{number}"] is InstanceState:
            yield 'v["_sa_instance_state"] = state = new_state(State)'
            yield f"state.class_ = class{number}"
            yield f"state.manager = manager{number}"
            yield f"state.obj = ref(i{number}, state._cleanup)"
            yield "state.committed_state = {}"
            yield "state.expired_attributes = set()"
        else:
            yield f'v["_sa_instance_state"] = state = construct{number}(i{number}, manager{number})'
        yield "state.key = key"
        yield "state.session_id = session_id"
        yield "state.runid = runid"
        if node.load_options:
            yield f"state.load_options = options{number}"
        yield f"state.load_path = path{number}"
        yield "held[key] = state"
        yield "state._instance_dict = wr"
        for name, position in node.attributes.items():
            yield f"v[{name!r}] = c{position}"

    def _branch(self, number: int, at: int, branch: Branch) -> Iterator[str]:
        below = self._numbers[id(branch.node)]
        yield from self._node(branch.node, is_leaf_of_collection=branch.factory is not None)
        if branch.factory is not None:
            yield f"if a{number}_{at} is not None and i{below} is not None and (d := id(i{below})) not in s{number}_{at}:"
            yield f"    s{number}_{at}.add(d)"
            yield f"    a{number}_{at}(i{below})"
            return
        yield f"if t{number} is not None:"
        yield f"    one = t{number}[{branch.name!r}]"
        yield "    if one is PENDING:"
        yield f"        t{number}[{branch.name!r}] = i{below}"
        yield f"    elif one is not i{below}:"
        yield "        return None"


def _indented(levels: int, lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield "    " * levels + line


def _key(positions: Sequence[int]) -> str:
    """Write what one row's values are looked up by: one value alone stands for itself."""
    names = [f"c{position}" for position in positions]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def _keys_after(node: Node) -> str:
    return f"({''.join(_key(post.key) + ', ' for post in node.posts)})"


def _is_whole(state: Any, values: Mapping[str, Any], attributes: Sequence[str]) -> bool:
    """Tell whether a load would leave the columns of an instance that the Session holds as they are."""
    return not state.expired and all(name in values or name in state.committed_state for name in attributes)


def _target_of(
    state: Any,
    values: dict[str, Any],
    branches: Sequence[str],
    later: list[tuple[dict[str, Any], dict[str, Any]]],
    runids: set[int],
) -> Any:
    """Return where the branches of an instance go that the Session holds: nowhere, where it has them already.

    What it lacks altogether is put aside until all is sure. ``_PENDING`` where the ordinary loader must decide.
    """
    loaded = [name in values or name in state.committed_state for name in branches]
    if all(loaded):
        return None
    if (
        any(loaded)
        or state.runid in runids
        or state.callables
        or state.expired_attributes
        or vars(state).get("_empty_collections")
    ):
        return _PENDING
    target: dict[str, Any] = {}
    later.append((values, target))
    return target
