"""Torture a store: processes that read and write through the cache, and every second something terrible.

    python tests/torture/torture_run.py --store lmdb --db postgresql|mariadb|sqlite --minutes 10 [--seed N] [--json FILE]

Each answer is judged by what was acknowledged and seen before (``torture_history``). Prints how far it is, then the figures;
each violation with what happened around it. Ends with 1 where there was a violation, or where nothing was tested: no hit,
no write, no fault.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from torture_setting import DATABASES, STORES, Setting, torture, why_untested  # noqa: E402


def main() -> int:
    """Read the command line and torture."""
    given = _options()
    seed = random.randrange(10**9) if given.seed is None else given.seed
    setting = Setting(
        store=given.store,
        db=given.db,
        seconds=given.minutes * 60,
        seed=seed,
        readers=given.readers,
        writers=given.writers,
        groups=given.groups,
        pause_s=given.pause,
        mark_ttl_s=given.mark_ttl,
        every_s=given.every,
        only=tuple(given.only or ()),
        on_mark_failure=given.on_mark_failure,
        library=given.library,
        asynchronous=given.asynchronous,
    )
    asynchronous = f", {given.asynchronous} in event loops" if given.asynchronous != "none" else ""
    print(f"torture of {given.store} on {given.db}, seed {seed}{asynchronous}", flush=True)
    tally = torture(setting, lambda line: print(line, flush=True))
    for violation in tally.violations[:20]:
        print(violation.told)
    print(tally.table())
    untested = why_untested(tally)
    if untested is not None:
        print(untested)
    if given.json:
        Path(given.json).write_text(json.dumps({"store": given.store, "db": given.db, "seed": seed, **tally.as_json()}))
    print(f"torture: {tally.progress()}")
    return 1 if tally.violations or untested is not None else 0


def _options() -> argparse.Namespace:
    usual = Setting()
    parser = argparse.ArgumentParser(description="read and write through a cache that terrible things happen to")
    parser.add_argument("--store", choices=list(STORES), default="lmdb")
    parser.add_argument("--db", choices=DATABASES, default="postgresql")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, help="the same faults in the same order")
    parser.add_argument("--readers", type=int, default=usual.readers, help="reading processes, of two threads")
    parser.add_argument("--writers", type=int, default=usual.writers, help="writing processes")
    parser.add_argument("--groups", type=int, default=usual.groups, help="groups of rows that are written together")
    parser.add_argument("--pause", type=float, default=usual.pause_s, help="seconds between two writes of a writer")
    parser.add_argument("--mark-ttl", type=float, default=usual.mark_ttl_s, help="seconds that a mark lives")
    parser.add_argument("--every", type=float, default=usual.every_s, help="seconds between two faults")
    parser.add_argument("--only", action="append", help="only this fault, by its name; may be repeated")
    parser.add_argument("--on-mark-failure", choices=["raise", "continue"], default=usual.on_mark_failure)
    parser.add_argument(
        "--async",
        dest="asynchronous",
        choices=["none", "some", "all"],
        default=usual.asynchronous,
        help="who works in an event loop, with an asynchronous driver",
    )
    parser.add_argument("--library", type=Path, help="a folder with the querycache that the workers use")
    parser.add_argument("--json", help="write the figures to a file")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
