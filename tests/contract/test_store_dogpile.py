"""A dogpile.cache region keeps the contract, on its memory and its dbm backend."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dogpile.cache import make_region
from dogpile.cache.api import CacheBackend
from dogpile.cache.backends import redis, valkey
from dogpile.cache.region import CacheRegion

from dogpile_support import ClockedStore, DogpileConformance
from querycache._types import TagSet
from querycache.errors import ConfigurationError, StoreUnavailable
from querycache.stores.base import Store
from querycache.stores.dogpile import DogpileStore, _lock_of

T = TagSet((b"t",))
W = bytes(range(16))


class TestDogpileMemory(DogpileConformance):
    @pytest.fixture
    def store(self) -> Store:
        return ClockedStore(make_region().configure("dogpile.cache.memory"))


class TestDogpileDbm(DogpileConformance):
    # The backend opens its file, and may read its whole index, for every value.
    most_tags = 40

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return ClockedStore(dbm_region(tmp_path))


def dbm_region(path: Path) -> CacheRegion:
    return make_region().configure("dogpile.cache.dbm", arguments={"filename": str(path / "cache.dbm")})


@pytest.fixture
def region() -> CacheRegion:
    return make_region(name="products").configure("dogpile.cache.memory", expiration_time=3600)


def test_a_region_without_a_backend_is_refused_by_its_name() -> None:
    with pytest.raises(ConfigurationError, match=r"'products' has no backend"):
        DogpileStore(make_region(name="products"))


def test_the_scope_is_what_the_user_says(tmp_path: Path) -> None:
    assert DogpileStore(dbm_region(tmp_path)).scope == "threads"
    assert DogpileStore(dbm_region(tmp_path), scope="machine").scope == "machine"


def test_a_backend_without_a_lock_among_processes_is_for_threads_alone(region: CacheRegion) -> None:
    with pytest.raises(ConfigurationError, match=r"'products' cannot be a store: MemoryBackend has no lock"):
        DogpileStore(region, scope="machine")


@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_backends_that_read_from_replicas_or_cannot_read_several_keys_are_refused(kind: str) -> None:
    module, name = {"redis": (redis, "Redis"), "valkey": (valkey, "Valkey")}[kind]
    for of, why in (("Sentinel", "from replicas"), ("Cluster", "of several slots")):
        region = make_region().configure("dogpile.cache.memory")
        backend = getattr(module, f"{name}{of}Backend")
        region.backend = backend.__new__(backend)  # made in the ordinary way it would connect
        with pytest.raises(ConfigurationError, match=rf"{why}.*give dogpile.cache.{kind}"):
            DogpileStore(region)


def test_a_backend_that_says_nothing_of_what_it_does_not_keep_is_found_out(
    region: CacheRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is known of a backend of somebody else's: what was written is read again."""
    region.backend.__class__ = type("Another", (CacheBackend,), dict(vars(type(region.backend))))
    store = DogpileStore(region)
    store.mark(T, W, 60)
    monkeypatch.setattr(region.backend, "set_multi", lambda mapping: None)
    for verb in (lambda: store.mark(T, W, 60), lambda: store.release((b"t",), W)):
        with pytest.raises(StoreUnavailable, match=r"did not keep what it was given, and did not say so"):
            verb()


def test_invalidating_the_region_drops_entries_and_leaves_marks(region: CacheRegion) -> None:
    store = DogpileStore(region)
    store.fill(b"k", b"rows", store.lookup(b"k", T).lease, 60)
    store.mark(TagSet((b"u",)), W, 60)
    region.invalidate()  # type: ignore[no-untyped-call]  # has no types
    assert store.lookup(b"k", T).payload is None
    assert not store.lookup(None, TagSet((b"u",))).storable


def test_two_stores_on_one_region_hear_each_other(region: CacheRegion) -> None:
    reader, writer = DogpileStore(region), DogpileStore(region)
    reader.fill(b"k", b"rows", reader.lookup(b"k", T).lease, 60)
    writer.release((b"t",), W)
    assert reader.lookup(b"k", T).payload is None


def test_registers_are_written_under_a_lock_that_stores_on_one_region_share(
    region: CacheRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    write = region.set_multi

    def watched(values: dict[str, str]) -> None:
        held.append(_lock_of(region).locked())
        write(values)

    monkeypatch.setattr(region, "set_multi", watched)
    DogpileStore(region).mark(T, W, 60)
    DogpileStore(region).release((b"t",), W)
    assert held == [True, True]


def test_an_entry_from_before_a_clear_stays_dead_when_the_backend_loses_the_floor(region: CacheRegion) -> None:
    store = DogpileStore(region)
    store.fill(b"k", b"rows", store.lookup(b"k", T).lease, 60)
    store.clear()
    region.delete("querycache:" + b"m".hex())
    assert store.lookup(b"k", T).payload is None


def test_values_that_are_not_ours_count_as_absent(region: CacheRegion) -> None:
    store = DogpileStore(region)
    store.fill(b"k", b"rows", store.lookup(b"k", T).lease, 60)
    for name in list(region.backend._cache):
        region.set(name, "no base64!")
    seen = store.lookup(b"k", T)
    assert (seen.payload, seen.storable) == (None, True)


def test_an_error_of_the_backend_names_the_region(region: CacheRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise ConnectionError("connection refused")

    store = DogpileStore(region)
    monkeypatch.setattr(region.backend, "set_serialized_multi", fails)
    monkeypatch.setattr(region.backend, "set_multi", fails)
    with pytest.raises(StoreUnavailable, match=r"dogpile://products.*connection refused"):
        store.mark(T, W, 60)


ANOTHER_PROCESS = """
import sys
from dogpile.cache import make_region
from dogpile.cache.api import CacheBackend
from dogpile.cache.backends import redis, valkey
from querycache._types import TagSet
from querycache.stores.dogpile import DogpileStore
region = make_region().configure("dogpile.cache.dbm", arguments={"filename": sys.argv[1]})
DogpileStore(region).mark(TagSet((b"t",)), bytes(range(16)), 60)
"""


def test_another_process_that_marks_in_the_same_dbm_file_is_heard(tmp_path: Path) -> None:
    store = DogpileStore(dbm_region(tmp_path), scope="machine")
    store.fill(b"k", b"rows", store.lookup(b"k", T).lease, 60)
    subprocess.run([sys.executable, "-c", ANOTHER_PROCESS, str(tmp_path / "cache.dbm")], check=True)
    seen = store.lookup(b"k", T)
    assert (seen.payload, seen.storable) == (None, False)
