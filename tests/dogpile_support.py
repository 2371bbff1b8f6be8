"""What do the tests of regions as stores have in common? A clock that can be moved, and patience on a slow machine."""

from __future__ import annotations

import pytest

from querycache.stores import dogpile
from querycache.stores.base import Store
from querycache.stores.dogpile import DogpileStore
from querycache.testing import StoreConformance


class ClockedStore(DogpileStore):
    """A store whose clock a test can move."""

    ahead_ns = 0

    def _ticks(self) -> int:
        return super()._ticks() + self.ahead_ns


class DogpileConformance(StoreConformance):
    """The promises of a store, as far as a region's backend keeps what it is given."""

    @pytest.fixture(autouse=True)
    def _patience(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Several threads take turns, on a machine that may be slow.
        monkeypatch.setattr(dogpile, "PATIENCE_S", 60.0)
        monkeypatch.setattr(dogpile, "READ_PATIENCE_S", 60.0)

    def let_pass(self, store: Store, seconds: float) -> None:
        assert isinstance(store, ClockedStore)
        store.ahead_ns += int(seconds * 1e9)
