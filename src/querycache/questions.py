"""May a statement be cached, under which key, and what does that depend on?

Asks the statement, the policies of its tables and what is known of the database. Never asks a store, never runs anything.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sqlalchemy import BindParameter
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InvalidRequestError

from querycache import _sqlalchemy
from querycache._types import Lookup, Tag, TagSet
from querycache.coherence.binds import Bind
from querycache.coherence.declared import READS, Declared, Written, declared_in, unknown_tables
from querycache.engine import Attachment
from querycache.errors import ConfigurationError
from querycache.options import CacheRequest
from querycache.plans import Bypass, Known, Plan, Plans
from querycache.policy import Policies
from querycache.recall import Named, exactly
from querycache.rows.codec import UnsupportedValue
from querycache.statements import tags as naming
from querycache.statements.dependencies import reads_the_clock
from querycache.statements.fingerprint import declared_shape_of, shape_of

__all__ = ["OTHER_CATALOG", "Bypass", "Form", "Plan", "Question", "Questions"]

OTHER_CATALOG: Final = "the database's catalog changed since it was asked"

_NOTHING: Final = MappingProxyType[str, Any]({})


class Form(NamedTuple):
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


class Questions:
    """Makes the questions of one cache. ``regions``: by name the position of its store, and seconds to live."""

    def __init__(
        self,
        policies: Policies,
        regions: Mapping[str, tuple[int, float]],
        declared: Declared | None = None,
    ) -> None:
        self.plans = Plans(policies, regions)
        self._declared = declared or Declared()
        self._known: weakref.WeakKeyDictionary[Any, Known] = weakref.WeakKeyDictionary()

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
            statement, engine, attachment.dialect, options, list(parameters) if parameters else ()
        )
        if compilation.extracted is None:
            return Bypass("SQLAlchemy gives the statement no cache key")
        known = self._known.get(compilation.compiled)
        if known is None:
            shape = shape_of(compilation.compiled, attachment.dialect, self._declares)
            known = Known.of(statement, shape)
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
        plan = self.plans.of(known, bind, schema_map, request, reads)
        return plan if isinstance(plan, Bypass) else Form(plan, compilation)

    def _declares(self, function: str) -> bool:
        return self._declared.function(function) is not None

    def plan_of(self, compiled: Any, bind: Bind, request: CacheRequest | None = None) -> Plan | Bypass:
        """Return what holds for every call of a statement that was asked about before, without any other option."""
        known = self._known.get(compiled)
        if known is None or known.shape.reads is None:
            return Bypass("nobody asked about it")
        return self.plans.of(known, bind, None, request)

    def about(
        self, form: Form, parameters: Mapping[str, Any] | None, request: CacheRequest | None, variation: bytes
    ) -> Question | Bypass:
        """Make key and tags of one call, or say why not."""
        plan = form.plan
        if request is None and not parameters and plan.shape.places is not None:
            values = _sqlalchemy.values_at(plan.shape.places, form.compilation)
            remembered = None if values is None else self.remembered(plan, values, form.compilation, variation)
            if remembered is not None:
                return remembered
        try:
            given = _sqlalchemy.parameters_of(form.compilation, parameters)
        except InvalidRequestError:
            return Bypass("a parameter has no value")
        return self.question_of(plan, given, request, form.compilation, variation)

    def remembered(
        self, plan: Plan, values: Sequence[Any], compilation: _sqlalchemy.Compilation, variation: bytes
    ) -> Question | None:
        """Return the question of a call that was asked about lately; None where it was not.

        ``values``: those of all its bind names, in their order, where no function gives one and the driver processes none.
        """
        known = None if plan.shape.processors else exactly(variation, values)
        named = None if known is None else plan.memory.named.get(known)
        if named is None:
            return None
        return Question(named.key, named.tags, None, plan.store, plan.ttl_s, plan, compilation, _NOTHING)

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
        try:
            values = shape.processed(parameters)
            remembered = exactly(variation, map(values.__getitem__, plan.keys.names)) if request is None else None
            named = None if remembered is None else plan.memory.named.get(remembered)
            if named is None:
                cache_key = None if request is None else request.cache_key
                made = _named(plan, values, cache_key, variation)
                if isinstance(made, Bypass):
                    return made
                named = made
                if remembered is not None:
                    plan.memory.keep(remembered, named)
        except UnsupportedValue as error:
            return Bypass(str(error))
        key, tags = named
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


def _named(plan: Plan, values: Mapping[str, Any], cache_key: str | None, variation: bytes) -> Named | Bypass:
    """Make key and tags from processed values by bind name. Raises ``UnsupportedValue``."""
    shape = plan.shape
    assert shape.reads is not None
    key = plan.keys.key_of(values, cache_key, variation)

    def value_of(parameter: BindParameter[Any]) -> Any:
        return values[shape.names[parameter]]

    if shape.reads.clock_binds and reads_the_clock(shape.reads, value_of):
        return Bypass("a value may stand for the present time")
    return Named(key, plan.dependencies.tags(value_of))


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
