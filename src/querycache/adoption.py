"""How does an application get a cache that never makes a ``QueryCache``?

Its models name their ``cache_regions``, and that has to do. The engine of such a model is attached when a Session is first
used with it, before a statement is sent: also where the process only writes, as the others must hear of that.

Promises: an explicit ``QueryCache.attach`` before that wins. Whatever engine a Session would read such a model on is
attached, as a write there must not go unheard: of a Session with a single bind, that one; models of Flask-SQLAlchemy know
their engines. Never: a guess between two stores for one label.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from sqlalchemy import Engine, event, inspect
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction

from querycache._types import DEFAULT_TTL_S, MAX_TTL_S
from querycache.cache import DEFAULT_REGION, QueryCache, Region
from querycache.errors import ConfigurationError
from querycache.session import attachment_of, listen_to_sessions
from querycache.stores import Store, store_on_region

Regions: TypeAlias = Mapping[str, Any]
"""By label: a ``Region``, a ``Store``, a store's URL, or a dogpile.cache region."""

regions: dict[str, Any] = {DEFAULT_REGION: Region("lmdb://")}
"""What models may name as their ``cache_regions``. To be changed before a Session is first used.

The default is shared by all processes of the machine: whoever configures nothing runs several of them sooner or later.
"""

_MODELS: weakref.WeakKeyDictionary[type[Any], Regions] = weakref.WeakKeyDictionary()
_CACHES: dict[tuple[Any, ...], tuple[QueryCache, list[Any]]] = {}
_LEFT_ALONE: weakref.WeakSet[Engine] = weakref.WeakSet()
_LOCK: Final = threading.RLock()


def declare(model: type[Any], cache_regions: Regions) -> None:
    """Have the engine of a model attached by itself."""
    _MODELS[model] = cache_regions
    if not event.contains(Session, "after_transaction_create", _adopt_before_connecting):
        listen_to_sessions()
        event.listen(Session, "do_orm_execute", _adopt_before_reading, insert=True)
        event.listen(Session, "after_transaction_create", _adopt_before_connecting)


def leave_alone(engine: Engine) -> None:
    """Never attach an engine by itself: its application has the cache off."""
    _LEFT_ALONE.add(engine)


def adopt(session: Session) -> None:
    """Attach the engines of a Session that belong to declared models and to no cache yet."""
    wanted: dict[Engine, dict[str, Any]] = {}
    for model, cache_regions in list(_MODELS.items()):
        engine = engine_of(session, model)
        if engine is not None and engine not in _LEFT_ALONE and attachment_of(engine) is None:
            _merge(wanted.setdefault(engine, {}), cache_regions, model)
    for engine, merged in wanted.items():
        with _LOCK:
            if attachment_of(engine) is None:
                _cache_of(merged).attach(engine)


def region_of(label: str, value: Any) -> Region:
    """Return the region that a value of ``cache_regions`` stands for.

    A dogpile.cache region keeps its backend; its expiration time is the time to live, where it is within a day.
    Raises ``ConfigurationError`` for any other value.
    """
    if isinstance(value, Region):
        return value
    if isinstance(value, str | Store):
        return Region(value)
    if hasattr(value, "get_or_create") and hasattr(value, "key_mangler"):
        return Region(store_on_region(value), _ttl_of(value))
    raise ConfigurationError(
        f"cache_regions[{label!r}] is of type {type(value).__name__}: give a Region, a Store, a store's URL or a "
        "dogpile.cache region"
    )


def _ttl_of(dogpile_region: Any) -> float:
    ttl = getattr(dogpile_region, "expiration_time", None)
    return min(float(ttl), MAX_TTL_S) if isinstance(ttl, int | float) and ttl > 0 else DEFAULT_TTL_S


def _adopt_before_reading(orm: ORMExecuteState) -> None:
    try:
        engine = orm.session.get_bind(**orm.bind_arguments).engine
    except Exception:  # the application's code, perhaps; a sharded session has no bind before its own listener ran
        return
    if attachment_of(engine) is None:
        adopt(orm.session)


def _adopt_before_connecting(session: Session, transaction: SessionTransaction) -> None:
    """Every use of a Session begins here, and a connection is checked out only later."""
    if transaction.parent is None:
        adopt(session)


def engine_of(session: Session, model: type[Any]) -> Engine | None:
    """Return the engine on which a Session reads a model, None where it does not."""
    mapper = inspect(model, raiseerr=False)
    if mapper is None:
        return None
    try:
        engine = session.get_bind(mapper=mapper).engine
        # A model of Flask-SQLAlchemy knows its engines. Any Session with a bind would give that one for any model.
        extension = getattr(model, "__fsa__", None)
        return engine if extension is None or engine in extension.engines.values() else None
    except Exception:
        # This Session is not for this model, by SQLAlchemy's word or the application's; Flask-SQLAlchemy raises
        # RuntimeError outside of an application's context.
        return None


def _merge(merged: dict[str, Any], cache_regions: Regions, model: type[Any]) -> None:
    for label, value in cache_regions.items():
        if merged.setdefault(label, value) != value:
            raise ConfigurationError(
                f"{model.__name__}.cache_regions[{label!r}] is not what another model that the Session may read names "
                "under that label: give all models of a database one mapping, or attach each engine to a QueryCache"
            )


def _cache_of(cache_regions: Regions) -> QueryCache:
    """Return the cache over some regions, made at first need."""
    if not cache_regions:
        raise ConfigurationError('cache_regions is empty: name at least one region, {"default": "lmdb://"}')
    key = tuple(
        sorted((label, value if isinstance(value, str) else id(value)) for label, value in cache_regions.items())
    )
    if key not in _CACHES:
        made = {label: region_of(label, value) for label, value in cache_regions.items()}
        default = made.get(DEFAULT_REGION) or next(iter(made.values()))
        cache = QueryCache(default.store, ttl=default.ttl, regions=made)
        _CACHES[key] = cache, list(cache_regions.values())
    return _CACHES[key][0]
