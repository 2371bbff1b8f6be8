"""What stands in an SQL text, once comments, literals and placeholders are out of the way?

Cuts a text into tokens by the lexical rules of its own database and writes it anew so that no two readers can differ
about it: comments become a space, each literal the same short literal, each placeholder a number, each quoted name is
quoted in one way. What a literal says is gone, so no secret is passed on.

Promises one statement or None: where the text holds several, or where its tokens depend on a server's setting or cannot
be told, the answer is None. Never asks what the statement means.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

LITERAL: Final = "$"
"""What every text literal says after cleaning. It is a valid JSON path, so that parsers of those are content."""

PLACEHOLDER: Final = "1"


@dataclass(frozen=True, slots=True)
class CleanText:
    """One statement without comments, literals and placeholders.

    ``words``: what is written without quotes, in lower case. ``functions``: what an opening parenthesis follows, in
    lower case and without a schema; some keywords are among them.
    """

    text: str
    words: frozenset[str]
    functions: frozenset[str]


def clean_text(sql: str, dialect_name: str) -> CleanText | None:
    """Return the one statement in ``sql``; None where it is not surely one, or of an unknown database."""
    pattern = _TOKENS.get(dialect_name)
    if pattern is None:
        return None
    scan = _Scan(sql, "`" if dialect_name in _MYSQL else '"', fills_in_text=dialect_name != "sqlite")
    position = 0
    while position < len(sql):
        token = pattern.match(sql, position)
        if token is None or token.lastgroup is None:
            return None
        end = _TAKE[token.lastgroup](scan, token)
        if end is None:
            return None
        position = end
    return CleanText("".join(scan.pieces).strip(), frozenset(scan.words), frozenset(scan.functions))


@dataclass(slots=True)
class _Scan:
    sql: str
    quote: str
    fills_in_text: bool
    pieces: list[str] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    name: str | None = None
    after_escapes: bool = False
    ended: bool = False

    def write(self, piece: str, name: str | None = None) -> bool:
        """Add what counts; refuse it after the end of the statement."""
        if self.pieces and piece[0] in _QUOTES and self.pieces[-1][-1] in _QUOTES:
            # Two quotes side by side would read as one that is written inside of a name.
            self.pieces.append(" ")
        self.pieces.append(piece)
        self.name = name
        self.after_escapes = False
        return not self.ended


def _space(scan: _Scan, token: re.Match[str]) -> int | None:
    if scan.pieces and scan.pieces[-1] != " ":
        scan.pieces.append(" ")
    return token.end()


def _line_comment(scan: _Scan, token: re.Match[str]) -> int | None:
    # A carriage return alone ends the line for some servers only.
    return None if "\r" in token[0].rstrip("\r") else _space(scan, token)


def _block_comment(scan: _Scan, token: re.Match[str]) -> int | None:
    # Where comments nest depends on the server, and MySQL's may hold statements.
    inner = token[0][2:-2]
    return None if "/*" in inner or inner.startswith(("!", "M!")) else _space(scan, token)


def _literal(scan: _Scan, token: re.Match[str]) -> int | None:
    if scan.after_escapes:
        # PostgreSQL goes on with escapes in the literal that continues one.
        return None
    return token.end() if scan.write(f"'{LITERAL}'") else None


def _escaped(scan: _Scan, token: re.Match[str]) -> int | None:
    end = _literal(scan, token)
    scan.after_escapes = True
    return end


def _mysql_literal(scan: _Scan, token: re.Match[str]) -> int | None:
    # With NO_BACKSLASH_ESCAPES, the quote after an odd number of backslashes would end the literal.
    return None if _ESCAPED_QUOTE.search(token[0]) else _literal(scan, token)


def _dollar(scan: _Scan, token: re.Match[str]) -> int | None:
    end = scan.sql.find(token[0], token.end())
    if end < 0 or _literal(scan, token) is None:
        return None
    return end + len(token[0])


def _quoted(scan: _Scan, token: re.Match[str]) -> int | None:
    mark = "]" if token[0][0] == "[" else token[0][0]
    name = token[0][1:-1].replace(mark * 2, mark) if mark != "]" else token[0][1:-1]
    if not name or "\0" in name or (scan.fills_in_text and "%" in name):
        return None
    written = name.replace(scan.quote, scan.quote * 2)
    return token.end() if scan.write(f"{scan.quote}{written}{scan.quote}", name) else None


def _placeholder(scan: _Scan, token: re.Match[str]) -> int | None:
    # Drivers that fill in the text themselves could make a name of it and what it touches.
    before = scan.pieces[-1] if scan.pieces else " "
    touches = before != " " and (scan.name is not None or before[-1] in _QUOTES)
    return token.end() if not touches and scan.write(PLACEHOLDER) else None


def _percent(scan: _Scan, token: re.Match[str]) -> int | None:
    return token.end() if scan.write("%") else None


def _word(scan: _Scan, token: re.Match[str]) -> int | None:
    word = token[0]
    if word[0].isdigit() and scan.sql[token.end() : token.end() + 1] in _QUOTES:
        # Some versions take the letters after the number for the prefix of a literal.
        return None
    scan.words.add(word.lower())
    return token.end() if scan.write(word, word) else None


def _semicolon(scan: _Scan, token: re.Match[str]) -> int | None:
    scan.ended = True
    return _space(scan, token)


def _other(scan: _Scan, token: re.Match[str]) -> int | None:
    char = token[0]
    if char == "(" and scan.name is not None:
        scan.functions.add(scan.name.lower())
    if char == "-" and scan.pieces and scan.pieces[-1].endswith("-"):
        # On MySQL two hyphens begin a comment only before a space; other readers would take them for one.
        char = " -"
    return token.end() if scan.write(char) else None


_TAKE: Final = MappingProxyType[str, Callable[[_Scan, re.Match[str]], int | None]](
    {
        "space": _space,
        "line": _line_comment,
        "block": _block_comment,
        "literal": _literal,
        "escaped": _escaped,
        "mysql_literal": _mysql_literal,
        "dollar": _dollar,
        "quoted": _quoted,
        "placeholder": _placeholder,
        "percent": _percent,
        "word": _word,
        "semicolon": _semicolon,
        "other": _other,
    }
)

_MYSQL: Final = ("mysql", "mariadb")
_QUOTES: Final = ("'", '"', "`")
_ESCAPED_QUOTE: Final = re.compile(r"(?<!\\)(?:\\\\)*\\['\"]")

# Groups are tried in this order. What matches none (an open quote, a backslash, a control character, a space or a sign
# beyond ASCII that is no letter) makes the text one that cannot be told.
_BEFORE: Final = r"(?P<space>[ \t\r\n\f]+)|(?P<block>/\*(?s:.*?)\*/)|(?P<semicolon>;)|"
_AFTER: Final = r"|(?P<other>(?!/\*)[!#%&()*+,\-./<=>?@\[\]^|~:{}])"

_POSTGRESQL_TOKENS: Final = (
    r"(?P<line>--[^\n]*)"
    r"|(?P<escaped>[eE]'(?:[^'\\]|\\(?s:.)|'')*')"
    r"|(?P<literal>'(?:[^']|'')*')"
    r'|(?P<quoted>"(?:[^"]|"")*")'
    r"|(?P<dollar>\$(?:[^\W\d]\w*)?\$)"
    r"|(?P<placeholder>\$\d+|%[stb](?!\w)|%\(\w+\)[stb]|(?<![:\w]):\w+)"
    r"|(?P<percent>%%)"
    r"|(?P<word>(?![uU]&['\"])\w[\w$]*)"
)
_MYSQL_TOKENS: Final = (
    r"(?P<line>--(?=[ \t\r\n\f]|\Z)[^\n]*|\#[^\n]*)"
    r"|(?P<mysql_literal>'(?:[^'\\]|\\(?s:.)|'')*'|\"(?:[^\"\\]|\\(?s:.)|\"\")*\")"
    r"|(?P<quoted>`(?:[^`]|``)*`)"
    r"|(?P<placeholder>\?|%s(?!\w)|%\(\w+\)s|(?<![:\w]):\w+)"
    r"|(?P<percent>%%)"
    r"|(?P<word>\w[\w$]*)"
)
_SQLITE_TOKENS: Final = (
    r"(?P<line>--[^\n]*)"
    r"|(?P<literal>'(?:[^']|'')*')"
    r'|(?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\])'
    r"|(?P<placeholder>\?\d*|[:@$]\w+)"
    r"|(?P<word>\w[\w$]*)"
)

_TOKENS: Final = MappingProxyType[str, re.Pattern[str]](
    {
        "postgresql": re.compile(_BEFORE + _POSTGRESQL_TOKENS + _AFTER),
        "mysql": re.compile(_BEFORE + _MYSQL_TOKENS + _AFTER),
        "mariadb": re.compile(_BEFORE + _MYSQL_TOKENS + _AFTER),
        "sqlite": re.compile(_BEFORE + _SQLITE_TOKENS + _AFTER),
    }
)
