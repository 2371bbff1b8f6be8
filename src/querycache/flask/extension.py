"""Which applications have a cache, over which engines?

One extension object serves any number of applications; each gets a ``querycache.QueryCache`` of its own, found at
``app.extensions["querycache"]``, attached to every engine of its database extension, all binds included.

Promises: no connection is made by ``init_app``, so a server may load the application and fork its workers afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Unpack
from weakref import WeakKeyDictionary

from flask import Flask, current_app, has_app_context
from sqlalchemy.orm import Session

from querycache import cache as core
from querycache.errors import ConfigurationError, NotAttachedError, StoreUnavailable
from querycache.events import Subscriber
from querycache.explain import Explanation
from querycache.flask.commands import querycache_commands
from querycache.flask.disabled import DisabledCache
from querycache.flask.engines import database_of, engines_of, session_of
from querycache.flask.settings import CacheSettings, is_enabled, settings_of
from querycache.policy import Policy
from querycache.stores import Store, open_store

if TYPE_CHECKING:
    from flask_sqlalchemy import SQLAlchemy as FlaskSQLAlchemy
    from flask_sqlalchemy_lite import SQLAlchemy as FlaskSQLAlchemyLite

FlaskDatabase: TypeAlias = "FlaskSQLAlchemy | FlaskSQLAlchemyLite"

NAME: Final = "querycache"
"""Where an application's own cache is, in ``app.extensions``."""


class QueryCache:
    """The query cache of Flask applications.

    ``app`` and ``db`` as for other extensions; without ``app``, call ``init_app`` later. Further arguments are those of
    ``querycache.QueryCache``, and hold where the application's ``QUERYCACHE_*`` keys say nothing.

    What a cache can do is here too, for the current application; outside of an application context, for the only one.
    """

    def __init__(
        self, app: Flask | None = None, db: FlaskDatabase | None = None, **settings: Unpack[CacheSettings]
    ) -> None:
        unknown = sorted(set(settings) - set(CacheSettings.__annotations__))
        if unknown:
            known = ", ".join(CacheSettings.__annotations__)
            raise TypeError(f"QueryCache() has no argument {unknown[0]!r}: known are app, db, {known}")
        self._db = db
        self._settings = settings
        self._caches: WeakKeyDictionary[Flask, core.QueryCache] = WeakKeyDictionary()
        self._memory_stores: dict[str, Store] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, db: FlaskDatabase | None = None) -> None:
        """Give an application its cache. Call it after ``db.init_app(app)``.

        ``db`` is needed only where it is not the application's registered extension's object, which is an error.
        Raises ``ConfigurationError`` for a key or an order that cannot work, ``StoreUnavailable`` where the store cannot be
        opened.
        """
        if NAME in app.extensions:
            raise ConfigurationError(f"{app.name!r} has a QueryCache already: call init_app(app) once")
        engines = engines_of(app, database_of(app, db if db is not None else self._db))
        cache = self._make_cache(app)
        for engine in engines:
            cache.attach(engine)
        self._caches[app] = app.extensions[NAME] = cache
        app.cli.add_command(querycache_commands)

    def _make_cache(self, app: Flask) -> core.QueryCache:
        settings = settings_of(app.config, self._settings)
        if not is_enabled(app.config):
            return DisabledCache("memory://", models=settings.get("models", ()))
        given = settings["store"]
        if isinstance(given, str):
            settings["store"] = store = self._open(given)
            settings["regions"] = _regions_with({given: store}, settings.get("regions"))
        return core.QueryCache(**settings)

    def _open(self, url: str) -> Store:
        """Open a store; applications of one process that use ``memory://`` share it, else they would not hear each other."""
        if url in self._memory_stores:
            return self._memory_stores[url]
        try:
            store = open_store(url)
        except (ConfigurationError, StoreUnavailable) as error:
            raise type(error)(f"QUERYCACHE_URL: {error}") from error
        if store.scope == "threads":
            self._memory_stores[url] = store
        return store

    # -- the current application's cache -----------------------------------------------------------------------------

    @property
    def current(self) -> core.QueryCache:
        """The cache of the current application; outside of an application context, of the only one.

        Raises ``NotAttachedError`` where there is none.
        """
        if has_app_context():
            found = current_app.extensions.get(NAME)
            if any(found is cache for cache in self._caches.values()):
                assert isinstance(found, core.QueryCache)
                return found
            raise NotAttachedError(f"{current_app.name!r} has no cache from this QueryCache: call init_app(app) first")
        if len(self._caches) == 1:
            return next(iter(self._caches.values()))
        raise NotAttachedError(
            f"{len(self._caches)} applications use this QueryCache: work inside of app.app_context() to say which is meant"
        )

    def add_models(self, *models: type[Any], policy: Policy | None = None) -> None:
        """Make models cacheable."""
        self.current.add_models(*models, policy=policy)

    def invalidate(self, *targets: Any) -> None:
        """Drop what depends on models, instances or tables, now, for everybody who shares the store."""
        self.current.invalidate(*targets)

    def invalidate_all(self) -> None:
        """Drop everything that depends on the application's databases."""
        self.current.invalidate_all()

    def invalidate_named(self, region: str, cache_key: str) -> None:
        """Drop what was cached under ``FromCache(region, cache_key)``."""
        self.current.invalidate_named(region, cache_key)

    def clear(self) -> None:
        """Empty the stores, for every application that shares them."""
        self.current.clear()

    def explain(
        self, statement: Any, parameters: Mapping[str, Any] | None = None, *, session: Session | None = None
    ) -> Explanation:
        """Say whether a statement is cached and why, under which key and tags, and which writes would drop it.

        Without ``session``, as the application's ``db.session`` would run it.
        """
        cache = self.current
        if session is None and has_app_context() and len(cache.engines) > 1:
            session = session_of(current_app)
        return cache.explain(statement, parameters, session=session)

    def stats(self) -> dict[str, Any]:
        """Return what happened in this process, and what the stores hold."""
        return self.current.stats()

    @property
    def guarantee(self) -> str:
        """The promise that the stores can keep, in words."""
        return self.current.guarantee

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each ``Event`` of this process; return a function that ends it."""
        return self.current.subscribe(subscriber)


def _regions_with(opened: Mapping[str, Store], regions: Mapping[str, core.Region] | None) -> dict[str, core.Region]:
    """Give regions that name a store which is open that one, so that it is one store and not two."""
    return {
        name: replace(region, store=opened[region.store])
        if isinstance(region.store, str) and region.store in opened
        else region
        for name, region in (regions or {}).items()
    }
