"""What is there of a random schema while it is being made?

A shop has the dice, and what was made so far; a draft is a class before it is made. A part that a schema has by chance may
be wished for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from oracle_dice import Dice
from oracle_schema import Trigger, mapper_of
from oracle_values import Kind
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.orm import registry


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a schema should have more often than by chance: the kinds of its columns, and parts by their names."""

    kinds: tuple[Kind, ...] = ()
    parts: frozenset[str] = frozenset()


NO_WISHES: Final = Wishes()


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key of a class, for the relationships over it.

    ``parent``: None for the class itself. ``columns`` are those of the child, by attribute. ``owned``: they are of its
    primary key. ``way``: what the relationship is called.
    """

    child: str
    parent: type[Any] | None
    columns: dict[str, Column[Any]]
    ondelete: str | None
    onupdate: str | None
    owned: bool
    way: str


@dataclass(slots=True)
class Draft:
    """A class before it is made. ``taken``: names that its columns must not have."""

    name: str
    table_name: str
    attributes: dict[str, Column[Any]] = field(default_factory=dict)
    args: list[Any] = field(default_factory=list)
    mapper_args: dict[str, Any] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()

    def names(self) -> set[str]:
        """Return the names of columns that are there, in lower case."""
        return {*self.taken, *(column.name.lower() for column in self.columns())}

    def columns(self) -> list[Column[Any]]:
        """Return the columns so far."""
        return list(self.attributes.values())


@dataclass(slots=True)
class Shop:
    """Where a schema is made. ``after``, ``triggers``, ``pairs`` as in ``Schema``."""

    dice: Dice
    dialect: str
    wishes: Wishes
    registry: registry = field(default_factory=lambda: registry(metadata=MetaData()))
    models: list[type[Any]] = field(default_factory=list)
    links: list[Table] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)
    pairs: list[tuple[type[Any], type[Any]]] = field(default_factory=list)
    base: Any = field(init=False)

    def __post_init__(self) -> None:
        self.base = self.registry.generate_base()

    def has(self, part: str, chance: float) -> bool:
        """Tell whether a part is wished for, or there by chance."""
        return part in self.wishes.parts or self.dice.happens(chance)

    def roots(self) -> list[type[Any]]:
        """Return the classes that inherit from none."""
        return [model for model in self.models if mapper_of(model).inherits is None]

    def named(self, name: str) -> Any:
        """Return the class of a name."""
        return next(model for model in self.models if model.__name__ == name)

    def free_name(self, model: type[Any], name: str) -> str:
        """Return a name that no class above or below a class has."""
        while any(hasattr(other, name) for other in self.models if are_related(model, other)):
            name += "_too"
        return name

    def quoted(self, name: str) -> str:
        """Return a name as the database's SQL has it."""
        return f"`{name}`" if self.dialect in ("mysql", "mariadb") else f'"{name}"'


def are_related(first: type[Any], second: type[Any]) -> bool:
    """Tell whether one is the other, or a base of it."""
    return issubclass(first, second) or issubclass(second, first)
