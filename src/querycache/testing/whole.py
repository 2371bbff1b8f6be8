"""What else does a store promise? A clock that never goes back, figures that are true, an end that is harmless, threads."""

from __future__ import annotations

from querycache.stores.base import Store, StoreStats
from querycache.testing.hammer import Hammer
from querycache.testing.sample import LONG_S, A, B, Promises, filled, new_writer, tags_of


class StorePromises(Promises):
    """The tests of the store as a whole."""

    def test_the_clock_never_goes_back(self, store: Store) -> None:
        readings = []
        for _ in range(50):
            readings += [store.clock(), *store.lookup(None, tags_of(A)).lease]
            store.release((A,), new_writer())
        clocks = readings[::2]
        assert clocks == sorted(clocks)
        assert all(stamp > 0 for stamp in readings)

    def test_stats_count_what_a_store_can_count(self, store: Store) -> None:
        filled(store, tags_of(A))
        store.mark(tags_of(B), new_writer(), LONG_S)
        stats = store.stats()
        assert isinstance(stats, StoreStats)
        assert stats.entries in (None, 1)
        assert stats.marks in (None, 1)
        assert stats.evictions == 0
        assert stats.size_bytes is None or stats.size_bytes > 0

    def test_a_store_says_what_and_where_it_is(self, store: Store) -> None:
        assert "://" in store.url
        assert store.scope in ("threads", "machine", "fleet")
        assert store.guarantee.endswith(".")

    def test_closing_twice_is_harmless(self, store: Store) -> None:
        store.close()
        store.close()

    def test_a_release_after_close_is_no_error(self, store: Store) -> None:
        store.close()
        store.release((A,), new_writer())

    def test_threads_never_read_less_than_was_acknowledged(self, store: Store) -> None:
        """A database of one number, written and read as coherence demands, by several threads at once."""
        Hammer(store).run()
