"""How do rows become what a Session would have returned?

By the ORM's own loader, which leaves a recipe behind where it did nothing that a recipe cannot do: then by the recipe. What
``Session.get`` asks for a class is kept with the recipe, and so is what a statement is followed by. Promises: the same result
either way.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import CursorResult, Dialect, Result
from sqlalchemy.orm import Session

from querycache import _cursors, _loading, _sqlalchemy, posts
from querycache._trees import place_of
from querycache.questions import Questions
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

    def __init__(self, questions: Questions) -> None:
        self._questions = questions
        # Of a compiled statement a weak reference: it refers to the class and to the engine, and SQLAlchemy keeps it.
        self._gets: weakref.WeakKeyDictionary[type[Any], weakref.WeakKeyDictionary[Dialect, weakref.ref[Any]]] = (
            weakref.WeakKeyDictionary()
        )
        self._recipes: weakref.WeakKeyDictionary[Any, _Tried] = weakref.WeakKeyDictionary()
        # By what the compiler made of a statement, the compiled statements that follow it, by their places below it.
        self._followers: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()

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

        def load_alone(session: Session, rows: Sequence[Sequence[Any]]) -> Result[Any]:
            return _sqlalchemy.load_result(orm, session, cursor_of(rows), _loading.without_top_level(options()))

        known = self._recipes.get(compilation.compiled)
        recipe = None if known is None else known.recipe
        if recipe is not None and not recipe.tree.pairs and _loading.follows(recipe, orm, description):
            if recipe.is_alone:
                made = recipe.load(orm.session, rows)
            else:
                made = self.with_posts(reading, recipe, compilation, rows, load_alone)
            if made is not None:
                return _loading.result_of(recipe, orm, made, lambda: cursor_of(rows))
        cursor = cursor_of(rows)
        result = _sqlalchemy.load_result(orm, orm.session, cursor, options())
        is_written = _sqlalchemy.written_select_of(orm.statement) is not None
        if rows and orm._compile_state_cls is not None and not is_written:
            if known is None:
                self._learn(reading, compilation, cursor, description, rows, load_alone, result)
            leading = _loading.top_level_of(orm)
            if leading is not None:
                self._followers.setdefault(leading, {})[place_of(compilation.compiled)] = compilation.compiled
        return result

    def _learn(
        self,
        reading: Reading,
        compilation: _sqlalchemy.Compilation,
        cursor: CursorResult[Any],
        description: Sequence[Any],
        rows: Sequence[Sequence[Any]],
        ordinary: _loading.Replay,
        result: Any,
    ) -> None:
        """Keep what an ordinary load left behind of a compiled statement."""
        orm, compiled = reading.orm, compilation.compiled
        recipe = _loading.recipe_of(orm, cursor, description, rows, ordinary, result._unique_filter_state)
        names = None
        if recipe is not None and recipe.is_plain:
            names = _loading.names_of_get(orm.statement, recipe.mapper)
        self._recipes[compiled] = _Tried(recipe, names)
        # A column property may have a value of its own in it, which is made anew for each call.
        if recipe is not None and names is not None and set(compiled.bind_names.values()) == set(names):
            _sqlalchemy.keep_with_class(recipe.mapper.class_, GET_STATEMENT, select(recipe.mapper.class_))
            by_dialect = self._gets.setdefault(recipe.mapper.class_, weakref.WeakKeyDictionary())
            by_dialect[reading.attachment.dialect] = weakref.ref(compiled)

    def with_posts(
        self,
        reading: Reading,
        recipe: _loading.Recipe,
        compilation: _sqlalchemy.Compilation,
        rows: Sequence[Sequence[Any]],
        ordinary: _loading.Replay,
    ) -> list[Any] | None:
        """Return what rows stand for with all that is loaded after them; None where not all of that is in the store."""
        compiled: Any = compilation.compiled
        followers = self._followers.get(compiled.compile_state)
        if followers is None or _loading.top_level_of(reading.orm) is not None:
            return None

        def recipe_at(place: tuple[Any, ...]) -> tuple[Any, _loading.Recipe] | None:
            follower = followers.get(place)
            tried = None if follower is None else self._recipes.get(follower)
            return None if tried is None or tried.recipe is None else (follower, tried.recipe)

        whole = posts.gather(reading, self._questions, recipe, rows, recipe_at)
        if whole is None:
            return None
        if not recipe.is_tried:
            recipe.is_tried.append(posts.is_faithful(reading, whole, ordinary))
        return posts.load(reading, whole) if recipe.is_tried[0] else None
