"""What does a SELECT read that was given as text, and is it surely decided by rows alone?

As ``reads`` for constructs, from what ``rawsql`` knows of the text: the tables that it names, and the functions that it
calls, with everything else that might give another answer for the same rows refused: words that stand for the clock or the
session, their variables, sequences, operators that follow settings, texts that PostgreSQL may take for the present time.

Promises: in doubt a reason, never a guess; one table too many costs a miss. Never looks at the database: whether a name is
a table's and whether a function is built in is for the caller to ask. Without sqlglot no text is understood.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Final

from querycache.statements.clocks import names_the_clock
from querycache.statements.functions import may_read_the_clock
from querycache.statements.rawsql import effect_of_text
from querycache.statements.rawtext import CleanText, clean_text
from querycache.statements.reads import NotCacheable, SelectReads

_MYSQL: Final = ("mysql", "mariadb")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What may stand before an opening parenthesis and is no function.
_KEYWORDS: Final = _words(
    """
    all and any array as asc between by case cross desc distinct else except exists filter from full group having ilike in
    inner intersect interval is join lateral left like limit materialized natural not offset on or order outer over
    partition recursive right row rows select sets similar some then to union using values when where window with within
    """
)
_TYPES: Final = MappingProxyType(
    {
        "sqlite": _words("character decimal numeric varchar varying"),
        "postgresql": _words("bit char character decimal float numeric varbit varchar varying"),
        "mysql": _words(
            "binary char decimal div float force ignore index key nchar regexp rlike signed unsigned use xor"
        ),
    }
)

# Without a parenthesis they are functions, settings, or places of rows that change without the rows.
_RESTLESS: Final = MappingProxyType(
    {
        "sqlite": _words("current_date current_time current_timestamp match"),
        "postgresql": _words(
            """
            current_catalog current_date current_role current_schema current_time current_timestamp current_user localtime
            localtimestamp session_user system_user user cmax cmin ctid xmax xmin tablesample
            """
        ),
        "mysql": _words(
            """
            current_date current_role current_time current_timestamp current_user localtime localtimestamp utc_date utc_time
            utc_timestamp sysdate time rownum sql_calc_found_rows sql_cache sql_no_cache examined procedure
            """
        ),
    }
)

# Of PostgreSQL's operators, those that neither follow a setting (%, @@) nor come with extensions.
_OPERATORS: Final = _words(
    """
    + - * / < > = <= >= <> != || -> ->> #> #>> #- @> <@ ? ?| ?& && & | # ~ ~* !~ !~* << >> ^ : :: , . ( ) [ ] { }
    """
)
_OPERATOR: Final = re.compile(r"[-+*/<>=~!@#%^&|?:]+")
_BETWEEN_LITERALS: Final = re.compile(r"'\$' '\$'")
_DATES: Final = re.compile(
    r"(?::: ?|\bAS )\"?(?:date|time|timestamp|timetz|timestamptz|abstime|tsrange|tstzrange|daterange)\b", re.I
)
_SEQUENCES: Final = re.compile(r"\b(?:NEXT|PREVIOUS) VALUE FOR\b", re.IGNORECASE)
_SELECTS: Final = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*(?s:.*?)\*/)*(?:SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE)
_LOCKS: Final = re.compile(r"\bFOR\s+(?:NO\s+KEY\s+|KEY\s+)?(?:UPDATE|SHARE)\b|\bLOCK\s+IN\s+SHARE\b", re.IGNORECASE)
_NAME: Final = r'("(?:[^"]|"")*"|`(?:[^`]|``)*`|[\w$]+)'
_QUALIFIED: Final = re.compile(rf"{_NAME} ?\. ?{_NAME} ?\(")
_ATTRIBUTE: Final = re.compile(r"\. ?(?:\"((?:[^\"]|\"\")*)\"|([\w$]+))")


@lru_cache(512)
def text_reads_of(sql: str, dialect_name: str) -> SelectReads | NotCacheable:
    """Tell what a text reads. ``attributes`` holds the keywords that could be functions of users, too."""
    effect = effect_of_text(sql, dialect_name)
    cleaned = clean_text(sql, dialect_name)
    if effect.kind == "unknown" or cleaned is None:
        return NotCacheable("the text is not understood" + _without_parser())
    if effect.kind != "read":
        return NotCacheable("the text is no SELECT")
    if effect.locks:
        return NotCacheable("it locks rows (FOR UPDATE or FOR SHARE)")
    why_not = _why_restless(sql, cleaned, dialect_name)
    if why_not is not None:
        return NotCacheable(why_not)
    if not effect.reads:
        return NotCacheable("the text reads no table")
    if dialect_name == "postgresql" and any(schema is None and name.startswith("pg_") for schema, name in effect.reads):
        return NotCacheable("the text reads a table of the system's")
    called = effect.functions - effect.column_lists
    keywords = called & (_KEYWORDS | _TYPES[_family_of(dialect_name)])
    clocks = [name for name in sorted(called) if may_read_the_clock(name, dialect_name)]
    if clocks:
        return NotCacheable(f"the text calls {clocks[0]}(), which reads the clock with some arguments")
    attributes = _attributes_in(cleaned.text) if dialect_name == "postgresql" else frozenset()
    return SelectReads(
        (), (called - keywords) | _of_schemas(cleaned.text), named=effect.reads, attributes=attributes | keywords
    )


def why_not_declared(sql: str, dialect_name: str) -> str | None:
    """Say why not even its author's word makes a text one that may be cached; None where it may."""
    effect = effect_of_text(sql, dialect_name)
    if effect.kind not in ("read", "unknown") or not _SELECTS.match(sql):
        return "the text is no SELECT, whatever it is declared to read"
    if effect.locks or _LOCKS.search(sql):
        return "it locks rows, whatever it is declared to read"
    return None


def _why_restless(sql: str, cleaned: CleanText, dialect_name: str) -> str | None:
    """Say what in a text may give another answer for the same rows."""
    family = _family_of(dialect_name)
    restless = cleaned.words & _RESTLESS[family]
    if restless:
        return f"the text says {min(restless).upper()}, which does not depend on rows only"
    if family == "mysql":
        if "@" in cleaned.text:
            return "the text reads a variable"
        if _SEQUENCES.search(cleaned.text):
            return "the text draws from a sequence"
    if family == "postgresql":
        strange = set(_OPERATOR.findall(cleaned.text)) - _OPERATORS
        if strange:
            return f"the text has an operator that may follow a setting or be a user's own ({min(strange)})"
        if names_the_clock(sql) or "\\" in sql or _BETWEEN_LITERALS.search(cleaned.text) or _DATES.search(cleaned.text):
            return "the text may have a word in it that stands for the present time"
    return None


def _attributes_in(text: str) -> frozenset[str]:
    return frozenset((quoted or plain).lower() for quoted, plain in _ATTRIBUTE.findall(text))


def _of_schemas(text: str) -> frozenset[str]:
    """Name the functions that a text calls by their schemas, but for PostgreSQL's own."""
    called = (tuple(part.strip('"`').lower() for part in call) for call in _QUALIFIED.findall(text))
    return frozenset(f"{schema}.{name}" for schema, name in called if schema != "pg_catalog")


def _family_of(dialect_name: str) -> str:
    return "mysql" if dialect_name in _MYSQL else dialect_name


def _without_parser() -> str:
    return "" if find_spec("sqlglot") else ": install what parses it, pip install 'querycache[rawsql]'"
