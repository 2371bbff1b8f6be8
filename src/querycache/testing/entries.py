"""What does a store promise of entries? They come back as they were filled, each for its own key and tags, in its time."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final

from querycache._types import Tag, TagSet
from querycache.stores.base import Store
from querycache.testing.sample import KEY, LONG_S, A, B, Promises, filled, new_writer, tags_of

_CHANGES: Final[tuple[Callable[[Store, Tag, Tag], object], ...]] = (
    lambda store, tag, table: store.mark(tags_of(tag), new_writer(), LONG_S),
    lambda store, tag, table: store.release((tag,), new_writer()),
    lambda store, tag, table: store.release((table,), new_writer()),
    lambda store, tag, table: store.lookup(None, tags_of(guards=((table, b"another mind"),))),
    lambda store, tag, table: store.clear(),
)


class EntryPromises(Promises):
    """The tests of entries."""

    def test_an_entry_is_served_as_it_was_filled(self, store: Store) -> None:
        filled(store, tags_of(A, B))
        assert store.lookup(KEY, tags_of(A, B)).payload == b"rows"

    def test_a_key_that_was_never_filled_is_a_miss(self, store: Store) -> None:
        assert store.lookup(b"other", tags_of(A)).payload is None

    def test_keys_do_not_share_entries(self, store: Store) -> None:
        filled(store, tags_of(A), b"one", b"k1")
        filled(store, tags_of(A), b"two", b"k2")
        assert store.lookup(b"k1", tags_of(A)).payload == b"one"

    def test_long_keys_and_tags_are_told_apart_to_their_last_byte(self, store: Store) -> None:
        long = b"k" * 2000
        filled(store, tags_of(long), b"one", long + b"1")
        filled(store, tags_of(long), b"two", long + b"2")
        assert store.lookup(long + b"1", tags_of(long)).payload == b"one"

    def test_a_second_fill_replaces_the_first(self, store: Store) -> None:
        filled(store, tags_of(A), b"old")
        filled(store, tags_of(A), b"new")
        assert store.lookup(KEY, tags_of(A)).payload == b"new"

    def test_an_empty_payload_is_a_hit(self, store: Store) -> None:
        filled(store, tags_of(A), b"")
        assert store.lookup(KEY, tags_of(A)).payload == b""

    def test_a_large_payload_comes_back_byte_for_byte(self, store: Store) -> None:
        payload = random.Random(7).randbytes(self.largest_payload_bytes)
        filled(store, tags_of(A), payload)
        assert store.lookup(KEY, tags_of(A)).payload == payload

    def test_an_entry_without_tags_is_served(self, store: Store) -> None:
        filled(store, tags_of())
        assert store.lookup(KEY, tags_of()).payload == b"rows"

    def test_an_entry_is_not_served_for_other_tags(self, store: Store) -> None:
        filled(store, tags_of(A))
        assert store.lookup(KEY, tags_of(B)).payload is None

    def test_an_entry_is_not_served_for_fewer_tags(self, store: Store) -> None:
        filled(store, tags_of(A, B))
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_an_entry_expires(self, store: Store) -> None:
        seen = store.lookup(KEY, tags_of(A))
        store.fill(KEY, b"rows", seen.lease, 0.01)
        self.let_pass(store, 0.02)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_a_second_fill_sets_the_time_to_live_anew(self, store: Store) -> None:
        seen = store.lookup(KEY, tags_of(A))
        store.fill(KEY, b"rows", seen.lease, 0.01)
        store.fill(KEY, b"rows", seen.lease, LONG_S)
        self.let_pass(store, 0.02)
        assert store.lookup(KEY, tags_of(A)).payload == b"rows"

    def test_an_entry_that_is_found_says_when_it_ends(self, store: Store) -> None:
        filled(store, tags_of(A))
        found = store.lookup(KEY, tags_of(A))
        assert 0 < found.expires - found.now <= LONG_S * 1e9

    def test_an_entry_that_was_served_before_is_not_served_after_a_change(self, store: Store) -> None:
        for number, change in enumerate(_CHANGES):
            tag, table = b"tag%d" % number, b"table%d" % number
            tags = tags_of(A, tag, guards=((table, b"mind"),))
            filled(store, tags)
            assert [store.lookup(KEY, tags).payload for _ in range(3)] == [b"rows"] * 3
            change(store, tag, table)
            assert store.lookup(KEY, tags).payload is None, f"change {number}"

    def test_an_entry_that_was_served_before_expires(self, store: Store) -> None:
        seen = store.lookup(KEY, tags_of(A))
        store.fill(KEY, b"rows", seen.lease, 0.05)
        store.lookup(KEY, tags_of(A))
        self.let_pass(store, 0.06)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_an_entry_that_was_served_before_is_not_served_for_other_tags(self, store: Store) -> None:
        filled(store, tags_of(A))
        store.lookup(KEY, tags_of(A))
        assert store.lookup(KEY, tags_of(B)).payload is None
        assert store.lookup(KEY, tags_of(A, B)).payload is None

    def test_several_questions_are_answered_in_their_order(self, store: Store) -> None:
        filled(store, tags_of(A), b"one", b"k1")
        filled(store, tags_of(B), b"two", b"k2")
        questions = [(b"k2", tags_of(B)), (None, tags_of(A)), (b"k1", tags_of(A)), (b"k3", tags_of(A, B))]
        assert [found.payload for found in store.lookup_many(questions)] == [b"two", None, b"one", None]

    def test_several_questions_are_answered_as_of_one_moment_where_the_store_says_so(self, store: Store) -> None:
        store.lookup(None, tags_of(A, B))

        def questions() -> Iterator[tuple[bytes | None, TagSet]]:
            yield None, tags_of(A)
            if store.sees_one_moment:
                store.release([A, B], new_writer())
            yield None, tags_of(B)

        leases = [found.lease for found in store.lookup_many(questions())]
        assert leases == [store.lookup(None, tags_of(tag)).lease for tag in (A, B)]
