"""What a Redis user must be allowed, and how a server is reached by TLS: as the README says, no more, no less."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loop_support import in_loop
from querycache._types import TagSet
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores import _redis_calls
from querycache.stores._redis_scripts import packed
from querycache.stores.redis import RedisStore, open_redis
from redis_servers import SLOW, RedisServer, cluster_url, own_cluster, own_redis
from redis_support import OTHER_MIND, T, W, fill, found, new_namespace, opened

README = Path(__file__).parents[2] / "README.md"


def commands_in_the_readme() -> list[str]:
    found = re.search(r"ACL SETUSER app on .*?~querycache:shop:\* -@all (.*?)\n```", README.read_text(), re.DOTALL)
    assert found is not None, "the README does not list what an ACL must allow"
    return [word.lstrip("+") for word in found[1].replace("\\", " ").split()]


COMMANDS = commands_in_the_readme()


@pytest.fixture(scope="module", params=["redis", "valkey", "redis-6.2"])
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with own_redis(kind=request.param) as server:
        yield server


def url_for(server: RedisServer, commands: list[str], db: int = 0) -> str:
    server.do("ACL", "SETUSER", "app", "reset", "on", ">secret", "~querycache:shop:*", "-@all", *commands)
    return f"redis://app:secret@{server.address}/{db}?namespace=shop&{SLOW}"


def use(store: RedisStore) -> None:
    """Do everything that a store does."""
    seen = store.lookup(b"k", T)
    store.fill(b"k", b"rows", seen.lease, 60)
    assert found(store) == b"rows"
    store.lookup(None, OTHER_MIND)
    marked = store.mark(T, W, 60)
    store.lookup(b"k", T)
    assert store.stats().marks
    store.release(marked, W)
    store.clear()
    store.clock()
    assert store._place.ask_each(packed("INFO", "memory"))


def test_who_is_allowed_what_the_readme_lists_can_do_everything(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_redis_calls, "MOST_FIELDS", 1)
    server.do("SCRIPT", "FLUSH")
    with opened(url_for(server, [f"+{command}" for command in COMMANDS])) as store:
        use(store)
        server.do("FLUSHALL")
        in_loop(use, store)


def test_nothing_that_the_readme_lists_can_be_left_out(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_calls, "MOST_FIELDS", 1)
    needless = []
    for left_out in COMMANDS:
        server.do("FLUSHALL")
        server.do("SCRIPT", "FLUSH")
        url = url_for(server, [f"+{command}" for command in COMMANDS if command != left_out])
        try:
            with opened(url) as store:
                use(store)
        except (ConfigurationError, StoreUnavailable, AssertionError):
            continue
        needless.append(left_out)
    assert needless == []


def test_a_right_that_is_missing_is_an_error_at_the_start_with_the_remedy(server: RedisServer) -> None:
    with pytest.raises(ConfigurationError, match="The README lists what an ACL must allow") as caught:
        open_redis(url_for(server, ["+info"]))
    assert "secret" not in str(caught.value)


def test_another_database_and_a_cluster_need_one_command_more(server: RedisServer) -> None:
    commands = [f"+{command}" for command in COMMANDS]
    with pytest.raises(ConfigurationError):
        open_redis(url_for(server, commands, db=1))
    with opened(url_for(server, [*commands, "+select"], db=1)) as store:
        use(store)


def test_a_cluster_needs_one_command_more() -> None:
    with own_cluster(1) as nodes:
        commands = [f"+{command}" for command in COMMANDS]
        url_for(nodes[0], commands)
        url = cluster_url(nodes, "shop").replace("//", "//app:secret@")
        with pytest.raises(ConfigurationError):
            open_redis(url)
        url_for(nodes[0], [*commands, "+cluster"])
        with opened(url) as store:
            use(store)


# -- TLS ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, Path]]:
    """A server that speaks TLS on its port, and the folder of its certificates."""
    folder = tmp_path_factory.mktemp("tls")
    run = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*run, *names, "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True
    )
    with own_redis(
        "tls-port 0",
        f"tls-cert-file {folder}/cert.pem",
        f"tls-key-file {folder}/key.pem",
        f"tls-ca-cert-file {folder}/cert.pem",
        "tls-auth-clients no",
    ) as server:
        server.do("CONFIG", "SET", "port", "0")
        server.do_by_socket("CONFIG", "SET", "tls-port", server.port)
        yield server, folder


def test_a_server_is_reached_by_tls(encrypted: tuple[RedisServer, Path]) -> None:
    server, folder = encrypted
    url = f"rediss://localhost:{server.port}?namespace={new_namespace()}&ssl_ca_certs={folder}/cert.pem&{SLOW}"
    with opened(url) as store:
        fill(store)
        assert found(store) == in_loop(found, store) == b"rows"


def test_a_certificate_that_nobody_vouches_for_is_an_error_at_the_start(encrypted: tuple[RedisServer, Path]) -> None:
    with pytest.raises(ConfigurationError, match=r"ssl_ca_certs=/path"):
        open_redis(f"rediss://localhost:{encrypted[0].port}?{SLOW}")


def test_without_checks_any_certificate_will_do(encrypted: tuple[RedisServer, Path]) -> None:
    with opened(f"valkeys://127.0.0.1:{encrypted[0].port}?ssl_cert_reqs=none&{SLOW}") as store:
        fill(store)
        assert found(store) == b"rows"


# -- round trips -------------------------------------------------------------------------------------------------------

VERBS: dict[str, Callable[[RedisStore], object]] = {
    "a hit": lambda store: found(store),
    "a miss": lambda store: store.lookup(b"none", TagSet((b"never seen",))),
    "many questions": lambda store: store.lookup_many([(b"k%d" % number, T) for number in range(50)]),
    "a fill": lambda store: store.fill(b"k", b"rows", (1, 2), 60),
    "many fills": lambda store: store.fill_many([(b"k%d" % number, b"rows", (1, 2), 60) for number in range(50)]),
    "a mark": lambda store: store.mark(T, W, 60),
    "a release": lambda store: store.release(T.tags, W),
    "a clear": lambda store: store.clear(),
    "the clock": lambda store: store.clock(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_is_one_round_trip(server: RedisServer, verb: str) -> None:
    with opened(server.url(new_namespace())) as store:
        fill(store)
        VERBS[verb](store)  # the server knows the script, and the connection is made
        sent: Counter[str] = Counter()
        (only,) = store._place.servers()
        for pool in (only.reads, only.marks):
            original = pool.send

            def send(commands, original=original):  # type: ignore[no-untyped-def]  # a hook
                sent["round trips"] += 1
                return original(commands)

            pool.send = send  # type: ignore[method-assign]
        server.do("CONFIG", "RESETSTAT")
        VERBS[verb](store)
        assert sent["round trips"] == 1
        calls = {name: told["calls"] for name, told in server.info("commandstats").items()}
        assert calls["cmdstat_evalsha"] == (50 if verb == "many fills" else 1)
        assert not {"cmdstat_eval", "cmdstat_ping", "cmdstat_select", "cmdstat_script|load"} & set(calls)
