"""How does a worker come to the points at which it can be made to wait, die or fail?

The store's verbs, the dialect's COMMIT and the engine's cursors are wrapped before the cache is attached, so that the points
lie exactly around what the library itself calls. Never does: change what a verb is given or returns.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from sqlalchemy import Engine, event
from torture_control import Action, Control, Field, Point

from querycache import _bridge
from querycache.errors import StoreUnavailable
from querycache.stores.base import Store

PAUSE_S = 0.001
_GROUP: Final[ContextVar[int | None]] = ContextVar("the group that this thread, or task, works on", default=None)


def pause(seconds: float) -> None:
    """Do nothing for a while; other tasks of the same event loop go on."""
    if _bridge.loop_here() is None:
        time.sleep(seconds)
    else:
        _bridge.wait_here(asyncio.sleep(seconds))


class Points:
    """The points of one process. ``parent``: the supervisor, without which nobody waits."""

    def __init__(self, control: Control, parent: int) -> None:
        self._control = control
        self._parent = parent
        self._one_at_a_time = threading.Lock()

    def enter(self, group: int | None) -> None:
        """Say which group this thread, or task, works on; the points of those that work on none are passed by."""
        _GROUP.set(group)

    def reach(self, point: Point) -> None:
        """Do what the supervisor wants here, if anything. Raises ``StoreUnavailable`` where a verb has to fail."""
        control = self._control
        armed = control[Field.POINT]
        group = _GROUP.get()
        if not armed or group is None:
            return
        focus = control[Field.FOCUS]
        if focus and group not in (focus - 1, -1):
            return
        action = Action(control[Field.ACTION])
        if armed == point:
            if action is Action.DIE:
                os.kill(os.getpid(), signal.SIGKILL)
            if action is Action.WAIT:
                self._wait(armed, 1)
            else:
                control[Field.ARRIVED] = max(1, control[Field.ARRIVED])
                raise StoreUnavailable(f"the torture has it fail {point.name.lower().replace('_', ' ')}")
        elif action is Action.FAIL_AND_WAIT and point is Point.AFTER_MARK and control[Field.ARRIVED]:
            self._wait(armed, 2)

    def _wait(self, armed: int, arrived: int) -> None:
        """Wait until the supervisor wants something else; one thread or task does, the others pass."""
        if not self._one_at_a_time.acquire(blocking=False):
            return
        try:
            self._control[Field.ARRIVED] = arrived
            while self._control[Field.POINT] == armed and os.getppid() == self._parent:
                pause(PAUSE_S)
        finally:
            self._one_at_a_time.release()

    def around_store(self, store: Store) -> None:
        """Put points around a store's verbs."""
        for verb in ("mark", "mark_and_look"):
            self._wrap(store, verb, Point.BEFORE_MARK, Point.AFTER_MARK)
        self._wrap(store, "release", Point.BEFORE_RELEASE, Point.AFTER_RELEASE)
        self._wrap(store, "fill_many", Point.BEFORE_FILL, None)

    def around_engine(self, engine: Engine) -> None:
        """Put points around COMMIT, and after each SELECT."""
        self._wrap(engine.dialect, "do_commit", Point.BEFORE_COMMIT, Point.AFTER_COMMIT)

        @event.listens_for(engine, "after_cursor_execute")
        def after_query(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("SELECT"):
                self.reach(Point.AFTER_QUERY)

    def _wrap(self, owner: Any, name: str, before: Point, after: Point | None) -> None:
        verb: Callable[..., Any] = getattr(owner, name)

        def wrapped(*given: Any, **named: Any) -> Any:
            self.reach(before)
            result = verb(*given, **named)
            if after is not None:
                self.reach(after)
            return result

        setattr(owner, name, wrapped)
