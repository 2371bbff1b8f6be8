"""What do a random schema's mappers and tables say of themselves?

Questions and writes are made of what is found here, and of nothing else: they know no class by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeVar

from oracle_dice import Dice
from oracle_values import Kind, kind_of
from sqlalchemy import Column, MetaData, Table, inspect
from sqlalchemy.orm import Mapper, registry
from sqlalchemy.schema import CreateIndex, CreateTable

ROLE: Final = "role"
"""In a column's ``info``: "class" for a discriminator, "version" for a counter of the ORM's."""


T = TypeVar("T")

_MEMORIES: Final[list[dict[type[Any], Any]]] = []


@dataclass(frozen=True, slots=True)
class Trigger:
    """The statement that makes a trigger, and the one that drops it."""

    made_by: str
    dropped_by: str


@dataclass(frozen=True, slots=True, eq=False)
class Schema:
    """Random classes.

    ``views`` are mapped to views, for reading only; ``after`` are statements that follow the tables, and are followed by the
    triggers. ``pairs``: classes of which one changes with the other.
    """

    dialect: str
    metadata: MetaData
    registry: registry
    models: tuple[type[Any], ...]
    links: tuple[Table, ...] = ()
    views: tuple[type[Any], ...] = ()
    after: tuple[str, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    pairs: tuple[tuple[type[Any], type[Any]], ...] = ()

    @property
    def tables(self) -> list[Table]:
        """The tables, parents before children."""
        return self.metadata.sorted_tables

    def described(self, engine: Any) -> str:
        """Return the schema as a reader wants to see it."""
        lines = []
        for table in self.tables:
            lines.append(str(CreateTable(table).compile(engine)).strip())
            lines.extend(str(CreateIndex(index).compile(engine)) for index in sorted(table.indexes, key=str))
        lines.extend(self.after)
        lines.extend(trigger.made_by for trigger in self.triggers)
        lines.extend(_mapped_lines(model) for model in (*self.models, *self.views))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Attribute:
    """A mapped column."""

    name: str
    column: Column[Any]
    kind: Kind

    @property
    def is_settable(self) -> bool:
        """Tell whether an application sets it when a row is there."""
        return not (self.column.primary_key or ROLE in self.column.info or self.column.computed is not None)


@dataclass(frozen=True, slots=True)
class Relation:
    """A relationship. ``link``: its association table."""

    name: str
    target: type[Any]
    many: bool
    writes: bool
    link: Table | None


def _remembered(function: Callable[[type[Any]], T]) -> Callable[[type[Any]], T]:
    """Have a function look at each class once."""
    memory: dict[type[Any], T] = {}
    _MEMORIES.append(memory)

    @wraps(function)
    def remembering(model: type[Any]) -> T:
        if model not in memory:
            memory[model] = function(model)
        return memory[model]

    return remembering


@_remembered
def attributes_of(model: type[Any]) -> tuple[Attribute, ...]:
    """Return the columns that a class maps, those of its bases included."""
    found = [(attribute.key, attribute.columns[0]) for attribute in mapper_of(model).column_attrs]
    return tuple(
        Attribute(name, column, kind_of(column))
        for name, column in found
        if isinstance(column, Column) and "kind" in column.info
    )


@_remembered
def expressions_of(model: type[Any]) -> tuple[str, ...]:
    """Return the names of attributes that are mapped to an expression."""
    columns = {attribute.name for attribute in attributes_of(model)}
    return tuple(attribute.key for attribute in mapper_of(model).column_attrs if attribute.key not in columns)


@_remembered
def relations_of(model: type[Any]) -> tuple[Relation, ...]:
    """Return the relationships of a class."""
    return tuple(
        Relation(
            one.key,
            one.mapper.class_,
            bool(one.uselist),
            not one.viewonly,
            one.secondary if isinstance(one.secondary, Table) else None,
        )
        for one in mapper_of(model).relationships
    )


@_remembered
def key_of(model: type[Any]) -> tuple[Attribute, ...]:
    """Return the attributes of the primary key."""
    mapper = mapper_of(model)
    by_name = {attribute.name: attribute for attribute in attributes_of(model)}
    return tuple(by_name[mapper.get_property_by_column(column).key] for column in mapper.primary_key)


def forget() -> None:
    """Look at classes anew: those that are still being made change."""
    for memory in _MEMORIES:
        memory.clear()


def mapper_of(model: type[Any]) -> Mapper[Any]:
    """Return the mapper of a class."""
    mapper: Mapper[Any] = inspect(model, raiseerr=True)
    return mapper


def table_of(model: type[Any]) -> Table:
    """Return the table that a class adds to those of its base."""
    table: Table = mapper_of(model).local_table  # type: ignore[assignment]
    return table


def subclasses_of(model: type[Any]) -> list[type[Any]]:
    """Return the mapped classes below one whose rows it loads."""
    return [mapper.class_ for mapper in mapper_of(model).self_and_descendants if mapper.class_ is not model]


def keys_in(entity: Any, model: type[Any]) -> list[Any]:
    """Return the columns by which the rows of a class or an alias of it have one order."""
    return [getattr(entity, attribute.name) for attribute in key_of(model)]


def random_value(dice: Dice, column: Column[Any], *, null: bool = True) -> Any:
    """Return a value that a column may have; ``null``: or NULL, where the column may."""
    kind = kind_of(column)
    if null and column.nullable and dice.happens(0.25):
        return None
    if (column.primary_key or column.foreign_keys) and kind.keys and dice.happens(0.8):
        return dice.one_of(kind.keys[:3])  # those that the first rows have
    return dice.one_of(kind.keys if column.primary_key or column.foreign_keys else kind.values)


def random_row(dice: Dice, columns: Sequence[Column[Any]], *, omit: float = 0.0) -> dict[str, Any]:
    """Return values for columns by their keys; what may be left to a default is left out as often as ``omit`` says."""
    row = {}
    for column in columns:
        if column.computed is not None:
            continue
        if column.info.get(ROLE) == "class":
            row[column.key] = dice.one_of([column.info["own"], *column.info["single"]])
        elif not ((column.nullable or column.server_default is not None) and dice.happens(omit)):
            row[column.key] = random_value(dice, column)
    return row


def _mapped_lines(model: type[Any]) -> str:
    mapper = mapper_of(model)
    names = [
        f"{one.name} -> {one.column.table.name}.{one.column.name} ({one.kind.name})" for one in attributes_of(model)
    ]
    names.extend(f"{name} = {getattr(model, name).expression}" for name in expressions_of(model))
    names.extend(
        f"{one.key} -> {one.mapper.class_.__name__}: lazy={one.lazy}, {one.cascade!r}, "
        f"passive_deletes={one.passive_deletes}{', viewonly' if one.viewonly else ''}"
        for one in mapper.relationships
    )
    how = "concrete" if mapper.concrete else "single" if mapper.single else "joined"
    base = "" if mapper.inherits is None else f"({mapper.inherits.class_.__name__}, {how})"
    return "\n    ".join([f"class {model.__name__}{base}", *names])
