"""G. Life: models change, stores are tampered with, processes fork; a miss at worst, never an exception."""

from __future__ import annotations

import os
import pickle
import threading
import traceback
import warnings
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from sqlalchemy import BigInteger, Numeric, String, select, text, update
from sqlalchemy import Enum as EnumType
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column

from querycache._types import Lookup, TagSet
from querycache.stores.memory import MemoryStore
from scenario_support import Product, World, get, in_category, names, rows

ONE_EACH = ["sqlite-memory", "postgresql-memory", "mariadb-memory"]


def model_of(**columns: Any) -> type[Any]:
    """Make one class of a model that changes: always the same name and table, with these columns besides the key."""
    base: Any = type("Base", (DeclarativeBase,), {})
    body = {"__tablename__": "sg_thing", "id": mapped_column(BigInteger, primary_key=True, autoincrement=False)}
    return type("Thing", (base,), {**body, **{name: mapped_column(kind) for name, kind in columns.items()}})


CHANGES: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "added": (
        {"name": String(20)},
        "ALTER TABLE sg_thing ADD COLUMN size INTEGER",
        {"name": String(20), "size": BigInteger()},
    ),
    "removed": (
        {"name": String(20), "size": BigInteger()},
        "ALTER TABLE sg_thing DROP COLUMN size",
        {"name": String(20)},
    ),
    "retyped": (
        {"name": String(20), "size": BigInteger()},
        "UPDATE sg_thing SET size = 3",
        {"name": String(20), "size": Numeric(10, 2)},
    ),
    "swapped": (
        {"name": String(20), "title": String(20)},
        "UPDATE sg_thing SET title = 'b'",
        {"title": String(20), "name": String(20)},
    ),
}


class Forward(MemoryStore):
    """A store whose clock can be put forward."""

    forward_s = 0

    def _ticks(self) -> int:
        return super()._ticks() + self.forward_s * 1_000_000_000


def shown(entity: type[Any]) -> Any:
    """Read an entity's values as they show, types and all, with the names of its columns."""

    def read(session: Session) -> str:
        thing = session.get_one(entity, 1)
        return repr({column.key: getattr(thing, column.key) for column in entity.__table__.columns})

    return read


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
@pytest.mark.parametrize("name", CHANGES)
def test_s76_when_a_model_s_columns_change_old_entries_are_misses(worlds: Any, name: str) -> None:
    before, change, after = CHANGES[name]
    store = Forward()
    old, new = model_of(**before), model_of(**after)
    world: World = worlds(old, store=store)
    with world.write() as session:
        session.add(old(id=1, name="one"))
    world.prime(shown(old), lambda session: session.scalars(select(old)).all()[0].name)
    with world.outside.connect() as connection:
        connection.execute(text(change))
    world.cache.invalidate(old)
    deployed: World = worlds(new, store=store, make_tables=False)
    deployed.assert_true(shown(new))
    deployed.assert_true(rows(select(*new.__table__.c)))
    # Processes of two minds about the columns that narrow miss for a mark's life.
    store.forward_s = 31
    deployed.prime(shown(new), rows(select(*new.__table__.c)))


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
@pytest.mark.parametrize("name", CHANGES)
def test_s76_an_entry_of_an_older_model_is_not_taken_for_one_of_a_newer(worlds: Any, name: str) -> None:
    before, change, after = CHANGES[name]
    store, columns = MemoryStore(), {"sg_thing": ["id"]}
    old, new = model_of(**before), model_of(**after)
    world: World = worlds(old, store=store, tag_columns=columns)
    values = {column: "one" if column in ("name", "title") else 3 for column in before}
    with world.write() as session:
        session.add(old(id=1, **values))
    world.prime(shown(old), rows(select(*old.__table__.c)))
    if change.startswith("ALTER"):
        with world.outside.connect() as connection:
            connection.execute(text(change))
    deployed: World = worlds(new, store=store, make_tables=False, tag_columns=columns)
    deployed.prime(shown(new), rows(select(*new.__table__.c)))


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
@pytest.mark.parametrize("name", CHANGES)
def test_s77_old_and_new_code_read_what_either_writes(worlds: Any, name: str) -> None:
    before, change, after = CHANGES[name]
    store = Forward()
    old, new = model_of(**before), model_of(**after)
    old_world: World = worlds(old, store=store)
    with old_world.write() as session:
        session.add(old(id=1, name="one"))
    # What the old code reads is there until it is gone: a column is dropped after it.
    if "DROP" not in change:
        with old_world.outside.connect() as connection:
            connection.execute(text(change))
    new_world: World = worlds(new, store=store, make_tables=False)
    sides = ((old_world, old), (new_world, new))
    for number, (writing, entity) in enumerate(sides):
        for value in (f"first {number}", f"second {number}"):
            for world, read in sides:
                world.assert_true(shown(read))
            with writing.write() as session:
                session.get_one(entity, 1).name = value
            for world, read in sides:
                world.assert_true(shown(read))
                world.assert_true(rows(select(read.name).where(read.name == value)))
    store.forward_s = 31
    new_world.prime(shown(new))


class Before(Enum):
    NEW = "n"
    OLD = "o"


class After(Enum):
    NEW = "n"
    OLD = "o"
    LOST = "l"


@pytest.mark.parametrize("worlds", ONE_EACH, indirect=True)
def test_s76_an_enum_that_loses_a_name_or_gets_one_reads_as_the_database_reads(worlds: Any) -> None:
    store = MemoryStore()
    old = model_of(state=EnumType(Before, native_enum=False, length=10))
    new = model_of(state=EnumType(After, native_enum=False, length=10))
    world: World = worlds(old, store=store)
    with world.write() as session:
        session.add(old(id=1, state=Before.OLD))
    world.prime(get(old, 1))
    deployed: World = worlds(new, store=store, make_tables=False)
    for _ in range(2):
        assert deployed.read(get(new, 1)) == (1, After.OLD)
    with deployed.write() as session:
        session.get_one(new, 1).state = After.LOST
    assert deployed.read(get(new, 1)) == (1, After.LOST)
    for read in (world.read, world.truth, world.read):
        with pytest.raises(LookupError):
            read(get(old, 1))


class Tampering(MemoryStore):
    """Answers with what ``tamper`` makes of each payload."""

    tamper: Callable[[bytes], bytes] | None = None
    seen: bytes = b""

    def lookup(self, key: bytes | None, tags: TagSet) -> Lookup:
        found = super().lookup(key, tags)
        if self.tamper is None or found.payload is None:
            return found
        return Lookup(self.tamper(found.payload), found.lease, found.storable, found.now)


def flipped(position: int) -> Callable[[bytes], bytes]:
    def tamper(payload: bytes) -> bytes:
        at = position % len(payload)
        return payload[:at] + bytes([payload[at] ^ 0xFF]) + payload[at + 1 :]

    return tamper


TAMPERED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda payload: b"",
    "the half": lambda payload: payload[: len(payload) // 2],
    "all but the last byte": lambda payload: payload[:-1],
    "a byte more": lambda payload: payload + b"\x00",
    "another version": flipped(0),
    "zeros": lambda payload: bytes(len(payload)),
    "a pickle": lambda payload: pickle.dumps({"rows": []}),
    "text": lambda payload: b"\xff\xfe not msgpack at all",
    "nested without end": lambda payload: b"\x91" * 100_000,
    "a huge length": lambda payload: b"\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
@pytest.mark.parametrize("name", TAMPERED)
def test_s78_a_payload_that_is_not_what_was_stored_is_a_miss(worlds: Any, name: str) -> None:
    store = Tampering()
    shop: World = worlds.shop(store=store)
    shop.prime(get(Product, 1))
    store.tamper = TAMPERED[name]
    assert shop.cost(get(Product, 1)) == 1
    shop.assert_true(get(Product, 1))
    assert shop.cache.stats()["counts"]["defect"] >= 1
    store.tamper = None
    shop.prime(get(Product, 1))


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_s78_no_single_wrong_byte_makes_a_wrong_answer(worlds: Any) -> None:
    store = Tampering()
    shop: World = worlds.shop(store=store)
    read = rows(select(Product.id, Product.name, Product.price, Product.views).where(Product.id == 1))
    truth = shop.prime(read)[0]
    lengths: list[int] = []
    store.tamper = lambda payload: lengths.append(len(payload)) or payload  # type: ignore[func-returns-value]
    shop.read(read)
    for position in range(lengths[0]):
        store.tamper = flipped(position)
        assert shop.read(read) == truth, position


@pytest.mark.parametrize("worlds", ["sqlite-memory"], indirect=True)
def test_s78_a_payload_of_another_key_is_a_miss(worlds: Any) -> None:
    store = Tampering()
    shop: World = worlds.shop(store=store)
    payloads: list[bytes] = []
    store.tamper = lambda payload: payloads.append(payload) or payload  # type: ignore[func-returns-value]
    shop.prime(get(Product, 1))
    store.tamper = None
    shop.prime(get(Product, 2))
    store.tamper = lambda payload: payloads[0]
    assert shop.cost(get(Product, 2)) == 1
    shop.assert_true(get(Product, 2))


def in_child(act: Callable[[], None]) -> None:
    """Run ``act`` in a forked child, and check that it succeeded."""
    with warnings.catch_warnings():
        # Python 3.12 warns of threads: that the cache has one, and lives on, is the point.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            act()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb"], indirect=True)
def test_s79_parent_and_forked_child_hear_each_other(shop: World) -> None:
    shop.prime(get(Product, 1), get(Product, 2), in_category(1), in_category(2))

    def write() -> None:
        shop.engine.dispose(close=False)
        shop.outside.dispose(close=False)
        shop.assert_hit(get(Product, 1))
        with shop.write() as session:
            session.get_one(Product, 1).name = "quince"
        shop.assert_true(in_category(1))

    def look() -> None:
        shop.engine.dispose(close=False)
        assert shop.read(names(Product.id == 2)) == [("sloe",)]
        assert shop.read(get(Product, 2))[1] == "sloe"

    in_child(write)
    shop.assert_true(get(Product, 1))
    assert shop.read(get(Product, 1))[1] == "quince"
    shop.assert_hit(get(Product, 2))
    shop.assert_hit(in_category(2))
    with shop.write() as session:
        session.get_one(Product, 2).name = "sloe"
    in_child(look)
    in_child(write)
    shop.assert_true(in_category(1))


@pytest.mark.parametrize("worlds", ["sqlite-lmdb", "postgresql-lmdb"], indirect=True)
def test_s79_a_child_forked_inside_of_a_commit_does_not_release_for_its_parent(shop: World) -> None:
    shop.prime(get(Product, 1))
    forked: list[str] = []

    def child() -> None:
        # Ends as a process does, with what the cache does then.
        shop.cache.close()

    def hear(heard: Any) -> None:
        if heard.kind == "mark" and not forked:
            forked.append("once")
            in_child(child)
            # Still marked: nobody is served, nobody stores.
            assert shop.cost(get(Product, 1)) == 1
            assert shop.cost(get(Product, 1)) == 1
            forked.append("asserted")

    shop.cache.subscribe(hear)
    with shop.write() as session:
        session.get_one(Product, 1).name = "quince"
    assert forked == ["once", "asserted"]
    shop.assert_true(get(Product, 1))


def test_s79_threads_never_read_less_than_what_was_acknowledged_before(shop: World) -> None:
    acknowledged = [10]
    wrong: list[Any] = []
    start = threading.Barrier(4)
    is_over = threading.Event()

    def read() -> None:
        start.wait()
        while not is_over.is_set():
            floor = acknowledged[-1]
            with shop.session() as session:
                found = session.scalar(select(Product.views).where(Product.id == 1))
            if found is None or found < floor:
                wrong.append((floor, found))

    def write() -> None:
        start.wait()
        try:
            for views in range(11, 31):
                with shop.write() as session:
                    session.execute(update(Product).where(Product.id == 1).values(views=views))
                acknowledged.append(views)
        finally:
            is_over.set()

    threads = [threading.Thread(target=target) for target in (read, read, read, write)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert acknowledged[-1] == 30
    shop.assert_true(names(Product.views == 30))


def test_s79_prices_are_decimals_in_every_thread(shop: World) -> None:
    shop.prime(get(Product, 1))
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(shop.read(get(Product, 1))[3])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Decimal("1.50")] * 4
