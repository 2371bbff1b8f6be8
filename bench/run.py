"""How fast is it, against the query that a hit replaces, against what else there is, and as it grows?

Real servers, all variants in turn in one run; ratios, each the median of its rounds with the 10th and 90th percentile. Prints
tables and the targets, writes them as JSON and as pictures.

    make bench [GROUP=hit,peers] [QUICK=1]
    python bench/run.py [--group hit,miss,write,peers,scale,app] [--quick] [--json FILE] [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from environment import machine, versions  # noqa: E402 - the benchmark's own modules
from places import DATABASES, STORES  # noqa: E402
from rounds import BenchError, Row  # noqa: E402
from screen import Screen  # noqa: E402
from setting import Setting  # noqa: E402
from targets import verdicts  # noqa: E402

GROUPS: Final = {
    "hit": "groups.hit",
    "miss": "groups.miss",
    "write": "groups.write",
    "peers": "groups.peers",
    "scale": "groups.scale",
    "app": "groups.app",
}
PICTURES: Final = HERE / "pictures"
ROUNDS: Final = 100
QUICK_ROUNDS: Final = 7


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, write; return the exit code."""
    options = _options(arguments)
    logging.getLogger("querycache").setLevel(logging.ERROR)  # it warns of the engines that are not attached
    screen = Screen()
    rows: list[Row] = []
    notes: dict[tuple[str, str, str, str], str] = {}
    try:
        for group in options.group:
            screen.begin(group)
            with tempfile.TemporaryDirectory(prefix="querycache-bench-") as folder:
                setting = Setting(
                    quick=options.quick,
                    rounds=options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
                    stores=options.stores,
                    databases=options.databases,
                    cases=options.cases,
                    folder=Path(folder),
                    screen=screen,
                    notes=notes,
                )
                found = list(importlib.import_module(GROUPS[group]).measure(setting))
            screen.show(found)
            rows.extend(found)
    except BenchError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    screen.verdicts(verdicts(rows, notes))
    _write(options.json, rows, screen)
    folder = _folder_for_pictures(options)
    if folder is not None:
        _draw(folder, rows, screen)
    return 0


def _write(path: Path, rows: list[Row], screen: Screen) -> None:
    document = {"machine": machine(), "versions": versions(), "results": [row.as_json() for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")
    screen.say(f"\nwritten to {os.path.relpath(path)}")


def _draw(folder: Path, rows: list[Row], screen: Screen) -> None:
    from pictures import draw

    for path in draw(folder, rows):
        screen.say(f"drawn in {os.path.relpath(path)}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", type=_SomeOf(tuple(GROUPS)), default=tuple(GROUPS), help="some of the groups")
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes: does it run?")
    parser.add_argument("--rounds", type=int, help=f"rounds of each case (default {ROUNDS}, quick {QUICK_ROUNDS})")
    parser.add_argument("--stores", type=_SomeOf(STORES), default=STORES, help="some of the stores")
    parser.add_argument("--databases", type=_SomeOf(DATABASES), default=DATABASES, help="some of the databases")
    parser.add_argument("--cases", type=_SomeOf(()), default=(), help="some of the cases")
    parser.add_argument(
        "--json", type=Path, default=HERE / "results" / "latest.json", help="where to write the results"
    )
    parser.add_argument(
        "--pictures",
        help=f'where to draw; "none": nowhere (default {PICTURES.relative_to(HERE.parent)}, of whole groups)',
    )
    return parser.parse_args(arguments)


def _folder_for_pictures(options: argparse.Namespace) -> Path | None:
    """Return where to draw. The README's pictures are left alone by a run that leaves something out of a group."""
    if options.pictures is not None:
        return None if options.pictures == "none" else Path(options.pictures)
    is_whole = (options.stores, options.databases, options.cases, options.quick) == (STORES, DATABASES, (), False)
    return PICTURES if is_whole else None


class _SomeOf:
    """Reads names with commas between; any, where none are known."""

    def __init__(self, known: tuple[str, ...]) -> None:
        self._known = known

    def __call__(self, text: str) -> tuple[str, ...]:
        names = tuple(filter(None, (name.strip() for name in text.split(","))))
        unknown = [name for name in names if self._known and name not in self._known]
        if unknown or not names:
            raise argparse.ArgumentTypeError(
                f"{', '.join(unknown) or 'nothing'} is not known. Known are: {', '.join(self._known)}"
            )
        return names


if __name__ == "__main__":
    sys.exit(main())
