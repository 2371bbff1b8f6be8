"""What is a write, and which kinds of writes are there?

A write is performed by a Session, or by a Connection alone. It may fail as any write may (a key that is there already, a
row that another transaction locked): whoever performs it rolls back then. A kind is one function from a stage to a write,
with ``@write`` before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from oracle_schema import ROLE, Attribute, attributes_of
from oracle_stage import Stage
from sqlalchemy import Column, Connection, Table
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class SessionWrite:
    """A change that only a Session can make."""

    kind: str
    told: str
    perform: Callable[[Session], Any]


@dataclass(frozen=True, slots=True)
class CoreWrite:
    """A change that a Connection can make, a Session's own included."""

    kind: str
    told: str
    perform: Callable[[Connection], Any]


Write: TypeAlias = SessionWrite | CoreWrite
Maker: TypeAlias = Callable[[Stage], "Write | None"]

WRITES: Final[dict[str, tuple[Maker, int]]] = {}
"""The kinds of writes, and how often each is drawn."""

CORE_WRITES: Final[set[str]] = set()
"""The kinds that need no Session."""


def write(kind: str, weight: int = 2, *, core: bool = False) -> Callable[[Maker], Maker]:
    """Add a kind of write; it may answer None where the schema or the database has no such write."""

    def add(maker: Maker) -> Maker:
        WRITES[kind] = (maker, weight)
        if core:
            CORE_WRITES.add(kind)
        return maker

    return add


def draw_write(stage: Stage, kinds: Sequence[str]) -> Write | None:
    """Return a write of one of these kinds; None where the schema has none of them."""
    for _ in range(10):
        found = WRITES[stage.dice.weighted([(kind, WRITES[kind][1]) for kind in kinds])][0](stage)
        if found is not None:
            return found
    return None


def settable_of(model: type[Any]) -> list[Attribute]:
    """Return the attributes that an application sets on a row that is there."""
    return [one for one in attributes_of(model) if one.is_settable]


def settable_in(table: Table) -> list[Column[Any]]:
    """Return the columns that an application sets on a row that is there."""
    return [c for c in table.columns if not c.primary_key and c.computed is None and ROLE not in c.info]
