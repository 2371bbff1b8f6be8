"""What does a Redis URL say: which servers, as whom, which database, within which limits?

``redis://[user[:password]@]host[:port][/db]``, ``rediss://`` with TLS, ``unix:///path?db=0``,
``redis+sentinel://host,host/service[/db]``, ``redis+cluster://host,host``; ``valkey`` may stand for ``redis`` everywhere.
Promises: what cannot be meant is an error that names the parameter and the remedy; ``Target.url`` holds no secret.
Never does: connect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from querycache.errors import ConfigurationError
from querycache.stores._sizes import size_of

Topology: TypeAlias = Literal["single", "sentinel", "cluster"]
NearMode: TypeAlias = Literal["validate", "push"]
Address: TypeAlias = tuple[str, int]
"""Host and port; a socket has its path for a host, and port 0."""

PORT: Final = 6379
SENTINEL_PORT: Final = 26379
SCHEMES: Final = (
    *(f"{one}{kind}" for one in ("redis", "rediss", "valkey", "valkeys") for kind in ("", "+sentinel", "+cluster")),
    "unix",
)

DEFAULT_NEAR_SIZE: Final = "64MB"
LEAST_NEAR_SIZE_BYTES: Final = 65_536
DEFAULT_LAG_MS: Final = 1000
LEAST_LAG_MS: Final = 20

_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LIMITS: Final = ("connect_timeout_ms", "timeout_ms", "mark_timeout_ms")
_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")
_NEAR: Final = ("near", "near_size", "near_lag_ms")
_ALWAYS: Final = ("namespace", "pool", *_NEAR, *_LIMITS)


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that one may wait: for a connection to be made, for the answer to a read, for that to a mark or release."""

    connect_s: float = 0.2
    read_s: float = 0.2
    mark_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Near:
    """Whether a near cache asks each time or is told of changes, how many bytes it may hold, how late it may be told."""

    mode: NearMode
    size_bytes: int
    lag_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL says. ``login`` and ``tls`` are keywords of redis-py's connections."""

    url: str
    topology: Topology
    addresses: tuple[Address, ...]
    db: int
    service: str
    namespace: str
    pool: int
    limits: Limits
    login: Mapping[str, str] = field(repr=False)
    sentinel_login: Mapping[str, str] = field(repr=False)
    tls: Mapping[str, Any] | None
    near: Near | None = None


def target_of(url: str) -> Target:
    """Take a URL apart; raise ``ConfigurationError`` where it cannot be used as given."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    reading = _Reading(shown(url), dict(pairs))
    if len(reading.given) != len(pairs):
        raise reading.error("a parameter is given twice. Give each once.")
    scheme, _, kind = parts.scheme.partition("+")
    topology: Topology = "sentinel" if kind == "sentinel" else "cluster" if kind == "cluster" else "single"
    is_tls, is_socket = scheme in ("rediss", "valkeys"), scheme == "unix"
    userinfo, _, places = parts.netloc.rpartition("@")
    login = _login_of(userinfo) | reading.texts({"username": "username", "password": "password"})
    path = [unquote(part) for part in parts.path.strip("/").split("/") if part]
    known = [*_ALWAYS, "db", "username", "password", *(_TLS if is_tls else ())]
    service = ""
    addresses: tuple[Address, ...] = ()
    if is_socket:
        if places:
            raise reading.error(f"{places!r} stands where a host would. A path has three slashes: unix:///{places}...")
        if not path:
            raise reading.error("there is no path. Write unix:///path/to/redis.sock?db=0.")
        addresses, path = ((unquote(parts.path), 0),), []
    elif topology == "sentinel":
        known += ["sentinel_username", "sentinel_password"]
        if not path:
            raise reading.error("the name of the service is missing: redis+sentinel://host,host/mymaster.")
        service, path = path[0], path[1:]
    reading.check(known)
    if not addresses:
        port = SENTINEL_PORT if topology == "sentinel" else PORT
        addresses = tuple(_address_of(reading, place, port) for place in (places or "localhost").split(","))
    if topology == "single" and len(addresses) > 1:
        raise reading.error("several hosts are a Sentinel's or a Cluster's: redis+sentinel:// or redis+cluster://.")
    db = _db_of(reading, path, topology)
    namespace = reading.given.get("namespace", "default")
    if not _NAMESPACE.fullmatch(namespace):
        raise reading.error(f"namespace={namespace} is not 1 to 64 letters, digits, dots, dashes or underscores.")
    address = ",".join(_shown_address(one) for one in addresses)
    tail = f"/{service}" if service else ""
    tail += f"?db={db}&" if is_socket else (f"/{db}?" if topology != "cluster" else "?")
    return Target(
        url=f"{parts.scheme}://{address}{tail}namespace={namespace}",
        topology=topology,
        addresses=addresses,
        db=db,
        service=service,
        namespace=namespace,
        pool=reading.whole("pool", 50),
        limits=Limits(
            *(reading.whole(name, default) / 1000 for name, default in zip(_LIMITS, (200, 200, 2000), strict=True))
        ),
        login=login,
        sentinel_login=reading.texts({"sentinel_username": "username", "sentinel_password": "password"}),
        tls=_tls_of(reading) if is_tls else None,
        near=_near_of(reading, topology),
    )


def shown(url: str) -> str:
    """Return the URL as the user wrote it, but for passwords."""
    masked = re.sub(r"(//[^/@:]*):[^@/]*@", r"\1:***@", url)
    return re.sub(r"((?:^|[?&])(?:sentinel_)?password)=[^&]*", r"\1=***", masked)


@dataclass(frozen=True, slots=True)
class _Reading:
    """A URL without its secrets, and its parameters."""

    url: str
    given: Mapping[str, str]

    def error(self, text: str) -> ConfigurationError:
        return ConfigurationError(f"{self.url}: {text}")

    def check(self, known: list[str]) -> None:
        if "size" in self.given:
            raise self.error("a server's size is its own setting (maxmemory and maxmemory-policy), not a parameter.")
        for name in self.given:
            if name not in known:
                raise self.error(f"there is no parameter {name!r}. Known are: {', '.join(known)}.")

    def texts(self, names: Mapping[str, str]) -> dict[str, str]:
        return {keyword: self.given[name] for name, keyword in names.items() if name in self.given}

    def whole(self, name: str, default: int) -> int:
        text = self.given.get(name, str(default))
        if not text.isdecimal() or int(text) < 1:
            raise self.error(f"{name}={text} is not a whole number above 0.")
        return int(text)


def _login_of(userinfo: str) -> dict[str, str]:
    user, _, password = userinfo.partition(":")
    return {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}


def _address_of(reading: _Reading, place: str, default: int) -> Address:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]/]+)(?::(\d{1,5}))?", place)
    if found is None or int(found[2] or default) > 65535:
        raise reading.error(f"{place!r} is not a host, or host:port.")
    return unquote(found[1]).strip("[]"), int(found[2] or default)


def _shown_address(address: Address) -> str:
    host, port = address
    return host if not port else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _db_of(reading: _Reading, path: list[str], topology: Topology) -> int:
    if len(path) > 1 or (path and "db" in reading.given):
        raise reading.error("the path is the number of a database, given once: /0.")
    text = path[0] if path else reading.given.get("db", "0")
    if not text.isdecimal():
        raise reading.error(f"{text!r} is not the number of a database. Write /0, or nothing.")
    if topology == "cluster" and int(text):
        raise reading.error("a Cluster has database 0 only. To keep applications apart use ?namespace=.")
    return int(text)


def _near_of(reading: _Reading, topology: Topology) -> Near | None:
    mode = reading.given.get("near")
    if mode is None:
        for name in ("near_size", "near_lag_ms"):
            if name in reading.given:
                raise reading.error(f"{name} is about a near cache, and there is none. Add near=validate or near=push.")
        return None
    if mode not in ("validate", "push"):
        raise reading.error(f"near={mode} is not known. Write near=validate or near=push.")
    if mode != "push" and "near_lag_ms" in reading.given:
        raise reading.error("near_lag_ms is for near=push: near=validate asks each time and is never late.")
    if mode == "push" and topology == "cluster":
        raise reading.error("near=push hears one server, and a Cluster has several. Write near=validate.")
    text = reading.given.get("near_size", DEFAULT_NEAR_SIZE)
    size = size_of(text)
    if size is None or size < LEAST_NEAR_SIZE_BYTES:
        raise reading.error(f"near_size={text} is not a size of at least 64KiB. Write near_size=64MB.")
    if mode == "validate":
        return Near("validate", size)
    lag_ms = reading.whole("near_lag_ms", DEFAULT_LAG_MS)
    if lag_ms < LEAST_LAG_MS:
        raise reading.error(
            f"near_lag_ms={lag_ms} is less than {LEAST_LAG_MS}: the server would be asked all the time."
        )
    return Near("push", size, lag_ms / 1000)


def _tls_of(reading: _Reading) -> dict[str, Any]:
    options: dict[str, Any] = reading.texts({name: name for name in _TLS if name != "ssl_check_hostname"})
    if options.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise reading.error(f"ssl_cert_reqs={options['ssl_cert_reqs']} is none of none, optional, required.")
    checks = reading.given.get("ssl_check_hostname", "true" if options.get("ssl_cert_reqs") != "none" else "false")
    if checks not in ("true", "false"):
        raise reading.error(f"ssl_check_hostname={checks} is neither true nor false.")
    return {**options, "ssl_check_hostname": checks == "true"}
