"""Which statement reads the rows of some primary keys?

One per model for any number of keys, with the keys as parameters: called with a single key it is the question under which
that row is cached. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import Select, bindparam, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Mapper, class_mapper

Key: TypeAlias = tuple[Any, ...]
"""A primary key, its values in the mapper's order; a tuple also where it is one value."""

KEYS: Final = "querycache_keys"
_STATEMENT: Final = "_querycache_rows_by_key"


def key_attributes_of(model: type[Any]) -> list[InstrumentedAttribute[Any]]:
    """Return a model's primary key as attributes."""
    mapper = class_mapper(model)
    return [getattr(model, mapper.get_property_by_column(column).key) for column in mapper.primary_key]


def rows_by_key(mapper: Mapper[Any]) -> Select[Any]:
    """Return the statement for the rows of any number of keys, made once for a class and kept there, to live as long."""
    statement: Select[Any] | None = mapper.class_.__dict__.get(_STATEMENT)
    if statement is None:
        statement = _rows_by_key(mapper)
        setattr(mapper.class_, _STATEMENT, statement)
    return statement


def _rows_by_key(mapper: Mapper[Any]) -> Select[Any]:
    """Build the statement for the rows of any number of keys.

    A composite key is pinned part by part, so that a call with one key depends on that row alone, and as a whole, so that
    a call with many finds no other rows.
    """
    key = key_attributes_of(mapper.class_)
    statement = select(mapper.class_)
    for position, part in enumerate(key):
        statement = statement.where(part.in_(bindparam(f"{KEYS}_{position}", expanding=True)))
    if len(key) > 1:
        statement = statement.where(tuple_(*key).in_(bindparam(KEYS, expanding=True)))
    return statement


def parameters_of(mapper: Mapper[Any], keys: Sequence[Key]) -> dict[str, Any]:
    """Return the parameters with which ``rows_by_key`` reads the rows of some keys."""
    width = len(mapper.primary_key)
    parameters: dict[str, Any] = {
        f"{KEYS}_{position}": list(dict.fromkeys(key[position] for key in keys)) for position in range(width)
    }
    if width > 1:
        parameters[KEYS] = list(keys)
    return parameters
