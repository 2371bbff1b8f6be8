"""What does a store promise of ``clear``? Every entry is over, also one whose fill is under way; marks stay."""

from __future__ import annotations

from querycache._types import Lease
from querycache.stores.base import Store
from querycache.testing.sample import KEY, LONG_S, MINE, TABLE, THEIRS, A, B, Promises, filled, new_writer, tags_of


class ClearPromises(Promises):
    """The tests of ``clear``."""

    def test_clear_makes_every_entry_a_miss(self, store: Store) -> None:
        filled(store, tags_of(A, guards=(MINE,)))
        store.clear()
        assert store.lookup(KEY, tags_of(A, guards=(MINE,))).payload is None

    def test_clear_kills_a_fill_that_is_under_way(self, store: Store) -> None:
        seen = store.lookup(KEY, tags_of(A))
        store.clear()
        store.fill(KEY, b"old", seen.lease, LONG_S)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_clear_kills_a_fill_that_depends_on_guards_alone(self, store: Store) -> None:
        seen = store.lookup(KEY, tags_of(guards=(MINE,)))
        store.clear()
        store.fill(KEY, b"old", seen.lease, LONG_S)
        assert store.lookup(KEY, tags_of(guards=(MINE,))).payload is None

    def test_clear_leaves_marks(self, store: Store) -> None:
        store.mark(tags_of(A, TABLE), new_writer(), LONG_S)
        store.clear()
        assert not store.lookup(None, tags_of(A)).storable
        assert not store.lookup(None, tags_of(guards=(MINE,))).storable

    def test_clear_remembers_the_mind_of_a_guard(self, store: Store) -> None:
        store.lookup(None, tags_of(guards=(MINE,)))
        store.clear()
        assert not store.lookup(None, tags_of(guards=(THEIRS,))).storable

    def test_after_clear_entries_are_kept_again(self, store: Store) -> None:
        store.clear()
        filled(store, tags_of(A, guards=(MINE,)))
        assert store.lookup(KEY, tags_of(A, guards=(MINE,))).payload == b"rows"

    def test_no_stamp_is_given_twice_to_a_tag(self, store: Store) -> None:
        leases: list[Lease] = []
        for number in range(20):
            leases.append(store.lookup(None, tags_of(A, B, guards=(MINE,))).lease)
            (store.clear if number % 2 else lambda: store.release((A, B, TABLE), new_writer()))()
        assert all(len(set(stamps)) == len(stamps) for stamps in zip(*leases, strict=True))
