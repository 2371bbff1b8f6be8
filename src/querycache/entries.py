"""When may an entry be taken from the store for a transaction, and when may rows be stored?

Promises: what is taken is what the transaction would be shown, and it is remembered where the snapshot is still to be taken;
what is stored was read after its lease. Never: a lookup, or a statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from querycache._types import Lease, Lookup, TagSet
from querycache.coherence.protocol import Coherence
from querycache.coherence.snapshots import Freshness, may_fill, may_serve
from querycache.coherence.transactions import Served
from querycache.engine import Capture
from querycache.questions import Question
from querycache.readings import Reading, Situation
from querycache.rows.codec import DecodedRows, PayloadRejected, UnsupportedValue, decode_rows, encode_rows
from querycache.rows.envelope import Envelope

Answer: TypeAlias = tuple[Question, Lookup, Sequence[Sequence[object]]]
"""What was asked, what the store said before the database was, and the rows that the database gave."""


class _Opened(NamedTuple):
    """Decoded rows that stay beside a payload, and by which envelope's rules it was opened: another cache may have others."""

    envelope: Envelope
    rows: DecodedRows


def take(reading: Situation, question: Question, found: Lookup, freshness: Freshness) -> DecodedRows | None:
    """Return the rows of an entry that this transaction may be served, and remember them where the snapshot asks."""
    decoded = peek(reading, question.store, question.key, found, freshness)
    if decoded is not None:
        remember(reading, question, question.tags, found.lease, freshness)
        reading.attachment.coherence.events.emit("hit", key=question.key)
    return decoded


def peek(reading: Situation, store: int, key: bytes, found: Lookup, freshness: Freshness) -> DecodedRows | None:
    """Return the rows of an entry that this transaction may be served; who does serve them calls ``remember``."""
    if found.payload is None:
        return None
    state = reading.state
    started = state is not None and state.statements > 0
    since = None if state is None or state.since is None else state.since.get(store)
    if not may_serve(freshness, found.lease, started=started, since=since):
        return None
    memo, envelope = found.memo, reading.attachment.coherence.envelopes[store]
    if memo is not None and isinstance(memo.value, _Opened) and memo.value.envelope is envelope:
        return memo.value.rows
    try:
        decoded = rows_in(reading.attachment.coherence, store, key, found.payload)
    except PayloadRejected as error:
        reading.attachment.coherence.events.emit("defect", key=key, reason=f"payload rejected: {error}")
        return None
    if memo is not None and decoded.is_immutable:
        # Nobody can change what all share now: a tuple of tuples.
        decoded = decoded._replace(rows=tuple(decoded.rows))
        memo.keep(_Opened(envelope, decoded), _size_of(decoded, found.payload))
    return decoded


def rows_in(coherence: Coherence, store: int, key: bytes, payload: bytes) -> DecodedRows:
    """Return the rows in a payload as a store has it. Raises ``PayloadRejected``."""
    return decode_rows(key, coherence.envelopes[store].unwrap(key, payload))


def _size_of(decoded: DecodedRows, payload: bytes) -> int:
    """Estimate what decoded rows take in memory: a tuple for each, and for each value an object and a place."""
    return 2 * len(payload) + len(decoded.rows) * (64 + 48 * len(decoded.description))


def remember(reading: Situation, question: Question, tags: TagSet, lease: Lease, freshness: Freshness) -> None:
    """Note under which stamps rows are served to a transaction whose snapshot is still to be taken."""
    state = reading.state
    if state is None:
        of_session, dialect = reading.notes.served, reading.attachment.dialect
        known = of_session.get(dialect)
        served = of_session.setdefault(dialect, Served()) if known is None else known
    elif not state.pinned and freshness is Freshness.SNAPSHOT:
        served = state.served
    else:
        return
    served.remember(question.store, question.key, tags, lease)


def fill(reading: Reading, answers: Sequence[Answer], capture: Capture) -> int:
    """Store what was captured after it was looked up, where the snapshot allows; all in one store.

    Return how many answers the store holds now: one that it held already stays as it is.
    """
    coherence = reading.attachment.coherence
    if not reading.is_still_the_same():
        # What ran in between (a hook of its transaction's beginning, say) gave the Session to somebody else.
        coherence.events.emit("bypass", reason="vary said something else once the rows were read")
        return 0
    entries, held = [], 0
    for question, found, rows in answers:
        payload = _payload_of(coherence, question, found, rows, capture)
        if payload is not None and payload == found.payload:
            held += 1
        elif payload is not None:
            entries.append((question.key, payload, found.lease, question.ttl_s))
    kept = coherence.fill_many(answers[0][0].store, entries) if entries else 0
    if kept == len(entries):
        for entry in entries:
            coherence.events.emit("fill", key=entry[0])
    return held + kept


def payload_of_now(reading: Reading, question: Question, capture: Capture) -> bytes | None:
    """Make a payload of rows as they surely were at some moment since the database was asked; None where not."""
    is_of_now = capture.freshness is Freshness.STATEMENT and not capture.dirty and capture.bind is reading.bind
    if capture.rows is None or not is_of_now or not question.stands_for(capture.parameters):
        return None
    try:
        payload = encode_rows(question.key, [column[:2] for column in capture.description], capture.rows)
    except UnsupportedValue:
        return None
    if len(payload) > question.plan.max_size_bytes or not reading.is_still_the_same():
        return None
    return reading.attachment.coherence.envelopes[question.store].wrap(question.key, payload)


def _payload_of(
    coherence: Coherence, question: Question, found: Lookup, rows: Sequence[Sequence[object]], capture: Capture
) -> bytes | None:
    """Make an entry's payload; None where it must not be stored, or cannot."""
    since = None if capture.since is None else capture.since.get(question.store)
    if capture.dirty or not found.storable:
        return None
    if not may_fill(capture.freshness, found.lease, first=capture.first, since=since):
        reason = "the snapshot is older than the entry would be"
        coherence.events.emit("bypass", key=question.key, reason=reason)
        return None
    try:
        payload = encode_rows(question.key, [column[:2] for column in capture.description], rows)
    except UnsupportedValue as error:
        coherence.events.emit("bypass", key=question.key, reason=str(error))
        return None
    if len(payload) > question.plan.max_size_bytes:
        coherence.events.emit("bypass", key=question.key, reason="the result is larger than max_size_bytes")
        return None
    return coherence.envelopes[question.store].wrap(question.key, payload)
