"""What did the statement that is about to be sent add to its transaction's changes?

Takes a statement's effect and the values sent along, has the rows' old tag values asked for where they matter (in
``images``), and notes tags, tables and reach in the connection's state. Never: marks, commits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError

from querycache.coherence.binds import Bind
from querycache.coherence.facts import TableFacts
from querycache.coherence.transactions import ConnectionState
from querycache.images import learn_images
from querycache.statements.writes import UNKNOWN, Effect, RowChange, TableWrite, row_changes_of


def note_changes(
    state: ConnectionState, effect: Effect, context: Any, asked: Callable[[], Connection | None]
) -> list[TableFacts]:
    """Note in ``state`` all that a statement may change, before it is sent.

    ``asked``: gives the connection on which old values may be asked for, None where they may not.
    Return the tables into which it inserts rows whose primary keys only the database knows yet.
    """
    keyless: list[TableFacts] = []
    bind: Bind = state.bind
    schema_map = (context.execution_options if context is not None else {}).get("schema_translate_map")
    if effect.kind not in ("read", "write", "harmless") or bind.calls_user_function(effect.functions):
        state.pending.add_bind(bind.tag)
        state.images.clear()
        return keyless
    if effect.is_declared:
        _note_declared(state, effect, schema_map)
        return keyless
    for name in effect.named_writes:
        bind.note_table(state.pending, bind.name_of_text(name), deletes=True)
        state.images.clear()
    for write in effect.writes:
        facts = bind.facts(write.table, schema_map)
        rows = _rows_of(write, context)
        if rows is None or not bind.writes_are_known(facts):
            bind.note_table(state.pending, facts.catalog_name, deletes=effect.deletes or write.how == "any")
            state.images.clear()
            continue
        if write.how != "insert" and facts.needs_images and (connection := asked()) is not None:
            learn_images(state, facts, write, rows, connection, schema_map)
        for row in rows:
            _note_row(state, facts, row)
        if write.how == "insert" and any(row.key is None for row in rows):
            keyless.append(facts)
        if bind.note_reach(state.pending, facts, write):
            state.images.clear()
    return keyless


def _note_declared(state: ConnectionState, effect: Effect, schema_map: Mapping[str | None, str | None] | None) -> None:
    """Note whole tables, as the user names them and as the statement does, whatever triggers they have."""
    bind: Bind = state.bind
    names = bind.names_of_declared(effect.named_writes, schema_map)[0].union(
        map(bind.name_of_text, effect.named_writes),
        (bind.facts(write.table, schema_map).catalog_name for write in effect.writes),
    )
    bind.note_declared(state.pending, names)
    state.images.clear()


def note_inserted_keys(state: ConnectionState, facts: TableFacts, context: Any) -> None:
    """Note the primary keys that the database gave to rows just inserted; where it did not say, the table."""
    keys = _inserted_keys(context)
    for key in [None] if keys is None else keys:
        state.pending.add_rows(facts.guard, facts.name, facts.key_tags(None if key is None else tuple(key)))


def _inserted_keys(context: Any) -> list[Any] | None:
    try:
        keys = list(context.inserted_primary_key_rows)
    except (AttributeError, TypeError, IndexError, InvalidRequestError):
        # An execution whose keys the driver does not report.
        return None
    known = len(keys) == len(context.compiled_parameters)
    return keys if known and all(key is not None and None not in tuple(key) for key in keys) else None


def _rows_of(write: TableWrite, context: Any) -> list[RowChange] | None:
    if context is None or not context.compiled_parameters:
        return None
    return row_changes_of(write, context.compiled_parameters)


def _note_row(state: ConnectionState, facts: TableFacts, row: RowChange) -> None:
    """Note the tags of one row's old and new image."""
    key = facts.image_key(row.key)
    old = None if key is None else state.images.get(key)
    state.pending.add_rows(facts.guard, facts.name, facts.change_tags(row, old))
    if key is None:
        return
    if row.how == "delete":
        state.images.pop(key, None)
    elif row.how == "insert":
        state.images[key] = {column: row.new.get(column, UNKNOWN) for column in facts.tag_keys}
    elif old is not None:
        state.images[key] = {**old, **{column: row.new[column] for column in facts.tag_keys if column in row.new}}
