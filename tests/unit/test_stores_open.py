"""A URL opens the store that it names, or says what is wrong with it."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from querycache.errors import ConfigurationError
from querycache.stores import open_store
from querycache.stores.lmdb import LMDBStore, default_path
from querycache.stores.memory import MemoryStore


@pytest.mark.parametrize(
    ("size", "size_bytes"),
    [
        ("64MB", 64_000_000),
        ("64MiB", 1 << 26),
        ("1GB", 10**9),
        ("1.5gib", 3 << 29),
        ("70000", 70_000),
        ("100kb", 10**5),
    ],
)
def test_a_size_may_have_a_unit(size: str, size_bytes: int) -> None:
    store = open_store(f"memory://?size={size}")
    assert isinstance(store, MemoryStore)
    assert store.max_size_bytes == size_bytes


def test_memory_takes_a_number_of_entries() -> None:
    store = open_store("memory://?entries=10&size=1MB")
    assert isinstance(store, MemoryStore)
    assert (store.max_entries, store.max_size_bytes) == (10, 10**6)


def test_memory_needs_no_parameters() -> None:
    assert open_store("memory://").scope == "threads"


def test_lmdb_takes_an_absolute_path_and_a_size(tmp_path: Path) -> None:
    store = open_store(f"lmdb://{tmp_path}/my%20cache?size=4MiB")
    assert store.url == f"lmdb://{tmp_path}/my cache"
    assert store.stats().max_size_bytes == 4 << 20
    store.close()


@pytest.mark.parametrize("url", ["lmdb://", "lmdb:///", "lmdb://?size=4MiB", "lmdb:///?size=4MiB"])
def test_lmdb_without_a_path_is_the_directory_of_the_machine(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUERYCACHE_RUNTIME_DIR", str(tmp_path / "run"))
    store = open_store(url)
    assert isinstance(store, LMDBStore)
    assert store.path == tmp_path / "run"
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o700
    store.close()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/shm is Linux")
def test_the_directory_of_the_machine_is_in_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUERYCACHE_RUNTIME_DIR", raising=False)
    assert default_path() == Path("/dev/shm/querycache")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://?sise=1MB", "no parameter 'sise'. Known are: size, entries"),
        ("lmdb:///tmp/x?entries=3", "no parameter 'entries'. Known are: size"),
        ("memory://?size=64XB", "size=64XB is not a size"),
        ("memory://?size=", "size= is not a size"),
        ("memory://?size=-1MB", "size=-1MB is not a size"),
        ("memory://?entries=0", "entries=0 is not a whole number above 0"),
        ("memory://?size=1MB&size=2MB", "given twice"),
        ("memory://host/path", "no host and no path"),
        ("lmdb://var/cache", "lmdb:///var/cache"),
        ("redis://localhost?size=1GB", "maxmemory"),
        ("valkey+cluster://localhost/3", "database 0 only"),
        ("dogpile://region", "DogpileStore(region)"),
        (
            "memcached://localhost",
            "memcached:// is not a store that is known. Known are memory://, lmdb:///path and redis://",
        ),
        ("/var/cache", "this is not a URL"),
        ("", "this is not a URL"),
    ],
)
def test_a_url_that_cannot_be_used_is_named_with_what_is_known(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert str(caught.value).startswith(url)
    assert says in str(caught.value)


def test_a_password_is_not_shown() -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store("memory://me:secret@localhost")
    assert "secret" not in str(caught.value)
    assert "me:***@localhost" in str(caught.value)


def test_a_region_without_dogpile_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "querycache.stores.dogpile", raising=False)
    monkeypatch.setitem(sys.modules, "dogpile.cache.region", None)
    with pytest.raises(ConfigurationError, match=r'pip install "querycache\[dogpile\]"'):
        __import__("querycache.stores.dogpile")
