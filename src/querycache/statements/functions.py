"""Which SQL functions give the same answer whenever the same rows are read?

Closed lists: a function that is not on them is not cacheable. They say what the built-in function of that name does;
whether a database holds another one under the name is asked of its catalog, elsewhere.
Kept off on purpose: clocks, random numbers, sequences, anything of the session (user, settings, last insert id). Some
read the clock with certain arguments only: these are looked at elsewhere (``clocks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy.sql import functions
from sqlalchemy.sql.elements import quoted_name


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_OF_MANY_ROWS: Final = _names(
    """
    count sum min max avg array_agg string_agg group_concat aggregate_strings every bool_and bool_or any_value
    stddev stddev_pop stddev_samp variance var_pop var_samp bit_and bit_or bit_xor corr covar_pop covar_samp
    percentile_cont percentile_disc mode grouping grouping_sets rollup cube
    row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value last_value nth_value
    """
)

_COMMON: Final = _names(
    """
    coalesce nullif greatest least cast
    lower upper length char_length character_length octet_length bit_length substr substring replace reverse repeat
    trim ltrim rtrim btrim lpad rpad left right concat concat_ws position ascii
    abs sign round ceil ceiling floor trunc mod power pow sqrt exp ln log log10 log2 pi degrees radians
    sin cos tan asin acos atan atan2
    """
)

_BY_DIALECT: Final[Mapping[str, frozenset[str]]] = {
    "sqlite": _names(
        """
        ifnull iif instr hex unhex char unicode quote typeof likely unlikely glob zeroblob format printf
        date time datetime julianday unixepoch strftime
        json json_array json_array_length json_extract json_object json_patch json_quote json_remove json_replace
        json_insert json_set json_type json_valid json_each json_tree
        """
    ),
    "postgresql": _names(
        """
        strpos split_part translate initcap starts_with md5 sha256 chr overlay encode decode format
        regexp_replace regexp_match regexp_matches regexp_split_to_array regexp_split_to_table
        div cbrt width_bucket gcd lcm
        date_trunc date_part date_bin extract timezone age isfinite to_char to_date to_number to_timestamp
        make_date make_time make_timestamp make_interval justify_days justify_hours
        int4range int8range numrange daterange tsrange tstzrange
        array array_length array_position array_positions array_remove array_replace array_append array_prepend array_cat
        array_to_string string_to_array cardinality unnest generate_series generate_subscripts
        to_json to_jsonb row_to_json
        json_build_object jsonb_build_object json_build_array jsonb_build_array
        json_array_length jsonb_array_length json_extract_path jsonb_extract_path
        json_extract_path_text jsonb_extract_path_text json_array_elements jsonb_array_elements
        json_array_elements_text jsonb_array_elements_text json_each jsonb_each json_each_text jsonb_each_text
        jsonb_path_exists jsonb_path_match jsonb_path_query jsonb_path_query_array jsonb_path_query_first
        json_strip_nulls jsonb_pretty array_to_json array_lower array_upper array_ndims num_nulls num_nonnulls
        json_object_keys jsonb_object_keys json_typeof jsonb_typeof jsonb_set jsonb_insert jsonb_strip_nulls
        lower_inc upper_inc isempty range_merge
        """
    ),
    "mysql": _names(
        """
        if ifnull isnull field find_in_set instr locate mid lcase ucase space strcmp substring_index elt
        hex unhex md5 sha1 sha2 crc32 conv truncate
        date date_format time_to_sec from_unixtime format
        year month day dayofmonth dayofweek dayofyear weekday quarter hour minute second microsecond
        datediff to_days from_days last_day makedate maketime
        json_extract json_unquote json_value json_contains json_contains_path json_length json_type json_valid json_keys
        json_array json_object json_search json_set json_insert json_replace json_remove json_quote
        """
    ),
}

_OF_MANY_ROWS_BY_DIALECT: Final[Mapping[str, frozenset[str]]] = {
    "sqlite": _names("total json_group_array json_group_object"),
    "postgresql": _names(
        """
        json_agg jsonb_agg json_object_agg jsonb_object_agg regr_slope regr_intercept regr_r2 regr_count
        """
    ),
    "mysql": _names("std json_arrayagg json_objectagg"),
}


_CLOCKS_BY_ARGUMENTS: Final[Mapping[str, frozenset[str]]] = {
    "sqlite": _names("date time datetime julianday unixepoch strftime"),
    "postgresql": _names("age"),
    "mysql": _names("maketime"),
}


def may_read_the_clock(name: str, dialect_name: str) -> bool:
    """Tell whether a cacheable function reads the clock with some arguments: a caller must know with which it is called."""
    return name.lower() in _CLOCKS_BY_ARGUMENTS.get(_family_of(dialect_name), frozenset())


def is_cacheable_function(name: str, dialect_name: str) -> bool:
    """Tell whether the built-in function of this name depends on its arguments only, be they of one row or of many.

    As far as ``may_read_the_clock`` does not tell otherwise.
    """
    family = _family_of(dialect_name)
    many_rows = _OF_MANY_ROWS_BY_DIALECT.get(family, frozenset())
    return name.lower() in _OF_MANY_ROWS or name.lower() in many_rows or is_function_of_one_row(name, dialect_name)


def is_function_of_one_row(name: str, dialect_name: str) -> bool:
    """Tell whether it is surely no aggregate and no window function."""
    return name.lower() in _COMMON or name.lower() in _BY_DIALECT.get(_family_of(dialect_name), frozenset())


def _family_of(dialect_name: str) -> str:
    return "mysql" if dialect_name == "mariadb" else dialect_name


def function_name_of(element: functions.FunctionElement[Any]) -> str:
    """Return a function's name in lower case, as the catalog and the lists have it."""
    return str(getattr(element, "name", "") or type(element).__name__).lower()


def qualified_name_of(element: functions.FunctionElement[Any]) -> str:
    """Return a function's name in lower case, with the schema that the statement gives it."""
    schemas: tuple[str, ...] = getattr(element, "packagenames", ())
    return ".".join([*(str(schema).lower() for schema in schemas), function_name_of(element)])


def why_not_cacheable(
    element: functions.FunctionElement[Any],
    element_class: type[Any],
    dialect_name: str,
    *,
    is_declared: bool = False,
) -> str | None:
    """Return why a call of a function cannot be cached, None where it can.

    ``element_class`` is the class of the element before SQLAlchemy annotated it. ``is_declared``: the user vouches for it.
    """
    name = function_name_of(element)
    if element_class.__module__ != functions.__name__:
        return f"function {name}() is a class of its own, {element_class.__qualname__}: what it does is not known"
    if is_declared:
        return None
    if getattr(element, "packagenames", ()):
        return f"function {'.'.join(element.packagenames)}.{name}() belongs to a schema: what it does is not known"
    if isinstance(element.name, quoted_name) and element.name.quote:
        return f'function "{element.name}"() is quoted: it may be another one than the built-in'
    if not is_cacheable_function(name, dialect_name):
        return f"function {name}() is not known to be deterministic; if it is, declare it: QueryCache(functions=[...])"
    return None
