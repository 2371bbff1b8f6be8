"""``make demo`` holds what it says, and the README's application runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import querycache

EXAMPLES = Path(__file__).parents[2] / "examples"
SOURCES = Path(querycache.__file__).parents[1]

README_DRIVER = """
import json
from readme_app import app, db
from sqlalchemy import event

selects = []
with app.app_context():
    event.listen(db.engine, "before_cursor_execute", lambda *sent: selects.append(sent[2].split()[0]))
client = app.test_client()
pages = []
for step in (client.get, client.get, lambda path: client.post("/bowl"), client.get, client.get):
    before = selects.count("SELECT")
    page = step("/")
    pages.append([page.json, selects.count("SELECT") - before])
print(json.dumps(pages))
"""


def environment(**more: str) -> dict[str, str]:
    paths = [str(SOURCES), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **more}


def run_demo(place: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, EXAMPLES / "seed" / "demo.py"],
        env=environment(TMPDIR=str(place), **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("options", ["", "--preload"], ids=["each worker loads", "preloaded"])
def test_the_demo_holds_what_it_says_and_leaves_nothing(tmp_path: Path, options: str) -> None:
    ended = run_demo(tmp_path, GUNICORN_CMD_ARGS=options)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"GET /  +B  +hit  +0 ", ended.stdout)
    assert re.search(r"user 700  +because its row was changed", ended.stdout)
    assert "20 fresh, 0 stale" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_demo_whose_workers_cannot_start_ends_with_1_and_a_sentence(tmp_path: Path) -> None:
    ended = run_demo(tmp_path, FLASK_QUERYCACHE_TTL="-1")

    assert ended.returncode == 1
    assert "The demo failed" in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_serve_runs_until_it_is_stopped_and_leaves_nothing(tmp_path: Path, ending: signal.Signals) -> None:
    serving = subprocess.Popen(
        [sys.executable, EXAMPLES / "seed" / "serve.py", "0"],
        env=environment(TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        text=True,
    )
    with serving:
        assert serving.stdout is not None
        said = serving.stdout.readline()
        workers = children_of(serving.pid)
        serving.send_signal(ending)
        serving.wait(timeout=30)

    assert re.match(r"Open http://127\.0\.0\.1:\d+/ ", said)
    assert workers
    assert not [pid for pid in workers if is_running(pid)]
    assert list(tmp_path.iterdir()) == []


def test_the_readmes_application_runs_and_caches(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "readme_app.py", tmp_path)
    ended = subprocess.run(
        [sys.executable, "-c", README_DRIVER],
        cwd=tmp_path,
        env=environment(QUERYCACHE_RUNTIME_DIR=str(tmp_path / "cache")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == [[[], 1], [[], 0], [None, 0], [["bowl"], 1], [["bowl"], 0]]


def children_of(pid: int) -> list[int]:
    """Return the processes that a process started, and theirs."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    children = [child for child, parent in parents if parent == pid]
    return [found for child in children for found in (child, *children_of(child))]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
