"""Which private names of SQLAlchemy stand behind the lazy load of a many-to-one that asks for nothing but a primary key?

Such a load is what ``Session.get`` is, but for the path that it leaves on the instance: so it is answered as that is, one entry
serves both, and no statement is built. Where the loader, the parent or the class that is loaded has anything to add (options,
criteria, eager loads, subclasses), SQLAlchemy goes its own way. tests/integration/test_lazy_loading.py fails when a release
changes what stands behind this; it goes its own way altogether then.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from sqlalchemy.orm import Session, strategies
from sqlalchemy.orm.base import PassiveFlag

logger = logging.getLogger("querycache")

LOADER: Final[Any] = getattr(strategies, "_LazyLoader", None) or strategies.LazyLoader  # type: ignore[attr-defined]
_EXPECTED: Final = (
    "self",
    "session",
    "state",
    "primary_key_identity",
    "passive",
    "loadopt",
    "extra_criteria",
    "extra_options",
    "alternate_effective_path",
    "execution_options",
)
_LAZY: Final = (("lazy", "select"),)
_COLUMNS: Final = frozenset({(("deferred", False), ("instrument", True)), (("deferred", True), ("instrument", True))})

NOT_ANSWERED: Final = object()


def listen_to_lazy_loads(get: Callable[[Session, type[Any], tuple[Any, ...]], Any]) -> None:
    """Have lazy loads by primary key answered by ``get``, from now on; it may say ``NOT_ANSWERED``."""
    ordinary = getattr(LOADER, "_emit_lazyload", None)
    if ordinary is None or tuple(inspect.signature(ordinary).parameters) != _EXPECTED:
        logger.debug("lazy loads are answered by their statements: this SQLAlchemy has them otherwise")
        return

    @wraps(ordinary)
    def load(self: Any, session: Any, state: Any, identity: Any, passive: Any, *rest: Any, **more: Any) -> Any:
        if identity is not None and not any(rest) and not more and _is_plain(self, state, passive):
            found = get(session, self.mapper.class_, tuple(identity))
            if found is not NOT_ANSWERED:
                if found is not None:
                    _leave_path(self, state, found)
                return found
        return ordinary(self, session, state, identity, passive, *rest, **more)

    LOADER._emit_lazyload = load


def _is_plain(loader: Any, state: Any, passive: Any) -> bool:
    """Tell whether the load would be that of ``Session.get``: of a persistent parent, with no options of its own."""
    return bool(
        loader.use_get
        and not loader._raise_on_sql
        and not loader.entity.is_aliased_class
        and passive == PassiveFlag.PASSIVE_OFF
        and state.key is not None
        and state.identity_token is None
        and not state.load_options
        and _is_bare(loader.mapper)
    )


def _is_bare(mapper: Any) -> bool:
    """Tell whether loading a class loads nothing along, and is the same whoever asks."""
    return (
        not mapper.polymorphic_map
        and not mapper.always_refresh
        and all(relation.strategy_key == _LAZY for relation in mapper.relationships)
        and all(column.strategy_key in _COLUMNS for column in mapper.column_attrs)
    )


def _leave_path(loader: Any, parent: Any, instance: Any) -> None:
    """Leave on an instance by which way it was loaded; not on one that a flush has just put where ``get`` found it."""
    state, own = instance._sa_instance_state, loader.mapper._path_registry
    if state.load_path is own:
        state.load_path = parent.mapper._path_registry[loader.parent_property] + own
