"""The names of the old recipe hold, with and without Flask-SQLAlchemy."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, update
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import querycache
from querycache import CachingQuery, ConfigurationError, FromCache, QueryCache, adoption, query_callable
from querycache.legacy import md5_key_mangler
from querycache.session import attachment_of


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "lg_thing"

    id: Mapped[int] = mapped_column(primary_key=True)
    size: Mapped[int]


class Other(Base):
    __tablename__ = "lg_other"

    id: Mapped[int] = mapped_column(primary_key=True)


class Shop:
    """A session whose queries are ``CachingQuery``, and the SELECTs that it sent."""

    def __init__(self, engine: Any, *, count: bool = False) -> None:
        query_class: Any = query_callable({"default": "memory://"})
        self.session = Session(engine, query_cls=query_class)
        self.selects = 0
        if count:
            event.listen(engine, "before_cursor_execute", self._count)

    def _count(self, connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        self.selects += statement.lstrip().upper().startswith("SELECT")

    def things(self, cache_key: str | None = None) -> CachingQuery:
        query: Any = self.session.query(Thing).options(FromCache("default", cache_key)).order_by(Thing.id)
        assert isinstance(query, CachingQuery)
        return query


@pytest.fixture
def shop(sqlite_url: str, engine_of: Any) -> Iterator[Shop]:
    engine = engine_of(sqlite_url)
    Base.metadata.create_all(engine)
    with QueryCache("memory://") as cache:
        cache.attach(engine)
        shop = Shop(engine, count=True)
        shop.session.add_all(Thing(id=number, size=number) for number in (1, 2, 3))
        shop.session.commit()
        yield shop
        shop.session.close()


def sizes(things: Any) -> list[int]:
    return [thing.size for thing in things]


def test_get_value_without_an_entry_is_a_key_error(shop: Shop) -> None:
    with pytest.raises(KeyError, match="mine"):
        shop.things("mine").get_value()


def test_get_value_returns_what_the_query_was_cached_with(shop: Shop) -> None:
    shop.things("mine").all()
    shop.session.rollback()
    shop.selects = 0

    assert sizes(shop.things("mine").get_value()) == [1, 2, 3]
    assert shop.selects == 0


def test_get_value_calls_createfunc_once(shop: Shop) -> None:
    calls = []

    def create() -> list[Thing]:
        calls.append(1)
        return shop.session.query(Thing).filter(Thing.id == 2).all()

    assert sizes(shop.things().get_value(createfunc=create)) == [2]
    shop.session.rollback()
    assert sizes(shop.things().get_value(createfunc=create)) == [2]
    assert len(calls) == 1


def test_createfunc_and_ignore_expiration_exclude_each_other(shop: Shop) -> None:
    with pytest.raises(AssertionError):
        shop.things().get_value(createfunc=list, ignore_expiration=True)


def test_a_value_set_by_hand_is_dropped_when_what_the_query_reads_changes(shop: Shop) -> None:
    shop.things("mine").set_value(shop.session.query(Thing).filter(Thing.id > 1).all())
    shop.session.rollback()
    assert sizes(shop.things("mine").get_value()) == [2, 3]
    shop.session.execute(update(Thing).where(Thing.id == 3).values(size=30))
    shop.session.commit()

    with pytest.raises(KeyError):
        shop.things("mine").get_value()


def test_a_value_set_in_a_transaction_that_writes_is_not_kept(shop: Shop) -> None:
    shop.session.execute(update(Other).values(id=30))
    shop.things("mine").set_value(shop.session.query(Thing).all())
    shop.session.rollback()

    with pytest.raises(KeyError):
        shop.things("mine").get_value()


def test_instances_of_a_value_belong_to_the_session(shop: Shop) -> None:
    shop.things().set_value(shop.session.query(Thing).all())
    shop.session.expunge_all()

    assert all(thing in shop.session for thing in shop.things().get_value())


@pytest.mark.parametrize("value", [[3], ["x"], 7, [Thing(id=9, size=9)]])
def test_a_value_that_is_no_list_of_persistent_instances_is_a_type_error(shop: Shop, value: Any) -> None:
    with pytest.raises(TypeError):
        shop.things().set_value(value)


def test_a_query_of_columns_takes_no_value(shop: Shop) -> None:
    query: Any = shop.session.query(func.count(Thing.id)).options(FromCache())

    with pytest.raises(TypeError, match="one entity"):
        query.set_value([])


def test_nothing_keeps_a_session_alive(shop: Shop) -> None:
    other = Shop(shop.session.get_bind())
    other.things("mine").set_value(other.things().all())
    other.things("mine").get_value()
    other.session.close()
    gone = weakref.ref(other.session)
    del other
    gc.collect()

    assert gone() is None


def test_an_empty_value_is_a_value(shop: Shop) -> None:
    shop.things("none").set_value([])

    assert shop.things("none").get_value() == []


@pytest.mark.parametrize("cache_key", [None, "mine"])
def test_invalidate_drops_the_entry_and_the_value(shop: Shop, cache_key: str | None) -> None:
    shop.things(cache_key).all()
    shop.things(cache_key).invalidate()

    with pytest.raises(KeyError):
        shop.things(cache_key).get_value()
    shop.things(cache_key).set_value([])
    shop.things(cache_key).invalidate()
    with pytest.raises(KeyError):
        shop.things(cache_key).get_value()


def test_invalidate_reaches_others_from_a_transaction_that_writes(shop: Shop) -> None:
    shop.things("mine").all()
    shop.session.execute(update(Thing).where(Thing.id == 3).values(size=30))
    shop.things("mine").invalidate()

    other = Shop(shop.session.get_bind())
    with other.session, pytest.raises(KeyError):
        other.things("mine").get_value()


def test_a_query_without_from_cache_says_so(shop: Shop) -> None:
    query: Any = shop.session.query(Thing)

    with pytest.raises(ConfigurationError, match="FromCache"):
        query.invalidate()


def test_a_model_with_such_a_query_class_has_its_engine_attached(
    sqlite_url: str, engine_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For this test only: any Session of the process would be concerned.
    monkeypatch.setattr(adoption, "_MODELS", weakref.WeakKeyDictionary())

    class Queried(Base):
        __tablename__ = "lg_queried"
        query_class = query_callable({"default": "memory://"})

        id: Mapped[int] = mapped_column(primary_key=True)

    engine = engine_of(sqlite_url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Queried(id=1))
        session.commit()

    assert attachment_of(engine) is not None


def test_a_subclass_of_caching_query_may_be_chosen() -> None:
    class Mine(CachingQuery):
        pass

    made = query_callable({"default": "memory://"}, Mine)(Thing)

    assert isinstance(made, Mine)
    assert made.cache_regions == {"default": "memory://"}


def test_the_mangler_hashes_selects_and_nothing_else() -> None:
    assert md5_key_mangler("user.id[4]") == "user.id[4]"
    assert len(md5_key_mangler("SELECT 1")) == 32


def test_flask_is_not_imported_before_somebody_asks_for_the_query_class() -> None:
    code = (
        "import sys, querycache; from querycache import CacheableMixin, regions; assert 'flask' not in sys.modules;"
        "sys.modules['flask_sqlalchemy'] = None; from querycache import CachingQuery; from sqlalchemy.orm import Query;"
        "assert CachingQuery.__bases__ == (Query,), CachingQuery.__bases__"
    )
    source = str(Path(querycache.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": source}, timeout=60)


def test_with_flask_sqlalchemy_its_query_is_the_base() -> None:
    flask_query = pytest.importorskip("flask_sqlalchemy.query")

    assert issubclass(CachingQuery, flask_query.Query)
