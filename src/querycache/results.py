"""How do rows become what a Session would have returned?

By the ORM's own loader, which leaves a recipe behind where it only copied columns: then by the recipe. What ``Session.get``
asks for a class is kept with the recipe. Promises: the same result either way.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import CursorResult, Dialect, Result
from sqlalchemy.orm import Session

from querycache import _cursors, _loading, _sqlalchemy
from querycache.readings import Reading

GET_STATEMENT: Final = "_querycache_get"
"""Names, on a class whose gets are known, the statement by which a Session chooses the bind."""


class KnownGet(NamedTuple):
    """What ``Session.get`` asks for a class, once it was asked: the names under which it passes the parts of a key."""

    compilation: _sqlalchemy.Compilation
    names: tuple[str, ...]
    recipe: _loading.Recipe


@dataclass(frozen=True, slots=True)
class _Tried:
    """That a recipe was looked for, and what was found; ``names`` where the statement is that of ``Session.get``."""

    recipe: _loading.Recipe | None
    names: tuple[str, ...] | None


class Results:
    """Makes the results of one cache, and keeps what was learnt of each compiled statement."""

    def __init__(self) -> None:
        # Of a compiled statement a weak reference: it refers to the class and to the engine, and SQLAlchemy keeps it.
        self._gets: weakref.WeakKeyDictionary[type[Any], weakref.WeakKeyDictionary[Dialect, weakref.ref[Any]]] = (
            weakref.WeakKeyDictionary()
        )
        self._recipes: weakref.WeakKeyDictionary[Any, _Tried] = weakref.WeakKeyDictionary()

    def known_get(self, model: type[Any], dialect: Dialect) -> KnownGet | None:
        """Return what ``Session.get`` asks for a class on an engine; None before it was asked and answered once."""
        by_dialect = self._gets.get(model)
        kept = None if by_dialect is None else by_dialect.get(dialect)
        compiled = None if kept is None else kept()
        tried = None if compiled is None else self._recipes.get(compiled)
        if compiled is None or tried is None or tried.recipe is None or tried.names is None:
            return None
        return KnownGet(_sqlalchemy.Compilation(compiled, None, None, None), tried.names, tried.recipe)

    def of(
        self,
        reading: Reading,
        compilation: _sqlalchemy.Compilation,
        description: Sequence[Any],
        rows: Sequence[Sequence[Any]],
    ) -> Result[Any]:
        """Build what the Session would have returned for these rows."""
        orm = reading.orm

        def options() -> dict[str, Any]:
            return {**reading.options, "prebuffer_rows": True}

        def cursor_of(rows: Sequence[Sequence[Any]]) -> CursorResult[Any]:
            return _cursors.replay_cursor(compilation, orm.statement, reading.engine, options(), description, rows)

        def load_ordinarily(session: Session, rows: Sequence[Sequence[Any]]) -> Result[Any]:
            return _sqlalchemy.load_result(orm, session, cursor_of(rows), options())

        known = self._recipes.get(compilation.compiled)
        if known is not None and known.recipe is not None and _loading.follows(known.recipe, orm, description):
            instances = known.recipe.load(orm.session, rows)
            if instances is not None:
                return _loading.result_of(known.recipe, instances, lambda: cursor_of(rows))
        cursor = cursor_of(rows)
        result = _sqlalchemy.load_result(orm, orm.session, cursor, options())
        is_written = _sqlalchemy.written_select_of(orm.statement) is not None
        if known is None and rows and orm._compile_state_cls is not None and not is_written:
            recipe = _loading.recipe_of(orm, cursor, description, rows[0], load_ordinarily)
            names = None if recipe is None else _loading.names_of_get(orm.statement, recipe.mapper)
            self._recipes[compilation.compiled] = _Tried(recipe, names)
            # A column property may have a value of its own in it, which is made anew for each call.
            if recipe is not None and names is not None and set(compilation.compiled.bind_names.values()) == set(names):
                _sqlalchemy.keep_with_class(recipe.mapper.class_, GET_STATEMENT, select(recipe.mapper.class_))
                by_dialect = self._gets.setdefault(recipe.mapper.class_, weakref.WeakKeyDictionary())
                by_dialect[reading.attachment.dialect] = weakref.ref(compilation.compiled)
        return result
