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

import random
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from querycache._types import Guard, Lookup, TagSet
from querycache.stores.base import Store, StoreStats

__all__ = ["StoreConformance"]

_KEY: Final = b"key"
_A: Final = b"product|id=1"
_B: Final = b"product*"
_TABLE: Final = b"product!"
_MINE: Final[Guard] = (_TABLE, b"fingerprint-1")
_THEIRS: Final[Guard] = (_TABLE, b"fingerprint-2")
_LONG_S: Final = 60.0


def _writer() -> bytes:
    return secrets.token_bytes(16)


def _tags(*tags: bytes, guards: tuple[Guard, ...] = ()) -> TagSet:
    return TagSet(tags, guards)


def _filled(store: Store, tags: TagSet, payload: bytes = b"rows", key: bytes = _KEY) -> Lookup:
    """Fill an entry under the lease that a lookup gave; return that lookup."""
    seen = store.lookup(key, tags)
    assert store.fill(key, payload, seen.lease, _LONG_S)
    return seen


class StoreConformance:
    """One test for each promise of a store. Subclasses give the fixture ``store``, open and empty."""

    largest_payload_bytes = 1_000_000
    most_tags = 3000

    def let_pass(self, store: Store, seconds: float) -> None:
        """Let time pass on the store's clock. A store whose clock a test can move overrides this."""
        time.sleep(seconds)

    # Entries

    def test_an_entry_is_served_as_it_was_filled(self, store: Store) -> None:
        _filled(store, _tags(_A, _B))
        assert store.lookup(_KEY, _tags(_A, _B)).payload == b"rows"

    def test_a_key_that_was_never_filled_is_a_miss(self, store: Store) -> None:
        assert store.lookup(b"other", _tags(_A)).payload is None

    def test_keys_do_not_share_entries(self, store: Store) -> None:
        _filled(store, _tags(_A), b"one", b"k1")
        _filled(store, _tags(_A), b"two", b"k2")
        assert store.lookup(b"k1", _tags(_A)).payload == b"one"

    def test_long_keys_and_tags_are_told_apart_to_their_last_byte(self, store: Store) -> None:
        long = b"k" * 2000
        _filled(store, _tags(long), b"one", long + b"1")
        _filled(store, _tags(long), b"two", long + b"2")
        assert store.lookup(long + b"1", _tags(long)).payload == b"one"

    def test_a_second_fill_replaces_the_first(self, store: Store) -> None:
        _filled(store, _tags(_A), b"old")
        _filled(store, _tags(_A), b"new")
        assert store.lookup(_KEY, _tags(_A)).payload == b"new"

    def test_an_empty_payload_is_a_hit(self, store: Store) -> None:
        _filled(store, _tags(_A), b"")
        assert store.lookup(_KEY, _tags(_A)).payload == b""

    def test_a_large_payload_comes_back_byte_for_byte(self, store: Store) -> None:
        payload = random.Random(7).randbytes(self.largest_payload_bytes)
        _filled(store, _tags(_A), payload)
        assert store.lookup(_KEY, _tags(_A)).payload == payload

    def test_an_entry_without_tags_is_served(self, store: Store) -> None:
        _filled(store, _tags())
        assert store.lookup(_KEY, _tags()).payload == b"rows"

    def test_an_entry_is_not_served_for_other_tags(self, store: Store) -> None:
        _filled(store, _tags(_A))
        assert store.lookup(_KEY, _tags(_B)).payload is None

    def test_an_entry_is_not_served_for_fewer_tags(self, store: Store) -> None:
        _filled(store, _tags(_A, _B))
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_an_entry_expires(self, store: Store) -> None:
        seen = store.lookup(_KEY, _tags(_A))
        store.fill(_KEY, b"rows", seen.lease, 0.01)
        self.let_pass(store, 0.02)
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_a_second_fill_sets_the_time_to_live_anew(self, store: Store) -> None:
        seen = store.lookup(_KEY, _tags(_A))
        store.fill(_KEY, b"rows", seen.lease, 0.01)
        store.fill(_KEY, b"rows", seen.lease, _LONG_S)
        self.let_pass(store, 0.02)
        assert store.lookup(_KEY, _tags(_A)).payload == b"rows"

    # Leases

    def test_a_missing_stamp_is_made_and_stays(self, store: Store) -> None:
        first = store.lookup(None, _tags(_A))
        assert first.storable
        assert store.lookup(None, _tags(_A)).lease == first.lease

    def test_a_lease_has_the_stamps_of_tags_then_of_guards_in_their_order(self, store: Store) -> None:
        both = store.lookup(None, _tags(_A, _B, guards=(_MINE,))).lease
        assert store.lookup(None, _tags(_B, _A, guards=(_MINE,))).lease == (both[1], both[0], both[2])

    def test_different_tags_have_different_stamps(self, store: Store) -> None:
        assert len(set(store.lookup(None, _tags(_A, _B, guards=(_MINE,))).lease)) == 3

    def test_a_hit_has_a_lease_too(self, store: Store) -> None:
        seen = _filled(store, _tags(_A, _B))
        assert store.lookup(_KEY, _tags(_A, _B)).lease == seen.lease

    def test_without_a_key_there_is_no_payload(self, store: Store) -> None:
        _filled(store, _tags(_A))
        assert store.lookup(None, _tags(_A)).payload is None

    def test_a_stamp_is_not_of_the_future(self, store: Store) -> None:
        before = store.clock()
        seen = store.lookup(None, _tags(_A))
        assert before < seen.lease[0] <= seen.now <= store.clock()

    def test_a_mark_that_is_over_leaves_a_stamp_not_later_than_the_clock(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A, _B), writer, _LONG_S)
        store.release((_A, _B), writer)
        now = store.clock()
        assert max(store.lookup(None, _tags(_A, _B)).lease) <= now

    def test_answers_come_in_the_order_of_the_questions(self, store: Store) -> None:
        _filled(store, _tags(_A), b"one", b"k1")
        _filled(store, _tags(_B), b"two", b"k2")
        questions = [(b"k2", _tags(_B)), (None, _tags(_A)), (b"none", _tags(_A)), (b"k1", _tags(_A))]
        answers = store.lookup_many(questions)
        assert [answer.payload for answer in answers] == [b"two", None, None, b"one"]
        assert answers[1].lease == store.lookup(None, _tags(_A)).lease

    def test_no_questions_have_no_answers(self, store: Store) -> None:
        assert store.lookup_many([]) == []

    def test_many_fills_are_many_entries(self, store: Store) -> None:
        lease = store.lookup(None, _tags(_A)).lease
        assert store.fill_many([(b"k1", b"one", lease, _LONG_S), (b"k2", b"two", lease, _LONG_S)]) == 2
        assert store.lookup(b"k2", _tags(_A)).payload == b"two"

    # Marks

    def test_nothing_is_served_or_storable_while_a_tag_is_marked(self, store: Store) -> None:
        _filled(store, _tags(_A, _B))
        store.mark(_tags(_A), _writer(), _LONG_S)
        seen = store.lookup(_KEY, _tags(_A, _B))
        assert (seen.payload, seen.storable) == (None, False)

    def test_what_is_filled_while_a_tag_is_marked_is_not_served(self, store: Store) -> None:
        store.mark(_tags(_A), _writer(), _LONG_S)
        _filled(store, _tags(_A))
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_a_mark_on_one_tag_leaves_entries_of_others(self, store: Store) -> None:
        _filled(store, _tags(_A))
        store.mark(_tags(_B), _writer(), _LONG_S)
        assert store.lookup(_KEY, _tags(_A)).payload == b"rows"

    def test_a_mark_says_what_was_marked(self, store: Store) -> None:
        assert set(store.mark(_tags(_A, _B), _writer(), _LONG_S)) == {_A, _B}

    def test_a_mark_replaces_the_stamp(self, store: Store) -> None:
        before = store.lookup(None, _tags(_A)).lease
        store.mark(_tags(_A), _writer(), _LONG_S)
        assert store.lookup(None, _tags(_A)).lease > before

    def test_a_release_makes_the_tag_storable_with_a_new_stamp(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A), writer, _LONG_S)
        during = store.lookup(None, _tags(_A))
        store.release((_A,), writer)
        after = store.lookup(None, _tags(_A))
        assert after.storable
        assert after.lease > during.lease

    def test_a_lease_from_before_the_mark_fills_nothing_that_is_served_after_it(self, store: Store) -> None:
        before = store.lookup(_KEY, _tags(_A))
        writer = _writer()
        store.mark(_tags(_A), writer, _LONG_S)
        store.release((_A,), writer)
        store.fill(_KEY, b"old", before.lease, _LONG_S)
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_a_lease_from_during_the_mark_fills_nothing_that_is_served_after_it(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A), writer, _LONG_S)
        during = store.lookup(_KEY, _tags(_A))
        store.release((_A,), writer)
        store.fill(_KEY, b"old", during.lease, _LONG_S)
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_one_outdated_stamp_of_many_is_enough(self, store: Store) -> None:
        many = _tags(*(b"t%d" % number for number in range(50)), guards=(_MINE,))
        _filled(store, many)
        store.release((b"t49",), _writer())
        assert store.lookup(_KEY, many).payload is None

    def test_a_release_without_a_mark_changes_the_stamp(self, store: Store) -> None:
        _filled(store, _tags(_A))
        store.release((_A,), _writer())
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_a_release_of_a_tag_that_nobody_knows_gives_it_a_stamp(self, store: Store) -> None:
        before = store.clock()
        store.release((_A,), _writer())
        assert store.lookup(None, _tags(_A)).lease[0] > before

    def test_a_release_twice_changes_the_stamp_twice(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A), writer, _LONG_S)
        store.release((_A,), writer)
        _filled(store, _tags(_A))
        store.release((_A,), writer)
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_a_tag_stays_marked_until_its_last_writer_releases(self, store: Store) -> None:
        first, second = _writer(), _writer()
        store.mark(_tags(_A), first, _LONG_S)
        store.mark(_tags(_A), second, _LONG_S)
        store.release((_A,), first)
        assert not store.lookup(None, _tags(_A)).storable
        store.release((_A,), second)
        assert store.lookup(None, _tags(_A)).storable

    def test_a_release_of_one_writer_does_not_unmark_another_that_came_later(self, store: Store) -> None:
        first, second = _writer(), _writer()
        store.release((_A,), first)
        store.mark(_tags(_A), second, _LONG_S)
        store.release((_A,), first)
        assert not store.lookup(None, _tags(_A)).storable

    def test_only_the_tags_named_are_released(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A, _B), writer, _LONG_S)
        store.release((_A,), writer)
        assert [store.lookup(None, _tags(tag)).storable for tag in (_A, _B)] == [True, False]

    def test_a_mark_ends_at_its_deadline(self, store: Store) -> None:
        store.mark(_tags(_A), _writer(), 0.01)
        self.let_pass(store, 0.02)
        assert store.lookup(None, _tags(_A)).storable

    def test_an_entry_from_before_a_mark_is_dead_after_its_deadline(self, store: Store) -> None:
        _filled(store, _tags(_A))
        store.mark(_tags(_A), _writer(), 0.01)
        self.let_pass(store, 0.02)
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_a_release_after_the_deadline_still_changes_the_stamp(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A), writer, 0.01)
        self.let_pass(store, 0.02)
        _filled(store, _tags(_A))
        store.release((_A,), writer)
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_a_short_deadline_does_not_shorten_that_of_another_writer(self, store: Store) -> None:
        store.mark(_tags(_A), _writer(), _LONG_S)
        store.mark(_tags(_A), _writer(), 0.01)
        self.let_pass(store, 0.02)
        assert not store.lookup(None, _tags(_A)).storable

    def test_a_long_deadline_does_not_lengthen_that_of_another_writer(self, store: Store) -> None:
        late = _writer()
        store.mark(_tags(_A), _writer(), 0.01)
        store.mark(_tags(_A), late, _LONG_S)
        self.let_pass(store, 0.02)
        store.release((_A,), late)
        assert store.lookup(None, _tags(_A)).storable

    def test_marking_again_renews(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A), writer, 0.01)
        store.mark(_tags(_A), writer, _LONG_S)
        self.let_pass(store, 0.02)
        assert not store.lookup(None, _tags(_A)).storable

    def test_marking_again_needs_one_release(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_A), writer, _LONG_S)
        store.mark(_tags(_A), writer, _LONG_S)
        store.release((_A,), writer)
        assert store.lookup(None, _tags(_A)).storable

    def test_a_commit_of_thousands_of_tags_is_marked_and_released(self, store: Store) -> None:
        many = tuple(b"row|id=%d" % number for number in range(self.most_tags))
        writer = _writer()
        assert len(store.mark(TagSet(many), writer, _LONG_S)) == len(many)
        assert not store.lookup(None, _tags(many[-1])).storable
        store.release(many, writer)
        assert all(answer.storable for answer in store.lookup_many((None, _tags(tag)) for tag in many))

    def test_nothing_to_mark_or_release_is_no_error(self, store: Store) -> None:
        assert store.mark(_tags(), _writer(), _LONG_S) == ()
        store.release((), _writer())

    # Guards

    def test_a_guard_is_made_by_its_first_reader_and_stays(self, store: Store) -> None:
        first = store.lookup(None, _tags(guards=(_MINE,)))
        assert first.storable
        assert store.lookup(None, _tags(guards=(_MINE,))).lease == first.lease

    def test_a_writer_of_the_same_mind_leaves_the_guard(self, store: Store) -> None:
        _filled(store, _tags(guards=(_MINE,)))
        assert store.mark(_tags(_A, guards=(_MINE,)), _writer(), _LONG_S) == (_A,)
        assert store.lookup(_KEY, _tags(guards=(_MINE,))).payload == b"rows"

    def test_a_writer_of_another_mind_marks_the_guard(self, store: Store) -> None:
        _filled(store, _tags(guards=(_MINE,)))
        assert set(store.mark(_tags(_A, guards=(_THEIRS,)), _writer(), _LONG_S)) == {_A, _TABLE}
        seen = store.lookup(_KEY, _tags(guards=(_MINE,)))
        assert (seen.payload, seen.storable) == (None, False)

    def test_a_writer_marks_a_guard_that_is_absent(self, store: Store) -> None:
        assert set(store.mark(_tags(_A, guards=(_MINE,)), _writer(), _LONG_S)) == {_A, _TABLE}
        assert not store.lookup(None, _tags(guards=(_MINE,))).storable

    def test_a_guard_that_a_writer_marked_is_released_like_a_tag(self, store: Store) -> None:
        writer = _writer()
        store.lookup(None, _tags(guards=(_MINE,)))
        marked = store.mark(_tags(_A, guards=(_THEIRS,)), writer, _LONG_S)
        during = store.lookup(None, _tags(guards=(_MINE,)))
        store.release(marked, writer)
        after = store.lookup(None, _tags(guards=(_MINE,)))
        assert after.lease > during.lease

    def test_a_reader_of_another_mind_replaces_the_guard_and_nobody_may_store(self, store: Store) -> None:
        before = store.lookup(None, _tags(guards=(_MINE,)))
        replaced = store.lookup(None, _tags(guards=(_THEIRS,)))
        assert replaced.lease > before.lease
        assert not replaced.storable
        assert not store.lookup(None, _tags(guards=(_THEIRS,))).storable

    def test_entries_die_when_a_reader_of_another_mind_comes(self, store: Store) -> None:
        _filled(store, _tags(guards=(_MINE,)))
        store.lookup(None, _tags(guards=(_THEIRS,)))
        assert store.lookup(_KEY, _tags(guards=(_MINE,))).payload is None

    def test_readers_of_two_minds_never_share_an_entry(self, store: Store) -> None:
        seen = store.lookup(_KEY, _tags(guards=(_MINE,)))
        store.lookup(None, _tags(guards=(_THEIRS,)))
        store.fill(_KEY, b"rows", seen.lease, _LONG_S)
        assert store.lookup(_KEY, _tags(guards=(_THEIRS,))).payload is None
        assert store.lookup(_KEY, _tags(guards=(_MINE,))).payload is None

    def test_a_mark_on_the_table_is_seen_through_its_guard(self, store: Store) -> None:
        _filled(store, _tags(guards=(_MINE,)))
        store.mark(_tags(_TABLE), _writer(), _LONG_S)
        seen = store.lookup(_KEY, _tags(guards=(_MINE,)))
        assert (seen.payload, seen.storable) == (None, False)

    def test_a_mark_on_the_table_is_seen_through_a_guard_made_after_it(self, store: Store) -> None:
        writer = _writer()
        store.mark(_tags(_TABLE), writer, _LONG_S)
        assert not store.lookup(None, _tags(guards=(_MINE,))).storable
        store.release((_TABLE,), writer)
        assert store.lookup(None, _tags(guards=(_MINE,))).storable

    def test_a_release_of_the_table_changes_its_guard(self, store: Store) -> None:
        _filled(store, _tags(guards=(_MINE,)))
        store.release((_TABLE,), _writer())
        assert store.lookup(_KEY, _tags(guards=(_MINE,))).payload is None

    def test_a_mark_on_the_table_is_seen_through_the_plain_tag(self, store: Store) -> None:
        store.lookup(None, _tags(guards=(_MINE,)))
        _filled(store, _tags(_TABLE))
        store.mark(_tags(guards=(_THEIRS,)), _writer(), _LONG_S)
        assert not store.lookup(None, _tags(_TABLE)).storable

    # Clear

    def test_clear_makes_every_entry_a_miss(self, store: Store) -> None:
        _filled(store, _tags(_A, guards=(_MINE,)))
        store.clear()
        assert store.lookup(_KEY, _tags(_A, guards=(_MINE,))).payload is None

    def test_clear_kills_a_fill_that_is_under_way(self, store: Store) -> None:
        seen = store.lookup(_KEY, _tags(_A))
        store.clear()
        store.fill(_KEY, b"old", seen.lease, _LONG_S)
        assert store.lookup(_KEY, _tags(_A)).payload is None

    def test_clear_kills_a_fill_that_depends_on_guards_alone(self, store: Store) -> None:
        seen = store.lookup(_KEY, _tags(guards=(_MINE,)))
        store.clear()
        store.fill(_KEY, b"old", seen.lease, _LONG_S)
        assert store.lookup(_KEY, _tags(guards=(_MINE,))).payload is None

    def test_clear_leaves_marks(self, store: Store) -> None:
        store.mark(_tags(_A, _TABLE), _writer(), _LONG_S)
        store.clear()
        assert not store.lookup(None, _tags(_A)).storable
        assert not store.lookup(None, _tags(guards=(_MINE,))).storable

    def test_clear_remembers_the_mind_of_a_guard(self, store: Store) -> None:
        store.lookup(None, _tags(guards=(_MINE,)))
        store.clear()
        assert not store.lookup(None, _tags(guards=(_THEIRS,))).storable

    def test_after_clear_entries_are_kept_again(self, store: Store) -> None:
        store.clear()
        _filled(store, _tags(_A, guards=(_MINE,)))
        assert store.lookup(_KEY, _tags(_A, guards=(_MINE,))).payload == b"rows"

    def test_no_stamp_is_given_twice(self, store: Store) -> None:
        stamps: list[int] = []
        for number in range(20):
            stamps += store.lookup(None, _tags(_A, _B, guards=(_MINE,))).lease
            (store.clear if number % 2 else lambda: store.release((_A, _B, _TABLE), _writer()))()
        assert len(set(stamps)) == len(stamps)

    # The rest

    def test_the_clock_never_goes_back(self, store: Store) -> None:
        readings = []
        for _ in range(50):
            readings += [store.clock(), *store.lookup(None, _tags(_A)).lease]
            store.release((_A,), _writer())
        clocks = readings[::2]
        assert clocks == sorted(clocks)
        assert all(stamp > 0 for stamp in readings)

    def test_stats_count_what_a_store_can_count(self, store: Store) -> None:
        _filled(store, _tags(_A))
        store.mark(_tags(_B), _writer(), _LONG_S)
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
        store.release((_A,), _writer())

    def test_threads_never_read_less_than_was_acknowledged(self, store: Store) -> None:
        """A database of one number, written and read as coherence demands, by several threads at once."""
        Hammer(store).run()


class Hammer:
    """A database of one number, its acknowledged value, and threads that write and read it through a store."""

    def __init__(self, store: Store, writers: int = 2, readers: int = 3, rounds: int = 60) -> None:
        self._store = store
        self._counts = (writers, readers, rounds)
        self._lock = threading.Lock()
        self._value = self._acknowledged = 0
        self._faults: list[str] = []
        self.hits = 0

    def run(self) -> None:
        """Raise AssertionError where a read returned less than had been acknowledged when it began."""
        writers, readers, rounds = self._counts
        work = [self._write] * writers + [self._read] * readers
        threads = [threading.Thread(target=self._repeat, args=(each, rounds)) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not self._faults, self._faults[0]

    def _repeat(self, work: Callable[[], None], rounds: int) -> None:
        try:
            for _ in range(rounds):
                work()
        except Exception as error:  # a thread must hand its failure to the test, whatever it is
            self._faults.append(repr(error))

    def _write(self) -> None:
        writer = _writer()
        marked = self._store.mark(_tags(_A, guards=(_MINE,)), writer, _LONG_S)
        with self._lock:
            self._value = value = self._value + 1
        self._store.release(marked, writer)
        with self._lock:
            self._acknowledged = max(self._acknowledged, value)

    def _read(self) -> None:
        with self._lock:
            expected = self._acknowledged
        seen = self._store.lookup(_KEY, _tags(_A, guards=(_MINE,)))
        if seen.payload is not None:
            self.hits += 1
            value = int(seen.payload)
        else:
            with self._lock:
                value = self._value
            if seen.storable:
                self._store.fill(_KEY, b"%d" % value, seen.lease, _LONG_S)
        if value < expected:
            self._faults.append(f"read {value} after {expected} was acknowledged")
