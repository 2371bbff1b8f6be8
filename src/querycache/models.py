"""How does a model say that it is cacheable, and what does ``Model.cache`` offer?

``CacheableMixin`` makes the statements that read a model cacheable in every ``QueryCache``; ``Model.cache`` reads it by primary
key and in lists whose rows are cached one by one.

Promises: what is returned belongs to the Session, which sees its own writes. Never older than the database: changes drop
what depends on them, ``flush`` is for what nobody told the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Generic, TypeVar

from sqlalchemy import inspect, select
from sqlalchemy.orm import Mapper, Session, class_mapper, scoped_session
from sqlalchemy.orm.attributes import get_history

from querycache import adoption
from querycache._types import MAX_TTL_S
from querycache.cache import DEFAULT_REGION, bound_sessions, declare_models
from querycache.errors import NotAttachedError
from querycache.keyed import Key, key_attributes_of, parameters_of, rows_by_key
from querycache.options import CacheRequest, FromCache, RowNames
from querycache.policy import Policy
from querycache.session import attachment_of
from querycache.statements import tags as naming

T = TypeVar("T")

_DIRECTIONS: Final = ("asc", "desc")


@dataclass(frozen=True, slots=True)
class ModelCache(Generic[T]):
    """The cached reads of one model: ``Model.cache``."""

    model: type[T]

    @property
    def label(self) -> str:
        """The name of the region in which the model is cached."""
        return str(getattr(self.model, "cache_label", DEFAULT_REGION))

    @property
    def regions(self) -> Mapping[str, Any] | None:
        """The model's ``cache_regions``."""
        return getattr(self.model, "cache_regions", None)

    @property
    def pk(self) -> str:
        """The name of the primary key in names of entries: ``cache_pk``, or the key's attributes."""
        named = getattr(self.model, "cache_pk", None)
        return named if isinstance(named, str) else ",".join(part.key for part in key_attributes_of(self.model))

    def get(self, pk: Any, *, session: Session | scoped_session[Any] | None = None) -> T | None:
        """Return the instance with a primary key, None where there is none.

        ``pk``: a value, or for a composite key a tuple, or a mapping by attribute.
        Raises ``NotAttachedError`` where no ``session`` is given and none is known.
        """
        found = session_of(self.model, session)
        mapper = class_mapper(self.model)
        key = _key_of(mapper, pk)
        if len(key) != len(mapper.primary_key) or None in key or _is_here(found, mapper, key):
            return found.get(self.model, pk)
        if not _is_cached(found, mapper):
            return found.get(self.model, pk)
        request = CacheRequest(self.label, self.name_of(key))
        rows = found.execute(rows_by_key(mapper).options(FromCache.of(request)), parameters_of(mapper, [key]))
        return rows.unique().scalars().one_or_none()

    def filter(
        self,
        order_by: Any = "asc",
        offset: int | None = None,
        limit: int | None = None,
        *,
        session: Session | scoped_session[Any] | None = None,
        **attributes: Any,
    ) -> list[T]:
        """Return the instances whose attributes have these values.

        ``order_by``: "asc" or "desc" by primary key, the name of an attribute, a column or an expression such as
        ``Model.name.desc()``, or several in a list. Rows that are equal in that follow the primary key.

        Raises ``TypeError`` for an attribute that the model does not have, ``NotAttachedError`` as ``get`` does.
        """
        self._check(attributes)
        found = session_of(self.model, session)
        whole = select(self.model).filter_by(**attributes).order_by(*self._order_of(order_by))
        whole = whole if offset is None else whole.offset(offset)
        whole = whole if limit is None else whole.limit(limit)
        if _is_cached(found, class_mapper(self.model)):
            names = RowNames(self.name_of, self.any_name)
            request = CacheRequest(self.label, self._cache_key(**attributes), shape="keys", names=names)
            whole = whole.options(FromCache.of(request))
        return list(found.scalars(whole).unique())

    def flush(self, key: str, *, session: Session | scoped_session[Any] | None = None) -> None:
        """Drop what was cached under a name: one of ``FromCache(cache_key=...)``, or as ``_cache_key`` makes them.

        Raises ``NotAttachedError`` as ``get`` does.
        """
        found = session_of(self.model, session)
        mapper = class_mapper(self.model)
        if not _is_cached(found, mapper):
            return
        attached = attachment_of(found.get_bind(mapper=mapper).engine)
        bind = None if attached is None else attached[1].ask()
        if attached is not None and bind is not None:
            reader, attachment = attached
            regions = dict.fromkeys((self.label, *reader.questions.plans.regions))
            # Lists hold rows, too: what is dropped by a row's name must not come back out of a list.
            names = (key, self.any_name)
            attachment.coherence.touch(
                [naming.named_tag(bind.id, region, name) for region in regions for name in names]
            )

    def from_cache(self, cache_key: str | None = None, pk: Any = None) -> FromCache:
        """Return the option that caches a statement in the model's region, under a name to ``flush`` it by."""
        return FromCache(self.label, cache_key if pk is None else self._cache_key(pk))

    def _cache_key(self, pk: Any = "all", **attributes: Any) -> str:
        """Return the name of an entry: 'user.id[all]', 'address.user_id=4[all]', 'user.id[4]'."""
        listed = ",".join(f"{name}={value}" for name, value in sorted(attributes.items()))
        return f"{class_mapper(self.model).local_table.description}.{listed or self.pk}[{pk}]"

    def _columns(self) -> list[str]:
        """Return the names of the columns, but for the primary key."""
        return [column.name for column in class_mapper(self.model).local_table.columns if column.name != self.pk]

    def _flush_all(self, obj: T) -> None:
        """Drop the instance, and the lists by its values of before and after its pending changes."""
        session = inspect(obj, raiseerr=True).session
        names = [self._cache_key(), self.name_of(tuple(class_mapper(self.model).primary_key_from_instance(obj)))]
        for attribute in class_mapper(self.model).column_attrs:
            history = get_history(obj, attribute.key)
            names.extend(self._cache_key(**{attribute.key: value}) for value in (*history.deleted, *history.added))
        for name in names:
            self.flush(name, session=session)

    @property
    def any_name(self) -> str:
        """The name under which all lists of the model are dropped at once."""
        return f"{class_mapper(self.model).local_table.description}.*"

    def name_of(self, key: Key) -> str:
        """Return the name of the entry of a row."""
        return self._cache_key(key[0] if len(key) == 1 else key)

    def _check(self, attributes: Iterable[str]) -> None:
        known = class_mapper(self.model).all_orm_descriptors
        for name in attributes:
            if name not in known:
                raise TypeError(f"{self.model.__name__} does not have an attribute {name}")

    def _order_of(self, order_by: Any) -> list[Any]:
        key = key_attributes_of(self.model)
        if isinstance(order_by, str) and order_by in _DIRECTIONS:
            return [part.desc() if order_by == "desc" else part.asc() for part in key]
        parts = list(order_by) if isinstance(order_by, Sequence) and not isinstance(order_by, str) else [order_by]
        self._check(part for part in parts if isinstance(part, str))
        return [*(getattr(self.model, part) if isinstance(part, str) else part for part in parts), *key]


class _CacheOf:
    """Gives ``Model.cache``, on the class and on its instances."""

    def __get__(self, instance: T | None, owner: type[T]) -> ModelCache[T]:
        return ModelCache(owner)


class CacheableMixin:
    """Makes a model cacheable in every ``QueryCache``, and gives it ``Model.cache``.

    ``cache_label`` names the region, "default" where nothing is said. ``cache_regions`` maps labels to regions: with it,
    the model's engine is attached by itself, to a cache over these. ``cache_pk`` is the name of the primary key in
    ``_cache_key``. ``cache_policy`` is a ``Policy``, for operations, size and time to live.
    """

    cache_label: ClassVar[str] = DEFAULT_REGION
    cache_regions: ClassVar[Mapping[str, Any] | None] = None
    cache_pk: ClassVar[str | None] = None
    cache_policy: ClassVar[Policy | None] = None
    cache: ClassVar[_CacheOf] = _CacheOf()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.cache_regions is not None:
            adoption.declare(cls, cls.cache_regions)


def session_of(model: type[Any], given: Session | scoped_session[Any] | None) -> Session:
    """Return the Session to read a model with: the one given, that of ``Model.query``, or that bound to a cache.

    Raises ``NotAttachedError`` where there is none, or where it is not clear which.
    """
    if given is not None:
        return given() if isinstance(given, scoped_session) else given
    session = getattr(getattr(model, "query", None), "session", None)
    if isinstance(session, scoped_session):
        session = session()
    if isinstance(session, Session):
        return session
    bound = [made for made in dict.fromkeys(sessions() for sessions in bound_sessions()) if _serves(made, model)]
    if len(bound) == 1:
        return bound[0]
    why = "no Session is known" if not bound else "several Sessions are known"
    raise NotAttachedError(
        f"{model.__name__}.cache: {why}. Give one, session=..., or tell the cache once where to find it: "
        "cache.bind_session(scoped_session)"
    )


def _serves(session: Session, model: type[Any]) -> bool:
    return adoption.engine_of(session, model) is not None


def _is_cached(session: Session, mapper: Mapper[Any]) -> bool:
    """Tell whether a cache is attached where the Session reads the model; attach it where the model asks for that."""
    engine = session.get_bind(mapper=mapper).engine
    if attachment_of(engine) is None:
        adoption.adopt(session)
    return attachment_of(engine) is not None


def _is_here(session: Session, mapper: Mapper[Any], key: Key) -> bool:
    try:
        return mapper.identity_key_from_primary_key(key) in session.identity_map
    except TypeError:
        # A value that cannot be hashed is no key; the Session says so.
        return True


def _key_of(mapper: Mapper[Any], pk: Any) -> Key:
    if isinstance(pk, Mapping):
        names = [mapper.get_property_by_column(column).key for column in mapper.primary_key]
        return tuple(pk.get(name) for name in names)
    return tuple(pk) if isinstance(pk, tuple | list) else (pk,)


def _cacheable_models() -> Iterable[tuple[type[Any], Policy]]:
    """Yield the mapped classes that have the mixin, the nearest to it first."""
    waiting: list[type[Any]] = CacheableMixin.__subclasses__()
    seen: dict[type[Any], None] = {}
    while waiting:
        model = waiting.pop(0)
        if model not in seen:
            seen[model] = None
            waiting.extend(model.__subclasses__())
    for model in seen:
        if inspect(model, raiseerr=False) is not None:
            yield model, _policy_of(model)


def _policy_of(model: type[Any]) -> Policy:
    policy: Policy | None = getattr(model, "cache_policy", None)
    label = ModelCache(model).label
    if policy is None:
        # The region's time to live decides.
        return Policy(ttl=MAX_TTL_S, region=label)
    return replace(policy, region=label) if policy.region == DEFAULT_REGION else policy


declare_models(_cacheable_models)
