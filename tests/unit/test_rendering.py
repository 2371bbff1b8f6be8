"""What is noted of a compilation is what was rendered, whatever a release of SQLAlchemy makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, ForeignKey, String, create_engine, exists, func, select, union
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase, Mapped, aliased, joinedload, mapped_column, relationship

from querycache._rendering import (
    Rendered,
    cuts_rows,
    expressions_of,
    groups_rows,
    name_of_cte,
    record_rendering,
    rendered_by,
    shown_columns,
)
from querycache._sqlalchemy import compile_statement


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20))
    pets: Mapped[list[Pet]] = relationship(back_populates="owner")


class Pet(Base):
    __tablename__ = "pet"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("owner.id"))
    owner: Mapped[Owner] = relationship(back_populates="pets")


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = create_engine("sqlite://")
    record_rendering(engine.dialect)
    yield engine
    engine.dispose()


def rendered(engine: Engine, statement: Any) -> Rendered:
    found = rendered_by(compile_statement(statement, engine, engine.dialect, {}, []).compiled)
    assert found is not None
    return found


def test_every_table_is_recorded_with_the_times_it_is_a_from_element(engine: Engine) -> None:
    statement = select(Owner).options(joinedload(Owner.pets)).where(Owner.id.in_(select(Pet.owner_id)))
    assert {table.name: times for table, times in rendered(engine, statement).tables.items()} == {"owner": 1, "pet": 2}


def test_a_select_is_recorded_with_the_froms_that_are_shown(engine: Engine) -> None:
    (only,) = rendered(engine, select(Owner).join(Owner.pets)).selects
    assert [str(each) for each in only.froms] == ["owner JOIN pet ON owner.id = pet.owner_id"]


def test_a_subquery_is_recorded_without_the_froms_that_it_correlates(engine: Engine) -> None:
    outer, inner = rendered(engine, select(Owner.name).where(exists().where(Pet.owner_id == Owner.id))).selects
    assert [str(each) for each in inner.froms] == ["pet"]
    assert (outer.around, inner.around) == (None, outer)


def test_a_select_is_recorded_as_it_was_written_and_as_the_orm_made_it(engine: Engine) -> None:
    statement = select(Owner.name).where(Owner.id.in_(select(Pet.owner_id).where(Pet.id == 3)))
    outer, inner = rendered(engine, statement).selects
    assert inner.written is outer.statement.whereclause.right.element
    assert inner.statement is not inner.written


def test_every_column_that_is_rendered_is_recorded(engine: Engine) -> None:
    columns = rendered(engine, select(Owner.name).join(Owner.pets).order_by("owner_id")).columns
    assert {str(column) for column in columns} == {"owner.name", "owner.id", "pet.owner_id"}


def test_the_selects_of_a_union_stand_where_the_union_stands(engine: Engine) -> None:
    both = union(select(Pet.owner_id), select(Pet.id))
    outer, *inner = rendered(engine, select(Owner.name).where(Owner.id.in_(both))).selects
    assert [each.around for each in inner] == [outer, outer]


def test_a_cte_stands_in_no_select(engine: Engine) -> None:
    pets = select(Pet.owner_id).cte("pets")
    found = rendered(engine, select(Owner.name).where(Owner.id.in_(select(pets.c.owner_id))))
    assert [each.around for each in found.selects if each.written is pets.element] == [None]
    assert found.cte_uses == {"pets": 1}


def test_the_uses_of_a_cte_are_counted_under_every_alias(engine: Engine) -> None:
    pets = select(Pet.id, Pet.owner_id).cte("pets")
    again = pets.alias("again")
    found = rendered(engine, select(pets.c.id).join(again, pets.c.id == again.c.owner_id))
    assert found.cte_uses == {"pets": 2}
    assert name_of_cte(again.alias("once_more")) == "pets"


@pytest.mark.parametrize("is_said", [True, False])
def test_a_cte_that_refers_to_itself_is_known_by_its_name(engine: Engine, is_said: bool) -> None:
    top = select(Pet.id, Pet.owner_id).cte("tree", recursive=is_said)
    below = aliased(Pet)
    tree = top.union_all(select(below.id, below.owner_id).join(top, below.owner_id == top.c.id))
    assert rendered(engine, select(tree)).recursive_ctes == {"tree"}


def test_a_statement_compiled_before_recording_has_no_record() -> None:
    engine = create_engine("sqlite://")
    assert rendered_by(compile_statement(select(Owner), engine, engine.dialect, {}, []).compiled) is None


def test_to_record_twice_changes_nothing(engine: Engine) -> None:
    compiler = engine.dialect.statement_compiler
    record_rendering(engine.dialect)
    assert engine.dialect.statement_compiler is compiler


def test_a_column_of_a_derived_table_shows_an_expression_of_its_select() -> None:
    inner = select(Pet.id, Pet.owner_id.label("whose"), func.abs(Pet.id).label("n"))
    block = inner.subquery()
    shown = shown_columns(block)
    assert [hash(shown[hash(column)]) for column in block.c] == [hash(column) for column in inner.selected_columns]


PLAIN = select(Pet.id).order_by(Pet.owner_id)


@pytest.mark.parametrize(
    ("statement", "cuts"),
    [
        (PLAIN, False),
        (PLAIN.distinct(), False),
        (PLAIN.limit(1), True),
        (PLAIN.offset(1), True),
        (PLAIN.fetch(1), True),
        (
            PLAIN.ext(postgresql.distinct_on(Pet.owner_id))
            if hasattr(postgresql, "distinct_on")
            else PLAIN.distinct(Pet.owner_id),
            True,
        ),
    ],
)
def test_what_cuts_rows_off_is_known(statement: Any, cuts: bool) -> None:
    assert cuts_rows(statement) is cuts


def test_what_groups_rows_is_known() -> None:
    assert [groups_rows(each) for each in (PLAIN, PLAIN.group_by(Pet.id), PLAIN.having(func.count() > 1))] == [
        False,
        True,
        True,
    ]


def test_the_list_and_the_order_are_the_expressions() -> None:
    assert [str(each) for each in expressions_of(PLAIN)] == ["pet.id", "pet.owner_id"]
