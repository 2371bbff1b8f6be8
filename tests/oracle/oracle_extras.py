"""What do the mapping and the database add to the tables: expressions, counts, a trigger, a view."""

from __future__ import annotations

from typing import Any

from oracle_draft import Shop
from oracle_schema import Trigger, attributes_of, key_of, mapper_of, table_of
from oracle_values import INT, kind_of
from sqlalchemy import Column, MetaData, Table, func, select
from sqlalchemy.orm import column_property


def add_expressions(shop: Shop) -> None:
    """Map expressions, and counts of rows of other classes."""
    for model in shop.models:
        numbers = [one for one in attributes_of(model) if one.kind is INT and one.is_settable]
        if numbers and shop.dice.happens(0.15):
            expression = column_property(numbers[0].column + 1, deferred=shop.dice.happens(0.3))
            model.more = expression
    for reference in shop.references:
        if reference.parent is None or not shop.has("column_property", 0.2):
            continue
        parent = reference.parent
        child = shop.named(reference.child)
        if table_of(child) is table_of(parent) or f"{reference.child.lower()}_count" in mapper_of(parent).attrs:
            continue
        pairs = [c == key.column for c, key in zip(reference.columns.values(), key_of(parent), strict=True)]
        table = table_of(child)
        counted = select(func.count()).select_from(table).where(*pairs).correlate_except(table).scalar_subquery()
        setattr(parent, f"{reference.child.lower()}_count", column_property(counted, deferred=shop.dice.happens(0.2)))


def add_trigger(shop: Shop) -> None:
    """Let a change of one table change another, by the database alone."""
    pairs = [
        (first, second, attribute.column)
        for first in shop.models
        for second in shop.models
        if table_of(first) is not table_of(second)
        for attribute in attributes_of(second)
        if attribute.kind is INT and attribute.is_settable and not attribute.column.foreign_keys
        and attribute.column.table is table_of(second) and not attribute.column.unique
    ]  # fmt: skip
    if not pairs or not shop.has("trigger", 0.08):
        return
    first, second, counted = shop.dice.one_of(pairs)
    shop.pairs.extend([(first, second)] * 3)
    watched = table_of(first)
    target, column, table = (shop.quoted(name) for name in (counted.table.name, counted.name, watched.name))
    body = f"UPDATE {target} SET {column} = 2 WHERE {column} = 1"
    when = shop.dice.one_of(["INSERT", "UPDATE", "DELETE"])
    if shop.dialect == "postgresql":
        shop.after.append(
            f"CREATE FUNCTION oracle_fire() RETURNS trigger AS $$ BEGIN {body}; RETURN NULL; END $$ LANGUAGE plpgsql"
        )
    runs = {"postgresql": "FOR EACH ROW EXECUTE FUNCTION oracle_fire()", "sqlite": f"BEGIN {body}; END"}
    run = runs.get(shop.dialect, f"FOR EACH ROW {body}")
    on = f" ON {table}" if shop.dialect == "postgresql" else ""
    shop.triggers.append(
        Trigger(f"CREATE TRIGGER oracle_fires AFTER {when} ON {table} {run}", f"DROP TRIGGER oracle_fires{on}")
    )


def make_views(shop: Shop) -> list[type[Any]]:
    """Map a class to a view of some rows of a table."""
    if not shop.has("view", 0.2):
        return []
    model = shop.dice.one_of(shop.roots())
    table = table_of(model)
    numbers = [a.column for a in attributes_of(model) if a.kind is INT]
    attributes = {attribute.column.name: attribute.name for attribute in attributes_of(model)}
    columns = [column for column in table.columns if column.name in attributes]
    listed = ", ".join(shop.quoted(column.name) for column in columns)
    where = f" WHERE {shop.quoted(numbers[0].name)} >= 1" if numbers else ""
    shop.after.append(f"CREATE VIEW oracle_view AS SELECT {listed} FROM {shop.quoted(table.name)}{where}")
    copies = [Column(c.name, c.type, primary_key=c.primary_key, info={"kind": kind_of(c)}) for c in columns]
    view = Table("oracle_view", MetaData(), *copies, info={"of": table})
    body = {attributes[column.name]: column for column in view.columns}
    return [type("Viewed", (shop.registry.generate_base(),), {"__table__": view, **body, "__module__": __name__})]
