"""How is a random schema made?

Three to six classes over tables with single and composite keys of several types, foreign keys with and without actions of
the database, self-references, inheritance, association tables and objects, columns of every kind under names that need
quoting. What is drawn follows from a seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Final

from oracle_columns import add_column, add_columns, add_key, column_name, indexes_of, table_name_of
from oracle_dice import Dice
from oracle_draft import NO_WISHES, Draft, Shop, Wishes
from oracle_extras import add_expressions, add_trigger, make_views
from oracle_links import associate, refer, relate
from oracle_schema import ROLE, Schema, attributes_of, forget, key_of, mapper_of, table_of
from oracle_values import INT, NUMBER, Kind, kind_of
from sqlalchemy import Column, ForeignKeyConstraint, String

_CLASSES: Final = ("Region", "Item", "Part", "Label", "Owner", "Note")


def design(dice: Dice, dialect: str, wishes: Wishes = NO_WISHES) -> Schema:
    """Return a random schema for a dialect."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _made_in(Shop(dice, dialect, wishes))
    finally:
        # What was seen of classes before they were whole.
        forget()


def _made_in(shop: Shop) -> Schema:
    wanted = shop.dice.number(3, 6)
    roots = shop.dice.number(2, min(4, wanted))
    for name in _CLASSES[:roots]:
        _root(shop, name)
    for name in _CLASSES[roots:wanted]:
        _further(shop, name)
    for reference in shop.references:
        relate(shop, reference)
    for _ in range(shop.dice.number(0, 2)):
        associate(shop)
    shop.registry.configure()
    add_expressions(shop)
    shop.registry.configure()
    add_trigger(shop)
    views = make_views(shop)
    return Schema(
        shop.dialect,
        shop.registry.metadata,
        shop.registry,
        tuple(shop.models),
        tuple(shop.links),
        tuple(views),
        tuple(shop.after),
        tuple(shop.triggers),
        tuple(shop.pairs),
    )


def _root(shop: Shop, name: str) -> None:
    draft = Draft(name, table_name_of(shop, name))
    owner = shop.dice.one_of(shop.models) if shop.models and shop.dice.happens(0.25) else None
    if owner is None:
        add_key(shop, draft)
    else:
        _add_owned_key(shop, draft, owner)
    add_columns(shop, draft, shop.dice.number(2, 4))
    for parent in shop.dice.some_of(shop.models, 0 if owner else 1, 2):
        refer(shop, draft, parent, f"{parent.__name__.lower()}{'_too' if parent is owner else ''}")
    if owner is None and shop.has("self-reference", 0.4):
        refer(shop, draft, None, "parent")
    if shop.has("version", 0.1):
        version = add_column(shop, draft, "version", INT, nullable=False, info={ROLE: "version"})
        draft.mapper_args["version_id_col"] = version
    _make(shop, draft)


def _add_owned_key(shop: Shop, draft: Draft, owner: type[Any]) -> None:
    refer(shop, draft, owner, owner.__name__.lower(), key=True)
    add_column(shop, draft, "number", NUMBER, primary_key=True, autoincrement=False)


def _further(shop: Shop, name: str) -> None:
    """Add a subclass of a class that has none of another make, or one more root."""
    roots = shop.roots()
    ready = [model for model in roots if mapper_of(model).polymorphic_on is not None]
    how = shop.dice.weighted([("joined", 4), ("single", 3), ("concrete", 2), ("root", 2), ("association object", 2)])
    if how == "concrete":
        _concrete(shop, name, shop.dice.one_of(roots))
    elif how in ("joined", "single") and ready:
        _subclass(shop, name, shop.dice.one_of(ready), joined=how == "joined")
    elif how == "association object":
        _association_object(shop, name)
    else:
        _root(shop, name)


def _subclass(shop: Shop, name: str, base: type[Any], *, joined: bool) -> None:
    identity = name.lower()
    _add_identity(base, identity, single=not joined)
    draft = Draft(name, table_name_of(shop, name) if joined else "")
    draft.mapper_args = {"polymorphic_identity": identity}
    if shop.dice.happens(0.3):
        draft.mapper_args["polymorphic_load"] = shop.dice.one_of(["inline", "selectin"])
    if joined:
        columns = []
        for attribute in key_of(base):
            draft.attributes[attribute.name] = Column(
                attribute.column.name, attribute.column.type, primary_key=True, info=dict(attribute.column.info)
            )
            columns.append(draft.attributes[attribute.name])
        action = shop.dice.one_of(["CASCADE", "CASCADE", None])
        parents = [attribute.column for attribute in key_of(base)]
        draft.args.append(ForeignKeyConstraint([c.name for c in columns], parents, ondelete=action, onupdate=action))
    else:
        draft.taken = frozenset(column.name.lower() for column in table_of(base).columns)
    add_columns(shop, draft, shop.dice.number(1, 2), prefix=f"{identity}_", inherited=not joined)
    _make(shop, draft, base)
    shop.pairs.append((shop.models[-1], base))


def _concrete(shop: Shop, name: str, base: type[Any]) -> None:
    """Add a class with a table of its own in which it has all columns of its base."""
    draft = Draft(name, table_name_of(shop, name), mapper_args={"concrete": True, "polymorphic_identity": name.lower()})
    for attribute in attributes_of(base):
        column = attribute.column
        if column.info.get(ROLE) == "class":
            continue
        draft.attributes[attribute.name] = Column(
            column.name,
            column.type,
            primary_key=column.primary_key,
            autoincrement=column.autoincrement if column.primary_key else "auto",
            nullable=column.nullable,
            info={name: value for name, value in column.info.items() if name != ROLE},
        )
    add_columns(shop, draft, 1, prefix=f"{name.lower()}_")
    _make(shop, draft, base)


def _association_object(shop: Shop, name: str) -> None:
    parents = shop.dice.some_of([model for model in shop.models if len(key_of(model)) == 1], 2, 2)
    if len(parents) < 2:
        _root(shop, name)
        return
    draft = Draft(name, table_name_of(shop, name))
    for parent in parents:
        refer(shop, draft, parent, parent.__name__.lower(), key=True)
    add_columns(shop, draft, 1)
    _make(shop, draft)


def _make(shop: Shop, draft: Draft, base: type[Any] | None = None) -> None:
    body: dict[str, Any] = {**draft.attributes, "__module__": __name__}
    if draft.table_name:
        body["__tablename__"] = draft.table_name
        body["__table_args__"] = (*draft.args, *indexes_of(shop, draft))
    if base is None and shop.dice.happens(0.6):
        kind = Column(column_name(shop, draft, "kind"), String(10), default=draft.name.lower(), nullable=False)
        kind.info.update({ROLE: "class", "own": draft.name.lower(), "single": []})
        kind.info["kind"] = Kind("class", lambda dialect: String(10), (draft.name.lower(), "other"))
        body["kind"] = kind
        draft.mapper_args |= {"polymorphic_on": "kind", "polymorphic_identity": draft.name.lower()}
    if draft.mapper_args:
        body["__mapper_args__"] = draft.mapper_args
    shop.models.append(type(draft.name, (base or shop.base,), body))
    forget()


def _add_identity(base: type[Any], identity: str, *, single: bool) -> None:
    """Let a base class's discriminator know one more class."""
    column = next(a.column for a in attributes_of(base) if a.column.info.get(ROLE) == "class")
    if single:
        column.info["single"].append(identity)
    known: Sequence[str] = (*kind_of(column).values[:-1], identity, "other")
    column.info["kind"] = Kind("class", kind_of(column).type_on, tuple(known))
    forget()
