"""Under which names does a row of a table go, for those who read it and for those who change it?

Promises that two values which a database may hold to be equal in a column never get two different value tags there, as
far as they get one at all: a value or a type that is not positively known has none, and whoever meets it widens.
Never shows a text value in the clear, never asks a database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote
from uuid import UUID

from sqlalchemy import Column, Table, UniqueConstraint, types
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from querycache._types import Tag
from querycache.errors import ConfigurationError

TableName: TypeAlias = str
"""Schema and name of a table, folded and encoded, as ``table_name_of`` gives it."""

Canonical: TypeAlias = Callable[[object], str | None]
Kind: TypeAlias = Literal["int", "uuid", "text"]

Named: TypeAlias = Sequence[str | Sequence[str]]
"""Tag columns as a user names them: a column by its name in the database, a group of columns by a sequence of names."""

MAX_TAG_COLUMNS: Final = 16
FORMAT: Final = "2"
"""Changes with the meaning of tags: who makes others than we do is of another mind about every table."""

NULL_CANONICAL: Final = "!"
"""Stands for NULL among the canonical texts; no value has it."""

_MYSQL_NAMES: Final = frozenset({"mysql", "mariadb"})
_KNOWN_DIALECTS: Final = _MYSQL_NAMES | {"sqlite", "postgresql"}

# Bits that the column holds. MySQL without strict mode stores the nearest value that fits instead of refusing.
_INTEGER_BITS: Final[Mapping[type[Any], int]] = {
    types.Boolean: 8,
    types.BOOLEAN: 8,
    mysql.TINYINT: 8,
    types.SmallInteger: 16,
    types.SMALLINT: 16,
    mysql.SMALLINT: 16,
    mysql.MEDIUMINT: 24,
    types.Integer: 32,
    types.INTEGER: 32,
    mysql.INTEGER: 32,
    types.BigInteger: 64,
    types.BIGINT: 64,
    mysql.BIGINT: 64,
}
_UUID_TYPES: Final = frozenset({types.Uuid, types.UUID, postgresql.UUID})
_TEXT_TYPES: Final = frozenset(
    {types.String, types.Text, types.Unicode, types.UnicodeText, types.VARCHAR, types.TEXT, mysql.VARCHAR, mysql.TEXT}
)
_MYSQL_TEXT_BYTES: Final = 65535


def table_name_of(
    table: Table, default_schema: str | None, schema_map: Mapping[str | None, str | None] | None = None
) -> TableName:
    """Return the canonical name of a table, after ``schema_translate_map``."""
    schema = table.schema
    if schema_map and schema in schema_map:
        schema = schema_map[schema]
    return name_of_parts(schema or default_schema or "main", table.name)


def name_of_parts(schema: str, name: str) -> TableName:
    """Return the canonical name of a table that is known by schema and name."""
    return f"{_encode(schema.casefold())}.{_encode(name.casefold())}"


def kind_of(column_type: TypeEngine[Any], dialect: Dialect) -> Kind | None:
    """Tell how values of a type are compared; None where equality is not positively known (unsafe)."""
    if dialect.name not in _KNOWN_DIALECTS:
        return None
    variant = _variant_of(column_type, dialect)
    if type(variant) in _INTEGER_BITS:
        return "int"
    if type(variant) in _UUID_TYPES:
        return "uuid"
    return "text" if type(variant) in _TEXT_TYPES and _compares_bytes(variant, dialect) else None


def canonical_value_of(column_type: TypeEngine[Any], dialect: Dialect) -> Canonical | None:
    """Return what turns a value of the type, after its bind processor, into canonical text; None for an unsafe type.

    The function answers None for a value that is not of the column's own Python type or that the column cannot hold
    unchanged: the caller widens. NULL is the caller's (``NULL_CANONICAL``).
    """
    kind = kind_of(column_type, dialect)
    if kind is None:
        return None
    if kind == "uuid":
        return _canonical_uuid
    variant = _variant_of(column_type, dialect)
    return _integer_canonical(variant, dialect) if kind == "int" else _text_canonical(variant, dialect)


def tag_columns_of(table: Table, dialect: Dialect) -> tuple[Column[Any], ...]:
    """Return the columns of a table whose values have tags where a user names none.

    Primary key, foreign keys, unique, indexed, others; each class in the table's order; at most 16.
    """
    return _tag_columns(table, dialect)


def key_columns_of(table: Table, dialect: Dialect) -> tuple[Column[Any], ...]:
    """Return the columns of the ``T|pk=`` tag: the whole primary key, or nothing where a type in it is unsafe."""
    columns = tuple(table.primary_key.columns)
    return columns if all(kind_of(column.type, dialect) for column in columns) else ()


def value_groups_of(table: Table, dialect: Dialect, named: Named | None = None) -> tuple[tuple[Column[Any], ...], ...]:
    """Return the groups of columns with a ``T|c=`` tag, in order of preference; one column alone is a group, too.

    ``named`` are a user's, instead of the tag columns; the columns of a composite primary key come after them. A group
    with a column of an unsafe type is left out, and the primary key, which ``T|pk=`` covers.
    ConfigurationError for a name that the table does not have.
    """
    return _value_groups(table, dialect, None if named is None else _frozen(named))


def fingerprint_of(table: Table, dialect: Dialect, named: Named | None = None) -> bytes:
    """Return 8 bytes that differ where two processes know different tag columns for a table, or make tags differently."""
    return _fingerprint(table, dialect, None if named is None else _frozen(named))


def why_not_named(named: object) -> str | None:
    """Say why something does not name tag columns; None where it does, as far as that shows without the table."""
    if isinstance(named, str) or not isinstance(named, Sequence):
        return "is no list of columns"
    for group in named:
        names = (group,) if isinstance(group, str) else group
        if not isinstance(names, list | tuple) or not names or not all(isinstance(name, str) for name in names):
            return f"{group!r} is neither the name of a column nor a group of such names"
        if len(set(names)) < len(names):
            return f"the group {tuple(names)!r} names a column twice"
    return None


def bind_tag(bind: str) -> Tag:
    """Name everything in a bind."""
    return f"{_encode(bind)}/".encode()


def bind_tag_of(tag: Tag) -> Tag:
    """Name everything in the bind that a tag is of."""
    return tag[: tag.index(b"/") + 1]


def table_tag(bind: str, table: TableName) -> Tag:
    """Name a whole table, ``T!``: for changes whose rows are not known one by one."""
    return f"{_encode(bind)}/{table}!".encode()


def schema_tag(bind: str) -> Tag:
    """Name what the catalog of a bind says: changed by DDL."""
    return f"{_encode(bind)}/schema".encode()


def rows_tag(bind: str, table: TableName) -> Tag:
    """Name any row of a table, ``T*``: for reads that are not narrowed."""
    return f"{_encode(bind)}/{table}*".encode()


def key_tag(bind: str, table: TableName, canonicals: Sequence[str]) -> Tag:
    """Name one row by its primary key, ``T|pk=a,b``; the values in the order of ``key_columns_of``."""
    return key_tag_maker(bind, table)(canonicals)


def key_tag_maker(bind: str, table: TableName) -> Callable[[Sequence[str]], Tag]:
    """Return ``key_tag`` for one table."""
    prefix = f"{_encode(bind)}/{table}|pk="
    return lambda canonicals: (prefix + ",".join(map(_encode_canonical, canonicals))).encode()


def value_tag(bind: str, table: TableName, column_names: Sequence[str], canonicals: Sequence[str]) -> Tag:
    """Name the rows with one value in each column of a group, ``T|c=v`` or ``T|c,d=v,w``."""
    return value_tag_maker(bind, table, column_names)(canonicals)


def value_tag_maker(bind: str, table: TableName, column_names: Sequence[str]) -> Callable[[Sequence[str]], Tag]:
    """Return ``value_tag`` for one group."""
    prefix = f"{_encode(bind)}/{table}|{_encode_group(column_names)}="
    return lambda canonicals: (prefix + ",".join(map(_encode_canonical, canonicals))).encode()


def unknown_tag(bind: str, table: TableName, column_names: Sequence[str]) -> Tag:
    """Name the rows whose values in a group are not known to the writer, ``T|c=?``."""
    return f"{_encode(bind)}/{table}|{_encode_group(column_names)}=?".encode()


MEMBERS_SUFFIX: Final = b"#"


def members_tag(rows: Tag) -> Tag:
    """Name which rows another tag names, whatever they hold: ``T*#``, ``T|c=v#``.

    For reads that name, beside it, each column which they use (``column_tag``).
    """
    return rows + MEMBERS_SUFFIX


def column_tag(rows: Tag, column_name: str) -> Tag:
    """Name one column of the rows that another tag names: ``T*.d``, ``T|c=v.d``."""
    return rows + column_suffix_of(column_name)


def rows_of(tag: Tag) -> Tag:
    """Return the tag of rows of which another names the membership or a column; a tag of another kind as it is."""
    start = max(tag.find(b"*"), tag.find(b"="))
    ends = [end for end in (tag.find(b"#", start), tag.find(b".", start)) if end >= 0]
    return tag[: min(ends)] if start >= 0 and ends else tag


@lru_cache(maxsize=4096)
def column_suffix_of(column_name: str) -> bytes:
    """Return what ``column_tag`` adds; one for names that differ in case, as a database may not tell them apart."""
    return f".{_encode(column_name.lower())}".encode()


def named_tag(bind: str, region: str, name: str) -> Tag:
    """Name what a user cached under a name of his own; the name stands in it as a digest."""
    digest = hashlib.blake2b(name.encode(errors="surrogatepass"), digest_size=8).hexdigest()
    return f"{_encode(bind)}/={_encode(region)}={digest}".encode()


@lru_cache(maxsize=4096)
def _encode(text: str) -> str:
    # Names of binds, schemas, tables and columns, the same again with every read.
    return quote(text, safe="", errors="surrogatepass").replace(".", "%2E").replace("~", "%7E")


def _encode_group(names: Sequence[str]) -> str:
    # A column that is called "pk" is not the primary key.
    return "%70k" if tuple(names) == ("pk",) else ",".join(map(_encode, names))


def _encode_canonical(canonical: str) -> str:
    if canonical.isascii() and (canonical.isalnum() or canonical.removeprefix("~").isalnum()):
        return canonical
    if canonical == NULL_CANONICAL:
        return canonical
    return quote(canonical, safe="~", errors="surrogatepass").replace(".", "%2E")


def _variant_of(column_type: TypeEngine[Any], dialect: Dialect) -> Any:
    return column_type._variant_mapping.get(dialect.name, column_type)


def _compares_bytes(variant: Any, dialect: Dialect) -> bool:
    collation = variant.collation
    if dialect.name == "postgresql":
        return collation is None
    if dialect.name == "sqlite":
        return collation is None or collation.upper() == "BINARY"
    if any(getattr(variant, name, None) for name in ("charset", "ascii", "unicode", "binary", "national")):
        return False
    # A smaller character set may store "?" for what it lacks.
    return isinstance(collation, str) and collation.startswith("utf8mb4") and collation.endswith("_nopad_bin")


def _integer_canonical(variant: Any, dialect: Dialect) -> Canonical:
    # SQLite and PostgreSQL store an integer unchanged or refuse it, whatever the declared width.
    bits = _INTEGER_BITS[type(variant)] if dialect.name in _MYSQL_NAMES else 64
    unsigned = bool(getattr(variant, "unsigned", False) or getattr(variant, "zerofill", False))
    low, high = (0, 2**bits) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1))

    def canonical(value: object) -> str | None:
        number = _integer_of(value)
        return str(number) if number is not None and low <= number < high else None

    return canonical


def _integer_of(value: object) -> int | None:
    if type(value) is int or type(value) is bool:
        return int(value)
    # The size first: int(Decimal("1e999999")) would take minutes.
    if type(value) is Decimal and value.is_finite() and value.adjusted() < 20 and value == value.to_integral_value():
        return int(value)
    return None


def _canonical_uuid(value: object) -> str | None:
    if type(value) is str:
        text = value.replace("-", "").lower()
        return text if len(text) == 32 and all(digit in "0123456789abcdef" for digit in text) else None
    return value.hex if isinstance(value, UUID) else None


def _text_canonical(variant: Any, dialect: Dialect) -> Canonical:
    max_length = variant.length
    max_bytes = _MYSQL_TEXT_BYTES if dialect.name in _MYSQL_NAMES else None

    def canonical(value: object) -> str | None:
        if type(value) is not str or (max_length is not None and len(value) > max_length):
            return None
        # Servers cut spaces that don't fit off the end, unasked: texts that differ only there share a tag.
        try:
            encoded = value.rstrip(" ").encode()
        except UnicodeEncodeError:
            return None
        if max_bytes is not None and len(encoded) > max_bytes:
            return None
        return "~" + hashlib.blake2b(encoded, digest_size=8).hexdigest()

    return canonical


def _tag_columns(table: Table, dialect: Dialect) -> tuple[Column[Any], ...]:
    unique, indexed = _uniquely_held(table), _indexed(table)
    classes: list[Callable[[Column[Any]], bool]] = [
        lambda column: bool(column.foreign_keys),
        lambda column: column in unique,
        lambda column: column in indexed,
        lambda column: True,
    ]
    ordered = [column for belongs in classes for column in table.columns if belongs(column)]
    safe = (column for column in (*table.primary_key.columns, *ordered) if kind_of(column.type, dialect))
    return tuple(dict.fromkeys(safe))[:MAX_TAG_COLUMNS]


def _frozen(named: Named) -> tuple[tuple[str, ...], ...]:
    return tuple((group,) if isinstance(group, str) else tuple(group) for group in named)


def _value_groups(
    table: Table, dialect: Dialect, named: tuple[tuple[str, ...], ...] | None
) -> tuple[tuple[Column[Any], ...], ...]:
    groups: list[tuple[Column[Any], ...]]
    if named is None:
        groups = [(column,) for column in tag_columns_of(table, dialect)]
    else:
        groups = [*_named(table, named), *((column,) for column in table.primary_key.columns)]
    key = frozenset(key_columns_of(table, dialect))
    safe = (group for group in groups if all(kind_of(column.type, dialect) for column in group))
    return tuple(dict.fromkeys(group for group in safe if frozenset(group) != key))[:MAX_TAG_COLUMNS]


def _named(table: Table, named: tuple[tuple[str, ...], ...]) -> Iterator[tuple[Column[Any], ...]]:
    why_not = why_not_named(named)
    if why_not is not None:
        raise ConfigurationError(f"tag columns of table {table.fullname!r}: {why_not}")
    by_name = {column.name: column for column in table.columns}
    for group in named:
        unknown = [name for name in group if name not in by_name]
        if unknown:
            raise ConfigurationError(
                f"tag columns of table {table.fullname!r}: it has no column {unknown[0]!r}; give names of columns in the "
                f"database, of {', '.join(sorted(by_name))}"
            )
        yield tuple(by_name[name] for name in group)


def _uniquely_held(table: Table) -> set[Column[Any]]:
    held = {column for column in table.columns if column.unique}
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            held.update(constraint.columns)
    for index in table.indexes:
        if index.unique:
            held.update(index.columns)
    return held


def _indexed(table: Table) -> set[Column[Any]]:
    held = {column for column in table.columns if column.index}
    for index in table.indexes:
        held.update(index.columns)
    return held


def _fingerprint(table: Table, dialect: Dialect, named: tuple[tuple[str, ...], ...] | None) -> bytes:
    key = key_columns_of(table, dialect)
    groups = [(column,) for column in key] + list(_value_groups(table, dialect, named))
    texts = [
        ",".join(f"{_encode(column.name)}={kind_of(column.type, dialect)}" for column in group) for group in groups
    ]
    names = ",".join(_encode(column.name) for column in key)
    return hashlib.blake2b(f"{FORMAT}|{names}|{';'.join(texts)}".encode(), digest_size=8).digest()
