"""What is known of one database: its tables' tags, its catalog, and what a change reaches."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from sqlalchemy import Column, Computed, FetchedValue, ForeignKey, Integer, MetaData, Numeric, Table
from sqlalchemy.dialects import postgresql

from querycache.coherence.binds import Bind, Binds
from querycache.coherence.facts import MAX_COLUMN_TAGS, TableFacts
from querycache.coherence.transactions import Pending
from querycache.databases import Column as Said
from querycache.databases import ForeignKey as Reference
from querycache.databases import Profile, Survey, build_survey
from querycache.databases import Table as Relation
from querycache.statements import tags as naming
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


def rows_of(name: str) -> str:
    return naming.rows_of(name.encode()).decode()


def names(facts: TableFacts, row: RowChange, old: dict[str, Any] | None = None) -> set[str]:
    return {tag.decode().split("/", 1)[1] for tag in facts.change_tags(row, old)}


@pytest.fixture
def facts() -> TableFacts:
    return bind_of().facts(item)


def test_a_row_inserted_has_a_tag_for_each_safe_column(facts: TableFacts) -> None:
    row = RowChange(item, "insert", (1,), {"id": 1, "shelf_id": 3, "price": 5})
    rows = {"public.item*", "public.item|pk=1", "public.item|shelf_id=3"}
    assert names(facts, row) == rows | {f"{name}#" for name in rows}


def test_a_row_updated_goes_by_its_old_and_new_value_where_the_database_said_the_old(facts: TableFacts) -> None:
    row = RowChange(item, "update", (1,), {"shelf_id": 7})
    expected = {"public.item*", "public.item|pk=1", "public.item|shelf_id=3", "public.item|shelf_id=7"}
    assert set(map(rows_of, names(facts, row, {"shelf_id": 3}))) == expected


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


# -- columns: which of them a change is told by ----------------------------------------------------------------------


def narrow(found: set[str]) -> set[str]:
    """Return the tags of memberships and columns, without the name of the table."""
    return {name.removeprefix("public.item") for name in found if rows_of(name) != name}


MEMBERS = {"*#", "|pk=1#", "|shelf_id=3#"}


@pytest.mark.parametrize(
    ("how", "new", "expected"),
    [
        ("insert", {"id": 1, "shelf_id": 3, "price": 5}, MEMBERS),
        ("delete", {}, MEMBERS),
        ("update", {"price": 5}, {"*.price", "|pk=1.price", "|shelf_id=3.price"}),
        ("update", {"price": UNKNOWN}, {"*.price", "|pk=1.price", "|shelf_id=3.price"}),
        # A column that narrows moves the row; among all rows, and under its key, it is a column like others.
        ("update", {"shelf_id": 7}, {"*.shelf_id", "|pk=1.shelf_id", "|shelf_id=3#", "|shelf_id=7#"}),
        # A primary key that changes is another row.
        ("update", {"id": 8}, {"*#", "|pk=1#", "|pk=8#", "|shelf_id=3#"}),
        # An update of which nobody said what it sets.
        ("update", {}, MEMBERS),
    ],
)
def test_a_change_is_told_by_the_columns_that_it_sets(
    facts: TableFacts, how: Any, new: dict[str, Any], expected: set[str]
) -> None:
    assert narrow(names(facts, RowChange(item, how, (1,), new), {"shelf_id": 3})) == expected


def test_a_row_whose_old_value_is_not_known_ends_every_read_that_is_narrowed_by_it(facts: TableFacts) -> None:
    found = names(facts, RowChange(item, "update", (1,), {"price": 5}))
    assert "public.item|shelf_id=?" in found
    assert narrow(found) == {"*.price", "|pk=1.price"}


def test_many_columns_are_not_told_one_by_one_among_narrowed_rows() -> None:
    columns = [f"c{number}" for number in range(MAX_COLUMN_TAGS // 2 + 1)]
    wide = Table("wide", MetaData(), Column("id", Integer, primary_key=True), Column("shelf_id", Integer))
    for name in columns:
        wide.append_column(Column(name, Numeric(5, 2)))
    known = [Said(("public", "wide"), "id", "int"), Said(("public", "wide"), "shelf_id", "int")]
    facts = bind_of(build_survey([Relation(("public", "wide"))], columns=known)).facts(wide)
    few = names(facts, RowChange(wide, "update", (1,), dict.fromkeys(columns[:-1], 0)), {"shelf_id": 3})
    many = names(facts, RowChange(wide, "update", (1,), dict.fromkeys(columns, 0)), {"shelf_id": 3})
    assert {"public.wide|shelf_id=3.c0", "public.wide*.c0"} <= few
    assert {"public.wide|shelf_id=3#", "public.wide|pk=1#", "public.wide*.c0"} <= many
    assert "public.wide|shelf_id=3.c0" not in many
    assert "public.wide*#" not in many
    assert len(few) <= 1 + 2 + len(columns) + MAX_COLUMN_TAGS


def test_more_columns_than_are_told_at_all_may_be_any() -> None:
    columns = [f"c{number}" for number in range(MAX_COLUMN_TAGS + 1)]
    wide = Table("wide", MetaData(), Column("id", Integer, primary_key=True), *(Column(c, Numeric) for c in columns))
    facts = bind_of(build_survey([Relation(("public", "wide"))])).facts(wide)
    assert "public.wide*#" in names(facts, RowChange(wide, "update", (1,), dict.fromkeys(columns, 0)))


def test_an_instance_that_changed_unseen_ends_all_that_is_known_of_its_row(facts: TableFacts) -> None:
    found = {tag.decode().split("/", 1)[1] for tag in facts.any_row_tags((1,))}
    assert {"public.item*", "public.item*#", "public.item|pk=1", "public.item|pk=1#", "public.item|shelf_id=?"} == found


def test_keys_that_the_database_gave_are_rows_that_came(facts: TableFacts) -> None:
    assert {tag.decode().split("/", 1)[1] for tag in facts.key_tags((1,))} == {"public.item|pk=1", "public.item|pk=1#"}


def said_of_item(**computed: bool) -> Survey:
    columns = [
        Said(("public", "item"), name, "int", is_computed=computed.get(name, False)) for name in ("id", "shelf_id")
    ]
    return build_survey([Relation(("public", "item"))], columns=columns)


def test_columns_that_the_catalog_does_not_list_or_computes_may_change_unsaid() -> None:
    # price: not in the catalog, as xmin and rowid are not.
    assert bind_of(said_of_item()).facts(item).untold == {"price"}
    assert bind_of(said_of_item(shelf_id=True)).facts(item).untold == {"price", "shelf_id"}
    assert bind_of(None).facts(item).untold == {"id", "shelf_id", "price"}


def test_columns_of_which_the_mapping_says_that_the_database_changes_them_may_change_unsaid() -> None:
    other = Table(
        "item",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("shelf_id", Integer, server_onupdate=FetchedValue()),
    )
    double = Table(
        "item",
        MetaData(),
        Column("id", Integer, primary_key=True),
        Column("shelf_id", Integer, Computed("id * 2")),
    )
    row_version = Table("item", MetaData(), Column("id", Integer, primary_key=True), Column("shelf_id", system=True))
    for table in (other, double, row_version):
        assert bind_of(said_of_item()).facts(table).untold == {"shelf_id"}


# -- groups of columns -----------------------------------------------------------------------------------------------

membership = Table(
    "membership",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("org", Integer, key="organisation"),
    Column("user", Integer),
    Column("role", Integer),
)


def group_facts() -> TableFacts:
    columns = [Said(("public", "membership"), name, "int") for name in ("id", "org", "user", "role")]
    survey = build_survey([Relation(("public", "membership"))], columns=columns)
    return bind_of(survey, membership=[("org", "user"), "org"]).facts(membership)


def test_a_group_is_asked_for_whole() -> None:
    facts = group_facts()
    assert (facts.value_columns, facts.tag_keys) == ((("org", "user"), ("org",)), ("organisation", "user"))


@pytest.mark.parametrize(
    ("how", "new", "old", "expected"),
    [
        ("insert", {"organisation": 1, "user": 2}, None, {"org,user=1,2", "org=1"}),
        ("delete", {}, {"organisation": 1, "user": 2}, {"org,user=1,2", "org=1"}),
        ("update", {"user": 3}, {"organisation": 1, "user": 2}, {"org,user=1,2", "org,user=1,3", "org=1"}),
        ("update", {"user": None}, {"organisation": 1, "user": 2}, {"org,user=1,2", "org,user=1,!", "org=1"}),
        ("update", {"role": 3}, {"organisation": 1, "user": 2}, {"org,user=1,2", "org=1"}),
        # A group of which one value is not known may be any.
        ("update", {"user": 3}, None, {"org,user=?", "org=?"}),
        ("update", {"user": UNKNOWN}, {"organisation": 1, "user": 2}, {"org,user=1,2", "org,user=?", "org=1"}),
        ("insert", {"organisation": 1}, None, {"org,user=?", "org=1"}),
    ],
)
def test_a_group_goes_by_its_old_and_new_values(how: Any, new: Any, old: Any, expected: set[str]) -> None:
    found = names(group_facts(), RowChange(membership, how, (7,), new), old)
    assert {rows_of(name).partition("|")[2] for name in found} - {"", "pk=7"} == expected


def test_a_row_that_joins_or_leaves_a_group_of_values_does_so_for_each_of_its_columns() -> None:
    row = RowChange(membership, "update", (7,), {"user": 3})
    found = {name.partition("|")[2] for name in names(group_facts(), row, {"organisation": 1, "user": 2})}
    assert {"org,user=1,2#", "org,user=1,3#", "org=1.user"} <= found


def test_a_group_with_a_column_that_the_database_compares_otherwise_is_left_out() -> None:
    columns = [Said(("public", "membership"), name, "int") for name in ("id", "org", "role")]
    survey = build_survey([Relation(("public", "membership"))], columns=columns)
    facts = bind_of(survey, membership=[("org", "user"), ("org", "role")]).facts(membership)
    assert facts.value_columns == (("org", "role"),)


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
    assert isinstance(bind.behind(bind.facts(item)), str)
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
