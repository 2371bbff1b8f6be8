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
from querycache.coherence.declared import Declared
from querycache.coherence.relations import Relations
from querycache.coherence.transactions import Pending
from querycache.databases import Column as CatalogColumn
from querycache.databases import Profile, Survey
from querycache.databases import TableName as CatalogName
from querycache.statements import tags as naming
from querycache.statements.rawsql import TableName as WrittenName
from querycache.statements.writes import UNKNOWN, RowChange, TableWrite

ImageKey = tuple[str, tuple[Any, ...]]
TagColumns = Mapping[str, naming.Named]
"""By table name as the user wrote it: the columns that narrow, alone or in groups, in order of preference."""

MAX_COLUMN_TAGS: Final = 24
"""Where the columns that an update sets come to more tags of rows than this, they are not told one by one there."""

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

    ``value_columns`` are their names in the database, grouped. ``distrusted`` are names of columns whose values are not
    equal when the mapping says so, but when the database does. ``untold`` are names of those that may change in an update
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
    _key: tuple[_TagColumn, ...] | None
    _groups: tuple[tuple[_TagColumn, ...], ...]

    @property
    def tag_keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.key for group in self._groups for column in group))

    @property
    def needs_images(self) -> bool:
        """Whether an update's or delete's tags depend on values that the primary key does not give."""
        return self._key is not None and any(key not in self.key_columns for key in self.tag_keys)

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
        rows = naming.rows_tag(self.bind, self.name)
        tags = [rows, *(rows + suffix for suffix in told)]
        for place in stays:
            tags += [place, *(place + suffix for suffix in few)]
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
        columns = self.table.columns
        return [naming.column_suffix_of(columns[key].name) for key in row.new]

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
            moved = row.how != "update" or any(column.key in row.new for column in group)
            images = [] if row.how == "insert" else [self._image(group, row, old, is_new=False)]
            if row.how != "delete" and moved:
                images.append(self._image(group, row, old, is_new=True))
            for image in images:
                tag = self._value_tag(group, image)
                names = [column.name for column in group]
                if tag is None:
                    unknown.append(naming.unknown_tag(self.bind, self.name, names))
                else:
                    (moves if moved else stays).append(tag)
        return stays, moves, unknown

    def _image(
        self, group: Sequence[_TagColumn], row: RowChange, old: Mapping[str, Any] | None, *, is_new: bool
    ) -> list[Any]:
        return [
            row.new[column.key] if is_new and column.key in row.new else self._old_value(column, row, old)
            for column in group
        ]

    def _old_value(self, column: _TagColumn, row: RowChange, old: Mapping[str, Any] | None) -> Any:
        if row.how == "insert":
            return UNKNOWN
        if column.key in self.key_columns and row.key is not None:
            return row.key[self.key_columns.index(column.key)]
        return UNKNOWN if old is None else old.get(column.key, UNKNOWN)

    def _value_tag(self, group: Sequence[_TagColumn], image: Sequence[Any]) -> Tag | None:
        """Return the tag of a group's values; None where one is not known or has no canonical form."""
        canonicals = [
            None if value is UNKNOWN else column.canonical_of(value) for column, value in zip(group, image, strict=True)
        ]
        known = [text for text in canonicals if text is not None]
        if len(known) < len(canonicals):
            return None
        return naming.value_tag(self.bind, self.name, [column.name for column in group], known)

    def _key_tag(self, key: Sequence[Any] | None) -> Tag | None:
        canonicals = self._canonical_key(key)
        return None if canonicals is None else naming.key_tag(self.bind, self.name, canonicals)

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
    relations: Relations | None = None
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
        declared: Declared | None = None,
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
        self.declared: Final = declared or Declared()
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
                relations = Relations(survey, self.declared, self.dialect.name, self.profile.default_schema or "main")
                self._picture = _Picture(survey, stamps or {}, relations)

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
        groups = [
            tuple(self._tag_column(column, catalog[column]) for column in group)
            for group in naming.value_groups_of(table, self.dialect, given)
            if all((said := catalog[column]) is not None and not said.is_computed for column in group)
        ]
        value_columns = tuple(tuple(column.name for column in group) for group in groups)
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
            untold=frozenset(column.name for column in table.columns if _is_untold(column, catalog_name, survey)),
            key_is_trusted=all((said := catalog[column]) is not None and not said.is_computed for column in key),
            _key=tuple(self._tag_column(column, catalog[column]) for column in key) or None,
            _groups=tuple(groups),
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

    def behind(self, facts: TableFacts) -> frozenset[CatalogName] | str:
        """Name the tables that decide what a mapped table shows, itself among them; or say why they are not known.

        A plain table stands alone.
        """
        found = self.behind_name(facts.catalog_name)
        trusted = isinstance(found, str) or facts.key_is_trusted or self.is_view(facts.catalog_name)
        if not trusted:
            return "has a primary key of another type in the database than in the mapping"
        return found

    def behind_name(self, name: CatalogName) -> frozenset[CatalogName] | str:
        """Do the same for a table that is known by its name in the catalog."""
        relations = self._picture.relations
        return "was not looked up in the catalog yet" if relations is None else relations.behind(name)

    def behind_function(self, name: str) -> frozenset[CatalogName] | str:
        """Name the tables that decide what a function gives; or say why they are not known."""
        relations = self._picture.relations
        return "was not looked up in the catalog yet" if relations is None else relations.behind_function(name)

    def is_view(self, name: CatalogName) -> bool:
        """Tell whether a name is a view's, materialized or not."""
        known = None if self.survey is None else self.survey.tables.get(name)
        return known is not None and known.kind in ("view", "materialized view")

    def names_of_declared(
        self, names: Iterable[WrittenName], schema_map: Mapping[str | None, str | None] | None
    ) -> tuple[frozenset[CatalogName], frozenset[str]]:
        """Return the relations that a user named, as the catalog has them, and the names that it does not have.

        A name may be meant before or after ``schema_translate_map``: both count, as far as they are known.
        """
        found: set[CatalogName] = set()
        unknown: set[str] = set()
        for schema, name in names:
            schemas = {schema, schema_map.get(schema, schema) if schema_map else schema}
            known = {self.name_of_text((one, name)) for one in schemas}
            known = {one for one in known if self.survey is not None and one in self.survey.tables}
            found |= known
            unknown.update(() if known else [name if schema is None else f"{schema}.{name}"])
        return frozenset(found), frozenset(unknown)

    def writes_are_known(self, facts: TableFacts) -> bool:
        """Tell whether a write to a table reaches only what foreign keys say."""
        return self.survey is not None and self.survey.writes_are_known(facts.catalog_name)

    def calls_user_function(self, names: Iterable[str]) -> bool:
        """Tell whether one of these may be a function of the users' own, which may do anything."""
        unknown = (name for name in names if not self.declared.vouches_for(name))
        return any(self.survey is None or self.survey.is_user_function(name) for name in unknown)

    def note_table(self, pending: Pending, name: CatalogName, *, deletes: bool) -> None:
        """Note that rows of a table changed, not known one by one, with all that cascades reach."""
        if self.survey is None or not self.survey.writes_are_known(name):
            pending.add_bind(self.tag)
            return
        reached = self.survey.reached_by_update(name)
        if deletes:
            reached |= self.survey.reached_by_delete(name)
        self._note_whole(pending, {name, *reached})

    def note_declared(self, pending: Pending, names: Iterable[CatalogName]) -> None:
        """Note that rows of these tables may have changed and, by the user's word, of no others but what cascades reach."""
        reached = set(names)
        if self.survey is not None:
            for name in names:
                reached |= self.survey.reached_by_update(name) | self.survey.reached_by_delete(name)
        self._note_whole(pending, reached)

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


def _is_untold(column: Column[Any], table: CatalogName, survey: Survey | None) -> bool:
    """Tell whether a column may change without being set: computed, or none that the catalog lists (xmin, rowid)."""
    said = None if survey is None else survey.column(table, column.name)
    if said is None or said.is_computed:
        return True
    return column.system or column.computed is not None or column.server_onupdate is not None


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
    declared: Declared = field(default_factory=Declared)
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
                bind = self._by_identity[key] = Bind(
                    identity, profile, dialect, self.tag_columns, siblings, self.declared
                )
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
