"""What is known of one database: its tables' tags, its catalog, and what a change reaches."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Numeric, Table
from sqlalchemy.dialects import postgresql

from querycache.coherence.binds import Bind, Binds, TableFacts
from querycache.coherence.transactions import Pending
from querycache.databases import Column as Said
from querycache.databases import ForeignKey as Reference
from querycache.databases import Profile, Survey, build_survey
from querycache.databases import Table as Relation
from querycache.statements.writes import UNKNOWN, RowChange, TableWrite

POSTGRESQL: Any = postgresql.dialect()  # type: ignore[no-untyped-call]
metadata = MetaData()
shelf = Table("shelf", metadata, Column("id", Integer, primary_key=True))
item = Table(
    "item",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("shelf_id", ForeignKey("shelf.id")),
    Column("price", Numeric(5, 2)),
)
CATALOG = build_survey(
    [Relation(("public", "shelf")), Relation(("public", "item")), Relation(("public", "noted"), fires=True)],
    [Reference(("public", "item"), ("public", "shelf"), ("shelf_id",), ("id",), "CASCADE", "NO ACTION")],
    columns=[
        Said(("public", "shelf"), "id", "int"),
        Said(("public", "item"), "id", "int"),
        Said(("public", "item"), "shelf_id", "int"),
    ],
)


def bind_of(survey: Survey | None = CATALOG, **tag_columns: Any) -> Bind:
    bind = Bind("a database", Profile("a database", default_schema="public"), POSTGRESQL, tag_columns)
    if survey is not None:
        bind.learn(survey, bind.survey_version)
    return bind


def names(facts: TableFacts, row: RowChange, old: dict[str, Any] | None = None) -> set[str]:
    return {tag.decode().split("/", 1)[1] for tag in facts.change_tags(row, old)}


@pytest.fixture
def facts() -> TableFacts:
    return bind_of().facts(item)


def test_a_row_inserted_has_a_tag_for_each_safe_column(facts: TableFacts) -> None:
    row = RowChange(item, "insert", (1,), {"id": 1, "shelf_id": 3, "price": 5})
    assert names(facts, row) == {"public.item*", "public.item|pk=1", "public.item|shelf_id=3"}


def test_a_row_updated_goes_by_its_old_and_new_value_where_the_database_said_the_old(facts: TableFacts) -> None:
    row = RowChange(item, "update", (1,), {"shelf_id": 7})
    expected = {"public.item*", "public.item|pk=1", "public.item|shelf_id=3", "public.item|shelf_id=7"}
    assert names(facts, row, {"shelf_id": 3}) == expected


@pytest.mark.parametrize("how", ["update", "delete"])
def test_without_the_old_value_every_value_may_be_meant(facts: TableFacts, how: Any) -> None:
    assert "public.item|shelf_id=?" in names(facts, RowChange(item, how, (1,)))


def test_a_value_that_the_database_computes_may_be_any(facts: TableFacts) -> None:
    row = RowChange(item, "update", (1,), {"shelf_id": UNKNOWN})
    assert {"public.item|shelf_id=3", "public.item|shelf_id=?"} <= names(facts, row, {"shelf_id": 3})


def test_a_value_that_is_of_another_type_may_be_any(facts: TableFacts) -> None:
    row = RowChange(item, "insert", (1,), {"id": 1, "shelf_id": "3"})
    assert "public.item|shelf_id=?" in names(facts, row)


def test_null_has_a_tag_of_its_own(facts: TableFacts) -> None:
    assert "public.item|shelf_id=!" in names(facts, RowChange(item, "insert", (1,), {"id": 1, "shelf_id": None}))


def test_a_key_without_canonical_form_is_the_whole_table(facts: TableFacts) -> None:
    assert "public.item!" in names(facts, RowChange(item, "delete", ("x",)))


def test_a_key_that_changes_is_old_and_new(facts: TableFacts) -> None:
    found = names(facts, RowChange(item, "update", (1,), {"id": 8}), {"shelf_id": 3})
    assert {"public.item|pk=1", "public.item|pk=8"} <= found
    assert "public.item!" in names(facts, RowChange(item, "update", (1,), {"id": UNKNOWN}))


def test_an_instance_of_unknown_values_drops_every_list(facts: TableFacts) -> None:
    assert {tag.decode().split("/", 1)[1] for tag in facts.any_row_tags((1,))} >= {
        "public.item|pk=1",
        "public.item|shelf_id=?",
    }


def test_columns_of_unsafe_types_have_no_tags_and_need_no_images() -> None:
    assert bind_of().facts(item).tag_keys == ("shelf_id",)
    assert bind_of().facts(shelf).needs_images is False


def test_a_picture_of_the_catalog_taken_before_ddl_is_not_believed_after_it() -> None:
    bind = bind_of(None)
    version = bind.survey_version
    bind.forget_survey()
    bind.learn(CATALOG, version)
    assert bind.survey is None
    bind.learn(CATALOG, bind.survey_version)
    assert bind.survey is CATALOG


def test_without_a_catalog_nothing_is_plain_and_anything_may_be_reached() -> None:
    bind = bind_of(None)
    pending = Pending()
    bind.note_table(pending, ("public", "item"), deletes=False)
    assert bind.why_not_plain(bind.facts(item)) is not None
    assert pending.whole_bind
    assert bind.calls_user_function(["lower"])


def test_a_delete_reaches_what_the_database_deletes_along() -> None:
    bind, pending = bind_of(), Pending()
    assert bind.note_reach(pending, bind.facts(shelf), TableWrite(shelf, "delete"))
    assert pending.tables == {"public.item"}


def test_an_update_of_other_columns_reaches_nothing() -> None:
    bind, pending = bind_of(), Pending()
    assert not bind.note_reach(pending, bind.facts(shelf), TableWrite(shelf, "update"))
    assert not pending


def test_a_table_that_fires_triggers_changes_anything() -> None:
    bind, pending = bind_of(), Pending()
    bind.note_table(pending, ("public", "noted"), deletes=False)
    assert pending.tag_set(bind.tag).tags == (bind.tag,)


def test_a_schema_map_gives_another_table() -> None:
    bind = bind_of()
    assert bind.facts(item, {None: "tenant"}).name != bind.facts(item).name
    assert bind.facts(item, {None: "tenant"}).catalog_name == ("tenant", "item")


def test_one_identity_is_one_bind() -> None:
    binds, profile = Binds(), Profile("x", default_schema="public")
    one = binds.bind_of("x", profile, POSTGRESQL)
    assert binds.bind_of("x", profile, POSTGRESQL) is one
    assert binds.known() == [one]


def test_a_bind_that_nobody_leads_to_any_more_is_forgotten() -> None:
    binds, profile = Binds(), Profile("x")
    binds.bind_of("x", profile, POSTGRESQL)
    gc.collect()
    assert (binds.known(), binds.survey_costs(), binds.tag_set().tags) == ([], [], ())


def test_another_default_schema_is_another_way_to_the_same_tags() -> None:
    binds = Binds()
    one, two = (binds.bind_of("x", Profile("x", default_schema=schema), POSTGRESQL) for schema in ("public", "other"))
    assert one is not two
    assert one.tag == two.tag
    assert binds.tag_set().tags == (one.tag, one.schema_guard[0])


def test_a_name_of_the_identity_stands_in_tags_as_a_digest() -> None:
    assert "a database" not in bind_of().tag.decode()


def test_facts_are_those_of_the_latest_picture() -> None:
    bind = bind_of()
    assert bind.facts(item).tag_keys == ("shelf_id",)
    numeric = [Said(("public", "item"), "id", "int"), Said(("public", "item"), "shelf_id")]
    bind.learn(build_survey([Relation(("public", "item"))], columns=numeric), bind.survey_version)
    facts = bind.facts(item)
    assert (facts.tag_keys, "shelf_id" in facts.distrusted) == ((), True)
    assert facts.guard != bind_of().facts(item).guard


def test_binds_of_other_settings_are_others_with_the_same_tags_and_forget_together() -> None:
    binds = Binds()
    one = binds.bind_of("x", Profile("x", settings="1"), POSTGRESQL)
    other = binds.bind_of("x", Profile("x", settings="2"), POSTGRESQL)
    other.learn(CATALOG, other.survey_version)
    assert (one is other, one.tag) == (False, other.tag)
    one.forget_survey()
    assert other.survey is None


@pytest.mark.parametrize(
    ("value", "kept"),
    [(0, False), (1, True), (-5, True), (-6, False), (8, True), (9, False), (None, False), (True, True)],
)
def test_a_column_keeps_the_numbers_that_it_has_room_for_and_does_not_replace(value: object, kept: bool) -> None:
    said = Said(("public", "item"), "id", "int", low=-5, high=8, replaces_null=True, replaces_zero=True)
    assert said.keeps(value) is kept
