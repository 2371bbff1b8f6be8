"""How long does it take to read a database's catalog, which happens before the first read of a bind and after DDL?

Databases with few and many tables, chained by foreign keys, on SQLite, PostgreSQL and MariaDB; the servers are started for
this run, because MariaDB's catalog is that of the whole server. Prints milliseconds (median, 10th and 90th percentile) of
the survey, of the question that each new connection is asked, and of the closure of a delete that reaches every table, the
first time and once it is known. Absolute times are this machine's own.

    python bench/survey.py [--tables 10 1000] [--rounds 20] [--json bench/results/survey.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Engine, create_engine

from querycache.databases import profile_of, survey_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from own_servers import start_mariadb, start_postgresql
from servers import MARIADB, POSTGRESQL, database, why_not


def main() -> int:
    """Run, print, write; return the exit code."""
    options = _options()
    results = []
    for kind in ("sqlite", "postgresql", "mariadb"):
        for tables in options.tables:
            print(f"\r{kind}: {tables} tables".ljust(40), end="", file=sys.stderr, flush=True)
            with _database(kind) as url:
                results.extend(_measure(kind, url, tables, options.rounds))
    print("\r".ljust(42), end="\r", file=sys.stderr)
    print(f"{'database':<12} {'tables':>6} {'what':<16} {'ms':>9} {'p10':>9} {'p90':>9}")
    for row in results:
        print(
            f"{row['database']:<12} {row['tables']:>6} {row['what']:<16} "
            f"{row['ms']:>9.3f} {row['p10']:>9.3f} {row['p90']:>9.3f}"
        )
    path = Path(options.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}
    versions = {"python": platform.python_version(), "sqlalchemy": sqlalchemy.__version__}
    path.write_text(json.dumps({"machine": machine, "versions": versions, "results": results}, indent=2) + "\n")
    print(f"\nwritten to {path}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, nargs="+", default=[10, 1000], help="tables (default 10 1000)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds (default 20)")
    parser.add_argument("--json", default="bench/results/survey.json", help="where to write the results")
    return parser.parse_args()


@contextmanager
def _database(kind: str) -> Iterator[str]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite:///{folder}/bench.db"
        return
    start, wanted = (start_postgresql, POSTGRESQL) if kind == "postgresql" else (start_mariadb, MARIADB)
    with start(partial(why_not, wanted)) as server_url, database(server_url, "survey") as url:
        yield url.render_as_string(hide_password=False)


def _measure(kind: str, url: str, tables: int, rounds: int) -> list[dict[str, Any]]:
    engine = create_engine(url)
    _make_tables(engine, tables)
    with engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        found = survey_of(engine.dialect, raw)
        assert len(found.tables) == tables, "the catalog holds something else"
        name = next(one for one in found.tables if one[1] == "t0")
        assert len(found.reached_by_delete(name)) == tables - 1, "the closure reaches something else"
        timed = {
            "survey": _times(rounds, lambda: survey_of(engine.dialect, raw)),
            "profile": _times(rounds, lambda: profile_of(engine.dialect, raw, pool=engine.pool)),
            "closure": [
                _time(partial(survey.reached_by_delete, name))
                for survey in [survey_of(engine.dialect, raw) for _ in range(rounds)]
            ],
            "closure, known": _times(rounds, lambda: found.reached_by_delete(name)),
        }
    engine.dispose()
    return [
        {
            "group": "survey",
            "database": kind,
            "tables": tables,
            "what": what,
            "ms": round(statistics.median(times) * 1000, 4),
            "p10": round(times[len(times) // 10] * 1000, 4),
            "p90": round(times[len(times) * 9 // 10] * 1000, 4),
            "n": rounds,
        }
        for what, times in ((what, sorted(times)) for what, times in timed.items())
    ]


def _make_tables(engine: Engine, tables: int) -> None:
    with engine.begin() as connection:
        for number in range(tables):
            key = f", FOREIGN KEY (up) REFERENCES t{number - 1} (id) ON DELETE CASCADE" if number else ""
            columns = "id integer PRIMARY KEY, up integer, name varchar(50), note text, price numeric(10, 2)"
            connection.exec_driver_sql(f"CREATE TABLE t{number} ({columns}{key})")


def _times(rounds: int, run: Callable[[], object]) -> list[float]:
    return [_time(run) for _ in range(rounds)]


def _time(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
