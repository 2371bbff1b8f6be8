"""What does one run measure, how often, and where may it put its files?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from screen import Screen


@dataclass(frozen=True, slots=True)
class Setting:
    """One run. ``rounds`` are those of the quickest cases; ``cases``: only these, where any are named.

    ``notes`` are said beside a result, where it is compared with its target.
    """

    quick: bool
    rounds: int
    stores: tuple[str, ...]
    databases: tuple[str, ...]
    cases: tuple[str, ...]
    folder: Path
    screen: Screen
    notes: dict[tuple[str, str, str, str], str] = field(default_factory=dict)

    def wants(self, case: str) -> bool:
        """Tell whether a case is measured."""
        return not self.cases or case in self.cases

    @contextmanager
    def steps(self, names: list[str]) -> Iterator[Iterator[str]]:
        """Yield names one after the other, with a progress bar."""
        with self.screen.bar(len(names)) as bar:
            yield bar.over(names)
