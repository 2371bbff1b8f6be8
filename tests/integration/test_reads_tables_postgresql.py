"""Is every table that a SELECT reads named, whatever the shape? PostgreSQL locks each relation that a statement names."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from conftest import EngineFactory
from querycache._rendering import record_rendering
from querycache._sqlalchemy import compile_statement
from querycache.statements.fingerprint import shape_of
from read_shapes import POSTGRESQL, SHAPES, Base, ReadShape

ALL = {**SHAPES, **POSTGRESQL}
LOCKED = text(
    "SELECT relation::regclass::text FROM pg_locks"
    " WHERE pid = pg_backend_pid() AND locktype = 'relation' AND mode = 'AccessShareLock'"
)


@pytest.fixture
def engine(postgresql_url: str, engine_of: EngineFactory) -> Engine:
    engine = engine_of(postgresql_url)
    record_rendering(engine.dialect)
    Base.metadata.create_all(engine)
    return engine


@pytest.mark.filterwarnings("ignore:SELECT statement has a cartesian product")
def test_what_postgresql_locks_is_named(engine: Engine) -> None:
    # One test for all shapes: an empty database for each would cost minutes.
    wrong = {}
    for name, shape in ALL.items():
        if shape.refused is not None:
            continue
        found = shape_of(compile_statement(shape.build(), engine, engine.dialect, {}, []).compiled, engine.dialect)
        with Session(engine) as session:
            session.execute(shape.build())
            locked = set(session.scalars(LOCKED)) & set(Base.metadata.tables)
        reads = found.reads
        by_text = set() if reads is None else {name for _, name in reads.named}
        named = None if reads is None else {element.table.name for element in reads.elements} | by_text
        # A CTE that nothing refers to is in the text, and PostgreSQL does not look at it.
        if named != locked | ({"tag"} if name == "a CTE that nothing refers to" else set()):
            wrong[name] = (named, locked, found.why_not)
    assert wrong == {}


@pytest.mark.parametrize("shape", [shape for shape in POSTGRESQL.values() if shape.refused is not None])
def test_what_is_not_understood_is_refused_with_the_reason(engine: Engine, shape: ReadShape) -> None:
    compiled = compile_statement(shape.build(), engine, engine.dialect, {}, []).compiled
    assert shape.refused is not None
    assert shape.refused in (shape_of(compiled, engine.dialect).why_not or "")
