"""How do rows become what a Session would have returned?

By the ORM's own loader, which leaves a recipe behind where it did nothing that a recipe cannot do: then by the recipe. What
``Session.get`` asks for a class is kept with the recipe, and so is what a statement is followed by. Promises: the same result
either way.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

from sqlalchemy import select
from sqlalchemy.engine import CursorResult, Dialect, Result
from sqlalchemy.orm import Session

from querycache import _cursors, _loading, _sqlalchemy, posts
from querycache._trees import place_of
from querycache.coherence.binds import Bind
from querycache.questions import Bypass, Plan, Question, Questions
from querycache.readings import Reading

GETS: Final = "_querycache_get"
"""Names, on a class whose gets are known, its ``Gets``; on their compiled statement, its ``KnownGet``."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class KnownGet:
    """What ``Session.get`` asks for a class, once it was asked: the names under which it passes the parts of a key.

    ``results``: in whose name it is known. ``order``: that of the names, by the places of the parts. ``plan``: the one used
    last, and of which picture of the catalog it is.
    """

    results: Results
    compilation: _sqlalchemy.Compilation
    names: tuple[str, ...]
    order: tuple[int, ...]
    recipe: _loading.Recipe
    plan: tuple[int, Plan] | None = None

    def plan_on(self, bind: Bind) -> Plan | Bypass:
        """Return what holds for every key on one database."""
        number, known = bind.picture_number, self.plan
        if known is not None and known[0] == number:
            return known[1]
        plan = self.results.questions.plan_of(self.compilation.compiled, bind)
        if isinstance(plan, Plan):
            self.plan = number, plan
        return plan


@dataclass(slots=True)
class Gets:
    """What is known of a class's gets. ``statement``: by which a Session chooses the bind."""

    statement: Any
    by_dialect: weakref.WeakKeyDictionary[Dialect, weakref.ref[KnownGet]]


class Results:
    """Makes the results of one cache, and keeps what was learnt of each compiled statement."""

    def __init__(self, questions: Questions) -> None:
        self.questions = questions
        # By compiled statement; None where there is none to be found.
        self._recipes: weakref.WeakKeyDictionary[Any, _loading.Recipe | None] = weakref.WeakKeyDictionary()
        # By what the compiler made of a statement, the compiled statements that follow it, by their places below it.
        self._followers: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()

    def known_get(self, gets: Gets, dialect: Dialect) -> KnownGet | None:
        """Return what ``Session.get`` asks for a class on an engine; None before it was asked and answered once."""
        kept = gets.by_dialect.get(dialect)
        known = None if kept is None else kept()
        return known if known is not None and known.results is self else None

    def of(
        self,
        reading: Reading,
        question: Question,
        description: Sequence[Any],
        rows: Sequence[Sequence[Any]],
    ) -> Result[Any]:
        """Build what the Session would have returned for these rows."""
        orm, compilation = reading.orm, question.compilation
        cursor_of = partial(_cursor_of, reading, compilation, description)
        recipe = self._recipes.get(compilation.compiled)
        if recipe is not None and not recipe.tree.pairs and _loading.follows(recipe, orm, description):
            if recipe.is_alone:
                made = recipe.load(orm.session, rows)
            else:
                made = self.with_posts(reading, recipe, question, rows, partial(_load_alone, reading, cursor_of))
            if made is not None:
                return _loading.result_of(recipe, orm, made, partial(cursor_of, rows))
        cursor = cursor_of(rows)
        result = _sqlalchemy.load_result(orm, orm.session, cursor, _options_of(reading))
        is_written = _sqlalchemy.written_select_of(orm.statement) is not None
        if rows and orm._compile_state_cls is not None and not is_written:
            if compilation.compiled not in self._recipes:
                load_alone = partial(_load_alone, reading, cursor_of)
                self._learn(reading, compilation, cursor, description, rows, load_alone, result)
            leading = _loading.top_level_of(orm)
            if leading is not None:
                self._followers.setdefault(leading, {})[place_of(compilation.compiled)] = compilation.compiled
        return _loading.hand_over(result, orm)

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
        self._recipes[compiled] = recipe
        names = None
        if recipe is not None and recipe.is_plain:
            names = _loading.names_of_get(orm.statement, recipe.mapper)
        # A column property may have a value of its own in it, which is made anew for each call.
        if recipe is not None and names is not None and set(compiled.bind_names.values()) == set(names):
            self._know_get(reading.attachment.dialect, recipe, names, compiled)

    def _know_get(self, dialect: Dialect, recipe: _loading.Recipe, names: tuple[str, ...], compiled: Any) -> None:
        model = recipe.mapper.class_
        gets = model.__dict__.get(GETS)
        if gets is None:
            gets = Gets(select(model), weakref.WeakKeyDictionary())
            _sqlalchemy.keep_with_class(model, GETS, gets)
        order = tuple(sorted(range(len(names)), key=names.__getitem__))
        known = KnownGet(self, _sqlalchemy.Compilation(compiled, None, None, None), names, order, recipe)
        # A compiled statement refers to the class and to the engine, and SQLAlchemy keeps it for as long as it likes.
        _sqlalchemy.keep_with_compiled(compiled, GETS, known)
        gets.by_dialect[dialect] = weakref.ref(known)

    def with_posts(
        self,
        reading: Reading,
        recipe: _loading.Recipe,
        question: Question,
        rows: Sequence[Sequence[Any]],
        ordinary: _loading.Replay,
    ) -> list[Any] | None:
        """Return what rows stand for with all that is loaded after them; None where not all of that is in the store."""
        compiled: Any = question.compilation.compiled
        followers = self._followers.get(compiled.compile_state)
        if followers is None or _loading.top_level_of(reading.orm) is not None:
            return None

        def recipe_at(place: tuple[Any, ...]) -> tuple[Any, _loading.Recipe] | None:
            follower = followers.get(place)
            found = None if follower is None else self._recipes.get(follower)
            return None if found is None else (follower, found)

        whole = posts.gather(reading, question, self.questions, recipe, rows, recipe_at)
        if whole is None:
            return None
        if not recipe.is_tried:
            recipe.is_tried.append(posts.is_faithful(reading, whole, ordinary))
        return posts.load(reading, whole) if recipe.is_tried[0] else None


_CursorOf: TypeAlias = Callable[[Sequence[Sequence[Any]]], CursorResult[Any]]


def _options_of(reading: Reading) -> dict[str, Any]:
    return {**reading.options, "prebuffer_rows": True}


def _cursor_of(
    reading: Reading,
    compilation: _sqlalchemy.Compilation,
    description: Sequence[Any],
    rows: Sequence[Sequence[Any]],
) -> CursorResult[Any]:
    statement, options = reading.orm.statement, _options_of(reading)
    return _cursors.replay_cursor(compilation, statement, reading.engine, options, description, rows)


def _load_alone(reading: Reading, cursor_of: _CursorOf, session: Session, rows: Sequence[Sequence[Any]]) -> Result[Any]:
    """Have the ordinary loader load rows into another Session, as those of a statement of its own."""
    options = _loading.without_top_level(_options_of(reading))
    return _sqlalchemy.load_result(reading.orm, session, cursor_of(rows), options)
