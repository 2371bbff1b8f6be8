"""``make bench`` runs in its shortest form, writes what it says, and says what is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NUMBERS = ("ratio", "p10", "p90")
FIELDS = ("group", "case", "store", "against", *NUMBERS, "n")


def run_bench(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_script(
        "run.py", "--group", "hit", "--quick", "--rounds", "2", "--pictures", "none", *options, **environment
    )


def run_script(name: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return run_python(str(ROOT / "bench" / name), *options, **environment)


def run_program(text: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run_python("-c", text, *options)


def run_python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(str(ROOT / folder) for folder in ("src", "tests", "bench"))
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_hit_group_writes_a_ratio_for_each_case_and_whatever_it_is_compared_with(tmp_path: Path) -> None:
    file = tmp_path / "latest.json"

    done = run_bench("--stores", "memory", "--databases", "sqlite", "--json", str(file))

    assert done.returncode == 0, done.stderr
    document = json.loads(file.read_text())
    assert set(document) == {"machine", "versions", "results"}
    assert {"python", "sqlalchemy"} <= set(document["versions"])
    assert {tuple(row) for row in document["results"]} == {FIELDS}
    assert {row["group"] for row in document["results"]} == {"hit"}
    assert {(row["store"], row["against"]) for row in document["results"]} == {
        *(("memory", against) for against in ("sqlite", "sqlite-open", "floor")),
        *(("bound", against) for against in ("sqlite", "sqlite-open")),
    }
    assert {row["case"] for row in document["results"]} == {
        *("get", "select-1", "select-10", "select-100", "select-1000", "count", "columns"),
        *("selectin-10x5", "joined-10x5", "lazy-m2o"),
    }
    assert all(0 < row["p10"] <= row["ratio"] <= row["p90"] for row in document["results"])
    assert all(row["n"] == 2 for row in document["results"])
    assert "hit: get, lmdb / postgresql-open" in done.stdout  # a target that was not measured is told, too


READY = """
import sys
from bounds import ready_session
from caches import engine_of
from groups.hit import UNBOUNDED
from rows import CASES, fill
from sqlalchemy.orm import Session

def shown(value):
    if isinstance(value, list):
        return [shown(one) for one in value]
    if not hasattr(value, "_sa_instance_state"):
        return value
    return {name: shown(one) for name, one in vars(value).items() if name != "_sa_instance_state"}

engine = engine_of("sqlite:///" + sys.argv[1])
fill(engine)
for name in CASES.keys() - set(UNBOUNDED):
    ready = ready_session(engine, CASES[name])
    with Session(engine) as real, ready() as session:
        assert shown(CASES[name].read(session)) == shown(CASES[name].read(real)), name
    print(name)
"""


def test_the_bound_gives_what_the_query_gives(tmp_path: Path) -> None:
    done = run_program(READY, str(tmp_path / "bench.sqlite"))

    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 9


def test_a_postgresql_that_is_missing_is_told_with_the_remedy(tmp_path: Path) -> None:
    file, url = tmp_path / "latest.json", "postgresql://nobody@127.0.0.1:1/none"

    done = run_bench("--stores", "memory", "--json", str(file), QUERYCACHE_TEST_POSTGRESQL_URL=url)

    told = ("cannot use PostgreSQL", "nobody@127.0.0.1:1/none", "QUERYCACHE_TEST_POSTGRESQL_URL=")
    assert done.returncode == 1
    assert not [part for part in told if part not in done.stderr]
    assert "Traceback" not in done.stderr
    assert not file.exists()


WITHOUT_REDIS = """
import sys
import own_servers

def nowhere(name, patterns):
    raise own_servers.NoServerError(f"no {name} on this machine")

own_servers.find_binary = nowhere
import run
sys.exit(run.main(["--group", "hit", "--quick", "--stores", "redis", "--databases", "sqlite", "--json", sys.argv[1]]))
"""


def test_a_redis_that_is_missing_is_told_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "latest.json"

    done = run_program(WITHOUT_REDIS, str(file))

    told = ("needs Redis", "no redis-server", "apt-get install redis-server", "STORES=memory,lmdb")
    assert done.returncode == 1
    assert not [part for part in told if part not in done.stderr]
    assert "Traceback" not in done.stderr
    assert not file.exists()


def test_a_group_that_is_not_known_is_told_with_those_that_are() -> None:
    done = run_bench("--group", "hits")

    assert done.returncode == 2
    assert "hits is not known. Known are: hit, miss, write, peers, scale, app" in done.stderr


def test_the_profile_tells_parts_that_add_up_to_the_hit() -> None:
    done = run_script("profile_hit.py", "--store", "memory", "--cases", "get", "--blocks", "3")

    assert done.returncode == 0, done.stderr
    lines = [line.rsplit("%", 1)[0].rsplit(None, 1) for line in done.stdout.splitlines() if "%" in line]
    shares = {part.strip(): float(share) for part, share in lines}
    whole = shares.pop("the hit")
    assert whole == 100.0
    assert sum(shares.values()) == pytest.approx(whole, abs=1)
    assert {"key", "look-up: store", "instances", "Session: opening, closing"} <= set(shares)


def test_a_part_whose_function_is_gone_is_told_by_its_name() -> None:
    program = (
        "import seams; from stopwatch import Stopwatch; "
        "seams.SEAMS = (('key', 'querycache.session:gone'),); seams.patches_for(Stopwatch())"
    )

    done = run_program(program)

    assert "the profile finds no querycache.session:gone any more, for the part 'key'" in done.stderr
