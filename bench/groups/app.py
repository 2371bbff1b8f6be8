"""How many pages more does an application serve, and how many of them are stale?

The auction site of ``auction/``: gunicorn workers on PostgreSQL, each variant on a database of its own, and clients in another
process that ask as soon as they are answered. Every page was asked for once; then the variants take turns of some seconds.
``bidding``: pages per second against the site without a cache; ``bidding-p50`` and ``-p99``: how long a page takes, against
that site's; ``bidding-statements``: statements for each page; ``bidding-hits``: hits by reads; ``bidding-stale``: stale pages
by pages that were judged.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Final

from auction.seed import QUICK, WORDS, Size, fill
from auction.variants import VARIANTS
from places import postgresql_url
from rounds import BenchError, Row, compared, told
from setting import Setting
from sqlalchemy import NullPool, create_engine, make_url, text
from workers import HERE, Talker, gunicorn, talker

MIXES: Final = ("bidding", "browsing")
OURS: Final = "lmdb"
PLAIN: Final = "no-cache"
CLIENTS: Final = 8
BOUNDS: Final = ("bound-reads", "bound")
FILLED: Final = ("table-level", "lmdb")
"""Variants whose cache has seen every page before: a site runs for longer than a benchmark."""

Answers = dict[str, list[dict[str, Any]]]
"""What the clients told of each variant, turn by turn."""


def measure(setting: Setting) -> Iterator[Row]:
    """Let the clients at each variant in turn."""
    size = QUICK if setting.quick else Size()
    turns, seconds, warm_up = (1, 1.0, 1.0) if setting.quick else (5, 6.0, 6.0)
    mixes = [mix for mix in MIXES if setting.wants(mix)]
    with ExitStack() as stack:
        clients = stack.enter_context(talker(HERE / "auction" / "clients.py"))
        ports = dict(_serve(setting, size, stack))
        sizes = {**asdict(size), "words": WORDS}
        order = {"clients": CLIENTS, "size": sizes}
        filled = () if setting.quick else FILLED
        names = [f"{mix}, turn {turn + 1}" for mix in mixes for turn in range(-1, turns)]
        with setting.steps([*(f"every page of {variant}" for variant in filled), *names]) as steps:
            for variant in filled:
                next(steps)
                _ask(clients, {**order, "site": variant, "port": ports[variant], "mix": "all"}, variant)
            for mix in mixes:
                answers: Answers = defaultdict(list)
                for turn in range(-1, turns):
                    next(steps)
                    for at in range(len(ports)):
                        variant = list(ports)[(at + turn) % len(ports)]
                        for_s = warm_up if turn < 0 else seconds
                        asked = {**order, "site": variant, "port": ports[variant], "mix": mix, "seconds": for_s}
                        answer = _ask(clients, {**asked, "seed": turn + 2}, variant)
                        if turn >= 0:
                            answers[variant].append(answer)
                _note(setting, mix, answers)
                yield from _rows(mix, answers)


def _serve(setting: Setting, size: Size, stack: ExitStack) -> Iterator[tuple[str, int]]:
    """Start each variant on a database of its own, all alike."""
    first = stack.enter_context(postgresql_url("auction"))
    engine = create_engine(first, poolclass=NullPool)
    fill(engine, size)
    workers = 2 * (os.cpu_count() or 1)
    for variant in VARIANTS:
        url = _copy(first, variant, stack)
        settings = {
            "AUCTION_VARIANT": variant,
            "AUCTION_DATABASE": url,
            "AUCTION_STORE": f"lmdb://{setting.folder}/{variant}",
        }
        log = setting.folder / f"{variant}.log"
        yield variant, stack.enter_context(gunicorn("auction.app:create_app()", workers, settings, log))


def _copy(url: str, variant: str, stack: ExitStack) -> str:
    source = make_url(url)
    name = f"{source.database}_{variant.replace('-', '_')}"
    server = create_engine(source.set(database="postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")

    def run(statement: str) -> None:
        with server.connect() as connection:
            connection.execute(text(statement))

    run(f"CREATE DATABASE {name} TEMPLATE {source.database}")
    stack.callback(run, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    return source.set(database=name).render_as_string(hide_password=False)


def _ask(clients: Talker, order: dict[str, Any], variant: str) -> dict[str, Any]:
    answer: dict[str, Any] = clients.ask(order)
    if answer["failed"] or not answer["pages"]:
        raise BenchError(f"app, {variant}: {answer['failed']} of {answer['pages']} pages failed")
    return answer


def _rows(mix: str, answers: Answers) -> Iterator[Row]:
    plain = answers[PLAIN]
    for variant, mine in answers.items():
        if variant != PLAIN:
            yield _ratio(mix, variant, PLAIN, mine, plain, "per_second")
            for figure in ("p50", "p99"):
                yield _ratio(f"{mix}-{figure}", variant, PLAIN, mine, plain, figure)
        statements = [one["statements"] / one["pages"] for one in mine]
        yield told("app", f"{mix}-statements", variant, "pages", statements)
        if variant not in (PLAIN, *BOUNDS):
            yield told("app", f"{mix}-hits", variant, "reads", [one["hits"] / max(1, one["reads"]) for one in mine])
        if variant not in BOUNDS:
            stale, checked = sum(one["stale"] for one in mine), sum(one["checked"] for one in mine)
            share = round(stale / checked, 6)
            yield Row("app", f"{mix}-stale", variant, "pages", share, share, share, checked)
    for other in ("ttl", "table-level", *BOUNDS):
        yield _ratio(mix, OURS, other, answers[OURS], answers[other], "per_second")


def _ratio(
    case: str, store: str, against: str, mine: list[dict[str, Any]], theirs: list[dict[str, Any]], figure: str
) -> Row:
    return compared("app", case, store, against, (one[figure] for one in mine), (one[figure] for one in theirs))


def _note(setting: Setting, mix: str, answers: Answers) -> None:
    """Say beside the target what the application's own work would allow, and what of that was reached."""
    ratios = {
        variant: statistics.median(
            one["per_second"] / other["per_second"] for one, other in zip(answers[variant], answers[PLAIN], strict=True)
        )
        for variant in (OURS, *BOUNDS)
    }
    reached = {
        bound: f"{ratios[bound]:.2f} ({ratios[OURS] / ratios[bound]:.0%} of that is reached)" for bound in BOUNDS
    }
    setting.notes["app", mix, OURS, PLAIN] = (
        f"without any database the application reaches {reached['bound']}, "
        f"with free reads, and writes as without a cache, {reached['bound-reads']}"
    )
    stale = sum(one["stale"] for one in answers["ttl"])
    setting.notes["app", f"{mix}-stale", OURS, "pages"] = (
        f"{sum(one['stale'] for one in answers[OURS])} of {sum(one['checked'] for one in answers[OURS])}; "
        f"with a time to live of 5 s: {stale} of {sum(one['checked'] for one in answers['ttl'])}"
    )
