"""Which tags does a change to one row of a table have, and which of the table's columns narrow at all?

The facts of one table of one database: made of its mapping and of what the catalog says, compared column by column. Known
values become tags of rows; what is not known becomes a wider tag, never none. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect

from querycache._types import Guard, Tag
from querycache.databases import Column as CatalogColumn
from querycache.databases import Survey
from querycache.databases import TableName as CatalogName
from querycache.statements import tags as naming
from querycache.statements.writes import UNKNOWN, RowChange

ImageKey = tuple[str, tuple[Any, ...]]

MAX_COLUMN_TAGS: Final = 24
"""Where the columns that an update sets come to more tags of rows than this, they are not told one by one there."""


@dataclass(frozen=True, slots=True)
class _TagColumn:
    """``catalog``: what the database says of the column; None where it compares otherwise than the mapping says."""

    key: str
    name: str
    canonical: Any
    process: Any
    catalog: CatalogColumn | None

    def canonical_of(self, value: Any) -> str | None:
        """Return the tag's form of a Python value; None where it has none, and for NULL the token of NULL."""
        if value is not None and self.process is not None:
            value = self.process(value)
        if self.catalog is None or not self.catalog.keeps(value):
            return None
        text: str | None = naming.NULL_CANONICAL if value is None else self.canonical(value)
        return text


@dataclass(frozen=True, slots=True)
class _Group:
    """Columns that narrow together, and the tags of their values: what is the same for every row is made once."""

    columns: tuple[_TagColumn, ...]
    keys: frozenset[str]
    tag_of: Callable[[Sequence[str]], Tag]
    unknown: Tag


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table of one bind, as tags see it. ``tag_keys`` are the columns that narrow, the single primary key left out.

    ``needs_images``: an update's or delete's tags depend on values that the primary key does not give. ``can_be_asked``: this
    user may lock rows and read these values. ``locked_stronger``: to set one of these may take a stronger lock than others do.
    ``value_columns``: the names of ``tag_keys`` in the database, grouped. ``distrusted`` are names of columns whose values are
    not equal when the mapping says so, but when the database does. ``untold`` are names of those that may change in an update
    which does not set them.
    """

    bind: str
    table: Table
    name: str
    catalog_name: CatalogName
    guard: Guard
    key_columns: tuple[str, ...]
    value_columns: tuple[tuple[str, ...], ...]
    distrusted: frozenset[str]
    untold: frozenset[str]
    key_is_trusted: bool
    tag_keys: tuple[str, ...]
    needs_images: bool
    can_be_asked: bool
    locked_stronger: frozenset[str]
    _rows: Tag
    _suffixes: Mapping[str, bytes]
    _key: tuple[_TagColumn, ...] | None
    _key_tag_of: Callable[[Sequence[str]], Tag]
    _groups: tuple[_Group, ...]

    def image_key(self, key: Sequence[Any] | None) -> ImageKey | None:
        """Return the name under which a row's image is kept; None where its primary key has no canonical form."""
        canonicals = self._canonical_key(key)
        return None if canonicals is None else (self.name, canonicals)

    def key_tags(self, key: Sequence[Any] | None) -> tuple[Tag, ...]:
        """Return the tags of a row that comes or goes, by its primary key; where that is not known, the table's."""
        tag = None if self._key is None else self._key_tag(key)
        if tag is None:
            return () if self._key is None else (self.guard[0],)
        return (tag, naming.members_tag(tag))

    def change_tags(self, row: RowChange, old: Mapping[str, Any] | None) -> list[Tag]:
        """Return what changes with one row. ``old``: its tag values as the database gave them under a lock."""
        stays, moves, unknown = self._places(row, old)
        told = self._told(row)
        few = told if len(told) * len(stays) <= MAX_COLUMN_TAGS else [naming.MEMBERS_SUFFIX]
        tags = [self._rows, *[self._rows + suffix for suffix in told]]
        for place in stays:
            tags += [place, *[place + suffix for suffix in few]]
        for place in moves:
            tags += [place, naming.members_tag(place)]
        return [*tags, *unknown]

    def any_row_tags(self, key: Sequence[Any] | None) -> list[Tag]:
        """Return what changes with a row of which at most the primary key is known."""
        return self.change_tags(RowChange(self.table, "delete", None if key is None else tuple(key)), None)

    def _told(self, row: RowChange) -> list[bytes]:
        """Return the columns that an update sets, as suffixes of tags; membership for a row that comes, goes or is renamed."""
        is_same = row.how == "update" and row.new and not any(key in row.new for key in self.key_columns)
        if not is_same or len(row.new) > MAX_COLUMN_TAGS:
            return [naming.MEMBERS_SUFFIX]
        return [self._suffixes[key] for key in row.new]

    def _places(self, row: RowChange, old: Mapping[str, Any] | None) -> tuple[list[Tag], list[Tag], list[Tag]]:
        """Return the tags of the rows among which a row stays, of those that it leaves or joins, and what is not known."""
        stays: list[Tag] = []
        moves: list[Tag] = []
        unknown: list[Tag] = []
        if self._key is not None and not (row.how == "insert" and row.key is None):
            moved = row.how != "update" or any(key in row.new for key in self.key_columns)
            keys = [row.key]
            if moved and row.how == "update":
                new = tuple(row.new.get(k, v) for k, v in zip(self.key_columns, row.key or (), strict=False))
                keys.append(None if UNKNOWN in new else new)
            for key in keys:
                tag = self._key_tag(key)
                (unknown if tag is None else moves if moved else stays).append(self.guard[0] if tag is None else tag)
        for group in self._groups:
            moved = row.how != "update" or not group.keys.isdisjoint(row.new)
            images = [] if row.how == "insert" else [self._image(group, row, old, is_new=False)]
            if row.how != "delete" and moved:
                images.append(self._image(group, row, old, is_new=True))
            for image in images:
                tag = _value_tag(group, image)
                (unknown if tag is None else moves if moved else stays).append(group.unknown if tag is None else tag)
        return stays, moves, unknown

    def _image(self, group: _Group, row: RowChange, old: Mapping[str, Any] | None, *, is_new: bool) -> list[Any]:
        return [
            row.new[column.key] if is_new and column.key in row.new else self._old_value(column, row, old)
            for column in group.columns
        ]

    def _old_value(self, column: _TagColumn, row: RowChange, old: Mapping[str, Any] | None) -> Any:
        if row.how == "insert":
            return UNKNOWN
        if column.key in self.key_columns and row.key is not None:
            return row.key[self.key_columns.index(column.key)]
        return UNKNOWN if old is None else old.get(column.key, UNKNOWN)

    def _key_tag(self, key: Sequence[Any] | None) -> Tag | None:
        canonicals = self._canonical_key(key)
        return None if canonicals is None else self._key_tag_of(canonicals)

    def _canonical_key(self, key: Sequence[Any] | None) -> tuple[str, ...] | None:
        if self._key is None or key is None or len(key) != len(self._key):
            return None
        canonicals = [
            None if value is None else part.canonical_of(value) for part, value in zip(self._key, key, strict=True)
        ]
        return None if None in canonicals else tuple(text for text in canonicals if text is not None)


def _value_tag(group: _Group, image: Sequence[Any]) -> Tag | None:
    """Return the tag of a group's values; None where one is not known or has no canonical form."""
    canonicals = [
        None if value is UNKNOWN else column.canonical_of(value)
        for column, value in zip(group.columns, image, strict=True)
    ]
    known = [text for text in canonicals if text is not None]
    if len(known) < len(canonicals):
        return None
    return group.tag_of(known)


def facts_of(
    bind: str,
    table: Table,
    name: str,
    catalog_name: CatalogName,
    dialect: Dialect,
    given: naming.Named | None,
    survey: Survey | None,
) -> TableFacts:
    """Say what is known of a table, ``name`` in tags. ``given``: the columns that the user has narrow; None: not said.

    Without a survey no column is trusted.
    """
    catalog = {column: _trusted(column, catalog_name, dialect, survey) for column in table.columns}
    narrowing = [
        group
        for group in naming.value_groups_of(table, dialect, given)
        if all((said := catalog[column]) is not None and not said.is_computed for column in group)
    ]
    value_columns = tuple(tuple(column.name for column in group) for group in narrowing)
    key = naming.key_columns_of(table, dialect)
    key_columns = tuple(column.key for column in table.primary_key.columns)
    tag_keys = tuple(dict.fromkeys(column.key for group in narrowing for column in group))
    return TableFacts(
        bind=bind,
        table=table,
        name=name,
        catalog_name=catalog_name,
        guard=(naming.table_tag(bind, name), naming.fingerprint_of(table, dialect, value_columns)),
        key_columns=key_columns,
        value_columns=value_columns,
        distrusted=frozenset(column.name for column, said in catalog.items() if said is None),
        untold=frozenset(column.name for column in table.columns if _is_untold(column, catalog_name, survey)),
        key_is_trusted=all((said := catalog[column]) is not None and not said.is_computed for column in key),
        tag_keys=tag_keys,
        needs_images=bool(key) and any(name not in key_columns for name in tag_keys),
        can_be_asked=survey is not None
        and survey.can_lock(catalog_name, [table.columns[name].name for name in (*key_columns, *tag_keys)]),
        locked_stronger=frozenset(
            column.key for column in table.columns if survey is None or survey.changes_key(catalog_name, [column.name])
        ),
        _rows=naming.rows_tag(bind, name),
        _suffixes={column.key: naming.column_suffix_of(column.name) for column in table.columns},
        _key=tuple(_tag_column(column, catalog[column], dialect) for column in key) or None,
        _key_tag_of=naming.key_tag_maker(bind, name),
        _groups=tuple(
            _group([_tag_column(column, catalog[column], dialect) for column in group], bind, name)
            for group in narrowing
        ),
    )


def _group(columns: Sequence[_TagColumn], bind: str, table: str) -> _Group:
    names = [column.name for column in columns]
    return _Group(
        tuple(columns),
        frozenset(column.key for column in columns),
        naming.value_tag_maker(bind, table, names),
        naming.unknown_tag(bind, table, names),
    )


def _trusted(column: Column[Any], table: CatalogName, dialect: Dialect, survey: Survey | None) -> CatalogColumn | None:
    """Return what the catalog says of a column that compares as its mapped type says; None for one that does not.

    A UUID's form is the same for all spellings that any text column takes for one.
    """
    kind = naming.kind_of(column.type, dialect)
    said = None if survey is None else survey.column(table, column.name)
    if said is None or not kind:
        return None
    return said if said.kind == kind or (kind, said.kind) == ("uuid", "text") else None


def _tag_column(column: Column[Any], said: CatalogColumn | None, dialect: Dialect) -> _TagColumn:
    canonical = naming.canonical_value_of(column.type, dialect)
    assert canonical is not None, "tag columns have safe types"
    process = column.type.dialect_impl(dialect).bind_processor(dialect)
    return _TagColumn(column.key, column.name, canonical, process, said)


def _is_untold(column: Column[Any], table: CatalogName, survey: Survey | None) -> bool:
    """Tell whether a column may change without being set: computed, or none that the catalog lists (xmin, rowid)."""
    said = None if survey is None else survey.column(table, column.name)
    if said is None or said.is_computed:
        return True
    return column.system or column.computed is not None or column.server_onupdate is not None
