"""Does a store keep its promises?

``StoreConformance`` has one test for each promise of ``querycache.stores.base``. A store's tests subclass it and give
a ``store`` fixture; pytest finds the rest::

    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self):
            store = MyStore()
            yield store
            store.close()

Never does: import SQLAlchemy; look inside a store.
"""

from __future__ import annotations

from querycache.testing.clearing import ClearPromises
from querycache.testing.entries import EntryPromises
from querycache.testing.guards import GuardPromises
from querycache.testing.leases import LeasePromises
from querycache.testing.marks import MarkPromises
from querycache.testing.whole import StorePromises

__all__ = ["StoreConformance"]


class StoreConformance(EntryPromises, LeasePromises, MarkPromises, GuardPromises, ClearPromises, StorePromises):
    """One test for each promise of a store. Subclasses give the fixture ``store``, open and empty.

    A store that takes less than a megabyte in one payload, or fewer than 3000 tags in one mark, says so in
    ``largest_payload_bytes`` and ``most_tags``; one whose clock a test can move overrides ``let_pass``.
    """
