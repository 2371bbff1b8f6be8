"""What holds for every call of a compiled statement on one database?

Asks the policies of its tables and what is known of the database, once for each way in which a statement may be kept. Never
asks a store, never looks at the values of a call.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlalchemy import BindParameter, Table

from querycache import _sqlalchemy
from querycache._types import Stamp
from querycache.coherence.binds import Bind
from querycache.coherence.declared import Written
from querycache.coherence.relations import READS_TIMES
from querycache.databases import TableName as CatalogName
from querycache.keyed import mapper_of
from querycache.options import CacheRequest
from querycache.policy import EntryShape, Operation, Policies, Policy
from querycache.recall import Memory, Recall
from querycache.rows.codec import UnsupportedValue, encode_values
from querycache.statements import tags as naming
from querycache.statements.dependencies import Dependencies, TableRead, dependencies_of
from querycache.statements.fingerprint import KeyMaker, Shape
from querycache.statements.reads import SelectReads

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
    memory: Memory

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


@dataclass(slots=True)
class Known:
    """What was found out about a compiled statement, and its plans by what else they depend on.

    ``declared``: what it is where a user declared what it reads; None until somebody did.
    """

    shape: Shape
    operation: Operation
    entity_table: Table | None
    plans: dict[Any, Plan] = field(default_factory=dict)
    declared: Shape | None = None

    @classmethod
    def of(cls, statement: Any, shape: Shape) -> Known:
        """Begin to know a statement."""
        return cls(shape, _operation_of(statement, shape), _entity_table_of(statement))


class Plans:
    """Makes the plans of one cache. ``regions``: by name the position of its store, and seconds to live."""

    def __init__(self, policies: Policies, regions: Mapping[str, tuple[int, float]]) -> None:
        self.policies = policies
        self.regions = regions
        self.longest_grace_s = 0.0
        """The longest grace that a statement has asked for itself."""

        self._recall = Recall()

    def of(
        self,
        known: Known,
        bind: Bind,
        schema_map: Mapping[str | None, str | None] | None,
        request: CacheRequest | None,
        reads: Written | None = None,
    ) -> Plan | Bypass:
        """Return what holds for every call of a statement, or why it is not cached.

        ``reads``: the tables that a user declares it to read.
        """
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
        known: Known,
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
            memory=self._recall.memory(),
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

    def _shape_of(self, known: Known, request: CacheRequest | None) -> EntryShape:
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
