"""Are the instances that a recipe makes those that the ORM's own loader makes, in every field that SQLAlchemy keeps of them?

Both are made in Sessions of their own, of the same rows, and compared with all that hangs on them. What a load decides by
itself for each instance is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.engine import Result
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.state import InstanceState

_OWN_FIELDS: Final = frozenset({"obj", "session_id", "runid", "_instance_dict", "manager", "class_"})
_DEFAULTS: Final = {
    **{
        name: value
        for name, value in vars(InstanceState).items()
        if not name.startswith("__") and not hasattr(value, "__get__")
    },
    # What comes into being when it is first asked for.
    "_pending_mutations": {},
    "_empty_collections": {},
}


def are_same(made: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Tell whether two lists of what rows stand for (instances, values, tuples of both) cannot be told apart."""
    return _Comparison().same(list(made), list(expected))


@contextmanager
def trial_session(answer: Callable[[ORMExecuteState], Result[Any]] | None = None) -> Iterator[Session]:
    """Open a Session that no database is behind; ``answer`` gives the results of what its loads ask for."""
    with Session() as session:
        if answer is not None:
            event.listen(session, "do_orm_execute", answer)
        yield session


class _Comparison:
    def __init__(self) -> None:
        self._compared: dict[int, int] = {}
        self._kept: list[Any] = []

    def same(self, one: Any, other: Any) -> bool:
        if type(one) is not type(other):
            return False
        state = getattr(one, "__dict__", {}).get("_sa_instance_state")
        if state is not None:
            return self._same_instances(one, other)
        if isinstance(one, list | tuple):
            return len(one) == len(other) and all(map(self.same, one, other)) and self._same_adapters(one, other)
        if isinstance(one, set) and hasattr(one, "_sa_adapter"):
            sides = [sorted(side, key=lambda item: repr(item._sa_instance_state.key)) for side in (one, other)]
            return self.same(*sides) and self._same_adapters(one, other)
        return bool(one == other)

    def _same_instances(self, one: Any, other: Any) -> bool:
        if id(one) in self._compared or id(other) in self._compared.values():
            return self._compared.get(id(one)) == id(other)
        self._compared[id(one)] = id(other)
        self._kept += (one, other)
        values, others = ({**vars(side)} for side in (one, other))
        state, other_state = values.pop("_sa_instance_state"), others.pop("_sa_instance_state")
        return (
            _fields_of(state) == _fields_of(other_state)
            and state.obj() is one
            and list(values) == list(others)
            and all(self.same(values[name], others[name]) for name in values)
        )

    def _same_adapters(self, one: Any, other: Any) -> bool:
        adapter, other_adapter = getattr(one, "_sa_adapter", None), getattr(other, "_sa_adapter", None)
        if adapter is None or other_adapter is None:
            return adapter is other_adapter
        names = ("attr", "_key", "invalidated", "empty")
        return (
            all(getattr(adapter, name) == getattr(other_adapter, name) for name in names)
            and adapter._data() is one
            and self._compared.get(id(adapter.owner_state.obj())) == id(other_adapter.owner_state.obj())
        )


def _fields_of(state: Any) -> dict[str, Any]:
    """Return what an instance's state says, in its own right or by its class's default."""
    slots = {name: getattr(state, name, None) for name in InstanceState.__slots__ if not name.startswith("__")}
    fields = {**_DEFAULTS, **slots, **vars(state)}
    return {name: value for name, value in fields.items() if name not in _OWN_FIELDS}
