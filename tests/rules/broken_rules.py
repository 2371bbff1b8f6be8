"""Which rules can be taken out of the library, and which tests must fail then? Read from the TOML files beside this one."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: ``old`` stands exactly once in ``module``, a path below the package; ``new`` is the library without it."""

    area: str
    name: str
    module: str
    old: str
    new: str
    tests: tuple[str, ...]

    def broken(self, source: str) -> str:
        """Return a module's text without the rule; raise ``ValueError`` where the rule stands elsewhere by now."""
        found = source.count(self.old)
        if found != 1:
            raise ValueError(f"{self.area}.toml, {self.name!r}: its old text stands {found} times in {self.module}")
        return source.replace(self.old, self.new)


def read_rules() -> list[Rule]:
    """Return the rules of every area."""
    return [
        Rule(path.stem, entry["name"], entry["module"], entry["old"], entry["new"], tuple(entry["tests"]))
        for path in sorted(HERE.glob("*.toml"))
        for entry in tomllib.loads(path.read_text(encoding="utf-8"))["rule"]
    ]
