"""Which scripts do the verbs run on a Redis server, and how is one called?

The scripts are files of their own (``lua/``), put together here. Promises: one text for every server, so that it has one
name there; every key that a script touches is declared. Never does: I/O with a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files
from typing import Final, TypeAlias

Argument: TypeAlias = bytes | str | int

Command: TypeAlias = bytes
"""A command as it goes over the wire."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script under the name that servers know it by."""

    text: bytes
    sha: bytes

    def name(self, *, whole: bool = False) -> bytes:
        """Return the words that run it; ``whole`` for a server that does not know it yet, and knows it then."""
        return words(("EVAL", self.text) if whole else ("EVALSHA", self.sha))


def words(arguments: Iterable[Argument]) -> bytes:
    """Write words of a command as they go over the wire."""
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in arguments]
    return b"".join([b"$%d\r\n%b\r\n" % (len(text), text) for text in texts])


def packed(*arguments: Argument) -> Command:
    """Write a command."""
    return b"*%d\r\n%b" % (len(arguments), words(arguments))


def _script(*names: str) -> Script:
    folder = files("querycache.stores") / "lua"
    text = "\n".join((folder / f"{name}.lua").read_text(encoding="utf-8") for name in ("life", *names)).encode()
    # Redis names scripts so; nothing is protected by it.
    return Script(text, sha1(text, usedforsecurity=False).hexdigest().encode())


LOOKUP: Final = _script("registers", "lookup")
FILL: Final = _script("fill")
MARK: Final = _script("registers", "mark")
RELEASE: Final = _script("registers", "release")
CLEAR: Final = _script("clear")
MARKS: Final = _script("registers", "marks")
