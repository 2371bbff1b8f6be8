"""All kinds of questions and writes: to import this is to have them."""

from __future__ import annotations

import oracle_questions_asked
import oracle_questions_blocks
import oracle_questions_entities
import oracle_questions_joins
import oracle_questions_rows
import oracle_writes_core
import oracle_writes_flush
import oracle_writes_orm

__all__ = [
    "oracle_questions_asked",
    "oracle_questions_blocks",
    "oracle_questions_entities",
    "oracle_questions_joins",
    "oracle_questions_rows",
    "oracle_writes_core",
    "oracle_writes_flush",
    "oracle_writes_orm",
]
