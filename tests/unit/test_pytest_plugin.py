"""``QUERYCACHE_ATTACH_ALL=1 pytest`` puts a cache in front of a project's tests, and says what it did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pytest_querycache as plugin
from querycache.everywhere import CacheOfEverything, VerifiedCacheOfEverything

SOURCE = str(Path(plugin.__file__).parent)
SUITE = """
import sqlite3
import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

class Base(DeclarativeBase):
    pass

class Pet(Base):
    __tablename__ = "pet"
    id: Mapped[int] = mapped_column(primary_key=True)

@pytest.mark.parametrize("number", [1, 2])
def test_it(tmp_path, number):
    engine = create_engine(f"sqlite:///{tmp_path}/file")
    Base.metadata.create_all(engine)
    for attempt in range(2):
        with Session(engine) as session:
            assert session.scalars(select(Pet)).all() == []
    engine.dispose()

def test_that_hides_a_stale_read(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/file")
    Base.metadata.create_all(engine)
    for attempt in range(2):
        with Session(engine) as session:
            try:
                session.scalars(select(Pet)).all()
            except Exception:
                pass
        connection = sqlite3.connect(f"{tmp_path}/file")
        connection.execute(f"INSERT INTO pet (id) VALUES ({attempt})")
        connection.commit()
        connection.close()
    engine.dispose()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_project.py").write_text(SUITE)
    return tmp_path


def run(project: Path, value: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    environment = {**os.environ, "PYTHONPATH": SOURCE, plugin.VARIABLE: value}
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)


def test_a_run_with_the_cache_on_says_what_the_cache_did(project: Path) -> None:
    done = run(project, "1", "--querycache-report=report.json", "-k", "test_it")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "querycache (1)" in done.stdout
    assert "2 engines attached, 0 left alone; 2 hits, 2 misses, 0 not cached, 0 defects" in done.stdout
    report = json.loads((project / "report.json").read_text())
    assert (report["engines"], report["events"]["hit"]) == ({"attached": 2}, 2)


def test_a_stale_read_that_a_test_hides_fails_the_run_and_reports_of_processes_are_taken(project: Path) -> None:
    done = run(project, "verify", "-n", "1")
    assert "3 passed" in done.stdout, done.stdout + done.stderr
    assert "3 engines attached, 0 left alone; 3 hits" in done.stdout
    assert "compared with the database: 3 misses answered by what was stored; 2 verified; 1 stale" in done.stdout
    assert "WRONG, 1 time: stale: the database has others" in done.stdout
    assert done.returncode == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("value", ["", " ", "0"])
def test_without_the_variable_nothing_is_registered(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.VARIABLE, value)
    config = pytest.Config.fromdictargs({}, [])
    plugin.pytest_load_initial_conftests(config)
    assert not config.pluginmanager.has_plugin("querycache-run")


def test_the_plugin_alone_imports_neither_the_package_nor_sqlalchemy() -> None:
    code = "import sys, pytest_querycache; print({'querycache', 'sqlalchemy'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": SOURCE}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    ("value", "kind", "store"),
    [
        ("1", CacheOfEverything, "memory://"),
        ("verify", VerifiedCacheOfEverything, "memory://"),
        ("lmdb://{}/store?size=16MB", CacheOfEverything, "lmdb://"),
        ("verify+lmdb://{}/store?size=16MB", VerifiedCacheOfEverything, "lmdb://"),
    ],
)
def test_the_variable_says_which_store_and_whether_hits_are_verified(
    value: str, kind: type[CacheOfEverything], store: str, tmp_path: Path
) -> None:
    with plugin.cache_of(value.format(tmp_path)) as cache:
        assert type(cache) is kind
        assert cache.stats()["stores"][0]["url"].startswith(store)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("yes", "give 1 "),
        ("memory", "give 1 "),
        ("check+memory://", "give 1 "),
        ("redis://host?size=1GB", "maxmemory"),
        ("verify+memory://?sice=1", "no parameter 'sice'"),
    ],
)
def test_a_value_that_cannot_be_used_is_an_error_that_says_what_can(value: str, why: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"QUERYCACHE_ATTACH_ALL=.* cannot be used: .*{why}"):
        plugin.cache_of(value)


def test_an_error_shows_no_password() -> None:
    with pytest.raises(pytest.UsageError) as caught:
        plugin.cache_of("verify+redis://me:secret@host?size=1GB")
    assert "secret" not in str(caught.value)
