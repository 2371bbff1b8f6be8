"""Is a table one in which a tool notes which migrations a database has had?

Such tables are never cached: what reads them decides what a database is made of, and the tools write them on connections
of their own, in any language. Told by the names that the tools give them, and Alembic's by its column under any name.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

# fmt: off
_NAMES: Final = frozenset({
    "alembic_version", "migrate_version", "django_migrations", "_yoyo_log", "_yoyo_migration", "_yoyo_version", "yoyo_lock",
    "_sqlx_migrations", "schema_migrations", "ar_internal_metadata", "schema_version", "flyway_schema_history",
    "databasechangelog", "databasechangeloglock", "goose_db_version", "atlas_schema_revisions", "refinery_schema_history",
    "_prisma_migrations", "__drizzle_migrations", "knex_migrations", "knex_migrations_lock", "sequelizemeta",
    "__efmigrationshistory", "doctrine_migration_versions", "phinxlog",
})
# fmt: on
_ALEMBIC_COLUMNS: Final = {"version_num"}


def is_bookkeeping(name: str, columns: Collection[str]) -> bool:
    """Tell by a table's name and columns, both in lower case."""
    return name in _NAMES or set(columns) == _ALEMBIC_COLUMNS
