"""Under which key is a statement's result kept?

The rows that a driver returns are decided by the SQL text, the bound values and the database. So is the key: a digest of
the text as compiled, the result columns' types, the processed values, the bind, and what does not show in the text
(schema map, a user's name for the entry, what the application says that rows vary by). Loader options that leave the text
alone leave the key alone, as the ORM's own loader runs on every hit. Values stand in the key as a digest only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import BindParameter, Table, TextClause, TextualSelect, UpdateBase
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.visitors import iterate

from querycache._rendering import Rendered, rendered_by
from querycache._sqlalchemy import (
    bind_processors_of,
    core_statement_of,
    places_of_binds,
    plain_table,
    result_types_of,
)
from querycache.rows.codec import MAGIC, UnsupportedValue, encode_values
from querycache.statements.reads import ElementRead, NotCacheable, SelectReads, reads_of
from querycache.statements.textreads import text_reads_of, why_not_declared

_POSTCOMPILED: Final = re.compile(r"__\[POSTCOMPILE_[^\]]*\]")
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")

FORMAT: Final = b"4"
"""Changes when the meaning of a key changes: older entries become misses. The payload's format is part of the key, too,
so that two versions of the library side by side keep entries of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What one compiled statement is, for every call of it. ``reads`` is None where it is not cacheable: ``why_not``.

    ``places``: where the values of its bind names stand, in the order of these, among what SQLAlchemy extracts from a call;
    None where that alone does not say what is sent.
    """

    digest: bytes
    reads: SelectReads | None
    why_not: str | None
    defect: bool
    names: Mapping[BindParameter[Any], str]
    processors: Mapping[str, Any]
    expanding: frozenset[str]
    places: tuple[int, ...] | None

    def processed(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Run the bind processors, as the driver's execution would.

        Raises ``UnsupportedValue`` where one refuses its value.
        """
        if not self.processors:
            return dict(parameters)
        return {
            name: _processed(self.processors.get(name), value, many=name in self.expanding)
            for name, value in parameters.items()
        }


def shape_of(
    compiled: SQLCompiler, dialect: Dialect, declared_functions: Callable[[str], bool] = lambda name: False
) -> Shape:
    """Analyse a compiled SELECT, or one given as text. ``declared_functions`` tells by name which a user vouches for."""
    rendered = rendered_by(compiled)
    if rendered is None:
        return _refused("it was compiled before the cache was attached")
    statement = core_statement_of(compiled)
    written = text_of(statement)
    if written is not None:
        answer = _reads_of_written(written, compiled, dialect)
    else:
        answer = reads_of(statement, dialect, rendered, declared_functions)
        if isinstance(answer, NotCacheable) and answer.holds_text:
            answer = _reads_of_rendered(compiled, dialect)
    if isinstance(answer, NotCacheable):
        return _refused(answer.reason)
    missed = [] if written is not None else _missed_tables(rendered, answer)
    if missed:
        why = f"the compiler rendered what the extractor did not name: {', '.join(missed)}"
        return _refused(why, defect=True)
    return _shape(compiled, dialect, answer)


def declared_shape_of(compiled: SQLCompiler, dialect: Dialect) -> Shape:
    """Take the word of a user who declares what a statement reads, beside the tables that were rendered.

    Nothing helps one that locks rows or changes them, nor a text that does not begin as a SELECT.
    """
    rendered = rendered_by(compiled)
    if rendered is None:
        return _refused("it was compiled before the cache was attached")
    statement = core_statement_of(compiled)
    written = text_of(statement)
    if written is not None:
        why_not = why_not_declared(written.text, dialect.name)
    else:
        parts = [part for root in (statement, *(cte.element for cte in compiled.ctes or ())) for part in iterate(root)]
        acts = any(isinstance(part, UpdateBase) or getattr(part, "_for_update_arg", None) is not None for part in parts)
        why_not = "it changes or locks rows, whatever it is declared to read" if acts else None
    if why_not is not None:
        return _refused(why_not)
    tables = dict.fromkeys(plain_table(table) for table in rendered.tables if isinstance(table, Table))
    return _shape(compiled, dialect, SelectReads(tuple(ElementRead(table, None) for table in tables), frozenset()))


def text_of(statement: Any) -> TextClause | None:
    """Return the text of a statement that is nothing but text; None where it is a construct."""
    written = statement.element if isinstance(statement, TextualSelect) else statement
    return written if isinstance(written, TextClause) else None


def _reads_of_written(written: TextClause, compiled: SQLCompiler, dialect: Dialect) -> SelectReads | NotCacheable:
    binds = tuple(compiled.bind_names)
    if any(bind.type.dialect_impl(dialect)._has_bind_expression for bind in binds):
        return NotCacheable("the type of a bound value renders SQL of its own")
    answer = text_reads_of(written.text, dialect.name)
    if isinstance(answer, NotCacheable) or dialect.name != "postgresql":
        return answer
    return replace(answer, clock_binds=binds)


def _reads_of_rendered(compiled: SQLCompiler, dialect: Dialect) -> SelectReads | NotCacheable:
    """Read a construct with text in it by what was rendered, as if all of it was text."""
    rendered = _POSTCOMPILED.sub("1", compiled.string)
    answer = NotCacheable("its schemas are translated") if "__[" in rendered else text_reads_of(rendered, dialect.name)
    if isinstance(answer, NotCacheable):
        return NotCacheable(f"it contains text(), and {answer.reason}")
    return replace(answer, clock_binds=tuple(compiled.bind_names) if dialect.name == "postgresql" else ())


def _shape(compiled: SQLCompiler, dialect: Dialect, answer: SelectReads) -> Shape:
    processors = dict(bind_processors_of(compiled))
    return Shape(
        digest=_digest_of(compiled, dialect),
        reads=answer,
        why_not=None,
        defect=False,
        names=dict(compiled.bind_names),
        processors=processors,
        expanding=frozenset(name for bound, name in compiled.bind_names.items() if bound.expanding),
        places=None if processors else places_of_binds(compiled),
    )


def _refused(why_not: str, *, defect: bool = False) -> Shape:
    return Shape(b"", None, why_not, defect, {}, {}, frozenset(), None)


class KeyMaker:
    """Makes the keys of one statement on one database. ``settings`` are those of the connection.

    ``region`` is that of a statement for which a user chose one, ``relations`` are the tables that
    it reads by their names alone: as declared, or as the catalog says.
    """

    def __init__(
        self,
        shape: Shape,
        bind_id: str,
        schema_map: Mapping[str | None, str | None] | None,
        region: str | None,
        settings: str,
        default_schema: str,
        relations: Iterable[str] = (),
    ) -> None:
        self._begun = hashlib.blake2b(shape.digest, digest_size=16)
        names = sorted((schema_map or {}).items(), key=repr)
        self._begun.update(json.dumps([bind_id, settings, default_schema, names, region, sorted(relations)]).encode())
        self.names: Final = sorted(set(shape.names.values()))

    def key_of(self, values: Mapping[str, Any], cache_key: str | None, variation: bytes) -> bytes:
        """Return the key of one call, 16 bytes.

        ``cache_key``: the user's name for it. ``variation``: what else decides on its rows.
        Raises ``UnsupportedValue`` where a value has no canonical form.
        """
        digest = self._begun.copy()
        # As many as there are names, which the statement's digest tells.
        digest.update(encode_values([*map(values.__getitem__, self.names), cache_key, variation]))
        return digest.digest()


def _digest_of(compiled: SQLCompiler, dialect: Dialect) -> bytes:
    digest = hashlib.blake2b(FORMAT + MAGIC, digest_size=16)
    types = [
        f"{name}:{type(kind).__module__}.{type(kind).__qualname__}:{_ADDRESS.sub('', repr(kind))}"
        for name, kind in result_types_of(compiled)
    ]
    for part in (dialect.name, dialect.driver, compiled.string, *types, *sorted(compiled.bind_names.values())):
        digest.update(len(part).to_bytes(4, "big"))
        digest.update(part.encode())
    return digest.digest()


def _missed_tables(rendered: Rendered, reads: SelectReads) -> list[str]:
    if reads.named:
        # As the text spells them, the schema perhaps left out or translated.
        named = {name for _, name in reads.named}
        return sorted({str(table.name) for table in rendered.tables if str(table.name).lower() not in named})
    named = {element.table.fullname for element in reads.elements}
    names = {str(getattr(table, "fullname", table)) for table in rendered.tables}
    return sorted(names - named)


def _processed(processor: Any, value: Any, *, many: bool) -> Any:
    try:
        return _process(processor, value, many=many)
    except Exception as error:
        # A processor is the application's code and may raise anything. The execution runs it again, and what the
        # application then hears is SQLAlchemy's own error.
        raise UnsupportedValue(type(value), "was refused by its column's type") from error


def _process(processor: Any, value: Any, *, many: bool) -> Any:
    if processor is None:
        return value
    if isinstance(processor, tuple):
        rows = value if many else [value]
        return [
            tuple(item if part is None else part(item) for part, item in zip(processor, row, strict=False))
            for row in rows
        ]
    return [processor(item) for item in value] if many else processor(value)
