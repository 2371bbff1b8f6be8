"""May a statement be cached, under which key, and what does that depend on?

Asks the statement, the policies of its tables and what is known of the database. Never asks a store, never runs anything.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter, Table
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InvalidRequestError

from querycache import _sqlalchemy
from querycache._types import Lookup, Stamp, Tag, TagSet
from querycache.coherence.binds import Bind
from querycache.coherence.declared import READS, Declared, Written, declared_in, unknown_tables
from querycache.coherence.relations import READS_TIMES
from querycache.databases import TableName as CatalogName
from querycache.engine import Attachment
from querycache.errors import ConfigurationError
from querycache.keyed import mapper_of
from querycache.options import CacheRequest
from querycache.policy import EntryShape, Operation, Policies, Policy
from querycache.rows.codec import UnsupportedValue, encode_values
from querycache.statements import tags as naming
from querycache.statements.dependencies import Dependencies, TableRead, dependencies_of, reads_the_clock
from querycache.statements.fingerprint import KeyMaker, Shape, declared_shape_of, shape_of
from querycache.statements.reads import SelectReads

OTHER_CATALOG: Final = "the database's catalog changed since it was asked"
MAX_SIZE_BYTES: Final = 1_000_000
_MAX_PLANS: Final = 16


@dataclass(frozen=True, slots=True)
class Bypass:
    """Why a statement goes to the database and is not stored."""

    reason: str
    defect: bool = False


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Plan:
    """What holds for every call of a compiled statement on one database: made once, used with the values of each call.

    ``survey_stamps`` are those of the schema tag, by store, under which the catalog was asked for it. ``max_size_bytes``
    bounds a payload. ``entry_shape`` is how it should be kept; ``is_one_row``: a row by its primary key, which is no list.
    ``grace_s``: for how long it may be served after it was valid, while another read asks the database.
    """

    shape: Shape
    bind: Bind
    dependencies: Dependencies
    keys: KeyMaker
    tables: frozenset[str]
    survey_stamps: Mapping[int, Stamp]
    region: str
    store: int
    ttl_s: float
    max_size_bytes: int
    entry_shape: EntryShape
    is_one_row: bool
    grace_s: float

    @property
    def by_keys(self) -> bool:
        """Whether it should be kept as keys and rows."""
        return self.entry_shape == "keys" and not self.is_one_row

    def encoded(self, parameters: Mapping[str, Any]) -> bytes | None:
        """Return values by bind name in their canonical form; None where one has none."""
        try:
            return encode_values([*parameters, *self.shape.processed(parameters).values()])
        except UnsupportedValue:
            return None


@dataclass(frozen=True, slots=True)
class Form:
    """A compiled statement that may be cached, whatever its parameters, as it was given this time."""

    plan: Plan
    compilation: _sqlalchemy.Compilation


class Question(NamedTuple):
    """A statement that may be cached: its key, what it depends on, where and how long it is kept.

    ``name`` is the tag of the user's name for it, one of ``tags``; None for a statement that nobody named. The last of its
    tags is the guard of the bind's schema. ``called`` are values in the key, by bind name, that functions of the
    application's gave, and will give again when the statement is sent.
    """

    key: bytes
    tags: TagSet
    name: Tag | None
    store: int
    ttl_s: float
    plan: Plan
    compilation: _sqlalchemy.Compilation
    called: Mapping[str, Any]

    @property
    def tables(self) -> frozenset[str]:
        """The names in tags of the tables that it reads."""
        return self.plan.tables

    def is_answered_by(self, found: Lookup) -> bool:
        """Tell whether the catalog is, by what a store said, still the one that this was asked of."""
        return self.plan.survey_stamps.get(self.store) == found.lease[-1]

    def stands_for(self, parameters: Mapping[str, Any]) -> bool:
        """Tell whether what functions of the application's gave when the statement was sent is what they gave for the key."""
        if not self.called:
            return True
        sent = {name: parameters[name] for name in self.called if name in parameters}
        return self.plan.encoded(sent) == self.plan.encoded(self.called) is not None


@dataclass(slots=True)
class _Known:
    """What was found out about a compiled statement, and its plans by what else they depend on.

    ``declared``: what it is where a user declared what it reads; None until somebody did.
    """

    shape: Shape
    operation: Operation
    entity_table: Table | None
    plans: dict[Any, Plan] = field(default_factory=dict)
    declared: Shape | None = None


class Questions:
    """Makes the questions of one cache. ``regions``: by name the position of its store, and seconds to live."""

    def __init__(
        self,
        policies: Policies,
        regions: Mapping[str, tuple[int, float]],
        declared: Declared | None = None,
    ) -> None:
        self.policies = policies
        self.regions = regions
        self.longest_grace_s = 0.0
        """The longest grace that a statement has asked for itself."""

        self._declared = declared or Declared()
        self._known: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()

    def of(
        self,
        statement: Any,
        parameters: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        attachment: Attachment,
        bind: Bind,
        engine: Engine,
        request: CacheRequest | None,
        variation: bytes,
    ) -> Question | Bypass:
        """Make key and tags, or say why not. ``variation``: what else decides on the rows, as part of the key."""
        form = self.form_of(statement, parameters, options, attachment, bind, engine, request)
        return form if isinstance(form, Bypass) else self.about(form, parameters, request, variation)

    def form_of(
        self,
        statement: Any,
        parameters: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        attachment: Attachment,
        bind: Bind,
        engine: Engine,
        request: CacheRequest | None,
    ) -> Form | Bypass:
        """Find what holds for every call of a statement, or say why it cannot be cached."""
        if options.get("compiled_cache", engine) is None:
            return Bypass("the compiled cache is turned off")
        compilation = _sqlalchemy.compile_statement(
            statement, engine, attachment.dialect, options, list(parameters or ())
        )
        if compilation.extracted is None:
            return Bypass("SQLAlchemy gives the statement no cache key")
        known = self._known.get(compilation.compiled)
        if known is None:
            shape = shape_of(compilation.compiled, attachment.dialect, self._declares)
            known = _Known(shape, _operation_of(statement, shape), _entity_table_of(statement))
            self._known[compilation.compiled] = known
            if shape.reads is not None and shape.reads.missed_columns:
                missed = ", ".join(shape.reads.missed_columns)
                attachment.coherence.events.emit("defect", reason=f"the compiler rendered columns not found: {missed}")
        reads = declared_in(options, READS)
        schema_map = _sqlalchemy.schema_map_of(options)
        if reads is not None:
            why_not = _why_unknown(reads, schema_map, attachment, bind)
            if why_not is not None:
                return why_not
            known.declared = known.declared or declared_shape_of(compilation.compiled, attachment.dialect)
        shape = known.shape if reads is None or known.declared is None else known.declared
        if shape.reads is None:
            return Bypass(shape.why_not or "not cacheable", shape.defect)
        plan = self._plan_of(known, bind, schema_map, request, reads)
        return plan if isinstance(plan, Bypass) else Form(plan, compilation)

    def _declares(self, function: str) -> bool:
        return self._declared.function(function) is not None

    def plan_of(self, compiled: Any, bind: Bind, request: CacheRequest | None = None) -> Plan | Bypass:
        """Return what holds for every call of a statement that was asked about before, without any other option."""
        known = self._known.get(compiled)
        if known is None or known.shape.reads is None:
            return Bypass("nobody asked about it")
        return self._plan_of(known, bind, None, request)

    def about(
        self, form: Form, parameters: Mapping[str, Any] | None, request: CacheRequest | None, variation: bytes
    ) -> Question | Bypass:
        """Make key and tags of one call, or say why not."""
        try:
            given = _sqlalchemy.parameters_of(form.compilation, parameters)
        except InvalidRequestError:
            return Bypass("a parameter has no value")
        return self.question_of(form.plan, given, request, form.compilation, variation)

    def question_of(
        self,
        plan: Plan,
        parameters: Mapping[str, Any],
        request: CacheRequest | None,
        compilation: _sqlalchemy.Compilation,
        variation: bytes,
    ) -> Question | Bypass:
        """Make key and tags of one call from the values of all its bind names, or say why not."""
        shape = plan.shape
        assert shape.reads is not None
        try:
            values = shape.processed(parameters)
            key = plan.keys.key_of(values, None if request is None else request.cache_key, variation)
        except UnsupportedValue as error:
            return Bypass(str(error))

        def value_of(parameter: BindParameter[Any]) -> Any:
            return values[shape.names[parameter]]

        if shape.reads.clock_binds and reads_the_clock(shape.reads, value_of):
            return Bypass("a value may stand for the present time")
        tags = plan.dependencies.tags(value_of)
        called = {name: parameters[name] for name in _sqlalchemy.called_names(compilation)}
        if request is None:
            return Question(key, tags, None, plan.store, plan.ttl_s, plan, compilation, called)
        ttl_s = plan.ttl_s if request.ttl_s is None else min(plan.ttl_s, request.ttl_s)
        given = request.cache_key if request.cache_key is not None else key.hex()
        name = naming.named_tag(plan.bind.id, plan.region, given)
        names = [name]
        if plan.by_keys and request.names is not None:
            names.append(naming.named_tag(plan.bind.id, plan.region, request.names.any_name))
        tags = TagSet((*tags.tags, *names), tags.guards)
        return Question(key, tags, name, plan.store, ttl_s, plan, compilation, called)

    def _plan_of(
        self,
        known: _Known,
        bind: Bind,
        schema_map: Mapping[str | None, str | None] | None,
        request: CacheRequest | None,
        reads: Written | None = None,
    ) -> Plan | Bypass:
        place = (
            bind.picture_number,
            tuple(sorted(schema_map.items(), key=repr)) if schema_map else None,
            None if request is None else (request.region, request.shape, request.grace_s),
            reads,
        )
        known_plan = known.plans.get(place)
        if known_plan is not None:
            return known_plan
        plan = self._make_plan(known, bind, schema_map, request, reads)
        if isinstance(plan, Plan):
            if len(known.plans) >= _MAX_PLANS:
                known.plans.clear()
            known.plans[place] = plan
        return plan  # why not is asked each time: a model that is declared later may change that

    def _make_plan(
        self,
        known: _Known,
        bind: Bind,
        schema_map: Mapping[str | None, str | None] | None,
        request: CacheRequest | None,
        reads: Written | None,
    ) -> Plan | Bypass:
        # Before anything is asked of the catalog as it is known: should it become another meanwhile, that shows.
        survey_stamps = bind.survey_stamps
        shape = known.shape if reads is None or known.declared is None else known.declared
        assert shape.reads is not None
        policies = self._policies_of(shape.reads, bind, schema_map, request, known.operation, asked=reads is not None)
        if isinstance(policies, Bypass):
            return policies
        relations = _relations_of(shape.reads, bind, schema_map, reads)
        if isinstance(relations, Bypass):
            return relations
        region = request.region if request is not None else policies[0].region if policies else "default"
        found = self.regions.get(region)
        if found is None:
            return Bypass(f'no region is named "{region}": known are {", ".join(sorted(self.regions))}')
        store, ttl_s = found
        # Once for all, lest DDL come in between.
        facts = {element.table: bind.facts(element.table, schema_map) for element in shape.reads.elements}

        def table_read(table: Table) -> TableRead:
            about = facts.get(table) or bind.facts(table, schema_map)
            return TableRead(about.name, about.value_columns, about.distrusted, about.untold)

        dependencies = dependencies_of(shape.reads, bind.id, table_read, bind.dialect, relations)
        return Plan(
            shape=shape,
            bind=bind,
            dependencies=replace(dependencies, guards=(*dependencies.guards, bind.schema_guard)),
            keys=KeyMaker(
                shape,
                bind.id,
                schema_map,
                None if request is None else request.region,
                bind.profile.settings,
                bind.profile.default_schema,
                relations,
            ),
            tables=frozenset(about.name for about in facts.values()) | relations,
            survey_stamps=survey_stamps,
            region=region,
            store=store,
            ttl_s=min([ttl_s, *(policy.ttl for policy in policies)]),
            max_size_bytes=min([MAX_SIZE_BYTES, *(policy.max_size_bytes for policy in policies)]),
            entry_shape=self._shape_of(known, request),
            is_one_row=_is_one_row(shape.reads) and known.operation == "get",
            grace_s=self._grace_of(shape.reads, known.operation, policies, request),
        )

    def _grace_of(
        self, reads: SelectReads, operation: Operation, policies: list[Policy], request: CacheRequest | None
    ) -> float:
        """Return the statement's own grace, else the least of its tables; a row by its primary key has none."""
        if operation == "get" and _is_one_row(reads):
            return 0.0
        if request is not None and request.grace_s is not None:
            self.longest_grace_s = max(self.longest_grace_s, request.grace_s)
            return request.grace_s
        all_say = len(policies) == len(reads.elements) + len(reads.named)
        return min((policy.grace for policy in policies), default=0.0) if all_say else 0.0

    def _shape_of(self, known: _Known, request: CacheRequest | None) -> EntryShape:
        """Return how a list should be kept: the statement's word, else that of its entity's policy."""
        if request is not None and request.shape is not None:
            return request.shape
        policy = None if known.entity_table is None else self.policies.of(known.entity_table)
        return "whole" if policy is None else policy.shape

    def _policies_of(
        self,
        reads: SelectReads,
        bind: Bind,
        schema_map: Mapping[str | None, str | None] | None,
        request: CacheRequest | None,
        operation: Operation,
        *,
        asked: bool,
    ) -> Bypass | list[Policy]:
        """Return the policies of a statement's tables, or say why they may not be cached.

        ``asked``: the statement itself says that it wants to be cached.
        """
        found = [(element.table.fullname, self._policy_of(element.table)) for element in reads.elements]
        for written in sorted(reads.named, key=repr):
            policy = self._policy_of_named(bind.name_of_text(written), bind, schema_map)
            found.append((".".join(filter(None, written)), policy))
        policies: list[Policy] = []
        for name, policy in found:
            if policy is None and request is None and not asked:
                return Bypass(f"table {name} belongs to no cacheable model")
            if policy is not None:
                if request is None and not asked and operation not in policy.operations:
                    return Bypass(f'operation "{operation}" is not cached for table {name}')
                policies.append(policy)
        return policies

    def _policy_of(self, table: Table) -> Policy | None:
        return self.policies.of(_sqlalchemy.plain_table(table))

    def _policy_of_named(
        self, name: CatalogName, bind: Bind, schema_map: Mapping[str | None, str | None] | None
    ) -> Policy | None:
        tables = self.policies.tables()
        return next((tables[table] for table in tables if bind.catalog_name_of(table, schema_map) == name), None)


def _why_unknown(
    reads: Written, schema_map: Mapping[str | None, str | None] | None, attachment: Attachment, bind: Bind
) -> Bypass | None:
    """Say why a table that was declared is not known yet; ``ConfigurationError`` where there is none of its name."""
    _, unknown = bind.names_of_declared(reads, schema_map)
    if not unknown:
        return None
    stamps = bind.survey_stamps
    if bind.survey is None or attachment.coherence.stamps_of(bind.schema_guard) != stamps:
        bind.doubt_survey(stamps)
        return Bypass(OTHER_CATALOG)
    raise ConfigurationError(unknown_tables(READS, unknown))


def _relations_of(
    shape: SelectReads, bind: Bind, schema_map: Mapping[str | None, str | None] | None, declared: Written | None
) -> frozenset[str] | Bypass:
    """Name, as tags do, the tables that are read by their names alone: behind views and functions, in text, declared."""
    asked: list[tuple[str, frozenset[CatalogName] | str]] = []
    for element in shape.elements:
        facts = bind.facts(element.table, schema_map)
        found, is_view = bind.behind(facts), bind.is_view(facts.catalog_name)
        if isinstance(found, str) and is_view and declared is not None:
            continue
        if isinstance(found, str) or is_view:
            asked.append((f"table {element.table.fullname}", found))
        else:
            # What row-level security reads beside it; it itself may be narrowed.
            asked.append((f"table {element.table.fullname}", found - {facts.catalog_name}))
    given = frozenset(map(bind.name_of_text, shape.named))
    if bind.survey is not None and any(map(bind.survey.puts_on_today, given)):
        return Bypass(f"the text {READS_TIMES}")
    given |= bind.names_of_declared(declared or (), schema_map)[0]
    asked.extend((f"table {'.'.join(name)}", bind.behind_name(name)) for name in sorted(given))
    asked.extend(("it calls", bind.behind_function(name)) for name in sorted(shape.functions))
    if any(bind.calls_user_function([name]) for name in shape.attributes):
        return Bypass("it may call a function of the database's users by the name of an attribute")
    names: set[str] = set()
    for what, relations in asked:
        if isinstance(relations, str):
            return Bypass(f"{what} {relations}")
        names.update(naming.name_of_parts(*relation) for relation in relations)
    return frozenset(names)


def _operation_of(statement: Any, shape: Shape) -> Operation:
    columns = getattr(statement, "column_descriptions", ())
    whole = [column.get("entity") is not None and column.get("entity") is column.get("expr") for column in columns]
    if shape.reads is None or not whole or not all(whole):
        return "columns"
    if not shape.reads.elements:
        return "list"
    narrowing = shape.reads.elements[0].narrowing
    return "get" if narrowing is not None and narrowing.by_primary_key else "list"


def _is_one_row(reads: SelectReads) -> bool:
    """Tell whether a SELECT that is narrowed by primary key asks for one row, and not for a list of keys."""
    narrowing = reads.elements[0].narrowing if reads.elements else None
    operands = () if narrowing is None else itertools.chain.from_iterable(narrowing.columns.values())
    return not any(isinstance(operand, BindParameter) and operand.expanding for operand in operands)


def _entity_table_of(statement: Any) -> Table | None:
    mapper = mapper_of(statement)
    table = None if mapper is None else mapper.local_table
    return table if isinstance(table, Table) else None
