"""Which columns and indexes gets a class, and what are they called in the database?"""

from __future__ import annotations

from typing import Any, Final

from oracle_draft import Draft, Shop
from oracle_values import BOOL, INT, KINDS, NOCASE, NUMBER, TEXT, UUID, Kind, kind_of
from sqlalchemy import Column, Computed, Index, UniqueConstraint, literal_column, text

_TABLES: Final = ("{}", "{}", "{}", "{}s", "The {}", "{} (all)")
_COLUMNS: Final = ("{}", "{}", "{}", "{}", "{}_of", "The {}", "{} (x)")
_WORDS: Final = ("order", "select", "group", "user", "rank")
_NUMBERS: Final = ("size", "amount", "weight")
_OTHERS: Final = ("code", "state", "extra", "remark")


def table_name_of(shop: Shop, name: str) -> str:
    """Return a table's name for a class: one that needs quoting now and then."""
    pattern = shop.dice.one_of(_TABLES)
    return pattern.format(name if " " in pattern else name.lower())


def column_name(shop: Shop, draft: Draft, attribute: str) -> str:
    """Return a column's name for an attribute: often another, a word of SQL, one that needs quoting."""
    taken = draft.names()
    if shop.dice.happens(0.1):
        word = shop.dice.one_of(_WORDS)
        if word not in taken:
            return word
    name = shop.dice.one_of(_COLUMNS).format(attribute)
    return name if name.lower() not in taken else f"{name}_{len(taken)}"


def add_column(shop: Shop, draft: Draft, attribute: str, kind: Kind, **options: Any) -> Column[Any]:
    """Give a class a column of a kind, and return it."""
    info = {"kind": kind, **options.pop("info", {})}
    column: Column[Any] = Column(
        column_name(shop, draft, attribute), kind.type_on(shop.dialect), *options.pop("args", ()), info=info, **options
    )
    draft.attributes[attribute] = column
    return column


def add_key(shop: Shop, draft: Draft) -> None:
    """Give a class a primary key of its own: of one type or several."""
    how = shop.dice.weighted([("int", 6), ("pair", 2), ("uuid", 1), ("text", 1), ("nocase", 1), ("mixed", 1)])
    if how == "int":
        add_column(shop, draft, "id", INT, primary_key=True)
        return
    first = {"pair": INT, "uuid": UUID, "text": TEXT, "nocase": NOCASE, "mixed": UUID}[how]
    add_column(shop, draft, "id", first, primary_key=True, autoincrement=False)
    if how in ("pair", "mixed"):
        add_column(shop, draft, "number", NUMBER, primary_key=True, autoincrement=False)


def add_columns(shop: Shop, draft: Draft, count: int, *, prefix: str = "", inherited: bool = False) -> None:
    """Give a class columns, a number first; ``inherited``: in the table of its base."""
    names = [prefix + name for name in (*shop.dice.some_of(_NUMBERS, 1, 2), *shop.dice.some_of(_OTHERS, 1, 3))]
    names = names[:1] + shop.dice.some_of(names[1:], count - 1, count - 1)
    for position, name in enumerate(names):
        wished = shop.wishes.kinds and shop.dice.happens(0.6)
        kind = shop.dice.one_of(shop.wishes.kinds) if wished else shop.dice.weighted(KINDS)
        if position == 0 and not inherited:
            kind = INT
        add_column(shop, draft, name, kind, **_column_options(shop, kind, inherited=inherited))
        numbers = [column for column in draft.columns() if kind_of(column) is INT and not column.primary_key]
        if position == 0 and not inherited and numbers and shop.has("computed", 0.1):
            _add_computed(shop, draft, f"{prefix}computed", numbers[0].name)


def _column_options(shop: Shop, kind: Kind, *, inherited: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"nullable": inherited or shop.dice.happens(0.7)}
    if kind.indexes and kind.compares:
        options[shop.dice.one_of(["unique", "index", "index", "", "", "", ""])] = True
        options.pop("", None)
    if kind is BOOL or inherited:
        options.pop("unique", None)
    if kind is INT and "unique" not in options:
        often = 20 if "onupdate" in shop.wishes.parts else 1
        more = shop.dice.weighted(
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


def _add_computed(shop: Shop, draft: Draft, name: str, of: str) -> None:
    expression = f"{shop.quoted(of)} + 1"
    persisted = True if shop.dialect == "postgresql" else shop.dice.one_of([True, False])
    add_column(shop, draft, name, INT, args=(Computed(expression, persisted=persisted),))


def indexes_of(shop: Shop, draft: Draft) -> list[Any]:
    """Return a constraint or an index over two columns, now and then."""
    usable = [
        column
        for column in draft.columns()
        if kind_of(column).indexes and kind_of(column).compares and column.computed is None and not column.primary_key
    ]
    made: list[Any] = []
    if len(usable) > 1 and shop.dice.happens(0.2):
        names = [column.name for column in shop.dice.some_of(usable, 2, 2)]
        made.append(
            UniqueConstraint(*names) if shop.dice.happens(0.5) else Index(f"ix_{draft.name.lower()}_two", *names)
        )
    return made
