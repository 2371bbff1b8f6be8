"""A protocol with a rule broken does not survive the torture: the interleaving that the rule is there for is forced upon it.

Not here is ``<=`` in place of a margin in the rule for snapshots: it needs two things at one tick of a clock, and the clock
of ``lmdb://`` gives no tick twice. The models break it (``model_cases``), and a store whose clock stands still
(``test_coherence_proof``).
"""

from __future__ import annotations

import pytest
from torture_broken import VARIANTS, Variant, library_of
from torture_setting import Setting, torture
from torture_tally import Tally


def torture_with(variant: Variant) -> Tally:
    with library_of(variant) as library:
        setting = Setting(
            store=variant.store,
            seconds=40.0,
            seed=1,
            readers=1,
            groups=4,
            pause_s=0.02,
            mark_ttl_s=6.0,
            every_s=0.0,
            only=[variant.shown_by],
            until_violation=True,
            judged_after_s=0.3,
            library=library,
        )
        return torture(setting, lambda line: None)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_broken_protocol_is_caught(variant: Variant) -> None:
    tally = torture_with(variant)

    assert tally.violations, tally.table()
    assert variant.is_told_by(tally.violations[0].promise), tally.violations[0].told
