"""Which models are searched, and what must come of it?

One table for the suite and for ``run_models.py``, which searches the same with larger bounds. A case that breaks leaves out
one rule, and says which promise the rule is there for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from flight_model import FlightWorld
from keys_model import KeysSetting, KeysWorld
from model_store import StoreRules
from protocol_model import ALL_KINDS, EVICTIONS, Faults, Plan, ProtocolWorld, Rules, Setting
from snapshot_model import SnapshotSetting, SnapshotWorld
from state_search import World

from querycache._types import Lease, Stamp
from querycache.coherence.snapshots import Freshness, may_fill, may_serve


@dataclass(frozen=True, slots=True)
class Case:
    """A world to search. ``breaks``: whether its promise must break; else there are ``at_least`` so many states."""

    name: str
    start: Callable[[], World]
    breaks: bool = False
    at_least: int = 0

    def __str__(self) -> str:
        return self.name


def holding(faults: int = 2, crashes: int = 1) -> list[Case]:
    """Return all that holds with every rule in place, for so many faults of a store and so many killed writers."""
    return [*_protocol(faults, crashes), *_flights(faults), *_keys(faults), *snapshots(faults)]


def _protocol(faults: int, crashes: int) -> list[Case]:
    lossy = Faults(ALL_KINDS, faults, 0, loses_marks=True)
    kept = Faults(ALL_KINDS | {"clear"}, faults, crashes)
    lossy_less, kept_less = replace(lossy, budget=faults - 1), replace(kept, budget=faults - 1)
    settings = {
        "acknowledged is seen, whatever is lost while the writers live": (
            Setting("acknowledged", faults=lossy),
            15_000,
        ),
        "visible is seen while marks are kept, whoever is killed": (Setting("visible", faults=kept), 15_000),
        "visible is seen with rollbacks, and marks that end one after the other": (
            Setting("visible", faults=kept_less, rollbacks=True, store_rules=StoreRules(mark_life=2)),
            5_000,
        ),
        "acknowledged is seen while a release is owed and its mark kept": (
            Setting("acknowledged", faults=kept_less, acknowledges_when_owed=True),
            5_000,
        ),
        "acknowledged is seen by readers of two statements": (
            Setting("acknowledged", faults=lossy_less, statements=((0,), (0, 1)), reads=((0, 1), (1,))),
            5_000,
        ),
        "acknowledged is seen of commits that could not be marked": (
            Setting("acknowledged", faults=replace(lossy, kinds=EVICTIONS | {"mark fails"})),
            5_000,
        ),
        "acknowledged is seen of others' changes, who clear the cache": (
            Setting("acknowledged", writers=(Plan((0, 1)), Plan((0,), "outsider")), faults=lossy_less),
            2_000,
        ),
        "visible is seen of two-phase commits": (
            Setting("visible", writers=(Plan((0, 1), "two-phase"), Plan((0,))), faults=kept_less),
            5_000,
        ),
        "all is seen in the end, where marks are kept": (Setting("settled", faults=kept_less), 5_000),
        "all is seen in the end, where nobody is killed": (Setting("settled", faults=lossy_less), 3_000),
        "all is seen after the time to live, whatever is lost and whoever is killed": (
            Setting("bounded", faults=replace(lossy_less, crashes=crashes)),
            5_000,
        ),
        "acknowledged is seen tag by tag, the entry read first": (
            Setting("acknowledged", faults=lossy, reads=((0, 0),), steps="entry first"),
            10_000,
        ),
        "acknowledged is seen tag by tag, the entry read last": (
            Setting("acknowledged", faults=lossy, reads=((0, 0),), steps="entry last"),
            8_000,
        ),
        "visible is seen tag by tag, the entry read first": (
            Setting("visible", faults=kept_less, reads=((0, 0),), steps="entry first"),
            5_000,
        ),
        "visible is seen tag by tag, the entry read last": (
            Setting("visible", faults=kept_less, reads=((0, 0),), steps="entry last"),
            5_000,
        ),
    }
    return [_case(name, setting, at_least=at_least) for name, (setting, at_least) in settings.items()]


def _flights(faults: int) -> list[Case]:
    lossy = Faults(ALL_KINDS, faults - 1, 0, loses_marks=True)
    kept = Faults(ALL_KINDS, faults - 1)
    return [
        Case(
            f"{setting.promise} is seen by a waiter that looks up again",
            lambda setting=setting: FlightWorld(setting),  # type: ignore[misc]
            at_least=8_000,
        )
        for setting in (
            Setting("acknowledged", reads=((0, 0), (0, 0)), faults=lossy),
            Setting("visible", reads=((0, 0), (0, 0)), faults=kept),
        )
    ]


def _keys(faults: int) -> list[Case]:
    settings = {
        "with two readers": (KeysSetting(writers=((1, 2),), evictions=faults - 1), 5_000),
        "where some rows changed before others": (KeysSetting(((1,), (1, 2)), (3,), evictions=faults - 1), 2_000),
        "where a row leaves it": (KeysSetting(((1,), (0, 2)), (3,), evictions=faults - 1), 2_000),
        "looked at row by row": (KeysSetting(((1,), (1, 2)), (3,), sees_one_moment=False), 1_000),
    }
    return [
        Case(
            f"a list of keys is whole, {name}",
            lambda setting=setting: KeysWorld(setting),  # type: ignore[misc]
            at_least=at_least,
        )
        for name, (setting, at_least) in settings.items()
    ]


def snapshots(faults: int = 2) -> list[Case]:
    """Return what holds of snapshots under the library's own rules."""
    ties = SnapshotSetting(statements=2, reads=1, ticks=1, has_noise=False)
    backward = SnapshotSetting(writers=1, statements=2, steps_back=faults - 1, has_noise=False)
    longer = SnapshotSetting(writers=1, ticks=1)
    killed = SnapshotSetting(writers=1, statements=2, reads=2, crashes=1, has_noise=False)
    strict = SnapshotSetting(writers=1, statements=2, reads=1, ticks=1, clock="never repeats", margin_ns=0)
    return [
        Case("a snapshot is one state on a clock that ties", lambda: SnapshotWorld(ties), at_least=15_000),
        Case("a snapshot is one state on a clock that steps back", lambda: SnapshotWorld(backward), at_least=40_000),
        Case("a snapshot is one state in three statements", lambda: SnapshotWorld(longer), at_least=5_000),
        Case("a snapshot is one state whoever is killed", lambda: SnapshotWorld(killed), at_least=5_000),
        Case("a snapshot is one state on a clock that never repeats", lambda: SnapshotWorld(strict), at_least=2_000),
    ]


def _case(name: str, setting: Setting, *, breaks: bool = False, at_least: int = 0) -> Case:
    return Case(name, lambda: ProtocolWorld(setting), breaks, at_least)


# -- without a rule ----------------------------------------------------------------------------------------------------

_ONE_EVICTION = Faults(EVICTIONS, 1, loses_marks=True)
_LATE_TICKS = Faults(frozenset({"tick"}), 2)
_LOST_AND_UNHEARD = Faults(frozenset({"tick", "release fails"}), 2, loses_marks=True)
_TWO_PHASE = (Plan((0, 1), "two-phase"), Plan((0,)))


def breaking() -> list[Case]:
    """Return what breaks: the rule left out, and the promise that it kept."""
    return [
        *(_case(name, setting, breaks=True) for name, setting in _BREAKING.items()),
        Case(
            "acknowledged, where a waiter takes the filler's rows",
            lambda: FlightWorld(Setting("acknowledged"), looks_again=False),
            breaks=True,
        ),
        *(
            Case(name, lambda setting=setting: KeysWorld(setting), breaks=True)  # type: ignore[misc]
            for name, setting in _KEYS_BREAKING.items()
        ),
        *(
            Case(name, lambda setting=setting: SnapshotWorld(setting), breaks=True)  # type: ignore[misc]
            for name, setting in _SNAPSHOTS_BREAKING.items()
        ),
    ]


def surviving() -> list[Case]:
    """Return what holds all the same without a rule: the promises that another rule keeps."""
    return [_case(name, setting) for name, setting in _SURVIVING.items()]


_KEYS_BREAKING = {
    "a list of keys, where nobody looks again after the query": KeysSetting(((1,), (1, 2)), (2,), looks_again=False),
    "a list of keys, where nobody looks again at rows looked at in turn": KeysSetting(
        ((1, 2),), (2, 1), sees_one_moment=False, looks_again=False
    ),
    "a list of keys, where the list is not looked at after its rows": KeysSetting(
        ((0, 1),), (2, 1), ends_with_the_list=False, evictions=0
    ),
    "a list of keys, where rows are kept as they were before": KeysSetting(
        ((1, 2),), (2,), looks_before_keeping=False, evictions=0
    ),
}

_BREAKING = {
    "visible, where a commit is followed by a touch and not marked before": Setting(
        "visible", rules=Rules(marks_before_commit=False)
    ),
    "visible, where a tag has room for one writer": Setting(
        "visible", store_rules=StoreRules(keeps_every_writer=False)
    ),
    "acknowledged, where a release ends only the stamp of its own mark, and one is evicted": Setting(
        "acknowledged", store_rules=StoreRules(release_always_stamps=False), faults=_ONE_EVICTION
    ),
    "acknowledged, where stamps repeat, and one is evicted": Setting(
        "acknowledged", store_rules=StoreRules(stamps_never_repeat=False), faults=Faults(EVICTIONS, 1)
    ),
    "acknowledged, where the lease is taken after the query": Setting(
        "acknowledged", rules=Rules(lease_before_query=False)
    ),
    "acknowledged, where a journal knows writers by their process": Setting(
        "acknowledged", rules=Rules(names_each_attempt=False)
    ),
    "visible, where a writer is named by its process": Setting("visible", rules=Rules(names_each_attempt=False)),
    "acknowledged, where a mark is lost, then its release, and no journal tries again": Setting(
        "acknowledged", rules=Rules(has_journal=False), faults=_LOST_AND_UNHEARD
    ),
    "acknowledged, where a mark is lost, and a commit returns while its release is owed": Setting(
        "acknowledged", acknowledges_when_owed=True, faults=_LOST_AND_UNHEARD
    ),
    "visible, where a mark expires while its commit runs": Setting(
        "visible", rules=Rules(renews_marks=False), faults=_LATE_TICKS
    ),
    "visible, where two-phase commits are marked before PREPARE only": Setting(
        "visible", writers=_TWO_PHASE, rules=Rules(marks_before_commit_prepared=False), faults=_LATE_TICKS
    ),
    "visible, where a mark is evicted": Setting("visible", faults=_ONE_EVICTION),
    "visible, where a mark cannot be set and the commit goes on": Setting(
        "visible", faults=Faults(frozenset({"mark fails"}), 1)
    ),
    "all in the end, where a mark is lost and its writer killed": Setting(
        "settled", faults=Faults(frozenset({"tick"}), 1, 1, loses_marks=True)
    ),
    "acknowledged of others' changes, where clear keeps the stamps": Setting(
        "acknowledged",
        writers=(Plan((0, 1)), Plan((0,), "outsider")),
        store_rules=StoreRules(clear_changes_stamps=False),
    ),
}
_SURVIVING = {
    "acknowledged, where a commit is followed by a touch and not marked before": Setting(
        "acknowledged", rules=Rules(marks_before_commit=False), faults=replace(_ONE_EVICTION, budget=2)
    ),
    "acknowledged, where a tag has room for one writer": Setting(
        "acknowledged", store_rules=StoreRules(keeps_every_writer=False), faults=_ONE_EVICTION
    ),
    "both, where a release ends only the stamp of its own mark, and nothing is evicted": Setting(
        "visible", store_rules=StoreRules(release_always_stamps=False)
    ),
    "both, where stamps repeat, and nothing is evicted": Setting(
        "visible", store_rules=StoreRules(stamps_never_repeat=False), writers=(Plan((0, 1)),)
    ),
    "acknowledged, where a release is lost without a journal, and its mark is kept": Setting(
        "acknowledged", rules=Rules(has_journal=False), faults=Faults(frozenset({"tick", "release fails"}), 2)
    ),
    "acknowledged, where a mark expires while its commit runs": Setting(
        "acknowledged", rules=Rules(renews_marks=False), faults=_LATE_TICKS
    ),
    "acknowledged, where two-phase commits are marked before PREPARE only": Setting(
        "acknowledged", writers=_TWO_PHASE, rules=Rules(marks_before_commit_prepared=False), faults=_LATE_TICKS
    ),
}


def _serve_at_s(freshness: Freshness, lease: Lease, *, started: bool, since: Stamp | None) -> bool:
    """Serve also what was made at S: without the margin, and with ``<=``."""
    return not started or (since is not None and all(stamp <= since for stamp in lease))


def _fill_at_s(freshness: Freshness, lease: Lease, *, first: bool, since: Stamp | None) -> bool:
    return first or (since is not None and all(stamp <= since for stamp in lease))


def _serve_always(freshness: Freshness, lease: Lease, *, started: bool, since: Stamp | None) -> bool:
    return may_serve(freshness, lease, started=False, since=since)


def _fill_always(freshness: Freshness, lease: Lease, *, first: bool, since: Stamp | None) -> bool:
    return may_fill(freshness, lease, first=True, since=since)


_SMALL = SnapshotSetting(statements=2, reads=1, writers=1, ticks=0, has_noise=False)
_SNAPSHOTS_BREAKING = {
    "a snapshot, served what was made at S by a clock that ties": replace(_SMALL, margin_ns=0, may_serve=_serve_at_s),
    "visible, filled with what was made at S by a clock that ties": replace(_SMALL, margin_ns=0, may_fill=_fill_at_s),
    "a snapshot, without a margin on a clock that steps back": replace(_SMALL, margin_ns=0, steps_back=1),
    "a snapshot, without a margin on a clock that goes back and says it never repeats": replace(
        _SMALL, margin_ns=0, steps_back=1, ticks=1, clock="never repeats"
    ),
    "a snapshot, served whatever is valid": replace(_SMALL, may_serve=_serve_always),
    "visible, filled by a snapshot whatever its age": replace(_SMALL, may_fill=_fill_always),
    "a snapshot, where what was served before it is not looked at again": replace(_SMALL, looks_again=False),
    "a snapshot, where a mark that ends by its deadline leaves its stamp": replace(
        _SMALL, ticks=2, crashes=1, ended_marks_are_stamped=False
    ),
    "a snapshot, where the clock is seen after the statement": replace(
        _SMALL, ticks=1, statements=2, clock_before_statement=False
    ),
}
