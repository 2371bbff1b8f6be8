"""What may a kind of question or write draw from?

A stage is the schema, dice, and the classes that this example is mostly about: few, so that reads and writes meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oracle_dice import Dice
from oracle_schema import Attribute, Relation, Schema, attributes_of, relations_of
from sqlalchemy import Table


@dataclass(frozen=True, slots=True)
class Stage:
    """One draw."""

    schema: Schema
    dice: Dice
    focus: Sequence[type[Any]]

    @property
    def dialect(self) -> str:
        """The name of the dialect, "mysql" for MariaDB too."""
        return "mysql" if self.schema.dialect == "mariadb" else self.schema.dialect

    def model(self, accepts: Callable[[type[Any]], bool] = lambda model: True) -> type[Any] | None:
        """Return one of the classes, most often one of those in focus; None where none is accepted."""
        near = [model for model in self.focus if accepts(model)]
        everywhere = [model for model in self.schema.models if accepts(model)]
        if near and self.dice.happens(0.85):
            return self.dice.one_of(near)
        return self.dice.one_of(everywhere) if everywhere else None

    def any_model(self) -> type[Any]:
        """Return one of the classes."""
        found = self.model()
        assert found is not None, "a schema has classes"
        return found

    def table(self) -> Table:
        """Return one of the tables, most often one of the classes in focus; association tables too."""
        if self.schema.links and self.dice.happens(0.15):
            return self.dice.one_of(self.schema.links)
        model = self.any_model()
        tables = [table for table in model.__mapper__.tables if isinstance(table, Table)]
        return self.dice.one_of(tables)

    def attribute(self, model: type[Any], accepts: Callable[[Attribute], bool] = lambda one: True) -> Attribute | None:
        """Return a mapped column of a class."""
        found = [attribute for attribute in attributes_of(model) if accepts(attribute)]
        return self.dice.one_of(found) if found else None

    def relation(self, model: type[Any], accepts: Callable[[Relation], bool] = lambda one: True) -> Relation | None:
        """Return a relationship of a class."""
        found = [relation for relation in relations_of(model) if accepts(relation)]
        return self.dice.one_of(found) if found else None
