"""What a statement that is about to be sent changes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    column,
    delete,
    func,
    insert,
    literal_column,
    select,
    table,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.schema import CreateTable
from sqlalchemy.sql import operators

from querycache.statements.writes import (
    MAX_ROWS,
    UNKNOWN,
    Comparison,
    Effect,
    TableWrite,
    effect_of_compiled,
    effect_of_textual,
    row_changes_of,
)

metadata = MetaData()
item = Table(
    "item",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(20)),
    Column("shelf", Integer, default=3),
    Column("changed", DateTime, onupdate=func.now()),
    Column("twice", Integer, Computed("shelf * 2")),
)
link = Table(
    "link",
    metadata,
    Column("item_id", ForeignKey("item.id"), primary_key=True),
    Column("other_id", ForeignKey("item.id"), primary_key=True),
)
system = Table("tables", metadata, Column("table_name", String(20)), schema="information_schema")
POSTGRESQL: Any = postgresql.dialect()  # type: ignore[no-untyped-call]


def effect_of(statement: Any, dialect: Any = POSTGRESQL, **options: Any) -> Effect | None:
    return effect_of_compiled(statement.compile(dialect=dialect, **options))


def write_of(statement: Any, dialect: Any = POSTGRESQL, **options: Any) -> TableWrite:
    effect = effect_of(statement, dialect, **options)
    assert effect is not None
    (write,) = effect.writes
    return write


def rows_of(statement: Any, parameters: dict[str, Any] | None = None, dialect: Any = POSTGRESQL) -> Any:
    compiled = statement.compile(dialect=dialect, column_keys=sorted(parameters or ()) or None)
    effect = effect_of_compiled(compiled)
    assert effect is not None
    return row_changes_of(effect.writes[0], [compiled.construct_params(parameters)])


@pytest.mark.parametrize(
    "criteria",
    [
        [item.c.id == 1],
        [bindparam("b", 1) == item.c.id],
        [item.c.id == 1, item.c.name == "x"],
        [(item.c.id == 1) & (item.c.shelf > 2)],
    ],
)
def test_an_update_by_primary_key_is_known_by_row(criteria: list[Any]) -> None:
    assert write_of(update(item).where(*criteria).values(name="n")).row_by_row


@pytest.mark.parametrize(
    "criteria",
    [
        [],
        [item.c.name == "x"],
        [item.c.id > 1],
        [(item.c.id == 1) | (item.c.name == "x")],
        [~(item.c.id == 1)],
        [item.c.id.in_([1])],
        [item.c.id == item.c.shelf],
        [item.c.id == select(func.max(item.c.id)).scalar_subquery()],
    ],
)
def test_an_update_in_any_other_way_is_not(criteria: list[Any]) -> None:
    assert not write_of(update(item).where(*criteria).values(name="n")).row_by_row


def test_half_of_a_primary_key_pins_no_row() -> None:
    assert not write_of(delete(link).where(link.c.item_id == 1)).row_by_row
    assert write_of(delete(link).where(link.c.item_id == 1, link.c.other_id == 2)).row_by_row


def test_the_key_of_another_alias_pins_no_row() -> None:
    other = item.alias()
    statement = update(item).where(item.c.shelf == other.c.shelf, other.c.id == 1).values(name="n")
    effect = effect_of(statement)
    assert effect is not None
    assert all(not write.row_by_row for write in effect.writes)


def test_a_value_that_the_database_computes_is_unknown() -> None:
    (row,) = rows_of(update(item).where(item.c.id == 1).values(shelf=item.c.shelf + 1))
    assert (row.key, row.new["shelf"]) == ((1,), UNKNOWN)


def test_a_bound_value_is_known_and_what_changes_by_itself_is_not() -> None:
    (row,) = rows_of(update(item).where(item.c.id == bindparam("key")), {"key": 1, "shelf": 5})
    assert row.new == {"shelf": 5, "changed": UNKNOWN, "twice": UNKNOWN}


def test_a_literal_in_sql_is_unknown() -> None:
    (row,) = rows_of(update(item).where(item.c.id == 1).values(shelf=literal_column("5")))
    assert row.new["shelf"] is UNKNOWN


def test_a_row_that_is_inserted_has_its_key_where_it_is_given() -> None:
    (row,) = rows_of(insert(item), {"id": 1, "name": "n", "shelf": 2})
    assert (row.how, row.key, row.new["shelf"], row.new["twice"]) == ("insert", (1,), 2, UNKNOWN)


def test_a_row_that_is_inserted_without_key_has_none_yet() -> None:
    (row,) = rows_of(insert(item).values(name="n"))
    assert row.key is None


@pytest.mark.parametrize(
    "statement",
    [
        insert(item).from_select(["id"], select(item.c.id + 1)),
        insert(item).values([{"id": 1}, {"id": 2}]),
        postgresql.insert(item).values(id=1).on_conflict_do_nothing(),
        postgresql.insert(item).values(id=1).on_conflict_do_update(index_elements=["id"], set_={"shelf": 1}),
    ],
)
def test_an_insert_in_another_way_than_by_values_is_of_the_whole_table(statement: Any) -> None:
    assert write_of(statement) == TableWrite(item, "any")


def test_an_insert_that_may_replace_deletes_too() -> None:
    effect = effect_of(sqlite.insert(item).values(id=1).prefix_with("OR REPLACE"), sqlite.dialect())
    assert effect is not None
    assert (effect.deletes, effect.writes[0].how) == (True, "any")
    effect = effect_of(mysql.insert(item).values(id=1).on_duplicate_key_update(shelf=1), mysql.dialect())
    assert effect is not None
    assert effect.deletes


def test_an_update_of_several_tables_is_of_each() -> None:
    effect = effect_of(update(item).where(item.c.id == link.c.item_id).values(name="n"))
    assert effect is not None
    assert {(write.table.name, write.how) for write in effect.writes} == {("item", "any"), ("link", "any")}


def test_an_update_of_several_tables_is_of_each_also_under_an_alias() -> None:
    other = link.alias("other")
    statement = update(item).where(item.c.id == other.c.item_id).values({other.c.other_id: 1})
    effect = effect_of(statement, mysql.dialect())
    assert effect is not None
    assert {write.table.name for write in effect.writes} == {"item", "link"}


def test_more_rows_than_are_followed_are_the_whole_table() -> None:
    write = write_of(insert(item).values(id=1))
    assert row_changes_of(write, [{"id": number} for number in range(MAX_ROWS + 1)]) is None


def test_a_change_in_a_cte_of_a_select_is_a_write() -> None:
    effect = effect_of(select(link).add_cte(insert(item).values(id=1).returning(item.c.id).cte()))
    assert effect is not None
    assert (effect.kind, set(effect.writes)) == ("write", {TableWrite(item, "any")})


def test_a_change_in_a_cte_of_a_change_is_seen_beside_it() -> None:
    cte = delete(link).returning(link.c.item_id).cte()
    effect = effect_of(insert(item).values(id=1).add_cte(cte))
    assert effect is not None
    assert {write.table.name for write in effect.writes} == {"item", "link"}


def test_a_select_is_a_read_that_names_its_functions() -> None:
    effect = effect_of(select(func.bump(item.c.id)))
    assert effect is not None
    assert (effect.kind, effect.functions, effect.reads_tables) == ("read", frozenset({"bump"}), True)


@pytest.mark.parametrize(
    ("statement", "reads"),
    [
        (select(item), True),
        (select(literal_column("1")), False),
        (select(system), False),
        (select(func.now()), False),
        (union_all(select(item.c.name), select(system)), True),
        (select(select(item.c.id).scalar_subquery()), True),
    ],
)
def test_only_stored_rows_take_a_snapshot(statement: Any, reads: bool) -> None:
    effect = effect_of(statement)
    assert effect is not None
    assert effect.reads_tables is reads


def test_a_locking_read_is_told() -> None:
    locked = select(item).with_for_update()
    for statement in (locked, select(locked.subquery())):
        effect = effect_of(statement)
        assert effect is not None
        assert effect.locks_rows
    assert effect_of_textual("SELECT * FROM item FOR UPDATE", "mariadb").locks_rows
    assert not effect_of_textual("SELECT * FROM item", "mariadb").locks_rows


LOCKING = select(item).with_for_update()


@pytest.mark.parametrize(
    ("statement", "is_told"),
    [
        (LOCKING, True),
        (select(item.c.name).where(item.c.shelf == 3).with_for_update(key_share=True, nowait=True), True),
        (LOCKING.where(item.c.id.in_(select(link.c.item_id))), True),
        (select(item), False),
        (select(item).with_for_update(read=True), False),
        (select(item).with_for_update(read=True, key_share=True), False),
        (select(item, link).with_for_update(), False),
        (select(item).join(link, link.c.item_id == item.c.id).with_for_update(of=link), False),
        (select(item.alias()).with_for_update(), False),
        (LOCKING.distinct(), False),
        (LOCKING.group_by(item.c.id), False),
        (LOCKING.having(item.c.id > 0), False),
        (select(LOCKING.subquery()), False),
        (select(LOCKING.subquery()).with_for_update(), False),
        (union_all(select(item), select(item)).with_for_update(), False),
        (select(select(item.c.name).with_for_update().scalar_subquery()), False),
    ],
)
def test_a_select_locks_the_rows_of_a_table_where_it_reads_no_other_and_nobody_may_change_them(
    statement: Any, is_told: bool
) -> None:
    effect = effect_of(statement)
    assert effect is not None
    assert effect.locked is (item if is_told else None)


def test_text_inside_a_construct_is_left_to_the_text_that_is_sent() -> None:
    assert effect_of(select(item).where(text("bump() = 1"))) is None
    assert effect_of(update(item).where(text("bump() = 1")).values(name="n")) is None
    assert effect_of(text("SELECT 1")) is None


bare = table("item", column("id"), column("name"))


@pytest.mark.parametrize(
    "statement",
    [
        bare.insert().values(id=1),
        bare.update().where(bare.c.id == 1).values(name="x"),
        bare.delete(),
        update(item).where(item.c.id == bare.alias("b").c.id).values(name="x"),
        select(bare.delete().returning(bare.c.id).cte()),
    ],
    ids=str,
)
def test_a_change_of_a_table_that_is_not_of_the_metadata_is_left_to_the_text_that_is_sent(statement: Any) -> None:
    assert effect_of_compiled(statement.compile(dialect=POSTGRESQL)) is None


def test_ddl_is_unknown() -> None:
    effect = effect_of_compiled(CreateTable(item).compile(dialect=POSTGRESQL))
    assert effect is not None
    assert (effect.kind, effect.is_ddl) == ("unknown", True)


def test_text_on_the_servers_own_tables_takes_no_snapshot() -> None:
    assert not effect_of_textual("SELECT * FROM information_schema.tables", "mariadb").reads_tables
    assert effect_of_textual("SELECT * FROM item", "mariadb").reads_tables


def test_conditions_beside_the_primary_key_go_with_the_row() -> None:
    statement = update(item).where(item.c.id == bindparam("key"), item.c.shelf > bindparam("least")).values(name="x")
    write = write_of(statement)
    assert write.conditions == (Comparison(operators.gt, "shelf", "least"),)
    changes = row_changes_of(write, [{"key": 1, "least": 5, "name": "x"}])
    assert changes is not None
    assert changes[0].conditions == (Comparison(operators.gt, "shelf", 5),)


def test_a_second_value_for_the_primary_key_is_a_condition() -> None:
    write = write_of(delete(item).where(item.c.id == bindparam("key"), item.c.id == bindparam("other")))
    assert write.conditions == (Comparison(operators.eq, "id", "other"),)


@pytest.mark.parametrize(
    "condition",
    [
        item.c.shelf.in_([1, 2]),
        item.c.shelf == item.c.id,
        item.c.name.is_(None),
        item.c.name.like("a"),
        func.lower(item.c.name) == "a",
        select(link.c.item_id).exists(),
    ],
)
def test_a_condition_that_is_no_comparison_with_a_value_is_not_known(condition: Any) -> None:
    assert write_of(delete(item).where(item.c.id == 1, condition)).conditions is None


# -- what an update sets: nothing else may change --------------------------------------------------------------------

swapped = Table(
    "swapped",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String, key="title"),
    Column("title", String, key="name"),
    Column("At", DateTime, onupdate=func.now()),
    Column("hits", Integer, onupdate=lambda: 3),
    Column("views", Integer),
    Column("swapped_id", Integer),
)
THIS = swapped.c.id == bindparam("b_id", 1)

UPDATES: dict[str, tuple[Any, list[str] | None]] = {
    "values by name": (update(swapped).where(THIS).values(views=1), None),
    "keys that are names of others": (update(swapped).where(THIS).values(title="t"), None),
    "values by column": (update(swapped).where(THIS).values({swapped.c.name: "n", swapped.c.views: 2}), None),
    "values twice": (update(swapped).where(THIS).values(views=1).values(name="n"), None),
    "ordered values": (update(swapped).where(THIS).ordered_values((swapped.c.name, "n"), (swapped.c.title, "t")), None),
    "expression": (
        update(swapped).where(THIS).values(views=swapped.c.views + 1, title=func.lower(swapped.c.name)),
        None,
    ),
    "subquery": (update(swapped).where(THIS).values(views=select(func.max(item.c.id)).scalar_subquery()), None),
    "bind of another name": (update(swapped).where(THIS).values(views=bindparam("title")), None),
    "bind of its own name": (update(swapped).where(THIS).values(views=bindparam("views")), None),
    "names of parameters": (update(swapped).where(THIS), ["views", "name", "b_id"]),
    "names of parameters and values": (update(swapped).where(THIS).values(title="t"), ["views", "b_id"]),
    "NULL": (update(swapped).where(THIS).values(views=None), None),
    "what changes with it, set": (update(swapped).where(THIS).values(hits=1, At=None), None),
    "a label that is a column's name": (update(swapped).where(swapped.c.id == bindparam("swapped_id_1", 1)), ["views"]),
    "RETURNING": (update(swapped).where(THIS).values(views=1).returning(swapped.c.title), None),
}


@pytest.mark.parametrize("dialect", [sqlite.dialect(), POSTGRESQL, mysql.dialect()], ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("case_name", UPDATES)
def test_every_column_in_the_set_of_an_update_is_known(case_name: str, dialect: Any) -> None:
    statement, names = UPDATES[case_name]
    if case_name == "RETURNING" and dialect.name == "mysql":
        statement = update(swapped).where(THIS).values(views=1)
    compiled = statement.compile(dialect=dialect, column_keys=names)
    effect = effect_of_compiled(compiled)
    assert effect is not None
    (write,) = effect.writes
    assert write.row_by_row
    rendered = re.search(r"SET (.*) WHERE", str(compiled), re.DOTALL)
    assert rendered is not None
    in_sql = set(re.findall(r'[`"]?(\w+)[`"]?=', rendered[1]))
    assert {swapped.c[key].name for key in write.set_by_value | write.set_by_database} == in_sql


def test_a_part_of_a_column_that_is_set_leaves_it_unknown_what_changes() -> None:
    lists = Table(
        "lists", MetaData(), Column("id", Integer, primary_key=True), Column("all", postgresql.ARRAY(Integer))
    )
    assert write_of(update(lists).where(lists.c.id == 1).values({lists.c["all"][2]: 5})).how == "any"


@pytest.mark.parametrize("prefix", ["OR REPLACE", "IGNORE"])
def test_an_update_with_a_prefix_may_change_any_row(prefix: str) -> None:
    for statement in (update(item).where(item.c.id == 1).values(name="n"), delete(item).where(item.c.id == 1)):
        assert write_of(statement.prefix_with(prefix)).how == "any"
