"""Is what the cache serves what the database would say?

``VerifyingReader`` sends the statement of each hit as well and compares the rows, value by value, before it serves what was
cached. A miss it answers by what it stored, so that whatever may be cached is answered as a hit would be. For tests: it takes
all that a cache is for, and shows whatever the cache gets wrong as an error where it happens.

Promises: as many statements reach the database as without a cache, in the same order; objects are made of the cached rows,
and once only. A change that was committed between the look-up and the statement is told from a stale entry. Never: an
error for rows in another order, as most statements ask for none; those are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy.engine import Dialect, Result

from querycache import _sqlalchemy
from querycache._types import Lookup
from querycache.coherence.snapshots import Freshness
from querycache.collection import Collection
from querycache.engine import CAPTURE, Capture
from querycache.errors import QueryCacheError
from querycache.flights import Flights
from querycache.questions import Question, Questions
from querycache.reader import Reader
from querycache.readings import Reading
from querycache.refreshing import EarlyRefresh
from querycache.results import Gets, KnownGet, Results
from querycache.rows.codec import DecodedRows, UnsupportedValue, decode_rows, encode_rows, encode_values
from querycache.variation import Variations

VERIFIED: Final = "verified"
REPLAYED: Final = "misses answered by what was stored"
IN_OTHER_ORDER: Final = "verified, in another order"
OVERTAKEN: Final = "overtaken by a commit"
NOT_VERIFIED: Final = "not verified"
STALE: Final = "stale"


class StaleReadError(QueryCacheError):
    """The cache had other rows than the database."""


class VerifyingReader(Reader):
    """Answers reads from the cache, and sees that the database says the same. ``verdicts`` counts how that went."""

    def __init__(
        self, questions: Questions, variations: Variations, flights: Flights, refreshing: EarlyRefresh
    ) -> None:
        super().__init__(questions, variations, flights, refreshing)
        self.results = _WithoutShortCuts(questions)
        self.verdicts: Counter[str] = Counter()

    def serve(self, reading: Reading, question: Question, entry: DecodedRows) -> Result[Any]:
        """Compare, and serve. Raises ``StaleReadError`` where the database says otherwise."""
        verdict = self._verdict_on(reading, question, entry)
        self.verdicts[verdict] += 1
        if verdict == STALE:
            reading.attachment.coherence.events.emit(
                "defect", key=question.key, reason="stale: the database has others"
            )
            raise StaleReadError(f"the cache had other rows than the database for {question.compilation.compiled}")
        return super().serve(reading, question, entry)

    def _run_and_fill(
        self,
        reading: Reading,
        question: Question,
        found: Lookup,
        collection: Collection | None,
        reason: str | None = None,
    ) -> Result[Any]:
        capture = self._send(reading, question)
        if capture.rows is None:
            return super()._run_and_fill(reading, question, found, collection, reason)
        reading.attachment.coherence.events.emit("miss", key=question.key, reason=reason)
        self._fill(reading, question, found, collection, capture)
        try:
            payload = encode_rows(question.key, [column[:2] for column in capture.description], capture.rows)
        except UnsupportedValue:
            return self.results.of(reading, question, capture.description, capture.rows)
        self.verdicts[REPLAYED] += 1
        return super().serve(reading, question, decode_rows(question.key, payload))

    def _within_grace(self, reading: Reading, question: Question, found: Lookup, freshness: Freshness) -> bytes | None:
        """Serve nothing that is over: it could not be told from what is stale."""
        return None

    def _send(self, reading: Reading, question: Question) -> Capture:
        capture = Capture(question.compilation.compiled)
        _sqlalchemy.send_without_loading(reading.orm, {CAPTURE: capture, "prebuffer_rows": True})
        return capture

    def _verdict_on(self, reading: Reading, question: Question, entry: DecodedRows) -> str:
        capture = self._send(reading, question)
        if capture.rows is None or capture.bind is not reading.bind:
            return NOT_VERIFIED
        try:
            cached, current = _encoded(entry.rows), _encoded(capture.rows)
        except UnsupportedValue:
            return NOT_VERIFIED
        if cached == current:
            return VERIFIED
        if sorted(cached) == sorted(current):
            return IN_OTHER_ORDER
        again = reading.attachment.coherence.lookup(question.store, question.key, question.tags, strict=True)
        return STALE if again is not None and again.payload is not None else OVERTAKEN


class _WithoutShortCuts(Results):
    """Knows no gets and nothing that follows: those would be answered without a statement that could be sent."""

    def known_get(self, gets: Gets, dialect: Dialect) -> KnownGet | None:
        return None

    def with_posts(self, *arguments: Any) -> list[Any] | None:
        return None


def _encoded(rows: Sequence[Sequence[Any]]) -> list[bytes]:
    return [encode_values(list(row)) for row in rows]
