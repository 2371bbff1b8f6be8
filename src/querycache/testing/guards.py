"""What does a store promise of guards? Processes of two minds about a table never share an entry and always hear each other."""

from __future__ import annotations

from querycache.stores.base import Store
from querycache.testing.sample import KEY, LONG_S, MINE, SCHEMA, TABLE, THEIRS, A, Promises, filled, new_writer, tags_of


class GuardPromises(Promises):
    """The tests of guards."""

    def test_a_guard_is_made_by_its_first_reader_and_stays(self, store: Store) -> None:
        first = store.lookup(None, tags_of(guards=(MINE,)))
        assert first.storable
        assert store.lookup(None, tags_of(guards=(MINE,))).lease == first.lease

    def test_a_writer_of_the_same_mind_leaves_the_guard(self, store: Store) -> None:
        filled(store, tags_of(guards=(MINE,)))
        assert store.mark(tags_of(A, guards=(MINE,)), new_writer(), LONG_S) == (A,)
        assert store.lookup(KEY, tags_of(guards=(MINE,))).payload == b"rows"

    def test_a_writer_of_another_mind_marks_the_guard(self, store: Store) -> None:
        filled(store, tags_of(guards=(MINE,)))
        assert set(store.mark(tags_of(A, guards=(THEIRS,)), new_writer(), LONG_S)) == {A, TABLE}
        seen = store.lookup(KEY, tags_of(guards=(MINE,)))
        assert (seen.payload, seen.storable) == (None, False)

    def test_a_writer_marks_a_guard_that_is_absent(self, store: Store) -> None:
        assert set(store.mark(tags_of(A, guards=(MINE,)), new_writer(), LONG_S)) == {A, TABLE}
        assert not store.lookup(None, tags_of(guards=(MINE,))).storable

    def test_a_writer_that_looks_at_another_guard_is_told_its_stamp(self, store: Store) -> None:
        lease = filled(store, tags_of(guards=(SCHEMA,))).lease
        assert store.mark_and_look(tags_of(A, guards=(MINE,)), SCHEMA, new_writer(), LONG_S) == ((A, TABLE), lease[0])
        assert store.lookup(KEY, tags_of(guards=(SCHEMA,))).payload == b"rows"
        assert not store.lookup(None, tags_of(A)).storable

    def test_a_writer_that_looks_at_a_guard_hears_of_its_change(self, store: Store) -> None:
        before = store.lookup(None, tags_of(guards=(SCHEMA,)))
        store.release((SCHEMA[0],), new_writer())
        marked, stamp = store.mark_and_look(tags_of(A), SCHEMA, new_writer(), LONG_S)
        assert stamp is None or stamp > before.lease[0]
        assert marked == (A,)

    def test_a_writer_is_told_no_stamp_of_a_guard_that_is_marked(self, store: Store) -> None:
        store.lookup(None, tags_of(guards=(SCHEMA,)))
        store.mark(tags_of(SCHEMA[0]), new_writer(), LONG_S)
        assert store.mark_and_look(tags_of(A), SCHEMA, new_writer(), LONG_S) == ((A,), None)

    def test_a_writer_is_told_no_stamp_of_a_guard_whose_mark_ran_out(self, store: Store) -> None:
        before = store.lookup(None, tags_of(guards=(SCHEMA,)))
        store.mark(tags_of(SCHEMA[0]), new_writer(), 0.05)
        self.let_pass(store, 0.2)
        _, stamp = store.mark_and_look(tags_of(A), SCHEMA, new_writer(), LONG_S)
        assert stamp is None or stamp > before.lease[0]

    def test_a_writer_is_told_no_stamp_of_a_guard_of_another_mind(self, store: Store) -> None:
        store.lookup(None, tags_of(guards=(THEIRS,)))
        assert store.mark_and_look(tags_of(A), MINE, new_writer(), LONG_S) == ((A,), None)
        assert store.lookup(None, tags_of(guards=(THEIRS,))).storable

    def test_a_guard_that_a_writer_marked_is_released_like_a_tag(self, store: Store) -> None:
        writer = new_writer()
        store.lookup(None, tags_of(guards=(MINE,)))
        marked = store.mark(tags_of(A, guards=(THEIRS,)), writer, LONG_S)
        during = store.lookup(None, tags_of(guards=(MINE,)))
        store.release(marked, writer)
        after = store.lookup(None, tags_of(guards=(MINE,)))
        assert after.lease > during.lease

    def test_a_reader_of_another_mind_replaces_the_guard_and_nobody_may_store(self, store: Store) -> None:
        before = store.lookup(None, tags_of(guards=(MINE,)))
        replaced = store.lookup(None, tags_of(guards=(THEIRS,)))
        assert replaced.lease > before.lease
        assert not replaced.storable
        assert not store.lookup(None, tags_of(guards=(THEIRS,))).storable

    def test_entries_die_when_a_reader_of_another_mind_comes(self, store: Store) -> None:
        filled(store, tags_of(guards=(MINE,)))
        store.lookup(None, tags_of(guards=(THEIRS,)))
        assert store.lookup(KEY, tags_of(guards=(MINE,))).payload is None

    def test_readers_of_two_minds_never_share_an_entry(self, store: Store) -> None:
        seen = store.lookup(KEY, tags_of(guards=(MINE,)))
        store.lookup(None, tags_of(guards=(THEIRS,)))
        store.fill(KEY, b"rows", seen.lease, LONG_S)
        assert store.lookup(KEY, tags_of(guards=(THEIRS,))).payload is None
        assert store.lookup(KEY, tags_of(guards=(MINE,))).payload is None

    def test_a_mark_on_the_table_is_seen_through_its_guard(self, store: Store) -> None:
        filled(store, tags_of(guards=(MINE,)))
        store.mark(tags_of(TABLE), new_writer(), LONG_S)
        seen = store.lookup(KEY, tags_of(guards=(MINE,)))
        assert (seen.payload, seen.storable) == (None, False)

    def test_a_mark_on_the_table_is_seen_through_a_guard_made_after_it(self, store: Store) -> None:
        writer = new_writer()
        store.mark(tags_of(TABLE), writer, LONG_S)
        assert not store.lookup(None, tags_of(guards=(MINE,))).storable
        store.release((TABLE,), writer)
        assert store.lookup(None, tags_of(guards=(MINE,))).storable

    def test_a_release_of_the_table_changes_its_guard(self, store: Store) -> None:
        filled(store, tags_of(guards=(MINE,)))
        store.release((TABLE,), new_writer())
        assert store.lookup(KEY, tags_of(guards=(MINE,))).payload is None

    def test_a_mark_on_the_table_is_seen_through_the_plain_tag(self, store: Store) -> None:
        store.lookup(None, tags_of(guards=(MINE,)))
        filled(store, tags_of(TABLE))
        store.mark(tags_of(guards=(THEIRS,)), new_writer(), LONG_S)
        assert not store.lookup(None, tags_of(TABLE)).storable
