"""Can a SELECT be kept as its primary keys and rows each on its own, and which statement reads these rows?

``why_not_by_keys`` says what of a statement stands against it. The rows of its keys are read by one statement, with the keys
as parameters: called with a single key it is the question under which that row is cached. Nothing is run here.

Promises: what the statement for the rows gives of a key is what the SELECT itself would give of that row, column by column;
where that is not sure, the SELECT is kept whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from sqlalchemy import Select, bindparam, inspect, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Mapper, UserDefinedOption, class_mapper
from sqlalchemy.sql.selectable import SelectLabelStyle

from querycache import _sqlalchemy

Key: TypeAlias = tuple[Any, ...]
"""A primary key, its values in the mapper's order; a tuple also where it is one value."""

KEYS: Final = "querycache_keys"
_STATEMENT: Final = "_querycache_rows_by_key"


def key_attributes_of(model: type[Any]) -> list[InstrumentedAttribute[Any]]:
    """Return a model's primary key as attributes."""
    mapper = class_mapper(model)
    return [getattr(model, mapper.get_property_by_column(column).key) for column in mapper.primary_key]


def mapper_of(statement: Any) -> Mapper[Any] | None:
    """Return the mapper of which a statement returns instances and nothing else; None where it is not so."""
    if not isinstance(statement, Select):
        return None
    # SQLAlchemy raises for select(text("*")).
    described: Any = getattr(statement, "column_descriptions", ())
    mapper = inspect(described[0]["expr"], raiseerr=False) if len(described) == 1 else None
    return mapper if isinstance(mapper, Mapper) else None


def why_not_by_keys(statement: Any) -> str | None:
    """Say what of a statement stands against keeping it as keys and rows; None where nothing does."""
    if not isinstance(statement, Select):
        return "it is not a plain select()"
    if mapper_of(statement) is None:
        return "it does not return the instances of one mapped class"
    for peculiarity in _sqlalchemy.peculiarities_of(statement):
        return peculiarity
    if not all(_sqlalchemy.looks_at_the_row_alone(option) for option in _load_options_of(statement)):
        return "one of its options looks at more than the row"
    return None


def _load_options_of(statement: Select[Any]) -> list[Any]:
    return [option for option in statement._with_options if not isinstance(option, UserDefinedOption)]


def keys_of(statement: Select[Any]) -> Select[Any]:
    """Return the statement for the keys of what a SELECT finds, in its order."""
    mapper = mapper_of(statement)
    assert mapper is not None
    keys = statement.with_only_columns(*key_attributes_of(mapper.class_))
    limiting: Select[Any] = _sqlalchemy.with_options_alone(keys, _sqlalchemy.criteria_in(_load_options_of(statement)))
    return limiting


def rows_of(statement: Select[Any], mapper: Mapper[Any]) -> Select[Any]:
    """Return the statement for the rows of a SELECT's keys, loaded as that loads them."""
    rows, options, style = rows_by_key(mapper), _load_options_of(statement), statement.get_label_style()
    if style is _sqlalchemy.STYLE_OF_QUERY:
        # As the ORM takes it where it runs for a ``Query``.
        style = SelectLabelStyle.LABEL_STYLE_TABLENAME_PLUS_COL
    if style is not SelectLabelStyle.LABEL_STYLE_DEFAULT:
        rows = rows.set_label_style(style)
    return rows.options(*options) if options else rows


def rows_by_key(mapper: Mapper[Any]) -> Select[Any]:
    """Return the statement for the rows of any number of keys, made once for a class and kept there, to live as long."""
    statement: Select[Any] | None = mapper.class_.__dict__.get(_STATEMENT)
    if statement is None:
        statement = _rows_by_key(mapper)
        _sqlalchemy.keep_with_class(mapper.class_, _STATEMENT, statement)
    return statement


def _rows_by_key(mapper: Mapper[Any]) -> Select[Any]:
    """Build the statement for the rows of any number of keys."""
    key = key_attributes_of(mapper.class_)
    keys: Any = bindparam(KEYS, expanding=True)
    return select(mapper.class_).where(tuple_(*key).in_(keys) if len(key) > 1 else key[0].in_(keys))


def parameters_of(mapper: Mapper[Any], keys: Sequence[Key], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the parameters with which ``rows_by_key`` reads the rows of some keys; ``given`` are there already."""
    once = list(dict.fromkeys(keys))
    return {**(given or {}), KEYS: once if len(mapper.primary_key) > 1 else [part for (part,) in once]}
