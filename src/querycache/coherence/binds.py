"""What does the cache know of one database: its name in keys and tags, its catalog, the tags of its tables?

A bind is one database, however many engines lead to it. Its facts about a table are computed once and kept until DDL is
seen. No I/O: whoever holds a driver connection hands the survey in.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Column, Table
from sqlalchemy.engine import Dialect

from querycache._sqlalchemy import plain_table
from querycache._types import Guard, Stamp, Tag, TagSet
from querycache.coherence.transactions import Pending
from querycache.databases import Column as CatalogColumn
from querycache.databases import Profile, Survey
from querycache.databases import TableName as CatalogName
from querycache.statements import tags as naming
from querycache.statements.writes import UNKNOWN, RowChange, TableWrite

ImageKey = tuple[str, tuple[Any, ...]]
TagColumns = Mapping[str, Sequence[str]]
"""By table name as the user wrote it: the columns that narrow, in order of preference."""

_PICTURES = itertools.count()


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
class TableFacts:
    """One table of one bind, as tags see it. ``tag_keys`` are the columns that narrow, the single primary key left out.

    ``value_columns`` are their names in the database. ``distrusted`` are names of columns whose values are not equal
    when the mapping says so, but when the database does.
    """

    bind: str
    table: Table
    name: str
    catalog_name: CatalogName
    guard: Guard
    key_columns: tuple[str, ...]
    value_columns: tuple[str, ...]
    distrusted: frozenset[str]
    key_is_trusted: bool
    _key: tuple[_TagColumn, ...] | None
    _columns: tuple[_TagColumn, ...]

    @property
    def tag_keys(self) -> tuple[str, ...]:
        return tuple(column.key for column in self._columns)

    @property
    def needs_images(self) -> bool:
        """Whether an update's or delete's tags depend on values that the primary key does not give."""
        return self._key is not None and any(column.key not in self.key_columns for column in self._columns)

    def image_key(self, key: Sequence[Any] | None) -> ImageKey | None:
        """Return the name under which a row's image is kept; None where its primary key has no canonical form."""
        canonicals = self._canonical_key(key)
        return None if canonicals is None else (self.name, canonicals)

    def key_tags(self, key: Sequence[Any] | None) -> tuple[Tag, ...]:
        """Return the tag of a primary key; where that is not known, the table's."""
        if self._key is None:
            return ()
        canonicals = self._canonical_key(key)
        if canonicals is None:
            return (self.guard[0],)
        return (naming.key_tag(self.bind, self.name, canonicals),)

    def change_tags(self, row: RowChange, old: Mapping[str, Any] | None) -> list[Tag]:
        """Return what changes with one row. ``old``: its tag values as the database gave them under a lock."""
        tags = [naming.rows_tag(self.bind, self.name)]
        if not (row.how == "insert" and row.key is None):
            tags.extend(self.key_tags(row.key))
        if row.how == "update" and any(key in row.new for key in self.key_columns):
            moved = tuple(row.new.get(k, v) for k, v in zip(self.key_columns, row.key or (), strict=False))
            tags.extend(self.key_tags(None if UNKNOWN in moved else moved))
        for column in self._columns:
            tags.extend(self._column_tags(column, row, old))
        return tags

    def any_row_tags(self, key: Sequence[Any] | None) -> list[Tag]:
        """Return what changes with a row of which at most the primary key is known."""
        row = RowChange(
            self.table, "update", None if key is None else tuple(key), dict.fromkeys(self.tag_keys, UNKNOWN)
        )
        return self.change_tags(row, None)

    def _column_tags(self, column: _TagColumn, row: RowChange, old: Mapping[str, Any] | None) -> list[Tag]:
        values: list[Any] = []
        if row.how != "insert":
            values.append(self._old_value(column, row, old))
        if row.how == "insert" or (row.how == "update" and column.key in row.new):
            values.append(row.new.get(column.key, UNKNOWN))
        tags = []
        for value in values:
            canonical = None if value is UNKNOWN else column.canonical_of(value)
            tags.append(
                naming.unknown_tag(self.bind, self.name, column.name)
                if canonical is None
                else naming.value_tag(self.bind, self.name, column.name, canonical)
            )
        return tags

    def _old_value(self, column: _TagColumn, row: RowChange, old: Mapping[str, Any] | None) -> Any:
        if column.key in self.key_columns and row.key is not None:
            return row.key[self.key_columns.index(column.key)]
        return UNKNOWN if old is None else old.get(column.key, UNKNOWN)

    def _canonical_key(self, key: Sequence[Any] | None) -> tuple[str, ...] | None:
        if self._key is None or key is None or len(key) != len(self._key):
            return None
        canonicals = [
            None if value is None else part.canonical_of(value) for part, value in zip(self._key, key, strict=True)
        ]
        return None if None in canonicals else tuple(text for text in canonicals if text is not None)


@dataclass(frozen=True, slots=True, eq=False)
class _Picture:
    """What a survey said, and the facts that were made of it; ``number`` is another one for each in this process.

    ``stamps``: those that the schema tag had, by store, before the catalog was asked.
    """

    survey: Survey | None = None
    stamps: Mapping[int, Stamp] = field(default_factory=dict)
    facts: weakref.WeakKeyDictionary[Table, dict[Any, TableFacts]] = field(default_factory=weakref.WeakKeyDictionary)
    number: int = field(default_factory=lambda: next(_PICTURES))


class Bind:
    """One database. ``id`` is the digest of its identity that begins each key and tag.

    ``is_gone``: it was in memory, and its only connection is closed.
    """

    def __init__(
        self,
        identity: str,
        profile: Profile,
        dialect: Dialect,
        tag_columns: TagColumns,
        siblings: weakref.WeakSet[Bind] | None = None,
    ) -> None:
        self.id: Final = hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
        self.profile = profile
        self.dialect = dialect
        self.tag: Final[Tag] = naming.bind_tag(self.id)
        # A guard has a register to itself: whatever else is written, this stamp changes with the catalog alone.
        self.schema_guard: Final[Guard] = (naming.schema_tag(self.id), b"schema")
        self.is_gone = False
        self.surveys = 0
        self.survey_seconds = 0.0
        self.survey_version = 0
        self.tag_columns = tag_columns
        self._siblings: weakref.WeakSet[Bind] = weakref.WeakSet() if siblings is None else siblings
        self._siblings.add(self)
        self._picture = _Picture()
        self._lock = threading.Lock()

    def learn(
        self, survey: Survey, version: int, stamps: Mapping[int, Stamp] | None = None, seconds: float = 0.0
    ) -> None:
        """Take a new picture of the catalog, unless DDL was seen since ``survey_version`` was ``version``.

        ``stamps``: the schema tag's, by store, seen before the catalog was asked; a store that is left out is not trusted.
        ``seconds``: how long the catalog was read.
        """
        with self._lock:
            self.surveys += 1
            self.survey_seconds += seconds
            if self.survey_version == version:
                self._picture = _Picture(survey, stamps or {})

    def forget_survey(self) -> None:
        """Know nothing of the catalog until it is asked again, nor any other object for this database: DDL was seen."""
        for bind in tuple(self._siblings):
            with bind._lock:
                bind.survey_version += 1
                bind._picture = _Picture()

    @property
    def survey(self) -> Survey | None:
        """What the catalog was seen to hold; None until it is asked."""
        return self._picture.survey

    @property
    def survey_stamps(self) -> Mapping[int, Stamp]:
        """Under which stamps of the schema tag, by store, the catalog was asked: DDL of any process changes them."""
        return self._picture.stamps

    def doubt_survey(self, stamps: Mapping[int, Stamp]) -> None:
        """Have the catalog asked again, where nobody did since it was asked under ``stamps``."""
        if self._picture.stamps is stamps:
            self.forget_survey()

    @property
    def picture_number(self) -> int:
        """Differs, within this process, wherever facts about tables may."""
        return self._picture.number

    def name_of(self, table: Table, schema_map: Mapping[str | None, str | None] | None) -> str:
        """Return a table's name in tags."""
        return naming.table_name_of(table, self.profile.default_schema, schema_map)

    def name_of_text(self, name: tuple[str | None, str]) -> CatalogName:
        """Return the catalog's name of a table that was named in SQL text."""
        return (name[0] or self.profile.default_schema or "main").lower(), name[1].lower()

    def facts(self, table: Table, schema_map: Mapping[str | None, str | None] | None = None) -> TableFacts:
        """Return what is known of a table under a schema map."""
        table = plain_table(table)
        picture = self._picture
        by_map = picture.facts.setdefault(table, {})
        key = None if not schema_map else tuple(sorted(schema_map.items(), key=repr))
        facts = by_map.get(key)
        if facts is None:
            facts = by_map[key] = self._facts_of(table, schema_map, picture.survey)
        return facts

    def _facts_of(
        self, table: Table, schema_map: Mapping[str | None, str | None] | None, survey: Survey | None
    ) -> TableFacts:
        name, catalog_name = self.name_of(table, schema_map), self.catalog_name_of(table, schema_map)
        catalog = {column: self._trusted(column, catalog_name, survey) for column in table.columns}
        given = self.tag_columns.get(table.fullname)
        columns = [
            self._tag_column(column, said)
            for column in naming.value_columns_of(table, self.dialect, None if given is None else tuple(given))
            if (said := catalog[column]) is not None and not said.is_computed
        ]
        value_columns = tuple(column.name for column in columns)
        key = naming.key_columns_of(table, self.dialect)
        return TableFacts(
            bind=self.id,
            table=table,
            name=name,
            catalog_name=catalog_name,
            guard=(naming.table_tag(self.id, name), naming.fingerprint_of(table, self.dialect, value_columns)),
            key_columns=tuple(column.key for column in table.primary_key.columns),
            value_columns=value_columns,
            distrusted=frozenset(column.name for column, said in catalog.items() if said is None),
            key_is_trusted=all((said := catalog[column]) is not None and not said.is_computed for column in key),
            _key=tuple(self._tag_column(column, catalog[column]) for column in key) or None,
            _columns=tuple(columns),
        )

    def _trusted(self, column: Column[Any], table: CatalogName, survey: Survey | None) -> CatalogColumn | None:
        """Return what the catalog says of a column that compares as its mapped type says; None for one that does not.

        A UUID's form is the same for all spellings that any text column takes for one.
        """
        kind = naming.kind_of(column.type, self.dialect)
        said = None if survey is None else survey.column(table, column.name)
        if said is None or not kind:
            return None
        return said if said.kind == kind or (kind, said.kind) == ("uuid", "text") else None

    def _tag_column(self, column: Column[Any], said: CatalogColumn | None) -> _TagColumn:
        canonical = naming.canonical_value_of(column.type, self.dialect)
        assert canonical is not None, "tag columns have safe types"
        process = column.type.dialect_impl(self.dialect).bind_processor(self.dialect)
        return _TagColumn(column.key, column.name, canonical, process, said)

    def catalog_name_of(self, table: Table, schema_map: Mapping[str | None, str | None] | None) -> CatalogName:
        """Return the name under which the catalog knows a mapped table."""
        schema = schema_map.get(table.schema, table.schema) if schema_map else table.schema
        return (schema or self.profile.default_schema or "main").lower(), table.name.lower()

    def why_not_plain(self, facts: TableFacts) -> str | None:
        """Say why a table's rows are not decided by writes to it alone; None where they are."""
        if self.survey is None:
            return "was not looked up in the catalog yet"
        why_not = self.survey.why_not_plain(facts.catalog_name)
        if why_not is None and not facts.key_is_trusted:
            return "has a primary key of another type in the database than in the mapping"
        return why_not

    def writes_are_known(self, facts: TableFacts) -> bool:
        """Tell whether a write to a table reaches only what foreign keys say."""
        return self.survey is not None and self.survey.writes_are_known(facts.catalog_name)

    def calls_user_function(self, names: Iterable[str]) -> bool:
        """Tell whether one of these may be a function of the users' own, which may do anything."""
        return any(self.survey is None or self.survey.is_user_function(name) for name in names)

    def note_table(self, pending: Pending, name: CatalogName, *, deletes: bool) -> None:
        """Note that rows of a table changed, not known one by one, with all that cascades reach."""
        if self.survey is None or not self.survey.writes_are_known(name):
            pending.add_bind(self.tag)
            return
        reached = self.survey.reached_by_update(name)
        if deletes:
            reached |= self.survey.reached_by_delete(name)
        self._note_whole(pending, {name, *reached})

    def note_reach(self, pending: Pending, facts: TableFacts, write: TableWrite) -> bool:
        """Note the tables that cascades reach from rows changed one by one; tell whether there are any."""
        if self.survey is None or write.how == "insert":
            return False
        if write.how == "delete":
            reached = self.survey.reached_by_delete(facts.catalog_name)
        else:
            changed = write.set_by_value | write.set_by_database
            names = [facts.table.columns[key].name for key in changed if key in facts.table.columns]
            reached = self.survey.reached_by_update(facts.catalog_name, names)
        self._note_whole(pending, reached)
        return bool(reached)

    def _note_whole(self, pending: Pending, names: Iterable[CatalogName]) -> None:
        for schema, name in names:
            tag_name = naming.name_of_parts(schema, name)
            pending.add([naming.table_tag(self.id, tag_name)], tables=[tag_name])


@dataclass(frozen=True, slots=True)
class SurveyCost:
    """What it took to know the catalog of a database: its tables now, how often they were read, the seconds in all."""

    identity: str
    tables: int = 0
    surveys: int = 0
    survey_seconds: float = 0.0


@dataclass(slots=True)
class Binds:
    """The binds of one cache, by identity: two engines of one database are one bind.

    Known are those that an engine led to, while it lives; a database in memory, while its connection does.
    """

    tag_columns: TagColumns = field(default_factory=dict)
    _by_identity: weakref.WeakValueDictionary[tuple[str, str, str], Bind] = field(
        default_factory=weakref.WeakValueDictionary
    )
    _siblings: weakref.WeakValueDictionary[str, weakref.WeakSet[Bind]] = field(
        default_factory=weakref.WeakValueDictionary
    )
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def bind_of(self, identity: str, profile: Profile, dialect: Dialect) -> Bind:
        """Return the bind of an identity, made at first need.

        Connections with another default schema resolve names in another way, with other settings they spell values in
        another way: theirs is another object with the same tags.
        """
        key = (identity, profile.default_schema, profile.settings)
        with self._lock:
            bind = self._by_identity.get(key)
            if bind is None:
                siblings = self._siblings.setdefault(identity, weakref.WeakSet())
                bind = self._by_identity[key] = Bind(identity, profile, dialect, self.tag_columns, siblings)
            return bind

    def known(self) -> list[Bind]:
        """Return every bind asked so far."""
        with self._lock:
            return list(self._by_identity.values())

    def survey_costs(self) -> list[SurveyCost]:
        """Return what reading the catalogs has cost this process so far, by database."""
        costs: dict[str, SurveyCost] = {}
        for bind in self.known():
            before = costs.get(bind.id, SurveyCost(bind.id))
            tables = 0 if bind.survey is None else len(bind.survey.tables)
            costs[bind.id] = SurveyCost(
                bind.id,
                max(before.tables, tables),
                before.surveys + bind.surveys,
                before.survey_seconds + bind.survey_seconds,
            )
        return list(costs.values())

    def tag_set(self) -> TagSet:
        """Return the tags that everything of these databases depends on, what is known of their catalogs included."""
        return TagSet(tuple(dict.fromkeys(tag for bind in self.known() for tag in (bind.tag, bind.schema_guard[0]))))
