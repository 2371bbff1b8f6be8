"""What does SQLite say about the database of a connection, and about its schema?

Only ``main`` counts: a connection that has attached further databases is known by its main one, and tables of the
others are not plain. Foreign keys count as enforced whatever ``PRAGMA foreign_keys`` says now: another connection, or
this one later, may have it on.
"""

from __future__ import annotations

import os
import re
import secrets
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from sqlalchemy.pool import NullPool, Pool

from querycache import _sqlalchemy
from querycache.databases.driver import Row, rows_of, text_of
from querycache.databases.profile import Profile
from querycache.databases.sqlite_file import FileWatch, NoIdentity, file_identity_of
from querycache.databases.survey import Action, Column, ColumnKind, ForeignKey, Kind, Survey, Table, View, build_survey

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect

_MAIN: Final = "main"
_IDENTITY_FUNCTION: Final = "querycache_identity"

_MEMORY: Final = ":memory:"

# URI parameters with which a connection does not see what others write, or others do not see its file.
_STRANGE_PARAMETERS: Final = ("vfs=", "immutable=", "nolock=")

_OLDEST: Final = (3, 30, 0)  # the first to list its functions

# PRAGMA case_sensitive_like cannot be asked, but shows.
_FILE_SQL: Final = "SELECT file, 'a' LIKE 'A' FROM pragma_database_list WHERE name = 'main'"
_ATTACHED_SQL: Final = "SELECT name FROM pragma_database_list WHERE name NOT IN ('main', 'temp')"

_FOREIGN_KEYS_SQL: Final = """
SELECT m.name, k.id, k."table", k."from", k."to", k.on_update, k.on_delete
FROM main.sqlite_master m JOIN pragma_foreign_key_list(m.name, 'main') k
WHERE m.type = 'table' AND m.rootpage > 0
"""

_COLUMNS_SQL: Final = """
SELECT m.name, c.name, c.type, m.sql, c.hidden IN (2, 3), c.pk > 0
FROM main.sqlite_master m JOIN pragma_table_xinfo(m.name, 'main') c
WHERE m.type = 'table' AND m.rootpage > 0
"""

# Any other mention of COLLATE, in a comment too, counts as another collation.
_COLLATE: Final = re.compile(r"collate", re.IGNORECASE)
_COLLATE_BINARY: Final = re.compile(r'collate\s+(?:"binary"|binary(?![\w$]|[^\x00-\x7f]))', re.IGNORECASE | re.ASCII)

# SQLite keeps what was written behind "CREATE VIEW"; with comments in its head it is not understood.
_NAME: Final = r"""(?:[\w$]+|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])"""
_CREATE_VIEW: Final = re.compile(
    rf"create\s+view\s+(?:{_NAME}\s*\.\s*)?{_NAME}\s*(?:\((?:\s*{_NAME}\s*,)*\s*{_NAME}\s*\)\s*)?as\b", re.IGNORECASE
)

# What SQLite, its bundled extensions and SQLAlchemy register on every connection: none of it writes to a table, but for
# those that are left out here because they do (optimize, rtreecheck reads, fts3_tokenizer may load code).
_FUNCTIONS_SQL: Final = "SELECT DISTINCT lower(name) FROM pragma_function_list WHERE NOT builtin"
_HARMLESS_FUNCTIONS: Final = frozenset({"bm25", "floor", "highlight", "match", "regexp", "snippet", _IDENTITY_FUNCTION})

_ACTIONS: Final[dict[str, Action]] = {
    "NO ACTION": "NO ACTION",
    "RESTRICT": "RESTRICT",
    "CASCADE": "CASCADE",
    "SET NULL": "SET NULL",
    "SET DEFAULT": "SET DEFAULT",
}


def profile_of(dialect: Dialect, dbapi_connection: DBAPIConnection, pool: Pool | None) -> Profile:
    """Ask an SQLite connection about its main database."""
    isolation = dialect.get_isolation_level(dbapi_connection).upper()
    arguments, settings = _connect_arguments_of(dialect, pool), ""
    try:
        if _is_too_old(dialect):
            raise NoIdentity(f"SQLite {'.'.join(map(str, _OLDEST))} is the oldest that can be asked what it holds")
        ((file, like_folds_case),) = rows_of(dbapi_connection, _FILE_SQL)
        settings = "" if like_folds_case else "case_sensitive_like"
        if file:
            identity = _file_identity_of(os.fsdecode(file), arguments)
            return Profile(identity, isolation=isolation, default_schema=_MAIN, settings=settings)
        _refuse_shared_memory(arguments, pool)
    except NoIdentity as reason:
        why_not = f"the SQLite database has no identity: {reason}; name the bind"
        return Profile(None, why_not, isolation=isolation, default_schema=_MAIN, settings=settings)
    identity = _memory_identity_of(dialect, dbapi_connection)
    return Profile(identity, scope="connection", isolation=isolation, default_schema=_MAIN, settings=settings)


def _is_too_old(dialect: Dialect) -> bool:
    version: tuple[int, ...] = getattr(dialect.loaded_dbapi, "sqlite_version_info", (0,))
    return version < _OLDEST


def _file_identity_of(path: str, arguments: Iterable[str] | None) -> str:
    for argument in arguments or ():
        for strange in _STRANGE_PARAMETERS:
            if argument.startswith("file:") and strange in argument:
                raise NoIdentity(f'it is opened with "{strange}", so that its file is not what other connections see')
    return file_identity_of(path)


def _refuse_shared_memory(arguments: tuple[str, ...] | None, pool: Pool | None) -> None:
    """Let pass only what is surely private to its connection: SQLite does not tell a shared cache from another."""
    if isinstance(pool, NullPool):
        raise NoIdentity("it is in memory and each connection has a new one (NullPool)")
    if arguments is None:
        raise NoIdentity("it is in memory, and how it was opened is not known (creator, pool or do_connect)")
    if any(argument.startswith("file:") for argument in arguments):
        raise NoIdentity("it is in memory and was opened by a file: URI, by which other connections may open it too")


def _connect_arguments_of(dialect: Dialect, pool: Pool | None) -> tuple[str, ...] | None:
    """Give the texts that SQLAlchemy's own ``connect`` passes to the driver; None where it is not what connects."""
    given = _sqlalchemy.connect_arguments_of(pool)
    events: Any = getattr(dialect, "dispatch", None)
    others = () if events is None else [each for each in events.do_connect if not hasattr(each, "querycache_listens")]
    if given is None or others:
        return None
    values = (*given[0], *given[1].values())
    return tuple(text_of(value) for value in values if isinstance(value, (str, bytes)))


def watched_file_of(dialect: Dialect, pool: Pool | None) -> FileWatch | None:
    """Watch the path at which an engine's connections open their file; None where that is not surely its first argument."""
    arguments = _connect_arguments_of(dialect, pool)
    path = arguments[0] if arguments else ""
    if path.startswith("file:"):
        path = unquote(urlsplit(path).path)
    return None if path in ("", _MEMORY) else FileWatch(path)


def _memory_identity_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> str:
    """Draw a random name and leave it with the connection, as a function of SQL's that later questions find."""
    connection: Any = dbapi_connection
    if not rows_of(connection, f"SELECT 1 FROM pragma_function_list WHERE name = '{_IDENTITY_FUNCTION}'"):
        identity = f"sqlite-memory:{secrets.token_hex(16)}"
        connection.create_function(_IDENTITY_FUNCTION, 0, lambda: identity)
    ((said,),) = rows_of(connection, f"SELECT {_IDENTITY_FUNCTION}()")
    return text_of(said)


def survey_of(dialect: Dialect, dbapi_connection: DBAPIConnection) -> Survey:
    """Read the schema of the main database, and the names that temporary and attached ones add."""
    if _is_too_old(dialect):
        return build_survey(tables=())
    main, temporary = _schema_of(dbapi_connection, _MAIN), _schema_of(dbapi_connection, "temp")
    attached = [text_of(name) for (name,) in rows_of(dbapi_connection, _ATTACHED_SQL)]
    functions = {text_of(name) for (name,) in rows_of(dbapi_connection, _FUNCTIONS_SQL)}
    columns = rows_of(dbapi_connection, _COLUMNS_SQL)
    return build_survey(
        tables=[
            *_tables_of(main, firing=_firing_of(*main, *temporary)),
            *(Table(("temp", row[1]), "temporary table") for row in temporary if row[0] in ("table", "view")),
            *(
                Table((schema, row[1]), "attached table")
                for schema in attached
                for row in _schema_of(dbapi_connection, schema)
                if row[0] in ("table", "view")
            ),
        ],
        foreign_keys=_foreign_keys_of(dbapi_connection, columns),
        user_functions=functions - _HARMLESS_FUNCTIONS,
        columns=[_column_of(row) for row in columns],
        views=[_view_of(row) for row in main if row[0] == "view"],
    )


def _schema_of(dbapi_connection: DBAPIConnection, schema: str) -> list[Row]:
    quoted = schema.replace('"', '""')
    columns = "type, lower(name), lower(tbl_name), rootpage, lower(sql)"
    return rows_of(dbapi_connection, f'SELECT {columns} FROM "{quoted}".sqlite_master')


def _firing_of(*rows: Row) -> set[str]:
    """Name the tables with triggers, and those whose own constraints say ON CONFLICT REPLACE.

    A plain INSERT into the latter deletes other rows. The text is searched roughly: comments may stand anywhere in it.
    """
    triggers = {row[2] for row in rows if row[0] == "trigger"}
    replacing = {row[2] for row in rows if row[0] == "table" and "conflict" in row[4] and "replace" in row[4]}
    return triggers | replacing


def _tables_of(rows: list[Row], firing: set[str]) -> list[Table]:
    virtual = tuple(row[1] for row in rows if row[0] == "table" and not row[3])
    shadows = tuple(f"{name}_" for name in virtual)
    return [
        Table((_MAIN, name), _kind_of(kind, name, virtual, shadows), fires=name in firing)
        for kind, name, *_ in rows
        if kind in ("table", "view") and not name.startswith("sqlite_")
    ]


def _kind_of(kind: str, name: str, virtual: tuple[str, ...], shadows: tuple[str, ...]) -> Kind:
    if kind == "view":
        return "view"
    if name in virtual:
        return "virtual table"
    return "shadow table" if name.startswith(shadows) else "table"


def _view_of(row: Row) -> View:
    created = _CREATE_VIEW.match(text_of(row[4]))
    if created is None:
        return View((_MAIN, row[1]), obstacle="was made by a text that is not understood")
    return View((_MAIN, row[1]), text=text_of(row[4])[created.end() :])


def _column_of(row: Row) -> Column:
    table, name, declared, sql, is_generated, _ = row
    kind = _kind_of_declared(text_of(declared).upper())
    if kind == "text" and len(_COLLATE.findall(text_of(sql))) != len(_COLLATE_BINARY.findall(text_of(sql))):
        kind = ""
    return Column((_MAIN, text_of(table)), text_of(name), kind, is_computed=bool(is_generated))


def _kind_of_declared(declared: str) -> ColumnKind:
    """Tell how the affinity that a declared type gives a column makes it compare; sqlite.org/datatype3.html, 3.1.

    REAL makes two large integers one. A column without a type keeps numbers and their texts apart.
    """
    if "INT" in declared:
        return "int"
    if any(part in declared for part in ("CHAR", "CLOB", "TEXT")):
        return "text"
    if not declared or any(part in declared for part in ("BLOB", "REAL", "FLOA", "DOUB")):
        return ""
    return "int"


def _foreign_keys_of(dbapi_connection: DBAPIConnection, columns: Iterable[Row]) -> list[ForeignKey]:
    rows = rows_of(dbapi_connection, _FOREIGN_KEYS_SQL)
    if not rows:
        return []
    computing: set[str] = set()
    primary: defaultdict[str, list[str]] = defaultdict(list)
    for table, column, _, _, is_generated, in_key in columns:
        name = text_of(table).lower()
        computing.update([name] if is_generated else ())
        primary[name].extend([text_of(column)] if in_key else ())
    keys: defaultdict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        keys[text_of(row[0]), row[1]].append(row)
    return [_foreign_key_of(parts, primary, computing) for parts in keys.values()]


def _foreign_key_of(parts: list[Row], primary: dict[str, list[str]], computing: set[str]) -> ForeignKey:
    """Join the columns of one constraint; one that names no parent columns means the parent's primary key."""
    child, _, parent, _, _, on_update, on_delete = (text_of(value) for value in parts[0])
    named = [text_of(row[4]) for row in parts if row[4] is not None] or primary.get(parent.lower(), [])
    return ForeignKey(
        child=(_MAIN, child),
        parent=(_MAIN, parent),
        child_columns=tuple(text_of(row[3]) for row in parts),
        parent_columns=() if parent.lower() in computing else tuple(named),
        on_delete=_ACTIONS.get(on_delete.upper(), "CASCADE"),
        on_update=_ACTIONS.get(on_update.upper(), "CASCADE"),
    )
