"""A release is owed until the store, as it is then, has taken it: whatever became of the store, or of the process.

With real processes over LMDB, and with each kind of store where it fails. What happens when it fails for good is bounded:
by the life of a mark where the mark was set, by the time to live where it was not.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
from dogpile.cache import make_region
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from app_process import AppProcess
from coherence_world import Category, Process, Product, StagedStore, World, is_hit, name_of, read_in, rename
from querycache import QueryCache
from querycache.coherence.journal import MAX_OWED_TAGS, Journal
from querycache.coherence.protocol import OnMarkFailure
from querycache.errors import StoreUnavailable
from querycache.stores import Store
from querycache.stores.dogpile import DogpileStore
from querycache.stores.lmdb import LMDBStore

MARK_S = 31
TTL_S = 600.0

MODELS = """
from sqlalchemy import Integer, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

class Base(DeclarativeBase):
    pass

class Thing(Base):
    __tablename__ = "jo_thing"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(20))

ENTITY = Thing
MODELS = [Thing]
"""
CHANGE: dict[str, Any] = {"how": "change", "id": 1, "name": "b"}

Start = Callable[..., AppProcess]


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def start(sqlite_url: str, tmp_path: Path, store_path: Path) -> Iterator[Start]:
    """Start processes of one application; those that only write are never asked to read."""
    engine = create_engine(sqlite_url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE jo_thing (id INTEGER PRIMARY KEY, name VARCHAR(20))"))
        connection.execute(text("INSERT INTO jo_thing VALUES (1, 'a'), (2, 'z')"))
    (tmp_path / "models.py").write_text(MODELS, encoding="utf-8")
    started: list[AppProcess] = []

    def begin(**options: Any) -> AppProcess:
        started.append(AppProcess())
        started[-1].start(tmp_path / "models.py", sqlite_url, store_path, ttl=TTL_S, **options)
        return started[-1]

    yield begin
    for process in started:
        process.end()


@pytest.fixture
def reader(start: Start) -> AppProcess:
    """A process that has the row cached."""
    process = start()
    process.read("get")
    assert process.hits("get") == ["get"]
    return process


def is_cached_again(reader: AppProcess) -> bool:
    """Tell whether a second read is a hit; both are checked to be true."""
    reader.read("get")
    return bool(reader.hits("get"))


# -- processes that only write ---------------------------------------------------------------------------------------


def test_a_release_that_failed_in_a_process_that_only_writes_lands_in_the_keepers_round(
    start: Start, reader: AppProcess
) -> None:
    writer = start()
    writer.ask("fail", verbs=["release"])
    writer.write(**CHANGE)
    assert not is_cached_again(reader)
    assert writer.ask("stats")["releases_owed"] == 1
    writer.ask("fail", verbs=[])
    writer.ask("tend")
    assert writer.ask("stats")["releases_owed"] == 0
    assert is_cached_again(reader)


def test_a_release_that_failed_lands_with_the_next_commit(start: Start, reader: AppProcess) -> None:
    writer = start()
    writer.ask("fail", verbs=["release"])
    writer.write(**CHANGE)
    writer.ask("fail", verbs=[])
    writer.write("run_text", statement="UPDATE jo_thing SET name = 'other' WHERE id = 2")
    assert is_cached_again(reader)


def test_a_process_that_exits_settles_what_it_owes(start: Start, reader: AppProcess) -> None:
    writer = start(on_mark_failure="continue")
    writer.ask("fail", verbs=["mark", "release"])
    writer.write(**CHANGE)
    assert reader.ask("read", names=["get"])["get"]["selects"] == 0
    writer.ask("fail", verbs=[])
    writer.end()
    assert is_cached_again(reader)


@pytest.mark.parametrize("end", [AppProcess.leave, AppProcess.kill], ids=["os._exit", "SIGKILL"])
def test_what_a_process_owed_that_ended_at_once_is_over_with_its_mark(
    start: Start, reader: AppProcess, end: Callable[[AppProcess], None]
) -> None:
    writer = start()
    writer.ask("fail", verbs=["release"])
    writer.write(**CHANGE)
    end(writer)
    assert not is_cached_again(reader)
    reader.ask("advance", seconds=MARK_S)
    assert is_cached_again(reader)


@pytest.mark.parametrize("point", ["after mark", "before release"])
def test_a_process_killed_in_its_commit_leaves_the_row_uncached_for_the_life_of_the_mark(
    start: Start, reader: AppProcess, point: str
) -> None:
    writer = start()
    writer.kill_at(point, **CHANGE)
    assert not is_cached_again(reader)
    reader.ask("advance", seconds=MARK_S)
    assert is_cached_again(reader)


# -- "continue", and its three bounds --------------------------------------------------------------------------------


def test_a_an_unmarked_commit_is_seen_when_it_returns(start: Start, reader: AppProcess) -> None:
    writer = start(on_mark_failure="continue")
    writer.ask("fail", verbs=["mark"])
    writer.write(**CHANGE)
    assert is_cached_again(reader)


def test_b_an_unmarked_commit_whose_release_fails_is_seen_by_others_when_that_lands(
    start: Start, reader: AppProcess
) -> None:
    writer = start(on_mark_failure="continue")
    writer.ask("fail", verbs=["mark", "release"])
    writer.write(**CHANGE)
    writer.read("get")
    writer.ask("fail", verbs=[])
    writer.ask("tend")
    assert is_cached_again(reader)


def test_c_an_unmarked_commit_of_a_process_that_is_killed_before_its_release_is_seen_after_the_time_to_live(
    start: Start, reader: AppProcess
) -> None:
    writer = start(on_mark_failure="continue")
    writer.ask("fail", verbs=["mark", "release"])
    writer.write(**CHANGE)
    writer.kill()
    found = reader.ask("read", names=["get"])["get"]
    assert found["cached"] != found["truth"], "the bound has nothing to bound"
    reader.ask("advance", seconds=TTL_S + 1)
    assert is_cached_again(reader)


# -- another store in between ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["after mark", "before release"])
def test_a_release_lands_in_the_directory_that_was_made_anew_since_the_mark(
    start: Start, reader: AppProcess, store_path: Path, point: str
) -> None:
    writer = start()
    with writer.stopped(point, **CHANGE):
        shutil.rmtree(store_path)
        reader.read("get")
    assert is_cached_again(reader)
    assert writer.ask("stats")["releases_owed"] == 0


class FailingStore(Protocol):
    """A store of one kind, in a place where it can be made to fail, to lose everything, and to work again."""

    def __call__(self) -> Store: ...
    def fails(self) -> Any: ...
    def lose_everything(self) -> None: ...


class Memory:
    def __init__(self, path: Path) -> None:
        self.store = StagedStore()

    def __call__(self) -> Store:
        return self.store

    @contextmanager
    def fails(self) -> Iterator[None]:
        self.store.failing.update({"mark", "release", "lookup", "fill"})
        yield
        self.store.failing.clear()

    def lose_everything(self) -> None:
        self.store._reset()


class Lmdb:
    """Fails for real: where its directory was, there is a file."""

    def __init__(self, path: Path) -> None:
        self.path = path / "store"

    def __call__(self) -> Store:
        return LMDBStore(self.path, 2**24)

    @contextmanager
    def fails(self) -> Iterator[None]:
        self.path.rename(self.path.with_name("aside"))
        self.path.write_text("in the way")
        yield
        self.path.unlink()
        self.path.with_name("aside").rename(self.path)

    def lose_everything(self) -> None:
        shutil.rmtree(self.path)


class Dogpile:
    """Fails as a backend does that cannot be reached."""

    def __init__(self, path: Path) -> None:
        self.region = make_region(name="shop").configure("dogpile.cache.memory")

    def __call__(self) -> Store:
        return DogpileStore(self.region)

    @contextmanager
    def fails(self) -> Iterator[None]:
        cache, self.region.backend._cache = self.region.backend._cache, None
        yield
        self.region.backend._cache = cache

    def lose_everything(self) -> None:
        self.region.backend._cache.clear()


@pytest.fixture(params=[Memory, Lmdb, Dogpile])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> FailingStore:
    made: FailingStore = request.param(tmp_path)
    return made


@pytest.fixture
def world(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    # The keeper's rounds are made by the tests themselves.
    monkeypatch.setattr(Journal, "_keep", lambda self: None)
    world = World(sqlite_url)
    world.fill()
    yield world
    world.close()


@pytest.fixture
def process_of(world: World, kind: FailingStore) -> Callable[..., Process]:
    """Start "processes" that share a store of the kind, each with a handle of its own."""

    def begin(**options: Any) -> Process:
        process = world.process(cached=False)
        process.cache = QueryCache(kind(), models=[Category, Product], ttl=TTL_S, **options)
        process.cache.attach(process.engine)
        return process

    return begin


def test_with_raise_a_commit_that_cannot_be_marked_does_not_happen(
    kind: FailingStore, process_of: Callable[..., Process]
) -> None:
    writer, reader = process_of(on_mark_failure="raise"), process_of()
    read_in(reader, name_of)
    with kind.fails(), pytest.raises(StoreUnavailable):
        rename(writer, "b")
    assert (read_in(reader, name_of), read_in(writer, name_of)) == ("a", "a")
    rename(writer, "c")
    assert read_in(reader, name_of) == "c"


def test_with_continue_a_commit_that_cannot_be_marked_is_seen_when_the_store_works_again(
    kind: FailingStore, process_of: Callable[..., Process]
) -> None:
    writer, reader = process_of(on_mark_failure="continue"), process_of()
    read_in(reader, name_of)
    with kind.fails():
        rename(writer, "b")
        assert (read_in(writer, name_of), read_in(reader, name_of)) == ("b", "b")
    assert read_in(writer, name_of) == "b"
    assert read_in(reader, name_of) == "b"
    assert is_hit(reader)


@pytest.mark.parametrize("policy", ["raise", "continue"])
def test_a_release_that_fails_after_a_mark_that_was_set_leaves_the_row_uncached_until_it_lands(
    kind: FailingStore, process_of: Callable[..., Process], policy: OnMarkFailure
) -> None:
    writer, reader = process_of(on_mark_failure=policy), process_of()
    read_in(reader, name_of)
    assert writer.cache is not None
    with writer.session() as session:
        session.connection()
        failing = kind.fails()
        writer.cache.subscribe(lambda heard: failing.__enter__() if heard.kind == "mark" else None)
        session.execute(text("UPDATE product SET name = 'b' WHERE id = 1"))
        session.commit()
        failing.__exit__(None, None, None)
    assert read_in(reader, name_of) == "b"
    assert not is_hit(reader)
    assert writer.cache._coherence.journals[0].settle()
    assert read_in(reader, name_of) == "b"
    assert is_hit(reader)


def test_a_release_lands_in_a_store_that_has_lost_everything_since_the_mark(
    kind: FailingStore, process_of: Callable[..., Process]
) -> None:
    writer, reader = process_of(), process_of()
    read_in(reader, name_of)
    assert writer.cache is not None

    def lose_and_read(heard: Any) -> None:
        if heard.kind == "mark":
            kind.lose_everything()
            assert read_in(reader, name_of) == "a"

    writer.cache.subscribe(lose_and_read)
    rename(writer, "b")
    assert read_in(reader, name_of) == "b"
    assert is_hit(reader)


# -- how much is owed ------------------------------------------------------------------------------------------------


def test_owed_releases_of_too_many_tags_become_one_of_the_whole_database(world: World) -> None:
    writer, reader = world.process(on_mark_failure="continue"), world.process()
    read_in(reader, name_of)
    world.store.failing.update({"mark", "release"})
    rename(writer, "b")
    assert writer.cache is not None
    journal = writer.cache._coherence.journals[0]
    bind = writer.cache._attachments[0].ask()
    assert bind is not None
    for number in range(2):
        journal.touch(tuple(b"%sproduct|pk=%d-%d" % (bind.tag, number, row) for row in range(MAX_OWED_TAGS // 2)))
    assert [owed.tags for owed in journal._owed] == [(bind.tag,)]
    world.store.failing.clear()
    assert journal.settle()
    assert read_in(reader, name_of) == "b"
    assert not is_hit(reader, lambda session: name_of(session, 2))
    assert is_hit(reader)


def test_owed_releases_land_in_the_order_of_their_commits(world: World) -> None:
    writer, reader = world.process(), world.process()
    world.store.failing.add("release")
    for name in ("b", "c"):
        rename(writer, name)
    assert writer.cache is not None
    journal = writer.cache._coherence.journals[0]
    writers = [owed.writer for owed in journal._owed]
    assert len(writers) == 2
    world.store.failing.clear()
    landed: list[bytes] = []
    release = type(world.store).release

    def note(self: StagedStore, tags: Any, writer: bytes) -> None:
        landed.append(writer)
        if len(landed) == 1:
            assert read_in(reader, name_of) == "c"
        release(self, tags, writer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StagedStore, "release", note)
        assert journal.settle()
    assert landed == writers
    assert read_in(reader, name_of) == "c"
