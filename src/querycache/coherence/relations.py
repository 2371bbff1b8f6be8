"""Which tables decide what a relation shows?

A plain table is decided by its own rows, and those that the policies of its row-level security read. A view is decided by the
tables that its query reads, through views and functions, as far as the user declared them or the catalog tells: PostgreSQL its
parse tree, SQLite and MariaDB the view's text.

Promises: where anything in a view is not positively known, there is a reason and no answer. Never asks the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from querycache.coherence.declared import Declared
from querycache.databases import Survey
from querycache.databases import TableName as CatalogName
from querycache.statements.functions import is_cacheable_function
from querycache.statements.rawsql import TableName as WrittenName
from querycache.statements.reads import NotCacheable
from querycache.statements.textreads import text_reads_of

READS_TIMES: Final = (
    "reads a table with columns of type TIME, of which the database may make moments of the present day"
)
_REMEDY = "declare what it reads: QueryCache(views={...})"


class Relations:
    """The relations of one picture of a catalog."""

    def __init__(self, survey: Survey, declared: Declared, dialect_name: str, default_schema: str) -> None:
        self._survey = survey
        self._declared = declared
        self._dialect_name = dialect_name
        self._default_schema = default_schema
        self._known: dict[CatalogName, frozenset[CatalogName] | str] = {}

    def behind(self, name: CatalogName) -> frozenset[CatalogName] | str:
        """Name the relations that decide what one shows, itself among them; or say why not, as the end of "table ...".

        A plain table stands alone.
        """
        found = self._known.get(name)
        if found is None:
            found = self._known[name] = self._behind(name, ())
        return found

    def behind_function(self, name: str) -> frozenset[CatalogName] | str:
        """Name the relations that decide what a function gives; or say why not, as the end of "... calls"."""
        declared = self._declared.function(name)
        if declared is not None:
            return self._behind_all(self._resolved(declared, self._default_schema), ())
        if (
            "." not in name
            and is_cacheable_function(name, self._dialect_name)
            and not self._survey.is_user_function(name)
        ):
            return frozenset()
        return f"{name}(), which is not known to be deterministic; if it is, declare it: QueryCache(functions=[...])"

    def _behind(self, name: CatalogName, above: tuple[CatalogName, ...]) -> frozenset[CatalogName] | str:
        known = self._survey.tables.get(name)
        if known is None or known.kind not in ("view", "materialized view") or name[1] in self._survey.hidden_names:
            return self._survey.why_not_plain(name) or self._behind_policies(name, above)
        if name in above:
            return f"is declared to read itself ({_spelled(name)})"
        above = (*above, name)
        declared = self._declared.view(*name)
        if declared is not None:
            found = self._behind_all(self._resolved(declared, name[0]), above)
        elif known.kind == "view":
            found = self._behind_query(name, above)
        else:
            found = f"is a materialized view; {_REMEDY}"
        return found if isinstance(found, str) else found | {name}

    def _behind_query(self, name: CatalogName, above: tuple[CatalogName, ...]) -> frozenset[CatalogName] | str:
        view = self._survey.views.get(name)
        if view is None or view.obstacle:
            return f"is a view that {view.obstacle if view else 'reads no table that is known'}; {_REMEDY}"
        reads, calls = view.reads, view.calls
        if view.text:
            read = text_reads_of(view.text, self._dialect_name)
            if isinstance(read, NotCacheable):
                return f"is a view of which {read.reason}; {_REMEDY}"
            reads, calls = self._resolved(read.named, name[0]), read.functions
        found = self._behind_all(reads, above)
        if isinstance(found, str):
            return found
        if view.text and any(map(self._survey.puts_on_today, found)):
            return f"is a view that {READS_TIMES}; {_REMEDY}"
        return self._with_called(found, calls, "is a view that calls")

    def _behind_policies(self, name: CatalogName, above: tuple[CatalogName, ...]) -> frozenset[CatalogName] | str:
        """Do so for a plain table, of which row-level security may show some rows to some, and others to others."""
        alone = frozenset({name})
        policies = self._survey.tables[name].policies
        if policies is None or name in above:
            return alone
        if not self._declared.tells_who_asks:
            return (
                "has row-level security: what it shows depends on who asks, and no QueryCache(vary=...) says who does"
            )
        if policies.obstacle:
            return f"has row-level security by a policy that {policies.obstacle}"
        found = self._behind_all(policies.reads, (*above, name))
        if isinstance(found, str):
            return f"has row-level security by a policy that {found}"
        return self._with_called(found | alone, policies.calls, "has row-level security by a policy that calls")

    def _with_called(
        self, found: frozenset[CatalogName], calls: Iterable[str], what: str
    ) -> frozenset[CatalogName] | str:
        for function in calls:
            more = self.behind_function(function)
            if isinstance(more, str):
                return f"{what} {more}"
            found |= more
        return found

    def _behind_all(self, names: Iterable[CatalogName], above: tuple[CatalogName, ...]) -> frozenset[CatalogName] | str:
        found: frozenset[CatalogName] = frozenset()
        for name in sorted(names):
            more = self._behind(name, above)
            if isinstance(more, str):
                return f"reads {_spelled(name)}, which {more}"
            found |= more
        return found

    def _resolved(self, names: Iterable[WrittenName], schema: str) -> frozenset[CatalogName]:
        return frozenset(((written or schema).lower(), name) for written, name in names)


def _spelled(name: CatalogName) -> str:
    return ".".join(name)
