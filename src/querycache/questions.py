"""May a statement be cached, under which key, and what does that depend on?

Asks the statement, the policies of its tables and what is known of the database. Never asks a store, never runs anything.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BindParameter, Table
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InvalidRequestError

from querycache import _sqlalchemy
from querycache._types import Tag, TagSet
from querycache.coherence.binds import Bind
from querycache.engine import Attachment
from querycache.options import CacheRequest
from querycache.policy import Operation, Policies, Policy
from querycache.rows.codec import UnsupportedValue
from querycache.statements import tags as naming
from querycache.statements.fingerprint import Shape, key_of, shape_of
from querycache.statements.reads import reads_the_clock, tags_of, trusted_reads


@dataclass(frozen=True, slots=True)
class Bypass:
    """Why a statement goes to the database and is not stored."""

    reason: str
    defect: bool = False


@dataclass(frozen=True, slots=True)
class Form:
    """A compiled statement that may be cached, whatever its parameters."""

    shape: Shape
    policies: list[Policy]
    engine: Engine
    bind: Bind
    options: Mapping[str, Any]
    compilation: _sqlalchemy.Compilation


@dataclass(frozen=True, slots=True)
class Question:
    """A statement that may be cached: its key, what it depends on, where and how long it is kept.

    ``name`` is the tag of the user's name for it, one of ``tags``; None for a statement that nobody named.
    """

    key: bytes
    tags: TagSet
    name: Tag | None
    tables: frozenset[str]
    store: int
    ttl_s: float
    max_size_bytes: int
    engine: Engine
    bind: Bind
    options: Mapping[str, Any]
    compilation: _sqlalchemy.Compilation


class Questions:
    """Makes the questions of one cache. ``regions``: by name the position of its store, and seconds to live."""

    def __init__(self, policies: Policies, regions: Mapping[str, tuple[int, float]]) -> None:
        self.policies = policies
        self.regions = regions
        self._shapes: weakref.WeakKeyDictionary[Any, tuple[Shape, Operation]] = weakref.WeakKeyDictionary()

    def of(
        self,
        statement: Any,
        parameters: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        attachment: Attachment,
        bind: Bind,
        engine: Engine,
        request: CacheRequest | None,
    ) -> Question | Bypass:
        """Make key and tags, or say why not."""
        form = self.form_of(statement, parameters, options, attachment, bind, engine, request)
        return form if isinstance(form, Bypass) else self.about(form, parameters, request)

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
        known = self._shapes.get(compilation.compiled)
        if known is None:
            shape = shape_of(compilation.compiled, attachment.dialect)
            known = self._shapes[compilation.compiled] = shape, _operation_of(statement, shape)
        shape, operation = known
        if shape.reads is None:
            return Bypass(shape.why_not or "not cacheable", shape.defect)
        policies = self._policies_of(shape, bind, options.get("schema_translate_map"), request, operation)
        if isinstance(policies, Bypass):
            return policies
        return Form(shape, policies, engine, bind, options, compilation)

    def about(
        self, form: Form, parameters: Mapping[str, Any] | None, request: CacheRequest | None
    ) -> Question | Bypass:
        """Make key and tags of one call, or say why not."""
        shape, bind = form.shape, form.bind
        assert shape.reads is not None
        schema_map = form.options.get("schema_translate_map")
        try:
            values = shape.processed(_sqlalchemy.parameters_of(form.compilation, parameters))
            variations = () if request is None else (request.region, request.cache_key or "")
            key = key_of(shape, bind.id, values, schema_map, variations, bind.profile.settings)
        except UnsupportedValue as error:
            return Bypass(str(error))
        except InvalidRequestError:
            return Bypass("a parameter has no value")

        def value_of(parameter: BindParameter[Any]) -> Any:
            return values[shape.names[parameter]]

        if reads_the_clock(shape.reads, value_of):
            return Bypass("a value may stand for the present time")
        # Once for all, lest DDL come in between.
        facts = {element.table: bind.facts(element.table, schema_map) for element in shape.reads.elements}
        tags = tags_of(
            trusted_reads(shape.reads, lambda table: facts[table].distrusted),
            bind.id,
            value_of,
            lambda table: facts[table].name,
            form.engine.dialect,
            lambda table: facts[table].value_columns,
        )
        return self._question(form, request, key, tags)

    def _policies_of(
        self,
        shape: Shape,
        bind: Bind,
        schema_map: Mapping[str | None, str | None] | None,
        request: CacheRequest | None,
        operation: Operation,
    ) -> Bypass | list[Policy]:
        """Return the policies of a statement's tables, or say why they may not be cached."""
        assert shape.reads is not None
        policies: list[Policy] = []
        for element in shape.reads.elements:
            table: Table = element.table
            policy = self.policies.of(_sqlalchemy.plain_table(table))
            if policy is None and request is None:
                return Bypass(f"table {table.fullname} belongs to no cacheable model")
            if policy is not None:
                if request is None and operation not in policy.operations:
                    return Bypass(f'operation "{operation}" is not cached for table {table.fullname}')
                policies.append(policy)
            why_not = bind.why_not_plain(bind.facts(table, schema_map))
            if why_not is not None:
                return Bypass(f"table {table.fullname} {why_not}")
        if any(bind.calls_user_function([name]) for name in shape.reads.functions):
            return Bypass("it calls a function of the database's users")
        return policies

    def _question(self, form: Form, request: CacheRequest | None, key: bytes, tags: TagSet) -> Question | Bypass:
        assert form.shape.reads is not None
        policies, bind = form.policies, form.bind
        region = request.region if request is not None else policies[0].region if policies else "default"
        found = self.regions.get(region)
        if found is None:
            return Bypass(f'no region is named "{region}": known are {", ".join(sorted(self.regions))}')
        store, ttl_s = found
        name = None
        ttl_s = min([ttl_s, *(policy.ttl for policy in policies)])
        if request is not None:
            ttl_s = min(ttl_s, request.ttl_s) if request.ttl_s is not None else ttl_s
            given = request.cache_key if request.cache_key is not None else key.hex()
            name = naming.named_tag(bind.id, region, given)
            tags = TagSet((*tags.tags, name), tags.guards)
        schema_map = form.options.get("schema_translate_map")
        return Question(
            key=key,
            tags=tags,
            name=name,
            tables=frozenset(bind.facts(element.table, schema_map).name for element in form.shape.reads.elements),
            store=store,
            ttl_s=ttl_s,
            max_size_bytes=min([1_000_000, *(policy.max_size_bytes for policy in policies)]),
            engine=form.engine,
            bind=bind,
            options=form.options,
            compilation=form.compilation,
        )


def _operation_of(statement: Any, shape: Shape) -> Operation:
    columns = getattr(statement, "column_descriptions", ())
    whole = [column.get("entity") is not None and column.get("entity") is column.get("expr") for column in columns]
    if shape.reads is None or not whole or not all(whole):
        return "columns"
    narrowing = shape.reads.elements[0].narrowing
    return "get" if narrowing is not None and narrowing.by_primary_key else "list"
