"""On LMDB a cached read is never older than the database, whatever happens to the files, the room and the processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from app_process import AppProcess
from coherence_world import Category, Process, Product, World, is_hit, make_engine, name_of, names_in, read_in, rename
from lmdb_support import MIB, PINNING, WRITING, run, running
from namespaces import on_small_filesystem
from querycache import QueryCache
from querycache._types import TagSet
from querycache.errors import StoreUnavailable
from querycache.stores.lmdb import LMDBStore

MODELS = """
from sqlalchemy import ForeignKey, Integer, String
from sqlalchemy.orm import DeclarativeBase, mapped_column

class Base(DeclarativeBase):
    pass

class Thing(Base):
    __tablename__ = "lm_thing"
    id = mapped_column(Integer, primary_key=True, autoincrement=False)
    name = mapped_column(String(20))
    shelf_id = mapped_column(Integer, index=True)

ENTITY = Thing
MODELS = [Thing]
"""
READS = ("get", "shelf", "all", "count", "names")


# Files replaced under running processes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the application is: a link to a release, as deploys have it."""
    (tmp_path / "release-1").mkdir()
    (tmp_path / "current").symlink_to("release-1")
    return tmp_path / "current"


@pytest.fixture
def start(tmp_path: Path, folder: Path, sqlite_url: str) -> Iterator[Callable[[], AppProcess]]:
    """Start a process of the application; its store is in the application's folder."""
    engine = create_engine(sqlite_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE lm_thing (id INTEGER PRIMARY KEY, name VARCHAR(20), shelf_id INTEGER)"))
        connection.execute(text("INSERT INTO lm_thing VALUES (1, 'a', 3), (2, 'b', 3)"))
    engine.dispose()
    (tmp_path / "models.py").write_text(MODELS)
    processes: list[AppProcess] = []

    def begin() -> AppProcess:
        processes.append(AppProcess())
        processes[-1].start(tmp_path / "models.py", sqlite_url, folder / "cache")
        return processes[-1]

    yield begin
    for process in processes:
        process.end()


def remove(folder: Path) -> None:
    shutil.rmtree(folder / "cache")


def rename_away(folder: Path) -> None:
    (folder / "cache").rename(folder / "old")


def release_anew(folder: Path) -> None:
    (folder.parent / "release-2").mkdir()
    (folder.parent / "next").symlink_to("release-2")
    os.replace(folder.parent / "next", folder)


Replace = Callable[[Path], None]
REPLACED = pytest.mark.parametrize("replace", [remove, rename_away, release_anew])


@REPLACED
def test_processes_from_before_and_after_the_files_were_replaced_hear_each_other(
    start: Callable[[], AppProcess], folder: Path, replace: Replace
) -> None:
    early = start()
    early.read(*READS)
    assert early.hits(*READS) == [*READS]
    replace(folder)
    late = start()
    late.write("change", id=1, name="new")
    assert early.read("get")["get"]["cached"]["name"] == "'new'"
    late.read(*READS)
    early.write("change", id=1, name="newer")
    assert late.read("get")["get"]["cached"]["name"] == "'newer'"
    late.read(*READS)
    assert early.hits(*READS) == [*READS]


@REPLACED
def test_a_commit_whose_mark_went_with_the_files_is_seen_once_it_is_acknowledged(
    start: Callable[[], AppProcess], folder: Path, replace: Replace
) -> None:
    writer = start()
    with writer.stopped("after mark", "change", id=1, name="new"):
        replace(folder)
        late = start()
        late.read(*READS)
    assert late.read("get")["get"]["cached"]["name"] == "'new'"
    late.read(*READS)


@REPLACED
def test_a_commit_whose_release_finds_other_files_is_seen(
    start: Callable[[], AppProcess], folder: Path, replace: Replace
) -> None:
    reader, writer = start(), start()
    reader.read(*READS)
    with writer.stopped("before release", "change", id=1, name="new"):
        replace(folder)
        start().read(*READS)
        reader.read(*READS)
    reader.read(*READS)
    assert reader.hits(*READS) == [*READS]


# Room and stopped processes


@pytest.fixture
def store(tmp_path: Path) -> LMDBStore:
    return LMDBStore(tmp_path / "cache", 4 * MIB)


@pytest.fixture
def processes(store: LMDBStore, sqlite_url: str) -> Iterator[tuple[Process, Process]]:
    """A reader and a writer, each with a cache of its own, on one store."""
    world = World(sqlite_url)
    world.fill()
    for _ in range(2):
        engine = make_engine(sqlite_url)
        cache = QueryCache(store, models=[Category, Product])
        cache.attach(engine)
        world.processes.append(Process(engine, cache))
    yield world.processes[0], world.processes[1]
    world.close()


def test_a_commit_is_seen_where_the_map_is_full_and_nothing_can_be_evicted(
    processes: tuple[Process, Process], store: LMDBStore
) -> None:
    reader, writer = processes
    assert read_in(reader, name_of) == "a"
    with running(PINNING, store.path, "entries"):
        lease = store.lookup(None, TagSet()).lease
        while store.fill(os.urandom(16), bytes(300_000), lease, 60):
            pass
        rename(writer, "new")
        assert read_in(reader, name_of) == "new"
        assert read_in(reader, lambda session: names_in(session, 3)) == ["new"]


def test_reads_go_on_and_a_commit_is_refused_while_a_stopped_process_keeps_others_from_writing(
    processes: tuple[Process, Process], store: LMDBStore
) -> None:
    reader, writer = processes
    read_in(reader, name_of)
    with running(WRITING, store.path, "stamps") as stopped:
        stopped.send_signal(signal.SIGSTOP)
        assert is_hit(reader)
        assert read_in(reader, lambda session: names_in(session, 7)) == ["z"]
        with pytest.raises(StoreUnavailable, match="stopped"):
            rename(writer, "new")
        assert read_in(reader, name_of) == "a"
    rename(writer, "newer")
    assert read_in(reader, name_of) == "newer"
    read_in(reader, name_of)
    assert is_hit(reader)


FULL = """
from sqlalchemy import select
from coherence_world import Category, Process, Product, World, is_hit, make_engine, name_of, names_in, read_in, rename
from querycache import QueryCache

world = World(sys.argv[2])
world.fill()
engine = make_engine(sys.argv[2])
cache = QueryCache(store, models=[Category, Product])
cache.attach(engine)
process = Process(engine, cache)
read_in(process, name_of)
ballast = os.open(sys.argv[1] + "-ballast", os.O_WRONLY | os.O_CREAT)
for size in (1 << 20, 4096):
    while True:
        try:
            os.write(ballast, bytes(size))
        except OSError:
            break
for number in range(30):
    rename(process, f"n{number}")
    assert read_in(process, name_of) == f"n{number}"
    assert read_in(process, lambda session: names_in(session, 3)) == [f"n{number}"]
os.ftruncate(ballast, 0)
read_in(process, name_of)
print(is_hit(process), process.counts().get("store_error", 0))
engine.dispose()
"""


def test_commits_are_seen_on_a_full_filesystem_and_hits_come_back_with_room(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "small").mkdir()
    inside = ("env", f"PYTHONPATH={Path(__file__).parents[1]}", *on_small_filesystem(tmp_path / "small", 40))
    assert run(FULL, tmp_path / "small" / "cache", sqlite_url, inside=inside) == "True 0"


# Eviction under load

LOAD = """
import json, random, sys, threading
from sqlalchemy import Integer, Text, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from querycache import QueryCache
from querycache.stores.lmdb import LMDBStore

class Base(DeclarativeBase):
    pass

class Page(Base):
    __tablename__ = "lm_page"
    id = mapped_column(Integer, primary_key=True)
    body = mapped_column(Text)
    version = mapped_column(Integer)

url, path, seed = sys.argv[1:]
engine, outside = create_engine(url), create_engine(url)
store = LMDBStore(path, 1 << 20)
cache = QueryCache(store, models=[Page])
cache.attach(engine)
faults = []

def read(chance):
    page, variant = chance.randrange(40), chance.randrange(15)
    with outside.connect() as connection:
        floor = connection.scalar(text("SELECT version FROM lm_page WHERE id = :id"), {"id": page})
    with Session(engine) as session:
        found = session.scalars(select(Page).where(Page.id == page, Page.version > -variant - 1)).one()
        if found.version < floor:
            faults.append(f"page {page}: version {found.version} where {floor} was visible")

def write(chance):
    with Session(engine) as session:
        session.get_one(Page, chance.randrange(40), with_for_update=True).version += 1
        session.commit()

def work(number):
    chance = random.Random(number)
    try:
        for step in range(150):
            (write if step % 15 == number % 15 else read)(chance)
    except Exception as error:
        faults.append(repr(error))

threads = [threading.Thread(target=work, args=(2 * int(seed) + number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
stats = store.stats()
counts = cache.events.counts()
print(json.dumps({"faults": faults, "evictions": stats.evictions, "hits": counts.get("hit", 0)}))
cache.close()
"""


def test_processes_that_fill_many_times_the_size_while_others_commit_never_read_what_is_old(
    postgresql_url: str, tmp_path: Path
) -> None:
    engine = create_engine(postgresql_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE lm_page (id INTEGER PRIMARY KEY, body TEXT, version INTEGER)"))
        connection.execute(text("INSERT INTO lm_page SELECT n, repeat('x', 20000), 1 FROM generate_series(0, 39) AS n"))
    engine.dispose()
    command = [sys.executable, "-c", LOAD, postgresql_url, str(tmp_path / "cache")]
    workers = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in range(4)]
    told = [json.loads(worker.communicate()[0]) for worker in workers]
    assert [fault for each in told for fault in each["faults"]] == []
    assert sum(each["evictions"] for each in told) > 100
    assert sum(each["hits"] for each in told) > 10
    (file,) = (tmp_path / "cache").glob("*/entries/data.mdb")
    assert file.stat().st_size <= MIB
