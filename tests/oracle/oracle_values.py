"""Which values go into the oracle's columns and comparisons?

Very few, so that they collide: keys 1 to 4, sizes 0 to 2, texts that some collations hold to be equal.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from hypothesis import strategies as st
from sqlalchemy import Boolean, Integer, Numeric, String

KEYS: Final = st.integers(1, 4)
NUMBERS: Final = st.integers(1, 2)
SMALL: Final = st.sampled_from([None, 0, 1, 2])
TEXTS: Final = st.sampled_from([None, "a", "b", "A", "a ", ""])
PRICES: Final = st.sampled_from([None, Decimal("0.00"), Decimal("1.50"), Decimal("1.505")])
FLAGS: Final = st.sampled_from([None, False, True])


def values_of(column: Any, *, nullable: bool = True) -> st.SearchStrategy[Any]:
    """Return the values that a column is compared with or set to."""
    if column.name == "kind":
        return st.sampled_from(["item", "tool", "label", "flag"])
    if column.primary_key or column.foreign_keys:
        found = NUMBERS if column.name == "number" else KEYS
        return found if not nullable or column.primary_key else st.one_of(found, st.none())
    of_type: dict[Any, st.SearchStrategy[Any]] = {Boolean: FLAGS, Integer: SMALL, Numeric: PRICES, String: TEXTS}
    found = next(values for kind, values in of_type.items() if isinstance(column.type, kind))
    return found if nullable else found.filter(lambda value: value is not None)
