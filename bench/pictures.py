"""What do the results look like? One picture for each question that the README answers with it, as SVG.

A picture is drawn where its results are there, and else left as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from rounds import Row

CASES: Final = (
    *("get", "select-1", "select-10", "select-100", "select-1000"),
    *("count", "columns", "lazy-m2o", "selectin-10x5", "joined-10x5"),
)
COLOURS: Final = {
    "memory": "#4c78a8",
    "lmdb": "#f58518",
    "redis": "#e45756",
    "redis-near": "#b279a2",
    "no-cache": "#9d9d9d",
    "bound": "#d3d3d3",
    "bound-reads": "#c0c0c0",
    "ttl": "#eeca3b",
    "table-level": "#54a24b",
}
WITHOUT_DATABASE: Final = {"bound": "no database at all", "bound-reads": "none for reads"}
OTHERS: Final = ("#54a24b", "#72b7b2", "#eeca3b", "#9d755d", "#bab0ac", "#ff9da6")

matplotlib.rcParams.update(
    {
        "font.size": 9,
        "svg.hashsalt": "querycache",  # the same results give the same file
        "svg.fonttype": "none",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.3,
    }
)


def draw(folder: Path, rows: Sequence[Row]) -> Iterator[Path]:
    """Draw what there are results for; yield each file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawing in PICTURES.items():
        figure = drawing(list(rows))
        if figure is not None:
            path = folder / f"{name}.svg"
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
            pyplot.close(figure)
            yield path


def _chosen(rows: Sequence[Row], group: str, **wanted: str) -> list[Row]:
    return [
        row for row in rows if row.group == group and all(getattr(row, name) == value for name, value in wanted.items())
    ]


def _points(rows: list[Row], cases: Sequence[str], title: str, axis: str) -> Any:
    """Draw medians with their spread on a logarithmic scale, beside each other for each case; a line where things are equal."""
    stores = list(dict.fromkeys(row.store for row in rows))
    found = {(row.case, row.store): row for row in rows}
    cases = [case for case in cases if any((case, store) in found for store in stores)]
    if not cases:
        return None
    figure, axes = pyplot.subplots(figsize=(max(5.0, (0.5 + 0.08 * len(stores)) * len(cases)), 3.2))
    width, others = 0.8 / len(stores), iter(OTHERS)
    for place, store in enumerate(stores):
        shown = [(number, found[case, store]) for number, case in enumerate(cases) if (case, store) in found]
        spread = [
            [max(0.0, row.ratio - row.p10) for _, row in shown],
            [max(0.0, row.p90 - row.ratio) for _, row in shown],
        ]
        axes.errorbar(
            [number + (place - (len(stores) - 1) / 2) * width for number, _ in shown],
            [row.ratio for _, row in shown],
            yerr=spread,
            fmt="o",
            ms=4,
            elinewidth=0.8,
            label=store,
            color=COLOURS.get(store) or next(others),
        )
    axes.axhline(1.0, color="black", lw=0.8)
    for number in range(1, len(cases)):
        axes.axvline(number - 0.5, color="black", lw=0.3, alpha=0.3)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}" if _is_narrow(rows) else "")
    axes.grid(visible=False, axis="x")
    axes.set_xticks(range(len(cases)), cases, rotation=20, ha="right")
    axes.set_ylabel(axis)
    axes.set_title(title, loc="left")
    axes.legend(
        ncols=min(5, len(stores)),
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(0, -0.013 * max(map(len, cases)) - 0.12),
    )
    return figure


def _is_narrow(rows: list[Row]) -> bool:
    """Tell whether so little lies between the figures that powers of ten would not name enough."""
    return max(row.p90 for row in rows) < 10 * min(row.p10 for row in rows)


def _hit(rows: list[Row]) -> Any:
    chosen = _chosen(rows, "hit", against="postgresql")
    return _points(chosen, CASES, "A hit, against the query on PostgreSQL", "time of the query = 1")


def _floor(rows: list[Row]) -> Any:
    chosen = _chosen(rows, "hit", against="floor")
    return _points(chosen, CASES, "A hit, against a GET of the same bytes and their decoding", "GET and decoding = 1")


def _overhead(rows: list[Row]) -> Any:
    chosen = [*_chosen(rows, "miss", against="postgresql"), *_chosen(rows, "write", against="postgresql")]
    renamed = [
        Row(row.group, f"{'miss' if row.group == 'miss' else 'commit'}: {row.case}", *_rest(row)) for row in chosen
    ]
    cases = list(dict.fromkeys(row.case for row in renamed))
    return _points(renamed, cases, "A miss and a commit, against those without a cache", "without a cache = 1")


def _rest(row: Row) -> tuple[Any, ...]:
    return row.store, row.against, row.ratio, row.p10, row.p90, row.n


def _peers(rows: list[Row]) -> Any:
    chosen = _chosen(rows, "peers", against="uncached")
    return _points(chosen, CASES, "A hit, against the same read without a cache", "its own uncached read = 1")


def _scale(rows: list[Row]) -> Any:
    titles = {
        "hit": "a hit, by entries",
        "invalidate": "an end, by entries that depend",
        "touch": "an end, by entries in the store",
        "rows": "a hit, by rows",
        "tags": "a hit, by tags",
        "processes": "hits per second, by processes",
    }
    chosen = _chosen(rows, "scale")
    if not chosen:
        return None
    figure, every = pyplot.subplots(2, 3, figsize=(9, 4.6))
    for axes, (kind, title) in zip(every.flat, titles.items(), strict=True):
        for store in dict.fromkeys(row.store for row in chosen):
            points = [row for row in chosen if row.case.startswith(f"{kind}-") and row.store == store]
            if points:
                first = _number_of(points[0].against)
                x = [first, *(_number_of(row.case) for row in points)]
                axes.plot(x, [1.0, *(row.ratio for row in points)], marker="o", ms=3, label=store, color=COLOURS[store])
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_title(title, loc="left", fontsize=9)
    every[0, 0].set_ylabel("smallest = 1")
    every[1, 0].set_ylabel("smallest = 1")
    every[0, 0].legend(frameon=False)
    figure.tight_layout()
    return figure


def _number_of(case: str) -> float:
    digits = case.rpartition("-")[2].replace("k", "000").replace("m", "000000")
    return float(digits)


def _app(rows: list[Row]) -> Any:
    chosen = [row for row in _chosen(rows, "app", against="no-cache") if row.case in ("bidding", "browsing")]
    if not chosen:
        return None
    mixes = list(dict.fromkeys(row.case for row in chosen))
    figure, every = pyplot.subplots(1, len(mixes), figsize=(4.2 * len(mixes), 2.6), squeeze=False)
    stale = {(row.case, row.store): row.ratio for row in _chosen(rows, "app", against="pages")}
    for axes, mix in zip(every[0], mixes, strict=True):
        shown = [row for row in chosen if row.case == mix]
        names = ["no-cache", *(row.store for row in shown)]
        heights = [1.0, *(row.ratio for row in shown)]
        axes.barh(names, heights, color=[COLOURS.get(name, OTHERS[0]) for name in names])
        for place, (name, height) in enumerate(zip(names, heights, strict=True)):
            share = stale.get((f"{mix}-stale", name))
            note = WITHOUT_DATABASE[name] if share is None else f"{share:.1%} stale"
            axes.text(height, place, f" {height:.1f} ({note})", va="center", fontsize=8)
        axes.set_title(f"{mix} mix: pages per second", loc="left")
        axes.invert_yaxis()
        axes.set_xlim(right=max(heights) * 1.5)
    figure.tight_layout()
    return figure


PICTURES: Final[dict[str, Callable[[list[Row]], Any]]] = {
    "hit": _hit,
    "floor": _floor,
    "overhead": _overhead,
    "peers": _peers,
    "scale": _scale,
    "app": _app,
}
