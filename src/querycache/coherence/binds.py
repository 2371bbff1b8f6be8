"""What does the cache know of one database: its name in keys and tags, its catalog, the tags of its tables?

A bind is one database, however many engines lead to it. Its facts about a table are computed once and kept until DDL is
seen. No I/O: whoever holds a driver connection hands the survey in.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.engine import Dialect

from querycache._sqlalchemy import plain_table
from querycache._types import Guard, Stamp, Tag, TagSet
from querycache.coherence.declared import Declared
from querycache.coherence.facts import TableFacts, facts_of
from querycache.coherence.relations import Relations
from querycache.coherence.transactions import Pending
from querycache.databases import Profile, Survey
from querycache.databases import TableName as CatalogName
from querycache.statements import tags as naming
from querycache.statements.rawsql import TableName as WrittenName
from querycache.statements.writes import TableWrite

TagColumns = Mapping[str, naming.Named]
"""By table name as the user wrote it: the columns that narrow, alone or in groups, in order of preference."""

_PICTURES = itertools.count()


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
            facts = by_map[key] = facts_of(
                self.id,
                table,
                self.name_of(table, schema_map),
                self.catalog_name_of(table, schema_map),
                self.dialect,
                self.tag_columns.get(table.fullname),
                picture.survey,
            )
        return facts

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
        unknown = [name for name in names if not self.declared.vouches_for(name)]
        return bool(unknown) and any(self.survey is None or self.survey.is_user_function(name) for name in unknown)

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
        elif not self.survey.reached_by_update(facts.catalog_name):
            return False  # whatever is set
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
