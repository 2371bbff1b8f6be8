"""What does a MySQL or MariaDB server say about itself, a connection, and its catalog?

One question for the profile (two where the dialect says MySQL), nine at most for the survey, which covers every
database of the server: a database is a table's schema here, and foreign keys cross databases. ``information_schema``
shows only what the user has rights on. Missing rows of it are not taken for missing things where that can be told
(triggers); a table that this user has no right on at all is not seen, nor is a cascade into it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from querycache.databases.driver import Row, row_of, rows_of, session_number_of, settings_of, text_of
from querycache.databases.profile import Profile
from querycache.databases.sessions import session_of
from querycache.databases.survey import (
    Action,
    Column,
    ColumnKind,
    ForeignKey,
    Kind,
    Survey,
    Table,
    TableName,
    View,
    build_survey,
)

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
    from sqlalchemy.pool import Pool

_PLACE: Final = ("server_uuid", "server_uid", "hostname", "port", "socket", "datadir")
_ISOLATION: Final = ("transaction_isolation", "tx_isolation")  # the latter before MariaDB 11.1 and MySQL 5.7.20
_REPLICATION: Final = (
    "read_only",
    "super_read_only",
    "wsrep_on",
    "wsrep_sync_wait",
    "group_replication_group_name",
    "group_replication_single_primary_mode",
    "group_replication_consistency",
)
# What decides how a value is spelled, or what a statement means.
_SETTINGS: Final = (
    "time_zone",
    "system_time_zone",
    "sql_mode",
    "old_mode",
    "collation_connection",
    "character_set_client",
    "character_set_connection",
    "character_set_results",
    "lc_time_names",
    "default_week_format",
    "div_precision_increment",
    "group_concat_max_len",
    "max_sort_length",
    "sql_select_limit",
    "sql_auto_is_null",
)
_STATUS: Final = ("Uptime", "Slave_running", "Replica_running", "wsrep_cluster_state_uuid")
_SYNCHRONOUS: Final = frozenset({"BEFORE", "BEFORE_AND_AFTER"})
_WSREP_SYNC_READS: Final = 1


_NAMELESS: Final = (
    "the server has no name of its own: no server_uuid (MySQL), server_uid (MariaDB 10.10) or "
    "wsrep_cluster_state_uuid (Galera); name the bind"
)


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _profile_sql(schema: str) -> str:
    return f"""
SELECT LOWER(variable_name), variable_value FROM {schema}.session_variables
WHERE variable_name IN ({_quoted(_PLACE + _ISOLATION + _REPLICATION + _SETTINGS)})
UNION ALL SELECT LOWER(variable_name), variable_value FROM {schema}.global_status
WHERE variable_name IN ({_quoted(_STATUS)})
UNION ALL SELECT 'now', UNIX_TIMESTAMP()
UNION ALL SELECT 'default_schema', DATABASE()
UNION ALL SELECT 'current_user', CURRENT_USER()
UNION ALL SELECT 'connection_id', CONNECTION_ID()
"""


_USER_SCHEMAS: Final = "NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys')"

_TABLES_SQL: Final = f"""
SELECT table_schema, table_name, table_type, engine FROM information_schema.tables
WHERE table_schema {_USER_SCHEMAS}
"""

_VIEWS_SQL: Final = f"""
SELECT table_schema, table_name, view_definition FROM information_schema.views WHERE table_schema {_USER_SCHEMAS}
"""

_TRIGGERS_SQL: Final = f"""
SELECT DISTINCT event_object_schema, event_object_table FROM information_schema.triggers
WHERE event_object_schema {_USER_SCHEMAS}
"""

_TRIGGER_RIGHTS_SQL: Final = """
SELECT grantee, NULL, NULL FROM information_schema.user_privileges WHERE privilege_type = 'TRIGGER'
UNION ALL SELECT grantee, table_schema, NULL FROM information_schema.schema_privileges WHERE privilege_type = 'TRIGGER'
UNION ALL SELECT grantee, table_schema, table_name FROM information_schema.table_privileges
WHERE privilege_type = 'TRIGGER'
UNION ALL SELECT NULL, CURRENT_USER(), NULL
"""

_RULES_SQL: Final = f"""
SELECT constraint_schema, table_name, constraint_name, unique_constraint_schema, referenced_table_name,
       delete_rule, update_rule
FROM information_schema.referential_constraints
WHERE constraint_schema {_USER_SCHEMAS}
  AND (delete_rule NOT IN ('RESTRICT', 'NO ACTION') OR update_rule NOT IN ('RESTRICT', 'NO ACTION'))
"""

_KEY_COLUMNS_SQL: Final = f"""
SELECT constraint_schema, table_name, constraint_name, column_name, referenced_column_name
FROM information_schema.key_column_usage
WHERE constraint_schema {_USER_SCHEMAS} AND referenced_table_name IS NOT NULL
"""

_COLUMNS_SQL: Final = f"""
SELECT table_schema, table_name, column_name, LOWER(data_type), LOWER(column_type), character_maximum_length,
       character_octet_length, LOWER(character_set_name), LOWER(collation_name), is_nullable, UPPER(extra),
       LOWER(privileges)
FROM information_schema.columns
WHERE table_schema {_USER_SCHEMAS}
"""

# To change an indexed column is to lock a gap of its index; to delete a row, its entry in each index, and children.
_INDEXES_SQL: Final = f"""
SELECT table_schema, table_name, column_name, IF(index_name = 'PRIMARY', 'key', 'index')
FROM information_schema.statistics WHERE table_schema {_USER_SCHEMAS}
UNION ALL SELECT unique_constraint_schema, referenced_table_name, NULL, 'parent'
FROM information_schema.referential_constraints WHERE constraint_schema {_USER_SCHEMAS}
"""

_INTEGER_BITS: Final[Mapping[str, int]] = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_TEXT_TYPES: Final = frozenset({"varchar", "tinytext", "text", "mediumtext", "longtext"})
_LONGEST_CHARACTER: Final = 4
_UUID_CHARACTERS: Final = 32

_ROUTINES_SQL: Final = f"SELECT routine_name FROM information_schema.routines WHERE routine_schema {_USER_SCHEMAS}"

_KINDS: Final[dict[str, Kind]] = {
    "BASE TABLE": "table",
    "VIEW": "view",
    "TEMPORARY": "temporary table",
    "SYSTEM VERSIONED": "system-versioned table",
}

_ACTIONS: Final[dict[str, Action]] = {
    "NO ACTION": "NO ACTION",
    "RESTRICT": "RESTRICT",
    "CASCADE": "CASCADE",
    "SET NULL": "SET NULL",
    "SET DEFAULT": "SET DEFAULT",
}


def profile_of(dialect: Dialect, dbapi_connection: DBAPIConnection, pool: Pool | None) -> Profile:
    """Ask a MySQL or MariaDB server."""
    schema = "information_schema" if _is_mariadb(dialect, dbapi_connection) else "performance_schema"
    said = {text_of(name): text_of(value) for name, value in _rows_of(dbapi_connection, _profile_sql(schema))}
    identity = _identity_of(said)
    return Profile(
        identity=identity,
        why_not="" if identity else _NAMELESS,
        incarnation=_incarnation_of(said),
        isolation=next(said[name] for name in _ISOLATION if name in said).replace("-", " ").upper(),
        default_schema=said["default_schema"],
        is_replica=_is_replica(said),
        settings=settings_of(said.get(name) for name in (*_SETTINGS, "current_user")),
        session=session_of(
            said.get("current_user"),
            int(said.get("connection_id") or 0),
            "",
            session_number_of(dialect, dbapi_connection),
        ),
    )


def _rows_of(dbapi_connection: DBAPIConnection, sql: str) -> list[Row]:
    """Fetch all rows, whatever this connection's sql_select_limit."""
    return rows_of(dbapi_connection, f"{sql} LIMIT {2**64 - 1}")


def _is_mariadb(dialect: Dialect, dbapi_connection: DBAPIConnection) -> bool:
    """Ask the server where the dialect says MySQL: it does so for MariaDB too, until its own first connection."""
    if getattr(dialect, "is_mariadb", False):
        return True
    return "mariadb" in text_of(row_of(dbapi_connection, "SELECT VERSION()")[0]).lower()


def _identity_of(said: Mapping[str, str]) -> str | None:
    """Name the server, or the cluster whose nodes all take writes.

    MariaDB's server_uid is a digest of the port and a network card's address alone: two containers can share it, hence
    the rest, none of which depends on who asks and by which way.
    """
    if _is_on(said.get("wsrep_on", "")):
        cluster = said.get("wsrep_cluster_state_uuid", "")
        return f"galera:{cluster}" if cluster else None
    if group := said.get("group_replication_group_name", ""):
        return f"mysql-group:{group}"
    if not (said.get("server_uuid") or said.get("server_uid")):
        return None
    place = "\0".join(said.get(name, "") for name in _PLACE)
    return f"mysql:{blake2b(place.encode('utf-8', 'surrogateescape'), digest_size=16).hexdigest()}"


def _incarnation_of(said: Mapping[str, str]) -> str:
    """Give the server's start time; exact, as UPTIME is computed from the same clock reading as UNIX_TIMESTAMP().

    Modulo 2**64 because that is what the server does where a session has set its ``timestamp`` back.
    """
    if _is_replica(said) or _is_on(said.get("wsrep_on", "")) or said.get("group_replication_group_name"):
        return ""
    uptime = said.get("uptime", "")
    return str((int(float(said["now"])) - int(uptime)) % 2**64) if uptime.isdigit() else ""


def _is_replica(said: Mapping[str, str]) -> bool:
    if any(_is_on(said.get(name, "")) for name in ("read_only", "super_read_only", "slave_running", "replica_running")):
        return True
    if _is_on(said.get("wsrep_on", "")):
        return not int(said.get("wsrep_sync_wait") or 0) & _WSREP_SYNC_READS
    if said.get("group_replication_group_name") and not _is_on(said.get("group_replication_single_primary_mode", "")):
        return said.get("group_replication_consistency", "").upper() not in _SYNCHRONOUS
    return False


def _is_on(setting: str) -> bool:
    return setting.upper() not in ("", "0", "OFF", "NO")


def survey_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> Survey:
    """Read the catalog of the whole server, as far as the user may see it."""
    firing = {(text_of(schema), text_of(name)) for schema, name in _rows_of(dbapi_connection, _TRIGGERS_SQL)}
    rights = _trigger_rights_of(_rows_of(dbapi_connection, _TRIGGER_RIGHTS_SQL))
    indexes = [tuple(map(text_of, row)) for row in _rows_of(dbapi_connection, _INDEXES_SQL)]
    indexed = {(schema, table, column) for schema, table, column, what in indexes if what != "parent"}
    waiting = {(schema, table) for schema, table, _, what in indexes if what != "key"}
    columns = [_column_of(row, indexed) for row in _rows_of(dbapi_connection, _COLUMNS_SQL)]
    return build_survey(
        tables=[_table_of(row, firing, rights, waiting) for row in _rows_of(dbapi_connection, _TABLES_SQL)],
        foreign_keys=_foreign_keys_of(dbapi_connection, columns),
        user_functions=[text_of(name) for (name,) in _rows_of(dbapi_connection, _ROUTINES_SQL)],
        columns=columns,
        views=[_view_of(row) for row in _rows_of(dbapi_connection, _VIEWS_SQL)],
    )


def _view_of(row: Row) -> View:
    schema, name, text = (text_of(value) for value in row)
    obstacle = "" if text else "hides its query from this user (grant SHOW VIEW)"
    return View((schema, name), text=text, obstacle=obstacle)


def _column_of(row: Row, indexed: set[tuple[str, str, str]]) -> Column:
    schema, table, name, data_type, column_type, _, _, _, _, *rest = (text_of(value) for value in row)
    is_nullable, extra, privileges = rest
    low, high = None, None
    kind = _kind_of(data_type, row)
    if kind == "int":
        bits, is_unsigned = _INTEGER_BITS[data_type], "unsigned" in column_type or "zerofill" in column_type
        low, high = (0, 2**bits - 1) if is_unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    elif kind == "text":
        high = int(row[6]) // _LONGEST_CHARACTER
    return Column(
        table=(schema, table),
        name=name,
        kind=kind,
        # Without strict mode, which any connection may turn off, what does not fit is made to.
        low=low,
        high=high,
        replaces_null=is_nullable == "NO",
        replaces_zero="AUTO_INCREMENT" in extra,
        is_computed=_changes_with_others(extra),
        can_be_read="select" in privileges.split(","),
        # The index of an expression (MySQL) names no column.
        waits=(schema, table, name) in indexed or (schema, table, "") in indexed,
        puts_on_today=data_type == "time",
    )


def _kind_of(data_type: str, row: Row) -> ColumnKind:
    if data_type in _INTEGER_BITS:
        return "int"
    if data_type == "uuid" or (data_type == "char" and row[5] == _UUID_CHARACTERS):
        return "uuid"
    character_set, collation = text_of(row[7]), text_of(row[8])
    compares_bytes = character_set == "utf8mb4" and collation.endswith("_nopad_bin")
    return "text" if data_type in _TEXT_TYPES and compares_bytes else ""


def _changes_with_others(extra: str) -> bool:
    """Recognise generated columns, and timestamps with ON UPDATE; MySQL's DEFAULT_GENERATED is a mere default."""
    return "GENERATED" in extra.replace("DEFAULT_GENERATED", "") or "ON UPDATE" in extra


@dataclass(frozen=True, slots=True)
class _TriggerRights:
    """Where this user would be shown a trigger, if there were one."""

    everywhere: bool
    schemas: tuple[re.Pattern[str], ...]
    tables: frozenset[TableName]

    def cover(self, name: TableName) -> bool:
        return self.everywhere or name in self.tables or any(one.fullmatch(name[0]) for one in self.schemas)


def _trigger_rights_of(rows: list[Row]) -> _TriggerRights:
    """Pick the rights of the current user; a role's do not count, so that its members may see fewer known writes."""
    user, _, host = next(text_of(schema) for grantee, schema, _ in rows if grantee is None).rpartition("@")
    mine = [(schema, table) for grantee, schema, table in rows if text_of(grantee) == f"'{user}'@'{host}'"]
    return _TriggerRights(
        everywhere=any(schema is None for schema, _ in mine),
        schemas=tuple(_pattern_of(text_of(schema)) for schema, table in mine if schema is not None and table is None),
        tables=frozenset((text_of(schema), text_of(table)) for schema, table in mine if table is not None),
    )


def _pattern_of(schema: str) -> re.Pattern[str]:
    r"""Translate the database name of a GRANT: % and _ are wildcards unless behind a backslash."""
    parts = re.findall(r"\\.|.", schema, re.DOTALL)
    wildcards = {"%": ".*", "_": "."}
    return re.compile("".join(wildcards.get(part) or re.escape(part[-1]) for part in parts), re.DOTALL)


def _table_of(row: Row, firing: set[TableName], rights: _TriggerRights, waiting: set[TableName]) -> Table:
    schema, name, table_type, engine = (text_of(value) for value in row)
    kind = _KINDS.get(table_type, "other relation")
    obstacle = ""
    if kind == "table" and engine.upper() != "INNODB":
        obstacle = f"is kept by the {engine or 'unknown'} engine, which has no snapshots and no rollback"
    fires = (schema, name) in firing or not rights.cover((schema, name))
    return Table((schema, name), kind, fires=fires, obstacle=obstacle, delete_waits=(schema, name) in waiting)


def _foreign_keys_of(dbapi_connection: DBAPIConnection, of_tables: Iterable[Column]) -> list[ForeignKey]:
    rules = _rows_of(dbapi_connection, _RULES_SQL)
    if not rules:
        return []
    columns: defaultdict[tuple[str, ...], list[tuple[str, str]]] = defaultdict(list)
    for row in _rows_of(dbapi_connection, _KEY_COLUMNS_SQL):
        schema, table, constraint, column, parent_column = (text_of(value) for value in row)
        columns[schema, table, constraint].append((column, parent_column))
    computed = {(*column.table, column.name) for column in of_tables if column.is_computed}
    return [_foreign_key_of(row, columns, computed) for row in rules]


def _foreign_key_of(
    row: Row, columns: Mapping[tuple[str, ...], list[tuple[str, str]]], computed: set[tuple[str, str, str]]
) -> ForeignKey:
    schema, table, constraint, parent_schema, parent, on_delete, on_update = (text_of(value) for value in row)
    pairs = columns.get((schema, table, constraint), [])
    is_computed = any((parent_schema, parent, parent_column) in computed for _, parent_column in pairs)
    return ForeignKey(
        child=(schema, table),
        parent=(parent_schema, parent),
        child_columns=tuple(column for column, _ in pairs),
        parent_columns=() if is_computed else tuple(parent_column for _, parent_column in pairs),
        on_delete=_ACTIONS.get(on_delete, "CASCADE"),
        on_update=_ACTIONS.get(on_update, "CASCADE"),
    )
