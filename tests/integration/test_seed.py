"""The application that this library began with runs on it with its import lines changed, and really caches.

``seed_app.py.txt`` is its ``app.py``: Flask-SQLAlchemy and the cache come from where they are today, the line that runs it
is left out, and the place of the database is this test's. Its ``caching.py`` is this library.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dogpile.cache import make_region
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

import querycache
import querycache.legacy
from querycache import FromCache, Region
from querycache.session import attachment_of

SOURCE = Path(__file__).with_name("seed_app.py.txt")
DATABASE_LINE = "sqlite:////tmp/test.db"
PAGES = ["/", "/1/", "/views/0/"]


class Application:
    """The seed's application in Flask's test client; ``selects`` are the SELECTs sent since the last request."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self.client = self.module.app.test_client()
        self.selects: list[str] = []
        with self.module.app.app_context():
            self.engine: Engine = self.module.db.engine
        event.listen(self.engine, "before_cursor_execute", self._count)

    def _count(self, connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        if statement.lstrip().upper().startswith("SELECT"):
            self.selects.append(statement)

    def get(self, page: str) -> str:
        self.selects.clear()
        response = self.client.get(page)
        assert response.status_code == 200
        return str(response.text)


def load_application(folder: Path) -> ModuleType:
    source = SOURCE.read_text(encoding="utf-8")
    assert source.count(DATABASE_LINE) == 1
    path = folder / "seed_application.py"
    path.write_text(source.replace(DATABASE_LINE, f"sqlite:///{folder}/seed.sqlite"), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("seed_application", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def default_region(folder: Path) -> Any:
    return Region("lmdb://")


def dogpile_memory_region(folder: Path) -> Any:
    return make_region().configure("dogpile.cache.memory", expiration_time=60)


def dogpile_dbm_region(folder: Path) -> Any:
    return make_region(key_mangler=querycache.legacy.md5_key_mangler).configure(
        "dogpile.cache.dbm", expiration_time=60, arguments={"filename": f"{folder}/regions.dbm"}
    )


@pytest.fixture(params=[default_region, dogpile_memory_region, dogpile_dbm_region])
def application(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Application]:
    make: Callable[[Path], Any] = request.param
    monkeypatch.setenv("QUERYCACHE_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setitem(querycache.regions, "default", make(tmp_path))
    application = Application(load_application(tmp_path))
    application.get("/init_db/")
    yield application
    application.engine.dispose()


def test_the_application_differs_from_the_seed_in_its_import_lines_only() -> None:
    imports = [line for line in SOURCE.read_text(encoding="utf-8").splitlines() if line.startswith(("import", "from"))]

    assert imports == [
        "import random",
        "from flask import Flask",
        "from flask_sqlalchemy import SQLAlchemy",
        "from querycache import CacheableMixin, regions, query_callable",
    ]


def test_an_engine_that_is_not_the_applications_is_left_alone(application: Application, engine_of: Any) -> None:
    another = engine_of("sqlite://")
    with application.module.app.app_context(), Session(another) as session:
        session.execute(text("SELECT 1"))

    assert attachment_of(another) is None


def test_the_engine_is_attached_without_a_query_cache_being_made(application: Application) -> None:
    assert attachment_of(application.engine) is not None


@pytest.mark.parametrize("page", PAGES)
def test_the_second_request_of_a_page_costs_no_select(application: Application, page: str) -> None:
    first = application.get(page)
    asked = len(application.selects)
    second = application.get(page)

    assert (asked > 0, application.selects) == (True, [])
    assert second == first


def test_a_row_shown_in_a_list_costs_no_select_on_its_own_page(application: Application) -> None:
    application.get("/")
    application.get("/7/")

    assert application.selects == []


def test_an_update_is_seen_at_once_on_every_page(application: Application) -> None:
    for page in PAGES:
        application.get(page)
    application.get("/update/1/")

    assert "views: 1" in application.get("/1/")
    assert "view (1)" in application.get("/")


def test_listings_by_views_follow_every_update(application: Application) -> None:
    application.get("/views/0/")
    application.get("/views/1/")
    application.get("/update/3/")

    assert '<a href="/3/">' not in application.get("/views/0/")
    assert '<a href="/3/">' in application.get("/views/1/")
    application.get("/update/3/")
    assert '<a href="/3/">' not in application.get("/views/1/")
    assert '<a href="/3/">' in application.get("/views/2/")


def test_after_an_update_a_list_reads_the_changed_row_alone(application: Application) -> None:
    application.get("/")
    application.get("/update/3/")
    application.get("/")

    (row,) = application.selects
    assert " IN " in row


def test_pages_stay_cached_after_an_update_that_they_do_not_show(application: Application) -> None:
    application.get("/1/")
    application.get("/update/2/")
    application.get("/1/")

    assert application.selects == []


def test_a_query_with_from_cache_is_cached_and_dropped_by_its_key(application: Application) -> None:
    user = application.module.User
    with application.module.app.app_context():
        query = user.query.options(user.cache.from_cache("my cache")).filter(user.views == 0)
        assert len(query.all()) == 50
        application.selects.clear()
        assert len(query.all()) == 50
        assert application.selects == []
        user.cache.flush("my cache")
        assert len(query.all()) == 50
    assert len(application.selects) == 1


def test_what_nobody_told_the_cache_is_seen_after_a_flush_of_the_row(application: Application) -> None:
    user = application.module.User
    application.get("/1/")
    application.get("/")
    change_from_outside(application, "UPDATE user SET views = 41 WHERE id = 1")
    with application.module.app.app_context():
        user.cache.flush("user.id[1]")

    assert "views: 41" in application.get("/1/")
    assert "view (41)" in application.get("/")


def test_values_of_a_caching_query(application: Application) -> None:
    user = application.module.User
    with application.module.app.app_context():
        query = user.query.options(FromCache("default", "first")).filter(user.id < 3).order_by(user.id)
        with pytest.raises(KeyError):
            query.get_value()
        query.set_value([user.cache.get(2)])
        assert [one.id for one in query.get_value()] == [2]
        query.invalidate()
        assert [one.id for one in query.get_value(createfunc=query.all)] == [1, 2]
        assert [one.id for one in query.get_value()] == [1, 2]


def test_a_process_that_only_writes_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERYCACHE_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setitem(querycache.regions, "default", default_region(tmp_path))
    application = Application(load_application(tmp_path))
    application.get("/init_db/")
    application.get("/1/")
    application.get("/1/")
    assert application.selects == []
    writing = (
        "import seed_application as seed\n"
        "with seed.app.app_context():\n"
        "    seed.db.session.merge(seed.User('other', 'other@x')).id = 51\n"
        "    seed.db.session.flush()\n"
        "    seed.db.session.execute(seed.db.update(seed.User).where(seed.User.id == 1).values(views=7))\n"
        "    seed.db.session.commit()\n"
    )
    source = str(Path(querycache.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), source))}
    subprocess.run([sys.executable, "-c", writing], check=True, env=environment, timeout=60)

    assert "views: 7" in application.get("/1/")
    application.engine.dispose()


def change_from_outside(application: Application, statement: str) -> None:
    import sqlite3

    connection = sqlite3.connect(application.engine.url.database or "")
    connection.execute(str(text(statement)))
    connection.commit()
    connection.close()
