"""Which tables may be cached, how long, and what of them?

By model: those that say so themselves (``CacheableMixin``) and those that the user names. A statement is cacheable when
every table it reads is: what it returns and what it only looks at. ``FromCache`` overrides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import Table
from sqlalchemy.orm import Mapper, RelationshipProperty, class_mapper
from sqlalchemy.orm.exc import UnmappedClassError

from querycache._types import DEFAULT_TTL_S, MAX_TTL_S
from querycache.errors import ConfigurationError

Operation: TypeAlias = Literal["get", "list", "columns"]
"""``get``: one entity by primary key. ``list``: any other select of entities. ``columns``: columns, counts, aggregates."""

OPERATIONS: Final[frozenset[str]] = frozenset({"get", "list", "columns"})

EntryShape: TypeAlias = Literal["whole", "keys"]
"""``whole``: one entry with all rows. ``keys``: beside it the list's primary keys, and each row on its own."""

SHAPES: Final = ("keys", "whole")


GRACE_EXPECTED: Final = f"give seconds, 0 or more and at most {MAX_TTL_S:.0f} (a day)"


def is_grace(grace_s: float) -> bool:
    """Tell whether a read may be so many seconds older than the database, if it is asked to be."""
    return 0 <= grace_s <= MAX_TTL_S


@dataclass(frozen=True, slots=True)
class Policy:
    """How a model is cached: seconds to live, operations, and the size in bytes past which a result is not stored.

    ``shape`` is how lists of the model are kept. "whole": one entry each, read again when one of its rows changes. "keys":
    the list's primary keys and each row on its own besides, so that the change of a row costs that row: for long or costly
    lists of rows that change. What cannot be kept so is kept whole; ``QueryCache.explain`` says why.

    ``grace`` lets reads of the model be up to so many seconds older than the database, while another read of the same process
    asks it for the same (stale-while-revalidate); 0: never. A statement has the least grace of its tables, and none where it
    reads one without; a row by its primary key has none.
    """

    ttl: float = DEFAULT_TTL_S
    operations: frozenset[str] = OPERATIONS
    max_size_bytes: int = 1_000_000
    region: str = "default"
    shape: EntryShape = "whole"
    grace: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.ttl <= MAX_TTL_S:
            raise ConfigurationError(f"ttl={self.ttl!r}: give seconds, more than 0 and at most {MAX_TTL_S:.0f} (a day)")
        unknown = set(self.operations) - OPERATIONS
        if unknown:
            raise ConfigurationError(f"operations={sorted(unknown)}: known are {', '.join(sorted(OPERATIONS))}")
        if self.max_size_bytes <= 0:
            raise ConfigurationError(f"max_size_bytes={self.max_size_bytes!r}: give a number of bytes above 0")
        if self.shape not in SHAPES:
            raise ConfigurationError(f"shape={self.shape!r}: known are {', '.join(SHAPES)}")
        if not is_grace(self.grace):
            raise ConfigurationError(f"grace={self.grace!r}: {GRACE_EXPECTED}")


class Policies:
    """The policy of each table, found from models as late as possible: mappers are configured after the cache is made.

    ``of_others``: the policy of every table that no cacheable model has; None: such a table is not cached.
    """

    def __init__(
        self, models: Callable[[], Iterable[tuple[type[Any], Policy]]], *, of_others: Policy | None = None
    ) -> None:
        self._models = models
        self._of_others = of_others
        self._tables: dict[Table, Policy] = {}
        self._seen: list[tuple[type[Any], Policy]] | None = None
        self._lock = threading.Lock()

    def of(self, table: Table) -> Policy | None:
        """Return a table's policy, None where it is not cacheable."""
        policy = self._tables.get(table)
        if policy is None:
            self._refresh()
            policy = self._tables.get(table, self._of_others)
        return policy

    def tables(self) -> Mapping[Table, Policy]:
        """Return the policy of every table that has one."""
        self._refresh()
        return self._tables

    def _refresh(self) -> None:
        models = list(self._models())
        with self._lock:
            if models == self._seen:
                return
            tables: dict[Table, Policy] = {}
            for model, policy in models:
                # What a model is mapped to is its own, also where a base class is cacheable in another way.
                tables.update(dict.fromkeys(_own_table_of(model), policy))
            for model, policy in models:
                for table in _tables_of(model):
                    tables.setdefault(table, policy)
            self._tables, self._seen = tables, models


def _own_table_of(model: type[Any]) -> Iterator[Table]:
    try:
        mapper: Mapper[Any] = class_mapper(model)
    except UnmappedClassError:
        return
    if isinstance(mapper.local_table, Table) and not mapper.single:
        yield mapper.local_table


def _tables_of(model: type[Any]) -> Iterator[Table]:
    """Yield the tables of a model: its own, its subclasses', and the association tables of its relationships."""
    try:
        mapper: Mapper[Any] = class_mapper(model)
    except UnmappedClassError:
        return
    for one in mapper.self_and_descendants:
        yield from (table for table in one.tables if isinstance(table, Table))
        for relationship in one.relationships:
            yield from _secondary_of(relationship)


def _secondary_of(relationship: RelationshipProperty[Any]) -> Iterator[Table]:
    if isinstance(relationship.secondary, Table):
        yield relationship.secondary
