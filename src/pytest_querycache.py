"""pytest's plugin: ``QUERYCACHE_ATTACH_ALL=1 pytest`` runs anybody's tests with a cache in front of every engine.

Beside the package and not in it: pytest imports a plugin at its start in every project of an environment, and importing the
package imports SQLAlchemy. Never does anything where the variable is not set.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from querycache.everywhere import CacheOfEverything

VARIABLE: Final = "QUERYCACHE_ATTACH_ALL"
_EXPECTED: Final = (
    '1 (served from memory), verify (each hit is compared with the database), a store\'s URL such as "lmdb:///path", '
    '"verify+" before such a URL, or 0'
)
_URL: Final = re.compile(r"[a-z]+(\+sentinel|\+cluster)?://")
_OUTPUT: Final = "querycache"
_MOST_REASONS: Final = 12

Report = dict[str, dict[str, int]]
"""Counters by heading: events, engines, verdicts, and the reasons for which statements were not cached."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--querycache-report``."""
    parser.getgroup("querycache").addoption(
        "--querycache-report", metavar="FILE", help=f"write what the cache did to FILE, as JSON (with {VARIABLE})"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Begin before the first of the project's files is imported."""
    value = os.environ.get(VARIABLE, "").strip()
    if value.lower() not in ("", "0"):
        early_config.pluginmanager.register(Run(cache_of(value), early_config), "querycache-run")


def cache_of(value: str) -> CacheOfEverything:
    """Make the cache that a value of the variable asks for.

    Raises ``pytest.UsageError`` for a value that cannot be used.
    """
    from querycache import ConfigurationError
    from querycache.everywhere import CacheOfEverything, VerifiedCacheOfEverything
    from querycache.stores import shown

    kind = VerifiedCacheOfEverything if value.startswith("verify") else CacheOfEverything
    url = "memory://" if value in ("1", "verify") else value.removeprefix("verify+")
    try:
        if not _URL.match(url):
            raise ConfigurationError(f"give {_EXPECTED}")
        return kind(url)
    except ConfigurationError as error:
        raise pytest.UsageError(f"{VARIABLE}={shown(value)} cannot be used: {error}") from error


class Run:
    """One run with the cache on; with pytest-xdist, one in each process, whose reports are added up."""

    def __init__(self, cache: CacheOfEverything, config: pytest.Config) -> None:
        from querycache.everywhere import attach_everywhere

        self._cache = cache
        self._config = config
        self._others: list[Report] = []
        self._end = attach_everywhere(cache)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Hand the report on, or fail a run in which the cache was wrong."""
        output: dict[str, Any] | None = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[_OUTPUT] = self._report()
        elif _is_wrong(self.total()) and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take the report of a process of pytest-xdist."""
        report = getattr(node, "workeroutput", {}).get(_OUTPUT)
        if report is not None:
            self._others.append(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say what the cache did."""
        total = self.total()
        path = self._config.getoption("querycache_report")
        if path:
            Path(path).write_text(json.dumps(total, indent=2, sort_keys=True) + "\n")
        terminalreporter.section(f"querycache ({os.environ[VARIABLE]})")
        for line in _lines_of(total):
            terminalreporter.write_line(line, red=line.startswith("WRONG"))

    def pytest_unconfigure(self) -> None:
        """Leave engines alone again."""
        self._end()
        self._cache.close()

    def total(self) -> Report:
        """Return the counters of every process."""
        headings: dict[str, Counter[str]] = {}
        for report in (self._report(), *self._others):
            for heading, counts in report.items():
                headings.setdefault(heading, Counter()).update(counts)
        return {heading: dict(counts) for heading, counts in headings.items()}

    def _report(self) -> Report:
        stats = self._cache.stats()
        return {
            "events": stats["counts"],
            "reasons": stats["reasons"],
            "verdicts": dict(self._cache.verdicts),
            "engines": {"attached": self._cache.attached, **self._cache.left_alone},
        }


def _is_wrong(report: Report) -> bool:
    return report["events"].get("defect", 0) > 0


def _lines_of(report: Report) -> Iterable[str]:
    events, engines = report["events"], Counter(report["engines"])
    attached = engines.pop("attached", 0)
    yield (
        f"{_many(attached, 'engine')} attached, {engines.total():,} left alone; "
        + ", ".join(f"{events.get(kind, 0):,} {word}" for kind, word in _WORDS.items())
    )
    if report["verdicts"]:
        yield "compared with the database: " + _listed(report["verdicts"])
    if engines:
        yield "engines left alone: " + _listed(engines)
    bypassed = {reason.partition(": ")[2]: n for reason, n in report["reasons"].items() if reason.startswith("bypass:")}
    if bypassed:
        yield "not cached: " + _listed(bypassed)
    for reason, times in report["reasons"].items():
        if reason.startswith("defect:"):
            yield f"WRONG, {_many(times, 'time')}: {reason.partition(': ')[2]}"


_WORDS: Final = {"hit": "hits", "miss": "misses", "bypass": "not cached", "defect": "defects"}


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _listed(counts: Mapping[str, int]) -> str:
    common = Counter(counts).most_common()
    more = sum(times for _, times in common[_MOST_REASONS:])
    return "; ".join(
        [*(f"{times:,} {what}" for what, times in common[:_MOST_REASONS]), *([f"{more:,} others"] if more else [])]
    )
