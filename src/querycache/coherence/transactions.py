"""What has a driver connection's transaction done so far, and what follows for reads and for its commit?

The state belongs to the driver connection, not to a Session or a Connection: two of those may share it. It says

- what was changed and not yet committed (``pending``), hence what to mark, and that nothing may be stored;
- which tables a change may have reached, hence which reads go past the cache;
- when the transaction began on the store's clock, whether its snapshot is surely taken, and what was served before that.

No I/O here: whoever holds the state asks the store and the database.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from querycache._cursors import OpenCursor
from querycache._types import Guard, Lease, Stamp, Tag, TagSet
from querycache.coherence.inquiry import Case, Inquiry
from querycache.coherence.journal import Mark
from querycache.coherence.snapshots import Freshness, freshness_of
from querycache.coherence.variables import Variables
from querycache.databases import Profile

MAX_PENDING_TAGS: Final = 10_000
MAX_ROW_TAGS: Final = 5_000
MAX_REMEMBERED: Final = 1000


@dataclass(slots=True)
class Pending:
    """The tags that a transaction will have changed when it commits.

    ``rows``: those of rows known one by one, by the tag of their table; none of them where that is among ``tags``.
    """

    tags: dict[Tag, None] = field(default_factory=dict)
    rows: dict[Tag, dict[Tag, None]] = field(default_factory=dict)
    guards: dict[Tag, bytes] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    whole_bind: bool = False

    def __bool__(self) -> bool:
        return bool(self.tags or self.rows)

    def add(self, tags: Iterable[Tag], tables: Iterable[str] = ()) -> None:
        """Note tags, and the tables that the change can reach."""
        for tag in tags:
            self.tags[tag] = None
            self.rows.pop(tag, None)
        self.tables.update(tables)

    def add_rows(self, guard: Guard, table: str, tags: Iterable[Tag]) -> None:
        """Note the tags of rows of one table; of more than ``MAX_ROW_TAGS`` the table's, on which all its reads depend."""
        self.tables.add(table)
        if self.whole_bind or guard[0] in self.tags:
            return
        self.guards.update([guard])
        rows = self.rows.setdefault(guard[0], {})
        rows.update(dict.fromkeys(tags))
        if len(rows) > MAX_ROW_TAGS or guard[0] in rows:
            self.add([guard[0]])

    def add_bind(self, tag: Tag) -> None:
        """Note that anything in the database may have changed."""
        self.tags = {tag: None}
        self.rows = {}
        self.guards = {}
        self.whole_bind = True

    def tag_set(self, bind_tag: Tag) -> TagSet:
        """Return what to mark; past ``MAX_PENDING_TAGS`` names, whole tables, then the whole bind."""
        tags = dict(self.tags)
        if sum(map(len, self.rows.values())) > MAX_PENDING_TAGS:
            tags.update(dict.fromkeys(self.rows))
        else:
            for rows in self.rows.values():
                tags.update(rows)
        if self.whole_bind or len(tags) > MAX_PENDING_TAGS:
            return TagSet((bind_tag,))
        return TagSet(tuple(tags), tuple(self.guards.items()))


@dataclass(slots=True)
class Served:
    """What was served before the snapshot was taken: to be looked at again right after.

    Keeps at most ``MAX_REMEMBERED`` leases; ``overflowed`` says that there were more.
    """

    leases: dict[tuple[int, bytes], tuple[TagSet, Lease]] = field(default_factory=dict)
    overflowed: bool = False

    def remember(self, store: int, key: bytes, tags: TagSet, lease: Lease) -> None:
        """Keep the first lease under which an entry was served."""
        if len(self.leases) >= MAX_REMEMBERED:
            self.overflowed = True
        else:
            self.leases.setdefault((store, key), (tags, lease))

    def take(self, other: Served) -> None:
        """Add what ``other`` remembers, and make it forget."""
        for (store, key), (tags, lease) in other.leases.items():
            self.remember(store, key, tags, lease)
        self.overflowed = self.overflowed or other.overflowed
        other.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.leases.clear()
        self.overflowed = False

    def __bool__(self) -> bool:
        return bool(self.leases) or self.overflowed


class ours:
    """A block in which the driver connection of ``state`` is used by SQLAlchemy or the cache itself."""

    __slots__ = ("_before", "_state")

    def __init__(self, state: ConnectionState | None) -> None:
        self._state = state

    def __enter__(self) -> None:
        if self._state is not None:
            self._before = self._state.is_ours
            self._state.is_ours = True

    def __exit__(self, *error: object) -> None:
        if self._state is not None:
            self._state.is_ours = self._before


@dataclass(slots=True, eq=False, weakref_slot=True)
class ConnectionState:
    """What the cache knows of one driver connection. Used by one thread at a time, as the connection is.

    ``isolation`` is empty where a text set a level that nobody told us; ``isolation_chosen``: it is not the server's default.
    """

    dialect_name: str
    profile: Profile
    bind: Any
    isolation: str
    isolation_chosen: bool
    asked_at: float = 0.0
    autocommit: bool = False
    begun_by_text: bool = False
    tainted: str | None = None
    names_moved: bool = False
    began: bool = False
    statements: int = 0
    since: Mapping[int, Stamp] | None = None
    pinned: bool = False
    dirty: bool = False
    failed: bool = False
    has_temporary_tables: bool = False
    variables: Variables = field(default_factory=Variables)
    pending: Pending = field(default_factory=Pending)
    marks: list[Mark] = field(default_factory=list)
    images: dict[tuple[str, tuple[Any, ...]], dict[str, Any]] = field(default_factory=dict)
    served: Served = field(default_factory=Served)
    schema_changed: bool = False
    survey_stamps: Mapping[int, Stamp] | None = None
    sent: Any = None
    locked: Any = None
    is_ours: bool = False
    in_phase: bool = False
    prepared: Any = None
    inserts: dict[int, Any] = field(default_factory=dict)
    inquiry: Inquiry | None = None
    _cursors: weakref.WeakSet[OpenCursor] = field(default_factory=weakref.WeakSet)

    @property
    def goes_by_transaction(self) -> bool:
        """Whether it depends on the driver's word, that a transaction is open, what the next statement sees."""
        return self.dialect_name == "sqlite" or self.isolation == "AUTOCOMMIT"

    def freshness(self, *, in_transaction: bool | None) -> Freshness:
        """Tell what the next statement will see. ``in_transaction``: what the driver says, None where it cannot tell."""
        return Freshness.UNKNOWN if self.why_not_known is not None else self._level(in_transaction)

    @property
    def why_not_known(self) -> str | None:
        """Why it is not known what the connection's statements are shown; None where it is, or where they tell themselves."""
        if self.tainted is None and not self.variables.are_known:
            return "a variable of the connection's was set in another transaction than this one"
        return self.tainted

    def shows_snapshot(self, *, in_transaction: bool | None) -> bool:
        """Tell whether the transaction may show less than is committed, whatever else was set on its connection."""
        return not self.isolation or self._level(in_transaction) in (Freshness.SNAPSHOT, Freshness.SERIAL)

    def _level(self, in_transaction: bool | None) -> Freshness:
        if self.autocommit and self.dialect_name != "sqlite":
            return Freshness.STATEMENT
        if self.isolation == "AUTOCOMMIT" and self.dialect_name != "sqlite":
            # In a transaction that was begun by text, at a level that nobody told us.
            return Freshness.UNKNOWN if self.begun_by_text or in_transaction else Freshness.STATEMENT
        inside = True if in_transaction is None else in_transaction
        if self.dialect_name == "sqlite" and not inside and self.has_open_cursor():
            return Freshness.UNKNOWN
        return freshness_of(self.isolation, self.dialect_name, in_transaction=inside)

    def has_open_cursor(self) -> bool:
        """Tell whether a result of this connection still has rows to fetch."""
        return any(cursor.is_open for cursor in self._cursors)

    def watch(self, cursor: OpenCursor) -> None:
        """Remember, weakly, that a result's cursor is open."""
        self._cursors.add(cursor)

    def may_have_changed(self, tables: Iterable[str]) -> bool:
        """Tell whether this transaction can have changed one of these tables."""
        return self.dirty and (self.pending.whole_bind or not self.pending.tables.isdisjoint(tables))

    def open_case(self, *, began: bool) -> Case | None:
        """Have the database asked what became of this session's COMMIT; None where nobody could tell.

        ``began``: it ended a transaction that the server had answered in; not a statement that is one by itself.
        """
        return None if self.inquiry is None else self.inquiry.open(self.profile, began=began)

    def tags_to_mark(self) -> TagSet:
        """Return all that this transaction changes when it commits: rows, and what is known of the catalog."""
        tags = self.pending.tag_set(self.bind.tag)
        return TagSet((*tags.tags, self.bind.schema_guard[0]), tags.guards) if self.schema_changed else tags

    def suspect_everything(self) -> None:
        """Take it that this transaction has changed anything: it began before anybody listened."""
        self.began = True
        self.statements = 1
        self.dirty = True
        self.pending.add_bind(self.bind.tag)

    def end(self) -> None:
        """Forget the transaction: it was committed, rolled back, or its connection went back to the pool."""
        self.began = False
        self.begun_by_text = False
        self.statements = 0
        self.since = None
        self.pinned = False
        self.dirty = False
        self.failed = False
        self.pending = Pending()
        self.marks = []
        self.images = {}
        self.served.clear()
        self.schema_changed = False
        self.survey_stamps = None
        self.prepared = None
        self.locked = None
        self.inserts = {}
        self.variables.end()
