"""The clients of the auction site, in a process of their own: as many requests as answers come, and each page judged.

Reads one order a line from standard input, as JSON: {"site", "port", "mix", "seconds", "clients", "size", "seed"}, and answers
with one line; the mix "all" asks for every page once. A page is stale where a number that it shows is below the one that a
write's answer gave before the page was asked for. Knows nothing of Flask, SQLAlchemy or the cache.
"""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlencode

HOST: Final = "127.0.0.1"
PATIENCE_S: Final = 30.0
PAGES: Final = 5
WRITES: Final = ("bid", "sell", "comment")

MIXES: Final[dict[str, dict[str, int]]] = {
    "bidding": {"home": 6, "browse": 27, "search": 12, "item": 30, "user": 10, "bid": 10, "comment": 3, "sell": 2},
    "browsing": {"home": 8, "browse": 34, "search": 14, "item": 34, "user": 10},
}
"""How often each page is asked for, of 100: about 15 writes in the bidding mix, as in RUBiS."""


class Acknowledged:
    """What writes' answers told of one site: by name the numbers, and when each was there."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)
        self._numbers: dict[str, list[int]] = defaultdict(list)
        self._lock = threading.Lock()

    def note(self, name: str, number: int) -> None:
        """Keep what a write's answer told, from now on."""
        with self._lock:
            numbers = self._numbers[name]
            self._times[name].append(time.monotonic())
            numbers.append(max(number, numbers[-1] if numbers else number))

    def before(self, name: str, moment: float) -> int:
        """Return the number that had been told before a moment; 0 where none."""
        with self._lock:
            place = bisect_left(self._times[name], moment)
            return self._numbers[name][place - 1] if place else 0


@dataclass
class Tally:
    """What the clients of one order saw."""

    took: list[float] = field(default_factory=list)
    writes: int = 0
    stale: int = 0
    checked: int = 0
    failed: int = 0
    asked: dict[str, list[tuple[int, ...]]] = field(default_factory=lambda: defaultdict(list))


def main() -> int:
    """Do what is ordered until the input ends."""
    sites: dict[str, Acknowledged] = defaultdict(Acknowledged)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_work(order, sites[order["site"]])), flush=True)
    return 0


def _work(order: dict[str, Any], acknowledged: Acknowledged) -> dict[str, Any]:
    tallies = [Tally() for _ in range(order["clients"])]
    all_pages = list(_all_pages(order["size"])) if order["mix"] == "all" else None
    threads = [
        threading.Thread(target=_ask_all, args=(order["port"], requests, tally, acknowledged))
        for at, tally in enumerate(tallies)
        for requests in [
            iter(all_pages[at :: len(tallies)])
            if all_pages is not None
            else _until(time.monotonic() + order["seconds"], order, random.Random(order["seed"] * 100 + at))
        ]
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _told(tallies, time.monotonic() - began)


def _until(moment: float, order: dict[str, Any], dice: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield requests of a mix."""
    mix = MIXES[order["mix"]]
    kinds, weights = list(mix), list(mix.values())
    while time.monotonic() < moment:
        (kind,) = dice.choices(kinds, weights)
        yield kind, _REQUESTS[kind](dice, order["size"])


def _all_pages(size: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Yield a request for every page that a mix may ask for."""
    yield "home", _get("/")
    for number in range(1, size["categories"] + 1):
        for page in range(PAGES):
            yield "browse", _get(f"/browse/{number}?page={page}")
    for word in size["words"]:
        yield "search", _get(f"/search?word={word}")
    for kind, count in (("item", size["items"]), ("user", size["users"])):
        for number in range(1, count + 1):
            yield kind, _get(f"/{kind}/{number}")


def _ask_all(port: int, requests: Iterator[tuple[str, bytes]], tally: Tally, acknowledged: Acknowledged) -> None:
    for kind, sent in requests:
        began = time.monotonic()
        try:
            status, headers = _exchange(port, sent)
        except OSError:
            tally.failed += 1
            continue
        tally.took.append(time.monotonic() - began)
        if status != 200:
            tally.failed += 1
            continue
        worker, *counts = headers.get("x-asked", "0 0 0 0").split()
        tally.asked[worker].append(tuple(map(int, counts)))
        seen = [part.split("=") for part in headers.get("x-seen", "").split()]
        if kind in WRITES:
            tally.writes += 1
            for name, number in seen:
                acknowledged.note(name, int(number))
        else:
            tally.checked += 1
            tally.stale += any(int(number) < acknowledged.before(name, began) for name, number in seen)


def _exchange(port: int, sent: bytes) -> tuple[int, dict[str, str]]:
    with socket.create_connection((HOST, port), timeout=PATIENCE_S) as line:
        line.sendall(sent)
        parts = []
        while part := line.recv(65536):
            parts.append(part)
    head, _, _ = b"".join(parts).partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    if not rest:
        raise ConnectionError("no answer")
    return int(first.split()[1]), {name.lower(): value for name, _, value in (part.partition(": ") for part in rest)}


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode()


def _post(path: str, **form: Any) -> bytes:
    body = urlencode(form)
    return (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
        f"Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}"
    ).encode()


def _popular(dice: random.Random, count: int) -> int:
    return min(count, int((count + 1) ** dice.random()))


_REQUESTS: Final[dict[str, Callable[[random.Random, dict[str, Any]], bytes]]] = {
    "home": lambda dice, size: _get("/"),
    "browse": lambda dice, size: _get(f"/browse/{_popular(dice, size['categories'])}?page={_popular(dice, PAGES) - 1}"),
    "search": lambda dice, size: _get(f"/search?word={size['words'][_popular(dice, len(size['words'])) - 1]}"),
    "item": lambda dice, size: _get(f"/item/{_popular(dice, size['items'])}"),
    "user": lambda dice, size: _get(f"/user/{_popular(dice, size['users'])}"),
    "bid": lambda dice, size: _post("/bid", item=_popular(dice, size["items"]), user=dice.randint(1, size["users"])),
    "comment": lambda dice, size: _post(
        "/comment", about=_popular(dice, size["users"]), user=dice.randint(1, size["users"]), rating=dice.randint(-5, 5)
    ),
    "sell": lambda dice, size: _post(
        "/sell", category=_popular(dice, size["categories"]), user=dice.randint(1, size["users"]), name="something new"
    ),
}


def _told(tallies: list[Tally], seconds: float) -> dict[str, Any]:
    took = sorted(one for tally in tallies for one in tally.took)
    asked: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for tally in tallies:
        for worker, counts in tally.asked.items():
            asked[worker].extend(counts)
    # Of each worker what it counted in this time; its first answer's own part is lost.
    spans = [[max(column) - min(column) for column in zip(*counts, strict=True)] for counts in asked.values()]
    statements, reads, hits = (sum(column) for column in zip(*spans, strict=True)) if spans else (0, 0, 0)
    pages = len(took)
    return {
        "pages": pages,
        "per_second": pages / seconds,
        "p50": took[pages // 2] if took else 0.0,
        "p99": took[pages * 99 // 100] if took else 0.0,
        "writes": sum(tally.writes for tally in tallies),
        "checked": sum(tally.checked for tally in tallies),
        "stale": sum(tally.stale for tally in tallies),
        "failed": sum(tally.failed for tally in tallies),
        "statements": statements,
        "reads": reads,
        "hits": hits,
    }


if __name__ == "__main__":
    sys.exit(main())
