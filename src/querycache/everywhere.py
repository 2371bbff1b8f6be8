"""How does a cache get in front of every engine of a process, without anybody asking for it?

For test suites of applications that know nothing of a cache: each engine is attached when it is first asked for a
connection, and each table is cacheable, whichever model has it.

Promises: whatever a test does to an engine is not made an error by this: one that cannot be attached is left alone, and
counted with the reason. Never: an engine kept alive, one attached that another ``QueryCache`` has, a fake driver asked.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any, ClassVar

from sqlalchemy.engine import Engine

from querycache import _sqlalchemy
from querycache.cache import QueryCache
from querycache.policy import Policy
from querycache.reader import Reader
from querycache.session import attachment_of
from querycache.verifying import VerifyingReader


class CacheOfEverything(QueryCache):
    """A cache that takes every table for cacheable. ``left_alone`` counts the engines that are not attached, by reason."""

    _policy_of_others: ClassVar[Policy | None] = Policy()

    def __init__(self, store: str = "memory://") -> None:
        super().__init__(store)
        self.attached = 0
        self.left_alone: Counter[str] = Counter()
        self._met: weakref.WeakSet[Engine] = weakref.WeakSet()

    def meet(self, engine: Engine) -> None:
        """Attach an engine, once; or leave it alone."""
        engine = _sqlalchemy.root_engine_of(engine)
        if engine in self._met:
            return
        self._met.add(engine)
        why_not = _why_left_alone(engine)
        if why_not is None:
            try:
                self.attach(engine)
            except Exception as error:  # a test may have put anything in the place of anything
                why_not = f"{type(error).__name__}: {error}"
        if why_not is None:
            self.attached += 1
        else:
            self.left_alone[why_not] += 1

    @property
    def verdicts(self) -> Counter[str]:
        """How often hits were compared with the database, and what came of it; empty where they are not."""
        return self._reader.verdicts if isinstance(self._reader, VerifyingReader) else Counter()


class VerifiedCacheOfEverything(CacheOfEverything):
    """The same, with each hit compared with the database: see ``verifying``."""

    _reader_type: ClassVar[type[Reader]] = VerifyingReader


def attach_everywhere(cache: CacheOfEverything) -> Callable[[], None]:
    """Have every engine of the process attached from now on, when it is next asked for a connection; return what ends it."""
    ordinary = Engine.raw_connection

    @wraps(ordinary)
    def raw_connection(self: Engine) -> Any:
        cache.meet(self)
        return ordinary(self)

    Engine.raw_connection = raw_connection  # type: ignore[method-assign]

    def end() -> None:
        Engine.raw_connection = ordinary  # type: ignore[method-assign]

    return end


def _why_left_alone(engine: Engine) -> str | None:
    if attachment_of(engine) is not None:
        return "a QueryCache has it already"
    with suppress(Exception):  # the driver of a dialect that a test made up
        used, own = engine.dialect.dbapi, type(engine.dialect).import_dbapi()
        # The adapter of an asynchronous driver is another one each time.
        if used is own or (engine.dialect.is_async and type(used) is type(own)):
            return None
    return "its driver is not its dialect's own: a fake, perhaps"
