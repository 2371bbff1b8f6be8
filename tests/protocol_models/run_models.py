"""Search the models with larger bounds than the suite does, and print what was found as a table.

    python tests/protocol_models/run_models.py --faults 3 --crashes 2 [--name TEXT] [--max-states N] [--stories]

Progress goes to stderr. Ends with 1 where a promise is broken that must hold, or holds without its rule.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

from model_cases import Case, breaking, holding, surviving
from state_search import Verdict, retold, search


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--faults", type=int, default=2, help="faults of the store (default: 2)")
    parser.add_argument("--crashes", type=int, default=1, help="writers killed (default: 1)")
    parser.add_argument("--name", default="", help="only the models whose name contains this text")
    parser.add_argument(
        "--max-states", type=int, default=5_000_000, help="give a model up after so many (default: 5 million)"
    )
    parser.add_argument("--stories", action="store_true", help="tell the schedule that breaks a promise, step by step")
    return parser.parse_args()


def _show_progress(name: str, states: int, waiting: int) -> None:
    print(f"\r{states:>11,} states, {waiting:>9,} to look at   {name[:60]:60}", end="", file=sys.stderr, flush=True)


def _word_for(case: Case, verdict: Verdict) -> str:
    if not verdict.is_whole:
        return "NOT ENDED"
    word = "breaks" if verdict.broken else "holds"
    return word if bool(verdict.broken) == case.breaks else word.upper()


def main() -> int:
    """Search, tell, and count what is not as it should be."""
    options = _options()
    cases = [
        case
        for case in [*holding(options.faults, options.crashes), *surviving(), *breaking()]
        if options.name in case.name
    ]
    wrong = 0
    print(f"{'verdict':9}  {'states':>11}  {'steps':>11}  {'s':>7}  promise")
    for case in cases:
        began = time.monotonic()
        verdict = search(case.start(), max_states=options.max_states, on_progress=partial(_show_progress, case.name))
        word = _word_for(case, verdict)
        wrong += not word.islower()
        print("\r" + " " * 110 + "\r", end="", file=sys.stderr, flush=True)
        seconds = time.monotonic() - began
        print(f"{word:9}  {verdict.states:>11,}  {verdict.steps:>11,}  {seconds:>7.1f}  {case.name}", flush=True)
        if verdict.broken and (options.stories or not case.breaks):
            print(retold(case.start(), verdict.schedule))
    print(f"{len(cases)} models searched, {wrong} not as they should be")
    return 1 if wrong or not cases else 0


if __name__ == "__main__":
    sys.exit(main())
