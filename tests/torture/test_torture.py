"""Everything happens once to a shared store, and no answer is older than it may be; ``make torture`` goes on longer."""

from __future__ import annotations

import pytest
from torture_setting import Asynchronous, Setting, torture, why_untested
from torture_tally import Tally


@pytest.mark.parametrize(
    ("store", "db", "seconds", "asynchronous"),
    [
        ("lmdb", "postgresql", 10.0, "none"),
        ("redis", "sqlite", 5.0, "some"),
        ("redis-near-validate", "sqlite", 5.0, "none"),
        ("redis-near-push", "sqlite", 5.0, "some"),
    ],
)
def test_no_answer_is_older_than_it_may_be_whatever_happens(
    store: str, db: str, seconds: float, asynchronous: Asynchronous
) -> None:
    setting = Setting(
        store=store,
        db=db,
        seconds=seconds,
        seed=7,
        readers=2,
        groups=20,
        pause_s=0.05,
        mark_ttl_s=6.0,
        every_s=0.2,
        once_each=True,
        asynchronous=asynchronous,
    )

    tally = torture(setting, lambda line: None)

    assert not tally.violations, tally.violations[0].told
    assert why_untested(tally) is None


def test_a_run_in_which_nothing_happened_says_nothing() -> None:
    assert why_untested(Tally()) == "nothing was tested: there was no hit, no write, no fault"
