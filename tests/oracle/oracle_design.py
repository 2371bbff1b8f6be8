"""How is a random schema made?

Three to six classes over tables with single and composite keys of several types, foreign keys with and without actions of
the database, self-references, inheritance, association tables and objects, columns of every kind under names that need
quoting. What is drawn follows from a seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from oracle_dice import Dice
from oracle_schema import ROLE, Schema, attributes_of, forget, key_of, mapper_of, table_of
from oracle_values import BOOL, INT, KINDS, NOCASE, NUMBER, TEXT, UUID, Kind, kind_of
from sqlalchemy import (
    Column,
    Computed,
    ForeignKeyConstraint,
    Index,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    and_,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.orm import backref, column_property, registry, relationship

_CLASSES: Final = ("Region", "Item", "Part", "Label", "Owner", "Note")
_TABLES: Final = ("{}", "{}", "{}", "{}s", "The {}", "{} (all)")
_COLUMNS: Final = ("{}", "{}", "{}", "{}", "{}_of", "The {}", "{} (x)")
_WORDS: Final = ("order", "select", "group", "user", "rank")
_NUMBERS: Final = ("size", "amount", "weight")
_OTHERS: Final = ("code", "state", "extra", "remark")
_LAZY: Final = (("select", 8), ("selectin", 1), ("joined", 1), ("subquery", 1), ("immediate", 1), ("raise", 1))


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a schema should have more often than by chance: the kinds of its columns, and parts by their names."""

    kinds: tuple[Kind, ...] = ()
    parts: frozenset[str] = frozenset()


NO_WISHES: Final = Wishes()


@dataclass(slots=True)
class _Reference:
    """A foreign key of a class, for the relationships over it. ``columns`` are those of the child, by attribute."""

    child: str
    parent: type[Any]
    columns: dict[str, Column[Any]]
    ondelete: str | None
    onupdate: str | None
    owned: bool
    way: str


@dataclass(slots=True)
class _Draft:
    """A class before it is made."""

    name: str
    table_name: str
    attributes: dict[str, Any] = field(default_factory=dict)
    args: list[Any] = field(default_factory=list)
    mapper_args: dict[str, Any] = field(default_factory=dict)
    taken: frozenset[str] = frozenset()

    def names(self) -> set[str]:
        return {*self.taken, *(column.name.lower() for column in self.columns())}

    def columns(self) -> list[Column[Any]]:
        return [value for value in self.attributes.values() if isinstance(value, Column)]


def design(dice: Dice, dialect: str, wishes: Wishes = NO_WISHES) -> Schema:
    """Return a random schema for a dialect."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Designer(dice, dialect, wishes).schema()
    finally:
        # What was seen of classes before they were whole.
        forget()


class _Designer:
    def __init__(self, dice: Dice, dialect: str, wishes: Wishes) -> None:
        self.dice = dice
        self.dialect = dialect
        self.wishes = wishes
        self.registry = registry(metadata=MetaData())
        self.base: Any = self.registry.generate_base()
        self.models: list[type[Any]] = []
        self.links: list[Table] = []
        self.references: list[_Reference] = []
        self.after: list[str] = []
        self.pairs: list[tuple[type[Any], type[Any]]] = []
        self.table_names: set[str] = set()

    def schema(self) -> Schema:
        wanted = self.dice.number(3, 6)
        roots = self.dice.number(2, min(4, wanted))
        for name in _CLASSES[:roots]:
            self._root(name)
        for name in _CLASSES[roots:wanted]:
            self._further(name)
        for reference in self.references:
            self._relate(reference)
        for _ in range(self.dice.number(0, 2)):
            self._associate()
        self.registry.configure()
        self._add_expressions()
        self.registry.configure()
        self._add_trigger()
        views = self._views()
        return Schema(
            self.dialect,
            self.registry.metadata,
            self.registry,
            tuple(self.models),
            tuple(self.links),
            tuple(views),
            tuple(self.after),
            tuple(self.pairs),
        )

    def _has(self, part: str, chance: float) -> bool:
        return part in self.wishes.parts or self.dice.happens(chance)

    # -- classes -------------------------------------------------------------------------------------------------------

    def _root(self, name: str) -> None:
        draft = _Draft(name, self._table_name(name))
        owner = self.dice.one_of(self.models) if self.models and self.dice.happens(0.25) else None
        if owner is None:
            self._add_key(draft)
        else:
            self._add_owned_key(draft, owner)
        self._add_columns(draft, self.dice.number(2, 4))
        for parent in self.dice.some_of(self.models, 0 if owner else 1, 2):
            self._refer(draft, parent, f"{parent.__name__.lower()}{'_too' if parent is owner else ''}")
        if owner is None and self._has("self-reference", 0.4):
            self._refer(draft, None, "parent")
        if self._has("version", 0.1):
            version = self._column(draft, "version", INT, nullable=False, info={ROLE: "version"})
            draft.mapper_args["version_id_col"] = version
        self._make(draft)

    def _further(self, name: str) -> None:
        """Add a subclass of a class that has none of another make, or one more root."""
        roots = [model for model in self.models if mapper_of(model).inherits is None and not _is_concrete(model)]
        ready = [model for model in roots if mapper_of(model).polymorphic_on is not None]
        how = self.dice.weighted(
            [("joined", 4), ("single", 3), ("concrete", 2), ("root", 2), ("association object", 2)]
        )
        if how == "concrete":
            self._concrete(name, self.dice.one_of(roots))
        elif how in ("joined", "single") and ready:
            self._subclass(name, self.dice.one_of(ready), joined=how == "joined")
        elif how == "association object":
            self._association_object(name)
        else:
            self._root(name)

    def _subclass(self, name: str, base: type[Any], *, joined: bool) -> None:
        identity = name.lower()
        _add_identity(base, identity, single=not joined)
        draft = _Draft(name, self._table_name(name) if joined else "")
        draft.mapper_args = {"polymorphic_identity": identity}
        if self.dice.happens(0.3):
            draft.mapper_args["polymorphic_load"] = self.dice.one_of(["inline", "selectin"])
        if joined:
            columns = []
            for attribute in key_of(base):
                draft.attributes[attribute.name] = Column(
                    attribute.column.name, attribute.column.type, primary_key=True, info=dict(attribute.column.info)
                )
                columns.append(draft.attributes[attribute.name])
            action = self.dice.one_of(["CASCADE", "CASCADE", None])
            parents = [attribute.column for attribute in key_of(base)]
            draft.args.append(
                ForeignKeyConstraint([c.name for c in columns], parents, ondelete=action, onupdate=action)
            )
        else:
            draft.taken = frozenset(column.name.lower() for column in table_of(base).columns)
        self._add_columns(draft, self.dice.number(1, 2), prefix=f"{identity}_", inherited=not joined)
        self._make(draft, base)
        self.pairs.append((self.models[-1], base))

    def _concrete(self, name: str, base: type[Any]) -> None:
        """Add a class with a table of its own in which it has all columns of its base."""
        draft = _Draft(
            name, self._table_name(name), mapper_args={"concrete": True, "polymorphic_identity": name.lower()}
        )
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
        self._add_columns(draft, 1, prefix=f"{name.lower()}_")
        self._make(draft, base)

    def _association_object(self, name: str) -> None:
        parents = self.dice.some_of([model for model in self.models if len(key_of(model)) == 1], 2, 2)
        if len(parents) < 2:
            self._root(name)
            return
        draft = _Draft(name, self._table_name(name))
        for parent in parents:
            self._refer(draft, parent, parent.__name__.lower(), key=True)
        self._add_columns(draft, 1)
        self._make(draft)

    def _make(self, draft: _Draft, base: type[Any] | None = None) -> None:
        body: dict[str, Any] = {**draft.attributes, "__module__": __name__}
        if draft.table_name:
            body["__tablename__"] = draft.table_name
            body["__table_args__"] = (*draft.args, *self._indexes(draft))
        if base is None and self.dice.happens(0.6):
            kind = Column(self._name(draft, "kind"), String(10), default=draft.name.lower(), nullable=False)
            kind.info.update({ROLE: "class", "own": draft.name.lower(), "single": []})
            kind.info["kind"] = Kind("class", lambda dialect: String(10), (draft.name.lower(), "other"))
            body["kind"] = kind
            draft.mapper_args |= {"polymorphic_on": "kind", "polymorphic_identity": draft.name.lower()}
        if draft.mapper_args:
            body["__mapper_args__"] = draft.mapper_args
        self.models.append(type(draft.name, (base or self.base,), body))
        forget()

    # -- columns -------------------------------------------------------------------------------------------------------

    def _table_name(self, name: str) -> str:
        pattern = self.dice.one_of(_TABLES)
        return pattern.format(name if " " in pattern else name.lower())

    def _name(self, draft: _Draft, attribute: str) -> str:
        taken = draft.names()
        if self.dice.happens(0.1):
            word = self.dice.one_of(_WORDS)
            if word not in taken:
                return word
        name = self.dice.one_of(_COLUMNS).format(attribute)
        return name if name.lower() not in taken else f"{name}_{len(taken)}"

    def _column(self, draft: _Draft, attribute: str, kind: Kind, **options: Any) -> Column[Any]:
        info = {"kind": kind, **options.pop("info", {})}
        column: Column[Any] = Column(
            self._name(draft, attribute), kind.type_on(self.dialect), *options.pop("args", ()), info=info, **options
        )
        draft.attributes[attribute] = column
        return column

    def _add_key(self, draft: _Draft) -> None:
        how = self.dice.weighted([("int", 6), ("pair", 2), ("uuid", 1), ("text", 1), ("nocase", 1), ("mixed", 1)])
        if how == "int":
            self._column(draft, "id", INT, primary_key=True)
            return
        first = {"pair": INT, "uuid": UUID, "text": TEXT, "nocase": NOCASE, "mixed": UUID}[how]
        self._column(draft, "id", first, primary_key=True, autoincrement=False)
        if how in ("pair", "mixed"):
            self._column(draft, "number", NUMBER, primary_key=True, autoincrement=False)

    def _add_owned_key(self, draft: _Draft, owner: type[Any]) -> None:
        self._refer(draft, owner, owner.__name__.lower(), key=True)
        self._column(draft, "number", NUMBER, primary_key=True, autoincrement=False)

    def _add_columns(self, draft: _Draft, count: int, *, prefix: str = "", inherited: bool = False) -> None:
        names = [prefix + name for name in (*self.dice.some_of(_NUMBERS, 1, 2), *self.dice.some_of(_OTHERS, 1, 3))]
        names = names[:1] + self.dice.some_of(names[1:], count - 1, count - 1)
        for position, name in enumerate(names):
            wished = self.wishes.kinds and self.dice.happens(0.6)
            kind = self.dice.one_of(self.wishes.kinds) if wished else self.dice.weighted(KINDS)
            if position == 0 and not inherited:
                kind = INT
            self._column(draft, name, kind, **self._column_options(kind, inherited=inherited))
            numbers = [column for column in draft.columns() if kind_of(column) is INT and not column.primary_key]
            if position == 0 and not inherited and numbers and self._has("computed", 0.1):
                quoted = numbers[0].name.replace('"', "")
                self._add_computed(draft, f"{prefix}computed", quoted)

    def _column_options(self, kind: Kind, *, inherited: bool) -> dict[str, Any]:
        options: dict[str, Any] = {"nullable": inherited or self.dice.happens(0.7)}
        if kind.indexes and kind.compares:
            options[self.dice.one_of(["unique", "index", "index", "", "", "", ""])] = True
            options.pop("", None)
        if kind is BOOL or inherited:
            options.pop("unique", None)
        if kind is INT and "unique" not in options:
            often = 20 if "onupdate" in self.wishes.parts else 1
            more = self.dice.weighted(
                [("", 8), ("server_default", 1), ("default", 1), ("onupdate", 1), ("sql onupdate", often)]
            )
            if more == "server_default":
                options["server_default"] = text("1")
            elif more == "default":
                options["default"] = 2
            elif more == "onupdate":
                options["onupdate"] = 2
            elif more == "sql onupdate":
                options["onupdate"] = literal_column("2")
        return options

    def _add_computed(self, draft: _Draft, name: str, of: str) -> None:
        quote = "`" if self.dialect in ("mysql", "mariadb") else '"'
        expression = f"{quote}{of}{quote} + 1"
        persisted = True if self.dialect == "postgresql" else self.dice.one_of([True, False])
        self._column(draft, name, INT, args=(Computed(expression, persisted=persisted),))

    def _indexes(self, draft: _Draft) -> list[Any]:
        usable = [
            column
            for column in draft.columns()
            if kind_of(column).indexes
            and kind_of(column).compares
            and column.computed is None
            and not column.primary_key
        ]
        made: list[Any] = []
        if len(usable) > 1 and self.dice.happens(0.2):
            names = [column.name for column in self.dice.some_of(usable, 2, 2)]
            made.append(
                UniqueConstraint(*names) if self.dice.happens(0.5) else Index(f"ix_{draft.name.lower()}_two", *names)
            )
        return made

    # -- foreign keys and relationships --------------------------------------------------------------------------------

    def _refer(self, draft: _Draft, parent: type[Any] | None, way: str, *, key: bool = False) -> None:
        """Give a class a foreign key; ``parent=None``: to itself. ``key``: as part of its primary key."""
        if parent is None:
            keys = [(name, c, kind_of(c)) for name, c in draft.attributes.items() if c.primary_key]
        else:
            keys = [(one.name, one.column, one.kind) for one in key_of(parent)]
        nullable = not key and (parent is None or self.dice.happens(0.7))
        actions = [None, "CASCADE", "CASCADE"] + (["SET NULL"] if nullable else [])
        ondelete = self.dice.one_of(actions)
        onupdate = self.dice.one_of([None, "CASCADE"]) if parent is not None else None
        columns: dict[str, Column[Any]] = {}
        for name, _, kind in keys:
            attribute = f"{way}_{name}"
            columns[attribute] = self._column(
                draft,
                attribute,
                kind,
                primary_key=key,
                nullable=nullable,
                **({"autoincrement": False} if key else {"index": self.dice.happens(0.3)}),
            )
        targets = [f"{draft.table_name}.{column.name}" if parent is None else column for _, column, _ in keys]
        draft.args.append(
            ForeignKeyConstraint([c.name for c in columns.values()], targets, ondelete=ondelete, onupdate=onupdate)
        )
        self.references.append(_Reference(draft.name, parent or object, columns, ondelete, onupdate, key, way))

    def _relate(self, reference: _Reference) -> None:
        """Map a foreign key from both sides."""
        child: Any = next(model for model in self.models if model.__name__ == reference.child)
        is_own = reference.parent is object
        parent: Any = child if is_own else reference.parent
        self.pairs.append((child, parent))
        one = self._free(child, reference.way)
        many = self._free(parent, "children" if is_own else f"{reference.child.lower()}s")
        foreign = list(reference.columns.values())
        cascade = self.dice.one_of(
            ["all", "all, delete-orphan"] if reference.owned else ["save-update, merge", "all", "all, delete-orphan"]
        )
        if is_own and "orphan" in cascade:
            cascade = "all"
        # Both sides at once: a mapper that is configured looks for the other side right away.
        there = backref(
            many,
            cascade=cascade,
            passive_deletes=bool(reference.ondelete) and self.dice.happens(0.6),
            passive_updates=reference.onupdate is not None,
            lazy=self.dice.weighted(_LAZY),
            order_by=[attribute.column for attribute in key_of(child)] if self.dice.happens(0.7) else False,
            foreign_keys=foreign,
        )
        setattr(
            child,
            one,
            relationship(
                parent,
                backref=there,
                lazy=self.dice.weighted(_LAZY),
                remote_side=[attribute.column for attribute in key_of(parent)] if is_own else None,
                foreign_keys=foreign,
            ),
        )
        others = [
            a for a in attributes_of(child) if a.kind is INT and not a.column.foreign_keys and not a.column.primary_key
        ]
        if others and self._has("viewonly", 0.2):
            pairs = [column == key.column for column, key in zip(foreign, key_of(parent), strict=True)]
            condition = and_(*pairs, others[0].column == 1)
            setattr(
                parent,
                f"some_{many}",
                relationship(child, primaryjoin=condition, foreign_keys=foreign, viewonly=True, remote_side=foreign),
            )

    def _associate(self) -> None:
        """Join two classes by an association table."""
        first, second = (self.dice.one_of(self.models) for _ in range(2))
        name = f"{first.__name__}_{second.__name__}".lower()
        if table_of(first) is table_of(second) or name in self.registry.metadata.tables or _are_related(first, second):
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
            action = self.dice.one_of(["CASCADE", "CASCADE", None])
            names, targets = [column.name for column in mine], [key.column for key in key_of(model)]
            constraints.append(ForeignKeyConstraint(names, targets, ondelete=action, onupdate=action))
            columns.extend(mine)
        table = Table(name, self.registry.metadata, *columns, *constraints)
        self.links.append(table)
        self.pairs.append((first, second))
        there = self._free(first, f"linked_{second.__name__.lower()}s")
        back = self._free(second, f"linked_{first.__name__.lower()}s")
        passive = all(constraint.ondelete for constraint in constraints) and self.dice.happens(0.5)
        options: list[dict[str, Any]] = [
            {
                "lazy": self.dice.weighted(_LAZY),
                "order_by": [key.column for key in key_of(target)] if self.dice.happens(0.7) else False,
                "passive_deletes": passive,
            }
            for target in (second, first)
        ]
        setattr(first, there, relationship(second, secondary=table, backref=backref(back, **options[1]), **options[0]))

    def _free(self, model: type[Any], name: str) -> str:
        """Return a name that no class above or below a class has."""
        while any(hasattr(other, name) for other in self.models if _are_related(model, other)):
            name += "_too"
        return name

    # -- what the mapping or the database adds -------------------------------------------------------------------------

    def _add_expressions(self) -> None:
        for model in self.models:
            numbers = [one for one in attributes_of(model) if one.kind is INT and one.is_settable]
            if numbers and self.dice.happens(0.15):
                expression = column_property(numbers[0].column + 1, deferred=self.dice.happens(0.3))
                model.more = expression
        for reference in self.references:
            if reference.parent is object or not self._has("column_property", 0.2):
                continue
            parent = reference.parent
            child: Any = next(model for model in self.models if model.__name__ == reference.child)
            if table_of(child) is table_of(parent) or f"{reference.child.lower()}_count" in mapper_of(parent).attrs:
                continue
            pairs = [c == key.column for c, key in zip(reference.columns.values(), key_of(parent), strict=True)]
            table = table_of(child)
            counted = select(func.count()).select_from(table).where(*pairs).correlate_except(table).scalar_subquery()
            setattr(
                parent, f"{reference.child.lower()}_count", column_property(counted, deferred=self.dice.happens(0.2))
            )

    def _add_trigger(self) -> None:
        """Let a change of one table change another, by the database alone."""
        pairs = [
            (first, second, attribute.column)
            for first in self.models
            for second in self.models
            if table_of(first) is not table_of(second)
            for attribute in attributes_of(second)
            if attribute.kind is INT and attribute.is_settable and not attribute.column.foreign_keys
            and attribute.column.table is table_of(second) and not attribute.column.unique
        ]  # fmt: skip
        if not pairs or not self._has("trigger", 0.08):
            return
        first, second, counted = self.dice.one_of(pairs)
        self.pairs.extend([(first, second)] * 3)
        watched = table_of(first)
        quote = "`{}`" if self.dialect in ("mysql", "mariadb") else '"{}"'
        target, column, table = (quote.format(name) for name in (counted.table.name, counted.name, watched.name))
        body = f"UPDATE {target} SET {column} = 2 WHERE {column} = 1"
        when = self.dice.one_of(["INSERT", "UPDATE", "DELETE"])
        if self.dialect == "postgresql":
            self.after.append(
                f"CREATE FUNCTION oracle_fire() RETURNS trigger AS $$ BEGIN {body}; RETURN NULL; END $$ LANGUAGE plpgsql"
            )
        runs = {"postgresql": "FOR EACH ROW EXECUTE FUNCTION oracle_fire()", "sqlite": f"BEGIN {body}; END"}
        run = runs.get(self.dialect, f"FOR EACH ROW {body}")
        self.after.append(f"CREATE TRIGGER oracle_fires AFTER {when} ON {table} {run}")

    def _views(self) -> list[type[Any]]:
        """Map a class to a view of some rows of a table."""
        roots = [model for model in self.models if mapper_of(model).inherits is None]
        if not self._has("view", 0.2):
            return []
        model = self.dice.one_of(roots)
        table = table_of(model)
        quote = "`{}`" if self.dialect in ("mysql", "mariadb") else '"{}"'
        numbers = [a.column for a in attributes_of(model) if a.kind is INT]
        attributes = {attribute.column.name: attribute.name for attribute in attributes_of(model)}
        columns = [column for column in table.columns if column.name in attributes]
        listed = ", ".join(quote.format(column.name) for column in columns)
        where = f" WHERE {quote.format(numbers[0].name)} >= 1" if numbers else ""
        self.after.append(f"CREATE VIEW oracle_view AS SELECT {listed} FROM {quote.format(table.name)}{where}")
        copies = [Column(c.name, c.type, primary_key=c.primary_key, info=_plain_info(c)) for c in columns]
        view = Table("oracle_view", MetaData(), *copies)
        body = {attributes[column.name]: column for column in view.columns}
        return [type("Viewed", (self.registry.generate_base(),), {"__table__": view, **body, "__module__": __name__})]


def _plain_info(column: Column[Any]) -> dict[str, Any]:
    return {"kind": kind_of(column)}


def _add_identity(base: type[Any], identity: str, *, single: bool) -> None:
    """Let a base class's discriminator know one more class."""
    column = next(a.column for a in attributes_of(base) if a.column.info.get(ROLE) == "class")
    if single:
        column.info["single"].append(identity)
    known: Sequence[str] = (*kind_of(column).values[:-1], identity, "other")
    column.info["kind"] = Kind("class", kind_of(column).type_on, tuple(known))
    forget()


def _is_concrete(model: type[Any]) -> bool:
    return bool(mapper_of(model).concrete)


def _are_related(first: type[Any], second: type[Any]) -> bool:
    """Tell whether one is the other, or a base of it."""
    return issubclass(first, second) or issubclass(second, first)
