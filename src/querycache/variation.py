"""What beside statement, values and database decides on what a Session is shown?

The application's word, its ``vary``: asked at every read, before there is a connection, it stands in the key of every entry.
Promises: a hook that fails, or says what has no exact form, keeps the read from being cached and never from being answered;
what it says is in no log and no message. Never: a guess in its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from inspect import iscoroutinefunction
from typing import Any, Final, TypeAlias

from sqlalchemy.orm import Session

from querycache.errors import ConfigurationError
from querycache.questions import Bypass
from querycache.rows.codec import UnsupportedValue, encode_values

logger = logging.getLogger("querycache")

Vary: TypeAlias = Callable[[Session], Any]
"""Says for a Session what decides on the rows that its connections are shown: text, an integer, bytes, a UUID, None, or
tuples of these. The same Session may be asked many times, also in the middle of a read."""

NOTHING: Final = b""
"""What stands in keys where nobody said that anything varies."""

_ASKING: ContextVar[bool] = ContextVar("querycache_asking_vary", default=False)
_ASKED: Final = Bypass("vary is being asked: what it reads itself is not cached")


class Variations:
    """What one cache's ``vary`` says. Without one, nothing varies."""

    def __init__(self, vary: Vary | None) -> None:
        if vary is not None and (not callable(vary) or iscoroutinefunction(vary)):
            raise ConfigurationError(
                f"vary={vary!r}: give a function that takes a Session and returns, without awaiting anything, what "
                "decides on the rows that it is shown"
            )
        self._vary = vary
        self._told: set[str] = set()

    @property
    def are_told(self) -> bool:
        """Whether there is a ``vary``."""
        return self._vary is not None

    def of(self, session: Session) -> bytes | Bypass:
        """Return the part of a key that tells what this Session is shown from what others are, or why it is not known."""
        if self._vary is None:
            return NOTHING
        if _ASKING.get():
            return _ASKED
        asking = _ASKING.set(True)
        try:
            return encode_values([self._vary(session)])
        except UnsupportedValue as error:
            return self._failed(f"vary says what has no exact form: {error}", error)
        except Exception as error:  # the application's code may raise anything
            return self._failed(f"vary failed: {type(error).__name__}", error)
        finally:
            _ASKING.reset(asking)

    def _failed(self, reason: str, error: Exception) -> Bypass:
        if reason not in self._told:
            self._told.add(reason)
            logger.error("reads are not cached: %s", reason, exc_info=error)
        return Bypass(reason)
