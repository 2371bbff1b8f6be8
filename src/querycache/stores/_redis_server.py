"""How are commands sent to one Redis server, and within which time?

The only module that knows redis-py: its connections are used, its retries are not. Promises: a call ends within its limits;
a connection is never shared, never used after a failure, never taken over by a forked child; a server's refusal comes back
as a value in its command's place. Never does: try twice.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol, TypeAlias

from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores._redis_scripts import Command, packed
from querycache.stores._redis_url import Address, Target

try:
    from redis import exceptions as failures
    from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
except ImportError as missing:
    raise ConfigurationError('A Redis or Valkey store needs redis-py: pip install "querycache[redis]"') from missing

Reply: TypeAlias = Any
"""What a server answers to one command; a ``Refusal`` where it does not do it."""

_RESP2: Final = 2


class Wire(Protocol):
    """What is used of redis-py's connections, which publish no types."""

    def connect(self) -> None: ...

    def disconnect(self) -> None: ...

    def can_read(self, timeout: float) -> bool: ...

    def send_packed_command(self, command: list[bytes], check_health: bool) -> None: ...

    def read_response(self, *, disable_decoding: bool) -> Any: ...


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


class _Held:
    """The connections of one process: those that nobody uses, and how many more may be made or taken."""

    def __init__(self, size: int) -> None:
        self.pid = os.getpid()
        self.idle: list[Wire] = []
        self.room = threading.BoundedSemaphore(size)


class Pool:
    """Connections to one server with one time limit. Who finds none free waits for one, within that limit."""

    def __init__(self, make: Callable[[], Wire], size: int, wait_s: float, url: str) -> None:
        self._make = make
        self._size = size
        self._wait_s = wait_s
        self._url = url
        self._held = _Held(size)

    def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands in one go and return what is answered to each, in order."""
        return self.collect(self.send(commands), len(commands))

    def send(self, commands: Sequence[Command]) -> tuple[_Held, Wire]:
        """Send commands on a connection that nobody else has; ``collect`` gives it back."""
        held = self._held
        if held.pid != os.getpid():
            held = self._held = _Held(self._size)  # what the parent has open stays the parent's
        if not held.room.acquire(timeout=self._wait_s):
            raise StoreUnavailable(
                f"{self._url}: all {self._size} connections of this process were busy for {self._wait_s:g} s. "
                "Raise ?pool= or start fewer threads."
            )
        connection: Wire | None = None
        try:
            connection = self._idle_in(held) or self._make()
            connection.connect()
            connection.send_packed_command([packed(commands)], check_health=False)
        except (failures.RedisError, OSError) as error:
            self._give_back(held, connection, is_usable=False)
            raise _translated(error, self._url) from error
        except BaseException:
            self._give_back(held, connection, is_usable=False)
            raise
        return held, connection

    def collect(self, sent: tuple[_Held, Wire], count: int) -> list[Reply]:
        """Read the answers to what was sent."""
        held, connection = sent
        is_usable = False
        try:
            replies = [self._answer(connection) for _ in range(count)]
            is_usable = True
        except failures.RedisError as error:
            raise _translated(error, self._url) from error
        finally:
            self._give_back(held, connection, is_usable=is_usable)
        return replies

    def abandon(self, sent: tuple[_Held, Wire]) -> None:
        """Give a connection back whose answers nobody will read."""
        self._give_back(*sent, is_usable=False)

    def close(self) -> None:
        """Close what nobody uses; what is in use is closed when it comes back."""
        held, self._held = self._held, _Held(self._size)
        while held.idle:
            held.idle.pop().disconnect()

    def _idle_in(self, held: _Held) -> Wire | None:
        """Return a connection that nobody uses and that the server has not closed: servers close what is idle, and end."""
        while True:
            try:
                connection = held.idle.pop()
            except IndexError:
                return None
            with suppress(failures.RedisError, OSError):
                if not connection.can_read(0):
                    return connection
            connection.disconnect()

    def _answer(self, connection: Wire) -> Reply:
        try:
            return connection.read_response(disable_decoding=True)
        except failures.ResponseError as error:
            return _refusal_of(error, self._url)

    def _give_back(self, held: _Held, connection: Wire | None, *, is_usable: bool) -> None:
        if held.pid != os.getpid():
            return
        if connection is not None:
            if is_usable and held is self._held:
                held.idle.append(connection)
            else:
                connection.disconnect()
        held.room.release()


def _translated(error: Exception, url: str) -> StoreUnavailable:
    """Return what a store may raise for what redis-py raised."""
    if isinstance(error, failures.AuthenticationError):
        return _refusal_of(error, url, "WRONGPASS")
    if isinstance(error, failures.ResponseError | failures.BusyLoadingError):
        return _refusal_of(error, url)
    is_late = isinstance(error, failures.TimeoutError | TimeoutError)
    return Unreachable(f"{url} does not answer: {error}", is_late=is_late)


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


class Line:
    """A connection that stays: what is sent is answered in order, and the server may speak by itself. For one thread.

    After a failure it fails for good, for redis-py would connect anew and say nothing.
    """

    def __init__(self, wire: Wire, url: str) -> None:
        self.url = url
        self._wire = wire
        self._is_over = False
        self._try(lambda: wire.connect())

    def ask(self, command: Command) -> list[Reply]:
        """Send a command and return what is answered, as a list of one. Raises ``Refusal`` where it is refused."""
        self.send(command)
        return [self.read()]

    def send(self, command: Command) -> None:
        """Send a command."""
        self._try(lambda: self._wire.send_packed_command([packed([command])], check_health=False))

    def read(self) -> Reply:
        """Return what the server says next. Raises ``Refusal`` where that is an error."""
        return self._try(lambda: self._wire.read_response(disable_decoding=True))

    def waits(self, timeout_s: float) -> bool:
        """Tell whether there is something to read, or the connection is over, within a time."""
        return bool(self._try(lambda: self._wire.can_read(timeout_s)))

    def close(self) -> None:
        """Close it."""
        self._is_over = True
        self._wire.disconnect()

    def _try(self, act: Callable[[], Any]) -> Any:
        if self._is_over:
            raise Unreachable(f"{self.url}: the connection is over")
        try:
            return act()
        except (failures.RedisError, OSError) as error:
            translated = _translated(error, self.url)
            self._is_over = not isinstance(translated, Refusal)
            raise translated from error


class Server:
    """One server: a pool for reads, and one for marks and releases, which may take longer."""

    def __init__(self, address: Address, target: Target, *, is_sentinel: bool = False) -> None:
        self.address = address
        host, port = address
        self.url = f"{target.url.partition('://')[0]}://{host}{f':{port}' if port else ''}"
        limits = target.limits
        make = _maker_of(address, target, is_sentinel)
        self.reads = Pool(lambda: make(limits.read_s), target.pool, limits.read_s, self.url)
        self.marks = Pool(lambda: make(limits.mark_s), target.pool, limits.mark_s, self.url)
        self._wire: Callable[[], Wire] = lambda: make(limits.read_s)

    def line(self) -> Line:
        """Make a connection that is none of the pools'."""
        return Line(self._wire(), self.url)

    def close(self) -> None:
        """Close the connections."""
        self.reads.close()
        self.marks.close()


def _maker_of(address: Address, target: Target, is_sentinel: bool) -> Callable[[float], Wire]:
    """Return what makes a connection, given how long to wait for an answer."""
    host, port = address
    common: dict[str, Any] = {
        "protocol": _RESP2,
        "socket_connect_timeout": target.limits.connect_s,
        **(target.sentinel_login if is_sentinel else target.login),
        **({} if is_sentinel else {"db": target.db}),
    }
    kind: Any
    where: dict[str, Any]
    if not port:
        kind, where = UnixDomainSocketConnection, {"path": host}
    else:
        kind = Connection if target.tls is None else SSLConnection
        where = {"host": host, "port": port, "socket_keepalive": True, **(target.tls or {})}

    def make(wait_s: float) -> Wire:
        wire: Wire = kind(socket_timeout=wait_s, **common, **where)
        return wire

    return make
