"""What do the trees say that PostgreSQL keeps of its views, and of the policies of row-level security?

A view's query and a policy's condition are kept as trees of labelled nodes, with each relation and function by its number. A
node that is not on the list (CURRENT_DATE, a sample, a lock, what a later release brings) makes the view one of which it is
not known what it shows; so does a column of the system's, such as ctid. The policies of a table decide together, like one view,
which of its rows somebody is shown; who that is, they may ask.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from querycache.databases.driver import Row, rows_of, text_of
from querycache.databases.survey import TableName, View

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import DBAPIConnection

_NODES: Final = (
    "AGGREF ALIAS ARRAY ARRAYCOERCEEXPR ARRAYEXPR BOOLEANTEST BOOLEXPR CASE CASEEXPR CASETESTEXPR CASEWHEN COALESCE "
    "COALESCEEXPR COERCEVIAIO COLLATE COLLATEEXPR COMMONTABLEEXPR CONST CTECYCLECLAUSE CTESEARCHCLAUSE DISTINCTEXPR "
    "FIELDSELECT "
    "FROMEXPR FUNCEXPR GROUPINGFUNC GROUPINGSET JOINEXPR MINMAX MINMAXEXPR NAMEDARGEXPR NULLIFEXPR NULLTEST OPEXPR PARAM "
    "QUERY RANGETBLENTRY RANGETBLFUNCTION RANGETBLREF RELABELTYPE ROW ROWEXPR RTE RTEPERMISSIONINFO SCALARARRAYOPEXPR "
    "SETOPERATIONSTMT SORTGROUPCLAUSE SUBLINK SUBSCRIPTINGREF TARGETENTRY VAR WHEN WINDOWCLAUSE WINDOWFUNC"
)

# The kinds of types (pg_type.typcategory) that a text may be turned into, none of which can read the time out of it.
_TIMELESS: Final = "BENSTU"

_VIEWS: Final = """
SELECT v.oid AS object, CAST(r.ev_action AS text) AS tree
FROM pg_catalog.pg_class v
JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace AND n.nspname NOT IN ('pg_catalog', 'information_schema')
JOIN pg_catalog.pg_rewrite r ON r.ev_class = v.oid AND r.rulename = '_RETURN'
WHERE v.relkind = 'v'
"""

# Those for reading. Who the session's users are, its database and its schema (SQLValueFunctionOp) count as constants.
_POLICIES: Final = """
SELECT polrelid AS object, pg_catalog.regexp_replace(
    CAST(polqual AS text), 'SQLVALUEFUNCTION :op (?:9|10|11|12|13|14) ', 'CONST ', 'g') AS tree
FROM pg_catalog.pg_policy
WHERE polcmd IN ('*', 'r') AND polqual IS NOT NULL
"""
_OF_THE_SESSION: Final = frozenset({"current_setting", "pg_has_role"})

# Of functions, those that are not immutable, and the users' own, which may have been declared so wrongly. Extensions are
# trusted. Operators are functions too.
_PARTS_SQL: Final = f"""
WITH trees AS ({{trees}}),
parts AS (
    SELECT DISTINCT t.object, m.found[1] AS node, m.found[2] AS field, CAST(m.found[3] AS oid) AS number
    FROM trees t
    CROSS JOIN LATERAL pg_catalog.regexp_matches(
        t.tree,
        '[{{{{:]([A-Z_]+|varattno -)|:(relid|funcid|opfuncid|aggfnoid|winfnoid|resulttype) ([0-9]+)', 'g') AS m(found))
SELECT n.nspname, v.relname, p.field, fn.nspname, f.relname
FROM parts p JOIN pg_catalog.pg_class v ON v.oid = p.object JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
JOIN pg_catalog.pg_class f ON p.field = 'relid' AND f.oid = p.number AND f.oid <> v.oid
JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
UNION ALL
SELECT n.nspname, v.relname, 'function', fn.nspname, f.proname
FROM parts p JOIN pg_catalog.pg_class v ON v.oid = p.object JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
JOIN pg_catalog.pg_proc f ON p.field IN ('funcid', 'opfuncid', 'aggfnoid', 'winfnoid') AND f.oid = p.number
JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
WHERE f.provolatile <> 'i' OR fn.nspname <> 'pg_catalog' AND NOT EXISTS (
    SELECT 1 FROM pg_catalog.pg_depend d
    WHERE d.classid = CAST('pg_catalog.pg_proc' AS regclass) AND d.objid = f.oid AND d.deptype = 'e')
UNION ALL
SELECT n.nspname, v.relname, 'node', NULL, p.node
FROM parts p JOIN pg_catalog.pg_class v ON v.oid = p.object JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
WHERE p.node <> ALL (pg_catalog.string_to_array('{_NODES}', ' '))
UNION ALL
SELECT n.nspname, v.relname, 'node', NULL, CAST(t.typname AS text)
FROM parts p JOIN pg_catalog.pg_class v ON v.oid = p.object JOIN pg_catalog.pg_namespace n ON n.oid = v.relnamespace
JOIN pg_catalog.pg_type a ON a.oid = p.number AND p.field = 'resulttype'
JOIN pg_catalog.pg_type t ON t.oid = CASE WHEN a.typcategory = 'A' THEN a.typelem ELSE a.oid END
WHERE t.typtype NOT IN ('b', 'e') OR pg_catalog.strpos('{_TIMELESS}', CAST(t.typcategory AS text)) = 0
"""


def views_of(dbapi_connection: DBAPIConnection) -> list[View]:
    """Ask what each view is made of."""
    return _told(rows_of(dbapi_connection, _PARTS_SQL.format(trees=_VIEWS)))


def policies_of(dbapi_connection: DBAPIConnection) -> dict[TableName, View]:
    """Ask what the policies of each table with row-level security depend on, beside the table and who asks.

    A table without an entry has none that depends on anything else.
    """
    found = _told(rows_of(dbapi_connection, _PARTS_SQL.format(trees=_POLICIES)), trusted=_OF_THE_SESSION)
    return {one.name: one for one in found}


def _told(rows: list[Row], trusted: frozenset[str] = frozenset()) -> list[View]:
    """Put together what is said of each; of PostgreSQL's own functions, those that are ``trusted`` are not named."""
    reads: defaultdict[TableName, set[TableName]] = defaultdict(set)
    calls: defaultdict[TableName, set[str]] = defaultdict(set)
    obstacles: dict[TableName, str] = {}
    for row in rows:
        schema, view, what, part_schema, part = map(text_of, row)
        if what == "relid":
            reads[schema, view].add((part_schema, part))
        elif what != "function":
            obstacles[schema, view] = f"holds what may not give the same for the same ({part.lower()})"
        elif part_schema != "pg_catalog":
            calls[schema, view].add(f"{part_schema}.{part}")
        elif part not in trusted:
            calls[schema, view].add(part)
    return [
        View(name, reads=frozenset(reads[name]), calls=frozenset(calls[name]), obstacle=obstacles.get(name, ""))
        for name in {*reads, *calls, *obstacles}
    ]
