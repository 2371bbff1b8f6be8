"""Would the oracle see a mistake?

Each test takes one rule out of the library and shows that the oracle finds rows that are not the database's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from oracle_answers import Disagreement
from oracle_machine import machine_on
from oracle_questions import aggregates, columns, derived, entities, gets
from oracle_schema import item_label
from oracle_world import World
from oracle_writes import adds, associations, core_dml, links, removes, texts

from querycache import engine, reader
from querycache.coherence.binds import Bind, TableFacts
from querycache.coherence.transactions import ConnectionState
from querycache.rows import codec
from querycache.statements import writes
from querycache.statements.writes import Effect

Break = Callable[[pytest.MonkeyPatch], None]

SEARCH: Final = settings(
    max_examples=60,
    stateful_step_count=20,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def world(sqlite_url: str) -> Iterator[World]:
    made = World(sqlite_url)
    yield made
    made.close()


def no_any_row_tag(patch: pytest.MonkeyPatch) -> None:
    change_tags = TableFacts.change_tags

    def without(self: TableFacts, row: Any, old: Any) -> Any:
        return [tag for tag in change_tags(self, row, old) if not (row.how == "insert" and tag.endswith(b"*"))]

    patch.setattr(TableFacts, "change_tags", without)


def no_cascades(patch: pytest.MonkeyPatch) -> None:
    note_whole = Bind._note_whole

    def only_itself(self: Bind, pending: Any, names: Any) -> None:
        note_whole(self, pending, list(names)[:0])

    patch.setattr(Bind, "_note_whole", only_itself)


def no_association_writes(patch: pytest.MonkeyPatch) -> None:
    effect_of = writes.effect_of_compiled

    def blind(compiled: Any) -> Effect | None:
        effect = effect_of(compiled)
        written = effect is not None and any(write.table is item_label for write in effect.writes)
        return Effect("read") if written else effect

    patch.setattr(engine, "effect_of_compiled", blind)


def no_textual_writes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine, "effect_of_textual", lambda text, dialect: Effect("read", reads_tables=True))


def own_changes_are_served(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ConnectionState, "may_have_changed", lambda self, tables: False)


def uncommitted_rows_are_stored(patch: pytest.MonkeyPatch) -> None:
    before_change = engine.Attachment.before_change

    def clean(self: Any, state: ConnectionState, *arguments: Any) -> None:
        before_change(self, state, *arguments)
        state.dirty = False

    patch.setattr(engine.Attachment, "before_change", clean)


def nothing_is_marked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("querycache.coherence.protocol.Coherence.mark", lambda self, tags: [])


def nulls_come_back_as_zeros(patch: pytest.MonkeyPatch) -> None:
    decode_rows = codec.decode_rows

    def decode(*arguments: Any) -> Any:
        decoded = decode_rows(*arguments)
        rows = [tuple(0 if value is None else value for value in row) for row in decoded.rows]
        return type(decoded)(decoded.description, rows)

    patch.setattr(reader, "decode_rows", decode)


BROKEN: Final[tuple[tuple[Break, Any, Any], ...]] = (
    (no_any_row_tag, columns() | aggregates(), adds()),
    (no_cascades, aggregates() | columns(), removes() | core_dml()),
    (no_association_writes, entities() | derived(), links() | associations()),
    (no_textual_writes, columns() | aggregates(), texts()),
    (own_changes_are_served, columns() | gets(), core_dml()),
    (uncommitted_rows_are_stored, columns() | gets(), core_dml()),
    (nothing_is_marked, columns(), core_dml()),
    (nulls_come_back_as_zeros, columns(), core_dml()),
)
"""A rule, and the kinds of questions and writes that it is about: the search takes those to be quick."""


@pytest.mark.parametrize(("break_rule", "asked", "written"), BROKEN, ids=[rule.__name__ for rule, _, _ in BROKEN])
def test_the_oracle_finds_a_rule_that_is_broken(
    break_rule: Break, asked: Any, written: Any, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_rule(monkeypatch)

    with pytest.raises(Disagreement):
        run_state_machine_as_test(seed(1)(machine_on(world, asked, written)), settings=SEARCH)
