"""What does an SQL statement do that was given as text?

Only what is positively known is anything else than "unknown": the text is cleaned by the lexical rules of its own
database, commands are told by a closed list, queries and data changes by sqlglot's parse, whose every node must be of a
kind that is understood here. In doubt a table counts as read or written: naming one too many costs a miss.

Never looks at the database: views, triggers, cascades, what a function is, and what an operator or cast may call are for
the caller to know. Without sqlglot (the extra ``rawsql``) every query and data change is "unknown".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from querycache.statements.rawcommands import command_kind_of, explained_statement_of, keeps_names, variable_set_by
from querycache.statements.rawtext import LITERAL, CleanText, clean_text

if TYPE_CHECKING:
    from sqlglot import Expr

TableName: TypeAlias = tuple[str | None, str]
"""Schema and name in lower case, without quotes; the schema is None where none was written."""

Kind: TypeAlias = Literal["read", "write", "savepoint", "begin", "commit", "rollback", "session", "harmless", "unknown"]
"""What a statement surely does.

"read": nothing but to read (and perhaps lock) rows. "write": it changes rows of ``writes``, and nothing else.
"commit": it commits this connection's transaction, and nothing else. "session": it changes what later statements of the
connection mean. "harmless": none of it. "unknown": anything may happen.
"""

MAX_LENGTH: Final = 50_000
"""Longer texts are not looked at: "unknown"."""

_REMEMBERED: Final = 512

_SQLGLOT_DIALECTS: Final = MappingProxyType(
    {"sqlite": "sqlite", "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql"}
)
_MYSQL: Final = ("mysql", "mariadb")


@dataclass(frozen=True, slots=True)
class TextEffect:
    """What a text does. ``functions`` are names in lower case, without a schema; some keywords may be among them.

    ``column_lists``: those of them that are no functions, but names of CTEs and aliases with the names of their columns.
    ``deletes``: rows may be deleted (or replaced). ``locks``: rows are locked by a read. ``is_plain``: a SELECT that has rows
    only where the tables that it reads have some. ``keeps_names``: the names of tables mean the same after a setting.
    ``variable``: what is set is this variable of the application's own; ``is_local``: until the transaction ends.
    """

    kind: Kind
    reads: frozenset[TableName] = frozenset()
    writes: frozenset[TableName] = frozenset()
    functions: frozenset[str] = frozenset()
    column_lists: frozenset[str] = frozenset()
    deletes: bool = False
    locks: bool = False
    is_plain: bool = False
    keeps_names: bool = True
    variable: str | None = None
    is_local: bool = False


_UNKNOWN: Final = TextEffect("unknown")

# Built in, and more than a value comes of them: they run SQL of their own, set what later statements mean, or write.
_MIGHTY_FUNCTIONS: Final = MappingProxyType(
    {
        "postgresql": re.compile(
            r"set_config|(?:query|table|cursor|schema|database)_to_xml\w*|ts_stat|ts_rewrite|dblink\w*|lo_\w+|lowrite"
            r"|pg_import_system_collations|pg_logical_\w+|pg_replication_\w+|pg_extension_config_dump"
        ),
        "sqlite": re.compile(r"load_extension|writefile|edit|eval|fts3_tokenizer"),
    }
)

# fmt: off
# None of these stands in a statement that surely only reads, unless as a name; a parse that says otherwise is not believed.
_NEVER_IN_A_READ: Final = frozenset({
    "alter", "call", "copy", "create", "delete", "do", "drop", "dumpfile", "execute", "grant", "insert", "into", "merge",
    "outfile", "truncate",
})
# Words that a parse may take for a table where another grammar is at work.
_NEVER_A_TABLE: Final = frozenset({
    "as", "delayed", "from", "high_priority", "ignore", "into", "join", "lateral", "low_priority", "on", "only", "or",
    "quick", "rows", "select", "set", "straight_join", "table", "unnest", "using", "values", "where",
})
# fmt: on

_REPLACE: Final = re.compile(r"REPLACE(?= )", re.IGNORECASE)
_MODIFIERS: Final = re.compile(
    r"(INSERT|UPDATE|DELETE)(?: (?:LOW_PRIORITY|DELAYED|HIGH_PRIORITY|QUICK|IGNORE)\b)+(?= )", re.IGNORECASE
)


def is_mighty(function: str, dialect: str) -> bool:
    """Tell whether more than a value comes of a function that is built in, by its name in lower case."""
    pattern = _MIGHTY_FUNCTIONS.get(dialect)
    return pattern is not None and pattern.fullmatch(function) is not None


@lru_cache(_REMEMBERED)
def effect_of_text(sql: str, dialect: str) -> TextEffect:
    """Tell what ``sql`` does on a database of SQLAlchemy's dialect name ``dialect``."""
    if dialect not in _SQLGLOT_DIALECTS or len(sql) > MAX_LENGTH:
        return _UNKNOWN
    cleaned = clean_text(sql, dialect)
    if cleaned is None:
        return _UNKNOWN
    variable = variable_set_by(sql, cleaned.text, dialect)
    if variable is not None:
        return TextEffect("session", functions=cleaned.functions, variable=variable.name, is_local=variable.is_local)
    return _effect_of(cleaned, cleaned.text, dialect)


def _effect_of(cleaned: CleanText, text: str, dialect: str) -> TextEffect:
    explained = explained_statement_of(text, dialect)
    if explained is not None and not cleaned.words.isdisjoint(("analyze", "analyse")):
        return _UNKNOWN
    command = command_kind_of(text, dialect)
    if command is not None:
        return TextEffect(command, keeps_names=command != "session" or keeps_names(text, dialect))
    if explained is None:
        return _effect_of_sql(cleaned, text, dialect)
    effect = _effect_of(cleaned, explained, dialect)
    planned = effect.kind in ("read", "write")
    return TextEffect("harmless", functions=effect.functions) if planned else _UNKNOWN


def _effect_of_sql(cleaned: CleanText, text: str, dialect: str) -> TextEffect:
    if any(is_mighty(name, dialect) for name in cleaned.functions):
        return _UNKNOWN
    replaces = False
    if dialect != "postgresql":
        text, count = _REPLACE.subn("INSERT", text, count=1) if _REPLACE.match(text) else (text, 0)
        replaces = count > 0
    if dialect in _MYSQL:
        if ":=" in text:
            return _UNKNOWN
        text = _MODIFIERS.sub(r"\1", text, count=1) if _MODIFIERS.match(text) else text
    try:
        return _effect_of_tree(cleaned, text, dialect, replaces)
    except _NotUnderstood:
        return _UNKNOWN


class _NotUnderstood(Exception):
    """A part of the statement is of no kind that is known."""


def _effect_of_tree(cleaned: CleanText, text: str, dialect: str, replaces: bool) -> TextEffect:
    if not _STARTS.match(text):
        # Nothing else is on the list; and sqlglot would warn about what it does not know.
        raise _NotUnderstood
    root = _parse(text, dialect)
    statements = list(_statements_of(root))
    changes = [statement for statement in statements if statement.key in _CHANGES]
    if not changes and not cleaned.words.isdisjoint(_NEVER_IN_A_READ):
        raise _NotUnderstood
    targets = [table for change in changes for table in _targets_of(change, dialect)]
    sources = [table for table in _tables_of(root) if not _is_only_written(table, targets)]
    return TextEffect(
        "write" if changes else "read",
        reads=frozenset(_names_of((table for table in sources if not _is_cte(table, dialect)), dialect)),
        writes=frozenset(_names_of(targets, dialect)),
        functions=cleaned.functions,
        column_lists=frozenset(_column_lists_of(root, cleaned.text)),
        deletes=replaces or any(map(_deletes, changes)),
        locks=any(node.key == "lock" for node in root.walk()),
        is_plain=root.key == "select" and not cleaned.functions and not any(map(_is_another_source, root.walk())),
    )


_STARTS: Final = re.compile(r"(?:\( ?)*(?:SELECT|WITH|VALUES|TABLE|INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)

# Node kinds by sqlglot's own keys: classes come and go with its releases, and a missing one must not be an error here.
_CHANGES: Final = frozenset({"insert", "update", "delete", "merge"})
_QUERIES: Final = frozenset({"select", "union", "except", "intersect", "subquery", "values"})
_SOURCES: Final = frozenset({"table", "subquery", "lateral", "unnest", "values"})
# fmt: off
_REFUSED: Final = frozenset({
    "alter", "analyze", "attach", "cache", "cluster", "command", "commit", "copy", "create", "describe", "detach", "drop",
    "grant", "into", "kill", "loaddata", "pragma", "propertyeq", "refresh", "revoke", "rollback", "set", "setitem",
    "show", "transaction", "truncatetable", "uncache", "use",
})
# fmt: on


def _parse(text: str, dialect: str) -> Expr:
    try:
        import sqlglot
    except ImportError as error:
        raise _NotUnderstood from error
    try:
        found = sqlglot.parse(text, dialect=_SQLGLOT_DIALECTS[dialect], error_level=sqlglot.ErrorLevel.IMMEDIATE)
    # Besides its own errors, a parser that was never meant for this text may stumble.
    except (
        sqlglot.errors.SqlglotError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise _NotUnderstood from error
    if len(found) != 1 or found[0] is None:
        raise _NotUnderstood
    return found[0]


def _statements_of(root: Expr) -> Iterator[Expr]:
    """Return the statement itself and the changes in its CTEs, after a look at every node."""
    _check_statement(root)
    yield root
    for node in root.walk():
        _check_node(node)
        if node.key == "cte" and node.this.key in _CHANGES:
            yield node.this


def _check_node(node: Expr) -> None:
    if node.key in _REFUSED:
        raise _NotUnderstood
    if node.key == "cte":
        _check_statement(node.this)
    elif node.key in ("from", "join") and _key_of(node.this) not in _SOURCES:
        raise _NotUnderstood
    elif node.key == "table":
        _check_table(node)
    elif node.key == "in" and node.args.get("field") is not None and not node.args["field"].is_number:
        # SQLite reads a table that is named there; a number stands for a placeholder that SQLAlchemy expands.
        raise _NotUnderstood
    elif node.key in _CHANGES and node.parent is not None and node.parent.key not in ("cte", "when"):
        raise _NotUnderstood


def _check_statement(node: Expr) -> None:
    while _key_of(node) == "subquery":
        node = node.this
    if _key_of(node) not in _QUERIES and _key_of(node) not in _CHANGES:
        raise _NotUnderstood


def _key_of(node: object) -> str | None:
    return getattr(node, "key", None)


def _check_table(table: Expr) -> None:
    if not _is_named(table):
        from sqlglot.expressions import Func

        if not isinstance(table.this, Func) and not table.args.get("rows_from"):
            raise _NotUnderstood
        return
    if LITERAL in (table.name, table.args.get("db") and table.args["db"].name):
        # SQLite, and MySQL by a setting, take a literal for a name there; what it said is gone.
        raise _NotUnderstood
    if not table.this.args.get("quoted") and table.name.lower() in _NEVER_A_TABLE:
        raise _NotUnderstood


def _is_named(table: Expr) -> bool:
    return _key_of(table.this) == "identifier"


def _tables_of(root: Expr) -> Iterator[Expr]:
    """Return what stands for tables in FROM and the like; FOR UPDATE OF names aliases, INDEXED BY an index."""
    for node in root.walk():
        if node.key == "table" and _is_named(node) and node.arg_key != "indexed" and _key_of(node.parent) != "lock":
            yield node


def _column_lists_of(root: Expr, text: str) -> Iterator[str]:
    """Name the aliases with columns; not one that stands before a parenthesis elsewhere, too."""
    lists = Counter(node.name.lower() for node in root.walk() if node.key == "tablealias" and node.args.get("columns"))
    for name, count in lists.items():
        if len(re.findall(rf'(?<![\w$]){re.escape(name)}["`]? ?\(', text, re.IGNORECASE)) == count:
            yield name


def _is_another_source(node: Expr) -> bool:
    return node.key in _QUERIES | _SOURCES - {"table"} and node.parent is not None


def _targets_of(change: Expr, dialect: str) -> Iterator[Expr]:
    """Return the tables that a change writes, or more of those that it names."""
    target = change.this.this if _key_of(change.this) == "schema" else change.this
    if _key_of(target) != "table" or not _is_named(target) or change.args.get("alternative") == "ROLLBACK":
        raise _NotUnderstood
    yield target
    if dialect in _MYSQL:
        yield from _joined_targets_of(change)
    elif target.args.get("joins") or change.args.get("tables"):
        raise _NotUnderstood


def _joined_targets_of(change: Expr) -> Iterator[Expr]:
    # MySQL may write several tables that are joined, and names them by their aliases: all that no subquery reads.
    tables = [table for table in _tables_of(change) if table.find_ancestor(*_inner_queries()) is None]
    aliases = {table.alias for table in tables if table.alias}
    for table in tables:
        if table.arg_key != "tables" or table.args.get("db") or table.name not in aliases:
            yield table


def _inner_queries() -> tuple[type[Expr], ...]:
    from sqlglot.expressions import Select, SetOperation

    return Select, SetOperation


def _is_only_written(table: Expr, targets: Iterable[Expr]) -> bool:
    # What stands between DELETE and FROM is named there once more.
    return table.arg_key == "tables" or any(table is target for target in targets)


def _deletes(change: Expr) -> bool:
    return change.key in ("delete", "merge") or change.args.get("alternative") == "REPLACE"


def _is_cte(table: Expr, dialect: str) -> bool:
    """Tell whether a name surely stands for a CTE: one of its scope, seen from where it stands."""
    if table.args.get("db"):
        return False
    name = _spelled(table.this, dialect)
    below: Expr = table
    node = table.parent
    while node is not None:
        if node.key == "with" and name in _earlier_names(node, below, dialect):
            return True
        above = node.args.get("with_")
        if above is not None and above is not below and name in _names_in(above.expressions, dialect):
            return True
        below, node = node, node.parent
    return False


def _earlier_names(clause: Expr, inside: Expr, dialect: str) -> set[str]:
    """Return the CTEs that one of a WITH clause sees: those before it, and itself where it recurs."""
    ctes = list(clause.expressions)
    position = next(index for index, cte in enumerate(ctes) if cte is inside)
    return _names_in(ctes[: position + bool(clause.args.get("recursive"))], dialect)


def _names_in(ctes: Iterable[Expr], dialect: str) -> set[str]:
    return {_spelled(cte.args["alias"].this, dialect) for cte in ctes}


def _spelled(identifier: Expr, dialect: str) -> str:
    """Return a name such that two are equal only where they are for every server of the kind."""
    if dialect in _MYSQL or identifier.args.get("quoted"):
        return identifier.name
    # Servers fold ASCII letters, not all of them others too.
    return identifier.name.encode().lower().decode()


def _names_of(tables: Iterable[Expr], dialect: str) -> Iterator[TableName]:
    for table in tables:
        schema = table.args.get("db")
        name = (None if schema is None else schema.name.lower(), table.name.lower())
        if name != (None, "dual") or dialect not in _MYSQL:
            yield name
