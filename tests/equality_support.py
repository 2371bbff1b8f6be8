"""Does a cached answer differ in anything that a session could notice from the database's own?

``observed`` writes down all that can be seen of a result: values with their types and order, which objects are the same
object, what the identity map holds, what each instance has loaded, expired, and with which options it loads the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Row, inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import InstanceState, Session

from scenario_support import World

Take = Callable[[Session], Any]


class Observer:
    """Describes objects of one session; numbers instances in the order in which they are met."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def describe(self, thing: Any) -> Any:
        """Describe a result's value, an instance with all that hangs on it."""
        if isinstance(thing, Row):
            return ("row", tuple(thing._fields), [self.describe(value) for value in thing])
        if isinstance(thing, list | tuple | set | dict):
            values = thing.items() if isinstance(thing, dict) else thing
            if isinstance(thing, set) and all(_state_of(value) is not None for value in thing):
                values = sorted(thing, key=lambda value: repr(inspect(value).identity_key))
            return (type(thing).__name__, [self.describe(value) for value in values])
        state = _state_of(thing)
        if state is None:
            return (type(thing).__name__, repr(thing))
        if id(thing) in self._numbers:
            return ("again", self._numbers[id(thing)])
        self._numbers[id(thing)] = len(self._numbers)
        self._kept.append(thing)
        return self._instance(thing, state)

    def _instance(self, thing: Any, state: InstanceState[Any]) -> Any:
        loaded = {key: value for key, value in state.dict.items() if not key.startswith("_sa_")}
        return (
            type(thing).__name__,
            state.identity_key,
            {key: self.describe(loaded[key]) for key in sorted(loaded)},
            {
                "unloaded": sorted(state.unloaded),
                "expired": state.expired,
                "expired attributes": sorted(state.expired_attributes),
                "callables": sorted(state.callables),
                "modified": state.modified,
                "persistent": state.persistent,
                "options": sorted(map(id, state.load_options)),
                "path": repr(state.load_path),
                "map": state.session is self._session and thing in self._session,
            },
        )

    def identities(self) -> list[str]:
        """Return what the identity map holds."""
        return sorted(map(repr, self._session.identity_map.keys()))


def _state_of(thing: Any) -> InstanceState[Any] | None:
    try:
        state = inspect(thing)
    except NoInspectionAvailable:
        return None
    return state if isinstance(state, InstanceState) else None


def observed(session: Session, take: Take) -> Any:
    """Write down all that can be seen of what ``take`` returns, or the error that it raises."""
    observer = Observer(session)
    try:
        taken = take(session)
    except Exception as error:
        return ("raised", type(error), str(error))
    return (observer.describe(taken), observer.identities())


def assert_same_as_uncached(world: World, take: Take, *, hits: bool = True) -> None:
    """Check that a miss and a hit look like the database's own answer; ``hits``: that there is a hit at all."""
    with Session(world.outside) as session:
        expected = observed(session, take)
    for attempt in ("miss", "hit", "hit"):
        with world.session() as session:
            world.sent.clear()
            assert observed(session, take) == expected, attempt
    if hits:
        assert world.sent == [], world.cache.stats()["reasons"]
