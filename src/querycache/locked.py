"""Which values has a statement told of the rows that it locked?

Who is about to change a row often reads it FOR UPDATE. From then on nobody else changes it until the transaction ends or goes
back to a savepoint, so that ``images`` need not ask for what was told already.

Promises: a value counts only as what stands in a column of its own in the answer, of a plain table that is all that the
statement reads. Never: a statement sent, a lock taken, rows fetched before the application asked for them where it streams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.engine import CursorResult, Dialect
from sqlalchemy.exc import InvalidRequestError

from querycache import _cursors
from querycache.coherence.binds import Bind
from querycache.coherence.facts import ImageKey, TableFacts
from querycache.coherence.transactions import ConnectionState
from querycache.statements.writes import Effect

MAX_LOCKED_ROWS: Final = 100
"""Of statements that lock more rows than this nothing is kept: hardly all of them will be changed one by one."""


@dataclass(frozen=True, slots=True)
class Locked:
    """The rows of a statement that locked them, as the driver gave them, until SQLAlchemy has made a result of them."""

    context: Any
    effect: Effect
    rows: Sequence[Sequence[Any]]


def tells_images(state: ConnectionState, options: Mapping[str, Any], dialect: Dialect) -> bool:
    """Tell whether the rows that a statement has just locked stay locked, and may be fetched at once."""
    if state.dialect_name == "sqlite":  # which has no locks of rows
        return False
    if options.get("stream_results") or options.get("yield_per") or getattr(dialect, "server_side_cursors", False):
        return False
    # By the same name another table may be meant. (In autocommit the state's transaction is over when rows are told.)
    return state.tainted is None


def images_told(state: ConnectionState, locked: Locked, result: CursorResult[Any]) -> dict[ImageKey, dict[str, Any]]:
    """Return the tag values of rows that a statement locked, as it told them; empty where it does not tell all."""
    bind: Bind = state.bind
    table = locked.effect.locked
    if table is None or bind.survey is None or len(locked.rows) > MAX_LOCKED_ROWS:
        return {}
    facts = bind.facts(table, locked.context.execution_options.get("schema_translate_map"))
    places = _places_of(result, facts) if facts.needs_images and bind.survey.plain(facts.catalog_name) else None
    if places is None:
        return {}
    told: dict[ImageKey, dict[str, Any]] = {}
    for row in locked.rows:
        values = [row[at] if process is None else process(row[at]) for at, process in places]
        width = len(facts.key_columns)
        key = facts.image_key(values[:width])
        if key is not None:
            told[key] = dict(zip(facts.tag_keys, values[width:], strict=True))
    # Where the mapping's primary key is not one in the database, several rows have it.
    return told if len(told) == len(locked.rows) else {}


def _places_of(result: CursorResult[Any], facts: TableFacts) -> list[tuple[int, Any]] | None:
    columns = facts.table.columns
    try:
        return _cursors.bare_places_of(result, [columns[key] for key in (*facts.key_columns, *facts.tag_keys)])
    except InvalidRequestError:  # one is not there
        return None
