"""Which tables may be cached, and how."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from querycache.errors import ConfigurationError
from querycache.options import FromCache
from querycache.policy import Policies, Policy


class Base(DeclarativeBase):
    pass


link = Table("link", Base.metadata, Column("a", ForeignKey("animal.id")), Column("b", ForeignKey("keeper.id")))


class Keeper(Base):
    __tablename__ = "keeper"
    id: Mapped[int] = mapped_column(primary_key=True)


class Animal(Base):
    __tablename__ = "animal"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    keepers: Mapped[list[Keeper]] = relationship(secondary=link)
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012


class Dog(Animal):
    __tablename__ = "dog"
    id: Mapped[int] = mapped_column(ForeignKey("animal.id"), primary_key=True)
    __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012


def table(model: type[Any]) -> Any:
    return model.__table__


def test_a_model_covers_its_subclasses_and_its_association_tables() -> None:
    policy = Policy(ttl=5)
    policies = Policies(lambda: [(Animal, policy)])
    assert [policies.of(each) for each in (table(Animal), table(Dog), link)] == [policy] * 3


def test_a_table_of_no_cacheable_model_has_no_policy() -> None:
    assert Policies(lambda: [(Animal, Policy())]).of(table(Keeper)) is None


def test_a_model_that_comes_later_is_found() -> None:
    models: list[tuple[type[Any], Policy]] = []
    policies = Policies(lambda: models)
    assert policies.of(table(Keeper)) is None
    models.append((Keeper, Policy()))
    assert policies.of(table(Keeper)) == Policy()


def test_what_is_no_mapped_class_is_passed_over() -> None:
    def models() -> Iterable[tuple[type[Any], Policy]]:
        return [(int, Policy()), (Keeper, Policy())]

    assert Policies(models).of(table(Keeper)) == Policy()


@pytest.mark.parametrize(
    "options",
    [{"ttl": 0}, {"ttl": -1}, {"ttl": 86401}, {"operations": frozenset({"everything"})}, {"max_size_bytes": 0}],
)
def test_a_policy_that_cannot_be_kept_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Policy(**options)


@pytest.mark.parametrize("ttl", [0, -1, 86401])
def test_a_time_to_live_of_a_statement_is_at_most_a_day(ttl: float) -> None:
    with pytest.raises(ConfigurationError, match="ttl"):
        FromCache(ttl=ttl)
