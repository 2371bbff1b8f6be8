"""What does a store promise of leases? Stamps of the right tags in order, never of the future, steady while nothing happens."""

from __future__ import annotations

from querycache.stores.base import Store
from querycache.testing.sample import KEY, LONG_S, MINE, A, B, Promises, filled, new_writer, tags_of


class LeasePromises(Promises):
    """The tests of leases."""

    def test_a_missing_stamp_is_made_and_stays(self, store: Store) -> None:
        first = store.lookup(None, tags_of(A))
        assert first.storable
        assert store.lookup(None, tags_of(A)).lease == first.lease

    def test_a_lease_has_the_stamps_of_tags_then_of_guards_in_their_order(self, store: Store) -> None:
        both = store.lookup(None, tags_of(A, B, guards=(MINE,))).lease
        assert store.lookup(None, tags_of(B, A, guards=(MINE,))).lease == (both[1], both[0], both[2])

    def test_tags_that_changed_one_after_the_other_have_different_stamps(self, store: Store) -> None:
        store.release((A,), new_writer())
        store.release((B,), new_writer())
        assert len(set(store.lookup(None, tags_of(A, B, guards=(MINE,))).lease)) == 3

    def test_a_hit_has_a_lease_too(self, store: Store) -> None:
        seen = filled(store, tags_of(A, B))
        assert store.lookup(KEY, tags_of(A, B)).lease == seen.lease

    def test_without_a_key_there_is_no_payload(self, store: Store) -> None:
        filled(store, tags_of(A))
        assert store.lookup(None, tags_of(A)).payload is None

    def test_a_stamp_is_not_of_the_future(self, store: Store) -> None:
        before = store.clock()
        seen = store.lookup(None, tags_of(A))
        assert before < seen.lease[0] <= seen.now <= store.clock()

    def test_a_mark_that_is_over_leaves_a_stamp_not_later_than_the_clock(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A, B), writer, LONG_S)
        store.release((A, B), writer)
        now = store.clock()
        assert max(store.lookup(None, tags_of(A, B)).lease) <= now

    def test_answers_come_in_the_order_of_the_questions(self, store: Store) -> None:
        filled(store, tags_of(A), b"one", b"k1")
        filled(store, tags_of(B), b"two", b"k2")
        questions = [(b"k2", tags_of(B)), (None, tags_of(A)), (b"none", tags_of(A)), (b"k1", tags_of(A))]
        answers = store.lookup_many(questions)
        assert [answer.payload for answer in answers] == [b"two", None, None, b"one"]
        assert answers[1].lease == store.lookup(None, tags_of(A)).lease

    def test_no_questions_have_no_answers(self, store: Store) -> None:
        assert store.lookup_many([]) == []

    def test_many_fills_are_many_entries(self, store: Store) -> None:
        lease = store.lookup(None, tags_of(A)).lease
        assert store.fill_many([(b"k1", b"one", lease, LONG_S), (b"k2", b"two", lease, LONG_S)]) == 2
        assert store.lookup(b"k2", tags_of(A)).payload == b"two"
