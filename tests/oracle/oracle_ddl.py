"""Which changes of the schema may happen while it is in use?

Such as a migration makes while the application runs: an index, a column that no class knows, a trigger, an empty table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oracle_schema import table_of
from oracle_stage import Stage
from oracle_values import kind_of


@dataclass(frozen=True, slots=True)
class Ddl:
    """A statement, and the one that takes it back."""

    kind: str
    sql: str
    undo: str = ""


def ddl(stage: Stage, world: Any) -> Ddl | None:
    """Return a random change of the schema."""
    quote = world.outside.dialect.identifier_preparer.quote
    model = stage.any_model()
    table = table_of(model)
    name = quote(table.name)
    number = stage.dice.number(1, 10**6)
    way = stage.dice.one_of(["index", "index", "unique index", "column", "truncate"])
    columns = [c for c in table.columns if kind_of(c).indexes and kind_of(c).compares and c.computed is None]
    if way in ("index", "unique index") and columns:
        chosen = stage.dice.one_of(columns)
        column = quote(chosen.name)
        # MariaDB may not let go of an index that a foreign key uses by now: a unique one would stay in the way of rows.
        unique = "UNIQUE " if way == "unique index" and not chosen.foreign_keys else ""
        on = f" ON {name}" if stage.dialect == "mysql" else ""
        return Ddl(
            "DDL: index", f"CREATE {unique}INDEX ix_{number} ON {name} ({column})", f"DROP INDEX ix_{number}{on}"
        )
    if way == "truncate" and stage.dialect != "sqlite":
        return Ddl("DDL: truncate", f"TRUNCATE {name}{' CASCADE' if stage.dialect == 'postgresql' else ''}")
    return Ddl(
        "DDL: column",
        f"ALTER TABLE {name} ADD COLUMN extra_{number} INTEGER",
        f"ALTER TABLE {name} DROP COLUMN extra_{number}",
    )
