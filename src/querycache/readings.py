"""Where would a read of a Session go, and in which transaction?

What is found out once about a read, for whoever answers it. No store is asked here, and no statement is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.orm import ORMExecuteState, Session

from querycache._types import Lookup, TagSet
from querycache.coherence.binds import Bind
from querycache.coherence.snapshots import Freshness
from querycache.coherence.transactions import ConnectionState, Served
from querycache.engine import Attachment
from querycache.questions import Bypass
from querycache.variation import Variations

NOTES: Final = "_querycache_notes"


@dataclass(slots=True)
class SessionNotes:
    """What the cache keeps with one Session, until its transaction ends: what was served before it had a connection.

    ``found``: a miss that was looked up before the statement was built.
    """

    served: dict[Dialect, Served] = field(default_factory=dict)
    found: tuple[bytes, Lookup] | None = None

    def take_found(self, key: bytes) -> Lookup | None:
        """Return, once, what the store already said of a key in this read."""
        found, self.found = self.found, None
        return found[1] if found is not None and found[0] == key else None


def notes_of(session: Session) -> SessionNotes:
    """Return what is kept with a Session."""
    notes: SessionNotes | None = session.__dict__.get(NOTES)
    if notes is None:
        notes = session.__dict__[NOTES] = SessionNotes()
    return notes


@dataclass(slots=True)
class Situation:
    """Where a read of a Session would go, and in which transaction. Made at every read, and never changed.

    ``variation``: what decides on its rows beside all that, as part of a key.
    """

    attachment: Attachment
    engine: Engine
    bind: Bind
    options: Mapping[str, Any]
    notes: SessionNotes
    connection: Connection | None
    state: ConnectionState | None
    variation: bytes
    variations: Variations

    def why_not_cached(self, tables: frozenset[str]) -> str | None:
        """Say what in its transaction so far sends a read of these tables past the cache."""
        if self.state is not None and self.state.failed:
            return "a statement failed in this transaction"
        if self.state is not None and self.state.may_have_changed(tables):
            return "this transaction may have changed what it reads"
        return None

    def must_be_strict(self, freshness: Freshness) -> bool:
        """Tell whether a look-up must not lag behind: what a snapshot shows that may be taken is told by stamps of now."""
        return freshness is Freshness.SNAPSHOT and self.state is not None and self.state.statements > 0


@dataclass(slots=True)
class Reading(Situation):
    """One read of a Session that may be answered from the cache.

    ``ahead``: by key, what was asked together with the read's own question, and what the store said of it.
    """

    orm: ORMExecuteState
    ahead: Mapping[bytes, tuple[TagSet, Lookup]] | None = None

    def is_still_the_same(self) -> bool:
        """Tell whether what decides on the rows beside all that is what it was before."""
        return self.variations.of(self.orm.session) == self.variation

    @property
    def parameters(self) -> Mapping[str, Any] | None:
        """The parameters given with the statement, where it is one set."""
        given = self.orm.parameters
        return given if given is None or isinstance(given, Mapping) else None


def freshness_in(reading: Situation) -> Freshness | Bypass:
    """Tell what a statement would see now, or say why that is not known."""
    state, connection = reading.state, reading.connection
    if state is not None and connection is not None:
        freshness = reading.attachment.freshness_of(state, connection.connection.dbapi_connection)
    else:
        freshness = reading.attachment.freshness_at_first(reading.options.get("isolation_level"))
    if freshness is Freshness.STATEMENT:
        return freshness
    on_replica = reading.attachment.met_replica if state is None else state.profile.is_replica
    if freshness is Freshness.SNAPSHOT and on_replica:
        return Bypass("a replica's snapshot may be older than the store's clock can tell")
    if freshness is Freshness.UNKNOWN:
        set_to = None if state is None else state.why_not_known
        return Bypass(set_to or "it is not known what this connection's statements see")
    return freshness
