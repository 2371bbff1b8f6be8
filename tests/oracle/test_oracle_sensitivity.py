"""Would the oracle see a mistake?

Each test takes one rule out of the library and shows that the oracle finds rows that are not the database's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from oracle_answers import Disagreement
from oracle_machine import machine_on
from oracle_questions import aggregates, columns, derived, entities, gets, joins
from oracle_schema import item_label
from oracle_world import World
from oracle_writes import adds, associations, core_dml, links, removes, sets, texts
from querycache import engine, questions, reader
from querycache.coherence.binds import Bind, TableFacts
from querycache.coherence.transactions import ConnectionState
from querycache.statements import narrowing
from querycache.statements.writes import Effect

Break = Callable[[pytest.MonkeyPatch], None]

SEARCH: Final = settings(
    max_examples=150,
    stateful_step_count=20,
    derandomize=True,
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


def no_tags_of_old_values(patch: pytest.MonkeyPatch) -> None:
    column_tags = TableFacts._column_tags

    def only_new(self: TableFacts, column: Any, row: Any, old: Any) -> Any:
        return column_tags(self, column, row, old)[1 if row.how != "insert" else 0 :]

    patch.setattr(TableFacts, "_column_tags", only_new)


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
    effect_of = engine.effect_of_compiled

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
    before_change = engine.Attachment._before_change

    def clean(self: Any, state: ConnectionState, *arguments: Any) -> None:
        before_change(self, state, *arguments)
        state.dirty = False

    patch.setattr(engine.Attachment, "_before_change", clean)


def outer_on_narrows_both_sides(patch: pytest.MonkeyPatch) -> None:
    def plant(self: Any, join: Any, scope: Any, *, nullable: bool) -> None:
        scope.require(join.onclause)
        self.plant(join.left, scope, nullable=nullable)
        self.plant(join.right, scope, nullable=join.isouter or nullable)

    patch.setattr(narrowing._Block, "_plant_join", plant)


def is_null_narrows_a_nullable_side(patch: pytest.MonkeyPatch) -> None:
    plant_table = narrowing._Block._plant_table
    patch.setattr(
        narrowing._Block, "_plant_table", lambda self, source, scope, nullable: plant_table(self, source, scope, nullable=False)
    )


def any_branch_of_or_narrows(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(narrowing, "_in_every", lambda branches: branches[0])


def parameters_are_not_in_the_key(patch: pytest.MonkeyPatch) -> None:
    key_of = questions.key_of
    patch.setattr(
        questions,
        "key_of",
        lambda shape, bind, values, *rest: key_of(shape, bind, {name: 0 for name in values}, *rest),
    )


def a_released_savepoint_never_commits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(engine, "_RELEASES", re.compile("(?!)"))


def nothing_is_marked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("querycache.coherence.protocol.Coherence.mark", lambda self, tags: [])


def nulls_come_back_as_zeros(patch: pytest.MonkeyPatch) -> None:
    decode_rows = reader.decode_rows

    def decode(*arguments: Any) -> Any:
        decoded = decode_rows(*arguments)
        rows = [tuple(0 if value is None else value for value in row) for row in decoded.rows]
        return type(decoded)(decoded.description, rows)

    patch.setattr(reader, "decode_rows", decode)


BROKEN: Final[tuple[tuple[Break, Any, Any], ...]] = (
    (no_tags_of_old_values, columns(), sets() | core_dml()),
    (no_any_row_tag, columns() | aggregates(), adds()),
    (no_cascades, aggregates() | columns(), removes() | core_dml()),
    (no_association_writes, entities() | derived(), links() | associations()),
    (no_textual_writes, columns() | aggregates(), texts()),
    (own_changes_are_served, columns() | gets(), core_dml()),
    (uncommitted_rows_are_stored, columns() | gets(), core_dml()),
    (outer_on_narrows_both_sides, joins(), adds() | sets() | removes()),
    (is_null_narrows_a_nullable_side, joins(), adds() | sets() | removes()),
    (any_branch_of_or_narrows, columns() | aggregates(), adds() | sets()),
    (parameters_are_not_in_the_key, columns() | gets(), core_dml()),
    (a_released_savepoint_never_commits, columns(), core_dml()),
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
        run_state_machine_as_test(machine_on(world, asked, written), settings=SEARCH)
    print(world.examples, world.comparisons)
