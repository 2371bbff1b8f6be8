"""Closures over foreign keys, and what is plain, of surveys written by hand."""

from __future__ import annotations

import pytest

from querycache.databases import Action, Column, ForeignKey, Kind, Survey, Table, build_survey
from querycache.databases import survey as module


def key(
    child: str,
    parent: str,
    child_columns: tuple[str, ...] = ("parent_id",),
    parent_columns: tuple[str, ...] = ("id",),
    on_delete: Action = "NO ACTION",
    on_update: Action = "NO ACTION",
) -> ForeignKey:
    return ForeignKey(("s", child), ("s", parent), child_columns, parent_columns, on_delete, on_update)


def survey(*keys: ForeignKey, **kinds: Kind) -> Survey:
    names = {name for one in keys for name in (one.child[1], one.parent[1])} | set(kinds)
    return build_survey([Table(("s", name), kinds.get(name, "table")) for name in names], keys)


def names(tables: frozenset[tuple[str, str]]) -> set[str]:
    return {name for _, name in tables}


def test_a_delete_follows_cascades_to_the_end_of_the_chain() -> None:
    one = survey(key("b", "a", on_delete="CASCADE"), key("c", "b", on_delete="CASCADE"), key("d", "c"))
    assert names(one.reached_by_delete(("s", "a"))) == {"b", "c"}


def test_a_delete_that_nothing_follows_reaches_nothing() -> None:
    one = survey(key("b", "a"), key("c", "a", on_delete="RESTRICT"))
    assert one.reached_by_delete(("s", "a")) == frozenset()


def test_a_table_that_refers_to_itself_is_reached_by_its_own_delete() -> None:
    one = survey(key("a", "a", on_delete="CASCADE"))
    assert names(one.reached_by_delete(("s", "a"))) == {"a"}


def test_a_cycle_of_two_tables_comes_back_to_the_first() -> None:
    one = survey(key("b", "a", on_delete="CASCADE"), key("a", "b", on_delete="CASCADE"))
    assert names(one.reached_by_delete(("s", "a"))) == {"a", "b"}


def test_set_null_is_an_update_that_cascades_on_where_its_column_is_referred_to() -> None:
    one = survey(
        key("b", "a", ("a_id",), on_delete="SET NULL"),
        key("c", "b", ("b_a_id",), ("a_id",), on_update="CASCADE"),
        key("d", "b", ("b_id",), ("id",), on_update="CASCADE", on_delete="CASCADE"),
    )
    assert names(one.reached_by_delete(("s", "a"))) == {"b", "c"}


def test_set_default_changes_the_child() -> None:
    one = survey(key("b", "a", on_delete="SET DEFAULT"))
    assert names(one.reached_by_delete(("s", "a"))) == {"b"}


def test_an_update_is_followed_only_where_a_referenced_column_is_among_the_updated() -> None:
    one = survey(key("b", "a", ("code",), ("code",), on_update="CASCADE"))
    assert names(one.reached_by_update(("s", "a"), ["code"])) == {"b"}
    assert one.reached_by_update(("s", "a"), ["name"]) == frozenset()


def test_an_update_cascades_through_the_columns_that_it_changes_on_the_way() -> None:
    one = survey(
        key("b", "a", ("code",), ("code",), on_update="CASCADE"),
        key("c", "b", ("b_code",), ("code",), on_update="CASCADE"),
        key("d", "b", ("b_id",), ("id",), on_update="CASCADE"),
    )
    assert names(one.reached_by_update(("s", "a"), ["code"])) == {"b", "c"}


def test_an_update_of_columns_not_named_follows_every_key() -> None:
    one = survey(key("b", "a", ("code",), ("code",), on_update="SET NULL"), key("c", "a", on_update="CASCADE"))
    assert names(one.reached_by_update(("s", "a"))) == {"b", "c"}


def test_a_key_whose_columns_are_not_known_is_followed_by_any_update() -> None:
    one = survey(key("b", "a", (), (), on_update="CASCADE"), key("c", "b", (), (), on_update="CASCADE"))
    assert names(one.reached_by_update(("s", "a"), ["name"])) == {"b", "c"}
    assert names(one.reached_by_update(("s", "a"))) == {"b", "c"}


def test_a_child_whose_columns_are_not_known_may_have_changed_any_of_them() -> None:
    one = survey(
        key("b", "a", (), (), on_delete="SET NULL"), key("c", "b", ("b_code",), ("code",), on_update="CASCADE")
    )
    assert names(one.reached_by_delete(("s", "a"))) == {"b", "c"}


def test_an_update_that_a_delete_causes_may_lead_to_another_tables_delete_path_only_by_its_action() -> None:
    one = survey(key("b", "a", on_delete="SET NULL"), key("c", "b", ("b_id",), ("parent_id",), on_delete="CASCADE"))
    assert names(one.reached_by_delete(("s", "a"))) == {"b"}


def test_names_are_the_same_in_any_case_of_letters() -> None:
    one = build_survey(
        [Table(("Public", "Parent")), Table(("public", "Child"))],
        [ForeignKey(("Public", "CHILD"), ("PUBLIC", "parent"), ("Code",), ("CODE",), "CASCADE", "CASCADE")],
        ["Do_It"],
    )
    assert one.plain(("PUBLIC", "parent"))
    assert one.reached_by_delete(("public", "PARENT")) == {("public", "child")}
    assert one.reached_by_update(("public", "parent"), ["cOdE"]) == {("public", "child")}
    assert one.is_user_function("DO_IT")


def test_two_tables_that_differ_in_case_only_are_not_plain_and_their_writes_not_known() -> None:
    one = build_survey([Table(("s", "User")), Table(("s", "user"))])
    assert one.why_not_plain(("s", "user")) is not None
    assert not one.writes_are_known(("s", "User"))


def test_a_table_that_the_survey_does_not_know_is_not_plain_and_its_writes_are_not_known() -> None:
    one = survey(a="table")
    assert one.why_not_plain(("s", "new")) == "was not in the catalog when it was surveyed"
    assert not one.writes_are_known(("s", "new"))


def test_a_table_that_fires_is_plain_to_read_but_its_writes_are_not_known() -> None:
    one = build_survey([Table(("s", "a"), fires=True)])
    assert one.plain(("s", "a"))
    assert not one.writes_are_known(("s", "a"))


def test_writes_are_not_known_where_a_cascade_reaches_a_table_that_fires() -> None:
    one = build_survey(
        [Table(("s", "a")), Table(("s", "b")), Table(("s", "c"), fires=True)],
        [key("b", "a", on_delete="CASCADE"), key("c", "b", on_delete="SET NULL")],
    )
    assert not one.writes_are_known(("s", "a"))


def test_writes_are_not_known_where_an_update_cascades_into_a_partition() -> None:
    one = survey(key("b", "a", on_update="CASCADE"), b="partition")
    assert not one.writes_are_known(("s", "a"))


def test_a_foreign_key_into_an_unknown_table_makes_writes_unknown() -> None:
    one = build_survey([Table(("s", "a"))], [key("unseen", "a", on_delete="CASCADE")])
    assert not one.writes_are_known(("s", "a"))


def test_a_temporary_table_hides_its_name_in_every_schema() -> None:
    one = build_survey([Table(("s", "a")), Table(("t", "A")), Table(("temp", "a"), "temporary table")])
    for schema in ("s", "t"):
        assert one.why_not_plain((schema, "a")) == "is hidden by a temporary table of the same name"
        assert not one.writes_are_known((schema, "a"))


def test_a_user_function_is_known_with_its_schema_and_without() -> None:
    one = build_survey([], user_functions=["Pay"])
    assert one.is_user_function("pay")
    assert one.is_user_function("billing.PAY")
    assert not one.is_user_function("count")


def test_what_a_write_reaches_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = survey(key("b", "a", on_delete="CASCADE", on_update="CASCADE"))
    first = [
        one.reached_by_delete(("s", "a")),
        one.reached_by_update(("s", "a"), ["id", "x"]),
        one.writes_are_known(("s", "a")),
    ]
    monkeypatch.setattr(module, "_closure_of", None)
    again = [
        one.reached_by_delete(("S", "A")),
        one.reached_by_update(("s", "a"), ["ID", "y"]),
        one.writes_are_known(("s", "a")),
    ]
    assert first == again


def test_an_update_of_a_column_that_no_key_names_reaches_keys_of_unknown_columns_only() -> None:
    one = survey(key("b", "a", on_update="CASCADE"), key("c", "a", parent_columns=(), on_update="CASCADE"))
    assert names(one.reached_by_update(("s", "a"), ["x"])) == {"c"}
    assert names(one.reached_by_update(("s", "a"), ["id"])) == {"b", "c"}
    assert names(one.reached_by_update(("s", "a"), [])) == set()


# -- what a change of rows locks --------------------------------------------------------------------------------------

SHOP = ("public", "shop")


def shop_of(*columns: Column, can_be_locked: bool = True, delete_waits: bool = False) -> Survey:
    table = Table(SHOP, can_be_locked=can_be_locked, delete_waits=delete_waits)
    return build_survey([table], columns=[Column(SHOP, "id", "int", is_key=True, waits=True), *columns])


def test_rows_can_be_locked_by_who_may_lock_them_and_read_the_columns() -> None:
    survey = shop_of(Column(SHOP, "secret", can_be_read=False), Column(SHOP, "Name"))
    assert survey.can_lock(SHOP, ["id", "name"])
    assert not survey.can_lock(SHOP, ["id", "secret"])
    assert not survey.can_lock(SHOP, ["id", "unknown"])
    assert not survey.can_lock(("public", "unknown"), [])
    assert not shop_of(can_be_locked=False).can_lock(SHOP, ["id"])


def test_an_update_changes_a_key_where_one_of_its_columns_is_of_a_key_or_not_known() -> None:
    survey = shop_of(Column(SHOP, "name"))
    assert not survey.changes_key(SHOP, ["name"])
    assert survey.changes_key(SHOP, ["name", "id"])
    assert survey.changes_key(SHOP, ["unknown"])


def test_any_update_may_change_a_key_that_the_database_computes() -> None:
    assert shop_of(Column(SHOP, "name"), Column(SHOP, "slug", is_key=True, is_computed=True)).changes_key(
        SHOP, ["name"]
    )


def test_a_change_waits_between_rows_where_a_column_of_it_or_the_delete_may() -> None:
    survey = shop_of(Column(SHOP, "name"), Column(SHOP, "owner", waits=True))
    assert not survey.waits_between_rows(SHOP, ["name"])
    assert survey.waits_between_rows(SHOP, ["name", "owner"])
    assert not survey.waits_between_rows(SHOP, None)
    assert shop_of(delete_waits=True).waits_between_rows(SHOP, None)
    assert survey.waits_between_rows(("public", "unknown"), None)
