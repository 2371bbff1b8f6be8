"""How do foreign keys, relationships and association tables join the classes of a schema?"""

from __future__ import annotations

from typing import Any, Final

from oracle_columns import add_column
from oracle_draft import Draft, Reference, Shop, are_related
from oracle_schema import attributes_of, key_of, mapper_of, table_of
from oracle_values import INT, kind_of
from sqlalchemy import Column, ForeignKeyConstraint, Table, and_
from sqlalchemy.orm import backref, relationship

_LAZY: Final = (("select", 8), ("selectin", 1), ("joined", 1), ("subquery", 1), ("immediate", 1), ("raise", 1))
_AFTERWARDS: Final = frozenset({"selectin", "subquery", "immediate"})


def _lazy(shop: Shop, target: type[Any]) -> Any:
    """Choose how a relationship is loaded.

    Not after the query where it leads to a subclass: SQLAlchemy does not see that such a load comes round to the base that
    it set out from, and goes on for ever.
    """
    drawn = shop.dice.weighted(_LAZY)
    return "select" if drawn in _AFTERWARDS and mapper_of(target).inherits is not None else drawn


def refer(shop: Shop, draft: Draft, parent: type[Any] | None, way: str, *, key: bool = False) -> None:
    """Give a class a foreign key; ``parent=None``: to itself. ``key``: as part of its primary key."""
    if parent is None:
        keys = [(name, c, kind_of(c)) for name, c in draft.attributes.items() if c.primary_key]
    else:
        keys = [(one.name, one.column, one.kind) for one in key_of(parent)]
    nullable = not key and (parent is None or shop.dice.happens(0.7))
    actions = [None, "CASCADE", "CASCADE"] + (["SET NULL"] if nullable else [])
    ondelete = shop.dice.one_of(actions)
    onupdate = shop.dice.one_of([None, "CASCADE"]) if parent is not None else None
    columns: dict[str, Column[Any]] = {}
    for name, _, kind in keys:
        attribute = f"{way}_{name}"
        columns[attribute] = add_column(
            shop,
            draft,
            attribute,
            kind,
            primary_key=key,
            nullable=nullable,
            **({"autoincrement": False} if key else {"index": shop.dice.happens(0.3)}),
        )
    targets = [f"{draft.table_name}.{column.name}" if parent is None else column for _, column, _ in keys]
    draft.args.append(
        ForeignKeyConstraint([c.name for c in columns.values()], targets, ondelete=ondelete, onupdate=onupdate)
    )
    shop.references.append(Reference(draft.name, parent, columns, ondelete, onupdate, key, way))


def relate(shop: Shop, reference: Reference) -> None:
    """Map a foreign key from both sides."""
    child = shop.named(reference.child)
    is_own = reference.parent is None
    parent: Any = child if is_own else reference.parent
    shop.pairs.append((child, parent))
    one = shop.free_name(child, reference.way)
    many = shop.free_name(parent, "children" if is_own else f"{reference.child.lower()}s")
    foreign = list(reference.columns.values())
    cascade = shop.dice.one_of(
        ["all", "all, delete-orphan"] if reference.owned else ["save-update, merge", "all", "all, delete-orphan"]
    )
    if is_own and "orphan" in cascade:
        cascade = "all"
    # Both sides at once: a mapper that is configured looks for the other side right away.
    there = backref(
        many,
        cascade=cascade,
        passive_deletes=bool(reference.ondelete) and shop.dice.happens(0.6),
        passive_updates=reference.onupdate is not None,
        lazy=_lazy(shop, child),
        order_by=[attribute.column for attribute in key_of(child)] if shop.dice.happens(0.7) else False,
        foreign_keys=foreign,
    )
    setattr(
        child,
        one,
        relationship(
            parent,
            backref=there,
            lazy=_lazy(shop, parent),
            remote_side=[attribute.column for attribute in key_of(parent)] if is_own else None,
            foreign_keys=foreign,
        ),
    )
    others = [
        a for a in attributes_of(child) if a.kind is INT and not a.column.foreign_keys and not a.column.primary_key
    ]
    if others and shop.has("viewonly", 0.2):
        pairs = [column == key.column for column, key in zip(foreign, key_of(parent), strict=True)]
        condition = and_(*pairs, others[0].column == 1)
        setattr(
            parent,
            f"some_{many}",
            relationship(child, primaryjoin=condition, foreign_keys=foreign, viewonly=True, remote_side=foreign),
        )


def associate(shop: Shop) -> None:
    """Join two classes by an association table."""
    first, second = (shop.dice.one_of(shop.models) for _ in range(2))
    name = f"{first.__name__}_{second.__name__}".lower()
    if table_of(first) is table_of(second) or name in shop.registry.metadata.tables or are_related(first, second):
        return
    columns: list[Any] = []
    constraints: list[Any] = []
    for model in (first, second):
        mine = [
            Column(
                f"{model.__name__.lower()}_{key.name}", key.column.type, primary_key=True, autoincrement=False,
                info={"kind": key.kind},
            )
            for key in key_of(model)
        ]  # fmt: skip
        action = shop.dice.one_of(["CASCADE", "CASCADE", None])
        names, targets = [column.name for column in mine], [key.column for key in key_of(model)]
        constraints.append(ForeignKeyConstraint(names, targets, ondelete=action, onupdate=action))
        columns.extend(mine)
    table = Table(name, shop.registry.metadata, *columns, *constraints)
    shop.links.append(table)
    shop.pairs.append((first, second))
    there = shop.free_name(first, f"linked_{second.__name__.lower()}s")
    back = shop.free_name(second, f"linked_{first.__name__.lower()}s")
    passive = all(constraint.ondelete for constraint in constraints) and shop.dice.happens(0.5)
    options: list[dict[str, Any]] = [
        {
            "lazy": _lazy(shop, target),
            "order_by": [key.column for key in key_of(target)] if shop.dice.happens(0.7) else False,
            "passive_deletes": passive,
        }
        for target in (second, first)
    ]
    setattr(first, there, relationship(second, secondary=table, backref=backref(back, **options[1]), **options[0]))
