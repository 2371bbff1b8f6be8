"""Which store does a URL name?

``memory://?size=64MB&entries=1000``, ``lmdb:///path?size=1GB``, ``lmdb://`` (the machine's default directory),
``redis://host:6379/0?namespace=shop`` and its kin (``_redis_url``). A dogpile.cache region has no URL:
``store_on_region(region)``. Never does: guess. What is unknown is an error that names what is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from querycache.errors import ConfigurationError
from querycache.stores._redis_url import SCHEMES, shown
from querycache.stores._sizes import size_of
from querycache.stores.base import Scope, Store, StoreStats

__all__ = ["Scope", "Store", "StoreStats", "open_store", "shown", "store_on_region"]


def open_store(url: str) -> Store:
    """Open the store that ``url`` names.

    Raises ``ConfigurationError`` for a URL that cannot be used as given, ``StoreUnavailable`` for one that cannot be
    opened now.
    """
    parts = urlsplit(url)
    opener = _OPENERS.get(parts.scheme)
    if opener is None:
        raise ConfigurationError(
            f"{shown(url)}: {_why_unknown(parts.scheme)} Known are memory://, lmdb:///path and redis://."
        )
    return opener(url, parts)


def store_on_region(region: Any) -> Store:
    """Make a store of a dogpile.cache region.

    Raises ``ConfigurationError`` where the region has no backend yet.
    """
    from querycache.stores.dogpile import DogpileStore

    return DogpileStore(region)


def _why_unknown(scheme: str) -> str:
    if scheme == "dogpile":
        return "a dogpile.cache region is given as an object: QueryCache(store=DogpileStore(region))."
    return f"{scheme}:// is not a store that is known." if scheme else "this is not a URL."


def _parameters(url: str, parts: SplitResult, known: tuple[str, ...]) -> dict[str, str]:
    given = parse_qsl(parts.query, keep_blank_values=True)
    for name, _ in given:
        if name not in known:
            raise ConfigurationError(f"{shown(url)}: there is no parameter {name!r}. Known are: {', '.join(known)}.")
    if len(dict(given)) != len(given):
        raise ConfigurationError(f"{shown(url)}: a parameter is given twice. Give each once.")
    return dict(given)


def _size_of(url: str, text: str, name: str = "size") -> int:
    size = size_of(text)
    if size is None:
        raise ConfigurationError(
            f"{shown(url)}: {name}={text} is not a size. Write a number and a unit, for example 64MB or 1GiB."
        )
    return size


def _entries_of(url: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"{shown(url)}: entries={text} is not a whole number above 0.")
    return int(text)


def _open_memory(url: str, parts: SplitResult) -> Store:
    from querycache.stores.memory import DEFAULT_ENTRIES, DEFAULT_SIZE_BYTES, MemoryStore

    given = _parameters(url, parts, ("size", "entries"))
    if parts.netloc or parts.path.strip("/"):
        raise ConfigurationError(f"{shown(url)}: a memory:// store has no host and no path. Write memory://?size=64MB.")
    size = _size_of(url, given["size"]) if "size" in given else DEFAULT_SIZE_BYTES
    return MemoryStore(size, _entries_of(url, given["entries"]) if "entries" in given else DEFAULT_ENTRIES)


def _open_lmdb(url: str, parts: SplitResult) -> Store:
    given = _parameters(url, parts, ("size", "near_size"))
    if parts.netloc:
        raise ConfigurationError(
            f"{shown(url)}: {parts.netloc!r} stands where a host would. A path has three slashes: "
            f"lmdb:///{parts.netloc}{parts.path}."
        )
    try:
        from querycache.stores.lmdb import DEFAULT_NEAR_BYTES, LMDBStore, default_path
    except ImportError as missing:
        raise ConfigurationError(f"{shown(url)} needs the lmdb package: pip install lmdb") from missing
    size = _size_of(url, given["size"]) if "size" in given else None
    near = _size_of(url, given["near_size"], "near_size") if "near_size" in given else DEFAULT_NEAR_BYTES
    path = unquote(parts.path)
    if path.strip("/"):
        return LMDBStore(path, size, near_size_bytes=near)
    return LMDBStore(default_path(), size, is_default=True, near_size_bytes=near)


def _open_redis(url: str, parts: SplitResult) -> Store:
    from querycache.stores._copies import Copies
    from querycache.stores.near import NearStore
    from querycache.stores.pushed import PushedStore
    from querycache.stores.redis import open_redis

    store = open_redis(url)
    near = store.target.near
    if near is None:
        return store
    copies = Copies(near.size_bytes)
    return PushedStore(store, copies, near.lag_s) if near.mode == "push" else NearStore(store, copies)


_OPENERS: Final[dict[str, Callable[[str, SplitResult], Store]]] = {
    "lmdb": _open_lmdb,
    "memory": _open_memory,
    **dict.fromkeys(SCHEMES, _open_redis),
}
