"""How the tests choose their servers, on fakes: none is reached or started here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import URL, make_url

from own_caches import own_memcached, own_redis
from own_servers import NoServerError, Refusal, find_binary
from servers import MARIADB, POSTGRESQL, Kind, named_url_of, server

NOWHERE = make_url("postgresql+psycopg://somebody:secret@127.0.0.1:1/postgres")
STARTED = make_url("postgresql+psycopg://postgres@127.0.0.1:2/postgres")


@contextmanager
def start_fake(refusal: Refusal) -> Iterator[URL]:
    yield STARTED


def fail_to_start(refusal: Refusal) -> AbstractContextManager[URL]:
    raise NoServerError("no initdb on this machine")


def chosen(kind: Kind, environ: Mapping[str, str]) -> str:
    with server(kind, environ) as url:
        return str(url)


def test_the_server_that_the_variable_names_is_taken_without_a_look_at_others() -> None:
    url = chosen(POSTGRESQL, {"QUERYCACHE_TEST_POSTGRESQL_URL": "postgresql://me@db.example:5433/maintenance"})

    assert url == "postgresql+psycopg://me@db.example:5433/maintenance"


@pytest.mark.parametrize("backend", ["mariadb", "mysql", "mysql+pymysql"])
def test_a_mariadb_may_be_named_by_either_name(backend: str) -> None:
    assert chosen(MARIADB, {MARIADB.variable: f"{backend}://root@h/mysql"}) == "mariadb+pymysql://root@h/mysql"


def test_an_empty_variable_names_nothing() -> None:
    assert named_url_of(POSTGRESQL, {POSTGRESQL.variable: " "}) is None


def test_a_variable_that_names_another_kind_of_server_is_an_error_that_names_the_variable() -> None:
    with pytest.raises(NoServerError, match=r"QUERYCACHE_TEST_MARIADB_URL names a postgresql server"):
        named_url_of(MARIADB, {MARIADB.variable: "postgresql://me@h/d"})


def test_a_server_is_started_where_none_listens() -> None:
    kind = replace(POSTGRESQL, candidates=(NOWHERE,), start=start_fake)

    assert chosen(kind, {}) == str(STARTED)


def test_the_error_names_what_was_tried_the_variable_and_the_package_and_no_password() -> None:
    kind = replace(POSTGRESQL, candidates=(NOWHERE,), start=fail_to_start)

    with pytest.raises(NoServerError) as caught:
        chosen(kind, {})

    message = str(caught.value)
    for part in (
        "somebody:***@127.0.0.1:1",
        "no initdb on this machine",
        POSTGRESQL.variable,
        "apt-get install postgresql",
    ):
        assert part in message
    assert "secret" not in message


def test_an_error_of_a_test_does_not_look_like_a_missing_server() -> None:
    kind = replace(POSTGRESQL, candidates=(), start=start_fake)

    with pytest.raises(NoServerError, match=r"^raised by a test$"), server(kind, {}):
        raise NoServerError("raised by a test")


def test_the_newest_of_several_binaries_is_taken(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("servers")
    for version in ("9", "15", "16"):
        (root / version / "bin").mkdir(parents=True)
        (root / version / "bin" / "no-such-program").touch()

    assert find_binary("no-such-program", [f"{root}/*/bin/no-such-program"]) == f"{root}/16/bin/no-such-program"


def test_a_missing_binary_is_told_by_its_name() -> None:
    with pytest.raises(NoServerError, match="no no-such-program on this machine"):
        find_binary("no-such-program", [])


def test_a_missing_memcached_or_redis_is_an_error_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("own_servers.shutil.which", lambda name: None)
    monkeypatch.setattr("own_servers.glob.glob", lambda pattern: [])
    for start, package in ((own_memcached, "memcached"), (own_redis, "redis-server")):
        with pytest.raises(NoServerError, match=rf"sudo apt-get install {package}"), start():
            pass
