"""Which values have the rows, in the database and under a lock, that a statement is about to change?

A session may know another value than the database has: somebody moved the row since it was loaded, or it expired. So the
database is asked, by primary key, right before the statement, for the columns that have tags.

Promises that asking makes nobody wait, and no two for each other, who would not without: the question takes the locks
that its statement is about to take, as strong as that and no stronger, in its order, and none of them earlier than
another lock that the statement takes before it. Transactions then lock in the same order as if nothing was asked, hence
one question a statement and not one for a whole flush. Where this cannot be had, nothing is asked, and the caller widens.
What the application's own statements told of rows that they locked (``locked``) is not asked again.

Never: a question to change what the application's statement says, or to save a lock that it would take anyway. Neither
RETURNING nor a version that matched are taken for an answer: the first would mean to rewrite the statement (and tells old
values for DELETE only), the second holds only as far as everybody counts the version up, which plain SQL need not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, TypeAlias
from uuid import UUID

from sqlalchemy import (
    Column,
    ColumnElement,
    Delete,
    Select,
    Table,
    and_,
    bindparam,
    delete,
    false,
    literal,
    or_,
    select,
)
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, ProgrammingError

from querycache.coherence.binds import Bind
from querycache.coherence.facts import ImageKey, TableFacts
from querycache.coherence.transactions import ConnectionState
from querycache.statements.writes import UNKNOWN, RowChange, TableWrite

INTERNAL: Final = "_querycache_internal"
"""The execution option of statements that the library sends itself."""

MAX_ASKED_ROWS: Final = 100

_KEYS: Final = "querycache_keys"
_KEEPING_LOCKS: Final = ("REPEATABLE READ", "SERIALIZABLE")
_DENIED: Final = ((1142,), (1143,))
"""What MySQL's and MariaDB's drivers raise where a table or a column may not be read, begins so."""

SchemaMap: TypeAlias = Mapping[str | None, str | None] | None


def learn_images(
    state: ConnectionState,
    facts: TableFacts,
    write: TableWrite,
    rows: Sequence[RowChange],
    connection: Connection,
    schema_map: SchemaMap,
) -> None:
    """Ask the database for the tag values of rows that this transaction does not know yet, and keep them in its state.

    A row that the answer does not name stays unknown. What the locks meet (a lock timeout, a deadlock, a serialization
    failure) is raised as it would be for the statement.
    """
    if not facts.needs_images:
        return
    asked: dict[ImageKey, RowChange] = {}
    for row in rows:
        key = facts.image_key(row.key)
        if key is not None and _is_unknown(state.images.get(key)):
            asked.setdefault(key, row)
    if asked and len(asked) <= MAX_ASKED_ROWS and _locks_nothing_more(state, facts, write, list(asked.values())):
        state.images.update(_ask(state, facts, write, list(asked.values()), connection, schema_map))


def _is_unknown(image: Mapping[str, Any] | None) -> bool:
    return image is None or UNKNOWN in image.values()


def _locks_nothing_more(
    state: ConnectionState, facts: TableFacts, write: TableWrite, rows: Sequence[RowChange]
) -> bool:
    """Tell whether a question takes no lock but those of its statement, nor in another order."""
    if write.conditions is None:
        return False
    if state.dialect_name == "sqlite":
        return True  # one lock for all of the database
    bind: Bind = state.bind
    survey, changed = bind.survey, write.set_by_value | write.set_by_database
    if survey is None or not facts.can_be_asked:
        return False
    if state.tainted is not None:
        return False  # in another role, perhaps, that may not lock: to be refused would end the transaction
    if state.dialect_name == "postgresql":
        if write.how == "update" and not facts.locked_stronger.isdisjoint(changed):
            return False  # the lock's strength depends on the value that is there
    elif write.conditions and state.isolation not in _KEEPING_LOCKS:
        return False  # a row that does not fulfil them is unlocked by the statement, but not by the question
    if len(rows) == 1:
        return True
    keys, columns = [row.key or () for row in rows], facts.table.columns
    names = None if write.how == "delete" else [columns[key].name for key in changed if key in columns]
    return _are_in_key_order(keys, state.dialect_name) and not survey.waits_between_rows(facts.catalog_name, names)


def _are_in_key_order(keys: Sequence[tuple[Any, ...]], dialect_name: str) -> bool:
    """Tell whether rows are changed in the order in which the database sorts their keys.

    Of texts it has an order of its own; MariaDB of UUIDs too.
    """
    sorted_alike = {int, UUID} if dialect_name == "postgresql" else {int}
    return {type(part) for key in keys for part in key} <= sorted_alike and list(keys) == sorted(keys)


def _ask(
    state: ConnectionState,
    facts: TableFacts,
    write: TableWrite,
    rows: Sequence[RowChange],
    connection: Connection,
    schema_map: SchemaMap,
) -> dict[ImageKey, dict[str, Any]]:
    options = {INTERNAL: True, "schema_translate_map": schema_map} if schema_map else {INTERNAL: True}
    if state.dialect_name == "sqlite":
        # Takes the lock for writing, as the statement would; a read first could find its snapshot too old to write.
        connection.execute(_nothing_of(facts.table), execution_options=options)
    key_share = state.dialect_name == "postgresql" and write.how == "update"
    question = _question_of(facts.table, facts.key_columns, facts.tag_keys, key_share=key_share)
    keys: dict[str, Any] = {}
    if len(facts.key_columns) == 1 and not any(row.conditions for row in rows):
        of_rows = [key for row in rows for key in row.key or ()]
        question = _by_key(question, facts.table.columns[facts.key_columns[0]], is_one=len(of_rows) == 1)
        keys = {_KEYS: of_rows[0] if len(of_rows) == 1 else of_rows}
    else:
        question = question.where(or_(*(_is_row(facts, row) for row in rows)))
    try:
        answer = connection.execute(question, keys, execution_options=options).all()
    except DBAPIError as error:
        if isinstance(error, ProgrammingError) or getattr(error.orig, "args", ())[:1] in _DENIED:
            # The rights, or the columns, are others than the survey saw: it is made again.
            state.bind.forget_survey()
        raise
    width = len(facts.key_columns)
    images: dict[ImageKey, dict[str, Any]] = {}
    for found in answer:
        key = facts.image_key(found[:width])
        if key is not None:
            images[key] = dict(zip(facts.tag_keys, found[width:], strict=True))
    # Where the mapping's primary key is not one in the database, several rows have it.
    return images if len(images) == len(answer) else {}


@lru_cache(maxsize=1024)
def _question_of(
    table: Table, key_columns: tuple[str, ...], tag_keys: tuple[str, ...], *, key_share: bool
) -> Select[Any]:
    return (
        select(*(table.columns[key] for key in (*key_columns, *tag_keys)))
        .order_by(*(table.columns[key] for key in key_columns))
        .with_for_update(key_share=key_share)
    )


@lru_cache(maxsize=1024)
def _by_key(question: Select[Any], key: Column[Any], *, is_one: bool) -> Select[Any]:
    # A list of values has its placeholders written into the statement each time.
    return question.where(key == bindparam(_KEYS) if is_one else key.in_(bindparam(_KEYS, expanding=True)))


@lru_cache(maxsize=1024)
def _nothing_of(table: Table) -> Delete:
    return delete(table).where(false())


def _is_row(facts: TableFacts, row: RowChange) -> ColumnElement[bool]:
    """Return the condition under which the statement changes a row."""
    columns = facts.table.columns
    return and_(
        *(columns[key] == part for key, part in zip(facts.key_columns, row.key or (), strict=True)),
        *(one.operator(columns[one.column], literal(one.value, columns[one.column].type)) for one in row.conditions),
    )
