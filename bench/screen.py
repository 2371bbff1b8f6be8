"""What does somebody see who runs the benchmark? A bar of what is done, tables of ratios, each target with its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rounds import Row

T = TypeVar("T")
_WIDTH: Final = 130
_WIDE: Final = 6
"""So many stores leave no room for the spread."""


class Bar:
    """The progress of one group."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def over(self, names: Iterable[str]) -> Iterator[str]:
        """Yield each name, and tell that it is being done."""
        for name in names:
            self._progress.update(self._task, doing=name)
            yield name
            self._progress.advance(self._task)


class Screen:
    """The terminal, or what is there instead: a log gets the tables and no bar."""

    def __init__(self) -> None:
        self.console = Console() if Console().is_terminal else Console(width=_WIDTH)
        self._group = ""

    def begin(self, group: str) -> None:
        """Tell which group follows."""
        self._group = group
        self.console.rule(f"[bold]{group}")

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False)

    @contextmanager
    def bar(self, total: int) -> Iterator[Bar]:
        """Show how much of a group is done."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("{task.fields[doing]}"), console=self.console, transient=True) as progress:
            yield Bar(progress, progress.add_task(self._group, total=total, doing=""))

    def show(self, rows: list[Row]) -> None:
        """Print the results of a group: a table for each thing that was compared with, a column for each store."""
        for against in dict.fromkeys(row.against for row in rows):
            chosen = [row for row in rows if row.against == against]
            stores = list(dict.fromkeys(row.store for row in chosen))
            table = Table(title=f"against {against}", title_justify="left", box=None, pad_edge=False)
            table.add_column("case", no_wrap=True)
            for store in stores:
                table.add_column(store, justify="right")
            for case in dict.fromkeys(row.case for row in chosen):
                cells = {row.store: _cell(row, len(stores) < _WIDE) for row in chosen if row.case == case}
                table.add_row(case, *(cells.get(store, "") for store in stores))
            self.console.print(table)
            self.console.print()

    def verdicts(self, lines: Iterable[tuple[str, str, str, str]]) -> None:
        """Print each target, the figure, and whether it is met."""
        table = Table(title="Targets", title_justify="left", box=None, header_style="bold", pad_edge=False)
        for title, justify in (("target", "left"), ("wanted", "right"), ("measured", "right"), ("", "left")):
            table.add_column(title, justify=justify)  # type: ignore[arg-type]  # the literal types of rich
        for what, wanted, measured, verdict in lines:
            colour = {"met": "green", "not met": "red"}.get(verdict, "dim")
            table.add_row(what, wanted, measured, f"[{colour}]{verdict}[/]")
        self.console.print(table)


def _cell(row: Row, with_spread: bool) -> str:
    if row.n == 1 or not with_spread:
        return f"[bold]{figure(row.ratio)}[/]"
    return f"[bold]{figure(row.ratio)}[/] [dim]{figure(row.p10)}-{figure(row.p90)}[/]"


def figure(value: float) -> str:
    """Write a ratio with as many digits as say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}" if value >= 10 else f"{value:.3f}"
