"""Take one rule out of a copy of the library, and see its tests fail: ``make rules``, or ``python tests/rules/take_out.py``.

A rule is an entry of a TOML file in this folder: which text of which module holds it, what stands there once it is taken
out, and which tests must fail then. The tree that one works in is never touched. Exit 1 where a broken rule is not noticed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(Path(__file__).parent))

from broken_rules import Rule, read_rules  # noqa: E402

TIMEOUT_S = 300.0
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?)(?:\[.*)?(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the tests of one rule: ``missed`` are those that passed all the same."""

    rule: str
    area: str
    caught: tuple[str, ...]
    missed: tuple[str, ...]
    seconds: float
    note: str = ""

    @property
    def is_noticed(self) -> bool:
        return not self.missed and not self.note


def verdict_of(rule: Rule) -> Verdict:
    """Run a rule's tests on a copy of the library that lacks the rule."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="qc-rule-") as folder:
        shutil.copytree(
            ROOT / "src" / "querycache", Path(folder) / "querycache", ignore=shutil.ignore_patterns("__pycache__")
        )
        module = Path(folder) / "querycache" / rule.module
        module.write_text(rule.broken(module.read_text(encoding="utf-8")), encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *rule.tests,
        ]
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("PYTEST_XDIST_WORKER", None)
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return Verdict(
                rule.name, rule.area, (), rule.tests, time.monotonic() - began, f"no end in {TIMEOUT_S:.0f} s"
            )
    seconds = time.monotonic() - began
    if done.returncode not in (0, 1):
        return Verdict(rule.name, rule.area, (), rule.tests, seconds, (done.stdout + done.stderr)[-600:])
    failed = set(_FAILED.findall(done.stdout))
    caught = tuple(test for test in rule.tests if test.split("[")[0] in failed)
    return Verdict(rule.name, rule.area, caught, tuple(test for test in rule.tests if test not in caught), seconds)


def run(rules: Sequence[Rule], *, jobs: int) -> Iterable[Verdict]:
    """Yield a verdict for each rule, in order, as many at a time as there are jobs."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(verdict_of, rules)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--area", action="append", help="only the rules of this file (without .toml); may be repeated")
    parser.add_argument("--name", help="only the rules whose name contains this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="rules at a time (default: one a core)")
    parser.add_argument("--json", action="store_true", help="print the verdicts as JSON")
    return parser.parse_args()


def main() -> int:
    """Run, tell, and count what was not noticed."""
    options = _options()
    rules = [
        rule
        for rule in read_rules()
        if (not options.area or rule.area in options.area) and (not options.name or options.name in rule.name)
    ]
    if not rules:
        print("no such rule: see tests/rules/*.toml", file=sys.stderr)
        return 2
    verdicts = []
    for number, verdict in enumerate(run(rules, jobs=options.jobs), 1):
        verdicts.append(verdict)
        if not options.json:
            word = "noticed" if verdict.is_noticed else "NOT NOTICED"
            print(
                f"{number:4}/{len(rules)}  {word:11}  {verdict.seconds:5.1f} s  {verdict.area}: {verdict.rule}",
                flush=True,
            )
            for test in verdict.missed:
                print(f"           passed without it: {test}")
            if verdict.note:
                print(f"           {verdict.note}")
    unnoticed = [verdict for verdict in verdicts if not verdict.is_noticed]
    if options.json:
        print(json.dumps([asdict(verdict) for verdict in verdicts], indent=2))
    else:
        tests = sum(len(verdict.caught) for verdict in verdicts)
        print(f"{len(verdicts)} rules taken out, {tests} tests failed as they should, {len(unnoticed)} not noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
