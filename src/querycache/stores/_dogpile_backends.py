"""What can the backend of a dogpile.cache region keep, and which of its settings stand against being a store?

Backends are known by their class, so that none of their drivers is asked for. Promises: a setting under which a mark could be
lost without anybody being told is refused, with the remedy; what the backend may lose by its nature is said. Never: a
connection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MAX_KEY_BYTES: Final = 250
_BACKENDS: Final = "dogpile.cache.backends."
_MEMCACHED: Final = "memcached.GenericMemcachedBackend"
_REDIS: Final = frozenset({"redis.RedisBackend", "valkey.ValkeyBackend"})
_LOCAL: Final = frozenset({"memory.MemoryBackend", "file.DBMBackend"})
_REPLICATED: Final = frozenset({"redis.RedisSentinelBackend", "valkey.ValkeySentinelBackend"})
_SPREAD: Final = frozenset({"redis.RedisClusterBackend", "valkey.ValkeyClusterBackend"})


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a backend does with what it is given, in a sentence, and the largest value that it takes; None: any.

    ``tells_failures``: what could not be written is an error. pymemcache's HashClient drops what it is given for a second
    after an error, and other clients of memcached whatever they like.
    """

    sentence: str
    largest_value_bytes: int | None = None
    tells_failures: bool = False


_OF_MEMCACHED: Final = Keeping(
    "memcached evicts what was not used for longest, marks and stamps too, and forgets everything when it is flushed or "
    "restarted, which is a miss each; of several servers each process chooses by itself which are alive, and may be alone "
    "with that. Results of more than about 700 kB are not stored.",
    # An item of 1 MiB, less the item's head, its key, and what dogpile and its serializer write beside the value.
    1024 * 1024 - 1024,
)
_OF_REDIS: Final = Keeping(
    "Redis and Valkey may evict marks and stamps (maxmemory-policy) or expire them (the region's redis_expiration_time), and "
    "come back from a restart or failover with what they saved last: old stamps with old entries, valid together again.",
    tells_failures=True,
)
_LOSES: Final = "The region's backend may lose marks and stamps (by eviction, restart or expiry of its own)."
_OF_THIS_MACHINE: Final = Keeping(_LOSES, tells_failures=True)
_OF_OTHERS: Final = Keeping(_LOSES)


def keeping_of(backend: Any) -> Keeping:
    """Say what is known of a backend."""
    classes = _classes_of(backend)
    if _MEMCACHED in classes:
        return _OF_MEMCACHED
    if classes & _REDIS:
        return _OF_REDIS
    return _OF_THIS_MACHINE if classes & _LOCAL else _OF_OTHERS


def why_unfit(backend: Any, name_of_key: Callable[[str], str], *, longest_key: str, shared: bool) -> str | None:
    """Say why a backend cannot be a store as it is set, and what to do; None where it can.

    ``name_of_key``: what becomes of a key; ``longest_key`` is the longest that will be used. ``shared``: among processes.
    """
    classes = _classes_of(backend)
    kind = "redis" if "redis.RedisBackend" in classes else "valkey"
    if classes & _REPLICATED:
        return (
            f"dogpile.cache.{kind}_sentinel reads from replicas, which may not have heard of a commit yet: give "
            f"dogpile.cache.{kind} the primary"
        )
    if classes & _SPREAD:
        return (
            f"dogpile.cache.{kind}_cluster cannot read or write keys of several slots together: give dogpile.cache.{kind} "
            "a server of its own"
        )
    if getattr(backend, "default_noreply", False):
        return "with default_noreply=True nobody is told whether a mark was set: leave it out"
    if _MEMCACHED in classes and (why_not := _why_no_key(name_of_key(longest_key))) is not None:
        return f"its key_mangler makes keys {why_not}: give key_mangler=dogpile.cache.util.sha1_mangle_key, or none"
    return _why_not_shared(backend) if shared else None


def _why_not_shared(backend: Any) -> str | None:
    """Say why processes would lose each other's marks, or wait for a dead one."""
    if backend.get_mutex("querycache:registers") is None:
        if hasattr(backend, "distributed_lock"):
            return "processes change marks and stamps one at a time: give its arguments distributed_lock=True, lock_timeout=10"
        return f"{type(backend).__name__} has no lock that processes share: its scope can be no more than threads"
    if getattr(backend, "distributed_lock", False) and not backend.lock_timeout:
        return "a process that is killed would keep its lock for good: give its arguments lock_timeout=10 (seconds)"
    return None


def _why_no_key(key: str) -> str | None:
    if len(key.encode()) > MAX_KEY_BYTES:
        return f"of {len(key.encode())} bytes, and memcached takes {MAX_KEY_BYTES}"
    if any(character <= " " or character == "\x7f" for character in key):
        return "with a space or control character in them, which memcached refuses"
    return None


def _classes_of(backend: Any) -> set[str]:
    """Name the classes of dogpile's own that a backend is of, each with its module."""
    names = {f"{one.__module__}.{one.__qualname__}" for one in type(backend).__mro__}
    return {name.removeprefix(_BACKENDS) for name in names if name.startswith(_BACKENDS)}
