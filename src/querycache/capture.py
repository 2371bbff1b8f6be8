"""What did the statement that is about to be sent add to its transaction's changes?

Takes a statement's effect and the values sent along, asks the database for the rows' old tag values where they matter
(one locked read by primary key), and notes tags, tables and reach in the connection's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Table, and_, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.exc import InvalidRequestError

from querycache.coherence.binds import Bind, TableFacts
from querycache.coherence.transactions import ConnectionState
from querycache.statements.writes import UNKNOWN, Effect, RowChange, TableWrite, row_changes_of

INTERNAL: Final = "_querycache_internal"
MAX_LOCKED_ROWS: Final = 100

Images = dict[tuple[str, tuple[Any, ...]], dict[str, Any]]


def note_changes(
    state: ConnectionState, effect: Effect, context: Any, connection: Connection, *, old_images: bool
) -> None:
    """Note in ``state`` all that a statement may change, before it is sent."""
    bind: Bind = state.bind
    schema_map = (context.execution_options if context is not None else {}).get("schema_translate_map")
    if effect.kind not in ("read", "write", "harmless") or bind.calls_user_function(effect.functions):
        state.pending.add_bind(bind.tag)
        state.images.clear()
        return
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
        if old_images and write.how != "insert":
            _read_old_images(state, facts, rows, connection, schema_map)
        for row in rows:
            _note_row(state, facts, row)
        if bind.note_reach(state.pending, facts, write):
            state.images.clear()


def note_inserted_keys(state: ConnectionState, facts: TableFacts, context: Any) -> None:
    """Note the primary keys that the database gave to rows just inserted; where it did not say, the table."""
    keys = _inserted_keys(context)
    for key in [None] if keys is None else keys:
        state.pending.add(facts.key_tags(None if key is None else tuple(key)))


def inserts_unknown_keys(write: TableWrite, context: Any) -> bool:
    """Tell whether rows are inserted whose primary keys only the database knows yet."""
    if write.how != "insert":
        return False
    rows = _rows_of(write, context)
    return rows is not None and any(row.key is None for row in rows)


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
    state.pending.add(facts.change_tags(row, old), [facts.guard], [facts.name])
    if key is None:
        return
    if row.how == "delete":
        state.images.pop(key, None)
    elif row.how == "insert":
        state.images[key] = {column: row.new.get(column, UNKNOWN) for column in facts.tag_keys}
    elif old is not None:
        state.images[key] = {**old, **{column: row.new[column] for column in facts.tag_keys if column in row.new}}


def _read_old_images(
    state: ConnectionState,
    facts: TableFacts,
    rows: Sequence[RowChange],
    connection: Connection,
    schema_map: Mapping[str | None, str | None] | None,
) -> None:
    """Ask the database, under a lock, for the tag values of rows that this transaction does not know yet."""
    if not facts.needs_images:
        return
    missing: dict[tuple[str, tuple[Any, ...]], tuple[Any, ...]] = {}
    for row in rows:
        key = facts.image_key(row.key)
        if key is not None and row.key is not None and _is_unknown(state.images.get(key)):
            missing[key] = row.key
    if not missing or len(missing) > MAX_LOCKED_ROWS:
        return
    table = facts.table
    _hold_write_lock(state, connection)
    answer = connection.execute(
        select(*(table.c[column] for column in (*facts.key_columns, *facts.tag_keys)))
        .where(_pins(table, facts.key_columns, list(missing.values())))
        .order_by(*(table.c[column] for column in facts.key_columns))
        .with_for_update(),
        execution_options={INTERNAL: True, "schema_translate_map": schema_map} if schema_map else {INTERNAL: True},
    )
    width = len(facts.key_columns)
    for found in answer:
        values = tuple(found)
        key = facts.image_key(values[:width])
        if key is not None:
            state.images[key] = dict(zip(facts.tag_keys, values[width:], strict=True))


def _is_unknown(image: Mapping[str, Any] | None) -> bool:
    return image is None or UNKNOWN in image.values()


def _pins(table: Table, key_columns: Sequence[str], keys: Sequence[tuple[Any, ...]]) -> Any:
    if len(key_columns) == 1:
        return table.c[key_columns[0]].in_([key[0] for key in keys])
    return or_(
        *(and_(*(table.c[column] == part for column, part in zip(key_columns, key, strict=True))) for key in keys)
    )


def _hold_write_lock(state: ConnectionState, connection: Connection) -> None:
    """On SQLite there is no FOR UPDATE: a read counts when it stands in the same real transaction as the write.

    The driver would begin that only with the write itself. IMMEDIATE waits for the lock here, as the write would, where
    a plain BEGIN could fail later with a snapshot that is too old to write.
    """
    raw = connection.connection.dbapi_connection
    if state.dialect_name == "sqlite" and raw is not None and not getattr(raw, "in_transaction", True):
        connection.exec_driver_sql("BEGIN IMMEDIATE", execution_options={INTERNAL: True})
