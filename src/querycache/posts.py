"""How is a statement answered together with those that the ORM sends after it, none of which is built?

Each of them has an entry of its own, with its own key and tags: what changes below drops no more than its own entry. All that
is needed is looked up before any instance is made; where one entry is missing, or anything is unusual, nothing has happened,
and the ordinary loader has its way. Promises: the keys that are asked for are those that the ORM would ask for, and what is
made of the answers is what it would make.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from sqlalchemy.engine import Result
from sqlalchemy.orm import ORMExecuteState, Session

from querycache import _cursors, _loading, _sqlalchemy, _trials, entries
from querycache._sqlalchemy import Compilation
from querycache._trees import Node, Post, place_of
from querycache._types import Lease, Lookup
from querycache.coherence.snapshots import Freshness
from querycache.options import CacheRequest, FromCache
from querycache.questions import Bypass, Question, Questions
from querycache.readings import Reading, freshness_in
from querycache.recall import Named
from querycache.rows.codec import DecodedRows

logger = logging.getLogger("querycache")

MAX_AHEAD: Final = 16
"""Of more questions than that nothing is asked before it is sure that they come."""

_KEYS: Final = "primary_keys"
_HARMLESS_OPTIONS: Final = frozenset(
    {"_sa_orm_load_options", "_result_disable_adapt_to_context", "isolation_level", "prebuffer_rows"}
)

RecipeAt: TypeAlias = Callable[[tuple[Any, ...]], tuple[Any, _loading.Recipe] | None]
"""Returns the compiled statement that is sent at a place below another, and its recipe."""

Answer: TypeAlias = tuple[Question, Lease, DecodedRows]


@dataclass(slots=True, eq=False)
class Part:
    """One statement of a tree with its rows, and what follows it: for each post of each node another part."""

    recipe: _loading.Recipe
    rows: Sequence[Sequence[Any]]
    compiled: Any = None
    answers: list[Answer] = field(default_factory=list)
    below: list[list[Part | None]] = field(default_factory=list)

    def parts(self) -> Iterator[Part]:
        """Yield the part and all below it."""
        yield self
        for part in (part for parts in self.below for part in parts if part is not None):
            yield from part.parts()


def gather(
    reading: Reading,
    leading: Question,
    questions: Questions,
    recipe: _loading.Recipe,
    rows: Sequence[Sequence[Any]],
    recipe_at: RecipeAt,
) -> Part | None:
    """Look up all that a statement is followed by; None where not all of it may be served from the store.

    What was asked is asked together with the statement's own question next time.
    """
    if not _loading.is_ours_alone(reading.orm.session) or not reading.options.keys() <= _HARMLESS_OPTIONS:
        return None
    freshness = freshness_in(reading)
    if isinstance(freshness, Bypass):
        return None
    whole = _Gathering(reading, questions, recipe_at, freshness, recipe.options).part(recipe, rows)
    if whole is None:
        return None
    asked = []
    for part in whole.parts():
        for question, lease, _ in part.answers:
            entries.remember(reading, question, question.tags, lease, freshness)
            reading.attachment.coherence.events.emit("hit", key=question.key)
            if question.store == leading.store:
                asked.append(Named(question.key, question.tags))
    if len(asked) <= MAX_AHEAD:
        leading.plan.memory.keep_after(leading.key, tuple(asked))
    return whole


def load(reading: Reading, whole: Part) -> list[Any] | None:
    """Return what the rows stand for in the Session; None, and nothing has happened, where the ordinary loader must."""
    return _load_into(reading.orm.session, whole)


def is_faithful(reading: Reading, whole: Part, ordinary: _loading.Replay) -> bool:
    """Tell whether a tree is made as the ordinary loader makes it, field by field. Never raises."""
    answers = {place_of(part.compiled): list(part.answers) for part in whole.parts() if part.compiled is not None}

    def answer(orm: ORMExecuteState) -> Result[Any]:
        options = {**reading.options, **orm.execution_options, "prebuffer_rows": True}
        compilation = _sqlalchemy.compile_statement(orm.statement, reading.engine, reading.engine.dialect, {}, [_KEYS])
        _, _, entry = answers[place_of(compilation.compiled)].pop(0)
        cursor = _cursors.replay_cursor(
            compilation, orm.statement, reading.engine, options, entry.description, entry.rows
        )
        return _sqlalchemy.load_result(orm, orm.session, cursor, options)

    try:
        with _trials.trial_session(answer) as one, _trials.trial_session() as other:
            expected = _loading.shown(whole.recipe, ordinary(one, whole.rows))
            made = _load_into(other, whole)
            if made is not None and _trials.are_same(_loading.shown_of(whole.recipe, reading.orm, made), expected):
                return True
    except Exception:
        logger.warning("a tree is loaded by SQLAlchemy's own loader: it could not be tried", exc_info=True)
        return False
    logger.debug("a tree is loaded by SQLAlchemy's own loader: its recipe makes something else")
    return False


class _Gathering:
    def __init__(
        self,
        reading: Reading,
        questions: Questions,
        recipe_at: RecipeAt,
        freshness: Freshness,
        options: tuple[type[Any], ...],
    ) -> None:
        self._reading = reading
        self._questions = questions
        self._recipe_at = recipe_at
        self._options = options
        self._freshness = freshness
        self._strict = reading.must_be_strict(freshness)
        # What is loaded afterwards has the options of the first statement.
        asked = [option.payload for option in reading.orm.user_defined_options if isinstance(option, FromCache)]
        self._request: CacheRequest | None = asked[-1] if asked else None

    def part(self, recipe: _loading.Recipe, rows: Sequence[Sequence[Any]], compiled: Any = None) -> Part | None:
        part = Part(recipe, rows, compiled)
        for node in recipe.tree.post_order:
            parts: list[Part | None] = []
            for post in node.posts:
                keys = _keys_of(recipe, node, post, rows)
                below = self._below(post, keys) if keys else None
                if keys and below is None:
                    return None
                parts.append(below)
            part.below.append(parts)
        return part

    def _below(self, post: Post, keys: list[Any]) -> Part | None:
        found = self._recipe_at(post.path)
        if found is None:
            return None
        compiled, recipe = found
        is_fit = recipe.tree.pairs and recipe.options == self._options
        if not is_fit or not self._is_sent_here(compiled, recipe):
            return None
        plan = self._questions.plan_of(compiled, self._reading.bind, self._request)
        if isinstance(plan, Bypass) or plan.grace_s or self._reading.why_not_cached(plan.tables) is not None:
            return None
        if recipe.tree.sorts_keys and post.by_child:
            keys = sorted(keys)
        compilation = Compilation(compiled, None, None, None)
        answers: list[Answer] = []
        for start in range(0, len(keys), post.chunk_size):
            asked = {_KEYS: keys[start : start + post.chunk_size]}
            question = self._questions.question_of(plan, asked, self._request, compilation, self._reading.variation)
            answer = None if isinstance(question, Bypass) else self._answer(question)
            if answer is None or not _loading.may_apply(recipe, self._reading.orm.session, answer[2].description):
                return None
            answers.append(answer)
        rows = answers[0][2].rows if len(answers) == 1 else [row for answer in answers for row in answer[2].rows]
        part = self.part(recipe, rows, compiled)
        if part is not None:
            part.answers = answers
        return part

    def _is_sent_here(self, compiled: Any, recipe: _loading.Recipe) -> bool:
        """Tell whether a statement asks for nothing but keys, and the Session would send it where the first one goes."""
        reading = self._reading
        if set(compiled.bind_names.values()) != {_KEYS}:
            return False
        try:
            bind = reading.orm.session.get_bind(recipe.mapper, clause=compiled.statement)
        except Exception:  # the ordinary way asks again, and lets it raise
            return False
        return bind is reading.engine or (bind is reading.connection is not None)

    def _answer(self, question: Question) -> Answer | None:
        found = self._look_up(question)
        if found is None or not question.is_answered_by(found):
            return None
        entry = entries.peek(self._reading, question.store, question.key, found, self._freshness)
        return None if entry is None else (question, found.lease, entry)

    def _look_up(self, question: Question) -> Lookup | None:
        """Return what the store said together with the leading question; it is asked anew where that was another question.

        In the order of the ORM: what it asks later shows no less. So nothing said before is taken after one was asked anew.
        """
        reading = self._reading
        told = None if reading.ahead is None else reading.ahead.get(question.key)
        if told is not None and told[0] == question.tags:
            return told[1]
        reading.ahead = None
        coherence = reading.attachment.coherence
        return coherence.lookup(question.store, question.key, question.tags, strict=self._strict)


def _keys_of(recipe: _loading.Recipe, node: Node, post: Post, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Return what the ORM asks for after these rows: the keys of those that it met, each once, in order."""
    processors = recipe.tree.processors
    columns = [_column(rows, position, processors.get(position)) for position in post.key]
    if post.by_child and post.key != node.key:
        # An instance that is not there has no child to ask for.
        columns += [_column(rows, position, None) for position in node.key]
    width = len(post.key)
    if len(columns) == 1:
        return [key for key in dict.fromkeys(columns[0]) if key is not None]
    keys = dict.fromkeys(key[0] if width == 1 else key[:width] for key in zip(*columns, strict=True) if None not in key)
    return list(keys)


def _column(rows: Sequence[Sequence[Any]], position: int, process: Callable[[Any], Any] | None) -> list[Any]:
    values = [row[position] for row in rows]
    return values if process is None else list(map(process, values))


def _load_into(session: Session, whole: Part) -> list[Any] | None:
    loading = _Loading(session)
    made = loading.whole(whole)
    if made is None:
        _loading.forget(session, loading.runids)
    return made


class _Loading:
    """Makes all instances of a tree first, and then lets them know each other."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.runids: set[int] = set()
        self._later: list[tuple[dict[str, Any], dict[str, Any]]] = []
        self._links: list[tuple[Post, list[tuple[Any, dict[str, Any], bool, Any]]]] = []

    def whole(self, whole: Part) -> list[Any] | None:
        """Load in the order in which the ORM does: what follows one statement, and then what follows that."""
        made, visits = self._load(whole)
        round_ = [(whole, visits)]
        while round_ and made is not None:
            following = []
            for part, visits in round_:
                for node, met, parts in zip(part.recipe.tree.post_order, visits, part.below, strict=True):
                    for at, (post, below) in enumerate(zip(node.posts, parts, strict=True)):
                        if not met:
                            continue
                        pairs: list[Any] | None = []
                        if below is not None:
                            loaded, below_visits = self._load(below)
                            pairs = None if loaded is None else _loading.distinct(below.recipe, loaded)
                            following.append((below, below_visits))
                        if pairs is None or not self._link(post, at, met, pairs):
                            return None
            round_ = following
        if made is not None:
            self._finish()
        return made

    def _load(self, part: Part) -> tuple[list[Any] | None, list[list[Any]]]:
        visits: list[list[Any]] = [[] for _ in part.recipe.tree.post_order]
        return part.recipe.make(self._session, part.rows, self.runids, self._later, visits), visits

    def _link(self, post: Post, at: int, met: list[Any], pairs: list[Any]) -> bool:
        """Note who is whose; tell whether the ORM would have nothing to warn of."""
        by_key: dict[Any, Any] = {}
        if post.by_child:
            by_key = dict(pairs)
        else:
            for key, instance in pairs:
                by_key.setdefault(key, []).append(instance)
            if post.factory is None:
                if any(len(instances) > 1 for instances in by_key.values()):
                    return False
                by_key = {key: instances[0] for key, instances in by_key.items()}
        links = [(state, values, is_new, by_key.get(keys[at])) for state, values, is_new, keys in met]
        self._links.append((post, links))
        return True

    def _finish(self) -> None:
        for values, target in self._later:
            values.update(target)
        for post, links in self._links:
            name, impl, factory = post.name, post.impl, post.factory
            for state, values, is_new, value in links:
                if not is_new:
                    if name not in values:
                        impl.set_committed_value(state, values, value)
                elif factory is None:
                    values[name] = value
                else:
                    _loading.fill_collection(impl, state, values, name, factory, value)
