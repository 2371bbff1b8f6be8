"""Why is a statement cached or not, under what, and what would drop it?

Asks the same questions as a read, and answers in words. Never runs the statement.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.engine import Engine
from sqlalchemy.orm import Session

from querycache import _sqlalchemy
from querycache._types import TagSet
from querycache.coherence.binds import Bind
from querycache.engine import Attachment
from querycache.errors import ConfigurationError
from querycache.hooks import rewritten_by
from querycache.options import CacheRequest, FromCache, NoCache
from querycache.policy import EntryShape
from querycache.questions import Bypass, Questions
from querycache.rowwise import Call, Rowwise, rowwise_of
from querycache.statements import tags as naming
from querycache.variation import Variations


@dataclass(frozen=True, slots=True)
class TableExplanation:
    """One table that a statement reads: the tags it depends on, and the writes that drop it."""

    table: str
    tags: tuple[str, ...]
    narrowed_by: str | None
    dropped_by: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What ``QueryCache.explain`` found. ``reason`` says why a statement is not cached. ``ttl`` is in seconds.

    ``shape`` is "keys" where the list's keys and each of its rows are kept besides; ``why_whole`` says why they are not
    although they should. ``grace``: seconds by which a read may be older while another one asks the database.
    """

    cached: bool
    reason: str | None = None
    key: str | None = None
    tables: tuple[TableExplanation, ...] = ()
    other_tags: tuple[str, ...] = ()
    ttl: float | None = None
    store: str | None = None
    present: bool | None = None
    shape: EntryShape = "whole"
    why_whole: str | None = None
    grace: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if not self.cached:
            return f"not cached: {self.reason}"
        lines = [f"cached for {self.ttl:g} s under {self.key} in {self.store}: {_PRESENCE[self.present]}"]
        if self.shape == "keys":
            lines.append("  its keys, and each of its rows, are kept on their own besides")
        if self.grace:
            lines.append(f"  up to {self.grace:g} s older than the database, while another read asks it")
        if self.why_whole is not None:
            lines.append(f"  kept whole, not by keys: {self.why_whole}")
        for table in self.tables:
            by = f"narrowed by {table.narrowed_by}" if table.narrowed_by else "not narrowed"
            lines.append(f"  {table.table}: {by}; dropped by {table.dropped_by}")
            lines.extend(f"    {tag}" for tag in table.tags)
        lines.extend(f"  {tag}" for tag in self.other_tags)
        return "\n".join(lines)


_PRESENCE = {True: "present", False: "not present", None: "the store did not answer"}


def explain(
    questions: Questions,
    attachment: Attachment,
    statement: Any,
    parameters: Mapping[str, Any] | None,
    session: Session | None,
    variations: Variations,
    engine: Engine | None = None,
) -> Explanation:
    """Explain one call of a statement. ``engine``: where the Session would run it, with execution options of its own."""
    if not _may_read(statement):
        statement = getattr(statement, "statement", statement)
    if not _may_read(statement):
        raise ConfigurationError(f"explain() takes a select(), a Query or text(), not {type(statement).__name__}")
    bind = attachment.ask()
    if bind is None:
        return Explanation(False, f"it is not known which database this is: {attachment.why_no_bind}")
    engine = attachment.engine if engine is None else engine
    options = {**statement.get_execution_options(), **engine.get_execution_options()}
    if options.get("yield_per") or options.get("stream_results"):
        return Explanation(False, "its rows are streamed")
    given = statement._with_options
    if any(isinstance(option, NoCache) for option in given):
        return Explanation(False, "NoCache")
    request: CacheRequest | None = next((o.payload for o in reversed(given) if isinstance(o, FromCache)), None)
    with nullcontext(session) if session is not None else Session(attachment.engine) as asked:
        variation = variations.of(asked)
    if isinstance(variation, Bypass):
        return Explanation(False, variation.reason)
    if not variations.are_told and (rewriter := attachment.hooks.rewriter(engine)) is not None:
        return Explanation(False, rewritten_by(rewriter))
    question = questions.of(statement, parameters, options, attachment, bind, engine, request, variation)
    if isinstance(question, Bypass):
        return Explanation(False, question.reason)
    wants_keys = question.plan.entry_shape == "keys"
    rowwise: Rowwise | str | None = "it asks for one row" if wants_keys else None
    if question.plan.by_keys:
        call = Call(statement, parameters, options, attachment, bind, engine, variation)
        rowwise = rowwise_of(questions, question, call, request)
    found = attachment.coherence.lookup(question.store, question.key, question.tags)
    tables, others = _by_table(bind, question.tags, question.tables)
    return Explanation(
        cached=True,
        key=question.key.hex(),
        tables=tables,
        other_tags=others,
        ttl=question.ttl_s,
        store=attachment.coherence.journals[question.store].store.url,
        present=None if found is None else found.payload is not None,
        shape="keys" if isinstance(rowwise, Rowwise) else "whole",
        why_whole=rowwise if isinstance(rowwise, str) else None,
        grace=question.plan.grace_s,
    )


def _may_read(statement: Any) -> bool:
    return getattr(statement, "is_select", False) or _sqlalchemy.written_select_of(statement) is not None


def _by_table(bind: Bind, tags: TagSet, tables: frozenset[str]) -> tuple[tuple[TableExplanation, ...], tuple[str, ...]]:
    names = [tag.decode().removeprefix(f"{bind.id}/") for tag in (*tags.tags, *(guard[0] for guard in tags.guards))]
    explained: list[TableExplanation] = []
    taken: set[str] = set()
    for table in sorted(tables):
        own = tuple(name for name in names if name.startswith((f"{table}!", f"{table}*", f"{table}|")))
        taken.update(own)
        explained.append(_explain_table(table, own))
    return tuple(explained), tuple(n or "anything in the database" for n in names if n not in taken)


def _explain_table(table: str, names: tuple[str, ...]) -> TableExplanation:
    rows = list(dict.fromkeys(naming.rows_of(name.encode()).decode().removeprefix(table) for name in names))
    columns = sorted({column for name in names if (column := _column_in(name))})
    updates = f", updates of {', '.join(columns)}" if columns else ""
    is_narrow = any(name.endswith("#") for name in names)
    if "*" in rows:
        changes = f"any row inserted or deleted{updates}" if is_narrow else "any row inserted, updated or deleted"
        return TableExplanation(table, names, None, changes)
    values = [name.removeprefix("|") for name in rows if name.startswith("|")]
    groups = sorted({value.partition("=")[0] for value in values})
    by = ", ".join("its primary key" if group == "pk" else group.replace(",", " and ") for group in groups)
    known = " or ".join(value for value in values if not value.endswith("=?"))
    changes = f"rows with {known} that come or go{updates and f'{updates} in them'}"
    changes = changes if is_narrow else f"changes of rows with {known}"
    return TableExplanation(table, names, by, f"{changes}, and changes not known row by row")


def _column_in(name: str) -> str:
    rest = name.removeprefix(naming.rows_of(name.encode()).decode())
    return rest[1:] if rest.startswith(".") else ""
