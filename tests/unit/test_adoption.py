"""Applications that never make a ``QueryCache`` get one for the engines of models that name their regions."""

from __future__ import annotations

import importlib
import weakref
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from querycache import CacheableMixin, ConfigurationError, QueryCache, Region, adoption
from querycache.adoption import region_of
from querycache.session import attachment_of
from querycache.stores import open_store


class Base(DeclarativeBase):
    pass


class Other(DeclarativeBase):
    pass


class Item(CacheableMixin, Base):
    __tablename__ = "ad_item"

    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]


class Plain(Other):
    __tablename__ = "ad_plain"

    id: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declare the models of this module for a test only: any Session of the process would be concerned."""
    monkeypatch.setattr(adoption, "_MODELS", weakref.WeakKeyDictionary())
    adoption.declare(Item, {"default": "memory://"})


@pytest.fixture
def engine(sqlite_url: str, engine_of: Any) -> Engine:
    engine: Engine = engine_of(sqlite_url)
    Base.metadata.create_all(engine)
    return engine


def test_the_first_read_attaches_the_engine_and_is_cached(engine: Engine) -> None:
    with Session(engine) as session:
        session.get(Item, 1)

    found = attachment_of(engine)
    assert found is not None
    assert found[1].coherence.events.counts()["fill"] == 1


def test_a_session_that_only_writes_attaches_the_engine_and_marks(engine: Engine) -> None:
    with Session(engine) as session:
        session.add(Item(id=1, size=1))
        session.commit()

    found = attachment_of(engine)
    assert found is not None
    before = found[1].coherence.events.counts()["mark"]
    with Session(engine) as session:
        session.execute(update(Item).values(size=2))
        session.commit()
    assert (before > 0, found[1].coherence.events.counts()["mark"] > before) == (True, True)


def test_a_core_write_through_a_session_attaches_the_engine_before_it(engine: Engine) -> None:
    with Session(engine) as session:
        session.connection().exec_driver_sql("INSERT INTO ad_item (id, size) VALUES (1, 1)")
        session.commit()

    found = attachment_of(engine)
    assert found is not None
    assert found[1].coherence.events.counts()["mark"] > 0


def test_an_engine_that_was_attached_explicitly_stays_with_its_cache(engine: Engine) -> None:
    with QueryCache("memory://") as cache:
        cache.attach(engine)
        with Session(engine) as session:
            session.get(Item, 1)

        assert cache.stats()["counts"]["fill"] == 1


def test_several_engines_share_the_cache_of_one_mapping(engine: Engine, tmp_path: Path, engine_of: Any) -> None:
    second = engine_of(f"sqlite:///{tmp_path}/second.sqlite")
    Base.metadata.create_all(second)
    for one in (engine, second):
        with Session(one) as session:
            session.scalars(select(Item)).all()

    found, other = attachment_of(engine), attachment_of(second)
    assert found is not None
    assert other is not None
    assert found[1].coherence is other[1].coherence


def test_an_engine_that_a_session_does_not_use_for_such_a_model_is_left_alone(engine: Engine, engine_of: Any) -> None:
    another = engine_of("sqlite://")
    Other.metadata.create_all(another)
    with Session(binds={Plain: another}) as session:
        session.scalars(select(Plain)).all()

    assert attachment_of(another) is None


@pytest.mark.parametrize("value", ["memory://", open_store("memory://"), Region("memory://", ttl=7)])
def test_a_region_may_be_a_url_a_store_or_a_region(value: Any) -> None:
    region = region_of("default", value)

    assert isinstance(region, Region)
    assert region is value or region.store is value


@pytest.mark.parametrize(("expiration_time", "ttl"), [(60, 60), (None, 3600), (-1, 3600), (10**6, 86400)])
def test_the_expiration_time_of_a_dogpile_region_is_the_time_to_live(expiration_time: Any, ttl: float) -> None:
    dogpile = importlib.import_module("dogpile.cache")
    made = dogpile.make_region().configure("dogpile.cache.memory", expiration_time=expiration_time)

    assert region_of("default", made).ttl == ttl


def test_what_is_no_region_is_named_with_its_label() -> None:
    with pytest.raises(ConfigurationError, match=r"cache_regions\['slow'\] is of type int"):
        region_of("slow", 3)


def test_two_meanings_of_a_label_on_one_engine_are_refused(engine: Engine) -> None:
    class Clashing(CacheableMixin, Base):
        __tablename__ = "ad_clashing"
        cache_regions = {"default": "memory://?size=1MB"}  # noqa: RUF012  # as applications write it

        id: Mapped[int] = mapped_column(primary_key=True)

    with Session(engine) as session, pytest.raises(ConfigurationError, match=r"Clashing\.cache_regions\['default'\]"):
        session.get(Item, 1)


def test_the_same_meaning_given_twice_is_one(engine: Engine) -> None:
    class Alike(CacheableMixin, Base):
        __tablename__ = "ad_alike"
        cache_regions = {"default": "memory:" + "//", "slow": "memory://?size=1MB"}  # noqa: RUF012

        id: Mapped[int] = mapped_column(primary_key=True)

    with Session(engine) as session:
        session.get(Item, 1)

    found = attachment_of(engine)
    assert found is not None
    assert set(found[0].questions.plans.regions) == {"default", "slow"}


def test_a_session_that_cannot_choose_an_engine_before_its_own_listener_ran_is_left_to_it(engine: Engine) -> None:
    class Tenanted(Session):
        def get_bind(self, *arguments: Any, **options: Any) -> Engine:
            if "tenant" not in self.info:
                raise LookupError("no tenant yet")
            return engine

    with Tenanted() as session:

        @event.listens_for(session, "do_orm_execute")
        def choose(state: Any) -> None:
            state.session.info["tenant"] = 1

        assert session.scalars(select(Item)).all() == []
