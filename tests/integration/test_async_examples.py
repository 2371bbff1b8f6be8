"""The examples of asynchronous applications run, over HTTP: a second request asks no database, and none is outdated."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from sqlalchemy import event, make_url

from redis_servers import SLOW, own_redis

EXAMPLES = Path(__file__).parents[2] / "examples" / "asynchronous"
APPS = ["fastapi_app", "quart_app", "litestar_app"]

# Of the frameworks' own: what they import, and what they ask of Python.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Client:
    """Sends requests to an application; ``statements``: what it has sent to its database."""

    def __init__(self, port: int, engine: Any) -> None:
        self._base = f"http://127.0.0.1:{port}"
        self.statements: list[str] = []
        event.listen(engine.sync_engine, "before_cursor_execute", lambda *told: self.statements.append(told[2]))

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self._base + path) as response:
            return json.load(response)

    def put(self, path: str, **query: object) -> None:
        url = f"{self._base}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(urllib.request.Request(url, method="PUT")):
            pass

    def cost_of(self, path: str) -> tuple[Any, int]:
        self.statements.clear()
        return self.get(path), len(self.statements)


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Run an application in a thread; yield its port."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the application does not start"
            time.sleep(0.01)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(params=["sqlite-lmdb", "postgresql-redis"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Say to the examples where their database and store are."""
    if request.param == "sqlite-lmdb":
        monkeypatch.setenv("DATABASE_URL", f"sqlite+aiosqlite:///{tmp_path}/shop.db")
        monkeypatch.setenv("CACHE_URL", f"lmdb://{tmp_path}/store")
        yield
        return
    url = make_url(request.getfixturevalue("postgresql_url")).set(drivername="postgresql+asyncpg")
    with own_redis() as server:
        monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
        monkeypatch.setenv("CACHE_URL", server.url(options=SLOW))
        yield


@pytest.fixture
def client(request: pytest.FixtureRequest, place: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("shop", *APPS):
        sys.modules.pop(name, None)
    app, shop = importlib.import_module(request.param).app, importlib.import_module("shop")
    try:
        with serving(app) as port:
            yield Client(port, shop.engine)
    finally:
        for name in ("shop", request.param):
            sys.modules.pop(name, None)


@pytest.mark.parametrize("client", APPS, indirect=True)
def test_an_application_is_served_from_the_cache_and_shows_what_was_put_just_now(client: Client) -> None:
    client.put("/articles/1", name="apple", price=3)
    client.put("/articles/2", name="pear", price=4)
    for path in ("/articles", "/articles/1"):
        first = client.get(path)
        assert client.cost_of(path) == (first, 0)
    assert client.get("/articles/1") == {"id": 1, "name": "apple", "price": 3}
    client.put("/articles/1", name="quince", price=5)
    assert client.get("/articles/1")["price"] == 5
    assert [article["name"] for article in client.get("/articles")] == ["pear", "quince"]
    assert client.cost_of("/articles/2")[0]["name"] == "pear"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        client.get("/articles/3")


def test_plain_asyncio_runs(tmp_path: Path) -> None:
    places = {"DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/shop.db", "CACHE_URL": f"lmdb://{tmp_path}/store"}
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / "plain.py"],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # One task of those that miss at once asks.
    assert done.stdout.strip() == "200 reads, 10 asked the database", done.stderr
