"""Let the oracle look for mistakes that are known: the library without one rule after another.

    python tests/oracle/run_rules.py [--name part of a name] [--most 300] [--from seed] [--tune]

Prints after how many examples each rule was found missing, from random seeds; ends with 1 where one was not. ``--tune``
begins at the seeds of ``oracle_rules.py`` and prints for each a seed whose first example finds it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "rules")]

from oracle_rules import RULES, catch  # noqa: E402
from run import be_quiet, database_on  # noqa: E402


def main() -> int:
    """Read the command line and search."""
    parser = argparse.ArgumentParser(description="see the oracle find rules that are taken out of the library")
    parser.add_argument("--name", default="", help="only the rules whose name contains this text")
    parser.add_argument("--most", type=int, default=300, help="examples to look for one rule")
    parser.add_argument("--from", dest="first", type=int, help="begin with this seed, not with a random one")
    parser.add_argument("--tune", action="store_true", help="begin with the seeds that are noted")
    given = parser.parse_args()
    be_quiet()
    missed = 0
    print(f"{'examples':>8}  {'seconds':>7}  {'seed':>10}  rule", flush=True)
    for name, focus in RULES.items():
        if given.name not in name:
            continue
        first = focus.seed if given.tune else random.randrange(10**9) if given.first is None else given.first
        began = time.process_time()
        with database_on(focus.db) as url:
            caught = catch(url, name, first_seed=first, most=given.most)
        missed += caught is None
        examples, seed = ("none", "") if caught is None else (str(caught.examples), str(caught.seed))
        print(f"{examples:>8}  {time.process_time() - began:7.1f}  {seed:>10}  {name}", flush=True)
    print(f"oracle-rules: {missed} not found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
