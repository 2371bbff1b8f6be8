"""How many hits are lost because tags share slots?

Tags are hashed into a fixed number of slots, so that what is remembered of them is bounded; tags of one slot may be ended
together. Here a working set of entries (half rows by primary key, half lists narrowed by a column) is read at random while
rows that none of them depends on are changed. Nothing but sharing can end an entry, so each miss after the first read is
one that sharing made. The library's own registers are driven, on a clock of the benchmark's own: the rates are exact, and
the machine's speed has no part in the result.

    python bench/false_sharing.py [--writes 1000] [--reads 9000] [--seconds 60] [--json bench/results/false_sharing.json]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from querycache._types import Lease, TagSet
from querycache.stores._registers import SLOT_BITS, Writing, peek

_GUARD = ((b"read!", b"fingerprint"),)
_WRITER = bytes(range(16))
_MANY = 16


class Cells(dict[bytes, bytes]):
    """Registers in a dictionary, and how many bytes they hold."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value

    def delete(self, key: bytes) -> None:
        self.pop(key, None)

    def size_bytes(self) -> int:
        return sum(len(key) + len(value) for key, value in self.items())


def main() -> int:
    """Run, print, write; return the exit code."""
    options = _options()
    results = []
    for bits in options.bits:
        for entries in options.entries:
            results.append(_measure(bits, entries, options))
            print(f"\r{'':60}", end="\r", file=sys.stderr)
            _print(results[-1], heading=len(results) == 1)
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results": results}, indent=2) + "\n")
    print(f"\nwritten to {path}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--writes", type=int, default=1000, help="rows changed a second (default 1000)")
    parser.add_argument("--reads", type=int, default=9000, help="reads a second (default 9000)")
    parser.add_argument("--seconds", type=int, default=60, help="seconds of the benchmark's clock (default 60)")
    parser.add_argument("--tags", type=int, default=4, help="tags that the change of a row ends (default 4)")
    parser.add_argument("--rows", type=int, default=100_000, help="rows that are changed (default 100000)")
    parser.add_argument(
        "--entries", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes of the working set"
    )
    parser.add_argument(
        "--bits", type=int, nargs="+", default=[SLOT_BITS], help=f"slots, as a power of two (default {SLOT_BITS})"
    )
    parser.add_argument("--json", default="bench/results/false_sharing.json", help="where to write the results")
    return parser.parse_args()


def _measure(bits: int, entries: int, options: argparse.Namespace) -> dict[str, Any]:
    cells = Cells()
    chance = random.Random(7)
    questions = [_tags_of(number) for number in range(entries)]
    held: list[Lease | None] = [None] * entries
    owed: list[TagSet] = []
    hits = lost = 0
    for ticks in _seconds(options, f"2^{bits} slots, {entries} entries"):
        for step, is_write in enumerate(_mixed(options.writes, options.reads)):
            now = ticks + step
            if is_write:
                Writing(cells, now, bits).release(_changed(chance.randrange(options.rows), options.tags), _WRITER)
                continue
            entry = chance.randrange(entries)
            seen = _look(cells, questions[entry], now, bits, held[entry], owed)
            if held[entry] == seen:
                hits += 1
            elif held[entry] is not None:
                lost += 1
            held[entry] = seen
    return {
        "group": "false-sharing",
        "slots": 1 << bits,
        "entries": entries,
        "writes_per_s": options.writes,
        "reads_per_s": options.reads,
        "tags_per_write": options.tags,
        "lost": round(lost / (hits + lost), 6),
        "n": hits + lost,
        "registers": len(cells),
        "registers_bytes": cells.size_bytes(),
    }


def _look(cells: Cells, tags: TagSet, now: int, bits: int, held: Lease | None, owed: list[TagSet]) -> Lease:
    """Look up as a process does: tags are owed stamps of their own, and get them with others or if their entry is over."""
    seen = peek(cells, tags, now, bits)
    if seen is not None:
        return seen[0]
    shared = peek(cells, tags, now, bits, must_own=False)
    if shared is None or held not in (None, shared[0]):
        return Writing(cells, now, bits, forgets=False).lease(tags)[0]
    owed.append(tags)
    if len(owed) >= _MANY:
        Writing(cells, now, bits, forgets=False).own(tag for tags in owed for tag in tags.tags)
        owed.clear()
    return shared[0]


def _tags_of(number: int) -> TagSet:
    row, is_list = divmod(number, 2)
    return TagSet((b"read|c=?", b"read|c=%d" % row) if is_list else (b"read|id=%d" % row,), _GUARD)


def _changed(row: int, count: int) -> list[bytes]:
    return [b"written*", *(b"written|%d=%d" % (column, row) for column in range(count - 1))]


def _mixed(writes: int, reads: int) -> Iterator[bool]:
    """Yield a second's steps, writes spread evenly among the reads: True for a write."""
    owed = 0
    for _ in range(writes + reads):
        owed += writes
        yield owed >= writes + reads
        if owed >= writes + reads:
            owed -= writes + reads


def _seconds(options: argparse.Namespace, what: str) -> Iterator[int]:
    for second in range(1, options.seconds + 1):
        print(f"\r{what}: second {second} of {options.seconds}".ljust(60), end="", file=sys.stderr, flush=True)
        yield second * 1_000_000_000


def _print(row: dict[str, Any], *, heading: bool) -> None:
    if heading:
        print(f"{'slots':>9} {'entries':>8} {'hits lost':>10} {'registers':>10} {'MB':>6}")
    print(
        f"{row['slots']:>9} {row['entries']:>8} {row['lost']:>10.3%} {row['registers']:>10} "
        f"{row['registers_bytes'] / 1e6:>6.1f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
