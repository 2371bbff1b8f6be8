"""What does an application's configuration say about the cache?

Promises: a ``QUERYCACHE_*`` key that is not known, or has a value that cannot be used, is an error that names the key,
the value and what to write instead. Never does: take a misspelt key for a wish to have the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pkgutil import resolve_name
from typing import Any, Final, TypedDict, cast

from querycache._types import MAX_TTL_S
from querycache.cache import Region
from querycache.coherence.declared import Functions, Views
from querycache.coherence.protocol import OnMarkFailure
from querycache.engine import OnSnapshotMoved
from querycache.errors import ConfigurationError
from querycache.policy import Policy
from querycache.rows.envelope import MIN_SIGNING_KEY
from querycache.statements.tags import Named, why_not_named
from querycache.stores import Store
from querycache.variation import Vary

PREFIX: Final = "QUERYCACHE_"
DEFAULT_URL: Final = "lmdb://"


class CacheSettings(TypedDict, total=False):
    """What the extension takes in code: the arguments of ``querycache.QueryCache``. The application's keys win."""

    store: str | Store
    models: Iterable[type[Any]] | Mapping[type[Any], Policy]
    regions: Mapping[str, Region] | None
    ttl: float
    tag_columns: Mapping[str, Named] | None
    old_images: bool
    on_mark_failure: OnMarkFailure | None
    on_snapshot_moved: OnSnapshotMoved | None
    views: Views | None
    functions: Functions | None
    vary: Vary | None
    max_wait: float
    early_refresh: float
    compress_above: int | None
    signing_key: bytes | str | Sequence[bytes | str] | None


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True, slots=True)
class _Key:
    """One key: the argument it stands for, the values it takes, how that is said, and what they mean.

    ``is_secret``: no error shows its value.
    """

    argument: str
    is_usable: Callable[[Any], bool]
    expected: str
    meaning: Callable[[Any], Any] = _as_it_is
    is_secret: bool = False


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_ttl(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_TTL_S


def _is_from_zero(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < MAX_TTL_S


def _is_reaction(value: Any) -> bool:
    return value in (None, "raise", "continue")


def _is_tag_columns(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and not any(map(why_not_named, value.values())))


def _is_views(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and all(map(_is_names, value.values())))


def _is_functions(value: Any) -> bool:
    return _is_views(value) or _is_names(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _is_signing_key(value: Any) -> bool:
    given = value if isinstance(value, list | tuple) else [value]
    return value is None or all(isinstance(key, bytes | str) and len(key) >= MIN_SIGNING_KEY for key in given)


def _is_vary(value: Any) -> bool:
    return value is None or callable(_function_of(value))


def _function_of(value: Any) -> Any:
    """Return a function that is given as itself or by its path; for a path that leads nowhere, the path."""
    if not isinstance(value, str):
        return value
    try:
        return resolve_name(value)
    except (ImportError, AttributeError, ValueError):
        return value


_BOOL_EXPECTED: Final = "True or False; in an environment variable that Flask reads, true or false"
_REACTION_EXPECTED: Final = '"raise", "continue", or None for what the store advises'

KEYS: Final[Mapping[str, _Key]] = {
    "QUERYCACHE_ENABLED": _Key("enabled", _is_bool, _BOOL_EXPECTED),
    "QUERYCACHE_OLD_IMAGES": _Key("old_images", _is_bool, _BOOL_EXPECTED),
    "QUERYCACHE_ON_MARK_FAILURE": _Key("on_mark_failure", _is_reaction, _REACTION_EXPECTED),
    "QUERYCACHE_ON_SNAPSHOT_MOVED": _Key(
        "on_snapshot_moved",
        _is_reaction,
        '"raise", "continue", or None: raise where the application chose the isolation level',
    ),
    "QUERYCACHE_TAG_COLUMNS": _Key(
        "tag_columns",
        _is_tag_columns,
        'lists of column names by table name, such as {"product": ["category_id", ("brand", "year")]}: a group of columns '
        "is a tuple or list of their names",
    ),
    "QUERYCACHE_FUNCTIONS": _Key(
        "functions", _is_functions, 'a list of names of SQL functions, or what each reads: {"price_of": ["product"]}'
    ),
    "QUERYCACHE_VIEWS": _Key(
        "views", _is_views, 'lists of table names by view name, such as {"active_product": ["product"]}'
    ),
    "QUERYCACHE_COMPRESS_ABOVE": _Key(
        "compress_above",
        lambda value: value is None or (type(value) is int and value >= 0),
        "a number of bytes, 0 or more, above which an entry is compressed; None for never",
    ),
    "QUERYCACHE_EARLY_REFRESH": _Key(
        "early_refresh",
        _is_from_zero,
        "a number, 0 or more: how early an entry is refreshed before it expires; 0 for never",
    ),
    "QUERYCACHE_MAX_WAIT": _Key(
        "max_wait",
        _is_from_zero,
        "a number of seconds, 0 or more: how long a read waits for another that fills its entry",
    ),
    "QUERYCACHE_SIGNING_KEY": _Key(
        "signing_key",
        _is_signing_key,
        f"{MIN_SIGNING_KEY} bytes or characters or more (not your SECRET_KEY), or a list of such keys: the first signs",
        is_secret=True,
    ),
    "QUERYCACHE_TTL": _Key("ttl", _is_ttl, f"a number of seconds, more than 0 and at most {MAX_TTL_S:.0f} (a day)"),
    "QUERYCACHE_URL": _Key("store", _is_url, 'the URL of a store, such as "lmdb:///var/cache/shop" or "memory://"'),
    "QUERYCACHE_VARY": _Key(
        "vary", _is_vary, 'a function of a Session, or where to import it: "shop.tenants:current_tenant"', _function_of
    ),
}
"""Every key that is known."""

_ELSEWHERE: Final[Mapping[str, str]] = {
    "QUERYCACHE_MODELS": "Models are named in code: give the class CacheableMixin, or QueryCache(models=[...]).",
    "QUERYCACHE_REGIONS": "Regions are named in code: QueryCache(regions={...}).",
    "QUERYCACHE_RUNTIME_DIR": "It is a variable of the environment; in the configuration write "
    'QUERYCACHE_URL="lmdb:///that/directory".',
}


def is_enabled(config: Mapping[str, Any]) -> bool:
    """Tell whether the cache is on, which it is unless ``QUERYCACHE_ENABLED`` is False."""
    return bool(config.get("QUERYCACHE_ENABLED", True))


def settings_of(config: Mapping[str, Any], given: CacheSettings) -> CacheSettings:
    """Return what was given in code, overridden by the application's keys.

    Raises ``ConfigurationError`` for a key that is not known or a value that cannot be used.
    """
    settings: dict[str, Any] = {"store": DEFAULT_URL, **given}
    for name, value in config.items():
        if name.startswith(PREFIX):
            key = _known(name, value)
            settings[key.argument] = key.meaning(value)
    settings.pop("enabled", None)
    return cast(CacheSettings, settings)


def _known(name: str, value: Any) -> _Key:
    key = KEYS.get(name)
    if key is None:
        raise ConfigurationError(f"{name} is not a key of querycache. {_remedy_for(name)}")
    if not key.is_usable(value):
        shown = "..." if key.is_secret else repr(value)
        raise ConfigurationError(f"{name}={shown} cannot be used: give {key.expected}.")
    return key


def _remedy_for(name: str) -> str:
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    # Compared without the prefix, which makes all keys alike.
    close = get_close_matches(name.removeprefix(PREFIX), [key.removeprefix(PREFIX) for key in KEYS], n=1)
    return f"Did you mean {PREFIX}{close[0]}?" if close else f"Known are {', '.join(KEYS)}."
