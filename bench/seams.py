"""At which functions can a hit be taken apart? The one table of names that the profile leans on.

Each stands where it is looked up when it is called: the module that calls it by its name, or the class. Where a part has none
left that is there, the profile says so, and this table is what to put right.
"""

from __future__ import annotations

import importlib
from types import FunctionType
from typing import Any, Final

from rounds import BenchError
from stopwatch import Stopwatch

SEAMS: Final[tuple[tuple[str, str], ...]] = (
    # A part, and the function; with "|" between where it is one or the other.
    ("Session: opening, closing", "sqlalchemy.orm.session:Session.__init__"),
    ("Session: opening, closing", "sqlalchemy.orm.session:Session.close"),
    ("Session: which engine", "sqlalchemy.orm.session:Session.get_bind"),
    ("reading: who answers", "querycache.session:_found"),
    ("reading: who answers", "querycache.session:_answer_by"),
    ("reading: who answers", "querycache.session:_get_from_cache"),
    ("reading: how", "querycache.session:get"),
    ("reading: how", "querycache.reader:Reader.answer"),
    ("reading: where, in which transaction", "querycache.reader:Reader._situation_of"),
    ("reading: where, in which transaction", "querycache.hooks:Hooks.are_quiet"),
    ("reading: where, in which transaction", "querycache.reader:freshness_in"),
    ("reading: where, in which transaction", "querycache.gets:freshness_in"),
    ("Session: its transaction begins", "querycache._sqlalchemy:autobegin"),
    ("key: SQLAlchemy's key, the compiled statement", "querycache._sqlalchemy:compile_statement"),
    ("key", "querycache.questions:Questions.form_of"),
    ("key", "querycache.questions:Questions.plan_of"),
    ("key", "querycache.questions:Questions.about"),
    ("key", "querycache.questions:Questions.question_of"),
    ("key", "querycache.questions:Questions.remembered"),
    ("key", "querycache._sqlalchemy:parameters_of"),
    ("tags", "querycache.statements.dependencies:Dependencies.tags"),
    ("look-up: protocol", "querycache.coherence.protocol:Coherence.lookup"),
    ("look-up: store", "querycache.stores.memory:MemoryStore.lookup"),
    ("look-up: store", "querycache.stores.lmdb:LMDBStore.lookup"),
    ("look-up: store", "querycache.stores.redis:RedisStore.lookup"),
    ("decoding", "querycache.entries:decode_rows"),
    ("may it be served", "querycache.entries:take"),
    ("counting", "querycache.events:Events.emit"),
    ("instances", "querycache._loading:Recipe.load"),
    ("result", "querycache.results:Results.of"),
)


def patches_for(watch: Stopwatch) -> list[tuple[Any, str, Any]]:
    """Return what to set where, so that the parts of a hit are timed; ``BenchError`` where a name is gone."""
    return [_patch(watch, part, seams) for part, seams in SEAMS]


def _patch(watch: Stopwatch, part: str, seams: str) -> tuple[Any, str, Any]:
    for seam in seams.split(" | "):
        owner, name = _place_of(seam)
        function = None if owner is None else vars(owner).get(name)
        if isinstance(function, FunctionType):
            return owner, name, watch.wrapped(part, function)
    raise BenchError(f"the profile finds no {seams} any more, for the part {part!r}: put bench/seams.py right")


def _place_of(seam: str) -> tuple[Any, str]:
    """Return the module or class where a function is looked up, None where that is gone, and by which name."""
    module, _, path = seam.partition(":")
    *classes, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
    except ImportError:
        return None, name
    for part in classes:
        owner = getattr(owner, part, None)
    return owner, name
