"""At which functions can a hit be taken apart? The one table of names that the profile leans on.

Each stands where it is looked up when it is called: the module that calls it by its name, or the class. Where one is gone, the
profile says so, and this table is what to put right.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from rounds import BenchError
from stopwatch import Stopwatch

SEAMS: Final[tuple[tuple[str, str], ...]] = (
    ("Session: opening, closing", "sqlalchemy.orm.session:Session.__init__"),
    ("Session: opening, closing", "sqlalchemy.orm.session:Session.close"),
    ("Session: which engine", "sqlalchemy.orm.session:Session.get_bind"),
    ("reading: who answers", "querycache.session:_found"),
    ("reading: who answers", "querycache.session:_answer_by"),
    ("reading: who answers", "querycache.session:_get_from_cache"),
    ("reading: how", "querycache.session:get"),
    ("reading: how", "querycache.reader:Reader.answer"),
    ("reading: where, in which transaction", "querycache.reader:Reader._situation_of"),
    ("reading: where, in which transaction", "querycache.reader:freshness_in"),
    ("reading: where, in which transaction", "querycache.gets:freshness_in"),
    ("Session: its transaction begins", "querycache._sqlalchemy:autobegin"),
    ("key: SQLAlchemy's key, the compiled statement", "querycache._sqlalchemy:compile_statement"),
    ("key", "querycache.questions:Questions.form_of"),
    ("key", "querycache.questions:Questions.plan_of"),
    ("key", "querycache.questions:Questions.question_of"),
    ("key", "querycache._sqlalchemy:parameters_of"),
    ("tags", "querycache.statements.dependencies:Dependencies.tags"),
    ("look-up: protocol", "querycache.coherence.protocol:Coherence.lookup"),
    ("look-up: store", "querycache.stores.memory:MemoryStore.lookup"),
    ("look-up: store", "querycache.stores.lmdb:LMDBStore.lookup"),
    ("look-up: store", "querycache.stores.redis:RedisStore.lookup"),
    ("decoding", "querycache.entries:decode_rows"),
    ("may it be served", "querycache.entries:take"),
    ("counting", "querycache.events:Events.emit"),
    ("instances", "querycache._loading:loader_of"),
    ("result", "querycache.results:Results.of"),
)

MAKERS: Final = frozenset({"querycache._loading:loader_of"})
"""Functions that make the function that counts."""


def patches_for(watch: Stopwatch) -> list[tuple[Any, str, Any]]:
    """Return what to set where, so that the parts of a hit are timed; ``BenchError`` where a name is gone."""
    return [(*_place_of(seam), _timed(watch, part, seam)) for part, seam in SEAMS]


def _timed(watch: Stopwatch, part: str, seam: str) -> Any:
    owner, name = _place_of(seam)
    function = vars(owner)[name]
    if seam not in MAKERS:
        return watch.wrapped(part, function)
    make: Callable[..., Any] = function
    return lambda *args, **options: watch.wrapped(part, make(*args, **options))


def _place_of(seam: str) -> tuple[Any, str]:
    module, _, path = seam.partition(":")
    *classes, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for part in classes:
            owner = getattr(owner, part)
        vars(owner)[name]
    except (ImportError, AttributeError, KeyError) as error:
        raise BenchError(f"the profile knows no {seam} any more ({error!r}): put bench/seams.py right") from error
    return owner, name
