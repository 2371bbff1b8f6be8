"""Under which key is a statement's result kept?

The rows that a driver returns are decided by the SQL text, the bound values and the database. So is the key: a digest of
the text as compiled, the result columns' types, the processed values, the bind, and what does not show in the text
(schema map, a user's variations). Loader options that leave the text alone leave the key alone, as the ORM's own loader
runs on every hit. Values stand in the key as a digest only.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BindParameter
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.compiler import SQLCompiler

from querycache._rendering import Rendered, rendered_by
from querycache._sqlalchemy import bind_processors_of, core_statement_of, result_types_of
from querycache.rows.codec import MAGIC, UnsupportedValue, encode_values
from querycache.statements.reads import NotCacheable, SelectReads, reads_of

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")

FORMAT: Final = b"3"
"""Changes when the meaning of a key changes: older entries become misses. The payload's format is part of the key, too,
so that two versions of the library side by side keep entries of their own."""


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What one compiled statement is, for every call of it. ``reads`` is None where it is not cacheable: ``why_not``."""

    digest: bytes
    reads: SelectReads | None
    why_not: str | None
    defect: bool
    names: Mapping[BindParameter[Any], str]
    processors: Mapping[str, Any]
    expanding: frozenset[str]

    def processed(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Run the bind processors, as the driver's execution would.

        Raises ``UnsupportedValue`` where one refuses its value.
        """
        return {
            name: _processed(self.processors.get(name), value, many=name in self.expanding)
            for name, value in parameters.items()
        }


def shape_of(compiled: SQLCompiler, dialect: Dialect) -> Shape:
    """Analyse a compiled SELECT."""
    rendered = rendered_by(compiled)
    if rendered is None:
        return _refused("it was compiled before the cache was attached")
    answer = reads_of(core_statement_of(compiled), dialect, rendered)
    if isinstance(answer, NotCacheable):
        return _refused(answer.reason)
    missed = _missed_tables(rendered, answer)
    if missed:
        why = f"the compiler rendered what the extractor did not name: {', '.join(missed)}"
        return _refused(why, defect=True)
    return Shape(
        digest=_digest_of(compiled, dialect),
        reads=answer,
        why_not=None,
        defect=False,
        names=dict(compiled.bind_names),
        processors=dict(bind_processors_of(compiled)),
        expanding=frozenset(name for bound, name in compiled.bind_names.items() if bound.expanding),
    )


def _refused(why_not: str, *, defect: bool = False) -> Shape:
    return Shape(b"", None, why_not, defect, {}, {}, frozenset())


class KeyMaker:
    """Makes the keys of one statement on one database. ``settings`` are those of the connection.

    ``region`` is that of a statement for which a user chose one.
    """

    def __init__(
        self,
        shape: Shape,
        bind_id: str,
        schema_map: Mapping[str | None, str | None] | None,
        region: str | None,
        settings: str,
    ) -> None:
        self._begun = hashlib.blake2b(shape.digest, digest_size=16)
        self._begun.update(f"{bind_id}/{settings}\0".encode())
        named = sorted((schema or "", target or "") for schema, target in (schema_map or {}).items())
        self._begun.update(json.dumps([named, region]).encode())
        self._names = sorted(set(shape.names.values()))

    def key_of(self, values: Mapping[str, Any], variation: str | None = None) -> bytes:
        """Return the key of one call, 16 bytes. ``variation``: what else tells it from others, in a user's words.

        Raises ``UnsupportedValue`` where a value has no canonical form.
        """
        digest = self._begun.copy()
        given = [values[name] for name in self._names]
        digest.update(encode_values(given if variation is None else [*given, variation]))
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
