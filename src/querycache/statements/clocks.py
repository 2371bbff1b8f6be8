"""Where may a statement read the present time without a function that says so?

PostgreSQL takes the words now, today, tomorrow and yesterday in a text for dates, where it wants one. SQLite's functions
of dates take the text 'now'. MySQL and MariaDB make a date of a TIME, wherever they want one, by putting it on today.
Promises that what may read the clock by its types is told, or depends on a value that is told: whoever has the values
asks ``names_the_clock``. A text 'now' that stands in a SQLite column of a date type counts as a date: no mapping loads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from decimal import Decimal
from itertools import combinations
from typing import Any, Final
from uuid import UUID

from sqlalchemy import types
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import Column
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, Case, Cast, Extract, Null, TryCast
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.selectable import CompoundSelect

from querycache.statements.functions import function_name_of

_WORDS: Final = re.compile(r"\b(now|today|tomorrow|yesterday)\b", re.IGNORECASE)
_NO_TEXT: Final = (int, float, Decimal, bytes, date, timedelta, UUID, type(None))
_DATES: Final = (types.Date, types.DateTime)
_CASTS: Final = (Cast, TryCast)

_SQLITE_DATES: Final = {"date": 0, "time": 0, "datetime": 0, "julianday": 0, "unixepoch": 0, "strftime": 1}
"""How many arguments stand before the date; what follows it (modifiers) is not taken."""

_MYSQL_OF_TIMES: Final = frozenset({"hour", "minute", "second", "microsecond", "time_to_sec", "count"})
_MYSQL_OF_ANY_TYPE: Final = frozenset(
    {
        *(
            "min",
            "max",
            "coalesce",
            "ifnull",
            "nullif",
            "if",
            "greatest",
            "least",
            "concat",
            "concat_ws",
            "group_concat",
        ),
        *("lag", "lead", "first_value", "last_value", "nth_value", "any_value"),
    }
)


def names_the_clock(value: object) -> bool:
    """Tell whether PostgreSQL may read the present time out of a value, or a part of it, where it wants a date."""
    if isinstance(value, list | tuple):
        return any(map(names_the_clock, value))
    return not isinstance(value, _NO_TEXT) and _WORDS.search(str(value)) is not None


class ClockWatch:
    """Watches one walk. ``binds``: those whose values may name the clock."""

    def __init__(self, dialect: Dialect) -> None:
        self.binds: list[BindParameter[Any]] = []
        self._dialect = dialect

    def why_not(self, element: Any, children: Sequence[Any]) -> str | None:
        """Say why an element may read the clock; None where it does not, but for the values of ``binds``."""
        if self._dialect.name == "postgresql":
            return self._on_postgresql(element, children)
        if self._dialect.name == "sqlite":
            return self._on_sqlite(element)
        return self._on_mysql(element) if self._dialect.name in ("mysql", "mariadb") else None

    def _on_postgresql(self, element: Any, children: Sequence[Any]) -> str | None:
        if (
            isinstance(element, FunctionElement)
            and function_name_of(element) == "age"
            and len(_arguments(element)) != 2
        ):
            return "it asks for an age(): that is one by the present time"
        if (
            isinstance(element, _CASTS)
            and self._is(_DATES_AND_TIMES, element)
            and not self._is_bind_or_date(element.clause)
        ):
            return "it casts to a date: 'now' and 'today' in the text would be read as the present time"
        if not self._compares_texts(element):
            self.binds.extend(child for child in children if isinstance(child, BindParameter))
        return None

    def _is_bind_or_date(self, element: Any) -> bool:
        return isinstance(element, BindParameter) or self._is(_DATES_AND_TIMES, element)

    def _compares_texts(self, element: Any) -> bool:
        if not isinstance(element, BinaryExpression):
            return False
        sides = (element.left, element.right)
        # What is sent without its type takes that of the other side.
        typed = [side for side in sides if not isinstance(side, BindParameter)]
        return bool(typed) and all(self._is((types.String,), side) for side in typed)

    def _on_sqlite(self, element: Any) -> str | None:
        if isinstance(element, Extract) and not self._is_stored_date(element.expr):
            return "it extracts from what is no column of dates: the text 'now' would be read as the present time"
        before = _SQLITE_DATES.get(function_name_of(element)) if isinstance(element, FunctionElement) else None
        if before is None:
            return None
        dates = _arguments(element)[before:]
        if len(dates) == 1 and self._is_stored_date(dates[0]):
            return None
        return f"function {function_name_of(element)}() may read the clock: it is known of one column of dates only"

    def _is_stored_date(self, element: Any) -> bool:
        return isinstance(element, Column | BindParameter) and self._is(_DATES_AND_TIMES, element)

    def _on_mysql(self, element: Any) -> str | None:
        mixed = False
        if isinstance(element, FunctionElement):
            arguments, name = _arguments(element), function_name_of(element)
            mixed = self._mixes(arguments) and name not in _MYSQL_OF_TIMES
            if name not in _MYSQL_OF_TIMES | _MYSQL_OF_ANY_TYPE:
                mixed = any(self._is((types.Time,), argument) for argument in arguments)
        elif isinstance(element, BinaryExpression):
            mixed = self._mixes((element.left, element.right))
        elif isinstance(element, _CASTS):
            mixed = self._mixes((element, element.clause))
        elif isinstance(element, Case):
            mixed = self._mixes([*(result for _, result in element.whens), element.else_])
        elif isinstance(element, CompoundSelect):
            mixed = any(map(self._mixes, zip(*(select.selected_columns for select in element.selects), strict=False)))
        return "it makes a date of a TIME: that is one of the present day" if mixed else None

    def _mixes(self, elements: Iterable[Any]) -> bool:
        """Tell whether TIME stands beside what is a date, or may be one."""
        known = [element for element in elements if element is not None and not isinstance(element, Null)]
        return any(
            self._is((types.Time,), one) and self._is((*_DATES, types.NullType), other)
            for pair in combinations(known, 2)
            for one, other in (pair, pair[::-1])
        )

    def _is(self, kinds: tuple[type[Any], ...], element: Any) -> bool:
        column_type = getattr(element, "type", None)
        if not isinstance(column_type, types.TypeEngine):
            return False
        rendered: Any = column_type.dialect_impl(self._dialect)
        while isinstance(rendered, types.TypeDecorator):
            rendered = rendered.impl
        return isinstance(rendered, kinds)


_DATES_AND_TIMES: Final = (*_DATES, types.Time)


def _arguments(function: FunctionElement[Any]) -> list[Any]:
    return list(function.clauses)
