"""Without which rules is the protocol broken, and which forced interleaving shows it?

Each variant is a copy of the library in which one rule does not hold. The workers run the copy; the supervisor judges as
always. A rule is changed where it stands, and a text that stands elsewhere by now is an error.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from broken_rules import Rule

LIBRARY: Final = Path(__file__).parents[2] / "src" / "querycache"


@dataclass(frozen=True, slots=True)
class Variant:
    """A protocol with a rule broken. ``shown_by``: the fault; ``breaks``: how the promises begin that do not hold then.

    What is too old for one of these may be seen first in a snapshot, or beside new rows of a list.
    """

    name: str
    shown_by: str
    breaks: Sequence[str]
    changes: Sequence[tuple[str, str, str]]
    store: str = "lmdb"

    def __str__(self) -> str:
        return self.name

    def is_told_by(self, promise: str) -> bool:
        """Tell whether it may be this that a violation of a promise shows."""
        return promise.startswith((*self.breaks, "a snapshot", "a list"))

    def rules(self) -> list[Rule]:
        """Return the changes as rules to be taken out."""
        return [Rule("torture", self.name, *change, tests=()) for change in self.changes]


@contextmanager
def library_of(variant: Variant) -> Iterator[Path]:
    """Make a copy of the library that is broken so; the folder that holds it."""
    with TemporaryDirectory(prefix="querycache-broken-") as folder:
        copy = Path(folder) / "querycache"
        shutil.copytree(LIBRARY, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for rule in variant.rules():
            module = copy / rule.module
            module.write_text(rule.broken(module.read_text(encoding="utf-8")), encoding="utf-8")
        yield Path(folder)


VARIANTS: Final = (
    Variant(
        "a commit is followed by a touch and not marked before",
        "a reader comes before the release",
        ("2:",),
        (
            (
                "commits.py",
                "marks = [*state.marks, *set_marks(state, coherence)]",
                "marks = [*state.marks]",
            ),
            (
                "commits.py",
                "        coherence.release(marks)\n    finally:\n        state.end()",
                "        coherence.touch(state.tags_to_mark().tags)\n    finally:\n        state.end()",
            ),
        ),
    ),
    Variant(
        "a tag has room for one writer",
        "two writers mark one tag",
        ("2:",),
        (
            (
                "stores/_slot.py",
                "    return holds[:whole] + new\n",
                "    check, pieces = hold[-CHECK_SIZE:], _HOLD.iter_unpack(holds[:whole])\n"
                "    kept = [piece for piece in pieces if not piece[0].endswith(check)]\n"
                "    return b''.join(_HOLD.pack(*piece) for piece in kept) + new\n",
            ),
        ),
    ),
    Variant(
        "a release ends only the stamp of its own mark",
        "a mark is lost before its commit",
        ("1:",),
        (
            (
                "stores/_registers.py",
                "        self._change(tags, writer, None)",
                "        for tag in tags:\n"
                "            if _name_of(writer) in (self._cells.get(slot_key(tag, self._bits)) or b''):\n"
                "                self._change((tag,), writer, None)",
            ),
        ),
    ),
    Variant(
        "stamps repeat",
        "a filler is overtaken by a new store",
        ("1:",),
        (
            (
                "stores/_registers.py",
                "        self._last = max(self._last + 1, self._ticks)",
                "        self._last = self._last + 1",
            ),
            ("stores/_registers.py", "_meta(cells) or (ticks, ticks, 0)", "_meta(cells) or (0, 0, 0)"),
        ),
    ),
    Variant(
        "the lease is taken after the query",
        "a filler is overtaken",
        ("1:",),
        (
            (
                "reader.py",
                "        self._fill(reading, question, found, collection, capture)\n",
                "        coherence = reading.attachment.coherence\n"
                "        found = coherence.lookup(question.store, question.key, question.tags) or found\n"
                "        self._fill(reading, question, found, collection, capture)\n",
            ),
        ),
    ),
    Variant(
        "a writer is named by its process",
        "a release comes late",
        ("2:",),
        (
            (
                "coherence/journal.py",
                "        writer = secrets.token_bytes(16)\n        set_at",
                "        writer = os.getpid().to_bytes(16)\n        set_at",
            ),
        ),
    ),
    Variant(
        "a waiter takes the filler's rows",
        "a waiter begins after a commit",
        ("1:",),
        (
            (
                "reader.py",
                "from querycache.rows.codec import DecodedRows\n",
                "from querycache.rows.codec import DecodedRows, decode_rows, encode_rows\n",
            ),
            (
                "reader.py",
                "                waited = True\n                continue",
                "                waited = True\n"
                "                if question.key in self.handed:\n"
                "                    handed = decode_rows(question.key, self.handed[question.key])\n"
                "                    return self.serve(reading, question, handed)\n"
                "                continue",
            ),
            (
                "reader.py",
                "        self.results = Results(questions)\n",
                "        self.results = Results(questions)\n        self.handed = {}\n",
            ),
            (
                "reader.py",
                "        self._fill(reading, question, found, collection, capture)\n",
                "        if capture.rows is not None:\n"
                "            described = [column[:2] for column in capture.description]\n"
                "            self.handed[question.key] = encode_rows(question.key, described, capture.rows)\n"
                "        self._fill(reading, question, found, collection, capture)\n",
            ),
        ),
    ),
    Variant(
        "a snapshot is served whatever is valid",
        "a snapshot is overtaken",
        ("a snapshot",),
        (("coherence/snapshots.py", "return not started or older_than(lease, since)", "return True"),),
    ),
    Variant(
        "a Redis server's data count after a restart",
        "restart the store with an old dump",
        ("1:",),
        (
            (
                "stores/lua/life.lua",
                "if not is_same_life or not is_whole or last < seen then",
                "if not floor then",
            ),
        ),
        store="redis",
    ),
    Variant(
        "a near cache goes on with what it was told of",
        "a reader comes before the release",
        ("1:", "2:"),
        (("stores/_redis_feed.py", "            self._vouched.hear(keys)", "            pass"),),
        store="redis-near-push",
    ),
    Variant(
        "a near cache that asks is told that what it holds is current",
        "a reader comes before the release",
        ("1:", "2:"),
        (
            (
                "stores/near.py",
                "        return self.look(((key, tags),))[0].lookup",
                "        held = None if key is None else self.copies.get(key)\n"
                "        if held is None:\n"
                "            return self.look(((key, tags),))[0].lookup\n"
                "        _, payload, lease, expires, _ = held.entry\n"
                "        return Lookup(payload, lease, True, expires - 1, expires, held)",
            ),
        ),
        store="redis-near-validate",
    ),
)
