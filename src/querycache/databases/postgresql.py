"""What does a PostgreSQL server say about itself, a connection, and a database's catalog?

One question for the profile (and SQLAlchemy's own for the isolation level), five for the survey. The catalogs that
are asked can be read by every role, unless an administrator took that away: then there is no identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from querycache.databases.driver import Row, row_of, rows_of, session_number_of, settings_of, text_of
from querycache.databases.postgresql_trees import policies_of, views_of
from querycache.databases.profile import Profile
from querycache.databases.sessions import PG_BEGAN, session_of
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

# What decides how a value is spelled, or what a statement means.
_SETTINGS: Final = (
    "TimeZone",
    "timezone_abbreviations",
    "DateStyle",
    "IntervalStyle",
    "extra_float_digits",
    "bytea_output",
    "xmlbinary",
    "client_encoding",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "search_path",
    "standard_conforming_strings",
    "transform_null_equals",
    "row_security",
)

_CONNECTION_COLUMNS: Final = f"""
    pg_catalog.current_schema(), pg_catalog.pg_is_in_recovery(), CURRENT_USER,
    {", ".join(f"pg_catalog.current_setting('{name}', true)" for name in _SETTINGS)}
"""

# The start time of the server is not enough for an incarnation: after the crash of one backend the postmaster lives on,
# but shared memory is made anew and asynchronous commits may be lost. The statistics are reset then, and say when.
_PROFILE_SQL: Final = f"""
SELECT CAST((SELECT system_identifier FROM pg_catalog.pg_control_system()) AS text),
       CAST((SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) AS text),
       pg_catalog.concat_ws('/',
           (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
           pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_postmaster_start_time()), 'YYYYMMDDHH24MISSUS'),
           pg_catalog.to_char(pg_catalog.timezone('UTC', pg_catalog.pg_stat_get_bgwriter_stat_reset_time()),
                              'YYYYMMDDHH24MISSUS')),
       pg_catalog.pg_backend_pid(),
       (SELECT {PG_BEGAN} FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid())),
       {_CONNECTION_COLUMNS}
"""

# A column's default may call a function that writes elsewhere (a table of counters). Functions of the system and of
# extensions (uuid_generate_v4) are trusted not to.
_TABLES_SQL: Final = """
WITH writing_defaults AS (
    SELECT a.adrelid
    FROM pg_catalog.pg_attrdef a
    JOIN pg_catalog.pg_depend d ON d.classid = CAST('pg_catalog.pg_attrdef' AS regclass) AND d.objid = a.oid
                               AND d.refclassid = CAST('pg_catalog.pg_proc' AS regclass)
    JOIN pg_catalog.pg_proc f ON f.oid = d.refobjid AND f.provolatile = 'v'
    JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace AND n.nspname <> 'pg_catalog'
    WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_depend e
                      WHERE e.classid = d.refclassid AND e.objid = d.refobjid AND e.deptype = 'e'))
SELECT n.nspname, c.relname, CAST(c.relkind AS text), CAST(c.relpersistence AS text),
       c.relispartition, c.relrowsecurity,
       EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal)
       OR EXISTS (SELECT 1 FROM pg_catalog.pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')
       OR c.oid IN (SELECT adrelid FROM writing_defaults),
       EXISTS (SELECT 1 FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent)),
       EXISTS (SELECT 1 FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid),
       pg_catalog.has_any_column_privilege(c.oid, 'UPDATE'),
       EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k WHERE k.contype = 'f' AND k.confrelid = c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND pg_catalog.left(n.nspname, 8) <> 'pg_toast'
"""

_ROW_SECURITY: Final = 5  # where it stands in a row of these

_FOREIGN_KEYS_SQL: Final = """
SELECT cn.nspname, c.relname, pn.nspname, p.relname, CAST(k.confdeltype AS text), CAST(k.confupdtype AS text),
       ARRAY(SELECT CAST(a.attname AS text) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)),
       ARRAY(SELECT CAST(a.attname AS text) FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey)),
       EXISTS (SELECT 1 FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey) AND a.attgenerated <> '')
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_namespace cn ON cn.oid = c.relnamespace
JOIN pg_catalog.pg_class p ON p.oid = k.confrelid JOIN pg_catalog.pg_namespace pn ON pn.oid = p.relnamespace
WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))
"""

# Only the types that PostgreSQL itself brings, by their fixed numbers: no domain, no type of an extension, no array.
# Then what an update of the column locks: FOR UPDATE instead of FOR NO KEY UPDATE where a foreign key could refer to it
# (a unique index, neither partial nor of expressions); and what it may wait for: the row of a parent, or of a double.
_COLUMNS_SQL: Final = """
SELECT n.nspname, c.relname, a.attname, CAST(a.atttypid AS integer), a.atttypmod,
       COALESCE(o.collisdeterministic, true), a.attgenerated <> '',
       pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT'),
       EXISTS (SELECT 1 FROM pg_catalog.pg_index i
               WHERE i.indrelid = c.oid AND i.indisunique AND i.indexprs IS NULL AND i.indpred IS NULL
                 AND a.attnum = ANY ((CAST(i.indkey AS int2[]))[0:i.indnkeyatts - 1])),
       EXISTS (SELECT 1 FROM pg_catalog.pg_index i
               WHERE i.indrelid = c.oid AND (i.indisunique OR i.indisexclusion)
                 AND (a.attnum = ANY (i.indkey) OR i.indexprs IS NOT NULL OR i.indpred IS NOT NULL))
       OR EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k
                  WHERE k.contype = 'f' AND k.conrelid = c.oid AND a.attnum = ANY (k.conkey))
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid AND c.relkind = 'r'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_collation o ON o.oid = a.attcollation
WHERE a.attnum > 0 AND NOT a.attisdropped
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND pg_catalog.left(n.nspname, 8) <> 'pg_toast'
"""
_INTEGER_TYPES: Final = frozenset({16, 20, 21, 23})  # bool, int8, int2, int4
_UUID_TYPE: Final = 2950
_TEXT_TYPES: Final = frozenset({25, 1043})  # text, varchar
_CHAR_32: Final = (1042, 36)  # bpchar, and 32 as its atttypmod says it

# Extensions overload names such as max and replace for types of their own (citext): those of their functions that
# neither write nor depend on anything but their arguments must not turn every max() into an unknown statement.
_FUNCTIONS_SQL: Final = """
SELECT DISTINCT f.proname
FROM pg_catalog.pg_proc f JOIN pg_catalog.pg_namespace n ON n.oid = f.pronamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  AND (f.provolatile = 'v' OR NOT EXISTS (
      SELECT 1 FROM pg_catalog.pg_depend d
      WHERE d.classid = CAST('pg_catalog.pg_proc' AS regclass) AND d.objid = f.oid AND d.deptype = 'e'))
"""

_KINDS: Final[dict[str, Kind]] = {
    "r": "table",
    "p": "partitioned table",
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
}

_ACTIONS: Final[dict[str, Action]] = {
    "a": "NO ACTION",
    "r": "RESTRICT",
    "c": "CASCADE",
    "n": "SET NULL",
    "d": "SET DEFAULT",
}


def profile_of(dialect: Dialect, dbapi_connection: DBAPIConnection, pool: Pool | None) -> Profile:
    """Ask a PostgreSQL server; rolls back where the server refused to say who it is."""
    identity, why_not, incarnation, session = None, "", "", None
    try:
        system, database, incarnation, pid, began, *said = row_of(dbapi_connection, _PROFILE_SQL)
        schema, in_recovery, *settings = said
        identity = f"postgresql:{text_of(system)}:{text_of(database)}"
        session = session_of("", pid, began, session_number_of(dialect, dbapi_connection))
    except dialect.loaded_dbapi.DatabaseError as refusal:
        dbapi_connection.rollback()
        why_not = (
            f"the server did not tell its identity ({type(refusal).__name__}); allow this role to execute "
            "pg_control_system() and pg_control_checkpoint(), or name the bind"
        )
        schema, in_recovery, *settings = row_of(dbapi_connection, f"SELECT {_CONNECTION_COLUMNS}")
    return Profile(
        identity=identity,
        why_not=why_not,
        incarnation="" if in_recovery else text_of(incarnation),
        isolation=dialect.get_isolation_level(dbapi_connection).upper(),
        default_schema=text_of(schema),
        is_replica=bool(in_recovery),
        settings=settings_of(settings),
        session=session,
    )


def survey_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> Survey:
    """Read the catalog of the connection's database: every schema but the system's."""
    return build_survey(
        tables=_tables_of(dbapi_connection),
        foreign_keys=[_foreign_key_of(row) for row in rows_of(dbapi_connection, _FOREIGN_KEYS_SQL)],
        user_functions=[text_of(name) for (name,) in rows_of(dbapi_connection, _FUNCTIONS_SQL)],
        columns=[_column_of(row) for row in rows_of(dbapi_connection, _COLUMNS_SQL)],
        views=views_of(dbapi_connection),
    )


def _tables_of(dbapi_connection: DBAPIConnection) -> list[Table]:
    rows = rows_of(dbapi_connection, _TABLES_SQL)
    policies = policies_of(dbapi_connection) if any(row[_ROW_SECURITY] for row in rows) else {}
    return [_table_of(row, policies) for row in rows]


def _table_of(row: Row, policies: Mapping[TableName, View]) -> Table:
    schema, name, relkind, persistence, is_partition, row_security, fires, has_relatives, is_subscribed, *locking = row
    can_be_locked, is_referenced = locking
    kind = _KINDS.get(text_of(relkind), "other relation")
    if text_of(persistence) == "t":
        kind = "temporary table"
    elif is_partition:
        kind = "partition"
    spelled = _name_of(schema, name)
    return Table(
        name=spelled,
        kind=kind,
        fires=bool(fires),
        has_relatives=bool(has_relatives),
        obstacle="is written by a logical replication subscription" if is_subscribed else "",
        can_be_locked=bool(can_be_locked),
        delete_waits=bool(is_referenced),
        policies=policies.get(spelled, View(spelled)) if row_security else None,
    )


def _column_of(row: Row) -> Column:
    schema, table, name, type_number, modifier, is_deterministic, is_generated, *locking = row
    can_be_read, is_key, waits = map(bool, locking)
    kind: ColumnKind = ""
    if type_number in _INTEGER_TYPES:
        kind = "int"
    elif type_number == _UUID_TYPE or (is_deterministic and (type_number, modifier) == _CHAR_32):
        kind = "uuid"
    elif is_deterministic and type_number in _TEXT_TYPES:
        kind = "text"
    return Column(
        table=_name_of(schema, table),
        name=text_of(name),
        kind=kind,
        is_computed=bool(is_generated),
        can_be_read=can_be_read,
        is_key=is_key,
        waits=waits,
    )


def _foreign_key_of(row: Row) -> ForeignKey:
    child_schema, child, parent_schema, parent, on_delete, on_update, child_columns, parent_columns, is_computed = row
    return ForeignKey(
        child=_name_of(child_schema, child),
        parent=_name_of(parent_schema, parent),
        child_columns=tuple(text_of(column) for column in child_columns),
        parent_columns=() if is_computed else tuple(text_of(column) for column in parent_columns),
        on_delete=_action_of(on_delete),
        on_update=_action_of(on_update),
    )


def _action_of(code: object) -> Action:
    return _ACTIONS.get(text_of(code), "CASCADE")


def _name_of(schema: object, name: object) -> TableName:
    return text_of(schema), text_of(name)
