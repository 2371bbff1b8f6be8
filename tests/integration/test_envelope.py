"""Entries that are compressed or signed are served like others; what nobody signed is never read."""

from __future__ import annotations

from typing import Any

import pytest

from coherence_world import Product, World, is_hit, name_of, read_in, rename
from querycache import QueryCache
from querycache.errors import ConfigurationError
from querycache.rows.envelope import COMPRESSED, SIGNED

LARGE = "x" * 1000
KEY, OTHER = b"a secret of all processes", b"a secret of somebody else"


@pytest.fixture
def world(sqlite_url: str) -> Any:
    world = World(sqlite_url)
    world.fill()
    yield world
    world.close()


def payloads(world: World) -> list[bytes]:
    return [entry.payload for entry in world.store._entries.values()]


def test_processes_that_know_the_key_read_each_others_entries(world: World) -> None:
    one, other = world.process(signing_key=KEY), world.process(signing_key=[OTHER, KEY])
    read_in(one, name_of)
    assert is_hit(other)
    assert all(payload.startswith(SIGNED) for payload in payloads(world))
    rename(other, "b")
    assert read_in(one, name_of) == "b"


@pytest.mark.parametrize("options", [{}, {"signing_key": OTHER}])
def test_an_entry_that_was_not_signed_with_a_known_key_is_a_miss_and_is_counted(
    world: World, options: dict[str, Any]
) -> None:
    stranger, process = world.process(**options), world.process(signing_key=KEY)
    read_in(stranger, name_of)
    assert is_hit(stranger)  # and its rows stay decoded in the store that both have
    assert not is_hit(process)
    assert process.counts()["defect"] == 1


def test_a_row_that_is_got_by_its_key_is_signed(world: World) -> None:
    process = world.process(signing_key=KEY)
    read_in(process, lambda session: session.get(Product, 1))
    assert [payload.startswith(SIGNED) for payload in payloads(world)] == [True]


def test_a_store_on_a_network_gets_large_entries_compressed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(world.store), "scope", "fleet")
    process = world.process(compress_above=1000)
    rename(process, LARGE)
    read_in(process, name_of)
    assert [payload.startswith(COMPRESSED) for payload in payloads(world)].count(True) == 1
    assert is_hit(process)
    assert read_in(process, name_of) == LARGE


def test_a_store_of_this_machine_gets_them_as_they_are(world: World) -> None:
    process = world.process(compress_above=0)
    rename(process, LARGE)
    read_in(process, name_of)
    assert not any(payload.startswith(COMPRESSED) for payload in payloads(world))


def test_a_key_that_is_too_short_is_refused_before_a_store_is_opened() -> None:
    with pytest.raises(ConfigurationError, match="signing_key"):
        QueryCache("redis://nowhere.invalid", signing_key="short")
