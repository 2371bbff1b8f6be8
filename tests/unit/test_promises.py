"""What ``guarantee`` says, for every store and setting: which promises hold, and the bounds in seconds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dogpile.cache import make_region
from sqlalchemy import Engine, create_engine

from querycache import QueryCache
from querycache.cache import Region
from querycache.coherence.protocol import OnMarkFailure
from querycache.stores import Store, store_on_region
from querycache.stores.lmdb import LMDBStore
from querycache.stores.memory import MemoryStore

StoreOf = Callable[[Path], Store]


def dogpile(backend: str) -> StoreOf:
    def make(path: Path) -> Store:
        arguments = {"filename": str(path / "cache.dbm")} if backend == "dogpile.cache.dbm" else {}
        return store_on_region(make_region(name=backend).configure(backend, arguments=arguments))

    return make


STORES: dict[str, StoreOf] = {
    "memory": lambda path: MemoryStore(),
    "lmdb": lambda path: LMDBStore(path / "store", 2**24),
    "dogpile on memory": dogpile("dogpile.cache.memory"),
    "dogpile on dbm": dogpile("dogpile.cache.dbm"),
}
KEEPS_MARKS = {"memory", "lmdb"}
POLICIES: tuple[OnMarkFailure | None, ...] = (None, "raise", "continue")
MANY = [
    pytest.param(name, policy, ttl, old_images, id=f"{name}-{policy}-{ttl:g}-{old_images}")
    for name, policy, ttl, old_images in itertools.product(STORES, POLICIES, (60.0, 86400.0), (True, False))
]


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    yield engine
    engine.dispose()


@pytest.mark.parametrize(("name", "policy", "ttl", "old_images"), MANY)
def test_each_store_and_setting_is_told_with_its_bounds(
    name: str, policy: OnMarkFailure | None, ttl: float, old_images: bool, tmp_path: Path
) -> None:
    store = STORES[name](tmp_path)
    with QueryCache(store, ttl=ttl, old_images=old_images, on_mark_failure=policy) as cache:
        told = cache.guarantee
    reach = {"memory": "the threads of one process", "lmdb": "the processes of one machine"}
    assert told.startswith(f"{store.url}: coherent across {reach.get(name, 'the threads of one process')}.")
    assert "Acknowledged is seen" in told
    assert "Visible is seen" in told
    goes_on = policy == "continue" or (policy is None and name not in KEEPS_MARKS)
    assert ("A commit that could not be marked is seen by others when its release lands" in told) == goes_on
    assert (f"killed first, after {ttl:g} s at most" in told) == goes_on
    assert ("as long as no mark or stamp is lost" in told) == (name not in KEEPS_MARKS)
    assert ("may lose marks and stamps" in told) == (name not in KEEPS_MARKS)
    assert told.count(f"stale for {ttl:g} s at most") == 1
    assert "uncached for 30 s" in told
    assert "or for 600 s" in told


def test_old_images_change_nothing_in_what_is_promised() -> None:
    with QueryCache("memory://") as one, QueryCache("memory://", old_images=False) as other:
        assert one.guarantee == other.guarantee


def test_each_store_has_a_paragraph_of_its_own_and_the_longest_life_of_its_regions() -> None:
    shared, alone = MemoryStore(), store_on_region(make_region(name="alone").configure("dogpile.cache.memory"))
    regions = {"long": Region(shared, 7200), "short": Region(shared, 5), "alone": Region(alone, 40)}
    with QueryCache(shared, ttl=60, regions=regions) as cache:
        first, second = cache.guarantee.split("dogpile://alone")
    assert "stale for 7200 s at most" in first
    assert "stale for 40 s at most" in second


def test_a_database_that_is_known_by_a_given_name_is_told(engine: Engine) -> None:
    with QueryCache("memory://") as cache:
        assert "attach()" not in cache.guarantee
        cache.attach(engine, name="shop")
        assert "Known by the name that attach() was given: 'shop'." in cache.guarantee


def test_every_line_is_a_sentence(tmp_path: Path, engine: Engine) -> None:
    options: Any
    for number, make in enumerate(STORES.values()):
        for options in ({}, {"on_mark_failure": "raise"}, {"on_mark_failure": "continue"}):
            folder = tmp_path / f"{number}{len(options)}{options.get('on_mark_failure', '')}"
            folder.mkdir()
            with QueryCache(make(folder), **options) as cache:
                assert all(line.endswith((".", ":")) for line in cache.guarantee.splitlines())
