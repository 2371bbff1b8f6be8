"""Is a text one of the commands that are told by their words alone?

Transaction control, settings of the connection, questions to the server: each is recognised by a closed list of whole
statements. What is on no list has no answer here. Reads cleaned text only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

CommandKind: TypeAlias = Literal["savepoint", "begin", "commit", "rollback", "session", "harmless"]

_ALL: Final = ("postgresql", "mysql", "mariadb", "sqlite")
_MYSQL: Final = ("mysql", "mariadb")

_NAME: Final = r"""(?:[\w$]+|"(?:[^"]|"")*"|`(?:[^`]|``)*`|'\$')"""
_DOTTED: Final = rf"{_NAME}(?: ?\. ?{_NAME})?"
_CHAIN: Final = r"(?: AND(?: NO)? CHAIN)?"

# Without parentheses there is neither a function nor a subquery in it.
_SIMPLE: Final = r"[^()]*"

_QUIET_PRAGMAS: Final = (
    "collation_list|compile_options|database_list|foreign_key_check|foreign_key_list|function_list|index_info|index_list"
    "|index_xinfo|integrity_check|module_list|pragma_list|quick_check|table_info|table_list|table_xinfo"
)
_READABLE_PRAGMAS: Final = (
    "application_id|auto_vacuum|busy_timeout|cache_size|data_version|defer_foreign_keys|encoding|foreign_keys"
    "|freelist_count|journal_mode|journal_size_limit|locking_mode|max_page_count|mmap_size|page_count|page_size"
    "|query_only|read_uncommitted|recursive_triggers|schema_version|secure_delete|synchronous|temp_store|user_version"
    "|wal_autocheckpoint"
)
_CONNECTION_PRAGMAS: Final = (
    "automatic_index|busy_timeout|cache_size|cache_spill|case_sensitive_like|cell_size_check|defer_foreign_keys"
    "|foreign_keys|ignore_check_constraints|journal_size_limit|legacy_alter_table|locking_mode|mmap_size|query_only"
    "|read_uncommitted|recursive_triggers|reverse_unordered_selects|secure_delete|synchronous|temp_store|threads"
    "|trusted_schema|wal_autocheckpoint"
)

# A BEGIN that names an isolation level or takes a snapshot is on no list: it changes what the transaction reads.
# PREPARE TRANSACTION and COMMIT PREPARED neither: what they commit is not (only) this connection's own change.
_COMMANDS: Final[tuple[tuple[tuple[str, ...], CommandKind, str], ...]] = (
    (_ALL, "savepoint", rf"SAVEPOINT {_NAME}"),
    (_ALL, "savepoint", rf"RELEASE (?:SAVEPOINT )?{_NAME}"),
    (_ALL, "savepoint", rf"ROLLBACK (?:WORK |TRANSACTION )?TO (?:SAVEPOINT )?{_NAME}"),
    (("postgresql",), "begin", r"(?:BEGIN(?: WORK| TRANSACTION)?|START TRANSACTION)(?: READ (?:ONLY|WRITE))?"),
    (_MYSQL, "begin", r"BEGIN(?: WORK)?|START TRANSACTION(?: READ (?:ONLY|WRITE))?"),
    (("sqlite",), "begin", r"BEGIN(?: (?:DEFERRED|IMMEDIATE|EXCLUSIVE))?(?: TRANSACTION)?"),
    (("postgresql", "sqlite"), "commit", rf"(?:COMMIT|END)(?: WORK| TRANSACTION)?{_CHAIN}"),
    (_MYSQL, "commit", rf"COMMIT(?: WORK)?{_CHAIN}(?:(?: NO)? RELEASE)?"),
    (("postgresql",), "rollback", rf"(?:ROLLBACK|ABORT)(?: WORK| TRANSACTION)?{_CHAIN}"),
    (_MYSQL, "rollback", rf"ROLLBACK(?: WORK)?{_CHAIN}(?:(?: NO)? RELEASE)?"),
    (("sqlite",), "rollback", r"ROLLBACK(?: TRANSACTION)?"),
    # SET CONSTRAINTS may run deferred triggers.
    (("postgresql",), "session", rf"SET (?!CONSTRAINTS\b){_SIMPLE}|RESET {_DOTTED}|DISCARD \w+"),
    # Accounts and what counts for other connections are not this connection's settings; SET STATEMENT runs another one.
    (_MYSQL, "session", rf"SET (?!.*\b(?:GLOBAL|PERSIST|PERSIST_ONLY|PASSWORD|STATEMENT|DEFAULT ROLE)\b){_SIMPLE}"),
    (_MYSQL, "session", rf"USE {_NAME}"),
    (("sqlite",), "session", rf"(?:ATTACH|DETACH) (?:DATABASE )?(?:{_NAME} AS )?{_NAME}"),
    (("sqlite",), "session", rf"PRAGMA (?:{_NAME}\.)?(?:{_CONNECTION_PRAGMAS}) ?(?:= ?[\w$'+-]+|\( ?[\w$'+-]+ ?\))"),
    (("sqlite",), "harmless", rf"PRAGMA (?:{_NAME}\.)?(?:{_QUIET_PRAGMAS})(?: ?= ?{_NAME}| ?\( ?{_NAME} ?\))?"),
    (("sqlite",), "harmless", rf"PRAGMA (?:{_NAME}\.)?(?:{_READABLE_PRAGMAS})"),
    (("postgresql",), "harmless", rf"SHOW {_SIMPLE}|(?:UN)?LISTEN (?:{_NAME}|\*)|NOTIFY {_NAME}(?: ?, ?'\$')?"),
    (_MYSQL, "harmless", rf"SHOW {_SIMPLE}|(?:DESCRIBE|DESC|EXPLAIN) {_DOTTED}(?: {_NAME})?"),
)

_EXPLAIN: Final = MappingProxyType(
    {
        "postgresql": re.compile(r"EXPLAIN(?: VERBOSE)?(?: ?\([^()]*\))? ", re.IGNORECASE),
        "mysql": re.compile(r"(?:EXPLAIN|DESCRIBE|DESC) (?:EXTENDED |PARTITIONS |FORMAT ?= ?\w+ )?", re.IGNORECASE),
        "mariadb": re.compile(r"(?:EXPLAIN|DESCRIBE|DESC) (?:EXTENDED |PARTITIONS |FORMAT ?= ?\w+ )?", re.IGNORECASE),
        "sqlite": re.compile(r"EXPLAIN (?:QUERY PLAN )?", re.IGNORECASE),
    }
)


# Settings under which the names of tables mean the same as before.
_PLAIN_SETTINGS: Final = MappingProxyType(
    {
        "postgresql": r"(?:SET|RESET) (?:SESSION |LOCAL )?(?:TRANSACTION\b|CHARACTERISTICS\b|TIME ZONE\b|[\w$]+ ?\. ?[\w$]+\b"
        r"|(?:application_name|bytea_output|client_encoding|client_min_messages|cursor_tuple_fraction|datestyle"
        r"|default_statistics_target|default_transaction_\w+|effective_\w+|enable_\w+|extra_float_digits|geqo\w*"
        r"|idle_in_transaction_session_timeout|idle_session_timeout|intervalstyle|jit\w*|lc_\w+|lock_timeout|log_\w+"
        r"|maintenance_work_mem|max_parallel_\w+|parallel_\w+|random_page_cost|seq_page_cost|statement_timeout"
        r"|synchronous_commit|temp_buffers|timezone|transaction_\w+|work_mem)\b).*",
        "mysql": r"SET (?:@[\w$]+ ?:?=|(?:(?:SESSION|LOCAL) |@@(?:(?:SESSION|LOCAL)\.)?)?(?:TRANSACTION\b|(?:autocommit"
        r"|foreign_key_checks|group_concat_max_len|innodb_lock_wait_timeout|interactive_timeout|lock_wait_timeout"
        r"|max_execution_time|max_statement_time|net_\w+|optimizer_\w+|time_zone|transaction_\w+|tx_\w+|unique_checks"
        r"|wait_timeout)\b))[^,]*",
        "sqlite": r".*",
    }
)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of the application's own that a text sets; ``is_local``: until the transaction ends."""

    name: str
    is_local: bool


# A value in a cleaned text: a literal, a placeholder, a number, a word.
_VALUE: Final = r"(?:'\$'|[+-]?[\w.]+)"
_SET_VARIABLE: Final = MappingProxyType(
    {
        "postgresql": re.compile(
            rf"SET (?:SESSION |(LOCAL) )?(\w+ ?\. ?\w+) ?(?:=|TO\b) ?(?!DEFAULT\b){_VALUE}", re.IGNORECASE
        ),
        "mysql": re.compile(rf"SET ()@(\w+) ?:?= ?{_VALUE}", re.IGNORECASE),
    }
)
# As its author wrote it, for the name stands in a literal: the one that a setting of the database's own never has, with a dot.
_SET_CONFIG: Final = re.compile(
    r"\s*SELECT\s+(?:pg_catalog\.)?set_config\s*\(\s*'(\w+\.\w+)'\s*,"
    r"\s*(?:'[^'\\]*'|%s|%\(\w+\)s|\$\d+|:\w+)(?:\s*::\s*\w+)?\s*,\s*(true|false)\s*\)\s*(?:AS\s+\w+\s*)?;?\s*",
    re.IGNORECASE,
)


def variable_set_by(sql: str, cleaned: str, dialect_name: str) -> Variable | None:
    """Return the variable that a text sets, where it does nothing else. ``cleaned``: the text once it was cleaned."""
    pattern = _SET_VARIABLE.get("mysql" if dialect_name in _MYSQL else dialect_name)
    found = None if pattern is None else pattern.fullmatch(cleaned)
    if found is not None:
        return Variable(found[2].replace(" ", "").lower(), bool(found[1]))
    configured = _SET_CONFIG.fullmatch(sql) if dialect_name == "postgresql" else None
    return None if configured is None else Variable(configured[1].lower(), configured[2].lower() == "true")


def keeps_names(text: str, dialect_name: str) -> bool:
    """Tell whether the names of tables mean the same after a cleaned text of the kind "session" as before it."""
    pattern = _PLAIN_SETTINGS.get("mysql" if dialect_name in _MYSQL else dialect_name)
    return pattern is not None and re.fullmatch(pattern, text, re.IGNORECASE | re.DOTALL) is not None


def command_kind_of(text: str, dialect_name: str) -> CommandKind | None:
    """Tell what a cleaned text commands; None where it is on no list."""
    return next((kind for kind, pattern in _known(dialect_name) if pattern.fullmatch(text)), None)


def explained_statement_of(text: str, dialect_name: str) -> str | None:
    """Return the statement that an EXPLAIN in front of it keeps from running; None where there is no EXPLAIN.

    The caller makes sure that no ANALYZE stands in the text: with it, the statement runs.
    """
    pattern = _EXPLAIN.get(dialect_name)
    found = None if pattern is None else pattern.match(text)
    return None if found is None else text[found.end() :]


def _known(dialect_name: str) -> Iterator[tuple[CommandKind, re.Pattern[str]]]:
    return ((kind, pattern) for names, kind, pattern in _PATTERNS if dialect_name in names)


_PATTERNS: Final = tuple((names, kind, re.compile(text, re.IGNORECASE | re.DOTALL)) for names, kind, text in _COMMANDS)
