"""``QueryCache``: where a user says which store, which models, which engines.

Joins the rooms: a store (``stores``), the protocol over it (``coherence``), what is heard of writes (``engine``) and how
reads are answered (``session``). Holds no logic of theirs.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, Final

from sqlalchemy import Engine, Table, inspect
from sqlalchemy.engine import Connection
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Session, class_mapper, scoped_session, sessionmaker
from sqlalchemy.orm.exc import UnmappedClassError

from querycache import _sqlalchemy
from querycache._types import DEFAULT_TTL_S, Tag
from querycache.coherence.binds import Bind, Binds, TagColumns
from querycache.coherence.declared import Functions, Views, declared_of
from querycache.coherence.promises import promise_of, promise_of_graces, promise_of_names
from querycache.coherence.protocol import Coherence, OnMarkFailure
from querycache.engine import Attachment, OnSnapshotMoved
from querycache.errors import ConfigurationError, NotAttachedError
from querycache.events import Events, Subscriber
from querycache.explain import Explanation, explain
from querycache.flights import MAX_WAIT_S, Flights
from querycache.policy import Policies, Policy
from querycache.questions import Questions
from querycache.reader import Reader
from querycache.refreshing import BETA, EarlyRefresh
from querycache.rows.envelope import COMPRESS_ABOVE, Envelope, checked_size, signing_keys_of
from querycache.session import attachment_of, register
from querycache.statements import tags as naming
from querycache.stores import Store, open_store
from querycache.unattached import note_attached
from querycache.variation import Variations, Vary

DEFAULT_REGION: Final = "default"


@dataclass(frozen=True, slots=True)
class Region:
    """A policy and a store under a name: ``ttl`` in seconds, at most a day."""

    store: Store | str
    ttl: float = DEFAULT_TTL_S

    def __post_init__(self) -> None:
        Policy(ttl=self.ttl)


CacheableModels = Callable[[], Iterable[tuple[type[Any], Policy]]]

_SELF_DECLARED: list[CacheableModels] = []
_WITH_SESSIONS: weakref.WeakSet[QueryCache] = weakref.WeakSet()


def declare_models(models: CacheableModels) -> None:
    """Add a source of models that say themselves that they are cacheable, to every cache."""
    _SELF_DECLARED.append(models)


def bound_sessions() -> list[Callable[[], Session]]:
    """Return what gives the current Session, for every cache that was told."""
    return [sessions for cache in list(_WITH_SESSIONS) for sessions in cache.sessions]


class QueryCache:
    """A query cache over one store, for as many engines as are attached.

    ``store``: a URL ("memory://", "lmdb:///path?size=1GB", "lmdb://" for the machine's default directory,
    "redis://host", "valkey://host" and their kin) or a ``Store``.
    ``models``: classes to cache, or a mapping of classes to ``Policy``, beside those with ``CacheableMixin``.
    ``regions``: further stores and times to live, by name; ``FromCache("name")`` and ``cache_label`` choose one.
    ``ttl``: seconds an entry of the default region lives at most.
    ``tag_columns``: by table name, the columns by which reads are told apart, instead of those found; a tuple is a group
    of columns, for reads that give a value to each: ``{"membership": [("org_id", "user_id"), "org_id"]}``. The first that
    fits is taken.
    ``vary``: a function of a Session that returns what decides on the rows that it is shown beside statement, values and
    database (the tenant, say): text, an integer, bytes, a UUID, None, or tuples of these. It is part of every key. Asked at
    each read, before there is a connection.
    ``old_images``: ask the database for a row's old values before it is changed (one locked read by primary key); without,
    every read narrowed by something else than the primary key is dropped when any row of its table changes.
    ``views``: by name, the tables that decide what a view shows, where the catalog does not tell or the view is a
    materialized one. ``functions``: names of SQL functions that give the same for the same and write nothing, or by name the
    tables that each reads. Both are promises: names as in SQL, tables also as mapped classes.
    ``on_mark_failure``: "raise" aborts a commit that the store cannot be told of, "continue" lets it go on; None: as the
    store advises. ``on_snapshot_moved``: "raise", "continue", or None: raise where the isolation level was chosen.
    ``max_wait``: seconds for which a read waits while another one of this process asks the database for the same; then it asks,
    too. ``early_refresh``: the beta of probabilistic early expiration: how early one of many readers refreshes an entry before
    it expires, measured by what its statement takes. 0 turns either off.
    ``compress_above``: of how many bytes on an entry is compressed in a store that is reached over a network; None: never.
    ``signing_key``: a secret of 16 bytes or more that all processes know; entries that were not signed with it are not read.
    Several, to change it: the first signs, each is known.

    Raises ``ConfigurationError`` for a store or a setting that cannot be used.
    """

    _reader_type: ClassVar[type[Reader]] = Reader
    _policy_of_others: ClassVar[Policy | None] = None

    def __init__(
        self,
        store: str | Store = "lmdb://",
        *,
        models: Iterable[type[Any]] | Mapping[type[Any], Policy] = (),
        regions: Mapping[str, Region] | None = None,
        ttl: float = DEFAULT_TTL_S,
        tag_columns: Mapping[str, naming.Named] | None = None,
        vary: Vary | None = None,
        old_images: bool = True,
        on_mark_failure: OnMarkFailure | None = None,
        on_snapshot_moved: OnSnapshotMoved | None = None,
        views: Views | None = None,
        functions: Functions | None = None,
        max_wait: float = MAX_WAIT_S,
        early_refresh: float = BETA,
        compress_above: int | None = COMPRESS_ABOVE,
        signing_key: bytes | str | Sequence[bytes | str] | None = None,
    ) -> None:
        keys, compress_above = signing_keys_of(signing_key), checked_size(compress_above)
        self.regions: dict[str, Region] = {DEFAULT_REGION: Region(store, ttl), **(regions or {})}
        self.models: dict[type[Any], Policy] = _policies_of(models, ttl)
        self.events = Events()
        self._old_images = old_images
        self._on_snapshot_moved = on_snapshot_moved
        stores, positions = _open_stores(self.regions)
        self._coherence = Coherence(
            stores,
            self.events,
            on_mark_failure=on_mark_failure,
            envelopes=[Envelope(compress_above if store.scope == "fleet" else None, keys) for store in stores],
        )
        declared = declared_of(views, functions, tells_who_asks=vary is not None)
        self._binds = Binds(_checked(tag_columns or {}), declared)
        self._variations = Variations(vary)
        self._reader = self._reader_type(
            Questions(
                Policies(self.cacheable_models, of_others=self._policy_of_others),
                {name: (positions[name], region.ttl) for name, region in self.regions.items()},
                declared,
            ),
            self._variations,
            Flights(max_wait),
            EarlyRefresh(early_refresh),
        )
        # In order. An engine is not kept alive by its cache.
        self._attached: weakref.WeakKeyDictionary[Engine, Attachment] = weakref.WeakKeyDictionary()
        self.sessions: list[Callable[[], Session]] = []
        self._lock = threading.Lock()

    # -- attaching ---------------------------------------------------------------------------------------------------

    def attach(self, target: Any, *, name: str | None = None) -> None:
        """Cache the reads and hear the writes of an engine, an async engine, a session factory, or a Flask ``db``.

        ``name`` identifies the database where it cannot be asked, or instead of asking: every process that reads or
        writes it must give the same. Attaching the same engine again changes nothing. A ``scoped_session`` is bound, too:
        see ``bind_session``.

        Raises ``ConfigurationError`` for a target of another kind, or an engine that another ``QueryCache`` has.
        """
        for engine in engines_of(target):
            self._attach_engine(_sqlalchemy.root_engine_of(engine), name)
        if isinstance(target, scoped_session):
            self.bind_session(target)

    def bind_session(self, sessions: Callable[[], Session]) -> None:
        """Tell ``Model.cache`` where to find the current Session: a ``scoped_session``, or any function that returns it."""
        if sessions not in self.sessions:
            self.sessions.append(sessions)
            _WITH_SESSIONS.add(self)

    def _attach_engine(self, engine: Engine, name: str | None) -> None:
        with self._lock:
            found = attachment_of(engine)
            if found is not None:
                if found[1] in self._attachments:
                    return
                raise ConfigurationError(
                    f"{engine.url.render_as_string()} is attached to another QueryCache: attach an engine to one only"
                )
            attachment = Attachment(
                engine,
                self._coherence,
                self._binds,
                name=name,
                old_images=self._old_images,
                on_snapshot_moved=self._on_snapshot_moved,
                varies=self._variations.are_told,
            )
            attachment.install()
            register(attachment, self._reader)
            note_attached(engine)
            self._attached[engine] = attachment

    def add_models(self, *models: type[Any], policy: Policy | None = None) -> None:
        """Make models cacheable."""
        for model in models:
            self.models[model] = policy or Policy(ttl=self.regions[DEFAULT_REGION].ttl)

    def cacheable_models(self) -> Iterable[tuple[type[Any], Policy]]:
        """Yield the models that are cacheable, and how: those given here, and those with ``CacheableMixin``."""
        yield from self.models.items()
        for source in _SELF_DECLARED:
            yield from source()

    @property
    def _attachments(self) -> list[Attachment]:
        return list(self._attached.values())

    @property
    def engines(self) -> list[Engine]:
        """The engines attached."""
        return list(self._attached)

    # -- dropping ----------------------------------------------------------------------------------------------------

    def invalidate(self, *targets: Any) -> None:
        """Drop what depends on models, instances or tables, now, for everybody who shares the store.

        For changes that no attached engine saw. An instance drops what depends on its row, whatever its values were.

        Raises ``NotAttachedError`` where no database was asked yet because none is attached.
        """
        for bind in self._asked_binds():
            tags: dict[Tag, None] = {}
            for target in targets:
                tags.update(dict.fromkeys(_tags_of_target(bind, target)))
            self._coherence.touch(tuple(tags))

    def invalidate_all(self) -> None:
        """Drop everything that depends on the attached databases."""
        self._coherence.touch(self._binds.tag_set().tags if self._asked_binds() else ())

    def invalidate_named(self, region: str, cache_key: str) -> None:
        """Drop what was cached under ``FromCache(region, cache_key)``."""
        self._coherence.touch([naming.named_tag(bind.id, region, cache_key) for bind in self._asked_binds()])

    def clear(self) -> None:
        """Empty the stores, for every application that shares them."""
        for journal in self._coherence.journals:
            journal.store.clear()
        self._reader.graces.clear()

    def _asked_binds(self) -> list[Bind]:
        if not self._attachments:
            raise NotAttachedError("no engine is attached: call QueryCache.attach(engine) first")
        for attachment in self._attachments:
            attachment.ask()
        return self._binds.known()

    # -- telling -----------------------------------------------------------------------------------------------------

    def explain(
        self, statement: Any, parameters: Mapping[str, Any] | None = None, *, session: Session | None = None
    ) -> Explanation:
        """Say whether a statement is cached and why, under which key and tags, and which writes would drop it.

        ``session``: whose engine and transaction to look at; without, a new Session of the only engine attached.
        Raises ``NotAttachedError`` where it is not clear which engine is meant.
        """
        attachment = self._attachment_for(statement, session)
        engine = None if session is None else _engine_of(session, statement)
        return explain(self._reader.questions, attachment, statement, parameters, session, self._variations, engine)

    def _attachment_for(self, statement: Any, session: Session | None) -> Attachment:
        if session is not None:
            found = attachment_of(_engine_of(session, statement))
            if found is not None and found[1] in self._attachments:
                return found[1]
            raise NotAttachedError("the session's engine is not attached to this QueryCache")
        if len(self._attachments) != 1:
            raise NotAttachedError(
                f"{len(self._attachments)} engines are attached: say which, with explain(..., session=)"
            )
        return self._attachments[0]

    def stats(self) -> dict[str, Any]:
        """Return what happened in this process, and what the stores hold.

        ``hit_rate`` is hits by hits and misses, None before the first read; sizes are in bytes. ``databases`` tells by
        identity how many tables the catalog has, how often this process read it, and the seconds that it took in all.
        """
        counts = self.events.counts()
        reads = counts.get("hit", 0) + counts.get("miss", 0)
        return {
            "counts": counts,
            "reasons": self.events.reasons(),
            "hit_rate": counts.get("hit", 0) / reads if reads else None,
            "releases_owed": sum(journal.owed for journal in self._coherence.journals),
            "stores": [
                {"url": journal.store.url, "scope": journal.store.scope, **_as_dict(journal.store.stats())}
                for journal in self._coherence.journals
            ],
            "databases": [_as_dict(cost) for cost in self._binds.survey_costs()],
        }

    @property
    def guarantee(self) -> str:
        """What holds with these stores and settings, in words, with the bounds in seconds."""
        lives: dict[int, float] = {}
        for position, ttl_s in self._reader.questions.plans.regions.values():
            lives[position] = max(ttl_s, lives.get(position, 0.0))
        told = [
            promise_of(journal.store, must_mark=self._coherence.must_mark(journal.store), ttl_s=lives[position])
            for position, journal in enumerate(self._coherence.journals)
        ]
        graces = {model.__name__: policy.grace for model, policy in self.cacheable_models()}
        told.append(promise_of_graces(graces, self._reader.questions.plans.longest_grace_s))
        told.append(promise_of_names(one.name for one in self._attachments if one.name is not None))
        return "\n".join(filter(None, told))

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Call ``subscriber`` with each ``Event`` of this process; return a function that ends it."""
        return self.events.subscribe(subscriber)

    # -- ending ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Settle what is owed and give back what this process holds of the stores. The engines stay attached."""
        self.sessions.clear()
        self._coherence.close()

    def __enter__(self) -> QueryCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def engines_of(target: Any) -> list[Engine]:
    """Return the engines that a user may mean."""
    if isinstance(target, Engine):
        return [target]
    if isinstance(target, Connection):
        return [target.engine]
    if isinstance(sync_engine := getattr(target, "sync_engine", None), Engine):
        return [sync_engine]
    if isinstance(target, sessionmaker):
        return _engines_of_keywords(target.kw)
    if isinstance(target, scoped_session) and isinstance(target.session_factory, sessionmaker):
        return _engines_of_keywords(target.session_factory.kw)
    if isinstance(engines := getattr(target, "engines", None), Mapping):
        return list(dict.fromkeys(engines.values()))
    raise ConfigurationError(
        f"attach() takes an engine, an async engine, a session factory or a Flask db, not {type(target).__name__}"
    )


def _engine_of(session: Session, statement: Any) -> Engine:
    """Return the engine on which a session would run a statement: by its first entity, as ``Session.execute`` chooses."""
    described = getattr(statement, "column_descriptions", ())
    entity = next((column["entity"] for column in described if column.get("entity") is not None), None)
    mapper = None if entity is None else inspect(entity).mapper
    clause = statement if getattr(statement, "is_select", False) else getattr(statement, "statement", statement)
    return session.get_bind(mapper, clause=clause).engine


def _engines_of_keywords(keywords: Mapping[str, Any]) -> list[Engine]:
    binds = [keywords.get("bind"), *(keywords.get("binds") or {}).values()]
    engines = [engine for bind in binds if bind is not None for engine in engines_of(bind)]
    if not engines:
        raise ConfigurationError("the session factory has no bind yet: attach its engine, or configure(bind=...) first")
    return engines


def _open_stores(regions: Mapping[str, Region]) -> tuple[list[Store], dict[str, int]]:
    """Open each region's store once; return them and each region's position among them."""
    stores: list[Store] = []
    opened: dict[Any, int] = {}
    positions = {}
    for name, region in regions.items():
        given = region.store
        if isinstance(given, str):
            # Two memory:// are two stores.
            identity: Any = ("memory", name) if given.startswith("memory:") else given
        else:
            identity = id(given)
        if identity not in opened:
            opened[identity] = len(stores)
            stores.append(open_store(given) if isinstance(given, str) else given)
        positions[name] = opened[identity]
    return stores, positions


def _checked(tag_columns: Mapping[str, naming.Named]) -> TagColumns:
    for table, named in tag_columns.items():
        why_not = naming.why_not_named(named)
        if why_not is not None:
            example = '{"product": ["category_id", ("brand", "year")]}'
            raise ConfigurationError(
                f"tag_columns of table {table!r}: {why_not}; give names and groups, as in {example}"
            )
    return dict(tag_columns)


def _policies_of(models: Iterable[type[Any]] | Mapping[type[Any], Policy], ttl: float) -> dict[type[Any], Policy]:
    if isinstance(models, Mapping):
        return dict(models)
    return {model: Policy(ttl=ttl) for model in models}


def _tags_of_target(bind: Bind, target: Any) -> Iterable[Tag]:
    """Yield the tags of a model, an instance or a table."""
    if isinstance(target, Table):
        yield bind.facts(target).guard[0]
        return
    if isinstance(target, type):
        for table in _tables_of(target):
            yield bind.facts(table).guard[0]
        return
    try:
        state: Any = inspect(target)
        tables = [table for table in state.mapper.tables if isinstance(table, Table)]
    except (NoInspectionAvailable, AttributeError) as error:
        raise ConfigurationError(
            f"invalidate() takes mapped classes, their instances and tables, not {type(target).__name__}"
        ) from error
    for table in tables:
        yield from bind.facts(table).any_row_tags(state.identity if table is state.mapper.local_table else None)


def _tables_of(model: type[Any]) -> list[Table]:
    try:
        mapper = class_mapper(model)
    except UnmappedClassError as error:
        raise ConfigurationError(f"{model.__name__} is not a mapped class") from error
    return [table for one in mapper.self_and_descendants for table in one.tables if isinstance(table, Table)]


def _as_dict(stats: Any) -> dict[str, Any]:
    return {name: getattr(stats, name) for name in type(stats).__slots__}
