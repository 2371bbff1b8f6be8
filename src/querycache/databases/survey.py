"""What is a table in the database's own catalog, and which tables does a write to it reach?

A survey is an immutable picture: what was made after it is unknown to it, and unknown is never plain. It answers for
cascades that the database itself runs; where it cannot answer, ``writes_are_known`` is False and the caller has to
take every table of the bind as changed. Names are (schema, name) in lower case, whatever the database folds to; two
tables whose names differ in case only are one, and not plain. It never asks the database anything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from querycache.databases.bookkeeping import is_bookkeeping

TableName: TypeAlias = tuple[str, str]
"""Schema and name, both in lower case. MySQL and MariaDB: the database is the schema. SQLite: "main"."""

Kind: TypeAlias = Literal[
    "table",
    "view",
    "materialized view",
    "foreign table",
    "partitioned table",
    "partition",
    "temporary table",
    "virtual table",
    "shadow table",
    "attached table",
    "system-versioned table",
    "ambiguous name",
    "other relation",
]

ColumnKind: TypeAlias = Literal["int", "uuid", "text", ""]

Action: TypeAlias = Literal["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]

_Change: TypeAlias = tuple[TableName, frozenset[str] | None]
"""A table, and the columns of it that are updated; None: rows of it are deleted."""

_UPDATING: Final[frozenset[Action]] = frozenset({"SET NULL", "SET DEFAULT"})
_ACTING: Final[frozenset[Action]] = _UPDATING | {"CASCADE"}


@dataclass(frozen=True, slots=True)
class Table:
    """What the catalog says about one relation.

    ``fires``: a write to it runs code that the database keeps (triggers, rules), or may, as far as this user can see.
    ``has_relatives``: it inherits or is inherited from, so that its rows show in other tables, or theirs in it.
    ``obstacle``: why reading it is not a matter of its rows alone, as the end of "the table ...".
    ``can_be_locked``: this user may lock its rows. ``delete_waits``: to delete a row may wait for locks beside the row's.
    ``policies``: it has row-level security, by which these decide on the rows that somebody is shown; None: it has not.
    """

    name: TableName
    kind: Kind = "table"
    fires: bool = False
    has_relatives: bool = False
    obstacle: str = ""
    can_be_locked: bool = True
    delete_waits: bool = False
    policies: View | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """What the catalog says about one column of a table.

    ``kind``: how it compares. "int": as numbers, each integer of 64 bits apart from the others. "text": byte by byte.
    "uuid": 32 hex digits or the type itself; letters may be told apart by case or not. "": otherwise, or not known.
    ``low``, ``high``: a number beyond them, or a text of more than ``high`` characters, may be stored as another one.
    ``replaces_null``, ``replaces_zero``: the database may store a value of its own for them.
    ``is_computed``: the database changes it together with other columns.
    ``can_be_read``: by this user. ``is_key``: to change it takes a stronger lock of the row than to change others.
    ``waits``: to set it may wait for locks beside the row's, those of other rows or of gaps between them.
    ``puts_on_today``: beside a date, its values are those of the present day (MySQL's and MariaDB's TIME).
    """

    table: TableName
    name: str
    kind: ColumnKind = ""
    low: int | None = None
    high: int | None = None
    replaces_null: bool = False
    replaces_zero: bool = False
    is_computed: bool = False
    can_be_read: bool = True
    is_key: bool = False
    waits: bool = False
    puts_on_today: bool = False

    def keeps(self, value: object) -> bool:
        """Tell whether a value, as the driver is given it, is stored as it is or refused."""
        if value is None:
            return not self.replaces_null
        if isinstance(value, int | Decimal):
            within = (self.low is None or value >= self.low) and (self.high is None or value <= self.high)
            return within and not (self.replaces_zero and value == 0)
        return not isinstance(value, str) or self.high is None or len(value) <= self.high


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A constraint of ``child`` on ``parent``, its columns in no order.

    No ``child_columns``: any may be of it. No ``parent_columns``: any update of the parent may change them, because
    they are not known or because the database computes one of them.
    """

    child: TableName
    parent: TableName
    child_columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    on_delete: Action
    on_update: Action


@dataclass(frozen=True, slots=True)
class View:
    """What the catalog says a view is made of.

    ``text``: its SELECT, where that is what the catalog keeps. Else ``reads``, the relations in it, and ``calls``, the
    functions in it that the catalog does not promise to give the same for the same, those of users with their schema.
    ``obstacle``: why what it shows is not known, as the end of "the view ...".
    """

    name: TableName
    text: str = ""
    reads: frozenset[TableName] = frozenset()
    calls: frozenset[str] = frozenset()
    obstacle: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """The catalog of one database at one moment. Made by :func:`build_survey`.

    What a write reaches, and whether that is all, is computed when it is asked for first, and kept as long as the picture is.
    """

    tables: Mapping[TableName, Table]
    keys_on: Mapping[TableName, tuple[ForeignKey, ...]]
    user_functions: frozenset[str]
    hidden_names: frozenset[str]
    columns: Mapping[TableName, Mapping[str, Column]]
    views: Mapping[TableName, View] = field(default_factory=dict)
    _reached: dict[_Change, frozenset[TableName]] = field(default_factory=dict)
    _are_known: dict[TableName, bool] = field(default_factory=dict)

    def column(self, table: TableName, name: str) -> Column | None:
        """Return what the catalog says about a column; None where it does not know it, or two of that name."""
        return self.columns.get(fold(table), {}).get(name.lower())

    def puts_on_today(self, table: TableName) -> bool:
        """Tell whether a column of the table stands for a moment of the present day, where a date is wanted."""
        return any(column.puts_on_today for column in self.columns.get(fold(table), {}).values())

    def kind_of_column(self, table: TableName, column: str) -> ColumnKind:
        """Tell how a column compares; empty where that is not known."""
        known = self.column(table, column)
        return "" if known is None else known.kind

    def plain(self, table: TableName) -> bool:
        """Tell whether what a SELECT of the table shows is decided by the rows of this table alone."""
        return self.why_not_plain(table) is None

    def why_not_plain(self, table: TableName) -> str | None:
        """Say why a table is not plain, as the end of the sentence "the table ..."; None for a plain one."""
        known = self.tables.get(fold(table))
        if known is None:
            return "was not in the catalog when it was surveyed"
        if known.kind != "table":
            return _KIND_SENTENCES.get(known.kind, f"is a {known.kind}")
        if known.name[1] in self.hidden_names:
            return "is hidden by a temporary table of the same name"
        if known.has_relatives:
            return "shares rows with the tables that it inherits from or that inherit from it"
        if is_bookkeeping(known.name[1], self.columns.get(known.name, {})):
            return "keeps the state of migrations"
        return known.obstacle or None

    def writes_are_known(self, table: TableName) -> bool:
        """Tell whether a write to the table reaches nothing but the table and what the ``reached_by_*`` methods name.

        False for a table, or one in reach of its cascades, that is not in the catalog, fires triggers or rules,
        inherits, or is no ordinary table: then every table of the bind may have changed.
        """
        name = fold(table)
        known = self._are_known.get(name)
        if known is None:
            reached = {name} | self.reached_by_delete(name) | self.reached_by_update(name)
            known = self._are_known[name] = all(self._writes_stay_in(one) for one in reached)
        return known

    def reached_by_delete(self, table: TableName) -> frozenset[TableName]:
        """Name the tables that the database changes by itself when rows of this one are deleted.

        The table itself is among them only where a cascade comes back to it.
        """
        return self._closure_of(fold(table), None)

    def reached_by_update(self, table: TableName, columns: Iterable[str] | None = None) -> frozenset[TableName]:
        """Name the tables that the database changes by itself when these columns are updated; None: any columns."""
        name = fold(table)
        if name not in self.keys_on:
            return frozenset()
        referenced = frozenset(column for key in self.keys_on.get(name, ()) for column in key.parent_columns or _ANY)
        if columns is None:
            return self._closure_of(name, referenced)
        # Those that no key names count as one, so that what is kept is bounded.
        named = {column.lower() for column in columns}
        return self._closure_of(name, referenced & named | ({_UNNAMED} if named - referenced else frozenset()))

    def can_lock(self, table: TableName, columns: Iterable[str]) -> bool:
        """Tell whether this user may lock rows of the table and read these columns of them."""
        known, read = self.tables.get(fold(table)), [self.column(table, name) for name in columns]
        return known is not None and known.can_be_locked and all(one is not None and one.can_be_read for one in read)

    def changes_key(self, table: TableName, columns: Iterable[str]) -> bool:
        """Tell whether an update of these columns may take a stronger lock of its row than another update does."""
        return any(column is None or column.is_key for column in self._set_with(table, columns))

    def waits_between_rows(self, table: TableName, columns: Iterable[str] | None) -> bool:
        """Tell whether an update of these columns, or a delete (None), may wait for more than the locks of its rows."""
        if columns is None:
            known = self.tables.get(fold(table))
            return known is None or known.delete_waits
        return any(column is None or column.waits for column in self._set_with(table, columns))

    def _set_with(self, table: TableName, columns: Iterable[str]) -> list[Column | None]:
        """Return columns that are set, and those that the database computes and may set with them."""
        computed = (column for column in self.columns.get(fold(table), {}).values() if column.is_computed)
        return [*(self.column(table, name) for name in columns), *computed]

    def is_user_function(self, name: str) -> bool:
        """Tell whether a routine of this name, with or without its schema, was made by users and may do anything."""
        return name.lower().rpartition(".")[2] in self.user_functions

    def _closure_of(self, table: TableName, updated: frozenset[str] | None) -> frozenset[TableName]:
        """Name what the deletion of rows reaches, or the update of columns."""
        reached = self._reached.get((table, updated))
        if reached is None:
            deletes, updates = ({table}, set()) if updated is None else (set(), {(table, one) for one in updated})
            reached = self._reached[table, updated] = _closure_of(self.keys_on, deletes, updates)
        return reached

    def _writes_stay_in(self, name: TableName) -> bool:
        known = self.tables.get(name)
        return (
            known is not None
            and known.kind == "table"
            and not (known.fires or known.has_relatives)
            and name[1] not in self.hidden_names
        )


_ANY: Final = ("",)  # stands for some column of a key whose columns are not known
_UNNAMED: Final = "*"  # stands for some column that is named in no key

_KIND_SENTENCES: Final[Mapping[Kind, str]] = MappingProxyType(
    {
        "ambiguous name": "has a name that differs from another table's in upper and lower case only",
        "attached table": "belongs to an attached database",
        "other relation": "is not an ordinary table",
    }
)


def fold(table: TableName) -> TableName:
    """Give a name as the survey keeps it."""
    return table[0].lower(), table[1].lower()


def build_survey(
    tables: Iterable[Table],
    foreign_keys: Iterable[ForeignKey] = (),
    user_functions: Iterable[str] = (),
    columns: Iterable[Column] = (),
    views: Iterable[View] = (),
) -> Survey:
    """Put together what a catalog said, in any case of letters."""
    known: dict[TableName, Table] = {}
    hidden: set[str] = set()
    for table in tables:
        name = fold(table.name)
        if table.kind == "temporary table":
            hidden.add(name[1])
        if name in known:
            known[name] = Table(name, "ambiguous name")
        else:
            policies = None if table.policies is None else _folded_view(table.policies)
            known[name] = replace(table, name=name, policies=policies)
    return Survey(
        tables=MappingProxyType(known),
        keys_on=MappingProxyType(_keys_by_parent(foreign_keys)),
        user_functions=frozenset(name.lower() for name in user_functions),
        hidden_names=frozenset(hidden),
        columns=MappingProxyType(_columns_by_table(columns)),
        views=MappingProxyType({fold(view.name): _folded_view(view) for view in views}),
    )


def _folded_view(view: View) -> View:
    return replace(view, name=fold(view.name), reads=frozenset(map(fold, view.reads)))


def _columns_by_table(columns: Iterable[Column]) -> dict[TableName, dict[str, Column]]:
    by_table: defaultdict[TableName, dict[str, Column]] = defaultdict(dict)
    for column in columns:
        of_table, name = by_table[fold(column.table)], column.name.lower()
        of_table[name] = Column(column.table, name) if name in of_table else column
    return dict(by_table)


def _keys_by_parent(foreign_keys: Iterable[ForeignKey]) -> dict[TableName, tuple[ForeignKey, ...]]:
    by_parent: defaultdict[TableName, list[ForeignKey]] = defaultdict(list)
    for key in foreign_keys:
        if key.on_delete in _ACTING or key.on_update in _ACTING:
            by_parent[fold(key.parent)].append(_folded(key))
    return {parent: tuple(keys) for parent, keys in by_parent.items()}


def _folded(key: ForeignKey) -> ForeignKey:
    return ForeignKey(
        child=fold(key.child),
        parent=fold(key.parent),
        child_columns=tuple(column.lower() for column in key.child_columns),
        parent_columns=tuple(column.lower() for column in key.parent_columns),
        on_delete=key.on_delete,
        on_update=key.on_update,
    )


def _closure_of(
    keys_on: Mapping[TableName, tuple[ForeignKey, ...]],
    deleted: set[TableName],
    updated: set[tuple[TableName, str]],
) -> frozenset[TableName]:
    """Follow the actions of foreign keys from rows deleted and from columns updated, until nothing new is reached."""
    reached: set[TableName] = set()
    deletes, updates = list(deleted), list(updated)
    while deletes or updates:
        if deletes:
            gone = deletes.pop()
            keys = [key for key in keys_on.get(gone, ()) if key.on_delete in _ACTING]
            cascading = {key.child for key in keys if key.on_delete == "CASCADE"}
            deletes.extend(cascading - deleted)
            deleted |= cascading
            changing = [key for key in keys if key.on_delete in _UPDATING]
        else:
            parent, column = updates.pop()
            keys = changing = [key for key in keys_on.get(parent, ()) if _follows(key, column)]
        reached.update(key.child for key in keys)
        new = {(key.child, one) for key in changing for one in key.child_columns or _ANY} - updated
        updates.extend(new)
        updated |= new
    return frozenset(reached)


def _follows(key: ForeignKey, column: str) -> bool:
    if key.on_update not in _ACTING:
        return False
    return not key.parent_columns or column in key.parent_columns or column in _ANY
