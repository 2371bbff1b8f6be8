"""What would a hit take if nothing that this library does took any time?

A Session whose reads find their answer ready: nothing is looked up, judged or decoded. What is left no cache behind this API
can save: the application builds its statement, SQLAlchemy makes the key that names an entry, hands the statement on and a
result back, and each row becomes an instance that the Session knows, by the least that makes one: an object, its dict, its
state, its place in the identity map. No way to read: it says the same whatever the database says by now.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from rows import Case
from sqlalchemy import Engine, Row, event, inspect
from sqlalchemy.engine import IteratorResult, Result
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.orm.collections import CollectionAdapter
from sqlalchemy.orm.state import InstanceState

Make = Callable[[Session], Iterator[Any]]
"""Makes the rows of an answer anew, for a Session."""

_STATE: Final = "_sa_instance_state"


@dataclass(frozen=True, slots=True)
class _Instance:
    """One instance as it was loaded: its identity, its columns, and what its collections hold."""

    key: Any
    columns: dict[str, Any]
    collections: Sequence[tuple[str, Any, Make]]


class ReadySession(Session):
    """A Session that knows the answer to whatever it is asked."""

    make: ClassVar[Make]
    metadata: ClassVar[Any]

    def get(self, entity: Any, ident: Any, **options: Any) -> Any:
        """Return the one row's instance, made anew."""
        ((found,),) = type(self).make(self)
        return found


@event.listens_for(ReadySession, "do_orm_execute", propagate=True)
def _answer(orm: ORMExecuteState) -> Result[Any]:
    orm.statement._generate_cache_key()
    session: Any = orm.session
    ready = type(session)
    return IteratorResult(ready.metadata, ready.make(session))


def ready_session(engine: Engine, case: Case) -> type[ReadySession]:
    """Return a Session that knows the answer to a case's read, as the database gives it now."""
    with Session(engine) as session:
        case.before(session)
        found = case.read(session)
        given = found if isinstance(found, list) else [found]
        is_entity = isinstance(inspect(given[0], raiseerr=False), InstanceState)
        make = _instances_like(given) if is_entity else _rows_like(given)
    names = given[0]._fields if isinstance(given[0], Row) else ("one",)
    return type("Ready", (ReadySession,), {"make": staticmethod(make), "metadata": SimpleResultMetaData(names)})


def _rows_like(given: list[Any]) -> Make:
    rows = [tuple(row) if isinstance(row, Row) else (row,) for row in given]
    return lambda session: iter(rows)


def _instances_like(given: list[Any]) -> Make:
    """Return what makes instances of one class as those that were loaded, each a row."""
    first: Any = inspect(given[0])
    model, manager = type(given[0]), first.manager
    kept = [_kept_of(inspect(one)) for one in given]

    def make(session: Session) -> Iterator[Any]:
        held: Any = session.identity_map
        known, wr, session_id = held._dict, held._wr, session.hash_key
        new_state: Any = InstanceState.__new__
        for one in kept:
            made = model.__new__(model)
            values = made.__dict__
            values[_STATE] = state = new_state(InstanceState)
            state.class_ = model
            state.manager = manager
            state.obj = weakref.ref(made, state._cleanup)
            state.committed_state = {}
            state.expired_attributes = set()
            state.key = one.key
            state.session_id = session_id
            known[one.key] = state
            state._instance_dict = wr
            values.update(one.columns)
            for name, attribute, below in one.collections:
                many = values[name] = attribute.collection_factory()
                CollectionAdapter(attribute, state, many)
                list.extend(many, [child for (child,) in below(session)])
            yield (made,)

    return make


def _kept_of(state: InstanceState[Any]) -> _Instance:
    names = state.mapper.relationships.keys() & state.dict.keys()
    columns = {name: value for name, value in state.dict.items() if name != _STATE and name not in names}
    attributes: Any = state.manager
    below = [(name, attributes[name].impl, _instances_like(state.dict[name])) for name in names]
    return _Instance(state.key, columns, below)
