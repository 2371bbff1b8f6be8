"""What does a store promise of marks? Nothing of a marked tag is served or stored until all its writers are over."""

from __future__ import annotations

from querycache._types import TagSet
from querycache.stores.base import Store
from querycache.testing.sample import KEY, LONG_S, MINE, TABLE, A, B, Promises, filled, new_writer, tags_of


class MarkPromises(Promises):
    """The tests of marks."""

    def test_nothing_is_served_or_storable_while_a_tag_is_marked(self, store: Store) -> None:
        filled(store, tags_of(A, B))
        store.mark(tags_of(A), new_writer(), LONG_S)
        seen = store.lookup(KEY, tags_of(A, B))
        assert (seen.payload, seen.storable) == (None, False)

    def test_what_is_filled_while_a_tag_is_marked_is_not_served(self, store: Store) -> None:
        store.mark(tags_of(A), new_writer(), LONG_S)
        filled(store, tags_of(A))
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_a_mark_on_one_tag_leaves_entries_of_others(self, store: Store) -> None:
        filled(store, tags_of(A))
        store.mark(tags_of(B), new_writer(), LONG_S)
        assert store.lookup(KEY, tags_of(A)).payload == b"rows"

    def test_a_mark_says_what_was_marked(self, store: Store) -> None:
        assert set(store.mark(tags_of(A, B), new_writer(), LONG_S)) == {A, B}

    def test_a_mark_replaces_the_stamp(self, store: Store) -> None:
        before = store.lookup(None, tags_of(A)).lease
        store.mark(tags_of(A), new_writer(), LONG_S)
        assert store.lookup(None, tags_of(A)).lease > before

    def test_a_release_makes_the_tag_storable_with_a_new_stamp(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A), writer, LONG_S)
        during = store.lookup(None, tags_of(A))
        store.release((A,), writer)
        after = store.lookup(None, tags_of(A))
        assert after.storable
        assert after.lease > during.lease

    def test_a_lease_from_before_the_mark_fills_nothing_that_is_served_after_it(self, store: Store) -> None:
        before = store.lookup(KEY, tags_of(A))
        writer = new_writer()
        store.mark(tags_of(A), writer, LONG_S)
        store.release((A,), writer)
        store.fill(KEY, b"old", before.lease, LONG_S)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_a_lease_from_during_the_mark_fills_nothing_that_is_served_after_it(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A), writer, LONG_S)
        during = store.lookup(KEY, tags_of(A))
        store.release((A,), writer)
        store.fill(KEY, b"old", during.lease, LONG_S)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_one_outdated_stamp_of_many_is_enough(self, store: Store) -> None:
        many = tags_of(*(b"t%d" % number for number in range(50)), guards=(MINE,))
        filled(store, many)
        store.release((b"t49",), new_writer())
        assert store.lookup(KEY, many).payload is None

    def test_a_release_without_a_mark_changes_the_stamp(self, store: Store) -> None:
        filled(store, tags_of(A))
        store.release((A,), new_writer())
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_a_release_of_a_tag_that_nobody_knows_gives_it_a_stamp(self, store: Store) -> None:
        before = store.clock()
        store.release((A,), new_writer())
        assert store.lookup(None, tags_of(A)).lease[0] > before

    def test_a_release_twice_changes_the_stamp_twice(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A), writer, LONG_S)
        store.release((A,), writer)
        filled(store, tags_of(A))
        store.release((A,), writer)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_a_tag_stays_marked_until_its_last_writer_releases(self, store: Store) -> None:
        first, second = new_writer(), new_writer()
        store.mark(tags_of(A), first, LONG_S)
        store.mark(tags_of(A), second, LONG_S)
        store.release((A,), first)
        assert not store.lookup(None, tags_of(A)).storable
        store.release((A,), second)
        assert store.lookup(None, tags_of(A)).storable

    def test_a_release_of_one_writer_does_not_unmark_another_that_came_later(self, store: Store) -> None:
        first, second = new_writer(), new_writer()
        store.release((A,), first)
        store.mark(tags_of(A), second, LONG_S)
        store.release((A,), first)
        assert not store.lookup(None, tags_of(A)).storable

    def test_only_the_tags_named_are_released(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A, B), writer, LONG_S)
        store.release((A,), writer)
        assert [store.lookup(None, tags_of(tag)).storable for tag in (A, B)] == [True, False]

    def test_a_mark_ends_at_its_deadline(self, store: Store) -> None:
        store.mark(tags_of(A), new_writer(), 0.01)
        self.let_pass(store, 0.02)
        assert store.lookup(None, tags_of(A)).storable

    def test_an_entry_from_before_a_mark_is_dead_after_its_deadline(self, store: Store) -> None:
        filled(store, tags_of(A))
        store.mark(tags_of(A), new_writer(), 0.01)
        self.let_pass(store, 0.02)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_a_mark_that_ends_at_its_deadline_leaves_a_stamp_that_nobody_held(self, store: Store) -> None:
        # Long enough to be seen on a slow machine, by a store whose clock is the system's.
        store.mark(tags_of(A, TABLE), new_writer(), 0.5)
        marked = store.lookup(None, tags_of(A, guards=(MINE,)))
        self.let_pass(store, 0.51)
        after = store.clock()
        found = store.lookup(None, tags_of(A, guards=(MINE,)))
        assert found.storable
        assert after <= min(found.lease)
        assert set(marked.lease).isdisjoint(found.lease)

    def test_a_release_after_the_deadline_still_changes_the_stamp(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A), writer, 0.01)
        self.let_pass(store, 0.02)
        filled(store, tags_of(A))
        store.release((A,), writer)
        assert store.lookup(KEY, tags_of(A)).payload is None

    def test_a_short_deadline_does_not_shorten_that_of_another_writer(self, store: Store) -> None:
        store.mark(tags_of(A), new_writer(), LONG_S)
        store.mark(tags_of(A), new_writer(), 0.01)
        self.let_pass(store, 0.02)
        assert not store.lookup(None, tags_of(A)).storable

    def test_a_long_deadline_does_not_lengthen_that_of_another_writer(self, store: Store) -> None:
        late = new_writer()
        store.mark(tags_of(A), new_writer(), 0.01)
        store.mark(tags_of(A), late, LONG_S)
        self.let_pass(store, 0.02)
        store.release((A,), late)
        assert store.lookup(None, tags_of(A)).storable

    def test_marking_again_renews(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A), writer, 0.01)
        store.mark(tags_of(A), writer, LONG_S)
        self.let_pass(store, 0.02)
        assert not store.lookup(None, tags_of(A)).storable

    def test_marking_again_needs_one_release(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(A), writer, LONG_S)
        store.mark(tags_of(A), writer, LONG_S)
        store.release((A,), writer)
        assert store.lookup(None, tags_of(A)).storable

    def test_a_commit_of_thousands_of_tags_is_marked_and_released(self, store: Store) -> None:
        many = tuple(b"row|id=%d" % number for number in range(self.most_tags))
        writer = new_writer()
        assert len(store.mark(TagSet(many), writer, LONG_S)) == len(many)
        assert not store.lookup(None, tags_of(many[-1])).storable
        store.release(many, writer)
        assert all(answer.storable for answer in store.lookup_many((None, tags_of(tag)) for tag in many))

    def test_nothing_to_mark_or_release_is_no_error(self, store: Store) -> None:
        assert store.mark(tags_of(), new_writer(), LONG_S) == ()
        store.release((), new_writer())
