"""A Redis URL says which servers, as whom, within which limits; or it is an error that names the remedy, and no secret."""

from __future__ import annotations

import pytest

from querycache.errors import ConfigurationError
from querycache.stores._redis_url import SCHEMES, Limits, Near, target_of


@pytest.mark.parametrize(
    ("url", "topology", "addresses", "db", "service"),
    [
        ("redis://", "single", (("localhost", 6379),), 0, ""),
        ("redis://cache", "single", (("cache", 6379),), 0, ""),
        ("valkey://cache:6380/5", "single", (("cache", 6380),), 5, ""),
        ("redis://cache?db=5", "single", (("cache", 6379),), 5, ""),
        ("redis://[::1]:6380", "single", (("::1", 6380),), 0, ""),
        ("unix:///run/redis/my%20socket?db=2", "single", (("/run/redis/my socket", 0),), 2, ""),
        ("redis+sentinel://a,b:26380,[::1]/shop", "sentinel", (("a", 26379), ("b", 26380), ("::1", 26379)), 0, "shop"),
        ("valkey+sentinel://a/shop/4", "sentinel", (("a", 26379),), 4, "shop"),
        ("redis+cluster://a,b:7001", "cluster", (("a", 6379), ("b", 7001)), 0, ""),
    ],
)
def test_a_url_says_which_servers(
    url: str, topology: str, addresses: tuple[tuple[str, int], ...], db: int, service: str
) -> None:
    target = target_of(url)
    assert (target.topology, target.addresses, target.db, target.service) == (topology, addresses, db, service)


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme.startswith(("rediss", "valkeys"))])
def test_schemes_with_an_s_more_are_encrypted(scheme: str) -> None:
    target = target_of(
        f"{scheme}://a/shop?ssl_ca_certs=/ca.pem" if "sentinel" in scheme else f"{scheme}://a?ssl_ca_certs=/ca.pem"
    )
    assert target.tls == {"ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True}


def test_others_are_not_encrypted() -> None:
    assert target_of("redis://a").tls is None
    assert target_of("valkey+cluster://a").tls is None


def test_who_checks_no_certificate_checks_no_name() -> None:
    assert target_of("rediss://a?ssl_cert_reqs=none").tls == {"ssl_cert_reqs": "none", "ssl_check_hostname": False}


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:se%40cret@cache/1?namespace=shop",
        "redis://cache/1?namespace=shop&username=me&password=se%40cret",
    ],
)
def test_a_login_is_read_and_not_shown(url: str) -> None:
    target = target_of(url)
    assert target.login == {"username": "me", "password": "se@cret"}
    assert target.url == "redis://cache:6379/1?namespace=shop"


def test_a_password_may_stand_alone() -> None:
    assert target_of("redis://:secret@cache").login == {"password": "secret"}


def test_sentinels_have_a_login_of_their_own() -> None:
    target = target_of("redis+sentinel://:one@a/shop?sentinel_username=s&sentinel_password=two")
    assert target.login == {"password": "one"}
    assert target.sentinel_login == {"username": "s", "password": "two"}
    assert target.url == "redis+sentinel://a:26379/shop/0?namespace=default"


def test_limits_and_the_size_of_the_pool_have_defaults_and_can_be_set() -> None:
    assert target_of("redis://a").limits == Limits(0.2, 0.2, 2.0)
    target = target_of("redis://a?connect_timeout_ms=100&timeout_ms=50&mark_timeout_ms=1500&pool=7")
    assert target.limits == Limits(0.1, 0.05, 1.5)
    assert target.pool == 7


def test_a_near_cache_is_there_where_it_is_asked_for_and_has_a_size() -> None:
    assert target_of("redis://a").near is None
    assert target_of("redis://a?near=validate").near == Near("validate", 64_000_000)
    assert target_of("redis+cluster://a?near=validate&near_size=1MiB").near == Near("validate", 1 << 20)
    assert target_of("redis+sentinel://a/shop?near=push").near == Near("push", 64_000_000, 1.0)
    assert target_of("valkey://a?near=push&near_lag_ms=250").near == Near("push", 64_000_000, 0.25)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://a?sise=1", "no parameter 'sise'. Known are: namespace, pool"),
        ("redis://a?ssl_ca_certs=/ca.pem", "no parameter 'ssl_ca_certs'"),
        ("redis://a?size=1GB", "maxmemory"),
        ("redis://a?pool=0", "pool=0 is not a whole number above 0"),
        ("redis://a?timeout_ms=fast", "timeout_ms=fast is not a whole number above 0"),
        ("redis://a?pool=1&pool=2", "given twice"),
        ("redis://a,b", "redis+sentinel:// or redis+cluster://"),
        ("redis://a/shop", "'shop' is not the number of a database"),
        ("redis://a/1?db=1", "given once"),
        ("redis://a:99999", "'a:99999' is not a host, or host:port"),
        ("redis://a?namespace=a:b", "namespace=a:b is not 1 to 64 letters"),
        ("redis+sentinel://a,b", "the name of the service is missing"),
        ("redis+cluster://a/1", "database 0 only"),
        ("rediss://a?ssl_cert_reqs=maybe", "ssl_cert_reqs=maybe is none of none, optional, required"),
        ("rediss://a?ssl_check_hostname=no", "ssl_check_hostname=no is neither true nor false"),
        ("unix://run/redis", "three slashes: unix:///run"),
        ("unix://", "there is no path"),
        ("redis://a?near=yes", "near=yes is not known. Write near=validate or near=push"),
        ("redis://a?near=validate&near_size=big", "near_size=big is not a size of at least 64KiB"),
        ("redis://a?near=validate&near_size=1KB", "near_size=1KB is not a size of at least 64KiB"),
        ("redis://a?near_size=1GB", "near_size is about a near cache, and there is none. Add near=validate"),
        ("redis://a?near_lag_ms=10", "near_lag_ms is about a near cache, and there is none. Add near=validate"),
        ("redis://a?near=validate&near_lag_ms=10", "near_lag_ms is for near=push"),
        ("redis://a?near=push&near_lag_ms=0", "near_lag_ms=0 is not a whole number above 0"),
        ("redis://a?near=push&near_lag_ms=5", "near_lag_ms=5 is less than 20"),
        ("redis+cluster://a?near=push", "near=push hears one server, and a Cluster has several. Write near=validate"),
    ],
)
def test_a_url_that_cannot_be_meant_is_named_with_the_remedy(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        target_of(url)
    assert str(caught.value).startswith(f"{url}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:secret@a?nonsense=1",
        "redis://:secret@a?nonsense=1",
        "redis://a?password=secret&nonsense=1",
        "redis+sentinel://a/shop?sentinel_password=secret&nonsense=1",
    ],
)
def test_an_error_shows_no_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        target_of(url)
    assert "secret" not in str(caught.value)
