"""What may a kind of question or write draw from?

A stage is the schema, dice, and what this example is mostly about: few classes, and of these few columns, few values and
few rows, so that reads and writes meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from oracle_dice import Dice
from oracle_schema import Attribute, Relation, Schema, attributes_of, key_of, random_row, random_value, relations_of
from oracle_values import kind_of
from sqlalchemy import Column, Table


@dataclass(frozen=True, slots=True)
class Stage:
    """One draw. ``taste``: the seed of an example's favourites."""

    schema: Schema
    dice: Dice
    focus: Sequence[type[Any]]
    taste: int

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
        liked = [attribute for attribute in found if self._likes(attribute.column)]
        return self.dice.one_of(liked if liked and self.dice.happens(0.5) else found) if found else None

    def value(self, column: Column[Any], *, null: bool = True) -> Any:
        """Return a value that a column may have, NULL too where it may and ``null`` says so; most often a favourite."""
        if self.dice.happens(0.4) and not column.foreign_keys:
            return random_value(Dice(self.taste, column.table.name, column.name), column, null=False)
        return random_value(self.dice, column, null=null)

    def compared(self, column: Column[Any], *, null: bool = True) -> Any:
        """Return a value to compare a column with.

        MariaDB rounds a number to the column's scale where it looks it up in an index, and not where it compares row by row:
        what it answers is then a matter of its plan.
        """
        value = self.value(column, null=null)
        scale = getattr(column.type, "scale", None)
        is_rounded = self.dialect == "mysql" and isinstance(value, Decimal) and scale is not None
        return round(value, scale) if is_rounded else value

    def key(self, model: type[Any]) -> tuple[Any, ...]:
        """Return a primary key that a row may have."""
        return tuple(self.value(attribute.column, null=False) for attribute in key_of(model))

    def row(self, columns: Sequence[Column[Any]], *, omit: float = 0.0) -> dict[str, Any]:
        """Return values of a new row."""
        row = random_row(self.dice, columns, omit=omit)
        return {
            column.key: self.new_value(column) if column.primary_key else row[column.key]
            for column in columns
            if column.key in row
        }

    def new_value(self, column: Column[Any]) -> Any:
        """Return a value of a new row: a key that the first rows do not have, most often."""
        if column.primary_key and not column.foreign_keys and self.dice.happens(0.8):
            return self.dice.one_of(kind_of(column).keys[3:] or kind_of(column).keys)
        return random_value(self.dice, column) if column.primary_key or column.unique else self.value(column)

    def some_columns(self, columns: Sequence[Column[Any]], low: int, high: int) -> list[Column[Any]]:
        """Return some of several columns, most often a favourite."""
        liked = [column for column in columns if self._likes(column)]
        if liked and high == 1 and self.dice.happens(0.5):
            return [self.dice.one_of(liked)]
        return self.dice.some_of(columns, low, high)

    def _likes(self, column: Column[Any]) -> bool:
        return Dice(self.taste, column.table.name, column.name, "liked").happens(0.3)

    def relation(self, model: type[Any], accepts: Callable[[Relation], bool] = lambda one: True) -> Relation | None:
        """Return a relationship of a class."""
        found = [relation for relation in relations_of(model) if accepts(relation)]
        return self.dice.one_of(found) if found else None
