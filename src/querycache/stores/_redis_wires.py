"""What is used of redis-py: its connections, blocking and not, and what its errors mean.

The only module that knows it. Promises: a server's refusal and a failure to reach it are told apart, whichever of its many
classes of errors says so. Never does: use its pools, its retries, its clients.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores._redis_url import Address, Target

try:
    from redis import exceptions as failures
    from redis.asyncio import connection as on_loops
    from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
except ImportError as missing:
    raise ConfigurationError('A Redis or Valkey store needs redis-py: pip install "querycache[redis]"') from missing

Reply: TypeAlias = Any
"""What a server answers to one command; a ``Refusal`` where it does not do it."""

FAILURES: Final = (failures.RedisError, OSError)
"""Whatever a connection raises where a command is not answered, or not done."""

UNWATCHED_S: Final = 0.005
"""How long a connection that was just used is taken to be open: to look costs as much as a tenth of a look-up."""

_RESP2: Final = 2


class Wire(Protocol):
    """What is used of redis-py's connections, which publish no types."""

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def can_read(self, timeout: float) -> bool: ...

    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...

    def read_response(self, *, disable_decoding: bool) -> Any: ...


class LoopWire(Protocol):
    """The same of its connections for event loops."""

    async def connect(self) -> None: ...

    async def disconnect(self, nowait: bool) -> None: ...

    async def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...

    async def read_response(self, *, disable_decoding: bool) -> Any: ...


class Unreachable(StoreUnavailable):
    """No answer: whether the command was done is not known. ``is_late``: its time was over, to ask again would double it."""

    def __init__(self, message: str, *, is_late: bool = False) -> None:
        super().__init__(message)
        self.is_late = is_late


class Refusal(StoreUnavailable):
    """The server answered, and did not do it. ``code`` is the first word of what it said."""

    def __init__(self, message: str, code: str, said: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.said = said


def translated(error: Exception, url: str) -> StoreUnavailable:
    """Return what a store may raise for what redis-py raised."""
    if isinstance(error, failures.AuthenticationError):
        return _refusal_of(error, url, "WRONGPASS")
    if is_refusal(error) or isinstance(error, failures.BusyLoadingError):
        return _refusal_of(error, url)
    is_late = isinstance(error, failures.TimeoutError | TimeoutError)
    return Unreachable(f"{url} does not answer: {str(error) or 'its time was over'}", is_late=is_late)


def is_refusal(error: object) -> bool:
    """Tell whether an error is what a server answered."""
    return isinstance(error, failures.ResponseError)


def answer_on(wire: Wire) -> Reply:
    """Return what a server answers next; where it refuses, redis-py's error for that. Raises where it does not answer.

    Read by the connection's parser. What the connection itself adds (it closes itself after a failure) is done by who calls
    this, and takes longer than the rest of it.
    """
    parser = getattr(wire, "_parser", None)
    if parser is not None:
        return parser.read_response(disable_decoding=True)
    try:
        return wire.read_response(disable_decoding=True)
    except failures.ResponseError as error:
        return error


_REMEDIES: Final = {
    "WRONGPASS": "does not accept this user or password, or asks for one: write redis://user:password@host as its "
    "requirepass or ACL has them",
    "NOPERM": "does not allow a command or key that is needed. The README lists what an ACL must allow",
    "READONLY": "is a replica. Give the primary's address, or a Sentinel's: a replica cannot be told of commits",
    "OOM": "is out of memory. Set maxmemory-policy to volatile-ttl or volatile-lru, or raise maxmemory",
    "MISCONF": "cannot save its data to disk and refuses writes. Its log says why",
    "NOREPLICAS": "has fewer replicas than min-replicas-to-write asks for, and refuses writes",
    "LOADING": "is loading its data and will answer later",
    "MOVED": "is a node of a Cluster. Write redis+cluster://",
}


def _refusal_of(error: Exception, url: str, code: str | None = None) -> Refusal:
    """Say what a server refused, and the remedy where there is one. Scripts repeat errors of their commands as they came."""
    said = str(error)
    code = code or _CODES.get(type(error).__name__) or _code_in(said)
    remedy = _REMEDIES.get(code)
    return Refusal(f"{url} {remedy}." if remedy else f"{url} refused: {said}", code, said)


def _code_in(said: str) -> str:
    """Return the code of an error: its first word, or in the middle where Redis 6.2 tells of a script's command."""
    if "ACL failure in script" in said or "can't run this command" in said:
        return "NOPERM"  # Valkey's and Redis 7's words, and those of Redis 6.2
    found = re.match(r"([A-Z]+) ", said) or re.search(r"@user_script: ?\d+: -([A-Z]+) ", said)
    return found[1] if found else "ERR"


# redis-py cuts the code off where it has a class for it.
_CODES: Final = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}


def maker_of_wires(address: Address, target: Target, *, is_sentinel: bool) -> Callable[[float], Wire]:
    """Return what makes a connection for threads, given how long to wait for an answer."""
    kind, options = _how(address, target, is_sentinel, Connection, SSLConnection, UnixDomainSocketConnection)

    def make(wait_s: float) -> Wire:
        wire: Wire = kind(socket_timeout=wait_s, **options)
        return wire

    return make


def maker_of_loop_wires(address: Address, target: Target, *, is_sentinel: bool) -> Callable[[], LoopWire]:
    """Return what makes a connection for an event loop. It has no limit of its own but for being made."""
    kinds = on_loops.Connection, on_loops.SSLConnection, on_loops.UnixDomainSocketConnection
    kind, options = _how(address, target, is_sentinel, *kinds)

    def make() -> LoopWire:
        wire: LoopWire = kind(socket_timeout=None, **options)
        return wire

    return make


async def has_something_to_read(wire: LoopWire) -> bool:
    """Tell whether a connection that nobody uses has been closed, or has an answer that nobody waits for."""
    known: Any = wire
    # redis-py 8 has another name for it, and warns of the one before.
    return bool(await getattr(known, "can_read", known.can_read_destructive)())


def _how(
    address: Address, target: Target, is_sentinel: bool, plain: Any, with_tls: Any, by_socket: Any
) -> tuple[Any, dict[str, Any]]:
    """Return which of three kinds of connections to make, and with which options."""
    host, port = address
    common: dict[str, Any] = {
        "protocol": _RESP2,
        "socket_connect_timeout": target.limits.connect_s,
        **(target.sentinel_login if is_sentinel else target.login),
        **({} if is_sentinel else {"db": target.db}),
    }
    if not port:
        return by_socket, {"path": host, **common}
    kind = plain if target.tls is None else with_tls
    return kind, {"host": host, "port": port, "socket_keepalive": True, **(target.tls or {}), **common}
