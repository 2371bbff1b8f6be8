"""What does a user promise of views, functions and statements, that neither catalog nor text can tell?

That a view shows nothing but what the tables named for it decide; that a function gives the same for the same arguments and
the same rows of the tables named for it, and writes nothing; that a statement reads or writes the tables named with it.

Names are as in SQL, "table" or "schema.table", in any case of letters; tables and mapped classes stand for theirs. Raises
``ConfigurationError`` for what is no name. Never looks at a database: whether a name is known there is asked elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy import Table
from sqlalchemy.orm import class_mapper
from sqlalchemy.orm.exc import UnmappedClassError

from querycache.errors import ConfigurationError
from querycache.statements.rawsql import TableName as WrittenName

READS: Final = "querycache_reads"
WRITES: Final = "querycache_writes"

Written: TypeAlias = frozenset[WrittenName]
Named: TypeAlias = "str | Table | type[Any]"
Views: TypeAlias = Mapping[str, Iterable[Named]]
Functions: TypeAlias = Iterable[str] | Mapping[str, Iterable[Named]]


@dataclass(frozen=True, slots=True)
class Declared:
    """What was promised once for all, by the names of views and functions: what each reads.

    ``tells_who_asks``: each key tells for whom it is read (``vary``), so that who is shown what decides on no entry's rows.
    """

    views: Mapping[WrittenName, Written] = field(default_factory=dict)
    functions: Mapping[WrittenName, Written] = field(default_factory=dict)
    tells_who_asks: bool = False

    def view(self, schema: str, name: str) -> Written | None:
        """Return what a view reads; a promise without a schema is one for every schema."""
        found = self.views.get((schema, name))
        return self.views.get((None, name)) if found is None else found

    def function(self, name: str) -> Written | None:
        """Return what a function reads, by its name with or without a schema; None where nobody promised anything."""
        schema, _, bare = name.lower().rpartition(".")
        found = self.functions.get((schema or None, bare))
        return self.functions.get((None, bare)) if found is None else found

    def vouches_for(self, name: str) -> bool:
        """Tell whether a function of this name, in whatever schema, was said to write nothing."""
        bare = name.lower().rpartition(".")[2]
        return any(known == bare for _, known in self.functions)


def declared_of(views: Views | None, functions: Functions | None, *, tells_who_asks: bool = False) -> Declared:
    """Read the arguments of ``QueryCache``."""
    if views is not None and not isinstance(views, Mapping):
        raise ConfigurationError(f'views={views!r}: name what each view reads, as in {{"active_product": ["product"]}}')
    if isinstance(functions, str) or not (functions is None or isinstance(functions, Collection)):
        raise ConfigurationError(
            f'functions={functions!r}: give a list of names, or what each reads, as in {{"price_of": ["product"]}}'
        )
    by_function = functions if isinstance(functions, Mapping) else dict.fromkeys(functions or (), ())
    return Declared(
        {
            _written(f"views={views!r}", view): names_of(f"views[{view!r}]", reads)
            for view, reads in (views or {}).items()
        },
        {
            _written(f"functions={functions!r}", name): names_of(f"functions[{name!r}]", reads)
            for name, reads in by_function.items()
        },
        tells_who_asks,
    )


def declared_in(options: Mapping[str, Any], option: str) -> Written | None:
    """Return what an execution option names; None where it is not given."""
    given = options.get(option)
    if given is None:
        return None
    names = names_of(f"execution option {option}", given)
    if not names:
        raise ConfigurationError(
            f'execution option {option}={given!r} names no table: give some, as in {option}=["product"]'
        )
    return names


def names_of(where: str, given: Any) -> Written:
    """Return the names of some tables. ``where`` they were given, for the error's text."""
    if isinstance(given, str | Table | type) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{where} is {given!r}: give a list of tables, as in [{_example_of(given)}]")
    return frozenset(_written(where, one) for one in given)


def unknown_tables(option: str, unknown: Iterable[str]) -> str:
    """Word the error for names that a database does not have."""
    return (
        f"execution option {option}: the database has no table {', '.join(sorted(unknown))}; give names as in SQL, with their "
        "schema where it is not the default one (where another program has just made it, call cache.invalidate_all() first)"
    )


def _example_of(given: object) -> str:
    if isinstance(given, str):
        return repr(given)
    return given.__name__ if isinstance(given, type) else '"product"'


def _written(where: str, one: object) -> WrittenName:
    table = _table_of(where, one) if isinstance(one, type) else one
    if isinstance(table, Table):
        return None if table.schema is None else table.schema.lower(), table.name.lower()
    if not isinstance(one, str) or not one.strip():
        raise ConfigurationError(f'{where}: {one!r} is no table; give a name such as "product" or "shop.product"')
    schema, _, name = one.strip().lower().rpartition(".")
    return schema or None, name


def _table_of(where: str, model: type[Any]) -> object:
    try:
        return class_mapper(model).local_table
    except UnmappedClassError as error:
        raise ConfigurationError(f"{where}: {model.__name__} is not a mapped class") from error
