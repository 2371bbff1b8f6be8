"""May a thread that waited for another's fill take its rows? The protocol, with one filler at a time for the key.

All readers are threads of one process and read one statement.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Self

from model_store import Rows, Seen
from protocol_model import ProtocolWorld, Reader, Setting
from state_search import Action


class FlightWorld(ProtocolWorld):
    """A reader that misses while another fills waits for it. ``looks_again``: that is all it gets."""

    __slots__ = ("_filler", "_looks_again")

    def __init__(self, setting: Setting, *, looks_again: bool = True) -> None:
        super().__init__(setting)
        self._looks_again = looks_again
        self._filler: int | None = None

    def copy(self) -> Self:
        twin = super().copy()
        twin._looks_again, twin._filler = self._looks_again, self._filler
        return twin

    def key(self) -> Hashable:
        # Handed over, rows count also where their lease is dead.
        rows = None if self._looks_again or self._filler is None else self._readers[self._filler].rows
        return super().key(), self._filler, rows

    def actions(self) -> Iterator[Action]:
        for verb, position in super().actions():
            if verb != "look up again" or self._filler is None:
                yield verb, position

    def _answered(self, position: int, seen: Seen, floor: Rows) -> str:
        had_waited = self._readers[position].state == "waiting"
        broken = super()._answered(position, seen, floor)
        reader = self._readers[position]
        if reader.state == "missed" and not had_waited:
            if self._filler is None:
                self._filler = position
            else:
                self._readers[position] = Reader("waiting", reader.turn, floor=floor)
                self._say("reader {} waits for the filler", position)
        return broken

    def _fill(self, position: int) -> str:
        rows = self._readers[position].rows
        super()._fill(position)
        if self._filler != position:
            return ""
        self._filler = None
        return "" if self._looks_again or rows is None else self._hand_over(rows)

    def _hand_over(self, rows: Rows) -> str:
        for position, reader in enumerate(self._readers):
            if reader.state == "waiting":
                self._readers[position] = Reader("idle", reader.turn)
                broken = self._answered(position, Seen(rows, (), True), reader.floor)
                if broken:
                    return broken
        return ""
