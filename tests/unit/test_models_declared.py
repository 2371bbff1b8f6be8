"""A model says that it is cacheable in any kind of declarative mapping, and names entries as it always did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ForeignKey
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    declarative_base,
    mapped_column,
    sessionmaker,
)

from querycache import CacheableMixin, FromCache, Policy, QueryCache
from querycache.models import ModelCache, _cacheable_models


class Base(DeclarativeBase):
    pass


class User(CacheableMixin, Base):
    __tablename__ = "user"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Address(Base, CacheableMixin):
    __tablename__ = "address"
    cache_label = "slow"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("user.id"))


class Seat(CacheableMixin, Base):
    __tablename__ = "seat"

    row: Mapped[int] = mapped_column(primary_key=True)
    letter: Mapped[str] = mapped_column(primary_key=True)


def test_names_have_the_seeds_format() -> None:
    assert User.cache._cache_key() == "user.id[all]"
    assert User.cache._cache_key(4) == "user.id[4]"
    assert User.cache._cache_key(0) == "user.id[0]"
    assert Address.cache._cache_key(user_id=4) == "address.user_id=4[all]"


def test_the_order_of_attributes_does_not_change_a_name() -> None:
    assert Address.cache._cache_key(user_id=4, id=1) == Address.cache._cache_key(id=1, user_id=4)


def test_a_composite_key_is_named_by_all_its_parts() -> None:
    assert Seat.cache._cache_key((3, "b")) == "seat.row,letter[(3, 'b')]"


def test_cache_pk_is_the_name_of_the_key() -> None:
    class Named(CacheableMixin, declarative_base()):  # type: ignore[misc]  # an untyped base
        __tablename__ = "named"
        cache_pk = "code"

        id: Mapped[int] = mapped_column(primary_key=True)

    assert Named.cache._cache_key(4) == "named.code[4]"


def test_columns_leave_the_primary_key_out() -> None:
    assert User.cache._columns() == ["name"]


@pytest.mark.parametrize(
    ("make", "cache_key"),
    [
        (lambda: Address.cache.from_cache(), None),
        (lambda: Address.cache.from_cache("mine"), "mine"),
        (lambda: Address.cache.from_cache(pk=0), "address.id[0]"),
    ],
)
def test_from_cache_gives_the_option_of_the_models_region(make: Callable[[], FromCache], cache_key: str | None) -> None:
    option = make()

    assert (option.region, option.cache_key) == ("slow", cache_key)


def test_the_cache_is_reached_from_class_and_instance_alike() -> None:
    assert User(id=1).cache == User.cache == ModelCache(User)


def test_the_mixin_is_found_before_and_after_the_base() -> None:
    found = dict(_cacheable_models())

    assert (found[User].region, found[Address].region) == ("default", "slow")


def test_a_dataclass_is_cacheable() -> None:
    class DataBase(MappedAsDataclass, DeclarativeBase):
        pass

    class Point(CacheableMixin, DataBase):
        __tablename__ = "point"

        id: Mapped[int] = mapped_column(primary_key=True)
        x: Mapped[int] = mapped_column(default=0)

    assert Point(id=1).x == 0
    assert Point.cache.pk == "id"
    assert Point in dict(_cacheable_models())


def test_an_abstract_base_makes_its_models_cacheable() -> None:
    class Cached(CacheableMixin, Base):
        __abstract__ = True
        cache_label = "short"

    class Thing(Cached):
        __tablename__ = "thing"

        id: Mapped[int] = mapped_column(primary_key=True)

    found = dict(_cacheable_models())
    assert Cached not in found
    assert found[Thing].region == "short"


def test_a_subclass_keeps_its_own_policy() -> None:
    class Animal(CacheableMixin, Base):
        __tablename__ = "animal"
        __mapper_args__: dict[str, Any] = {"polymorphic_on": "kind", "polymorphic_identity": "animal"}  # noqa: RUF012

        id: Mapped[int] = mapped_column(primary_key=True)
        kind: Mapped[str]

    class Dog(Animal):
        __tablename__ = "dog"
        __mapper_args__: dict[str, Any] = {"polymorphic_identity": "dog"}  # noqa: RUF012
        cache_label = "dogs"

        id: Mapped[int] = mapped_column(ForeignKey("animal.id"), primary_key=True)

    with QueryCache("memory://") as cache:
        policies = cache._reader.questions.plans.policies
        regions = [policy and policy.region for policy in map(policies.of, (Animal.__table__, Dog.__table__))]  # type: ignore[arg-type]  # tables, both

    assert regions == ["default", "dogs"]


def test_the_regions_time_to_live_decides_unless_the_model_has_a_policy() -> None:
    class Brief(CacheableMixin, Base):
        __tablename__ = "brief"
        cache_label = "short"
        cache_policy = Policy(ttl=5)

        id: Mapped[int] = mapped_column(primary_key=True)

    found = dict(_cacheable_models())
    assert (found[Brief].ttl, found[Brief].region) == (5, "short")
    assert found[User].ttl == 86400


def test_a_session_is_not_needed_to_be_bound_twice() -> None:
    factory: Any = sessionmaker()

    def current() -> Session:
        session: Session = factory()
        return session

    with QueryCache("memory://") as cache:
        cache.bind_session(current)
        cache.bind_session(current)
        assert cache.sessions == [current]
