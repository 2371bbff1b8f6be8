"""Which SELECTs are kept by keys, and why others are not."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, text, union_all
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    aliased,
    contains_eager,
    defer,
    immediateload,
    joinedload,
    lazyload,
    load_only,
    mapped_column,
    query_expression,
    raiseload,
    selectinload,
    subqueryload,
    undefer,
    undefer_group,
    with_expression,
    with_loader_criteria,
)

from querycache import FromCache
from querycache.keyed import key_attributes_of, mapper_of, parameters_of, rows_by_key, rows_of, why_not_by_keys
from scenario_support import Category, Product


class Base(DeclarativeBase):
    pass


class Sum(Base):
    __tablename__ = "kd_sum"

    id: Mapped[int] = mapped_column(primary_key=True)
    more: Mapped[int] = query_expression()


OTHER = aliased(Product)

BY_KEYS: dict[str, Any] = {
    "all": select(Product),
    "a filter": select(Product).where(Product.views > 1),
    "an order": select(Product).order_by(func.lower(Product.name).desc()),
    "a page": select(Product).order_by(Product.id).limit(3).offset(1),
    "a join": select(Product).join(Product.category).where(Category.name == "fruit"),
    "a subquery": select(Product).where(Product.category_id.in_(select(Category.id))),
    "load_only": select(Product).options(load_only(Product.name)),
    "defer": select(Product).options(defer(Product.name, raiseload=True), undefer(Product.note)),
    "a group of columns": select(Product).options(undefer_group("some")),
    "raiseload": select(Product).options(raiseload("*")),
    "lazyload": select(Product).options(lazyload(Product.category)),
    "joinedload": select(Product).options(joinedload(Product.category, innerjoin=True)),
    "joinedload with criteria": select(Category).options(joinedload(Category.products.and_(Product.views > 1))),
    "selectinload": select(Category).options(selectinload(Category.products).load_only(Product.name)),
    "subqueryload": select(Category).options(subqueryload(Category.products)),
    "immediateload": select(Category).options(immediateload(Category.products)),
    "with_loader_criteria": select(Product).options(with_loader_criteria(Product, Product.views > 1)),
    "FromCache": select(Product).options(FromCache()),
}

WHOLE: dict[str, tuple[Any, str]] = {
    "several entities": (select(Product, Category), "it does not return the instances of one mapped class"),
    "a column": (select(Product.id), "it does not return the instances of one mapped class"),
    "an entity and a column": (select(Product, Product.id), "it does not return the instances of one mapped class"),
    "an alias": (select(OTHER), "it does not return the instances of one mapped class"),
    "a count": (select(func.count()).select_from(Product), "it does not return the instances of one mapped class"),
    "a union": (union_all(select(Product), select(Product)), "it is not a plain select()"),
    "from_statement": (select(Product).from_statement(text("SELECT 1")), "it is not a plain select()"),
    "text": (text("SELECT 1"), "it is not a plain select()"),
    "DISTINCT": (select(Product).distinct(), "it has DISTINCT"),
    "GROUP BY": (select(Product).group_by(Product.id), "it has GROUP BY or HAVING"),
    "HAVING": (select(Product).having(func.count() > 1), "it has GROUP BY or HAVING"),
    "a prefix": (select(Product).prefix_with("SQL_NO_CACHE"), "it has prefixes or hints"),
    "a suffix": (select(Product).suffix_with("x"), "it has prefixes or hints"),
    "a hint": (select(Product).with_hint(Product, "x"), "it has prefixes or hints"),
    "a hint for the statement": (select(Product).with_statement_hint("x"), "it has prefixes or hints"),
    "a CTE of its own": (select(Product).add_cte(select(Category).cte()), "it has a CTE of its own"),
    "contains_eager": (
        select(Category).join(Category.products).options(contains_eager(Category.products)),
        "one of its options looks at more than the row",
    ),
    "contains_eager below": (
        select(Product).options(joinedload(Product.category).contains_eager(Category.products)),
        "one of its options looks at more than the row",
    ),
    "with_expression": (
        select(Sum).options(with_expression(Sum.more, Sum.id + 1)),
        "one of its options looks at more than the row",
    ),
}


@pytest.mark.parametrize("name", BY_KEYS)
def test_a_select_of_one_class_can_be_kept_by_keys(name: str) -> None:
    assert why_not_by_keys(BY_KEYS[name]) is None


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_more_than_rows_of_one_class_is_kept_whole_with_the_reason(name: str) -> None:
    statement, why_not = WHOLE[name]

    assert why_not_by_keys(statement) == why_not


def test_the_statement_for_rows_is_one_object_for_a_class() -> None:
    mapper = mapper_of(select(Product))
    assert mapper is not None

    assert rows_of(select(Product).where(Product.id > 1), mapper) is rows_by_key(mapper)
    assert rows_of(select(Product).options(FromCache()), mapper) is rows_by_key(mapper)


def test_rows_are_labelled_as_the_query_s_are() -> None:
    query = Session().query(Product)
    mapper = mapper_of(select(Product))
    assert mapper is not None

    statement: Any = query._statement_20()
    assert "AS sc_product_id" in str(rows_of(statement, mapper))


def test_parameters_hold_each_value_once_and_what_was_given() -> None:
    mapper = mapper_of(select(Product))
    assert mapper is not None

    assert parameters_of(mapper, [(2,), (1,), (2,)], {"given": 7}) == {"querycache_keys": [2, 1], "given": 7}
    assert [attribute.key for attribute in key_attributes_of(Product)] == ["id"]
