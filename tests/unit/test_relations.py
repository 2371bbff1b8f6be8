"""What a view shows is decided by the tables behind it, as far as the catalog or the user says; else there is a reason."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from querycache import ConfigurationError
from querycache.coherence.declared import declared_in, declared_of
from querycache.coherence.relations import Relations
from querycache.databases import Column, Table, View, build_survey

TABLES = [Table(("s", "a")), Table(("s", "b")), Table(("t", "a")), Table(("s", "odd"), obstacle="is odd")]


def relations(*views: View, dialect: str = "postgresql", functions: Iterable[str] = (), **declared: Any) -> Relations:
    materialized = Table(("s", "m"), "materialized view")
    survey = build_survey(
        [*TABLES, materialized, *(Table(view.name, "view") for view in views)], user_functions=functions, views=views
    )
    return Relations(survey, declared_of(declared.get("views"), declared.get("declared_functions")), dialect, "S")


def reading(name: str, *reads: str, **more: Any) -> View:
    return View(("s", name), reads=frozenset(("s", read) for read in reads), **more)


def behind(known: Relations, name: str) -> set[str] | str:
    found = known.behind(("s", name))
    return found if isinstance(found, str) else {".".join(one) for one in found}


def test_a_table_stands_alone() -> None:
    assert behind(relations(), "a") == {"s.a"}


def test_a_view_stands_with_the_tables_behind_it_through_other_views() -> None:
    known = relations(reading("v", "a", "w"), reading("w", "b"))
    assert behind(known, "v") == {"s.v", "s.a", "s.w", "s.b"}


@pytest.mark.parametrize("dialect", ["sqlite", "mariadb"])
def test_so_does_one_of_which_the_catalog_keeps_the_text(dialect: str) -> None:
    known = relations(View(("s", "v"), text="SELECT upper(x) FROM a JOIN T.A ON (a.x = b.y)"), dialect=dialect)
    assert behind(known, "v") == {"s.v", "s.a", "t.a"}


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (reading("v", "a", "odd"), "reads s.odd, which is odd"),
        (reading("v", "a", "gone"), "reads s.gone, which was not in the catalog"),
        (reading("v", "a", obstacle="asks the clock"), "asks the clock"),
        (reading("v", "a", calls=frozenset({"now"})), "calls now()"),
        (reading("v", "a", calls=frozenset({"s.lower"})), "calls s.lower()"),
        (reading("v", "a", calls=frozenset({"upper"})), "calls upper()"),
        (View(("s", "v"), text="SELECT now() FROM a"), "present time"),
        (View(("s", "v"), text="SELECT pay(x) FROM a"), "calls pay()"),
        (View(("s", "v"), text="what is that"), "not understood"),
    ],
)
def test_a_view_with_anything_that_is_not_known_is_refused_with_the_reason(view: View, reason: str) -> None:
    found = behind(relations(view, functions=["upper"]), "v")
    assert isinstance(found, str)
    assert reason in found


def test_a_view_that_the_catalog_says_nothing_of_is_refused_until_it_is_declared() -> None:
    assert isinstance(behind(relations(), "m"), str)
    assert behind(relations(views={"M": ["A", "t.a"]}), "m") == {"s.m", "s.a", "t.a"}
    assert behind(relations(views={"s.m": []}), "m") == {"s.m"}
    assert isinstance(behind(relations(views={"t.m": []}), "m"), str)


def test_what_is_declared_goes_before_what_the_catalog_says() -> None:
    view = reading("v", "odd", obstacle="asks the clock")
    assert behind(relations(view, views={"v": ["a"]}), "v") == {"s.v", "s.a"}


def test_a_table_is_not_made_a_view_by_a_declaration() -> None:
    assert behind(relations(views={"odd": ["a"]}), "odd") == "is odd"


def test_a_declaration_in_a_circle_is_refused() -> None:
    known = relations(reading("v"), reading("w"), views={"v": ["w"], "w": ["v"]})
    assert "is declared to read itself" in str(behind(known, "v"))


def test_a_function_is_known_where_it_is_built_in_or_declared() -> None:
    known = relations(functions=["pay", "upper"], declared_functions={"s.pay": ["a"], "fee": []})
    assert known.behind_function("lower") == frozenset()
    assert known.behind_function("fee") == frozenset()
    assert known.behind_function("S.Pay") == frozenset({("s", "a")})
    for unknown in ("pay", "upper", "s.lower", "now"):
        assert isinstance(known.behind_function(unknown), str), unknown


def test_a_view_follows_what_a_function_in_it_is_declared_to_read() -> None:
    view = reading("v", "a", calls=frozenset({"s.pay"}))
    assert behind(relations(view, declared_functions={"pay": ["b"]}), "v") == {"s.v", "s.a", "s.b"}


@pytest.mark.parametrize("name", ["alembic_version", "flyway_schema_history", "DATABASECHANGELOG", "my_versions"])
def test_a_table_of_notes_about_migrations_is_refused(name: str) -> None:
    survey = build_survey([Table(("s", name))], columns=[Column(("s", name), "version_num")])
    assert "migrations" in str(Relations(survey, declared_of(None, None), "sqlite", "s").behind(("s", name.lower())))


@pytest.mark.parametrize(
    ("views", "functions", "words"),
    [
        (["v"], None, 'views=["v"]'.replace('"', "'")),
        ({"v": "product"}, None, "['product']"),
        ({"v": [1]}, None, "1 is no table"),
        ({"": []}, None, "views="),
        (None, "slugify", "functions='slugify'"),
        (None, 7, "functions=7"),
        (None, {"f": "product"}, "functions['f']"),
        (None, [7], "7 is no table"),
    ],
)
def test_a_declaration_that_is_none_is_an_error_that_shows_it(views: Any, functions: Any, words: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        declared_of(views, functions)
    assert words in str(raised.value)


def test_an_option_that_is_not_given_declares_nothing() -> None:
    assert declared_in({}, "querycache_reads") is None
    assert declared_in({"querycache_reads": ["S.A", "b"]}, "querycache_reads") == frozenset({("s", "a"), (None, "b")})
